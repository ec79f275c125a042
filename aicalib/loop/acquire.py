"""What a run is worth: how much better the choice becomes that is made after it.

Everything is counted as regret: the share of the best score that a choice loses, 1 at most. A choice that violates the
service level loses all, as the score of `aicalib.plan.score` says it: a bound that is exceeded costs as much as the
objective itself, or more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.calibrate.runs import Runs
from aicalib.loop.belief import Belief, draws_of, sample
from aicalib.loop.normal import Normal
from aicalib.nearness import LEVELED
from aicalib.plan.score import THROUGHPUT, Figure, score
from aicalib.plan.tasks.task import Bound
from aicalib.prediction import Prediction
from aicalib.serving.percentiles import percentiles

Array = NDArray[np.float64]
Codes = NDArray[np.intp]
Flags = NDArray[np.bool_]

WITHIN = 0.05
"""Share of the best score by which a choice may be worse and still be called settled."""

SURE = 0.9
"""Probability with which it must be: that of the intervals."""

SAMPLES = 256
"""Samples of the belief: an expected regret of 1 % that comes of a total loss is known to about 0.6 %."""

INNER = 128
"""Samples for what a run may teach."""

CONTENDERS = 24
"""Choices that may be the best, at most, which are looked at for what a run teaches: the likeliest."""

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(3)
WEIGHTS = WEIGHTS / WEIGHTS.sum()
"""Gauss-Hermite nodes of a standard normal number, for what a run may measure."""

_PERCENTILES = (50, 90, 95, 99)
_TTFT, _TPOT = "ttft_ms", "tpot_ms"


class Base(NamedTuple):
    """Figures of n runs before any error of TTFT and TPOT is applied; all of shape (n,).

    Attributes
    ----------
    ttft_s, tpot_s : mapping of (str or None) to ndarray
        By percentile, None the mean.
    decode_s : mapping of (str or None) to ndarray
        End to end less TTFT.
    tok_s_per_gpu : ndarray
        Input and output tokens a second and GPU.
    """

    ttft_s: Mapping[str | None, Array]
    tpot_s: Mapping[str | None, Array]
    decode_s: Mapping[str | None, Array]
    tok_s_per_gpu: Array

    @staticmethod
    def of(found: Prediction) -> Base:
        """Return the figures of a prediction, as `aicalib.plan.figures.figures_of` reads it."""
        service, load = found.service, found.batch.load
        spread = percentiles(service, _PERCENTILES)
        ttft: dict[str | None, Array] = {f"p{each}": spread["ttft_s"][each] for each in _PERCENTILES}
        tpot: dict[str | None, Array] = {f"p{each}": spread["tpot_s"][each] for each in _PERCENTILES}
        decode = {name: each * (load.osl - 1.0) for name, each in tpot.items()}
        rate = found.mean["output_tok_s_per_gpu"].value * (load.isl + load.osl) / load.osl
        return Base(
            ttft | {None: service.ttft_mean_s},
            tpot | {None: service.tpot_s},
            decode
            | {
                "p50": service.e2e_median_s - service.ttft_median_s,
                None: service.e2e_mean_s - service.ttft_mean_s,
            },
            rate,
        )

    def take(self, chosen: Codes) -> Base:
        """Return the figures of some runs."""
        ttft, tpot, decode = ({name: each[chosen] for name, each in part.items()} for part in self[:3])
        return Base(ttft, tpot, decode, self.tok_s_per_gpu[chosen])

    def figures(self, asked: Sequence[Figure], ttft: Array, tpot: Array) -> dict[Figure, Array]:
        """Return what scores are made of under factors on TTFT and TPOT, shape (..., n) as these have it.

        A closed loop yields as much less as a request takes longer (Little's law).
        """
        found: dict[Figure, Array] = {}
        for name, percentile in {*asked, THROUGHPUT}:
            if name == "ttft":
                found[name, percentile] = self.ttft_s[percentile] * ttft
            elif name == "tpot":
                found[name, percentile] = self.tpot_s[percentile] * tpot
            elif name == "latency":
                found[name, percentile] = self.ttft_s[percentile] * ttft + self.decode_s[percentile] * tpot
            else:
                whole = self.ttft_s[None] + self.decode_s[None]
                found[THROUGHPUT] = (
                    self.tok_s_per_gpu * whole / (self.ttft_s[None] * ttft + self.decode_s[None] * tpot)
                )
        return found


def with_measured(
    base: Base, belief: Belief, runs: Runs, row: Codes, logs: Mapping[str, Array]
) -> tuple[Base, Belief]:
    """Return the figures with those of measured runs in their places, and what is believed beyond these.

    Parameters
    ----------
    base : Base
        Of n runs.
    belief : Belief
        About them, the measured ones known.
    runs : Runs
        m measured runs.
    row : ndarray of int, shape (m,)
        Which of the n runs each is a measurement of, -1 for none; of several the geometric mean is taken.
    logs : mapping of str to ndarray, shape (m,)
        Metric -> log(measured / predicted), NaN where not measured.

    Notes
    -----
    A measured run's latencies are off by the noise alone. Where its throughput was measured and a latency was not, the
    latency is taken as believed: its doubt is no doubt of the throughput.
    """
    n, load = base.tok_s_per_gpu.size, runs.batch.load
    per_gpu = runs.measured["output_tok_s"] * (load.isl + load.osl) / load.osl / runs.batch.n_gpus
    rate = np.exp(_mean_at(row, np.log(per_gpu), n))
    change, beyond = {}, {}
    for metric, (mean, spread) in belief.items():
        said = _mean_at(row, logs[metric], n)
        pinned = np.isfinite(rate) & np.isnan(said)
        change[metric] = np.exp(np.where(pinned, mean, np.nan_to_num(said)))
        free = np.where(pinned, 0.0, 1.0)
        beyond[metric] = Normal(mean - np.log(change[metric]), spread * np.outer(free, free))
    ttft, tpot = change[_TTFT], change[_TPOT]
    by_latency = base.figures((), ttft, tpot)[THROUGHPUT]
    known = Base(
        {name: each * ttft for name, each in base.ttft_s.items()},
        {name: each * tpot for name, each in base.tpot_s.items()},
        {name: each * tpot for name, each in base.decode_s.items()},
        np.where(np.isfinite(rate), rate, by_latency),
    )
    return known, beyond


def _mean_at(row: Codes, values: Array, n: int) -> Array:
    """Return the mean of the finite values of each row, NaN where there is none, shape (n,)."""
    known = (row >= 0) & np.isfinite(values)
    count = np.bincount(row[known], minlength=n)
    total = np.bincount(row[known], values[known], n)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


@dataclass(frozen=True)
class Decision:
    """What is decided: the score of `choices`, each the mean of n / choices runs that follow each other."""

    objective: str
    bounds: Sequence[Bound]
    steepness: float
    base: Base
    choices: int

    @property
    def levels(self) -> int:
        """Runs of a choice."""
        return self.base.tok_s_per_gpu.size // self.choices

    def scores(self, ttft: Array, tpot: Array) -> Array:
        """Return the score of each choice under factors on TTFT and TPOT of its runs.

        Parameters
        ----------
        ttft, tpot : ndarray, shape (..., n)

        Returns
        -------
        ndarray, shape (..., choices)
            Lower is better.
        """
        latency: list[Figure] = [("latency", None), ("ttft", None), ("tpot", None)]
        asked = [each for each in latency if f"_{each[0]}" in self.objective]
        asked += [("latency", None)] if self.objective == "balanced" else []
        asked += [(bound.metric, bound.percentile) for bound in self.bounds]
        figures = self.base.figures(asked, ttft, tpot)
        shape = (*ttft.shape[:-1], self.choices, self.levels)
        means = {name: each.reshape(shape).mean(axis=-1) for name, each in figures.items()}
        return score(self.objective, self.bounds, self.steepness, means)

    def take(self, chosen: Codes) -> Decision:
        """Return the decision between some of the choices."""
        return Decision(
            self.objective, self.bounds, self.steepness, self.base.take(self.rows(chosen)), chosen.size
        )

    def rows(self, chosen: Codes) -> Codes:
        """Return the runs of some choices."""
        result: Codes = (chosen[:, None] * self.levels + np.arange(self.levels)).ravel()
        return result


def regrets(scores: Array) -> Array:
    """Return the share of the best score that each choice loses, at most 1; shape as scores, the last axis choices.

    Where nothing meets a hard bound all choices are alike, and lose nothing against each other.
    """
    best = scores.min(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (scores - best) / np.abs(best)
    result: Array = np.where(
        np.isfinite(best), np.minimum(np.nan_to_num(share, nan=0.0, posinf=1.0), 1.0), 0.0
    )
    return result


class Standing(NamedTuple):
    """Where the decision stands.

    Attributes
    ----------
    best : int
        The choice with the least expected regret.
    regret : float
        Its expected regret, a share.
    regrets : ndarray, shape (samples, choices)
    expected : ndarray, shape (choices,)
        Expected regret of each choice.
    probability : ndarray, shape (choices,)
        That each choice is the best.
    gain : ndarray, shape (choices,)
        Expected improvement over the best, were the choice known and taken where it is better; a share.
    scores : ndarray, shape (samples, choices)
    """

    best: int
    regret: float
    regrets: Array
    expected: Array
    probability: Array
    gain: Array
    scores: Array

    def within(self, share: float) -> float:
        """Return the probability that the present choice loses no more than a share of the best score."""
        return float((self.regrets[:, self.best] <= share).mean())


class Worth(NamedTuple):
    """What it is worth to measure each run; shares of the best score, shape (n,), 0 for one that is measured.

    Attributes
    ----------
    gain : ndarray
        Expected improvement: what is won over the present choice, if the run's own turns out better; shared by the
        runs of a choice that are left.
    lesson : ndarray
        By how much the expected regret falls of the choice that is made after it.
    """

    gain: Array
    lesson: Array


def standing(decision: Decision, belief: Belief, draws: Mapping[str, Array]) -> Standing:
    """Return where a decision stands under a belief about its runs; draws as `sample` takes them."""
    errors = sample(belief, draws)
    scores = decision.scores(np.exp(errors[_TTFT]), np.exp(errors[_TPOT]))
    each = regrets(scores)
    expected = each.mean(axis=0)
    best = int(expected.argmin())
    wins = np.bincount(scores.argmin(axis=1), minlength=decision.choices) / len(scores)
    gain = np.maximum(each[:, [best]] - each, 0.0).mean(axis=0)
    return Standing(best, float(expected[best]), each, expected, wins, gain, scores)


def worth(
    decision: Decision, belief: Belief, noise: Mapping[str, float], left: Flags, seed: int = 0
) -> tuple[Standing, Worth]:
    """Return where a decision stands, and what it is worth to measure each run.

    Parameters
    ----------
    decision : Decision
    belief : Belief
        About its n runs.
    noise : mapping of str to float
        Standard deviation of the logarithm between repeats.
    left : ndarray of bool, shape (n,)
        Runs that may be measured.
    seed : int
        The same one gives the same answer.
    """
    n, levels = left.size, decision.levels
    draws = draws_of(LEVELED, SAMPLES, n + 1, seed)
    now = standing(decision, belief, {metric: each[:, :-1] for metric, each in draws.items()})
    open_runs = left.reshape(-1, levels).sum(axis=1)
    gain = np.where(left, np.repeat(now.gain / np.maximum(open_runs, 1), levels), 0.0)
    chosen = _contenders(now)
    rows = decision.rows(chosen)
    asked = np.flatnonzero(left[rows])
    lesson = np.zeros(n)
    few = {metric: np.vstack([each[: INNER // 2], -each[: INNER // 2]]) for metric, each in draws.items()}
    lesson[rows[asked]] = lessons(
        decision.take(chosen),
        {metric: each.take(rows) for metric, each in belief.items()},
        {metric: each[:, np.append(rows, n)] for metric, each in few.items()},
        noise,
        asked,
    )
    return now, Worth(gain, lesson)


def _contenders(now: Standing) -> Codes:
    """Return the choices that may be the best, the present one among them, in the order of their numbers."""
    likely = np.argsort(-now.probability, kind="stable")[:CONTENDERS]
    return np.union1d(likely[now.probability[likely] > 0.0], [now.best])


def lessons(
    decision: Decision,
    belief: Belief,
    draws: Mapping[str, Array],
    noise: Mapping[str, float],
    asked: Codes,
) -> Array:
    """Return by how much the expected regret of the choice falls when each of some runs is measured, shape (m,).

    Parameters
    ----------
    decision : Decision
    belief : Belief
        About the runs of the decision.
    draws : mapping of str to ndarray, shape (samples, n + 1)
        Standard normal numbers: of the runs, and of what a measurement adds.
    noise : mapping of str to float
        Standard deviation of the logarithm between repeats.
    asked : ndarray of int, shape (m,)
        Rows.

    Notes
    -----
    The knowledge gradient (Frazier, Powell and Dayanik, 2009), with what is measured taken at Gauss-Hermite nodes of
    both metrics and samples conditioned on it by Matheron's rule: f + K_x (y - f_x - noise) / (K_xx + noise^2).
    """
    errors = sample(belief, {metric: each[:, :-1] for metric, each in draws.items()})
    nodes = np.stack(np.meshgrid(NODES, NODES), axis=-1).reshape(-1, 2)
    weights = np.outer(WEIGHTS, WEIGHTS).ravel()
    found = np.zeros(asked.size)
    for place, row in enumerate(asked.tolist()):
        factors = []
        for at, metric in enumerate((_TTFT, _TPOT)):
            mean, covariance = belief[metric]
            wide = np.sqrt(covariance[row, row] + noise[metric] ** 2 + 1e-12)
            toward = covariance[row] / wide
            drawn = (errors[metric][:, row] - mean[row] + noise[metric] * draws[metric][:, -1]) / wide
            apart = np.exp(errors[metric] - drawn[:, None] * toward)
            factors.append(np.exp(nodes[:, at, None] * toward)[:, None, :] * apart)
        expected = regrets(decision.scores(*factors)).mean(axis=1)
        found[place] = (weights @ expected).min() - weights @ expected.min(axis=1)
    return found
