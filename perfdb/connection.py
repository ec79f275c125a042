"""Connections: a store attached for as long as an operation needs it, and side files beside it.

DuckDB lets one process write to a file at a time and shuts all others out meanwhile. So nothing holds a store
longer than one operation, and what takes long is prepared in a side file, whose name holds the process that
made it.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING
from uuid import uuid4

from perfdb import migrations
from perfdb.errors import (
    DamagedStore,
    NewerSchema,
    NotAStore,
    OlderSchema,
    ReadOnlyStore,
    StorageFull,
    StoreBusy,
)

if TYPE_CHECKING:
    import duckdb

RETRY_S = 0.05
MEMORY_LIMIT = "900MB"
"""What DuckDB may hold in memory; beyond it, intermediate results go to disk."""
LARGE_BYTES = 32 * 2**20
"""Size of a file from which on its side store lies on disk."""

# Nothing in a store needs an extension, so opening one never reaches for the network.
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "memory_limit": MEMORY_LIMIT,
}
_MAGIC = slice(8, 12)


@contextmanager
def workspace(beside: Path | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a connection whose current schema is an empty side store, named `side`.

    Parameters
    ----------
    beside : Path, optional
        A store: the side store lies in a file next to it, which is removed in the end. Without it, it lies in
        memory.
    """
    import duckdb

    stem = None if beside is None else f"{beside.name}.staging-{os.getpid()}-{uuid4().hex[:8]}"
    folder = Path(gettempdir()) if beside is None else beside.resolve().parent
    scratch = folder / f"{stem or f'perfdb-{os.getpid()}-{uuid4().hex[:8]}'}.tmp"
    side = None if stem is None else folder / stem
    connection = duckdb.connect(":memory:", config=_CONFIG | {"temp_directory": str(scratch)})
    try:
        with _named_errors(side or scratch):
            if beside is not None:
                _clear_leftovers(beside)
            connection.execute(f"ATTACH {_literal(':memory:' if side is None else str(side))} AS side")
            connection.execute("USE side")
            _apply(connection, migrations.steps())
            yield connection
    finally:
        connection.close()
        if side is not None:
            for leftover in (side, side.with_name(f"{side.name}.wal")):
                leftover.unlink(missing_ok=True)
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def attached(
    connection: duckdb.DuckDBPyConnection, path: Path, read_only: bool, wait_s: float
) -> Iterator[None]:
    """Attach a store as `store`, bring its schema up to date, and make it the current schema.

    Parameters
    ----------
    connection : DuckDBPyConnection
        Of a workspace, or any other.
    path : Path
        The file; made, with its folder, when it is not there and may be written.
    read_only : bool
        Attach without the right to write.
    wait_s : float
        How long to wait for another process to let go of the file.

    Raises
    ------
    NotAStore, DamagedStore, ReadOnlyStore, StoreBusy, NewerSchema, OlderSchema, StorageFull
        As their names say; the message says what to do.
    """
    if path.exists():
        _must_be_duckdb(path)
        if not read_only and not os.access(path, os.W_OK):
            raise ReadOnlyStore(f"{path} cannot be written: open it with read_only=True, or copy it")
    elif read_only:
        raise NotAStore(f"there is no store at {path}: ingesting a file makes one")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
    before = connection.execute("SELECT current_catalog()").fetchall()[0][0]
    _attach(connection, path, read_only, wait_s)
    try:
        with _named_errors(path):
            connection.execute("USE store")
            _migrate(connection, path, read_only)
            yield
    finally:
        with suppress(Exception):
            connection.execute(f"USE {before}")
            connection.execute("DETACH store")


