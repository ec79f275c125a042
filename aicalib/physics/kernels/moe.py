"""Routed experts of one layer on one rank: which experts a batch touches, and the grouped products on them.

T tokens choose k of E experts each. A rank holds E / ep whole experts (expert parallelism), or a slice of
inter / tp columns of each. What the kernel costs follows from two counts on the rank that everyone waits for:
its (token, expert) pairs, and the distinct experts they touch, whose weights must be read once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aicalib.physics.kernels.kind import Kind, Machine, Shape

Array = NDArray[np.float64]

SKEW = {"uniform": 0.0, "moderate": 0.3, "strong": 1.0}
"""How unevenly a layer's experts are liked: squared coefficient of variation of their popularity."""

DEFAULT_SKEW = "moderate"
"""Routers are trained towards balance over a large batch, not over the tokens of one step or one domain. No
timing says how far real traffic is from balance: AIConfigurator times its kernels under truncated power laws of
squared coefficient of variation 1.0 at 64 tokens and 3.7 at 16384, far beyond "strong" for a large batch; the
moderate value touches as many of 256 experts at 64 tokens as its draws do. A measured value should replace it."""

FLOOR_S = 1e-5
"""Time of experts without tokens in seconds: about the launches of permutation, two products and the sum. The
surface corrects it by accelerator and kernel; the constant keeps what is left to the surface small."""

TILE = {
    "trtllm/wide": 128,
    "trtllm/fp8_block": 128,
    "trtllm/fp4": 128,
    "trtllm/mxfp4_mxfp8": 256,
    "trtllm/weight_only_4": 256,
    "trtllm/int4": 128,
}
"""Multiple of elements to which a variant pads hidden and inter size; 1 where absent. SGLang pads MXFP4 experts to
256 on Blackwell (`layers/quantization/mxfp4.py`); for the others 128 describes the timings of TRT-LLM kernels best
(left-out error of 16-bit experts on B200 3.6 % with, 6.5 % without)."""

_LOG2_RANKS = np.arange(9.0)
_NORMAL_MAXIMUM = np.array([0.0, 0.5642, 1.0294, 1.4236, 1.7660, 2.0697, 2.3437, 2.5939, 2.8255])
"""Expected maximum of 1, 2, 4, ... 256 standard normal draws (order statistics; Harter 1961)."""


def busiest_pairs(
    tokens: ArrayLike, experts: ArrayLike, top_k: ArrayLike, ranks: ArrayLike, skew: ArrayLike
) -> Array:
    """Return the expected pairs of the rank with the most of them.

    Mean plus z(ep) standard deviations, where z is the expected maximum of ep normal draws and the variance has
    the luck of the draw, T k / ep (1 - 1 / ep) (E - k) / (E - 1), and the popularity of the experts that the
    rank happens to hold, mean^2 v ep / E (1 - 1 / ep). A token sends a rank at most min(k, E / ep) pairs, and the
    busiest rank has at least one.

    Parameters
    ----------
    tokens : array_like
        T, at least 1, of all ranks together.
    experts, top_k, ranks : array_like
        E, k and ep.
    skew : array_like
        Squared coefficient of variation of the experts' popularity; 0 is uniform. It fades as k nears E,
        where every expert is chosen: v = skew (1 - k / E).
    """
    t, e, k, ep = (np.asarray(each, dtype=float) for each in (tokens, experts, top_k, ranks))
    mean = t * k / ep
    rest = 1.0 - 1.0 / ep
    luck = mean * rest * (e - k) / np.maximum(e - 1.0, 1.0)
    liking = mean**2 * np.asarray(skew) * (1.0 - k / e) * ep / e * rest
    above = np.interp(np.log2(ep), _LOG2_RANKS, _NORMAL_MAXIMUM) * np.sqrt(luck + liking)
    result: Array = np.clip(mean + above, 1.0, np.maximum(t * np.minimum(k, e / ep), 1.0))
    return result


