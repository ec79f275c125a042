"""What the ranks of an instance exchange in a step."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aicalib.physics.calls import Call
from aicalib.physics.kernels.comm import ALL_REDUCE
from aicalib.physics.system import System

Array = NDArray[np.float64]

HIDDEN_BYTES = 2.0
"""Hidden states and logits are exchanged in 16 bit."""

HALF = 0.5
"""An all-gather or a reduce-scatter over n ranks moves (n - 1) / n of its bytes over the link, as an all-reduce of
half as many does; no table times them alone."""


def _call(system: System, name: str, count: Array, bytes_: Array, width: Array, code: str) -> Call:
    machine = system.dense_machine
    ranks = np.maximum(width, 1.0)
    shape = {"bytes": np.maximum(bytes_, 1.0), "width": ranks}
    return Call(
        name, ALL_REDUCE, system.surfaces[code], count * (ranks > 1.0), shape, machine, "links", "", code
    )


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
        _call(
            system, "all-reduce", np.where(spread, 0.0, mixers + feed_forward + 1.0), bytes_, system.tp, code
        ),
        _call(
            system,
            "all-reduce of attention",
            np.where(spread, mixers, 0.0),
            bytes_ / system.dp,
            system.attention_width,
            code,
        ),
        _call(
            system,
            "all-gather and reduce-scatter",
            np.where(spread, 2.0 * feed_forward, 0.0),
            HALF * bytes_,
            system.tp,
            code,
        ),
    ]


def logits_calls(system: System, rows: Array) -> list[Call]:
    """Return the gathering of the logits of the sampled rows from the ranks that hold a part of the vocabulary."""
    bytes_ = HALF * HIDDEN_BYTES * rows * system.arch.vocab_size
    return [_call(system, "gather logits", np.ones_like(system.tp), bytes_, system.tp, "graph")]
