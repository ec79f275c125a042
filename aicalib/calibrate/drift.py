"""Drift: where new runs depart from a profile by more than its own errors and their scatter explain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aicalib.calibrate.build import TTFT_FLAGS, usable
from aicalib.calibrate.evaluate import Evaluation, evaluate
from aicalib.calibrate.runs import Runs
from aicalib.calibrate.shift import HALF_INTERVAL, UNITS, Shift, shifts_of
from aicalib.errors import InvalidValue
from aicalib.profiles.profile import METRICS, Profile

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

CURVE = ("model", "weight_quant", "tp", "dp", "pp", "isl", "osl")
"""Keys that make a curve within a cell: its runs differ in load, and in settings that scripts derive from the load.
The view `drift` of the store goes by the same."""

PLACE = ["engine", "gpu", "curve", "metric"]
"""What a run has in common with fitted runs of its curve under other versions."""


@dataclass(frozen=True)
class Drift:
    """A profile against runs that it was not fitted on.

    Attributes
    ----------
    profile : str
        Its label.
    shifts : list of Shift
        One a cell, the surest first.
    families : list of Shift
        Model families that lie apart from the rest of their cell.
    given, fitted, compared : int
        Runs; those that the profile was fitted on; those behind `shifts`.
    doubted, refused : dict of str to int
        Runs that a quality flag leaves out, and that cannot be asked, by flag and by reason.
    uncalibrated : dict of (engine, GPU) to int
        Runs of what the profile was not fitted on (its origin is not "calibrated"): nothing that could drift.
    """

    profile: str
    shifts: list[Shift]
    families: list[Shift]
    given: int
    fitted: int
    compared: int
    doubted: dict[str, int]
    refused: dict[str, int]
    uncalibrated: dict[tuple[str, str], int]


def drift(records: Iterable[Mapping[str, Any]], profile: Profile) -> Drift:
    """Hold new runs against a profile, by engine, version, GPU and metric.

    Parameters
    ----------
    records : iterable of mapping
        Runs in the runs format with the key `flags`, as `aicalib.calibrate.records.stored_runs` and `judged_runs`
        give them.
    profile : Profile
        Not changed.

    Raises
    ------
    InvalidValue
        If the profile has no intervals.

    Notes
    -----
    The profile's interval at a run says how far one such run lies off where nothing changed, and its errors are
    common to a unit (`units`). The variance of a unit's level is that of the interval, or of repeated runs where that
    is larger, moderated by the scatter between units with `INTERVAL_FREEDOM` degrees of freedom for the interval
    (Smyth 2004, doi:10.2202/1544-6115.1027). Of all cells, those are beyond noise that the procedure of
    Benjamini and Hochberg (1995) picks at `FALSE_ALARMS`.
    """
    if not profile.quantiles:
        raise InvalidValue(
            f"profile {profile.label} was fitted on no runs: it has no interval that a drift could exceed",
            ["--profile default", "aicalib calibrate"],
        )
    records = list(records)
    kept, doubted = usable(records)
    found = evaluate(kept, profile)
    refused = Counter(str(error) for error in found.runs.batch.refused.values())
    new = ~found.seen & found.prediction.fits & found.runs.settled
    origins = np.array(found.prediction.origin, dtype=object)
    others = np.flatnonzero(new & (origins != "calibrated"))
    table = beside_fitted(residuals(found, (found.seen | new) & (origins == "calibrated"), profile))
    fitted = Counter(zip(profile.fitted.get("engine", ()), profile.fitted.get("gpu", ()), strict=True))
    shifts, families = shifts_of(table, fitted)
    return Drift(
        profile=profile.label,
        shifts=shifts,
        families=families,
        given=len(records),
        fitted=int(found.seen.sum()),
        compared=int(table["run"].nunique()),
        doubted=doubted,
        refused=dict(refused.most_common()) | _does_not_fit(found),
        uncalibrated=dict(Counter((found.runs.groups[at][0], found.runs.groups[at][2]) for at in others)),
    )


def units(found: Evaluation, profile: Profile) -> tuple[list[str], list[str]]:
    """Return for each run what it shares the profile's error with: of `UNITS`, and which.

    On groups (engine, model family, GPU) that the profile was not fitted on it may err alike on all runs of a cell:
    eight models of one make on a new GPU are no eight witnesses against an engine. On a group that it knows, it
    errs alike on all runs of the model family; where it has levels, which take that error up, on those of one model
    family in one format.
    """
    runs = found.runs
    groups = set(zip(*(profile.fitted.get(name, ()) for name in ("engine", "family", "gpu")), strict=True))
    # A profile of coefficients alone knows no group's level.
    levelled = bool(profile.levels)
    kinds, names = [], []
    for group, code in zip(runs.groups, runs.batch.codes, strict=True):
        quant = runs.batch.identities[code].quant
        if group not in groups:
            kind, name = "cell", ""
        elif levelled:
            kind, name = "formats", f"{group[1]} {quant.gemm.name} {quant.moe.name}"
        else:
            kind, name = "family", group[1]
        kinds.append(kind)
        names.append(name)
    return kinds, names


def _curves(runs: Runs) -> list[str]:
    """Return the name of each run's curve within its cell."""
    return ["|".join(str(record.get(key)) for key in CURVE) for record in runs.answered]


