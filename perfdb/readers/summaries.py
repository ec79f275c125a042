"""What benchmark clients write per metric, an object of statistics with a unit, as keys of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from perfdb.keys import KEYS, PROVENANCE, VIEW_ONLY
from perfdb.readers.values import number, scaled
from perfdb.record import BadRecord

FACTORS: Final[dict[str, dict[str, float]]] = {
    "ms": {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3, "sec": 1e3, "seconds": 1e3},
    "s": {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "seconds": 1.0},
    "1/s": {f"{what}/{per}": 1.0 for what in ("requests", "tokens") for per in ("s", "sec")},
    "1": {"requests": 1.0, "tokens": 1.0, "count": 1.0},
    "pct": {"%": 1.0, "ratio": 100.0},
}
"""For each unit that a run is kept in, the units that clients state and the factor from them."""


@dataclass
class Figures:
    """Keys of a run while a reader collects them.

    Parameters
    ----------
    data, stated : dict
        As in `perfdb.record.Record`.
    """

    data: dict[str, Any] = field(default_factory=dict)
    stated: dict[str, tuple[str, Any, str]] = field(default_factory=dict)

    def put(self, key: str, value: Any, name: str, unit: Any, to: str) -> None:
        """Take one value, converted from the unit that the file states.

        Parameters
        ----------
        key : str
            Key of a run.
        value : object
            As the file has it; what is no number is passed on, to be refused by name.
        name, unit : str
            Where the file has it and in which unit.
        to : str
            Unit of the key, from `FACTORS`.

        Raises
        ------
        BadRecord
            If the unit is unknown.
        """
        if value is None:
            return
        factor = FACTORS[to].get(unit) if isinstance(unit, str) else None
        if factor is None:
            raise BadRecord(f"{name} has the unit {unit!r}; known are {', '.join(FACTORS[to])}")
        if factor == 1.0 or number(value) is None:
            self.data[key] = value
        else:
            self.data[key] = scaled(value, factor)
            self.stated[key] = (name, value, unit)

    def latency(
        self, short: str, name: str, summary: Mapping[str, Any], names: Mapping[str, str], unit: Any
    ) -> None:
        """Take the statistics of a latency as `{statistic}_{short}_ms`; those without a key stay under its name.

        Parameters
        ----------
        short : str
            `ttft`, `tpot`, `itl` or `e2e`.
        name : str
            Name of the metric in the file.
        summary : mapping
            Its statistics.
        names : mapping
            For each statistic of the file that a run has, the word used here: mean, median, std, p90, p95, p99.
        unit : object
            As the file states it.
        """
        for key, statistic in names.items():
            self.put(f"{statistic}_{short}_ms", summary.get(key), f"{name}.{key}", unit, "ms")
        rest = {key: value for key, value in summary.items() if key not in names and value is not None}
        if rest.keys() - {"unit"}:
            self.data[name] = rest

    def keep(self, found: Mapping[str, Any], without: Iterable[str] = ()) -> None:
        """Keep what a run has no key for under the names of the file."""
        taken = {*KEYS, *PROVENANCE, *VIEW_ONLY}
        for name, value in found.items():
            if name not in without and value is not None:
                self.data.setdefault(f"{name}_in_file" if name in taken else name, value)


def model_keys(name: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a model's name as stated and suggested keys: a local path only suggests it."""
    is_path = isinstance(name, str) and (name.startswith((".", "/", "~")) or "\\" in name)
    return ({}, {"model": name}) if is_path else ({"model": name}, {})


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the statistics of a list as the clients do: population deviation, percentiles interpolated.

    Raises
    ------
    BadRecord
        If a value is not finite, or there is none.
    """
    if not values or not all(math.isfinite(value) for value in values):
        raise BadRecord("no values, or one that is not finite: no mean can be formed")
    ordered = sorted(values)
    mean = sum(ordered) / len(ordered)
    variance = sum((value - mean) * (value - mean) for value in ordered) / len(ordered)
    found = {"mean": mean, "std": math.sqrt(variance), "median": _percentile(ordered, 50)}
    return found | {f"p{share}": _percentile(ordered, share) for share in (90, 95, 99)}


def _percentile(ordered: Sequence[float], share: float) -> float:
    """Interpolate between the closest ranks."""
    place = (len(ordered) - 1) * share / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
