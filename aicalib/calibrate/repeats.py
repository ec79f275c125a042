"""Repeats of a point: what the occasion of a measurement changes, and the noise that is left between repeats.

An engine that is started again is a little faster or slower as a whole: its pages lie elsewhere, the machine is warmer,
neighbors are busier. So log(measured) is the sum of the point's own level, of a factor that all runs of one occasion
(an engine start, a session) share, and of noise; points repeated at several occasions tell the three apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from aicalib.calibrate.levels import FREEDOM, LEAST, MOST, ROUNDS
from aicalib.calibrate.records import occasion, point
from aicalib.calibrate.runs import Runs
from aicalib.calibrate.shift import REPEATS
from aicalib.nearness import LEVELED

Array = NDArray[np.float64]
Codes = NDArray[np.intp]

PRIOR_FREEDOM: Final = (4.0, 1.0)
"""Degrees of freedom that `REPEATS` counts for beside what is seen, as the prior of the noise and of what occasions
differ by. Published sources repeat points under control, so the noise is known to begin with; how far two
occasions lie apart is a machine's own: 1 % on an idle cluster, 25 % on a shared host."""


class TwoWay(NamedTuple):
    """Logarithms as the sum of a point, an occasion and noise.

    Attributes
    ----------
    factors : ndarray, shape (occasions,)
        Logarithm of what all runs of an occasion are off by, shrunk to 0; 0 where no point was repeated at another.
    between, noise : float
        Standard deviation of an occasion's factor, and scale of the noise between repeats.
    """

    factors: Array
    between: float
    noise: float


@dataclass(frozen=True)
class Spread:
    """What repeats on one accelerator say of a metric.

    Attributes
    ----------
    noise, between : float
        As `TwoWay` has them; the published floors where nothing was repeated.
    repeats : int
        Runs of points beyond the first run of each.
    occasions : int
        At which points were measured that were measured at others too.
    factors : mapping of str to float
        Of these occasions.
    """

    noise: float
    between: float
    repeats: int = 0
    occasions: int = 0
    factors: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        factors = {name: round(value, 4) for name, value in sorted(self.factors.items())}
        return {
            "noise": float(f"{self.noise:.3g}"),
            "between_occasions": float(f"{self.between:.3g}"),
            "repeats": self.repeats,
            "occasions": self.occasions,
            "log_factors": factors,
        }


