"""What a measurement costs: another concurrency of a running engine is cheaper than a restart."""

from __future__ import annotations

import tomllib
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from aicalib.loop.acquire import Base
from aicalib.loop.candidates import Candidates
from aicalib.measure.client import Load, prompts_for

Array = NDArray[np.float64]


class Costs:
    """Minutes of measuring: the benchmark from its predicted times, a start by the rates of `costs.toml`.

    Parameters
    ----------
    found : Candidates
        n runs.
    base : Base
        Their figures, measured ones in their places.

    Notes
    -----
    A client that keeps C requests in flight sends N of them in N / C times what one takes end to end.
    """

    def __init__(self, found: Candidates, base: Base) -> None:
        table = tomllib.loads(files("aicalib.loop").joinpath("costs.toml").read_text(encoding="utf-8"))
        load = found.batch.load
        prompts = np.array(
            [prompts_for(load_of(found, row)) for row in range(load.isl.size)], dtype=np.float64
        )
        end_s = base.ttft_s[None] + base.decode_s[None]
        self._bench = (table["client_s"] + prompts * end_s / load.concurrency) / 60.0
        weights_gib = found.plain.memory.weights_bytes / 2.0**30
        self._start = (table["start_s"] + weights_gib / table["read_gib_s"]) / 60.0
        self._of = np.arange(load.isl.size) // len(found.levels)

    def minutes(self, up: set[int]) -> Array:
        """Return the minutes of each run while some starts are up, shape (n,)."""
        stands = np.isin(self._of, list(up))
        result: Array = self._bench + np.where(stands, 0.0, self._start)
        return result


def load_of(found: Candidates, row: int) -> Load:
    """Return what a client sends for a candidate run."""
    level = found.levels[row % len(found.levels)]
    return Load.at(level.isl, level.osl, level.concurrency, level.fixed)
