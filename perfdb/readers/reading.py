"""What a reader returns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from perfdb.readers.source import Source
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


class Format(Protocol):
    """What a format module offers."""

    NAME: str

    def matches(self, source: Source) -> bool:
        """Tell by its content whether a file is of this format; never raises."""

    def read(self, source: Source) -> Reading:
        """Read a file that matches."""
