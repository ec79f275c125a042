"""The learning curve: what a team's first runs are worth in a group that the profile has not seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from aicalib.calibrate.build import fitted
from aicalib.calibrate.levels import curve_keys, levels_of, with_levels
from aicalib.calibrate.runs import Runs
from aicalib.calibrate.score import Score, score
from aicalib.calibrate.validate import SPLITS, LeftOut, left_out
from aicalib.nearness import LEVELED, Nodes, nearness, spans_of
from aicalib.prediction import interval_factors, predict_batch
from aicalib.profiles.profile import METRICS, uncalibrated

Array = NDArray[np.float64]
Codes = NDArray[np.intp]

REVEALED = (1, 3, 10, 30)
"""Runs of a group that are revealed."""

DRAWS = 5
"""Times that they are drawn anew."""

CURVE = "one of each curve"
"""The other way to reveal: one run of each curve."""


class Step(TypedDict):
    """Errors of one engine and metric after some runs of each left-out group are known; fractions.

    `n` runs of `groups` groups were predicted, none of them revealed. `uncalibrated`, `base` and `own` are median
    absolute errors on the same runs: of the priors, of a profile without the group, and of that with the revealed
    runs; `within_20` and `coverage_90` (None where the base has no intervals) are of the last. Each is the median
    over draws.
    """

    engine: str
    metric: str
    revealed: str
    n: int
    groups: int
    uncalibrated: float
    base: float
    own: float
    within_20: float
    coverage_90: float | None


def learning_curve(
    runs: Runs,
    base: LeftOut | None = None,
    draws: int = DRAWS,
    tick: Callable[[], None] = lambda: None,
) -> list[Step]:
    """Reveal runs of left-out groups and predict the rest of them.

    Parameters
    ----------
    runs : Runs
        n runs.
    base : LeftOut, optional
        Answers of profiles with levels that did not see a run's group; fitted where not given.
    draws : int
        Times that the revealed runs are drawn, with a fixed seed.
    tick : callable
        Called after each fit, and after each draw.

    Returns
    -------
    list of Step
        A group of no more runs of an engine than are revealed is not asked.
    """
    base = base or left_out(runs, "group", fitted, tick=tick)
    plain = predict_batch(runs.batch, uncalibrated())
    alone = {metric: plain.comparable(metric, runs.median[metric]).value for metric in METRICS}
    groups = np.array([" ".join(group) for group in runs.groups], dtype=object)
    curves = np.array([" ".join(label) for label in SPLITS["curve"](runs)], dtype=object)
    engines = np.array([group[0] for group in runs.groups], dtype=object)
    places = curve_keys(runs.batch)
    found: list[Step] = []
    for way in (*REVEALED, CURVE):
        random = np.random.default_rng(0)
        drawn = []
        for _ in range(draws):
            if isinstance(way, str):
                seen, asked = _one_each(curves, random)
            else:
                seen, asked = _some(groups, way, random)
            drawn.append((asked, _answers(runs, base, seen, asked, places)))
            tick()
        for engine in sorted(set(engines)):
            for metric in METRICS:
                parts = [
                    _scores(runs, metric, asked & (engines == engine), (alone, base.values), answers)
                    for asked, answers in drawn
                ]
                if not all(part["own"]["n"] for part in parts):
                    continue
                found.append(
                    Step(
                        engine=engine,
                        metric=metric,
                        revealed=str(way),
                        n=int(np.median([part["own"]["n"] for part in parts])),
                        groups=len(
                            set(
                                groups[drawn[0][0] & (engines == engine) & np.isfinite(runs.measured[metric])]
                            )
                        ),
                        uncalibrated=_middle(parts, "uncalibrated", "median_ape"),
                        base=_middle(parts, "base", "median_ape"),
                        own=_middle(parts, "own", "median_ape"),
                        within_20=_middle(parts, "own", "within_20"),
                        coverage_90=None
                        if parts[0]["own"]["coverage_90"] is None
                        else _middle(parts, "own", "coverage_90"),
                    )
                )
    return found


def _scores(
    runs: Runs,
    metric: str,
    asked: NDArray[np.bool_],
    before: tuple[Mapping[str, Array], Mapping[str, Array]],
    answers: Mapping[str, Array],
) -> dict[str, Score]:
    """Score the runs that are asked by the priors, by the base, and with own runs."""
    measured = np.where(asked & np.isfinite(answers[metric][0]), runs.measured[metric], np.nan)
    plain, base = (score(measured, each[metric]) for each in before)
    return {"uncalibrated": plain, "base": base, "own": score(measured, *answers[metric])}


def _middle(parts: list[dict[str, Score]], of: str, figure: str) -> float:
    return float(np.median([part[of][figure] for part in parts]))  # type: ignore[literal-required]


def _some(
    groups: NDArray[np.object_], count: int, random: np.random.Generator
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Draw some runs of each group; return which are revealed, and which of the same groups are asked."""
    seen, asked = np.zeros(groups.size, dtype=bool), np.zeros(groups.size, dtype=bool)
    for group in sorted(set(groups)):
        at = np.flatnonzero(groups == group)
        if at.size > count:
            seen[random.permutation(at)[:count]] = True
            asked[at] = True
    return seen, asked & ~seen


def _one_each(
    curves: NDArray[np.object_], random: np.random.Generator
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    return _some(curves, 1, random)


def _answers(
    runs: Runs, base: LeftOut, seen: NDArray[np.bool_], asked: NDArray[np.bool_], curves: list[str]
) -> dict[str, Array]:
    """Return value, low and high of the runs that are asked, NaN of others; shape (3, n) a metric.

    Levels of one group do not touch those of another: the base's own runs need not be looked at again.
    """
    found = {metric: np.full((3, asked.size), np.nan) for metric in METRICS}
    for number, profile in enumerate(base.profiles):
        own = base.fold == number
        logs = {
            metric: np.where(own & seen, np.log(runs.measured[metric] / base.values[metric]), np.nan)
            for metric in LEVELED
        }
        levels, _ = levels_of(logs, curves, profile.spreads)
        at = np.flatnonzero(own & asked)
        if not levels or not at.size:
            continue
        batch = runs.batch.take(at)
        origin = np.zeros(at.size, dtype=np.intp)
        revealed = np.flatnonzero(own & seen)
        spans = spans_of([curves[place] for place in revealed], runs.batch.load.concurrency[revealed])
        known = Nodes(levels, spans).find(batch)
        values = with_levels({metric: base.values[metric][at] for metric in METRICS}, known)
        for metric in METRICS:
            factor = interval_factors(
                batch, profile, metric, nearness(batch, profile, known.depth_of(metric), origin)
            )
            found[metric][:, at] = values[metric], values[metric] / factor, values[metric] * factor
    return found
