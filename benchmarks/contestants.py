"""Ways to look for the best configuration of a sweep: ours, and those that it is compared with."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from aicalib.loop.acquire import SURE, WITHIN, Base, Decision, with_measured, worth
from aicalib.loop.belief import Belief, Observed, Places, believe
from benchmarks.belief import LEVELS_ALONE
from benchmarks.replay import EXACT, Question

Array = NDArray[np.float64]
Codes = NDArray[np.intp]


class Look(NamedTuple):
    """What a contestant says after some configurations were revealed.

    Attributes
    ----------
    choice : int
        What it would choose among all configurations, revealed or not.
    reveal : int or None
        What to reveal next, None where all are.
    settled : bool
        It holds the choice to be settled.
    """

    choice: int
    reveal: int | None
    settled: bool = False


class Contestant(Protocol):
    """What is asked again and again; it reads of a question's measurements those alone that are in `seen`."""

    def __call__(self, question: Question, seen: Codes, seed: int) -> Look:
        """Return what to choose and what to reveal."""
        ...


def best_seen(question: Question, seen: Codes) -> int | None:
    """Return the best of what was revealed: the fastest that meets the bound, None where none does."""
    meeting = seen[question.meets[seen]]
    if not meeting.size:
        return None
    return int(meeting[question.sweep.tok_s_per_gpu[meeting].argmax()])


def loop(question: Question, seen: Codes, seed: int) -> Look:
    """Look as `aicalib next` does, at equal cost of all runs; choose by the least expected regret."""
    rows = np.flatnonzero(question.plain.fits)
    decision, belief, left = _believed(question, rows, seen)
    now, value = worth(decision, belief, dict.fromkeys(belief, EXACT), left, seed)
    total = np.where(left, value.gain + value.lesson, -np.inf)
    reveal = int(rows[np.lexsort((now.expected, -total))[0]]) if left.any() else None
    settled = bool(not left[now.best] and now.within(WITHIN) >= SURE)
    return Look(int(rows[now.best]), reveal, settled)


def levels_alone(question: Question, seen: Codes, seed: int) -> Look:
    """Look as `loop` does, with a belief of the profile's levels and no smooth error beside them."""
    return loop(replace(question, shapes=LEVELS_ALONE), seen, seed)


def _believed(question: Question, rows: Codes, seen: Codes) -> tuple[Decision, Belief, NDArray[np.bool_]]:
    """Return the decision between some rows, what is believed of them, and which were not revealed."""
    runs = question.sweep.runs
    known = np.intersect1d(seen, rows)
    at = np.searchsorted(rows, known)
    places = Places.of(runs.batch)
    logs = {metric: each[known] for metric, each in question.logs.items()}
    widths = {metric: each[rows] for metric, each in question.widths.items()}
    observed = Observed(places.take(known), logs, at)
    belief = believe(places.take(rows), widths, question.kernels, observed)
    base, belief = with_measured(Base.of(question.plain).take(rows), belief, runs.take(known), at, logs)
    left = ~np.isin(rows, seen)
    return Decision("maximize_throughput", question.bounds, 0.1, base, rows.size), belief, left


def physics(question: Question, seen: Codes, seed: int) -> Look:
    """Reveal in the order of the predicted scores, never updated; choose the best of what was revealed."""
    rows = np.flatnonzero(question.plain.fits)
    base = Base.of(question.plain).take(rows)
    ones = np.ones(rows.size)
    scores = Decision("maximize_throughput", question.bounds, 0.1, base, rows.size).scores(ones, ones)
    # Among those that are predicted to violate the bound the nearest to it comes first.
    order = rows[np.lexsort((base.tpot_s[None], scores))]
    left = order[~np.isin(order, seen)]
    chosen = best_seen(question, seen)
    return Look(int(order[0]) if chosen is None else chosen, int(left[0]) if left.size else None)


def grid(question: Question, seen: Codes, seed: int) -> Look:
    """Reveal in the order of a grid file: deployment by deployment, concurrency rising."""
    sweep = question.sweep
    return _in_order(question, seen, np.lexsort((sweep.concurrency, sweep.deployment)))


def random_order(question: Question, seen: Codes, seed: int) -> Look:
    """Reveal in random order."""
    return _in_order(question, seen, np.random.default_rng(seed).permutation(question.sweep.concurrency.size))


