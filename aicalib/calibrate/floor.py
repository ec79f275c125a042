"""The noise floor: how far apart two measurements of one thing are."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from aicalib.calibrate.records import setting
from aicalib.calibrate.runs import Runs
from aicalib.calibrate.validate import curve_labels

METRICS = ("tpot_ms", "ttft_ms")


def floors(runs: Runs) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """Return the spread of repeated runs by what repeats, engine and metric.

    Parameters
    ----------
    runs : Runs
        n stored runs, copies left out.

    Returns
    -------
    dict
        "same setting": pairs of runs with everything that is recorded equal: deployment, version, client, load.
        "same point": pairs of one configuration (`curve_labels`, and the expert width) at one concurrency, whatever
        version, client and source. Of each: `pairs`, and median and 90 % quantile of larger over
        smaller - 1.
    """
    versioned = [record.get("engine_version") is not None for record in runs.answered]
    batch = runs.batch
    expert_width, concurrency = batch.system.ep[batch.at].tolist(), batch.load.concurrency.tolist()
    keys: dict[str, list[Hashable]] = {
        "same setting": [
            setting(record) if known else None for record, known in zip(runs.answered, versioned, strict=True)
        ],
        "same point": list(zip(curve_labels(runs), expert_width, concurrency, strict=True)),
    }
    engines = sorted({group[0] for group in runs.groups})
    return {
        what: {
            engine: {metric: _spread(runs, labels, engine, metric) for metric in METRICS}
            for engine in engines
        }
        for what, labels in keys.items()
    }


def _spread(runs: Runs, labels: Sequence[Hashable], engine: str, metric: str) -> dict[str, Any]:
    """Return the spread of the runs of one engine with equal labels; a mean is not held against a median."""
    rows: dict[Hashable, list[float]] = {}
    for at, (label, group) in enumerate(zip(labels, runs.groups, strict=True)):
        value = runs.measured[metric][at]
        if label is not None and group[0] == engine and np.isfinite(value):
            rows.setdefault((label, bool(runs.median[metric][at])), []).append(float(value))
    differences = [
        max(one, other) / min(one, other) - 1.0
        for values in rows.values()
        for one, other in combinations(values, 2)
    ]
    if not differences:
        return {"pairs": 0, "median": None, "p90": None}
    return {
        "pairs": len(differences),
        "median": float(np.median(differences)),
        "p90": float(np.quantile(differences, 0.9)),
    }
