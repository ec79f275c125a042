"""The steps of checking and saving a store, as a child process does them: see `perfdb.check`.

Each line on stdout is a JSON object: the number of a step and its table before it is done, then what it found.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any, Final, cast
from uuid import uuid4

from perfdb import migrations
from perfdb.canonical import configuration_identity, run_identity
from perfdb.connection import attach, connect, workspace
from perfdb.errors import StoreError
from perfdb.folder import summed, write_table
from perfdb.record import content_id
from perfdb.tables import SCHEMA_TABLES, schema, tables

if TYPE_CHECKING:
    import duckdb

UNIQUE: Final = {
    "configurations": ("config_id",),
    "files": ("sha256",),
    "flags": ("run_id", "flag", "origin"),
    "predicted": ("profile", "run_id", "metric"),
    "predictions": ("prediction_id",),
    "profile_runs": ("name", "version", "run_id"),
    "profiles": ("name", "version"),
    "raw_lines": ("line_sha256",),
    "run_records": ("run_id",),
    "run_sources": ("run_id", "file_sha256", "line"),
    "startup_records": ("startup_id",),
    "startup_sources": ("startup_id", "file_sha256", "line"),
}
"""Columns of which no two rows of a table have the same values."""

REFERENCES: Final = (
    ("run_records", "config_id", "configurations", "config_id"),
    ("configurations", "config_id", "run_records", "config_id"),
    ("run_records", "run_id", "run_sources", "run_id"),
    ("run_sources", "run_id", "run_records", "run_id"),
    ("run_sources", "file_sha256", "files", "sha256"),
    ("run_sources", "line_sha256", "raw_lines", "line_sha256"),
    ("flags", "run_id", "run_records", "run_id"),
    ("rejected_lines", "file_sha256", "files", "sha256"),
    ("startup_records", "startup_id", "startup_sources", "startup_id"),
    ("startup_sources", "startup_id", "startup_records", "startup_id"),
    ("startup_sources", "file_sha256", "files", "sha256"),
    ("startup_sources", "line_sha256", "raw_lines", "line_sha256"),
    ("server_steps", "file_sha256", "files", "sha256"),
    ("server_steps", "startup_id", "startup_records", "startup_id"),
    ("kernel_runs", "file_sha256", "files", "sha256"),
)
"""Every value of the first table's column, null apart, stands in that of the second."""

LINEAGE: Final = (("superseded_runs", "by_run_id"), ("predicted", "run_id"))
"""Columns of run ids that may be those of runs which others took the place of."""

CONTENT: Final = {
    "configurations": ("identity", f"config_id != {configuration_identity()}"),
    "run_records": ("identity", f"run_id != {run_identity()}"),
    "raw_lines": ("hash", "line_sha256 != sha256(text)"),
}
"""By table, the condition of a row whose content is not what its id says."""

_BATCH_KEYS: Final = 500
_LEAST_ROWS: Final = 2048
"""Rows that the database keeps together: fewer are not worth a try of their own."""

Step = tuple[str | None, Callable[[], Iterator[dict[str, Any]]]]


def main(task: str, path: str, wait_s: str, after: str, folder: str) -> None:
    """Do the steps of a task behind the one numbered `after`, and print what each finds."""
    scratch = Path(gettempdir()) / f"perfdb-probe-{uuid4().hex[:8]}.tmp"
    connection = connect(scratch)
    try:
        _say(step=0, table=None)
        try:
            attach(connection, Path(path), True, float(wait_s))
            connection.execute("USE store")
            found = _steps(connection, task, Path(folder))
        except (StoreError, _error()) as error:
            _say(finding=_finding("unreadable", None, f"it cannot be opened: {_told(error)}"))
            found = []
        for number, (table, work) in enumerate(found, start=1):
            if number <= int(after):
                continue
            _say(step=number, table=table)
            for answer in work():
                _say(**answer)
        _say(done=True)
    finally:
        connection.close()
        shutil.rmtree(scratch, ignore_errors=True)


