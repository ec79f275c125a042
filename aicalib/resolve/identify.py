"""From names to an Identity: model, accelerator, engine and the four modes, as one combination.

`auto` in any of the four fields is resolved here, before physics: weights are what the published checkpoint
is, the cache is 16 bit or what the engine takes by itself, attention follows the cache and the kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from aicalib.deployment import Identity
from aicalib.engines import ENGINES, defaults, is_newer, newest_version, release_month
from aicalib.engines.backends import BACKENDS, read_backends
from aicalib.engines.kernels import default_backend
from aicalib.engines.layouts import expert_padding, has_encoder, latent_bits, one_pool
from aicalib.engines.moe_kernels import dense_format
from aicalib.errors import InvalidValue, NotTimed, RequestError, UnknownName, fold
from aicalib.hardware import Accelerator, get_accelerator
from aicalib.models import Architecture, get_architecture
from aicalib.physics.kernels.comm import all_reduce_variant
from aicalib.physics.kernels.moe import TILE
from aicalib.physics.kernels.scale import NEGLIGIBLE, SCALE
from aicalib.profiles import kernels
from aicalib.profiles.coefficients import FORMAT_CLASSES, KV_CLASSES
from aicalib.quant import (
    SIXTEEN_BIT,
    ActivationScaling,
    FMHAQuantMode,
    GEMMQuantMode,
    KVCacheQuantMode,
    MoEQuantMode,
    ParsedMode,
    QuantConfig,
    QuantRequest,
    parse_mode,
    storage_bits,
    variants,
    weight_format,
)
from aicalib.resolve.backends import with_backends
from aicalib.resolve.layer_kernels import (
    attention_of,
    chosen_kernels,
    experts_variant,
    math_paths,
    softmax_kinds,
)
from aicalib.resolve.widened import attended_cache, widened_parts, widening_numbers

WIDTHS = (1, 2, 4, 8, 16, 32, 64)
"""Widths that are tried where none was asked for."""

WINDOW_POOL_RATIO = 0.8
"""Tokens of SGLang's sliding-window pool over those of the full pool (`--swa-full-tokens-ratio`)."""

SURFACE = "surface "
"""Begins the names of the numbers that say which fitted surface answers for a kernel."""

OTHER_WIDTH = 0.5
"""Relative difference in bits from which on a variant is another width, not another group size."""

NARROWEST_TIMED_BITS = 8.0
"""Bits of the narrowest cache for which attention kernels were timed."""

DYNAMIC_SCALES = (ActivationScaling.PER_TENSOR_DYNAMIC, ActivationScaling.PER_TOKEN_DYNAMIC)
"""Scales of activations that are found before a product; those of small groups are part of its own kernels."""

FP8_ATTENTION = ("9.0", "10.0", "10.3")
"""Compute capabilities whose default attention kernels (FA3, TRT-LLM) multiply in FP8 on an FP8 cache."""


def _sixteen_bit(accelerator: Accelerator) -> str:
    """Return the 16-bit mode that an accelerator multiplies in."""
    return "bfloat16" if "bf16" in accelerator.peak_flops else "float16"


def _published(arch: Architecture, accelerator: Accelerator) -> ParsedMode[GEMMQuantMode]:
    """Return the dense format of the published checkpoint; of the two 16-bit modes the accelerator's."""
    found = parse_mode("gemm", arch.weight_format)
    if found is None or found.mode.name in SIXTEEN_BIT:
        return ParsedMode(GEMMQuantMode[_sixteen_bit(accelerator)])
    return found


def _experts_like(dense: ParsedMode[GEMMQuantMode]) -> ParsedMode[MoEQuantMode]:
    if dense.mode.name not in MoEQuantMode.__members__:
        raise InvalidValue(
            f"gemm '{dense.mode.name}' has no counterpart for experts; say what they are with moe",
            list(MoEQuantMode.__members__),
        )
    return ParsedMode(MoEQuantMode[dense.mode.name], dense.variant)


