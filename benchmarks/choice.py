"""Does the predicted best deployment turn out best? Choices among published runs: `make search-benchmark`.

For every sweep of the published runs (model, GPU, engine, workload) with at least five configurations: the one that is
expected to yield most within a service level is chosen, by a profile that saw no run of that model family on that GPU,
and held to what was measured of all of them. AIConfigurator chooses from the same configurations where it answers them
(`measurements/peer.jsonl`). Writes `docs/search-accuracy.md` and its plot.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.calibrate.build import fitted
from aicalib.calibrate.peer import Answers, read_peer
from aicalib.calibrate.scoreboard import runs_to_fit
from aicalib.calibrate.ship import shipped_runs
from aicalib.calibrate.validate import FOLDS, folds, group_labels
from aicalib.plan.chance import chances
from aicalib.plan.score import Figure
from aicalib.plan.search.goal import bound
from aicalib.plan.tasks.task import Bound
from aicalib.prediction import predict_batch
from aicalib.profiles.profile import Profile, default_profile
from benchmarks.sweeps import MEASUREMENTS, Sweep, closed_runs, deployments_alone, sweeps

Array = NDArray[np.float64]
Yes = NDArray[np.bool_]

FEWEST: Final = 5
"""Configurations that a sweep needs."""

NEAR: Final = 0.05
"""Share of the best throughput that a choice may stay below and still count as the best."""

QUANTILES: Final = (0.25, 0.5, 0.75)
"""Of the measured times of a sweep: where the bounds of the service levels lie."""

MS: Final = {"ttft": "ttft_ms", "tpot": "tpot_ms", "latency": "e2e_ms"}
"""What was measured of each time that can be bound."""

NO_BOUND: Final = "none"
TPOT: Final = "TPOT"
BOUNDS: Final = {
    TPOT: ("tpot",),
    "TTFT": ("ttft",),
    "end to end": ("latency",),
    "TTFT and TPOT": ("ttft", "tpot"),
}
"""What service levels bound, each time of a level at the same quantile."""

OURS: Final = "aicalib"
PREDICTED: Final = "aicalib, by the prediction alone"
PRODUCT: Final = "aicalib, throughput x chance"
SQUARED: Final = "aicalib, throughput x chance squared"
LIKELY: Final = "aicalib, where the chance is 70 % or more"
ROBUST: Final = "aicalib --robust"
OURS_SHARED: Final = "aicalib, where both answer"
PREDICTED_SHARED: Final = "aicalib, by the prediction alone, where both answer"
PEER: Final = "AIConfigurator 0.12.0, where both answer"

DOCS: Final = Path(__file__).parent.parent / "docs"


class Level(NamedTuple):
    """A service level: which of `BOUNDS` ("none" without one), at which quantile, and the bounds."""

    bounded: str
    quantile: str
    bounds: tuple[Bound, ...]


class Choice(NamedTuple):
    """What became of one choice.

    Attributes
    ----------
    sweep : Sweep
    task : str
        "all" (deployments and concurrency) or "deployments" (at one concurrency).
    level : Level
    by : str
        Who chose.
    keeps : bool
        What was chosen keeps the level as measured.
    overrun : float
        Largest measured time over its bound - 1; negative where it keeps the level.
    regret : float
        1 - its throughput / that of the best that keeps the level; 1 where it does not keep it.
    lucky : float
        Share of the configurations that keep the level and come within `NEAR` of the best: what a blind pick from those
        that keep it would score.
    said : float
        Probability that it keeps the level, as predicted.
    """

    sweep: Sweep
    task: str
    level: Level
    by: str
    keeps: bool
    overrun: float
    regret: float
    lucky: float
    said: float


@dataclass(frozen=True)
class Predicted:
    """What one predictor says of the n configurations of a sweep; NaN unanswered.

    Attributes
    ----------
    figures : mapping of Figure to ndarray, shape (n,)
        Means of times [s].
    tok_s_per_gpu : ndarray, shape (n,)
    factors : mapping of str to ndarray, shape (n,)
        High end over value of the 90 % interval of each time and of "output"; all 1 where a predictor has none.
    """

    figures: Mapping[Figure, Array]
    tok_s_per_gpu: Array
    factors: Mapping[str, Array]

    def take(self, rows: NDArray[np.intp]) -> Predicted:
        """Return what is said of some of them."""
        figures = {name: values[rows] for name, values in self.figures.items()}
        factors = {name: values[rows] for name, values in self.factors.items()}
        return Predicted(figures, self.tok_s_per_gpu[rows], factors)

    def pessimistic(self) -> Predicted:
        """Return the pessimistic ends as if they were predicted."""
        figures = {name: values * self.factors[name[0]] for name, values in self.figures.items()}
        return replace(self, figures=figures, tok_s_per_gpu=self.tok_s_per_gpu / self.factors["output"])


def profiles_without() -> tuple[Mapping[tuple[str, ...], int], Sequence[Profile]]:
    """Fit one profile a fold of whole groups; return the fold of each group, and the profiles."""
    runs, _ = runs_to_fit(shipped_runs(MEASUREMENTS))
    labels = group_labels(runs)
    fold = folds(labels, FOLDS)
    made = [fitted(runs.take(np.flatnonzero(fold != number))) for number in range(int(fold.max()) + 1)]
    return dict(zip(labels, fold.tolist(), strict=True)), made


def ours(sweep: Sweep, profile: Profile) -> Predicted:
    """Return what a profile predicts of a sweep, each time as the source states it (mean or median).

    Intervals are of the widths that the shipped profile has: quantiles over all left-out groups, these among them.
    """
    runs = sweep.runs
    found = predict_batch(runs.batch, replace(profile, quantiles=default_profile().quantiles))
    times = {name: found.comparable(metric, runs.median[metric]) for name, metric in MS.items()}
    rate = found.mean["output_tok_s_per_gpu"]
    factors = {name: each.high / each.value for name, each in times.items()}
    return Predicted(
        {(name, None): each.value / 1e3 for name, each in times.items()},
        rate.value,
        factors | {"output": rate.high / rate.value},
    )


def theirs(sweep: Sweep, peer: Answers) -> Predicted:
    """Return what the peer answered of a sweep; its throughput follows from its latencies by Little's law."""
    given = [peer.get(str(record.get("src_ref")), {}) for record in sweep.runs.answered]
    ttft, tpot = (
        np.array([float(each.get(MS[name], np.nan)) / 1e3 for each in given]) for name in ("ttft", "tpot")
    )
    load = sweep.runs.batch.load
    whole = ttft + tpot * (load.osl - 1.0)
    rate = load.concurrency * load.osl / whole
    figures: dict[Figure, Array] = {("ttft", None): ttft, ("tpot", None): tpot, ("latency", None): whole}
    certain = {name: np.ones_like(ttft) for name in (*MS, "output")}
    return Predicted(figures, rate / sweep.runs.batch.n_gpus, certain)


