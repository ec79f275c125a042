"""`make loop-benchmark`: does the loop find the best configuration of a published sweep with few runs?

Measurements of a sweep are hidden; each contestant says which run to reveal next, and after each what it would choose.
The profile saw no run of the model family on that GPU. Writes docs/loop-benchmark.md, its figures and its plot.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from aicalib.nearness import LEVELED
from benchmarks.belief import chosen, scores, shapes
from benchmarks.contestants import (
    Contestant,
    gaussian_process,
    grid,
    levels_alone,
    loop,
    physics,
    random_order,
)
from benchmarks.loop_page import page, plot
from benchmarks.replay import JOBS, Question, questions, without_groups
from benchmarks.sweeps import deployments_alone, published, sweeps

Array = NDArray[np.float64]

DOCS = Path(__file__).parent.parent / "docs"

RUNS = 8
"""Runs that are revealed at most."""

CLOSE = 0.05
"""Regret up to which a choice counts as found."""

CONTESTANTS: Mapping[str, tuple[Contestant, int]] = {
    "loop": (loop, 1),
    "levels alone": (levels_alone, 1),
    "physics alone": (physics, 1),
    "Gaussian process": (gaussian_process, 1),
    "random order": (random_order, 50),
    "grid order": (grid, 1),
}
"""Who looks, and how often, where chance decides."""


def replay(question: Question, contestant: Contestant, seed: int) -> list[tuple[float, bool]]:
    """Return the true regret of what is chosen after 0, 1, ... `RUNS` runs were revealed, and if it is held settled."""
    regret = question.regret
    found: list[tuple[float, bool]] = []
    seen = np.zeros(0, dtype=np.intp)
    for _ in range(RUNS + 1):
        look = contestant(question, seen, seed)
        found.append((float(regret[look.choice]), look.settled))
        if look.reveal is None:
            break
        seen = np.append(seen, look.reveal)
    return found + found[-1:] * (RUNS + 1 - len(found))


def regrets(asked: Sequence[Question], name: str) -> Array:
    """Return regret and whether it is held settled of a contestant, shape (questions, seeds, runs + 1, 2)."""
    contestant, seeds = CONTESTANTS[name]
    rows = Parallel(n_jobs=JOBS, batch_size=4)(
        delayed(_of_seeds)(question, contestant, seeds) for question in asked
    )
    return np.array(rows)


def _of_seeds(question: Question, contestant: Contestant, seeds: int) -> list[list[tuple[float, bool]]]:
    return [replay(question, contestant, seed) for seed in range(seeds)]


def with_shapes(asked: Sequence[Question]) -> list[Question]:
    """Return questions with the shapes of kernels that the sweeps of other folds chose."""
    plain = [each for each in asked if not each.bounds]
    groups = [each.sweep.group for each in plain]
    fold = np.array([each.fold for each in plain])
    found: dict[int, dict[str, Mapping[str, Any]]] = {number: {} for number in set(fold.tolist())}
    for metric in LEVELED:
        table = scores(plain, metric)
        for number, by_metric in found.items():
            others = np.flatnonzero(fold != number)
            best = chosen(table[:, others], [groups[at] for at in others])
            by_metric[metric] = shapes(metric)[best]
    return [replace(each, shapes=found[each.fold]) for each in asked]


def figures(asked: Sequence[Question], found: Mapping[str, Array]) -> dict[str, Any]:
    """Return shares, means and quartiles of regrets by contestant: of all questions, and by service level."""
    levels = list(dict.fromkeys(each.level for each in asked))
    rows = {level: [at for at, each in enumerate(asked) if each.level == level] for level in levels}
    settled = found["loop"][..., 1].reshape(-1, RUNS + 1) > 0
    close = found["loop"][..., 0].reshape(-1, RUNS + 1) <= CLOSE
    found = {name: each[..., 0] for name, each in found.items()}
    return {
        "questions": len(asked),
        "sweeps": len(rows[levels[0]]),
        "configurations": int(sum(asked[at].sweep.deployment.size for at in rows[levels[0]])),
        "contestants": {
            name: {
                "all": _summary(each),
                **{level: _summary(each[at]) for level, at in rows.items()},
                "by_sweep": _by_sweep(asked, each),
            }
            for name, each in found.items()
        },
        "settled": [
            {
                "share": round(float(settled[:, runs].mean()), 4),
                "right": round(float(close[settled[:, runs], runs].mean()), 4)
                if settled[:, runs].any()
                else None,
            }
            for runs in range(RUNS + 1)
        ],
    }


def _summary(each: Array) -> dict[str, Any]:
    flat = each.reshape(-1, each.shape[-1])
    quartiles = np.quantile(flat, (0.25, 0.5, 0.75), axis=0)
    return {
        "within_5": _rounded((flat <= CLOSE).mean(axis=0)),
        "mean": _rounded(flat.mean(axis=0)),
        **{name: _rounded(row) for name, row in zip(("q25", "median", "q75"), quartiles, strict=True)},
    }


def _by_sweep(asked: Sequence[Question], each: Array) -> list[float]:
    """Return the share of sweeps whose mean regret over service levels (and seeds) counts as found, by runs."""
    names = [question.sweep.name for question in asked]
    means = [
        each[[at for at, name in enumerate(names) if name == one]].mean(axis=(0, 1)) for one in set(names)
    ]
    return _rounded((np.array(means) <= CLOSE).mean(axis=0))


def _rounded(values: Array) -> list[float]:
    return [round(float(each), 4) for each in values]


def main() -> None:
    begin = perf_counter()

    def tell(what: str) -> None:
        sys.stderr.write(f"{perf_counter() - begin:5.0f} s  {what}\n")

    runs, closed = published()
    tell("published runs read")
    group = without_groups(runs, JOBS)
    tell("profiles fitted without each group")
    found = sweeps(closed)
    asked = with_shapes(list(questions(found, runs, group)))
    shape_of = {(each.fold): each.shapes for each in asked}
    alone = [
        replace(each, shapes=shape_of[each.fold])
        for each in questions(list(deployments_alone(found)), runs, group)
    ]
    tell("kernels chosen by the sweeps of other folds")
    document: dict[str, Any] = {}
    for what, part in (("configurations", asked), ("deployments", alone)):
        results = {}
        for name in CONTESTANTS:
            results[name] = regrets(part, name)
            tell(f"{what}: {name}")
        document[what] = figures(part, results)
    tell("done")
    (DOCS / "loop-benchmark.json").write_text(json.dumps(document, indent=1) + "\n")
    (DOCS / "loop-benchmark.md").write_text(page(document))
    plot(document, DOCS / "loop-benchmark.png")


if __name__ == "__main__":
    main()
