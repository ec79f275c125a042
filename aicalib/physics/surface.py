"""A function of a few variables as values at the knots of a grid, with straight lines in between."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Codes = NDArray[np.intp]


class Places(NamedTuple):
    """Where points lie between the knots of one axis: the knot below, and the share of the way to the next."""

    below: Codes
    share: Array


def places(knots: Array, points: Array) -> Places:
    """Return where points lie on an axis; outside of it they count as at its end.

    Parameters
    ----------
    knots : ndarray, shape (k,)
        Ascending, at least two.
    points : ndarray
        Any shape.
    """
    inside = np.clip(points, knots[0], knots[-1])
    below = np.clip(np.searchsorted(knots, inside, side="right") - 1, 0, knots.size - 2)
    return Places(below, (inside - knots[below]) / (knots[below + 1] - knots[below]))


def corners(where: tuple[Places, ...]) -> list[tuple[tuple[Codes, ...], Array]]:
    """Return the corners of the cell around each point, and the weight of each: 2^d of them for d axes."""
    found = []
    for upper in product((0, 1), repeat=len(where)):
        index = tuple(at.below + step for at, step in zip(where, upper, strict=True))
        weight = np.ones(())
        for at, step in zip(where, upper, strict=True):
            weight = weight * (at.share if step else 1.0 - at.share)
        found.append((index, weight))
    return found


def interpolate(values: Array, codes: Codes, axes: tuple[Array, ...], points: tuple[Array, ...]) -> Array:
    """Interpolate one of several surfaces over the same axes, linearly in each variable.

    Parameters
    ----------
    values : ndarray, shape (s, k_1, ..., k_d)
        s surfaces.
    codes : ndarray of int
        Which surface each point is on; broadcasts with the points.
    axes : tuple of d ndarrays
        Knots, ascending.
    points : tuple of d ndarrays
        Coordinates; all broadcast. Outside of the axes the value at the border holds.

    Returns
    -------
    ndarray
        Of the common shape.
    """
    where = tuple(places(knots, at) for knots, at in zip(axes, points, strict=True))
    total = np.zeros(())
    for index, weight in corners(where):
        total = total + weight * values[(codes, *index)]
    return total
