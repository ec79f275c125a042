"""Time of collective operations between the GPUs of an instance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aicalib.physics.system import Coefficients, System

Array = NDArray[np.float64]

COLLECTIVES = 2.0
"""Collectives a layer: after attention and after the feed-forward."""


def layer_collectives_time(system: System, c: Coefficients, tokens: Array, *, graph: bool) -> Array:
    """Return the time in seconds that the ranks of one layer exchange the hidden states of `tokens` tokens.

    Parameters
    ----------
    system : System
        n deployments.
    c : Coefficients
        Their coefficients.
    tokens : ndarray, shape (n,)
        Tokens in the step, over all ranks.
    graph : bool
        Inside a captured graph each collective has a latency; outside, it belongs to the layer's launch time.

    Notes
    -----
    One all-reduce of b bytes moves 2 (n - 1) / n b over the link, the ring bound. Tensor parallelism does two of
    them a layer; attention data parallelism gathers before the feed-forward and scatters after it, which
    together move as much as one. Nothing moves for n = 1.
    """
    width = system.tp
    bytes_ = 2.0 * tokens * system.arch.hidden_size * np.where(system.dp > 1.0, 1.0, 2.0)
    moved = 2.0 * (width - 1.0) / width * bytes_ / (system.link_bytes_s * c.all_reduce_bandwidth)
    latency = COLLECTIVES * c.all_reduce_latency_s if graph else 0.0
    result: Array = np.where(width > 1.0, latency + moved, 0.0)
    return result
