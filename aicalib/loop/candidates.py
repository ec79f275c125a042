"""Runs that a task may ask for next: what starts under which load, what is predicted, known, and what it costs.

A *start* is one way to start the engine, a point of the task that can run; a *level* is one load on it. A candidate run
is a start under a level.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aicalib.calibrate.build import fittable, log_errors, usable, without_ttft
from aicalib.calibrate.levels import curve_keys
from aicalib.calibrate.lineage import RESIDUAL
from aicalib.calibrate.records import occasion
from aicalib.calibrate.repeats import Repeats, repeats_of
from aicalib.calibrate.runs import Runs, as_runs
from aicalib.errors import InvalidValue
from aicalib.loop.belief import AXES, Observed, Places
from aicalib.nearness import LEVELED, fitted_curves, group_key, nearness
from aicalib.plan.tasks.screen import Dropped, Level, Ranked, Screening, screen
from aicalib.plan.tasks.task import Task
from aicalib.prediction import Prediction, interval_factors, predict_batch
from aicalib.profiles.profile import DEPTH_MARK, Profile
from aicalib.resolve.batch import Batch
from aicalib.resolve.rows import resolve

Array = NDArray[np.float64]
Codes = NDArray[np.intp]

SETTINGS = (
    "mem_fraction",
    "chunked_prefill_size",
    "max_running_requests",
    "cuda_graph_max_bs",
    "scheduler_recv_interval",
    "engine_version",
    "enable_mixed_chunk",
)
"""What tells starts of one curve apart, where candidates differ in it."""

MOST_RUNS = 2000
"""Candidate runs that are believed of together: of a larger task the starts with the best predicted scores."""


class EveryStartFailed(InvalidValue):
    """Every start of a task that can run failed when it was tried, and would again."""

    kind = "every_start_failed"


ANOTHER = "of another model, GPU or engine, or of a load or setting that the model does not answer"
"""What is said of stored runs that no candidate's group holds."""

DIGITS = 3
"""Figures to which a setting must agree: an engine reports 0.8236 where 0.824 was asked."""


@dataclass(frozen=True)
class Measured:
    """Runs of the store that say something of a task's candidates.

    Attributes
    ----------
    runs : Runs
        m runs of the task's group: engine, model family and GPU.
    repeats : Repeats
        What they say of occasions and noise.
    logs : mapping of str to ndarray, shape (m,)
        Metric -> log(measured / predicted) without levels, NaN where not measured.
    row : ndarray of int, shape (m,)
        Which candidate each is a measurement of, -1 where none.
    ignored : dict of str to int
        Flag, or `ANOTHER` -> how many stored runs it left out.
    """

    runs: Runs
    repeats: Repeats
    logs: Mapping[str, Array]
    row: Codes
    ignored: Mapping[str, int]


