"""Fit of a surface over a grid to scattered points: least absolute deviations with a penalty on bends."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import splu

from aicalib.physics.surface import corners, places

Array = NDArray[np.float64]

ROUNDS = 4
"""Reweighted rounds from least squares towards least absolute deviations."""

SMALLEST = 0.02
"""Residual below which a point weighs no more."""

SLOPE = 0.1
"""Weight of a squared difference between neighbouring knots against that of a squared bend: at knots that no point
reaches the surface levels off instead of going on along its last slope."""

RIDGE = 1e-4
"""Pull of every knot towards zero, so that a knot no point and no neighbour reaches is defined."""


def _design(axes: tuple[Array, ...], points: tuple[Array, ...]) -> sparse.csr_matrix:
    """Return the weights of the knots in each point's interpolated value, shape (points, knots)."""
    shape = tuple(knots.size for knots in axes)
    where = tuple(places(knots, at) for knots, at in zip(axes, points, strict=True))
    rows, columns, weights = [], [], []
    for index, weight in corners(where):
        rows.append(np.arange(weight.size))
        columns.append(np.ravel_multi_index(index, shape))
        weights.append(weight)
    entries = (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns)))
    return sparse.csr_matrix(entries, shape=(points[0].size, int(np.prod(shape))))


def _differences(axes: tuple[Array, ...], weights: tuple[float, ...], order: int) -> sparse.csr_matrix:
    """Return the first or second differences along every axis, weighted, as rows of a matrix over the knots."""
    steps = {1: [-1.0, 1.0], 2: [1.0, -2.0, 1.0]}[order]
    parts = []
    for axis, (knots, weight) in enumerate(zip(axes, weights, strict=True)):
        n = knots.size
        if n <= order:
            continue
        factors = [sparse.identity(each.size, format="csr") for each in axes]
        factors[axis] = sparse.diags(steps, list(range(order + 1)), shape=(n - order, n), format="csr")
        term = factors[0]
        for factor in factors[1:]:
            term = sparse.kron(term, factor, format="csr")
        parts.append(np.sqrt(weight) * term)
    return sparse.vstack(parts, format="csr")


def fit_surface(
    axes: tuple[Array, ...], points: tuple[Array, ...], logs: Array, bend: float | tuple[float, ...] = 1.0
) -> Array:
    """Fit values at the knots.

    Parameters
    ----------
    axes : tuple of d ndarrays
        Knots of each axis, ascending.
    points : tuple of d ndarrays, shape (n,)
        Coordinates of the measurements.
    logs : ndarray, shape (n,)
        What was measured there, as logarithms.
    bend : float or tuple of d floats
        Weight of a squared second difference between neighbouring knots against a squared residual of a point,
        one for all axes or one each.

    Returns
    -------
    ndarray, shape (k_1, ..., k_d)
        Within the range of `logs`: no shape is better or worse than the best and the worst that was measured.
    """
    weights = bend if isinstance(bend, tuple) else (bend,) * len(axes)
    design = _design(axes, points)
    slopes, bends = _differences(axes, weights, 1), _differences(axes, weights, 2)
    smooth = bends.T @ bends + SLOPE * (slopes.T @ slopes) + RIDGE * sparse.identity(design.shape[1])
    trust = np.ones(logs.size)
    values = np.zeros(design.shape[1])
    for _ in range(ROUNDS):
        weighted = design.multiply(trust[:, None]).tocsr()
        values = splu((weighted.T @ design + smooth).tocsc()).solve(weighted.T @ logs)
        trust = 1.0 / np.maximum(np.abs(logs - design @ values), SMALLEST)
        trust /= trust.mean()
    values = np.clip(values, logs.min(), logs.max())
    result: Array = values.reshape([knots.size for knots in axes])
    return result
