"""The level of a cell of new runs against a profile, its interval, and whether noise alone explains it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import false_discovery_control
from scipy.stats import t as student

if TYPE_CHECKING:
    import pandas as pd

CELL = ["engine", "engine_version", "gpu", "metric", "known"]
"""Within one of these a profile can drift: an engine's version on an accelerator, in a metric, on curves of which it
knows runs, or on others."""

FALSE_ALARMS = 0.05
"""Share of what a report calls beyond noise that chance alone may have made; where nothing drifts, the share of reports
that call anything so."""

WORTH = {"tpot_ms": 0.05, "ttft_ms": 0.15, "e2e_ms": 0.05, "output_tok_s": 0.05}
"""Log ratio from which a refit is worth its while: below it a profile errs on settings that it knows well."""

INTERVAL_FREEDOM = 4.0
"""Degrees of freedom that the profile's interval counts for beside the scatter of new runs: t distributions fitted to
the residuals of left-out published groups have 2.6 to 8."""

REPEATS = {"tpot_ms": 0.006, "ttft_ms": 0.07, "e2e_ms": 0.006, "output_tok_s": 0.006}
"""What runs of one point differ by at least, as a logarithm: controlled repeats of published sources differ by 0.6 to
1.4 % in TPOT and by 7 to 12 % in TTFT. No interval makes noise smaller."""

HALF_INTERVAL = 1.645
"""Half of a 90 % interval over its standard deviation, of a normal distribution: cautious, since the shift is then held
against the tails of Student's t. By t's own 2.13 a 9 % share of the cells of left-out groups passes 5 %."""

MOST_UNITS = 1000
"""More independent measurements than this are not asked for."""

UNITS = ("curve", "formats", "family", "cell")
"""What errors of a profile are common to, the narrowest first; see `aicalib.calibrate.drift.units`."""


@dataclass(frozen=True)
class Shift:
    """How far the runs of one cell lie from a profile.

    Attributes
    ----------
    engine, engine_version, gpu, metric : str
        The cell; the version is None where it was not recorded.
    known : bool
        Whether it is of curves of which the profile was fitted on runs, of any version.
    family : str or None
        Model family, where the shift is that of one alone.
    runs, curves, families : int
        A curve (`aicalib.calibrate.drift.CURVE`) is one configuration at one pair of lengths, over its load.
    unit : str
        One of `UNITS`: what errors of the profile are common to in most of the rows.
    units : float
        Independent measurements: the number of units, less where some hold most of the curves.
    log_ratio : float
        Median over the curves of each curve's median log(measured / predicted).
    error : float
        Standard error of `log_ratio`: the profile's own errors and the scatter of the units.
    freedom : float
        Degrees of freedom of `error`.
    centre : float
        Log ratio that is no drift: of fitted runs of these curves, else the middle of the profile's interval.
    interval : float
        Scale of log(measured / predicted) of one run: by what fitted runs of a curve differ by, else by the profile's
        interval.
    repeats : float or None
        Standard deviation of log(measured) of runs of one point; None where no point was measured twice.
    beyond : bool
        Whether the shift is beyond noise, at the rate of `FALSE_ALARMS` over the report.
    fitted_runs : int
        Runs of this engine and accelerator that the profile was fitted on.
    """

    engine: str
    engine_version: str | None
    gpu: str
    metric: str
    known: bool
    family: str | None
    runs: int
    curves: int
    families: int
    unit: str
    units: float
    log_ratio: float
    error: float
    freedom: float
    centre: float
    interval: float
    repeats: float | None
    beyond: bool
    fitted_runs: int

    @property
    def half_width(self) -> float:
        """Half of the 95 % interval of `log_ratio`."""
        return float(student.ppf(0.975, self.freedom) * self.error)

    @property
    def p_value(self) -> float:
        """Chance of a shift at least so far beyond zero and `centre` alike, where nothing drifts."""
        beyond_zero = abs(self.log_ratio)
        beyond_centre = np.sign(self.log_ratio) * (self.log_ratio - self.centre)
        distance = max(min(beyond_zero, beyond_centre), 0.0)
        return float(2.0 * student.sf(distance / self.error, self.freedom))

    @property
    def verdict(self) -> str:
        """`beyond_noise`; `within_noise`, where a drift worth a refit would have shown; else `too_few`."""
        if self.beyond:
            return "beyond_noise"
        shown = self.half_width <= WORTH[self.metric] and self.p_value > FALSE_ALARMS
        return "within_noise" if shown else "too_few"

    @property
    def to_settle(self) -> int | None:
        """Units, these among them, that give the level within `WORTH`.

        None where `MOST_UNITS` do not, and where all runs share one error, which more of them do not thin.
        """
        if self.unit == "cell":
            return None
        one = self.error / np.sqrt(median_variance(self.units))
        more = self.freedom - self.units
        counts = np.arange(1, MOST_UNITS + 1)
        widths = student.ppf(0.975, np.maximum(counts + more, 1.0)) * one * np.sqrt(median_variance(counts))
        enough = np.flatnonzero(widths <= WORTH[self.metric])
        return int(counts[enough[0]]) if enough.size else None


def median_variance(count: Any) -> Any:
    """Return the variance of the median of `count` normal numbers of variance 1.

    pi / (2 (n + pi/2 - 1)): exact for one, within 3 % for odd numbers, above the truth for even ones, by 22 % for two
    and ever less; pi / 2n in the limit (Kenney and Keeping, Mathematics of Statistics, 1962).
    """
    return (np.pi / 2.0) / (count + np.pi / 2.0 - 1.0)


def shifts_of(table: pd.DataFrame, fitted: Mapping[tuple[str, str], int]) -> tuple[list[Shift], list[Shift]]:
    """Return the shift of each cell, the surest first, and of model families that lie apart in theirs.

    Parameters
    ----------
    table : DataFrame
        As `residuals` gives it.
    fitted : mapping of (engine, GPU) to int
        Runs that the profile was fitted on.
    """
    cells = [cell for _, cell in table.groupby(CELL, dropna=False, sort=True)]
    shifts = [_shift(cell, fitted) for cell in cells]
    judged = _judged(shifts, [each.p_value for each in shifts])
    return sorted(judged, key=lambda each: each.p_value), _apart(cells, fitted)


def _repeats(cell: pd.DataFrame) -> float | None:
    """Return the pooled standard deviation of log(measured) of points that were measured more than once."""
    points = cell.groupby(["curve", "concurrency"])["measured"]
    counts, variances = points.count(), points.var()
    freedom = float((counts - 1).sum())
    return float(np.sqrt((variances * (counts - 1)).sum() / freedom)) if freedom else None


def _shift(cell: pd.DataFrame, fitted: Mapping[tuple[str, str], int], family: str | None = None) -> Shift:
    """Return the shift of one cell, not yet judged."""
    first = cell.iloc[0]
    curves = cell.groupby(["unit", "curve"])["log_ratio"].median()
    offs = cell.assign(off=cell["log_ratio"] - cell["centre"]).groupby(["unit", "curve"])["off"].median()
    of_units = offs.groupby(level="unit").median()
    weights = curves.groupby(level="unit").count() / len(curves)
    count = float(1.0 / (weights**2).sum())
    repeats = _repeats(cell)
    interval = float(np.sqrt((cell["interval"] ** 2).mean()))
    own = max(interval, repeats or 0.0, REPEATS[first["metric"]]) ** 2
    between = len(of_units) - 1
    scatter = float(of_units.var()) if between else 0.0
    freedom = INTERVAL_FREEDOM + between
    moderated = (INTERVAL_FREEDOM * own + between * scatter) / freedom
    version = first["engine_version"]
    return Shift(
        engine=first["engine"],
        engine_version=version if isinstance(version, str) else None,
        gpu=first["gpu"],
        metric=first["metric"],
        known=bool(first["known"]),
        family=family,
        runs=int(cell["run"].nunique()),
        curves=len(curves),
        families=int(cell["family"].nunique()),
        unit=UNITS[int(cell["kind"].mode().max())],
        units=count,
        log_ratio=float(curves.median()),
        error=float(np.sqrt(moderated * median_variance(count))),
        freedom=freedom,
        centre=float(curves.median() - offs.median()),
        interval=interval,
        repeats=repeats,
        beyond=False,
        fitted_runs=fitted.get((first["engine"], first["gpu"]), 0),
    )


def _judged(shifts: list[Shift], p_values: list[float]) -> list[Shift]:
    """Return the shifts with those marked beyond noise that the procedure of Benjamini and Hochberg picks."""
    if not shifts:
        return []
    picked = false_discovery_control(p_values) <= FALSE_ALARMS
    return [replace(each, beyond=bool(mark)) for each, mark in zip(shifts, picked, strict=True)]


def _apart(cells: list[pd.DataFrame], fitted: Mapping[tuple[str, str], int]) -> list[Shift]:
    """Return the model families whose shift differs from that of the rest of their cell, beyond noise."""
    found, p_values = [], []
    for cell in cells:
        names = cell["family"].unique()
        for name in names if len(names) > 1 else ():
            alone = _shift(cell[cell["family"] == name], fitted, str(name))
            rest = _shift(cell[cell["family"] != name], fitted)
            error = np.hypot(alone.error, rest.error)
            distance = abs(alone.log_ratio - rest.log_ratio) / error
            found.append(alone)
            p_values.append(float(2.0 * student.sf(distance, min(alone.freedom, rest.freedom))))
    apart = [each for each in _judged(found, p_values) if each.beyond]
    return [replace(each, beyond=each.p_value <= FALSE_ALARMS) for each in apart]
