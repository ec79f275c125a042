"""A team's own runs on top of a profile: its levels move from the first run on, its coefficients stay.

Coefficients refitted to 30 runs of one group, from the base's posterior, are 0.5 to 1 point better in that group and
up to 4 times as wrong in others (`docs/calibration.md`): what moves them is a store of several groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aicalib.calibrate.build import fittable, log_errors, usable, without_ttft
from aicalib.calibrate.levels import curve_keys, levels_of
from aicalib.calibrate.lineage import RESIDUAL, fitted_rows, scope, version_of
from aicalib.calibrate.repeats import Repeats, repeats_of
from aicalib.calibrate.runs import Runs, as_runs
from aicalib.calibrate.score import Score, score
from aicalib.errors import InvalidValue
from aicalib.nearness import LEVELED, fitted_curves
from aicalib.prediction import predict_batch
from aicalib.profiles.profile import METRICS, Profile, uncalibrated

Array = NDArray[np.float64]

MOST_LEFT_OUT = 30
"""Parts in which own runs are left out to score them: one by one up to this many."""


FEWEST_TO_JUDGE = 5
"""Own runs from which on it is said where they do not help each other."""


@dataclass(frozen=True)
class OwnScore:
    """Errors on own runs of one engine and metric: of the priors, of the base, and with the other own runs known."""

    engine: str
    metric: str
    uncalibrated: Score
    base: Score
    left_out: Score | None


@dataclass(frozen=True)
class OwnCalibration:
    """A base profile with own runs, and what they are worth.

    Attributes
    ----------
    profile : Profile
    base : Profile
    runs : Runs
        The own runs that the base did not know.
    known : int
        Own runs that the base was fitted on already; they change nothing.
    scores : list of OwnScore
    left_out : dict of str to int
        Own runs that a quality flag left out.
    remarks : list of str
        What a reader should know.
    repeats : Repeats
        What repeated points among the own runs say of occasions and noise.
    """

    profile: Profile
    base: Profile
    runs: Runs
    known: int
    scores: list[OwnScore]
    left_out: dict[str, int]
    remarks: list[str]
    repeats: Repeats


def base_errors(base: Profile) -> tuple[dict[str, Array], list[str]]:
    """Return log(measured / predicted) of the runs that a profile was fitted on, and the keys of their curves."""
    logs = {metric: np.array(base.fitted.get(RESIDUAL + metric, []), dtype=np.float64) for metric in LEVELED}
    return logs, fitted_curves(base)


def with_own(base: Profile, runs: Runs, repeats: Repeats | None = None) -> Profile:
    """Return a profile whose levels know more runs.

    Parameters
    ----------
    base : Profile
        Its coefficients, its variances of levels and its intervals are kept.
    runs : Runs
        Runs that it was not fitted on.
    repeats : Repeats, optional
        What their repeats say; those of `runs` if not given.

    Notes
    -----
    Levels are the means of base and own runs under the base's variances: what the base's runs say of a group is the
    prior of the own ones, and one run of a new configuration is already shrunk towards its group.

    Where points were repeated, each own run is taken without the factor of its occasion, which no later run will meet
    again, and with the noise between repeats where that is more than the base's about a curve: a noisy
    machine's runs weigh less.
    """
    logs, curves = base_errors(base)
    known = repeats_of(runs) if repeats is None else repeats
    own = {metric: values - known.factors(runs, metric) for metric, values in log_errors(runs, base).items()}
    scatter = {
        metric: np.concatenate([np.ones(len(curves)), known.scatter(runs, metric, base.spreads)])
        for metric in LEVELED
    }
    both = {metric: np.concatenate([logs[metric], own[metric]]) for metric in LEVELED}
    all_curves = curves + curve_keys(runs.batch)
    levels, _ = levels_of(both, all_curves, base.spreads, scatter)
    rows = fitted_rows(runs, own)
    fitted = {name: [*base.fitted.get(name, []), *column] for name, column in rows.items()}
    place = {key: at for at, key in enumerate(sorted(set(all_curves)))}
    fitted["curve"] = [place[key] for key in all_curves]
    # Coefficients stay, and with them what they are calibrated for: own runs speak through their levels alone.
    lineage = {**base.lineage, "own_scope": [*base.lineage.get("own_scope", []), scope(runs)]}
    return replace(base, levels=levels, fitted=fitted, lineage=lineage)


def calibrate_on(
    base: Profile,
    records: Iterable[Mapping[str, Any]],
    name: str = "team",
    tick: Callable[[], None] = lambda: None,
) -> OwnCalibration:
    """Add own runs to a base profile; one run is enough.

    Parameters
    ----------
    base : Profile
        A fitted profile, such as the default one.
    records : iterable of mapping
        Own runs in the runs format, with `run_id` and `flags`.
    name : str
        Of the new profile.
    tick : callable
        Called after each part, `MOST_LEFT_OUT` + 1 times at most.

    Raises
    ------
    InvalidValue
        If the base was fitted on no runs, or no own run can be fitted.
    """
    if not base.spreads:
        raise InvalidValue(
            f"profile {base.label} was fitted on no runs: it says nothing of how far a few runs reach",
            ["--base default"],
        )
    kept, flagged = usable(records)
    runs = fittable(without_ttft(as_runs(kept)))
    seen = set(base.fitted.get("run_id", [])) - {None}
    is_known = np.array([run_id in seen for run_id in runs.column("run_id")], dtype=bool)
    if not runs.batch.at.size:
        reasons = sorted({str(error) for error in runs.batch.refused.values()})[:3]
        raise InvalidValue(
            f"none of {len(kept) + sum(flagged.values())} runs can be fitted: "
            f"{'; '.join(reasons) or 'they are flagged, or measured no TPOT and no TTFT under a closed load'}",
            ["aicalib db check", "aicalib evaluate"],
        )
    own = runs.take(np.flatnonzero(~is_known))
    if not own.batch.at.size:
        raise InvalidValue(
            f"profile {base.label} was fitted on all {is_known.size} runs already", [f"--profile {base.name}"]
        )
    repeats = repeats_of(own)
    profile = with_own(base, own, repeats)
    tick()
    lineage = {
        **profile.lineage,
        **({"repeats": repeats.as_dict()} if repeats.spreads else {}),
        "base": base.label,
        "own_runs": int(own.batch.at.size),
        "runs": int(base.lineage.get("runs", 0)) + int(own.batch.at.size),
        "left_out_by_flag": flagged,
    }
    profile = replace(profile, name=name, lineage=lineage)
    profile = replace(profile, version=version_of(profile))
    scores = _scores(base, own, tick)
    remarks = [*_remarks(own, scores), *repeats.words()]
    return OwnCalibration(profile, base, own, int(is_known.sum()), scores, flagged, remarks, repeats)


def _remarks(runs: Runs, scores: list[OwnScore]) -> list[str]:
    """Return what a reader should know of so few runs."""
    found = []
    if runs.batch.at.size == 1:
        found.append(
            "one run cannot be left out to score it: what it is worth stands in the learning curve of the docs"
        )
    for each in scores:
        if each.left_out and each.left_out["n"] >= FEWEST_TO_JUDGE:
            before, after = each.base["median_ape"], each.left_out["median_ape"]
            if before is not None and after is not None and after > before:
                found.append(
                    f"{each.engine} {each.metric}: own runs do not help each other ({100 * before:.1f} -> "
                    f"{100 * after:.1f} %): look for settings that differ among them and are not recorded"
                )
    return found


def _scores(base: Profile, runs: Runs, tick: Callable[[], None]) -> list[OwnScore]:
    """Score own runs, each with the other ones known."""
    count = runs.batch.at.size
    before, plain = (predict_batch(runs.batch, each) for each in (base, uncalibrated()))
    after = {metric: np.full((3, count), np.nan) for metric in METRICS}
    part = np.arange(count) % MOST_LEFT_OUT
    for number in range(min(count, MOST_LEFT_OUT) if count > 1 else 0):
        out = np.flatnonzero(part == number)
        known = with_own(base, runs.take(np.flatnonzero(part != number)))
        found = predict_batch(runs.batch.take(out), known)
        for metric in METRICS:
            after[metric][:, out] = found.comparable(metric, runs.median[metric][out])
        tick()
    engines = np.array([group[0] for group in runs.groups], dtype=object)
    scores = []
    for engine in sorted(set(engines)):
        for metric in METRICS:
            measured = np.where(engines == engine, runs.measured[metric], np.nan)
            if not np.isfinite(measured).any():
                continue
            median = runs.median[metric]
            scores.append(
                OwnScore(
                    engine,
                    metric,
                    score(measured, plain.comparable(metric, median).value),
                    score(measured, *before.comparable(metric, median)),
                    score(measured, *after[metric]) if count > 1 else None,
                )
            )
    return scores
