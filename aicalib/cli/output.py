"""How commands print: JSON or text on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Db = Annotated[
    Path | None,
    typer.Option("--db", help="The store. Default: $AICALIB_DB, else a file in the user's data folder."),
]


def print_json(document: Any) -> None:
    """Print one JSON document; numbers without a value are null."""
    typer.echo(json.dumps(_finite(document), indent=2, default=str, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def fail(kind: str, message: str, alternatives: Sequence[str], as_json: bool) -> int:
    """Say why a request is refused and return the exit status 2."""
    if as_json:
        print_json({"error": {"kind": kind, "message": message, "alternatives": list(alternatives)}})
    sys.stderr.write(f"error: {message}\n")
    if alternatives and not all(each in message for each in alternatives):
        sys.stderr.write(f"what would work: {', '.join(alternatives[:12])}\n")
    return 2


def store_path(db: Path | None) -> Path:
    """Return the path of the store: the option, else $AICALIB_DB, else the user's data folder."""
    import os

    if db is not None:
        return db
    if os.environ.get("AICALIB_DB"):
        return Path(os.environ["AICALIB_DB"])
    from platformdirs import user_data_path

    return user_data_path("aicalib", ensure_exists=True) / "aicalib.duckdb"


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[..., None]]:
    """Show a progress bar on stderr where that is a terminal; yields a call that advances it by one."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda *_: bar.advance(task)


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """Print a plain table: the first `left` columns to the left, numbers to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(header):
        table.add_column(name, justify="left" if place < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, soft_wrap=not sys.stdout.isatty()).print(table)
