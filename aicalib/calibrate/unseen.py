"""Formats that no run has: how far off a fit is on runs of a whole class of formats that it did not see.

Each class of weights and each width of the cache is left out of the fit, on every model and GPU at once, and its runs
are answered as an unknown format is: by bytes, math and coefficients of what others say, and by the kernels of 16 bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from aicalib.calibrate.intervals import Imitation, at_distance, quantiles, with_tables_of
from aicalib.calibrate.runs import Runs
from aicalib.calibrate.validate import answered
from aicalib.deployment import Identity
from aicalib.nearness import FORMAT, NEARNESS
from aicalib.prediction import widths
from aicalib.profiles.coefficients import FORMAT_CLASSES
from aicalib.profiles.profile import METRICS, Profile
from aicalib.quant import FMHAQuantMode, GEMMQuantMode, KVCacheQuantMode, MoEQuantMode, storage_bits

MOST = len(FORMAT_CLASSES) + 4
"""Classes at most: those of weights, and caches of 4, 8, 16 and 32 bits."""


def _wide_weights(who: Identity) -> Identity:
    quant = replace(
        who.quant,
        gemm=GEMMQuantMode.bfloat16,
        moe=MoEQuantMode.bfloat16,
        gemm_variant=None,
        moe_variant=None,
    )
    return replace(who, quant=quant)


def _wide_cache(who: Identity) -> Identity:
    return replace(
        who, quant=replace(who.quant, kvcache=KVCacheQuantMode.bfloat16, fmha=FMHAQuantMode.bfloat16)
    )


StandIn = Callable[[Identity], Identity]
"""A deployment -> the one whose kernels stand in."""


def format_classes(runs: Runs) -> Iterator[tuple[str, NDArray[np.bool_], StandIn]]:
    """Yield each class of formats that some of the runs have and others lack: name, which have it, what stands in.

    Dense weights and experts are one: a class is left out of both.
    """
    batch = runs.batch
    names = [batch.identities[code] for code in batch.codes]
    has_experts = np.array([who.architecture.moe_layers > 0 for who in names])
    dense, experts = (codes[batch.at] for codes in (batch.system.gemm_class, batch.system.expert_class))
    for code, name in enumerate(FORMAT_CLASSES):
        yield f"weights {name}", (dense == code) | (has_experts & (experts == code)), _wide_weights
    bits = np.array([np.ceil(storage_bits(who.quant.kvcache)) for who in names])
    for width in np.unique(bits):
        yield f"cache of {width:.0f} bits", bits == width, _wide_cache


def formats_left_out(
    runs: Runs, fit: Callable[[Runs], Profile], tick: Callable[[], None] = lambda: None
) -> dict[str, Imitation]:
    """Predict the runs of each class of formats by a fit to those of all others.

    Parameters
    ----------
    runs : Runs
        n runs.
    fit : callable
        Makes the profile of coefficients of some runs.
    tick : callable
        Called after each fit, `MOST` times at most.

    Returns
    -------
    dict
        Name of a class -> its runs, at the distance `FORMAT`.
    """
    found = {}
    for name, has, stand_in in format_classes(runs):
        if has.any() and not has.all():
            profile = fit(runs.take(np.flatnonzero(~has)))
            strange = with_tables_of(runs.take(np.flatnonzero(has)), stand_in)
            if strange is not None:
                chosen, part = strange
                left = answered(part, np.zeros(chosen.size, dtype=np.intp), [profile])
                found[name] = at_distance(FORMAT, runs, np.flatnonzero(has)[chosen], part, left)
            tick()
    return found


def coverage(
    runs: Runs, near: list[Imitation], classes: Mapping[str, Imitation]
) -> dict[str, dict[str, dict[str, float]]]:
    """Return of each class how many of its runs the interval of an unseen format holds that the others give.

    Parameters
    ----------
    runs : Runs
        n runs.
    near : list of Imitation
        Of all other distances.
    classes : mapping
        What `formats_left_out` returns.

    Returns
    -------
    dict
        Name of a class -> metric -> `n`, and `share` of them.
    """
    engines = [group[0] for group in runs.groups]
    everyone = np.ones(len(engines), dtype=bool)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, left in classes.items():
        others = [each for other, each in classes.items() if other != name]
        known = quantiles(runs, [*near, *others], everyone)
        for metric in METRICS:
            width = np.array(
                [widths(known, engine, metric).get(NEARNESS[FORMAT], np.nan) for engine in engines]
            )
            errors = np.abs(left.logs[metric])
            at = np.isfinite(errors)
            if at.any():
                share = round(float(np.mean(errors[at] <= width[at])), 3)
                found.setdefault(name, {})[metric] = {"n": int(at.sum()), "share": share}
    return found
