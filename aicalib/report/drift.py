"""Drift in words, as a table and as the document that `drift --json` prints."""

from __future__ import annotations

import math
from typing import Any

from aicalib.calibrate.drift import Drift
from aicalib.calibrate.shift import FALSE_ALARMS, MOST_UNITS, WORTH, Shift
from aicalib.report.scores import ENGINE_NAMES, METRIC_NAMES

VERBS = {
    "tpot_ms": ("decodes", "slower", "faster"),
    "ttft_ms": ("gives the first token", "later", "sooner"),
    "e2e_ms": ("answers", "slower", "faster"),
    "output_tok_s": ("puts out", "more tokens/s", "fewer tokens/s"),
}
"""What an engine does in a metric, and the words for more and for less of it."""

UNIT_NAMES = {"curve": "curves", "formats": "model families or formats", "family": "model families"}

HEADER = ["engine", "version", "gpu", "metric", "curves are", "runs", "curves", "shift", "95 %", "verdict"]
ALIGN = "lllllrrrrl"


def percent(log_ratio: float) -> float:
    """Return a log ratio as a change in per cent."""
    return 100.0 * math.expm1(log_ratio)


def between(shift: Shift) -> str:
    """Return the 95 % interval of a shift in per cent: "-3 to +8 %"."""
    low, high = shift.log_ratio - shift.half_width, shift.log_ratio + shift.half_width
    return f"{percent(low):+.0f} to {percent(high):+.0f} %"


def words(shift: Shift) -> str:
    """Say in one sentence how a profile fares in a cell."""
    engine = ENGINE_NAMES.get(shift.engine, shift.engine)
    who = f"{engine} {shift.engine_version}" if shift.engine_version else f"{engine} of unrecorded version"
    where = f"on {shift.gpu}" + (f" with {shift.family}" if shift.family else "")
    runs = "1 run" if shift.runs == 1 else f"{shift.runs} runs"
    runs += " of curves that it was fitted on" if shift.known else ""
    found = f"{METRIC_NAMES[shift.metric]} {percent(shift.log_ratio):+.0f} %, {between(shift)}"
    if not shift.fitted_runs:
        found += "; the profile was fitted on no run of it there"
    does, more, less = VERBS[shift.metric]
    if shift.verdict == "beyond_noise":
        way = more if shift.log_ratio > 0 else less
        size = f"{abs(percent(shift.log_ratio)):.0f} % {way}"
        return f"{who} {does} {size} than this profile predicts {where}, {runs}, beyond noise ({found})"
    if shift.verdict == "within_noise":
        return f"{who} {does} as this profile predicts {where}, {runs}, within noise ({found})"
    return f"{who} {where}: {runs} {'is' if shift.runs == 1 else 'are'} too few to tell ({found})"


def to_settle(shift: Shift) -> str:
    """Say how many independent measurements would settle the level of a cell."""
    held = (
        f"{shift.curves} curves of {shift.families} model families here give the level to "
        f"±{percent(shift.half_width):.0f} %"
    )
    if shift.unit == "cell":
        return (
            f"{held}; more of them do not tell the engine from models and GPUs "
            "that the profile was not fitted on together"
        )
    unit, worth = UNIT_NAMES[shift.unit], f"±{100 * WORTH[shift.metric]:.0f} %"
    if shift.to_settle is None:
        return f"{held}; {worth} would take more than {MOST_UNITS} {unit}"
    missing = math.ceil(shift.to_settle - shift.units)
    return f"{held}: settled" if missing <= 0 else f"{held}; {worth} would take {missing} more {unit}"


