"""What a reader returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from perfdb.readers.source import Object, Source
from perfdb.record import Record, Rejection


@dataclass(frozen=True)
class Reading:
    """A file, read.

    Parameters
    ----------
    records : iterable of Record or Rejection
        One a run or start; consumed once, so that a long file streams.
    metadata : mapping
        What holds for the whole file: the tool, its version, facts about the machine.
    steps : iterable of mapping
        Engine steps that a server log lists, in the columns of `server_steps`.
    """

    records: Iterable[Record | Rejection]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    steps: Iterable[Mapping[str, Any]] = ()


def results(
    source: Source,
    is_result: Callable[[Mapping[str, Any]], bool],
    record: Callable[[Object], Record | Rejection],
    otherwise: str,
) -> Iterator[Record | Rejection]:
    """Stream one record an object, of a file in which every object should be a result of one tool.

    Parameters
    ----------
    source : Source
    is_result : callable
        Tells whether an object is one.
    record : callable
        Reads one that is.
    otherwise : str
        Why one that is not is rejected.
    """
    for item in source.objects():
        if isinstance(item, Rejection):
            yield item
        elif is_result(item.data):
            yield record(item)
        else:
            yield Rejection(item.number, otherwise)


class Format(Protocol):
    """What a format module offers."""

    NAME: str

    def matches(self, source: Source) -> bool:
        """Tell by its content whether a file is of this format; never raises."""

    def read(self, source: Source) -> Reading:
        """Read a file that matches."""
