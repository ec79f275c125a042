"""The best deployments for a service level: every valid configuration predicted, ranked, and the losers explained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aicalib.engines.launch import Launch, assemble
from aicalib.errors import InvalidValue, RequestError, UnknownName
from aicalib.hardware import get_accelerator
from aicalib.physics.memory import GIB, largest_concurrency
from aicalib.plan.chance import chances
from aicalib.plan.figures import OUTPUT, SHOWN, Number, number, shown
from aicalib.plan.score import BASES, Figure, penalty
from aicalib.plan.search.accuracy import published
from aicalib.plan.search.evaluate import Evaluated, evaluate
from aicalib.plan.search.found import Choice, Found, Margin, Point
from aicalib.plan.search.front import front
from aicalib.plan.search.goal import OBJECTIVES, Goal, bound
from aicalib.plan.search.losers import losers
from aicalib.plan.search.space import STAGES, Sought, lay_out
from aicalib.plan.search.unmet import no_room, unmet
from aicalib.plan.search.why import reasons
from aicalib.plan.workers import HERE, Where
from aicalib.prediction import ORIGINS, Interval, Prediction, predict_batch
from aicalib.profiles.profile import Profile, default_profile
from aicalib.resolve.batch import Batch
from aicalib.ties import THROUGHPUT_LEVEL, common_errors, tied

__all__ = ["LIMIT", "OBJECTIVES", "Goal", "bound", "search"]

Array = NDArray[np.float64]
Codes = NDArray[np.intp]
Yes = NDArray[np.bool_]

LIMIT: Final = 100_000
"""Configurations that are tried where not said otherwise."""

_SECONDS: Final = 3600.0
_MILLION: Final = 1e6
_AHEAD: Final = 4
"""Choices beside those shown whose start is asked of the engine's rules at a time."""


def search(
    sought: Sought,
    goal: Goal | None = None,
    profile: Profile | None = None,
    top: int = 5,
    limit: int | None = LIMIT,
    tick: Callable[[], object] = lambda: None,
    where: Where = HERE,
) -> Found:
    """Find the best deployments.

    Parameters
    ----------
    sought : Sought
    goal : Goal, optional
        Throughput a GPU without a service level if not given.
    profile : Profile, optional
        The shipped default if not given.
    top : int
        Choices to return of each group.
    limit : int, optional
        Configurations to try at most, in the order of `aicalib.plan.search.space`; None is all.
    tick : callable
        Called as work goes on.
    where : Where
        Who predicts.

    Raises
    ------
    RequestError
        For a wrong name or number; where the model fits nowhere (what is missing, and where it would fit); where
        nothing keeps the service level (which bound binds, and the nearest that is reached).
    """
    goal, used = goal or Goal(), profile or default_profile()
    _check(sought, goal, top, limit)
    space = lay_out(sought, used, limit)
    percentiles = sorted({bound.percentile for bound in goal.bounds if bound.percentile})
    found = evaluate(space, used, percentiles, tick, where)
    if not found.at.size:
        raise no_room(found)
    return _Ranking(found, goal, used, top).found()


def _check(sought: Sought, goal: Goal, top: int, limit: int | None) -> None:
    if goal.objective not in OBJECTIVES:
        raise UnknownName("objective", goal.objective, OBJECTIVES)
    if top < 1:
        raise InvalidValue(f"top {top} is not a number of choices from 1 on", ["top 5"])
    if limit is not None and limit < 1:
        raise InvalidValue(f"limit {limit} is not a number of configurations from 1 on", ["limit 100000"])
    for each in goal.bounds:
        if not (np.isfinite(each.threshold_s) and each.threshold_s > 0.0):
            raise InvalidValue(f"{each.metric} bound of {1e3 * each.threshold_s:g} ms is not a time above 0")
    prices = goal.prices
    if prices is None:
        if goal.objective == "cost":
            raise InvalidValue(
                f"objective cost needs a price for {', '.join(sought.gpus)}",
                ["--prices FILE.toml", "--prices example"],
            )
        return
    for gpu in sought.gpus:
        if prices.of(get_accelerator(gpu)).per_hour <= 0.0:
            raise InvalidValue(f"{prices.path}: the price of {gpu} is 0; what costs nothing is not compared")


