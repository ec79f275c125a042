"""Which kernels an engine runs by default, and which fitted surface answers for them.

`kernels.csv` holds one row a default: engine, first version, generation of the accelerator, kind and format, the
backend that the engine picks, the backend whose timings stand for it (with a format where only that one was timed),
and the source. A row that names the generation or the format goes before one with `*`; of rows alike the newest
that is not newer than the version holds.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from aicalib.engines.defaults import version_number
from aicalib.errors import NotCovered, UnknownName
from aicalib.hardware import Accelerator
from aicalib.physics.kernels.attention import EIGHT_BIT_MATH, MASKING_PREFILL
from aicalib.physics.system import ENGINES
from aicalib.quant.modes import KVCacheQuantMode

ATTENTION_KINDS = ("full", "window", "sinks", "unequal", "wide_head", "latent", "sparse", "linear")
"""Full and sliding-window attention; attention with sinks, with keys and values of unequal width, or in a model with
heads above 256 (each may come with a window); latent (MLA), sparse with an indexer, and linear with a recurrent
state."""


class AttentionKernel(NamedTuple):
    """The attention of a kind of layer.

    Attributes
    ----------
    backend : str
        What the engine calls it.
    variant : str
        Surface of the kind of kernel in `aicalib.physics.kernels`. Sparse modules hold their projections: the caller
        adds "/" and the format of those, and "/reuse" for a layer without an indexer of its own.
    math : str
        Number format of the products, a key of `Accelerator.peak_flops`.
    masks_window : bool
        Whether prefill computes what lies outside of a window and masks it: its window is then infinite.
    """

    backend: str
    variant: str
    math: str
    masks_window: bool


def generation(accelerator: Accelerator) -> str:
    """Return the generation that defaults are listed by: "hopper", "cdna" for AMD, "other" for what has none."""
    if accelerator.vendor == "AMD":
        return "cdna"
    return accelerator.generation or "other"


@cache
def _rows() -> tuple[Mapping[str, str], ...]:
    text = files("aicalib.engines").joinpath("kernels.csv").read_text()
    return tuple(csv.DictReader(text.splitlines()))


@cache
def default_backend(
    engine: str, version: str, accelerator: Accelerator, kind: str, number_format: str
) -> tuple[str, str]:
    """Return the backend of an engine for a kind of kernel, and the backend whose surface answers for it.

    Parameters
    ----------
    engine : str
        One of `ENGINES`.
    version : str
        For example "0.5.9".
    accelerator : Accelerator
    kind : str
        One of `ATTENTION_KINDS`, or "gemm".
    number_format : str
        Class of the cache ("wide", "fp8") or of the weights ("wide", "fp8", "fp8_block", "fp4").

    Raises
    ------
    UnknownName
        For an engine that is not one of `ENGINES`.
    NotCovered
        Where no row answers.
    """
    if engine not in ENGINES:
        raise UnknownName("engine", engine, ENGINES)
    at, here = version_number(version), generation(accelerator)
    found = [
        row
        for row in _rows()
        if row["engine"] == engine
        and row["kind"] == kind
        and row["generation"] in (here, "*")
        and row["format"] in (number_format, "*")
        and version_number(f"{row['since']}.0") <= at
    ]
    if not found:
        raise NotCovered(
            f"no default {kind} kernel of {engine} {version} for {number_format} on {accelerator.name}"
        )
    best = max(
        found,
        key=lambda row: (row["generation"] != "*", row["format"] != "*", version_number(f"{row['since']}.0")),
    )
    return best["backend"], best["surface"]


def attention_kernel(
    engine: str, version: str, accelerator: Accelerator, kind: str, kv_mode: KVCacheQuantMode
) -> AttentionKernel:
    """Return what one kind of attention layer runs on.

    Parameters
    ----------
    engine : str
        One of `ENGINES`.
    version : str
    accelerator : Accelerator
    kind : str
        One of `ATTENTION_KINDS`; a windowed layer of "sinks", "unequal" or "wide_head" adds "+window".
    kv_mode : KVCacheQuantMode
        Storage of the cache. Caches below 16 bit take the surfaces of FP8, with their own bits.
    """
    plain, _, window = kind.partition("+")
    wide = accelerator.wide_format
    if plain == "linear":
        return AttentionKernel("triton", "gdn", wide, False)
    number_format = "wide" if kv_mode.value.memory >= 2 else "fp8"
    backend, surface = default_backend(engine, version, accelerator, plain, number_format)
    source, _, timed = surface.partition("/")
    narrow = number_format == "fp8" and source in EIGHT_BIT_MATH and "fp8" in accelerator.peak_flops
    variant = f"{source}/{timed or number_format}"
    if plain == "window" or window:
        variant += "/window"
    return AttentionKernel(backend, variant, "fp8" if narrow else wide, source in MASKING_PREFILL)
