"""Everything that is certified of the default profile's method: errors on runs that a fit did not see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aicalib.calibrate.build import calibrate, fittable, fitted, to_fit
from aicalib.calibrate.floor import floors
from aicalib.calibrate.learning import DRAWS, REVEALED, learning_curve
from aicalib.calibrate.peer import Answers, beside
from aicalib.calibrate.runs import Runs, as_runs
from aicalib.calibrate.score import GroupScore, score_groups
from aicalib.calibrate.validate import SPLITS, LeftOut, answered, folds, group_labels, left_out
from aicalib.nearness import NEARNESS
from aicalib.prediction import predict_batch
from aicalib.profiles.profile import METRICS, PHYSICS, Profile, uncalibrated

FOLDS = 10
"""Folds of every split; a generation of GPUs is a fold of its own."""

WITH_INTERVALS = ("group", "generation")
"""Splits whose folds make their own intervals, from the runs that they see alone. The other splits score values."""

COPIES = ("repeat", "near_repeat")
"""Flags of runs that are another run once more; they are no doubt, and never scored."""

DIGITS = 4
"""Decimals of a figure: 0.01 of a per cent."""

MARGIN = 0.002
"""What a certified error may grow by before a test fails: other builds of the numerical libraries round otherwise."""

RESAMPLES = 200
"""Draws of groups behind the range of a median."""

Progress = Callable[[str, int], AbstractContextManager[Callable[..., None]]]
"""Shows how far a task of so many steps is; yields a call that advances it."""

CERTIFIED = ("tpot_ms", "ttft_ms", "e2e_ms")
"""Metrics whose median errors are certified."""


@dataclass(frozen=True)
class Board:
    """What was scored, and what it was scored on.

    Attributes
    ----------
    document : dict
        All figures, as `docs/accuracy.json` holds them.
    runs : Runs
        The n runs that fits see.
    answers : dict of str to LeftOut
        Split -> what was answered of each run without its label.
    """

    document: dict[str, Any]
    runs: Runs
    answers: dict[str, LeftOut]


def runs_to_fit(records: Iterable[Mapping[str, Any]]) -> tuple[Runs, dict[str, int]]:
    """Return the runs that the default profile is fitted on, and how many are left out by what."""
    runs, _, flagged = to_fit(records)
    return runs, flagged


def with_intervals(runs: Runs) -> Profile:
    """Return the profile of runs with intervals that they alone made."""
    return calibrate(runs.answered, "fold").profile


def scoreboard(
    records: Sequence[Mapping[str, Any]],
    lines: Sequence[Mapping[str, Any]],
    peer: Answers,
    progress: Progress,
    jobs: int = 1,
) -> Board:
    """Fit and score every split.

    Parameters
    ----------
    records : sequence of mapping
        Complete runs with their quality flags.
    lines : sequence of mapping
        All runs as their file has them, incomplete ones too: what is answered of them.
    peer : mapping
        As `aicalib.calibrate.peer.read_peer` returns it.
    progress : callable
        Told of the fits.
    jobs : int
        Processes that fit at the same time.
    """
    runs, flagged = runs_to_fit(records)
    answers = {}
    fits = sum(int(folds(label(runs), FOLDS).max()) + 1 for label in SPLITS.values())
    with progress("fits", fits) as tick:
        for split in SPLITS:
            fit = with_intervals if split in WITH_INTERVALS else fitted
            answers[split] = left_out(runs, split, fit, FOLDS, tick, jobs)
    with progress("own runs", DRAWS * (len(REVEALED) + 1)) as tick:
        learned = learning_curve(runs, answers["group"], tick=tick)
    document = {"flagged": flagged, **figures(runs, answers, records, lines, peer), "learning": learned}
    return Board(_rounded(document), runs, answers)


def figures(
    runs: Runs,
    answers: Mapping[str, LeftOut],
    records: Iterable[Mapping[str, Any]],
    lines: Sequence[Mapping[str, Any]],
    peer: Answers,
) -> dict[str, Any]:
    """Return the figures of a scoreboard from what was answered; parameters as `Board` and `scoreboard` have them."""
    group = answers["group"]
    physics = answered(runs, np.zeros_like(group.fold), [uncalibrated()])
    every = fittable(as_runs(record for record in records if not _flags(record) & set(COPIES)))
    device = [group[2] for group in runs.groups]
    return {
        "physics": PHYSICS,
        "runs": int(runs.batch.rows.size),
        "groups": len(set(group_labels(runs))),
        "splits": {
            split: {
                "labels": len(set(SPLITS[split](runs))),
                "folds": int(found.fold.max()) + 1,
                "engines": by_engine(runs, found),
            }
            for split, found in answers.items()
        },
        "priors": by_engine(runs, physics),
        "with_flagged": by_engine(every, _of_unseen(every, runs, group)),
        "by": {
            "source": _parts(runs, group, list(map(str, runs.column("source")))),
            "gpu": _parts(runs, group, device),
            "generation": _parts(runs, group, [label[0] for label in SPLITS["generation"](runs)]),
            "family": _parts(runs, group, [label[0] for label in SPLITS["family"](runs)]),
        },
        "cells": _cells(runs, group),
        "coverage": {split: _coverage(runs, answers[split]) for split in WITH_INTERVALS},
        "derived_e2e": _derived(runs),
        "peer": beside(runs, group, peer),
        "answered": answered_share(lines),
        "floor": floors(runs),
        "folds": [_fold(runs, group, number) for number in range(len(group.profiles))],
    }


def by_engine(runs: Runs, found: LeftOut) -> dict[str, dict[str, GroupScore]]:
    """Return the scores of each engine and metric, over rows and over groups."""
    engines = np.array([group[0] for group in runs.groups], dtype=object)
    return {engine: _scores(runs, found, engines == engine, RESAMPLES) for engine in sorted(set(engines))}


def _scores(
    runs: Runs, found: LeftOut, chosen: NDArray[np.bool_], resamples: int = 0
) -> dict[str, GroupScore]:
    """Return the scores of some runs, of each metric that any of them measured."""
    scores = {metric: _score(runs, found, metric, chosen, resamples) for metric in METRICS}
    return {metric: each for metric, each in scores.items() if each["n"]}


def _score(
    runs: Runs, found: LeftOut, metric: str, chosen: NDArray[np.bool_], resamples: int = 0
) -> GroupScore:
    return score_groups(
        runs.groups,
        np.where(chosen, runs.measured[metric], np.nan),
        found.values[metric],
        found.low[metric],
        found.high[metric],
        resamples,
    )


def _parts(runs: Runs, found: LeftOut, labels: list[str]) -> dict[str, dict[str, dict[str, GroupScore]]]:
    """Return the scores by engine and label."""
    engines = [group[0] for group in runs.groups]
    result: dict[str, dict[str, dict[str, GroupScore]]] = {}
    for engine, label in sorted(set(zip(engines, labels, strict=True))):
        chosen = np.array([pair == (engine, label) for pair in zip(engines, labels, strict=True)], dtype=bool)
        result.setdefault(engine, {})[label] = _scores(runs, found, chosen)
    return result


def _cells(runs: Runs, found: LeftOut) -> list[dict[str, Any]]:
    """Return a line a group and engine: how many runs, median error and bias of TPOT and TTFT."""
    result = []
    for group in sorted(set(runs.groups)):
        scores = _scores(runs, found, np.array([each == group for each in runs.groups]))
        line: dict[str, Any] = dict(zip(("engine", "family", "gpu"), group, strict=True))
        for metric in CERTIFIED:
            if metric in scores:
                line[metric] = {key: scores[metric][key] for key in ("n", "median_ape", "bias")}
        result.append(line)
    return result


def _coverage(runs: Runs, found: LeftOut) -> dict[str, dict[str, GroupScore]]:
    """Return the scores by how near the fitted runs are, over all engines."""
    result: dict[str, dict[str, GroupScore]] = {}
    for near in NEARNESS:
        scores = {metric: _score(runs, found, metric, found.near[metric] == near) for metric in METRICS}
        if kept := {metric: each for metric, each in scores.items() if each["n"]}:
            result[near] = kept
    return result


def _of_unseen(every: Runs, runs: Runs, group: LeftOut) -> LeftOut:
    """Return what the profiles that did not see a run's group answer of more runs than were fitted.

    A group of which no run was fitted is unknown to all profiles: the first answers.
    """
    place = dict(zip(group_labels(runs), group.fold.tolist(), strict=True))
    fold = np.array([place.get(label, 0) for label in group_labels(every)], dtype=np.intp)
    return answered(every, fold, group.profiles)


def _derived(runs: Runs) -> dict[str, dict[str, int]]:
    """Return for each engine how many end-to-end times were derived, and of how many."""
    result: dict[str, dict[str, int]] = {}
    for at, group in enumerate(runs.groups):
        if np.isfinite(runs.measured["e2e_ms"][at]):
            each = result.setdefault(group[0], {"derived": 0, "of": 0})
            each["derived"] += int(runs.derived[at])
            each["of"] += 1
    return dict(sorted(result.items()))


def answered_share(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return for each engine how many runs there are, how many are answered, and why others are not."""
    runs = as_runs(lines)
    fits = predict_batch(runs.batch, uncalibrated()).fits
    result: dict[str, dict[str, Any]] = {}
    for engine in sorted({str(record["engine"]) for record in lines}):
        reasons = Counter(
            str(error) for row, error in runs.batch.refused.items() if lines[row]["engine"] == engine
        )
        own = np.array([group[0] == engine for group in runs.groups], dtype=bool)
        if (own & ~fits).any():
            reasons["does_not_fit"] = int((own & ~fits).sum())
        result[engine] = {
            "runs": sum(record["engine"] == engine for record in lines),
            "answered": int((own & fits).sum()),
            "refused": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        }
    return result


