"""Time of one operator from its work: the smooth maximum of compute time and memory time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SHARPNESS = 3.0
"""Exponent of the smooth maximum: where both bind alike the time is 2^(1/3) = 1.26 times either."""


def smooth_maximum(first: Array, second: Array) -> Array:
    """Return (first^p + second^p)^(1/p) with p = `SHARPNESS`, at least the greater of the two.

    Parameters
    ----------
    first, second : ndarray
        Times in seconds, not negative, any shapes that broadcast.
    """
    greater = np.maximum(first, second)
    lesser = np.minimum(first, second)
    ratio = np.divide(lesser, greater, out=np.zeros(np.broadcast(first, second).shape), where=greater > 0)
    result: Array = greater * (1.0 + ratio**SHARPNESS) ** (1.0 / SHARPNESS)
    return result


def operator_time(
    flops: Array, peak_flops_s: Array, compute_efficiency: Array, bytes_: Array, bandwidth_bytes_s: Array,
    memory_efficiency: Array,
) -> Array:  # fmt: skip
    """Return the time in seconds of an operator that does `flops` and moves `bytes_` on one GPU.

    t = smooth_maximum(flops / (peak * e_c), bytes / (bandwidth * e_m)): the roofline of Williams, Waterman
    and Patterson (2009) with the two efficiencies as coefficients and a rounded corner.
    """
    return smooth_maximum(
        flops / (peak_flops_s * compute_efficiency), bytes_ / (bandwidth_bytes_s * memory_efficiency)
    )
