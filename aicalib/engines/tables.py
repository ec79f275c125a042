"""Tables of what each engine version has: quantization methods, attention backends, cache formats, MoE backends.

A cell of capabilities lists what is met: "9.0" that one alone, "8.0+" that one or newer, "*" any. Beside NVIDIA's,
`others` lists patterns of AMD's targets ("gfx94*"), and words for all accelerators of another vendor ("ascend").
"""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

from aicalib.engines import flags
from aicalib.engines.defaults import version_number
from aicalib.engines.kernels import generations
from aicalib.engines.versions import VersionRange
from aicalib.errors import fold
from aicalib.hardware import Accelerator


class Method(NamedTuple):
    """One format that a quantization method of an engine makes or reads.

    Attributes
    ----------
    name : str
        As the engine calls it.
    how : str
        "plain": a type of the model, its accelerators those on which the engine runs; "online": made from a 16-bit
        checkpoint while loading; "offline": read from a checkpoint that stores it.
    field : str
        "gemm", "moe", or "both".
    format : str
        Spelling of a mode; "*" where the checkpoint says what each layer is.
    nvidia, others : str
        Capabilities of NVIDIA, and patterns of AMD's targets and words of other vendors; empty for none.
    dtype : str
        The one model type that it takes; empty for any.
    named : bool
        The command must name it where the checkpoint cannot be read.
    source : str
    """

    name: str
    how: str
    field: str
    format: str
    nvidia: str
    others: str
    dtype: str
    named: bool
    source: str


class Backend(NamedTuple):
    """An attention backend in one version.

    Attributes
    ----------
    name : str
    models : tuple of str
        Kinds of attention, out of "mha", "mla", "sparse", "compressed".
    nvidia, others : str
        As for `Method`.
    caches : mapping of str to str
        Format of the cache -> capabilities on which it is held; "wide" is 16 bit.
    fp8_math : str
        NVIDIA capabilities on which queries meet an FP8 cache in FP8.
    pages : str
        Tokens of a page that it takes, with capabilities behind a colon; empty for any.
    role : str
        "both" or "decode".
    source : str
    """

    name: str
    models: tuple[str, ...]
    nvidia: str
    others: str
    caches: Mapping[str, str]
    fp8_math: str
    pages: str
    role: str
    source: str


class CacheFormat(NamedTuple):
    """A format of the cache: words of the engine in the order tried, where it is held, and the software it needs."""

    mode: str
    words: tuple[str, ...]
    nvidia: str
    others: str
    cuda: str
    torch: str
    source: str


class MoeBackend(NamedTuple):
    """An MoE backend under some methods: capabilities and expert-parallel widths ("tp" is the whole width)."""

    name: str
    methods: tuple[str, ...]
    nvidia: str
    ep: tuple[str, ...]
    source: str


@cache
def _rows(name: str, engine: str) -> tuple[Mapping[str, str], ...]:
    text = files("aicalib.engines").joinpath(name).read_text(encoding="utf-8")
    return tuple(row for row in csv.DictReader(text.splitlines()) if row["engine"] == engine)


@cache
def _settings_file(name: str) -> Mapping[str, Any]:
    return tomllib.loads(files("aicalib.engines").joinpath(name).read_text(encoding="utf-8"))


def settings_table() -> Mapping[str, Any]:
    """Return `settings.toml`: option -> kind of value and flags by engine."""
    return _settings_file("settings.toml")


def software_table() -> Mapping[str, Any]:
    """Return `software.toml`: the oldest CUDA and PyTorch of capabilities and formats."""
    return _settings_file("software.toml")


def environment_words(name: str, version: str) -> tuple[str, ...]:
    """Return the words that an environment variable of vLLM takes in a version, nothing where it is too old."""
    rows = _of_version(_settings_file("environment.toml")[name], version)
    return tuple(rows[-1]["words"]) if rows else ()


def _of_version(rows: Iterable[Mapping[str, Any]], version: str) -> list[Mapping[str, Any]]:
    """Return the rows that hold for a version."""
    at = version_number(version)
    return [row for row in rows if VersionRange.of(row).includes(at)]


CONTAINERS = ("compressed-tensors", "quark", "modelopt_mixed", "auto-round", "gptq_marlin")
"""Methods that hold several formats, whose kernels may ask for more than the method itself does."""


