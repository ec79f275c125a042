"""How many requests a second one replica takes under open arrivals before a bound of the service level fails.

The rate is sought between none and what the engine can sustain at all, for all rows of a batch at once: in even
steps up to the first that fails a bound, then in even parts of that step. Latencies grow with the rate, but for some
tenths of a percent close to the sustainable rate; a rate beyond the first failure is never taken.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.plan.figures import figures_of
from aicalib.plan.tasks.task import Bound
from aicalib.prediction import Prediction, interval_factors, predict_batch
from aicalib.profiles.profile import Profile
from aicalib.resolve.batch import Batch
from aicalib.served import FEW

Array = NDArray[np.float64]
Codes = NDArray[np.intp]

STEPS: Final = 16
"""Even steps in which a range of rates is looked at."""

ROUNDS: Final = 3
"""Times that the step in which the first bound fails is looked at again: to 1/4096 of the sustainable rate."""

_TOGETHER: Final = FEW
"""Deployments that are asked about together: so few that what was timed for them is kept for the next rates."""

_ROWS: Final = 2048
"""Questions that are asked together, each at several rates: few enough to stay in the processor's cache."""

_LEAST: Final = 1e-6
"""A rate at which no two requests meet [1/s]."""


class Sustained(NamedTuple):
    """What one replica takes within the service level; rates in requests a second, all of shape (n,).

    Attributes
    ----------
    rate : ndarray
        Largest rate at which every bound holds; 0 where none does, NaN where the model does not fit.
    low, high : ndarray
        The same at the unfavorable and the favorable ends of the intervals; NaN where not asked for, and under a
        profile that has none.
    limit : ndarray
        The sustainable rate, from which on the batch is always full and requests pile up.
    """

    rate: Array
    low: Array
    high: Array
    limit: Array


def sustained(
    batch: Batch,
    bounds: Sequence[Bound],
    profile: Profile,
    ends: Collection[str] = ("low", "high"),
    tick: Callable[[], object] = lambda: None,
) -> Sustained:
    """Return what replicas take within a service level.

    Parameters
    ----------
    batch : Batch
        n deployments under open loads; their rates are not read.
    bounds : sequence of Bound
        At least one; their thresholds are what counts, weights do not.
    profile : Profile
    ends : collection of {"low", "high"}
        Which ends are asked for beside the value.
    tick : callable
        Called as work goes on.

    Notes
    -----
    The intervals of latencies are those at a given batch, and a slower engine also gathers a larger batch at the same
    rate. An engine f times slower in every step answers a rate r as the predicted one answers f r, in f times the
    time. With f the factor of the throughput's interval, the unfavorable rate is 1 / f of that at which the high ends
    of all bounded figures hold, and the favorable one f times that at which the low ends do.
    """
    parts, blocks = [], _blocks(batch)
    for rows in blocks:
        parts.append(_sustained(_few(batch, rows), bounds, profile, ends))
        tick()
    order = np.argsort(np.concatenate(blocks), kind="stable")
    return Sustained(*(np.concatenate(each)[order] for each in zip(*parts, strict=True)))


def _blocks(batch: Batch) -> list[Codes]:
    """Return the rows that are asked about together."""
    order = np.argsort(batch.at, kind="stable")
    rank = np.unique(batch.at[order], return_inverse=True)[1]
    blocks = [order[rank // _TOGETHER == each] for each in range(int(rank[-1]) // _TOGETHER + 1)]
    return [part for block in blocks for part in np.array_split(block, -(-block.size // _ROWS))]


def _few(batch: Batch, rows: Codes) -> Batch:
    """Return some rows, with the identities of these alone."""
    found = batch.take(rows)
    used, who = np.unique(found.who, return_inverse=True)
    return replace(found, identities=[found.identities[each] for each in used], who=who)


def _sustained(batch: Batch, bounds: Sequence[Bound], profile: Profile, ends: Collection[str]) -> Sustained:
    calm = quiet(batch, profile)
    limit = calm.service.sustainable_s
    rate = _largest(batch, bounds, profile, limit, "value")
    low = high = np.full_like(rate, np.nan)
    if profile.quantiles:
        factor = interval_factors(batch, profile, "output_tok_s", calm.nearness("output_tok_s"))
        if "low" in ends:
            low = np.minimum(_largest(batch, bounds, profile, limit, "high") / factor, rate)
        if "high" in ends:
            high = np.maximum(_largest(batch, bounds, profile, limit, "low") * factor, rate)
    return Sustained(rate, low, high, limit)


def at_rate(batch: Batch, rate: Array, profile: Profile) -> Prediction:
    """Predict n deployments at other rates [1/s] than their batch says."""
    return predict_batch(replace(batch, load=replace(batch.load, request_rate=rate)), profile)


def quiet(batch: Batch, profile: Profile) -> Prediction:
    """Predict n deployments so calm that no two requests meet: nothing below these latencies can be reached."""
    return at_rate(batch, np.full(batch.at.size, _LEAST), profile)


def binding(
    batch: Batch, bounds: Sequence[Bound], profile: Profile, rate: Array, limit: Array
) -> list[Bound | None]:
    """Return for each row the bound that fails just beyond a rate; None where the engine's limit comes first."""
    beyond = at_rate(batch, rate + limit * 2.0 / STEPS**ROUNDS, profile)
    figures = figures_of(beyond, "value")
    excess = np.array([figures[each.metric, each.percentile] / each.threshold_s for each in bounds])
    worst = np.nan_to_num(excess, nan=0.0)
    full = beyond.overloaded | (worst.max(axis=0) <= 1.0)
    return [None if over else bounds[at] for over, at in zip(full, worst.argmax(axis=0), strict=True)]


def holds(found: Prediction, bounds: Sequence[Bound], end: str = "value") -> NDArray[np.bool_]:
    """Tell where every bound holds at an end of the intervals, shape (n,); an overloaded row holds none.

    An answer of one token has no TPOT, which then bounds nothing.
    """
    figures = figures_of(found, end)
    kept = found.fits & ~found.overloaded
    for bound in bounds:
        below = figures[bound.metric, bound.percentile] <= bound.threshold_s  # NaN is not below
        kept = kept & (below | ((found.batch.load.osl <= 1.0) & (bound.metric == "tpot")))
    return kept


def _largest(batch: Batch, bounds: Sequence[Bound], profile: Profile, top: Array, end: str) -> Array:
    """Return the largest rate below `top` at which an end of the intervals holds, 0 where none does, else NaN."""
    low = np.zeros_like(top)
    step = np.where(np.isfinite(top), top, 0.0) / STEPS
    many = batch.take(np.tile(np.arange(top.size), STEPS - 1))
    counts = np.arange(1.0, STEPS)[:, None]
    for _ in range(ROUNDS):
        rates = np.maximum(low + counts * step, _LEAST)
        kept = holds(at_rate(many, rates.ravel(), profile), bounds, end).reshape(rates.shape)
        low = low + np.logical_and.accumulate(kept).sum(axis=0) * step
        step = step / STEPS
    return np.where(np.isfinite(top), low, np.nan)
