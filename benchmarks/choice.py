"""Does the predicted best deployment turn out best? Choices among published runs: `make search-benchmark`.

For every sweep of the published runs (model, GPU, engine, workload) with at least five configurations: the one that is
predicted to yield most within a service level is chosen, by a profile that saw no run of that model family on that
GPU, and held to what was measured of all of them. AIConfigurator chooses from the same configurations where it answers
them (`measurements/peer.jsonl`). Writes `docs/search-accuracy.md` and its plot.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.calibrate.build import fitted
from aicalib.calibrate.peer import Answers, read_peer
from aicalib.calibrate.scoreboard import runs_to_fit
from aicalib.calibrate.ship import shipped_runs
from aicalib.calibrate.validate import FOLDS, folds, group_labels
from aicalib.prediction import predict_batch
from aicalib.profiles.profile import Profile, default_profile
from aicalib.report.markdown import table
from benchmarks.sweeps import MEASUREMENTS, Sweep, closed_runs, deployments_alone, sweeps

Array = NDArray[np.float64]
Yes = NDArray[np.bool_]

FEWEST: Final = 5
"""Configurations that a sweep needs."""

NEAR: Final = 0.05
"""Share of the best throughput that a choice may stay below and still count as the best."""

TOLERATED: Final = 0.1
"""Share by which a bound is exceeded that is told apart from a plain miss."""

QUANTILES: Final = (0.25, 0.5, 0.75)
"""Of the measured TPOTs of a sweep: where the bounds of the service levels lie."""

DOCS: Final = Path(__file__).parent.parent / "docs"

NO_LEVEL: Final = "none"

OURS: Final = "aicalib"
ROBUST: Final = "aicalib --robust"
OURS_SHARED: Final = "aicalib, where both answer"
PEER: Final = "AIConfigurator 0.12.0, where both answer"
TASKS: Final = {
    "all": "Deployment and concurrency chosen together",
    "deployments": "Deployment chosen at one concurrency",
}


class Choice(NamedTuple):
    """What became of one choice.

    Attributes
    ----------
    sweep : Sweep
    task : str
        "all" (deployments and concurrency) or "deployments" (at one concurrency).
    level : str
        "none" or the quantile of the TPOT bound.
    by : str
        Who chose.
    keeps : bool
        What was chosen keeps the level as measured.
    overrun : float
        Measured TPOT over the bound - 1; negative where it keeps the level.
    regret : float
        1 - its throughput / that of the best that keeps the level; 1 where it does not keep it.
    lucky : float
        Share of the configurations that keep the level and come within `NEAR` of the best: what a blind pick from those
        that keep it would score.
    """

    sweep: Sweep
    task: str
    level: str
    by: str
    keeps: bool
    overrun: float
    regret: float
    lucky: float


@dataclass(frozen=True)
class Predicted:
    """TPOT and output tokens a second and GPU of the configurations of a sweep, by one predictor; NaN unanswered."""

    tpot_ms: Array
    tok_s_per_gpu: Array


def profiles_without() -> tuple[Mapping[tuple[str, ...], int], Sequence[Profile]]:
    """Fit one profile a fold of whole groups; return the fold of each group, and the profiles."""
    runs, _ = runs_to_fit(shipped_runs(MEASUREMENTS))
    labels = group_labels(runs)
    fold = folds(labels, FOLDS)
    made = [fitted(runs.take(np.flatnonzero(fold != number))) for number in range(int(fold.max()) + 1)]
    return dict(zip(labels, fold.tolist(), strict=True)), made


def ours(sweep: Sweep, profile: Profile) -> tuple[Predicted, Predicted]:
    """Return what a profile predicts of a sweep: the values, and the pessimistic ends of their intervals.

    Intervals are of the widths that the shipped profile has: quantiles over all left-out groups, these among them.
    """
    found = predict_batch(sweep.runs.batch, replace(profile, quantiles=default_profile().quantiles))
    tpot, rate = found.mean["tpot_ms"], found.mean["output_tok_s_per_gpu"]
    return Predicted(tpot.value, rate.value), Predicted(tpot.high, rate.low)


def theirs(sweep: Sweep, peer: Answers) -> Predicted:
    """Return what the peer answered of a sweep; its throughput follows from its latencies by Little's law."""
    given = [peer.get(str(record.get("src_ref")), {}) for record in sweep.runs.answered]
    ttft, tpot = (
        np.array([float(each.get(name, np.nan)) for each in given]) for name in ("ttft_ms", "tpot_ms")
    )
    load = sweep.runs.batch.load
    rate = 1e3 * load.concurrency * load.osl / (ttft + tpot * (load.osl - 1.0))
    return Predicted(tpot, rate / sweep.runs.batch.n_gpus)


