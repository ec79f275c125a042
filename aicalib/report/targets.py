"""The targets that a scoreboard is held to, `targets.toml`, and what was reached of each."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

from aicalib.report.markdown import table
from aicalib.report.scores import ENGINE_NAMES, LABELS, METRIC_NAMES, percent

Document = Mapping[str, Any]


def targets(document: Document) -> Iterator[str]:
    """Yield the lines of the page's part on targets."""
    yield "## Targets"
    yield ""
    yield (
        "The bar is what must be met, the aim what we are after. In brackets: 10 to 90 % range of the median when "
        "whole groups are drawn anew."
    )
    yield ""
    rows = []
    for target in tomllib.loads(files("aicalib.report").joinpath("targets.toml").read_text())["target"]:
        for goal in ("tpot_ms", "within_20", "ttft_ms", "e2e_ms"):
            if goal in target:
                rows.append(_target_row(document, target, goal))
    yield from table(("left out", "engine", "figure", "", "ours", "bar", "aim"), 4, rows)


def _target_row(document: Document, target: Mapping[str, Any], goal: str) -> list[str]:
    """Return the line of one goal: what was reached, the bar, the aim and which of them is met."""
    found = _reached(document, target, "tpot_ms" if goal == "within_20" else goal)
    bar, *rest = target[goal]
    shown = ["-", "no run is answered"]
    if found is not None:
        reached = found[goal if goal == "within_20" else "median_ape"]
        met = [reached >= each if goal == "within_20" else reached <= each for each in target[goal]]
        word = (
            "**misses the bar**" if not met[0] else "meets the aim" if all(met) and rest else "meets the bar"
        )
        spread = found.get("range_80") if goal != "within_20" else None
        range_80 = f" ({percent(spread[0])} to {percent(spread[1])})" if spread else ""
        shown = [percent(reached) + range_80, word]
    return [
        f"the rest, {target['revealed']} known" if "revealed" in target else LABELS[target["left_out"]],
        ENGINE_NAMES[target["engine"]],
        "TPOT within 20 %" if goal == "within_20" else f"{METRIC_NAMES[goal]} median",
        shown[1],
        shown[0],
        percent(bar),
        *(map(percent, rest) if rest else "-"),
    ]


def _reached(document: Document, target: Mapping[str, Any], metric: str) -> Mapping[str, Any] | None:
    """Return the scores that a target is held to, None where there are none."""
    found: Mapping[str, Any] | None
    if "revealed" in target:
        steps = [each for each in document["learning"] if each["engine"] == target["engine"]]
        found = next(
            (each for each in steps if (each["revealed"], each["metric"]) == (target["revealed"], metric)),
            None,
        )
        return found and {"median_ape": found["own"], "within_20": found["within_20"]}
    engines: Mapping[str, Mapping[str, Any]] = document["splits"][target["left_out"]]["engines"]
    found = engines.get(target["engine"], {}).get(metric)
    return found
