"""Levels: what runs of a group, a configuration or a curve have in common that the physics does not say.

The logarithm of measured / predicted is a sum of nested random effects, one a depth of `aicalib.nearness.DEPTHS`, and
noise. Variances are estimated by maximum likelihood; the levels are the shrunk means (best linear unbiased
predictors) under them. Effects and noise are Student's t, so that an odd run or configuration keeps its own figure and
moves its neighbors little.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from aicalib.nearness import DEPTHS, LEVELED, Codes, Levels, paths
from aicalib.profiles.profile import DEPTH_MARK
from aicalib.resolve.batch import Batch

Array = NDArray[np.float64]

FREEDOM = 4.0
"""Degrees of freedom of Student's t: heavy enough tails for runs that a fourth of the figures contradicts."""

ROUNDS = 8
"""Rounds of reweighting: the variances change by less than a per cent after them."""

START = np.log(0.01)
LEAST, MOST = -14.0, 2.0
"""Logarithms of a variance: where its search starts, and between what it may lie."""


@dataclass(frozen=True)
class Variances:
    """Variances of log(measured / predicted): one of each depth, and that of a run about its curve."""

    effects: tuple[float, ...]
    noise: float

    def as_dict(self) -> dict[str, float]:
        """Return the standard deviations by name, as a profile holds them."""
        named = dict(zip((*DEPTHS, "noise"), np.sqrt([*self.effects, self.noise]), strict=True))
        return {name: float(f"{value:.4g}") for name, value in named.items()}

    @staticmethod
    def of(named: Mapping[str, float]) -> Variances:
        """Read what `as_dict` writes."""
        return Variances(tuple(named[name] ** 2 for name in DEPTHS), named["noise"] ** 2)


@dataclass(frozen=True)
class Tree:
    """Runs in their places: at each depth the keys, the place above each key, and the curve of each run."""

    keys: list[list[str]]
    parents: list[Codes]
    curve: Codes

    @staticmethod
    def of(curves: list[str]) -> Tree:
        """Return the tree of runs whose curves are named by their keys."""
        paths_ = sorted(set(curves))
        names = [[key.split(DEPTH_MARK)[: depth + 1] for key in paths_] for depth in range(len(DEPTHS))]
        keys = [sorted({DEPTH_MARK.join(name) for name in level}) for level in names]
        places = [{key: at for at, key in enumerate(level)} for level in keys]
        parents = [np.zeros(len(keys[0]), dtype=np.intp)]
        for depth in range(1, len(DEPTHS)):
            above = places[depth - 1]
            parents.append(
                np.array([above[key.rpartition(DEPTH_MARK)[0]] for key in keys[depth]], dtype=np.intp)
            )
        return Tree(keys, parents, np.array([places[-1][curve] for curve in curves], dtype=np.intp))

    def take(self, chosen: NDArray[np.bool_]) -> Tree:
        """Return the tree of some of the runs."""
        return Tree.of([self.keys[-1][code] for code in self.curve[chosen]])


def curve_keys(batch: Batch) -> list[str]:
    """Return the key of each run's curve."""
    codes, _, keys = paths(batch, np.arange(batch.at.size))[-1]
    return [keys[code] for code in codes]


def _upward(
    logs: Array, noise: Array, effects: list[Array], tree: Tree
) -> tuple[list[Array], list[Array], float]:
    """Return for each depth mean and variance of what each place's runs say of it, and the log likelihood.

    Parameters
    ----------
    logs, noise : ndarray, shape (n,)
        log(measured / predicted) of each run and its variance.
    effects : list of ndarray
        For each depth the variance of each place's effect.
    tree : Tree

    Notes
    -----
    A place's mean is that of its members weighted by precision; seen from above its own effect adds to the variance.
    The likelihood is the product of the densities that each pooling integrates over (up to a constant).
    """
    means: list[Array] = []
    variances: list[Array] = []
    likelihood, values, spread, place = 0.0, logs, noise, tree.curve
    for depth in reversed(range(len(DEPTHS))):
        count = len(tree.keys[depth])
        precision = np.bincount(place, 1.0 / spread, count)
        mean = np.bincount(place, values / spread, count) / precision
        likelihood -= 0.5 * float(np.sum(np.log(spread) + (values - mean[place]) ** 2 / spread))
        likelihood -= 0.5 * float(np.sum(np.log(precision)))
        means.insert(0, mean)
        variances.insert(0, 1.0 / precision)
        values, spread, place = mean, 1.0 / precision + effects[depth], tree.parents[depth]
    likelihood -= 0.5 * float(np.sum(np.log(spread) + values**2 / spread))
    return means, variances, likelihood


def _downward(
    means: list[Array], variances: list[Array], effects: list[Array], tree: Tree
) -> tuple[list[Array], list[Array], list[Array]]:
    """Return for each depth the level of each place, its own effect in it, and that effect's variance."""
    levels: list[Array] = []
    own: list[Array] = []
    left: list[Array] = []
    for depth in range(len(DEPTHS)):
        above = levels[-1][tree.parents[depth]] if depth else np.zeros(means[0].size)
        share = effects[depth] / (effects[depth] + variances[depth])
        own.append(share * (means[depth] - above))
        left.append(share * variances[depth])
        levels.append(above + own[-1])
    return levels, own, left


