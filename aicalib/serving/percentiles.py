"""Percentiles of TTFT and TPOT over requests, from how the serving model says that they lie about their mean."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aicalib.serving.load import Service, Spread

Array = NDArray[np.float64]

PERCENTILES = (50, 90, 99)
"""What is given of each latency."""

DEVIATES = {50: 0.0, 90: 1.2816, 95: 1.6449, 99: 2.3263}
"""Quantiles of the standard normal distribution."""

HALVINGS = 30
"""Halvings of the range in which a percentile of TTFT is sought."""


def ttft_quantile_s(spread: Spread, share: float) -> Array:
    """Return the time below which a share of the TTFTs lie, shape (n,), by halving the range that holds it."""
    longest_s = spread.queue_s / np.maximum(spread.queued, 1e-9)
    tail_s = spread.fixed_s + spread.even_s - longest_s * np.log1p(-share)
    has_first = spread.first_share > 0.0
    low = np.where(has_first, np.minimum(spread.fixed_s, spread.first_low_s), spread.fixed_s)
    high = np.maximum(tail_s, np.where(has_first, spread.first_high_s, 0.0)) + 1e-9
    even_s, longest_s = np.maximum(spread.even_s, 1e-9), np.maximum(longest_s, 1e-9)
    width = np.maximum(spread.first_high_s - spread.first_low_s, 1e-9)

    def area(time_s: Array) -> Array:
        """Integral of the distribution of the queue alone up to a time."""
        result: Array = time_s + spread.queued * longest_s * np.expm1(-time_s / longest_s)
        return result

    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        after = middle - spread.fixed_s
        usual = (area(np.maximum(after, 0.0)) - area(np.maximum(after - even_s, 0.0))) / even_s
        first = np.clip((middle - spread.first_low_s) / width, 0.0, 1.0)
        under = (1.0 - spread.first_share) * usual + spread.first_share * first < share
        low, high = np.where(under, middle, low), np.where(under, high, middle)
    result: Array = high
    return result


def percentiles(service: Service, which: tuple[int, ...] = PERCENTILES) -> dict[str, dict[int, Array]]:
    """Return percentiles of TTFT and TPOT in seconds.

    Parameters
    ----------
    service : Service
        n answers.
    which : tuple of int
        Of `DEVIATES`, rising, the 50th among them.

    Returns
    -------
    dict of str to dict of int to ndarray, shape (n,)
        `ttft_s` and `tpot_s`, by percentile. The 50th is the predicted median.
    """
    ttft, lower = {50: service.ttft_median_s}, service.ttft_median_s
    for each in which[1:]:
        lower = ttft[each] = np.maximum(ttft_quantile_s(service.spread, each / 100.0), lower)
    tpot = {each: service.tpot_s + DEVIATES[each] * service.spread.tpot_deviation_s for each in which}
    return {"ttft_s": ttft, "tpot_s": tpot}
