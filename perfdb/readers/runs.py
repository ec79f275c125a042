"""Runs as JSON lines: one flat object a run, in the keys of `perfdb.keys`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from perfdb.keys import METRICS
from perfdb.readers.lines import Line, parse
from perfdb.record import Record, Rejection

NAME = "runs"


def matches(first: Mapping[str, Any]) -> bool:
    """Tell whether an object has the keys of a run."""
    return "load" in first or ("engine" in first and any(name in first for name in METRICS))


def read(lines: Iterable[Line], path: Path) -> Iterator[Record | Rejection]:
    """Read one record a line; a line that is not a JSON object is a rejection."""
    for line in lines:
        found = parse(line)
        if isinstance(found, Rejection):
            yield found
        else:
            yield Record(line.number, line.text, found)
