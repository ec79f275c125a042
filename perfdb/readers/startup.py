"""Start-up records as JSON lines: what an engine logged about memory when it started, one flat object a start."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from perfdb.readers import runs
from perfdb.readers.lines import Line
from perfdb.record import Record, Rejection

NAME = "startup"

_SIGNS = ("avail_mem_before_load_gib", "avail_mem_after_load_gib", "max_total_tokens", "kv_gib")


def matches(first: Mapping[str, Any]) -> bool:
    """Tell whether an object has the keys of a start-up record and none of a run's."""
    return "engine" in first and any(name in first for name in _SIGNS) and not runs.matches(first)


def read(lines: Iterable[Line], path: Path) -> Iterator[Record | Rejection]:
    """Read one record a line; a line that is not a JSON object is a rejection."""
    return runs.read(lines, path)
