"""Profiles and their differences, as tables and documents."""

from __future__ import annotations

import json
import math
from typing import Any

from aicalib.profiles import Profile, all_coefficients
from aicalib.profiles.compare import Comparison
from aicalib.report.scores import METRIC_NAMES, percent

COEFFICIENTS_HEADER = ["coefficient", "value", "prior", "x prior", "x or / (1 s.d.)", "unit"]
COEFFICIENTS_ALIGN = "lrrrrl"
MOVED_HEADER = ["coefficient", "first", "second", "change", "of its deviation", "unit"]
MOVED_ALIGN = "lrrrrl"
SCORES = ("median_ape", "within_20", "coverage_90")
SCORES_HEADER = ["engine", "metric", "n", "median APE", "within 20 %", "in 90 %"]
SCORES_ALIGN = "llrrrr"
MOST_PATHS = 12
"""Levels or interval entries of a kind that a person is told each."""


def document(profile: Profile) -> dict[str, Any]:
    """Return what `profiles show --json` prints: the profile's JSON form, its fitted runs counted by group."""
    found: dict[str, Any] = json.loads(profile.to_json())
    columns = found.pop("fitted")
    counts: dict[tuple[Any, ...], int] = {}
    for group in zip(*(columns.get(name, ()) for name in ("engine", "family", "gpu")), strict=True):
        counts[group] = counts.get(group, 0) + 1
    groups = [
        {"engine": engine, "family": family, "gpu": gpu, "runs": runs}
        for (engine, family, gpu), runs in sorted(counts.items())
    ]
    return found | {"fitted": {"runs": sum(counts.values()), "groups": groups}}


def coefficient_rows(profile: Profile) -> list[list[str]]:
    """Return a row for each coefficient that the runs moved, farthest from its prior first."""
    known = zip(all_coefficients(), profile.values, profile.deviations, strict=True)
    fitted = [(each, float(value), float(deviation)) for each, value, deviation in known if deviation > 0]
    fitted.sort(key=lambda row: -abs(math.log(row[1] / row[0].prior)))
    return [
        [each.name, f"{value:.4g}", f"{each.prior:.4g}", f"{value / each.prior:.2f}", f"{math.exp(deviation):.2f}",
         each.unit]
        for each, value, deviation in fitted
    ]  # fmt: skip


def comparison_document(found: Comparison) -> dict[str, Any]:
    """Return what `profiles diff --json` prints."""
    return {
        "first": found.first,
        "second": found.second,
        "equal": found.equal,
        "coefficients": [
            {"name": each.name, "unit": each.unit, "first": each.first, "second": each.second,
             "ratio": math.exp(each.log_ratio), "log_deviation": each.deviation, "clear": each.clear}
            for each in found.moved
        ],
        "runs": dict(zip(("lost", "kept", "added"), found.runs, strict=True)),
        "groups": [
            {"engine": engine, "family": family, "gpu": gpu, "first": counts[0], "second": counts[1]}
            for (engine, family, gpu), counts in found.groups.items()
        ],
        "scores": found.scores,
        "parts": found.parts,
    }  # fmt: skip


def moved_rows(found: Comparison) -> list[list[str]]:
    """Return a row for each coefficient that moved by more than its deviation, under `MOVED_HEADER`."""
    return [
        [each.name, f"{each.first:.4g}", f"{each.second:.4g}", f"{100 * math.expm1(each.log_ratio):+.1f} %",
         f"{abs(each.log_ratio) / each.deviation:.1f} x" if each.deviation else "was held", each.unit]
        for each in found.moved
        if each.clear
    ]  # fmt: skip


def score_rows(found: Comparison) -> list[list[str]]:
    """Return a row for each engine and metric, errors in per cent, first -> second, under `SCORES_HEADER`."""
    return [
        [each["engine"], METRIC_NAMES[each["metric"]], _pair(each.get("n"), str),
         *(_pair(each.get(name), percent) for name in SCORES)]
        for each in found.scores
    ]  # fmt: skip


def _pair(pair: tuple[Any, Any] | None, show: Any) -> str:
    first, second = ("-" if each is None else show(each) for each in pair or (None, None))
    return f"{first} -> {second}"


def group_lines(found: Comparison) -> list[str]:
    """Return a line a group that came, went or has other runs."""
    words = []
    for (engine, family, gpu), (before, after) in found.groups.items():
        change = "added" if not before else "lost" if not after else "other runs"
        words.append(f"{change}: {engine} {family} on {gpu}, {before} -> {after} runs")
    return words


def part_lines(found: Comparison) -> list[str]:
    """Return a line for each kind of change of a part that has no words of its own, such as levels and intervals."""
    lines = []
    for name, changes in found.parts.items():
        for kind, paths in changes.items():
            if paths:
                told = "; ".join(paths[:MOST_PATHS])
                more = (
                    f"; and {len(paths) - MOST_PATHS} more: --json lists all"
                    if len(paths) > MOST_PATHS
                    else ""
                )
                lines.append(f"{name} {kind}: {told}{more}")
    return lines
