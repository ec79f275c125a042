"""What the serving model reads of a batch of workloads, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LOADS = ("closed", "static_batch")
"""The kinds of load that are computed."""


@dataclass(frozen=True)
class Load:
    """A batch of n workloads, one for each deployment of a `System`; all arrays of shape (n,).

    Attributes
    ----------
    isl, osl : ndarray
        Mean input and output tokens of a request, as sent (not nominal).
    concurrency : ndarray
        Requests in flight (closed loop) or in the batch (static batch).
    num_prompts : ndarray
        Requests of the whole benchmark.
    lockstep : ndarray of bool
        All requests have the same lengths, so that they start and end together.
    warmed_up : ndarray of bool
        The client loaded the engine fully before it measured.
    static : ndarray of bool
        One batch, sent at once, without a server in front.
    """

    isl: Array
    osl: Array
    concurrency: Array
    num_prompts: Array
    lockstep: NDArray[np.bool_]
    warmed_up: NDArray[np.bool_]
    static: NDArray[np.bool_]

    def take(self, rows: NDArray[np.intp]) -> Load:
        """Return the workloads of some rows, in that order."""
        return Load(**{each.name: getattr(self, each.name)[rows] for each in fields(self)})


class Service(NamedTuple):
    """What a benchmark client would report; times in seconds, all of shape (n,)."""

    ttft_mean_s: Array
    ttft_median_s: Array
    tpot_s: Array
    e2e_mean_s: Array
    e2e_median_s: Array
    requests_s: Array
    running: Array
