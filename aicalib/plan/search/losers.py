"""Why what was tried and not chosen lost, grouped by the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aicalib.plan.score import Figure
from aicalib.plan.search.evaluate import Evaluated
from aicalib.plan.search.found import Lost
from aicalib.plan.tasks.task import Bound

Array = NDArray[np.float64]
Codes = NDArray[np.intp]

NAMES: Final = {"ttft": "TTFT", "tpot": "TPOT", "latency": "end-to-end latency"}
"""Metrics of bounds, for people."""

_STEPS: Final = (0.05, 0.25, 1.0)
"""Distances from the best that losers are sorted by."""


def spelled(bound: Bound) -> str:
    """Return a bound in words: "TPOT p99 of 30 ms"."""
    percentile = f" {bound.percentile}" if bound.percentile else ""
    return f"{NAMES[bound.metric]}{percentile} of {1e3 * bound.threshold_s:g} ms"


def excess(bounds: Sequence[Bound], figures: Mapping[Figure, Array], n: int) -> Array:
    """Return by what share each hard bound is exceeded beyond what it allows, shape (bounds, n); none is 0 or below."""
    found = [figures[bound.metric, bound.percentile] / bound.threshold_s - 1.0 - bound.fail_ratio
             for bound in bounds if bound.hard_fail]  # fmt: skip
    return np.array(found).reshape(len(found), n)


def losers(
    found: Evaluated,
    bounds: Sequence[Bound],
    figures: Mapping[Figure, Array],
    base: Array,
    alive: NDArray[np.bool_],
    kinds: Codes,
    best: int,
) -> tuple[Lost, ...]:
    """Return why kinds of deployments (formats and widths) lost against the best, in falling number.

    Parameters
    ----------
    found : Evaluated
    bounds : sequence of Bound
    figures : mapping of Figure to ndarray, shape (n,)
        At the end of the intervals by which was ranked.
    base : ndarray, shape (n,)
        By which was ranked, misses of bounds not ruled out: lower is better.
    alive : ndarray of bool, shape (n,)
        Configurations of the best's group that the engine starts.
    kinds : ndarray of int, shape (n,)
    best : int
        Row of the best.
    """
    rows = np.flatnonzero(alive & (kinds != kinds[best]) & ~np.isnan(base))
    hard = [bound for bound in bounds if bound.hard_fail]
    over = excess(bounds, figures, found.at.size)
    worst = over.max(axis=0, initial=0.0)[rows]
    # Of each kind the configuration that comes nearest: by the bounds, then by the objective.
    order = rows[np.lexsort((base[rows], worst, kinds[rows]))]
    _, first = np.unique(kinds[order], return_index=True)
    near = order[first]
    groups: dict[str, list[tuple[float, int]]] = {}
    distance = (base[near] - base[best]) / abs(base[best])
    for row, behind in zip(near.tolist(), distance.tolist(), strict=True):
        missed = float(over[:, row].max(initial=0.0))
        if missed > 0.0:
            bound = hard[int(over[:, row].argmax())]
            reason, rank = f"misses {spelled(bound)} under every concurrency", missed
        else:
            reason, rank = ("keeps the level, " if hard else "") + _slower(behind), behind
        groups.setdefault(reason, []).append((rank, row))
    lost = [_lost(found, reason, each, _unit(reason)) for reason, each in groups.items()]
    lost += _without_room(found)
    return tuple(sorted(lost, key=lambda each: -each.number))


def _slower(behind: float) -> str:
    """Return how far behind the best a kind stays, in steps."""
    step = next((each for each in _STEPS if behind <= each), None)
    if step is None:
        return f"more than {100 * _STEPS[-1]:g} % behind the best"
    return f"within {100 * step:g} % of the best"


def _unit(reason: str) -> str:
    return "over" if reason.startswith("misses") else "behind"


def _percent(share: float) -> str:
    """Return a share in percent, to three digits as far as they stand in front of the fourth decimal."""
    percent = 100.0 * share
    return f"{percent:.3g} %" if 0.01 <= percent < 1e3 else f"{percent:.0f} %"


def _lost(found: Evaluated, reason: str, members: Sequence[tuple[float, int]], unit: str) -> Lost:
    rank, row = min(members)
    words = found.space.words(int(found.starts[row]))
    nearest = f"{words} at {found.concurrency[row]:g} in flight: {_percent(rank)} {unit}"
    return Lost(reason, len(members), nearest)


def _without_room(found: Evaluated) -> list[Lost]:
    """Return the kinds that hold no request under any setting."""
    kinds = found.space.kinds()[found.batch.rows]
    held = np.zeros(kinds.max(initial=0) + 1, dtype=np.bool_)
    held[kinds[found.fitting]] = True
    rows = np.flatnonzero(~held[kinds])
    if not rows.size:
        return []
    row = rows[np.argmin(found.missing_gib[rows])]
    words = found.space.words(int(found.batch.rows[row]))
    nearest = f"{words}: {found.missing_gib[row]:.1f} GiB a GPU are missing"
    return [Lost("holds no request beside its weights", int(np.unique(kinds[rows]).size), nearest)]
