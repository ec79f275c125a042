"""What a loop found out, for people: a line a run while it goes, and the report at its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aicalib.engines.launch import shell_line
from aicalib.report.numbers import short

NAMES: Final = {"ttft_ms": "TTFT", "tpot_ms": "TPOT"}

SMALL: Final = 0.01
"""Levels that moved by less are not told."""

HEADER: Final = ("", "run", "TTFT ms", "measured", "error", "TPOT ms", "measured", "error", "")
ALIGN: Final = "rlrrrrrrl"


def row(step: Mapping[str, Any]) -> list[str]:
    """Return the cells of `HEADER` for one run.

    Parameters
    ----------
    step : mapping
        As `aicalib.loop.result.step` returns it.
    """
    cells = [str(step["number"]), f"{step['point']} at {load_words(step['load'])}"]
    for metric in NAMES:
        predicted, measured = step["predicted"].get(metric), step["measured"].get(metric)
        cells.append(
            "-" if predicted is None
            else f"{short(predicted['value'])} ({short(predicted['low'])} to {short(predicted['high'])})"
        )  # fmt: skip
        error = step["errors"].get(metric)
        cells += [
            "-" if measured is None else short(measured),
            "" if error is None else f"{100 * error:+.0f} %",
        ]
    return [*cells, _remark(step)]


def _remark(step: Mapping[str, Any]) -> str:
    words = ["repeat"] if step["repeat"] else []
    if step["outcome"] is None:
        words.append("under way")
    elif step["outcome"] != "measured":
        words.append(f"{step['outcome'].replace('_', ' ')}: {step['reason']}")
    words += [f"outside {NAMES[metric]} interval" for metric, inside in step["held"].items() if not inside]
    return ", ".join([*words, *step["flags"]])


def load_words(load: Mapping[str, Any]) -> str:
    """Return a load in short: input / output tokens x requests in flight."""
    return f"{load['isl']}/{load['osl']} x {load['concurrency']}"


def text(said: Mapping[str, Any]) -> list[str]:
    """Return the end report as lines for people; the table of its runs stands apart."""
    lines = [f"ended, {said['ended']['kind'].replace('_', ' ')}: {said['ended']['reason']}"]
    lines.append(
        f"{said['runs']} runs measured ({said['repeats']} repeats), {said['failures']} failures, "
        f"{said['minutes']:.1f} minutes; {said['measured_candidates']} of {said['candidates']} candidates are measured"
    )
    learned = [f"  {each}" for level in said["learned"] for each in _level_words(level)]
    lines += ["", "learned:", *(learned or ["  nothing beyond what was predicted"])]
    lines += ["", *_error_lines(said)]
    failed = [each for each in said["steps"] if each["message"]]
    lines += ["", "failed:"] if failed else []
    lines += [f"  run {each['number']}, {each['reason']}: {each['message']}" for each in failed]
    lines += ["", *_choice_lines(said["choice"])]
    if said["own_profile"]:
        lines += [
            "",
            f"profile {said['own_profile']} holds what was measured: aicalib predict --profile {said['own_profile']}",
        ]
    if said["next"]:
        lines += ["", "next, with more budget:"]
        lines += [f"  {each['teaches']}, {each['cost_minutes']:.1f} min" for each in said["next"]]
    return lines


def _choice_lines(choice: Mapping[str, Any] | None) -> list[str]:
    if choice is None:
        return ["choice: none, since no start of the task can be tried again"]
    score = choice["score"]
    sure = "measured" if choice["measured"] else "not all of it measured"
    return [
        f"choice: {choice['point']}, score {score['value']:.4g} ({score['low']:.4g} to {score['high']:.4g}), {sure}",
        f"  {shell_line(choice['env'], choice['launch'])}",
    ]


def _level_words(level: Mapping[str, Any]) -> list[str]:
    """Say by how much the times of a configuration differ from what was predicted before the loop."""
    runs = f"{level['runs']} run" + ("s" if level["runs"] > 1 else "")
    return [
        f"{level['point']}: {NAMES[metric]} {_times(factor)} predicted ({runs})"
        for metric, factor in level["factors"].items()
        if abs(factor - 1.0) >= SMALL
    ]


def _times(factor: float) -> str:
    if not 0.5 < factor < 2.0:
        return f"{factor:.2g} times what was"
    return f"{100 * abs(factor - 1.0):.0f} % {'longer' if factor > 1.0 else 'shorter'} than"


def _error_lines(said: Mapping[str, Any]) -> list[str]:
    lines = []
    for metric, name in NAMES.items():
        points = said["unmeasured"][metric]
        if points["n"]:
            thirds = ""
            if points["first_third"] is not None:
                thirds = f", first third {_percent(points['first_third'])}, last third {_percent(points['last_third'])}"
            lines.append(
                f"{name} of {points['n']} points, predicted just before they were measured: median error "
                f"{_percent(points['median_ape'])}{thirds}; in their 90 % intervals {_percent(points['coverage_90'])}"
            )
    for metric, name in NAMES.items():
        scores = said["measured"].get(metric)
        if scores and scores["after"] is not None:
            lines.append(
                f"{name} of all {scores['n']} measured runs: {_percent(scores['before'])} before the loop, "
                f"{_percent(scores['after'])} with the other runs known"
            )
    return lines or ["no point was measured"]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
