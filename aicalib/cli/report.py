"""`aicalib report`: one HTML page about a deployment, its prediction and what was measured near it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aicalib.cli import options as opt
from aicalib.cli.output import (
    DEFAULT_WAIT_S,
    Db,
    Json,
    ProfileName,
    Wait,
    find_profile,
    print_json,
    store_path,
)

if TYPE_CHECKING:
    from aicalib.prediction import Prediction
    from aicalib.profiles import Profile

DEFAULT_OUTPUT = Path("report.html")

NEXT_RUNS = 3
"""Runs of a task that are proposed."""


def report(
    context: typer.Context,
    model: opt.Model = "llama-70b",
    gpu: opt.Gpu = "h100-sxm",
    gemm: opt.Gemm = None,
    kv: opt.Kv = None,
    fmha: opt.Fmha = None,
    moe: opt.Moe = None,
    preset: Annotated[
        str | None,
        typer.Option(help="One of 'aicalib quant presets'; of several with commas the first is the page's."),
    ] = None,
    launch: opt.Launch = None,
    server_info: opt.ServerInfo = None,
    tp: opt.Tp = None,
    pp: opt.Pp = None,
    dp: opt.Dp = None,
    ep: opt.Ep = None,
    engine: opt.Engine = "sglang",
    engine_version: opt.EngineVersion = None,
    isl: opt.Isl = 1024,
    osl: opt.Osl = 256,
    concurrency: opt.Concurrency = 32,
    request_rate: opt.RequestRate = None,
    task: Annotated[
        Path | None,
        typer.Option(
            help="An autotuner's task: which of its runs to measure next.", exists=True, dir_okay=False
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page.")] = DEFAULT_OUTPUT,
    force: Annotated[bool, typer.Option("--force", help="Write over a page that is there.")] = False,
    profile: ProfileName = "default",
    db: Db = None,
    wait: Wait = DEFAULT_WAIT_S,
    json: Json = False,
) -> None:
    """Write one HTML page about a deployment: prediction beside measurement, scoreboard, residuals.

    The page holds its pictures, runs no scripts and loads nothing. With --json its data is printed as well.
    """
    from aicalib.calibrate.evaluate import evaluate
    from aicalib.cli.choices import apply_preset, check_arrivals, with_start
    from aicalib.errors import InvalidValue
    from aicalib.prediction import predict_batch
    from aicalib.report.page import Asked, document, page
    from aicalib.resolve.rows import resolve

    if output.suffix.lower() not in (".html", ".htm"):
        raise InvalidValue(
            f"--output {output}: a page ends in .html",
            [str(output / "report.html" if output.is_dir() else output.with_suffix(".html"))],
        )
    if not output.resolve().parent.is_dir():
        raise InvalidValue(f"--output {output}: there is no folder {output.resolve().parent}")
    if output.exists() and not force:
        raise InvalidValue(f"--output {output} is there already", ["--force", "--output ANOTHER.html"])
    options = {
        "model": model, "gpu": gpu, "gemm": gemm, "kv": kv, "fmha": fmha, "moe": moe, "tp": tp, "pp": pp, "dp": dp,
        "ep": ep, "engine": engine, "engine_version": engine_version, "isl": isl, "osl": osl,
        "concurrency": concurrency, "request_rate": request_rate,
    }  # fmt: skip
    check_arrivals(context, request_rate)
    if launch is not None or server_info is not None:
        options = with_start(context, options, launch, server_info)
    presets: list[str | None] = [None] if preset is None else [each.strip() for each in preset.split(",")]
    chosen = [apply_preset(options, choice) for choice in presets]
    used, predictions = find_profile(profile, db, wait), []
    for each in chosen:
        batch = resolve({key: [value] for key, value in each.items()})
        for error in batch.refused.values():
            raise error
        predictions.append(predict_batch(batch, used))
    records = _stored(store_path(db), wait, named=db is not None)
    held = None if records is None else evaluate(records, used)
    teaches = None if task is None else _next(task, records or [], used, predictions[0])
    asked = Asked(presets, chosen, predictions, held, launch, teaches)
    data = document(asked)
    output.write_text(page(asked, data), encoding="utf-8")
    if json:
        print_json({"output": str(output), **data})
    else:
        typer.echo(f"wrote {output}")


def _stored(path: Path, wait_s: float, named: bool) -> list[dict[str, Any]] | None:
    """Return the runs of a store; None where there is none, unless it was asked for by its name."""
    if not path.is_file() and not named:
        return None
    from aicalib.calibrate.records import stored_runs
    from perfdb import Store

    with Store(path, read_only=True, wait_s=wait_s) as store:
        return stored_runs(store)


def _next(path: Path, records: list[dict[str, Any]], profile: Profile, shown: Prediction) -> dict[str, Any]:
    """Return what `aicalib next --json` prints of a task; noted is where the page is about something else."""
    from aicalib.cli.next import document
    from aicalib.loop.next import next_runs
    from aicalib.models import get_architecture
    from aicalib.plan.tasks.task import load_task

    found = document(next_runs(load_task(path), records, profile, NEXT_RUNS))
    who = shown.batch.deployment(0).identity
    pairs = {
        "model": (get_architecture(found["model"]).name, who.architecture.name),
        "gpu": (found["gpu"], who.accelerator.name),
        "engine": (found["engine"], who.engine),
    }
    for key, (theirs, ours) in pairs.items():
        if theirs != ours:
            note = f"the task is about {key} {theirs}, the page about {ours}"
            typer.echo(f"note: {note}", err=True)
            found["notes"].insert(0, note)
    return found
