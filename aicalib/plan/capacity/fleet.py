"""What a fleet of replicas costs, how busy it is and what it draws, bin by bin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from aicalib.engines.launch import Launch
from aicalib.plan.capacity.demand import HOUR_S, Demand
from aicalib.plan.figures import Number
from aicalib.plan.price import Power

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

MILLION: Final = 1e6
KILO: Final = 1e3

_ROUNDING: Final = 1e-9
"""Share of a replica that is rounding and needs no replica of its own."""


def load_for(requests_s: Array, spare: float, per_replica: Array) -> Array:
    """Return a rate as replicas that are loaded in full: rate x (1 + spare) / rate of one.

    Infinite where one replica takes nothing, NaN where its rate is not known; shapes broadcast.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        result: Array = requests_s * (1.0 + spare) / per_replica
    return result


def replicas_for(requests_s: Array, spare: float, per_replica: Array) -> Array:
    """Return the replicas that a rate needs: `load_for` rounded up, at least one."""
    needed = np.ceil(load_for(requests_s, spare, per_replica) - _ROUNDING)
    result: Array = np.where(requests_s > 0.0, np.maximum(needed, 1.0), 1.0)
    return result


@dataclass(frozen=True)
class Cost:
    """What a fleet costs, in the currency of the prices, over all bins.

    Attributes
    ----------
    per_hour : Number
        Of the fixed fleet.
    per_million_output, per_million_total : Number
        The fixed fleet's cost over all bins by their output tokens, and by their input and output tokens.
    per_million_output_at_peak : Number
        The same in the bin with most output tokens alone.
    autoscaled_per_hour, autoscaled_per_million_output : float
        Mean over the bins, each paying for the replicas that it needs: a bound that no autoscaler reaches.
    """

    per_hour: Number
    per_million_output: Number
    per_million_total: Number
    per_million_output_at_peak: Number
    autoscaled_per_hour: float
    autoscaled_per_million_output: float


@dataclass(frozen=True)
class Draw:
    """What a fleet draws.

    Attributes
    ----------
    peak_kw, mean_kw : float
        Of the fixed fleet, in its busiest bin and over all bins.
    energy_kwh, autoscaled_energy_kwh : float
        Over all bins, of the fixed fleet and where each bin has the replicas that it needs.
    note : str
        What of the power was not said by the user.
    """

    peak_kw: float
    mean_kw: float
    energy_kwh: float
    autoscaled_energy_kwh: float
    note: str


@dataclass(frozen=True)
class Held:
    """A closed loop within the service level.

    Attributes
    ----------
    concurrency : int
        Most requests held in flight.
    requests_s : float
        What one replica then answers.
    """

    concurrency: int
    requests_s: float