def levels(sweep: Sweep, bounded: str) -> Iterator[Level]:
    """Yield service levels of a sweep, each bound between two measured times, so that none sits on it."""
    rising = {name: np.unique(sweep.runs.measured[MS[name]]) for name in BOUNDS[bounded]}
    for quantile in QUANTILES:
        places = {name: min(int(quantile * (each.size - 1)), each.size - 2) for name, each in rising.items()}
        if min(places.values()) >= 0:
            yield Level(
                bounded,
                f"{100 * quantile:.0f} %",
                tuple(
                    bound(name, float(np.sqrt(rising[name][place] * rising[name][place + 1])))
                    for name, place in places.items()
                ),
            )


def excess(times_s: Mapping[Figure, Array], bounds: Sequence[Bound]) -> Array:
    """Return by what share the bounds are exceeded at worst, -1 without bounds."""
    found = -np.ones_like(times_s["tpot", None])
    for each in bounds:
        found = np.maximum(found, times_s[each.metric, each.percentile] / each.threshold_s - 1.0)
    return found


def picked(found: Predicted, bounds: Sequence[Bound], yields: Array) -> int:
    """Return what yields most of what is predicted to keep the level; where nothing is, what comes nearest to it."""
    over = excess(found.figures, bounds)
    within = over <= 0.0
    return int(np.argmax(np.where(within, yields, -np.inf)) if within.any() else np.argmin(over))


def by_expectation(found: Predicted, bounds: Sequence[Bound]) -> int:
    """Choose as `aicalib search` does: the throughput to be expected where a miss counts nothing."""
    return picked(found, bounds, found.tok_s_per_gpu * chances(bounds, found.figures, found.factors).worth)


def by_prediction(found: Predicted, bounds: Sequence[Bound]) -> int:
    """Choose by what is predicted alone."""
    return picked(found, bounds, found.tok_s_per_gpu)


def by_product(found: Predicted, bounds: Sequence[Bound], power: float = 1.0) -> int:
    """Choose by throughput x chance to a power."""
    return picked(
        found, bounds, found.tok_s_per_gpu * chances(bounds, found.figures, found.factors).kept ** power
    )


def by_likelihood(found: Predicted, bounds: Sequence[Bound], least: float = 0.7) -> int:
    """Choose by throughput among what is likely enough to keep the level, the likeliest where nothing is."""
    kept = chances(bounds, found.figures, found.factors).kept
    enough = kept >= least
    return int(np.argmax(np.where(enough, found.tok_s_per_gpu, -np.inf)) if enough.any() else np.argmax(kept))


