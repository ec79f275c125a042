"""Runs that are faster than the datasheet allows: the quality rule that needs physics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from aicalib.calibrate.records import fastest_runs, runs_of
from aicalib.calibrate.runs import as_runs
from aicalib.physics.weights import least_read_bytes
from aicalib.resolve.features import FITTED_ACCEPTANCE
from perfdb import Store

FLAG = "faster_than_datasheet"
ORIGIN = "physics"

MARGIN = 1.05
"""Factor on the bandwidth before a run is doubted: memory clocks and datasheets are rounded."""


def faster_than_datasheet(records: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Find runs whose decode steps are shorter than reading the active weights once.

    Parameters
    ----------
    records : iterable of mapping
        Runs in the runs format with `run_id`. Those that cannot be asked as questions, and those whose weight format
        is not recorded, are passed over.

    Returns
    -------
    list of dict
        `run_id`, `flag`, `reason`, as `perfdb.Store.flag` takes them.

    Notes
    -----
    A step reads the weights of at least one token (`least_read_bytes`) at the bandwidth of the datasheet, and yields a
    request one token, or with speculation the recorded acceptance length. The KV cache and all else come on top.
    """
    runs = as_runs(record for record in records if record.get("weight_quant"))
    batch = runs.batch
    if not batch.rows.size:
        return []
    read_bytes = least_read_bytes(batch.system)[batch.at]
    bandwidth = batch.system.bandwidth_bytes_s[batch.at]
    drafting = batch.features.drafting
    # Where the acceptance length is not recorded, all that is drafted may have been accepted.
    accepted = np.ones(read_bytes.size)
    if drafting is not None:
        unknown = drafting.accepted == FITTED_ACCEPTANCE
        accepted = np.where(unknown, drafting.drafted + 1.0, drafting.accepted)
    least_ms = 1e3 * read_bytes / bandwidth / accepted
    tpot_ms = runs.measured["tpot_ms"]
    found = []
    for at in np.flatnonzero(tpot_ms * MARGIN < least_ms).tolist():
        gpu = batch.identities[batch.codes[at]].accelerator.name
        found.append(
            {
                "run_id": runs.answered[at]["run_id"],
                "flag": FLAG,
                "reason": f"TPOT of {tpot_ms[at]:.4g} ms; to read {read_bytes[at] / 1e9:.4g} GB of weights a GPU "
                f"at the {bandwidth[at] / 1e12:.4g} TB/s of {gpu} takes {least_ms[at]:.4g} ms a token",
            }
        )
    return found


def refresh_flags(store: Store) -> dict[str, int]:
    """Compute the flags of every quality rule of a store anew, those that need physics among them.

    Only the fastest run of each configuration is asked first: where it is possible, all others are.

    Returns
    -------
    dict of str to int
        Number of runs under each flag of the rules.
    """
    counts = store.refresh_flags()
    fastest = fastest_runs(store)
    impossible = {each["run_id"] for each in faster_than_datasheet(fastest)}
    suspects = {record["config_id"] for record in fastest if record["run_id"] in impossible}
    found = faster_than_datasheet(runs_of(store, suspects))
    store.flag(found, origin=ORIGIN)
    return counts | ({FLAG: len(found)} if found else {})


def flags_of_files(
    files: Iterable[Path],
    context: Mapping[str, Any] | None = None,
    alike: Callable[[str, str, str], bool] | None = None,
    by_hand: Path | None = None,
) -> dict[str, list[str]]:
    """Return the quality flags of the runs of files, by `run_id`, as a store of these files alone finds them.

    Parameters
    ----------
    files, context, alike
        As `aicalib.calibrate.records.read_runs` takes them.
    by_hand : Path, optional
        Flags that no rule finds, as `perfdb.Store.apply_flags_file` takes them.
    """
    with TemporaryDirectory() as scratch, Store(Path(scratch) / "flags.duckdb") as store:
        for file in files:
            store.ingest(file, context, alike=alike)
        refresh_flags(store)
        if by_hand is not None:
            store.apply_flags_file(by_hand)
        return {each["run_id"]: each["flags"] for each in store.query("SELECT run_id, flags FROM runs")}
