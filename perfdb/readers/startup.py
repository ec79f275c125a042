"""Start-up records as JSON lines: what an engine logged about memory when it started, or why it did not."""

from __future__ import annotations

from collections.abc import Iterator

from perfdb.readers import runs
from perfdb.readers.reading import Reading
from perfdb.readers.source import Source
from perfdb.record import Record, Rejection

NAME = "startup"

_SIGNS = ("avail_mem_before_load_gib", "avail_mem_after_load_gib", "max_total_tokens", "kv_gib", "outcome")


def matches(source: Source) -> bool:
    """Tell whether the first object has the keys of a start-up record and none of a run's."""
    first = source.first
    return (
        first is not None
        and "engine" in first
        and any(name in first for name in _SIGNS)
        and not runs.is_run(first)
    )


def read(source: Source) -> Reading:
    """Read one start an object."""
    return Reading(_records(source))


def _records(source: Source) -> Iterator[Record | Rejection]:
    for item in source.objects():
        yield (
            item
            if isinstance(item, Rejection)
            else Record(item.number, item.text, item.data, table="startups")
        )
