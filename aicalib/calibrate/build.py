"""From measured runs to a Profile: fit, cross-validation, intervals, lineage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aicalib.calibrate.fit import fit
from aicalib.calibrate.runs import Runs, as_runs
from aicalib.calibrate.score import Score, score
from aicalib.calibrate.validate import cross_validate
from aicalib.errors import InvalidValue
from aicalib.prediction import Interval, evidence_keys, predict_batch
from aicalib.profiles.profile import METRICS, PHYSICS, Profile, uncalibrated
from aicalib.served import memory_of
from aicalib.serving.load import CLOSED, STATIC

Array = NDArray[np.float64]

LEFT_OUT_FLAGS = (
    "repeat",
    "near_repeat",
    "copied_report",
    "ambiguous_config",
    "throughput_contradiction",
    "lumped_stream",
    "faster_than_datasheet",
    "mtp_unrecorded",
    "concurrency_not_credible",
    "implausible",
)
"""Runs with one of these quality flags are neither fitted nor scored: the same measurement again,
figures that cannot be, or a setting that is not recorded and that the figures show to differ."""

TTFT_FLAGS = ("polluted_mean", "cached_prompts", "ttft_cold", "prefix_cache_likely_warm", "queueing")
"""Runs with one of these flags keep their TPOT; their TTFT, and the end-to-end time with it, measures
something else: compilation, a cached prefix, or a line in front of the engine."""

QUANTILES = (0.05, 0.95)
"""Ends of a 90 % interval."""

FEWEST_GROUPS = 2
"""Fewest (model family x GPU) groups that can be cross-validated."""


@dataclass(frozen=True)
class Scoreboard:
    """Errors on left-out groups of one engine and metric: the priors alone, and calibrated."""

    engine: str
    metric: str
    physics: Score
    calibrated: Score
    physics_group_median: float
    calibrated_group_median: float
    groups: int


@dataclass(frozen=True)
class Calibration:
    """A fitted profile and what it is worth."""

    profile: Profile
    scoreboard: list[Scoreboard]
    runs: Runs
    left_out: dict[str, int]


def usable(records: Iterable[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], dict[str, int]]:
    """Return the runs that a fit may see, and how many were left out by which flag."""
    kept: list[Mapping[str, Any]] = []
    left_out: dict[str, int] = {}
    for record in records:
        flags = [flag for flag in LEFT_OUT_FLAGS if flag in (record.get("flags") or ())]
        if flags:
            left_out[flags[0]] = left_out.get(flags[0], 0) + 1
        else:
            kept.append(record)
    return kept, left_out


def _without_ttft(runs: Runs) -> Runs:
    """Return the runs with TTFT and end-to-end time taken as not measured where a flag says so."""
    doubtful = np.array(
        [any(flag in (record.get("flags") or ()) for flag in TTFT_FLAGS) for record in runs.answered],
        dtype=bool,
    )
    measured = dict(runs.measured)
    for metric in ("ttft_ms", "e2e_ms"):
        measured[metric] = np.where(doubtful, np.nan, measured[metric])
    return replace(runs, measured=measured)


def _plain(runs: Runs) -> NDArray[np.bool_]:
    """Return which runs a fit sees, shape (n,): those of a closed loop or a static batch, without speculation.

    Under other loads what is measured is a queue in front of the engine more than the engine.
    """
    load, drafts = runs.batch.load, runs.batch.features.drafting
    seen: NDArray[np.bool_] = (load.kind == CLOSED) | (load.kind == STATIC)
    return seen if drafts is None else seen & (drafts.method < 0)


def _group_median(runs: Runs, metric: str, predicted: Array, chosen: NDArray[np.bool_]) -> tuple[float, int]:
    """Return the median over groups of the group's median absolute error, and the number of groups."""
    error = np.abs(predicted / runs.measured[metric] - 1.0)
    by_group: dict[tuple[str, str, str], list[float]] = {}
    for at, group in enumerate(runs.groups):
        if chosen[at] and np.isfinite(error[at]):
            by_group.setdefault(group, []).append(float(error[at]))
    medians = [float(np.median(errors)) for errors in by_group.values()]
    return float(np.median(medians)) if medians else float("nan"), len(medians)


def _left_out_predictions(runs: Runs, profiles: list[Profile], fold: NDArray[np.intp]) -> dict[str, Array]:
    """Return for each metric the prediction of the profile that did not see the run, shape (n,)."""
    values = {metric: np.full(fold.size, np.nan) for metric in METRICS}
    for number, profile in enumerate(profiles):
        out = np.flatnonzero(fold == number)
        part = runs.take(out)
        found = predict_batch(part.batch, profile)
        for metric in METRICS:
            interval: Interval = found.comparable(metric, part.median[metric])
            values[metric][out] = interval.value
    return values


def _quantiles(logs: Array) -> tuple[float, float]:
    low, high = np.nanquantile(logs, QUANTILES)
    return round(float(low), 4), round(float(high), 4)


