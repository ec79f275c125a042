"""Score a profile on measured runs, and the memory rules on what engines logged, without fitting on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aicalib.calibrate.records import with_run_ids
from aicalib.calibrate.runs import Runs, as_runs
from aicalib.calibrate.score import Score, score
from aicalib.calibrate.startup import METRICS as MEMORY_METRICS
from aicalib.calibrate.startup import Startups, evaluate_startups, is_start, once, says_memory
from aicalib.prediction import Prediction, predict_batch
from aicalib.profiles.profile import METRICS, Profile

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """A profile against measured runs.

    Attributes
    ----------
    profile : str
        Its label.
    runs : Runs
        What was asked.
    prediction : Prediction
        What was answered.
    seen : ndarray of bool, shape (n,)
        Runs that the profile was fitted on; they are scored apart.
    startups : Startups
        Start-up records, and runs whose server said how many tokens its pool holds, each server once.
    starts : int
        How many of them are start-up records.
    """

    profile: str
    runs: Runs
    prediction: Prediction
    seen: NDArray[np.bool_]
    startups: Startups
    starts: int

    def _score(self, metric: str, chosen: NDArray[np.bool_]) -> Score:
        at = np.flatnonzero(chosen)
        interval = self.prediction.comparable(metric, self.runs.median[metric])
        return score(self.runs.measured[metric][at], interval.value[at], interval.low[at], interval.high[at])

    def as_dict(self) -> dict[str, Any]:
        """Return the scoreboard as `evaluate --json` prints it."""
        unseen = ~self.seen
        refused: dict[str, int] = {}
        starts = {row: error for row, error in self.startups.refused.items() if row < self.starts}
        for error in (*self.runs.batch.refused.values(), *starts.values()):
            refused[str(error)] = refused.get(str(error), 0) + 1
        answered = self.prediction.fits
        refused |= {"does_not_fit": int((~answered).sum())} if (~answered).any() else {}
        groups = self.runs.groups
        found = []
        for group in sorted(set(groups)):
            chosen = np.array([each == group for each in groups]) & unseen
            if chosen.any():
                engine, family, gpu = group
                found.append(
                    {"engine": engine, "gpu": gpu, "model": family, "n": int(chosen.sum())}
                    | {metric: self._score(metric, chosen) for metric in METRICS}
                )
        for group in sorted(set(self.startups.groups)):
            chosen = np.array([each == group for each in self.startups.groups])
            engine, family, gpu = group
            found.append(
                {"engine": engine, "gpu": gpu, "model": family, "n": int(chosen.sum())}
                | self.startups.scores(chosen)
            )
        result: dict[str, Any] = {
            "profile": self.profile,
            "rows": len(self.runs.records) + self.starts,
            "answered": int(answered.sum()) + int((self.startups.batch.rows < self.starts).sum()),
            "refused": dict(sorted(refused.items(), key=lambda item: -item[1])),
            "metrics": {metric: self._score(metric, unseen) for metric in METRICS} | self.startups.scores(),
            "groups": found,
        }
        if self.seen.any():
            result["seen"] = {metric: self._score(metric, self.seen) for metric in METRICS}
        return result

    def rows(self) -> Iterable[dict[str, Any]]:
        """Yield one record a run and metric: measured, predicted, low, high, origin."""
        for metric in METRICS:
            interval = self.prediction.comparable(metric, self.runs.median[metric])
            for at, record in enumerate(self.runs.answered):
                measured = self.runs.measured[metric][at]
                if np.isfinite(measured):
                    yield {
                        "src_ref": record.get("src_ref"),
                        "metric": metric,
                        "statistic": "median" if self.runs.median[metric][at] else "mean",
                        "derived": bool(self.runs.derived[at]) if metric == "e2e_ms" else False,
                        "seen": bool(self.seen[at]),
                        "measured": float(measured),
                        "predicted": _or_none(interval.value[at]),
                        "low": _or_none(interval.low[at]),
                        "high": _or_none(interval.high[at]),
                        "origin": self.prediction.origin[at],
                    }
        for metric in MEMORY_METRICS:
            for at, record in enumerate(self.startups.answered):
                logged, predicted = self.startups.logged[at], self.startups.predicted[metric][at]
                if np.isfinite(logged) and np.isfinite(predicted):
                    yield {
                        "src_ref": record.get("src_ref"),
                        "metric": metric,
                        "statistic": "value",
                        "derived": False,
                        "seen": False,
                        "measured": float(logged),
                        "predicted": float(predicted),
                        "low": None,
                        "high": None,
                        "origin": "datasheet",
                    }

    def predictions(self) -> pd.DataFrame:
        """Return what was predicted of each run with a `run_id`, as `perfdb.Store.save_predictions` takes it.

        One row a run and metric: `run_id`, `metric`, `value`, `low`, `high`, `origin`, and `fitted`, whether the
        profile was fitted on the run. NaN without an answer.
        """
        import pandas as pd

        run_ids = self.runs.column("run_id")
        parts = []
        for metric in METRICS:
            interval = self.prediction.comparable(metric, self.runs.median[metric])
            parts.append(
                pd.DataFrame(
                    {"run_id": run_ids, "metric": metric, **interval._asdict()}
                    | {"origin": self.prediction.origin, "fitted": self.seen}
                )
            )
        whole = pd.concat(parts, ignore_index=True)
        return whole[whole["run_id"].notna()].drop_duplicates(["run_id", "metric"], ignore_index=True)


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def evaluate(records: Iterable[Mapping[str, Any]], profile: Profile) -> Evaluation:
    """Score a profile on runs.

    Parameters
    ----------
    records : iterable of mapping
        Runs in the runs format; a `run_id` is computed from the content where there is none. Start-up records may
        stand among them.
    profile : Profile
        Not changed.

    Returns
    -------
    Evaluation
    """
    records = list(records)
    starts = [record for record in records if is_start(record)]
    runs = as_runs(with_run_ids(record for record in records if not is_start(record)))
    servers = once(record for record in runs.records if says_memory(record))
    known = set(profile.fitted.get("run_id", [])) - {None}
    seen = np.array([record["run_id"] in known for record in runs.answered], dtype=bool)
    prediction = predict_batch(runs.batch, profile)
    return Evaluation(
        profile.label, runs, prediction, seen, evaluate_startups([*starts, *servers]), len(starts)
    )
