"""Two profiles side by side: what a refit changed, by more than the profiles themselves are unsure of."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aicalib.profiles.profile import Profile

ROUNDING = 1e-4
"""Log ratio of two coefficients up to which they are one number written twice."""

TOLD = frozenset({"name", "version", "coefficients", "lineage", "fitted"})
"""Parts of a profile's JSON form that `Comparison` has words for; any other that differs is named."""


@dataclass(frozen=True)
class Moved:
    """A coefficient in two profiles.

    Attributes
    ----------
    name, unit : str
    first, second : float
        In `unit`.
    deviation : float
        Standard deviation of log(second / first) by both profiles; 0 where both keep the prior.
    """

    name: str
    unit: str
    first: float
    second: float
    deviation: float

    @property
    def log_ratio(self) -> float:
        """Log of second / first."""
        return math.log(self.second / self.first)

    @property
    def clear(self) -> bool:
        """Whether it moved by more than the two profiles are unsure of."""
        return abs(self.log_ratio) > max(self.deviation, ROUNDING)


@dataclass(frozen=True)
class Comparison:
    """What differs between two profiles.

    Attributes
    ----------
    first, second : str
        Their labels.
    moved : list of Moved
        All coefficients that are not equal, those that moved most over their deviation first.
    runs : tuple of int
        Fitted runs that only the first has, that both have, that only the second has.
    groups : dict of (engine, family, GPU) to tuple of int
        Fitted runs of the group in the first and in the second, where the counts differ.
    scores : list of dict
        `engine`, `metric`, and of each score that either profile states a pair (first, second).
    parts : dict of str to dict
        Any other part of the two that differs (levels, intervals): `added`, `lost` and `changed`, paths of its
        leaves.
    """

    first: str
    second: str
    moved: list[Moved]
    runs: tuple[int, int, int]
    groups: dict[tuple[str, str, str], tuple[int, int]]
    scores: list[dict[str, Any]]
    parts: dict[str, dict[str, list[str]]]

    @property
    def equal(self) -> bool:
        """Whether nothing that predicts differs."""
        return not self.moved and not self.parts


def compare(first: Profile, second: Profile) -> Comparison:
    """Return what differs between two profiles."""
    one, other = (json.loads(each.to_json()) for each in (first, second))
    ids = [set(each.fitted.get("run_id", ())) for each in (first, second)]
    counts = [_groups(each) for each in (first, second)]
    return Comparison(
        first=first.label,
        second=second.label,
        moved=_moved(one["coefficients"], other["coefficients"]),
        runs=(len(ids[0] - ids[1]), len(ids[0] & ids[1]), len(ids[1] - ids[0])),
        groups={
            group: (counts[0][group], counts[1][group])
            for group in sorted({*counts[0], *counts[1]})
            if counts[0][group] != counts[1][group]
        },
        scores=_scores(first.lineage, second.lineage),
        parts={
            name: found
            for name in sorted({*one, *other} - TOLD)
            if any((found := _changes(one.get(name), other.get(name))).values())
        },
    )


def _moved(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[Moved]:
    found = [
        Moved(
            name,
            one[name]["unit"],
            one[name]["value"],
            other[name]["value"],
            math.hypot(one[name]["log_deviation"], other[name]["log_deviation"]),
        )
        for name in one
    ]
    changed = [each for each in found if abs(each.log_ratio) > ROUNDING]
    return sorted(changed, key=lambda each: -abs(each.log_ratio) / max(each.deviation, ROUNDING))


def _groups(profile: Profile) -> Counter[tuple[str, str, str]]:
    columns = (profile.fitted.get(name, ()) for name in ("engine", "family", "gpu"))
    return Counter(zip(*columns, strict=True))


def _scores(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[dict[str, Any]]:
    boards = [
        {(row["engine"], row["metric"]): row.get("calibrated", {}) for row in each.get("scoreboard", ())}
        for each in (one, other)
    ]
    return [
        {"engine": engine, "metric": metric}
        | {
            name: tuple(board.get((engine, metric), {}).get(name) for board in boards)
            for name in dict.fromkeys(name for board in boards for name in board.get((engine, metric), ()))
        }
        for engine, metric in sorted({*boards[0], *boards[1]})
    ]


def _changes(one: Any, other: Any) -> dict[str, list[str]]:
    """Return the paths of leaves that only the second has, only the first has, and that differ."""
    leaves, others = dict(_leaves(one)), dict(_leaves(other))
    return {
        "added": [path for path in others if path not in leaves],
        "lost": [path for path in leaves if path not in others],
        "changed": [path for path in leaves if path in others and leaves[path] != others[path]],
    }


def _leaves(part: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield path and value of all that is no mapping."""
    if isinstance(part, Mapping):
        for name, each in part.items():
            yield from _leaves(each, f"{path} / {name}" if path else str(name))
    elif part is not None:
        yield path, part
