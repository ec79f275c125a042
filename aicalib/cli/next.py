"""`aicalib next`: the runs of a task that are worth measuring next."""

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
    print_table,
    store_path,
)
from aicalib.report.numbers import short

if TYPE_CHECKING:
    from aicalib.loop.next import Best, Next, NextRun
    from aicalib.plan.figures import Number


def next_(
    path: opt.TaskFile,
    count: Annotated[int, typer.Option(help="Runs to propose; they do not repeat each other.")] = 1,
    gpu: opt.TaskGpu = None,
    engine_version: opt.TaskEngineVersion = None,
    base_url: Annotated[
        str | None,
        typer.Option("--base-url", help="Of the server. Default: the engine's own port on this machine."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the client's prompts, and of the samples.")] = 0,
    profile: ProfileName = "default",
    db: Db = None,
    wait: Wait = DEFAULT_WAIT_S,
    json: Json = False,
) -> None:
    """Say which runs of a task to measure next, with the commands, or that the choice is settled.

    Worth most a minute comes first: the expected improvement of the objective under the service level, and the fall of
    what the choice is expected to lose. What the store holds of the task is known.
    """
    from aicalib.loop.next import next_runs
    from aicalib.measure.server import address
    from aicalib.plan.tasks.task import load_task

    task, url = load_task(path), None if base_url is None else address(base_url)
    records, failures = _stored(db, wait)
    found = next_runs(
        task, records, find_profile(profile, db, wait), count, gpu=gpu, engine_version=engine_version,
        failures=failures, base_url=url, seed=seed,
    )  # fmt: skip
    if json:
        print_json(document(found))
    else:
        _print(found)


def _stored(db: Path | None, wait: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the runs and the failed starts of the store; of one that was never made, none."""
    from aicalib.calibrate.records import failed_starts, stored_runs
    from perfdb import Store

    path = store_path(db)
    if db is None and not path.is_file():
        return [], []
    with Store(path, read_only=True, wait_s=wait) as store:
        return stored_runs(store), failed_starts(store)


def document(found: Next) -> dict[str, Any]:
    """Return what to measure next as JSON has it."""
    screening = found.candidates.screening
    return {
        "task": screening.task.name,
        "model": screening.task.model,
        "gpu": screening.gpu,
        "engine": screening.task.runtime,
        "engine_version": screening.engine_version,
        "profile": screening.profile,
        "objective": screening.task.objective,
        "settled": found.settled,
        "reason": found.reason,
        "best": _best(found.best),
        "runs": [_run(each) for each in found.runs],
        "candidates": found.candidates.batch.at.size,
        "measured": found.measured,
        "dropped": [
            {"point": dict(each.point.parameters), "kind": each.kind, "reason": each.reason}
            for each in (*screening.dropped, *found.candidates.failed)
        ],
        "notes": list(found.notes),
    }


def _best(best: Best) -> dict[str, Any]:
    return {
        "deployment": _plain(best.deployment),
        "launch": list(best.launch.argv),
        "env": dict(best.launch.env),
        "score": best.score._asdict(),
        "expected_regret": best.regret,
        "probability_best": best.probability,
        "probability_within": best.within,
        "measured": best.measured,
    }


def _run(run: NextRun) -> dict[str, Any]:
    return {
        "key": run.key,
        "deployment": _plain(run.deployment),
        "workload": dict(run.workload),
        "expected_gain": run.expected_gain,
        "uncertainty_fall": run.uncertainty_fall,
        "cost_minutes": run.cost_minutes,
        "restart": run.restarts,
        "prediction": {name: number._asdict() for name, number in run.figures.items()},
        "launch": list(run.launch.argv),
        "env": dict(run.launch.env),
        "files": dict(run.launch.files),
        "bench": list(run.bench),
        "no_bench": run.lacking,
        "teaches": run.teaches,
    }


def _plain(deployment: Any) -> dict[str, Any]:
    return {name: value for name, value in deployment.items() if name != "notes"}


def _print(found: Next) -> None:
    """Print the proposed runs with their commands, and where the choice stands."""
    from shlex import join

    screening = found.candidates.screening
    typer.echo(
        f"{screening.task.name}: {screening.task.model}\n"
        f"{screening.gpu}, {screening.task.runtime} {screening.engine_version}, profile {screening.profile}\n"
        f"{found.measured} of {found.candidates.batch.at.size} runs measured; {screening.task.objective}, lower scores "
        "are better\n"
    )
    best = found.best
    standing = "measured" if best.measured else "not measured yet"
    typer.echo(
        f"best now: {best.point}, score {_interval(best.score)}, {standing}\n"
        f"{'settled' if found.settled else 'not settled'}: {found.reason}\n"
    )
    print_table(
        "",
        ["", "gain %", "regret falls %", "min", "TTFT ms", "TPOT ms", "tok/s/GPU", "run"],
        [_row(place, run, found) for place, run in enumerate(found.runs, 1)],
        align="rrrrrrrl",
    )
    for place, run in enumerate(found.runs, 1):
        typer.echo(f"\n{place}. {run.teaches}")
        typer.echo(f"   {run.launch.line()}" if run.restarts else "   (the engine of the run before)")
        typer.echo(f"   {join(run.bench)}" if run.bench else f"   (no client: {run.lacking})")
    for note in dict.fromkeys(found.notes):
        typer.echo(f"note: {note}")


def _row(place: int, run: NextRun, found: Next) -> list[str]:
    figures = (run.figures[name] for name in ("ttft_ms", "tpot_ms", "total_tok_s_per_gpu"))
    return [
        str(place),
        f"{100 * run.expected_gain:.1f}",
        f"{100 * run.uncertainty_fall:.1f}",
        f"{run.cost_minutes:.1f}",
        *(_interval(each) for each in figures),
        f"{_point(found, run)} at {run.load}",
    ]


def _point(found: Next, run: NextRun) -> str:
    from aicalib.cli.task import varying

    return varying(found.candidates.screening.task, found.candidates.starts[run.start].point)


def _interval(number: Number) -> str:
    return f"{short(number.value)} ({short(number.low)} to {short(number.high)})"