def bounds(tpot_ms: Array) -> Iterator[tuple[str, float]]:
    """Yield the service levels: none, and TPOT bounds that lie between two measured ones, so that none sits on it."""
    yield NO_LEVEL, np.inf
    rising = np.unique(tpot_ms)
    for quantile in QUANTILES:
        place = min(int(quantile * (rising.size - 1)), rising.size - 2)
        if place >= 0:
            yield f"{100 * quantile:.0f} %", float(np.sqrt(rising[place] * rising[place + 1]))


def choose(sweep: Sweep, task: str, level: str, bound_ms: float, by: str, found: Predicted) -> Choice | None:
    """Return what becomes of one predictor's choice; None where no measured configuration keeps the level."""
    kept = sweep.tpot_ms <= bound_ms
    if not kept.any():
        return None
    within = found.tpot_ms <= bound_ms
    if within.any():
        chosen = int(np.argmax(np.where(within, found.tok_s_per_gpu, -np.inf)))
    else:  # nothing is predicted to keep the level: the one that comes nearest
        chosen = int(np.argmin(found.tpot_ms))
    best = sweep.tok_s_per_gpu[kept].max()
    keeps = bool(kept[chosen])
    regret = 1.0 - sweep.tok_s_per_gpu[chosen] / best if keeps else 1.0
    lucky = float((sweep.tok_s_per_gpu[kept] >= (1.0 - NEAR) * best).mean())
    overrun = float(sweep.tpot_ms[chosen] / bound_ms) - 1.0
    return Choice(sweep, task, level, by, keeps, overrun, float(regret), lucky)


def choices(
    task: str,
    found: Iterable[Sweep],
    peer: Answers,
    fold: Mapping[tuple[str, ...], int],
    profiles: Sequence[Profile],
) -> Iterator[Choice]:
    """Yield all choices: ours on all configurations, and ours and the peer's on those that both answer.

    A group that no fit sees (speculation or separate prefill alone) has no fold: every profile is blind to it.
    """
    for sweep in found:
        own, worst = ours(sweep, profiles[fold.get(sweep.group, 0)])
        other = theirs(sweep, peer)
        answered = np.isfinite(own.tok_s_per_gpu) & np.isfinite(own.tpot_ms)
        both = answered & np.isfinite(other.tok_s_per_gpu)
        for who, kept, predicted in (
            (OURS, answered, own),
            (ROBUST, answered, worst),
            (OURS_SHARED, both, own),
            (PEER, both, other),
        ):
            rows = np.flatnonzero(kept)
            if rows.size < FEWEST:
                continue
            part = sweep.take(rows)
            said = Predicted(predicted.tpot_ms[rows], predicted.tok_s_per_gpu[rows])
            for level, bound_ms in bounds(part.tpot_ms):
                choice = choose(part, task, level, bound_ms, who, said)
                if choice is not None:
                    yield choice


# --------------------------------------------------------------------------------------------------------- the page


class Summary(NamedTuple):
    """Choices of one kind: how many in how many groups, how often near the best, and what they cost."""

    choices: int
    groups: int
    near: float
    keeps: float
    nearly: float
    median_regret: float
    mean_regret: float
    kept_regret: float
    lucky: float


def summary(found: Sequence[Choice]) -> Summary:
    """Return what choices are worth; each sweep counts alike under its levels."""
    regret = np.array([each.regret for each in found])
    return Summary(
        len(found),
        len({each.sweep.group for each in found}),
        float((regret <= NEAR).mean()),
        float(np.mean([each.keeps for each in found])),
        float(np.mean([each.overrun <= TOLERATED for each in found])),
        float(np.median(regret)),
        float(regret.mean()),
        float(np.mean([each.regret for each in found if each.keeps])),
        float(np.mean([each.lucky for each in found])),
    )


HEAD: Final = ("level", "chosen by", "choices", "groups", "within 5 %", "keeps the level",
               "keeps it to 10 %", "median regret", "mean regret", "mean if kept", "blind pick within 5 %")  # fmt: skip


def _rows(found: Sequence[Choice], by: str) -> Iterator[tuple[object, ...]]:
    """Yield the rows of one chooser: every level, and all bounded ones together."""
    levels = list(dict.fromkeys(each.level for each in found))
    bounded = [level for level in levels if level != NO_LEVEL]
    for name, members in (*((level, [level]) for level in levels), ("all bounds", bounded)):
        part = [each for each in found if each.level in members and each.by == by]
        if not part:
            continue
        s = summary(part)
        shares = (
            f"{100 * each:.1f} %"
            for each in (s.near, s.keeps, s.nearly, s.median_regret, s.mean_regret, s.kept_regret, s.lucky)
        )
        yield (name, by, s.choices, s.groups, *shares)


