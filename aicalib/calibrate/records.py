"""The one module through which aicalib reads measured runs: from the store, or straight from files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from perfdb import Store
from perfdb.readers import read_records
from perfdb.record import BadRecord, Record, check


def stored_runs(store: Store) -> list[dict[str, Any]]:
    """Return the complete runs of a store, in the runs format with `run_id` and `flags`, ordered by id."""
    return store.query("SELECT * FROM runs WHERE status = 'complete' ORDER BY run_id")


def with_run_ids(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return runs with the hash of their content as `run_id`; one that is no valid run has None."""
    found: list[Mapping[str, Any]] = []
    for record in records:
        if "run_id" in record:
            found.append(record)
            continue
        try:
            run_id = check(Record(line=0, text="", data=record)).run_id
        except BadRecord:
            run_id = None
        found.append({**record, "run_id": run_id})
    return found


def read_runs(
    files: Iterable[tuple[Path, Mapping[str, Any]]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the runs of files of any known format, and the lines that are none with their reasons.

    Parameters
    ----------
    files : iterable of (Path, mapping)
        Each with the keys that it lacks.
    """
    records: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    for file, context in files:
        found = read_records(file, context)
        records += found.records
        rejected += [{"file": str(file), "line": each.line, "reason": each.reason} for each in found.rejected]
    return records, rejected
