"""Which kernels an engine runs, and which fitted surface answers for them.

`kernels.csv` holds one row a rule: engine, versions, generations of the accelerator, kinds and formats of the
kernel, the backend, the surface whose timings stand for it (with a format where only that one was timed), and the
source. A row without a surface answers by that of its class. Rows that name a backend which runs only when it is
asked for by name are `named`, and those of them that were timed have a surface; backend "none" is a refusal, and its
source the reason. Of the rows that fit, one that
names the mode, the generation or the format goes before one that does not; of rows alike the newest that is not
newer than the version holds. `aicalib.engines.registry` reads all of them; `default_backend`, `named_backend` and
`timed_backends` those with a surface.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from aicalib.engines.defaults import version_number
from aicalib.engines.versions import VersionRange
from aicalib.errors import NotCovered, NotTimed, UnknownName, fold
from aicalib.hardware import Accelerator
from aicalib.hardware.accelerator import CPU
from aicalib.models import Architecture
from aicalib.physics.kernels.attention import EIGHT_BIT_MATH, MASKING_PREFILL
from aicalib.physics.system import ENGINES
from aicalib.quant.modes import KVCacheQuantMode

ATTENTION_KINDS = ("full", "window", "sinks", "unequal", "wide_head", "latent", "sparse", "linear")
"""Full and sliding-window attention; attention with sinks, with keys and values of unequal width, or in a model with
heads above 256 (each may come with a window); latent (MLA), sparse with an indexer, and linear with a recurrent
state."""

WIDEST_HEAD = 256
"""Widest head that the usual attention kernels take."""


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


OTHER_GENERATIONS = {"7.5": "turing", "7.0": "volta", "6.0": "pascal"}
"""NVIDIA's generations without timings."""

AMD_TARGETS = (
    ("gfx94", "cdna3"),
    ("gfx95", "cdna4"),
    ("gfx90a", "cdna2"),
    ("gfx11", "rdna3"),
    ("gfx12", "rdna4"),
)
"""Beginnings of AMD's compiler targets, and the generation."""

VENDORS = {
    "Huawei": "ascend",
    "Cambricon": "mlu",
    "Hygon": "dcu",
    "Kunlun": "kunlun",
    "Kunlunxin": "kunlun",
    "Intel": "gaudi",
    "Google": "tpu",
    CPU: "cpu",
}
"""Vendors with one word for all of their accelerators."""

ANY = "*"

REFUSED = "none"
"""Backend of a row that refuses."""

MODE = "mode="
"""Begins a format that is a mode, with or without its variant, and not a class."""


class Rule(NamedTuple):
    """One row of `kernels.csv`; columns as there, with lists as sets and since and until as a range."""

    engine: str
    versions: VersionRange
    generations: frozenset[str]
    kinds: tuple[str, ...]
    formats: frozenset[str]
    backend: str
    priority: str
    named: bool
    needs: str
    surface: str
    source: str


def generations(accelerator: Accelerator) -> tuple[str, ...]:
    """Return the words that rules list an accelerator by, the narrowest first: ("hopper", "nvidia")."""
    if accelerator.vendor == "AMD":
        found = [word for target, word in AMD_TARGETS if accelerator.capability.startswith(target)]
        return (*found, "amd")
    if accelerator.vendor == "NVIDIA":
        word = accelerator.generation or OTHER_GENERATIONS.get(accelerator.capability)
        return (word, "nvidia") if word else ("nvidia",)
    return (VENDORS.get(accelerator.vendor, "other"),)


def softmax_kind(arch: Architecture) -> str:
    """Return the kind, of `ATTENTION_KINDS`, of a model's softmax layers that see everything.

    Its layers with a window are of that kind with a window, and "window" where it is "full".
    """
    if arch.attention_sinks:
        return "sinks"
    if max(arch.head_dim, arch.window_head_dim) > WIDEST_HEAD:
        return "wide_head"
    return "unequal" if arch.head_dim != arch.v_head_dim and arch.full_layers else "full"


@cache
def rules() -> tuple[Rule, ...]:
    """Return all rows of `kernels.csv`."""
    text = files("aicalib.engines").joinpath("kernels.csv").read_text()
    return tuple(
        Rule(
            engine=row["engine"],
            versions=VersionRange.of(row),
            generations=frozenset(row["generation"].split()),
            kinds=tuple(row["kind"].split()),
            formats=frozenset(row["format"].split()),
            backend=row["backend"],
            priority=row["priority"],
            named=row["named"] == "yes",
            needs=row["needs"],
            surface=row["surface"],
            source=row["source"],
        )
        for row in csv.DictReader(text.splitlines())
    )


