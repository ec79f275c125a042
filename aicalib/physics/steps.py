"""Time of one step of the engine, operator by operator: a decode step and a prefill step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.physics import operators
from aicalib.physics.links import layer_collectives_time
from aicalib.physics.roofline import smooth_maximum
from aicalib.physics.system import Coefficients, System

Array = NDArray[np.float64]


class Operator(NamedTuple):
    """Time of one kind of operator in a step, over all layers.

    `time_s` is the smooth maximum of `compute_s` and `memory_s` where both are given; an operator on a
    link or with a fixed time has both zero and says so in `bound`.
    """

    name: str
    time_s: Array
    compute_s: Array
    memory_s: Array
    bound: str


class Step(NamedTuple):
    """A step: its operators and its whole time in seconds, shape (n,)."""

    operators: list[Operator]
    time_s: Array


def _work(name: str, compute_s: Array, memory_s: Array) -> Operator:
    return Operator(name, smooth_maximum(compute_s, memory_s), compute_s, memory_s, "")


def _fixed(name: str, time_s: Array, bound: str) -> Operator:
    zero = np.zeros_like(time_s)
    return Operator(name, time_s, zero, zero, bound)


class Rows(NamedTuple):
    """Rows of the matrix products of a step: on one attention rank, in all, distinct, and for sampling.

    `rows` may hold padding; `tokens` are those that choose experts.
    """

    local: Array
    rows: Array
    tokens: Array
    sampled: Array


def _matrix_products(system: System, c: Coefficients, rows: Rows) -> list[Operator]:
    """Return projections, feed-forward, experts and output head."""
    arch = system.arch
    gemm_rate = system.gemm_peak_flops_s * c.gemm_compute
    gemm_bandwidth = system.bandwidth_bytes_s * c.gemm_memory
    gemm_bytes = system.gemm_bits / 8.0
    projections = operators.attention_projections(arch, system.attention_width)
    ffn = operators.dense_ffn(arch) / system.tp
    head = operators.head(arch) / system.tp

    one = operators.expert(arch) * arch.moe_layers / system.tp
    slices = system.tp / system.ep
    expert_rate = system.expert_peak_flops_s * c.expert_compute * slices**-c.expert_slicing
    expert_flops = 2.0 * rows.tokens * arch.experts_per_token * one
    expert_bytes = operators.touched_experts(arch, rows.tokens) * one * system.expert_bits / 8.0
    return [
        _work(
            "attention projections",
            2.0 * rows.local * projections / gemm_rate,
            projections * gemm_bytes / gemm_bandwidth,
        ),
        _work("dense ffn", 2.0 * rows.rows * ffn / gemm_rate, ffn * gemm_bytes / gemm_bandwidth),
        _work(
            "experts", expert_flops / expert_rate, expert_bytes / (system.bandwidth_bytes_s * c.expert_memory)
        ),
        _work(
            "output head",
            2.0 * rows.sampled * head / gemm_rate,
            head * system.table_bits / 8.0 / gemm_bandwidth,
        ),
    ]


def _launch_s(system: System, c: Coefficients) -> Array:
    """Return the time in seconds that the host needs to launch the kernels of a step without a graph."""
    arch = system.arch
    launch = arch.num_layers * c.prefill_layer_s + arch.moe_layers * c.prefill_moe_layer_s
    return launch * c.device_slowdown


def decode_step(
    system: System, c: Coefficients, batch: Array, context: Array, padded: Array | None = None
) -> Step:
    """Return one decode step: every running request gains one token.

    Parameters
    ----------
    system : System
        n deployments.
    c : Coefficients
        Their coefficients.
    batch : ndarray, shape (n,)
        Running requests of the instance (over all attention-data-parallel ranks).
    context : ndarray, shape (n,)
        Mean tokens in the cache of a request.
    padded : ndarray, shape (n,), optional
        Rows of the captured graph that runs the batch; they cost matrix rows, but no cache and no expert.
        The batch itself if not given.

    Returns
    -------
    Step
        Times in seconds. A batch above the largest captured one is launched kernel by kernel: the step takes
        the root of the sum of squares of device time and launch time.
    """
    arch = system.arch
    rows = batch if padded is None else padded
    local = np.maximum(batch / system.dp, np.minimum(batch, 1.0))
    width = system.attention_width
    full, window, latent = operators.kv_elements_per_token(arch, width)
    seen = np.where(arch.sparse_layers > 0, np.minimum(context, np.maximum(arch.index_topk, 1.0)), context)
    cache_bytes = (system.kv_bits / 8.0) * (
        full * context + window * np.minimum(context, arch.window) + latent * seen
    ) + operators.indexer_bytes_per_token(arch) * context
    state_bytes = 2.0 * operators.linear_state_bytes(arch, width)
    attention_flops = local * operators.decode_attention_flops(arch, context) / width
    attention = _work(
        "attention",
        attention_flops / (system.attention_peak_flops_s * c.attention_compute),
        local * (cache_bytes + state_bytes) / (system.bandwidth_bytes_s * c.attention_memory),
    )
    layers = (
        arch.num_layers * c.layer_s
        + arch.moe_layers * c.moe_layer_s
        + arch.sparse_layers * c.sparse_layer_s
        + arch.linear_layers * c.linear_layer_s
    )
    found = [
        *_matrix_products(system, c, Rows(np.maximum(rows / system.dp, local), rows, batch, rows)),
        attention,
        _fixed("all-reduce", arch.num_layers * layer_collectives_time(system, c, rows, graph=True), "link"),
        _fixed("fixed time of layers", layers, "latency"),
    ]
    found = [each._replace(time_s=each.time_s * c.device_slowdown) for each in found]
    device = np.sum([each.time_s for each in found], axis=0)
    eager = np.where(rows > system.graph_max_batch, np.hypot(device, _launch_s(system, c)) - device, 0.0)
    found.append(_fixed("launch not hidden", eager, "latency"))
    found.append(_fixed("engine", c.step_s + c.request_s * batch, "latency"))
    return Step(found, np.sum([each.time_s for each in found], axis=0))


ELEMENTWISE_PASSES = 10.0
"""Reads and writes of a 16-bit hidden state per token and layer that norms, residuals and rotary need."""


def prefill_step(system: System, c: Coefficients, tokens: Array, length: Array, ranks: Array) -> Step:
    """Return one prefill step over `tokens` prompt tokens of prompts of `length` tokens.

    Parameters
    ----------
    system : System
        n deployments.
    c : Coefficients
        Their coefficients.
    tokens : ndarray, shape (n,)
        Prompt tokens in the step, over all ranks.
    length : ndarray, shape (n,)
        Tokens of a whole prompt; a step that holds part of one carries that share of its attention.
    ranks : ndarray, shape (n,)
        Attention-data-parallel ranks that have a prompt to prefill, at most `dp`.

    Returns
    -------
    Step
        Times in seconds. The kernels are launched from the host while the device works, so the step takes
        the root of the sum of squares of device time and launch time.
    """
    arch = system.arch
    local = tokens / ranks
    flops = local / length * operators.prefill_attention_flops(arch, length) / system.attention_width
    routed = np.where(arch.num_layers > 0, arch.moe_layers / arch.num_layers, 0.0) * arch.experts_per_token
    traffic = 2.0 * local * arch.hidden_size * arch.num_layers * (ELEMENTWISE_PASSES + 2.0 * routed)
    found = [
        *_matrix_products(system, c, Rows(local, tokens, tokens, tokens / length)),
        _fixed("attention", flops / (system.attention_peak_flops_s * c.attention_compute), "compute"),
        _fixed("element-wise", traffic / (system.bandwidth_bytes_s * c.elementwise_memory), "memory"),
        _fixed(
            "all-reduce", arch.num_layers * layer_collectives_time(system, c, tokens, graph=False), "link"
        ),
    ]
    found = [each._replace(time_s=each.time_s * c.device_slowdown) for each in found]
    device = np.sum([each.time_s for each in found], axis=0)
    total = np.hypot(device, _launch_s(system, c))
    found.append(_fixed("launch not hidden", total - device, "latency"))
    return Step(found, total)
