"""What the ranks of an instance exchange in a step."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aicalib.physics.calls import Call
from aicalib.physics.kernels.comm import ALL_REDUCE, OVER_NODES
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
    nodes = np.ceil(width / system.node_gpus)
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
    gathered before a feed-forward part and scattered after it: an all-gather and a reduce-scatter.

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
    mixers, feed_forward = arch.mixers, arch.dense_layers + arch.moe_layers
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


def logits_calls(system: System, rows: Array) -> list[Call]:
    """Return the gathering of the logits of the sampled rows from the ranks that hold a part of the vocabulary."""
    bytes_ = HIDDEN_BYTES * rows * system.arch.vocab_size
    one = np.ones_like(system.tp)
    return _calls(system, "gather logits", one, bytes_, system.tp, "graph", GATHER_PASSES)