@contextmanager
def opened(path: Path, read_only: bool, wait_s: float) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a connection whose current schema is the store at `path`; errors as in `attached`."""
    import duckdb

    scratch = Path(gettempdir()) / f"perfdb-{os.getpid()}-{uuid4().hex[:8]}.tmp"
    connection = duckdb.connect(":memory:", config=_CONFIG | {"temp_directory": str(scratch)})
    try:
        with attached(connection, path, read_only, wait_s):
            yield connection
    finally:
        connection.close()
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Hold one transaction: all of it, or nothing."""
    connection.execute("BEGIN")
    try:
        yield
    except BaseException:
        with suppress(Exception):  # a failed commit has rolled back already
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Give the errors of a full disk and a damaged file their names."""
    import duckdb

    try:
        yield
    except (
        duckdb.IOException,
        duckdb.FatalException,
        duckdb.InternalException,
        duckdb.SerializationException,
    ) as error:
        told = str(error)
        if re.search(
            r"No space left|Disk quota|File too large|Could not write|failed to write", told, re.IGNORECASE
        ):
            raise StorageFull(
                f"no room to write beside {path}: {told.splitlines()[0]}; the store is as it was before: "
                "free some space and try again"
            ) from error
        raise DamagedStore(
            f"{path} is damaged: {told.splitlines()[0]}; `aicalib db check` says what can still be read, and "
            "`aicalib db import EXPORT --db NEW` rebuilds a store from an export"
        ) from error


def _clear_leftovers(store: Path) -> None:
    """Remove the side files of processes that are gone."""
    for leftover in store.resolve().parent.glob(f"{store.name}.staging-*"):
        pid = int(leftover.name.removeprefix(f"{store.name}.staging-").split("-", 1)[0])
        if not _alive(pid):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _must_be_duckdb(path: Path) -> None:
    if not path.is_file():
        raise NotAStore(f"{path} is not a file")
    with path.open("rb") as file:
        if file.read(_MAGIC.stop)[_MAGIC] != b"DUCK":
            raise NotAStore(f"{path} is not a DuckDB file, so it is no measurement store")


def _attach(connection: duckdb.DuckDBPyConnection, path: Path, read_only: bool, wait_s: float) -> None:
    import duckdb

    deadline = time.monotonic() + wait_s
    while True:
        try:
            connection.execute(f"ATTACH {_literal(str(path))} AS store{' (READ_ONLY)' if read_only else ''}")
            return
        except (duckdb.IOException, duckdb.BinderException, duckdb.Error) as error:
            told = str(error)
            here = "Unique file handle conflict" in told  # another connection of this very process
            if "lock" not in told and not here:
                raise NotAStore(f"{path} cannot be opened: {told}") from error
            if time.monotonic() >= deadline:
                holder = re.search(r"PID (\d+)", told)
                pid = os.getpid() if here else int(holder[1]) if holder else None
                who = "this very process" if here else f"process {pid}" if pid else "another process"
                raise StoreBusy(
                    f"{path} is held by {who}; waited {wait_s:g} s: try again when it is done, or wait longer (--wait)",
                    pid,
                ) from error
            time.sleep(RETRY_S)


def _migrate(connection: duckdb.DuckDBPyConnection, path: Path, read_only: bool) -> None:
    """Apply what is missing, and refuse what is unknown."""
    tables = {
        name
        for (name,) in connection.execute(
            "SELECT table_name FROM duckdb_tables() WHERE database_name = 'store' AND schema_name = 'main'"
        ).fetchall()
    }
    if tables and "migrations" not in tables:
        raise NotAStore(f"{path} is a DuckDB file of something else: it has no table of migrations")
    steps = migrations.steps()
    done = (
        {name for (name,) in connection.execute("SELECT name FROM migrations").fetchall()}
        if tables
        else set()
    )
    unknown = sorted(done - steps.keys())
    if unknown:
        raise NewerSchema(
            f"{path} was written by a newer version (it has the schema step {', '.join(unknown)}): "
            "upgrade this package, or use another file"
        )
    pending = {name: text for name, text in steps.items() if name not in done}
    if not pending:
        return
    if read_only:
        raise OlderSchema(
            f"{path} lacks the schema step {', '.join(pending)}: "
            "open it once for writing to bring it up to date"
        )
    _apply(connection, pending)


def _apply(connection: duckdb.DuckDBPyConnection, steps: dict[str, str]) -> None:
    """Apply schema steps to the current schema, all or none, and record each."""
    with transaction(connection):
        connection.execute(
            "CREATE TABLE IF NOT EXISTS migrations (name VARCHAR PRIMARY KEY, applied_at TIMESTAMP NOT NULL)"
        )
        for name, text in steps.items():
            connection.execute(text)
            now = datetime.now(UTC).replace(tzinfo=None)
            connection.execute("INSERT INTO migrations VALUES ($1, $2)", [name, now])
