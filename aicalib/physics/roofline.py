"""Time of one operator from its compute time and its memory time: their smooth maximum."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SHARPNESS = 3.0
"""Exponent of the smooth maximum: where both bind alike the time is 2^(1/3) = 1.26 times either."""


def smooth_maximum(first: Array, second: Array) -> Array:
    """Return (first^p + second^p)^(1/p) with p = `SHARPNESS`, at least the greater of the two.

    The roofline of Williams, Waterman and Patterson (2009) with a rounded corner.

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
