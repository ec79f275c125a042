"""Memory of a drafter beside its model: weights and a cache of its own, out of the same pool."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aicalib.physics.memory import Memory

Array = NDArray[np.float64]


def with_drafter(held: Memory, weights_bytes: Array, cell_bytes: Array) -> Memory:
    """Return the memory of one GPU that also holds a drafter.

    Parameters
    ----------
    held : Memory
        Of n questions, without it.
    weights_bytes, cell_bytes : ndarray, shape (n,)
        What the drafter takes on one GPU, in all and for each token of the pool; 0 without one.

    Notes
    -----
    As SGLang from about 0.5.18 on does: the drafter's weights come off the pool first, and every token of the pool
    has a place in both caches.
    """
    pool, cell = held.kv_pool_bytes - weights_bytes, held.cell_bytes + cell_bytes
    left = (
        np.maximum(pool, 0.0) / np.maximum(held.kv_pool_bytes, 1.0) * held.cell_bytes / np.maximum(cell, 1e-9)
    )
    left = np.where(weights_bytes + cell_bytes > 0.0, left, 1.0)
    return held._replace(
        weights_bytes=held.weights_bytes + weights_bytes,
        kv_pool_bytes=pool,
        cell_bytes=cell,
        max_total_tokens=np.floor(held.max_total_tokens * left),
        capacity_tokens=np.floor(held.capacity_tokens * left),
    )
