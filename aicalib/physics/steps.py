"""The kernels of one step of the engine, and the step as a list of operators: a decode step and a prefill step.

All arrays broadcast: a `System` of d deployments answers for d sets of arguments, its `column()` for a row of
points each.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.physics.calls import Call, parts, split
from aicalib.physics.experts import expert_calls
from aicalib.physics.kernels.plain import PLAIN
from aicalib.physics.links import expert_exchange_calls, hidden_state_calls, logits_calls
from aicalib.physics.mixers import decode_mixer_calls, prefill_mixer_calls
from aicalib.physics.projections import product_calls
from aicalib.physics.system import Coefficients, System
from aicalib.physics.widening import cache_call

Array = NDArray[np.float64]

HIDDEN_PASSES = 10.0
"""Reads and writes of a 16-bit hidden state per token and layer that norms, residuals and rotary need."""

LOGIT_BYTES = 12.0
"""Bytes per logit that sampling moves: read in 16 bit, written and read in 32 bit, and a 16-bit copy."""


def _pass_over(system: System, name: str, bytes_: Array) -> Call:
    machine = system.dense_machine
    shape = {"flops": np.zeros_like(bytes_), "bytes": bytes_}
    return Call(name, PLAIN, None, np.ones_like(system.tp), shape, machine, "elementwise")


def local_calls(system: System, rows: Array, phase: str) -> list[Call]:
    """Return what runs on the rows of one attention rank: projections, and norms, rotary and residuals."""
    arch = system.arch
    traffic = 2.0 * rows * arch.hidden_size * arch.whole_layers * HIDDEN_PASSES
    return [
        *product_calls(system, rows, "local", phase),
        _pass_over(system, "norms, rotary, residuals", traffic),
    ]


def shared_calls(system: System, rows: Array) -> list[Call]:
    """Return the feed-forward parts that run on the rows of all ranks: dense ones, shared experts, routers."""
    return product_calls(system, rows, "all", "both")


SHARED_EXPERTS = ("shared gate_up_proj", "shared down_proj")
"""Products that run beside the routed experts in a decode step."""


def beside_experts(call: Call) -> bool:
    """Return whether a call runs beside the routed experts in a decode step: shared experts and their casts.

    The two share the memory's bandwidth, so that only time beyond the roofline is hidden.
    SGLang runs them on a second stream inside captured graphs (`models/deepseek_v2.py`, `alt_stream`) or as one more
    expert of the grouped kernel; vLLM on a stream of their own (`VLLM_DISABLE_SHARED_EXPERTS_STREAM`).
    """
    return call.name.endswith(SHARED_EXPERTS)


def head_calls(system: System, rows: Array) -> list[Call]:
    """Return the output head over the rows that are sampled, and the sampling."""
    logits = rows * system.arch.vocab_size
    return [
        *product_calls(system, rows, "sampled", "both"),
        *logits_calls(system, rows),
        _pass_over(system, "sampling", LOGIT_BYTES * logits),
    ]


def exchange_calls(system: System, tokens: Array, *, graph: bool) -> list[Call]:
    """Return what the ranks exchange of `tokens` tokens: their hidden states, and under DeepEP those of experts."""
    return [
        *hidden_state_calls(system, tokens, graph=graph),
        *expert_exchange_calls(system, tokens, graph=graph),
    ]


class Operator(NamedTuple):
    """One kind of operator in a step, over all layers, on one GPU.

    Attributes
    ----------
    name : str
    calls : ndarray
        How often it runs in the step.
    time_s : ndarray
        In the engine.
    flops, bytes_ : ndarray
        What it computes and moves, over memory or a link.
    bounds : ndarray of str
        "compute", "memory", "link" or "latency", where time does not follow from the datasheet.
    sizes : mapping of str to ndarray
        Of one call.
    math, surface, scale : str
        As in `Call`; empty for a fixed time.
    """

    name: str
    calls: Array
    time_s: Array
    flops: Array
    bytes_: Array
    bounds: NDArray[np.str_]
    sizes: dict[str, Array]
    math: str = ""
    surface: str = ""
    scale: str = ""


LATENCY_BOUND = 0.5
"""Share of the time that compute or memory must explain; below it the operator is said to be bound by latency."""


def _operator(call: Call, c: Coefficients, exposed: float = 1.0) -> Operator:
    """Return a call as a row for people, with the share of its time beyond the roofline that nothing hides."""
    roof_s, beyond_s = split(call)
    time_s = (roof_s + beyond_s * getattr(c, call.scale) * exposed) * c.device_slowdown
    found = parts(call)
    explained = np.maximum(found.compute_s, found.moved_s) >= LATENCY_BOUND * (roof_s + beyond_s)
    moved = "link" if call.scale == "links" else "memory"
    limit = np.where(found.compute_s > found.moved_s, "compute", moved)
    bounds = np.where(explained, limit, "latency")
    sizes = {name: np.asarray(value) for name, value in call.shape.items()}
    work = found.flops, found.bytes_
    return Operator(call.name, call.count, time_s, *work, bounds, sizes, call.math, call.surface, call.scale)


def _fixed(name: str, calls: Array, time_s: Array) -> Operator:
    zero = np.zeros_like(time_s)
    return Operator(name, calls, time_s, zero, zero, np.full(zero.shape, "latency"), {})


def layers_s(system: System, c: Coefficients) -> Array:
    """Return the fixed time in seconds of a decode step's small kernels and of the gaps between kernels."""
    arch = system.arch
    fixed = (
        arch.whole_layers * c.layer_s
        + arch.moe_layers * c.moe_layer_s
        + arch.sparse_layers * c.sparse_layer_s
        + arch.state_layers * c.linear_layer_s
    )
    return fixed * c.fixed_slowdown


