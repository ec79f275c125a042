"""From the kernel runs of a store to the calls of each accelerator and variant."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from aicalib.calibrate.kernels.fit import Sample, join, take
from aicalib.calibrate.kernels.table import Calls, Table
from aicalib.hardware import get_accelerator
from aicalib.profiles.kernels import Label

if TYPE_CHECKING:
    from perfdb import Store


def version_key(version: str) -> tuple[int, ...]:
    """Return what an engine's version sorts by: "0.5.10" after "0.5.9", "0.5.6.post2" after "0.5.6".

    Examples
    --------
    >>> version_key("0.5.6.post2")
    (0, 5, 6, 2)
    """
    return tuple(int(number) for number in re.findall(r"\d+", version))


def collect(store: Store, table: Table) -> dict[Label, Sample]:
    """Return the calls of a kind by accelerator and variant.

    Of several engine versions the newest that has the variant speaks, for each stored table by itself.
    """
    parts: dict[Label, list[tuple[str, Calls]]] = defaultdict(list)
    stored = [each for each in store.kernel_tables() if each["engine"] in table.engines]
    for name in table.tables:
        newest: dict[Label, tuple[str, Calls]] = {}
        chosen = [each for each in stored if each["table_name"] == name]
        for entry in sorted(chosen, key=lambda each: version_key(each["engine_version"])):
            for label, calls in _by_variant(store, table, entry).items():
                newest[label] = entry["engine_version"], calls
        for label, part in newest.items():
            parts[label].append(part)
    return {
        label: Sample(
            get_accelerator(label[0]),
            join([calls for _, calls in found]),
            tuple(sorted({version for version, _ in found}, key=version_key)),
        )
        for label, found in parts.items()
    }


def _by_variant(store: Store, table: Table, entry: Mapping[str, Any]) -> dict[Label, Calls]:
    """Return the calls of one stored table of one accelerator and engine version, by variant."""
    frame = store.kernel_runs(
        entry["table_name"], entry["accelerator"], entry["engine"], entry["engine_version"]
    )
    accelerator = get_accelerator(entry["accelerator"]).name
    frame["accelerator"], frame["engine"] = accelerator, entry["engine"]
    calls = table.calls(frame.rename(columns={"table_name": "table"}))
    timed = np.isfinite(calls.latency_s) & (calls.latency_s > 0.0)
    return {
        (accelerator, str(variant)): take(calls, timed & (calls.variant == variant))
        for variant in np.unique(calls.variant[timed])
    }
