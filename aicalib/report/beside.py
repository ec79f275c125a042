"""Measured runs beside a deployment: those of its own curve, those near it, and how its group departs from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.calibrate.build import fittable, usable, without_ttft
from aicalib.calibrate.evaluate import Evaluation
from aicalib.calibrate.levels import curve_keys
from aicalib.calibrate.lineage import fitted_rows
from aicalib.calibrate.runs import Runs
from aicalib.nearness import DEPTHS, LEVELED, fitted_curves
from aicalib.prediction import Prediction
from aicalib.profiles.profile import DEPTH_MARK, METRICS, Profile
from aicalib.report.evidence import UNLIKE, distances
from aicalib.report.prediction import sent
from aicalib.resolve.batch import Batch
from aicalib.serving.load import CLOSED, STATIC

Array = NDArray[np.float64]

FAR = UNLIKE["family"]
"""Distance from which on a run says too little of a deployment to stand beside it: another model family."""

MOST_NEAR = 8
"""Runs that stand beside a deployment."""

SHOWN = (
    "source", "src_ref", "engine", "model", "gpu", "gemm", "moe", "kv", "tp", "dp", "ep", "isl", "osl",
)  # fmt: skip
"""What is said of a run that stands beside a deployment."""

NEAR_RATIO = 0.2
"""Departure of a prediction that counts as near."""


class Point(NamedTuple):
    """A measured run of the curve that is asked about; `fitted` where the profile was fitted on it."""

    concurrency: float
    tpot_ms: float
    fitted: bool


def without_version(curve: str) -> str:
    """Return the key of a curve without the engine's version, so that runs of all versions are of one."""
    parts = curve.split(DEPTH_MARK)
    return DEPTH_MARK.join(part for depth, part in zip(DEPTHS, parts, strict=True) if depth != "engine")


def points(asked: Batch, profile: Profile, runs: Runs | None = None) -> tuple[Point, ...]:
    """Return the measured runs of a deployment, its widths and its lengths, under any engine version.

    Parameters
    ----------
    asked : Batch
        One question.
    profile : Profile
        The runs that it was fitted on are known, with or without a store.
    runs : Runs, optional
        Runs of a store, as `sound` gives them.

    Returns
    -------
    tuple of Point
        By concurrency; a run that both hold stands there once. Lengths are of the same half octave, as
        `aicalib.nearness` tells curves apart.
    """
    wanted = without_version(curve_keys(asked)[0])
    fitted = profile.fitted
    found: dict[str, Point] = {}
    for at, key in enumerate(fitted_curves(profile)):
        tpot_ms = fitted["tpot_ms"][at]
        if tpot_ms is not None and without_version(key) == wanted:
            found[fitted["run_id"][at]] = Point(float(fitted["concurrency"][at]), float(tpot_ms), True)
    if runs is not None and runs.batch.at.size:
        known = runs.column("run_id")
        tpot, concurrency = runs.measured["tpot_ms"], runs.batch.load.concurrency
        for at, key in enumerate(curve_keys(runs.batch)):
            if np.isfinite(tpot[at]) and known[at] not in found and without_version(key) == wanted:
                found[known[at]] = Point(float(concurrency[at]), float(tpot[at]), False)
    return tuple(sorted(found.values()))


def sound(runs: Runs) -> Runs:
    """Return the runs whose latency is that of one plain engine under a closed load and that no flag doubts."""
    kept = {id(record) for record in usable(runs.answered)[0]}
    chosen = [at for at, record in enumerate(runs.answered) if id(record) in kept]
    return fittable(without_ttft(runs.take(np.array(chosen, dtype=np.intp))))