def launch_s(system: System, c: Coefficients) -> Array:
    """Return the time in seconds that the host needs to launch the kernels of a step without a graph."""
    arch = system.arch
    launch = (
        arch.whole_layers * c.prefill_layer_s
        + arch.moe_layers * c.prefill_moe_layer_s
        + arch.state_layers * c.prefill_linear_layer_s
    )
    return launch * c.fixed_slowdown


def _whole_cache(system: System, slots: Array | None, phase: str) -> list[Call]:
    if not np.any(system.cache_widens):
        return []
    if slots is None:
        raise ValueError("a cache that is widened takes time by the slots of its pool: give slots")
    return [cache_call(system, slots, phase)]


def decode_step(
    system: System,
    c: Coefficients,
    batch: Array,
    context: Array,
    padded: Array,
    graph_max_batch: Array,
    slots: Array | None = None,
) -> list[Operator]:
    """Return the operators of a decode step: every running request gains one token.

    Parameters
    ----------
    system : System
        Deployments.
    c : Coefficients
        Their coefficients.
    batch : ndarray
        Running requests of the instance, over all attention-data-parallel ranks.
    context : ndarray
        Mean tokens in the cache of a request.
    padded : ndarray
        Rows of the captured graph that runs the batch; they cost matrix rows, but no cache and no expert.
    graph_max_batch : ndarray
        Largest batch with a captured graph. One above it is launched kernel by kernel: the device then takes the
        root of the sum of squares of its own time and launch time.
    slots : ndarray, optional
        Of the pool of one attention rank; needed where a deployment widens its cache.
    """
    local = np.maximum(batch / system.dp, np.minimum(batch, 1.0))
    rows = np.maximum(padded / system.dp, local)
    called = [
        *local_calls(system, rows, "decode"),
        *decode_mixer_calls(system, local, context),
        *shared_calls(system, padded),
        *expert_calls(system, batch, "decode"),
        *head_calls(system, padded),
        *exchange_calls(system, padded, graph=True),
        *_whole_cache(system, slots, "decode"),
    ]
    found = [_operator(call, c, c.shared_experts if beside_experts(call) else 1.0) for call in called]
    found.append(_fixed("small kernels and gaps", system.arch.whole_layers, layers_s(system, c)))
    device = total_s(found)
    one = np.ones_like(device)
    eager = np.where(padded > graph_max_batch, np.hypot(device, launch_s(system, c)) - device, 0.0)
    return [
        *found,
        _fixed("launch not hidden", one, eager),
        _fixed("engine", one, c.step_s + c.request_s * batch),
    ]


def prefill_step(
    system: System, c: Coefficients, tokens: Array, length: Array, ranks: Array, slots: Array | None = None
) -> list[Operator]:
    """Return the operators of a prefill step over `tokens` prompt tokens of prompts of `length` tokens.

    The kernels are launched from the host while the device works, so the step takes the root of the sum of
    squares of device time and launch time.

    Parameters
    ----------
    system : System
        Deployments.
    c : Coefficients
        Their coefficients.
    tokens : ndarray
        Prompt tokens in the step, over all ranks.
    length : ndarray
        Tokens of a whole prompt; a step that holds part of one carries that share of its attention.
    ranks : ndarray
        Attention-data-parallel ranks that have a prompt to prefill, at most `dp`.
    slots : ndarray, optional
        Of the pool of one attention rank; needed where a deployment widens its cache.
    """
    local = tokens / ranks
    prompts = np.maximum(local / length, 1.0)
    share = local / (length * prompts)
    mixers = prefill_mixer_calls(system, prompts, length)
    called = [
        *local_calls(system, local, "prefill"),
        *(replace(call, count=call.count * share) for call in mixers),
        *shared_calls(system, tokens),
        *expert_calls(system, tokens, "prefill"),
        *head_calls(system, tokens / length),
        *exchange_calls(system, tokens, graph=False),
        *_whole_cache(system, slots, "prefill"),
    ]
    found = [_operator(call, c) for call in called]
    device = total_s(found)
    exposed = np.hypot(device, launch_s(system, c)) - device
    return [*found, _fixed("launch not hidden", np.ones_like(device), exposed)]


def total_s(found: list[Operator]) -> Array:
    """Return the time of operators that run one after the other."""
    result: Array = np.sum(np.broadcast_arrays(*(each.time_s for each in found)), axis=0)
    return result