def _steps(connection: duckdb.DuckDBPyConnection, task: str, folder: Path) -> list[Step]:
    found = tables(connection, "store")
    if task == "salvage":
        steps = _schema(connection, found)
        first: Step = (None, lambda: iter([{"schema": steps}]))
        saving: list[Step] = [(name, _saving(connection, folder, name, found[name])) for name in found]
        return [first, *saving]
    rows = connection.execute(
        "SELECT table_name FROM duckdb_tables() WHERE database_name = 'store' AND table_name IN (SELECT unnest($1))",
        [list(SCHEMA_TABLES)],
    ).fetchall()
    every = [*(name for (name,) in rows), *found]
    reading: list[Step] = [(name, _reading(connection, name)) for name in every]
    more: list[Step] = [(table, _keys(connection, table, column)) for table, column in _indexed(connection)]
    if not set(UNIQUE) <= set(found):  # an older schema, or none at all
        return reading + more
    more += [(table, _content(connection, table)) for table in CONTENT]
    more += [("startup_records", lambda: _startups(connection)), ("run_records", lambda: _status(connection))]
    more += [(table, _duplicates(connection, table)) for table in UNIQUE]
    more += [(one[0], _reference(connection, *one)) for one in REFERENCES]
    more += [(table, _lineage(connection, table, column)) for table, column in LINEAGE]
    return reading + [(table, _readable(work)) for table, work in more]


def _reading(connection: duckdb.DuckDBPyConnection, table: str) -> Callable[[], Iterator[dict[str, Any]]]:
    def work() -> Iterator[dict[str, Any]]:
        try:
            connection.execute(f"SELECT bit_xor(hash(whole)) FROM {table} AS whole").fetchall()
        except _error() as error:
            good = _count(connection, table)
            known = f"{good} rows" if good is not None else "rows"
            yield {
                "finding": _finding(
                    "unreadable", table, f"its {known} cannot be read whole: {_told(error)}", good
                )
            }

    return work


def _readable(work: Callable[[], Iterator[dict[str, Any]]]) -> Callable[[], Iterator[dict[str, Any]]]:
    """Do a step that joins tables; one that cannot be read was found before."""

    def guarded() -> Iterator[dict[str, Any]]:
        try:
            yield from work()
        except _error() as error:
            if "Corrupt" not in str(error) and "Could not read" not in str(error):
                yield {"finding": _finding("unreadable", None, _told(error))}

    return guarded


def _indexed(connection: duckdb.DuckDBPyConnection) -> list[tuple[str, str]]:
    """Return the tables with an index over one column, and that column."""
    rows = connection.execute(
        "SELECT table_name, constraint_column_names[1] FROM duckdb_constraints() WHERE database_name = 'store' "
        "AND constraint_type IN ('PRIMARY KEY', 'UNIQUE') AND len(constraint_column_names) = 1 ORDER BY ALL"
    )
    return [(str(table), str(column)) for table, column in rows.fetchall()]


def _keys(
    connection: duckdb.DuckDBPyConnection, table: str, column: str
) -> Callable[[], Iterator[dict[str, Any]]]:
    """Find every key of a table by its index."""

    def work() -> Iterator[dict[str, Any]]:
        try:
            keys = [key for (key,) in connection.execute(f"SELECT {column} FROM {table}").fetchall()]
        except _error():
            return  # found when the table was read
        try:
            for start in range(0, len(keys), _BATCH_KEYS):
                batch = keys[start : start + _BATCH_KEYS]
                places = ", ".join(f"${number}" for number in range(1, len(batch) + 1))
                met = connection.execute(
                    f"SELECT count(*) FROM {table} WHERE {column} IN ({places})", batch
                ).fetchall()[0][0]
                if met != len(batch):
                    yield {"finding": _finding("unreadable", table, "its index does not find all its rows")}
                    return
        except _error() as error:
            yield {
                "finding": _finding(
                    "unreadable", table, f"its index is damaged, its rows are not: {_told(error)}"
                )
            }

    return work


def _content(connection: duckdb.DuckDBPyConnection, table: str) -> Callable[[], Iterator[dict[str, Any]]]:
    kind, condition = CONTENT[table]

    def work() -> Iterator[dict[str, Any]]:
        yield from _bad(
            connection,
            kind,
            table,
            f"FROM {table} WHERE {condition}",
            "have a content that is not what their id says",
        )

    return work


def _startups(connection: duckdb.DuckDBPyConnection) -> Iterator[dict[str, Any]]:
    rows = connection.execute("SELECT startup_id, content FROM startup_records").fetchall()
    bad = [startup_id for startup_id, content in rows if content_id(json.loads(content)) != startup_id]
    if bad:
        message = f"{len(bad)} rows have a content that is not what their id says, such as {bad[0]}"
        yield {"finding": _finding("identity", "startup_records", message, len(bad))}


def _status(connection: duckdb.DuckDBPyConnection) -> Iterator[dict[str, Any]]:
    yield from _bad(
        connection,
        "status",
        "run_records",
        "FROM run_records WHERE (status = 'complete') != (missing = []) OR status NOT IN ('complete', 'incomplete')",
        "have a status that is not what they lack",
    )


