"""Errors of predictions against measurements: the figures of every scoreboard."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Score(TypedDict):
    """Errors over n rows, as fractions (0.1 is 10 %)."""

    n: int
    median_ape: float | None
    mape: float | None
    p90_ape: float | None
    bias: float | None
    within_20: float | None
    coverage_90: float | None


class GroupScore(Score):
    """Errors over n rows and over their groups, each group counting once."""

    groups: int
    group_median_ape: float | None
    group_coverage_90: float | None
    width_90: float | None
    range_80: tuple[float, float] | None


def score(measured: Array, predicted: Array, low: Array | None = None, high: Array | None = None) -> Score:
    """Score predictions; rows where either figure is missing (NaN) do not count.

    Parameters
    ----------
    measured, predicted : ndarray, shape (n,)
        In the same unit.
    low, high : ndarray, shape (n,), optional
        Bounds of the 90 % interval.

    Returns
    -------
    Score
        `bias` is the median of predicted / measured - 1; all None where no row counts.
    """
    counts = np.isfinite(measured) & np.isfinite(predicted) & (measured > 0)
    n = int(counts.sum())
    if n == 0:
        return Score(
            n=0, median_ape=None, mape=None, p90_ape=None, bias=None, within_20=None, coverage_90=None
        )
    relative = predicted[counts] / measured[counts] - 1.0
    error = np.abs(relative)
    covered = None
    if low is not None and high is not None:
        bounded = counts & np.isfinite(low) & np.isfinite(high)
        inside = (measured[bounded] >= low[bounded]) & (measured[bounded] <= high[bounded])
        covered = float(inside.mean()) if bounded.any() else None
    return Score(
        n=n,
        median_ape=float(np.median(error)),
        mape=float(error.mean()),
        p90_ape=float(np.quantile(error, 0.9)),
        bias=float(np.median(relative)),
        within_20=float((error <= 0.2).mean()),
        coverage_90=covered,
    )


def score_groups(
    groups: Sequence[Hashable],
    measured: Array,
    predicted: Array,
    low: Array | None = None,
    high: Array | None = None,
    resamples: int = 0,
) -> GroupScore:
    """Score predictions over rows and over groups.

    Parameters
    ----------
    groups : sequence
        The group of each row.
    measured, predicted, low, high : ndarray, shape (n,)
        As `score` takes them.
    resamples : int
        Draws of groups with replacement behind `range_80`, which is None without.

    Returns
    -------
    GroupScore
        `group_median_ape` is the median over groups of the group's median error, `group_coverage_90` the mean over
        groups of the group's share of rows inside their interval, `width_90` the median of sqrt(high / low): the
        factor by which an interval goes up and down. `range_80` holds the 10 % and 90 % quantiles of the median
        error when whole groups are drawn anew: how much it hangs on which groups happen to be there.
    """
    overall = score(measured, predicted, low, high)
    error = np.abs(predicted / measured - 1.0)
    rows: dict[Hashable, list[int]] = {}
    for at in np.flatnonzero(np.isfinite(error)).tolist():
        rows.setdefault(groups[at], []).append(at)
    if not rows:
        return GroupScore(
            **overall, groups=0, group_median_ape=None, group_coverage_90=None, width_90=None, range_80=None
        )
    parts = [error[each] for each in rows.values()]
    covered = width = None
    if low is not None and high is not None and overall["coverage_90"] is not None:
        inside = np.where(np.isfinite(low * high), (measured >= low) & (measured <= high), np.nan)
        bounded = [inside[each] for each in rows.values() if np.isfinite(inside[each]).any()]
        covered = float(np.mean([np.nanmean(each) for each in bounded]))
        width = float(np.nanmedian(np.sqrt(high / low)[np.isfinite(error)]))
    return GroupScore(
        **overall,
        groups=len(parts),
        group_median_ape=float(np.median([np.median(each) for each in parts])),
        group_coverage_90=covered,
        width_90=width,
        range_80=_range(parts, resamples) if resamples else None,
    )


def _range(parts: Sequence[Array], resamples: int) -> tuple[float, float]:
    """Return the 10 % and 90 % quantiles of the median over all values when whole parts are drawn anew."""
    draw = np.random.default_rng(0)
    medians = [
        np.median(np.concatenate([parts[each] for each in draw.integers(len(parts), size=len(parts))]))
        for _ in range(resamples)
    ]
    low, high = np.quantile(medians, (0.1, 0.9))
    return float(low), float(high)
