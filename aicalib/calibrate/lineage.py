"""What a profile says of the runs behind it: their columns, their scope, and its version."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aicalib.calibrate.levels import curve_keys
from aicalib.calibrate.runs import Runs
from aicalib.nearness import LEVELED, formats_of
from aicalib.prediction import evidence_keys
from aicalib.profiles.profile import Profile

Array = NDArray[np.float64]

RESIDUAL = "log_"
"""Begins the names of columns that hold log(measured / predicted) before levels."""


def fitted_rows(runs: Runs, logs: Mapping[str, Array]) -> dict[str, list[Any]]:
    """Return the runs as columns: who they are, where they stand, what was measured, and how that departs.

    Parameters
    ----------
    runs : Runs
        n runs.
    logs : mapping
        TTFT and TPOT -> log(measured / predicted) without levels, shape (n,).
    """
    batch = runs.batch
    columns: dict[str, list[Any]] = {
        "run_id": runs.column("run_id"),
        "source": runs.column("source"),
        "src_ref": runs.column("src_ref"),
        "engine": [group[0] for group in runs.groups],
        "family": [group[1] for group in runs.groups],
        "gpu": [group[2] for group in runs.groups],
        "gemm": [batch.identities[code].quant.gemm.name for code in batch.codes],
        "moe": [batch.identities[code].quant.moe.name for code in batch.codes],
        "kv": [batch.identities[code].quant.kvcache.name for code in batch.codes],
        "model": [batch.identities[code].architecture.name for code in batch.codes],
        "tp": batch.system.tp[batch.at].astype(int).tolist(),
        "dp": batch.system.dp[batch.at].astype(int).tolist(),
        "ep": batch.system.ep[batch.at].astype(int).tolist(),
        "isl": batch.load.isl.round(1).tolist(),
        "osl": batch.load.osl.round(1).tolist(),
        "concurrency": batch.load.concurrency.astype(int).tolist(),
    }
    curves = curve_keys(batch)
    place = {key: at for at, key in enumerate(sorted(set(curves)))}
    columns["curve"] = [place[key] for key in curves]
    for metric in LEVELED:
        columns[metric] = _figures(runs.measured[metric], 6)
        columns[RESIDUAL + metric] = _figures(logs[metric], 4)
    return columns


def _figures(values: Array, digits: int) -> list[float | None]:
    return [None if np.isnan(value) else float(f"{value:.{digits}g}") for value in values]


def scope(runs: Runs) -> dict[str, list[str]]:
    """Return what is fitted on these runs: engines, GPUs, model families, and the first and last day."""
    engines, families, gpus = (sorted(set(names)) for names in zip(*runs.groups, strict=True))
    days = sorted({str(day)[:10] for day in runs.column("measured_on") if day is not None})
    return {"engines": engines, "gpus": gpus, "families": families, "measured_on": days[:1] + days[-1:]}


def evidence(runs: Runs) -> set[str]:
    """Return what these runs let be called calibrated, as `aicalib.prediction.evidence_keys` names it."""
    used = set(runs.batch.codes.tolist())
    return set().union(*(keys for code, keys in enumerate(evidence_keys(runs.batch)) if code in used))


def formats(runs: Runs) -> set[str]:
    """Return the formats that these runs have, as `aicalib.nearness.formats_of` names them."""
    used = set(runs.batch.codes.tolist())
    return set().union(*(formats_of(runs.batch.identities[code]) for code in used))


def version_of(profile: Profile) -> str:
    """Return the hash of all that a profile says but its name: two versions alike are alike in every part."""
    content = replace(profile, name="", version="").to_json()
    return hashlib.sha256(content.encode()).hexdigest()[:8]
