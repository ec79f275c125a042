"""Traffic to plan for: a rate, or a rate over time, in bins of equal width."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from aicalib.errors import InvalidValue

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

HOUR_S: Final = 3600.0

_UNEVEN: Final = 0.01
"""Share of an hour by which whole bins may miss it and still make one."""


@dataclass(frozen=True)
class Demand:
    """Traffic in bins of equal width.

    Attributes
    ----------
    width_s : float
        Width of a bin [s].
    requests_s : ndarray, shape (b,)
        Mean arrivals a second in each bin.
    isl, osl : ndarray, shape (b,)
        Mean input and output tokens of the requests of each bin; NaN where there are none.
    begins : ndarray of str, shape (b,)
        When each bin begins: a date with time of day, or seconds from the start.
    mix : mapping of str to mapping of str to float
        Of a log of requests: percentiles and the longest of "isl", "osl" and "total" tokens of a request.
    source : str
        Where it comes from.
    """

    width_s: float
    requests_s: Array
    isl: Array
    osl: Array
    begins: NDArray[np.str_]
    mix: Mapping[str, Mapping[str, float]]
    source: str

    @property
    def requests(self) -> float:
        """All requests."""
        return float(self.requests_s.sum() * self.width_s)

    @property
    def hours(self) -> float:
        """Time from the first bin to the last one's end [h]."""
        return self.requests_s.size * self.width_s / HOUR_S

    @property
    def busy(self) -> NDArray[np.intp]:
        """Bins in which requests arrive."""
        return np.flatnonzero(self.requests_s > 0.0)

    @property
    def peak(self) -> int:
        """The bin with most arrivals; of several the first."""
        return int(self.requests_s.argmax())

    @property
    def tokens(self) -> tuple[float, float]:
        """All input and output tokens."""
        share = self.requests_s[self.busy] * self.width_s
        return float((share * self.isl[self.busy]).sum()), float((share * self.osl[self.busy]).sum())

    @property
    def longest(self) -> tuple[float, float]:
        """Input and output tokens of the longest prompt, with as many output tokens as make the longest request.

        Of traffic that gives means alone, the longest means.
        """
        if self.mix:
            isl = self.mix["isl"]["max"]
            return isl, max(self.mix["total"]["max"] - isl, 1.0)
        return float(self.isl[self.busy].max()), float(self.osl[self.busy].max())

    @property
    def busiest_hour(self) -> tuple[int, float] | None:
        """The first bin of the hour with most arrivals and its mean rate; None where no whole bins make an hour."""
        bins = round(HOUR_S / self.width_s)
        if abs(bins * self.width_s / HOUR_S - 1.0) > _UNEVEN or not 0 < bins <= self.requests_s.size:
            return None
        means = np.convolve(self.requests_s, np.ones(bins), "valid") / bins
        return int(means.argmax()), float(means.max())

    def frame(self) -> pd.DataFrame:
        """Return one row a bin: begins, requests_s, isl, osl."""
        import pandas as pd

        return pd.DataFrame(
            {"begins": self.begins, "requests_s": self.requests_s, "isl": self.isl, "osl": self.osl}
        )


def steady(requests_s: float, isl: float, osl: float) -> Demand:
    """Return a rate that does not change, as one hour.

    Parameters
    ----------
    requests_s : float
        Arrivals a second.
    isl, osl : float
        Mean tokens of a request.

    Raises
    ------
    InvalidValue
        If the rate is not above 0, or a request has less than one token.
    """
    if not (np.isfinite(requests_s) and requests_s > 0.0):
        raise InvalidValue(
            f"rate {requests_s:g}: there is no traffic to plan for; it is requests a second above 0"
        )
    for name, value in (("isl", isl), ("osl", osl)):
        if not (np.isfinite(value) and value >= 1.0):
            raise InvalidValue(f"{name} {value:g}: a request has at least one token")
    one = np.ones(1)
    source = f"{requests_s:g} requests/s of {isl:g} in, {osl:g} out"
    return Demand(HOUR_S, one * requests_s, one * isl, one * osl, np.array(["0 s"]), {}, source)


def describe(demand: Demand) -> dict[str, Any]:
    """Return what there is to know of traffic before it is planned for, as plain numbers."""
    tokens_in, tokens_out = demand.tokens
    hour = demand.busiest_hour
    return {
        "source": demand.source,
        "bins": int(demand.requests_s.size),
        "bin_s": demand.width_s,
        "hours": demand.hours,
        "requests": demand.requests,
        "mean_requests_s": demand.requests / (demand.hours * HOUR_S),
        "peak_requests_s": float(demand.requests_s.max()),
        "peak_begins": str(demand.begins[demand.peak]),
        "busiest_hour": None
        if hour is None
        else {"begins": str(demand.begins[hour[0]]), "requests_s": hour[1]},
        "isl": tokens_in / demand.requests,
        "osl": tokens_out / demand.requests,
        "mix": {name: dict(each) for name, each in demand.mix.items()},
    }
