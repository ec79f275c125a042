"""Memory of one GPU: weights, KV pool, and how many tokens and requests the pool holds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.physics import operators
from aicalib.physics.system import System

Array = NDArray[np.float64]

MIB = 2.0**20
GIB = 2.0**30

CONTEXT_GIB = 1.0
"""Memory in use on a GPU before weights are loaded: the CUDA context. Public start-up logs on H100 80GB show
78.5 to 78.7 GiB free of 79.65 with one rank."""

COMMUNICATION_GIB = 1.0
"""Further memory in use with several ranks: communication buffers. The same logs show 77.2 to 77.7 GiB."""

WINDOW_POOL_RATIO = 0.8
"""Tokens of SGLang's sliding-window pool over those of the full pool (`--swa-full-tokens-ratio`)."""

STATE_RATIO = 0.9
"""SGLang's default memory for the states of linear attention over that for the KV pool
(`--mamba-full-memory-ratio`)."""


class Memory(NamedTuple):
    """Memory of one GPU in bytes, shape (n,) each; `max_total_tokens` is of the whole instance.

    `kv_pool_bytes` is not positive where the weights leave no room; `cell_bytes` is what one token takes.
    """

    weights_bytes: Array
    kv_pool_bytes: Array
    reserve_bytes: Array
    activation_bytes: Array
    graph_bytes: Array
    max_total_tokens: Array
    cell_bytes: Array


def fits(system: System, held: Memory, tokens: Array) -> NDArray[np.bool_]:
    """Return whether the pool of one attention rank holds a request of `tokens` tokens, shape (n,)."""
    result: NDArray[np.bool_] = held.max_total_tokens / system.dp >= tokens
    return result


def weight_bytes(system: System) -> Array:
    """Return the bytes of weights on one GPU, shape (n,).

    Split products over their widths, replicated ones whole; norms and router in 16 bit.
    """
    arch = system.arch
    attention = operators.attention_projections(arch, system.attention_width)
    dense = (attention + operators.dense_ffn(arch) / system.tp) * system.gemm_bits / 8.0
    experts = (
        arch.moe_layers * arch.num_experts * operators.expert(arch) / system.tp * system.expert_bits / 8.0
    )
    tables = operators.head(arch) * np.where(arch.tied_embeddings > 0, 1.0, 2.0) / system.tp
    table_bytes = tables * system.table_bits / 8.0
    router = arch.moe_layers * arch.num_experts * arch.hidden_size
    norms = arch.hidden_size * (arch.num_layers * arch.norms_per_layer + 1.0)
    result: Array = (dense + experts + table_bytes + 2.0 * (router + norms)) / system.pp
    return result


def cell_bytes(system: System) -> Array:
    """Return the bytes that one token of the pool takes on one GPU, shape (n,).

    On SGLang sliding-window layers have a pool of their own, `WINDOW_POOL_RATIO` as long as the full one, so a
    token of the full pool costs that share of theirs.
    """
    arch = system.arch
    full, window, latent = operators.kv_elements_per_token(arch, system.attention_width)
    has_full = full + latent > 0
    windowed = np.where(has_full & ~system.on_vllm, WINDOW_POOL_RATIO, 1.0) * window
    elements = full + windowed + latent
    return (elements * system.kv_bits / 8.0 + operators.indexer_bytes_per_token(arch)) / system.pp


def memory(system: System) -> Memory:
    """Return the memory of one GPU by the engine's own rule.

    Notes
    -----
    SGLang: pool = free before loading x fraction - weights, less the states of linear attention. vLLM: pool =
    memory x utilization - weights - activation peak - context. `memory_fraction` is the engine's setting, filled
    in by `aicalib.resolve`.
    """
    arch = system.arch
    weights = weight_bytes(system)
    context = GIB * (CONTEXT_GIB + np.where(system.tp > 1.0, COMMUNICATION_GIB, 0.0))
    # The peak of a dummy run: the widest activations of a chunk, in 16 bit (vLLM profiles it, SGLang
    # keeps it in what the fraction leaves).
    widest = np.maximum(
        np.maximum(arch.intermediate_size, arch.moe_intermediate_size) / system.tp,
        arch.hidden_size * np.maximum(arch.experts_per_token, 1.0),
    )
    activation = 2.0 * system.chunk_tokens / system.dp * (3.0 * arch.hidden_size + 2.0 * widest)
    graphs = 2.0 * MIB * system.graph_max_batch
    on_vllm = system.on_vllm
    budget = np.where(
        on_vllm,
        system.memory_bytes * system.memory_fraction - activation - context,
        (system.memory_bytes - context) * system.memory_fraction,
    )
    pool = (budget - weights) / np.where(~on_vllm & (arch.linear_layers > 0), 1.0 + STATE_RATIO, 1.0)
    inside = weights + np.maximum(pool, 0.0) + activation + graphs
    reserve = np.maximum(system.memory_bytes - inside, 0.0)
    cell = cell_bytes(system)
    tokens = np.floor(np.maximum(pool, 0.0) / np.maximum(cell, 1e-9)) * system.dp
    return Memory(weights, pool, reserve, activation, graphs, tokens, cell)
