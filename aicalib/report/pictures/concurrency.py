"""TPOT against concurrency, a line for each choice of formats, with the measured runs of the same curve on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.prediction import predict_batch
from aicalib.profiles.profile import Profile
from aicalib.report.beside import Point
from aicalib.report.pictures.style import (
    BAND_ALPHA,
    COLORS,
    DASHES,
    INK,
    MARKERS,
    new_figure,
    styled,
    surround,
)
from aicalib.resolve.rows import resolve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

MOST = 256
"""Requests in flight up to which a curve reaches by itself."""

STEPS_PER_DOUBLING = 4


class Curve(NamedTuple):
    """TPOT in ms over requests in flight, arrays of one shape, and what was measured.

    `low` and `high` are NaN under a profile without intervals; all are where there is no answer. `points` are the runs
    of this deployment at such lengths.
    """

    label: str
    concurrency: Array
    tpot_ms: Array
    low: Array
    high: Array
    points: tuple[Point, ...] = ()


def places(most: float) -> list[int]:
    """Return requests in flight from 1 to the power of 2 at or above `most`, evenly apart on a logarithmic axis."""
    doublings = int(np.ceil(np.log2(max(most, 2.0))))
    steps = np.arange(doublings * STEPS_PER_DOUBLING + 1) / STEPS_PER_DOUBLING
    return sorted({round(2.0**each) for each in steps.tolist()})


def curve(
    label: str, options: Mapping[str, Any], profile: Profile, points: Iterable[Point] = (), most: float = MOST
) -> Curve:
    """Predict one deployment under 1 to `most` requests in flight, in one call.

    Parameters
    ----------
    label : str
    options : mapping
        Options of `aicalib predict`, of a closed load; `concurrency` and `num_prompts` are not read.
    profile : Profile
    points : iterable of Point
        Measured runs to stand beside it.
    most : float
        Requests in flight; as far as the measured ones where these go further.

    Raises
    ------
    RequestError
        Where the prediction refuses the deployment.
    """
    found = tuple(points)
    at = places(max(most, *(each.concurrency for each in found), 1.0))
    fixed = {
        name: [value] * len(at)
        for name, value in options.items()
        if name not in ("concurrency", "num_prompts")
    }
    batch = resolve({**fixed, "concurrency": at})
    for error in batch.refused.values():
        raise error
    tpot = predict_batch(batch, profile).mean["tpot_ms"]
    return Curve(label, np.array(at, dtype=np.float64), tpot.value, tpot.low, tpot.high, found)


def draw(
    curves: Sequence[Curve],
    title: str,
    lines: Sequence[str] = (),
    source: str = "",
    size: tuple[float, float] = (8.0, 5.2),
) -> Figure:
    """Draw curves with the bands of their intervals, measured runs as points: hollow where the fit has not seen them.

    Parameters
    ----------
    curves : sequence of Curve
    title, source : str
        Above and below the picture.
    lines : sequence of str
        Below the title.
    size : (float, float)
        Inches.
    """
    with styled():
        figure = new_figure(*size)
        axes = figure.add_subplot()
        for place, each in enumerate(curves):
            _curve(
                axes,
                each,
                COLORS[place % len(COLORS)],
                DASHES[place % len(DASHES)],
                MARKERS[place % len(MARKERS)],
            )
        last = max(float(each.concurrency[-1]) for each in curves)
        axes.set(xscale="log", xlim=(0.9, last * 1.12), xlabel="requests in flight", ylabel="TPOT, mean (ms)")
        axes.set_ylim(0, None)
        ticks = [2**each for each in range(int(np.log2(last)) + 1)]
        axes.set_xticks(ticks, [f"{each:g}" for each in ticks])
        axes.set_xticks([], minor=True)
        axes.grid(axis="y")
        surround(figure, title, lines, source, _handles(axes, curves))
    return figure


def _curve(axes: Axes, found: Curve, color: str, dashes: str, marker: str) -> None:
    known = np.isfinite(found.tpot_ms)
    x = found.concurrency[known]
    axes.fill_between(x, found.low[known], found.high[known], color=color, alpha=BAND_ALPHA, linewidth=0)
    axes.plot(x, found.tpot_ms[known], color=color, linestyle=dashes, linewidth=1.8, label=found.label)
    for point in found.points:
        axes.plot(
            point.concurrency,
            point.tpot_ms,
            marker,
            color=color,
            markersize=6,
            markerfacecolor=color if point.fitted else "white",
            markeredgecolor="white" if point.fitted else color,
            markeredgewidth=0.8 if point.fitted else 1.4,
            zorder=4,
        )


def _handles(axes: Axes, curves: Sequence[Curve]) -> list[Any]:
    """Return what the legend explains: lines, bands and points."""
    handles, _ = axes.get_legend_handles_labels()
    if any(np.isfinite(each.low).any() for each in curves):
        handles.append(
            axes.fill_between([], [], [], color=INK, alpha=BAND_ALPHA, label="90 % interval", linewidth=0)
        )
    every = [point for each in curves for point in each.points]
    for fitted, label in ((True, "measured, the profile was fitted on it"), (False, "measured, not fitted")):
        if any(point.fitted is fitted for point in every):
            face, edge = (INK, "white") if fitted else ("white", INK)
            handles += axes.plot(
                [], [], "o", color=INK, markerfacecolor=face, markeredgecolor=edge, markersize=6, label=label
            )
    return handles
