"""What an identity's kernels do with packed data: `aicalib.engines.widening` for its weights, experts and cache."""

from __future__ import annotations

from typing import Any

from aicalib.deployment import Identity
from aicalib.engines.moe_kernels import dense_format, expert_format
from aicalib.engines.widening import DIRECT, Widening, widening
from aicalib.quant import (
    GEMMQuantMode,
    KVCacheQuantMode,
    MoEQuantMode,
    ParsedMode,
    compute_path,
    storage_bits,
)


def _asked(identity: Identity, kind: str, parsed: ParsedMode[Any], listed: str) -> Widening:
    return widening(identity.engine, identity.engine_version, identity.accelerator, kind, parsed, listed)


def _math(identity: Identity, mode: GEMMQuantMode | MoEQuantMode, variant: str | None) -> str:
    gpu = identity.accelerator
    return compute_path(mode, gpu.vendor, gpu.capability, variant)


def gemm_widening(identity: Identity) -> Widening:
    """Return what the kernel of dense weights does with them."""
    mode, variant = identity.quant.gemm, identity.quant.gemm_variant
    listed = dense_format(mode.name, _math(identity, mode, variant), storage_bits(mode, variant))
    return _asked(identity, "gemm", ParsedMode(mode, variant), listed)


def expert_widening(identity: Identity) -> Widening:
    """Return what the kernel of routed experts does with them."""
    mode, variant = identity.quant.moe, identity.quant.moe_variant
    listed = expert_format(mode.name, _math(identity, mode, variant), storage_bits(mode, variant))
    return _asked(identity, "moe", ParsedMode(mode, variant), listed)


def cache_widening(identity: Identity) -> Widening:
    """Return what is done with the cache before attention reads it."""
    mode = identity.quant.kvcache
    return _asked(identity, "kv_dequantize", ParsedMode(mode), "wide" if mode.value.memory >= 2 else "fp8")


def attended_cache(identity: Identity) -> KVCacheQuantMode:
    """Return the format in which attention reads the cache: 16 bit where the engine writes it out first."""
    if not cache_widening(identity).widens:
        return identity.quant.kvcache
    return (
        KVCacheQuantMode.bfloat16 if identity.accelerator.wide_format == "bf16" else KVCacheQuantMode.float16
    )


def expert_math_format(identity: Identity, packed: str) -> str:
    """Return the format whose grouped kernel multiplies the experts: 16 bit where they are written out first."""
    return "wide" if expert_widening(identity).widens else packed


def widened_parts(identity: Identity) -> list[str]:
    """Return what no table times since no kernel multiplies it as it is stored: "gemm", "expert", "cache"."""
    found = {"gemm": gemm_widening(identity), "cache": cache_widening(identity)}
    if identity.architecture.moe_layers:
        found["expert"] = expert_widening(identity)
    return [part for part, what in found.items() if what != DIRECT]


DOT_PRODUCTS = "int8 dot"
"""Math of packed weights on the general-purpose cores, for people: no accelerator's datasheet has a rate for it."""


def shown_math(identity: Identity) -> dict[str, str]:
    """Return the math of dense weights ("gemm") and experts ("expert") where it is not that of their format."""
    found = {"gemm": gemm_widening(identity), "expert": expert_widening(identity)}
    return {part: DOT_PRODUCTS for part, what in found.items() if what.fp32_rates is not None}


def widening_numbers(identity: Identity) -> dict[str, float]:
    """Return what physics reads of all this, by the names of `aicalib.physics.system.System`.

    The peak of a kind of weights is there where it is not that of their math: 8-bit dot products of the
    general-purpose cores.
    """
    dense, experts = gemm_widening(identity), expert_widening(identity)
    fp32 = identity.accelerator.peak_flops.get("fp32")
    peaks = {
        f"{part}_peak_flops_s": what.fp32_rates * fp32
        for part, what in (("gemm", dense), ("expert", experts))
        if what.fp32_rates is not None and fp32 is not None
    }
    return {
        "direct_rows": dense.rows,
        "wide_direct_rows": dense.wide_rows,
        "direct_columns": dense.columns,
        "expert_widens": experts.widens,
        "cache_widens": cache_widening(identity).widens,
        **peaks,
    }
