"""`aicalib calibrate` and `aicalib evaluate`: fit a profile, and score one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aicalib.cli.output import (
    DEFAULT_WAIT_S,
    Db,
    Json,
    ProfileName,
    Wait,
    find_profile,
    input_file,
    print_json,
    print_rejected,
    print_table,
    progress,
    store_path,
)

SCORES_ALIGN = "llrrrrrrr"
"""Alignment of the columns of a scoreboard."""


def calibrate(
    name: Annotated[str, typer.Option(help="Name of the profile.")] = "team",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write the profile here.")
    ] = None,
    db: Db = None,
    wait: Wait = DEFAULT_WAIT_S,
    json: Json = False,
) -> None:
    """Fit a profile to the runs in the store.

    Cross-validated over whole model-family x GPU groups; 'predict --profile NAME' then takes it.
    """
    from aicalib.calibrate.build import calibrate as build
    from aicalib.calibrate.records import stored_runs
    from aicalib.calibrate.validate import FOLDS
    from aicalib.errors import InvalidValue
    from aicalib.report.scores import calibration_document, scoreboard_rows
    from perfdb import Store

    if output is not None and not output.resolve().parent.is_dir():
        raise InvalidValue(f"--output {output}: there is no folder {output.resolve().parent}")
    path = store_path(db)
    with Store(path, read_only=True, wait_s=wait) as store:
        records = stored_runs(store)
    with progress("fit", FOLDS + 1) as tick:
        found = build(records, name, tick)
    text = found.profile.to_json()
    with Store(path, wait_s=wait) as store:
        store.save_profile(
            found.profile.name, found.profile.version, text, run_ids=found.profile.fitted["run_id"]
        )
    if output is not None:
        output.write_text(text)
    if json:
        print_json(calibration_document(found))
        return
    header, rows = scoreboard_rows(found.profile.lineage["scoreboard"])
    print_table(
        f"profile {found.profile.label}: errors in % on left-out model-family x GPU groups, "
        "physics -> calibrated",
        header,
        rows,
        SCORES_ALIGN,
    )
    for remark in found.profile.lineage["remarks"]:
        typer.echo(f"note: {remark}")


def evaluate(
    files: Annotated[
        list[Path] | None,
        input_file(
            "Runs or start-up records, in any format that 'ingest' reads; else the runs in the store."
        ),
    ] = None,
    profile: ProfileName = "default",
    rows: Annotated[
        Path | None, typer.Option("--rows", help="Write one JSON line a run and metric here.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model, where a file lacks it.")] = None,
    gpu: Annotated[str | None, typer.Option(help="Accelerator or .toml file, where a file lacks it.")] = None,
    tp: Annotated[
        int | None, typer.Option(min=1, help="Tensor-parallel width, where a file lacks it.")
    ] = None,
    weight_quant: Annotated[str | None, typer.Option("--gemm", help="Format of the weights.")] = None,
    kv_dtype: Annotated[str | None, typer.Option("--kv", help="Format of the KV cache.")] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Keep what is predicted of stored runs in the store.")
    ] = False,
    db: Db = None,
    wait: Wait = DEFAULT_WAIT_S,
    json: Json = False,
) -> None:
    """Score a profile on measured runs without fitting on them.

    Start-up records score the memory rules: the KV pool, and the pool by the engine's rule alone.
    """
    from json import dumps

    from aicalib.calibrate.evaluate import evaluate as score_runs
    from aicalib.calibrate.records import read_runs, stored_runs
    from aicalib.cli.context import alike, canonical
    from aicalib.errors import InvalidValue
    from aicalib.report.scores import evaluation_rows, refusal_rows
    from perfdb import Store

    given = {"model": model, "gpu": gpu, "tp": tp, "weight_quant": weight_quant, "kv_dtype": kv_dtype}
    context = canonical({name: value for name, value in given.items() if value is not None})
    if files:
        records, rejected = read_runs(files, context, alike)
    elif context:
        raise InvalidValue(f"stored runs take no {', '.join(context)}: name the files that lack it")
    else:
        with Store(store_path(db), read_only=True, wait_s=wait) as store:
            records, rejected = stored_runs(store), []
    if not records:
        lines = "; ".join(f"line {each['line']}: {each['reason']}" for each in rejected[:3])
        raise InvalidValue(f"no run in {', '.join(map(str, files or [store_path(db)]))}: {lines}")
    found = score_runs(records, find_profile(profile, db, wait))
    if record:
        with Store(store_path(db), wait_s=wait) as store:
            recorded = store.save_predictions(found.profile, found.predictions())
        typer.echo(f"recorded {recorded} predicted figures of stored runs", err=True)
    if rows is not None:
        rows.write_text("".join(dumps(row) + "\n" for row in found.rows()))
    document = found.as_dict()
    if rejected:
        document["rejected"] = rejected
    if json:
        print_json(document)
        return
    header, table = evaluation_rows(document)
    print_table(
        f"profile {document['profile']}: {document['answered']} of {document['rows']} rows answered; "
        "errors in %",
        header,
        table,
        align="llrrrrrrr",
    )
    if document["refused"]:
        typer.echo("")
        print_table("", ["refused", "reason"], refusal_rows(document["refused"]), align="rl")
    print_rejected(rejected)