def by_worst(found: Predicted, bounds: Sequence[Bound]) -> int:
    """Choose as `aicalib search --robust` does."""
    return by_prediction(found.pessimistic(), bounds)


Chooser = Callable[[Predicted, Sequence[Bound]], int]

RULES: Final[Mapping[str, Chooser]] = {
    OURS: by_expectation,
    PREDICTED: by_prediction,
    PRODUCT: by_product,
    SQUARED: partial(by_product, power=2.0),
    LIKELY: by_likelihood,
    ROBUST: by_worst,
}
"""Ways to choose by one prediction with intervals."""


def measured_s(sweep: Sweep) -> dict[Figure, Array]:
    """Return the measured times of a sweep [s]."""
    return {(name, None): sweep.runs.measured[metric] / 1e3 for name, metric in MS.items()}


def outcome(sweep: Sweep, task: str, level: Level, by: str, chosen: int, said: float) -> Choice | None:
    """Return what becomes of a choice; None where no measured configuration keeps the level."""
    over = excess(measured_s(sweep), level.bounds)
    kept = over <= 0.0
    if not kept.any():
        return None
    best = sweep.tok_s_per_gpu[kept].max()
    keeps = bool(kept[chosen])
    regret = 1.0 - sweep.tok_s_per_gpu[chosen] / best if keeps else 1.0
    lucky = float((sweep.tok_s_per_gpu[kept] >= (1.0 - NEAR) * best).mean())
    return Choice(sweep, task, level, by, keeps, float(over[chosen]), float(regret), lucky, said)


class Replay(NamedTuple):
    """Choices, and of every configuration under every level the chance said and whether it was kept."""

    choices: list[Choice]
    said: dict[str, list[Array]]
    kept: dict[str, list[Yes]]


def replay(
    tasks: Mapping[str, Iterable[Sweep]],
    peer: Answers,
    fold: Mapping[tuple[str, ...], int],
    profiles: Sequence[Profile],
) -> Replay:
    """Choose from sweeps: ours from all configurations, and ours and the peer's from those that both answer.

    A group that no fit sees (speculation or separate prefill alone) has no fold: every profile is blind to it.
    """
    found = Replay([], {name: [] for name in BOUNDS}, {name: [] for name in BOUNDS})
    for task, members in tasks.items():
        for sweep in members:
            own, other = ours(sweep, profiles[fold.get(sweep.group, 0)]), theirs(sweep, peer)
            answered = np.isfinite(own.tok_s_per_gpu) & np.isfinite(own.figures["tpot", None])
            both = answered & np.isfinite(other.tok_s_per_gpu)
            mine = [(by, own, rule) for by, rule in RULES.items()]
            shared = ((OURS_SHARED, own, by_expectation), (PREDICTED_SHARED, own, by_prediction),
                      (PEER, other, by_prediction))  # fmt: skip
            for bounded, times in BOUNDS.items():
                if bounded != TPOT and task != "all":
                    continue
                known = np.all([np.isfinite(sweep.runs.measured[MS[name]]) for name in times], axis=0)
                _choose(found, sweep, task, bounded, answered & known, mine)
                if bounded == TPOT:
                    _choose(found, sweep, task, bounded, both & known, shared)
    return found


def _choose(
    found: Replay,
    sweep: Sweep,
    task: str,
    bounded: str,
    usable: Yes,
    choosers: Sequence[tuple[str, Predicted, Chooser]],
) -> None:
    """Add the choices from some configurations of a sweep, without a level where TPOT is bound."""
    rows = np.flatnonzero(usable)
    if rows.size < FEWEST:
        return
    part = sweep.take(rows)
    free = [Level(NO_BOUND, NO_BOUND, ())] if bounded == TPOT else []
    for level in (*free, *levels(part, bounded)):
        for by, predicted, chooser in choosers:
            answers = predicted.take(rows)
            said = chances(level.bounds, answers.figures, answers.factors).kept
            chosen = chooser(answers, level.bounds)
            choice = outcome(part, task, level, by, chosen, float(said[chosen]))
            if choice is not None:
                found.choices.append(choice)
            if by == OURS and task == "all" and level.bounds:
                found.said[bounded].append(said)
                found.kept[bounded].append(excess(measured_s(part), level.bounds) <= 0.0)


def main(docs: Path = DOCS) -> None:
    """Choose, and write the page and its plot."""
    from benchmarks.choice_page import page, plot

    every = sweeps(closed_runs(MEASUREMENTS), FEWEST)
    tasks = {"all": every, "deployments": deployments_alone(every, FEWEST)}
    found = replay(tasks, read_peer(MEASUREMENTS / "peer.jsonl"), *profiles_without())
    (docs / "search-accuracy.md").write_text(page(found))
    plot(found.choices, docs / "search-accuracy" / "regret.png")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