def _weights(
    arch: Architecture, accelerator: Accelerator, gemm: str, moe: str
) -> tuple[ParsedMode[GEMMQuantMode], ParsedMode[MoEQuantMode]]:
    """Resolve the formats of dense weights and experts; `auto` is what the published checkpoint is.

    Experts follow an explicit `gemm`; a dense model has none and keeps the 16-bit mode as a placeholder.
    """
    dense, experts = parse_mode("gemm", gemm), parse_mode("moe", moe)
    placeholder = ParsedMode(MoEQuantMode[_sixteen_bit(accelerator)])
    if arch.moe_layers == 0:
        if experts is not None:
            raise InvalidValue(
                f"moe '{moe}' on {arch.name}: it is a dense model without experts; leave moe out", ["auto"]
            )
        return dense or _published(arch, accelerator), placeholder
    if experts is None:
        experts = _experts_like(dense) if dense else parse_mode("moe", arch.expert_weight_format)
    if experts is None or experts.mode.name in SIXTEEN_BIT:
        experts = placeholder
    return dense or _published(arch, accelerator), experts


def _cache_and_attention(
    arch: Architecture, accelerator: Accelerator, engine: str, kv: str, fmha: str, notes: list[str]
) -> tuple[KVCacheQuantMode, FMHAQuantMode]:
    """Resolve cache and attention: attention multiplies in FP8 where the cache is FP8 and the kernel can."""
    cache, attention = parse_mode("kvcache", kv), parse_mode("fmha", fmha)
    if cache is None:
        cache = ParsedMode(KVCacheQuantMode[_sixteen_bit(accelerator)])
        if arch.sparse_layers > 0 and accelerator.capability.startswith("10.") and engine == "sglang":
            cache = ParsedMode(KVCacheQuantMode.fp8_e4m3)
            notes.append("kv: fp8_e4m3, SGLang's own choice for sparse attention on this GPU")
    if attention is None:
        attention = ParsedMode(FMHAQuantMode[_sixteen_bit(accelerator)])
        if cache.mode.name in ("fp8", "fp8_e4m3") and accelerator.capability in FP8_ATTENTION:
            attention = ParsedMode(FMHAQuantMode.fp8)
            notes.append("fmha: fp8, as the default kernels of this GPU do with an FP8 cache")
    return cache.mode, attention.mode


def identify(
    model: str, gpu: str | Accelerator, gemm: str | None, kv: str | None, fmha: str | None, moe: str | None,
    engine: str, engine_version: str | None, attention_backend: str | None = None,
    prefill_attention_backend: str | None = None, decode_attention_backend: str | None = None,
    moe_backend: str | None = None,
) -> Identity:  # fmt: skip
    """Look up one combination of names; an accelerator that is known already is taken as it is.

    Raises
    ------
    UnknownName, InvalidValue, NotCovered
        With the reason and what would work.
    """
    arch = get_architecture(model)
    accelerator = gpu if isinstance(gpu, Accelerator) else get_accelerator(gpu)
    engine = {fold(name): name for name in ENGINES}.get(fold(engine), engine)
    if engine not in ENGINES:
        raise UnknownName("engine", engine, ENGINES)
    notes: list[str] = list(arch.notes)
    if accelerator.file:
        notes.append(f"gpu: figures of {accelerator.file}")
    if engine_version is None:
        engine_version = newest_version(engine)
    month = release_month(engine, engine_version)
    if month is None:
        month = release_month(engine, newest_version(engine))
        assert month is not None
        notes.append(f"engine version '{engine_version}' has no number: taken as the newest")
    elif is_newer(engine_version, newest_version(engine)):
        notes.append(f"engine version {engine_version} is not known: taken as {newest_version(engine)}")
    dense, experts = _weights(arch, accelerator, gemm or "auto", moe or "auto")
    cache, attention = _cache_and_attention(arch, accelerator, engine, kv or "auto", fmha or "auto", notes)
    if gemm is None and moe is not None and dense.mode.name not in SIXTEEN_BIT:
        notes.append(f"gemm: {dense.mode.name}, as the published checkpoint")
    for field, parsed in (("gemm", dense), ("moe", experts)):
        bits = storage_bits(parsed.mode)
        widths = [storage_bits(parsed.mode, variant) for variant in variants(parsed.mode)]
        if parsed.variant is None and any(abs(width / bits - 1.0) > OTHER_WIDTH for width in widths):
            notes.append(f"{field}: {parsed.mode.name} without a width is taken as {bits:.4g} bits a weight")
    quant = QuantConfig(
        gemm=dense.mode,
        kvcache=cache,
        fmha=attention,
        moe=experts.mode,
        gemm_variant=dense.variant,
        moe_variant=experts.variant,
    )
    math_paths(quant, accelerator)
    asked = QuantRequest.from_mapping({"gemm": gemm, "kv": kv, "fmha": fmha, "moe": moe})
    named = (attention_backend, prefill_attention_backend, decode_attention_backend, moe_backend)
    backends = read_backends(engine, engine_version, *named)
    found = Identity(
        arch, accelerator, quant, engine, engine_version, month, tuple(notes), asked=asked, backends=backends
    )
    if any(backends):
        found = with_backends(found)
    return replace(found, kernel_origin=_kernel_origin(found))


