"""One run as a canonical record: filled from context, checked, and named by its content."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from perfdb.keys import (
    ENGINE_SPELLINGS,
    ENGINES,
    FRACTIONS,
    KEYS,
    LOADS,
    METRICS,
    NAMES,
    POSITIVE,
    PROVENANCE,
    VIEW_ONLY,
)


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
    """

    line: int
    text: str
    data: Mapping[str, Any]
    inferred: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One checked run.

    Parameters
    ----------
    run_id : str
        Hash of the content without provenance, 32 hexadecimal digits.
    content : dict
        Known and unknown keys with a value.
    provenance : dict
        Keys of `PROVENANCE` with a value.
    missing : tuple of str
        What a complete run would state and this one does not.
    remarks : tuple of Remark
        What was changed while it was checked.
    """

    run_id: str
    content: dict[str, Any]
    provenance: dict[str, Any]
    missing: tuple[str, ...]
    remarks: tuple[Remark, ...]

    @property
    def status(self) -> str:
        """`complete` or `incomplete`."""
        return "incomplete" if self.missing else "complete"

    @property
    def extra(self) -> dict[str, Any]:
        """The keys that the table of keys does not hold."""
        return {name: value for name, value in self.content.items() if name not in KEYS}

    def as_dict(self) -> dict[str, Any]:
        """Return every key of the runs format (None if unknown), other keys, `run_id` and `missing`."""
        known = {name: self.content.get(name) for name in KEYS}
        origin = {name: self.provenance.get(name) for name in PROVENANCE}
        return origin | known | self.extra | {"run_id": self.run_id, "missing": list(self.missing)}


class BadRecord(ValueError):
    """A record that cannot be a run; the message is the reason."""


def check(record: Record, context: Mapping[str, Any] | None = None) -> Run:
    """Fill a record from its context, check it, and give it its content hash.

    Parameters
    ----------
    record : Record
        As the reader found it.
    context : mapping, optional
        Keys that hold for every record of the file. They fill what is missing.

    Raises
    ------
    BadRecord
        If a value is impossible, if context and record contradict each other, or if nothing was measured.
    """
    merged = _flat(record.data)
    for name, value in (context or {}).items():
        if value is None:
            continue
        stated = merged.get(name)
        if stated is None:
            merged[name] = value
        elif not same(name, stated, value):
            raise BadRecord(f"{name}: the file says {stated!r}, the context says {value!r}")
    for name, value in record.inferred.items():
        if merged.get(name) is None:
            merged[name] = value

    content: dict[str, Any] = {}
    provenance: dict[str, Any] = {}
    remarks: list[Remark] = []
    for name, value in merged.items():
        if value is None:
            continue
        if value != value:
            remarks.append(Remark(record.line, "not_finite", f"{name} is {value!r}: taken as missing"))
        elif name in PROVENANCE:
            provenance[name] = _typed(name, value, "text")
        elif name in METRICS:
            figure, remark = _metric(name, value)
            if remark:
                remarks.append(Remark(record.line, remark, f"{name} is {value!r}: taken as missing"))
            if figure is not None:
                content[name] = figure
        elif name == "request_rate" and _infinite(value):
            continue
        else:
            checked = _typed(name, value, KEYS.get(name, "any"))
            if checked is not None:
                content[name] = checked
    if "engine" in content:
        content["engine"] = _engine(content["engine"])
    if content.get("load", "closed") not in LOADS:
        raise BadRecord(f"load is {content['load']!r}; known are {', '.join(LOADS)}")
    if not any(name in content for name in METRICS):
        raise BadRecord("nothing measured: no latency or throughput above zero")
    return Run(run_id(content), content, provenance, tuple(missing(content)), tuple(remarks))


def missing(content: Mapping[str, Any]) -> list[str]:
    """Name the keys without which a run cannot be compared with a prediction."""
    absent = [name for name in ("model", "gpu", "engine") if name not in content]
    absent += [name for name in ("isl", "osl") if not {name, f"mean_{name}_actual"} & content.keys()]
    load = content.get("load")
    needed = "load" if load is None else LOADS[load]
    return absent + [needed] * (needed not in content)


def run_id(content: Mapping[str, Any]) -> str:
    """Hash the content of a run: order of keys, spelling of names and 8 against 8.0 do not count."""
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


def _flat(data: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a record without the view's own columns, its `extra` keys spread out."""
    extra = data.get("extra")
    spread = extra if isinstance(extra, Mapping) else {}
    return dict(spread) | {name: value for name, value in data.items() if name not in VIEW_ONLY}


def _infinite(value: Any) -> bool:
    """Tell whether a request rate means: everything as fast as the load allows."""
    return value == math.inf or (isinstance(value, str) and value.lower() in ("inf", "infinity"))


def _metric(name: str, value: Any) -> tuple[float | None, str | None]:
    """Return the figure, or None with the flag that says why it is missing."""
    number = _number(name, value)
    if not math.isfinite(number):
        return None, "not_finite"
    if number < 0:
        raise BadRecord(f"{name} is {value!r}: a measured figure cannot be negative")
    # The client takes the mean of an empty list as 0: nothing was streamed, not streamed in no time.
    return (number, None) if number > 0 else (None, "zero_metric")


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadRecord(f"{name} is {value!r}: not a number")
    return float(value)


def _typed(name: str, value: Any, kind: str) -> Any:
    """Check one value against its kind and range; None for an empty text."""
    if kind == "text":
        if not isinstance(value, str):
            raise BadRecord(f"{name} is {value!r}: not a text")
        return value.strip() or None
    if kind == "bool":
        if not isinstance(value, bool):
            raise BadRecord(f"{name} is {value!r}: neither true nor false")
        return value
    if kind in ("int", "float"):
        number = _number(name, value)
        if not math.isfinite(number):
            raise BadRecord(f"{name} is {value!r}: not a finite number")
        if name in POSITIVE and number <= 0:
            raise BadRecord(f"{name} is {value!r}: must be above zero")
        if name in FRACTIONS and not 0 <= number <= 1:
            raise BadRecord(f"{name} is {value!r}: must lie between 0 and 1")
        if kind == "float":
            return number
        if not number.is_integer():
            raise BadRecord(f"{name} is {value!r}: not a whole number")
        return int(number)
    return _finite(value)


def _finite(value: Any) -> Any:
    """Replace numbers that JSON cannot hold by None, at any depth."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _plain(value: Any) -> Any:
    """Make 8.0 and 8 one, at any depth."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _engine(name: str) -> str:
    folded = ENGINE_SPELLINGS.get(fold(name), fold(name))
    if folded not in ENGINES:
        raise BadRecord(f"engine is {name!r}; known are {', '.join(ENGINES)}")
    return folded
