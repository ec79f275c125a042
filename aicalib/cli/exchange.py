"""`aicalib db export`, `import`, `merge`, `set` and `check`: stores out, in, together, completed, and looked over."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from aicalib.cli.database import report_taken
from aicalib.cli.output import (
    DEFAULT_WAIT_S,
    Db,
    Json,
    Wait,
    print_json,
    print_rejected,
    progress,
    store_path,
)

Where = Annotated[
    str | None, typer.Option("--where", help="Only runs that meet this SQL condition on the view 'runs'.")
]


class Form(StrEnum):
    """Forms of an export."""

    parquet = "parquet"
    jsonl = "jsonl"
    aiconfigurator = "aiconfigurator"


def export(
    folder: Annotated[Path, typer.Argument(help="A folder that is not there yet, or empty.")],
    form: Annotated[
        Form, typer.Option("--format", help="aiconfigurator: the kernel timings in that tool's layout.")
    ] = Form.parquet,
    where: Where = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Take the place of an older export of that name.")
    ] = False,
    db: Db = None,
    wait: Wait = DEFAULT_WAIT_S,
    json: Json = False,
) -> None:
    """Write the store into a folder, without loss.

    'import' and 'merge' take it in again; runs.jsonl of a JSONL export is also read by 'ingest'.
    """
    from perfdb import Store

    with Store(store_path(db), read_only=True, wait_s=wait) as store, progress(f"export {folder}", None):
        manifest = store.export(folder, form.value, where, overwrite)
    rows = {table: facts["rows"] for table, facts in manifest.tables.items()}
    if json:
        print_json({"folder": str(folder), "format": manifest.form, "rows": rows})
        return
    typer.echo(f"exported to {folder}:")
    width = max(map(len, rows))
    for table, count in rows.items():
        typer.echo(f"  {table:{width}}  {count:>9}")


def import_(
    folder: Annotated[Path, typer.Argument(help="The folder of an export.", exists=True, file_okay=False)],
    db: Db = None,
    wait: Wait = DEFAULT_WAIT_S,
    json: Json = False,
) -> None:
    """Take an export into the store, by content: importing twice changes nothing."""
    _merge([folder], db, wait, json)


def merge(
    others: Annotated[
        list[Path],
        typer.Argument(help="Other stores, or folders of exports. They are only read.", exists=True),
    ],
    db: Db = None,
    wait: Wait = DEFAULT_WAIT_S,
    json: Json = False,
) -> None:
    """Take other stores into this one, by content.

    The same run from two people is one run with both sources. What contradicts is listed with both values, and
    the store keeps its own.
    """
    _merge(others, db, wait, json)


def _merge(others: list[Path], db: Path | None, wait: float, json: bool) -> None:
    from aicalib.calibrate.limits import refresh_flags
    from perfdb import Store

    reports = []
    with Store(store_path(db), wait_s=wait) as store:
        for other in others:
            with progress(f"merge {other.name}", None):
                reports.append((other, store.merge(other)))
        refresh_flags(store)
    total = report_taken(reports, json)
    if total["rejected"] and total["kept"] + total["known"] == 0:
        raise typer.Exit(2)


def set_(
    values: Annotated[
        list[str], typer.Argument(help="KEY=VALUE, such as gpu=h100-sxm tp=4.", metavar="KEY=VALUE...")
    ],
    where: Where = None,
    run: Annotated[
        list[str] | None, typer.Option("--run", help="The run of this id, or of an id that starts so.")
    ] = None,
    incomplete: Annotated[bool, typer.Option("--incomplete", help="Only runs that lack a key.")] = False,
    db: Db = None,
    wait: Wait = DEFAULT_WAIT_S,
    json: Json = False,
) -> None:
    """Fill what stored runs lack; nothing that they say is overwritten.

    A run that says otherwise is listed with both values, and stays as it is.
    """
    from aicalib.calibrate.limits import refresh_flags
    from aicalib.cli.context import alike, canonical
    from perfdb import NotAStore, Store
    from perfdb.amend import typed

    pairs = [text.partition("=") for text in values]
    context = {}
    for name, _, value in pairs:
        if not name or not value:
            raise typer.BadParameter(f"{name}={value} is not KEY=VALUE")
        if name in context:
            raise typer.BadParameter(f"{name} is given twice")
        context[name] = typed(name, value)
    context = canonical(context)
    path = store_path(db)
    if not path.exists():
        raise NotAStore(f"there is no store at {path}: ingesting a file makes one")
    with Store(path, wait_s=wait) as store:
        done = store.set(context, where, run or (), incomplete, alike)
        refresh_flags(store)
    if json:
        print_json(asdict(done))
    else:
        lack = ", ".join(f"{key} ({count})" for key, count in done.missing.items())
        typer.echo(
            f"chosen {done.chosen}, completed {done.changed}"
            f"{f' of which {done.incomplete} still lack {lack}' if lack else ''}, rejected {len(done.rejected)}"
        )
        print_rejected([{"reason": each.reason} for each in done.rejected])
    if done.rejected and not done.changed:
        raise typer.Exit(2)


def check(
    salvage: Annotated[
        Path | None,
        typer.Option("--salvage", help="Write what can still be read into this folder, an export."),
    ] = None,
    db: Db = None,
    wait: Wait = DEFAULT_WAIT_S,
    json: Json = False,
) -> None:
    """Read all of the store and say what is damaged; status 2 if anything is.

    Every block is read, every identity computed anew, every reference followed. The store is only read.
    """
    from perfdb.check import check as look
    from perfdb.check import salvage as save

    path = store_path(db)
    with progress(f"check {path.name}", None):
        found = look(path, wait)
        saved = save(path, salvage, wait) if salvage else None
    if json:
        print_json(
            {
                "path": str(path),
                "sound": not found,
                "findings": [asdict(each) for each in found],
                "salvaged": saved and {"folder": str(salvage), "rows": saved.rows, "lost": saved.lost},
            }
        )
    else:
        typer.echo(f"{path}: {f'{len(found)} findings' if found else 'sound'}")
        for each in found:
            typer.echo(f"  {each.table or 'file'}: {each.message}")
        if saved:
            lost = ", ".join(f"{count} rows of {table}" for table, count in saved.lost.items() if count)
            typer.echo(f"saved {sum(saved.rows.values())} rows to {salvage}; lost {lost or 'none'}")
            typer.echo(f"to go on: aicalib db import {salvage} --db NEW")
        elif found:
            typer.echo(
                "to go on: aicalib db import EXPORT --db NEW; "
                "without an export, first aicalib db check --salvage EXPORT"
            )
    if found:
        raise typer.Exit(2)
