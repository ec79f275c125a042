"""What the serving model reads of a batch of workloads, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Codes = NDArray[np.intp]

LOADS = ("closed", "open", "burst", "static_batch")
"""The kinds of load, in the order of their codes."""

CLOSED, OPEN, BURST, STATIC = range(len(LOADS))


@dataclass(frozen=True)
class Load:
    """A batch of n workloads; all arrays of shape (n,).

    Attributes
    ----------
    isl, osl : ndarray
        Mean input and output tokens of a request, as sent (not nominal).
    concurrency : ndarray
        Requests in flight (closed loop) or in the batch (static batch); not read under the other loads.
    num_prompts : ndarray
        Requests of the whole benchmark; infinite where it never ends.
    lockstep : ndarray of bool
        All requests have the same lengths, so that they start and end together.
    warmed_up : ndarray of bool
        The engine had served prompts of such lengths before the run began.
    kind : ndarray of int
        Index into `LOADS`. Closed: a fixed number in flight. Open: Poisson arrivals. Burst: all requests at once.
        Static batch: one batch, sent at once, without a server in front.
    request_rate : ndarray, optional
        Arrivals a second of an open load; None where no workload is open.
    prefix_hit : ndarray, optional
        Share of the input tokens whose keys and values the engine holds already; None where it is 0 for all.
    """

    isl: Array
    osl: Array
    concurrency: Array
    num_prompts: Array
    lockstep: NDArray[np.bool_]
    warmed_up: NDArray[np.bool_]
    kind: Codes
    request_rate: Array | None = None
    prefix_hit: Array | None = None

    @property
    def cached(self) -> Array | None:
        """Tokens of a prompt that the prefix cache holds: all but one at most; None where there are none."""
        return None if self.prefix_hit is None else np.minimum(self.isl * self.prefix_hit, self.isl - 1.0)

    @property
    def new(self) -> Array:
        """Tokens of a prompt that are prefilled."""
        cached = self.cached
        return self.isl if cached is None else self.isl - cached

    @property
    def context(self) -> Array:
        """Mean tokens in the cache of a request that is at any point of its answer."""
        return self.isl + self.osl / 2.0

    def take(self, rows: Codes) -> Load:
        """Return the workloads of some rows, in that order."""
        held: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        chosen: dict[str, Any] = {name: None if each is None else each[rows] for name, each in held.items()}
        return Load(**chosen)


class Spread(NamedTuple):
    """How the latencies of requests lie about their mean; in seconds, all of shape (n,).

    A share `first_share` of the requests has a TTFT spread evenly from `first_low_s` to `first_high_s`. That of the
    others is `fixed_s`, a time spread evenly from 0 to `even_s`, and a queue of mean `queue_s` that a share `queued`
    of them meets, in which waits are exponential. TPOT is normal with `tpot_deviation_s`.
    """

    fixed_s: Array
    even_s: Array
    queue_s: Array
    queued: Array
    first_low_s: Array
    first_high_s: Array
    first_share: Array
    tpot_deviation_s: Array


class Service(NamedTuple):
    """What a benchmark client would report; times in seconds, all of shape (n,).

    `sustainable_s` is the rate in requests a second up to which an open load has a steady state, NaN under other
    loads; a row asked above it has NaN in every other number.
    """

    ttft_mean_s: Array
    ttft_median_s: Array
    tpot_s: Array
    e2e_mean_s: Array
    e2e_median_s: Array
    requests_s: Array
    running: Array
    sustainable_s: Array
    spread: Spread

    def each(self, change: Callable[[Array], Array]) -> Service:
        """Return the service with every array changed alike."""
        numbers: dict[str, Any] = {name: change(getattr(self, name)) for name in self._fields[:-1]}
        return Service(**numbers, spread=Spread(*(change(values) for values in self.spread)))

    @staticmethod
    def join(parts: list[Service], order: Codes) -> Service:
        """Return several services as one, their rows one after the other and then in an order."""

        def joined(values: list[Array]) -> Array:
            return np.concatenate(values)[order]

        numbers: dict[str, Any] = {
            name: joined([getattr(part, name) for part in parts]) for name in Service._fields[:-1]
        }
        spread = (joined([part.spread[at] for part in parts]) for at in range(len(Spread._fields)))
        return Service(**numbers, spread=Spread(*spread))
