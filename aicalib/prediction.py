"""Predictions: a resolved batch and a profile in, numbers with intervals and origin out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.deployment import Deployment, Workload
from aicalib.nearness import (
    FORMAT,
    LEVELED,
    NEARNESS,
    Levels,
    levelled,
    nearness,
    nodes_of,
    paced,
    unseen_formats,
)
from aicalib.physics.memory import Memory, largest_concurrency
from aicalib.profiles.coefficients import FORMAT_CLASSES
from aicalib.profiles.profile import Profile, default_profile
from aicalib.resolve.batch import Batch
from aicalib.resolve.identify import KERNEL_ORIGINS, untimed_cache
from aicalib.resolve.rows import ask, resolve_in_blocks
from aicalib.resolve.widened import widened_parts
from aicalib.served import capacity, memory_of, recent_tables, servers
from aicalib.serving.load import BURST, OPEN, Service
from aicalib.serving.percentiles import percentiles
from aicalib.serving.serve import serve

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

METRICS = ("ttft_ms", "tpot_ms", "e2e_ms", "requests_s", "output_tok_s", "output_tok_s_per_gpu")
"""What is predicted for each deployment and workload."""

RATES = {"requests_s": "output_tok_s", "output_tok_s_per_gpu": "output_tok_s"}
"""Metrics whose interval is that of another, since they differ by a constant."""

ANY_ENGINE = "any"
"""Quantiles of an engine of which too few groups were left out to tell its own, or none."""

BLOCK = 1 << 15
"""Rows that `predict_many` answers at a time: few enough to stay in the processor's cache."""


class Interval(NamedTuple):
    """A number and its 90 % interval, arrays of shape (n,); NaN without an answer."""

    value: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Prediction:
    """Predictions of n rows under one profile.

    Attributes
    ----------
    batch : Batch
        The questions.
    profile : Profile
    mean, median : dict of str to Interval
        Metric -> what a client reports as mean and as median; ms and per second.
    memory : Memory
        Of one GPU, in bytes.
    service : Service
        Times in seconds as the serving model gives them.
    fits : ndarray of bool, shape (n,)
        Whether the KV pool holds one request; every number of a row that does not fit is NaN.
    overloaded : ndarray of bool, shape (n,)
        Whether the request rate is above what the deployment sustains, `service.sustainable_s`; every other number
        of such a row is NaN.
    origins : ndarray of int, shape (n,)
        Places in `ORIGINS`: "calibrated" (runs of the engine and of the weight formats on this compute capability
        were fitted); else "kernel-fit" (the kernels were timed on this accelerator), "extrapolated" (on another
        of its generation, in a format that stands in, or the load, feature or format is one that no fit has seen) or
        "datasheet".
    levels : Levels, optional
        What fitted runs of the same group, configuration or curve add to the physics, where the profile has such.
    """

    batch: Batch
    profile: Profile
    mean: dict[str, Interval]
    median: dict[str, Interval]
    memory: Memory
    service: Service
    fits: NDArray[np.bool_]
    overloaded: NDArray[np.bool_]
    origins: NDArray[np.intp]
    levels: Levels | None = None

    @property
    def origin(self) -> list[str]:
        """Origin of each row."""
        found: list[str] = ORIGINS[self.origins].tolist()
        return found

    @property
    def percentiles(self) -> dict[str, dict[int, Array]]:
        """TTFT and TPOT in ms by percentile (50, 90, 99), as `aicalib.serving.percentiles` states them."""
        found = percentiles(self.service)
        return {
            f"{metric.removesuffix('_s')}_ms": {each: 1e3 * values for each, values in by.items()}
            for metric, by in found.items()
        }

    def reason(self, index: int) -> str | None:
        """Return why a row has no numbers, None where it has."""
        if not self.fits[index]:
            return "weights and one request do not fit into the memory of the GPUs"
        if self.overloaded[index] and self.batch.load.request_rate is not None:
            rate, most = self.batch.load.request_rate[index], self.service.sustainable_s[index]
            return f"{rate:.4g} requests/s arrive; the deployment sustains {most:.4g} requests/s"
        return None

    def nearness(self, metric: str) -> NDArray[np.intp]:
        """Return how near the fitted runs are in a metric, as places in `aicalib.nearness.NEARNESS`, shape (n,)."""
        unknown = np.full(self.batch.at.size, -1, dtype=np.intp)
        depth = unknown if self.levels is None else self.levels.depth_of(metric)
        return nearness(self.batch, self.profile, depth, self.origins)

    def unseen(self, index: int) -> str | None:
        """Return in words which formats of a row no fitted run had, None where its numbers do not rest on that."""
        batch = self.batch
        formats = unseen_formats(batch.identities[batch.codes[index]], self.profile)
        if not formats or FORMAT not in {int(self.nearness(metric)[index]) for metric in LEVELED}:
            return None
        return f"no run with {' and '.join(formats)} was fitted; intervals are those of formats left out of a fit"

    def comparable(self, metric: str, is_median: NDArray[np.bool_]) -> Interval:
        """Return the statistic that compares with a measured one, row by row."""
        pairs = zip(self.median[metric], self.mean[metric], strict=True)
        return Interval(*(np.where(is_median, median, mean) for median, mean in pairs))


