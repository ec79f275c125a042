"""From traffic and a service level to replicas, GPUs, cost, utilisation and power, compared over GPUs and formats.

A replica is loaded as far as the level holds for requests of the lengths of each bin
(`aicalib.plan.capacity.sustain`); the fleet is what its busiest bin needs, spare capacity included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from aicalib.errors import InvalidValue
from aicalib.hardware import get_accelerator
from aicalib.plan.capacity.demand import Demand, describe
from aicalib.plan.capacity.fleet import Fleet
from aicalib.plan.capacity.sizing import Sizing
from aicalib.plan.price import Prices
from aicalib.plan.search.formats import BACKENDS, OPEN
from aicalib.plan.search.space import SETTINGS, Sought, Space, lay_out
from aicalib.plan.tasks.task import Bound
from aicalib.profiles.profile import Profile, default_profile
from aicalib.resolve.batch import Batch
from aicalib.ties import THROUGHPUT_LEVEL, common_errors, reach

if TYPE_CHECKING:
    import pandas as pd

MOST_STARTS: Final = 4000
"""Starts that are compared, in the order in which a search tries them."""

BARELY: Final = 0.1
"""Utilisation below which a note says that a fleet is sized by a level that it can hardly keep."""

_OWN: Final[Mapping[str, tuple[Any, ...]]] = {
    "pp": (1,),
    "concurrency": (1,),
    **{name: (OPEN,) for name in BACKENDS},
    **{name: (None,) for name in SETTINGS},
}
"""What is left to the engine where nothing else is asked for."""


@dataclass(frozen=True)
class Plan:
    """What traffic needs within a service level.

    Attributes
    ----------
    model : str
    demand : Demand
    bounds : tuple of Bound
    spare : float
        Capacity beyond each bin's arrivals, as a share of them.
    robust : bool
        Fleets are sized by the unfavorable ends of the intervals.
    fleets : tuple of Fleet
        Those that run at once before those that need a checkpoint; the cheapest first, or where no prices are given
        that of fewest GPUs.
    prices : Prices or None
    profile : str
    considered : int
        Starts that were compared.
    dropped : mapping of str to int
        Why others were not -> how many starts.
    notes : tuple of str
    """

    model: str
    demand: Demand
    bounds: tuple[Bound, ...]
    spare: float
    robust: bool
    fleets: tuple[Fleet, ...]
    prices: Prices | None
    profile: str
    considered: int
    dropped: Mapping[str, int]
    notes: tuple[str, ...]

    @property
    def best(self) -> Fleet:
        """The first of its fleets."""
        return self.fleets[0]

    def frame(self) -> pd.DataFrame:
        """Return one row a fleet, best first: what it is, and its figures with `_low` and `_high`."""
        import pandas as pd

        return pd.DataFrame([_row(fleet) for fleet in self.fleets])

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it; `bins` are those of the first fleet."""
        prices, best = self.prices, self.best
        return {
            "model": self.model,
            "profile": self.profile,
            "demand": describe(self.demand),
            "level": [
                {"metric": each.metric, "percentile": each.percentile, "threshold_ms": 1e3 * each.threshold_s}
                for each in self.bounds
            ],
            "spare": self.spare,
            "robust": self.robust,
            "prices": prices
            and {
                name: getattr(prices, name)
                for name in ("currency", "date", "source", "example", "pue", "energy_per_kwh", "path")
            },
            "considered": self.considered,
            "fleets": [fleet.as_dict() for fleet in self.fleets],
            "bins": best.frame(self.demand).to_dict(orient="records"),
            "dropped": dict(self.dropped),
            "notes": list(self.notes),
        }


def _row(fleet: Fleet) -> dict[str, Any]:
    """Return a fleet as a row of a table."""
    row: dict[str, Any] = {
        name: fleet.deployment[name]
        for name in ("gpu", "engine", "gemm", "kvcache", "fmha", "moe", "tp", "dp", "ep")
    }
    row |= {"needs_checkpoint": fleet.needs, "origin": fleet.origin, "tie": fleet.tie, "start": fleet.words}
    numbers = {"replicas": fleet.replicas, "gpus": fleet.gpus, "requests_s": fleet.rate}
    if fleet.cost is not None:
        names = ("per_hour", "per_million_output", "per_million_total", "per_million_output_at_peak")
        numbers |= {f"cost_{name}": getattr(fleet.cost, name) for name in names}
    for name, number in numbers.items():
        row |= {name: number.value, f"{name}_low": number.low, f"{name}_high": number.high}
    if fleet.cost is not None:
        for name in ("autoscaled_per_hour", "autoscaled_per_million_output"):
            row[f"cost_{name}"] = getattr(fleet.cost, name)
    row |= {"sustainable_s": fleet.limit, "in_flight": fleet.in_flight, "binds": fleet.binds}
    row |= {"utilisation_peak": fleet.peak_utilisation, "utilisation_mean": fleet.mean_utilisation}
    if fleet.draw is not None:
        row |= {name: value for name, value in fleet.draw.__dict__.items() if name != "note"}
    return row


