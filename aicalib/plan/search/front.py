"""The Pareto front of two figures, both of which are better the larger they are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def front(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the points that no other point dominates, by falling `first`.

    A point dominates another if it is at least as good in both figures and better in one. Of equal points the one
    that comes first stays.

    Parameters
    ----------
    first, second : ndarray, shape (n,)
        Figures; a point without one of them (NaN) is on no front.

    Returns
    -------
    ndarray of int, shape (m,)
        Places of the points.
    """
    known = np.flatnonzero(~(np.isnan(first) | np.isnan(second)))
    order = known[np.lexsort((known, -second[known], -first[known]))]
    if not order.size:
        return order
    rising = second[order]
    best = np.maximum.accumulate(rising)
    keep = np.ones(order.size, dtype=np.bool_)
    keep[1:] = rising[1:] > best[:-1]
    return order[keep]
