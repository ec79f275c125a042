"""Rebuild the default profile: `python -m aicalib.calibrate.ship MEASUREMENTS_FOLDER PROFILE_FILE`."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aicalib.calibrate.build import Calibration, calibrate
from aicalib.calibrate.limits import refresh_flags
from aicalib.calibrate.records import stored_runs
from perfdb import Store


def shipped_runs(folder: Path) -> list[dict[str, Any]]:
    """Return the complete runs of a measurements folder (`runs.jsonl`, `flags.jsonl`) with all quality flags."""
    with TemporaryDirectory() as scratch, Store(Path(scratch) / "ship.duckdb") as store:
        store.ingest(folder / "runs.jsonl")
        refresh_flags(store)
        store.apply_flags_file(folder / "flags.jsonl")
        return stored_runs(store)


def ship(folder: Path, name: str = "default") -> Calibration:
    """Fit a profile to the runs and quality flags of a measurements folder.

    Parameters
    ----------
    folder : Path
        Holds `runs.jsonl` and `flags.jsonl`.
    name : str
        Of the profile.
    """
    return calibrate(shipped_runs(folder), name)


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(ship(Path(sys.argv[1])).profile.to_json())
