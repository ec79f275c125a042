"""Which kernel runs a format: its name, where it lives, what it multiplies in, and how predict times it.

Whether the engine runs on the accelerator and has the format there is answered as for `launch`
(`aicalib.engines.loading`). Rules of `kernels.csv` then choose the backend that takes the operator, and
`kernel_names.csv` says what that backend calls. Nothing falls back by itself.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final, NamedTuple

from aicalib.engines.defaults import version_number
from aicalib.engines.kernel_gates import (
    OPERATORS,
    PRIORITIES,
    WEIGHTS,
    Asked,
    choose,
    hold,
    hold_format,
)
from aicalib.engines.kernels import ANY, MODE, attention_kernel, default_backend, named_backend
from aicalib.engines.moe_kernels import dense_format, expert_format
from aicalib.engines.tables import page_tokens
from aicalib.engines.versions import VersionRange
from aicalib.errors import InvalidValue, NotCovered, NotTimed, RequestError, UnknownName
from aicalib.hardware import Accelerator
from aicalib.physics.system import ENGINES
from aicalib.quant import (
    MATH_BITS,
    MODES,
    GEMMQuantMode,
    MoEQuantMode,
    ParsedMode,
    compute_path,
    parse_mode,
    storage_bits,
    variants,
    weight_format,
)

__all__ = ["FALLBACK", "OPERATORS", "PRIORITIES", "Kernel", "kernel_for"]

FALLBACK: Final = "fallback_fp16"
"""The only fallback: the 16-bit kernel, for who asks for it by this name."""


MODELS: Final = {"latent": "mla", "sparse": "sparse"} | dict.fromkeys(
    ("full", "window", "sinks", "unequal", "wide_head"), "mha"
)
"""Kinds of attention as rules name them -> as `attention.csv` does; the others keep a state and no pages."""


class Kernel(NamedTuple):
    """What runs an operator.

    Attributes
    ----------
    operator, format : str
        What was asked for, the format as `aicalib.quant.parse_mode` spells it.
    backend : str
        What the engine calls the family, as its flags do where it has one.
    name : str
        Function or class.
    file : str
        "repository@version:path" or "package@version:path".
    path : str
        Bits of the operands: "w8a8", "w4a16"; "q8kv8" for attention, or "kv8" where the math of a backend is not
        stated; "16to8" for a cast.
    efficiency : tuple of str or None
        Kind of kernel and variant by which the cost model times it (`aicalib.profiles.kernels`); None where it has no
        time of its own there.
    page_tokens : int or None
        Tokens of a page of the cache that an attention kernel takes by itself.
    notes : tuple of str
    source : str
        Where it says that the engine takes this one.
    """

    operator: str
    format: str
    backend: str
    name: str
    file: str
    path: str
    efficiency: tuple[str, str] | None
    page_tokens: int | None
    notes: tuple[str, ...]
    source: str

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON, the efficiency key as one text."""
        found = self._asdict()
        found["efficiency"] = ":".join(self.efficiency) if self.efficiency else None
        found["notes"] = list(self.notes)
        return found


