"""Time of one step of the engine, operator by operator: a decode step and a prefill step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.physics import operators
from aicalib.physics.links import all_reduce_time
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


def _matrix_products(
    system: System, c: Coefficients, tokens_per_rank: Array, tokens: Array, sampled: Array
) -> list[Operator]:
    """Return projections, feed-forward and output head; `tokens_per_rank` on one attention rank."""
    arch = system.arch
    split, replicated = operators.latent_projections(arch)
    split = split + operators.softmax_projections(arch) + operators.linear_projections(arch)
    projections = split / system.attention_width + replicated
    gemm_rate = system.gemm_peak_flops_s * c.gemm_compute
    gemm_bandwidth = system.bandwidth_bytes_s * c.gemm_memory
    gemm_bytes = system.gemm_bits / 8.0

    ffn = operators.dense_ffn(arch) / system.tp

    one = operators.expert(arch)
    slices = system.tp / system.ep
    expert_rate = system.expert_peak_flops_s * c.expert_compute * slices**-c.expert_slicing
    expert_flops = 2.0 * tokens * arch.experts_per_token * one * arch.moe_layers / system.tp
    expert_bytes = (
        operators.touched_experts(arch, tokens) * one * arch.moe_layers * system.expert_bits / 8.0 / system.tp
    )

    head = operators.head(arch) / system.tp
    return [
        _work(
            "attention projections",
            2.0 * tokens_per_rank * projections / gemm_rate,
            projections * gemm_bytes / gemm_bandwidth,
        ),
        _work("dense ffn", 2.0 * tokens * ffn / gemm_rate, ffn * gemm_bytes / gemm_bandwidth),
        _work(
            "experts",
            expert_flops / expert_rate,
            expert_bytes / (system.bandwidth_bytes_s * c.expert_memory),
        ),
        _work(
            "output head",
            2.0 * sampled * head / gemm_rate,
            head * system.table_bits / 8.0 / gemm_bandwidth,
        ),
    ]


def decode_step(system: System, c: Coefficients, batch: Array, context: Array) -> Step:
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

    Returns
    -------
    Step
        Times in seconds.
    """
    arch = system.arch
    local = np.maximum(batch / system.dp, np.minimum(batch, 1.0))
    width = system.attention_width
    full, window, latent = operators.kv_elements_per_token(arch, width)
    seen = np.where(arch.sparse_layers > 0, np.minimum(context, np.maximum(arch.index_topk, 1.0)), context)
    cache_bytes = (system.kv_bits / 8.0) * (
        full * context + window * np.minimum(context, arch.window) + latent * seen
    ) + operators.indexer_bytes_per_token(arch) * context
    state_bytes = 2.0 * operators.linear_state_bytes(arch, width)
    attention_flops = local * operators.decode_attention_flops(arch, context) / width
    # A 16-bit cache is read at the rate of the attention kernel whatever the weights are stored in.
    attention = _work(
        "attention",
        attention_flops / (system.attention_peak_flops_s * c.attention_compute),
        local * (cache_bytes + state_bytes) / (system.bandwidth_bytes_s * c.attention_memory),
    )
    found = [*_matrix_products(system, c, local, batch, batch), attention]
    found.append(
        _fixed(
            "all-reduce",
            2.0
            * arch.num_layers
            * all_reduce_time(system, c, 2.0 * batch / system.dp * arch.hidden_size, graph=True),
            "link",
        )
    )
    layers = (
        arch.num_layers * c.layer_s
        + arch.moe_layers * c.moe_layer_s
        + arch.sparse_layers * c.sparse_layer_s
        + arch.linear_layers * c.linear_layer_s
    )
    found.append(_fixed("fixed time of layers", layers, "latency"))
    found = [each._replace(time_s=each.time_s * c.device_slowdown) for each in found]
    found.append(_fixed("engine", c.step_s + c.request_s * batch, "latency"))
    return Step(found, np.sum([each.time_s for each in found], axis=0))


ELEMENTWISE_PASSES = 10.0
"""Reads and writes of a 16-bit hidden state per token and layer that norms, residuals and rotary need."""


def prefill_step(system: System, c: Coefficients, tokens: Array, length: Array) -> Step:
    """Return one prefill step over `tokens` prompt tokens of prompts of `length` tokens.

    Parameters
    ----------
    system : System
        n deployments.
    c : Coefficients
        Their coefficients.
    tokens : ndarray, shape (n,)
        Prompt tokens in the step.
    length : ndarray, shape (n,)
        Tokens of a whole prompt; a step that holds part of one carries that share of its attention.

    Returns
    -------
    Step
        Times in seconds. The kernels are launched from the host while the device works, so the step takes
        the root of the sum of squares of device time and launch time.
    """
    arch = system.arch
    requests = np.maximum(tokens / length, 1.0)
    ranks = np.minimum(system.dp, requests)
    local = tokens / ranks
    width = system.attention_width
    flops = local / length * operators.prefill_attention_flops(arch, length) / width
    sampled = np.maximum(tokens / length, 0.0)
    found = _matrix_products(system, c, local, tokens, sampled)
    found.append(
        _fixed("attention", flops / (system.attention_peak_flops_s * c.attention_compute), "compute")
    )
    routed = np.where(arch.num_layers > 0, arch.moe_layers / arch.num_layers, 0.0) * arch.experts_per_token
    traffic = 2.0 * local * arch.hidden_size * arch.num_layers * (ELEMENTWISE_PASSES + 2.0 * routed)
    found.append(
        _fixed("element-wise", traffic / (system.bandwidth_bytes_s * c.elementwise_memory), "memory")
    )
    found.append(
        _fixed(
            "all-reduce",
            2.0 * arch.num_layers * all_reduce_time(system, c, 2.0 * local * arch.hidden_size, graph=False),
            "link",
        )
    )
    found = [each._replace(time_s=each.time_s * c.device_slowdown) for each in found]
    device = np.sum([each.time_s for each in found], axis=0)
    launch = arch.num_layers * c.prefill_layer_s + arch.moe_layers * c.prefill_moe_layer_s
    launch = launch * c.device_slowdown
    total = np.hypot(device, launch)
    found.append(_fixed("launch not hidden", total - device, "latency"))
    return Step(found, total)
