"""Speculative decoding where no record says whether it was on: a hidden state, inferred from the curve.

A launch script may exist with and without speculation, and a run's record may fit both. A step that drafts and
verifies is slower and yields more tokens, so that TPOT falls where few requests run and rises where many do: the shape
of a curve over concurrency tells the two apart better than its level, which no model predicts to better than a tenth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aicalib.calibrate.runs import DRAFTED_BY_LAYER, Runs, as_runs
from aicalib.prediction import predict_batch
from aicalib.profiles.profile import Profile

Array = NDArray[np.float64]
Record = Mapping[str, Any]

LEVEL = 0.15
"""Standard deviation of a curve's own level of log(measured / predicted TPOT), as on left-out groups."""

SHAPE = (0.08, 0.15)
"""Standard deviations about a curve's own level, without and with speculation: acceptance differs by text."""

LEVELS = np.linspace(-3.0, 3.0, 61)
"""Levels, in standard deviations, over which a curve's level is averaged."""

SHARE = 0.25
"""Prior share of launches with speculation where none is recorded, counted as `WEIGHT` launches. A guess."""

WEIGHT = 2.0

CURVE = (
    "source", "engine", "engine_version", "model", "gpu", "weight_quant", "kv_dtype", "tp", "dp", "ep", "pp", "isl",
    "osl", "load", "measured_on",
)  # fmt: skip
"""Keys of a run that are equal along a curve over concurrency."""


@dataclass(frozen=True)
class Speculating:
    """Runs whose records leave open whether they speculated.

    Attributes
    ----------
    rows : ndarray of int, shape (n,)
        Positions in the records that were given.
    probability : ndarray, shape (n,)
        That they did.
    records : list of mapping
        The same runs told what is most probable.
    """

    rows: NDArray[np.intp]
    probability: Array
    records: list[Record]


def states(record: Record) -> tuple[Record, Record] | None:
    """Return a run without and with speculation, as the launch scripts that fit it say; None where nothing is open."""
    closed = record.get("load") in (None, "closed") and record.get("concurrency") is not None
    if record.get("spec_decode") is not None or record.get("disagg") is True or not closed:
        return None
    found: dict[bool, Record] = {}
    for variant in record.get("flags_variants") or ():
        found.setdefault(bool(variant.get("spec_decode")), variant)
    drafts = found.get(True)
    if drafts is None or False not in found:
        return None
    if str(drafts.get("spec_algorithm")).upper() not in DRAFTED_BY_LAYER:
        return None
    off, on = (
        {**record, **{key: value for key, value in found[state].items() if key != "config"}}
        for state in (False, True)
    )
    return off, on


def prior_share(record: Record, known: Iterable[Record]) -> float:
    """Return the share of launches with speculation among recorded ones of the same source, engine and model family."""
    alike = [
        bool(each["spec_decode"])
        for each in known
        if each.get("spec_decode") is not None
        and all(each.get(key) == record.get(key) for key in ("source", "engine", "model_group"))
    ]
    return (sum(alike) + SHARE * WEIGHT) / (len(alike) + WEIGHT)


def curve_probability(off: Array, on: Array, concurrency: Array, share: float) -> Array:
    """Return the probability that each run of a curve speculated, shape (n,).

    Parameters
    ----------
    off, on : ndarray, shape (n,)
        log(measured / predicted) of TPOT without and with speculation.
    concurrency : ndarray, shape (n,)
        Where no two runs are alike, the curve is one launch and has one state; else each run has its own.
    share : float
        Prior probability.

    Notes
    -----
    Residuals are normal about a level that all runs of the curve share and that is itself normal; the level is averaged
    over.
    """
    levels = LEVEL * LEVELS[:, None]
    weight = np.exp(-0.5 * LEVELS**2)
    logs = np.stack(
        [
            -0.5 * ((each[None, :] - levels) / shape) ** 2 - np.log(shape)
            for each, shape in zip((off, on), SHAPE, strict=True)
        ]
    )
    prior = np.log([1.0 - share, share])
    if np.unique(concurrency).size == concurrency.size:
        whole = logs.sum(axis=2) + prior[:, None]
        mixed = np.exp(whole - whole.max()) @ weight
        return np.full(off.size, mixed[1] / mixed.sum())
    logs = logs + prior[:, None, None]
    either = np.logaddexp(logs[0], logs[1])
    whole = np.log(weight) + either.sum(axis=1)
    posterior = np.exp(whole - whole.max())
    result: Array = posterior @ np.exp(logs[1] - either) / posterior.sum()
    return result


def inferred(records: Iterable[Record], profile: Profile) -> Speculating:
    """Infer whether runs speculated whose records leave it open.

    Parameters
    ----------
    records : iterable of mapping
        Runs in the runs format. Those that say whether they speculated give the prior.
    profile : Profile
        Predicts both states; one that was fitted on these very runs as if they had not speculated leans to that side.

    Returns
    -------
    Speculating
        Runs without a TPOT, or that cannot be answered in both states, are not among them.
    """
    every = list(records)
    both = {row: pair for row, record in enumerate(every) if (pair := states(record)) is not None}
    rows = list(both)
    residuals = np.full((2, len(rows)), np.nan)
    for state in (0, 1):
        runs = as_runs([both[row][state] for row in rows])
        predicted = predict_batch(runs.batch, profile).mean["tpot_ms"].value
        residuals[state, runs.batch.rows] = np.log(runs.measured["tpot_ms"] / predicted)
    curves: dict[tuple[Any, ...], list[int]] = {}
    for at, row in enumerate(rows):
        if np.isfinite(residuals[:, at]).all():
            curves.setdefault(tuple(every[row].get(key) for key in CURVE), []).append(at)
    found: dict[int, float] = {}
    for members in curves.values():
        places = np.array(members)
        concurrency = np.array([float(every[rows[each]]["concurrency"]) for each in members])
        share = prior_share(every[rows[members[0]]], every)
        chances = curve_probability(residuals[0, places], residuals[1, places], concurrency, share)
        found |= dict(zip(members, chances.tolist(), strict=True))
    kept = sorted(found)
    return Speculating(
        np.array([rows[each] for each in kept], dtype=np.intp),
        np.array([found[each] for each in kept]),
        [both[rows[each]][int(found[each] > 0.5)] for each in kept],
    )


def told(records: Iterable[Record], profile: Profile) -> Runs:
    """Return runs as questions, with what is most probable where a record leaves speculation open.

    Returns
    -------
    Runs
        With `speculation_probability`, NaN where nothing had to be inferred.
    """
    every = list(records)
    found = inferred(every, profile)
    for row, record in zip(found.rows.tolist(), found.records, strict=True):
        every[row] = record
    probability = np.full(len(every), np.nan)
    probability[found.rows] = found.probability
    runs = as_runs(every)
    return replace(runs, speculation_probability=probability[runs.batch.rows])


def doubted(runs: Runs, profile: Profile) -> Runs:
    """Return runs as they were asked, with `speculation_probability` where their records leave it open."""
    if not any(states(record) for record in runs.answered):
        return runs
    found = inferred(runs.records, profile)
    probability = np.full(len(runs.records), np.nan)
    probability[found.rows] = found.probability
    return replace(runs, speculation_probability=probability[runs.batch.rows])