def near_runs(found: Prediction, index: int, at_once: float, held: Evaluation) -> list[dict[str, Any]]:
    """Return the stored runs near a deployment, nearest first, each with what it measured beside its own prediction.

    Runs under another kind of load say little of it and are none of them.

    Parameters
    ----------
    found : Prediction
    index : int
        The row that asks.
    at_once : float
        Requests that it has in the engine at a time.
    held : Evaluation
        The profile on the runs of a store.

    Returns
    -------
    list of dict
        At most `MOST_NEAR`, none from `FAR` on: who and where a run is, `distance`, `fitted`, `flags`, and for each
        metric that was measured `measured`, `predicted`, `low`, `high` (None without an answer) and `covered`.
    """
    if not held.runs.batch.at.size:
        return []
    columns = fitted_rows(held.runs, {metric: held.runs.measured[metric] for metric in LEVELED})
    kind = found.batch.load.kind[index]
    if kind not in (CLOSED, STATIC):
        columns.pop("concurrency")  # which a run of another load does not have
    distance = distances(found, index, at_once, columns)
    alike = np.isin(held.runs.batch.load.kind, (CLOSED, STATIC) if kind in (CLOSED, STATIC) else (kind,))
    distance = np.where(alike, distance, np.inf)
    order = [at for at in np.argsort(distance, kind="stable")[:MOST_NEAR].tolist() if distance[at] < FAR]
    answered = held.runs.answered
    return [
        {
            "run_id": columns["run_id"][at],
            "distance": round(float(distance[at]), 3),
            **{name: columns[name][at] for name in SHOWN},
            "engine_version": answered[at].get("engine_version"),
            "load": sent(held.runs.batch.workload(at).as_dict()),
            "fitted": bool(held.seen[at]),
            "flags": list(answered[at].get("flags") or ()),
            "metrics": {
                metric: _beside(held, metric, at)
                for metric in METRICS
                if np.isfinite(held.runs.measured[metric][at])
            },
        }
        for at in order
    ]


def _beside(held: Evaluation, metric: str, at: int) -> dict[str, Any]:
    """Return one figure of a run beside its prediction."""
    interval = held.prediction.comparable(metric, held.runs.median[metric])
    measured = float(held.runs.measured[metric][at])
    value, low, high = (float(each[at]) if np.isfinite(each[at]) else None for each in interval)
    covered = None if low is None or high is None else low <= measured <= high
    return {"measured": measured, "predicted": value, "low": low, "high": high, "covered": covered}


class Residuals(NamedTuple):
    """Measured over predicted of one group's runs, arrays of one shape; NaN where a metric was not measured."""

    engine: str
    family: str
    gpu: str
    concurrency: Array
    fitted: NDArray[np.bool_]
    ratio: dict[str, Array]

    def as_dict(self) -> dict[str, Any]:
        """Return who it is, and for each metric how many runs, their median ratio and the share within 20 %."""
        return {
            "engine": self.engine,
            "family": self.family,
            "gpu": self.gpu,
            "runs": int(self.fitted.size),
            "fitted": int(self.fitted.sum()),
            "metrics": {
                metric: _summary(values[np.isfinite(values)]) for metric, values in self.ratio.items()
            },
        }


def _summary(ratio: Array) -> dict[str, Any]:
    if not ratio.size:
        return {"n": 0, "median_ratio": None, "within_20": None}
    near = np.abs(1.0 / ratio - 1.0) <= NEAR_RATIO
    return {"n": int(ratio.size), "median_ratio": float(np.median(ratio)), "within_20": float(near.mean())}


def residuals(held: Evaluation, groups: Sequence[tuple[str, str, str]] | None = None) -> list[Residuals]:
    """Return measured over predicted by group (engine, model family, GPU), the group with most runs first.

    Parameters
    ----------
    held : Evaluation
        The profile on the runs of a store; `sound` ones are counted.
    groups : sequence of (str, str, str), optional
        Which groups; all if not given.
    """
    runs = without_ttft(held.runs)
    good = np.isin(runs.batch.rows, sound(held.runs).batch.rows)
    of = np.array(["\0".join(group) for group in runs.groups], dtype=object)
    ratios = {
        metric: runs.measured[metric] / held.prediction.comparable(metric, runs.median[metric]).value
        for metric in LEVELED
    }
    answered = np.any([np.isfinite(values) for values in ratios.values()], axis=0)
    found = []
    for group in sorted(set(runs.groups) if groups is None else set(groups)):
        chosen = good & answered & (of == "\0".join(group))
        if chosen.any():
            by_metric = {metric: values[chosen] for metric, values in ratios.items()}
            concurrency = runs.batch.load.concurrency[chosen]
            found.append(Residuals(*group, concurrency, held.seen[chosen], by_metric))
    return sorted(found, key=lambda each: -each.fitted.size)
