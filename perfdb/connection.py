"""Opening the DuckDB file of a store: what can be wrong with it, who holds it, which schema it has."""

from __future__ import annotations

import os
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from perfdb import migrations
from perfdb.errors import NewerSchema, NotAStore, OlderSchema, ReadOnlyStore, StoreBusy

if TYPE_CHECKING:
    import duckdb

RETRY_S = 0.1
# Nothing in a store needs an extension, so opening one never reaches for the network.
_CONFIG: dict[str, str | bool | int | float | list[str]] = {"autoinstall_known_extensions": False}
_MAGIC = slice(8, 12)


def connect(path: Path, read_only: bool, wait_s: float) -> duckdb.DuckDBPyConnection:
    """Open a store and bring its schema up to date.

    Parameters
    ----------
    path : Path
        The file; made, with its folder, when it is not there and may be written.
    read_only : bool
        Open without the right to write.
    wait_s : float
        How long to wait for another process to let go of the file.

    Raises
    ------
    NotAStore, ReadOnlyStore, StoreBusy, NewerSchema, OlderSchema
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
    connection = _open(path, read_only, wait_s)
    try:
        _migrate(connection, path, read_only)
    except BaseException:
        connection.close()
        raise
    return connection


def _must_be_duckdb(path: Path) -> None:
    if not path.is_file():
        raise NotAStore(f"{path} is not a file")
    with path.open("rb") as file:
        if file.read(_MAGIC.stop)[_MAGIC] != b"DUCK":
            raise NotAStore(f"{path} is not a DuckDB file, so it is no measurement store")


def _open(path: Path, read_only: bool, wait_s: float) -> duckdb.DuckDBPyConnection:
    import duckdb

    deadline = time.monotonic() + wait_s
    while True:
        try:
            return duckdb.connect(str(path), read_only=read_only, config=_CONFIG)
        except duckdb.ConnectionException as error:
            raise StoreBusy(f"{path} is open in this very process in another mode", os.getpid()) from error
        except duckdb.IOException as error:
            told = str(error)
            if "lock" not in told:
                raise NotAStore(f"{path} cannot be opened: {told}") from error
            if time.monotonic() >= deadline:
                holder = re.search(r"PID (\d+)", told)
                pid = int(holder[1]) if holder else None
                who = f"process {pid}" if pid else "another process"
                raise StoreBusy(f"{path} is held by {who}; waited {wait_s:g} s", pid) from error
            time.sleep(RETRY_S)


def _migrate(connection: duckdb.DuckDBPyConnection, path: Path, read_only: bool) -> None:
    """Apply what is missing, and refuse what is unknown."""
    tables = {
        name
        for (name,) in connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'main'"
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
    pending = [name for name in steps if name not in done]
    if not pending:
        return
    if read_only:
        raise OlderSchema(
            f"{path} lacks the schema step {', '.join(pending)}: "
            "open it once for writing to bring it up to date"
        )
    connection.execute("BEGIN")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS migrations (name VARCHAR PRIMARY KEY, applied_at TIMESTAMP NOT NULL)"
    )
    for name in pending:
        connection.execute(steps[name])
        now = datetime.now(UTC).replace(tzinfo=None)
        connection.execute("INSERT INTO migrations VALUES ($1, $2)", [name, now])
    connection.execute("COMMIT")
