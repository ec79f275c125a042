"""The one module through which aicalib reads measured runs: from the store, or straight from files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from perfdb import Store
from perfdb.readers import read_records


def stored_runs(store: Store) -> list[dict[str, Any]]:
    """Return the complete runs of a store, in the runs format with `run_id` and `flags`, ordered by id."""
    return store.query("SELECT * FROM runs WHERE status = 'complete' ORDER BY run_id")


def read_runs(files: Iterable[Path]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the runs of files of any known format, and the lines that are none with their reasons."""
    records: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"no file '{file}'")
        found = read_records(file)
        records += found.records
        rejected += [{"file": str(file), "line": each.line, "reason": each.reason} for each in found.rejected]
    return records, rejected
