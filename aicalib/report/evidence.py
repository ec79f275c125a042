"""What measured runs say beside a prediction: the nearest of them, and the level that they give it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aicalib.nearness import DEPTHS, NEARNESS, nodes_of
from aicalib.prediction import Prediction
from aicalib.profiles.profile import DEPTH_MARK

Array = NDArray[np.float64]

LABELS = {"ttft_ms": "TTFT", "tpot_ms": "TPOT"}
"""What is told of a measured run, and what people call it."""

NEAREST = 3
"""Measured runs named beside a prediction."""

UNLIKE = {"family": 3.0, "model": 0.5, "gpu": 1.0, "engine": 1.0, "gemm": 0.5, "moe": 0.5, "kv": 0.25}
"""Distance of a run that differs in a name. A GPU or an engine is as far as lengths 2.7 times as long; a run of another
model family is evidence only where there is no other."""

SCALES = 0.1
"""Distance of formats that differ in when their scales are found alone: `fp8` and `fp8_static`."""

RATIOS = {"tp": 1.0, "dp": 0.5, "ep": 0.5, "isl": 1.0, "osl": 1.0, "concurrency": 1.0}
"""Distance of a run by the logarithm of the ratio of a number."""

WORDS = {
    "group": "model family on this GPU",
    "formats": "model and formats",
    "engine": "engine version and settings",
    "configuration": "configuration",
    "curve": "configuration at these lengths",
}
"""What the runs of a place in `DEPTHS` have in common."""


def distances(
    prediction: Prediction, index: int, at_once: float, columns: Mapping[str, Sequence[Any]] | None = None
) -> Array:
    """Return how far each of some runs is from a question.

    Parameters
    ----------
    prediction : Prediction
    index : int
        The row that asks.
    at_once : float
        Requests that it has in the engine at a time.
    columns : mapping, optional
        The runs, as `Profile.fitted` holds them; those that the profile was fitted on if not given.

    Returns
    -------
    ndarray
        The sum of `UNLIKE` (or `SCALES`) over names that differ and of `RATIOS` |ln ratio| over numbers. Empty without
        runs; a column that is lacking adds nothing.
    """
    columns = prediction.profile.fitted if columns is None else columns
    deployment, workload = prediction.batch.deployment(index), prediction.batch.workload(index)
    who = deployment.identity
    names = {
        "family": who.architecture.family,
        "model": who.architecture.name,
        "gpu": who.accelerator.name,
        "engine": who.engine,
        "gemm": who.quant.gemm.name,
        "moe": who.quant.moe.name,
        "kv": who.quant.kvcache.name,
    }
    numbers = {
        "tp": deployment.tp,
        "dp": deployment.dp,
        "ep": deployment.ep,
        "isl": workload.isl,
        "osl": workload.osl,
        "concurrency": at_once,
    }
    found = np.zeros(len(columns.get("run_id", ())))
    for column, weight in UNLIKE.items():
        if column in columns:
            found += np.array([_unlike(each, names[column], weight) for each in columns[column]])
    for column, weight in RATIOS.items():
        if column in columns:
            found += weight * np.abs(np.log(np.array(columns[column], dtype=np.float64) / numbers[column]))
    return found


def _unlike(name: str, asked: str, weight: float) -> float:
    if name == asked:
        return 0.0
    return SCALES if {name, asked} == {"fp8", "fp8_static"} else weight


def nearest(prediction: Prediction, index: int, at_once: float) -> list[dict[str, Any]]:
    """Return the `NEAREST` runs that the profile was fitted on, their distance, and what they measured."""
    fitted, distance = prediction.profile.fitted, distances(prediction, index, at_once)
    keys = ("engine", "family", "gpu", "gemm", "moe", "tp", "isl", "osl", "concurrency")
    return [
        {
            "source": fitted["source"][at],
            "src_ref": fitted["src_ref"][at],
            "distance": round(float(distance[at]), 3),
            **{key: fitted[key][at] for key in keys},
            "measured": {metric: fitted[metric][at] for metric in LABELS},
        }
        for at in np.argsort(distance, kind="stable")[:NEAREST]
    ]


def near(prediction: Prediction, metric: str, index: int) -> dict[str, Any]:
    """Return how near the fitted runs are, and the factor on the physics that they ask for, with the runs behind it."""
    if not prediction.profile.quantiles:
        return {}
    found: dict[str, Any] = {"nearness": NEARNESS[prediction.nearness(metric)[index]]}
    levels = prediction.levels
    if levels is not None and metric in levels.log and levels.depth[metric][index] >= 0:
        key = nodes_of(prediction.profile).key_of(int(levels.node[index]), metric)
        factor = float(np.exp(levels.log[metric][index]))
        found["level"] = {"factor": factor, "runs": int(levels.runs[metric][index]), "of": key}
    return found


def level_lines(found: dict[str, Any]) -> list[str]:
    """Return what measured runs change in a prediction document, in words."""
    lines = []
    for metric, label in LABELS.items():
        level = found["prediction"][metric].get("level")
        if level and found["status"] == "ok":
            runs = f"{level['runs']} run{'s' if level['runs'] > 1 else ''}"
            of = WORDS[DEPTHS[level["of"].count(DEPTH_MARK)]]
            lines.append(f"{label} x {level['factor']:.2f}, the level of {runs} of its {of}")
    return lines


def evidence_lines(found: dict[str, Any]) -> list[str]:
    """Return the nearest runs of a prediction document as lines."""
    lines = ["", "nearest measured runs, by distance:"] if found["evidence"] else []
    for each in found["evidence"]:
        measured = [
            f"{label} {number(each['measured'][metric])} ms"
            for metric, label in LABELS.items()
            if each["measured"][metric]
        ]
        lines.append(
            f"  {each['distance']:4.1f}  {each['family']} {each['gpu']} {each['engine']} {each['gemm']} "
            f"tp {each['tp']}, "
            f"{each['isl']:g}/{each['osl']:g} at {each['concurrency']}: "
            f"{', '.join(measured) or 'neither TTFT nor TPOT'}"
        )
        lines.append(f"        {each['source']} {each['src_ref']}")
    return lines


def number(value: float) -> str:
    """Return a number as text: no more digits than it is good for, a dash where there is none."""
    if not math.isfinite(value):
        return "-"
    digits = 0 if value >= 1000 else 1 if value >= 100 else 2
    return f"{value:.{digits}f}"
