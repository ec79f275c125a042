"""Which flags each engine version has, how they are spelled, and which values they take.

`flags.csv` holds one row per flag and stretch of versions in which nothing about it changed; `methods.csv` what
each quantization method asks of the GPU; `parsers.csv` names the wheel, or the repository and commit, that each
version was read from. `python -m checks.engines.extract` makes them from the engines' own source.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from aicalib.engines.releases import version_key
from aicalib.errors import InvalidValue, NotCovered, UnknownName
from aicalib.physics.system import ENGINES

ABBREVIATING = ("sglang", "vllm")
"""Engines whose parser is an argparse one: it also takes the beginning of a long flag where that names only one."""


class Flag(NamedTuple):
    """One flag of one engine version.

    Attributes
    ----------
    name : str
        The long spelling that the engine lists first.
    spellings : tuple of str
        All of them, the negative forms of a switch ("--no-enforce-eager") included.
    kind : str
        "choice", "int", "float", "text", "bool" (a switch without a value), "json", or "list" (one or more values).
    choices : tuple of str or None
        What the value, or each value of a list, may be.
    optional : bool
        The flag may stand without its value.
    open : bool
        Plugins may add to the choices: the parser takes other names too.
    """

    name: str
    spellings: tuple[str, ...]
    kind: str
    choices: tuple[str, ...] | None = None
    optional: bool = False
    open: bool = False


class Method(NamedTuple):
    """What a quantization method asks for, as the class that the engine registers for it says.

    Attributes
    ----------
    min_capability : int or None
        Lowest compute capability, 89 for 8.9; None where the class states none.
    activation_dtypes : tuple of str
        Types of activations it takes: "bfloat16", "float16", ...; empty where it decides at run time.
    """

    min_capability: int | None
    activation_dtypes: tuple[str, ...]


def _rows(name: str, engine: str) -> list[list[str]]:
    """Return the rows of one engine in a file, without the engine."""
    lines = files("aicalib.engines").joinpath(name).read_text().splitlines()
    return [row[1:] for row in csv.reader(line for line in lines if line.startswith(f"{engine},"))]


@cache
def known_versions(engine: str) -> tuple[str, ...]:
    """Return the versions whose parser was read, oldest first.

    Raises
    ------
    UnknownName
        For an engine that is not one of `ENGINES`.
    """
    if engine not in ENGINES:
        raise UnknownName("engine", engine, ENGINES)
    return tuple(row[0] for row in _rows("parsers.csv", engine))


@cache
def parser_version(engine: str, version: str) -> str:
    """Return the version whose parser answers for another: the newest that was read at or below it.

    Raises
    ------
    UnknownName
        For an engine that is not one of `ENGINES`.
    NotCovered
        For a version older than all.
    """
    known, wanted = known_versions(engine), version_key(version)
    if wanted is None:
        return known[-1]
    below = [item for item in known if (version_key(item) or wanted) <= wanted]
    if not below:
        raise NotCovered(
            f"flags of {engine} {version} are not known; the oldest known are of {known[0]}", known
        )
    return below[-1]


@cache
def _by_name(engine: str, version: str) -> dict[str, Flag]:
    """Return the flags of a version that was read."""
    order = {item: place for place, item in enumerate(known_versions(engine))}
    found = {}
    for name, also, kind, choices, marks, since, until in _rows("flags.csv", engine):
        if order[since] <= order[version] <= order[until]:
            allowed = tuple(choices.split()) if choices else None
            spellings = (name, *also.split())
            found[name] = Flag(name, spellings, kind, allowed, "optional" in marks, "open" in marks)
    return found


@cache
def flags(engine: str, version: str) -> Mapping[str, Flag]:
    """Return every spelling of every flag of a version.

    Parameters
    ----------
    engine : str
        One of `ENGINES`.
    version : str
        Between two versions that were read the older one answers; a nightly is answered by the newest.

    Raises
    ------
    UnknownName
        For an engine that is not one of `ENGINES`.
    NotCovered
        For a version older than all that were read.
    """
    by_name = _by_name(engine, parser_version(engine, version))
    return {spelling: flag for flag in by_name.values() for spelling in flag.spellings}


def find_flag(engine: str, version: str, spelling: str) -> Flag:
    """Return the flag that a parser takes a spelling for.

    Raises
    ------
    UnknownName
        For what the version does not have; near misses are the alternatives.
    InvalidValue
        For the beginning of several flags.
    NotCovered
        For a version older than all that were read.

    Notes
    -----
    SGLang and vLLM take the beginning of a long flag, "--tp" for "--tp-size"; vLLM also takes "_" for "-".
    """
    known = flags(engine, version)
    if engine == "vllm" and spelling.startswith("--"):
        spelling = spelling.replace("_", "-")
    if spelling in known:
        return known[spelling]
    begun = {}
    if engine in ABBREVIATING and spelling.startswith("--"):
        begun = {flag.name: flag for text, flag in known.items() if text.startswith(spelling)}
    if len(begun) == 1:
        return next(iter(begun.values()))
    if begun:
        raise InvalidValue(f"'{spelling}' is the beginning of {', '.join(sorted(begun))}", sorted(begun))
    raise UnknownName(f"flag of {engine} {version}", spelling, known)


@cache
def methods(engine: str, version: str) -> Mapping[str, Method]:
    """Return the quantization methods that a version registers on NVIDIA GPUs, those of other packages left out.

    Parameters
    ----------
    engine, version : str
        As for `flags`.

    Raises
    ------
    UnknownName, NotCovered
        As `flags`.
    """
    order = {item: place for place, item in enumerate(known_versions(engine))}
    at = order[parser_version(engine, version)]
    found = {}
    for name, capability, dtypes, since, until, _source in _rows("methods.csv", engine):
        if order[since] <= at <= order[until]:
            found[name] = Method(int(capability) if capability else None, tuple(dtypes.split()))
    return found


@cache
def trtllm_keys() -> Mapping[str, Flag]:
    """Return the keys of TensorRT-LLM's YAML (`trtllm-serve --config`), those inside of others joined by ".".

    Notes
    -----
    They are of the 1.2 series. Of the sections only `kv_cache_config`, `moe_config` and `cache_transceiver_config`
    are listed key by key, the latter two in part. "json" is a section or a mapping.
    """
    text = files("aicalib.engines").joinpath("trtllm_keys.csv").read_text()
    rows = list(csv.reader(text.splitlines()))[1:]
    return {
        key: Flag(key, (key,), kind, tuple(choices.split()) if choices else None)
        for key, kind, choices, _source in rows
    }
