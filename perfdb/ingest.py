"""One file into the store: what is new, what is known, what contradicts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from perfdb import startups
from perfdb.errors import ContextRefused, UnknownFormat
from perfdb.keys import KEYS, PROVENANCE, SQL_TYPES
from perfdb.readers import aiconfigurator_kernels, checked, format_of, startup
from perfdb.readers.lines import numbered
from perfdb.record import Record, Rejection, Run, same

if TYPE_CHECKING:
    import duckdb

BATCH_LINES = 1000
ORIGIN = "ingest"
"""Origin of the flags that say what was changed while a line was read."""

_Item = TypeVar("_Item")

_RUN_COLUMNS = {
    "run_id": "VARCHAR",
    "status": "VARCHAR",
    "missing": "VARCHAR[]",
    "content": "JSON",
    "extra": "JSON",
} | {name: SQL_TYPES[kind] for name, kind in KEYS.items()}
_SOURCE_COLUMNS = {
    "run_id": "VARCHAR",
    "file_sha256": "VARCHAR",
    "line": "BIGINT",
    "line_sha256": "VARCHAR",
    "context": "JSON",
} | dict.fromkeys(PROVENANCE, "VARCHAR")
_LINE_COLUMNS = {"file_sha256": "VARCHAR", "line": "BIGINT", "text": "VARCHAR"}
FLAG_COLUMNS = {"run_id": "VARCHAR", "flag": "VARCHAR", "reason": "VARCHAR", "origin": "VARCHAR"}


@dataclass
class IngestReport:
    """What became of a file.

    Parameters
    ----------
    kept : int
        Lines that became a run, or that completed one already stored.
    known : int
        Lines whose run was stored before.
    incomplete : int
        Those of `kept` that lack a key, and are kept as incomplete.
    rejected : list of Rejection
        Lines that were not taken, with the reason.
    missing : dict
        Keys that incomplete runs lack, with their number.
    """

    kept: int = 0
    known: int = 0
    incomplete: int = 0
    rejected: list[Rejection] = field(default_factory=list)
    missing: dict[str, int] = field(default_factory=dict)


def ingest(
    connection: duckdb.DuckDBPyConnection,
    path: Path,
    context: Mapping[str, Any] | None,
    progress: Callable[[int], object] | None,
) -> IngestReport:
    """Ingest a file inside the transaction that the caller has opened."""
    if aiconfigurator_kernels.is_parquet(path):
        return _ingest_kernels(connection, path, context, progress)
    form = format_of(path)
    digest = _sha256_of(path)
    new_file = not connection.execute("SELECT 1 FROM files WHERE sha256 = $1", [digest]).fetchone()
    report = IngestReport()
    seen = 0
    records = form.read(numbered(path), path)
    if form.NAME == startup.NAME:
        starts = list(startups.checked(records, path, context))
        report.rejected += [each for each in starts if isinstance(each, Rejection)]
        good = [each for each in starts if not isinstance(each, Rejection)]
        report.kept, report.known = startups.put(connection, good, digest, new_file)
        seen, records = len(starts), iter(())
    for batch in _batches(checked(records, path, context), BATCH_LINES):
        _Batch(connection, digest, context or {}, report, new_file).take(batch)
        seen += len(batch)
        if progress:
            progress(seen)
    if new_file:
        _remember(connection, digest, path, form.NAME, seen)
    return report


def _ingest_kernels(
    connection: duckdb.DuckDBPyConnection,
    path: Path,
    context: Mapping[str, Any] | None,
    progress: Callable[[int], object] | None,
) -> IngestReport:
    """Ingest a Parquet table of kernel timings, known as a whole by the hash of its file."""
    reader = aiconfigurator_kernels
    if not reader.matches(connection, path):
        raise UnknownFormat(
            f"{path} is Parquet but no table of kernel timings: it lacks one of {', '.join(reader.IDENTITY)}"
        )
    if context:
        raise ContextRefused(
            f"{path} holds kernel timings, which say their own accelerator and engine: "
            f"leave out {', '.join(context)}"
        )
    digest = _sha256_of(path)
    stored = connection.execute("SELECT lines FROM files WHERE sha256 = $1", [digest]).fetchone()
    if stored:
        return IngestReport(known=int(stored[0]))
    rows = reader.load(connection, path, digest)
    _remember(connection, digest, path, reader.NAME, rows)
    if progress:
        progress(rows)
    return IngestReport(kept=rows)


def _remember(connection: duckdb.DuckDBPyConnection, digest: str, path: Path, form: str, lines: int) -> None:
    connection.execute(
        "INSERT INTO files VALUES ($1, $2, $3, $4, $5)",
        [digest, path.name, form, datetime.now(UTC).replace(tzinfo=None), lines],
    )


def insert(
    connection: duckdb.DuckDBPyConnection, table: str, columns: Mapping[str, str], rows: list[dict[str, Any]]
) -> None:
    """Insert many rows at once: they cross into the database as one JSON text.

    Values of JSON columns are JSON texts already.
    """
    if not rows:
        return
    shape = json.dumps([{name: "VARCHAR" if kind == "JSON" else kind for name, kind in columns.items()}])
    connection.execute(
        f"INSERT INTO {table} BY NAME SELECT unnest(from_json($1::JSON, '{shape}'), recursive := true)",
        [json.dumps(rows)],
    )


class _Batch:
    """Some lines of one file, weighed against the store and then written together."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        digest: str,
        context: Mapping[str, Any],
        report: IngestReport,
        new_file: bool,
    ) -> None:
        self.connection = connection
        self.digest = digest
        self.context = context
        self.report = report
        self.new_file = new_file
        self.lines: list[dict[str, Any]] = []
        self.runs: dict[str, Run] = {}
        self.sources: list[dict[str, Any]] = []
        self.flags: list[dict[str, Any]] = []
        self.superseded: list[tuple[str, str, str]] = []

    def take(self, found: list[tuple[Record, Run] | Rejection]) -> None:
        """Decide on every line, then write."""
        pairs = [pair for pair in found if not isinstance(pair, Rejection)]
        self.report.rejected.extend(item for item in found if isinstance(item, Rejection))
        digests = [hashlib.sha256(record.text.encode()).hexdigest() for record, _ in pairs]
        self.prior = self._runs_of_lines(digests)
        self.stored = self._stored({run.run_id for _, run in pairs})
        self.placed = self._placed()
        for (record, run), digest in zip(pairs, digests, strict=True):
            if self.new_file:
                self.lines.append({"file_sha256": self.digest, "line": record.line, "text": record.text})
            self._weigh(record, run, digest)
        self._write()

    def _weigh(self, record: Record, run: Run, digest: str) -> None:
        """Tell new from known, completed and contradicting.

        One raw line stands for one run, so that context given later can complete it but not contradict it.
        """
        prior = self.prior.get(digest)
        if prior is None:
            self._add(record, run, digest)
            return
        old_id, old = prior
        if old_id == run.run_id or _holds(old, run.content):
            self.report.known += 1
            self._source(record, run, digest, old_id)
        elif _holds(run.content, old):
            self.superseded.append((digest, old_id, run.run_id))
            if (old_id, record.line) in self.placed:
                self.placed.add((run.run_id, record.line))
            self._add(record, run, digest)
        else:
            self.report.rejected.append(Rejection(record.line, _contradiction(old, run.content)))

    def _add(self, record: Record, run: Run, digest: str) -> None:
        if run.run_id in self.stored:
            self.report.known += 1
        else:
            self.report.kept += 1
            self.stored.add(run.run_id)
            self.runs[run.run_id] = run
            self.report.incomplete += run.status == "incomplete"
            for name in run.missing:
                self.report.missing[name] = self.report.missing.get(name, 0) + 1
            self.flags += [
                {"run_id": run.run_id, "flag": remark.flag, "reason": remark.reason, "origin": ORIGIN}
                for remark in run.remarks
            ]
        self._source(record, run, digest, run.run_id)
        self.prior[digest] = (run.run_id, run.content)

    def _source(self, record: Record, run: Run, digest: str, run_id: str) -> None:
        if (run_id, record.line) in self.placed:
            return
        self.placed.add((run_id, record.line))
        place = {
            "run_id": run_id,
            "file_sha256": self.digest,
            "line": record.line,
            "line_sha256": digest,
            "context": json.dumps(dict(self.context)) if self.context else None,
        }
        self.sources.append(place | {name: run.provenance.get(name) for name in PROVENANCE})

    def _write(self) -> None:
        insert(self.connection, "raw_lines", _LINE_COLUMNS, self.lines)
        insert(self.connection, "run_records", _RUN_COLUMNS, [_row(run) for run in self.runs.values()])
        insert(self.connection, "run_sources", _SOURCE_COLUMNS, self.sources)
        insert(self.connection, "flags", FLAG_COLUMNS, self.flags)
        self._replace()

    def _replace(self) -> None:
        """Let the completed runs take the place of those they complete, flags included."""
        context = json.dumps(dict(self.context))
        for digest, old_id, new_id in self.superseded:
            self.connection.execute(
                "UPDATE run_sources SET run_id = $1, context = $2 WHERE line_sha256 = $3 AND run_id = $4",
                [new_id, context, digest, old_id],
            )
            sources = self.connection.execute("SELECT 1 FROM run_sources WHERE run_id = $1", [old_id])
            if not sources.fetchone():
                self.connection.execute("UPDATE flags SET run_id = $1 WHERE run_id = $2", [new_id, old_id])
                self.connection.execute("DELETE FROM run_records WHERE run_id = $1", [old_id])

    def _runs_of_lines(self, digests: list[str]) -> dict[str, tuple[str, dict[str, Any]]]:
        """Return the stored run of each raw line that was ingested before."""
        rows = self.connection.execute(
            "SELECT DISTINCT s.line_sha256, r.run_id, r.content FROM run_sources s "
            "JOIN run_records r USING (run_id) WHERE s.line_sha256 IN (SELECT unnest($1::VARCHAR[]))",
            [digests],
        ).fetchall()
        return {digest: (run_id, json.loads(content)) for digest, run_id, content in rows}

    def _stored(self, ids: set[str]) -> set[str]:
        rows = self.connection.execute(
            "SELECT run_id FROM run_records WHERE run_id IN (SELECT unnest($1::VARCHAR[]))", [list(ids)]
        ).fetchall()
        return {run_id for (run_id,) in rows}

    def _placed(self) -> set[tuple[str, int]]:
        """Return which runs this very file is a source of, by line."""
        rows = self.connection.execute(
            "SELECT run_id, line FROM run_sources WHERE file_sha256 = $1", [self.digest]
        ).fetchall()
        return {(run_id, line) for run_id, line in rows}


def _row(run: Run) -> dict[str, Any]:
    """Lay a run out in the columns of its table."""
    row: dict[str, Any] = {
        name: json.dumps(run.content[name])
        if kind == "json" and name in run.content
        else run.content.get(name)
        for name, kind in KEYS.items()
    }
    return row | {
        "run_id": run.run_id,
        "status": run.status,
        "missing": list(run.missing),
        "content": json.dumps(run.content, sort_keys=True),
        "extra": json.dumps(run.extra, sort_keys=True) if run.extra else None,
    }


def _holds(larger: Mapping[str, Any], smaller: Mapping[str, Any]) -> bool:
    """Tell whether every key of the smaller stands in the larger with the same meaning."""
    return all(name in larger and same(name, larger[name], value) for name, value in smaller.items())


def _contradiction(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    differing = [name for name in new if name in old and not same(name, old[name], new[name])]
    if not differing:
        lost = ", ".join(name for name in old if name not in new)
        return f"this line is stored with {lost}, and now comes without but with other keys"
    told = "; ".join(
        f"{name} is stored as {old[name]!r} and now said to be {new[name]!r}" for name in differing
    )
    return f"this line was ingested before: {told}"


def _batches(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