def _duplicates(connection: duckdb.DuckDBPyConnection, table: str) -> Callable[[], Iterator[dict[str, Any]]]:
    names = ", ".join(UNIQUE[table])

    def work() -> Iterator[dict[str, Any]]:
        query = f"FROM (SELECT {names} FROM {table} GROUP BY {names} HAVING count(*) > 1)"
        yield from _bad(connection, "duplicate", table, query, f"stand more than once by {names}")

    return work


def _reference(
    connection: duckdb.DuckDBPyConnection, table: str, column: str, other: str, key: str
) -> Callable[[], Iterator[dict[str, Any]]]:
    def work() -> Iterator[dict[str, Any]]:
        absent = f"NOT EXISTS (FROM {other} o WHERE o.{key} = one.{column})"
        query = f"FROM {table} one WHERE {column} IS NOT NULL AND {absent}"
        yield from _bad(connection, "reference", table, query, f"have a {column} that {other} lacks")

    return work


def _lineage(
    connection: duckdb.DuckDBPyConnection, table: str, column: str
) -> Callable[[], Iterator[dict[str, Any]]]:
    def work() -> Iterator[dict[str, Any]]:
        known = "SELECT run_id FROM run_records UNION ALL SELECT run_id FROM superseded_runs"
        query = f"FROM {table} WHERE {column} NOT IN ({known})"
        yield from _bad(connection, "reference", table, query, f"have a {column} that is no run")

    return work


def _bad(
    connection: duckdb.DuckDBPyConnection, kind: str, table: str, query: str, what: str
) -> Iterator[dict[str, Any]]:
    count = connection.execute(f"SELECT count(*) {query}").fetchall()[0][0]
    if count:
        first = connection.execute(f"SELECT * {query} LIMIT 1").fetchall()[0][0]
        message = f"{count} rows {what}, such as that of {str(first)[:80]}"
        yield {"finding": _finding(kind, table, message, count)}


def _schema(connection: duckdb.DuckDBPyConnection, found: dict[str, dict[str, str]]) -> list[str]:
    """Return the schema steps of the store; by its tables, where the list of them cannot be read."""
    try:
        return schema(connection, "store")
    except _error():
        with workspace() as fresh:
            if tables(fresh, "side") != found:
                raise
        return list(migrations.steps())


def _saving(
    connection: duckdb.DuckDBPyConnection, folder: Path, table: str, columns: dict[str, str]
) -> Callable[[], Iterator[dict[str, Any]]]:
    def work() -> Iterator[dict[str, Any]]:
        rows = _count(connection, table)
        if rows is None:
            yield {"finding": _finding("unreadable", table, "not even its rows can be counted")}
            return
        connection.execute(f"CREATE OR REPLACE TEMP TABLE saved AS FROM {table} LIMIT 0")
        saved = _save(connection, table, 0, rows)
        write_table(connection, folder, "parquet", table, columns, "SELECT * FROM temp.saved")
        facts = summed(connection, "SELECT * FROM temp.saved")
        yield {"saved": table, "facts": facts, "lost": rows - saved}

    return work


def _save(connection: duckdb.DuckDBPyConnection, table: str, start: int, stop: int) -> int:
    """Copy the rows of a range that can be read, by halves where all of them cannot; return their number."""
    try:
        return int(
            connection.execute(
                f"INSERT INTO temp.saved SELECT * FROM {table} WHERE rowid >= {start} AND rowid < {stop}"
            ).fetchall()[0][0]
        )
    except _error():
        if stop - start <= _LEAST_ROWS:
            return 0
    middle = (start + stop) // 2 // _LEAST_ROWS * _LEAST_ROWS
    middle = middle if start < middle < stop else start + _LEAST_ROWS
    return _save(connection, table, start, middle) + _save(connection, table, middle, stop)


def _count(connection: duckdb.DuckDBPyConnection, table: str) -> int | None:
    """Return the number of rows by the table's own account, None where that cannot be read."""
    try:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0])
    except _error():
        return None


def _error() -> type[Exception]:
    import duckdb

    return cast(type[Exception], duckdb.Error)


def _finding(kind: str, table: str | None, message: str, rows: int | None = None) -> dict[str, Any]:
    return {"kind": kind, "table": table, "message": message, "rows": rows}


def _told(error: Exception) -> str:
    return str(error).splitlines()[0].split("; `aicalib", 1)[0]


def _say(**answer: Any) -> None:
    print(json.dumps(answer), flush=True)
