"""Published sweeps as questions: which configuration is the best under a service level, with all figures hidden."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aicalib.calibrate.build import fitted, log_errors
from aicalib.calibrate.intervals import of_left_out, quantiles
from aicalib.calibrate.runs import Runs
from aicalib.calibrate.validate import LeftOut, group_labels, left_out
from aicalib.loop.belief import Kernel, kernels_of
from aicalib.loop.candidates import interval_widths
from aicalib.nearness import LEVELED
from aicalib.plan.tasks.task import Bound
from aicalib.prediction import Prediction, predict_batch
from benchmarks.sweeps import Sweep

Array = NDArray[np.float64]
Codes = NDArray[np.intp]

JOBS = 2
"""Processes that work at the same time."""

FOLDS = 10
"""Parts in which whole (model family x GPU) groups are left out of the fit."""

QUANTILES = (0.25, 0.5, 0.75)
"""Of the measured TPOTs of a sweep: service levels beside none."""

EXACT = 1e-3
"""Noise of a revealed figure: what is looked for is the best published figure itself, not the mean of its repeats."""


@dataclass(frozen=True)
class Question:
    """A sweep of n configurations under one service level, with what the physics says of it.

    Attributes
    ----------
    sweep : Sweep
    level : str
        Name of the service level.
    bound_ms : float
        Most TPOT, infinite without one.
    plain : Prediction
        Without levels, by a profile that saw no run of the model family on that GPU.
    logs, widths : dict of str to ndarray, shape (n,)
        TTFT and TPOT -> log(measured / predicted), and log(high / value) of the interval.
    fold : int
        Which profile that was.
    spreads : mapping
        Of the profile.
    shapes : mapping, optional
        Metric -> shape of the belief's kernel (`benchmarks.belief`); the shipped ones if not given.
    """

    sweep: Sweep
    level: str
    bound_ms: float
    plain: Prediction
    logs: dict[str, Array]
    widths: dict[str, Array]
    fold: int
    spreads: Mapping[str, Mapping[str, float]]
    shapes: Mapping[str, Mapping[str, Any]] | None = None

    @property
    def kernels(self) -> dict[str, Kernel]:
        """What goes together, revealed figures taken as they are."""
        return kernels_of(self.spreads, dict.fromkeys(LEVELED, EXACT), self.shapes)

    @property
    def meets(self) -> NDArray[np.bool_]:
        """Whether each configuration was measured to meet the bound, shape (n,)."""
        found: NDArray[np.bool_] = self.sweep.tpot_ms <= self.bound_ms
        return found

    @property
    def regret(self) -> Array:
        """Share of the best throughput that each choice loses: all of it where it violates the bound, shape (n,)."""
        utility = np.where(self.meets, self.sweep.tok_s_per_gpu, 0.0)
        found: Array = 1.0 - utility / utility.max()
        return found

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """The service level as a task has it."""
        if np.isinf(self.bound_ms):
            return ()
        return (Bound("tpot", None, self.bound_ms / 1e3, hard_fail=True, fail_ratio=0.0),)


def service_levels(sweep: Sweep) -> Iterator[tuple[str, float]]:
    """Yield names and TPOTs [ms] of the bounds of a sweep; each lies midway between two that were measured."""
    yield "none", np.inf
    measured = np.unique(sweep.tpot_ms)
    for share in QUANTILES:
        below = max(int(np.ceil(share * measured.size)), 1)
        if below < measured.size:
            yield f"{100 * share:.0f} % quantile", float(np.sqrt(measured[below - 1] * measured[below]))


def without_groups(runs: Runs, jobs: int = 1, tick: Callable[[], None] = lambda: None) -> LeftOut:
    """Return profiles that each did not see some groups, with intervals from the left-out runs of the others."""
    found = left_out(runs, "group", fitted, FOLDS, tick, jobs)
    errors = [of_left_out(runs, found)]
    return replace(
        found,
        profiles=[
            replace(profile, quantiles=quantiles(runs, errors, found.fold != number))
            for number, profile in enumerate(found.profiles)
        ],
    )


def questions(found: Sequence[Sweep], runs: Runs, group: LeftOut) -> Iterator[Question]:
    """Yield every sweep under every service level.

    Parameters
    ----------
    found : sequence of Sweep
    runs : Runs
        What the profiles were fitted on, and
    group : LeftOut
        what was predicted of them without their groups.
    """
    fold = dict(zip(group_labels(runs), group.fold.tolist(), strict=True))
    for sweep in found:
        # A group of which no run was fitted is unknown to all profiles: the first answers.
        number = fold.get(sweep.group, 0)
        profile = group.profiles[number]
        plain = predict_batch(sweep.runs.batch, replace(profile, levels={}))
        logs, widths = log_errors(sweep.runs, profile), interval_widths(plain, profile)
        for level, bound_ms in service_levels(sweep):
            yield Question(sweep, level, bound_ms, plain, logs, widths, number, profile.spreads)
