"""Whether an engine version's parser would take a command line (`check_line`) or a key of a YAML (`check_key`)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from aicalib.engines.flags import Flag, find_flag, trtllm_keys
from aicalib.errors import RequestError

PROGRAMS = {
    "sglang": (
        ("python", "-m", "sglang.launch_server"),
        ("python3", "-m", "sglang.launch_server"),
        ("sglang", "serve"),
    ),
    "vllm": (("vllm", "serve"), ("python", "-m", "vllm.entrypoints.openai.api_server")),
    "trtllm": (("trtllm-serve", "serve"), ("trtllm-serve",)),
}
"""How a line of each engine begins."""

POSITIONALS = {"sglang": 0, "vllm": 1, "trtllm": 1}
"""How many arguments without a flag each takes: the model."""

NUMBERS = {
    "int": re.compile(r"[+-]?\d+|\d+(\.\d+)?[kKmMgGtT]"),
    "float": re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"),
}
"""What is read as a number; engines take suffixes (32k) for some whole numbers."""


def check_line(engine: str, version: str, argv: Sequence[str]) -> list[str]:
    """Return what is wrong with a command line, empty where the parser takes it.

    Parameters
    ----------
    engine : str
        One of `ENGINES`.
    version : str
    argv : sequence of str
        With or without the program in front. Flag and value may be two items or joined by "=".

    Raises
    ------
    UnknownName, NotCovered
        For an engine that is unknown, a version older than all that were read.

    Notes
    -----
    Names that only a plugin brings are problems here.
    """
    items = ["python" if item == "python3" else item for item in argv[:1]] + list(argv[1:])
    for program in PROGRAMS[engine]:
        if tuple(items[: len(program)]) == program:
            items = items[len(program) :]
            break
    problems: list[str] = []
    loose: list[str] = []
    place = 0
    while place < len(items):
        item = items[place]
        place += 1
        if not _is_flag(item):
            loose.append(item)
            continue
        spelling, joined, value = item.partition("=")
        dotted = engine == "vllm" and spelling.startswith("--") and "." in spelling
        try:
            flag = find_flag(engine, version, spelling.partition(".")[0] if dotted else spelling)
        except RequestError as error:
            problems.append(str(error))
            place += place < len(items) and not _is_flag(items[place]) and not joined
            continue
        values = [value] if joined else []
        if not joined and flag.kind != "bool":
            most = len(items) if flag.kind == "list" else 1
            while place < len(items) and len(values) < most and not _is_flag(items[place]):
                values.append(items[place])
                place += 1
        problems += _part(flag, values) if dotted else _values(flag, values, bool(joined))
    if len(loose) > POSITIONALS[engine]:
        problems.append(f"arguments without a flag: {' '.join(loose[POSITIONALS[engine] :])}")
    return problems


def check_key(key: str, value: object) -> list[str]:
    """Return what is wrong with one key of TensorRT-LLM's YAML, its parts joined by dots."""
    known = trtllm_keys()
    if key not in known:
        outer = known.get(key.rpartition(".")[0])
        return [] if outer is not None and outer.kind == "json" else [f"no key '{key}'"]
    flag = known[key]
    plain = {bool: "bool", type(None): "json"}.get(type(value))
    if "bool" in (plain, flag.kind) or plain is not None:
        return [] if plain == flag.kind else [f"{key} takes {flag.kind}: {value}"]
    return _values(flag, [str(value)], False)


def _is_flag(item: str) -> bool:
    return item.startswith("-") and len(item) > 1 and NUMBERS["float"].fullmatch(item) is None


def _part(flag: Flag, values: list[str]) -> list[str]:
    """Return what is wrong with one key of a JSON flag, --attention-config.backend FLASHINFER."""
    if flag.kind != "json":
        return [f"{flag.name} has no keys: it takes {flag.kind}"]
    return [] if values else [f"a key of {flag.name} misses its value"]


def _values(flag: Flag, values: list[str], joined: bool) -> list[str]:
    if flag.kind == "bool":
        return [f"{flag.name} is a switch: it takes no value"] if joined else []
    if not values:
        return [] if flag.optional else [f"{flag.name} misses its value"]
    problems = []
    for value in values:
        if flag.choices is not None and value not in flag.choices and not flag.open:
            problems.append(f"{flag.name} does not take '{value}': one of {', '.join(flag.choices)}")
        elif flag.kind in NUMBERS and NUMBERS[flag.kind].fullmatch(value) is None:
            problems.append(f"{flag.name} does not take '{value}': {flag.kind} is wanted")
        elif flag.kind == "json" and not _is_json(value):
            problems.append(f"{flag.name} does not take '{value}': JSON is wanted")
    return problems


def _is_json(value: str) -> bool:
    try:
        json.loads(value)
    except json.JSONDecodeError:
        return False
    return True
