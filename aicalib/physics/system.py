"""What the physics reads of a batch of deployments: plain arrays, one element a deployment.

A `System` is filled by `aicalib.resolve`; physics and serving only ever read it. All arrays have shape
(n,), so that one prediction is a batch of one and a million are one call.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from aicalib.models.stack import ArchitectureArrays
from aicalib.profiles.coefficients import (
    FORMAT_CLASSES,
    KV_CLASSES,
    family_positions,
    position,
)

ENGINES = ("sglang", "vllm", "trtllm")
"""The engines, in the order of their codes."""

Array = NDArray[np.float64]
Codes = NDArray[np.intp]


@dataclass(frozen=True)
class System:
    """A batch of n fully resolved deployments.

    Attributes
    ----------
    arch : ArchitectureArrays
        Architectures, each field of shape (n,).
    gemm_bits, expert_bits, kv_bits : ndarray, shape (n,)
        True storage bits per element, scales included.
    table_bits : ndarray, shape (n,)
        Of embedding and output head, which most formats leave in 16 bit.
    gemm_peak_flops_s, expert_peak_flops_s, attention_peak_flops_s : ndarray, shape (n,)
        Dense peak of one GPU for the math that the format really runs in.
    gemm_class, expert_class : ndarray of int, shape (n,)
        Index into `FORMAT_CLASSES`.
    kv_class, attention_class : ndarray of int, shape (n,)
        Index into `KV_CLASSES`.
    bandwidth_bytes_s, link_bytes_s, memory_bytes : ndarray, shape (n,)
        Of one GPU; the link is the one-way rate that an all-reduce of this width uses.
    is_amd : ndarray of bool, shape (n,)
    tp, dp, ep, pp : ndarray, shape (n,)
        Widths as the engine's flags give them: `tp` is the width of one instance including its
        attention-data-parallel ranks `dp`; `ep` splits whole experts over the `tp` ranks.
    engine : ndarray of int, shape (n,)
        Index into `ENGINES`.
    engine_month : ndarray, shape (n,)
        Age of the engine version in months from its epoch.
    memory_fraction : ndarray, shape (n,)
        Share of the GPU's memory for weights and KV pool (SGLang), or in all (vLLM).
    chunk_tokens, max_running, graph_max_batch : ndarray, shape (n,)
        Tokens of a prefill step; most running requests; largest batch with a captured graph.
    poll_interval : ndarray, shape (n,)
        Decode steps between two looks of the scheduler for new requests.
    """

    arch: ArchitectureArrays
    gemm_bits: Array
    expert_bits: Array
    kv_bits: Array
    table_bits: Array
    gemm_peak_flops_s: Array
    expert_peak_flops_s: Array
    attention_peak_flops_s: Array
    gemm_class: Codes
    expert_class: Codes
    kv_class: Codes
    attention_class: Codes
    bandwidth_bytes_s: Array
    link_bytes_s: Array
    memory_bytes: Array
    is_amd: NDArray[np.bool_]
    tp: Array
    dp: Array
    ep: Array
    pp: Array
    engine: Codes
    engine_month: Array
    memory_fraction: Array
    chunk_tokens: Array
    max_running: Array
    graph_max_batch: Array
    poll_interval: Array

    @property
    def attention_width(self) -> Array:
        """Ranks that share one attention layer: tp / dp, shape (n,)."""
        return self.tp / self.dp

    @property
    def n_gpus(self) -> Array:
        """GPUs of one instance: tp x pp, shape (n,)."""
        return self.tp * self.pp

    @property
    def on_vllm(self) -> NDArray[np.bool_]:
        """Whether the engine is vLLM, shape (n,)."""
        result: NDArray[np.bool_] = self.engine == ENGINES.index("vllm")
        return result

    def take(self, rows: Codes) -> System:
        """Return the deployments of some rows, in that order."""
        picked = {each.name: getattr(self, each.name)[rows] for each in fields(self) if each.name != "arch"}
        return System(arch=self.arch.take(rows), **picked)


@dataclass(frozen=True)
class Coefficients:
    """One value of every coefficient a deployment, each of shape (n,) or a scalar.

    Built from a vector of values by `spread_over`; names as in `coefficients.toml`.
    """

    gemm_compute: Array
    gemm_memory: Array
    expert_compute: Array
    expert_memory: Array
    expert_slicing: float
    attention_compute: Array
    attention_memory: Array
    elementwise_memory: float
    all_reduce_bandwidth: float
    all_reduce_latency_s: float
    layer_s: Array
    moe_layer_s: Array
    sparse_layer_s: Array
    linear_layer_s: Array
    step_s: Array
    request_s: Array
    prefill_layer_s: Array
    prefill_moe_layer_s: Array
    host_s: float
    host_token_s: float
    poll_wait: float
    cold_s: Array
    device_slowdown: Array


REFERENCE_MONTH = 27.0
"""Month at which the fixed times hold as given, from the epoch of `aicalib.engines.releases` (2026-04)."""

NEWEST_MONTH = 30.0
"""Last month with measured runs behind it (2026-07): the speed-up of engines is not extrapolated past it."""


def spread_over(system: System, values: Array) -> Coefficients:
    """Give every deployment of a batch its coefficients.

    Parameters
    ----------
    system : System
        n deployments.
    values : ndarray, shape (number of coefficients,)
        One value a coefficient, in the order of `aicalib.profiles.coefficients.all_coefficients()`.

    Returns
    -------
    Coefficients

    Notes
    -----
    Fixed times shrink as value * g^-(month - REFERENCE_MONTH) with the monthly speed-up g, since engines
    remove overhead from release to release, and take a ratio on vLLM.
    """

    def one(name: str) -> float:
        return float(values[position(name)])

    def family(name: str, classes: tuple[str, ...], codes: Codes) -> Array:
        result: Array = values[family_positions(name, classes)][codes]
        return result

    age = np.minimum(system.engine_month, NEWEST_MONTH) - REFERENCE_MONTH
    aged = one("monthly_speedup") ** -age
    on_vllm = system.on_vllm
    decode = aged * np.where(on_vllm, one("vllm_layer"), 1.0)
    prefill = aged * np.where(on_vllm, one("vllm_prefill_launch"), 1.0)
    return Coefficients(
        gemm_compute=family("gemm_compute", FORMAT_CLASSES, system.gemm_class),
        gemm_memory=family("gemm_memory", FORMAT_CLASSES, system.gemm_class),
        expert_compute=family("expert_compute", FORMAT_CLASSES, system.expert_class),
        expert_memory=family("expert_memory", FORMAT_CLASSES, system.expert_class),
        expert_slicing=one("expert_slicing"),
        attention_compute=family("attention_compute", KV_CLASSES, system.attention_class),
        attention_memory=family("attention_memory", KV_CLASSES, system.kv_class),
        elementwise_memory=one("elementwise_memory"),
        all_reduce_bandwidth=one("all_reduce_bandwidth"),
        all_reduce_latency_s=one("all_reduce_latency"),
        layer_s=one("layer_time") * decode,
        moe_layer_s=one("moe_layer_time") * decode,
        sparse_layer_s=one("sparse_layer_time") * decode,
        linear_layer_s=one("linear_layer_time") * decode,
        step_s=one("step_time") * aged,
        request_s=one("request_time") * aged,
        prefill_layer_s=one("prefill_layer_time") * prefill,
        prefill_moe_layer_s=one("prefill_moe_layer_time") * prefill,
        host_s=one("host_time"),
        host_token_s=one("host_token_time"),
        poll_wait=one("poll_wait"),
        cold_s=one("cold_time") * np.where(on_vllm, one("vllm_cold"), 1.0),
        device_slowdown=np.where(system.is_amd, one("amd_time"), 1.0),
    )
