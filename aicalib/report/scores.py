"""Scoreboards as tables and documents."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from aicalib.calibrate.build import Calibration
from aicalib.calibrate.own import OwnCalibration

ENGINE_NAMES = {"sglang": "SGLang", "vllm": "vLLM", "trtllm": "TensorRT-LLM"}

LABELS = {
    "group": "model family x GPU",
    "family": "model family",
    "generation": "GPU generation",
    "configuration": "configuration",
    "curve": "curve",
}
"""What a split leaves out, in words."""

METRIC_NAMES = {
    "tpot_ms": "TPOT", "ttft_ms": "TTFT", "e2e_ms": "end to end", "output_tok_s": "output tok/s",
    "max_total_tokens": "KV pool", "max_total_tokens_given_memory": "KV pool, rule alone",
}  # fmt: skip


def percent(fraction: float | None) -> str:
    """Return a fraction as per cent, a dash where there is none."""
    return "-" if fraction is None or fraction != fraction else f"{100 * fraction:.1f}"


def scoreboard_rows(board: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of a profile's scoreboard, physics alone -> calibrated, errors in per cent."""
    header = [
        "engine",
        "metric",
        "n",
        "groups",
        "median APE",
        "MAPE",
        "group median",
        "within 20 %",
        "in 90 %",
    ]
    rows = [
        [
            each["engine"],
            METRIC_NAMES[each["metric"]],
            str(each["calibrated"]["n"]),
            str(each["groups"]),
            *(
                f"{percent(each['physics'][key])} -> {percent(each['calibrated'][key])}"
                for key in ("median_ape", "mape", "group_median_ape", "within_20")
            ),
            percent(each["calibrated"]["coverage_90"]),
        ]
        for each in board
    ]
    return header, rows


def calibration_document(found: Calibration) -> dict[str, Any]:
    """Return what `calibrate --json` prints."""
    return {
        "profile": found.profile.label,
        "runs": found.profile.lineage["runs"],
        "groups": found.profile.lineage["groups"],
        "left_out_by_flag": found.left_out,
        "scoreboard": found.profile.lineage["scoreboard"],
        "quantiles": found.profile.quantiles,
        "remarks": found.profile.lineage["remarks"],
    }


def own_document(found: OwnCalibration) -> dict[str, Any]:
    """Return what `calibrate --base --json` prints."""
    return {
        "profile": found.profile.label,
        "base": found.base.label,
        "runs": int(found.runs.batch.at.size),
        "known_to_base": found.known,
        "left_out_by_flag": found.left_out,
        "scores": [asdict(each) for each in found.scores],
        "quantiles": found.profile.quantiles,
        "remarks": found.remarks,
    }


def own_rows(scores: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the scores of own runs: median errors in per cent, and how many are in the interval."""
    header = ["engine", "metric", "n", "uncalibrated", "base", "own", "own in 90 %"]
    rows = []
    for each in scores:
        left_out = each["left_out"] or {}
        rows.append(
            [
                each["engine"],
                METRIC_NAMES[each["metric"]],
                str(each["base"]["n"]),
                percent(each["uncalibrated"]["median_ape"]),
                percent(each["base"]["median_ape"]),
                percent(left_out.get("median_ape")),
                percent(left_out.get("coverage_90")),
            ]
        )
    return header, rows


def evaluation_rows(document: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of an evaluation, errors in per cent; of unflagged runs where they differ from all."""
    header = ["runs", "metric", "n", "median APE", "MAPE", "p90", "bias", "within 20 %", "in interval"]
    rows = []
    unflagged = document.get("unflagged", {}).get("metrics", {})
    differs = any(scores != document["metrics"][metric] for metric, scores in unflagged.items())
    parts = {
        "unseen": document["metrics"],
        "unflagged": unflagged if differs else {},
        "inferred": document.get("inferred", {}),
        "seen": document.get("seen", {}),
    }
    for name, scores in parts.items():
        for metric, each in scores.items():
            if each["n"]:
                figures = (
                    each[key] for key in ("median_ape", "mape", "p90_ape", "bias", "within_20", "coverage_90")
                )
                rows.append(
                    [name, METRIC_NAMES[metric], str(each["n"]), *(percent(figure) for figure in figures)]
                )
    return header, rows


def left_out_words(document: Mapping[str, Any]) -> str:
    """Return how many unseen runs each quality flag leaves out of the unflagged ones, nothing where none is."""
    counts = document.get("unflagged", {}).get("left_out", {})
    return ", ".join(f"{flag} {count}" for flag, count in sorted(counts.items(), key=lambda item: -item[1]))


def refusal_rows(refused: Mapping[str, int]) -> list[list[str]]:
    """Return counts and reasons, most first; reasons that differ only in the name they are about are one."""
    grouped: Counter[str] = Counter()
    for reason, count in refused.items():
        grouped[_without_names(reason)] += count
    return [[str(count), reason] for reason, count in grouped.most_common()]


def _without_names(reason: str) -> str:
    reason = re.sub(r"^\S+: (not computed: .*?)( \(model_type .*\))?$", r"\1", reason)
    return re.sub(r"^(unknown [^']+) '.*$", r"\1", reason)