@dataclass(frozen=True)
class Fleet:
    """Replicas of one configuration that carry the traffic within the service level.

    Attributes
    ----------
    row : int
        Of the starts that were compared.
    words : str
        GPU, engine, formats and widths in one line.
    deployment : mapping
        One replica, all that is needed to ask again.
    launch : Launch
        What starts it; with "PATH" where it needs a checkpoint.
    published : bool
        Its formats are those of the published checkpoint.
    untimed_cache : bool
        Its cache is narrower than any that was timed.
    needs : str or None
        The checkpoint that it needs; None where it runs at once.
    origin : str
        Where its prediction comes from.
    gpus_per_replica : int
    sized_by : int
        The bin that needs most replicas.
    rate : Number
        Requests a second that one replica takes there within the level.
    limit : float
        The sustainable rate of one replica there.
    in_flight : float
        Requests in one replica at that rate, waiting ones included.
    binds : str
        What fails first beyond that rate.
    held : Held or None
        The same as a closed loop: requests held in flight.
    size : int
        Replicas that are planned for: `replicas.value`, or its high end where asked to be robust.
    replicas, gpus : Number
        The low end is what the favorable ends of the intervals need, infinite where no rate holds.
    load : float
        `size` before it was rounded up.
    needed : ndarray, shape (b,)
        Replicas that each bin needs.
    utilisation : ndarray, shape (b,)
        Share of what the fixed fleet sustains at all that arrives in each bin.
    cost : Cost or None
        None without prices.
    draw : Draw or None
        None where no power is known.
    tie : bool
        The first of its group is cheaper by less than the interval of their ratio (`aicalib.ties`).
    """

    row: int
    words: str
    deployment: Mapping[str, Any]
    launch: Launch
    published: bool
    untimed_cache: bool
    needs: str | None
    origin: str
    gpus_per_replica: int
    sized_by: int
    rate: Number
    limit: float
    in_flight: float
    binds: str
    held: Held | None
    size: int
    replicas: Number
    gpus: Number
    load: float
    needed: Array
    utilisation: Array
    cost: Cost | None
    draw: Draw | None
    tie: bool = False

    @property
    def price(self) -> Number:
        """What fleets are compared by: cost an hour, without prices the GPUs."""
        return self.gpus if self.cost is None else self.cost.per_hour

    def price_at(self, slower: float) -> float:
        """Return what it would cost if a replica took that much less, as a logarithm of the rate."""
        replicas = np.maximum(np.ceil(self.load * np.exp(slower) - _ROUNDING), 1.0)
        return float(self.price.value / self.size * replicas)

    @property
    def mean_utilisation(self) -> float:
        """Of the fixed fleet over all bins."""
        return float(self.utilisation.mean())

    @property
    def peak_utilisation(self) -> float:
        """Of the fixed fleet in its busiest bin."""
        return float(self.utilisation.max())

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it, without what is told of each bin."""
        return {
            "start": self.words,
            "deployment": dict(self.deployment),
            **{
                name: value
                for name, value in self.launch.as_dict().items()
                if name in ("argv", "env", "files")
            },
            "as_published": self.published,
            "needs_checkpoint": self.needs,
            "origin": self.origin,
            "tie": self.tie,
            "replicas": self.replicas._asdict(),
            "gpus": self.gpus._asdict(),
            "gpus_per_replica": self.gpus_per_replica,
            "per_replica": {
                "requests_s": self.rate._asdict(),
                "sustainable_s": self.limit,
                "in_flight": self.in_flight,
                "binds": self.binds,
                "closed_loop": None if self.held is None else dict(self.held.__dict__),
            },
            "sized_by": self.sized_by,
            "needed_mean": float(self.needed.mean()),
            "utilisation": {"peak": self.peak_utilisation, "mean": self.mean_utilisation},
            "cost": None if self.cost is None else _plain(self.cost),
            "power": None if self.draw is None else _plain(self.draw),
        }

    def frame(self, demand: Demand) -> pd.DataFrame:
        """Return one row a bin: what arrives, the replicas that it needs, how busy the fixed fleet is."""
        return demand.frame().assign(needed=self.needed, replicas=self.size, utilisation=self.utilisation)


def _plain(value: Cost | Draw) -> dict[str, Any]:
    return {
        name: each._asdict() if isinstance(each, Number) else each for name, each in value.__dict__.items()
    }


def cost_of(
    demand: Demand, gpus: Number, needed_gpus: Array, per_gpu_hour: float, draw: Draw | None, per_kwh: float
) -> Cost:
    """Return what a fleet costs.

    Parameters
    ----------
    demand : Demand
    gpus : Number
        Of the fixed fleet.
    needed_gpus : ndarray, shape (b,)
        GPUs that each bin needs.
    per_gpu_hour : float
        Price of one GPU and hour.
    draw : Draw or None
    per_kwh : float
        What energy costs beside it.
    """
    tokens_in, tokens_out = demand.tokens
    hours, busy = demand.hours, demand.busy
    energy = (draw.energy_kwh, draw.autoscaled_energy_kwh) if draw else (0.0, 0.0)
    per_gpu = per_gpu_hour + energy[0] * per_kwh / hours / gpus.value
    fixed = Number(*(each * per_gpu for each in gpus))
    scaled = float(needed_gpus.mean()) * per_gpu_hour + energy[1] * per_kwh / hours
    peak_tok_h = float((demand.requests_s[busy] * demand.osl[busy]).max()) * HOUR_S

    def per(tokens: float) -> Number:
        return Number(*(each * hours / tokens * MILLION for each in fixed))

    return Cost(
        per_hour=fixed,
        per_million_output=per(tokens_out),
        per_million_total=per(tokens_in + tokens_out),
        per_million_output_at_peak=Number(*(each / peak_tok_h * MILLION for each in fixed)),
        autoscaled_per_hour=scaled,
        autoscaled_per_million_output=scaled * hours / tokens_out * MILLION,
    )


def draw_of(demand: Demand, power: Power, gpus: float, per_replica: int, needed: Array, load: Array) -> Draw:
    """Return what a fleet draws.

    Parameters
    ----------
    demand : Demand
    power : Power
        Of one GPU.
    gpus : float
        Of the fixed fleet.
    per_replica : int
        GPUs of a replica.
    needed : ndarray, shape (b,)
        Replicas that each bin needs.
    load : ndarray, shape (b,)
        What arrives over what one replica sustains at all: replicas at full utilisation.
    """
    fixed_kw = gpus * power.at(load * per_replica / gpus) / KILO
    scaled_kw = needed * per_replica * power.at(load / needed) / KILO
    mean_kw, hours = float(fixed_kw.mean()), demand.hours
    return Draw(float(fixed_kw.max()), mean_kw, mean_kw * hours, float(scaled_kw.mean()) * hours, power.note)