def evidence_keys(batch: Batch) -> list[set[str]]:
    """Return for each identity what must have been fitted for its numbers to be called calibrated.

    The engine on that compute capability, each weight format's class on it, a cache narrower than any timed one, and
    what no kernel reads as it is stored.
    """
    gemm = dict(zip(batch.who.tolist(), batch.system.gemm_class.tolist(), strict=True))
    experts = dict(zip(batch.who.tolist(), batch.system.expert_class.tolist(), strict=True))
    found = []
    for code, who in enumerate(batch.identities):
        at = who.accelerator.capability
        keys = {f"{who.engine} on {at}"}
        if code in gemm:
            keys.add(f"gemm {FORMAT_CLASSES[gemm[code]]} on {at}")
        if code in experts and who.architecture.moe_layers:
            keys.add(f"experts {FORMAT_CLASSES[experts[code]]} on {at}")
        if untimed_cache(who):
            keys.add(f"cache {who.quant.kvcache.name} on {at}")
        keys.update(f"widened {part} on {at}" for part in widened_parts(who))
        found.append(keys)
    return found


STATUSES = np.array(["refused", "ok", "does_not_fit", "overloaded"], dtype=object)
REFUSED, OK, DOES_NOT_FIT, OVERLOADED = range(4)
"""What became of a row of a table."""

ORIGINS = np.array(["calibrated", *KERNEL_ORIGINS], dtype=object)
"""Origins of numbers, the strongest first."""


def _origins(batch: Batch, profile: Profile, levels: Levels | None) -> NDArray[np.intp]:
    """Return the origin of each row, as a place in `ORIGINS`, shape (n,).

    Calibrated where runs like it were fitted, or where its model has a level in its formats; else as its kernels are,
    but at most extrapolated where a fitted profile is asked about a format or a load that no fit has seen.
    """
    known = ORIGINS.tolist()
    kernel = np.array([known.index(who.kernel_origin) for who in batch.identities], dtype=np.intp)
    if "evidence" not in profile.lineage:
        return kernel[batch.codes]
    fitted = set(profile.lineage["evidence"])
    seen = np.array([keys <= fitted for keys in evidence_keys(batch)], dtype=np.bool_)
    unseen = np.array([bool(unseen_formats(who, profile)) for who in batch.identities], dtype=np.bool_)
    extrapolated = known.index("extrapolated")
    found = np.where(unseen, np.maximum(kernel, extrapolated), np.where(seen, 0, kernel))[batch.codes]
    if levels is not None:
        known_formats = np.max([levels.depth[metric] for metric in LEVELED], axis=0) > 0
        found = np.where(known_formats, 0, found)
    return np.where(_unfitted(batch), np.maximum(found, extrapolated), found)


