"""Exchange between ranks: all-reduce and its halves, the all-to-all of experts, hand-over between pipeline stages."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aicalib.physics.kernels.kind import Kind, Machine, Shape

Array = NDArray[np.float64]

FLOOR_S = 4e-6
"""Time of an exchange of nothing in seconds. The surfaces correct it: by width, and for a launch outside of a
captured graph."""

HAND_OVER_S = 1e-5
"""Latency of a point-to-point message in seconds (systems files of aiconfigurator-core 0.12.0).

Also of a hop from node to node inside a collective: an all-reduce over two nodes has two, which with the 5 us that the
surface of eight H100s gives for a small one makes 25 us. nccl-tests on two nodes of eight H100s over InfiniBand
measured 27.4 us (NVIDIA/nccl#1017); on two of eight H20s, by another algorithm, 46 us (NVIDIA/nccl#1244).
"""

TIMED_NETWORK_BYTES_S = 50e9
"""Rate of one GPU between the nodes on which DeepEP was timed, in bytes a second: that of H100 and H200 in the systems
files of aiconfigurator-core 0.12.0, one ConnectX-7 each."""

DISPATCH_BYTES = 1.0
"""DeepEP sends a token's hidden state to its experts in FP8."""

COMBINE_BYTES = 2.0
"""DeepEP returns what the experts make of it in 16 bit."""


def _all_reduce_coordinates(shape: Shape) -> tuple[Array, ...]:
    return np.log2(np.maximum(shape["bytes"], 1.0)), np.log2(shape["width"])


def _all_reduce_ideal_s(shape: Shape, machine: Machine) -> Array:
    """Return 2 (n - 1) / n bytes / link plus the floor: the ring bound for n ranks."""
    width = shape["width"]
    moved = 2.0 * (width - 1.0) / width * shape["bytes"]
    result: Array = moved / machine.link_bytes_s + FLOOR_S
    return result


ALL_REDUCE = Kind(
    name="all_reduce",
    sizes=("bytes", "width"),
    axes=(np.arange(8.0, 31.0), np.array([1.0, 2.0, 3.0, 4.0])),
    coordinates=_all_reduce_coordinates,
    ideal_s=_all_reduce_ideal_s,
)
"""Variants are those of `all_reduce_variant`; axes are log2 of the bytes of the message and of the ranks."""


def _no_coordinates(shape: Shape) -> tuple[Array, ...]:
    return ()


def _over_nodes_ideal_s(shape: Shape, machine: Machine) -> Array:
    """Return passes x ((m - 1) / m bytes / rate + ceil(log2 m) hops) for m nodes."""
    nodes = shape["nodes"]
    moved_s = (nodes - 1.0) / nodes * shape["bytes"] / machine.link_bytes_s
    result: Array = shape["passes"] * (moved_s + np.ceil(np.log2(nodes)) * HAND_OVER_S)
    return result


OVER_NODES = Kind(
    name="over_nodes",
    sizes=("bytes", "nodes", "passes"),
    axes=(),
    coordinates=_no_coordinates,
    ideal_s=_over_nodes_ideal_s,
)
"""What a collective over several nodes does beyond the one inside each node; no table times it.

A collective over g ranks on each of m nodes runs in each node over its g ranks, and between the nodes over the g
shares of the message at once, each through the adapter of one rank (the hierarchical and the double binary tree
algorithms of NCCL: https://developer.nvidia.com/blog/massively-scale-deep-learning-training-nccl-2-4). `bytes` are
those of a share, `passes` 2 of an all-reduce, 1 of an all-gather or a reduce-scatter, and the link is the network: the
rate at which one rank sends. At the rate of the link inside a node the bytes of both parts together take what the ring
bound gives for g m ranks: 2 (g - 1) / g + 2 (m - 1) / (m g) = 2 (g m - 1) / (g m). NCCL's own model of its latency
(`src/graph/tuning.cc`, tree) also has 2 log2 m hops.
"""


def all_reduce_variant(*, graph: bool, fabric: bool) -> str:
    """Return the variant of an all-reduce.

    Parameters
    ----------
    graph : bool
        Inside a captured graph; else each call has its launch on the host.
    fabric : bool
        All ranks are joined by one link domain (NVLink); else they meet over the host bus, and the link's rate
        is the bus's.
    """
    return f"{'fabric' if fabric else 'host_bus'}_{'graph' if graph else 'eager'}"


def _combine_coordinates(shape: Shape) -> tuple[Array, ...]:
    return np.log2(shape["tokens"]), np.log2(shape["topk"] * shape["hidden"])


def _dispatch_coordinates(shape: Shape) -> tuple[Array, ...]:
    return (*_combine_coordinates(shape), np.log2(shape["experts"]))


def _dispatch_ideal_s(shape: Shape, machine: Machine) -> Array:
    return _sent_s(shape, machine, DISPATCH_BYTES)


def _combine_ideal_s(shape: Shape, machine: Machine) -> Array:
    return _sent_s(shape, machine, COMBINE_BYTES)


def _sent_s(shape: Shape, machine: Machine, element_bytes: float) -> Array:
    """Return the time in which a rank's tokens pass its link, once for each of their experts, plus the floor."""
    elements = shape["tokens"] * shape["topk"] * shape["hidden"]
    result: Array = elements * element_bytes / machine.link_bytes_s + FLOOR_S
    return result


_TOKENS = np.arange(0.0, 18.0)

DISPATCH = Kind(
    name="dispatch",
    sizes=("tokens", "hidden", "topk", "experts"),
    axes=(_TOKENS, np.array([12.0, 14.0, 16.0]), np.array([3.0, 5.0, 7.0, 9.0])),
    coordinates=_dispatch_coordinates,
    ideal_s=_dispatch_ideal_s,
)
"""Tokens of one rank to their experts (DeepEP).

Axes are log2 of the rank's tokens, of topk times hidden, and of the experts: where they are few, few of the
accelerator's multiprocessors send. Variants are "low_latency" (decode) and "normal" (prefill) within a node, and the
same with "_2_nodes", "_4_nodes", "_8_nodes"; across nodes the link is still the one inside the node, and the surface
carries the network.
"""

COMBINE = Kind(
    name="combine",
    sizes=("tokens", "hidden", "topk"),
    axes=(_TOKENS, np.arange(12.0, 17.0)),
    coordinates=_combine_coordinates,
    ideal_s=_combine_ideal_s,
)
"""What the experts made of a rank's tokens, back to it; axes without the experts, variants as of `DISPATCH`."""


def _slower_network_ideal_s(shape: Shape, machine: Machine) -> Array:
    """Return bytes (1 / rate - 1 / timed rate) where the network is slower than the timed one, else nothing."""
    slower = 1.0 / machine.link_bytes_s - 1.0 / TIMED_NETWORK_BYTES_S
    result: Array = shape["bytes"] * np.maximum(slower, 0.0)
    return result


SLOWER_NETWORK = Kind(
    name="slower_network",
    sizes=("bytes",),
    axes=(),
    coordinates=_no_coordinates,
    ideal_s=_slower_network_ideal_s,
)
"""What DeepEP between nodes takes longer over a network slower than the one it was timed on; that a faster one helps is
not known."""
