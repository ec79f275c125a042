"""What engines write out in 16 bit first: weights before a product, experts, and SGLang's 4-bit cache at every step.

Which kernels do so comes with the deployments (`System.direct_rows`, `expert_widens`, `cache_widens`;
`aicalib.engines.widening` says where from). What reads the data then reads 16 bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aicalib.physics.calls import Call, seconds
from aicalib.physics.kernels.widen import WIDE_BYTES, WIDEN
from aicalib.physics.kv_cache import kv_elements_per_token
from aicalib.physics.memory import Memory
from aicalib.physics.system import Coefficients, System

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]


CACHE_OPERATIONS = 270.0
"""FP32 operations' worth of instructions that SGLang spends on an element of its 4-bit cache. Its kernel is what
torch.compile makes of `batched_dequantize` (`srt/layers/quantization/kvfp4_tensor.py`): one pass that finds the place
of each element in 64-bit integers, and its value by comparisons. Times the 1.6 of kernels that only pass over memory it
gives the one published figure: Qwen3-32B on 4 B200 with up to 128 requests makes 90 tokens/s, a step of 1.4 s over a
pool of 7.3 M tokens (sgl-project/sglang#17365; 5000 tokens/s with the cache in 16 bit)."""


def _call(
    name: str, system: System, count: Array, elements: Array, bits: Array, operations: float = 0.0
) -> Call:
    machine = system.machine(system.vector_peak_flops_s, bits)
    shape = {"elements": elements, "operations": np.full_like(bits, operations)}
    return Call(name, WIDEN, None, count, shape, machine, "widening")


def widened(system: System, rows: Array, columns: Array) -> Flags:
    """Return where a product of so many rows and columns is preceded by writing its weights out in 16 bit."""
    most = np.where(columns > system.direct_columns, system.wide_direct_rows, system.direct_rows)
    result: Flags = rows > most
    return result


def weight_call(system: System, name: str, count: Array, columns: Array, rows: Array, bits: Array) -> Call:
    """Return the writing out of matrices of so many columns and rows, `count` times in a step.

    Parameters
    ----------
    system : System
    name : str
        The product that reads them.
    count, columns, rows, bits : ndarray
        `count` is 0 where the product reads them as they are; `bits` are those of a packed weight.
    """
    return _call(f"widening for {name}", system, count, columns * rows, bits)


def expert_call(system: System) -> Call:
    """Return the writing out of all experts of a rank, touched or not, layer by layer."""
    arch = system.arch
    held = arch.num_experts / system.ep
    width = arch.moe_intermediate_size * system.ep / system.tp
    elements = held * arch.ffn_matrices * arch.expert_hidden_size * width
    count = arch.moe_layers * system.expert_widens
    return _call("widening for experts", system, count, elements, system.expert_bits)


def _slot_elements(system: System, phase: str) -> tuple[Array, Array]:
    """Return the elements of a slot of the pool that a step widens, over all layers, and in how many calls.

    Keys and values are widened apart. A latent row is read in decode alone: prefill attends to what it has expanded.
    """
    arch = system.arch
    full, window, latent = kv_elements_per_token(arch, system.attention_width)
    ratio = np.where(system.one_pool | (full + latent == 0.0), 1.0, system.window_ratio)
    decodes = float(phase == "decode")
    calls = 2.0 * (arch.full_layers + arch.window_layers) + decodes * arch.mla_layers
    return full + window * ratio + decodes * latent, calls


def slots(held: Memory) -> Array:
    """Return the slots of the pool of one attention rank, shape (n,)."""
    return held.max_total_tokens / held.ranks


def cache_call(system: System, slots: Array, phase: str) -> Call:
    """Return the writing out of the whole pool in a step, of slots in use or not.

    Parameters
    ----------
    system : System
    slots : ndarray
        Of the pool of one attention rank.
    phase : str
        "decode" or "prefill".
    """
    elements, calls = _slot_elements(system, phase)
    count = calls * system.cache_widens
    each = slots * elements / np.maximum(calls, 1.0)
    return _call("widening of the cache", system, count, each, system.kv_bits, CACHE_OPERATIONS)


def cache_seconds(system: System, c: Coefficients, slots: Array, phase: str) -> Array:
    """Return the time in seconds that widening the cache adds to a step in the engine; 0 where nothing is widened."""
    return seconds(cache_call(system, slots, phase)) * c.widening * c.device_slowdown


def with_workspace(held: Memory, system: System) -> Memory:
    """Return the memory of one GPU with the keys and values of one layer in 16 bit, which lie outside of the pool.

    Parameters
    ----------
    held : Memory
        Of n questions, without them.
    system : System
        Their deployments, n of them.
    """
    elements, calls = _slot_elements(system, "decode")
    layer = elements / np.maximum(calls, 1.0) * np.where(system.arch.mla_layers > 0, 1.0, 2.0)
    bytes_ = np.where(system.cache_widens, slots(held) * layer * WIDE_BYTES, 0.0)
    return held._replace(
        activation_bytes=held.activation_bytes + bytes_,
        reserve_bytes=np.maximum(held.reserve_bytes - bytes_, 0.0),
    )
