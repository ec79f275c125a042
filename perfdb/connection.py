"""Connections: a store attached for as long as an operation needs it, and side stores that go into it whole.

DuckDB lets one process write to a file at a time and shuts all others out meanwhile. So nothing holds a store
longer than one operation, and what takes long is prepared in a side store, in memory and, beyond a limit, in a
folder whose name holds the process that made it.
"""

from __future__ import annotations

import glob
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
    MemoryExceeded,
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
"""Size of a file from which on what does not fit into memory goes next to the store."""

# Nothing in a store needs an extension, so opening one never reaches for the network.
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "memory_limit": MEMORY_LIMIT,
}
_MAGIC = slice(8, 12)
_CORRUPT = re.compile(
    r"Corrupt database file|Could not read enough|[Ss]erialization Error|not a valid DuckDB"
)
_FULL = re.compile(r"No space left|Disk quota|File too large|Could not write|failed to write", re.IGNORECASE)
INTERRUPTED = "Query interrupted"
"""What DuckDB raises, as a RuntimeError, where Ctrl-C comes while it works."""
_LOCKED = re.compile(r"lock on file|Conflicting lock")


def connect(scratch: Path) -> duckdb.DuckDBPyConnection:
    """Connect to an empty database in memory; `scratch` is a folder for what does not fit there."""
    import duckdb

    connection = duckdb.connect(":memory:", config=_CONFIG | {"temp_directory": str(scratch)})
    # A bar would be printed among the answers. A notebook without ipywidgets has none, and refuses to set it.
    if connection.sql("SELECT current_setting('enable_progress_bar')").fetchall() != [(False,)]:
        connection.execute("SET enable_progress_bar = false")
    return connection


@contextmanager
def workspace(beside: Path | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a connection whose current schema is an empty side store, named `side`.

    Parameters
    ----------
    beside : Path, optional
        A store: what does not fit into memory goes into a folder next to it, which is removed in the end, and
        not into that of temporary files.
    """
    folder = Path(gettempdir()) if beside is None else beside.resolve().parent
    stem = "perfdb" if beside is None else f"{beside.name}.staging"
    scratch = folder / f"{stem}-{os.getpid()}-{uuid4().hex[:8]}"
    connection = connect(scratch)
    try:
        with named_errors(scratch):
            if beside is not None:
                _clear_leftovers(beside)
            connection.execute("ATTACH ':memory:' AS side")
            connection.execute("USE side")
            apply(connection, migrations.steps())
            yield connection
    finally:
        connection.close()
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
    if not read_only:
        _must_take_files(path)
    before = connection.execute("SELECT current_catalog()").fetchall()[0][0]
    attach(connection, path, read_only, wait_s)
    try:
        with named_errors(path):
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
    scratch = Path(gettempdir()) / f"perfdb-{os.getpid()}-{uuid4().hex[:8]}.tmp"
    connection = connect(scratch)
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
def named_errors(path: Path) -> Iterator[None]:
    """Give the errors of a full disk, of too little memory and of a damaged file their names, and Ctrl-C its own."""
    import duckdb

    try:
        yield
    except RuntimeError as error:
        if str(error) == INTERRUPTED:
            raise KeyboardInterrupt from error
        raise
    except duckdb.Error as error:
        told = str(error).splitlines()[0]
        if _FULL.search(told):
            raise StorageFull(
                f"no room to write beside {path}: {told}; the store is as it was before: "
                "free some space and try again"
            ) from error
        if isinstance(error, duckdb.OutOfMemoryException):
            raise MemoryExceeded(
                f"{path}: more than the {MEMORY_LIMIT} of memory that a store may use: {told}; the store is as it "
                "was before: ask for fewer rows or columns at once, take a file in by parts, or free space in the "
                f"folder for what does not fit into memory ({gettempdir()}, or that of the store)"
            ) from error
        if is_broken(error) or isinstance(error, duckdb.IOException):
            raise DamagedStore(_damaged(path, told)) from error
        raise


def is_broken(error: Exception) -> bool:
    """Tell whether an error is one of the store or the machine, and not of what was asked."""
    import duckdb

    kinds = (
        duckdb.FatalException,
        duckdb.InternalException,
        duckdb.SerializationException,
        duckdb.OutOfMemoryException,
    )
    return isinstance(error, kinds) or bool(_CORRUPT.search(str(error)) or _FULL.search(str(error)))


def _damaged(path: Path, told: str) -> str:
    return (
        f"{path} is damaged: {told.splitlines()[0]}; `aicalib db check` says what can still be read, and "
        "`aicalib db import EXPORT --db NEW` rebuilds a store from an export"
    )


def _clear_leftovers(store: Path) -> None:
    """Remove the folders of processes that are gone."""
    for leftover in store.resolve().parent.glob(f"{glob.escape(store.name)}.staging-*"):
        made_by = re.fullmatch(r"(\d+)-[0-9a-f]{8}", leftover.name.removeprefix(f"{store.name}.staging-"))
        if made_by and not _alive(int(made_by[1])):
            shutil.rmtree(leftover, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def literal(text: str) -> str:
    """Return a text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def _must_take_files(path: Path) -> None:
    """Make the folder of a store that is to be written; the log of what is being written lies in it too."""
    folder = path.resolve().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReadOnlyStore(
            f"{folder}, the folder of {path.name}, cannot be made: {error.strerror}"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ReadOnlyStore(
            f"{path} cannot be written, since its folder takes no files: "
            "open it with read_only=True, or copy it elsewhere"
        )


def _must_be_duckdb(path: Path) -> None:
    if not path.is_file():
        raise NotAStore(f"{path} is not a file")
    with path.open("rb") as file:
        if file.read(_MAGIC.stop)[_MAGIC] != b"DUCK":
            raise NotAStore(f"{path} is not a DuckDB file, so it is no measurement store")


def attach(connection: duckdb.DuckDBPyConnection, path: Path, read_only: bool, wait_s: float) -> None:
    """Attach a store as `store`, waiting for another process to let go of it; its schema is not looked at."""
    import duckdb

    deadline = time.monotonic() + wait_s
    while True:
        try:
            connection.execute(f"ATTACH {literal(str(path))} AS store{' (READ_ONLY)' if read_only else ''}")
            return
        except duckdb.Error as error:
            told = str(error)
            here = "Unique file handle conflict" in told  # another connection of this very process
            if _CORRUPT.search(told) or isinstance(error, duckdb.InternalException | duckdb.FatalException):
                raise DamagedStore(_damaged(path, told)) from error
            if not _LOCKED.search(told) and not here:
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
    apply(connection, pending)


def apply(connection: duckdb.DuckDBPyConnection, steps: dict[str, str]) -> None:
    """Apply schema steps to the current schema, all or none, and record each."""
    with transaction(connection):
        connection.execute(
            "CREATE TABLE IF NOT EXISTS migrations (name VARCHAR PRIMARY KEY, applied_at TIMESTAMP NOT NULL)"
        )
        for name, text in steps.items():
            connection.execute(text)
            now = datetime.now(UTC).replace(tzinfo=None)
            connection.execute("INSERT INTO migrations VALUES ($1, $2)", [name, now])
