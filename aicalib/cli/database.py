"""`aicalib ingest` and `aicalib db`: measured runs into the store, and what the store holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aicalib.cli.output import (
    DEFAULT_WAIT_S,
    Db,
    Json,
    Wait,
    input_file,
    print_json,
    print_rejected,
    print_table,
    progress,
    store_path,
)

if TYPE_CHECKING:
    from perfdb import IngestReport

app = typer.Typer(help="The store of measured runs.", no_args_is_help=True)

MOST_COLUMNS = 12
"""Columns of a query's answer up to which it is shown as a table; a wider one is shown key by key."""


def ingest(
    files: Annotated[list[Path], input_file("Result files of any known format.")],
    model: Annotated[str | None, typer.Option(help="Model, where the file lacks it.")] = None,
    gpu: Annotated[
        str | None, typer.Option(help="Accelerator or .toml file, where the file lacks it.")
    ] = None,
    tp: Annotated[int | None, typer.Option(min=1, help="Tensor-parallel width.")] = None,
    pp: Annotated[int | None, typer.Option(min=1, help="Pipeline stages.")] = None,
    dp: Annotated[int | None, typer.Option(min=1, help="Attention-data-parallel ranks.")] = None,
    ep: Annotated[int | None, typer.Option(min=1, help="Expert-parallel width.")] = None,
    engine: Annotated[str | None, typer.Option(help="sglang, vllm or trtllm.")] = None,
    engine_version: Annotated[str | None, typer.Option(help="Version of the engine.")] = None,
    weight_quant: Annotated[str | None, typer.Option("--gemm", help="Format of the weights.")] = None,
    kv_dtype: Annotated[str | None, typer.Option("--kv", help="Format of the KV cache.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="End with status 2 if any line is rejected.")
    ] = False,
    db: Db = None,
    wait: Wait = DEFAULT_WAIT_S,
    json: Json = False,
) -> None:
    """Take benchmark results into the store.

    The same file twice changes nothing. Options say what the files lack; a line that says otherwise is
    rejected. Of several files one that cannot be read is told, with status 2, and the others are taken in.
    """
    from aicalib.calibrate.limits import refresh_flags
    from aicalib.cli.context import alike, canonical
    from perfdb import ContextRefused, SidecarError, Store, UnknownFormat

    given = {
        "model": model, "gpu": gpu, "tp": tp, "pp": pp, "dp": dp, "ep": ep, "engine": engine,
        "engine_version": engine_version, "weight_quant": weight_quant, "kv_dtype": kv_dtype,
    }  # fmt: skip
    context = canonical({name: value for name, value in given.items() if value is not None})
    reports = []
    refused = []
    with Store(store_path(db), wait_s=wait) as store:
        for file in files:
            try:
                with progress(f"ingest {file.name}", None) as tick:
                    reports.append((file, store.ingest(file, context, tick, alike)))
            except (UnknownFormat, SidecarError, ContextRefused) as error:
                if len(files) == 1:
                    raise
                refused.append({"file": str(file), "reason": str(error)})
        refresh_flags(store)
    total = report_taken(reports, json, refused)
    if refused or total["kept"] + total["known"] == 0 or (strict and total["rejected"]):
        raise typer.Exit(2)


def report_taken(
    reports: Sequence[tuple[Path, IngestReport]], as_json: bool, refused: Sequence[Mapping[str, str]] = ()
) -> dict[str, Any]:
    """Print what became of files that were taken in, or refused as a whole; return it as one document."""
    total: dict[str, Any] = {
        "kept": sum(report.kept for _, report in reports),
        "known": sum(report.known for _, report in reports),
        "incomplete": sum(report.incomplete for _, report in reports),
        "missing": dict(sum((Counter(report.missing) for _, report in reports), Counter())),
        "rejected": [
            {"file": str(file), "line": each.line, "reason": each.reason}
            for file, report in reports
            for each in report.rejected
        ],
        "unmatched": [
            {"file": str(file), "match": match} for file, report in reports for match in report.unmatched
        ],
        "refused": refused,
    }
    for each in refused:
        typer.echo(f"error: {each['reason']}", err=True)
    for each in total["unmatched"]:
        said = ", ".join(f"{key} = {value!r}" for key, value in each["match"].items())
        typer.echo(f"  {each['file']}: no run meets the [[run]] of its sidecar with {said}", err=True)
    if as_json:
        print_json(total)
        return total
    lack = ", ".join(f"{key} ({count})" for key, count in total["missing"].items())
    incomplete = f"{total['incomplete']} incomplete" + (f", lacking {lack}" if lack else "")
    typer.echo(
        f"kept {total['kept']} ({incomplete}), already known {total['known']}, rejected {len(total['rejected'])}"
    )
    print_rejected(total["rejected"])
    return total


@app.command()
def info(db: Db = None, wait: Wait = DEFAULT_WAIT_S, json: Json = False) -> None:
    """Show what the store holds.

    Runs by engine and source, what is incomplete, quality flags, profiles.
    """
    from perfdb import Store

    with Store(store_path(db), read_only=True, wait_s=wait) as store:
        found = store.info()
    for each in found["incomplete_runs"]:
        each["complete"] = _completing(each)
    if json:
        print_json(found)
        return
    found["schema"] = ", ".join(found["schema"])
    found["profiles"] = ", ".join(f"{each['name']}@{each['version']}" for each in found["profiles"]) or "none"
    incomplete = found.pop("incomplete_runs")
    for key, value in found.items():
        if isinstance(value, dict):
            typer.echo(f"{key}:" if value else f"{key}: none")
            width = max(map(len, value), default=0)
            for name, count in value.items():
                typer.echo(f"  {name:{width}}  {count:>7}")
        else:
            typer.echo(f"{key}: {value}")
    for each in incomplete:
        typer.echo(f"{each['runs']} incomplete runs of {each['file']} lack {', '.join(each['missing'])}:")
        typer.echo(f"  {each['complete']}")


def _completing(runs: dict[str, Any]) -> str:
    """Return the command line that completes the runs of one file."""
    source = str(runs["source"]).replace("'", "''")
    keys = " ".join(f"{key}=..." for key in runs["missing"])
    condition = f"source = '{source}' AND missing = {runs['missing']}"
    quoted = quote(condition) if set(condition) & set('"$`\\!') else f'"{condition}"'
    return f"aicalib db set --where {quoted} {keys}"


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="A query that reads; the view 'runs' has one row a run.")],
    db: Db = None,
    wait: Wait = DEFAULT_WAIT_S,
    json: Json = False,
) -> None:
    """Run a query that reads the store."""
    from perfdb import Store

    with Store(store_path(db), read_only=True, wait_s=wait) as store:
        rows = store.query(query)
    if json:
        print_json(rows)
    elif not rows:
        typer.echo("no rows", err=True)
    elif len(rows[0]) > MOST_COLUMNS:
        for row in rows:
            width = max(map(len, row))
            typer.echo(
                "\n".join(f"{name:{width}}  {_cell(value)}".rstrip() for name, value in row.items()) + "\n"
            )
    else:
        kinds = zip(*(row.values() for row in rows), strict=True)
        align = "".join("r" if all(_is_number(value) for value in column) else "l" for column in kinds)
        print_table("", list(rows[0]), [[_cell(value) for value in row.values()] for row in rows], align)


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _cell(value: object) -> str:
    """Return a value as people read it; `--json` has all its digits."""
    if value is None:
        return ""
    if isinstance(value, list):
        return " ".join(map(_cell, value))
    return f"{value:.7g}" if isinstance(value, float) else str(value)


@app.command()
def flag(
    file: Annotated[Path, input_file("JSON lines with source, src_ref, flag and reason.")],
    db: Db = None,
    wait: Wait = DEFAULT_WAIT_S,
    json: Json = False,
) -> None:
    """Set the quality flags that a file names on stored runs."""
    from perfdb import Store

    with Store(store_path(db), wait_s=wait) as store:
        applied = store.apply_flags_file(file)
    if json:
        print_json({"applied": applied.applied, "unmatched": applied.unmatched})
    else:
        typer.echo(f"flags set {applied.applied}, lines without a stored run {len(applied.unmatched)}")
