"""Intervals: how far left-out runs lie from what was predicted of them, by how near the fitted runs stood.

Each split imitates a distance: who leaves out a curve asks about a new curve of a known configuration. A left-out run
counts under the nearness that it then has. Kernels that were never timed on a GPU are imitated too, by taking away
the GPU's own tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import isotonic_regression

from aicalib.calibrate.levels import curve_keys, levels_of, with_levels
from aicalib.calibrate.runs import Runs
from aicalib.calibrate.validate import SPLITS, LeftOut, answered, folds, left_out
from aicalib.deployment import Identity
from aicalib.errors import NotCovered
from aicalib.hardware import Accelerator, get_accelerator
from aicalib.nearness import FORMAT, LEVELED, NEAR_BY_DEPTH, NEARNESS, Nodes, spans_of
from aicalib.prediction import ANY_ENGINE, predict_batch
from aicalib.profiles import kernels
from aicalib.profiles.profile import METRICS, Profile
from aicalib.resolve.identify import surface_codes

Array = NDArray[np.float64]
Codes = NDArray[np.intp]

COVERAGE = 0.9
"""Share of the runs of a new group that an interval shall hold."""

FEWEST_GROUPS = 10
"""Groups from which on an engine has a scale, and a distance a quantile, of its own: below 9 no error that was seen is
large enough to promise 90 %."""

NEAR_FOLDS = 5
"""Folds of the splits inside of groups."""

IMITATED = {
    "curve": "points of a curve left out, and one fifth of them alone known",
    "configuration": "curves left out, and one fifth of them alone known",
    "group": "configurations left out, and one fifth of them alone known",
    "apart": "model family x GPU left out, both seen elsewhere",
    "new": "model family left out, or model family x GPU of which one is seen nowhere else",
    "kernel-fit": "GPU generation left out, the tables of its kernels kept",
    "extrapolated": "kernels answered from the tables of another GPU of the generation, model family x GPU left out",
    "datasheet": "kernels answered from the mean over all GPUs, GPU generation left out; the GPU's own tables are part "
    "of that mean, and its figures on the datasheet are right: what an unknown GPU adds is not measured",
    "format": "a class of formats of weights, or a width of the cache, left out everywhere, the kernels of 16 bit "
    "instead of its own",
}
"""How each distance was imitated. Queues of open loads and bursts, pipelines and speculation are answered at the width
of "extrapolated", which no left-out run of theirs has tested."""

EXTRAPOLATED, DATASHEET = NEARNESS.index("extrapolated"), NEARNESS.index("datasheet")


@dataclass(frozen=True)
class Imitation:
    """Left-out runs at one distance.

    Attributes
    ----------
    logs : dict of str to ndarray, shape (n,)
        Metric -> log(measured / predicted), NaN where not measured or not imitated.
    near : dict of str to ndarray of int, shape (n,)
        Metric -> place in `NEARNESS`.
    """

    logs: dict[str, Array]
    near: dict[str, Codes]


def imitations(
    runs: Runs,
    group: LeftOut,
    fit: Callable[[Runs], Profile],
    tick: Callable[[], None] = lambda: None,
) -> list[Imitation]:
    """Predict the runs from every distance.

    Parameters
    ----------
    runs : Runs
        n runs.
    group : LeftOut
        What was predicted of them without their groups.
    fit : callable
        Makes the profile of coefficients of some runs.
    tick : callable
        Called after each fit.
    """
    found = [of_left_out(runs, group)]
    farther = {}
    for split in ("family", "generation"):
        if len(set(SPLITS[split](runs))) > 1:
            farther[split] = left_out(runs, split, fit, tick=tick)
            found.append(of_left_out(runs, farther[split]))
    found += _inside(runs, group)
    for near, other, base in (
        (EXTRAPOLATED, _relative, group),
        (DATASHEET, _untimed, farther.get("generation", group)),
    ):
        strange = with_tables_of(runs, other)
        if strange is not None:
            chosen, part = strange
            left = answered(part, base.fold[chosen], base.profiles)
            found.append(at_distance(near, runs, chosen, part, left))
    return found


def _residuals(runs: Runs, found: LeftOut) -> dict[str, Array]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return {metric: np.log(runs.measured[metric] / found.values[metric]) for metric in METRICS}


def at_distance(near: int, runs: Runs, chosen: Codes, part: Runs, found: LeftOut) -> Imitation:
    """Return the errors of some of n runs, all at one distance.

    Parameters
    ----------
    near : int
        Place in `NEARNESS`.
    runs : Runs
        n runs.
    chosen : ndarray of int, shape (m,)
        Which of them were answered.
    part : Runs
        Those, as they were asked.
    found : LeftOut
        The answers.
    """
    n = runs.batch.at.size
    logs = {metric: np.full(n, np.nan) for metric in METRICS}
    for metric, values in _residuals(part, found).items():
        logs[metric][chosen] = values
    return Imitation(logs, {metric: np.full(n, near) for metric in METRICS})


def of_left_out(runs: Runs, found: LeftOut) -> Imitation:
    """Return the errors of runs that a split left out, each under the nearness that it had to its fold's profile."""
    near = {metric: np.zeros(runs.batch.at.size, dtype=np.intp) for metric in METRICS}
    for number, profile in enumerate(found.profiles):
        out = np.flatnonzero(found.fold == number)
        predicted = predict_batch(runs.batch.take(out), profile)
        for metric in METRICS:
            near[metric][out] = predicted.nearness(metric)
    return Imitation(_residuals(runs, found), near)


