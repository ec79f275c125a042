"""All configurations of a space predicted, as columns of figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.physics.memory import GIB, memory, spare_bytes
from aicalib.plan.score import THROUGHPUT, Figure
from aicalib.plan.search.space import Space
from aicalib.plan.workers import HERE, Where, run
from aicalib.prediction import Prediction, predict_batch
from aicalib.profiles.profile import Profile
from aicalib.resolve.batch import Batch
from aicalib.resolve.loads import PROMPTS_PER_SLOT
from aicalib.served import memory_of
from aicalib.serving.percentiles import percentiles

Array = NDArray[np.float64]
Codes = NDArray[np.intp]
Yes = NDArray[np.bool_]

BLOCK: Final = 1 << 13
"""Configurations that are predicted at a time: few enough to stay in the processor's cache, and for malloc to keep a
column of them (see `aicalib.plan.sweep.run.BLOCK`)."""

_MEANS: Final = (("ttft", "ttft_ms", 1e-3), ("tpot", "tpot_ms", 1e-3), ("latency", "e2e_ms", 1e-3),
                 ("output", "output_tok_s_per_gpu", 1.0))  # fmt: skip


@dataclass(frozen=True)
class Evaluated:
    """Figures of n configurations of starts that fit.

    Attributes
    ----------
    space : Space
    batch : Batch
        All starts that the model can have, with one request in flight; its rows are places in the space.
    fitting : ndarray of bool
        Which rows of the batch hold one request.
    missing_gib : ndarray
        What a GPU of each row of the batch lacks for one request; not positive where it fits.
    refused : Counter
        Why the model or the load cannot have a start -> configurations.
    at : ndarray of int, shape (n,)
        Row of the batch of each configuration.
    concurrency : ndarray, shape (n,)
    figures : mapping of Figure to ndarray, shape (n,)
        Times in seconds; "output" and `THROUGHPUT` in tokens a second and GPU that was given, idle ones counted.
    factors : mapping of str to ndarray, shape (n,)
        High end over value of the 90 % interval of "ttft", "tpot", "latency" and "output".
    origins : ndarray of int, shape (n,)
        Places in `aicalib.prediction.ORIGINS`.
    """

    space: Space
    batch: Batch
    fitting: Yes
    missing_gib: Array
    refused: Counter[str]
    at: Codes
    concurrency: Array
    figures: Mapping[Figure, Array]
    factors: Mapping[str, Array]
    origins: Codes

    @property
    def starts(self) -> Codes:
        """Place in the space of the start of each configuration, shape (n,)."""
        return self.batch.rows[self.at]

    def end(self, end: str) -> dict[Figure, Array]:
        """Return the figures at an end of their intervals: "value", "low" (the good ends) or "high" (the bad ones).

        A percentile keeps the interval of its mean, as in `aicalib.plan.figures.figures_of`.
        """
        if end == "value":
            return dict(self.figures)
        found = {}
        for (name, percentile), values in self.figures.items():
            rate = name in ("output", THROUGHPUT[0])
            factor = self.factors["output" if rate else name]
            found[name, percentile] = values * factor if rate == (end == "low") else values / factor
        return found

    def asked(self, rows: Codes) -> Batch:
        """Return some configurations as questions."""
        return loaded(self.batch.take(self.at[rows]), self.concurrency[rows])


def loaded(batch: Batch, concurrency: Array) -> Batch:
    """Return questions with other concurrency, shape (n,), as a closed benchmark of ten requests a slot."""
    load = replace(batch.load, concurrency=concurrency, num_prompts=PROMPTS_PER_SLOT * concurrency)
    return replace(batch, load=load)


def evaluate(
    space: Space,
    profile: Profile,
    wanted: Sequence[str] = (),
    tick: Callable[[], object] = lambda: None,
    where: Where = HERE,
) -> Evaluated:
    """Predict every start of a space under every concurrency.

    Parameters
    ----------
    space : Space
    profile : Profile
    wanted : sequence of str
        Percentiles that bounds ask for, such as "p99", beside the means.
    tick : callable
        Called after every block.
    where : Where
        Who predicts the blocks.
    """
    batch = space.resolve()
    levels = np.array(space.concurrency, dtype=float)
    refused = Counter(str(error) for error in batch.refused.values())
    held, fitting = memory_of(batch)
    missing = -spare_bytes(held, batch.load.isl + batch.load.osl) / GIB
    pools = batch.features.separation
    if pools is not None:
        prefill = memory(pools.part.system, pools.part.at, batch.settings, batch.load.isl)
        lacking = -spare_bytes(prefill, batch.load.isl) / GIB
        missing = np.where(pools.separate, np.maximum(missing, lacking), missing)
    fit = np.flatnonzero(fitting)
    # Rows of one deployment come together, so that its kernels are timed once.
    order = fit[np.argsort(batch.at[fit], kind="stable")]
    n = order.size * levels.size
    at, concurrency = np.repeat(order, levels.size), np.tile(levels, order.size)
    spread = sorted({int(each[1:]) for each in wanted} | {50}) if wanted else []
    names: list[Figure] = [(name, None) for name, _, _ in _MEANS]
    names += [(name, f"p{each}") for name in ("ttft", "tpot", "latency") for each in spread]
    figures = {name: np.empty(n) for name in names}
    factors = {name: np.empty(n) for name, _, _ in _MEANS}
    origins = np.zeros(n, dtype=np.intp)
    asked = _Asked(profile, levels, tuple(spread))
    step = max(BLOCK // levels.size, 1)
    blocks = (
        replace(batch.take(order[first : first + step]), refused={}) for first in range(0, order.size, step)
    )
    with closing(run(_predicted, asked, blocks, where)) as results:
        for number, block in enumerate(results):
            rows = slice(number * step * levels.size, (number + 1) * step * levels.size)
            for name, values in block.figures.items():
                figures[name][rows] = values
            for metric, values in block.factors.items():
                factors[metric][rows] = values
            origins[rows] = block.origins
            tick()
    share = (space.n_gpus() * (space.sought.count // space.n_gpus()) / space.sought.count)[batch.rows[at]]
    figures["output", None] *= share
    total = (space.sought.isl + space.sought.osl) / space.sought.osl
    figures[THROUGHPUT] = figures["output", None] * total
    counted = Counter({reason: count * levels.size for reason, count in refused.items()})
    return Evaluated(space, batch, fitting, missing, counted, at, concurrency, figures, factors, origins)


class _Asked(NamedTuple):
    """What all blocks are asked: under which concurrency, and which percentiles."""

    profile: Profile
    levels: Array
    spread: tuple[int, ...]


class _Block(NamedTuple):
    """Columns of the configurations of a block, as `Evaluated` has them, of all GPUs that a replica has."""

    figures: dict[Figure, Array]
    factors: dict[str, Array]
    origins: Codes


def _predicted(asked: _Asked, starts: Batch) -> _Block:
    """Predict some starts under every concurrency."""
    rows = np.repeat(np.arange(starts.rows.size), asked.levels.size)
    found = predict_batch(loaded(starts.take(rows), np.tile(asked.levels, starts.rows.size)), asked.profile)
    figures: dict[Figure, Array] = {
        (name, None): scale * found.mean[metric].value for name, metric, scale in _MEANS
    }
    factors = {name: found.mean[metric].high / found.mean[metric].value for name, metric, _ in _MEANS}
    return _Block(figures | _percentiles(found, asked.spread), factors, found.origins)


def _percentiles(found: Prediction, which: tuple[int, ...]) -> dict[Figure, Array]:
    """Return percentiles in seconds; of end-to-end latency as `aicalib.plan.figures.figures_of` has them."""
    if not which:
        return {}
    spread, after_first = percentiles(found.service, which), found.batch.load.osl - 1.0
    figures: dict[Figure, Array] = {}
    for each in which:
        ttft_s, tpot_s = spread["ttft_s"][each], spread["tpot_s"][each]
        whole_s = ttft_s + tpot_s * after_first if each > 50 else found.service.e2e_median_s
        for name, values in (("ttft", ttft_s), ("tpot", tpot_s), ("latency", whole_s)):
            figures[name, f"p{each}"] = values
    return figures
