"""From measured runs to a Profile: fit, cross-validation, intervals, lineage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aicalib.calibrate.fit import fit, fit_speculation
from aicalib.calibrate.hidden import doubted, states
from aicalib.calibrate.intervals import FEWEST_GROUPS as FEWEST_FOR_INTERVALS
from aicalib.calibrate.intervals import IMITATED, Imitation, imitations, quantiles
from aicalib.calibrate.levels import curve_keys, levels_of
from aicalib.calibrate.lineage import evidence, fitted_rows, formats, scope, version_of
from aicalib.calibrate.runs import Runs, as_runs
from aicalib.calibrate.score import Score, score
from aicalib.calibrate.unseen import MOST, coverage, formats_left_out
from aicalib.calibrate.validate import FOLDS, LeftOut, answered, left_out
from aicalib.errors import InvalidValue
from aicalib.nearness import LEVELED, NEARNESS
from aicalib.prediction import predict_batch, widths
from aicalib.profiles.profile import METRICS, Profile, uncalibrated
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
    "clock_jumped",
    "faster_than_datasheet",
    "mtp_unrecorded",
    "concurrency_not_credible",
    "batch_limit_unknown",
    "implausible",
)
"""Runs with one of these quality flags are neither fitted nor scored: the same measurement again,
figures that cannot be, or a setting that is not recorded and that the figures show to differ."""

TTFT_FLAGS = (
    "polluted_mean",
    "cached_prompts",
    "ttft_cold",
    "prefix_cache_likely_warm",
    "queueing",
    "host_bound",
)
"""Runs with one of these flags keep their TPOT; their TTFT, and the end-to-end time with it, measures
something else: compilation, a cached prefix, a busy host, or a line in front of the engine."""

FITS = 3 * FOLDS + MOST + 1
"""Fits of a calibration at most: without groups, families, generations of GPUs and formats, and the final one."""

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
    found: dict[str, int] = {}
    for record in records:
        flags = [flag for flag in LEFT_OUT_FLAGS if flag in (record.get("flags") or ())]
        if flags:
            found[flags[0]] = found.get(flags[0], 0) + 1
        else:
            kept.append(record)
    return kept, found


def without_ttft(runs: Runs) -> Runs:
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
    """Return which runs a fit sees, shape (n,): those of a closed loop or a static batch, on one plain engine.

    Speculation has a fit of its own; separate instances show little of the engine that one instance does not. Under
    other loads what is measured is a queue in front of the engine more than the engine.
    """
    load, drafts, pools = runs.batch.load, runs.batch.features.drafting, runs.batch.features.separation
    seen: NDArray[np.bool_] = (load.kind == CLOSED) | (load.kind == STATIC)
    seen = seen if pools is None else seen & ~pools.separate
    return seen if drafts is None else seen & (drafts.method < 0)


def _readable(runs: Runs) -> NDArray[np.bool_]:
    """Return which runs fit into memory and have a latency, shape (n,)."""
    _, held = memory_of(runs.batch)
    has_latency = np.isfinite(runs.measured["tpot_ms"]) | np.isfinite(runs.measured["ttft_ms"])
    result: NDArray[np.bool_] = held & has_latency
    return result


def fittable(runs: Runs) -> Runs:
    """Return the runs that a fit can see: they fit into memory, have a latency, and are `_plain`."""
    return runs.take(np.flatnonzero(_readable(runs) & _plain(runs)))


def speculates(runs: Runs) -> NDArray[np.bool_]:
    """Return which runs of a closed loop had speculative decoding, shape (n,)."""
    drafts = runs.batch.features.drafting
    closed: NDArray[np.bool_] = runs.batch.load.kind == CLOSED
    if drafts is None:
        return np.zeros_like(closed)
    pools = runs.batch.features.separation
    return closed & (drafts.method >= 0) & (True if pools is None else ~pools.separate)


def _group_median(runs: Runs, metric: str, predicted: Array, chosen: NDArray[np.bool_]) -> tuple[float, int]:
    """Return the median over groups of the group's median absolute error, and the number of groups."""
    error = np.abs(predicted / runs.measured[metric] - 1.0)
    by_group: dict[tuple[str, str, str], list[float]] = {}
    for at, group in enumerate(runs.groups):
        if chosen[at] and np.isfinite(error[at]):
            by_group.setdefault(group, []).append(float(error[at]))
    medians = [float(np.median(errors)) for errors in by_group.values()]
    return float(np.median(medians)) if medians else float("nan"), len(medians)


def coefficients(
    runs: Runs, name: str = "fold", near: Profile | None = None, drafting: Runs | None = None
) -> Profile:
    """Return the profile of a fit to runs, without levels and intervals.

    It is found sooner near that of most of them. What only speculation shows is fitted to `drafting` runs.
    """
    found = fit(runs, None if near is None else near.values)
    if drafting is not None:
        found = fit_speculation(found, drafting)
    lineage = {"scope": scope(runs), "evidence": sorted(evidence(runs)), "remarks": found.remarks}
    return Profile(name, "fold", found.values, found.deviations, {}, lineage=lineage)


def log_errors(runs: Runs, profile: Profile) -> dict[str, Array]:
    """Return log(measured / predicted) of TTFT and TPOT before levels, NaN where not measured, shape (n,) each."""
    found = predict_batch(runs.batch, replace(profile, levels={}))
    return {
        metric: np.log(runs.measured[metric] / found.comparable(metric, runs.median[metric]).value)
        for metric in LEVELED
    }


