"""`aicalib drift`: new runs against a profile."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from textwrap import fill
from typing import Annotated

import typer

from aicalib.cli.output import (
    DEFAULT_WAIT_S,
    PAGE_COLUMNS,
    Db,
    Json,
    ProfileName,
    Wait,
    find_profile,
    input_file,
    print_json,
    print_rejected,
    print_table,
    store_path,
)


def drift(
    files: Annotated[
        list[Path] | None,
        input_file("Runs in any format that 'ingest' reads; else the runs in the store."),
    ] = None,
    profile: ProfileName = "default",
    db: Db = None,
    wait: Wait = DEFAULT_WAIT_S,
    json: Json = False,
) -> None:
    """Say where new runs depart from a profile beyond noise.

    By engine, version, accelerator and metric, over runs that the profile was not fitted on, and what it
    would take to refit. Noise is what the profile's own intervals and repeated runs make of that many curves.
    """
    from aicalib.calibrate.drift import drift as look
    from aicalib.calibrate.records import judged_runs, stored_runs
    from aicalib.cli.context import alike
    from aicalib.errors import InvalidValue
    from aicalib.report.drift import ALIGN, HEADER, document, rows, summary
    from perfdb import Store

    path = store_path(db)
    if files:
        records, rejected = judged_runs(files, alike)
    else:
        with Store(path, read_only=True, wait_s=wait) as store:
            records, rejected = stored_runs(store), []
    if not records:
        reasons = "".join(f"; {each['reason']}" for each in rejected[:3])
        raise InvalidValue(
            f"no complete run in {', '.join(map(str, files or [path]))}{reasons}", ["aicalib ingest RESULTS"]
        )
    chosen = find_profile(profile, db, wait)
    found = look(records, chosen)
    store_option = f" --db {quote(str(path))}" if db is not None else ""
    name = chosen.name if chosen.name != "default" else "team"
    # What the profile errs alike on all runs of is in its coefficients, which own runs on a base do not move.
    of_all = any(each.beyond and each.unit == "cell" for each in found.shifts)
    base = "" if of_all else f" --base {quote(profile or 'default')}"
    commands = [f"aicalib calibrate{base} --name {name}{store_option}"]
    if files:
        commands.insert(0, f"aicalib ingest {' '.join(quote(str(file)) for file in files)}{store_option}")
    if json:
        print_json(document(found, commands) | ({"rejected": rejected} if rejected else {}))
        return
    title = f"profile {found.profile} against {found.compared} runs that it was not fitted on"
    if found.shifts:
        print_table(title, HEADER, rows(found.shifts), ALIGN)
    else:
        typer.echo(f"{title}: nothing to compare")
    for line in summary(found, commands):
        typer.echo(
            fill(line, PAGE_COLUMNS, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)
        )
    print_rejected(rejected)