def plan(
    model: str,
    gpus: Sequence[str],
    demand: Demand,
    bounds: Sequence[Bound],
    spare: float = 0.2,
    prices: Prices | None = None,
    only: Mapping[str, Sequence[Any]] | None = None,
    most_gpus: int = 8,
    engines: Sequence[str] = ("sglang",),
    engine_version: str | None = None,
    prefix_hit: float = 0.0,
    robust: bool = False,
    profile: Profile | None = None,
    tick: Callable[[], object] = lambda: None,
) -> Plan:
    """Plan the fleets that carry traffic within a service level.

    Parameters
    ----------
    model : str
    gpus : sequence of str
        Kinds of GPU to compare, by catalogue name or file.
    demand : Demand
        `aicalib.plan.capacity.demand.steady` or `aicalib.plan.capacity.trace.read_traffic`.
    bounds : sequence of Bound
        The service level; one of them on TTFT or end-to-end latency, since nothing else bounds how long requests wait.
    spare : float
        Capacity beyond the arrivals of each bin, as a share of them.
    prices : Prices, optional
        `aicalib.plan.price.load_prices`. Without them fleets are compared by GPUs.
    only : mapping of str to sequence, optional
        Option ("gemm", "kv", "fmha", "moe", "tp", "dp", "ep", ...) -> the values to try in place of all.
    most_gpus : int
        Of one replica.
    engines : sequence of str
    engine_version : str, optional
        The newest known if not given.
    prefix_hit : float
        Share of the input that the prefix cache holds.
    robust : bool
        Size fleets by the unfavorable ends of the intervals.
    profile : Profile, optional
        The shipped default if not given.
    tick : callable
        Called as work goes on.

    Returns
    -------
    Plan

    Raises
    ------
    InvalidValue
        If a number is wrong, a price is missing, the model fits nowhere (`NoRoom`), or no rate keeps the level
        (`Unmet`): with the bound that fails and the nearest that can be reached.
    RequestError
        For names that no table holds, and what no engine starts.
    """
    if not (np.isfinite(spare) and spare >= 0.0):
        raise InvalidValue(f"spare {spare:g} is a share of the traffic from 0 on", ["0.2"])
    if not any(each.metric in ("ttft", "latency") for each in bounds):
        raise InvalidValue(
            "the service level bounds neither TTFT nor end-to-end latency: requests could wait without end",
            ["--ttft-ms 1000", "--e2e-ms 20000"],
        )
    for each in bounds:
        if not (np.isfinite(each.threshold_s) and each.threshold_s > 0.0):
            raise InvalidValue(f"{each.metric} bound of {1e3 * each.threshold_s:g} ms is not a time above 0")
    used = profile or default_profile()
    if robust and not used.quantiles:
        raise InvalidValue(
            f"profile {used.label} has no intervals to be robust against", ["--profile default"]
        )
    if prices is not None:
        for name in gpus:
            prices.of(get_accelerator(name))
    longest = demand.longest
    sought = Sought(
        model=model, gpus=tuple(gpus), count=most_gpus, isl=longest[0], osl=longest[1], engines=tuple(engines),
        engine_version=engine_version, prefix_hit=prefix_hit, separate=False,
        only={**_OWN, **{name: tuple(values) for name, values in (only or {}).items()}},
    )  # fmt: skip
    space = lay_out(sought, used, MOST_STARTS)
    sizing = Sizing(space, space.resolve(), demand, tuple(bounds), spare, robust, prices, used, tick)
    fleets = _ranked(sizing.fleets(), sizing.batch, used)
    dropped = {reason: count for reason, count in sizing.dropped.items() if count}
    return Plan(
        model, demand, tuple(bounds), spare, robust, fleets, prices, used.label, space.stage.size, dropped,
        _notes(demand, prices, space, fleets[0]),
    )  # fmt: skip


def _ranked(fleets: Sequence[Fleet], batch: Batch, profile: Profile) -> tuple[Fleet, ...]:
    """Return fleets that run at once before the others, the cheapest first, and which tie with the first of these."""
    # Of equals the one with the fewest changes comes first, as they came.
    order = sorted(
        fleets, key=lambda each: (each.needs is not None, each.price.value, np.nan_to_num(each.price.high))
    )
    first: dict[bool, Fleet] = {}
    for each in order:
        first.setdefault(each.needs is None, each)
    best = [first[each.needs is None] for each in order]
    rows = np.array([[each.row for each in fleets] for fleets in (best, order)])
    common = common_errors(batch, profile, THROUGHPUT_LEVEL, *rows)
    with np.errstate(divide="ignore"):  # a low end of no rate at all
        worse = -np.log([each.rate.low / each.rate.value for each in best])
        better = np.log([each.rate.high / each.rate.value for each in order])
    ends = zip(*reach(worse, better, common), strict=True)
    return tuple(
        replace(each, tie=each is not other and each.price_at(-up) <= other.price_at(down))
        for each, other, (down, up) in zip(order, best, ends, strict=True)
    )


def _notes(demand: Demand, prices: Prices | None, space: Space, best: Fleet) -> tuple[str, ...]:
    notes = []
    if space.stage.size < sum(space.sizes):
        notes.append(
            f"{space.stage.size} of {sum(space.sizes)} starts were compared, the most important first"
        )
    if prices is None:
        notes.append(
            "no prices: compared by the number of GPUs; --prices takes a file of yours, or 'example'"
        )
    elif prices.example:
        notes.append(prices.warning)
    if best.size > 1 and best.peak_utilisation < BARELY:
        notes.append(
            f"{best.binds} is barely reached: the fleet is never loaded beyond {100 * best.peak_utilisation:.2g} % "
            "of what it sustains at all; a looser bound needs far fewer GPUs"
        )
    if not best.published:
        notes.append(
            "the first fleet's formats are not the published ones: whether its answers are good enough is not asked"
        )
    if best.untimed_cache:
        notes.append(
            f"no kernel of the first fleet's {best.deployment['kvcache']} cache was timed: those of an 8-bit one stand "
            "in; --kv auto,fp8 plans without it"
        )
    if demand.mix:
        mix = demand.mix
        notes.append(
            "lengths count by their mean in each bin; over all requests p50 / p99 are "
            f"{mix['isl']['p50']:.0f} / {mix['isl']['p99']:.0f} tokens in, "
            f"{mix['osl']['p50']:.0f} / {mix['osl']['p99']:.0f} out"
        )
    return tuple(notes)