def kernel_for(
    format: str,
    operator: str,
    engine: str,
    version: str,
    accelerator: Accelerator,
    backend: str | None = None,
    fallback: str | None = None,
    priority: str = "throughput",
    stack: Mapping[str, str] | None = None,
) -> Kernel:
    """Return the kernel that runs an operator in a format.

    Parameters
    ----------
    format : str
        A mode, with or without a variant, of the field that the operator takes (`OPERATORS`): weights for "gemm",
        "moe" and "activation_quantize", the cache for all others.
    operator : str
        One of `OPERATORS`.
    engine, version : str
    accelerator : Accelerator
    backend : str, optional
        A backend by name, as a flag of the engine would; by default the engine's own choice.
    fallback : str, optional
        `FALLBACK` to take the 16-bit kernel where there is none in the format. Never taken unasked.
    priority : str
        One of `PRIORITIES`.
    stack : mapping of str to str, optional
        Versions of the vendor's software by name, for example {"CANN": "7.1"}. What is not given is not checked,
        and noted.

    Raises
    ------
    UnknownName
        For an operator, engine, format or backend that no table holds.
    InvalidValue
        For a fallback or a priority that does not exist.
    NotCovered
        Where there is no kernel, with the reason; the alternatives are the nearest formats that have one.
    """
    if operator not in OPERATORS:
        raise UnknownName("operator", operator, OPERATORS)
    if engine not in ENGINES:
        raise UnknownName("engine", engine, ENGINES)
    if fallback not in (None, FALLBACK):
        raise InvalidValue(f"fallback '{fallback}': the only one is {FALLBACK}", [FALLBACK])
    if priority not in PRIORITIES:
        raise InvalidValue(f"priority '{priority}': kernels differ by {' and '.join(PRIORITIES)}", PRIORITIES)
    parsed = parse_mode(OPERATORS[operator][0], format)
    if parsed is None:
        raise InvalidValue(f"format '{format}' is resolved by a deployment; name a mode here", ["bfloat16"])
    asked = Asked(
        operator,
        parsed,
        engine,
        version,
        accelerator,
        backend,
        priority,
        tuple(sorted((stack or {}).items())),
    )
    try:
        return _kernel(asked)
    except NotCovered as error:
        if fallback is not None:
            plain = parse_mode(OPERATORS[operator][0], _sixteen_bit(accelerator))
            assert plain is not None
            found = _kernel(asked._replace(parsed=plain, backend=None))
            return found._replace(notes=(f"{FALLBACK} in place of {parsed.spelled()}: {error}", *found.notes))
        near = _nearest(asked)
        hint = f"; {', '.join(near)} would work" if near else ""
        raise NotCovered(f"{operator} in {parsed.spelled()} by {asked.label}: {error}{hint}", near) from error


def _sixteen_bit(accelerator: Accelerator) -> str:
    return {"bf16": "bfloat16", "fp16": "float16"}[accelerator.wide_format]


@cache
def _kernel(asked: Asked) -> Kernel:
    hold_format(asked)
    notes: list[str] = []
    if asked.operator in WEIGHTS:
        math, formats = _weights(asked)
    else:
        wide = asked.parsed.mode.value.memory >= 2
        math, formats = "", (*_modes(asked.parsed), "wide" if wide else "fp8")
        notes += hold(asked, choose(asked, "kv_quantize", formats, None))
    rule = choose(asked, asked.kind, formats, asked.backend)
    notes += hold(asked, rule)
    efficiency, path = _timing(asked, rule.backend, math, formats)
    name = _name(asked, rule.backend, formats)
    if name["note"]:
        notes.append(name["note"])
    page = _page(asked, rule.backend)
    return Kernel(
        asked.operator, asked.parsed.spelled(), rule.backend, name["kernel"], name["file"], path, efficiency, page,
        tuple(dict.fromkeys(notes)), rule.source,
    )  # fmt: skip


def _page(asked: Asked, backend: str) -> int | None:
    """Return the tokens of a page of the cache; None for what reads no pages, and where a port decides."""
    model = MODELS.get(asked.kind)
    gpu = asked.accelerator
    if model is None or gpu.vendor not in ("NVIDIA", "AMD"):
        return None
    return page_tokens(asked.engine, backend, model, gpu.capability)


def _modes(parsed: ParsedMode[Any]) -> tuple[str, ...]:
    names = [parsed.mode.name] if parsed.variant is None else [parsed.spelled(), parsed.mode.name]
    return tuple(MODE + name for name in names)


def _weights(asked: Asked) -> tuple[str, tuple[str, ...]]:
    """Return the math that weights are multiplied in, and what they are listed by."""
    mode, variant = asked.parsed
    try:
        math = compute_path(mode, asked.accelerator.vendor, asked.accelerator.capability, variant)
    except InvalidValue as error:
        raise NotCovered(str(error).partition(";")[0]) from error
    bits = storage_bits(mode, variant)
    listed = (expert_format if asked.operator == "moe" else dense_format)(mode.name, math, bits)
    return math, (*_modes(asked.parsed), listed)