def _format_class(mode: Any, variant: str | None, path: str) -> int:
    """Return the class of formats that share an efficiency, as an index into `FORMAT_CLASSES`."""
    return FORMAT_CLASSES.index(dense_format(mode.name, path, storage_bits(mode, variant)))


def surface_codes(identity: Identity) -> dict[str, tuple[int, str]]:
    """Return which fitted surface answers for each kernel, and the origin of what it says.

    Names are those of `System.surfaces`, except that collectives come twice, for ranks that one link domain joins
    and for others; the origin is that of `aicalib.profiles.kernels.code`.
    """
    arch, gpu, quant = identity.architecture, identity.accelerator, identity.quant
    dense = FORMAT_CLASSES[_format_class(quant.gemm, quant.gemm_variant, math_paths(quant, gpu)["gemm"])]
    absorbed = "fp8" if dense in ("fp8", "fp8_block") else "wide"
    cache = "wide" if attended_cache(identity).value.memory >= 2 else "fp8"
    module = f"dsa/{cache}/{'wide' if dense == 'wide' else 'fp8_block'}"
    rule = "kda" if arch.kda_layers else "gdn"
    asked = {
        "gemm": ("gemm", default_backend(identity.engine, identity.engine_version, gpu, "gemm", dense)[1]),
        "gemm_wide": ("gemm", "wide"),
        "quantize": ("quantize", "fp8"),
        "dynamic_scale": (SCALE.name, identity.engine),
        "pre": ("mla_batched", f"pre_{absorbed}"),
        "post": ("mla_batched", f"post_{absorbed}"),
        "sparse_decode": ("sparse_decode", module),
        "sparse_reuse_decode": ("sparse_decode", f"{module}/reuse"),
        "linear_decode": ("linear_decode", rule),
        "linear_prefill": ("linear_prefill", rule),
        "convolution_decode": ("convolution", f"{rule}/decode"),
        "convolution_prefill": ("convolution", f"{rule}/prefill"),
        **chosen_kernels(identity),
        **{
            f"{place}_{call}": (
                "all_reduce",
                all_reduce_variant(graph=call == "graph", fabric=place == "fabric"),
            )
            for place in ("fabric", "host_bus")
            for call in ("graph", "eager")
        },
    }
    return {name: kernels.code(kind, gpu, variant) for name, (kind, variant) in asked.items()}


KERNEL_ORIGINS = ("kernel-fit", "extrapolated", "datasheet")
"""Origins of a kernel's time, the strongest first."""


def _kernel_origin(identity: Identity) -> str:
    """Return the weakest origin among the kernels that carry a model's steps."""
    arch = identity.architecture
    kinds = {
        "attention": arch.full_layers + arch.block_sparse_layers,
        "window": arch.window_layers,
        "latent": arch.mla_layers * (arch.sparse_layers == 0),
        "sparse": arch.sparse_layers,
        "linear": arch.linear_layers + arch.kda_layers + arch.mamba_layers + arch.lightning_layers,
    }
    used = ["gemm", *(f"{name}_decode" for name, layers in kinds.items() if layers)]
    used += ["moe"] if arch.moe_layers else []
    found = surface_codes(identity)
    origins = [found[name][1] for name in used]
    if untimed_cache(identity) or widened_parts(identity):
        origins.append("extrapolated")
    return max(origins, key=KERNEL_ORIGINS.index)


def untimed_cache(identity: Identity) -> bool:
    """Return whether attention reads a cache narrower than any that was timed: kernels of an 8-bit one stand in."""
    return storage_bits(attended_cache(identity)) < NARROWEST_TIMED_BITS