def _inside(runs: Runs, group: LeftOut) -> Iterator[Imitation]:
    """Yield the errors of runs whose group is known from some of its runs: configurations, curves, points left out.

    The coefficients stay those that did not see the group, as those of a profile that a team's first runs of a new
    group are added to. Each fold is left out, and is also the only one seen: levels from few runs are less sure.
    """
    logs, curves = _residuals(runs, group), curve_keys(runs.batch)
    _, deviations = levels_of(logs, curves)
    points = np.zeros(len(curves), dtype=np.intp)
    random = np.random.default_rng(0)
    for curve in sorted(set(curves)):
        at = np.flatnonzero(np.array(curves, dtype=object) == curve)
        points[at] = (random.permutation(at.size) + random.integers(NEAR_FOLDS)) % NEAR_FOLDS
    for fold in (*(folds(SPLITS[split](runs), NEAR_FOLDS) for split in ("configuration", "curve")), points):
        for only in (False, True):
            for number in range(int(fold.max()) + 1):
                out = (fold != number) if only else (fold == number)
                yield _revealed(runs, group, logs, curves, ~out, deviations)


def _revealed(
    runs: Runs,
    group: LeftOut,
    logs: Mapping[str, Array],
    curves: list[str],
    seen: NDArray[np.bool_],
    deviations: Mapping[str, Mapping[str, float]],
) -> Imitation:
    """Return the errors of the other runs after the levels of some are known, in groups that those are of."""
    known, _ = levels_of(
        {metric: np.where(seen, logs[metric], np.nan) for metric in LEVELED}, curves, deviations
    )
    at = np.flatnonzero(seen)
    found = Nodes(known, spans_of([curves[place] for place in at], runs.batch.load.concurrency[at])).find(
        runs.batch
    )
    predicted = with_levels(group.values, found)
    depth = {metric: found.depth_of(metric) for metric in METRICS}
    return Imitation(
        {
            metric: np.where(
                seen | (depth[metric] < 0), np.nan, np.log(runs.measured[metric] / predicted[metric])
            )
            for metric in METRICS
        },
        {metric: NEAR_BY_DEPTH[depth[metric]] for metric in METRICS},
    )


@dataclass(frozen=True)
class _Untimed(Accelerator):
    """An accelerator as if no kernel was timed on its generation."""

    @property
    def generation(self) -> str | None:
        return None


def _untimed(who: Identity) -> Identity:
    return replace(who, accelerator=_Untimed(**(vars(who.accelerator) | {"name": "untimed"})))


def _relative(who: Identity) -> Identity | None:
    """Return a deployment on its GPU under the name of its nearest relative with kernels of its own, None without."""
    names = {name for name, _ in kernels.labels("gemm")} - {kernels.ANY, who.accelerator.name}
    donor = kernels.donor(who.accelerator, [get_accelerator(name) for name in sorted(names)])
    return None if donor is None else replace(who, accelerator=replace(who.accelerator, name=donor.name))


def with_tables_of(runs: Runs, other: Callable[[Identity], Identity | None]) -> tuple[Codes, Runs] | None:
    """Return runs whose kernels are answered as if they were another deployment's, and which they are.

    Parameters
    ----------
    runs : Runs
    other : callable
        Names that deployment: on another accelerator, in other formats; None leaves the runs of this one out.

    Notes
    -----
    Bytes, math and datasheet stay the deployment's own.
    """
    batch = runs.batch
    codes: dict[int, dict[str, int]] = {}
    for place in set(batch.codes.tolist()):
        who: Identity = batch.identities[place]
        named = other(who)
        try:
            if named is not None:
                found = surface_codes(named)
                codes[place] = {name: code for name, (code, _) in found.items()}
        except NotCovered:
            continue  # no kernel of that format was timed elsewhere: nothing to imitate with
    chosen = np.flatnonzero(np.isin(batch.codes, list(codes)))
    if not chosen.size:
        return None
    surfaces = {
        name: np.array(
            [codes.get(who, {}).get(name, old) for who, old in zip(batch.who.tolist(), olds, strict=True)]
        )
        for name, olds in batch.system.surfaces.items()
    }
    # Step times are kept by who is asked about: these have others than the same names with their own kernels.
    names = [replace(who) for who in batch.identities]
    strange = replace(batch, identities=names, system=replace(batch.system, surfaces=surfaces))
    return chosen, replace(runs, batch=strange).take(chosen)


