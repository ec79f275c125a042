"""Memory of one GPU by the engine's own rule: weights, KV pool, and how many tokens and requests it holds.

`needs` says what d deployments take; `memory_of` answers n questions about them with the engine's settings,
all plain arrays that broadcast. `memory` does both for a batch. Each engine's own rule and its constants stand in
`aicalib.physics.pools`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.physics.kv_cache import Cells, cells, draft_cell_bytes
from aicalib.physics.pools import sglang, trtllm, vllm
from aicalib.physics.system import Settings, System
from aicalib.physics.weights import draft_weight_bytes, value_bytes, weight_bytes
from aicalib.profiles.coefficients import FORMAT_CLASSES

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

KIB, MIB, GIB = 2.0**10, 2.0**20, 2.0**30

DRIVER_BYTES = 0.46 * GIB
"""What the driver keeps of the memory it reports: PyTorch sees 79.19 GiB of an H100's 79.65 (start-up logs of
llm-d-planner, vLLM 0.19); 139.8 of 140.4 on H200, 44.4 of 45.0 on L40S."""

CONTEXT_BYTES = 1.0 * GIB
"""What a started process has taken of the reported memory before it loads a model, the driver's part included:
SGLang logs 78.5 to 78.7 GiB free of 79.65 on H100 and 22.8 to 23.2 of 24.0 on RTX 3090 and 4090."""

CPU_CONTEXT_BYTES = 1.3 * GIB
"""The same on a CPU: the processes of SGLang before one of them loads a model (0.5.23 with PyTorch 2.13 on x86-64: 0.46
GiB of its server, 0.43 of its detokenizer and 0.5 of its scheduler that nothing else shares)."""

LINK_BYTES_S = 40e9
"""One-way rate above which ranks talk over a link of their own and not over the host's bus."""

SYMMETRIC_RANKS = 4.0
"""Up to this many ranks communication buffers do not grow with them."""

COMMUNICATION_BYTES = (0.1 * GIB, 1.0 * GIB, 1.8 * GIB, 3.5 * GIB)
"""Buffers of NCCL and of the engine's own all-reduce before loading, on top of the context: over the host bus
(L4 and RTX 4090), over a link with up to 4 ranks (H100: 78.7 -> 77.7 GiB free), with more (H100 and A100 with
8: 76.6 to 76.9; H800 with 16: 76.9; H200 with 8: 138.0 of 140.4), and on AMD with 8 (MI355X: 283.5 of 288.0)."""

UNPACKED = (FORMAT_CLASSES.index("weight_only_4"), FORMAT_CLASSES.index("weight_only_8"))
"""Classes of expert formats whose kernels (Marlin) allocate their workspaces anew in every layer."""

GRAPH_BYTES = 0.3 * GIB
GRAPH_LAYER_BYTES = 17.0 * MIB
GRAPH_BATCH = 512.0
"""Captured graphs up to batch 512 take a constant and so much a layer: 0.84 to 1.66 GiB for 32 to 80 layers in the
llm-d-planner logs; smaller largest batches take their share."""


class Needs(NamedTuple):
    """What d deployments take on one GPU; bytes, shape (d,) each.

    `context` is in use before loading, `fixed` what vLLM's profile counts beside weights and activations.
    `step_token` and `forward_token` are per token of a step, `sequence` per sequence that is sampled, and
    `graph_layer` is of all layers' graphs. `draft_weights` and `draft_cell` are of a draft model.
    """

    memory: Array
    weights: Array
    context: Array
    fixed: Array
    step_token: Array
    forward_token: Array
    hidden_token: Array
    sequence: Array
    scratch: Array
    graphs: Array
    draft_weights: Array
    draft_cell: Array
    held: Cells
    window_ratio: Array
    max_position: Array
    ranks: Array
    on_vllm: Flags
    on_trtllm: Flags
    is_cpu: Flags
    version: Array

    def take(self, rows: NDArray[np.intp]) -> Needs:
        """Return what some of the deployments take, in that order."""
        picked = {name: values[rows] for name, values in self._asdict().items() if name != "held"}
        return Needs(**picked, held=self.held.take(rows))