def _nested_bounds(logs: Array, fold: NDArray[np.intp]) -> tuple[Array, Array]:
    """Return for each run the quantiles of the other folds' residuals, so that coverage is not its own judge."""
    low, high = np.full(logs.size, np.nan), np.full(logs.size, np.nan)
    for number in set(fold.tolist()):
        others = logs[fold != number]
        if np.isfinite(others).any():
            low[fold == number], high[fold == number] = _quantiles(others)
    return low, high


def calibrate(
    records: Iterable[Mapping[str, Any]], name: str = "default", tick: Callable[[], None] = lambda: None
) -> Calibration:
    """Fit a profile to runs and cross-validate it over whole (model family x GPU) groups.

    Parameters
    ----------
    records : iterable of mapping
        Runs in the runs format, with the key `flags` (names of quality flags) where they have any.
    name : str
        Of the profile.
    tick : callable
        Called after each fit: one a fold and the final one.

    Returns
    -------
    Calibration

    Raises
    ------
    InvalidValue
        If fewer than two groups can be answered.
    """
    kept, left_out = usable(records)
    runs = _without_ttft(as_runs(kept))
    _, held = memory_of(runs.batch)
    has_latency = np.isfinite(runs.measured["tpot_ms"]) | np.isfinite(runs.measured["ttft_ms"])
    runs = runs.take(np.flatnonzero(held & has_latency & _plain(runs)))
    groups = {group[1:] for group in runs.groups}
    if len(groups) < FEWEST_GROUPS:
        raise InvalidValue(
            f"{runs.batch.rows.size} runs of {len(groups)} (model family x GPU) group(s) can be answered: a "
            f"calibration needs at least {FEWEST_GROUPS} groups",
            ["aicalib ingest more runs", "use the default profile"],
        )
    validation = cross_validate(runs, tick)
    fold_profiles = [Profile(name, "fold", each.values, each.deviations, {}) for each in validation.fits]
    calibrated = _left_out_predictions(runs, fold_profiles, validation.fold)
    physics = _left_out_predictions(runs, [uncalibrated()], np.zeros_like(validation.fold))
    final = fit(runs)
    tick()

    engines = np.array([group[0] for group in runs.groups], dtype=object)
    scoreboard: list[Scoreboard] = []
    quantiles: dict[str, dict[str, tuple[float, float]]] = {}
    for engine in sorted(set(engines)):
        quantiles[engine] = {}
        for metric in METRICS:
            measured = np.where(engines == engine, runs.measured[metric], np.nan)
            logs = np.log(measured / calibrated[metric])
            if not np.isfinite(logs).any():
                continue
            quantiles[engine][metric] = _quantiles(logs)
            low, high = _nested_bounds(logs, validation.fold)
            before, count = _group_median(runs, metric, physics[metric], engines == engine)
            after, _ = _group_median(runs, metric, calibrated[metric], engines == engine)
            ends = (calibrated[metric] * np.exp(low), calibrated[metric] * np.exp(high))
            scoreboard.append(
                Scoreboard(
                    engine,
                    metric,
                    score(measured, physics[metric]),
                    score(measured, calibrated[metric], *ends),
                    before,
                    after,
                    count,
                )
            )
    fitted = _fitted_rows(runs)
    digest = hashlib.sha256(
        json.dumps([PHYSICS, [f"{value:.6g}" for value in final.values], fitted["run_id"]]).encode()
    )
    used = set(runs.batch.codes.tolist())
    evidence = set().union(*(keys for code, keys in enumerate(evidence_keys(runs.batch)) if code in used))
    profile = Profile(
        name=name,
        version=digest.hexdigest()[:8],
        values=final.values,
        deviations=final.deviations,
        quantiles=quantiles,
        fitted=fitted,
        lineage={
            "method": "robust log-space least squares with priors; cross-validated in "
            f"{int(validation.fold.max()) + 1} folds over whole (model family x GPU) groups",
            "runs": int(runs.batch.rows.size),
            "groups": len(groups),
            "evidence": sorted(evidence),
            "left_out_by_flag": left_out,
            "remarks": final.remarks,
            "scoreboard": [scoreboard_dict(each) for each in scoreboard],
        },
    )
    return Calibration(profile, scoreboard, runs, left_out)


def scoreboard_dict(row: Scoreboard) -> dict[str, Any]:
    """Return one line of the scoreboard by name."""
    return {
        "engine": row.engine,
        "metric": row.metric,
        "groups": row.groups,
        "physics": row.physics | {"group_median_ape": row.physics_group_median},
        "calibrated": row.calibrated | {"group_median_ape": row.calibrated_group_median},
    }


def _fitted_rows(runs: Runs) -> dict[str, list[Any]]:
    """Return the runs as columns: who they are, where they stand and what was measured."""
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
        "tp": batch.system.tp[batch.at].astype(int).tolist(),
        "isl": batch.load.isl.round(1).tolist(),
        "osl": batch.load.osl.round(1).tolist(),
        "concurrency": batch.load.concurrency.astype(int).tolist(),
    }
    for metric in ("ttft_ms", "tpot_ms"):
        columns[metric] = [
            None if np.isnan(value) else float(f"{value:.6g}") for value in runs.measured[metric]
        ]
    return columns