def conformal(errors: Array, groups: Codes, coverage: float = COVERAGE) -> float:
    """Return the error that a run of a new group stays within; the largest seen where there are too few groups to tell.

    Parameters
    ----------
    errors : ndarray, shape (n,)
        |log(measured / predicted)| of left-out runs.
    groups : ndarray of int, shape (n,)
        Their groups.

    Notes
    -----
    A weighted quantile in which a group of m runs counts as sqrt(m), and a group of the mean weight stands at infinity
    for the one that is asked about (split conformal prediction over groups: Dunn, Wasserman and Ramdas, 2022, give
    each group the same weight; by the root neither two large groups nor dozens of two runs each decide).
    """
    weights, total = _weights(groups)
    order = np.argsort(errors)
    at = int(np.searchsorted(np.cumsum(weights[order]), coverage * total - 1e-12))
    return float(errors[order][min(at, errors.size - 1)])


def _weights(groups: Codes) -> tuple[Array, float]:
    """Return the weight of each run, and that of all of them with one group more."""
    _, code, count = np.unique(groups, return_inverse=True, return_counts=True)
    weights = 1.0 / np.sqrt(count)[code]
    return weights, float(weights.sum() + np.sqrt(count).mean())


def _median(errors: Array, groups: Codes) -> float:
    """Return the weighted median of errors."""
    weights, _ = _weights(groups)
    order = np.argsort(errors)
    return float(errors[order][np.searchsorted(np.cumsum(weights[order]), 0.5 * weights.sum())])


def quantiles(
    runs: Runs, found: list[Imitation], chosen: NDArray[np.bool_]
) -> dict[str, dict[str, dict[str, float]]]:
    """Return the quantiles of each engine, metric and nearness from some of the runs.

    Parameters
    ----------
    runs : Runs
        n runs.
    found : list of Imitation
        The first is that of left-out groups.
    chosen : ndarray of bool, shape (n,)
        Runs that may be looked at.

    Returns
    -------
    dict
        Engine or `ANY_ENGINE` -> metric -> nearness -> quantile.

    Notes
    -----
    Engines differ in how far they lie from the physics, hardly in how that grows with distance, and one may have few
    groups: errors are divided by their engine's median on left-out groups, and the engines share the quantiles of that
    ratio. These are made monotone by isotonic regression: to know less never makes surer. That of formats left out
    takes no part in it, and moves no other: it is its own, or that of the farthest distance where this is wider.
    """
    labels = [group[1:] for group in runs.groups]
    codes = {label: code for code, label in enumerate(sorted(set(labels)))}
    names = np.array([codes[label] for label in labels], dtype=np.intp)
    engines = np.array([group[0] for group in runs.groups], dtype=object)
    result: dict[str, dict[str, dict[str, float]]] = {}
    for metric in METRICS:
        first = np.abs(found[0].logs[metric])
        known = chosen & np.isfinite(first)
        if not known.any():
            continue
        scale = {ANY_ENGINE: _median(first[known], names[known])}
        for engine in sorted(set(engines[known])):
            own = known & (engines == engine)
            enough = np.unique(names[own]).size >= FEWEST_GROUPS
            scale[engine] = _median(first[own], names[own]) if enough else scale[ANY_ENGINE]
        by_run = np.array([scale.get(engine, scale[ANY_ENGINE]) for engine in engines])
        errors = np.concatenate([(np.abs(each.logs[metric]) / by_run)[chosen] for each in found])
        near = np.concatenate([each.near[metric][chosen] for each in found])
        label = np.tile(names[chosen], len(found))
        ratios, sizes, places = [], [], []
        unseen = 0.0
        for place in range(len(NEARNESS)):
            at = np.isfinite(errors) & (near == place)
            groups = np.unique(label[at]).size
            if groups >= min(FEWEST_GROUPS, np.unique(names[known]).size):
                if place == FORMAT:
                    unseen = conformal(errors[at], label[at])
                    continue
                ratios.append(conformal(errors[at], label[at]))
                sizes.append(groups)
                places.append(place)
        if not ratios:
            continue
        smooth = isotonic_regression(np.log(ratios), sample_weight=sizes)
        # A distance that too few groups could be put at takes the width of the next one farther out, the last known.
        filled = np.exp(smooth)[np.minimum(np.searchsorted(places, range(len(NEARNESS))), len(places) - 1)]
        filled[FORMAT] = max(filled[FORMAT], unseen)
        for engine, each in scale.items():
            by = {name: round(float(ratio * each), 4) for name, ratio in zip(NEARNESS, filled, strict=True)}
            result.setdefault(engine, {})[metric] = by
    return result