def fitted(runs: Runs, name: str = "fold", drafting: Runs | None = None) -> Profile:
    """Return the profile of a fit to runs, with levels and without intervals; parameters as for `coefficients`."""
    found = coefficients(runs, name, drafting=drafting)
    logs = log_errors(runs, found)
    levels, spreads = levels_of(logs, curve_keys(runs.batch))
    return replace(found, fitted=fitted_rows(runs, logs), levels=levels, spreads=spreads)


def _nested_bounds(runs: Runs, group: LeftOut, found: list[Imitation]) -> dict[str, Array]:
    """Return the quantile of each run's left-out answer from the other folds alone: coverage is not its own judge."""
    engines = np.array([each[0] for each in runs.groups], dtype=object)
    near, bounds = found[0].near, {metric: np.full(engines.size, np.nan) for metric in METRICS}
    for number in range(len(group.profiles)):
        known = quantiles(runs, found, group.fold != number)
        for metric in METRICS:
            for at in np.flatnonzero(group.fold == number):
                by = widths(known, engines[at], metric)
                bounds[metric][at] = by.get(NEARNESS[near[metric][at]], np.nan)
    return bounds


def to_fit(records: Iterable[Mapping[str, Any]]) -> tuple[Runs, Runs, dict[str, int]]:
    """Return the runs that a fit sees, those with recorded speculation, and how many are left out by what.

    Runs of which neither record nor curve says whether they speculated are left out as `speculation_in_doubt`.
    """
    kept, flagged = usable(records)
    every = without_ttft(as_runs(kept))
    runs = fittable(every)
    drafting = every.take(np.flatnonzero(_readable(every) & speculates(every)))
    if any(states(record) for record in runs.answered):
        settled = doubted(runs, coefficients(runs)).settled
        flagged |= {"speculation_in_doubt": int((~settled).sum())}
        runs = runs.take(np.flatnonzero(settled))
    return runs, drafting, flagged


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
        Called after each fit, `FITS` times at most.

    Returns
    -------
    Calibration

    Raises
    ------
    InvalidValue
        If fewer than two groups can be answered.
    """
    runs, drafting, flagged = to_fit(records)
    groups = {group[1:] for group in runs.groups}
    if len(groups) < FEWEST_GROUPS:
        raise InvalidValue(
            f"{runs.batch.rows.size} runs of {len(groups)} (model family x GPU) group(s) can be answered: a "
            f"calibration needs at least {FEWEST_GROUPS} groups",
            ["aicalib calibrate --base default", "aicalib ingest more runs"],
        )
    final = fitted(runs, name, drafting)
    tick()
    again = partial(coefficients, near=final)
    group = left_out(runs, "group", again, tick=tick)
    near = imitations(runs, group, again, tick)
    classes = formats_left_out(runs, again, tick)
    found = [*near, *classes.values()]
    physics = answered(runs, np.zeros_like(group.fold), [uncalibrated()]).values
    board = _scoreboard(runs, group, physics, _nested_bounds(runs, group, found))
    lineage = {
        "method": "robust log-space least squares with priors, then nested levels; cross-validated in "
        f"{len(group.profiles)} folds over whole (model family x GPU) groups",
        "runs": int(runs.batch.rows.size),
        "groups": len(groups),
        **final.lineage,
        "formats": sorted(formats(runs)),
        "formats_left_out": coverage(runs, near, classes),
        "remarks": [*final.lineage["remarks"], *_few(len(groups))],
        "intervals": IMITATED,
        "left_out_by_flag": flagged,
        "scoreboard": [scoreboard_dict(each) for each in board],
    }
    everyone = np.ones(runs.batch.at.size, dtype=bool)
    profile = replace(final, quantiles=quantiles(runs, found, everyone), lineage=lineage)
    return Calibration(replace(profile, version=version_of(profile)), board, runs, flagged)


def _few(groups: int) -> list[str]:
    """Return what a reader should know of intervals from few groups."""
    if groups >= FEWEST_FOR_INTERVALS:
        return []
    return [
        f"{groups} groups are too few to promise 90 %: intervals reach to the largest error that was seen; "
        "--base default has those of many groups"
    ]


def _scoreboard(
    runs: Runs, group: LeftOut, physics: dict[str, Array], bounds: dict[str, Array]
) -> list[Scoreboard]:
    """Return the errors on left-out groups by engine and metric, physics alone beside."""
    engines = np.array([each[0] for each in runs.groups], dtype=object)
    board = []
    for engine in sorted(set(engines)):
        for metric in METRICS:
            measured = np.where(engines == engine, runs.measured[metric], np.nan)
            calibrated = group.values[metric]
            if not np.isfinite(measured / calibrated).any():
                continue
            before, count = _group_median(runs, metric, physics[metric], engines == engine)
            after, _ = _group_median(runs, metric, calibrated, engines == engine)
            factor = np.exp(bounds[metric])
            board.append(
                Scoreboard(
                    engine,
                    metric,
                    score(measured, physics[metric]),
                    score(measured, calibrated, calibrated / factor, calibrated * factor),
                    before,
                    after,
                    count,
                )
            )
    return board


def scoreboard_dict(row: Scoreboard) -> dict[str, Any]:
    """Return one line of the scoreboard by name."""
    return {
        "engine": row.engine,
        "metric": row.metric,
        "groups": row.groups,
        "physics": row.physics | {"group_median_ape": row.physics_group_median},
        "calibrated": row.calibrated | {"group_median_ape": row.calibrated_group_median},
    }