class Memory(NamedTuple):
    """Memory of one GPU in bytes, shape (n,) each; tokens and requests are of the instance.

    `max_total_tokens` is what the engine reports, `capacity_tokens` what requests of the length that was asked fill.

    `kv_pool_bytes` is not positive where the weights leave no room; `cell_bytes` is what one token takes of it, and
    `state_bytes` is the memory for states of linear layers. `max_requests` is how many requests these states
    allow, infinite without them. `request_table_bytes` is SGLang's table of requests, which lies outside its
    budget. `ranks` are the attention-data-parallel ranks, each with a pool of its own.
    """

    weights_bytes: Array
    kv_pool_bytes: Array
    state_bytes: Array
    reserve_bytes: Array
    activation_bytes: Array
    graph_bytes: Array
    request_table_bytes: Array
    max_total_tokens: Array
    capacity_tokens: Array
    max_requests: Array
    cell_bytes: Array
    ranks: Array


def spare_bytes(held: Memory, tokens: Array) -> Array:
    """Return what the pool of one rank has left with one request of `tokens` tokens; negative: what is missing."""
    return held.kv_pool_bytes - tokens * held.cell_bytes


def fits(held: Memory, tokens: Array) -> Flags:
    """Return whether the pool of one attention rank holds a request of `tokens` tokens, shape (n,)."""
    result: Flags = (held.capacity_tokens / held.ranks >= tokens) & (held.max_requests >= 1.0)
    return result


def largest_concurrency(held: Memory, tokens: Array, max_running: Array) -> Array:
    """Return how many requests of `tokens` tokens run at once: by pool, states and the engine's own limit."""
    per_rank = np.floor(held.capacity_tokens / held.ranks / tokens)
    return np.minimum(np.minimum(per_rank * held.ranks, held.max_requests), max_running)


def context_bytes(system: System) -> Array:
    """Return what is in use on a GPU before a model is loaded, by other programs too, shape (d,)."""
    bus, few, many, amd = COMMUNICATION_BYTES
    linked = system.link_bytes_s > LINK_BYTES_S
    ranks = system.n_gpus
    buffers = np.select(
        [ranks <= 1.0, system.is_amd & (ranks > SYMMETRIC_RANKS), ~linked, ranks <= SYMMETRIC_RANKS],
        [0.0, amd, bus, few],
        many,
    )
    return np.where(system.is_cpu, CPU_CONTEXT_BYTES, CONTEXT_BYTES + buffers) + system.taken_bytes


def needs(system: System, draft_layers: Array | float = 0.0) -> Needs:
    """Return what d deployments take on one GPU.

    Parameters
    ----------
    system : System
        d deployments.
    draft_layers : ndarray, shape (d,), or float
        Layers of a draft model of the kind that predicts further tokens (MTP, NextN, EAGLE).

    Notes
    -----
    A step's activations, in the model's own format: its residual and hidden state, 2 h values a token; within a
    dense layer 3 w of the feed-forward part and 4 h in all; for experts two workspaces of k max(w, h) and
    k max(2 w, h), which stay allocated, except under the kernels that unpack weights.
    """
    arch = system.arch
    counted = system.on_vllm | (system.version >= sglang.DRAFT_FIRST)
    draft = np.where(counted, draft_layers, 0.0)
    linked_ranks = (system.tp > 1.0) & (system.link_bytes_s > LINK_BYTES_S)
    h, value = arch.hidden_size, value_bytes(system)
    dense_width = np.where(arch.dense_layers > 0, arch.intermediate_size, 0.0)
    dense_width = np.maximum(dense_width, arch.shared_intermediate_size) / system.tp
    slice_width = arch.moe_intermediate_size * system.ep / system.tp
    workspaces = (
        value * arch.experts_per_token * (np.maximum(slice_width, h) + np.maximum(2.0 * slice_width, h))
    )
    unpacked = np.isin(system.expert_class, UNPACKED)
    on_vllm, version = system.on_vllm, system.version
    sampler = np.where(on_vllm, vllm.sampler_values(version), sglang.SAMPLER_VALUES) + value / 4.0
    return Needs(
        memory=system.memory_bytes,
        weights=weight_bytes(system),
        context=context_bytes(system),
        fixed=vllm.fixed_bytes(version, linked_ranks, system.is_cpu),
        step_token=np.where(unpacked, 0.0, workspaces),
        forward_token=value * (3.0 * dense_width + 4.0 * h) + np.where(unpacked, workspaces, 0.0),
        hidden_token=2.0 * value * h,
        sequence=4.0 * sampler * arch.vocab_size,
        scratch=np.where(on_vllm, vllm.sampler_scratch_bytes(version, arch.vocab_size), 0.0),
        graphs=np.where(system.is_cpu, 0.0, GRAPH_BYTES + GRAPH_LAYER_BYTES * arch.num_layers / system.pp),
        draft_weights=draft_weight_bytes(system, draft),
        draft_cell=draft_cell_bytes(system, draft),
        held=cells(system),
        window_ratio=system.window_ratio,
        max_position=arch.max_position,
        ranks=system.dp,
        on_vllm=system.on_vllm,
        on_trtllm=system.on_trtllm,
        is_cpu=system.is_cpu,
        version=system.version,
    )