@dataclass(frozen=True)
class Candidates:
    """The runs of a task.

    Attributes
    ----------
    screening : Screening
        What can run, best first by prediction, and what was dropped.
    starts : tuple of Ranked
        Those that can run and have not failed.
    levels : tuple of Level
    batch : Batch
        n = starts x levels questions, start by start.
    plain : Prediction
        Of them, without levels: what the belief corrects.
    widths : mapping of str to ndarray, shape (n,)
        Metric -> log(high / value) of the profile's interval where nothing of the group was measured.
    measured : Measured
    failed : tuple of Dropped
        Starts that failed when they were tried.
    beyond : int
        Starts that can run and are not among `starts`: more than `MOST_RUNS` runs, and predicted to be worse.
    """

    screening: Screening
    starts: tuple[Ranked, ...]
    levels: tuple[Level, ...]
    batch: Batch
    plain: Prediction
    widths: Mapping[str, Array]
    measured: Measured
    failed: tuple[Dropped, ...]
    beyond: int = 0

    @property
    def places(self) -> Places:
        """Where the candidates stand."""
        return Places.of(self.batch)

    def key(self, row: int) -> str:
        """Return a name of a candidate that another process gives too: a hash of its start and its load."""
        start, level = divmod(row, len(self.levels))
        deployment = {name: each for name, each in self.starts[start].deployment.items() if name != "notes"}
        content = [deployment, self.starts[start].arguments.argv(), list(self.levels[level])]
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def candidates(
    task: Task,
    records: Iterable[Mapping[str, Any]],
    profile: Profile,
    gpu: str | None = None,
    engine_version: str | None = None,
    failures: Iterable[Mapping[str, Any]] = (),
) -> Candidates:
    """Return the runs of a task that may be measured, and what is known of them.

    Parameters
    ----------
    task : Task
    records : iterable of mapping
        Stored runs, in the runs format with `run_id` and `flags`.
    profile : Profile
        With spreads and intervals: it was fitted on runs.
    gpu, engine_version : str, optional
        As `aicalib.plan.tasks.screen.screen` takes them.
    failures : iterable of mapping
        Starts that failed, as `aicalib.calibrate.records.failed_starts` returns them.

    Raises
    ------
    EveryStartFailed
    RequestError
        As `screen` raises; also if the profile knows no spreads.
    """
    if not profile.spreads:
        raise InvalidValue(
            f"profile {profile.label} was fitted on no runs: it says nothing of how far its predictions are off",
            ["--profile default"],
        )
    screening = screen(task, gpu, engine_version, profile)
    starts, failed = _without_failed(screening, failures)
    levels = screening.levels
    whole = len(starts)
    starts = starts[: max(MOST_RUNS // len(levels), 1)]
    batch = _questions(starts, levels)
    plain = predict_batch(batch, replace(profile, levels={}))
    return Candidates(
        screening,
        starts,
        levels,
        batch,
        plain,
        interval_widths(plain, profile),
        _measured(batch, records, profile),
        failed,
        whole - len(starts),
    )


def observed(found: Candidates, profile: Profile) -> Observed:
    """Return what was measured: the runs that the profile was fitted on, and those of the store that it was not.

    Those of a known occasion as the store has them: a profile holds them without its factor.
    """
    seen = set(profile.fitted.get("run_id", ())) - {None}
    runs, row = found.measured.runs, found.measured.row
    ids, occasions = runs.column("run_id"), [occasion(record) for record in runs.answered]
    known = {run_id: at for at, run_id in enumerate(ids)}
    fitted = _fitted(profile, {group_key(who) for who in found.batch.identities})
    kept = [at for at, run_id in enumerate(fitted.ids) if run_id not in known or not occasions[known[run_id]]]
    rows = [row[known[fitted.ids[at]]] if fitted.ids[at] in known else -1 for at in kept]
    own = np.array(
        [at for at, run_id in enumerate(ids) if run_id not in seen or occasions[at]], dtype=np.intp
    )
    return Observed(
        fitted.places.take(np.array(kept, dtype=np.intp)),
        {metric: each[kept] for metric, each in fitted.logs.items()},
        np.array(rows, dtype=np.intp),
    ).and_(
        Observed(
            Places.of(runs.batch).take(own),
            {metric: each[own] for metric, each in found.measured.logs.items()},
            row[own],
            tuple(occasions[at] for at in own),
        )
    )


def _without_failed(
    screening: Screening, failures: Iterable[Mapping[str, Any]]
) -> tuple[tuple[Ranked, ...], tuple[Dropped, ...]]:
    """Return the starts that have not failed, and those that did and would again, with what they said.

    A failure is a fact of that start alone: the same line, on the same accelerator, of the same version.

    Raises
    ------
    EveryStartFailed
        If no start is left.
    """
    at = (screening.gpu, screening.engine_version)
    known = {
        each.get("launch"): each
        for each in failures
        if each.get("lasting") and (each.get("gpu"), each.get("engine_version")) == at
    }
    starts, failed = [], []
    for start in screening.ranked:
        failure = known.get(start.arguments.launch().line())
        if failure is None:
            starts.append(start)
        else:
            said = f"{failure['reason']}, when it was started: {failure.get('message')}"
            failed.append(Dropped(start.point, "failed", said))
    if not starts:
        reasons = "; ".join(dict.fromkeys(each.reason for each in failed))
        raise EveryStartFailed(
            f"no point of task '{screening.task.name}' is left: {len(screening.dropped)} were dropped, and all "
            f"{len(failed)} others failed: {reasons}"
        )
    return tuple(starts), tuple(failed)


@dataclass(frozen=True)
class _Fitted:
    ids: list[str | None]
    places: Places
    logs: dict[str, Array]


def _fitted(profile: Profile, groups: set[str]) -> _Fitted:
    """Return the runs of some groups that a profile was fitted on."""
    fitted, curves = profile.fitted, fitted_curves(profile)
    at = [place for place, curve in enumerate(curves) if curve.split(DEPTH_MARK)[0] in groups]
    octaves = np.log2([[float(fitted[axis][place]) for axis in AXES] for place in at]).reshape(
        len(at), len(AXES)
    )
    logs = {
        metric: np.array([fitted[RESIDUAL + metric][place] for place in at], dtype=np.float64)
        for metric in LEVELED
    }
    ids = [fitted["run_id"][place] for place in at]
    return _Fitted(ids, Places(tuple(curves[place] for place in at), octaves), logs)


def _questions(starts: Sequence[Ranked], levels: Sequence[Level]) -> Batch:
    """Return every start under every level as questions, start by start."""
    names = sorted({name for start in starts for name in start.options})
    columns: dict[str, list[Any]] = {
        name: [start.options.get(name) for start in starts for _ in levels] for name in names
    }
    loads: dict[str, list[Any]] = {
        "isl": [level.isl for level in levels],
        "osl": [level.osl for level in levels],
        "concurrency": [level.concurrency for level in levels],
        "lockstep": [level.fixed for level in levels],
    }
    return resolve(columns | {name: values * len(starts) for name, values in loads.items()})


def interval_widths(plain: Prediction, profile: Profile) -> dict[str, Array]:
    """Return log(high / value) of the intervals that n rows would have, had nothing of their group been measured.

    Returns
    -------
    dict of str to ndarray, shape (n,)
        TTFT and TPOT.
    """
    unknown = np.full(plain.batch.at.size, -1, dtype=np.intp)
    near = nearness(plain.batch, profile, unknown, plain.origins)
    return {metric: np.log(interval_factors(plain.batch, profile, metric, near)) for metric in LEVELED}


def _measured(batch: Batch, records: Iterable[Mapping[str, Any]], profile: Profile) -> Measured:
    """Return the stored runs of the candidates' group, and which candidate each measured."""
    ignored: dict[str, int] = {}
    everything = list(records)
    kept, flagged = usable(everything)
    for flag, count in flagged.items():
        ignored[flag] = count
    groups = {group_key(who) for who in batch.identities}
    runs = fittable(without_ttft(as_runs(kept)))
    own = np.array([" ".join(group) in groups for group in runs.groups], dtype=bool)
    another = len(kept) - int(own.sum())
    if another:
        ignored[ANOTHER] = another
    runs = runs.take(np.flatnonzero(own))
    logs = log_errors(runs, profile) if own.any() else {metric: np.zeros(0) for metric in LEVELED}
    return Measured(runs, repeats_of(runs), logs, _matches(batch, runs), ignored)


def _matches(batch: Batch, runs: Runs) -> Codes:
    """Return for each run the candidate that it is a measurement of, -1 where none, shape (m,).

    The same curve (formats, version, widths, lengths) and concurrency; where candidates of one curve differ in further
    settings, the run must have those of the candidate. The order of runs means nothing.
    """
    asked: dict[tuple[str, int], list[int]] = {}
    for row, (curve, concurrency) in enumerate(_points(batch)):
        asked.setdefault((curve, concurrency), []).append(row)
    found = np.full(runs.batch.at.size, -1, dtype=np.intp)
    points, ids = _points(runs.batch), runs.column("run_id")
    matched: Counter[int] = Counter()
    for at in sorted(range(len(points)), key=lambda each: str(ids[each])):
        rows = asked.get(points[at], [])
        if len(rows) > 1:
            own, others = _settings(runs.batch, at), [_settings(batch, row) for row in rows]
            differ = [name for name in SETTINGS if len({each[name] for each in others}) > 1]
            rows = [
                row
                for row, each in zip(rows, others, strict=True)
                if all(each[name] == own[name] for name in differ)
            ]
        if rows:
            # Candidates that differ in what no formula reads share their runs evenly: records do not tell them apart.
            found[at] = min(rows, key=lambda row: (matched[row], row))
            matched[found[at]] += 1
    return found


def _points(batch: Batch) -> list[tuple[str, int]]:
    concurrency = np.rint(batch.load.concurrency).astype(int).tolist()
    return list(zip(curve_keys(batch), concurrency, strict=True)) if batch.at.size else []


def _settings(batch: Batch, row: int) -> dict[str, Any]:
    """Return the settings of a row, numbers to `DIGITS` figures."""
    said = batch.deployment(row).as_dict()
    return {
        name: float(f"{value:.{DIGITS}g}") if isinstance(value, int | float) else value
        for name, value in ((name, said.get(name)) for name in SETTINGS)
    }
