"""What is said where nothing can be chosen: no room anywhere, or a service level that nothing keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aicalib.errors import InvalidValue, RequestError
from aicalib.hardware import list_accelerators
from aicalib.physics.memory import GIB
from aicalib.plan.score import Figure
from aicalib.plan.search.evaluate import Evaluated
from aicalib.plan.search.goal import MEAN
from aicalib.plan.search.losers import NAMES, excess, spelled
from aicalib.plan.tasks.task import Bound
from aicalib.resolve.identify import WIDTHS
from aicalib.resolve.rows import resolve
from aicalib.served import memory_of

Array = NDArray[np.float64]


OPTIONS: Final = {"ttft": "--ttft-ms", "tpot": "--tpot-ms", "latency": "--e2e-ms"}
"""Options that bound a metric."""


def proposed(wanted: Bound, threshold_ms: float, level: Sequence[Bound]) -> str:
    """Return the option that asks for a bound at another threshold; it names its percentile where a level has any."""
    has_percentiles = any(each.percentile for each in level)
    statistic = f"@{wanted.percentile or MEAN}" if has_percentiles else ""
    return f"{OPTIONS[wanted.metric]} {threshold_ms:g}{statistic}"


class Unmet(InvalidValue):
    """A service level that no configuration keeps."""

    kind = "unmet"


class NoRoom(InvalidValue):
    """A model that fits on none of the GPUs."""

    kind = "does_not_fit"


def unmet(
    found: Evaluated,
    bounds: Sequence[Bound],
    figures: Mapping[Figure, Array],
    alive: NDArray[np.bool_],
    robust: bool,
) -> RequestError:
    """Return the error that says which bound binds, and the nearest that is reached."""
    rows = np.flatnonzero(alive)
    if not rows.size:
        return InvalidValue("the engine starts none of the configurations that fit")
    over = excess(bounds, figures, found.at.size)[:, rows]
    hard = [bound for bound in bounds if bound.hard_fail]
    if not hard:
        return InvalidValue("the objective has no value for answers of one token", ["--objective throughput"])
    end = " at the pessimistic end of its interval" if robust else ""
    alone = [at for at in range(len(hard)) if not (over[at] <= 0.0).any()]
    if alone:
        nearest = [int(rows[np.nanargmin(over[at])]) for at in alone]
        least_ms = [
            1e3 * float(figures[hard[at].metric, hard[at].percentile][row])
            for at, row in zip(alone, nearest, strict=True)
        ]
        said = [
            f"{spelled(hard[at])}: the least is {least:.4g} ms ({found.space.words(int(found.starts[row]))}, "
            f"{found.concurrency[row]:g} in flight)"
            for at, row, least in zip(alone, nearest, least_ms, strict=True)
        ]
        return Unmet(
            f"the service level is not reached{end}: {'; '.join(said)}",
            [proposed(hard[at], _above(least), bounds) for at, least in zip(alone, least_ms, strict=True)],
        )
    worst = np.where(np.isnan(over), np.inf, over).max(axis=0)
    row = int(rows[worst.argmin()])
    binding = hard[int(over[:, worst.argmin()].argmax())]
    reached = [
        f"{NAMES[bound.metric]} {1e3 * figures[bound.metric, bound.percentile][row]:.4g} ms" for bound in hard
    ]
    words = found.space.words(int(found.starts[row]))
    needed = 1e3 * float(figures[binding.metric, binding.percentile][row])
    return Unmet(
        f"each bound is reached by itself{end}, but not {' and '.join(spelled(bound) for bound in hard)} together; "
        f"{NAMES[binding.metric]} binds: the nearest has {', '.join(reached)} ({words}, "
        f"{found.concurrency[row]:g} in flight)",
        [proposed(binding, _above(needed), bounds)],
    )


def _above(value_ms: float) -> float:
    """Return a bound of three digits that a time keeps."""
    step = 10.0 ** (np.floor(np.log10(value_ms)) - 2.0)
    return float(f"{np.ceil(value_ms / step) * step:.6g}")


def no_room(found: Evaluated) -> RequestError:
    """Return the error that says what is missing, and on what the model would fit."""
    sought = found.space.sought
    if not found.batch.rows.size:
        reason = next(iter(found.refused), "the engine starts none of the formats and widths")
        return InvalidValue(f"no configuration of {sought.model} is left: {reason}")
    row = int(np.argmin(found.missing_gib))
    words = found.space.words(int(found.batch.rows[row]))
    where = _where_it_fits(found)
    would = (
        f"; as published it fits on {', '.join(where[:6])}"
        if where
        else "; it fits on one node of no known GPU"
    )
    return NoRoom(
        f"{sought.model} fits nowhere on {sought.count} x {', '.join(sought.gpus)}: the nearest, {words}, lacks "
        f"{found.missing_gib[row]:.1f} GiB a GPU for one request of {sought.isl + sought.osl:g} tokens{would}",
        where[:6],
    )


def _where_it_fits(found: Evaluated) -> list[str]:
    """Return the smallest width of one node of each other kind of GPU that holds a request, fewest GPUs first."""
    sought = found.space.sought
    tried = [(gpu, width) for gpu in list_accelerators() for width in WIDTHS if width <= gpu.gpus_together]
    batch = resolve({
        "model": [sought.model] * len(tried), "gpu": [gpu.name for gpu, _ in tried],
        "engine": [sought.engines[0]] * len(tried), "tp": [width for _, width in tried],
        "isl": [sought.isl] * len(tried), "osl": [sought.osl] * len(tried),
    })  # fmt: skip
    _, fits = memory_of(batch)
    first: dict[str, int] = {}
    for at in batch.rows[fits].tolist():
        gpu, width = tried[at]
        first.setdefault(gpu.name, width)
    memory = {gpu.name: gpu.memory_bytes / GIB for gpu, _ in tried}
    return [
        f"{width} x {name}"
        for name, width in sorted(first.items(), key=lambda each: (each[1], memory[each[0]]))
    ]
