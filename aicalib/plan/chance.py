"""How likely a service level is kept, and what a deployment is worth where a missed level counts nothing.

A prediction errs by a factor. The logarithm of measured / predicted is taken to be Laplace-distributed around 0, as
wide as the 90 % interval says. With the room d = log(bound / predicted) / log(high / predicted), in half-widths of it,

    P(measured <= bound) = 1 - 10^-d / 2   where the prediction keeps the bound (d >= 0),
                               10^d / 2    where it does not:

even odds on the bound, and every half-width of room divides those of a miss by ten (5 % at the end of the interval).
Residuals of left-out groups have longer tails, and more of them near 0, than a normal distribution of that interval;
`docs/search-accuracy.md` holds the chances to what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.plan.score import Figure
from aicalib.plan.tasks.task import Bound

Array = NDArray[np.float64]

TENTH: Final = float(np.log(10.0))
"""Half-width of the 90 % interval of a Laplace distribution, in its scales."""


class Chances(NamedTuple):
    """What n deployments make of the hard bounds of a service level; NaN where a prediction has no interval.

    Attributes
    ----------
    kept : ndarray, shape (n,)
        Probability that all of them are kept; 1 where there are none.
    worth : ndarray, shape (n,)
        Share of the throughput to be expected that comes with the level kept: throughput x worth is what is to be
        expected where a miss counts nothing.
    """

    kept: Array
    worth: Array


def chances(
    bounds: Sequence[Bound], figures: Mapping[Figure, Array], factors: Mapping[str, Array]
) -> Chances:
    """Return the chances of n deployments under a service level.

    Parameters
    ----------
    bounds : sequence of Bound
        Those that are not hard are passed over; a hard one is kept up to its `fail_ratio` over the threshold.
    figures : mapping of Figure to ndarray, shape (n,)
        Predicted times [s]: those that are bound, and the means of "ttft" and "latency".
    factors : mapping of str to ndarray, shape (n,)
        High end over value of the 90 % interval of "ttft", "tpot" and "latency"; a percentile keeps that of its mean.

    Notes
    -----
    Times of one deployment err together, so that of several bounds the one least likely kept decides: what keeps it
    keeps the others.

    In a closed loop throughput errs against latency: requests in flight = requests a second x latency (Little, 1961),
    and latency errs as TTFT or TPOT does by the share that it is of it. So where a level is kept, throughput is more
    likely above its prediction than below.
    """
    latency_s = figures["latency", None]
    first = np.clip(figures["ttft", None] / latency_s, 0.0, 1.0)
    shares = {"ttft": first, "tpot": 1.0 - first, "latency": np.ones_like(first)}
    kept, worth = np.ones_like(first), np.ones_like(first)
    for bound in bounds:
        if bound.hard_fail:
            most_s = bound.threshold_s * (1.0 + bound.fail_ratio)
            room = np.log(most_s / figures[bound.metric, bound.percentile])
            half = np.log(factors[bound.metric])
            kept = np.minimum(kept, share_kept(room, half))
            worth = np.minimum(worth, share_kept(room, half, shares[bound.metric]))
    return Chances(kept, worth)


def share_kept(room: Array, half: Array, elasticity: Array | float = 0.0) -> Array:
    """Return the share of exp(-elasticity x error) that comes from errors up to a room, in the mean; shape (n,).

    Without elasticity it is the probability that the bound is kept.

    Parameters
    ----------
    room : ndarray, shape (n,)
        log(bound / predicted).
    half : ndarray, shape (n,)
        log(high / predicted) of the 90 % interval; where it is 0 the prediction is certain, where it is infinite the
        odds are even.
    elasticity : ndarray, shape (n,), or float
        Share of the error by which what is counted (throughput) errs the other way; 0 to 1.
    """
    # exp(-elasticity * error) has no mean under a scale of 1 or more: there all of it comes from the fast side.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        tilt = np.where(np.equal(elasticity, 0.0), 0.0, np.minimum(elasticity * half / TENTH, 1.0))
        widths = np.where(half == 0.0, np.where(room >= 0.0, np.inf, -np.inf), room / half)
        miss = 0.5 * (1.0 - tilt) * 10.0 ** (-(1.0 + tilt) * np.maximum(widths, 0.0))
        found = 0.5 * (1.0 + tilt) * 10.0 ** ((1.0 - tilt) * np.minimum(widths, 0.0))
    result: Array = np.where(widths >= 0.0, 1.0 - miss, found)
    return np.where(np.isnan(widths), np.nan, result)
