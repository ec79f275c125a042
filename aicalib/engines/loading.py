"""Whether an engine version loads a format on an accelerator: the one answer of `launch` and of the kernel registry.

All of it is read from the tables: `formats.csv` for weights, its rows "plain" for where the engine runs at all, and
`caches.csv` for caches.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NoReturn, cast

from aicalib.engines.flags import flags, parser_version
from aicalib.engines.tables import CacheFormat, Method, cache_formats, meets, methods
from aicalib.errors import InvalidValue, NotCovered, fold
from aicalib.hardware import Accelerator
from aicalib.quant import SIXTEEN_BIT, Field, ParsedMode, compute_path, parse_mode
from aicalib.quant.modes import FMHAQuantMode, KVCacheQuantMode, QuantMode

PLAIN: Final = (*SIXTEEN_BIT, "float32")
"""Modes that are a type of the model, not a quantization."""

KERNELS: Final = ("awq_marlin", "gptq_marlin")
"""Modes that name the kernel, which is also the method's name."""

STORED_AS: Final = {"awq_marlin": "int4_wo:awq", "gptq_marlin": "int4_wo:gptq", "w4a16_mxfp4": "mxfp4",
                    "w4a8_mxfp4_mxfp8": "mxfp4"}  # fmt: skip
"""Modes that name how weights are multiplied, and the format in which a checkpoint has them."""

TORCHAO: Final = "torchao:"
"""Begins the name of a method that `--torchao-config` asks for."""

KV_FLAG: Final = "--kv-cache-dtype"


def is_of(mode: ParsedMode[QuantMode], spelling: str, rows_field: str, field: str) -> bool:
    """Tell whether a mode of a field is what a row of `formats.csv` is about.

    A layout behind ":" is also met by a mode without one, and a layout behind "=" by that one alone.
    """
    if rows_field not in (field, "both"):
        return False
    if spelling == "*":
        return True
    exact = "=" in spelling
    name, _, layout = spelling.replace("=", ":").partition(":")
    if mode.mode.name != name:
        return False
    if mode.variant is None:
        return not exact
    return not layout or fold(mode.variant) == fold(layout)


def plain_mode(field: Field, name: str) -> ParsedMode[QuantMode]:
    """Return a mode of a field that is a type of the model, or any other without a layout."""
    return cast(ParsedMode[QuantMode], parse_mode(field, name))


def stored_as(field: Field, mode: ParsedMode[QuantMode]) -> ParsedMode[QuantMode]:
    """Return the format in which a checkpoint holds a mode."""
    stored = STORED_AS.get(mode.mode.name)
    return mode if stored is None else cast(ParsedMode[QuantMode], parse_mode(field, stored))


def offered(engine: str, version: str) -> list[Method]:
    """Return what a version makes and reads, methods left out that its command could not name.

    Raises
    ------
    NotCovered
        For a version older than all whose parsers were read.
    """
    known = flags(engine, version)
    flag = known.get("--quantization")
    named = flag.choices if flag is not None else ()

    def can_be_named(row: Method) -> bool:
        if row.name.startswith(TORCHAO):
            return "--torchao-config" in known
        return named is None or row.name in named

    return [row for row in methods(engine, version) if row.how != "online" or can_be_named(row)]


def runs_on(engine: str, version: str, accelerator: Accelerator | None, row: Method | CacheFormat) -> bool:
    """Tell whether an accelerator, where one is given, is among those of a row and of the engine."""
    if accelerator is None:
        return True
    return meets(accelerator, row.nvidia, row.others) and engine_runs(engine, version, accelerator)


def engine_runs(engine: str, version: str, accelerator: Accelerator) -> bool:
    """Tell whether an engine runs models of any type on an accelerator."""
    return any(meets(accelerator, row.nvidia, row.others) for row in _plain(engine, version))


def _plain(engine: str, version: str) -> list[Method]:
    return [row for row in methods(engine, version) if row.how == "plain"]


def hold_engine(engine: str, version: str, accelerator: Accelerator | None) -> None:
    """Refuse an accelerator on which an engine does not run, and a version older than all that were read.

    Raises
    ------
    NotCovered
    """
    parser_version(engine, version)
    if accelerator is None or engine_runs(engine, version, accelerator):
        return
    rows = _plain(engine, version)
    raise NotCovered(f"{engine} {version} is known to run on {where(rows)}; {label(accelerator)}")


def where(rows: Sequence[Method | CacheFormat]) -> str:
    """Say on what accelerators the rows hold."""
    cells = dict.fromkeys(row.nvidia.replace("+", " or newer") for row in rows if row.nvidia)
    words = [f"compute capability {cell}" for cell in cells]
    words += dict.fromkeys(word for row in rows for word in row.others.split())
    return ", ".join(words) or "nothing here"


def needs(rows: Sequence[Method], accelerator: Accelerator) -> str:
    """Say what accelerators of a vendor a method runs on."""
    vendor = accelerator.vendor
    if vendor == "NVIDIA":
        words = ", ".join(dict.fromkeys(row.nvidia.replace("+", " or newer") for row in rows if row.nvidia))
        return f"it needs compute capability {words}" if words else "it does not run on NVIDIA"
    patterns = dict.fromkeys(word for row in rows for word in row.others.split() if word.startswith("gfx"))
    return (
        f"it runs on {', '.join(patterns)}"
        if patterns and vendor == "AMD"
        else f"it does not run on {vendor}"
    )


def label(accelerator: Accelerator) -> str:
    """Say what an accelerator is."""
    return f"{accelerator.name} is {accelerator.vendor} {accelerator.capability}"


