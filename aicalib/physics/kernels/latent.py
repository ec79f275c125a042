"""Multi-head latent attention (MLA) in decode, absorbed.

DeepSeek-V2, arXiv 2405.04434. In prefill keys and values are expanded to heads; the call is one of grouped-head
attention with as many KV heads as heads. In decode every head attends to the one latent of a token; the batched
products that take queries into the latent and outputs out of it are calls of their own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aicalib.physics.kernels.attention import FLOOR_S, WIDE_BYTES
from aicalib.physics.kernels.kind import Kind, Machine, Shape

Array = NDArray[np.float64]


def _decode_coordinates(shape: Shape) -> tuple[Array, ...]:
    return np.log2(shape["batch"]), np.log2(shape["context"]), np.log2(shape["heads"])


def _decode_ideal_s(shape: Shape, machine: Machine) -> Array:
    """Return max(flops / peak, bytes / bandwidth), smooth, plus the floor.

    Flops 2 n_q (2 r + d_rope) a key: r + d_rope for the score, r for the sum of latents. Bytes: r + d_rope a
    key, once for all heads, in the bits of the cache; queries and outputs in 16 bit.
    """
    latent, rope = shape["latent_dim"], shape["rope_dim"]
    keys = shape["batch"] * shape["context"]
    flops = 2.0 * keys * shape["heads"] * (2.0 * latent + rope)
    rows = shape["batch"] * shape["heads"] * (2.0 * latent + rope)
    bytes_ = machine.bits / 8.0 * keys * (latent + rope) + WIDE_BYTES * rows
    return machine.roofline_s(flops, bytes_) + FLOOR_S


LATENT_DECODE = Kind(
    name="latent_decode",
    sizes=("batch", "context", "heads", "latent_dim", "rope_dim"),
    axes=(np.arange(0.0, 11.0, 2.0), np.arange(0.0, 19.0, 1.0), np.array([0.0, 2, 4, 5, 6, 7])),
    coordinates=_decode_coordinates,
    ideal_s=_decode_ideal_s,
)
"""One token of each request, absorbed. Axes: log2 of requests, of context and of heads on the rank."""
