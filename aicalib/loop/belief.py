"""What is believed of runs that were not measured: one joint normal distribution of how far the prediction is off.

The logarithm of measured / predicted (without levels) of TTFT, and of TPOT, is a Gaussian process over runs: nested
random effects with a profile's spreads, as `aicalib.calibrate.levels` has them, and errors that change smoothly with
concurrency, widths and lengths inside of a place (`belief.toml`). Before anything of its group was measured, the
distribution of each run is as wide as the profile's interval; what was measured conditions it exactly.

Runs of one occasion (an engine start) are off by an effect of it together: no part of the runs themselves, but of what
they are expected to measure.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.calibrate.levels import curve_keys
from aicalib.loop.normal import Normal
from aicalib.loop.occasions import BETWEEN, Scatter, at_occasions
from aicalib.nearness import DEPTHS, LEVELED
from aicalib.profiles.profile import DEPTH_MARK
from aicalib.resolve.batch import Batch

Array = NDArray[np.float64]
Codes = NDArray[np.intp]

AXES = ("concurrency", "tp", "isl", "osl")
"""What errors may change smoothly with; distances are in octaves."""

JITTER = 1e-9
"""Variance by which rounding may leave a covariance below 0."""

DEVIATE = 1.6448536269514722
"""Half-width of the 90 % interval of a normal distribution in standard deviations."""


class Smooth(NamedTuple):
    """An error that runs of one place share the more, the nearer they are.

    Attributes
    ----------
    depth : str
        Of `aicalib.nearness.DEPTHS`: runs of different places of this depth share nothing.
    deviation : float
        Standard deviation of the logarithm.
    lengths : tuple of float
        Octaves of each of `AXES` over which it changes; infinite where it does not.
    """

    depth: str
    deviation: float
    lengths: tuple[float, ...]


class Kernel(NamedTuple):
    """Standard deviations of the logarithm of measured / predicted of one metric.

    Attributes
    ----------
    effects : tuple of float
        Of each of `aicalib.nearness.DEPTHS`.
    smooth : tuple of Smooth
    point : float
        Of what is a run's own and comes back when it is measured again.
    noise : float
        Between repeats of one run.
    """

    effects: tuple[float, ...]
    smooth: tuple[Smooth, ...]
    point: float
    noise: float

    @property
    def variance(self) -> float:
        """Variance of a run's error before anything is measured, noise apart."""
        smooth = (each.deviation for each in self.smooth)
        return sum(each**2 for each in (*self.effects, *smooth, self.point))


@dataclass(frozen=True)
class Places:
    """Where n runs stand.

    Attributes
    ----------
    curves : tuple of str
        Key of the curve of each.
    octaves : ndarray, shape (n, 4)
        log2 of each of `AXES`.
    """

    curves: tuple[str, ...]
    octaves: Array

    @staticmethod
    def of(batch: Batch) -> Places:
        """Return where the rows of a batch stand."""
        load = batch.load
        axes = (load.concurrency, batch.system.tp[batch.at], load.isl, load.osl)
        keys = curve_keys(batch) if batch.at.size else []
        return Places(tuple(keys), np.log2(np.column_stack(axes)))

    def and_(self, other: Places) -> Places:
        """Return these and further ones."""
        return Places((*self.curves, *other.curves), np.vstack([self.octaves, other.octaves]))

    def take(self, chosen: Codes) -> Places:
        """Return some of them, in that order."""
        return Places(tuple(self.curves[at] for at in chosen), self.octaves[chosen])

    @cached_property
    def codes(self) -> list[Codes]:
        """For each depth the number of each run's place, shape (n,)."""
        parts = [curve.split(DEPTH_MARK) for curve in self.curves]
        found = []
        for depth in range(1, len(DEPTHS) + 1):
            known: dict[tuple[str, ...], int] = {}
            keys = [tuple(each[:depth]) for each in parts]
            found.append(np.array([known.setdefault(key, len(known)) for key in keys], dtype=np.intp))
        return found


