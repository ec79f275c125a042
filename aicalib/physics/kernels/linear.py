"""Linear attention (gated delta net, Kimi delta attention): the recurrence and the short convolution before it.

Each value head keeps a state of d_k x d_v elements per request, whatever the context. Yang et al., arXiv 2412.06464.
State-space layers (Mamba-2) have the same shape with heads for value heads, the state size for d_k and the head's
width for d_v; no timings of them are read, so they take the surfaces of the gated delta net as the nearest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aicalib.physics.kernels.kind import Kind, Machine, Shape

Array = NDArray[np.float64]

FLOOR_S = 4e-6
PREFILL_FLOOR_S = 20e-6
"""Times of calls on nothing in seconds: a decode kernel or a convolution, and the handful of kernels of a prefill. The
surface corrects them by accelerator; the constants keep what is left to it small."""

CHUNK_TOKENS = 64.0
"""Tokens of a chunk: inside of it the prefill works as attention, between chunks through the state. The value of the
chunked kernels of flash-linear-attention."""

WIDE_BYTES = 2.0
"""Queries, keys, values, outputs and the convolution's state are 16 bit."""


def _state_bytes(shape: Shape, machine: Machine) -> Array:
    """Return the bytes of the states of all requests, read and written, in their own bits (32 as a rule)."""
    elements = shape["requests"] * shape["value_heads"] * shape["key_dim"] * shape["value_dim"]
    result: Array = 2.0 * machine.bits / 8.0 * elements
    return result


def _row_bytes(shape: Shape) -> Array:
    """Return the bytes of a token's query, key, value and output."""
    keys = shape["key_heads"] * shape["key_dim"]
    values = shape["value_heads"] * shape["value_dim"]
    result: Array = WIDE_BYTES * 2.0 * (keys + values)
    return result


def _decode_coordinates(shape: Shape) -> tuple[Array, ...]:
    return (np.log2(shape["requests"] * shape["value_heads"]),)


def _decode_ideal_s(shape: Shape, machine: Machine) -> Array:
    """Return max(flops / peak, bytes / bandwidth), smooth, plus the floor.

    Flops 6 d_k d_v a value head: decay and delta rule on the state, and the read-out. Bytes: the state read and
    written, and one token's rows.
    """
    elements = shape["requests"] * shape["value_heads"] * shape["key_dim"] * shape["value_dim"]
    bytes_ = _state_bytes(shape, machine) + shape["requests"] * _row_bytes(shape)
    return machine.roofline_s(6.0 * elements, bytes_) + FLOOR_S


def _prefill_coordinates(shape: Shape) -> tuple[Array, ...]:
    return (
        np.log2(shape["requests"] * shape["value_heads"]),
        np.log2(shape["tokens"] / shape["requests"]),
    )


def _prefill_ideal_s(shape: Shape, machine: Machine) -> Array:
    """Return max(flops / peak, bytes / bandwidth), smooth, plus the floor.

    Flops a token and value head: 6 d_k d_v with the state, 2 C (2 d_k + d_v) inside chunks of C tokens. Bytes:
    the rows of all tokens, the states, and one state a chunk in 16 bit, written and read.
    """
    state = shape["key_dim"] * shape["value_dim"]
    inside = 2.0 * CHUNK_TOKENS * (2.0 * shape["key_dim"] + shape["value_dim"])
    flops = shape["tokens"] * shape["value_heads"] * (6.0 * state + inside)
    chunks = 2.0 * WIDE_BYTES * shape["tokens"] / CHUNK_TOKENS * shape["value_heads"] * state
    bytes_ = _state_bytes(shape, machine) + chunks + shape["tokens"] * _row_bytes(shape)
    return machine.roofline_s(flops, bytes_) + PREFILL_FLOOR_S


def _convolution_coordinates(shape: Shape) -> tuple[Array, ...]:
    return np.log2(shape["tokens"] * shape["channels"]), np.log2(shape["tokens"] / shape["requests"])


def _convolution_ideal_s(shape: Shape, machine: Machine) -> Array:
    """Return bytes / bandwidth plus the floor.

    Bytes in 16 bit: a row of c channels in and out a token, and k - 1 rows of state a request, read and written.
    """
    rows = shape["tokens"] + shape["requests"] * (shape["kernel"] - 1.0)
    result: Array = 2.0 * WIDE_BYTES * rows * shape["channels"] / machine.bandwidth_bytes_s + FLOOR_S
    return result


LINEAR_DECODE = Kind(
    name="linear_decode",
    sizes=("requests", "key_heads", "value_heads", "key_dim", "value_dim"),
    axes=(np.arange(0.0, 18.0, 1.0),),
    coordinates=_decode_coordinates,
    ideal_s=_decode_ideal_s,
)
"""One token of each request. Axis: log2 of requests times value heads on the rank."""

LINEAR_PREFILL = Kind(
    name="linear_prefill",
    sizes=("requests", "tokens", "key_heads", "value_heads", "key_dim", "value_dim"),
    axes=(np.arange(0.0, 17.0, 2.0), np.array([0.0, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15])),
    coordinates=_prefill_coordinates,
    ideal_s=_prefill_ideal_s,
)
"""Prompts of one length, `tokens` in all. Axes: log2 of requests times value heads, and of tokens a request."""

CONVOLUTION = Kind(
    name="convolution",
    sizes=("requests", "tokens", "channels", "kernel"),
    axes=(np.arange(8.0, 33.0, 2.0), np.array([0.0, 3, 6, 9, 12, 15])),
    coordinates=_convolution_coordinates,
    ideal_s=_convolution_ideal_s,
)
"""The causal convolution over queries, keys and values: 2 n_k d_k + n_v d_v channels. Decode is one token a request,
on a variant of its own. Axes: log2 of tokens times channels, and of tokens a request."""
