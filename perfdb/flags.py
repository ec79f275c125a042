"""Flags on runs that a person or a file sets, beside those of the quality rules.

A flags file has JSON lines, each with `source`, `src_ref`, `flag`, `reason` and, where several runs share the
reference, `match`: keys and values that the run must have.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfdb.errors import FlagsFileError

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class FlagsApplied:
    """What became of a flags file: flags set, and the lines that met no stored run."""

    applied: int
    unmatched: list[int]


def read_entries(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read a flags file as line numbers and objects; blank lines are passed over.

    Raises
    ------
    FlagsFileError
        If a line is not an object that names a run and a flag; the message has its number.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise FlagsFileError(f"{path} is not text: {error}") from error
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            entry = json.loads(text)
        except json.JSONDecodeError as error:
            raise FlagsFileError(f"{path} line {number} is not JSON: {error}") from error
        if not isinstance(entry, dict):
            raise FlagsFileError(f"{path} line {number} is not a JSON object")
        absent = {"source", "src_ref", "flag", "reason"} - entry.keys()
        if absent:
            raise FlagsFileError(f"{path} line {number} lacks {', '.join(sorted(absent))}")
        yield number, entry


def replace(
    connection: duckdb.DuckDBPyConnection, file_name: str, entries: list[tuple[int, dict[str, Any]]]
) -> FlagsApplied:
    """Set the flags of a file's entries in place of those that a file of that name set before."""
    origin = f"file:{file_name}"
    rows: list[dict[str, str]] = []
    unmatched: list[int] = []
    runs = _runs_by_reference(connection, entries)
    for number, entry in entries:
        wanted = entry.get("match", {}).items()
        found = {
            run["run_id"]
            for run in runs.get((entry["source"], entry["src_ref"]), [])
            if all(run.get(name) == value for name, value in wanted)
        }
        if not found:
            unmatched.append(number)
        rows += [
            {"run_id": run_id, "flag": entry["flag"], "reason": entry["reason"], "origin": origin}
            for run_id in sorted(found)
        ]
    connection.execute("DELETE FROM flags WHERE origin = $1", [origin])
    return FlagsApplied(add(connection, rows), unmatched)


def _runs_by_reference(
    connection: duckdb.DuckDBPyConnection, entries: list[tuple[int, dict[str, Any]]]
) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return the stored runs of each source and reference that the entries name."""
    rows = connection.execute(
        """
        SELECT s.source, s.src_ref, to_json(r) FROM run_sources s JOIN runs r USING (run_id)
        WHERE (s.source, s.src_ref) IN (SELECT (unnest($1::VARCHAR[]), unnest($2::VARCHAR[])))
        """,
        [[entry["source"] for _, entry in entries], [entry["src_ref"] for _, entry in entries]],
    )
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for source, reference, run in rows.fetchall():
        found.setdefault((source, reference), []).append(json.loads(run))
    return found


def add(connection: duckdb.DuckDBPyConnection, rows: list[dict[str, str]]) -> int:
    """Insert flags on stored runs, each (run, flag, origin) once; return how many are new."""
    import pandas as pd

    if not rows:
        return 0
    wanted = pd.DataFrame(rows, columns=["run_id", "flag", "reason", "origin"])  # noqa: F841 (read by the query)
    fresh = connection.execute(
        """
        INSERT INTO flags
        SELECT DISTINCT ON (run_id, flag, origin) * FROM wanted
        WHERE run_id IN (SELECT run_id FROM run_records)
            AND (run_id, flag, origin) NOT IN (SELECT (run_id, flag, origin) FROM flags)
        """
    )
    return int(fresh.fetchall()[0][0])