def _finds_scales(identity: Identity) -> bool:
    """Return whether the scales of dense inputs are found while serving, in time that an engine's kernels show."""
    place, _ = kernels.code(SCALE.name, identity.accelerator, identity.engine)
    longest = kernels.surfaces(SCALE.name)[place].max()
    scales = weight_format(identity.quant.gemm, identity.quant.gemm_variant).activations
    return scales in DYNAMIC_SCALES and bool(np.exp(longest) > NEGLIGIBLE)


def numbers_of(identity: Identity) -> dict[str, float]:
    """Return what physics reads of the names of one identity, as numbers."""
    quant, gpu = identity.quant, identity.accelerator
    paths = math_paths(quant, gpu)
    kv_bits = storage_bits(quant.kvcache)
    narrow = "fp8_blackwell" if gpu.capability.startswith("10.") else "fp8"
    whole = weight_format(quant.gemm, quant.gemm_variant).whole_model or quant.gemm.name == "float32"
    padding = expert_padding(identity.engine, gpu, quant.moe)
    attended = storage_bits(attended_cache(identity))
    return {
        "gemm_bits": storage_bits(quant.gemm, quant.gemm_variant),
        "expert_bits": storage_bits(quant.moe, quant.moe_variant),
        "kv_bits": kv_bits,
        "table_bits": storage_bits(quant.gemm, quant.gemm_variant) if whole else 16.0,
        **{f"{field}_peak_flops_s": gpu.peak_flops[path] for field, path in paths.items()},
        "gemm_class": _format_class(quant.gemm, quant.gemm_variant, paths["gemm"]),
        "expert_class": _format_class(quant.moe, quant.moe_variant, paths["expert"]),
        "kv_class": KV_CLASSES.index("wide" if attended >= 16 else narrow),
        "attention_class": KV_CLASSES.index(narrow if paths["attention"] == "fp8" else "wide"),
        "latent_bits": latent_bits(identity.engine, identity.architecture, gpu, quant),
        "hidden_pad": padding.hidden,
        "width_pad": padding.width,
        "window_ratio": WINDOW_POOL_RATIO,
        "one_pool": one_pool(identity.engine, identity.architecture),
        "has_encoder": has_encoder(identity.architecture),
        "masks_window": attention_of(
            identity, softmax_kinds(identity.architecture)[1], "prefill"
        ).masks_window,
        "expert_tile": TILE.get(experts_variant(identity), 1.0),
        "dynamic_scales": paths["gemm"] == "fp8" and _finds_scales(identity),
        "wide_peak_flops_s": gpu.peak_flops[gpu.wide_format],
        "vector_peak_flops_s": gpu.peak_flops.get("fp32", gpu.peak_flops[gpu.wide_format]),
        "bandwidth_bytes_s": gpu.bandwidth_bytes_s,
        "memory_bytes": gpu.memory_bytes,
        "taken_bytes": gpu.taken_bytes,
        "link_bytes_s": np.nan if gpu.link_bytes_s is None else gpu.link_bytes_s,
        "pcie_bytes_s": np.nan if gpu.pcie_bytes_s is None else gpu.pcie_bytes_s,
        "link_gpus": gpu.link_gpus,
        **{SURFACE + name: code for name, (code, _) in surface_codes(identity).items()},
        "is_amd": gpu.vendor == "AMD",
        "is_cpu": gpu.is_cpu,
        "is_a100": gpu.name.startswith("a100"),
        "engine": ENGINES.index(identity.engine),
        "engine_month": identity.engine_month,
        "version": defaults.version_number(identity.engine_version),
        "gpus_together": gpu.gpus_together,
        **widening_numbers(identity),
    }


def without_untimed(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return options of `predict` without the backends that no timings answer for, and of each of these why.

    For starts that exist: what an engine runs there is asked about as what it would run by itself.
    """
    named = {name: options[name] for name in BACKENDS if options.get(name) is not None}
    plain = {name: value for name, value in options.items() if name not in named}
    untimed = {}
    names = ("model", "gpu", "gemm", "kv", "fmha", "moe", "engine", "engine_version")
    for name, backend in named.items():
        try:
            identify(*(plain.get(each) for each in names), **{name: str(backend)})  # type: ignore[arg-type]
        except NotTimed as error:
            untimed[name] = str(error).partition(";")[0]
        except RequestError:  # the question itself will say so
            continue
    return {name: value for name, value in options.items() if name not in untimed}, untimed