def _fold(runs: Runs, found: LeftOut, number: int) -> dict[str, Any]:
    """Return what one fold left out and its median errors: a test fits it again."""
    engines = np.array([group[0] for group in runs.groups], dtype=object)
    out = found.fold == number
    return {
        "n": int(out.sum()),
        "left_out": sorted({" x ".join(label) for label in group_labels(runs.take(np.flatnonzero(out)))}),
        "median_ape": {
            engine: {
                metric: each["median_ape"]
                for metric, each in _scores(runs, found, out & (engines == engine)).items()
            }
            for engine in sorted(set(engines[out]))
        },
    }


def limits(document: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the errors that may not grow: `MARGIN` above what is reached, and never above what was certified.

    Parameters
    ----------
    document : mapping
        A scoreboard's figures.
    before : mapping
        The limits so far, which only fall here: to raise one is to edit it by hand.
    """
    result: dict[str, Any] = {}
    for split, found in document["splits"].items():
        for engine, scores in found["engines"].items():
            for metric in CERTIFIED:
                if metric in scores:
                    reached = float(np.ceil(1e3 * (scores[metric]["median_ape"] + MARGIN)) / 1e3)
                    so_far = before.get(split, {}).get(engine, {}).get(metric, reached)
                    result.setdefault(split, {}).setdefault(engine, {})[metric] = min(reached, so_far)
    return result


def broken(document: Mapping[str, Any], certified: Mapping[str, Any]) -> list[str]:
    """Return in words which figures of a scoreboard are above their limits, or no longer there."""
    found = []
    for split, engines in certified.items():
        for engine, by_metric in engines.items():
            scores = document["splits"][split]["engines"].get(engine, {})
            for metric, limit in by_metric.items():
                what = f"{split}, {engine}, {metric}: {100 * limit:.1f} % is certified"
                if metric not in scores:
                    found.append(f"{what}, and no run is scored")
                elif scores[metric]["median_ape"] > limit:
                    found.append(f"{what}, and {100 * scores[metric]['median_ape']:.1f} % is reached")
    return found


def _flags(record: Mapping[str, Any]) -> set[str]:
    return set(record.get("flags") or ())


def _rounded(value: Any) -> Any:
    """Return a document with every fraction at `DIGITS` decimals."""
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return round(value, DIGITS) if isinstance(value, float) else value