def _unfitted(batch: Batch) -> NDArray[np.bool_]:
    """Return which rows ask what no fit has seen: an open load or a burst, or more than one plain engine."""
    load, features = batch.load, batch.features
    several = (batch.system.pp > 1.0) | (batch.system.nodes > 1.0) | batch.system.deepep
    found = (load.kind == OPEN) | (load.kind == BURST) | several[batch.at]
    if load.prefix_hit is not None:
        found |= load.prefix_hit > 0.0
    if features.mixed_chunk is not None:
        found |= features.mixed_chunk
    if features.drafting is not None:
        found |= features.drafting.method >= 0
    if features.separation is not None:
        found |= features.separation.separate
    result: NDArray[np.bool_] = found
    return result


def widths(
    quantiles: Mapping[str, Mapping[str, Mapping[str, float]]], engine: str, metric: str
) -> Mapping[str, float]:
    """Return nearness -> quantile of an engine and metric: those of all engines where it has none of its own."""
    other = quantiles.get(ANY_ENGINE, {})
    return quantiles.get(engine, other).get(metric, other.get(metric, {}))


def interval_factors(batch: Batch, profile: Profile, metric: str, near: NDArray[np.intp]) -> Array:
    """Return high / value of the intervals of a metric, NaN where the profile has none, shape (n,).

    Parameters
    ----------
    batch : Batch
        n questions.
    profile : Profile
    metric : str
    near : ndarray of int, shape (n,)
        Places in `NEARNESS`.
    """
    engines = [who.engine for who in batch.identities]
    by = {engine: widths(profile.quantiles, engine, metric) for engine in set(engines)}
    table = np.array([[by[engine].get(name, np.nan) for name in NEARNESS] for engine in engines])
    result: Array = np.exp(table.reshape(-1, len(NEARNESS))[batch.codes, near])
    return result


def _with_bounds(found: Prediction) -> Prediction:
    """Return a prediction with the intervals of its profile, as it is without quantiles."""
    if not found.profile.quantiles:
        return found
    factors = {
        metric: interval_factors(found.batch, found.profile, metric, found.nearness(metric))
        for metric in {RATES.get(each, each) for each in METRICS}
    }

    def bounded(values: dict[str, Interval]) -> dict[str, Interval]:
        bounds = {metric: factors[RATES.get(metric, metric)] for metric in values}
        return {
            metric: Interval(value, value / bounds[metric], value * bounds[metric])
            for metric, (value, _, _) in values.items()
        }

    return replace(found, mean=bounded(found.mean), median=bounded(found.median))


def predict_batch(batch: Batch, profile: Profile) -> Prediction:
    """Predict all rows of a batch in one call.

    Parameters
    ----------
    batch : Batch
        n resolved rows.
    profile : Profile
        Coefficients, levels and residual quantiles.

    Returns
    -------
    Prediction

    Notes
    -----
    An interval is value / f to value * f with f = exp(q), and q the quantile of |log(measured / predicted)| of runs
    that were left out so that what was fitted stood as near to them as it does to what is asked.
    """
    load = batch.load
    held, answered = memory_of(batch)
    server = servers(batch, profile.values, recent_tables(batch, profile), held=held)
    levels = nodes_of(profile).find(batch) if profile.levels else None
    factors = None
    if levels is not None and (levels.node >= 0).any():
        factors = {metric: np.exp(levels.log[metric]) for metric in LEVELED}
    asked = load if factors is None else paced(load, factors["tpot_ms"])
    service = serve(server, asked, np.where(answered, capacity(batch, held), load.isl + load.osl))
    if not answered.all():
        service = service.each(lambda values: np.where(answered, values, np.nan))
    overloaded = answered & (np.isfinite(service.sustainable_s) & np.isnan(service.ttft_mean_s))
    if factors is not None:
        service = levelled(service, load, *factors.values())
    output = service.requests_s * load.osl
    mean = {
        "ttft_ms": 1e3 * service.ttft_mean_s,
        "tpot_ms": 1e3 * service.tpot_s,
        "e2e_ms": 1e3 * service.e2e_mean_s,
        "requests_s": service.requests_s,
        "output_tok_s": output,
        "output_tok_s_per_gpu": output / batch.n_gpus,
    }
    medians = {"ttft_ms": 1e3 * service.ttft_median_s, "e2e_ms": 1e3 * service.e2e_median_s}
    unknown = np.full(load.isl.size, np.nan)
    means = {metric: Interval(value, unknown, unknown) for metric, value in mean.items()}
    both = means | {metric: Interval(value, unknown, unknown) for metric, value in medians.items()}
    origin = _origins(batch, profile, levels)
    return _with_bounds(
        Prediction(batch, profile, means, both, held, service, answered, overloaded, origin, levels)
    )


