"""Cross-validation over whole groups: what a profile is worth on models, GPUs and settings that it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold

from aicalib.calibrate.runs import Runs
from aicalib.hardware import Accelerator
from aicalib.nearness import NEARNESS
from aicalib.prediction import predict_batch
from aicalib.profiles.profile import METRICS, Profile

Array = NDArray[np.float64]
Folds = NDArray[np.intp]
Labels = list[tuple[str, ...]]

FOLDS = 10
"""Folds where nothing else is said; a fold leaves out whole labels of a split."""

OCTAVE_PARTS = 4
"""Lengths are one where log2 rounds to the same fourth: 1000 and 1024 tokens are, 1024 and 1280 are not."""


def group_labels(runs: Runs) -> Labels:
    """Return (model family, GPU) of each run: its group leaves under every engine at once."""
    return [(family, gpu) for _, family, gpu in runs.groups]


def family_labels(runs: Runs) -> Labels:
    """Return the model family of each run."""
    return [(family,) for _, family, _ in runs.groups]


def generation_of(accelerator: Accelerator) -> str:
    """Return the generation of a GPU: that of its compute capability, else its vendor's word ("CDNA3")."""
    return accelerator.generation or accelerator.architecture or accelerator.vendor


def generation_labels(runs: Runs) -> Labels:
    """Return the GPU generation of each run."""
    batch = runs.batch
    return [(generation_of(batch.identities[code].accelerator),) for code in batch.codes]


def configuration_labels(runs: Runs) -> Labels:
    """Return what tells one configuration from another: engine, model family, GPU, formats and widths.

    What one source records and another does not (expert width, format of the cache, version, settings of the
    scheduler) separates nothing, so that repeats from other sources leave with their configuration.
    """
    batch = runs.batch
    found = []
    for group, code, at in zip(runs.groups, batch.codes, batch.at, strict=True):
        quant, system = batch.identities[code].quant, batch.system
        widths = (str(int(each[at])) for each in (system.tp, system.dp, system.pp))
        found.append((*group, quant.gemm.name, quant.moe.name, *widths))
    return found


def curve_labels(runs: Runs) -> Labels:
    """Return configuration and nominal lengths of each run: a curve runs over the concurrency alone."""
    load = runs.batch.load
    found = []
    for at, (configuration, record) in enumerate(zip(configuration_labels(runs), runs.answered, strict=True)):
        nominal = (record.get("isl") or load.isl[at], record.get("osl") or load.osl[at])
        lengths = (str(round(OCTAVE_PARTS * float(np.log2(max(each, 1.0))))) for each in nominal)
        found.append((*configuration, *lengths))
    return found


SPLITS: Mapping[str, Callable[[Runs], Labels]] = {
    "group": group_labels,
    "family": family_labels,
    "generation": generation_labels,
    "configuration": configuration_labels,
    "curve": curve_labels,
}
"""What is left out together -> the label of each run."""


@dataclass(frozen=True)
class LeftOut:
    """What is predicted of runs by profiles that did not see them.

    Attributes
    ----------
    fold : ndarray of int, shape (n,)
        The fold that left each run out.
    values, low, high : dict of str to ndarray, shape (n,)
        Of each metric: the mean or median, as the run was measured, and the ends of its 90 % interval (NaN
        where the profile carries none).
    near : dict of str to ndarray of str, shape (n,)
        Of each metric: how near the nearest fitted runs are, one of `aicalib.nearness.NEARNESS`.
    profiles : list of Profile
        One a fold.
    """

    fold: Folds
    values: dict[str, Array]
    low: dict[str, Array]
    high: dict[str, Array]
    near: dict[str, NDArray[np.object_]]
    profiles: list[Profile]


def folds(labels: list[Any], count: int = FOLDS) -> Folds:
    """Assign each run to a fold so that no label is split, balanced by runs.

    Parameters
    ----------
    labels : list
        One a run, of `SPLITS`.
    count : int
        Folds at most; there are no more than labels.
    """
    fold = np.full(len(labels), -1, dtype=np.intp)
    codes = {label: code for code, label in enumerate(sorted(set(labels)))}
    splitter = GroupKFold(n_splits=min(count, len(codes)))
    groups = [codes[label] for label in labels]
    for number, (_, out) in enumerate(splitter.split(np.zeros((len(labels), 1)), groups=groups)):
        fold[out] = number
    return fold


def left_out(
    runs: Runs,
    split: str,
    fit: Callable[[Runs], Profile],
    count: int = FOLDS,
    tick: Callable[[], None] = lambda: None,
    jobs: int = 1,
) -> LeftOut:
    """Predict each run by a profile that was fitted without its label's runs.

    Parameters
    ----------
    runs : Runs
        n runs of at least two labels.
    split : str
        A key of `SPLITS`.
    fit : callable
        Makes a profile of the runs of the other folds.
    count : int
        Folds at most.
    tick : callable
        Called after each fit, for a progress bar.
    jobs : int
        Processes that fit at the same time.
    """
    fold = folds(SPLITS[split](runs), count)
    profiles = []
    parts = (runs.take(np.flatnonzero(fold != number)) for number in range(int(fold.max()) + 1))
    for profile in Parallel(n_jobs=jobs, return_as="generator")(delayed(fit)(part) for part in parts):
        profiles.append(profile)
        tick()
    return answered(runs, fold, profiles)


def answered(runs: Runs, fold: Folds, profiles: list[Profile]) -> LeftOut:
    """Predict each run by the profile of its fold.

    Parameters
    ----------
    runs : Runs
        n runs.
    fold : ndarray of int, shape (n,)
        For each run its place in `profiles`.
    profiles : list of Profile
    """
    value, low, high = ({metric: np.full(fold.size, np.nan) for metric in METRICS} for _ in range(3))
    near = {metric: np.full(fold.size, "", dtype=object) for metric in METRICS}
    names = np.array(NEARNESS, dtype=object)
    for number, profile in enumerate(profiles):
        out = np.flatnonzero(fold == number)
        part = runs.take(out)
        prediction = predict_batch(part.batch, profile)
        for metric in METRICS:
            found = prediction.comparable(metric, part.median[metric])
            value[metric][out], low[metric][out], high[metric][out] = found
            near[metric][out] = names[prediction.nearness(metric)]
    return LeftOut(fold, value, low, high, near, profiles)
