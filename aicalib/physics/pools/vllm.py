"""vLLM's rule: total memory x utilization - weights - activation peak - what is fixed, for one pool of pages."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aicalib.physics.kv_cache import Cells
from aicalib.physics.pools import release

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

GIB = 2.0**30

BLOCK_TOKENS = 16.0
"""Tokens of a block of the pool."""

SIMILAR_LAYERS = 1.25
"""Up to this ratio of the most to the fewest layers of a kind the smaller kind is padded to one group."""

SORTED_LAYERS = release(10)
"""From here on layers of several kinds are sorted into groups that share one pool."""

FIXED_BYTES = (0.06 * GIB, 0.25 * GIB)
"""Memory outside PyTorch's allocator that the engine's profile counts on one rank: before 0.16, and since."""

RANKS_BYTES = (1.0 * GIB, 1.85 * GIB)
"""Further such memory with tensor parallelism over a link: before 0.16, and since (0.19 on H100: 2.07 to 2.17
GiB in all)."""

SMALL_SAMPLER = release(16)
"""From here on logits are filtered in a Triton kernel; before they were sorted (vllm-project/vllm#33538)."""

SAMPLER_VALUES = (8.0, 3.0)
"""32-bit values a logit at the sampler's peak, beside the logits as the model gives them. With a sort: 32-bit
logits, sorted values and 64-bit indices, as much again as scratch space, and a softmax. With the kernel: 32-bit
logits, softmax and noise."""

SAMPLER_PROGRAMS = 132.0
"""Rows of 32-bit scratch values that the kernel takes, one a multiprocessor (an H100 has 132)."""

GRAPHS_COUNTED = release(21)
"""From here on an estimate of graph memory is taken out of the budget."""

CPU_WORKER_BYTES = 0.64 * GIB
"""Resident memory of the worker on a CPU beside weights and activations, which it takes out of the budget (0.32.0
with PyTorch 2.13 on x86-64 logs 0.79 GiB in all with a model of 0.12 GiB)."""

CPU_SHARE_SINCE = release(13)
CPU_BUDGET_SINCE = release(20)
CPU_CONSTANT_BYTES = 4.0 * GIB
CPU_SHARE = 0.5
"""The cache on a CPU: 4 GiB; from 0.13 half of the memory; from 0.20 memory x utilization - what the worker holds
(vllm-project/vllm vllm/platforms/cpu.py of 0.12.0, 0.13.0 and 0.19.0, vllm/v1/worker/cpu_worker.py of 0.20.0)."""


def fixed_bytes(version: Array, linked_ranks: Flags, is_cpu: Flags) -> Array:
    """Return what the engine's profile counts beside weights and activations, by version.

    Parameters
    ----------
    version : ndarray
        Number that orders versions.
    linked_ranks : ndarray of bool
        Tensor parallelism over a link of the GPUs' own.
    is_cpu : ndarray of bool
    """
    recent = version >= SMALL_SAMPLER
    alone = np.where(recent, FIXED_BYTES[1], FIXED_BYTES[0])
    further = np.where(linked_ranks, np.where(recent, RANKS_BYTES[1], RANKS_BYTES[0]), 0.0)
    return np.where(is_cpu, CPU_WORKER_BYTES, alone + further)


def sampler_values(version: Array) -> Array:
    """Return the 32-bit values a logit at the sampler's peak, beside the logits as the model gives them."""
    return np.where(version >= SMALL_SAMPLER, SAMPLER_VALUES[1], SAMPLER_VALUES[0])


def sampler_scratch_bytes(version: Array, vocab_size: Array) -> Array:
    """Return the sampler's scratch memory, whatever the batch."""
    return np.where(version >= SMALL_SAMPLER, 4.0 * SAMPLER_PROGRAMS * vocab_size, 0.0)


def counted_graph_bytes(version: Array, graph_bytes: Array) -> Array:
    """Return the graph memory that the version takes out of the budget."""
    return np.where(version >= GRAPHS_COUNTED, graph_bytes, 0.0)


def pool_bytes(
    total_bytes: Array,
    memory_fraction: Array,
    weights_bytes: Array,
    activation_bytes: Array,
    fixed_bytes: Array,
    graph_bytes: Array,
) -> Array:
    """Return what vLLM gives to the KV pool: total x utilization - weights - activations - fixed - graphs.

    `graph_bytes` are those that the version takes out of the budget.
    """
    return total_bytes * memory_fraction - weights_bytes - activation_bytes - fixed_bytes - graph_bytes


def cpu_pool_bytes(budget_bytes: Array, total_bytes: Array, version: Array) -> Array:
    """Return what vLLM gives to the KV pool on a CPU, by version.

    Parameters
    ----------
    budget_bytes : ndarray
        Memory x utilization less what the worker holds.
    total_bytes : ndarray
        Memory of the processor.
    version : ndarray
        Number that orders versions.
    """
    return np.select(
        [version < CPU_SHARE_SINCE, version < CPU_BUDGET_SINCE],
        [np.full_like(total_bytes, CPU_CONSTANT_BYTES), CPU_SHARE * total_bytes],
        budget_bytes,
    )


def pool_tokens(
    pool_bytes: Array, held: Cells, context_tokens: Array, chunk_tokens: Array, version: Array
) -> Array:
    """Return the tokens of vLLM's pool as it reports them: concurrency x longest context.

    Parameters
    ----------
    pool_bytes : ndarray
    held : Cells
    context_tokens : ndarray
        The longest context that is served (`--max-model-len`).
    chunk_tokens : ndarray
        Tokens of a step.
    version : ndarray
        Number that orders versions.

    Notes
    -----
    Before 0.10 each layer keeps the whole context. Since, layers are sorted into groups of one kind: all have as many
    layers, g, as the rarest kind, and share one pool of pages of g layers. A request holds ceil(context / block) pages
    of a full group, ceil(min(window - 1 + chunk, context) / block) + 1 of a window group, and one of a state group.
    Where there are states, a block is as many tokens as one layer's state fills.
    """
    counts = np.stack([held.full_layers, held.window_layers, held.state_layers])
    kinds = (counts > 0).sum(axis=0)
    fewest = np.where(counts > 0, counts, np.inf).min(axis=0)
    most = counts.max(axis=0)
    together = np.where(most < SIMILAR_LAYERS * fewest, most, fewest)
    layer = np.maximum(
        held.full / np.maximum(held.full_layers, 1.0), held.window / np.maximum(held.window_layers, 1.0)
    )
    state = held.state / np.maximum(held.state_layers, 1.0)
    block = np.maximum(np.ceil(state / layer / BLOCK_TOKENS), 1.0) * BLOCK_TOKENS
    pages = np.floor(np.maximum(pool_bytes, 0.0) / (together * block * layer))
    groups = np.ceil(counts / together)
    seen = np.minimum(held.window_tokens - 1.0 + chunk_tokens, context_tokens)
    per_request = (
        groups[0] * np.ceil(context_tokens / block) + groups[1] * (np.ceil(seen / block) + 1.0) + groups[2]
    )
    sorted_tokens = np.floor(pages / np.maximum(per_request, 1.0) * context_tokens)
    cell = np.maximum(held.full + held.window, 1e-9)
    plain = np.floor(np.maximum(pool_bytes, 0.0) / (cell * BLOCK_TOKENS)) * BLOCK_TOKENS
    result: Array = np.where((version >= SORTED_LAYERS) & (kinds > 1), sorted_tokens, plain)
    return result
