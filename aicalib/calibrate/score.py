"""Errors of predictions against measurements: the figures of every scoreboard."""

from __future__ import annotations

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
