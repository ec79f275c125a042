"""The best of a grid of any size: every configuration predicted in chunks, of which only the best travel.

A chunk is a range of numbers; whoever works on it lays out its configurations, predicts them, and returns the best and
the Pareto front of each group. What is kept of all chunks does not depend on who did which.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from math import prod
from time import perf_counter, thread_time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.errors import InvalidValue, UnknownName
from aicalib.plan.figures import OUTPUT, figures_of
from aicalib.plan.score import BASES, score
from aicalib.plan.sweep.grid import QUESTION, Grid, Names
from aicalib.plan.tasks.task import Bound
from aicalib.plan.workers import HERE, Where, run
from aicalib.prediction import predict_batch, predict_many
from aicalib.profiles.profile import Profile, default_profile
from aicalib.resolve.rows import resolve_known

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]
Codes = NDArray[np.intp]

CHUNK: Final = 1 << 17
"""Configurations of a chunk: about a second of work, beside which a millisecond of passing it on is little."""

BLOCK: Final = 1 << 13
"""Configurations that are predicted at a time: a column of them stays below the 128 KiB from which malloc maps memory
anew each time, which Dask's workers, told to give memory back early, pay for with three times the processor time."""

STEEPNESS: Final = 0.1
"""Relative excess over a weighted bound at which its penalty has grown by e, as the autotuner's own."""

MOST_GROUPS: Final = 100_000
"""Groups beyond which what is kept of each would be a table that nobody reads."""


class Kept(NamedTuple):
    """Configurations, n of each: their number, group, score, the two figures of the front and the time to first token.

    `starts` is how many starts one stands for: those whose settings change none of these figures.
    """

    number: Codes
    group: Codes
    score: Array
    per_gpu: Array
    per_user: Array
    first_s: Array
    starts: Codes

    def take(self, chosen: Codes) -> Kept:
        """Return some of them."""
        columns: Any = (column[chosen] for column in self)
        return Kept(*columns)

    @staticmethod
    def together(parts: Sequence[Kept]) -> Kept:
        """Return what is kept of several."""
        columns: Any = map(np.concatenate, zip(*parts, strict=True))
        return Kept(*columns)


class Done(NamedTuple):
    """What became of a chunk.

    Attributes
    ----------
    statuses, refused : Counter
        Configurations of each status, and why some were refused.
    best, front : Kept
    busy_s : float
        Processor seconds that it took.
    """

    statuses: Counter[str]
    refused: Counter[str]
    best: Kept
    front: Kept
    busy_s: float


