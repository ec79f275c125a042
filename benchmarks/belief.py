"""Choose what the belief of `aicalib next` holds beyond a profile's levels: `make belief` writes `belief.toml` anew.

Of a grid of kernels that one is taken under which, after few runs of a sweep are known, the others are the likeliest.
The replay takes for each sweep the kernel that the sweeps of other folds chose.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from scipy.stats import t as student

from aicalib.calibrate.levels import FREEDOM
from aicalib.loop.belief import Places, as_wide, covariance
from aicalib.loop.normal import Normal
from aicalib.nearness import LEVELED
from benchmarks.replay import EXACT, JOBS, Question, questions, without_groups
from benchmarks.sweeps import published, sweeps

Array = NDArray[np.float64]

OUTPUT = Path(__file__).parent.parent / "aicalib" / "loop" / "belief.toml"

NOISE: Final = {"ttft_ms": 0.042, "tpot_ms": 0.014}
"""Standard deviation of the logarithm between repeats, where none were measured: of 76 pairs of published vLLM runs
with everything that is recorded equal the median pair differs by 4.0 and 1.3 % (docs/accuracy.md, the noise floor),
which is 0.954 standard deviations of one."""

WIDTHS, LENGTHS = 2.0, 3.0
"""Octaves of the tensor-parallel width and of request lengths over which smooth errors change."""

SHARES: Final = {"group": (0.0, 1.0, 2.0), "configuration": (0.0, 0.7)}
"""Standard deviations of smooth errors that are tried, over that of all effects of a profile's levels together."""

OCTAVES: Final = {"group": (1.5, 3.0, 6.0), "configuration": (1.5,)}
"""Octaves of concurrency over which they change that are tried."""

POINT: Final = 0.6
"""Standard deviation of a run's own error over that of a run about its curve, as a profile has it: what is left of that
changes smoothly along the curve."""

KNOWN: Final = (1, 2, 4)
"""Runs of a sweep that are known when the others are predicted."""

ORDERS = 2
"""Orders in which they are drawn."""

Shape = Mapping[str, Any]
"""What `belief.toml` says of one metric."""


def shapes(metric: str) -> list[Shape]:
    """Return what is tried."""
    found = []
    for group, own in product(SHARES["group"], SHARES["configuration"]):
        for near, nearer in product(OCTAVES["group"], OCTAVES["configuration"]):
            # Octaves of an error that is not there make no other shape.
            if (group or near == OCTAVES["group"][0]) and (own or nearer == OCTAVES["configuration"][0]):
                found.append(_shape(metric, (group, own, near, nearer)))
    return found


def _shape(metric: str, numbers: tuple[float, float, float, float]) -> Shape:
    group, own, near, nearer = numbers
    lengths = {"isl": LENGTHS, "osl": LENGTHS}
    smooth = [
        {"depth": "group", "share": group, "concurrency": near, "tp": WIDTHS, **lengths},
        {"depth": "configuration", "share": own, "concurrency": nearer, **lengths},
    ]
    return {"noise": NOISE[metric], "point": POINT, "smooth": [each for each in smooth if each["share"]]}


LEVELS_ALONE: Final[Mapping[str, Shape]] = {
    metric: {"noise": NOISE[metric], "point": 1.0, "smooth": []} for metric in LEVELED
}
"""A belief of a profile's levels and nothing beyond: what the smooth errors are held against."""


def score(question: Question, metric: str, tried: Sequence[Shape]) -> list[float]:
    """Return by shape the mean log density of runs of a sweep after few others are known, NaN without measurements.

    Of Student's t, so that an odd run does not decide.
    """
    logs = question.logs[metric]
    rows = np.flatnonzero(question.plain.fits & np.isfinite(logs))
    if rows.size <= max(KNOWN):
        return [np.nan] * len(tried)
    places, widths = Places.of(question.sweep.runs.batch).take(rows), question.widths[metric][rows]
    random = np.random.default_rng(0)
    orders = [random.permutation(rows.size) for _ in range(ORDERS)]
    found = []
    for shape in tried:
        kernel = replace(question, shapes=dict.fromkeys(LEVELED, shape)).kernels[metric]
        start = Normal(np.zeros(rows.size), as_wide(covariance(places, kernel), widths, EXACT))
        densities = []
        for order, count in product(orders, KNOWN):
            seen, others = order[:count], order[count:]
            after = start.given(seen, logs[rows[seen]], EXACT)
            apart = (logs[rows[others]] - after.mean[others]) / after.deviation[others]
            densities.append(np.mean(student.logpdf(apart, FREEDOM) - np.log(after.deviation[others])))
        found.append(float(np.mean(densities)))
    return found


def scores(found: Sequence[Question], metric: str, jobs: int = JOBS) -> Array:
    """Return the score of each shape on each question, shape (shapes, questions)."""
    tried = shapes(metric)
    rows = Parallel(n_jobs=jobs, batch_size=4)(delayed(score)(each, metric, tried) for each in found)
    return np.array(rows).T


def chosen(table: Array, groups: Sequence[object]) -> int:
    """Return the shape with the highest score, a group (model family x GPU) of n sweeps counting as n^0.75."""
    known = np.isfinite(table).all(axis=0)
    sizes = {group: groups.count(group) for group in groups}
    weights = np.array([sizes[group] ** -0.25 for group in groups])
    return int((table[:, known] @ weights[known]).argmax())


def text(found: Mapping[str, Shape], sweep_count: int) -> str:
    """Return the content of `belief.toml`."""
    lines = [
        "# What the belief of `aicalib next` holds beyond a profile's levels (docs/loop.md), from `make belief`: of a",
        f"# grid that under which, after {', '.join(map(str, KNOWN))} runs of a published sweep, its others are the "
        "likeliest;",
        f"# {sweep_count} sweeps, each predicted without its model family x GPU. noise: standard deviation of the",
        "# logarithm between repeats. point: a run's own error, over the profile's spread of runs about their curve.",
        "# share: of a smooth error, over all effects of the profile's levels; below it octaves over which it changes.",
    ]
    for metric, shape in found.items():
        lines += ["", f"[{metric}]", *(f"{name} = {shape[name]:g}" for name in ("noise", "point"))]
        for each in shape["smooth"]:
            lines += ["", f"[[{metric}.smooth]]"]
            lines += [
                f'{name} = "{value}"' if name == "depth" else f"{name} = {value:g}"
                for name, value in each.items()
            ]
    return "\n".join(lines) + "\n"


def main() -> None:
    runs, closed = published()
    found = sweeps(closed)
    asked = [each for each in questions(found, runs, without_groups(runs, JOBS)) if not each.bounds]
    groups = [each.sweep.group for each in asked]
    best = {metric: shapes(metric)[chosen(scores(asked, metric), groups)] for metric in LEVELED}
    OUTPUT.write_text(text(best, len(found)))
    sys.stderr.write(f"wrote {OUTPUT}\n")


if __name__ == "__main__":
    main()
