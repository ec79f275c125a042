"""What a search is after: an objective, a service level, and how careful to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aicalib.plan.tasks.task import Bound

if TYPE_CHECKING:
    from aicalib.plan.price import Prices

OBJECTIVES: Final[Mapping[str, str]] = {
    "throughput": "maximize_throughput",
    "latency": "minimize_latency",
    "ttft": "minimize_ttft",
    "tpot": "minimize_tpot",
    "balance": "balanced",
    "cost": "cost",
}
"""Objectives of a search, and the base of their score in `aicalib.plan.score`; "cost" is the price of a million output
tokens."""

STEEPNESS: Final = 0.1
"""Relative excess over a weighted bound at which its penalty has grown by e, as the autotuner's own."""

MEAN: Final = "mean"
PERCENTILES: Final = ("p50", "p90", "p95", "p99")
"""What a bound may be about beside the mean."""


@dataclass(frozen=True)
class Goal:
    """What is sought.

    Attributes
    ----------
    objective : str
        One of `OBJECTIVES`.
    bounds : tuple of Bound
        The service level: `hard_fail` rules out what exceeds `fail_ratio` over it, `weight` penalizes an excess.
    steepness : float
    robust : bool
        Rank, and hold the service level, by the pessimistic end of intervals.
    prices : Prices, optional
        `aicalib.plan.price.load_prices`; of every kind of GPU that is tried.
    """

    objective: str = "throughput"
    bounds: tuple[Bound, ...] = ()
    steepness: float = STEEPNESS
    robust: bool = False
    prices: Prices | None = None


def bound(metric: str, threshold_ms: float, percentile: str | None = None, hard: bool = True) -> Bound:
    """Return a bound of "ttft", "tpot" or "latency" (end to end), of the mean or a percentile such as "p99".

    A hard one nothing may exceed; the excess over another is weighed as the autotuner does.
    """
    if hard:
        return Bound(metric, percentile, threshold_ms / 1e3, weight=0.0, hard_fail=True, fail_ratio=0.0)
    return Bound(metric, percentile, threshold_ms / 1e3)
