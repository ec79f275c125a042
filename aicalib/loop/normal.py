"""A joint normal distribution, and what measurements of some elements make of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

Array = NDArray[np.float64]
Codes = NDArray[np.intp]


class Normal(NamedTuple):
    """A joint normal distribution: mean, shape (n,), and covariance, shape (n, n)."""

    mean: Array
    covariance: Array

    @property
    def deviation(self) -> Array:
        """Standard deviation of each element, shape (n,)."""
        result: Array = np.sqrt(np.maximum(np.diag(self.covariance), 0.0))
        return result

    def take(self, chosen: Codes) -> Normal:
        """Return the distribution of some elements."""
        return Normal(self.mean[chosen], self.covariance[np.ix_(chosen, chosen)])

    def given(self, at: Codes, values: Array, noise: float | Array) -> Normal:
        """Return the distribution after some elements were measured.

        Parameters
        ----------
        at : ndarray of int, shape (m,)
            Which; one may come several times.
        values : ndarray, shape (m,)
        noise : float or ndarray, shape (m,)
            Standard deviation of a measurement.
        """
        if not at.size:
            return self
        weights, left = gain(self.covariance[np.ix_(at, at)], self.covariance[at], noise)
        return Normal(self.mean + weights.T @ (values - self.mean[at]), self.covariance - left)


def gain(inner: Array, across: Array, noise: float | Array) -> tuple[Array, Array]:
    """Return the weights of measurements, and the covariance that they take away."""
    factor = cho_factor(inner + np.diag(np.full(len(inner), noise) ** 2))
    weights = cho_solve(factor, across)
    return weights, across.T @ weights