def _does_not_fit(found: Evaluation) -> dict[str, int]:
    count = int((~found.prediction.fits).sum())
    return {"does_not_fit": count} if count else {}


def residuals(found: Evaluation, chosen: NDArray[np.bool_], profile: Profile) -> pd.DataFrame:
    """Return one row a chosen run and metric that was measured and that no flag doubts.

    Returns
    -------
    DataFrame
        `run` (its number), `fitted`, `engine`, `engine_version`, `gpu`, `family`, `curve`, `concurrency`, `kind`
        (place in `UNITS`) and `unit`, `metric`, and logs: `measured` (in the metric's unit), `log_ratio` (measured /
        predicted), `centre` and `interval` as a `Shift` has them.
    """
    import pandas as pd

    runs, batch = found.runs, found.runs.batch
    kinds, names = units(found, profile)
    table = pd.DataFrame(
        {
            "run": np.arange(batch.rows.size),
            "fitted": found.seen,
            "engine": [group[0] for group in runs.groups],
            "engine_version": runs.column("engine_version"),
            "gpu": [group[2] for group in runs.groups],
            "family": [group[1] for group in runs.groups],
            "curve": _curves(runs),
            "concurrency": batch.load.concurrency,
            "kind": [UNITS.index(kind) for kind in kinds],
            "unit": names,
        }
    )
    cold = np.array(
        [bool({*TTFT_FLAGS} & {*(each.get("flags") or ())}) for each in runs.answered], dtype=bool
    )
    parts = []
    for metric in METRICS:
        value, low, high = found.prediction.comparable(metric, runs.median[metric])
        measured = np.where(cold & (metric in ("ttft_ms", "e2e_ms")), np.nan, runs.measured[metric])
        parts.append(
            table.assign(
                metric=metric,
                measured=np.log(measured),
                log_ratio=np.log(measured / value),
                centre=np.log(low * high / value**2) / 2.0,
                interval=np.log(high / low) / 2.0 / HALF_INTERVAL,
            )[chosen]
        )
    whole: pd.DataFrame = pd.concat(parts, ignore_index=True)
    return whole.dropna(subset=["log_ratio", "interval"])


def beside_fitted(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that are not fitted, each held against fitted rows of its curve where there are such.

    There the profile is known to be off by the median of those rows, and the noise is what rows of one curve differ
    by: the engine's version, which a wider interval must allow for, is what is asked about. Such rows are `known`.

    Parameters
    ----------
    table : DataFrame
        As `residuals` gives it.
    """
    fitted, new = table[table["fitted"]], table[~table["fitted"]]
    by_curve = fitted.groupby(PLACE)["log_ratio"]
    of_curve = by_curve.agg(["median", "count"])
    apart = fitted.assign(off=(fitted["log_ratio"] - by_curve.transform("median")).abs())
    repeated = of_curve[of_curve["count"] > 1].groupby(level=["engine", "metric"])["count"]
    rows, curves = repeated.sum(), repeated.count()
    # A curve's own median takes a degree of freedom of its rows.
    farthest = apart[by_curve.transform("count") > 1].groupby(["engine", "metric"])["off"].quantile(0.9)
    within = (farthest / HALF_INTERVAL * np.sqrt(rows / (rows - curves))).rename("within")
    new = new.join(of_curve, on=PLACE).join(within, on=["engine", "metric"])
    known = new["count"].notna()
    told = known & new["within"].notna()
    return new.assign(
        known=known,
        centre=np.where(told, new["median"], new["centre"]),
        interval=np.where(told, new["within"] * np.sqrt(1.0 + 1.0 / new["count"]), new["interval"]),
        kind=np.where(told, UNITS.index("curve"), new["kind"]),
        unit=np.where(told, new["curve"], new["unit"]),
    )