def covariance(places: Places, kernel: Kernel) -> Array:
    """Return the covariance of the errors of n runs before anything is measured, shape (n, n)."""
    same = [codes[:, None] == codes[None, :] for codes in places.codes]
    total = kernel.point**2 * np.eye(len(places.curves))
    for deviation, together in zip(kernel.effects, same, strict=True):
        total += deviation**2 * together
    apart = (places.octaves[:, None, :] - places.octaves[None, :, :]) ** 2
    for each in kernel.smooth:
        near = np.exp(-0.5 * apart @ np.array(each.lengths) ** -2.0)
        total += each.deviation**2 * near * same[DEPTHS.index(each.depth)]
    return total


class Observed(NamedTuple):
    """Runs that were measured.

    Attributes
    ----------
    places : Places
        Where each of m runs stands.
    logs : mapping of str to ndarray, shape (m,)
        Metric -> log(measured / predicted) without levels, NaN where not measured.
    row : ndarray of int, shape (m,)
        Which of the runs that are asked about it is a measurement of, -1 for another run.
    occasions : tuple of str or None, length m
        The engine start that each was measured at, None where that is not recorded; empty where it is of none.
    """

    places: Places
    logs: Mapping[str, Array]
    row: Codes
    occasions: tuple[str | None, ...] = ()

    @property
    def named(self) -> NDArray[np.str_]:
        """The occasion of each, "" where that is not recorded, shape (m,)."""
        return np.array([each or "" for each in self.occasions or [None] * self.row.size], dtype=str)

    def and_(self, other: Observed) -> Observed:
        """Return these and further ones."""
        logs = {metric: np.concatenate([self.logs[metric], other.logs[metric]]) for metric in self.logs}
        row = np.concatenate([self.row, other.row])
        occasions = (*self.named.tolist(), *other.named.tolist())
        return Observed(self.places.and_(other.places), logs, row, occasions)


class Up(NamedTuple):
    """The engine that is up: its occasion, and which of the runs that are asked about it can measure, shape (n,)."""

    occasion: str
    runs: NDArray[np.bool_]


class Believed(NamedTuple):
    """What is believed of n runs, of one metric.

    Attributes
    ----------
    runs : Normal
        log(measured / predicted) of the runs themselves, at no occasion in particular.
    mean, deviation : ndarray, shape (n,)
        Of what each is expected to measure: on the engine that is up, or else at an occasion of its own.
    scatter : Scatter
        Of measurements.
    """

    runs: Normal
    mean: Array
    deviation: Array
    scatter: Scatter


Belief = Mapping[str, Normal]
"""Metric, TTFT and TPOT -> the distribution of log(measured / predicted) of n runs."""


def believe(
    places: Places, widths: Mapping[str, Array], kernels: Mapping[str, Kernel], observed: Observed
) -> Belief:
    """Return what is believed of n runs themselves; parameters as `foresee` takes them."""
    return {metric: each.runs for metric, each in foresee(places, widths, kernels, observed).items()}


def foresee(
    places: Places,
    widths: Mapping[str, Array],
    kernels: Mapping[str, Kernel],
    observed: Observed,
    up: Up | None = None,
) -> dict[str, Believed]:
    """Return what is believed of n runs, and what they are expected to measure, by metric.

    Parameters
    ----------
    places : Places
        Of the n runs.
    widths : mapping of str to ndarray, shape (n,)
        Metric -> log(high / value) of the profile's interval where nothing near was measured.
    kernels : mapping of str to Kernel
    observed : Observed
        What was measured, in any order; runs of other groups say nothing.
    up : Up, optional
        The engine that is up; none is if not given.

    Notes
    -----
    The kernel says how errors go together, the interval how large they are: a profile's spreads are scales of Student's
    t, whose tails a normal distribution of the same 90 % interval has to cover.
    """
    groups = {curve.split(DEPTH_MARK)[0] for curve in places.curves}
    same = np.array([each.split(DEPTH_MARK)[0] in groups for each in observed.places.curves], dtype=bool)
    found = {}
    for metric, kernel in kernels.items():
        known = np.flatnonzero(same & np.isfinite(observed.logs[metric]))
        # The order of rows in a store means nothing, and rounding shall not depend on it.
        order = np.lexsort((observed.logs[metric][known], np.array(observed.places.curves, dtype=str)[known]))
        known = known[order]
        n, row = len(places.curves), observed.row[known]
        others = known[row < 0]
        both = places.and_(observed.places.take(others))
        prior = as_wide(covariance(both, kernel), _full(widths[metric], others.size), kernel.noise)
        at = row.copy()
        at[row < 0] = np.arange(n, n + others.size)
        logs, named = observed.logs[metric][known], observed.named[known]
        own = named != ""
        published = Normal(np.zeros(len(prior)), prior).given(at[~own], logs[~own], kernel.noise)
        joint, spread = at_occasions(
            published, at[own], logs[own], named[own], up.occasion if up else "", kernel.noise
        )
        # Starts measured once each may differ by their occasions or themselves: a choice takes large differences for
        # their own, as it would else stay with what was predicted, whatever is measured.
        chosen, _ = at_occasions(published, at[own], logs[own], named[own], "", kernel.noise, BETWEEN)
        going = up.runs if up else np.zeros(n, dtype=bool)
        variance, effect = np.diag(joint.covariance), joint.covariance[:n, -1]
        started = np.where(going, variance[-1] + 2.0 * effect, spread.between**2)
        found[metric] = Believed(
            Normal(chosen.mean[:n], chosen.covariance[:n, :n]),
            joint.mean[:n] + going * joint.mean[-1],
            np.sqrt(np.maximum(variance[:n] + started, 0.0) + spread.noise**2),
            spread,
        )
    return found


