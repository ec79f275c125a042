"""What a mode truly stores, scales included, and what an accelerator computes it with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import inf
from typing import Final

from aicalib.errors import InvalidValue, UnknownName, fold
from aicalib.quant.modes import (
    ComputeMode,
    Field,
    FMHAQuantMode,
    GEMMQuantMode,
    KVCacheQuantMode,
    StorageMode,
    WeightMode,
)
from aicalib.quant.tables import (
    MATH_BITS,
    RATES_WORD,
    ActivationScaling,
    PathStep,
    WeightFormat,
    format_tables,
)

# DeepSeek scales groups of 128 in 32 bits; OCP MX has an 8-bit exponent per 32, NVFP4 an E4M3 scale per 16.
_ACTIVATION_SCALE_BITS: Final = {
    ActivationScaling.PER_GROUP_128_DYNAMIC: 32 / 128,
    ActivationScaling.PER_GROUP_32_DYNAMIC: 8 / 32,
    ActivationScaling.PER_GROUP_16_DYNAMIC: 8 / 16,
}


def variants(mode: WeightMode) -> list[str]:
    """List the variants of a mode, possibly none."""
    return [name for name in format_tables().weights[_field(mode), mode.name] if name is not None]


@lru_cache(maxsize=4096)
def weight_format(mode: WeightMode, variant: str | None = None) -> WeightFormat:
    """Look up how a mode stores and computes its weights.

    Parameters
    ----------
    mode : GEMMQuantMode or MoEQuantMode
        The mode.
    variant : str, optional
        One of ``variants(mode)``; case and separators do not count. Default: the mode's usual layout.

    Raises
    ------
    UnknownName
        If none of the mode's variants has this name.
    InvalidValue
        If the mode has no variants.
    """
    rows = format_tables().weights[_field(mode), mode.name]
    if variant is None:
        return rows[None]
    for name, row in rows.items():
        if name is not None and fold(name) == fold(variant):
            return row
    if not variants(mode):
        raise InvalidValue(f"{mode.name} has no variants, so '{variant}' says nothing", [mode.name])
    raise UnknownName(f"variant of {mode.name}", variant, variants(mode))


@lru_cache(maxsize=4096)
def storage_bits(mode: StorageMode, variant: str | None = None, *, row_elements: float = inf) -> float:
    """Return what one weight, or one value of the KV cache, takes with its scales and zero points.

    Parameters
    ----------
    mode : GEMMQuantMode, MoEQuantMode or KVCacheQuantMode
        The mode.
    variant : str, optional
        The layout among those of a weight mode.
    row_elements : float, optional
        Length of a weight row [element], to count scales stored once per row.

    Returns
    -------
    float
        Storage [bit/element].

    Raises
    ------
    UnknownName
        If the mode has no such variant.

    Examples
    --------
    >>> storage_bits(GEMMQuantMode.int4_wo, "awq")
    4.15625
    """
    if isinstance(mode, KVCacheQuantMode):
        return format_tables().kvcache[mode.name].bits()
    return weight_format(mode, variant).storage.bits(row_elements)


@lru_cache(maxsize=4096)
def compute_path(mode: ComputeMode, vendor: str, capability: str, variant: str | None = None) -> str:
    """Return the number format that an accelerator multiplies in.

    Parameters
    ----------
    mode : GEMMQuantMode, MoEQuantMode or FMHAQuantMode
        The mode.
    vendor : str
        ``NVIDIA``, ``AMD`` or another vendor; case does not count.
    capability : str
        Compute capability (``9.0``) for NVIDIA, target (``gfx942``) for AMD, else the accelerator's own word.
    variant : str, optional
        The layout among those of a weight mode.

    Returns
    -------
    str
        One of ``MATH_BITS``.

    Raises
    ------
    InvalidValue
        If the accelerator has nothing to compute the mode with; names what would work.
    UnknownName
        If the mode has no such variant.

    Examples
    --------
    >>> compute_path(GEMMQuantMode.fp8, "NVIDIA", "9.0"), compute_path(GEMMQuantMode.fp8, "NVIDIA", "8.0")
    ('fp8', 'bf16')
    """
    steps = _steps(mode, variant)
    math = _first_met(steps, vendor, capability)
    if math is None:
        if capability.startswith(RATES_WORD):
            wanted = [f"a rate for {form}" for form in dict.fromkeys(step.math for step in steps)]
        else:
            wanted = [need for step in steps if (need := step.needs(vendor))]
        reason = f"it needs {' or '.join(wanted)}" if wanted else f"no {vendor} accelerator has what it needs"
        working = _nearest_that_work(mode, vendor, capability, variant)
        hint = f"; {', '.join(working)} would work" if working else ""
        raise InvalidValue(
            f"{f'{vendor} {capability}'.strip()} cannot compute {_label(mode, variant)}: {reason}{hint}",
            working,
        )
    return math


def is_weight_only(mode: WeightMode, vendor: str, capability: str, variant: str | None = None) -> bool:
    """Tell whether only the weights are quantized: narrow in memory, unpacked for a 16 or 32-bit multiply.

    Raises
    ------
    InvalidValue, UnknownName
        As :func:`compute_path`.
    """
    math_bits = MATH_BITS[compute_path(mode, vendor, capability, variant)]
    return math_bits >= 16 and weight_format(mode, variant).storage.payload_bits < math_bits


def activation_bits(mode: WeightMode, vendor: str, capability: str, variant: str | None = None) -> float:
    """Return what one input of the multiply takes in memory, scales of its group included.

    One scale per tensor or per token is left out.

    Returns
    -------
    float
        Storage [bit/element]: the width of the multiply where inputs are quantized to it, plus the group's
        scale (32 bit per 128, 8 per 32 or 8 per 16).

    Raises
    ------
    InvalidValue, UnknownName
        As :func:`compute_path`.
    """
    math_bits = MATH_BITS[compute_path(mode, vendor, capability, variant)]
    if math_bits >= 16:
        return float(math_bits)
    return math_bits + _ACTIVATION_SCALE_BITS.get(weight_format(mode, variant).activations, 0.0)


def _field(mode: WeightMode) -> Field:
    return "gemm" if isinstance(mode, GEMMQuantMode) else "moe"


def _label(mode: ComputeMode, variant: str | None) -> str:
    return mode.name if variant is None else f"{mode.name}:{variant}"


def _steps(mode: ComputeMode, variant: str | None) -> tuple[PathStep, ...]:
    if isinstance(mode, FMHAQuantMode):
        return format_tables().fmha[mode.name].path
    return weight_format(mode, variant).path


def _first_met(steps: Sequence[PathStep], vendor: str, capability: str) -> str | None:
    return next((step.math for step in steps if step.met_by(vendor, capability)), None)


def _nearest_that_work(mode: ComputeMode, vendor: str, capability: str, variant: str | None) -> list[str]:
    """List up to four modes that the accelerator computes, closest in width first."""

    def width(candidate: ComputeMode, layout: str | None = None) -> float:
        if isinstance(candidate, FMHAQuantMode):
            return MATH_BITS[_steps(candidate, None)[0].math]
        return storage_bits(candidate, layout)

    wanted = width(mode, variant)
    working = [other for other in type(mode) if _first_met(_steps(other, None), vendor, capability)]
    return [other.name for other in sorted(working, key=lambda other: abs(width(other) - wanted))[:4]]
