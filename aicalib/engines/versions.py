"""The versions of an engine that a row of a table holds for."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any, NamedTuple, Self

from aicalib.engines.defaults import version_number


class VersionRange(NamedTuple):
    """From one version on, until another, which is not included; as `version_number` gives them.

    Attributes
    ----------
    since : float
    until : float
        Infinite where the end is open.
    """

    since: float
    until: float

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Read `since` and `until` of a row; without an `until`, or an empty one, the end is open."""
        return cls(_read(row["since"]), _read(row["until"]) if row.get("until") else inf)

    def includes(self, version: float) -> bool:
        """Tell whether a version is in it; a nightly, without a number, is the newest."""
        return self.since <= version and (version < self.until or self.until == inf)


def _read(text: str) -> float:
    """Return the number of a version, of a major one alone too."""
    return version_number(text if "." in text else f"{text}.0")
