"""Softmax attention with grouped heads (MHA, GQA, MQA): one decode call, one prefill call of one layer.

A call is what one rank runs: heads and KV heads are those on the rank. Where only the last w tokens are seen
(a sliding window), a query costs at most w keys; w is infinite for full attention.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aicalib.physics.kernels.kind import Kind, Machine, Shape

Array = NDArray[np.float64]

FLOOR_S = 7e-6
"""Time of a call on nothing in seconds: between the 4 us of FlashInfer and the 14 us of FP8 kernels on Blackwell.
The surface corrects it by accelerator and backend; the constant keeps what is left to it small."""

WIDE_BYTES = 2.0
"""Queries and outputs are 16 bit."""

LENGTH_KNOTS = np.array([1.0, 4, 6, 7, 8, 9, 10, 11, 12, 13, 15])
"""log2 of the length of a prompt: closer where a prefill goes over from its floor to the rate of the math."""

EIGHT_BIT_MATH = ("fa3", "flash_attention", "trtllm_mha", "trtllm_mla")
"""Backends that multiply in FP8 over an FP8 cache; the others raise keys and values to 16 bit first."""

MASKING_PREFILL = ("triton", "flashinfer")
"""Backends whose prefill masks what lies outside of a window instead of skipping it: their time grows with all
pairs, so their prefill shapes have an infinite window."""


def causal_pairs(new: Array, prefix: Array, window: Array) -> Array:
    """Return the (query, key) pairs of one prompt: query i of n sees min(P + i, w) keys.

    r = min(max(w - P, 0), n) queries still see everything, r P + r (r + 1) / 2 pairs; the other n - r see w.
    Without a window n P + n (n + 1) / 2.

    Parameters
    ----------
    new, prefix : ndarray
        Tokens computed (n), and tokens of the same prompt already in the cache (P).
    window : ndarray
        Keys that a query sees at most (w), itself included; infinite without a window.
    """
    ramp = np.clip(window - prefix, 0.0, new)
    inside = np.where(np.isfinite(window), window, 0.0)
    result: Array = ramp * prefix + 0.5 * ramp * (ramp + 1.0) + (new - ramp) * inside
    return result


def _decode_coordinates(shape: Shape) -> tuple[Array, ...]:
    return (
        np.log2(shape["batch"] * shape["kv_heads"]),
        np.log2(np.minimum(shape["context"], shape["window"])),
        np.log2(shape["heads"] / shape["kv_heads"]),
        np.log2(shape["head_dim"]),
    )


def _decode_ideal_s(shape: Shape, machine: Machine) -> Array:
    """Return max(flops / peak, bytes / bandwidth), smooth, plus the floor.

    Flops 2 (d + d_v) a head and key; bytes: keys and values inside the window in the bits of the cache, one
    query and one output a request in 16 bit. The bandwidth is that of the memory: no layer finds its cache
    in L2, because the layers before it have been read since.
    """
    width = shape["head_dim"] + shape["v_head_dim"]
    seen = np.minimum(shape["context"], shape["window"])
    flops = 2.0 * shape["batch"] * shape["heads"] * width * seen
    cache = machine.bits / 8.0 * shape["batch"] * shape["kv_heads"] * width * seen
    bytes_ = cache + WIDE_BYTES * shape["batch"] * shape["heads"] * width
    return machine.roofline_s(flops, bytes_) + FLOOR_S


def _prefill_ideal_s(shape: Shape, machine: Machine) -> Array:
    """Return max(flops / peak, bytes / bandwidth), smooth, plus the floor.

    Flops 2 (d + d_v) a head and causal pair; bytes: keys and values of the prefix inside the window and of the
    new tokens in the bits of the cache, queries and outputs in 16 bit.
    """
    prompts, new, prefix, window = (
        shape[name] for name in ("prompts", "new_tokens", "prefix_tokens", "window")
    )
    width = shape["head_dim"] + shape["v_head_dim"]
    flops = 2.0 * prompts * shape["heads"] * width * causal_pairs(new, prefix, window)
    keys = prompts * shape["kv_heads"] * width * (new + np.minimum(prefix, window))
    bytes_ = machine.bits / 8.0 * keys + WIDE_BYTES * prompts * shape["heads"] * width * new
    return machine.roofline_s(flops, bytes_) + FLOOR_S


def _prefill_coordinates(shape: Shape) -> tuple[Array, ...]:
    """Return log2 of the parallel work, of the equivalent length, of heads a KV head and of the head's width.

    The length is that of a prompt from nothing with the same pairs a query, L = 2 pairs / n - 1: n itself for a
    prompt from nothing, n + 2 P behind a prefix, near 2 w in a window. The work is the heads of all prompts, times
    n / L: the rows of queries over L.
    """
    new = shape["new_tokens"]
    length = 2.0 * causal_pairs(new, shape["prefix_tokens"], shape["window"]) / new - 1.0
    work = shape["prompts"] * shape["heads"] * new / length
    return (
        np.log2(work),
        np.log2(length),
        np.log2(shape["heads"] / shape["kv_heads"]),
        np.log2(shape["head_dim"]),
    )


DECODE = Kind(
    name="decode_attention",
    sizes=("batch", "context", "heads", "kv_heads", "head_dim", "v_head_dim", "window"),
    axes=(
        np.arange(0.0, 15.0, 2.0),
        np.arange(0.0, 19.0, 2.0),
        np.array([0.0, 2, 4, 6]),
        np.array([6.0, 7, 8, 9]),
    ),
    coordinates=_decode_coordinates,
    ideal_s=_decode_ideal_s,
)
"""One token of each request over the context it sees (the new token included). Axes: log2 of requests times KV
heads, of keys seen, of heads a KV head, and of the head's width."""

PREFILL = Kind(
    name="prefill_attention",
    sizes=(
        "prompts",
        "new_tokens",
        "prefix_tokens",
        "heads",
        "kv_heads",
        "head_dim",
        "v_head_dim",
        "window",
    ),
    axes=(
        np.arange(0.0, 17.0, 2.0),
        LENGTH_KNOTS,
        np.array([0.0, 3, 6]),
        np.array([6.0, 7, 8, 9]),
    ),
    coordinates=_prefill_coordinates,
    ideal_s=_prefill_ideal_s,
)
"""New tokens of each prompt over themselves, causal, and over a cached prefix. Axes: log2 of the parallel work and
of the equivalent length, of heads a KV head, and of the head's width."""
