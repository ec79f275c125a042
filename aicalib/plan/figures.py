"""What scores are made of, read from predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.plan.score import THROUGHPUT, Figure
from aicalib.prediction import Prediction
from aicalib.serving.percentiles import percentiles

Array = NDArray[np.float64]

_PERCENTILES: Final = (50, 90, 95, 99)


class Number(NamedTuple):
    """A figure or a score with its 90 % interval; the ends are NaN under a profile that has none."""

    value: float
    low: float
    high: float


OUTPUT: Final[Figure] = ("output", None)

SHOWN: Final[Mapping[str, tuple[Figure, float]]] = {
    "ttft_ms": (("ttft", None), 1e3),
    "tpot_ms": (("tpot", None), 1e3),
    "e2e_ms": (("latency", None), 1e3),
    "total_tok_s_per_gpu": (THROUGHPUT, 1.0),
    "output_tok_s_per_gpu": (OUTPUT, 1.0),
}
"""Figures of a ranked point, and the scale from seconds."""


def shown(means: Sequence[Mapping[Figure, Array]], at: int) -> dict[str, Number]:
    """Return the figures of a ranked point.

    Parameters
    ----------
    means : sequence of mapping
        What `figures_of` gives for "value", "low" and "high".
    at : int
        Which element.
    """
    return {name: number(means, key, at, scale) for name, (key, scale) in SHOWN.items()}


def number(means: Sequence[Mapping[Figure, Array]], key: Figure, at: int, scale: float) -> Number:
    """Return one figure of `shown`; of a rate the favorable end is the high one."""
    value, good, bad = means
    ends = (value, bad, good) if key in (THROUGHPUT, OUTPUT) else (value, good, bad)
    return Number(*(float(each[key][at]) * scale for each in ends))


def figures_of(found: Prediction, end: str) -> dict[Figure, Array]:
    """Return what scores are made of: times in seconds, rates per second and GPU, shape (n,).

    Parameters
    ----------
    found : Prediction
    end : {"value", "low", "high"}
        "low" has every time at the low end of its interval and every rate at the high one, which is the best score
        that the intervals allow; "high" the worst.

    Notes
    -----
    A percentile keeps the interval of its mean. Of end-to-end latency it is that of TTFT and that of decoding
    together, as if slow starts were slow decoders too: at or above the true one, the 50th apart, which is the
    predicted median.
    """
    load, mean = found.batch.load, found.mean
    opposite = {"value": "value", "low": "high", "high": "low"}[end]
    rate = getattr(mean["output_tok_s_per_gpu"], opposite)
    figures: dict[Figure, Array] = {
        ("ttft", None): getattr(mean["ttft_ms"], end) / 1e3,
        ("tpot", None): getattr(mean["tpot_ms"], end) / 1e3,
        ("latency", None): getattr(mean["e2e_ms"], end) / 1e3,
        OUTPUT: rate,
        THROUGHPUT: rate * (load.isl + load.osl) / load.osl,
    }
    with np.errstate(invalid="ignore", divide="ignore"):
        share = {
            name: getattr(mean[metric], end) / mean[metric].value
            for name, metric in (("ttft", "ttft_ms"), ("tpot", "tpot_ms"), ("latency", "e2e_ms"))
        }
    spread = percentiles(found.service, _PERCENTILES)
    for each in _PERCENTILES:
        ttft_s, tpot_s = spread["ttft_s"][each], spread["tpot_s"][each]
        whole_s = ttft_s + tpot_s * (load.osl - 1.0) if each > 50 else found.service.e2e_median_s
        for name, values in (("ttft", ttft_s), ("tpot", tpot_s), ("latency", whole_s)):
            figures[name, f"p{each}"] = values * share[name]
    return figures
