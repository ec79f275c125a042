"""How often does a measured ratio lie in the interval that decides on ties? `python -m benchmarks.ties`.

Pairs of configurations of one model and engine at one pair of lengths, as published, predicted by profiles that saw no
run of their model family on their GPUs; how much of an error is common (`aicalib.ties`) is what these profiles
say. Prints the table of `docs/search.md`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.calibrate.runs import Runs
from aicalib.nearness import DEPTHS, paths
from aicalib.prediction import predict_batch
from aicalib.profiles.profile import Profile, default_profile
from aicalib.report.markdown import table
from aicalib.ties import THROUGHPUT_LEVEL, common_errors, reach
from benchmarks.choice import profiles_without
from benchmarks.sweeps import MEASUREMENTS, Sweep, closed_runs, sweeps

Array = NDArray[np.float64]
Codes = NDArray[np.intp]

FEWEST: Final = 2
"""Configurations that a sweep needs."""

MOST: Final = 400
"""Pairs of a sweep, or of two, that are looked at: drawn where there are more."""

WORDS: Final = {
    -1: "only model and engine",
    0: "model, GPU, engine",
    1: "these and formats",
    2: "these and the engine's version",
    3: "these and widths",
    4: "one deployment, other concurrency",
}
"""What two configurations have in common, by the deepest of `aicalib.nearness.DEPTHS`."""


class Pairs(NamedTuple):
    """Pairs of configurations; all of shape (n,).

    Attributes
    ----------
    group : ndarray of str
        Model family and GPUs.
    shared : ndarray of int
        Place of the deepest of `DEPTHS` that both have in common, -1 for none.
    error : ndarray
        |log of the measured ratio of their throughputs over the predicted one|.
    width, single, both : ndarray
        Half width of the interval of the ratio; of the first's own; and of both added, which is what overlapping
        intervals ask about.
    """

    group: NDArray[np.str_]
    shared: Codes
    error: Array
    width: Array
    single: Array
    both: Array


class Predicted(NamedTuple):
    """log(measured / predicted) throughput of the configurations of a sweep, and half widths of their intervals."""

    error: Array
    width: Array


def predicted(sweep: Sweep, profile: Profile) -> Predicted:
    """Return how far off a profile is; its intervals are as wide as the shipped profile's."""
    found = predict_batch(sweep.runs.batch, replace(profile, quantiles=default_profile().quantiles))
    rate = found.mean["output_tok_s_per_gpu"]
    return Predicted(np.log(sweep.tok_s_per_gpu / rate.value), np.log(rate.high / rate.value))


def inside(sweep: Sweep, profile: Profile, random: np.random.Generator) -> Pairs:
    """Return pairs of one sweep."""
    found, batch = predicted(sweep, profile), sweep.runs.batch
    first, second = _drawn(*np.triu_indices(batch.at.size, 1), random)
    codes = np.array([codes for codes, _, _ in paths(batch, np.arange(batch.at.size))])
    shared = (codes[:, first] == codes[:, second]).sum(axis=0) - 1
    common = common_errors(batch, replace(profile, levels={}), THROUGHPUT_LEVEL, first, second)
    return _pairs(" ".join(sweep.group), shared, found, found, first, second, common)


def between(one: Sweep, other: Sweep, profiles: Sequence[Profile], random: np.random.Generator) -> Pairs:
    """Return pairs of two sweeps of one model under one engine, on other GPUs: nothing counts as common."""
    found = predicted(one, profiles[0]), predicted(other, profiles[1])
    grid = np.indices((found[0].error.size, found[1].error.size)).reshape(2, -1)
    first, second = _drawn(*grid, random)
    none = np.full(first.size, -1)
    return _pairs(f"{' '.join(one.group)} {other.gpu}", none, *found, first, second, np.zeros(first.size))


def _drawn(first: Codes, second: Codes, random: np.random.Generator) -> tuple[Codes, Codes]:
    chosen = random.choice(first.size, min(MOST, first.size), replace=False)
    return first[chosen], second[chosen]


def _pairs(
    group: str, shared: Codes, one: Predicted, other: Predicted, first: Codes, second: Codes, common: Array
) -> Pairs:
    error = np.abs(one.error[first] - other.error[second])
    worse, better = one.width[first], other.width[second]
    known = np.isfinite(error)
    found = Pairs(
        np.full(error.size, group), shared, error, sum(reach(worse, better, common)), worse, worse + better
    )
    return Pairs(*(each[known] for each in found))


def pairs(
    found: Sequence[Sweep], fold: Mapping[tuple[str, ...], int], profiles: Sequence[Profile]
) -> Iterator[Pairs]:
    """Yield the pairs of all sweeps, and of those that differ in their GPU alone."""
    random = np.random.default_rng(0)
    # A group of which no run was fitted is unknown to all profiles: the first answers.
    own = [profiles[fold.get(each.group, 0)] for each in found]
    for sweep, profile in zip(found, own, strict=True):
        yield inside(sweep, profile, random)
    for (one, first), (other, second) in combinations(zip(found, own, strict=True), 2):
        same = [(each.model, each.engine, each.isl, each.osl, each.range_ratio) for each in (one, other)]
        if same[0] == same[1] and one.gpu != other.gpu:
            yield between(one, other, (first, second), random)


def rows(found: Pairs) -> Iterator[tuple[object, ...]]:
    """Yield the rows of the table: what is in common, how often the ratio lies inside, how wide that is."""
    for name, chosen in (
        ("all of one GPU", found.shared >= 0),
        *((WORDS[depth], found.shared == depth) for depth in range(-1, len(DEPTHS))),
    ):
        if chosen.any():
            part = Pairs(*(each[chosen] for each in found))
            shares = (np.mean(part.error <= each) for each in (part.width, part.single, part.both))
            yield (name, part.error.size, np.unique(part.group).size, f"{np.median(part.width / part.single):.2f}",
                   *(f"{100 * each:.1f} %" for each in shares))  # fmt: skip


def collected(runs: Runs) -> Pairs:
    """Return all pairs of runs of a closed loop."""
    fold, profiles = profiles_without()
    parts = list(pairs(sweeps(runs, FEWEST), fold, profiles))
    return Pairs(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def main() -> None:
    """Print the table."""
    head = ("in common", "pairs", "groups", "width over that of one",
            "inside", "inside that of one", "inside both together")  # fmt: skip
    print("\n".join(table(head, 1, rows(collected(closed_runs(MEASUREMENTS))))))


if __name__ == "__main__":
    main()