def predict(deployment: Deployment, workload: Workload, profile: Profile | None = None) -> Prediction:
    """Predict one deployment under one workload: a batch of one.

    Parameters
    ----------
    deployment : Deployment
    workload : Workload
    profile : Profile, optional
        The shipped default if not given.

    Raises
    ------
    RequestError
        If the widths or lengths cannot be.
    """
    return predict_batch(ask(deployment, workload), profile or default_profile())


def predict_many(frame: pd.DataFrame, profile: Profile | None = None) -> pd.DataFrame:
    """Predict a table, one row a configuration.

    Parameters
    ----------
    frame : DataFrame
        Columns are the options of `aicalib predict` with underscores (`model`, `gpu`, `tp`, `gemm`, `kv`,
        `isl`, `osl`, `concurrency`, ...); missing columns and cells take the command's defaults.
    profile : Profile, optional
        The shipped default if not given.

    Returns
    -------
    DataFrame
        Same index; columns `status` ("ok", "does_not_fit", "overloaded", "refused"), `reason`, `tp` as filled in, each
        metric with `_low` and `_high`, `origin`, `max_total_tokens`, `max_concurrency`; numbers are float64,
        NaN without an answer.

    Raises
    ------
    UnknownName
        For a column that is no option. A bad row is no exception: its `status` and `reason` say why.
    """
    import pandas as pd

    n = len(frame)
    status, origin = np.full(n, REFUSED), np.zeros(n, dtype=np.intp)
    reason = np.full(n, None, dtype=object)
    bounded = [metric + end for metric in METRICS for end in ("", "_low", "_high")]
    names = ["tp", *bounded, "max_total_tokens", "max_concurrency"]
    numbers = np.full((len(names), n), np.nan)
    options = {str(name): frame[name] for name in frame.columns}
    for chosen, batch in resolve_in_blocks(options, n, BLOCK):
        found = predict_batch(batch, profile or default_profile())
        rows = chosen[batch.rows]
        status[rows] = np.where(found.overloaded, OVERLOADED, np.where(found.fits, OK, DOES_NOT_FIT))
        origin[rows] = np.where(found.fits & ~found.overloaded, 1 + found.origins, 0)
        for place in np.flatnonzero(found.overloaded | ~found.fits).tolist():
            reason[rows[place]] = found.reason(place)
        for refused, error in batch.refused.items():
            reason[chosen[refused]] = str(error)
        whole = batch.load.isl + batch.load.osl
        tokens = np.where(found.fits, found.memory.max_total_tokens, np.nan)
        most = largest_concurrency(found.memory, whole, batch.instance_settings.max_running)
        values = [each for metric in METRICS for each in found.mean[metric]]
        values = [batch.system.tp[batch.at], *values, tokens, np.where(found.fits, most, np.nan)]
        for line, column in zip(numbers, values, strict=True):
            line[rows] = column
    table = pd.DataFrame(numbers.T, columns=names, index=frame.index, copy=False)
    table.insert(0, "status", STATUSES[status])
    table.insert(1, "reason", reason)
    table.insert(2, "origin", np.array([None, *ORIGINS], dtype=object)[origin])
    return table