def activation_bytes(need: Needs, chunk_tokens: Array, sequences: Array) -> Array:
    """Return the peak of activations in a step of `chunk_tokens` tokens in all, on one GPU.

    The larger of a layer's own and of the sampler's, which reads so many sequences.
    """
    tokens = chunk_tokens / np.where(need.on_vllm | need.on_trtllm, 1.0, need.ranks)
    sampled = np.minimum(sequences, chunk_tokens)
    sampling = need.hidden_token * tokens + need.sequence * sampled + need.scratch
    return np.maximum(need.forward_token * tokens, sampling) + need.step_token * tokens


def pool_tokens(
    need: Needs,
    pool_bytes: Array,
    chunk_tokens: Array,
    context_tokens: Array,
    window_ratio: Array,
    page_tokens: Array | float = 1.0,
) -> tuple[Array, Array]:
    """Return the tokens of one rank's pool, and the bytes that states of linear layers take.

    Parameters
    ----------
    need : Needs
    pool_bytes : ndarray, shape (n,)
        For pools and states together.
    chunk_tokens, context_tokens, window_ratio, page_tokens : ndarray, shape (n,), or float
        Tokens of a step; longest context; window pool over full pool; tokens of a page.
    """
    has_states = (need.held.state > 0.0) & ~need.on_vllm
    states = np.where(has_states, sglang.state_bytes(pool_bytes), 0.0)
    with_draft = need.held._replace(full=need.held.full + need.draft_cell)
    page = np.asarray(page_tokens, dtype=float)
    tokens = sglang.pool_tokens(pool_bytes - states, with_draft, window_ratio, page)
    if need.on_vllm.any():
        paged = vllm.pool_tokens(pool_bytes, with_draft, context_tokens, chunk_tokens, need.version)
        tokens = np.where(need.on_vllm, paged, tokens)
    return tokens, states


def capacity_tokens(
    need: Needs, tokens: Array, pool_bytes: Array, chunk_tokens: Array, length: Array
) -> Array:
    """Return the tokens of one rank's pool that requests of a length fill.

    Windows keep a long request short: vLLM's pool is asked at this length.
    """
    filled = sglang.capacity_tokens(tokens, need.held, need.window_ratio, length)
    if need.on_vllm.any():
        paged = vllm.pool_tokens(pool_bytes, need.held, length, chunk_tokens, need.version)
        filled = np.where(need.on_vllm, paged, filled)
    return filled


