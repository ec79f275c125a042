"""What the ranks of an instance exchange in a step."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aicalib.physics.calls import Call
from aicalib.physics.kernels.comm import (
    ALL_REDUCE,
    COMBINE,
    COMBINE_BYTES,
    DISPATCH,
    DISPATCH_BYTES,
    OVER_NODES,
    SLOWER_NETWORK,
)
from aicalib.physics.system import System

Array = NDArray[np.float64]

HIDDEN_BYTES = 2.0
"""Hidden states and logits are exchanged in 16 bit."""


ALL_REDUCE_PASSES, GATHER_PASSES = 2.0, 1.0
"""How often (n - 1) / n of the bytes of a collective over n ranks pass a link: an all-reduce is a reduce-scatter and an
all-gather. No table times these alone: inside a node an all-reduce of half the bytes stands for one."""


def _calls(
    system: System, name: str, count: Array, bytes_: Array, width: Array, code: str, passes: float
) -> list[Call]:
    """Return a collective of `bytes_` over `width` ranks: its part inside each node, and that between nodes."""
    machine = system.dense_machine
    nodes = system.nodes_of(width)
    ranks = np.maximum(width / nodes, 1.0)
    share = passes / ALL_REDUCE_PASSES
    shape = {"bytes": np.maximum(share * bytes_, 1.0), "width": ranks}
    inside = Call(
        name, ALL_REDUCE, system.surfaces[code], count * (ranks > 1.0), shape, machine, "links", "", code
    )
    if not np.any(nodes > 1.0):
        return [inside]
    between = Call(
        f"{name}, between nodes",
        OVER_NODES,
        None,
        count * (nodes > 1.0),
        {"bytes": bytes_ / ranks, "nodes": nodes, "passes": np.full_like(nodes, passes)},
        machine._replace(link_bytes_s=system.network_bytes_s),
        "links",
    )
    return [inside, between]


def hidden_state_calls(system: System, tokens: Array, *, graph: bool) -> list[Call]:
    """Return the collectives over the hidden states of `tokens` tokens, of all ranks together.

    Tensor parallelism sums over the ranks after every mixer, every feed-forward part and the embedding. Under
    attention data parallelism the ranks that share an attention sum their own rows, and the rows of all are
    gathered before a feed-forward part and scattered after it: an all-gather and a reduce-scatter. Under DeepEP the
    routed experts need neither: `expert_exchange_calls`.

    Parameters
    ----------
    system : System
    tokens : ndarray
        Tokens in the step.
    graph : bool
        Inside a captured graph; else every call has its launch.
    """
    arch, spread = system.arch, system.dp > 1.0
    bytes_ = HIDDEN_BYTES * tokens * arch.hidden_size
    code = "graph" if graph else "eager"
    mixers, feed_forward = arch.mixers, arch.dense_layers + np.where(system.deepep, 0.0, arch.moe_layers)
    return [
        *_calls(
            system,
            "all-reduce",
            np.where(spread, 0.0, mixers + feed_forward + 1.0),
            bytes_,
            system.tp,
            code,
            ALL_REDUCE_PASSES,
        ),
        *_calls(
            system,
            "all-reduce of attention",
            np.where(spread, mixers, 0.0),
            bytes_ / system.dp,
            system.attention_width,
            code,
            ALL_REDUCE_PASSES,
        ),
        *_calls(
            system,
            "all-gather and reduce-scatter",
            np.where(spread, 2.0 * feed_forward, 0.0),
            bytes_,
            system.tp,
            code,
            GATHER_PASSES,
        ),
    ]


def expert_exchange_calls(system: System, tokens: Array, *, graph: bool) -> list[Call]:
    """Return what takes the tokens of each rank to their experts and back by DeepEP; nothing where none does.

    A decode step takes its low-latency kernels, a prefill its normal ones (`--deepep-mode auto` of SGLang).

    Parameters
    ----------
    system, tokens, graph
        As for `hidden_state_calls`.
    """
    if not np.any(system.deepep):
        return []
    arch, phase = system.arch, "decode" if graph else "prefill"
    count = np.where(system.deepep, arch.moe_layers, 0.0)
    shape = {
        "tokens": np.maximum(tokens / system.tp, 1.0),
        "hidden": arch.expert_hidden_size,
        "topk": np.maximum(arch.experts_per_token, 1.0),
        "experts": np.maximum(arch.num_experts, 1.0),
    }
    found, machine = [], system.dense_machine
    nodes = system.nodes_of(system.tp)
    network = machine._replace(link_bytes_s=system.network_bytes_s)
    # Normal kernels send a token once to each node that holds one of its experts, low-latency ones once an expert.
    copies = shape["topk"] * (nodes - 1.0) / nodes
    if not graph:
        copies = (nodes - 1.0) * (1.0 - (1.0 - 1.0 / nodes) ** shape["topk"])
    for name, kind, element_bytes in (
        ("dispatch", DISPATCH, DISPATCH_BYTES),
        ("combine", COMBINE, COMBINE_BYTES),
    ):
        surface = f"{name}_{phase}"
        found.append(Call(name, kind, system.surfaces[surface], count, shape, machine, "links", "", surface))
        if np.any(nodes > 1.0):
            sent = {"bytes": shape["tokens"] * copies * shape["hidden"] * element_bytes}
            over = f"{name}, slower network"
            found.append(Call(over, SLOWER_NETWORK, None, count * (nodes > 1.0), sent, network, "links"))
    return found


def logits_calls(system: System, rows: Array) -> list[Call]:
    """Return the gathering of the logits of the sampled rows from the ranks that hold a part of the vocabulary."""
    bytes_ = HIDDEN_BYTES * rows * system.arch.vocab_size
    one = np.ones_like(system.tp)
    return _calls(system, "gather logits", one, bytes_, system.tp, "graph", GATHER_PASSES)
