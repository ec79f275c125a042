"""The score of a configuration as the autotuner counts it: lower is better.

With figures that are means over all levels of load, and v = (figure - threshold) / threshold of each bound:

    score = base + |base| * sum of weight * exp(v / steepness) over the bounds that are exceeded (v > 0)

and infinite where a hard bound is exceeded by more than its `fail_ratio`. The base is

===================  =====================================================================
maximize_throughput  - (input + output tokens a second and GPU)
minimize_latency     mean end-to-end latency [s]
minimize_ttft        mean TTFT [s]
minimize_tpot        mean TPOT [s]
balanced             sqrt(mean end-to-end latency / (input + output tokens a second and GPU))
===================  =====================================================================

Source: novitalabs/inference-autotuner:src/utils/optimizer.py, docs/SLO_SCORING.md. Two things differ. `balanced` is
a name that tasks use and the autotuner has no formula for: the one above is ours, one percent of latency weighing
as much as one percent of throughput. And the autotuner leaves the levels of load that fail a hard bound out of the
means where others do not fail; here every level counts, else a stricter bound could better a score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from aicalib.plan.tasks.task import Bound

Array = NDArray[np.float64]

Figure: TypeAlias = tuple[str, str | None]
"""A metric and its percentile, None for the mean."""

THROUGHPUT: Figure = ("throughput", None)
"""Input and output tokens a second and GPU."""

BASES: Mapping[str, Callable[[Mapping[Figure, Array]], Array]] = {
    "maximize_throughput": lambda figures: -figures[THROUGHPUT],
    "minimize_latency": lambda figures: figures["latency", None],
    "minimize_ttft": lambda figures: figures["ttft", None],
    "minimize_tpot": lambda figures: figures["tpot", None],
    "balanced": lambda figures: np.sqrt(figures["latency", None] / figures[THROUGHPUT]),
}
"""Base of the score by objective."""


def penalty(bounds: Sequence[Bound], steepness: float, figures: Mapping[Figure, Array]) -> Array:
    """Return the penalty of n configurations, infinite where a hard bound fails, shape (n,).

    Parameters
    ----------
    bounds : sequence of Bound
    steepness : float
        Relative excess over which a penalty grows by e.
    figures : mapping of Figure to ndarray, shape (n,)
        Times in seconds.
    """
    total = np.zeros_like(figures[THROUGHPUT])
    for bound in bounds:
        excess = figures[bound.metric, bound.percentile] / bound.threshold_s - 1.0
        with np.errstate(over="ignore"):
            soft = bound.weight * np.exp(excess / steepness) if bound.weight else np.zeros_like(excess)
        failed = bound.hard_fail & (excess > bound.fail_ratio)
        total = total + np.where(failed, np.inf, np.where(excess > 0.0, soft, 0.0))
    return total


def score(
    objective: str, bounds: Sequence[Bound], steepness: float, figures: Mapping[Figure, Array]
) -> Array:
    """Return the score of n configurations, shape (n,); parameters as `penalty`."""
    base = BASES[objective](figures)
    return base + np.abs(base) * penalty(bounds, steepness, figures)
