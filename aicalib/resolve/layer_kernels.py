"""Which kernels the layers of an identity run on: those of the backends that it names, else the engine's own."""

from __future__ import annotations

from typing import Any

from aicalib.deployment import Identity
from aicalib.engines.kernels import (
    MODE,
    AttentionKernel,
    attention_kernel,
    default_backend,
    named_backend,
    softmax_kind,
)
from aicalib.engines.moe_kernels import expert_format
from aicalib.errors import InvalidValue
from aicalib.hardware import Accelerator
from aicalib.models import Architecture
from aicalib.quant import ComputeMode, QuantConfig, WeightMode, compute_path, storage_bits
from aicalib.resolve.widened import attended_cache, expert_math_format

PHASES = ("prefill", "decode")

WINDOW = "/window"
"""Ends the variant of an attention kernel that skips what lies outside of a window."""


def math_paths(quant: QuantConfig, accelerator: Accelerator) -> dict[str, str]:
    """Return the math in which dense weights, experts and attention multiply on an accelerator.

    Raises
    ------
    InvalidValue
        If a mode does not run there, or the accelerator has no rate for its math.
    """
    asked: dict[str, tuple[WeightMode | ComputeMode, str | None]] = {
        "gemm": (quant.gemm, quant.gemm_variant),
        "expert": (quant.moe, quant.moe_variant),
        "attention": (quant.fmha, None),
    }
    paths = {}
    for part, (mode, variant) in asked.items():
        paths[part] = compute_path(mode, accelerator.vendor, accelerator.capability, variant)
        if paths[part] not in accelerator.peak_flops:
            raise InvalidValue(
                f"{part} {mode.name} multiplies in {paths[part]}, for which {accelerator.name} has no rate; it has "
                f"{', '.join(sorted(accelerator.peak_flops))}",
                sorted(accelerator.peak_flops),
            )
    return paths


def softmax_kinds(arch: Architecture) -> tuple[str, str]:
    """Return the kinds of attention, as default kernels are listed, of layers that see everything and of windows."""
    kind = softmax_kind(arch)
    return kind, "window" if kind == "full" else f"{kind}+window"


def attention_kinds(arch: Architecture) -> tuple[str, ...]:
    """Return the kinds of attention that a model has, but for those that keep a state."""
    full, window = softmax_kinds(arch)
    layers = {
        full: arch.full_layers + arch.block_sparse_layers,
        window: arch.window_layers,
        "latent": arch.mla_layers * (arch.sparse_layers == 0),
        "sparse": arch.sparse_layers,
    }
    return tuple(kind for kind, count in layers.items() if count)


def attention_of(identity: Identity, kind: str, phase: str) -> AttentionKernel:
    """Return what layers of a kind run on in a phase: the named backend where the model has such layers.

    Raises
    ------
    NotTimed
        For a named backend without timings.
    """
    named = getattr(identity.backends, phase)
    if named is not None and kind not in attention_kinds(identity.architecture):
        named = None
    return attention_kernel(
        identity.engine, identity.engine_version, identity.accelerator, kind, attended_cache(identity), named
    )


def expert_class(identity: Identity) -> str:
    """Return the format class by which rules list the kernel that multiplies the experts."""
    quant = identity.quant
    bits = storage_bits(quant.moe, quant.moe_variant)
    packed = expert_format(quant.moe.name, math_paths(quant, identity.accelerator)["expert"], bits)
    return expert_math_format(identity, packed)


def experts_variant(identity: Identity) -> str:
    """Return the variant of the grouped kernel that stands for the named backend, or for the engine's default one.

    Raises
    ------
    NotTimed
        For a named backend without timings.
    """
    form, named = expert_class(identity), identity.backends.moe
    where: tuple[Any, ...] = (identity.engine, identity.engine_version, identity.accelerator, "moe")
    if named is None:
        return default_backend(*where, form)[1]
    return named_backend(*where, (MODE + identity.quant.moe.name, form), named)[1]


def chosen_kernels(identity: Identity) -> dict[str, tuple[str, str]]:
    """Return kind and variant of the kernels that a backend decides, by the names of `System.surfaces`.

    Latent attention of a prompt runs on the kernels of layers that see everything.

    Raises
    ------
    NotTimed
        For a named backend without timings.
    """
    full, window = softmax_kinds(identity.architecture)
    prompt = attention_of(identity, window, "prefill")
    return {
        "attention_decode": ("decode_attention", attention_of(identity, full, "decode").variant),
        "attention_prefill": ("prefill_attention", attention_of(identity, full, "prefill").variant),
        "window_decode": ("decode_attention", attention_of(identity, window, "decode").variant),
        "window_prefill": (
            "prefill_attention",
            prompt.variant.removesuffix(WINDOW) if prompt.masks_window else prompt.variant,
        ),
        "latent_decode": ("latent_decode", attention_of(identity, "latent", "decode").variant),
        "moe": ("moe", experts_variant(identity)),
    }
