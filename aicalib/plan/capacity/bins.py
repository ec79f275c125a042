"""What replicas sustain in the bins of a traffic, each with requests of its own lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aicalib.plan.capacity.demand import Demand
from aicalib.plan.capacity.sustain import Sustained, sustained
from aicalib.plan.tasks.task import Bound
from aicalib.profiles.profile import Profile
from aicalib.resolve.batch import Batch
from aicalib.serving.load import OPEN

Array = NDArray[np.float64]
Codes = NDArray[np.intp]

BLOCK: Final = 1 << 15
"""Rows that are asked about at a time."""

NODES: Final = 12
"""Input lengths, and output lengths, between which rates are read where a traffic has more than the square of them."""

DIRECTIONS: Final = 8
"""Even steps from requests to input tokens and to output tokens, by whose mixtures bins are called busy."""


@dataclass(frozen=True)
class Bins:
    """Starts under the traffic of each bin.

    Attributes
    ----------
    batch : Batch
        Starts; their loads are not read.
    demand : Demand
    bounds : tuple of Bound
    robust : bool
        Fleets are sized by the unfavorable ends of the intervals.
    profile : Profile
    tick : callable
        Called as work goes on.
    """

    batch: Batch
    demand: Demand
    bounds: tuple[Bound, ...]
    robust: bool
    profile: Profile
    tick: Callable[[], object] = lambda: None

    @property
    def heaviest(self) -> int:
        """The bin with most tokens."""
        demand, busy = self.demand, self.demand.busy
        return int(busy[(demand.requests_s[busy] * (demand.isl[busy] + demand.osl[busy])).argmax()])

    def critical(self) -> Codes:
        """Return the bins that may need most replicas.

        Where a request costs a replica an amount that is linear in its input and output tokens, the bin that needs
        most is the busiest for some mixture of requests, input tokens and output tokens a second.
        """
        demand, busy = self.demand, self.demand.busy
        load = demand.requests_s[busy] * np.array([np.ones(busy.size), demand.isl[busy], demand.osl[busy]])
        load /= load.max(axis=1, keepdims=True)
        grid = np.indices((DIRECTIONS + 1,) * 2).reshape(2, -1)
        first, second = grid[:, grid.sum(axis=0) <= DIRECTIONS]
        weights = np.array([first, second, DIRECTIONS - first - second])
        result: Codes = busy[np.unique((weights.T @ load).argmax(axis=1))]
        return result

    def asked(self, rows: Codes, isl: Array, osl: Array) -> Batch:
        """Return starts under open loads of some lengths."""
        chosen, one = self.batch.take(rows), np.ones(rows.size)
        load = replace(
            chosen.load,
            isl=isl,
            osl=osl,
            num_prompts=one * np.inf,
            kind=np.full(rows.size, OPEN),
            request_rate=one,
        )
        return replace(chosen, load=load)

    def size_by(self, found: Sustained) -> Array:
        """Return the rates by which fleets are sized, 0 where there is none."""
        return np.nan_to_num(found.low if self.robust else found.rate)

    def sustained(self, rows: Codes, bins: Codes, ends: Sequence[str] = ()) -> Sustained:
        """Return what each start sustains in each bin, shape (rows, bins).

        Parameters
        ----------
        rows : ndarray of int, shape (k,)
            Of the batch.
        bins : ndarray of int, shape (n,) or (k, n)
        ends : sequence of {"low", "high"}
            Which ends are asked for beside those by which fleets are sized.
        """
        places = np.broadcast_to(bins, (rows.size, bins.shape[-1]))
        pairs = np.repeat(rows, places.shape[1])
        isl, osl = self.demand.isl[places].ravel(), self.demand.osl[places].ravel()
        found = self._sustained(pairs, isl, osl, ends)
        return Sustained(*(each.reshape(places.shape) for each in found))

    def everywhere(self, rows: Codes) -> tuple[Array, Array]:
        """Return the rates by which fleets are sized, and the limits, of starts in all bins, NaN in quiet ones.

        Where the lengths are many, both are read between nodes of input and output tokens: the time that a request
        takes of a replica, 1 / rate, by straight lines. Next to nodes that no rate serves they are asked for.
        """
        demand, busy = self.demand, self.demand.busy
        isl, osl = demand.isl[busy], demand.osl[busy]
        if np.unique([isl, osl], axis=1).shape[1] <= NODES**2:
            found = self.sustained(rows, busy)
            rate, limit = self.size_by(found), found.limit
        else:
            rate, limit = self._between_nodes(rows, isl, osl)
            which, where = np.nonzero(~(rate > 0.0))
            if which.size:
                exact = self._sustained(rows[which], isl[where], osl[where], ())
                rate[which, where], limit[which, where] = self.size_by(exact), exact.limit
        whole = np.full((2, rows.size, demand.requests_s.size), np.nan)
        whole[:, :, busy] = rate, limit
        return whole[0], whole[1]

    def _between_nodes(self, rows: Codes, isl: Array, osl: Array) -> tuple[Array, Array]:
        """Return rates and limits of starts at many lengths, shape (rows, lengths); NaN where a node has none."""
        nodes = _nodes(isl), _nodes(osl)
        first, second = (np.tile(each.ravel(), rows.size) for each in np.meshgrid(*nodes, indexing="ij"))
        pairs = np.repeat(rows, nodes[0].size * nodes[1].size)
        found = self._sustained(pairs, first, second, ())
        shape = (rows.size, nodes[0].size, nodes[1].size)
        with np.errstate(divide="ignore", invalid="ignore"):
            rate, limit = (
                1.0 / _between(1.0 / each.reshape(shape), nodes, (isl, osl))
                for each in (self.size_by(found), found.limit)
            )
        return rate, limit

    def _sustained(self, rows: Codes, isl: Array, osl: Array, ends: Sequence[str]) -> Sustained:
        """Return what starts sustain at some lengths, equal questions asked once; all of shape (n,)."""
        _, first, at = np.unique([rows, isl, osl], axis=1, return_index=True, return_inverse=True)
        wanted = {*ends, *(("low",) if self.robust else ())}
        parts = [
            sustained(
                self.asked(rows[some], isl[some], osl[some]), self.bounds, self.profile, wanted, self.tick
            )
            for some in np.array_split(first, ceil(first.size / BLOCK))
        ]
        return Sustained(*(np.concatenate(each)[at.ravel()] for each in zip(*parts, strict=True)))


def _nodes(lengths: Array) -> Array:
    """Return lengths that divide others into equal shares, their ends among them; at least two."""
    found: Array = np.unique(np.quantile(lengths, np.linspace(0.0, 1.0, NODES)))
    return found if found.size > 1 else np.append(found, found + 1.0)


def _between(values: Array, nodes: tuple[Array, Array], at: tuple[Array, Array]) -> Array:
    """Return values, shape (k, first nodes, second nodes), at places, shape (k, n); NaN next to one without."""
    (i, u), (j, v) = (_place(line, each) for line, each in zip(nodes, at, strict=True))
    low, high = (values[:, side, j] * (1.0 - v) + values[:, side, j + 1] * v for side in (i, i + 1))
    result: Array = low * (1.0 - u) + high * u
    return np.where(np.isfinite(result), result, np.nan)


def _place(nodes: Array, at: Array) -> tuple[Codes, Array]:
    """Return the node below each place, and how far it is to the next as a share."""
    below = np.clip(np.searchsorted(nodes, at, side="right") - 1, 0, nodes.size - 2)
    return below, (at - nodes[below]) / (nodes[below + 1] - nodes[below])
