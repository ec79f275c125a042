"""Ties: whether one choice is better than another by more than what is not known of the two together.

Much of a prediction's error is common to two choices of one model, GPU, engine and formats, and moves both alike. The
interval of the ratio of two figures x_b (the best) and x_o (another) is therefore narrower than both intervals
together. With the logarithms of how much worse the best may be, q, and how much better the other, p, it reaches

    w = sqrt(q^2 + p^2 - 2 r q p)

to the other's side, with r the correlation of the errors (Zou and Donner, "Construction of confidence limits about
effect measures", Statistics in Medicine 27, 2008, for correlated estimates). A tie is where log(x_o / x_b) <= w.
`docs/search.md` has how often measured ratios lie in these intervals.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from aicalib.nearness import DEPTHS, LEVELED, nodes_of, paths, told
from aicalib.prediction import Interval, Prediction
from aicalib.profiles.profile import Profile
from aicalib.resolve.batch import Batch

Array = NDArray[np.float64]
Codes = NDArray[np.intp]
Yes = NDArray[np.bool_]

THROUGHPUT_LEVEL: Final = "tpot_ms"
"""Metric whose errors throughput, end-to-end latency and cost share: a token's time makes most of them."""


def reach(worse: Array, better: Array, common: Array) -> tuple[Array, Array]:
    """Return where both choices stand at the far end of the interval of their ratio, shape (n,).

    Parameters
    ----------
    worse, better : ndarray, shape (n,)
        Logarithms from the value of the best to its bad end, and from the value of the other to its good end; NaN under
        a profile without intervals.
    common : ndarray, shape (n,)
        Correlation of their errors.

    Returns
    -------
    tuple of ndarray
        By how much the best is then worse and the other better, as logarithms: both together are the w of this module.

    Notes
    -----
    Given how far two normal errors lie apart, each has its share of that by its covariance with the difference.
    """
    worse, better = np.nan_to_num(worse, posinf=np.inf), np.nan_to_num(better, posinf=np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        both = common * worse * better
        apart = np.sqrt(worse**2 + better**2 - 2.0 * both)
        found = (worse**2 - both) / apart, (better**2 - both) / apart
    # Of an end that is not bounded, neither is the difference.
    bounded = np.isfinite(worse) & np.isfinite(better)
    first, second = (np.where(bounded, np.nan_to_num(each), np.inf) for each in found)
    return first, second


def tied(best: Interval, other: Interval, common: Array, by: str = "value") -> Yes:
    """Tell which choices the best beats by no more than what is not known of the two together, shape (n,).

    Parameters
    ----------
    best, other : Interval
        Numbers of which lower is better, `low` the good end; those of a yield are negative. Equals tie.
    common : ndarray, shape (n,)
        Correlation of their errors.
    by : str
        The end of the intervals that decides who is ahead.
    """
    sign = np.sign(best.value)
    with np.errstate(divide="ignore", invalid="ignore"):  # a number that counts as infinitely bad
        behind = sign * np.log(getattr(other, by) / getattr(best, by))
        worse, better = sign * np.log(best.high / best.value), sign * np.log(other.value / other.low)
    result: Yes = (behind <= sum(reach(worse, better, common))) | (other.value == best.value)
    return result


def ties_with_first(found: Prediction, metric: str) -> Yes:
    """Tell which rows of a prediction tie with the first in a metric, whichever is the better, shape (n,).

    Parameters
    ----------
    found : Prediction
        n rows, under a profile with intervals: these are as wide to both sides.
    metric : str
        One of `aicalib.prediction.METRICS`.
    """
    value, _, high = found.mean[metric]
    rows = np.arange(value.size)
    first, width = np.zeros_like(rows), np.log(high / value)
    level = metric if metric in LEVELED else THROUGHPUT_LEVEL
    common = common_errors(found.batch, found.profile, level, first, rows)
    result: Yes = np.abs(np.log(value / value[first])) <= sum(reach(width[first], width, common))
    return result


def common_errors(batch: Batch, profile: Profile, metric: str, first: Codes, second: Codes) -> Array:
    """Return the correlation of the errors of pairs of questions, shape (n,).

    Parameters
    ----------
    batch : Batch
        Questions.
    profile : Profile
        Its `spreads` say how much of an error is of the group (engine, model family, GPU), of formats, engine version
        and widths in it. Common is what two questions share of these, beyond what measured runs have told already.
    metric : {"ttft_ms", "tpot_ms"}
    first, second : ndarray of int, shape (n,)
        Rows of the batch.
    """
    spread = profile.spreads.get(metric)
    if spread is None:
        return np.zeros(first.size)
    every = np.arange(batch.at.size)
    variance = np.square([spread[name] for name in (*DEPTHS, "noise")])[:, None]
    codes = np.array([codes for codes, _, _ in paths(batch, every)])
    known = np.full(every.size, -1)
    if profile.levels:
        known = told(batch, nodes_of(profile).find(batch).depth[metric])
    left = variance * (np.arange(variance.size)[:, None] > known)
    together = np.minimum(left[:-1, first], left[:-1, second]) * (codes[:, first] == codes[:, second])
    result: Array = together.sum(axis=0) / np.sqrt(left[:, first].sum(axis=0) * left[:, second].sum(axis=0))
    return result