def memory_of(
    need: Needs,
    memory_fraction: Array,
    chunk_tokens: Array,
    max_running: Array,
    graph_max_batch: Array,
    context_tokens: Array | None = None,
    page_tokens: Array | float = 1.0,
    request_tokens: Array | None = None,
) -> Memory:
    """Return the memory of one GPU by the engine's own rule.

    Parameters
    ----------
    need : Needs
        Of n questions (`needs(system).take(rows)`).
    memory_fraction, chunk_tokens, max_running, graph_max_batch : ndarray, shape (n,)
        The engine's settings, all filled in.
    context_tokens : ndarray, shape (n,), optional
        The longest context that is served; the model's own if not given.
    page_tokens : ndarray, shape (n,), or float
        Tokens of a page of SGLang's pool.
    request_tokens : ndarray, shape (n,), optional
        Length of the requests that are asked about; the longest context if not given.

    Notes
    -----
    SGLang: pool = free before loading x fraction - weights, states of linear layers out of it in the ratio
    0.9 : 1. vLLM: pool = total x utilization - weights - activation peak - fixed, since 0.21 - graphs. TensorRT-LLM:
    pool = (free before loading - weights - activation peak) x fraction. SGLang's rule on a CPU is the same, over what
    is free of its memory; vLLM's is `aicalib.physics.pools.vllm.cpu_pool_bytes`.
    """
    sampled = np.where(need.on_vllm, max_running, np.minimum(max_running, graph_max_batch))
    activation = activation_bytes(need, chunk_tokens, sampled)
    graphs = need.graphs * np.minimum(graph_max_batch / GRAPH_BATCH, 1.0)
    loaded = need.weights + need.draft_weights
    free = need.memory - need.context
    pool = sglang.pool_bytes(free, memory_fraction, loaded)
    if need.on_vllm.any():
        pool = np.where(
            need.on_vllm, _vllm_pool_bytes(need, memory_fraction, loaded, activation, graphs), pool
        )
    if need.on_trtllm.any():
        left = trtllm.pool_bytes(free, memory_fraction, loaded, activation)
        pool = np.where(need.on_trtllm, left, pool)
    context = np.where(need.max_position > 0, need.max_position, chunk_tokens)
    context = context if context_tokens is None else context_tokens
    tokens, states = pool_tokens(need, pool, chunk_tokens, context, need.window_ratio, page_tokens)
    held, on_vllm = need.held, need.on_vllm
    length = context if request_tokens is None else request_tokens
    capacity = capacity_tokens(need, tokens, pool, chunk_tokens, length)
    with np.errstate(divide="ignore", invalid="ignore"):
        requests = np.where(
            (held.state > 0.0) & ~on_vllm, np.floor(states / held.state / sglang.STATES_PER_REQUEST), np.inf
        )
    table = np.where(on_vllm, 0.0, sglang.request_table_bytes(max_running / need.ranks, context))
    inside = loaded + np.maximum(pool, 0.0) + activation + graphs + table
    return Memory(
        weights_bytes=loaded,
        kv_pool_bytes=pool - states,
        state_bytes=states,
        reserve_bytes=np.maximum(need.memory - inside, 0.0),
        activation_bytes=activation,
        graph_bytes=graphs,
        request_table_bytes=table,
        max_total_tokens=tokens * need.ranks,
        capacity_tokens=capacity * need.ranks,
        max_requests=requests * need.ranks,
        cell_bytes=held.full + need.draft_cell + np.where(on_vllm, 1.0, need.window_ratio) * held.window,
        ranks=need.ranks,
    )


def _vllm_pool_bytes(
    need: Needs, memory_fraction: Array, loaded: Array, activation: Array, graphs: Array
) -> Array:
    """Return what vLLM gives to the KV pool of n questions, on a GPU or a CPU."""
    seen = need.memory - np.where(need.is_cpu, 0.0, DRIVER_BYTES)
    counted = vllm.counted_graph_bytes(need.version, graphs)
    pool = vllm.pool_bytes(seen, memory_fraction, loaded, activation, need.fixed, counted)
    return np.where(need.is_cpu, vllm.cpu_pool_bytes(pool, seen, need.version), pool)


def memory(
    system: System, at: NDArray[np.intp], settings: Settings, request_tokens: Array | None = None
) -> Memory:
    """Return the memory of one GPU for n questions about d deployments.

    Parameters
    ----------
    system : System
        d deployments.
    at : ndarray of int, shape (n,)
        Which deployment each question is about.
    settings : Settings
        Of the n questions, all filled in.
    request_tokens : ndarray, shape (n,), optional
        Length of the requests that are asked about; the longest context if not given.
    """
    return memory_of(
        needs(system).take(at),
        settings.memory_fraction,
        settings.chunk_tokens,
        settings.max_running,
        settings.graph_max_batch,
        request_tokens=request_tokens,
    )
