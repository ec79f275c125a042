"""A file into a side store: its records found, and laid out in the tables of a store a batch at a time."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from perfdb import startups
from perfdb.canonical import FOUND
from perfdb.encoding import encoded, finite, utf8
from perfdb.layout import lay_out, put_steps, remember
from perfdb.readers import format_of, runs
from perfdb.readers.framing import SPACE, Piece
from perfdb.readers.redact import SUSPICIOUS
from perfdb.readers.source import Source, read_object
from perfdb.record import Alike, BadRecord, Record, Rejection

if TYPE_CHECKING:
    import duckdb

    from perfdb.sidecar import Sidecar

BATCH_BYTES: Final = 32 * 2**20
BATCH_ROWS: Final = 20_000
CAREFUL_ROWS: Final = 2048
BLOCK_LINES: Final = 100_000
"""Lines that are judged at once where DuckDB reads them, so that memory does not grow with the file."""
CHUNK_BYTES: Final = 8 * 2**20
LONGEST_PLAIN_BYTES: Final = 8 * 2**20
"""Lines up to which DuckDB reads a file itself."""
LARGEST_VALUE: Final = 2**20
"""Characters of JSON up to which a value that no column has is kept beside the raw line."""

Progress = Callable[[int], object]


def stage(
    connection: duckdb.DuckDBPyConnection,
    path: Path,
    context: Mapping[str, Any] | None = None,
    sidecar: Sidecar | None = None,
    progress: Progress | None = None,
    alike: Alike | None = None,
) -> str:
    """Read a file into the side store that is the current schema; return the name of its format.

    Parameters
    ----------
    connection : DuckDBPyConnection
        Of a workspace.
    path : Path
        A file of any known format but kernel timings.
    context : mapping, optional
        Keys that hold for every record of the file. They fill what is missing.
    sidecar : Sidecar, optional
        Keys that a file beside it states, for all records or for some; `context` comes before them.
    progress : callable, optional
        Called with the number of lines done so far, while the table `judged` holds those of the last block.
    alike : callable, optional
        Tells of a key, the file's text and the context's whether they are spellings of one name.

    Raises
    ------
    UnknownFormat
        If no reader knows the file.
    """
    source = Source(path)
    form = format_of(source)
    look = survey(path)
    metadata: dict[str, Any] = {} if sidecar is None else {"sidecar": sidecar.path.name}
    given = (connection, look.sha256, path, context or {}, sidecar, progress, alike)
    if form.NAME == runs.NAME and look.plain and sidecar is None:
        _take_lines(connection, path, look, _Finder(*given, table="careful_records"))
    else:
        finder = _Finder(*given)
        reading = form.read(source)
        finder.take(reading.records)
        put_steps(connection, look.sha256, reading.steps, finder.starts)
        metadata |= reading.metadata
    lines = connection.execute(
        "SELECT (SELECT count(*) FROM run_sources) + (SELECT count(*) FROM startup_sources) "
        "+ (SELECT count(*) FROM rejected_lines)"
    ).fetchall()[0][0]
    remember(connection, look.sha256, path, form.NAME, lines, metadata)
    return form.NAME


def identify(connection: duckdb.DuckDBPyConnection, records: Iterable[Mapping[str, Any]]) -> list[str | None]:
    """Return the run id of each record in the runs format, None for one that is no run."""
    finder = _Finder(connection, "", Path("records"), {}, None)
    given = list(records)
    finder.take(Record(number, "", {**_spread(record), **record}) for number, record in enumerate(given))
    ids = connection.execute("SELECT line, run_id FROM run_sources").fetchall()
    known: dict[int, str] = dict(ids)
    return [known.get(number) for number in range(len(given))]


@dataclass(frozen=True)
class Look:
    """What one pass over the bytes of a file tells: `plain` if DuckDB may split it into lines itself."""

    sha256: str
    lines: int
    plain: bool


def survey(path: Path) -> Look:
    """Hash a file and see whether its lines are plain: UTF-8, none blank, none huge, ended by line feeds."""
    digest, decoder = hashlib.sha256(), codecs.getincrementaldecoder("utf-8")()
    plain = not set("*?[") & set(str(path))  # DuckDB would take such a name for a pattern
    lines, tail = 0, b""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            if not plain:
                continue
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError:
                plain = False
            parts = (tail + chunk).split(b"\n")
            tail = parts.pop()
            lines += len(parts)
            longest = max(map(len, [*parts, tail]))
            odd = b"\0" in chunk or b"\r" in chunk or chunk.startswith(codecs.BOM_UTF8)
            plain = plain and not odd and b"" not in parts and longest <= LONGEST_PLAIN_BYTES
    return Look(digest.hexdigest(), lines + bool(tail), plain)


def _take_lines(connection: duckdb.DuckDBPyConnection, path: Path, look: Look, finder: _Finder) -> None:
    """Let DuckDB split a file of runs into lines; only those that need care pass through Python."""
    run = connection.execute
    run(
        """
        CREATE TEMP TABLE lines AS
        FROM read_csv($1, delim = '\0', quote = '', escape = '', header = false, auto_detect = false,
            columns = {'text': 'VARCHAR'}, strict_mode = false, compression = 'none', max_line_size = $2)
        """,
        [str(path), LONGEST_PLAIN_BYTES + 1],
    )
    run(
        """
        CREATE TEMP TABLE careful AS
        SELECT rowid + 1 AS line, text FROM lines
        WHERE NOT (starts_with(text, '{') AND ends_with(text, '}') AND json_valid(text))
            OR strlen(text) > $2 OR regexp_matches(text, $1, 'i')
        """,
        [SUSPICIOUS, LARGEST_VALUE],
    )
    given = encoded(finder.context) if finder.context else None
    run("CREATE TEMP TABLE given AS SELECT CAST($1 AS JSON) AS context", [given])
    for start in range(0, look.lines, BLOCK_LINES):
        end = min(start + BLOCK_LINES, look.lines)
        for _ in finder.collect(_careful(connection, start, end)):
            pass
        run(
            f"""
            CREATE OR REPLACE TEMP VIEW found AS
            SELECT rowid + 1 AS line, text, TRY_CAST(text AS JSON) AS data, (SELECT context FROM given) AS context,
                CAST(NULL AS JSON) AS inferred, CAST(NULL AS JSON) AS stated
            FROM lines WHERE rowid >= {start} AND rowid < {end} AND rowid + 1 NOT IN (SELECT line FROM careful)
            UNION ALL FROM {finder.table}
            """
        )
        lay_out(connection, look.sha256, path.name, finder.alike)
        run(f"TRUNCATE {finder.table}")
        if finder.progress:
            finder.progress(end)


def _careful(connection: duckdb.DuckDBPyConnection, after: int, last: int) -> Iterator[Record | Rejection]:
    """Read the lines that need care, of those behind `after` and up to `last`, piece by piece."""
    query = f"FROM careful WHERE line > $1 AND line <= $2 ORDER BY line LIMIT {CAREFUL_ROWS}"
    while rows := connection.execute(query, [after, last]).fetchall():
        yield from _records(rows)
        after = rows[-1][0]


def _records(rows: Iterable[tuple[int, str]]) -> Iterable[Record | Rejection]:
    for number, text in rows:
        if raw := text.encode().strip(SPACE):
            found = read_object(Piece(number, raw, len(raw)))
            yield found if isinstance(found, Rejection) else Record(number, found.text, found.data)


class _Finder:
    """Records on their way into a table of columns `FOUND`, start-ups into theirs, refusals into theirs."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        sha256: str,
        path: Path,
        context: Mapping[str, Any],
        sidecar: Sidecar | None,
        progress: Progress | None = None,
        alike: Alike | None = None,
        table: str = "found",
    ) -> None:
        self.connection = connection
        self.sha256 = sha256
        self.path = path
        self.context = {name: value for name, value in context.items() if value is not None}
        self.sidecar = sidecar
        self.progress = progress
        self.alike = alike
        self.starts: list[str] = []
        self.done = 0
        self.table = table
        columns = ", ".join(f"{name} {kind}" for name, kind in FOUND.items())
        connection.execute(f"CREATE TEMP TABLE {table} ({columns})")

    def take(self, records: Iterable[Record | Rejection]) -> None:
        """Take records in and lay them out, in batches of a bounded size."""
        for _ in self.collect(records):
            lay_out(self.connection, self.sha256, self.path.name, self.alike)
            self.connection.execute(f"TRUNCATE {self.table}")
            if self.progress:
                self.progress(self.done)

    def collect(self, records: Iterable[Record | Rejection]) -> Iterator[None]:
        """Put records into the table, a batch of a bounded size before each step."""
        rows: list[tuple[Any, ...]] = []
        refused: list[Rejection] = []
        size = 0
        for record in records:
            try:
                if isinstance(record, Rejection):
                    refused.append(record)
                elif record.table == "startups":
                    self._start(record)
                else:
                    rows.append(self._row(record))
                    size += len(record.text)
            except BadRecord as error:
                refused.append(Rejection(record.line, str(error)))
            self.done += 1
            if len(rows) + len(refused) >= BATCH_ROWS or size >= BATCH_BYTES:
                self._write(rows, refused)
                yield
                rows, refused, size = [], [], 0
        self._write(rows, refused)
        yield

    def _row(self, record: Record) -> tuple[Any, ...]:
        data = _spread(record.data)
        if len(record.text) > LARGEST_VALUE:
            data = {name: value for name, value in data.items() if not _large(value)}
        return (
            record.line,
            utf8(record.text),
            encoded({name: value for name, value in data.items() if value is not None}),
            encoded(self._context(record)) if self.context or self.sidecar else None,
            encoded(self._inferred(record)),
            encoded(record.stated) if record.stated else None,
        )

    def _context(self, record: Record) -> dict[str, Any]:
        beside = {} if self.sidecar is None else self.sidecar.context(record.line, record.data)
        return {**beside, **self.context}

    def _inferred(self, record: Record) -> dict[str, Any]:
        beside = {} if self.sidecar is None else self.sidecar.suggested(record.line, record.data)
        return {**record.inferred, **{name: value for name, value in beside.items() if value is not None}}

    def _start(self, record: Record) -> None:
        named = {"source": self.path.name, "src_ref": f"{self.path.name}#L{record.line}"}
        found = startups.check(
            Record(record.line, record.text, finite(record.data), named | self._inferred(record)),
            self._context(record),
            self.alike,
        )
        self.starts.append(found.startup_id)
        startups.put(self.connection, record, found, self.sha256, utf8(record.text))

    def _write(self, rows: list[tuple[Any, ...]], refused: list[Rejection]) -> None:
        import pandas as pd

        if rows:
            batch = pd.DataFrame(rows, columns=list(FOUND))  # noqa: F841 (read by the query)
            self.connection.execute(f"INSERT INTO {self.table} SELECT * FROM batch")
        if refused:
            self.connection.executemany(
                "INSERT INTO rejected_lines VALUES ($1, $2, $3)",
                [(self.sha256, each.line, utf8(each.reason)) for each in refused],
            )


def _large(value: Any) -> bool:
    """Tell whether a value is too large for a column: it stays in the raw line."""
    return isinstance(value, (str, list, dict)) and len(encoded(value)) > LARGEST_VALUE


def _spread(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with the keys of its `extra`, as the view `runs` has them, beside its others."""
    extra = record.get("extra")
    return {**extra, **record} if isinstance(extra, Mapping) else dict(record)
