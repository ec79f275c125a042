"""`aicalib calibrate` and `aicalib evaluate`: fit a profile, and score one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aicalib.cli.output import Db, Json, print_json, print_table, progress, store_path


def calibrate(
    name: Annotated[str, typer.Option(help="Name of the profile.")] = "team",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also write the profile here.")] = None,
    db: Db = None,
    json: Json = False,
) -> None:
    """Fit a profile to the runs in the store, cross-validated over whole model-family x GPU groups."""
    from aicalib.calibrate.build import calibrate as build
    from aicalib.calibrate.records import stored_runs
    from aicalib.calibrate.validate import FOLDS
    from aicalib.report.scores import calibration_document, scoreboard_rows
    from perfdb import Store

    path = store_path(db)
    with Store(path, read_only=True) as store:
        records = stored_runs(store)
    with progress("fit", FOLDS + 1) as tick:
        found = build(records, name, tick)
    text = found.profile.to_json()
    with Store(path) as store:
        store.save_profile(found.profile.name, found.profile.version, text)
    if output is not None:
        output.write_text(text)
    if json:
        print_json(calibration_document(found))
        return
    header, rows = scoreboard_rows(found.scoreboard)
    print_table(
        f"profile {found.profile.label}: errors on left-out model-family x GPU groups, "
        "physics alone -> calibrated",
        header,
        rows,
        left=2,
    )
    for remark in found.profile.lineage["remarks"]:
        typer.echo(f"note: {remark}", err=True)


def evaluate(
    files: Annotated[list[Path], typer.Argument(help="Runs, in any format that 'ingest' reads.")],
    profile: Annotated[str, typer.Option(help="'default', 'priors', or the path of a profile.")] = "default",
    rows: Annotated[Path | None, typer.Option("--rows", help="Write one JSON line a run and metric here.")] = None,
    json: Json = False,
) -> None:
    """Score a profile on measured runs without fitting on them."""
    from json import dumps

    from aicalib.calibrate.evaluate import evaluate as score_runs
    from aicalib.calibrate.records import read_runs
    from aicalib.profiles import load_profile
    from aicalib.report.scores import evaluation_rows

    records, rejected = read_runs(files)
    found = score_runs(records, load_profile(profile))
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
        f"profile {document['profile']}: {document['answered']} of {document['rows']} runs answered",
        header,
        table,
        left=2,
    )
    for reason, count in document["refused"].items():
        typer.echo(f"refused {count}: {reason}", err=True)
