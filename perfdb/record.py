"""One run as a canonical record: filled from context, checked, and named by its content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from perfdb.keys import NAMES

Alike = Callable[[str, str, str], bool]
"""Tells of a key and two texts whether they are spellings of one name."""


@dataclass(frozen=True)
class Rejection:
    """A line that was not taken, and why.

    Parameters
    ----------
    line : int
        Line number in the file, from 1.
    reason : str
        What is wrong with it, with the values.
    """

    line: int
    reason: str


@dataclass(frozen=True)
class Remark:
    """What was changed or noticed while a line was read: a flag with its reason."""

    line: int
    flag: str
    reason: str


@dataclass(frozen=True)
class Record:
    """One run as a reader found it.

    Parameters
    ----------
    line : int
        Line number in the file, from 1.
    text : str
        The raw line, free of secrets and generated texts.
    data : mapping
        Keys of a run that the file states.
    inferred : mapping
        Keys that the file only suggests (a local path for a model, a file name for a number of prompts):
        context overrides them without contradiction.
    stated : mapping
        Of every value that was converted: its key here, and `[name, value, unit]` as the file has it.
    table : str
        What the record is: a run, or what an engine logged about memory at its start.
    """

    line: int
    text: str
    data: Mapping[str, Any]
    inferred: Mapping[str, Any] = field(default_factory=dict)
    stated: Mapping[str, tuple[str, Any, str]] = field(default_factory=dict)
    table: Literal["runs", "startups"] = "runs"


class BadRecord(ValueError):
    """A record that cannot be a run; the message is the reason."""


def content_id(content: Mapping[str, Any]) -> str:
    """Hash the content of a record: order of keys, spelling of names and 8 against 8.0 do not count."""
    plain = {name: fold(value) if name in NAMES else _plain(value) for name, value in content.items()}
    text = json.dumps(plain, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def same(name: str, one: Any, other: Any) -> bool:
    """Tell whether two values of a key mean the same.

    A model's owner counts only where both sides name one.
    """
    if isinstance(one, str) and isinstance(other, str):
        if name == "model" and ("/" in one) != ("/" in other):
            one, other = one.rsplit("/", 1)[-1], other.rsplit("/", 1)[-1]
        return fold(one) == fold(other) if name in NAMES else one == other
    return bool(one == other)


def fold(name: str) -> str:
    """Reduce a name to its letters and digits in lower case."""
    return "".join(character for character in name.lower() if character.isalnum())


def _plain(value: Any) -> Any:
    """Make 8.0 and 8 one, at any depth."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
