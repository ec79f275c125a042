"""How commands print: JSON or text on stdout, everything else on stderr."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from aicalib.profiles import Profile

PAGE_COLUMNS = 100
GAP = "  "
MIN_LAST_COLUMN = 24
MOST_REJECTED = 20
"""Lines that were not taken of which a person is told each."""
"""Columns that the broken last column of a table keeps on a narrow terminal."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Db = Annotated[
    Path | None,
    typer.Option("--db", help="The store. Default: $AICALIB_DB, else a file in the user's data folder."),
]
DEFAULT_WAIT_S = 30.0
Wait = Annotated[
    float,
    typer.Option("--wait", min=0.0, help="Seconds to wait for another process to let go of the store."),
]
ProfileName = Annotated[
    str,
    typer.Option("--profile", help="'default', 'priors', a file, or NAME or NAME@VERSION in the store."),
]

Jobs = Annotated[int, typer.Option(help="Processes of this machine that predict; 1 is the command itself.")]
Scheduler = Annotated[
    str | None,
    typer.Option(
        metavar="tcp://HOST:PORT",
        help="Predict on the workers of this Dask scheduler; needs pip install 'aicalib[cluster]'.",
    ),
]


def input_file(help: str) -> Any:
    """Return an argument that takes files which must be there."""
    return typer.Argument(help=help, exists=True, dir_okay=False, readable=True)


def print_json(document: Any) -> None:
    """Print one JSON document; numbers without a value are null."""
    typer.echo(json.dumps(finite(document), indent=2, default=str, allow_nan=False))


def finite(value: Any) -> Any:
    """Return a document with None for every number that JSON cannot hold, at any depth."""
    if isinstance(value, dict):
        return {str(key): finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def fail(kind: str, message: str, alternatives: Sequence[str], as_json: bool) -> int:
    """Say why a request is refused and return the exit status 2."""
    if as_json:
        print_json({"error": {"kind": kind, "message": message, "alternatives": list(alternatives)}})
    sys.stderr.write(f"error: {message}\n")
    if alternatives and not any(each in message for each in alternatives):
        sys.stderr.write(f"what would work: {'; '.join(alternatives[:12])}\n")
    return 2


def print_rejected(rejected: Sequence[Mapping[str, Any]]) -> None:
    """Print on stderr what was not taken: `reason`, and where there is one its `file` and `line`."""
    for each in rejected[:MOST_REJECTED]:
        line = f" line {each['line']}" if each.get("line") else ""
        place = f"{each['file']}{line}: " if "file" in each else ""
        typer.echo(f"  {place}{each['reason']}", err=True)
    if len(rejected) > MOST_REJECTED:
        typer.echo(f"  and {len(rejected) - MOST_REJECTED} more: --json lists all", err=True)


def store_path(db: Path | None) -> Path:
    """Return the path of the store: the option, else $AICALIB_DB, else the user's data folder."""
    import os

    if db is not None:
        return db
    if os.environ.get("AICALIB_DB"):
        return Path(os.environ["AICALIB_DB"])
    from platformdirs import user_data_path

    return user_data_path("aicalib", ensure_exists=True) / "aicalib.duckdb"


def find_profile(name: str, db: Path | None, wait_s: float = DEFAULT_WAIT_S) -> Profile:
    """Return a profile that is shipped, in a file, or in the store (the newest of its name).

    Raises
    ------
    InvalidValue
        If there is none of that name, or it is of another version of aicalib.
    """
    from aicalib.errors import InvalidValue
    from aicalib.profiles import Profile, load_profile

    path = store_path(db)
    if name in ("default", "priors") or Path(name).is_file() or not path.is_file():
        return load_profile(name)
    from perfdb import Store, UnknownProfile

    stem, _, version = name.partition("@")
    with Store(path, read_only=True, wait_s=wait_s) as store:
        try:
            text = store.load_profile(stem, version or None)
        except UnknownProfile as error:
            stored = [f"{each['name']}@{each['version']}" for each in store.profiles()]
            raise InvalidValue(
                f"no profile '{name}': neither a file, nor shipped, nor in {path}",
                ["default", "priors", *stored],
            ) from error
    return Profile.from_json(text, f"profile {name} of {path}")


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[..., None]]:
    """Show a progress bar on stderr where that is a terminal; yields a call that advances it by one.

    Without a total the call may be given the number of lines that are done, which is shown.
    """
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)

        def tick(*done: int) -> None:
            if total is None and done:
                bar.update(task, description=f"{what}: {done[0]:,} lines")
            else:
                bar.advance(task)

        yield tick


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]], align: str) -> None:
    """Print a plain table.

    Parameters
    ----------
    title : str
        A line above it, or nothing.
    header : sequence of str
    rows : iterable of sequence of str
    align : str
        One letter a column, "l" or "r". A last column to the left is broken where the line gets too long.
    """
    cells = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    indent = sum(width + len(GAP) for width in widths[:-1])
    if align[-1] == "l":
        room = max(_line_width() - indent, len(header[-1]), MIN_LAST_COLUMN)
        widths[-1] = min(widths[-1], room)
    if title:
        typer.echo(title)
    for number, row in enumerate(cells):
        first, *more = (
            textwrap.wrap(row[-1], widths[-1], break_on_hyphens=False)
            if align[-1] == "l" and row[-1]
            else row[-1:]
        )
        fields = zip([*row[:-1], first], widths, align, strict=True)
        line = [f"{cell:{'<' if side == 'l' else '>'}{width}}" for cell, width, side in fields]
        typer.echo(GAP.join(line).rstrip())
        for rest in more:
            typer.echo(" " * indent + rest)
        if number == 0:
            typer.echo(GAP.join("-" * width for width in widths))


def _line_width() -> int:
    """Return the columns of the terminal, a page's where the output is piped."""
    return shutil.get_terminal_size((PAGE_COLUMNS, 24)).columns if sys.stdout.isatty() else PAGE_COLUMNS
