"""The one module through which aicalib reads measured runs: from the store, or straight from files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from perfdb import Store, read_records, run_ids


def stored_runs(store: Store) -> list[dict[str, Any]]:
    """Return the complete runs of a store, in the runs format with `run_id` and `flags`, ordered by id."""
    return store.query("SELECT * FROM runs WHERE status = 'complete' ORDER BY run_id")


def with_run_ids(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return runs with the hash of their content as `run_id`; one that is no valid run has None."""
    known = list(records)
    lacking = [record for record in known if "run_id" not in record]
    found = iter(run_ids(lacking))
    return [record if "run_id" in record else {**record, "run_id": next(found)} for record in known]


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