def _timing(
    asked: Asked, backend: str, math: str, formats: tuple[str, ...]
) -> tuple[tuple[str, str] | None, str]:
    """Return the cost model's key, and the bits of the operands.

    A backend that is asked for by name and was not timed has no key, and what its attention multiplies in is not
    stated: the path is then that of the cache alone.
    """
    engine, version, gpu = asked.engine, asked.version, asked.accelerator
    mode = asked.parsed.mode
    if math:
        payload = weight_format(mode, asked.parsed.variant).storage.payload_bits
        if asked.operator == "activation_quantize":
            return ("quantize", "fp8"), f"16to{MATH_BITS[math]}"
        path = f"w{payload:.3g}a{MATH_BITS[math]}"
        where = (engine, version, gpu, asked.kind)
        if asked.backend is None:
            return (asked.kind, default_backend(*where, formats[-1])[1]), path
        try:
            return (asked.kind, named_backend(*where, formats, backend)[1]), path
        except NotTimed:
            return None, path
    stored = f"{asked.parsed.mode.value.memory * 8:g}"
    if asked.kind in ("kv_quantize", "kv_dequantize"):
        return None, f"16to{stored}" if asked.kind == "kv_quantize" else f"{stored}to16"
    try:
        kernel = attention_kernel(engine, version, gpu, asked.kind, mode, asked.backend and backend)
    except NotTimed:
        return None, f"kv{stored}"
    phase = asked.operator.rpartition("_")[2]
    path = f"q{MATH_BITS[kernel.math]}kv{stored}" if backend == kernel.backend else f"kv{stored}"
    if asked.kind == "linear":
        return (f"linear_{phase}", kernel.variant), f"q{MATH_BITS[kernel.math]}"
    if asked.kind == "sparse":
        return (("sparse_decode", f"{kernel.variant}/wide") if phase == "decode" else None), path
    if phase == "decode":
        return ("latent_decode" if asked.kind == "latent" else "decode_attention", kernel.variant), path
    if asked.kind == "latent":
        kernel = attention_kernel(engine, version, gpu, "full", mode)
    variant = kernel.variant.removesuffix("/window") if kernel.masks_window else kernel.variant
    return ("prefill_attention", variant), path


@cache
def _names(engine: str, kind: str, backend: str) -> tuple[Mapping[str, str], ...]:
    text = files("aicalib.engines").joinpath("kernel_names.csv").read_text()
    return tuple(
        row
        for row in csv.DictReader(text.splitlines())
        if row["engine"] == engine and kind in row["kind"].split() and row["backend"] == backend
    )


def _name(asked: Asked, backend: str, formats: tuple[str, ...]) -> Mapping[str, str]:
    """Return what a backend calls, a row of `kernel_names.csv`."""
    at = version_number(asked.version)
    wanted = (asked.operator.rpartition("_")[2], asked.priority, ANY)
    found = []
    for row in _names(asked.engine, asked.kind, backend):
        listed = set(row["format"].split())
        place = next((each for each, form in enumerate((*formats, ANY)) if form in listed), None)
        versions = VersionRange.of(row)
        if place is not None and row["phase"] in wanted and versions.includes(at):
            found.append((-place, row["phase"] != ANY, versions.since, row))
    if not found:
        raise NotCovered(f"what {backend} calls in {asked.engine} {asked.version} is not known")
    return max(found, key=lambda each: each[:3])[3]


def _width(parsed: ParsedMode[Any]) -> float:
    return storage_bits(parsed.mode, parsed.variant)


def _nearest(asked: Asked) -> list[str]:
    """Return up to four formats that the operator has there, closest in width first."""
    wanted = _width(asked.parsed)
    field = OPERATORS[asked.operator][0]
    first: ParsedMode[Any] = ParsedMode(next(iter(MODES[field])), None)

    def distance(name: str) -> float:
        parsed = parse_mode(field, name)
        assert parsed is not None
        return abs(_width(parsed) - wanted)

    return sorted(_working(asked._replace(parsed=first)), key=distance)[:4]


@cache
def _working(asked: Asked) -> tuple[str, ...]:
    """Return the spellings of a field that have a kernel: plain modes, and variants of those that have none."""
    found = []
    field = OPERATORS[asked.operator][0]
    for mode in MODES[field]:
        choices: list[str | None] = [None]
        if isinstance(mode, GEMMQuantMode | MoEQuantMode):
            choices += variants(mode)
        for variant in choices:
            try:
                _kernel(asked._replace(parsed=ParsedMode(mode, variant)))
            except RequestError:
                continue
            found.append(ParsedMode(mode, variant).spelled())
            if variant is None:
                break
    return tuple(found)
