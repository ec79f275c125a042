"""Residuals: measured over predicted against concurrency, the deployment's own group before its kin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from aicalib.report.beside import NEAR_RATIO, Residuals
from aicalib.report.pictures.style import COLORS, GRID, INK, MARKERS, RATIOS, new_figure, styled, surround
from aicalib.report.scores import METRIC_NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_NAMED = 5
"""Groups with a color and marker of their own."""

ENDS = RATIOS[0], RATIOS[-1]
"""Ratios at which the axis ends; a run beyond is drawn at the end."""

OTHERS = "#B8B8B8"

MOST_VECTORS = 500
"""Points of a picture up to which an SVG holds each as a mark of its own; more are an image in it, at a tenth of the
size."""


def draw(
    found: Sequence[Residuals],
    metrics: Sequence[str],
    title: str,
    source: str = "",
    size: tuple[float, float] = (8.0, 4.4),
) -> Figure:
    """Draw a panel for each metric, a point for each run: hollow where the profile was not fitted on it.

    Parameters
    ----------
    found : sequence of Residuals
        The deployment's own group first; those after `MOST_NAMED` are gray.
    metrics : sequence of str
        TTFT, TPOT or both; one that no run measured has no panel.
    title, source : str
        Above and below the picture.
    size : (float, float)
        Inches.
    """
    metrics = [metric for metric in metrics if any(np.isfinite(each.ratio[metric]).any() for each in found)]
    flight = np.concatenate([each.concurrency for each in found])
    ends = flight.min() / 1.3, flight.max() * 1.3
    with styled():
        figure = new_figure(*size)
        panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        dense = len(metrics) * sum(each.fitted.size for each in found) > MOST_VECTORS
        for axes, metric in zip(panels, metrics, strict=True):
            for place in reversed(range(len(found))):
                _group(axes, found[place], metric, place, dense)
            _frame(axes, metric, ends)
        panels[0].set_ylabel("measured / predicted")
        lines = ["filled: the profile was fitted on the run; hollow: it was not. Band: within 20 %"]
        surround(figure, title, lines, source, _handles(panels[0], found))
    return figure


def _look(place: int) -> tuple[str, str, int]:
    """Return color, marker and height above the others of a group."""
    if place >= MOST_NAMED:
        return OTHERS, "o", 2
    return COLORS[place], MARKERS[place], 10 - place


def _group(axes: Axes, found: Residuals, metric: str, place: int, dense: bool) -> None:
    color, marker, above = _look(place)
    ratio = np.clip(found.ratio[metric], *ENDS)
    for fitted in (True, False):
        chosen = (found.fitted == fitted) & np.isfinite(ratio)
        axes.scatter(
            found.concurrency[chosen],
            ratio[chosen],
            s=22,
            marker=marker,
            facecolors=color if fitted else "white",
            edgecolors="white" if fitted else color,
            linewidths=0.5 if fitted else 1.1,
            zorder=above,
            clip_on=False,
            rasterized=dense,
        )


def _frame(axes: Axes, metric: str, ends: tuple[float, float]) -> None:
    axes.axhspan(1.0 - NEAR_RATIO, 1.0 / (1.0 - NEAR_RATIO), color=GRID, linewidth=0, zorder=0)
    axes.axhline(1.0, color=INK, linewidth=0.8, zorder=1)
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ENDS, xlabel="requests in flight")
    axes.set_yticks(RATIOS, [f"{each:g}" for each in RATIOS])
    axes.set_yticks([], minor=True)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.annotate(METRIC_NAMES[metric], (0.02, 0.97), xycoords="axes fraction", va="top", fontweight="bold")


def _handles(axes: Axes, found: Sequence[Residuals]) -> list[Any]:
    handles = []
    for place, each in enumerate(found[:MOST_NAMED]):
        color, marker, _ = _look(place)
        words = f"{each.engine} {each.family} {each.gpu} ({each.fitted.size})"
        handles.append(axes.scatter([], [], s=26, c=color, marker=marker, label=words))
    rest = found[MOST_NAMED:]
    if rest:
        runs = sum(each.fitted.size for each in rest)
        handles.append(axes.scatter([], [], s=26, c=OTHERS, label=f"{len(rest)} more groups ({runs})"))
    return handles