INTRODUCTION: Final = """\
# Choices against measurement

`make search-benchmark` writes this page. For every sweep of the published runs (one model on one GPU under one engine
at one pair of lengths) with at least {fewest} measured configurations, the configuration that is predicted to yield
most output tokens a second and GPU within a service level is chosen, and held to what was measured of all of them. The
profile that predicts saw no run of that model family on that GPU (whole groups left out, ten folds).

- A service level is a bound on TPOT, between two measured ones at the stated quantile of the sweep's; `none` is
  throughput alone. A choice whose measured TPOT exceeds the bound, by however little, has missed it: its regret is
  100 %.
- Regret is 1 - measured throughput of the choice / that of the best configuration that keeps the level. Misses make
  most of the mean: where a fifth of the choices miss, twenty of its points are theirs. `mean if kept` is the mean over
  the choices that keep the level alone.
- `within 5 %`: the choice keeps the level and comes within 5 % of the best. A blind pick, among those that keep the
  level as measured (which nobody knows beforehand), would do so as often as the last column says.
- `keeps it to 10 %`: the measured TPOT exceeds the bound by at most 10 %.
- `--robust` holds the level, and ranks, by the pessimistic end of intervals as wide as the shipped profile's.
- AIConfigurator answers a part of the runs of one source; both choose there from the same configurations, of which at
  least {fewest} are needed. Its throughput follows from its TTFT and TPOT by Little's law. It was partly fitted on such
  runs; ours on none of the group.
- Where a source records no throughput, the measured one follows from TTFT and TPOT in the same way.
"""


def page(found: Sequence[Choice]) -> str:
    """Return the page in Markdown."""
    lines = INTRODUCTION.format(fewest=FEWEST).splitlines()
    for task, title in TASKS.items():
        part = [each for each in found if each.task == task]
        rows = [row for by in (OURS, ROBUST, OURS_SHARED, PEER) for row in _rows(part, by)]
        lines += ["", f"## {title}", "", *table(HEAD, 2, rows)]
    lines += ["", "![Regret of choices](search-accuracy/regret.png)", "", "## Where it goes wrong", ""]
    lines += _worst([each for each in found if each.by == OURS])
    return "\n".join(lines) + "\n"


WORST: Final = 12


def _worst(found: Sequence[Choice]) -> list[str]:
    """Return the choices with the largest regret among those that keep their level."""
    kept = sorted((each for each in found if each.keeps), key=lambda each: -each.regret)[:WORST]
    rows = [
        (
            each.sweep.name,
            TASKS[each.task].lower(),
            each.level,
            each.sweep.runs.batch.at.size,
            f"{100 * each.regret:.1f} %",
        )
        for each in kept
    ]
    return ["The largest regrets of ours that keep their level:", "",
            *table(("sweep", "choice", "level", "configurations", "regret"), 3, rows)]  # fmt: skip


def plot(found: Sequence[Choice], path: Path) -> None:
    """Draw how many choices stay below a regret, by chooser."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from aicalib.report.pictures.scoreboard import DOTS_PER_INCH
    from aicalib.report.pictures.style import COLORS, STYLE

    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(TASKS), figsize=(9.5, 3.4), sharey=True, layout="constrained")
        for at, (task, title) in zip(axes, TASKS.items(), strict=True):
            for color, by in zip(COLORS, (OURS, OURS_SHARED, PEER, ROBUST), strict=False):
                regret = np.sort([each.regret for each in found if each.task == task and each.by == by])
                if regret.size:
                    share = np.arange(1, regret.size + 1) / regret.size
                    at.step(
                        100 * regret, 100 * share, where="post", color=color, label=f"{by} ({regret.size})"
                    )
            at.axvline(100 * NEAR, color="#8C8C8C", linewidth=0.8, linestyle=":")
            at.set_title(title)
            at.set_xlabel("regret in throughput [%] (100: the level is missed)")
            at.set_xlim(-1, 101)
            at.set_ylim(0, 101)
            at.grid(True)
            at.legend(loc="lower right", fontsize=7.5)
        axes[0].set_ylabel("choices at or below [%]")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})
        plt.close(figure)


def main(docs: Path = DOCS) -> None:
    """Choose, and write the page and its plot."""
    every = sweeps(closed_runs(MEASUREMENTS), FEWEST)
    peer = read_peer(MEASUREMENTS / "peer.jsonl")
    fold, profiles = profiles_without()
    found = [
        *choices("all", every, peer, fold, profiles),
        *choices("deployments", deployments_alone(every, FEWEST), peer, fold, profiles),
    ]
    (docs / "search-accuracy.md").write_text(page(found))
    plot(found, docs / "search-accuracy" / "regret.png")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