def loads(
    engine: str, version: str, accelerator: Accelerator | None, field: Field, mode: ParsedMode[QuantMode]
) -> list[Method]:
    """Return what makes or reads weights in a format on an accelerator, in the order of preference.

    Parameters
    ----------
    engine, version : str
    accelerator : Accelerator or None
        None where it is not known: then nothing is asked of it.
    field : {"gemm", "moe"}
    mode : ParsedMode

    Raises
    ------
    NotCovered
        Where nothing does, with the reason.
    """
    hold_engine(engine, version, accelerator)
    rows = of_format(engine, version, field, mode)
    found = [row for row in rows if runs_on(engine, version, accelerator, row)]
    if not found:
        _refuse(engine, version, accelerator, field, mode, rows)
    if accelerator is not None and mode.mode.name not in KERNELS:
        hold_math(accelerator, mode, stored_as(field, mode))
    return found


@lru_cache(maxsize=4096)
def of_format(engine: str, version: str, field: Field, mode: ParsedMode[QuantMode]) -> tuple[Method, ...]:
    """Return the rows of a version that are about a format, wherever they hold."""
    stored = stored_as(field, mode)
    name = mode.mode.name
    return tuple(
        row
        for row in offered(engine, version)
        if row.format != "*"
        and (is_of(stored, row.format, row.field, field) or is_of(mode, row.format, row.field, field))
        and (name not in KERNELS or row.name == name)
    )


def _refuse(
    engine: str, version: str, accelerator: Accelerator | None, field: Field, mode: ParsedMode[QuantMode],
    rows: Sequence[Method],
) -> NoReturn:  # fmt: skip
    layouts = [
        row.format.replace("=", ":")
        for row in offered(engine, version)
        if "=" in row.format
        and row.format.partition("=")[0] == mode.mode.name
        and row.field in (field, "both")
        and runs_on(engine, version, accelerator, row)
    ]
    if layouts:
        raise NotCovered(f"there it loads {', '.join(layouts)} alone", layouts)
    if rows and accelerator is not None:
        raise NotCovered(f"{rows[0].name}: {needs(rows, accelerator)}; {label(accelerator)}")
    raise NotCovered(f"no quantization method of {engine} {version} loads it")


def hold_math(accelerator: Accelerator, mode: ParsedMode[QuantMode], stored: ParsedMode[QuantMode]) -> None:
    """Hold a mode that says how stored weights are multiplied to what the accelerator does with them.

    Raises
    ------
    NotCovered
    """
    wanted, does = math_of(accelerator, mode), math_of(accelerator, stored)
    if wanted is None or wanted != does:
        raise NotCovered(
            f"{label(accelerator)}, which multiplies {stored.spelled()} in {does}"
            if does
            else f"{label(accelerator)}, which has no math for it"
        )


def math_of(accelerator: Accelerator, mode: ParsedMode[QuantMode]) -> str | None:
    """Return the number format that a mode is multiplied in; None where there is none."""
    assert not isinstance(mode.mode, KVCacheQuantMode | FMHAQuantMode)
    try:
        return compute_path(mode.mode, accelerator.vendor, accelerator.capability, mode.variant)
    except InvalidValue:
        return None


@lru_cache
def method_of(
    engine: str, version: str, accelerator: Accelerator | None,
    gemm: ParsedMode[QuantMode], moe: ParsedMode[QuantMode],
) -> str | None:  # fmt: skip
    """Return the method of a checkpoint known by its formats alone: the first that reads both, there if any does.

    One that is named as a format goes first: what else reads it does so for models of another kind.
    """
    narrow = [(field, each) for field, each in (("gemm", gemm), ("moe", moe)) if each.mode.name not in PLAIN]
    if not narrow:
        return None
    formats = {each.mode.name for _, each in narrow}
    table = [row for row in methods(engine, version) if row.how == "offline" and row.format != "*"]
    there = [row for row in table if runs_on(engine, version, accelerator, row)]
    for rows in (there, table):
        for name in sorted(dict.fromkeys(row.name for row in rows), key=lambda name: name not in formats):
            mine = [row for row in rows if row.name == name]
            if all(any(is_of(each, row.format, row.field, field) for row in mine) for field, each in narrow):
                return name
    return None


def cache_words(engine: str, version: str, row: CacheFormat) -> list[str]:
    """Return the words for a format of the cache that the version's parser takes."""
    if engine == "trtllm":
        return list(row.words)
    flag = flags(engine, version).get(KV_FLAG)
    choices = () if flag is None else flag.choices
    return [word for word in row.words if choices is None or word in choices]


def holds_cache(engine: str, version: str, accelerator: Accelerator | None, row: CacheFormat) -> bool:
    """Tell whether a format of the cache is held on an accelerator; one of 16 bit is a type of the model."""
    if accelerator is None:
        return True
    if row.mode in SIXTEEN_BIT and not any(
        meets(accelerator, each.nvidia, each.others)
        for each in _plain(engine, version)
        if each.format == row.mode
    ):
        return False
    return meets(accelerator, row.nvidia, row.others)


def hold_cache(engine: str, version: str, accelerator: Accelerator, mode: KVCacheQuantMode) -> CacheFormat:
    """Return the row of a format of the cache.

    Raises
    ------
    NotCovered
        Where the version holds no such cache on the accelerator.
    """
    hold_engine(engine, version, accelerator)
    row = cache_formats(engine).get(mode.name)
    if row is None or not (mode.name in SIXTEEN_BIT or cache_words(engine, version, row)):
        raise NotCovered(f"{engine} {version} has no such cache")
    if not holds_cache(engine, version, accelerator, row):
        raise NotCovered(f"such a cache is held on {where([row])}; {label(accelerator)}")
    return row
