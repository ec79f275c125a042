"""Predictions: a resolved batch and a profile in, numbers with intervals and origin out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.batch import Batch
from aicalib.deployment import Deployment, Workload
from aicalib.physics.memory import Memory, fits, memory
from aicalib.physics.system import spread_over
from aicalib.profiles.coefficients import FORMAT_CLASSES
from aicalib.profiles.profile import Profile, default_profile
from aicalib.resolve import ask, resolve
from aicalib.serving.closed import serve
from aicalib.serving.load import Service

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

METRICS = ("ttft_ms", "tpot_ms", "e2e_ms", "requests_s", "output_tok_s", "output_tok_s_per_gpu")
"""What is predicted for each deployment and workload."""

RATES = {"requests_s": "output_tok_s", "output_tok_s_per_gpu": "output_tok_s"}
"""Metrics whose interval is that of another, since they differ by a constant."""

UNSEEN_WIDENING = 2.0
"""Factor on the logarithm of an interval where no run of the engine or format on this capability was fitted."""


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
    origin : list of str
        "calibrated", "extrapolated" (no fitted run of the engine, or of a weight format, on this compute
        capability) or "datasheet" (no fitted run at all), one a row.
    """

    batch: Batch
    profile: Profile
    mean: dict[str, Interval]
    median: dict[str, Interval]
    memory: Memory
    service: Service
    fits: NDArray[np.bool_]
    origin: list[str]

    def comparable(self, metric: str, is_median: NDArray[np.bool_]) -> Interval:
        """Return the statistic that compares with a measured one, row by row."""
        pairs = zip(self.median[metric], self.mean[metric], strict=True)
        return Interval(*(np.where(is_median, median, mean) for median, mean in pairs))


def evidence_keys(batch: Batch) -> list[set[str]]:
    """Return for each identity what must have been fitted for its numbers to be called calibrated.

    The engine on that compute capability, and each weight format's class on that capability.
    """
    gemm = dict(zip(batch.codes.tolist(), batch.system.gemm_class.tolist(), strict=True))
    experts = dict(zip(batch.codes.tolist(), batch.system.expert_class.tolist(), strict=True))
    found = []
    for code, who in enumerate(batch.identities):
        at = who.accelerator.capability
        keys = {f"{who.engine} on {at}"}
        if code in gemm:
            keys.add(f"gemm {FORMAT_CLASSES[gemm[code]]} on {at}")
        if code in experts and who.architecture.moe_layers:
            keys.add(f"experts {FORMAT_CLASSES[experts[code]]} on {at}")
        found.append(keys)
    return found


def _origins(batch: Batch, profile: Profile) -> list[str]:
    if not profile.quantiles:
        return ["datasheet"] * batch.codes.size
    fitted = set(profile.lineage.get("evidence", ()))
    by_identity = ["calibrated" if keys <= fitted else "extrapolated" for keys in evidence_keys(batch)]
    return [by_identity[code] for code in batch.codes]


def _bounds(batch: Batch, profile: Profile, metric: str, origin: list[str]) -> tuple[Array, Array]:
    """Return the logarithms of low / value and high / value, shape (n,); NaN without quantiles."""
    quantile_of = RATES.get(metric, metric)
    engines = [who.engine for who in batch.identities]
    missing = (np.nan, np.nan)
    table = np.array([profile.quantiles.get(engine, {}).get(quantile_of, missing) for engine in engines])
    logs = table.reshape(-1, 2)[batch.codes]
    wide = np.where(np.array(origin) == "extrapolated", UNSEEN_WIDENING, 1.0)
    return logs[:, 0] * wide, logs[:, 1] * wide


def predict_batch(batch: Batch, profile: Profile) -> Prediction:
    """Predict all rows of a batch in one call.

    Parameters
    ----------
    batch : Batch
        n resolved rows.
    profile : Profile
        Coefficients and residual quantiles.

    Returns
    -------
    Prediction

    Notes
    -----
    An interval is value * exp(quantile of log(measured / predicted) on groups that the fit did not see).
    """
    system, load = batch.system, batch.load
    held = memory(system)
    answered = fits(system, held, load.isl + load.osl)
    tokens = np.where(answered, held.max_total_tokens, np.nan)
    service = serve(system, spread_over(system, profile.values), load, tokens)
    output = service.requests_s * load.osl
    mean = {
        "ttft_ms": 1e3 * service.ttft_mean_s,
        "tpot_ms": 1e3 * service.tpot_s,
        "e2e_ms": 1e3 * service.e2e_mean_s,
        "requests_s": service.requests_s,
        "output_tok_s": output,
        "output_tok_s_per_gpu": output / system.n_gpus,
    }
    median = {**mean, "ttft_ms": 1e3 * service.ttft_median_s, "e2e_ms": 1e3 * service.e2e_median_s}
    origin = _origins(batch, profile)
    bounds = {metric: _bounds(batch, profile, metric, origin) for metric in METRICS}

    def with_bounds(values: dict[str, Array]) -> dict[str, Interval]:
        return {
            metric: Interval(value, *(value * np.exp(bound) for bound in bounds[metric]))
            for metric, value in values.items()
        }

    return Prediction(batch, profile, with_bounds(mean), with_bounds(median), held, service, answered, origin)


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
        Same index; columns `status` ("ok", "does_not_fit", "refused"), `reason`, `tp` as filled in, each
        metric with `_low` and `_high`, `origin`, `max_total_tokens`, `max_concurrency`; numbers are float64,
        NaN without an answer.

    Raises
    ------
    UnknownName
        For a column that is no option. A bad row is no exception: its `status` and `reason` say why.
    """
    import pandas as pd

    batch = resolve({str(name): frame[name].tolist() for name in frame.columns}, len(frame))
    found = predict_batch(batch, profile or default_profile())
    status = np.full(len(frame), "refused", dtype=object)
    reason = np.full(len(frame), None, dtype=object)
    origin = np.full(len(frame), None, dtype=object)
    status[batch.rows] = np.where(found.fits, "ok", "does_not_fit")
    origin[batch.rows] = found.origin
    reason[batch.rows[~found.fits]] = "weights and one request do not fit into the memory of the GPUs"
    for row, error in batch.refused.items():
        reason[row] = str(error)
    columns: dict[str, Any] = {"status": status, "reason": reason, "origin": origin}

    def spread(values: Array) -> Array:
        whole = np.full(len(frame), np.nan)
        whole[batch.rows] = values
        return whole

    columns["tp"] = spread(batch.system.tp)
    for metric in METRICS:
        for suffix, values in zip(("", "_low", "_high"), found.mean[metric], strict=True):
            columns[metric + suffix] = spread(values)
    columns["max_total_tokens"] = spread(np.where(found.fits, found.memory.max_total_tokens, np.nan))
    per_request = batch.load.isl + batch.load.osl
    columns["max_concurrency"] = spread(
        np.where(found.fits, np.floor(found.memory.max_total_tokens / per_request), np.nan)
    )
    return pd.DataFrame(columns, index=frame.index)