@dataclass(frozen=True)
class Sweep:
    """What is asked of a grid.

    Attributes
    ----------
    grid : Grid
        Ordered by group.
    by : tuple of str
        Axes whose values are groups of their own.
    names : Names
    groups : int
        How many there are; those of the first axes.
    levels : int
        Configurations in a row that are one start under several loads.
    profile : Profile
    objective : str
        One of `aicalib.plan.score.BASES`.
    bounds : tuple of Bound
    top : int
        Starts to keep of each group, each under the load that suits it best.
    """

    grid: Grid
    by: tuple[str, ...]
    names: Names
    groups: int
    levels: int
    profile: Profile
    objective: str
    bounds: tuple[Bound, ...]
    top: int

    def chunks(self) -> list[range]:
        """Return the numbers of the configurations of each chunk."""
        size, step = self.grid.size, self.whole_starts(CHUNK)
        return [range(first, min(first + step, size)) for first in range(0, size, step)]

    def whole_starts(self, most: int) -> int:
        """Return how many configurations are whole starts under all of their loads, about `most`."""
        return max(most // self.levels, 1) * self.levels

    def table(self, kept: Kept) -> pd.DataFrame:
        """Return configurations with their options, score and prediction, as `predict_many` gives it."""
        import pandas as pd

        frame = pd.DataFrame(self.grid.columns(kept.number))
        found = predict_many(frame, self.profile).rename(columns={"tp": "tp_used"})
        frame.insert(len(frame.columns), "score", kept.score)
        return frame.join(found)


@dataclass(frozen=True)
class Swept:
    """What a sweep found.

    Attributes
    ----------
    sweep : Sweep
    statuses : Counter
        "ok", "does_not_fit", "overloaded" or "refused" -> configurations.
    refused : Counter
        Reason -> configurations.
    best : Kept
        By group, best first; equal scores by number. Starts with the same figures are one.
    front : Kept
        Pareto front of output tokens a second and GPU against output tokens a second and user, by group and falling
        tokens a GPU, whatever the bounds.
    busy_s : tuple of float
        Processor seconds that each chunk took whoever worked on it.
    wall_s : float
        Seconds from the first chunk to the last, with all that travelled.
    """

    sweep: Sweep
    statuses: Counter[str]
    refused: Counter[str]
    best: Kept
    front: Kept
    busy_s: tuple[float, ...]
    wall_s: float


def plan_sweep(
    grid: Grid,
    objective: str = "maximize_throughput",
    bounds: Sequence[Bound] = (),
    top: int = 5,
    by: Sequence[str] | None = None,
    profile: Profile | None = None,
) -> Sweep:
    """Return what is to be asked of a grid, its names looked up.

    Parameters
    ----------
    grid : Grid
    objective : str
    bounds : sequence of Bound
    top : int
    by : sequence of str, optional
        Axes whose values are groups of their own: the model and the lengths if not given.
    profile : Profile, optional
        The shipped default if not given.

    Raises
    ------
    RequestError
        For a wrong name or number, or too many groups.
    """
    if objective not in BASES:
        raise UnknownName("objective", objective, BASES)
    if top < 1:
        raise InvalidValue(f"top {top} is not a number of starts from 1 on", ["top 5"])
    chosen = [name for name in QUESTION if name in grid.axes] if by is None else list(dict.fromkeys(by))
    ordered = grid.grouped(chosen)
    groups = prod(len(grid.axes[name]) for name in chosen)
    if groups > MOST_GROUPS:
        raise InvalidValue(
            f"{groups} groups of {', '.join(chosen)} are more than {MOST_GROUPS}; group by fewer axes",
            ["by model"],
        )
    levels = ordered.levels(chosen)
    used = profile or default_profile()
    return Sweep(ordered, tuple(chosen), Names(ordered), groups, levels, used, objective, tuple(bounds), top)


def sweep(asked: Sweep, where: Where = HERE, tick: Callable[[], object] = lambda: None) -> Swept:
    """Predict every configuration of a grid and keep the best of each group.

    Parameters
    ----------
    asked : Sweep
    where : Where
    tick : callable
        Called after each chunk.

    Raises
    ------
    RequestError
        As `aicalib.plan.workers.run`.
    """
    found = sweep_chunks(asked, asked.chunks(), where, tick)
    each = asked.grid.size // asked.names.codes.size
    found.refused.update({reason: count * each for reason, count in asked.names.refused.items()})
    return found


def sweep_chunks(
    asked: Sweep, chunks: Sequence[range], where: Where = HERE, tick: Callable[[], object] = lambda: None
) -> Swept:
    """Sweep some chunks alone; configurations whose names are refused are counted without the reason."""
    statuses, refused = Counter[str](), Counter[str]()
    best, front, busy_s = _Best(asked), _Fronts(), []
    begin = perf_counter()
    with closing(run(work, asked, chunks, where)) as results:
        for done in results:
            statuses.update(done.statuses)
            refused.update(done.refused)
            best.add(done.best)
            front.add(done.front)
            busy_s.append(done.busy_s)
            tick()
    wall_s = perf_counter() - begin
    return Swept(asked, statuses, refused, best.kept(), front.kept(), tuple(busy_s), wall_s)


def work(asked: Sweep, chunk: range) -> Done:
    """Predict the configurations of a chunk and keep the best and the front of each group."""
    begin = thread_time()
    statuses, refused = Counter[str](), Counter[str]()
    best, front = _Best(asked), _Fronts()
    step = asked.whole_starts(BLOCK)
    for first in range(chunk.start, chunk.stop, step):
        numbers = np.arange(first, min(first + step, chunk.stop))
        kept = _predicted(asked, numbers, statuses, refused)
        best.add(kept)
        front.add(kept)
    return Done(statuses, refused, best.kept(), front.kept(), thread_time() - begin)


def _predicted(asked: Sweep, numbers: Codes, statuses: Counter[str], refused: Counter[str]) -> Kept:
    """Predict some configurations; count what became of them, and return those with numbers."""
    codes = asked.names.of(asked.grid.places(numbers), numbers.size)
    known = np.flatnonzero(codes >= 0)
    options = asked.grid.columns(numbers[known])
    for name in asked.names.axes:
        del options[name]
    batch = resolve_known(asked.names.identities, codes[known], options)
    refused.update(str(error) for error in batch.refused.values())
    found = predict_batch(batch, asked.profile)
    answered = found.fits & ~found.overloaded
    statuses["ok"] += int(answered.sum())
    statuses["does_not_fit"] += int((~found.fits).sum())
    statuses["overloaded"] += int((found.fits & found.overloaded).sum())
    statuses["refused"] += numbers.size - batch.rows.size
    figures = figures_of(found, "value")
    number = numbers[known][batch.rows]
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = Kept(
            number,
            number // (asked.grid.size // asked.groups),
            score(asked.objective, asked.bounds, STEEPNESS, figures),
            figures[OUTPUT],
            1.0 / figures["tpot", None],
            figures["ttft", None],
            np.ones(number.size, dtype=np.intp),
        )
    return kept.take(np.flatnonzero(answered))


class _Pool(ABC):
    """What is kept as more comes in, held down to what may still count."""

    def __init__(self) -> None:
        empty = np.zeros(0)
        places = np.zeros(0, dtype=np.intp)
        self._parts = [Kept(places, places, empty, empty, empty, empty, places)]

    def add(self, more: Kept) -> None:
        """Take what may count; thin out what is held when it has doubled."""
        self._parts.append(self.choose(more))
        if sum(each.number.size for each in self._parts[1:]) > self._parts[0].number.size:
            self._parts = [self.kept()]

    def kept(self) -> Kept:
        """Return what counts."""
        return self.choose(Kept.together(self._parts))

    @abstractmethod
    def choose(self, kept: Kept) -> Kept:
        """Return what counts of some."""


class _Best(_Pool):
    def __init__(self, asked: Sweep) -> None:
        super().__init__()
        self._asked = asked

    def choose(self, kept: Kept) -> Kept:
        """Return the best starts of each group, each under its best load, of what no hard bound rules out.

        Starts that differ in nothing but what changes no figure are one: the first of them.
        """
        kept = kept.take(np.flatnonzero(np.isfinite(kept.score)))
        kept = kept.take(np.lexsort((kept.number, *self._alike(kept))))
        kept = kept.take(np.sort(np.unique(kept.number // self._asked.levels, return_index=True)[1]))
        another = np.ones(kept.number.size, dtype=bool)
        another[1:] = np.any([np.diff(each) != 0.0 for each in self._alike(kept)], axis=0)
        firsts = np.flatnonzero(another)
        kept = kept.take(firsts)._replace(starts=np.add.reduceat(kept.starts, firsts))
        kept = kept.take(np.lexsort((kept.number, kept.score, kept.group)))
        begins = np.searchsorted(kept.group, kept.group)
        return kept.take(np.flatnonzero(np.arange(kept.group.size) - begins < self._asked.top))

    def _alike(self, kept: Kept) -> tuple[NDArray[Any], ...]:
        """Return what starts that are one have in common, what orders them first at the end."""
        load = kept.number % self._asked.levels
        return kept.first_s, kept.per_user, kept.per_gpu, load, kept.score, kept.group


class _Fronts(_Pool):
    def choose(self, kept: Kept) -> Kept:
        """Return what no other of its group is as good as in both figures and better in one; of equals the first."""
        kept = kept.take(np.lexsort((kept.number, -kept.per_user, -kept.per_gpu, kept.group)))
        if not kept.number.size:
            return kept
        # The rank among all, counted on from group to group, so that the best so far starts anew with each.
        rank = np.unique(kept.per_user, return_inverse=True)[1] + kept.group * (kept.number.size + 1)
        best = np.maximum.accumulate(rank)
        return kept.take(np.flatnonzero(rank > np.concatenate([[-1], best[:-1]])))
