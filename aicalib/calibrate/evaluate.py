"""Score a profile on measured runs, and the memory rules on what engines logged, without fitting on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aicalib.calibrate.hidden import told
from aicalib.calibrate.records import with_run_ids
from aicalib.calibrate.runs import Runs
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

    @property
    def unseen(self) -> NDArray[np.bool_]:
        """Runs that the profile was not fitted on and whose speculation had not to be inferred, shape (n,)."""
        result: NDArray[np.bool_] = ~self.seen & ~self.runs.inferred
        return result

    def _score(self, metric: str, chosen: NDArray[np.bool_], runs: Runs | None = None) -> Score:
        at = np.flatnonzero(chosen)
        interval = self.prediction.comparable(metric, self.runs.median[metric])
        measured = (runs or self.runs).measured[metric]
        return score(measured[at], interval.value[at], interval.low[at], interval.high[at])

    def _unflagged(self) -> dict[str, Any]:
        """Return the scores of the unseen runs that no flag doubts, and how many each flag leaves out."""
        # Heavy, and not needed where flags are unknown.
        from aicalib.calibrate.build import usable, without_ttft

        asked = [record for record, unseen in zip(self.runs.answered, self.unseen, strict=True) if unseen]
        kept, left_out = usable(asked)
        sound = {id(record) for record in kept}
        chosen = np.array([id(record) in sound for record in self.runs.answered], dtype=bool)
        runs = without_ttft(self.runs)
        return {
            "left_out": left_out,
            "metrics": {metric: self._score(metric, chosen, runs) for metric in METRICS},
        }

    def _groups(self) -> list[dict[str, Any]]:
        """Return the scores of each engine, model family and GPU, of runs and starts; seen runs are left out."""
        of_runs, batch = self.runs.groups, self.startups.batch
        # A log may name a GPU less sharply than the catalogue; a run was answered for one of the catalogue.
        of_starts = [
            group if row < self.starts else (*group[:2], batch.identities[code].accelerator.name)
            for group, row, code in zip(self.startups.groups, batch.rows, batch.codes, strict=True)
        ]
        found = []
        for group in sorted({*of_runs, *of_starts}):
            chosen = np.array([each == group for each in of_runs], dtype=bool) & self.unseen
            starts = np.array([each == group for each in of_starts], dtype=bool)
            own = starts & (batch.rows < self.starts)  # the others are runs, counted as such
            if chosen.any() or starts.any():
                engine, family, gpu = group
                found.append(
                    {"engine": engine, "gpu": gpu, "model": family, "n": int(chosen.sum() + own.sum())}
                    | {metric: self._score(metric, chosen) for metric in METRICS}
                    | self.startups.scores(starts)
                )
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return the scoreboard as `evaluate --json` prints it.

        `metrics` and `groups` are of all unseen runs. Where the runs come with their quality flags, `unflagged` scores
        those that no flag doubts. `inferred` scores the runs, left out of the others, whose speculation had to be
        inferred. `derived` counts the end-to-end times of unseen runs that are TTFT + TPOT (OSL - 1).
        """
        inferred = self.runs.inferred & ~self.seen
        unseen = self.unseen
        refused: dict[str, int] = {}
        starts = {row: error for row, error in self.startups.refused.items() if row < self.starts}
        for error in (*self.runs.batch.refused.values(), *starts.values()):
            refused[str(error)] = refused.get(str(error), 0) + 1
        answered = self.prediction.fits
        refused |= {"does_not_fit": int((~answered).sum())} if (~answered).any() else {}
        result: dict[str, Any] = {
            "profile": self.profile,
            "rows": len(self.runs.records) + self.starts,
            "answered": int(answered.sum()) + int((self.startups.batch.rows < self.starts).sum()),
            "refused": dict(sorted(refused.items(), key=lambda item: -item[1])),
            "metrics": {metric: self._score(metric, unseen) for metric in METRICS} | self.startups.scores(),
            "derived": {"e2e_ms": int((unseen & self.runs.derived).sum())},
            "groups": self._groups(),
        }
        if any("flags" in record for record in self.runs.answered):
            result["unflagged"] = self._unflagged()
        if inferred.any():
            result["inferred"] = {metric: self._score(metric, inferred) for metric in METRICS}
        if self.seen.any():
            result["seen"] = {metric: self._score(metric, self.seen) for metric in METRICS}
        return result

    def rows(self) -> Iterable[dict[str, Any]]:
        """Yield one record a run and metric: measured, predicted, low, high, origin."""
        chance, inferred = self.runs.speculation_probability, self.runs.inferred
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
                        "flags": record.get("flags"),
                        "inferred": bool(inferred[at]),
                        "speculation_probability": None if chance is None else _or_none(chance[at]),
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
                        "flags": record.get("flags"),
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
        Runs in the runs format; a `run_id` is computed from the content where there is none, and `flags` names
        their quality flags where these are known. Start-up records may stand among them.
    profile : Profile
        Not changed.

    Returns
    -------
    Evaluation
    """
    records = list(records)
    starts = [record for record in records if is_start(record)]
    runs = told(with_run_ids(record for record in records if not is_start(record)), profile)
    servers = once(record for record in runs.records if says_memory(record))
    known = set(profile.fitted.get("run_id", [])) - {None}
    seen = np.array([record["run_id"] in known for record in runs.answered], dtype=bool)
    prediction = predict_batch(runs.batch, profile)
    return Evaluation(
        profile.label, runs, prediction, seen, evaluate_startups([*starts, *servers]), len(starts)
    )