def _full(widths: Array, further: int) -> Array:
    """Return the widths of runs and of further ones in their group, which are as wide as the runs on average."""
    return np.concatenate([widths, np.full(further, np.exp(np.log(widths).mean()))])


def as_wide(prior: Array, widths: Array, noise: float) -> Array:
    """Return a covariance whose elements, with the noise of a measurement, are as wide as intervals are.

    Parameters
    ----------
    prior : ndarray, shape (n, n)
    widths : ndarray, shape (n,)
        log(high / value) of 90 % intervals.
    noise : float
        Standard deviation between repeats.
    """
    wanted = np.maximum((widths / DEVIATE) ** 2 - noise**2, noise**2)
    scale = np.sqrt(wanted / np.diag(prior))
    result: Array = prior * np.outer(scale, scale)
    return result


def kernels_of(
    spreads: Mapping[str, Mapping[str, float]],
    noise: Mapping[str, float] | None = None,
    shapes: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Kernel]:
    """Return the kernels of TTFT and TPOT under a profile's spreads.

    Parameters
    ----------
    spreads : mapping
        As `Profile.spreads` holds them.
    noise : mapping, optional
        Metric -> standard deviation between repeats of the logarithm, where it was measured.
    shapes : mapping, optional
        Metric -> what `belief.toml` says of it; that file's if not given.
    """
    table, given = shapes or _table(), noise or {}
    return {
        metric: _kernel(spreads[metric], table[metric], given.get(metric, table[metric]["noise"]))
        for metric in LEVELED
        if metric in spreads
    }


def _kernel(spread: Mapping[str, float], shape: Mapping[str, Any], noise: float) -> Kernel:
    effects = tuple(spread[depth] for depth in DEPTHS)
    whole = float(np.sqrt(np.sum(np.square(effects))))
    smooth = tuple(
        Smooth(each["depth"], each["share"] * whole, tuple(each.get(axis, np.inf) for axis in AXES))
        for each in shape.get("smooth", ())
    )
    return Kernel(effects, smooth, shape["point"] * spread["noise"], noise)


@cache
def _table() -> Mapping[str, Any]:
    return tomllib.loads(files("aicalib.loop").joinpath("belief.toml").read_text(encoding="utf-8"))


def sample(belief: Belief, draws: Mapping[str, Array]) -> dict[str, Array]:
    """Return samples of each metric's errors, shape (s, n).

    Parameters
    ----------
    belief : Belief
    draws : mapping of str to ndarray, shape (s, n)
        Standard normal numbers: the same ones for what is to be compared.
    """
    found = {}
    for metric, (mean, spread) in belief.items():
        root = np.linalg.cholesky(spread + JITTER * np.eye(mean.size))
        found[metric] = mean + draws[metric] @ root.T
    return found


def draws_of(metrics: Sequence[str], samples: int, n: int, seed: int = 0) -> dict[str, Array]:
    """Return standard normal numbers for `sample`: pairs of opposite ones, so that their mean is 0."""
    random = np.random.default_rng(seed)
    half = {metric: random.standard_normal((samples // 2, n)) for metric in metrics}
    return {metric: np.vstack([each, -each]) for metric, each in half.items()}
