"""Time of collective operations between the GPUs of an instance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aicalib.physics.system import Coefficients, System

Array = NDArray[np.float64]


def all_reduce_time(system: System, c: Coefficients, bytes_: Array, *, graph: bool) -> Array:
    """Return the time in seconds of one all-reduce of `bytes_` over the tensor-parallel ranks.

    Parameters
    ----------
    system : System
        n deployments.
    c : Coefficients
        Their coefficients.
    bytes_ : ndarray, shape (n,)
        Message on each rank.
    graph : bool
        Inside a captured graph, where the launch costs nothing more; outside, the launch belongs to the
        launch time of the layer.

    Notes
    -----
    t = t_0 + 2 (n - 1) / n * bytes / (e * link), the ring bound, zero for n = 1. With attention data
    parallelism the gather and scatter over the same ranks move as many bytes.
    """
    width = system.tp
    moved = 2.0 * (width - 1.0) / width * bytes_ / (system.link_bytes_s * c.all_reduce_bandwidth)
    latency = c.all_reduce_latency_s if graph else 0.0
    result: Array = np.where(width > 1.0, latency + moved, 0.0)
    return result