def touched_experts(
    tokens: ArrayLike, experts: ArrayLike, top_k: ArrayLike, ranks: ArrayLike, skew: ArrayLike
) -> Array:
    """Return the expected distinct experts that the pairs of the busiest rank touch.

    An expert of mean popularity is missed by all T tokens with probability (1 - k / E)^T = exp(-u). With
    popularities spread like a gamma distribution of squared coefficient of variation v, the mean over experts
    is (1 + v u)^(-1 / v) (the zero class of a negative binomial), and touched = E / ep (1 - that); v = 0 gives
    E / ep (1 - (1 - k / E)^T). On the busiest of ep ranks u grows with its pairs. One token's experts are
    distinct, so never fewer than its pairs, and never more than all pairs.

    Parameters
    ----------
    tokens, experts, top_k, ranks, skew : array_like
        As in `busiest_pairs`.
    """
    t, e, k, ep = (np.asarray(each, dtype=float) for each in (tokens, experts, top_k, ranks))
    pairs = busiest_pairs(t, e, k, ep, skew)
    share = np.minimum(k / e, 1.0 - 1e-12)
    hazard = -np.log1p(-share) * t * pairs / (t * k / ep)
    v = np.asarray(skew) * (1.0 - k / e)
    spread = np.where(v > 1e-6, v, 1.0)
    missed = np.where(v > 1e-6, np.exp(-np.log1p(spread * hazard) / spread), np.exp(-hazard))
    least = np.minimum(busiest_pairs(1.0, e, k, ep, skew), np.maximum(e / ep, 1.0))
    result: Array = np.clip(e / ep * (1.0 - missed), least, np.minimum(np.maximum(e / ep, 1.0), pairs))
    return result


def padded(size: ArrayLike, tile: ArrayLike) -> Array:
    """Return a size rounded up to a multiple of the tile."""
    multiple = np.asarray(tile, dtype=float)
    result: Array = np.ceil(np.asarray(size, dtype=float) / multiple) * multiple
    return result


def rank_shape(
    tokens: ArrayLike,
    experts: ArrayLike,
    top_k: ArrayLike,
    hidden_size: ArrayLike,
    inter_size: ArrayLike,
    matrices: ArrayLike,
    tp: ArrayLike,
    ep: ArrayLike,
    skew: ArrayLike,
    tile: ArrayLike = 1,
) -> dict[str, Array]:
    """Return the shape of the call on the busiest rank, widths as the kernel stores them.

    Parameters
    ----------
    tokens, experts, top_k, skew : array_like
        As in `busiest_pairs`; a fused shared expert is not counted among them.
    hidden_size, inter_size : array_like
        Widths of the model and of one whole expert.
    matrices : array_like
        3 with a gate (SwiGLU), 2 without.
    tp, ep : array_like
        Ranks that slice each expert, and ranks that share out whole experts.
    tile : array_like
        From `TILE`, by variant.
    """
    sliced = np.asarray(inter_size, dtype=float) / np.asarray(tp, dtype=float)
    return {
        "pairs": busiest_pairs(tokens, experts, top_k, ep, skew),
        "touched": touched_experts(tokens, experts, top_k, ep, skew),
        "hidden_size": padded(hidden_size, tile),
        "inter_size": padded(sliced, tile),
        "matrices": np.asarray(matrices, dtype=float),
    }


def weight_elements(shape: Shape) -> Array:
    """Return the weights read: matrices x hidden x inter of every touched expert."""
    result: Array = shape["touched"] * shape["matrices"] * shape["hidden_size"] * shape["inter_size"]
    return result


def flops(shape: Shape) -> Array:
    """Return the operations: 2 matrices x hidden x inter a pair."""
    result: Array = 2.0 * shape["pairs"] * shape["matrices"] * shape["hidden_size"] * shape["inter_size"]
    return result


def _coordinates(shape: Shape) -> tuple[Array, ...]:
    return (
        np.log2(shape["pairs"] / shape["touched"]),
        np.log2(shape["touched"]),
        np.log2(shape["inter_size"]),
    )


def _ideal_s(shape: Shape, machine: Machine) -> Array:
    """Return max(flops / peak, bytes / bandwidth), smooth, plus the floor.

    Bytes: weights of the touched experts in their own bits; per pair, in 16 bit, the hidden state gathered, the
    products in between written and read, and the result written.
    """
    activations = (
        2.0 * shape["pairs"] * (2.0 * shape["hidden_size"] + shape["matrices"] * shape["inter_size"])
    )
    bytes_ = machine.bits / 8.0 * weight_elements(shape) + activations
    return machine.roofline_s(flops(shape), bytes_) + FLOOR_S


MOE = Kind(
    name="moe",
    sizes=("pairs", "touched", "hidden_size", "inter_size", "matrices"),
    axes=(
        np.array([0.0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        np.array([0.0, 2, 4, 6, 8, 9]),
        np.array([5.0, 6, 7, 8, 9, 10, 11, 12, 13, 14]),
    ),
    coordinates=_coordinates,
    ideal_s=_ideal_s,
)
"""Variants are "kernel/format class" (`aicalib/engines/kernels.csv`); axes are log2 of pairs per touched
expert, touched experts and inter size on the rank. A fourth for the hidden size makes left-out models worse."""
