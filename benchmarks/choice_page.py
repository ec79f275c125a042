"""The page and the plot of choices held to published sweeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.report.markdown import table
from benchmarks.choice import (
    BOUNDS,
    FEWEST,
    NEAR,
    NO_BOUND,
    OURS,
    OURS_SHARED,
    PEER,
    PREDICTED,
    PREDICTED_SHARED,
    ROBUST,
    RULES,
    TPOT,
    Choice,
    Replay,
)

TASKS: Final = {
    "all": "Deployment and concurrency chosen together",
    "deployments": "Deployment chosen at one concurrency",
}

TOLERATED: Final = (0.05, 0.1)
"""Shares by which a bound is exceeded that are told apart from a plain miss."""

EDGES: Final = (0.0, 0.05, 0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
"""Of the chances that are held to what was kept."""

TOGETHER: Final = (PREDICTED, ROBUST, PREDICTED_SHARED)
"""Ways to choose that are told of over all quantiles alone."""

WORST: Final = 12
"""Regrets that are listed."""


class Summary(NamedTuple):
    """Choices of one kind: how many in how many groups, how often near the best, and what they cost."""

    choices: int
    groups: int
    near: float
    keeps: float
    nearly: tuple[float, ...]
    median_regret: float
    mean_regret: float
    kept_regret: float
    lucky: float


def summary(found: Sequence[Choice]) -> Summary:
    """Return what choices are worth; each sweep counts alike under its levels."""
    regret = np.array([each.regret for each in found])
    overrun = np.array([each.overrun for each in found])
    return Summary(
        len(found),
        len({each.sweep.group for each in found}),
        float((regret <= NEAR).mean()),
        float(np.mean([each.keeps for each in found])),
        tuple(float((overrun <= share).mean()) for share in TOLERATED),
        float(np.median(regret)),
        float(regret.mean()),
        float(np.mean([each.regret for each in found if each.keeps])),
        float(np.mean([each.lucky for each in found])),
    )


HEAD: Final = ("level", "chosen by", "choices", "groups", "within 5 %", "keeps the level", "keeps it to 5 %",
               "keeps it to 10 %", "median regret", "mean regret", "mean if kept", "blind pick within 5 %")  # fmt: skip


def _row(name: str, by: str, found: Sequence[Choice]) -> tuple[object, ...]:
    s = summary(found)
    shares = (s.near, s.keeps, *s.nearly, s.median_regret, s.mean_regret, s.kept_regret, s.lucky)
    return name, by, s.choices, s.groups, *(f"{100 * each:.1f} %" for each in shares)


def _by_quantile(found: Sequence[Choice], by: str) -> Iterator[tuple[object, ...]]:
    """Yield the rows of one chooser: every level, and all bounded ones together."""
    mine = [each for each in found if each.by == by and each.level.bounded in (NO_BOUND, TPOT)]
    if by in TOGETHER:
        mine = [each for each in mine if each.level.bounds]
        if mine:
            yield _row("all bounds", by, mine)
        return
    quantiles = list(dict.fromkeys(each.level.quantile for each in mine))
    bounded = [each for each in quantiles if each != NO_BOUND]
    for name, members in (*((each, [each]) for each in quantiles), ("all bounds", bounded)):
        part = [each for each in mine if each.level.quantile in members]
        if part:
            yield _row(name, by, part)


def _by_bound(found: Sequence[Choice]) -> Iterator[tuple[object, ...]]:
    """Yield a row a bound and chooser, over all quantiles, of all that ours answers."""
    for bounded in BOUNDS:
        for by in RULES:
            part = [
                each for each in found if (each.task, each.by, each.level.bounded) == ("all", by, bounded)
            ]
            yield _row(bounded, by, part)


INTRODUCTION: Final = """\
# Choices against measurement

`make search-benchmark` writes this page. For every sweep of the published runs (one model on one GPU under one engine
at one pair of lengths) with at least {fewest} measured configurations, the configuration that is expected to yield
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
- `aicalib` chooses as `search` does: of what is predicted to keep the level, what is expected to yield most where a
  miss counts nothing ([search.md](search.md)). `by the prediction alone` takes the highest predicted throughput of
  what is predicted to keep the level. `--robust` holds the level, and ranks, by the pessimistic end.
- Intervals are as wide as the shipped profile's: quantiles over all left-out groups, these among them.
- AIConfigurator answers a part of the runs of one source; both choose there from the same configurations, of which at
  least {fewest} are needed. Its throughput follows from its TTFT and TPOT by Little's law, it has no intervals, and so
  chooses by its prediction alone. It was partly fitted on such runs; ours on none of the group.