@cache
def methods(engine: str, version: str) -> tuple[Method, ...]:
    """Return what the quantization methods of a version make and read, in the order of preference.

    What the class of a method asks of the accelerator and of the model's type, where it was read from the version's
    source, goes before the table, which holds the kernels' demands inside of a container.

    Raises
    ------
    NotCovered
        For a version older than all that were read.
    """
    found = tuple(
        Method(
            row["method"], row["how"], row["field"], row["format"], row["nvidia"], row["others"], row["dtype"],
            bool(row["named"]), row["source"],
        )
        for row in _of_version(_rows("formats.csv", engine), version)
    )  # fmt: skip
    if engine == "trtllm":
        return found
    registered = flags.methods(engine, version)
    # SGLang borrowed classes from vLLM's package at first, which are not among those that it registers itself; and
    # what was read is registered on NVIDIA.
    kept = [
        row
        for row in found
        if engine == "sglang" or row.how == "plain" or not row.nvidia or row.name in registered
    ]
    return tuple(_held(row, registered.get(row.name)) for row in kept)


def _held(row: Method, asks: flags.Method | None) -> Method:
    """Return a row under what the class of its method asks for; ports have classes of their own."""
    if asks is None:
        return row
    nvidia, least = row.nvidia, asks.min_capability
    if least is not None and nvidia.endswith("+"):
        cell = f"{least // 10}.{least % 10}+"
        stricter = _pair(cell.removesuffix("+")) > _pair(nvidia.removesuffix("+"))
        nvidia = cell if stricter or row.name not in CONTAINERS else nvidia
    only = bool(nvidia) and set(asks.activation_dtypes) in ({"half"}, {"float16"})
    return row._replace(nvidia=nvidia, dtype="float16" if only else row.dtype)


@cache
def backends(engine: str, version: str) -> tuple[Backend, ...]:
    """Return the attention backends of a version, in the order of preference."""
    return tuple(
        Backend(
            row["backend"], tuple(row["models"].split()), row["nvidia"], row["others"], _caches(row["caches"]),
            row["fp8_math"], row["pages"], row["role"], row["source"],
        )
        for row in _of_version(_rows("attention.csv", engine), version)
    )  # fmt: skip


@cache
def page_tokens(engine: str, backend: str, model: str, capability: str) -> int:
    """Return the tokens of a page of the cache that an engine takes with an attention backend, in any version.

    Parameters
    ----------
    engine, backend : str
        Case of the backend does not count.
    model : str
        "mha", "mla", "sparse" or "compressed".
    capability : str
        NVIDIA compute capability; other accelerators meet cells without one.
    """
    for row in _rows("attention.csv", engine):
        tokens, _, where = row["page"].partition(":")
        same = fold(row["backend"]) == fold(backend) and model in row["models"].split()
        if same and tokens and (not where or listed(capability, where)):
            return int(tokens)
    default: int = settings_table()["page_size"]["default"][engine]
    return default


def _caches(cell: str) -> dict[str, str]:
    """Read "wide fp8:8.9+ fp8:gfx9*" as format -> capabilities."""
    found: dict[str, str] = {}
    for word in cell.split():
        name, _, where = word.partition(":")
        found[name] = f"{found[name]} {where}" if name in found else (where or "*")
    return found


@cache
def cache_formats(engine: str) -> Mapping[str, CacheFormat]:
    """Return the formats of an engine's cache by mode."""
    return {
        row["mode"]: CacheFormat(
            row["mode"], tuple(row["words"].split()),
            *(row[key] for key in ("nvidia", "others", "cuda", "torch", "source")),
        )
        for row in _rows("caches.csv", engine)
    }  # fmt: skip


@cache
def moe_backends(engine: str) -> tuple[MoeBackend, ...]:
    """Return the MoE backends of an engine about which something is known."""
    return tuple(
        MoeBackend(
            row["backend"],
            tuple(row["methods"].split()),
            row["nvidia"],
            tuple(row["ep"].split()),
            row["source"],
        )
        for row in _rows("moe_backends.csv", engine)
    )


def meets(accelerator: Accelerator, nvidia: str, others: str) -> bool:
    """Tell whether an accelerator is among the capabilities of its vendor."""
    if accelerator.vendor == "NVIDIA":
        return listed(accelerator.capability, nvidia)
    word = accelerator.capability if accelerator.vendor == "AMD" else generations(accelerator)[0]
    return any(fnmatchcase(word, pattern) for pattern in others.split())


@lru_cache(maxsize=4096)
def listed(capability: str, cell: str) -> bool:
    """Tell whether an NVIDIA compute capability is in a cell."""
    return any(
        word == "*"
        or word == capability
        or (word.endswith("+") and _pair(capability) >= _pair(word.removesuffix("+")))
        for word in cell.split()
    )


def _pair(capability: str) -> tuple[int, ...]:
    """Read a capability; one without numbers is below all."""
    try:
        return tuple(int(part) for part in capability.split("."))
    except ValueError:
        return ()
