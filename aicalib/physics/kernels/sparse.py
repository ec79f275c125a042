"""Sparse latent attention with an indexer (DeepSeek-V3.2, GLM-5): whole attention modules, projections included.

The timings are of modules: the projections into latents, queries and output, the indexer that scores every key of the
context and picks the best, and latent attention to those. A layer answered from here has no projections of its own to
add. DeepSeek-V3.2-Exp report (github.com/deepseek-ai/DeepSeek-V3.2-Exp).

Only decode is answered from here. The modules of prefill were timed with a dozen kernels launched one by one: from 4 to
2048 tokens they take the same .8 ms (H200, 16 heads), the time of the host. A prefill step adds its own launch time to
the device's and counts projections, indexer and attention as calls of their own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aicalib.physics.kernels.attention import WIDE_BYTES
from aicalib.physics.kernels.kind import Kind, Machine, Shape

Array = NDArray[np.float64]

DECODE_FLOOR_S = 40e-6
"""Time of a module on nothing in seconds: a dozen kernels out of a graph. The surface corrects it by accelerator."""

INDEX_KEY_BYTES = 1.0 + 4.0 / 128.0
"""Bytes of an element of an index key: FP8, and a 32-bit scale per 128."""

WIDTHS = (
    "heads",
    "hidden_size",
    "q_lora_rank",
    "latent_dim",
    "rope_dim",
    "nope_dim",
    "v_head_dim",
    "index_heads",
    "index_dim",
    "index_topk",
    "cache_bits",
)
"""Sizes of the model on a rank. A layer that takes over the choice of the layer before it has no `index_heads`."""


def weights(shape: Shape) -> Array:
    """Return the weights of a module on a rank, in elements.

    h (r_q + r + d_rope) + n_q (r_q (d_nope + d_rope) + r (d_nope + d_v) + d_v h), and with an indexer
    r_q n_i d_i + h (d_i + n_i): down-projections and indexer are held whole by every rank.
    """
    query, latent = shape["q_lora_rank"], shape["latent_dim"]
    down = shape["hidden_size"] * (query + latent + shape["rope_dim"])
    up = query * (shape["nope_dim"] + shape["rope_dim"]) + latent * (shape["nope_dim"] + shape["v_head_dim"])
    out = shape["v_head_dim"] * shape["hidden_size"]
    index = shape["index_heads"], shape["index_dim"]
    indexer = query * index[0] * index[1] + shape["hidden_size"] * (index[1] + index[0])
    result: Array = down + shape["heads"] * (up + out) + np.where(index[0] > 0, indexer, 0.0)
    return result


def _coordinates(shape: Shape) -> tuple[Array, ...]:
    return np.log2(shape["batch"]), np.log2(shape["context"]), np.log2(shape["heads"])


def _ideal_s(shape: Shape, machine: Machine) -> Array:
    """Return max(flops / peak, bytes / bandwidth), smooth, plus the floor, for one token of each request.

    Flops 2 T weights + 2 n_q (2 r + d_rope) a key attended to, of which there are at most top-k a request, + 2 n_i d_i
    a key scored, which are all; bytes: the weights in their bits, the chosen latents in those of the cache, an index
    key a key, 16-bit rows in and out.
    """
    batch, size = shape["batch"], weights(shape)
    keys = batch * shape["context"]
    chosen = batch * np.minimum(shape["context"], shape["index_topk"])
    width = 2.0 * shape["latent_dim"] + shape["rope_dim"]
    flops = 2.0 * batch * size + 2.0 * shape["heads"] * width * chosen
    flops = flops + 2.0 * shape["index_heads"] * shape["index_dim"] * keys
    cache = shape["cache_bits"] / 8.0 * chosen * (shape["latent_dim"] + shape["rope_dim"])
    index = np.where(shape["index_heads"] > 0, INDEX_KEY_BYTES * keys * shape["index_dim"], 0.0)
    bytes_ = machine.bits / 8.0 * size + cache + index + 2.0 * WIDE_BYTES * batch * shape["hidden_size"]
    return machine.roofline_s(flops, bytes_) + DECODE_FLOOR_S


SPARSE_DECODE = Kind(
    name="sparse_decode",
    sizes=("batch", "context", *WIDTHS),
    axes=(np.arange(0.0, 11.0, 2.0), np.array([0.0, 3, 6, 8, 10, 11, 12, 14, 16, 18]), np.arange(3.0, 8.0)),
    coordinates=_coordinates,
    ideal_s=_ideal_s,
)
"""A module of one token of each request. Axes: log2 of requests, of context, and of heads on the rank. `bits` of the
machine are those of the weights."""
