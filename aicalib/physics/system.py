"""What the physics reads of deployments: plain arrays, one element a deployment.

A `System` holds what decides how long a step takes, for d distinct deployments; `Settings` hold what n
questions about them set apart. Both are filled by `aicalib.resolve.rows`; physics and serving only ever read them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.models.stack import ArchitectureArrays
from aicalib.physics.kernels.kind import Machine
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
    """d deployments: model, accelerator, formats, widths and engine.

    Attributes
    ----------
    arch : ArchitectureArrays
        Architectures, each field of shape (d,).
    gemm_bits, expert_bits, kv_bits : ndarray, shape (d,)
        True storage bits per element, scales included.
    table_bits : ndarray, shape (d,)
        Of embedding and output head, which most formats leave in 16 bit.
    gemm_peak_flops_s, expert_peak_flops_s, attention_peak_flops_s : ndarray, shape (d,)
        Dense peak of one GPU for the math that the format really runs in.
    dynamic_scales : ndarray of bool, shape (d,)
        Dense products multiply in FP8, with one scale a tensor or a row of the input that is found while serving, in
        time of its own.
    wide_peak_flops_s : ndarray, shape (d,)
        The same of 16-bit math, in which routers and most output heads run.
    vector_peak_flops_s : ndarray, shape (d,)
        FP32 peak of the general-purpose cores; that of 16-bit math where it is not known.
    gemm_class, expert_class : ndarray of int, shape (d,)
        Index into `FORMAT_CLASSES`.
    kv_class, attention_class : ndarray of int, shape (d,)
        Index into `KV_CLASSES`.
    bandwidth_bytes_s, link_bytes_s, memory_bytes, taken_bytes : ndarray, shape (d,)
        Of one GPU; the link is the one-way rate that an all-reduce of this width uses inside a node, and `taken_bytes`
        what other programs hold of the memory.
    node_gpus : ndarray, shape (d,)
        GPUs of a node, or of a link domain where that is larger.
    network_bytes_s : ndarray, shape (d,)
        Rate at which one GPU sends to another node; read where the instance spans several.
    deepep : ndarray of bool, shape (d,)
        Tokens reach their experts and come back by DeepEP; shared experts and routers then lie whole on every rank and
        run on its own tokens.
    surfaces : mapping of str to ndarray of int, shape (d,)
        Which fitted surface answers for each kernel, by the names of `aicalib.resolve.identify.SURFACES`.
    masks_window : ndarray, shape (d,)
        1 where the attention kernel of a prefill computes what lies outside of a window, and masks it.
    expert_tile : ndarray, shape (d,)
        Multiple to which the expert kernel pads widths.
    is_amd, is_cpu : ndarray of bool, shape (d,)
    tp, dp, ep, pp : ndarray, shape (d,)
        Widths as the engine's flags give them: `tp` is the width of one instance including its
        attention-data-parallel ranks `dp`; `ep` splits whole experts over the `tp` ranks.
    engine : ndarray of int, shape (d,)
        Index into `ENGINES`.
    engine_month : ndarray, shape (d,)
        Age of the engine version in months from its epoch.
    latent_bits : ndarray, shape (d,)
        Storage bits per element of a latent row, which the layouts for sparse attention keep partly in 16 bit.
    hidden_pad, width_pad : ndarray, shape (d,)
        Multiples to which the expert weights are padded on both sides of a matrix; 1 where they are not.
    window_ratio : ndarray, shape (d,)
        Tokens of SGLang's pool for sliding-window layers over those of the full pool.
    one_pool : ndarray of bool, shape (d,)
        The engine keeps sliding-window layers in the full pool.
    has_encoder : ndarray of bool, shape (d,)
        An encoder of images or sound stands before the language model.
    version : ndarray, shape (d,)
        Number that orders engine versions.
    direct_rows, wide_direct_rows, direct_columns : ndarray, shape (d,)
        Most rows that a dense product multiplies with packed weights as they are, and those of matrices of more than
        `direct_columns` columns; above, the weights are written out in 16 bit first. Infinite where they never are.
    expert_widens, cache_widens : ndarray of bool, shape (d,)
        Experts, and the cache, are written out in 16 bit before they are multiplied, or attended to.
    """

    arch: ArchitectureArrays
    gemm_bits: Array
    expert_bits: Array
    kv_bits: Array
    table_bits: Array
    gemm_peak_flops_s: Array
    expert_peak_flops_s: Array
    attention_peak_flops_s: Array
    dynamic_scales: NDArray[np.bool_]
    wide_peak_flops_s: Array
    vector_peak_flops_s: Array
    gemm_class: Codes
    expert_class: Codes
    kv_class: Codes
    attention_class: Codes
    bandwidth_bytes_s: Array
    link_bytes_s: Array
    node_gpus: Array
    network_bytes_s: Array
    deepep: NDArray[np.bool_]
    memory_bytes: Array
    taken_bytes: Array
    surfaces: Mapping[str, Codes]
    masks_window: Array
    expert_tile: Array
    is_amd: NDArray[np.bool_]
    is_cpu: NDArray[np.bool_]
    tp: Array
    dp: Array
    ep: Array
    pp: Array
    engine: Codes
    engine_month: Array
    latent_bits: Array
    hidden_pad: Array
    width_pad: Array
    window_ratio: Array
    one_pool: NDArray[np.bool_]
    has_encoder: NDArray[np.bool_]
    version: Array
    direct_rows: Array
    wide_direct_rows: Array
    direct_columns: Array
    expert_widens: NDArray[np.bool_]
    cache_widens: NDArray[np.bool_]

    @property
    def attended_bits(self) -> Array:
        """Storage bits per element of the cache as attention reads it: 16 where it is widened first."""
        return np.where(self.cache_widens, 16.0, self.kv_bits)

    @property
    def attention_width(self) -> Array:
        """Ranks that share one attention layer: tp / dp."""
        return self.tp / self.dp

    @property
    def n_gpus(self) -> Array:
        """GPUs of one instance: tp x pp."""
        return self.tp * self.pp

    @property
    def nodes(self) -> Array:
        """Nodes, or link domains where these are larger, that one instance spans."""
        return self.nodes_of(self.n_gpus)

    def nodes_of(self, width: Array) -> Array:
        """Return the nodes that so many ranks next to each other span."""
        result: Array = np.ceil(width / self.node_gpus)
        return result

    @property
    def shared_width(self) -> Array:
        """Ranks that share a shared expert: all of tp, or under DeepEP each its own."""
        return np.where(self.deepep, 1.0, self.tp)

    @property
    def on_vllm(self) -> NDArray[np.bool_]:
        """Whether the engine is vLLM."""
        result: NDArray[np.bool_] = self.engine == ENGINES.index("vllm")
        return result

    @property
    def on_trtllm(self) -> NDArray[np.bool_]:
        """Whether the engine is TensorRT-LLM."""
        result: NDArray[np.bool_] = self.engine == ENGINES.index("trtllm")
        return result

    def machine(self, peak_flops_s: Array, bits: Array) -> Machine:
        """Return what kernels read of the accelerators, with the peak of their math and the bits of what they read."""
        return Machine(self.bandwidth_bytes_s, peak_flops_s, bits, self.link_bytes_s)

    @property
    def dense_machine(self) -> Machine:
        """What kernels read that work in the format of dense weights, or in none of their own."""
        return self.machine(self.gemm_peak_flops_s, self.gemm_bits)

    def take(self, rows: Codes) -> System:
        """Return some of the deployments, in that order."""
        return self._each(lambda values: values[rows])

    def column(self) -> System:
        """Return the deployments with every array of shape (d, 1), to be set against a row of points."""
        return self._each(lambda values: values[:, None])

    def _each(self, change: Callable[[NDArray[Any]], NDArray[Any]]) -> System:
        arrays = {each.name: getattr(self, each.name) for each in fields(self)}
        arch, surfaces = arrays.pop("arch"), arrays.pop("surfaces")
        return System(
            arch=arch.each(change),
            surfaces={name: change(codes) for name, codes in surfaces.items()},
            **{name: change(values) for name, values in arrays.items()},
        )


class Settings(NamedTuple):
    """What n questions set of an engine; NaN where it is not given and not yet filled in. Shape (n,) each.

    `memory_fraction` is the share of free memory for weights and pool (SGLang), of the GPU's memory in all (vLLM), or
    of what weights and a step leave free (TensorRT-LLM); `chunk_tokens` are those of a prefill step,
    `max_running` the most running requests, `graph_max_batch` the largest batch with a captured graph,
    `poll_interval` the decode steps between two looks of the scheduler for new requests.
    """

    memory_fraction: Array
    chunk_tokens: Array
    max_running: Array
    graph_max_batch: Array
    poll_interval: Array

    def take(self, rows: Codes) -> Settings:
        """Return the settings of some questions, in that order."""
        return Settings(*(values[rows] for values in self))

    def of_instance(self, system: System, at: Codes) -> Settings:
        """Return the settings of whole instances.

        TensorRT-LLM's tokens, requests and graphs are those of one attention-data-parallel rank.
        """
        ranks = np.where(system.on_trtllm, system.dp, 1.0)[at]
        return self._replace(
            chunk_tokens=self.chunk_tokens * ranks,
            max_running=self.max_running * ranks,
            graph_max_batch=self.graph_max_batch * ranks,
        )


@dataclass(frozen=True)
class Coefficients:
    """One value of every coefficient a deployment, each of shape (d,) or a scalar.

    Built from a vector of values by `spread_over`, which says which coefficients of `coefficients.toml` each is made
    of. Names that end in `_s` are seconds; the others are ratios, of which `poll_wait` is a share of the interval
    between two looks of the scheduler, and `steps_ahead` a number of decode steps.
    """

    gemm: Array
    experts: Array
    decode_mixers: Array
    prefill_mixers: Array
    quantize: float
    dynamic_scale: float
    elementwise: float
    widening: float
    links: Array
    shared_experts: float
    layer_s: Array
    moe_layer_s: Array
    sparse_layer_s: Array
    linear_layer_s: Array
    step_s: Array
    request_s: Array
    prefill_layer_s: Array
    prefill_moe_layer_s: Array
    prefill_linear_layer_s: Array
    host_s: float
    host_token_s: float
    wave_token_s: Array
    poll_wait: float
    steps_ahead: float
    cold_s: Array
    device_slowdown: Array
    fixed_slowdown: Array

    def column(self) -> Coefficients:
        """Return the coefficients with every array of shape (d, 1)."""
        values: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        for name, value in values.items():
            values[name] = value[:, None] if isinstance(value, np.ndarray) else value
        return Coefficients(**values)


REFERENCE_MONTH = 27.0
"""Month at which the fixed times hold as given, from the epoch of `aicalib.engines.releases` (2026-04)."""

NEWEST_MONTH = 30.0
"""Last month with measured runs behind it (2026-07): the speed-up of engines is not extrapolated past it."""


def spread_over(system: System, values: Array) -> Coefficients:
    """Give every deployment its coefficients.

    Parameters
    ----------
    system : System
        d deployments.
    values : ndarray, shape (number of coefficients,)
        One value a coefficient, in the order of `aicalib.profiles.coefficients.all_coefficients()`.

    Returns
    -------
    Coefficients

    Notes
    -----
    Fixed times shrink as value * g^-(month - REFERENCE_MONTH) with the monthly speed-up g, since engines
    remove overhead from release to release, and take a ratio on vLLM and on TensorRT-LLM.
    """

    def one(name: str) -> float:
        return float(values[position(name)])

    def family(name: str, classes: tuple[str, ...], codes: Codes) -> Array:
        result: Array = values[family_positions(name, classes)][codes]
        return result

    age = np.minimum(system.engine_month, NEWEST_MONTH) - REFERENCE_MONTH
    aged = one("monthly_speedup") ** -age
    prefill_moe = [1.0, one("vllm_prefill_moe_launch"), one("trtllm_prefill_launch")]

    def by_engine(name: str) -> Array:
        return np.array([1.0, one(f"vllm_{name}"), one(f"trtllm_{name}")])[system.engine]

    def stood_in(name: str) -> Array:
        return np.where(system.on_trtllm, one(f"trtllm_{name}"), 1.0)

    decode = aged * by_engine("layer")
    prefill = aged * by_engine("prefill_launch")

    def of_device(name: str) -> Array:
        return np.select([system.is_amd, system.is_cpu], [one(f"amd_{name}"), one(f"cpu_{name}")], 1.0)

    on_sglang = system.engine == ENGINES.index("sglang")
    request_by_request = np.where(system.is_cpu & on_sglang, one("cpu_attention"), 1.0)
    return Coefficients(
        gemm=family("gemm", FORMAT_CLASSES, system.gemm_class) * stood_in("gemm"),
        experts=family("experts", FORMAT_CLASSES, system.expert_class) * stood_in("experts"),
        decode_mixers=family("decode_attention", KV_CLASSES, system.kv_class)
        * stood_in("decode_attention")
        * request_by_request,
        prefill_mixers=family("prefill_attention", KV_CLASSES, system.attention_class)
        * stood_in("prefill_attention"),
        quantize=one("quantize"),
        dynamic_scale=one("dynamic_scale"),
        elementwise=one("elementwise"),
        widening=one("elementwise"),
        links=one("links") * stood_in("links"),
        shared_experts=one("shared_experts"),
        layer_s=one("layer_time") * decode,
        moe_layer_s=one("moe_layer_time") * decode,
        sparse_layer_s=one("sparse_layer_time") * decode,
        linear_layer_s=one("linear_layer_time") * decode,
        step_s=one("step_time") * aged * stood_in("step"),
        request_s=one("request_time") * aged * stood_in("step"),
        prefill_layer_s=one("prefill_layer_time") * prefill,
        prefill_moe_layer_s=one("prefill_moe_layer_time") * aged * np.array(prefill_moe)[system.engine],
        prefill_linear_layer_s=one("prefill_linear_layer_time") * prefill,
        host_s=one("host_time"),
        host_token_s=one("host_token_time"),
        wave_token_s=one("wave_token_time") * by_engine("wave"),
        poll_wait=one("poll_wait"),
        steps_ahead=one("steps_ahead"),
        cold_s=one("cold_time") * by_engine("cold"),
        device_slowdown=of_device("time"),
        fixed_slowdown=of_device("fixed_time"),
    )
