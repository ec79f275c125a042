"""What a sweep of so many configurations costs, from chunks that were timed where it is to run."""

from __future__ import annotations

from math import ceil, inf
from time import perf_counter
from typing import Final, NamedTuple

import numpy as np

from aicalib.errors import InvalidValue
from aicalib.plan.sweep.run import Sweep, sweep_chunks
from aicalib.plan.workers import HERE, Where, cores, run

CHUNKS_EACH: Final = 4
"""Chunks that each core is timed on, after one that is not: the first loads what a worker needs."""

EMPTY_EACH: Final = 100
"""Chunks without work for each core, timed to see how many can be passed on."""

HOUR_S: Final = 3600.0


class Cost(NamedTuple):
    """What was measured, and what follows for `configurations`.

    Attributes
    ----------
    configurations : int
    cores : int
        On which it was measured.
    chunks, chunk : int
        Chunks that were timed, spread evenly over the grid, and configurations of one.
    busy_s : float
        Processor seconds of work on one chunk, the mean.
    core_s : float
        Seconds of one core for a chunk as it was: wall time x cores / chunks, with all that travels, and with what else
        ran on those cores.
    passed_s : float or None
        Chunks without work that one client and scheduler pass on a second; None without a scheduler.
    busy_hours, core_hours : float
        Of `configurations`, from `busy_s` and from `core_s`.
    """

    configurations: int
    cores: int
    chunks: int
    chunk: int
    busy_s: float
    core_s: float
    passed_s: float | None
    busy_hours: float
    core_hours: float

    @property
    def most_workers(self) -> int | None:
        """Workers beyond which chunks are not passed on fast enough, if each does nothing but its work."""
        return None if self.passed_s is None else max(int(self.passed_s * self.busy_s), 1)

    @property
    def workers_for_an_hour(self) -> int | None:
        """Workers of one core that are done in an hour, None where more than `most_workers` would have to be."""
        needed = ceil(self.core_hours)
        return None if self.most_workers is not None and needed > self.most_workers else needed

    def hours(self, workers: int) -> float:
        """Return the hours that so many workers of one core take."""
        return self.core_hours / min(workers, self.most_workers or workers)


def cost(asked: Sweep, configurations: float, where: Where = HERE) -> Cost:
    """Time some chunks of a sweep, and say what more of them cost.

    Parameters
    ----------
    asked : Sweep
    configurations : float
        As many of the kind that the grid holds.
    where : Where
        On the workers that it is to run on, or others like them.

    Raises
    ------
    RequestError
        If the number is not positive, or as `aicalib.plan.workers.run`.
    """
    if not 1 <= configurations < inf:
        raise InvalidValue(
            f"estimate {configurations:g} is not a number of configurations from 1 on", ["1e9"]
        )
    here, chunks = cores(where), asked.chunks()
    places = np.linspace(0, len(chunks) - 1, CHUNKS_EACH * here)
    sample = [chunks[int(place)] for place in places]
    sweep_chunks(asked, sample[:here], where)
    found = sweep_chunks(asked, sample, where)
    rows, chunk = sum(map(len, sample)), len(sample[0])
    busy_s, core_s = sum(found.busy_s) / rows, found.wall_s * here / rows
    return Cost(
        configurations=int(configurations),
        cores=here,
        chunks=len(sample),
        chunk=chunk,
        busy_s=busy_s * chunk,
        core_s=core_s * chunk,
        passed_s=None if where.scheduler is None else _passed_s(asked, EMPTY_EACH * here, where),
        busy_hours=configurations * busy_s / HOUR_S,
        core_hours=configurations * core_s / HOUR_S,
    )


def _passed_s(asked: Sweep, chunks: int, where: Where) -> float:
    """Return how many chunks without work are passed on a second."""
    results = run(_nothing, asked, range(chunks), where)
    next(results)  # connecting is no part of it
    begin = perf_counter()
    return sum(1 for _ in results) / (perf_counter() - begin)


def _nothing(asked: Sweep, chunk: int) -> None:
    """Do no work on a chunk."""
