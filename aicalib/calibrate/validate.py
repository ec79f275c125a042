"""Cross-validation over whole groups: what a profile is worth on models and GPUs that it has not seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold

from aicalib.calibrate.fit import Fit, fit
from aicalib.calibrate.runs import Runs

Array = NDArray[np.float64]

FOLDS = 5
"""Folds of the cross-validation; a fold leaves out whole (model family x GPU) groups, of all engines."""


@dataclass(frozen=True)
class CrossValidation:
    """Values that did not see the run they are used for.

    Attributes
    ----------
    fold : ndarray of int, shape (n,)
        The fold that left each run out.
    fits : list of Fit
        One a fold.
    """

    fold: NDArray[np.intp]
    fits: list[Fit]


def folds(groups: list[tuple[str, str, str]], count: int = FOLDS) -> NDArray[np.intp]:
    """Assign each run to a fold so that a (model family, GPU) group is never split, balanced by runs.

    Parameters
    ----------
    groups : list of (engine, family, GPU)
        One a run. The engine does not separate: runs of the same model and GPU leave together.
    """
    labels = [f"{family} x {gpu}" for _, family, gpu in groups]
    fold = np.full(len(groups), -1, dtype=np.intp)
    splitter = GroupKFold(n_splits=min(count, len(set(labels))))
    for number, (_, out) in enumerate(splitter.split(np.zeros((len(groups), 1)), groups=labels)):
        fold[out] = number
    return fold


def cross_validate(runs: Runs, tick: Callable[[], None] = lambda: None) -> CrossValidation:
    """Fit once for each fold on all other folds.

    Parameters
    ----------
    runs : Runs
        n runs of at least two groups.
    tick : callable
        Called after each fit, for a progress bar.
    """
    fold = folds(runs.groups)
    fits = []
    for number in range(int(fold.max()) + 1):
        fits.append(fit(runs.take(np.flatnonzero(fold != number))))
        tick()
    return CrossValidation(fold, fits)
