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
OWN_ALIGN = "llrrrrr"
"""Alignment of the columns of a scoreboard, and of the scores of own runs."""


def calibrate(
    name: Annotated[str, typer.Option(help="Name of the profile.")] = "team",
    base: Annotated[
        str | None,
        typer.Option(
            help="Add the runs to this profile instead of fitting anew, from one run on. 'default', a file, or a "
            "name in the store."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write the profile here.")
    ] = None,
    db: Db = None,
    wait: Wait = DEFAULT_WAIT_S,
    json: Json = False,
) -> None:
    """Fit a profile to the runs in the store.

    Cross-validated over whole model-family x GPU groups; with --base the runs are added to a profile that is there.
    'predict --profile NAME' then takes it.
    """
    from aicalib.calibrate.build import FITS
    from aicalib.calibrate.build import calibrate as build
    from aicalib.calibrate.own import MOST_LEFT_OUT, calibrate_on
    from aicalib.calibrate.records import stored_runs
    from aicalib.errors import InvalidValue
    from aicalib.profiles.exchange import check_name
    from aicalib.report.scores import calibration_document, own_document, own_rows, scoreboard_rows
    from perfdb import Store

    check_name(name)
    if output is not None and not output.resolve().parent.is_dir():
        raise InvalidValue(f"--output {output}: there is no folder {output.resolve().parent}")
    path = store_path(db)
    with Store(path, read_only=True, wait_s=wait) as store:
        records = stored_runs(store)
    if base is None:
        with progress("fit", FITS) as tick:
            found = build(records, name, tick)
        profile, document = found.profile, calibration_document(found)
        title = "errors in % on left-out model-family x GPU groups, physics -> calibrated"
        table = (title, *scoreboard_rows(profile.lineage["scoreboard"]), SCORES_ALIGN)
    else:
        with progress("add own runs", MOST_LEFT_OUT + 1) as tick:
            own = calibrate_on(find_profile(base, db, wait), records, name, tick)
        profile, document = own.profile, own_document(own)
        title = (
            f"{own.runs.batch.at.size} own runs on {own.base.label}; median errors in % on them, "
            "last with the other own runs known"
        )
        table = (title, *own_rows(document["scores"]), OWN_ALIGN)
    text = profile.to_json()
    with Store(path, wait_s=wait) as store:
        store.save_profile(profile.name, profile.version, text, run_ids=profile.fitted["run_id"])
    if output is not None:
        output.write_text(text)
    if json:
        print_json(document)
        return
    print_table(f"profile {profile.label}: {table[0]}", *table[1:])
    for remark in document["remarks"]:
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
    flags: Annotated[
        Path | None,
        typer.Option(
            "--flags",
            help="Quality flags found by hand, as 'db flag' takes them.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Keep what is predicted of stored runs in the store.")
    ] = False,
    db: Db = None,
    wait: Wait = DEFAULT_WAIT_S,
    json: Json = False,
) -> None:
    """Score a profile on measured runs without fitting on them.

    All runs are scored, and beside them those that no quality flag doubts. Start-up records score the memory rules:
    the KV pool, and the pool by the engine's rule alone.
    """
    from json import dumps

    from aicalib.calibrate.evaluate import evaluate as score_runs
    from aicalib.calibrate.limits import flags_of_files
    from aicalib.calibrate.records import read_runs, stored_runs
    from aicalib.cli.context import alike, canonical
    from aicalib.errors import InvalidValue
    from aicalib.report.scores import evaluation_rows, left_out_words, refusal_rows
    from perfdb import Store

    given = {"model": model, "gpu": gpu, "tp": tp, "weight_quant": weight_quant, "kv_dtype": kv_dtype}
    context = canonical({name: value for name, value in given.items() if value is not None})
    if files:
        records, rejected = read_runs(files, context, alike)
        known = flags_of_files(files, context, alike, flags)
        records = [
            each if "startup_id" in each else {**each, "flags": known.get(str(each["run_id"]), [])}
            for each in records
        ]
    elif context:
        raise InvalidValue(f"stored runs take no {', '.join(context)}: name the files that lack it")
    elif flags is not None:
        raise InvalidValue("stored runs take no flags here", ["aicalib db flag FILE"])
    else:
        with Store(store_path(db), read_only=True, wait_s=wait) as store:
            records, rejected = stored_runs(store), []
    if not records:
        lines = "; ".join(f"line {each['line']}: {each['reason']}" for each in rejected[:3])
        where = ", ".join(map(str, files or [store_path(db)]))
        raise InvalidValue(
            f"no run in {where}" + (f": {lines}" if lines else ""),
            [] if files else ["aicalib ingest RESULTS"],
        )
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
    if words := left_out_words(document):
        typer.echo(f"\nnot among the unflagged: {words}")
    if document["refused"]:
        typer.echo("")
        print_table("", ["refused", "reason"], refusal_rows(document["refused"]), align="rl")
    print_rejected(rejected)