def shrunk(
    logs: Array, tree: Tree, variances: Variances | None = None, scatter: Array | None = None
) -> tuple[list[Array], Variances]:
    """Return the level of each place, and the variances.

    Parameters
    ----------
    logs : ndarray, shape (n,)
        log(measured / predicted) of each run.
    tree : Tree
        Of the n runs.
    variances : Variances, optional
        Estimated where not given.
    scatter : ndarray, shape (n,), optional
        Of runs that scatter otherwise than most: variance of their noise over that of `variances`.

    Returns
    -------
    levels : list of ndarray
        For each depth, in the order of `tree.keys`; a level contains those above it.
    variances : Variances

    Notes
    -----
    Student's t is a normal distribution of unknown scale: each effect and each run has a weight
    (f + 1) / (f + E[effect^2] / variance), by which its variance is divided (Lange, Little and Taylor, 1989).
    """
    apart = np.ones(logs.size) if scatter is None else scatter
    weight = 1.0 / apart
    weights = [np.ones(len(keys)) for keys in tree.keys]
    found = np.full(len(DEPTHS) + 1, START)
    if variances is not None:
        found = np.log(np.maximum([*variances.effects, variances.noise], np.exp(LEAST)))

    def spread(parameters: Array) -> tuple[Array, list[Array]]:
        *effects, noise = np.exp(parameters)
        return noise / weight, [each / own for each, own in zip(effects, weights, strict=True)]

    def cost(parameters: Array) -> float:
        noise, effects = spread(parameters)
        return -_upward(logs, noise, effects, tree)[2]

    for _ in range(ROUNDS):
        if variances is None:
            found = minimize(cost, found, method="L-BFGS-B", bounds=[(LEAST, MOST)] * found.size).x
        noise, effects = spread(found)
        means, errors, _ = _upward(logs, noise, effects, tree)
        levels, own, left = _downward(means, errors, effects, tree)
        *scales, scale = np.exp(found)
        weights = [
            (FREEDOM + 1.0) / (FREEDOM + (each**2 + rest) / at)
            for each, rest, at in zip(own, left, scales, strict=True)
        ]
        beside = logs - levels[-1][tree.curve]
        odd = (beside**2 + left[-1][tree.curve]) / (scale * apart)
        weight = (FREEDOM + 1.0) / (FREEDOM + odd) / apart
    *scales, scale = np.exp(found)
    return levels, Variances(tuple(float(each) for each in scales), float(scale))


def levels_of(
    logs: Mapping[str, Array],
    curves: list[str],
    known: Mapping[str, Mapping[str, float]] | None = None,
    scatter: Mapping[str, Array] | None = None,
) -> tuple[dict[str, dict[str, tuple[float, int]]], dict[str, dict[str, float]]]:
    """Return the levels of all metrics by key, and their standard deviations by depth.

    Parameters
    ----------
    logs : mapping
        Metric -> log(measured / predicted) of each run, NaN where it was not measured.
    curves : list of str
        Key of each run's curve.
    known : mapping, optional
        Standard deviations of another fit, which are kept: a handful of runs has none of its own.
    scatter : mapping, optional
        Metric -> as `shrunk` takes it, shape (n,).

    Returns
    -------
    levels : dict
        Metric -> key -> (logarithm of the factor on the prediction, number of runs).
    deviations : dict
        Metric -> depth or "noise" -> standard deviation of the logarithm.
    """
    levels: dict[str, dict[str, tuple[float, int]]] = {}
    deviations: dict[str, dict[str, float]] = {}
    whole = Tree.of(curves) if curves else None
    for metric in LEVELED:
        measured = np.isfinite(logs[metric])
        if whole is None or not measured.any() or (known is not None and metric not in known):
            continue
        tree = whole.take(measured)
        given = None if known is None else Variances.of(known[metric])
        apart = None if scatter is None else scatter[metric][measured]
        found, variances = shrunk(logs[metric][measured], tree, given, apart)
        deviations[metric] = variances.as_dict()
        counts = [np.bincount(tree.curve, minlength=len(tree.keys[-1]))]
        for depth in reversed(range(1, len(DEPTHS))):
            counts.insert(0, np.bincount(tree.parents[depth], counts[0], len(tree.keys[depth - 1])))
        levels[metric] = {
            key: (round(float(level), 4), int(runs))
            for keys, values, sizes in zip(tree.keys, found, counts, strict=True)
            for key, level, runs in zip(keys, values, sizes, strict=True)
        }
    return levels, deviations


def with_levels(values: Mapping[str, Array], found: Levels) -> dict[str, Array]:
    """Return TTFT, TPOT, end-to-end time and throughput of a closed loop with the levels of n questions applied.

    What `aicalib.nearness.levelled` does to a service, for figures that were predicted without levels.
    """
    ttft, tpot = (np.exp(found.log[metric]) for metric in ("ttft_ms", "tpot_ms"))
    first, whole = values["ttft_ms"], values["e2e_ms"]
    longer = (first * ttft + (whole - first) * tpot) / whole
    factors = {"ttft_ms": ttft, "tpot_ms": tpot, "e2e_ms": longer, "output_tok_s": 1.0 / longer}
    return {metric: values[metric] * factor for metric, factor in factors.items()}
