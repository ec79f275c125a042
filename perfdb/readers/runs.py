"""Runs as JSON lines: one flat object a run, in the keys of `perfdb.keys`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from perfdb.keys import METRICS
from perfdb.readers.reading import Reading
from perfdb.readers.source import Source
from perfdb.record import Record, Rejection

NAME = "runs"


def matches(source: Source) -> bool:
    """Tell whether the first object has the keys of a run."""
    return source.first is not None and is_run(source.first)


def is_run(first: Mapping[str, Any]) -> bool:
    """Tell whether an object has the keys of a run."""
    return "load" in first or ("engine" in first and any(name in first for name in METRICS))


def read(source: Source) -> Reading:
    """Read one record an object."""
    return Reading(_records(source))


def _records(source: Source) -> Iterator[Record | Rejection]:
    for item in source.objects():
        yield item if isinstance(item, Rejection) else Record(item.number, item.text, item.data)
