"""A plan over time: what arrives, the replicas that it needs beside those of the fixed fleet, how busy these are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from aicalib.errors import InvalidValue
from aicalib.report.pictures.style import (
    BAND_ALPHA,
    COLORS,
    DASHES,
    new_figure,
    styled,
    surround,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ARRIVES, NEEDED, FLEET = COLORS[6], COLORS[0], COLORS[1]

HOUR_S = 3600.0


def picture(found: Mapping[str, Any], size: tuple[float, float] = (8.0, 6.4)) -> Figure:
    """Draw the bins of a plan's first fleet.

    Parameters
    ----------
    found : mapping
        What `plan --json` prints (`Plan.as_dict`).
    size : tuple of float
        Width and height in inches.

    Raises
    ------
    InvalidValue
        If the traffic is a rate that does not change.
    """
    bins, best = found["bins"], found["fleets"][0]
    if len(bins) < 2:
        raise InvalidValue(
            "day: a rate that does not change has no day to draw; a file of traffic has",
            ["--traffic FILE.csv"],
        )
    edges = _edges([each["begins"] for each in bins], found["demand"]["bin_s"])
    size_ = bins[0]["replicas"]
    with styled():
        figure = new_figure(*size)
        top, middle, low = figure.subplots(3, 1, sharex=True)
        _steps(top, edges, [each["requests_s"] for each in bins], ARRIVES)
        top.set_title("requests a second that arrive")
        needed = _steps(middle, edges, [each["needed"] for each in bins], NEEDED)
        needed.set_label("replicas that each bin needs, spare included")
        fixed = middle.axhline(
            size_, color=FLEET, linestyle=DASHES[1], linewidth=1.4, label="replicas of the fleet"
        )
        band = _band(middle, best["replicas"])
        middle.set_title("replicas")
        _steps(low, edges, [100.0 * each["utilisation"] for each in bins], NEEDED)
        low.set_title("utilisation of the fleet (%): share of what it sustains at all")
        for axes in (top, middle):
            axes.set_ylim(0, None)
        low.set_ylim(0, 100)
        for axes in (top, middle, low):
            axes.grid()
            axes.set_xlim(edges[0], edges[-1])
        _time_axis(low, edges)
        surround(
            figure,
            f"{found['model']}: {best['start']}",
            _lines(found),
            _source(found),
            [needed, fixed, *band],
        )
    return figure


def _edges(begins: list[str], bin_s: float) -> Any:
    """Return the edges of bins: dates where the file has such, else hours from the first."""
    if begins[0].endswith(" s"):
        return np.arange(len(begins) + 1) * bin_s / HOUR_S
    start = np.datetime64(begins[0].replace(" ", "T"), "ms")
    return start + np.round(np.arange(len(begins) + 1) * bin_s * 1e3).astype("timedelta64[ms]")


def _steps(axes: Axes, edges: Any, values: list[float], color: str) -> Any:
    """Draw what holds from edge to edge."""
    (line,) = axes.step(edges, [*values, values[-1]], where="post", color=color, linewidth=1.3)
    axes.fill_between(edges, [*values, values[-1]], step="post", color=color, alpha=BAND_ALPHA, linewidth=0)
    return line


def _band(axes: Axes, replicas: Mapping[str, Any]) -> list[Any]:
    """Draw the interval of the fleet's replicas, where it has one."""
    low, high = replicas["low"], replicas["high"]
    if low is None or high is None or not np.isfinite([low, high]).all():
        return []
    label = f"90 % interval of the replicas needed at the peak: {low:g} to {high:g}"
    return [axes.axhspan(low, high, color=FLEET, alpha=BAND_ALPHA, linewidth=0, label=label)]


def _time_axis(axes: Axes, edges: Any) -> None:
    if not np.issubdtype(edges.dtype, np.datetime64):
        axes.set_xlabel("hours from the start")
        return
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator()  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]


def _lines(found: Mapping[str, Any]) -> list[str]:
    """Return what stands below the title."""
    best, demand = found["fleets"][0], found["demand"]
    used = best["utilisation"]
    first = (
        f"{demand['requests']:,.0f} requests in {demand['hours']:.4g} h, {demand['isl']:.0f} tokens in and "
        f"{demand['osl']:.0f} out in the mean; spare {100 * found['spare']:.0f} %"
    )
    second = (
        f"{best['gpus']['value']:g} GPUs, utilisation {100 * used['mean']:.0f} % in the mean, "
        f"{100 * used['peak']:.0f} % at most"
    )
    if best["cost"] is not None:
        cost, prices = best["cost"], found["prices"]
        example = f" (example prices of {prices['date']})" if prices["example"] else ""
        second += (
            f"; {prices['currency']} {cost['per_hour']['value']:.2f} an hour, {cost['autoscaled_per_hour']:.2f} with "
            f"the replicas that each bin needs{example}"
        )
    return [first, second]


def _source(found: Mapping[str, Any]) -> str:
    level = ", ".join(
        f"{each['metric']} {each['percentile'] or 'mean'} {each['threshold_ms']:g} ms"
        for each in found["level"]
    )
    end = ", sized by the pessimistic end of intervals" if found["robust"] else ""
    return (
        f"aicalib, profile {found['profile']}; {level}{end}; bins of {found['demand']['bin_s'] / 60:.4g} min"
    )
