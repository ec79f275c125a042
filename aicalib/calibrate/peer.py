"""Another tool's answers on the shipped runs, scored beside ours on the rows that both answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aicalib.calibrate.runs import Runs
from aicalib.calibrate.score import score_groups
from aicalib.calibrate.validate import LeftOut

SOURCE = "aic-silicon"
"""The source whose rows it was asked."""

METRICS = ("tpot_ms", "ttft_ms", "e2e_ms")

Answers = Mapping[str, Mapping[str, Any]]
"""`src_ref` of a row -> `ttft_ms` and `tpot_ms`, or `unanswered` with the kind of refusal."""


def read_peer(path: Path) -> Answers:
    """Return the answers in a file of JSON lines, by the row's `src_ref`."""
    lines = map(json.loads, path.read_text().splitlines())
    return {each["src_ref"]: each for each in lines}


def beside(runs: Runs, found: LeftOut, peer: Answers) -> dict[str, dict[str, Any]]:
    """Score a peer and left-out answers on the same rows, by engine.

    Parameters
    ----------
    runs : Runs
        n runs.
    found : LeftOut
        What profiles that did not see them answer.
    peer : mapping
        As `read_peer` returns it.

    Returns
    -------
    dict
        Engine -> `asked`, `answered` (of `asked`), and each metric's `peer` and `ours`. The peer's end-to-end time
        is TTFT + TPOT (OSL - 1), as the measured one of these rows is.
    """
    own = [record.get("source") == SOURCE and record.get("src_ref") in peer for record in runs.answered]
    given = [peer.get(str(record.get("src_ref")), {}) for record in runs.answered]
    answers = {
        metric: np.array([float(each.get(metric, np.nan)) for each in given])
        for metric in ("ttft_ms", "tpot_ms")
    }
    answers["e2e_ms"] = answers["ttft_ms"] + answers["tpot_ms"] * (runs.batch.load.osl - 1.0)
    engines = np.array([group[0] for group in runs.groups], dtype=object)
    result: dict[str, dict[str, Any]] = {}
    for engine in sorted(set(engines)):
        asked = (engines == engine) & np.array(own)
        if not asked.any():
            continue
        result[engine] = {
            "asked": int(asked.sum()),
            "answered": int((asked & np.isfinite(answers["tpot_ms"])).sum()),
        }
        for metric in METRICS:
            both = asked & np.isfinite(answers[metric]) & np.isfinite(found.values[metric])
            measured = np.where(both, runs.measured[metric], np.nan)
            result[engine][metric] = {
                "peer": score_groups(runs.groups, measured, answers[metric]),
                "ours": score_groups(runs.groups, measured, found.values[metric]),
            }
    return result