def shift_document(shift: Shift) -> dict[str, Any]:
    """Return a shift as `drift --json` prints it; ratios are measured / predicted."""
    settle = shift.to_settle
    return {
        "engine": shift.engine,
        "engine_version": shift.engine_version,
        "gpu": shift.gpu,
        "known": shift.known,
        "family": shift.family,
        "metric": shift.metric,
        "verdict": shift.verdict,
        "ratio": math.exp(shift.log_ratio),
        "low": math.exp(shift.log_ratio - shift.half_width),
        "high": math.exp(shift.log_ratio + shift.half_width),
        "p_value": shift.p_value,
        "runs": shift.runs,
        "curves": shift.curves,
        "families": shift.families,
        "noise": {
            "unit": shift.unit,
            "units": shift.units,
            "log_scale": shift.interval,
            "repeats_log_deviation": shift.repeats,
            "half_width_log": shift.half_width,
        },
        "fitted_runs": shift.fitted_runs,
        "units_to_settle": settle,
        "words": words(shift),
    }


def document(found: Drift, commands: list[str]) -> dict[str, Any]:
    """Return what `drift --json` prints.

    Parameters
    ----------
    found : Drift
    commands : list of str
        What refits.
    """
    beyond = [shift for shift in found.shifts if shift.beyond]
    return {
        "profile": found.profile,
        "drifted": bool(beyond),
        "false_alarms": FALSE_ALARMS,
        "runs": {
            "given": found.given,
            "compared": found.compared,
            "fitted": found.fitted,
            "doubted": found.doubted,
            "refused": found.refused,
            "uncalibrated": [
                {"engine": engine, "gpu": gpu, "runs": runs}
                for (engine, gpu), runs in sorted(found.uncalibrated.items())
            ],
        },
        "cells": [shift_document(shift) for shift in found.shifts],
        "families": [shift_document(shift) for shift in found.families],
        "refit": {
            "needed": bool(beyond),
            "commands": commands,
            "why": [to_settle(shift) for shift in beyond],
        },
    }


def rows(shifts: list[Shift]) -> list[list[str]]:
    """Return the rows of a table of shifts, under `HEADER`: measured over predicted, as a change."""
    return [
        [
            shift.engine,
            shift.engine_version or "-",
            shift.gpu,
            METRIC_NAMES[shift.metric],
            "known" if shift.known else "new",
            str(shift.runs),
            str(shift.curves),
            f"{percent(shift.log_ratio):+.0f} %",
            between(shift),
            shift.verdict.replace("_", " "),
        ]
        for shift in shifts
    ]


def summary(found: Drift, commands: list[str]) -> list[str]:
    """Return the sentences under the table: what drifted, what was not compared, what a refit takes."""
    beyond = [shift for shift in found.shifts if shift.beyond]
    lines = [words(shift) for shift in beyond]
    lines += [f"{words(shift)}: apart from the other families there" for shift in found.families]
    if not beyond and found.shifts:
        few = sum(shift.verdict == "too_few" for shift in found.shifts)
        lines.append(
            f"nothing is beyond noise in {len(found.shifts)} cells"
            + (f"; {few} of them hold too few runs to show a drift that is worth a refit" if few else "")
        )
        short = min(found.shifts, key=lambda shift: shift.half_width)
        lines.append(f"the surest, {words(short)}: {to_settle(short)}")
    left_out = {
        f"{found.fitted} that the profile was fitted on": found.fitted,
        f"{sum(found.doubted.values())} under a quality flag": sum(found.doubted.values()),
        f"{sum(found.refused.values())} that cannot be asked": sum(found.refused.values()),
        f"{sum(found.uncalibrated.values())} that the profile is not calibrated for": sum(found.uncalibrated.values()),
    }  # fmt: skip
    told = [text for text, count in left_out.items() if count]
    if told:
        lines.append(f"not compared: {', '.join(told)}")
    if beyond:
        lines += [f"to refit: {command}" for command in commands]
        lines += [f"{_cell(shift)}: {to_settle(shift)}" for shift in beyond]
    return lines


def _cell(shift: Shift) -> str:
    return f"{shift.engine} {shift.engine_version or '-'} on {shift.gpu}, {METRIC_NAMES[shift.metric]}"