class _Ranking:
    """Configurations in their order, and the engine's word on those that are shown."""

    def __init__(self, found: Evaluated, goal: Goal, profile: Profile, top: int) -> None:
        self.evaluated, self.goal, self.profile, self.top = found, goal, profile, top
        self.space = found.space
        self.figures = {end: found.end(end) for end in ("value", "low", "high")}
        self.price = self._prices()
        self.bases = {end: self._base(figures) for end, figures in self.figures.items()}
        self.scores = {end: self._score(end) for end in self.figures}
        self.chances = chances(goal.bounds, self.figures["value"], found.factors)
        self.ranks = self._ranked(self.scores)
        self.kinds = self.space.kinds()[found.starts]
        self.alive = np.ones(found.at.size, dtype=np.bool_)
        self.refused: Counter[str] = self.space.refused + found.refused
        self.launches: dict[int, Launch] = {}
        needs = [[form.needs is not None for form in offer.formats.found] for offer in self.space.offers]
        most = max(map(len, needs))
        table = np.array([each + [False] * (most - len(each)) for each in needs])
        places = self.space.places[found.starts]
        self.needs: Yes = table[places[:, 0], places[:, 1]]

    def _prices(self) -> Array | None:
        given = self.goal.prices
        if given is None:
            return None
        gpus = [get_accelerator(offer.formats.gpu) for offer in self.space.offers]
        prices = np.array([given.of(gpu).per_hour for gpu in gpus])
        found: Array = prices[self.space.places[self.evaluated.starts, 0]]
        return found

    def _cost(self, figures: Mapping[Figure, Array]) -> Array | None:
        """Return the price of a million output tokens: all GPUs that were given are paid for."""
        if self.price is None:
            return None
        cost: Array = _MILLION * self.price / (_SECONDS * figures[OUTPUT])
        return cost

    def _base(self, figures: Mapping[Figure, Array]) -> Array:
        if self.goal.objective == "cost":
            cost = self._cost(figures)
            assert cost is not None
            return cost
        base: Array = BASES[OBJECTIVES[self.goal.objective]](figures)
        return base

    def _score(self, end: str) -> Array:
        base = self.bases[end]
        with np.errstate(over="ignore"):  # far beyond a weighted bound a penalty is infinite
            found = base + np.abs(base) * penalty(self.goal.bounds, self.goal.steepness, self.figures[end])
        return np.where(np.isnan(found), np.inf, found)

    @property
    def rank_by(self) -> str:
        """The end of the intervals that decides."""
        return "high" if self.goal.robust else "value"

    def _ranked(self, scores: Mapping[str, Array]) -> Array:
        """Return what ranks, lower is better: scores that count nothing where the level is missed, or pessimistic ones.

        A score below 0 is a yield and shrinks with what it is worth; a time or a price is paid that much oftener.
        """
        decides = scores[self.rank_by]
        if self.goal.robust:
            return decides
        worth = np.where(np.isnan(self.chances.worth), 1.0, self.chances.worth)
        with np.errstate(divide="ignore"):
            return np.where(decides < 0.0, decides * worth, decides / worth)

    def found(self) -> Found:
        """Return what the search found.

        Raises
        ------
        RequestError
            Where nothing keeps the service level, or nothing that does is started by the engine.
        """
        first, second = self._best(~self.needs), self._best(self.needs)
        fronts = [self._front(~self.needs), self._front(self.needs)]
        if not first.size and not second.size:
            raise unmet(
                self.evaluated, self.goal.bounds, self.figures[self.rank_by], self.alive, self.goal.robust
            )
        calibrated = self._calibrated(first if first.size else second)
        shown = np.concatenate([first, second, calibrated])
        batch = self.evaluated.asked(shown)
        predictions = predict_batch(batch, self.profile)
        why = reasons(self.evaluated, shown, self.ranks, self.alive, self.profile)
        leaders = np.repeat([0, first.size, 0], [first.size, second.size, calibrated.size])
        ties = self._ties(batch, shown, leaders)
        choices = [
            self._choice(int(row), at, predictions, bool(ties[at]), words)
            for at, (row, words) in enumerate(zip(shown, why, strict=True))
        ]
        tried = np.bincount(self.space.stage, minlength=len(STAGES)) * len(self.space.concurrency)
        kept = ~self.needs if first.size else self.needs
        return Found(
            sought=self.space.sought,
            profile=self.profile.label,
            objective=self.goal.objective,
            robust=self.goal.robust,
            evaluated=int(tried.sum()),
            stages=tuple((int(each), all_) for each, all_ in zip(tried, self.space.sizes, strict=True)),
            at_once=tuple(choices[: first.size]),
            with_checkpoint=tuple(choices[first.size : first.size + second.size]),
            calibrated=choices[-1] if calibrated.size else None,
            pareto=self._points(fronts[0]),
            pareto_with_checkpoint=self._points(fronts[1]),
            refused=dict(self.refused.most_common()),
            same={name: other for offer in self.space.offers for name, other in offer.formats.same.items()},
            lost=losers(self.evaluated, self.goal.bounds, self.figures[self.rank_by], self._ranked(self.bases),
                        self.alive & kept, self.kinds, int(shown[0])),
            notes=self._notes(),
            predictions=predictions,
        )  # fmt: skip

    def _notes(self) -> tuple[str, ...]:
        notes = []
        whole, tried = sum(self.space.sizes), self.space.stage.size * len(self.space.concurrency)
        if tried < whole:
            notes.append(f"{tried} of {whole} configurations were tried, the most important first")
        prices = self.goal.prices
        if prices is not None and prices.example:
            notes.append(prices.warning)
        sought, gpus = self.space.sought, [get_accelerator(gpu) for gpu in self.space.sought.gpus]
        if any(layout.pools for offer in self.space.offers for layout in offer.layouts):
            between = (
                f", between nodes at {sought.network_gbit_s:g} Gbit/s a GPU" if sought.network_gbit_s else ""
            )
            notes.append(
                "prefill on instances of its own sends its cache over the GPUs' link at the datasheet's rate"
                f"{between}; measured TTFT mostly exceeds what is predicted there (docs/physics.md)"
            )
        if (
            sought.separate
            and sought.network_gbit_s is None
            and any(sought.count > gpu.link_gpus for gpu in gpus)
        ):
            notes.append(
                "no cache is sent where no link joins the GPUs: the network's rate was not given (network_gbit_s)"
            )
        if any(sought.count > gpu.gpus_together for gpu in gpus):
            notes.append(
                "without the network's rate (network_gbit_s) an instance lies inside one node; replicas go over several"
                if sought.network_gbit_s is None
                else "no published run has one instance over several nodes: such starts are extrapolated, from the "
                f"bound of the network at {sought.network_gbit_s:g} Gbit/s a GPU"
            )
        return tuple(notes)

    def _calibrated(self, best: Codes) -> Codes:
        """Return the best configuration whose like was fitted, of the group of choices that none such leads."""
        calibrated = self.evaluated.origins == 0
        if calibrated[best[0]]:
            return best[:0]
        return self._best(calibrated & (self.needs == self.needs[best[0]]))[:1]

    def _best(self, group: Yes) -> Codes:
        """Return the best configuration of the best kinds in a group, each of which the engine starts."""
        base = self.bases[self.rank_by]
        rows = np.flatnonzero(group & np.isfinite(self.ranks))
        order = rows[np.lexsort((self.evaluated.starts[rows], base[rows], self.ranks[rows]))]
        while True:
            order = order[self.alive[order]]
            _, first = np.unique(self.kinds[order], return_index=True)
            best = order[np.sort(first)][: self.top + _AHEAD]
            if all([self._starts(int(row)) for row in best]):
                return best[: self.top]

    def _front(self, group: Yes) -> Codes:
        figures = self.figures["value"]
        per_gpu = figures[OUTPUT]
        with np.errstate(divide="ignore"):
            per_user = 1.0 / figures["tpot", None]
        while True:
            rows = np.flatnonzero(group & self.alive)
            found = rows[front(per_gpu[rows], per_user[rows])]
            if all([self._starts(int(row)) for row in found]):
                return found

    def _starts(self, row: int) -> bool:
        """Return whether the engine starts a configuration, asked once; if not, it is counted and out of the running.

        What refuses a start's formats and widths refuses it under any concurrency.
        """
        place = int(self.evaluated.starts[row])
        if place in self.launches:
            return True
        try:
            self.launches[place] = assemble(self.space.start(place).request(self.space.sought))
        except RequestError as error:
            same = self.evaluated.starts == place
            self.alive &= ~same
            self.refused[str(error)] += int(same.sum())
            return False
        return True

    def _ties(self, batch: Batch, shown: Codes, leaders: Codes) -> Yes:
        """Tell which of the shown configurations tie with another of them, the best of their group."""
        best, others = (
            Interval(*(self.bases[end][rows] for end in Interval._fields)) for rows in (shown[leaders], shown)
        )
        metric = "ttft_ms" if self.goal.objective == "ttft" else THROUGHPUT_LEVEL
        places = np.arange(shown.size)
        common = common_errors(batch, self.profile, metric, leaders, places)
        ties: Yes = tied(best, others, common, by=self.rank_by) & (places != leaders)
        return ties

    def _choice(self, row: int, at: int, predictions: Prediction, tie: bool, why: str) -> Choice:
        place = int(self.evaluated.starts[row])
        start, batch = self.space.start(place), predictions.batch
        size, count = start.layout.n_gpus, self.space.sought.count
        cost = [self._cost(self.figures[end]) for end in ("value", "low", "high")]
        asked = batch.deployment(at)
        deployment = asked.as_dict()
        return Choice(
            start=start,
            deployment=deployment,
            workload=batch.workload(at).as_dict(),
            figures=self._shown(row),
            score=Number(*(float(self.scores[end][row]) for end in ("value", "low", "high"))),
            ranked_by=float(self.ranks[row]),
            keeps_level=self._keeps_level(row),
            origin=str(ORIGINS[int(self.evaluated.origins[row])]),
            replicas=count // size,
            idle_gpus=count % size,
            nodes=asked.nodes,
            cost_per_mtok=None if cost[0] is None else Number(*(float(each[row]) for each in cost if each is not None)),
            memory=_margin(predictions, at),
            launch=self.launches[place],
            needs=start.format.needs,
            tie=tie,
            why=why,
            accuracy=published(deployment),
            unseen=predictions.unseen(at),
            row=at,
        )  # fmt: skip

    def _keeps_level(self, row: int) -> float | None:
        chance = float(self.chances.kept[row])
        return None if np.isnan(chance) or not any(each.hard_fail for each in self.goal.bounds) else chance

    def _shown(self, row: int) -> dict[str, Number]:
        ends = [self.figures[end] for end in Interval._fields]
        found = shown(ends, row)
        for metric, percentile in ends[0]:
            if percentile is not None:
                name = next(each for each, (key, _) in SHOWN.items() if key[0] == metric)
                found[f"{name} {percentile}"] = number(ends, (metric, percentile), row, 1e3)
        tpot = found["tpot_ms"]
        found["tok_s_per_user"] = _per_second(tpot)
        return found

    def _points(self, rows: Codes) -> tuple[Point, ...]:
        points = []
        for row in rows.tolist():
            place = int(self.evaluated.starts[row])
            start = self.space.start(place)
            figures = self._shown(row)
            points.append(
                Point(
                    options=start.options(self.space.sought),
                    concurrency=int(self.evaluated.concurrency[row]),
                    output_tok_s_per_gpu=figures["output_tok_s_per_gpu"],
                    tok_s_per_user=figures["tok_s_per_user"],
                    ttft_ms=figures["ttft_ms"],
                    meets=bool(np.isfinite(self.scores[self.rank_by][row])),
                    needs=start.format.needs,
                    origin=str(ORIGINS[int(self.evaluated.origins[row])]),
                    words=self.space.words(place),
                )
            )
        return tuple(points)


def _per_second(time_ms: Number) -> Number:
    with np.errstate(divide="ignore"):
        value, low, high = (float(each) for each in 1e3 / np.array(time_ms))
    return Number(value, high, low)


def _margin(predictions: Prediction, at: int) -> Margin:
    held, batch = predictions.memory, predictions.batch
    tokens = batch.load.isl + batch.load.osl
    most = largest_concurrency(held, tokens, batch.instance_settings.max_running)[at]
    pools = batch.features.separation
    instances = 1.0 if pools is None or not pools.separate[at] else pools.decode_instances[at]
    in_flight = batch.load.concurrency[at] / instances / held.ranks[at] * tokens[at] * held.cell_bytes[at]
    return Margin(
        weights_gib=float(held.weights_bytes[at]) / GIB,
        kv_pool_gib=float(held.kv_pool_bytes[at]) / GIB,
        margin_gib=float(held.kv_pool_bytes[at] - in_flight) / GIB,
        max_total_tokens=int(held.max_total_tokens[at]),
        max_concurrency=int(most),
    )
