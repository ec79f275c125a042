"""Fit of the coefficients to measured runs: robust least squares in log space with priors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from threadpoolctl import threadpool_limits

from aicalib.calibrate.runs import Runs
from aicalib.physics.tables import KernelTables, tabulate_kernels
from aicalib.profiles.coefficients import all_coefficients, priors
from aicalib.served import capacity, memory_of, servers
from aicalib.serving.serve import serve

Array = NDArray[np.float64]

NOISE = {"tpot_ms": 0.06, "ttft_ms": 0.40}
"""Scale of log(measured / predicted) in the fit: what is larger counts less and less. TPOT at about what runs of one
configuration differ by, host and version unknown; TTFT far wider, since host and client, which few sources record,
decide it. Left-out groups are as good from 0.05 to 0.07 and from 0.25 to 0.6."""

STAND_IN = "trtllm"
"""The engine for whose kernels those of SGLang stand in."""

SPECULATION = ("mtp_acceptance", "draft_request_time")
"""Coefficients of steps that draft."""

AT_BOUND = 0.01
"""Log distance from a bound at which a coefficient is said to stand at it."""


@dataclass(frozen=True)
class Fit:
    """A fitted vector of coefficients.

    Attributes
    ----------
    values : ndarray, shape (number of coefficients,)
        In their units.
    deviations : ndarray, same shape
        Standard deviation of log(value) from the curvature at the optimum; 0 where the prior was kept.
    remarks : list of str
        What a reader should know: coefficients at a bound, coefficients that the runs do not determine.
    """

    values: Array
    deviations: Array
    remarks: list[str]


def group_weights(groups: list[tuple[str, str, str]]) -> Array:
    """Return a weight a run, so that a group of n runs counts as n^0.75 of them; the mean weight is 1.

    By runs alone a few large groups decide; as sqrt(n) the many groups of two runs do. Left-out groups decided.
    """
    sizes: dict[tuple[str, str, str], int] = {}
    for group in groups:
        sizes[group] = sizes.get(group, 0) + 1
    weights = np.array([sizes[group] ** -0.25 for group in groups])
    result: Array = weights / weights.mean()
    return result


def log_residuals(
    runs: Runs, values: Array, max_total_tokens: Array, kernels: KernelTables
) -> dict[str, Array]:
    """Return log(measured / predicted) of TPOT and TTFT, NaN where not measured, shape (n,) each."""
    batch = runs.batch
    service = serve(servers(batch, values, kernels=kernels), batch.load, max_total_tokens)
    ttft_s = np.where(runs.median["ttft_ms"], service.ttft_median_s, service.ttft_mean_s)
    return {
        "tpot_ms": np.log(runs.measured["tpot_ms"] / (1e3 * service.tpot_s)),
        "ttft_ms": np.log(runs.measured["ttft_ms"] / (1e3 * ttft_s)),
    }


def fit(runs: Runs, near: Array | None = None) -> Fit:
    """Fit all coefficients with a spread to runs.

    Parameters
    ----------
    runs : Runs
        n runs that fit into memory; TPOT and TTFT are fitted together. Those that are not `settled` are not seen.
    near : ndarray, shape (number of coefficients,), optional
        Values to start from, where a fit to nearly the same runs is known; the priors where not given.

    Returns
    -------
    Fit

    Notes
    -----
    Minimises sum w rho((log m - log p)^2 / noise^2) + sum (log v - log prior)^2 / spread^2 with the soft-L1
    loss rho(z) = 2 (sqrt(1 + z) - 1) on the runs and a plain square on the priors, over log v within its
    bounds. The ratios of the engine whose kernels others stand in for (`STAND_IN`) are fitted on its own runs after
    all others: what stands in must not bend what the others share.
    """
    names = [each.name for each in all_coefficients()]
    own_ratio = np.array([name.startswith(f"{STAND_IN}_") for name in names])
    own_run = np.array([engine == STAND_IN for engine, _, _ in runs.groups], dtype=bool)
    drafts = np.isin(names, SPECULATION)
    found = Fit(priors(), np.zeros(len(names)), [])
    for last in (False, True):
        rows = np.flatnonzero((own_run == last) & runs.settled)
        if rows.size:
            found = _refined(found, runs.take(rows), (own_ratio == last) & ~drafts, near)
    return found


def fit_speculation(before: Fit, runs: Runs) -> Fit:
    """Fit what only steps that draft show, to runs with speculation, and leave all else as it was fitted to others."""
    if not runs.batch.rows.size:
        return before
    return _refined(before, runs, np.isin([each.name for each in all_coefficients()], SPECULATION))


def _refined(before: Fit, runs: Runs, chosen: NDArray[np.bool_], near: Array | None = None) -> Fit:
    """Fit those of the chosen coefficients that have a spread; the others keep their values."""
    known = all_coefficients()
    free = np.flatnonzero([each.spread > 0 for each in known] & chosen)
    prior = priors()
    spread = np.array([known[at].spread for at in free])
    low = np.log([known[at].low / known[at].prior for at in free])
    high = np.log([known[at].high / known[at].prior for at in free])
    weights = np.sqrt(group_weights(runs.groups))
    tokens = capacity(runs.batch, memory_of(runs.batch)[0])
    kernels = tabulate_kernels(runs.batch.system)

    def values_of(logs: Array) -> Array:
        values = before.values.copy()
        values[free] = prior[free] * np.exp(logs)
        return values

    def residuals(logs: Array) -> Array:
        found = log_residuals(runs, values_of(logs), tokens, kernels)
        scaled = np.concatenate([found[metric] / noise for metric, noise in NOISE.items()])
        squared = np.nan_to_num(scaled) ** 2
        robust = np.sqrt(2.0 * (np.sqrt(1.0 + squared) - 1.0)) * np.tile(weights, len(NOISE))
        return np.concatenate([robust, logs / spread])

    begin = np.zeros(free.size) if near is None else np.log(near[free] / prior[free])
    start = np.clip(begin, low + 1e-6, high - 1e-6)
    # The matrices are small: threads of the linear algebra would only wait for each other.
    with threadpool_limits(1):
        solution = least_squares(residuals, start, bounds=(low, high), x_scale=spread, xtol=1e-4, ftol=1e-5)
        covariance = np.linalg.pinv(solution.jac.T @ solution.jac)
    deviations = before.deviations.copy()
    deviations[free] = np.sqrt(np.diag(covariance))
    remarks = list(before.remarks)
    for at, log, lower, upper, width in zip(free, solution.x, low, high, spread, strict=True):
        each = known[at]
        if log - lower < AT_BOUND or upper - log < AT_BOUND:
            bound = each.low if log - lower < AT_BOUND else each.high
            remarks.append(f"{each.name} stands at its bound {bound:g} {each.unit}")
        elif deviations[at] > 0.8 * width:
            either = np.exp(deviations[at])
            remarks.append(
                f"{each.name} stays near its prior, x or / {either:.2f}: the runs say little of it"
            )
    return Fit(values_of(solution.x), deviations, remarks)