def _in_order(question: Question, seen: Codes, order: Codes) -> Look:
    left = order[~np.isin(order, seen)]
    chosen = best_seen(question, seen)
    return Look(int(order[0]) if chosen is None else chosen, int(left[0]) if left.size else None)


def gaussian_process(question: Question, seen: Codes, seed: int) -> Look:
    """Look as Bayesian optimization without physics does.

    Two Gaussian processes (scikit-learn), of log throughput and of log TPOT over `features`: Matern 5/2 with a length
    a feature and noise, refitted after each run by maximum likelihood. The first run is drawn; then comes the largest
    expected improvement times the probability of meeting the bound (Gardner et al., 2014), and while nothing that
    meets it is known the largest probability. Chosen is the largest expected throughput under the bound, with what
    was revealed known. Lengths from half the range of a feature on: of five kernels that were tried on these sweeps
    (shorter lengths, one for all features, a linear trend beside) this one is the best, which favors it.
    """
    n = question.sweep.concurrency.size
    if not seen.size:
        first = int(np.random.default_rng(seed).integers(n))
        return Look(first, first)
    known = features(question)
    targets = (np.log(question.sweep.tok_s_per_gpu), np.log(question.sweep.tpot_ms))
    (rate, rate_wide), (step, step_wide) = (_regress(known, each, seen) for each in targets)
    chance = norm.cdf((np.log(question.bound_ms) - step) / step_wide) if question.bounds else np.ones(n)
    rates = np.exp(rate + rate_wide**2 / 2.0)
    rates[seen], chance[seen] = question.sweep.tok_s_per_gpu[seen], question.meets[seen]
    chosen, best = int((rates * chance).argmax()), best_seen(question, seen)
    if best is None:
        value = chance + 1e-9 * rate
    else:
        above = (rate - np.log(question.sweep.tok_s_per_gpu[best])) / rate_wide
        value = chance * rate_wide * (above * norm.cdf(above) + norm.pdf(above))
    value[seen] = -np.inf
    return Look(chosen, int(value.argmax()) if seen.size < n else None)


def features(question: Question) -> Array:
    """Return what the Gaussian process knows of each configuration, shape (n, f); columns that vary, scaled to 0..1.

    Logarithms of concurrency, widths and GPUs, the engine's month, and one column a format, speculation and separate
    prefill.
    """
    batch = question.sweep.runs.batch
    system, at = batch.system, batch.at
    numbers = [
        batch.load.concurrency,
        system.tp[at],
        system.dp[at],
        system.ep[at],
        system.pp[at],
        batch.n_gpus,
    ]
    columns = [np.log2(each) for each in numbers] + [system.engine_month[at]]
    quants = [batch.identities[code].quant for code in batch.codes]
    for words in (
        [each.gemm.name for each in quants],
        [each.moe.name for each in quants],
        [each.kvcache.name for each in quants],
        [str(batch.deployment(row).drafter is not None) for row in range(at.size)],
        [str(batch.deployment(row).disaggregation is not None) for row in range(at.size)],
    ):
        columns += [
            np.array([each == word for each in words], dtype=float) for word in sorted(set(words))[1:]
        ]
    table = np.column_stack(columns)
    spread = np.ptp(table, axis=0)
    result: Array = (table[:, spread > 0] - table[:, spread > 0].min(axis=0)) / spread[spread > 0]
    return result


def _regress(known: Array, target: Array, seen: Codes) -> tuple[Array, Array]:
    """Return mean and standard deviation of a target at all configurations, from those that were revealed."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    kernel = ConstantKernel(1.0, (0.1, 30.0)) * Matern(np.ones(known.shape[1]), (0.5, 30.0), nu=2.5)
    kernel += WhiteKernel(1e-3, (1e-5, 0.1))
    model = GaussianProcessRegressor(kernel, normalize_y=seen.size > 1)
    # One run has no spread to scale by: its target is taken as known to a factor of e.
    shift = 0.0 if seen.size > 1 else float(target[seen[0]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(known[seen], target[seen] - shift)
    mean, wide = model.predict(known, return_std=True)
    return mean + shift, np.maximum(wide, 1e-6)
