"""Which starts carry traffic with the fewest GPUs or the least money, and the fleets that they make.

All starts are loaded up to the service level in the bin with most tokens; the best widths of each GPU and format then
in every bin that may need most replicas; the best fleets of these are worked out bin by bin.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil, floor, log10
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aicalib.engines.launch import Launch, assemble
from aicalib.errors import InvalidValue, RequestError
from aicalib.hardware import get_accelerator
from aicalib.plan.capacity.bins import Bins
from aicalib.plan.capacity.demand import Demand
from aicalib.plan.capacity.fleet import Fleet, Held, cost_of, draw_of, load_for, replicas_for
from aicalib.plan.capacity.sustain import Sustained, at_rate, binding, holds, quiet
from aicalib.plan.figures import Number, figures_of
from aicalib.plan.price import Prices, power_of
from aicalib.plan.search.losers import spelled
from aicalib.plan.search.space import Space
from aicalib.plan.search.unmet import NoRoom, Unmet, proposed
from aicalib.plan.tasks.task import Bound
from aicalib.prediction import ORIGINS, predict_batch
from aicalib.profiles.profile import Profile
from aicalib.resolve.batch import Batch
from aicalib.resolve.identify import untimed_cache
from aicalib.served import memory_of
from aicalib.serving.load import CLOSED

Array = NDArray[np.float64]
Codes = NDArray[np.intp]

FINALISTS: Final = 3
"""Widths of a GPU and format that are compared in every bin that may size a fleet."""

SHOWN: Final = 9
"""Fleets that are worked out of those that run at once, and of those that need a checkpoint, shared by the GPUs."""

FEWEST: Final = 3
"""Of these the fewest of each GPU and engine."""

BUSIEST: Final = 8
"""Bins of a fleet, beside those that may need most replicas, in which what was read between nodes is asked for."""

MOST_HELD: Final = 4096
"""Requests in flight up to which a closed loop is looked at, at equal ratios."""

_MARGIN: Final = 1.1
"""What a bound that is proposed allows over the nearest that is reached: at that itself no second request may come."""


@dataclass(frozen=True)
class Sizing:
    """What fleets are sized for.

    Attributes
    ----------
    space : Space
    batch : Batch
        Its starts resolved, for the longest request.
    demand : Demand
    bounds : tuple of Bound
    spare : float
    robust : bool
    prices : Prices or None
    profile : Profile
    tick : callable
        Called as work goes on.
    dropped : Counter
        Why starts make no fleet -> how many; filled by `fleets`.
    """

    space: Space
    batch: Batch
    demand: Demand
    bounds: tuple[Bound, ...]
    spare: float
    robust: bool
    prices: Prices | None
    profile: Profile
    tick: Callable[[], object] = lambda: None
    dropped: Counter[str] = field(default_factory=Counter)

    @cached_property
    def bins(self) -> Bins:
        """Its starts under the traffic of each bin."""
        return Bins(self.batch, self.demand, self.bounds, self.robust, self.profile, self.tick)

    def fleets(self) -> list[Fleet]:
        """Return the best fleets; of equal ones that with the fewest changes to the published checkpoint first.

        Raises
        ------
        InvalidValue
            If nothing fits, or nothing keeps the level.
        """
        for error in self.batch.refused.values():
            self.dropped[str(error)] += 1
        _, fits = memory_of(self.batch)
        self.dropped["weights and the longest request do not fit into the memory"] += int((~fits).sum())
        rows, peak = np.flatnonzero(fits), self.bins.heaviest
        if not rows.size:
            raise self._fits_nowhere()
        per = self.bins.size_by(self.bins.sustained(rows, np.array([peak])))[:, 0]
        keeps = per > 0.0
        self.dropped["no rate keeps the service level"] += int((~keeps).sum())
        if not keeps.any():
            raise self._out_of_reach(rows, peak)
        rows, per = rows[keeps], per[keeps]
        needed = replicas_for(self.demand.requests_s[peak], self.spare, per)
        finalists = self._first(rows, self._price(rows, needed), FINALISTS)
        bins = self.bins.critical()
        per = self.bins.size_by(self.bins.sustained(finalists, bins))
        needed = replicas_for(self.demand.requests_s[bins], self.spare, per).max(axis=1)
        kept = np.isfinite(needed)
        if not kept.any():
            worst = int((per > 0.0).sum(axis=0).argmin())
            raise self._out_of_reach(finalists[~(per[:, worst] > 0.0)], int(bins[worst]))
        chosen, prices = finalists[kept], self._price(finalists[kept], needed[kept])
        return self._worked_out(self._started(chosen, prices), bins)

    def _gpus(self, rows: Codes) -> Codes:
        return self.space.n_gpus()[self.batch.rows[rows]]

    def _price(self, rows: Codes, replicas: Array) -> Array:
        """Return what replicas of starts cost an hour, without prices how many GPUs they are."""
        gpus = replicas * self._gpus(rows)
        if self.prices is None:
            return gpus
        offers = [self.prices.of(get_accelerator(each.formats.gpu)).per_hour for each in self.space.offers]
        result: Array = gpus * np.array(offers)[self._places(rows)[:, 0]]
        return result

    def _places(self, rows: Codes) -> NDArray[np.int32]:
        return self.space.places[self.batch.rows[rows]]

    def _groups(self, rows: Codes) -> Codes:
        """Return for each start a number that those of one GPU, engine and format share."""
        offer, form = self._places(rows).T[:2].astype(np.intp)
        result: Codes = offer * (form.max() + 1) + form
        return result

    def _first(self, rows: Codes, prices: Array, count: int) -> Codes:
        """Return the cheapest starts of each group, at most so many; of equal ones the smaller replica."""
        order = np.lexsort((rows, self._gpus(rows), prices))
        group = self._groups(rows)[order]
        sequence = np.argsort(group, kind="stable")
        starts = np.flatnonzero(np.diff(group[sequence], prepend=-1))
        place = np.arange(order.size) - np.repeat(starts, np.diff(np.append(starts, order.size)))
        return rows[order[sequence[place < count]]]

    def _started(self, rows: Codes, prices: Array) -> list[tuple[int, Launch]]:
        """Return the best start of the best groups of each GPU and engine that the engine starts."""
        found: list[tuple[int, Launch]] = []
        groups, offers, seen = self._groups(rows), self._places(rows)[:, 0], set[int]()
        most, taken = max(SHOWN // len(self.space.offers), FEWEST), Counter[tuple[int, bool]]()
        for at in np.lexsort((rows, self._gpus(rows), prices)):
            start = self.space.start(int(self.batch.rows[rows[at]]))
            share = int(offers[at]), start.format.needs is not None
            if groups[at] in seen or taken[share] >= most:
                continue
            try:
                launch = assemble(start.request(self.space.sought))
            except RequestError as error:
                self.dropped[str(error)] += 1
                continue
            seen.add(int(groups[at]))
            taken[share] += 1
            found.append((int(rows[at]), launch))
        if not found:
            raise InvalidValue(f"no engine starts what would carry the traffic: {self._reasons()}")
        return found

    def _worked_out(self, best: Sequence[tuple[int, Launch]], bins: Codes) -> list[Fleet]:
        """Work out fleets of some starts bin by bin; their intervals in the bins that may need most replicas."""
        demand, rows = self.demand, np.array([row for row, _ in best])
        rate, limit = self.bins.everywhere(rows)
        needed = replicas_for(demand.requests_s, self.spare, rate)
        kept: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(needed), axis=1)
        self.dropped["no rate keeps the service level in some bin"] += int((~kept).sum())
        if not kept.any():
            worst = int(np.isfinite(needed).sum(axis=0).argmin())
            raise self._out_of_reach(rows[~np.isfinite(needed[:, worst])], worst)
        load = np.nan_to_num(load_for(demand.requests_s, self.spare, rate))
        busiest = np.argsort(-load, axis=1)[:, : min(BUSIEST, demand.busy.size)]
        places = np.column_stack([np.tile(bins, (rows.size, 1)), busiest])
        ends = self.bins.sustained(rows, places, ("low", "high"))
        exact = replicas_for(demand.requests_s[places], self.spare, self.bins.size_by(ends))
        np.put_along_axis(needed, places, exact, axis=1)
        np.put_along_axis(limit, places, ends.limit, axis=1)
        return [
            self._fleet(
                row, launch, limit[at], needed[at], places[at], Sustained(*(each[at] for each in ends))
            )
            for at, (row, launch) in enumerate(best)
            if kept[at]
        ]

    def _fleet(
        self, row: int, launch: Launch, limit: Array, needed: Array, places: Codes, ends: Sustained
    ) -> Fleet:
        """Make one fleet.

        Parameters
        ----------
        row : int
            Of the batch.
        launch : Launch
        limit, needed : ndarray, shape (b,)
            What one replica sustains at all, and the replicas that are needed.
        places : ndarray of int
            Bins that may size it.
        ends : Sustained
            What one replica takes in these.
        """
        demand, arrives = self.demand, self.demand.requests_s[places]
        loads = load_for(arrives, self.spare, self.bins.size_by(ends))
        at = int(loads.argmax())
        sized_by = int(places[at])
        replicas = Number(*(
            float(replicas_for(arrives, self.spare, per).max()) for per in (ends.rate, ends.high, ends.low)
        ))  # fmt: skip
        size = int(needed.max())
        start = self.space.start(int(self.batch.rows[row]))
        deployment = self.batch.deployment(row)
        one = int(self._gpus(np.array([row]))[0])
        load = np.nan_to_num(demand.requests_s / limit)
        # What was read between nodes may ask for more than the bins that were asked for; unknown ends stay so.
        planned = Number(
            float(size), float(np.minimum(replicas.low, size)), float(np.maximum(replicas.high, size))
        )
        gpus = Number(*(each * one for each in planned))
        accelerator = deployment.identity.accelerator
        power = power_of(accelerator, self.prices)
        draw = draw_of(demand, power, gpus.value, one, needed, load) if power else None
        cost = None
        if self.prices is not None:
            price, energy = self.prices.of(accelerator).per_hour, self.prices.energy_per_kwh or 0.0
            cost = cost_of(demand, gpus, needed * one, price, draw, energy)
        asked = self.bins.asked(np.array([row]), demand.isl[[sized_by]], demand.osl[[sized_by]])
        here = at_rate(asked, ends.rate[[at]], self.profile)
        binds = binding(asked, self.bounds, self.profile, ends.rate[[at]], ends.limit[[at]])[0]
        return Fleet(
            row=row,
            words=start.words(),
            deployment={name: value for name, value in deployment.as_dict().items() if name != "notes"},
            launch=launch,
            published=start.format[:4] == (None,) * 4,
            untimed_cache=untimed_cache(deployment.identity),
            needs=start.format.needs,
            origin=str(ORIGINS[here.origins[0]]),
            gpus_per_replica=one,
            sized_by=sized_by,
            rate=Number(*(float(each[at]) for each in (ends.rate, ends.low, ends.high))),
            limit=float(ends.limit[at]),
            in_flight=float(ends.rate[at] * here.service.e2e_mean_s[0]),
            binds="throughput" if binds is None else spelled(binds),
            held=self._held(asked),
            size=size,
            replicas=planned,
            gpus=gpus,
            load=float(loads[at]),
            needed=needed,
            utilisation=load / size,
            cost=cost,
            draw=draw,
        )

    def _held(self, asked: Batch) -> Held | None:
        """Return most requests held in flight within the level, without the burst that a benchmark opens with."""
        counts = np.unique(np.geomspace(1, MOST_HELD, 97).round())
        many = asked.take(np.zeros(counts.size, dtype=np.intp))
        load = replace(many.load, concurrency=counts, kind=np.full(counts.size, CLOSED), request_rate=None)
        found = predict_batch(replace(many, load=load), self.profile)
        kept = np.logical_and.accumulate(holds(found, self.bounds, "high" if self.robust else "value"))
        if not kept.any():
            return None
        at = int(kept.sum()) - 1
        return Held(int(counts[at]), float(found.mean["requests_s"].value[at]))

    def _reasons(self) -> str:
        return "; ".join(reason for reason, count in self.dropped.most_common(3) if count)

    def _fits_nowhere(self) -> NoRoom:
        sought = self.space.sought
        return NoRoom(
            f"{sought.model} fits nowhere: no width of {', '.join(sought.gpus)} up to {sought.count} GPUs a replica "
            f"holds its weights and one request of {sought.isl + sought.osl:.0f} tokens",
            ["another --gpu", "a narrower --gemm"],
        )

    def _out_of_reach(self, rows: Codes, place: int) -> Unmet:
        """Say which bound starts keep at no rate in a bin, and what comes nearest."""
        one = np.ones(rows.size)
        asked = self.bins.asked(rows, one * self.demand.isl[place], one * self.demand.osl[place])
        figures = figures_of(quiet(asked, self.profile), "high" if self.robust else "value")
        share = np.array([figures[each.metric, each.percentile] / each.threshold_s for each in self.bounds])
        most = np.nan_to_num(share, nan=0.0).max(axis=0)
        at = int(most.argmin())
        broken = [(bound, 1e3 * figures[bound.metric, bound.percentile][at])
                  for bound, each in zip(self.bounds, share[:, at], strict=True)
                  if each > min(1.0, 0.999 * most[at])]  # fmt: skip
        demand, start = self.demand, self.space.start(int(self.batch.rows[rows[at]]))
        when = "" if demand.requests_s.size == 1 else f" in the bin from {demand.begins[place]}"
        nearest = ", ".join(f"{each:.4g} ms" for _, each in broken)
        return Unmet(
            f"{' and '.join(spelled(bound) for bound, _ in broken)} cannot be kept at any rate for "
            f"{demand.isl[place]:.0f} tokens in and {demand.osl[place]:.0f} out{when}: the nearest"
            f"{' at the pessimistic end' if self.robust else ''} is {nearest}, one request at a time ({start.words()})",
            [proposed(bound, _above(_MARGIN * each), self.bounds) for bound, each in broken],
        )


def _above(value: float) -> float:
    """Return a number rounded up to two digits."""
    unit = 10.0 ** (floor(log10(value)) - 1)
    return ceil(value / unit) * unit