- Where a source records no throughput, the measured one follows from TTFT and TPOT in the same way.
"""

OTHER: Final = """\
Deployment and concurrency chosen together, at all three quantiles; under `TTFT and TPOT` both bounds stand at the same
quantile. Beside the rule of `search` stand others. It was taken for its reason, a bound that is hard and a prediction
that is not sure, and it has no parameter that could have been fitted to these sweeps: a rule that looks best in this
table was chosen by it. About forty variants were tried in all (other powers and likelihoods, other distributions of
the error, the least regret expected over errors that a sweep has in common): the more cautious ones miss less often
and are less often within 5 % of the best.
"""

CHANCES: Final = """\
`search` says of every choice how likely it keeps the level. Among the choices of the tables above (deployment and
concurrency chosen together) that were said to keep it so likely, so many did, in brackets of how many:
"""

CHANCES_ALL: Final = """\
The same of every configuration of the sweeps, chosen or not, under the same bounds:
"""

CHANCES_NOTE: Final = """\
Configurations of one sweep err together and there are few groups: the shares are less certain than their numbers
suggest.
"""


def page(found: Replay) -> str:
    """Return the page in Markdown."""
    lines = INTRODUCTION.format(fewest=FEWEST).splitlines()
    for task, title in TASKS.items():
        part = [each for each in found.choices if each.task == task]
        choosers = (OURS, PREDICTED, ROBUST, OURS_SHARED, PREDICTED_SHARED, PEER)
        rows = [row for by in choosers for row in _by_quantile(part, by)]
        lines += ["", f"## {title}", "", *table(HEAD, 2, rows)]
    lines += [
        "",
        "![Regret of choices](search-accuracy/regret.png)",
        "",
        "## Bounds on other times, and other rules",
        "",
    ]
    lines += [*OTHER.splitlines(), "", *table(("bound", *HEAD[1:]), 2, _by_bound(found.choices))]
    lines += ["", "## Is the level kept as often as said?", "", *CHANCES.splitlines(), "", *_chosen(found)]
    lines += ["", *CHANCES_ALL.splitlines(), "", *_configurations(found), "", *CHANCES_NOTE.splitlines()]
    lines += ["", "## Where it goes wrong", ""]
    lines += _worst([each for each in found.choices if each.by == OURS])
    return "\n".join(lines) + "\n"


def _chosen(found: Replay) -> Iterator[str]:
    said, kept = {}, {}
    for bounded in BOUNDS:
        part = [
            each
            for each in found.choices
            if (each.task, each.by, each.level.bounded) == ("all", OURS, bounded)
        ]
        said[bounded] = np.array([each.said for each in part])
        kept[bounded] = np.array([each.keeps for each in part])
    return _calibration(said, kept, [edge for edge in EDGES if edge >= 0.5])


def _configurations(found: Replay) -> Iterator[str]:
    said = {bounded: np.concatenate(each) for bounded, each in found.said.items()}
    kept = {bounded: np.concatenate(each) for bounded, each in found.kept.items()}
    return _calibration(said, kept, EDGES)


def _calibration(
    said: dict[str, NDArray[np.float64]], kept: dict[str, NDArray[np.bool_]], edges: Sequence[float]
) -> Iterator[str]:
    """Yield a table: of what was said to keep a level so likely, how much did, by bound; and the means of both."""
    rows = []
    for low, high in pairwise(edges):
        cells = [f"{100 * low:.0f} to {100 * high:.0f} %"]
        for bounded in BOUNDS:
            at = (said[bounded] >= low) & ((said[bounded] < high) | (high == edges[-1]))
            cells.append(f"{100 * kept[bounded][at].mean():.0f} % ({at.sum()})" if at.any() else "-")
        rows.append(cells)
    means = [f"{100 * said[each].mean():.1f} % said, {100 * kept[each].mean():.1f} % kept" for each in BOUNDS]
    rows.append(["mean", *means])
    return table(("said", *BOUNDS), 1, rows)


def _worst(found: Sequence[Choice]) -> list[str]:
    """Return the choices with the largest regret among those that keep their level."""
    kept = [each for each in found if each.keeps and each.level.bounded in (NO_BOUND, TPOT)]
    rows = [
        (
            each.sweep.name,
            TASKS[each.task].lower(),
            each.level.quantile,
            each.sweep.runs.batch.at.size,
            f"{100 * each.regret:.1f} %",
        )
        for each in sorted(kept, key=lambda each: -each.regret)[:WORST]
    ]
    return ["The largest regrets of ours that keep their level on TPOT:", "",
            *table(("sweep", "choice", "level", "configurations", "regret"), 3, rows)]  # fmt: skip


def plot(found: Sequence[Choice], path: Path) -> None:
    """Draw how many choices stay below a regret, by chooser, without a level and under bounds on TPOT."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from aicalib.report.pictures.scoreboard import DOTS_PER_INCH
    from aicalib.report.pictures.style import COLORS, STYLE

    drawn = [each for each in found if each.level.bounded in (NO_BOUND, TPOT)]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(TASKS), figsize=(9.5, 3.4), sharey=True, layout="constrained")
        for at, (task, title) in zip(axes, TASKS.items(), strict=True):
            for color, by in zip(COLORS, (OURS, OURS_SHARED, PEER, ROBUST), strict=False):
                regret = np.sort([each.regret for each in drawn if each.task == task and each.by == by])
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