@dataclass(frozen=True)
class Repeats:
    """What repeats say, by accelerator and metric.

    Attributes
    ----------
    spreads : mapping of (str, str) to Spread
        (accelerator, metric) -> what repeats say; nothing where there are none.
    """

    spreads: Mapping[tuple[str, str], Spread]

    def spread(self, gpu: str, metric: str) -> Spread:
        """Return what repeats on an accelerator say of a metric, the published floors where there are none."""
        return self.spreads.get((gpu, metric), Spread(REPEATS[metric], REPEATS[metric]))

    def factors(self, runs: Runs, metric: str) -> Array:
        """Return the logarithm of the factor of each run's occasion, 0 where it is not known, shape (n,)."""
        where = zip(runs.groups, runs.answered, strict=True)
        return np.array(
            [
                self.spread(group[2], metric).factors.get(occasion(record) or "", 0.0)
                for group, record in where
            ]
        )

    def scatter(self, runs: Runs, metric: str, known: Mapping[str, Mapping[str, float]]) -> Array:
        """Return the variance of each run's noise over that of a profile's runs, at least 1, shape (n,).

        Parameters
        ----------
        runs : Runs
        metric : str
        known : mapping
            `Profile.spreads`: its noise is that of a run about its curve, what the physics misses along the curve
            included, so that repeats can show it to be more, never less.
        """
        result = np.ones(len(runs.groups))
        for at, group in enumerate(runs.groups):
            if metric in known and (group[2], metric) in self.spreads:
                result[at] = max(1.0, self.spreads[group[2], metric].noise / known[metric]["noise"]) ** 2
        return result

    def words(self) -> list[str]:
        """Say of each accelerator and metric what repeats differ by, and where occasions differ by more."""
        return [
            f"{gpu} {metric}: noise of {_percent(each.noise)} between repeats (of which there are {each.repeats})"
            + (
                f", factors of {each.occasions} occasions scatter by {_percent(each.between)}: they are taken out"
                if each.between > each.noise
                else ""
            )
            for (gpu, metric), each in sorted(self.spreads.items())
        ]

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Return accelerator -> metric -> spread, as JSON has it."""
        found: dict[str, dict[str, Any]] = defaultdict(dict)
        for (gpu, metric), each in sorted(self.spreads.items()):
            found[gpu][metric] = each.as_dict()
        return dict(found)


def _percent(log_scale: float) -> str:
    return f"{100.0 * np.expm1(log_scale):.2g} %"


def repeats_of(runs: Runs) -> Repeats:
    """Return what repeated points among runs say of occasions and noise.

    Parameters
    ----------
    runs : Runs
        n stored runs; those that carry no `occasion` say nothing, since what they differ by may be anything.
    """
    places: list[tuple[Hashable, ...] | None] = []
    for record in runs.answered:
        where, when = point(record), occasion(record)
        places.append(None if where is None or when is None else where)
    spreads: dict[tuple[str, str], Spread] = {}
    for metric in LEVELED:
        measured, median = runs.measured[metric], runs.median[metric]
        by_gpu: dict[str, dict[Hashable, list[int]]] = defaultdict(lambda: defaultdict(list))
        for at, (place, group) in enumerate(zip(places, runs.groups, strict=True)):
            if place is not None and np.isfinite(measured[at]):
                by_gpu[group[2]][place, bool(median[at])].append(at)  # a mean is not held against a median
        for gpu, points in by_gpu.items():
            repeated = [rows for rows in points.values() if len(rows) > 1]
            if repeated:
                spreads[gpu, metric] = _spread(runs, metric, repeated)
    return Repeats(spreads)


def _spread(runs: Runs, metric: str, repeated: Sequence[Sequence[int]]) -> Spread:
    """Return what repeated points, each given by its runs, say of a metric."""
    rows = np.array([row for of_point in repeated for row in of_point], dtype=np.intp)
    points = np.repeat(np.arange(len(repeated)), [len(of_point) for of_point in repeated])
    records = runs.answered
    names = [occasion(records[row]) or "" for row in rows]
    known = sorted(set(names))
    at = np.array([known.index(name) for name in names], dtype=np.intp)
    found = two_way(np.log(runs.measured[metric][rows]), points, at, REPEATS[metric])
    shared = {at[k] for k in range(rows.size) if np.any(at[points == points[k]] != at[k])}
    factors = {known[each]: float(found.factors[each]) for each in sorted(shared)}
    return Spread(found.noise, found.between, rows.size - len(repeated), len(shared), factors)


def two_way(logs: Array, points: Codes, occasions: Codes, prior: float) -> TwoWay:
    """Split logarithms of repeated points into point, occasion and noise.

    Parameters
    ----------
    logs : ndarray, shape (n,)
        log(measured).
    points, occasions : ndarray of int, shape (n,)
        Of each run, from 0.
    prior : float
        What repeats are expected to differ by, as a standard deviation; the noise is never less.

    Notes
    -----
    Points are free, factors of occasions normal about 0, noise is Student's t. Variances maximize the restricted
    likelihood (Patterson and Thompson 1971, doi:10.1093/biomet/58.3.545), which does not take them for smaller since
    each point's level was fitted, times scaled inverse chi-squared priors; the factors are the best linear unbiased
    predictors under them. Weights of runs are as in `aicalib.calibrate.levels.shrunk`.
    """
    count, (noise_freedom, between_freedom) = int(points.max()) + 1, PRIOR_FREEDOM
    incidence = np.eye(int(occasions.max()) + 1)[occasions]
    weight = np.ones(logs.size)

    def about(values: Array) -> Array:
        """Return values less their weighted mean over their point."""
        total = np.bincount(points, weight, count)
        columns = values.reshape(logs.size, -1).T
        means = np.array([np.bincount(points, weight * column, count) / total for column in columns])
        result: Array = values - means[:, points].T.reshape(values.shape)
        return result

    def factors(parameters: Array) -> tuple[Array, Array]:
        """Return the mean of the factors and their covariance, given the variances."""
        noise, between = np.exp(parameters)
        inverse = np.linalg.inv((away.T * weight) @ away / noise + np.eye(away.shape[1]) / between)
        return inverse @ (away.T @ (weight * off)) / noise, inverse

    def cost(parameters: Array) -> float:
        noise, between = np.exp(parameters)
        mean, covariance = factors(parameters)
        fit = (np.sum(weight * off**2) - np.sum(weight * off * (away @ mean))) / noise
        _, shrinkage = np.linalg.slogdet(covariance / between)
        prior_cost = noise_freedom * (parameters[0] + prior**2 / noise)
        prior_cost += between_freedom * (parameters[1] + prior**2 / between)
        return float((logs.size - count) * parameters[0] - shrinkage + fit + prior_cost)

    scale = max(float(np.median(np.abs(about(logs)))), prior)
    weight = (FREEDOM + 1.0) / (FREEDOM + (about(logs) / scale) ** 2)
    found = np.log([prior**2, scale**2])
    for _ in range(ROUNDS):
        away, off = about(incidence), about(logs)
        found = minimize(cost, found, method="L-BFGS-B", bounds=[(LEAST, MOST)] * 2).x
        mean, covariance = factors(found)
        rest = off - away @ mean
        total = np.bincount(points, weight, count)
        left = np.exp(found[0]) / total[points] + np.einsum("ij,jk,ik->i", away, covariance, away)
        weight = (FREEDOM + 1.0) / (FREEDOM + (rest**2 + left) / np.exp(found[0]))
    noise, between = np.sqrt(np.exp(found))
    return TwoWay(mean, float(between), max(float(noise), prior))