@cache
def rules_of(engine: str, kind: str) -> tuple[Rule, ...]:
    """Return the rules of an engine for a kind of kernel."""
    return tuple(rule for rule in rules() if rule.engine == engine and kind in rule.kinds)


def order(rule: Rule, words: tuple[str, ...], formats: tuple[str, ...]) -> tuple[float, ...]:
    """Return how near a rule is to a question, larger is nearer: mode, generation, class, version.

    Parameters
    ----------
    rule : Rule
    words : tuple of str
        `generations` of the accelerator, the narrowest first.
    formats : tuple of str
        What the format is listed by, the narrowest first.
    """
    narrowest = next(place for place, form in enumerate((*formats, ANY)) if form in rule.formats)
    nearest = next((place for place, word in enumerate(words) if word in rule.generations), len(words))
    by_mode = narrowest < len(formats) and formats[narrowest].startswith(MODE)
    return (-narrowest if by_mode else -len(formats), -nearest, -narrowest, rule.versions.since)


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
    found = [rule for rule in _timed(engine, version, accelerator, kind, (number_format,)) if not rule.named]
    if not found:
        raise NotCovered(
            f"no default {kind} kernel of {engine} {version} for {number_format} on {accelerator.name}"
        )
    best = max(found, key=lambda rule: order(rule, generations(accelerator), (number_format,)))
    return best.backend, best.surface


def _timed(
    engine: str, version: str, accelerator: Accelerator, kind: str, formats: tuple[str, ...]
) -> list[Rule]:
    """Return the rules with a surface that fit."""
    at, words = version_number(version), generations(accelerator)
    return [
        rule
        for rule in rules_of(engine, kind)
        if rule.surface
        and rule.versions.includes(at)
        and not rule.generations.isdisjoint((*words, ANY))
        and not rule.formats.isdisjoint((*formats, ANY))
    ]


@cache
def timed_backends(
    engine: str, version: str, accelerator: Accelerator, kind: str, formats: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the backends that can be named for a kind of kernel and have a surface: the engine's own first.

    Parameters
    ----------
    engine, version, accelerator, kind
        As for `default_backend`.
    formats : tuple of str
        What the format is listed by, the narrowest first and its class last.
    """
    own, _ = default_backend(engine, version, accelerator, kind, formats[-1])
    named = sorted(
        {rule.backend for rule in _timed(engine, version, accelerator, kind, formats) if rule.named}
    )
    return (own, *(name for name in named if name != own))


@cache
def named_backend(
    engine: str, version: str, accelerator: Accelerator, kind: str, formats: tuple[str, ...], backend: str
) -> tuple[str, str]:
    """Return a backend that is asked for by name, and the backend whose surface answers for it.

    The engine's own choice answers by its own surface, however it is called for.

    Parameters
    ----------
    engine, version, accelerator, kind, formats
        As for `timed_backends`.
    backend : str
        Case and signs of the name do not count.

    Raises
    ------
    NotTimed
        Where no row with a surface names it.
    """
    own = default_backend(engine, version, accelerator, kind, formats[-1])
    if fold(backend) == fold(own[0]):
        return own
    found = [
        rule
        for rule in _timed(engine, version, accelerator, kind, formats)
        if rule.named and fold(rule.backend) == fold(backend)
    ]
    if not found:
        raise NotTimed(
            f"{backend} of {engine} {version} on {accelerator.name}: no timings of its {kind} kernels for "
            f"{formats[0].removeprefix(MODE)}",
            timed_backends(engine, version, accelerator, kind, formats),
        )
    best = max(found, key=lambda rule: order(rule, generations(accelerator), formats))
    return best.backend, best.surface


def attention_kernel(
    engine: str,
    version: str,
    accelerator: Accelerator,
    kind: str,
    kv_mode: KVCacheQuantMode,
    backend: str | None = None,
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
    backend : str, optional
        A backend by name; the engine's own choice if not given.

    Raises
    ------
    NotTimed
        For a backend without timings of its own.
    """
    plain, _, window = kind.partition("+")
    wide = accelerator.wide_format
    if plain == "linear":
        return AttentionKernel("triton", "gdn", wide, False)
    number_format = "wide" if kv_mode.value.memory >= 2 else "fp8"
    where = (engine, version, accelerator, plain)
    if backend is None:
        name, surface = default_backend(*where, number_format)
    else:
        name, surface = named_backend(*where, (MODE + kv_mode.name, number_format), backend)
    source, _, timed = surface.partition("/")
    narrow = number_format == "fp8" and source in EIGHT_BIT_MATH and "fp8" in accelerator.peak_flops
    variant = f"{source}/{timed or number_format}"
    if plain == "window" or window:
        variant += "/window"
    return AttentionKernel(name, variant, "fp8" if narrow else wide, source in MASKING_PREFILL)
