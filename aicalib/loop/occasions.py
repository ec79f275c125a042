"""What engine starts differ by, and the noise between repeats, told by all runs that carry an occasion.

Repeated points tell both directly (`aicalib.calibrate.repeats`), but a loop has few. Every run says something: what
runs of one occasion are off by together, and the belief about their points does not explain, is the occasion's.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.loop.normal import Normal, gain

Array = NDArray[np.float64]
Codes = NDArray[np.intp]
Flags = NDArray[np.bool_]

BETWEEN: Final = 0.05
"""What occasions are expected to differ by to begin with: in the middle of the 1 % of an idle cluster and the 25 % of
a shared host (`aicalib.calibrate.repeats`), as factors go."""

FREEDOM: Final = 1.0
"""Degrees of freedom of either prior: a few runs outvote it."""

MOST: Final = 100
"""Runs that both are told from: more, evenly chosen, say little that these do not."""

NOISES: Final = np.geomspace(2e-3, 0.4, 24)
BETWEENS: Final = np.geomspace(2e-3, 0.6, 16)
"""Standard deviations of a logarithm over which the posterior is summed: what timers resolve to what is no machine."""


class Scatter(NamedTuple):
    """Standard deviations of log(measured): between repeats at one occasion, and of what an occasion is off by."""

    noise: float
    between: float

    @property
    def anew(self) -> float:
        """Of a measurement at an occasion of its own."""
        return float(np.hypot(self.noise, self.between))


def scatter(off: Array, covariance: Array, together: Flags, expected: float) -> Scatter:
    """Return noise and difference of occasions, estimated by empirical Bayes.

    Parameters
    ----------
    off : ndarray, shape (m,)
        log(measured) less its mean under what was believed before.
    covariance : ndarray, shape (m, m)
        Of the runs themselves, as it was believed before.
    together : ndarray of bool, shape (m, m)
        Whether two runs are of one occasion.
    expected : float
        Noise between published repeats.

    Notes
    -----
    `off` is normal with `covariance` + between^2 `together` + noise^2. Both variances have scaled inverse chi-squared
    priors, about `expected` and `BETWEEN`, and are their posterior means over a grid: the mode would take three
    occasions that happen to be alike for proof that all are.
    """
    told = np.linspace(0, off.size - 1, min(off.size, MOST), dtype=np.intp)
    off, covariance, together = off[told], covariance[np.ix_(told, told)], together[np.ix_(told, told)]
    values, vectors = np.linalg.eigh(covariance + BETWEENS[:, None, None] ** 2 * together)
    turned = np.einsum("bij,i->bj", vectors, off) ** 2
    variance = np.maximum(values, 0.0)[:, None, :] + NOISES[:, None] ** 2
    log_likelihood = -0.5 * np.sum(np.log(variance) + turned[:, None, :] / variance, axis=-1)
    noise_prior, between_prior = (
        -0.5 * FREEDOM * (2.0 * np.log(grid) + (middle / grid) ** 2)
        for middle, grid in ((expected, NOISES), (BETWEEN, BETWEENS))
    )
    posterior = log_likelihood + noise_prior + between_prior[:, None]
    weight = np.exp(posterior - posterior.max())
    weight /= weight.sum()
    return Scatter(
        float(np.sqrt(weight.sum(axis=0) @ NOISES**2)), float(np.sqrt(weight.sum(axis=1) @ BETWEENS**2))
    )


def at_occasions(
    before: Normal,
    at: Codes,
    logs: Array,
    occasions: NDArray[np.str_],
    here: str,
    expected: float,
    most: float = np.inf,
) -> tuple[Normal, Scatter]:
    """Return the distribution of n runs and, last, of the effect of one occasion, after m runs at known occasions.

    Parameters
    ----------
    before : Normal
        Of the n runs.
    at : ndarray of int, shape (m,)
        Which were measured.
    logs, occasions : ndarray, shape (m,)
        What was measured, and at which occasion.
    here : str
        The one occasion.
    expected : float
        Noise between published repeats.
    most : float
        What occasions are taken to differ by at most.
    """
    together = occasions[:, None] == occasions[None, :]
    inner, off = before.covariance[np.ix_(at, at)], logs - before.mean[at]
    spread = scatter(off, inner, together, expected) if at.size else Scatter(expected, 0.0)
    spread = spread._replace(between=min(spread.between, most))
    between = spread.between**2
    n = before.mean.size
    mean, joint = np.append(before.mean, 0.0), np.zeros((n + 1, n + 1))
    joint[:n, :n], joint[n, n] = before.covariance, between
    if at.size:
        across = np.column_stack([before.covariance[at], between * (occasions == here)])
        weights, left = gain(inner + between * together, across, spread.noise)
        mean, joint = mean + weights.T @ off, joint - left
    return Normal(mean, joint), spread
