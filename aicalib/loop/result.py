"""What a loop found out, in numbers: each run beside its prediction, errors before and after, the choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from aicalib.calibrate.own import OwnCalibration, calibrate_on
from aicalib.calibrate.records import read_store
from aicalib.loop.loop import FIGURES, Ended
from aicalib.loop.next import Next
from aicalib.loop.rules import usable
from aicalib.loop.state import Asked, Came, State
from aicalib.nearness import LEVELED
from aicalib.plan.tasks.screen import describe
from aicalib.prediction import predict_batch
from aicalib.profiles.profile import Profile

THIRDS: Final = 3
"""Parts of the points that were measured for the first time: the error of the first against that of the last."""


def errors_of(asked: Asked, came: Came) -> dict[str, float]:
    """Return predicted / measured - 1 of one run, by metric."""
    measured, predicted = came.facts.get("measured", {}), asked.facts["predicted"]
    return {
        name: predicted[name][0] / measured[of] - 1.0
        for name, of in FIGURES.items()
        if measured.get(of) and name in predicted
    }


def held(asked: Asked, came: Came) -> dict[str, bool]:
    """Return whether what was measured lay in the interval that was predicted, by metric."""
    measured, predicted = came.facts.get("measured", {}), asked.facts["predicted"]
    return {
        name: predicted[name][1] <= measured[of] <= predicted[name][2]
        for name, of in FIGURES.items()
        if measured.get(of) and name in predicted
    }


def step(asked: Asked, came: Came | None) -> dict[str, Any]:
    """Return a run that was asked for and what came of it, as JSON has it."""
    facts: Mapping[str, Any] = {} if came is None else came.facts
    return {
        "number": asked.number,
        "key": asked.key,
        "point": asked.facts["point"],
        "load": asked.facts["load"],
        "repeat": asked.repeat,
        "best_before": asked.facts["best"],
        "outcome": None if came is None else came.kind,
        "predicted": {
            name: dict(zip(("value", "low", "high"), each, strict=True))
            for name, each in asked.facts["predicted"].items()
        },
        "measured": {
            name: facts["measured"][of] for name, of in FIGURES.items() if of in facts.get("measured", {})
        },
        "errors": {} if came is None else errors_of(asked, came),
        "held": {} if came is None else held(asked, came),
        "flags": facts.get("flags", []),
        "reason": facts.get("reason"),
        "message": facts.get("message"),
        "occasion": facts.get("occasion"),
        "took_s": facts.get("took_s"),
        "run_ids": [] if came is None else list(came.run_ids),
    }


def calibrated(found: Next, store: Path, base: Profile, name: str) -> OwnCalibration | None:
    """Return a profile that knows the task's runs in a store; None where there are none that the base does not know.

    Parameters
    ----------
    found : Next
        Whose runs of the task's engine, model family and GPU are taken.
    store : Path
    base : Profile
    name : str
        Of the new profile.
    """
    seen = set(base.fitted.get("run_id", ()))
    ids = set(found.candidates.measured.runs.column("run_id")) - seen
    if not ids:
        return None
    records = [record for record in read_store(store)[0] if record["run_id"] in ids]
    return calibrate_on(base, records, name)


def document(
    ended: Ended, state: State, spent_s: float, own: OwnCalibration | None, saved: str | None
) -> dict[str, Any]:
    """Return the end report of a loop as JSON has it; where every start failed, it has no choice.

    Parameters
    ----------
    ended : Ended
    state : State
    spent_s : float
    own : OwnCalibration or None
        Of the task's runs in the store on the profile that the loop began with; None where nothing was measured.
    saved : str or None
        Label under which its profile was stored.
    """
    found, screening = ended.found, ended.found.candidates.screening
    startable = ended.kind != "every_start_failed"
    firsts = [
        (asked, state.came[asked.number])
        for asked in state.asked
        if not asked.repeat and asked.number in state.came and usable(state.came[asked.number])
    ]
    return {
        "task": screening.task.name,
        "model": screening.task.model,
        "gpu": screening.gpu,
        "engine": screening.task.runtime,
        "engine_version": screening.engine_version,
        "objective": screening.task.objective,
        "profile": screening.profile,
        "ended": {"kind": ended.kind, "reason": ended.reason},
        "runs": state.runs,
        "repeats": sum(asked.repeat for asked in state.asked if asked.number in state.came),
        "failures": state.failures,
        "minutes": round(spent_s / 60.0, 2),
        "measured_candidates": found.measured,
        "candidates": found.candidates.batch.at.size,
        "settled": startable and found.settled,
        "choice": _choice(found) if startable else None,
        "learned": [] if own is None else _learned(own, state),
        "unmeasured": {metric: _before_measured(firsts, metric) for metric in FIGURES},
        "measured": {} if own is None else _scores(own),
        "spread": found.candidates.measured.repeats.as_dict(),
        "own_profile": saved,
        "remarks": [] if own is None else own.remarks,
        "next": [
            {
                "point": describe(found.candidates.starts[run.start].point),
                "load": run.load._asdict(),
                "cost_minutes": run.cost_minutes,
                "teaches": run.teaches,
                "launch": list(run.launch.argv),
                "bench": list(run.bench),
            }
            for run in (found.runs if startable else ())
        ],
        "steps": [step(asked, state.came.get(asked.number)) for asked in state.asked],
        "notes": list(found.notes),
    }


def _choice(found: Next) -> dict[str, Any]:
    best = found.best
    return {
        "point": best.point,
        "score": best.score._asdict(),
        "expected_regret": best.regret,
        "probability_best": best.probability,
        "probability_within": best.within,
        "measured": best.measured,
        "deployment": {name: value for name, value in best.deployment.items() if name != "notes"},
        "launch": list(best.launch.argv),
        "env": dict(best.launch.env),
    }


def _before_measured(firsts: Sequence[tuple[Asked, Came]], metric: str) -> dict[str, Any]:
    """Return how far off each point's prediction was just before it was measured, early and late in the loop."""
    errors = [abs(found[metric]) for found in (errors_of(*each) for each in firsts) if metric in found]
    inside = [found[metric] for found in (held(*each) for each in firsts) if metric in found]
    part = len(errors) // THIRDS
    return {
        "n": len(errors),
        "median_ape": _median(errors),
        "first_third": _median(errors[:part]),
        "last_third": _median(errors[-part:] if part else []),
        "coverage_90": float(np.mean(inside)) if inside else None,
    }


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def _scores(own: OwnCalibration) -> dict[str, Any]:
    """Return the errors on all runs that were measured: of the profile before the loop, and with the others known."""
    return {
        each.metric: {
            "n": each.base["n"],
            "before": each.base["median_ape"],
            "after": None if each.left_out is None else each.left_out["median_ape"],
        }
        for each in own.scores
    }


def _learned(own: OwnCalibration, state: State) -> list[dict[str, Any]]:
    """Return of each configuration by what factor the levels of its times moved, the farthest first."""
    before, after = (predict_batch(own.runs.batch, each).levels for each in (own.base, own.profile))
    assert before is not None
    assert after is not None
    point = {
        run_id: asked.facts["point"]
        for asked in state.asked
        if asked.number in state.came
        for run_id in state.came[asked.number].run_ids
    }
    points = [point.get(run_id) for run_id in own.runs.column("run_id")]
    found = []
    for name in dict.fromkeys(each for each in points if each is not None):
        rows = np.flatnonzero([each == name for each in points])
        moved = {
            metric: float(np.median((after.log[metric] - before.log[metric])[rows])) for metric in LEVELED
        }
        factors = {metric: round(float(np.exp(each)), 4) for metric, each in moved.items()}
        found.append({"point": name, "runs": int(rows.size), "factors": factors})
    return sorted(found, key=lambda each: -max(abs(np.log(factor)) for factor in each["factors"].values()))
