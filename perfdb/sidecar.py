"""A sidecar: a TOML file beside a result file that states what the file lacks.

For `results.jsonl` it is `results.jsonl.toml` or `results.toml`, for all files of a folder `aicalib.toml` in it;
the first of these that exists is the only one read. It holds keys of a run, with `[[run]]` tables where a file
has runs of several deployments:

    gpu = "h100-sxm"
    server_info = "server_info.json"    # a saved answer of /server_info, its path relative to this file

    [[run]]
    match = {tag = "tp4"}               # or {line = 3}, or any keys that the run states
    tp = 4
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from perfdb.errors import SidecarError
from perfdb.keys import KEYS, METRICS, OCCASION, PROVENANCE, Kind
from perfdb.readers.redact import redact
from perfdb.readers.sglang_server_info import settings
from perfdb.record import same

FOLDER_FILE: Final = "aicalib.toml"

_TYPES: Final[dict[Kind, tuple[type, ...]]] = {
    "text": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "json": (dict, list),
}
_WORDS: Final[dict[Kind, str]] = {
    "text": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "json": "a table or an array",
}


def find(path: Path) -> Path | None:
    """Return the sidecar of a result file, or None.

    Raises
    ------
    SidecarError
        If two files claim to describe the same result file.
    """
    named = path.with_name(f"{path.name}.toml")
    plain = path.with_suffix(".toml") if path.suffix else named
    found = [one for one in dict.fromkeys((named, plain)) if one != path and one.is_file()]
    if len(found) == 2:
        raise SidecarError(f"{found[0]} and {found[1]} both describe {path.name}: keep one of them")
    folder = path.with_name(FOLDER_FILE)
    return found[0] if found else folder if folder != path and folder.is_file() else None


@dataclass
class Part:
    """Context for some runs of a file.

    Parameters
    ----------
    match : dict
        What a run must state; `line` is its line or place in the file. Empty: every run.
    context : dict
        Keys of a run, those that a saved server's settings state among them.
    suggested : dict
        Keys that those settings only suggest.
    used : bool
        Whether a run matched.
    """

    match: dict[str, Any]
    context: dict[str, Any]
    suggested: dict[str, Any]
    used: bool = False

    def applies(self, line: int, data: Mapping[str, Any]) -> bool:
        """Tell whether a run states all that the part asks for."""
        return all(
            value == line if name == "line" else data.get(name) is not None and same(name, data[name], value)
            for name, value in self.match.items()
        )


@dataclass
class Sidecar:
    """A sidecar, read.

    Parameters
    ----------
    path : Path
        The TOML file.
    general : Part
        What holds for every run.
    parts : list of Part
        The `[[run]]` tables.
    """

    path: Path
    general: Part
    parts: list[Part] = field(default_factory=list)

    def context(self, line: int, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keys that the sidecar states for a run.

        Parameters
        ----------
        line : int
            Line of the run in its file, or its place in it.
        data : mapping
            Keys that the run's own file states.

        Raises
        ------
        SidecarError
            If two `[[run]]` tables match the run and contradict each other.
        """
        own: dict[str, Any] = {}
        for part in self._matching(line, data):
            for name, value in part.context.items():
                if name in own and not same(name, own[name], value):
                    raise SidecarError(
                        f"{self.path}: {name}: two [[run]] tables match line {line}, with {own[name]!r} and "
                        f"{value!r}: make their `match` narrower"
                    )
                own[name] = value
        return self.general.context | own

    def suggested(self, line: int, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return keys that a saved server's settings only suggest for a run, as `inferred` of a record."""
        found = dict(self.general.suggested)
        for part in self._matching(line, data):
            found |= part.suggested
        stated = self.context(line, data)
        return {name: value for name, value in found.items() if name not in stated}

    def unused(self) -> list[dict[str, Any]]:
        """Return the `match` of every `[[run]]` table that no run has matched so far."""
        return [part.match for part in self.parts if not part.used]

    def _matching(self, line: int, data: Mapping[str, Any]) -> list[Part]:
        found = [part for part in self.parts if part.applies(line, data)]
        for part in found:
            part.used = True
        return found


def read(path: Path) -> Sidecar:
    """Read a sidecar.

    Raises
    ------
    SidecarError
        If it is no TOML, holds a key that a run does not have or a value of the wrong type, or names settings
        of a server that cannot be read or contradict it.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise SidecarError(f"{path} cannot be read as TOML: {error}") from error
    tables = content.pop("run", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise SidecarError(f"{path}: run: write one table [[run]] for each deployment")
    parts = []
    for table in tables:
        match = table.pop("match", None)
        if not isinstance(match, dict) or not match:
            raise SidecarError(f"{path}: match is {match!r} in a [[run]]: say which runs, as in {{line = 3}}")
        if "line" in match and (type(match["line"]) is not int or match["line"] < 1):
            raise SidecarError(f"{path}: match.line is {match['line']!r}: a whole number from 1")
        parts.append(_part(path, match, table))
    return Sidecar(path, _part(path, {}, content), parts)


def _part(path: Path, match: dict[str, Any], table: dict[str, Any]) -> Part:
    server = table.pop("server_info", None)
    stated, suggested = ({}, {}) if server is None else _server_settings(path, server)
    for name, value in table.items():
        _check(path, name, value)
        if stated.get(name) is not None and not same(name, stated[name], value):
            raise SidecarError(
                f"{path}: {name} is {value!r}, but {server} says {stated[name]!r}: remove one of the two"
            )
    return Part(match, _known(stated) | table, _known(suggested))


def _known(keys: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in keys.items() if value is not None}


def _check(path: Path, name: str, value: Any) -> None:
    """Check one key: known, no measured figure, of its type."""
    kinds: dict[str, Kind] = {**KEYS, **OCCASION, **dict.fromkeys(PROVENANCE, "text")}
    if name not in kinds:
        near = get_close_matches(name, [*kinds, "server_info", "run"], n=3)
        known = ", ".join(key for key in KEYS if key not in METRICS)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {known}"
        raise SidecarError(
            f"{path}: {name} is no key of a run; {hint} (it stands beside results: it is read as what they lack)"
        )
    if name in METRICS:
        raise SidecarError(f"{path}: {name} is a measured figure: it comes from the result file alone")
    kind = kinds[name]
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "bool"):
        raise SidecarError(f"{path}: {name} is {value!r}: must be {_WORDS[kind]}")


def _server_settings(path: Path, name: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a saved answer of /server_info."""
    if not isinstance(name, str):
        raise SidecarError(
            f"{path}: server_info is {name!r}: must be the path of a saved /server_info answer"
        )
    file = path.parent / name
    try:
        info = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise SidecarError(f"{path}: server_info: {file} cannot be read: {error}") from error
    if not isinstance(info, dict):
        raise SidecarError(f"{path}: server_info: {file} is no JSON object but a {type(info).__name__}")
    try:
        return settings(redact(info))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise SidecarError(f"{path}: server_info: {file} is no answer of /server_info: {error}") from error
