"""The roofline: operators of a step under the ceilings of one GPU."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aicalib.errors import InvalidValue
from aicalib.hardware import Accelerator
from aicalib.report.pictures.style import COLORS, INK, QUIET, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

Array = NDArray[np.float64]

PHASES = {"decode": (COLORS[0], "o"), "prefill": (COLORS[1], "^")}
"""Color and marker of a phase."""

OTHER_PHASE = (COLORS[2], "s")
ROOF = INK

FOOT_COLUMNS = 170
"""Characters of a line below the plot."""

SMALLEST, LARGEST = 26.0, 420.0
"""Area of a marker in points^2, from no share to the whole of its phase's time."""

ROOF_PARTS = 200
"""Places along a roof that a label keeps off."""

DISTANCES = (9, 15, 22, 30, 40, 52, 66, 82)
"""Points between a marker and its label that are tried, nearest first."""

DIRECTIONS = tuple(math.radians(angle) for angle in (0, -30, -60, 30, -90, 60, -120, 180, 150, 120, 90, -150))
"""Directions of a label that are tried, in this order."""


def draw(
    rows: Sequence[Mapping[str, Any]], accelerator: Accelerator, title: str = "", source: str = ""
) -> FigureCanvasAgg:
    """Draw operators under the roofs of one GPU: rate over arithmetic intensity, both logarithmic.

    Parameters
    ----------
    rows : sequence of mapping
        As `aicalib.report.explain.KEYS`. Operators whose flops or bytes are not counted cannot be placed; they are
        named below the plot.
    accelerator : Accelerator
        Its bandwidth and its dense peaks in the number formats of the rows are the roofs.
    title : str
        Lines above the plot: the model, the deployment.
    source : str
        What the figures come from, below the plot.

    Returns
    -------
    FigureCanvasAgg
        On which the labels were placed; `style.save` writes its figure.

    Raises
    ------
    InvalidValue
        If no operator can be placed.

    Notes
    -----
    Williams, Waterman, Patterson (2009), doi:10.1145/1498765.1498785.
    """
    placed = [row for row in rows if row.get("flops") and row.get("bytes") and row["ms"] > 0]
    if not placed:
        raise InvalidValue("roofline: there is no operator with both flops and bytes to place")
    with styled():
        figure = new_figure(10, 6.4)
        canvas: FigureCanvasAgg = figure.canvas  # type: ignore[assignment]
        axes = figure.add_subplot()
        points = [_point(row) for row in placed]
        formats = [each for each in accelerator.peak_flops if each in {row.get("math") for row in placed}]
        _frame(axes, points, accelerator, formats)
        roofs = _roofs(axes, accelerator, formats)
        # A small marker is not hidden behind a large one.
        for row, (x, y) in sorted(zip(placed, points, strict=True), key=lambda each: -each[0]["share"]):
            color, marker = PHASES.get(row["phase"], OTHER_PHASE)
            area = SMALLEST + (LARGEST - SMALLEST) * row["share"]
            axes.scatter(x, y, s=area, c=color, marker=marker, edgecolors="white", linewidths=0.8, zorder=3)
        _legend(axes, placed)
        _words(figure, axes, title, source, [row for row in rows if row not in placed])
        _label(canvas, axes, placed, points, roofs)
    return canvas


def _point(row: Mapping[str, Any]) -> tuple[float, float]:
    """Return flop per byte, and TFLOP/s achieved."""
    return row["flops"] / row["bytes"], row["flops"] / row["ms"] / 1e9


def _frame(
    axes: Axes, points: Sequence[tuple[float, float]], accelerator: Accelerator, formats: Sequence[str]
) -> None:
    """Set scales, limits and grid: all points and every ridge are inside, with room for labels."""
    bandwidth = accelerator.bandwidth_bytes_s
    peaks = [accelerator.peak_flops[each] for each in formats]
    ridges = [peak / bandwidth for peak in peaks]
    xs, ys = zip(*points, strict=True)
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(min(xs) / 4, max(*xs, *ridges, 0.0) * 6),
        ylim=(min(ys) / 4, max(*ys, *(peak / 1e12 for peak in peaks)) * 3),
        xlabel="arithmetic intensity (flop / byte)",
        ylabel="rate of one GPU (TFLOP/s)",
    )
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(which="major", color="#E6E6E6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", color=QUIET)


def _roofs(axes: Axes, accelerator: Accelerator, formats: Sequence[str]) -> list[Annotation]:
    """Draw the bandwidth's slope up to the highest peak, and each format's peak from its ridge on."""
    bandwidth = accelerator.bandwidth_bytes_s
    left, right = axes.get_xlim()
    top = max((accelerator.peak_flops[each] for each in formats), default=bandwidth * right)
    axes.plot([left, top / bandwidth], [left * bandwidth / 1e12, top / 1e12], color=ROOF, linewidth=1.6)
    texts = []
    for form in formats:
        peak = accelerator.peak_flops[form]
        axes.plot([peak / bandwidth, right], [peak / 1e12] * 2, color=ROOF, linewidth=1.6)
        words = f"{form}  {peak / 1e12:,.0f} TFLOP/s"
        texts.append(
            axes.annotate(
                words, (right, peak / 1e12), (-4, 4), textcoords="offset points", ha="right", color=ROOF
            )
        )
    low = max(left, axes.get_ylim()[0] * 1e12 / bandwidth) * 1.25
    slope = axes.annotate(
        f"memory  {bandwidth / 1e9:,.0f} GB/s",
        (low, low * bandwidth / 1e12),
        (-3, 5),
        textcoords="offset points",
        rotation_mode="anchor",
        color=ROOF,
    )
    return [*texts, slope]


def _legend(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    for phase in dict.fromkeys(row["phase"] for row in rows):
        color, marker = PHASES.get(phase, OTHER_PHASE)
        axes.scatter([], [], s=60, c=color, marker=marker, label=phase)
    axes.legend(loc="lower right", frameon=False, title="area: share of the step's time", title_fontsize=8)


def _words(figure: Figure, axes: Axes, title: str, source: str, missing: Sequence[Mapping[str, Any]]) -> None:
    if title:
        first, _, rest = title.partition("\n")
        above = 10 + 12 * len(rest.splitlines())
        axes.set_title(first, loc="left", fontsize=12, fontweight="bold", pad=above)
        axes.annotate(
            rest,
            (0, 1),
            (0, 6),
            "axes fraction",
            textcoords="offset points",
            color=QUIET,
            linespacing=1.25,
            annotation_clip=False,
        )
    names = ", ".join(dict.fromkeys(row["op"] for row in missing))
    below = [f"without flops or bytes, not shown: {names}"] if missing else []
    below += [source] if source else []
    if below:
        words = "\n".join(textwrap.fill(each, FOOT_COLUMNS) for each in below)
        figure.supxlabel(words, x=0.01, ha="left", fontsize=7.5, color=QUIET)


def _label(
    canvas: FigureCanvasAgg,
    axes: Axes,
    rows: Sequence[Mapping[str, Any]],
    points: Sequence[tuple[float, float]],
    taken_by: Sequence[Annotation],
) -> None:
    """Name each point where its name overlaps no other name, no marker and no edge, the heaviest first."""
    canvas.draw()  # type: ignore[no-untyped-call]
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
    scale = canvas.figure.dpi / 72
    lines = [axes.transData.transform(line.get_xydata()) for line in axes.get_lines()]
    (x, y), (x_end, y_end) = lines[0]
    taken_by[-1].set_rotation(math.degrees(math.atan2(y_end - y, x_end - x)))
    inside = np.array(axes.get_window_extent(renderer).extents)
    legend = axes.get_legend()
    boxes = [each.get_window_extent(renderer).extents for each in taken_by]
    boxes += [legend.get_window_extent(renderer).extents] if legend is not None else []
    for (x, y), (x_end, y_end) in lines:
        for part in range(ROOF_PARTS):
            at_x, at_y = (x + part / ROOF_PARTS * (x_end - x), y + part / ROOF_PARTS * (y_end - y))
            boxes.append((at_x - 2, at_y - 2, at_x + 2, at_y + 2))
    centers = axes.transData.transform(points)
    for row, (x, y) in zip(rows, centers, strict=True):
        half = scale * math.sqrt(SMALLEST + (LARGEST - SMALLEST) * row["share"]) / 2
        boxes.append((x - half, y - half, x + half, y + half))
    taken = np.array(boxes)
    for at in sorted(range(len(rows)), key=lambda at: -rows[at]["share"]):
        color, _ = PHASES.get(rows[at]["phase"], OTHER_PHASE)
        text = axes.annotate(
            rows[at]["op"],
            points[at],
            (0, 0),
            textcoords="offset points",
            color=color,
            ha="center",
            va="center",
            fontsize=8.5,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2},
            zorder=4,
        )
        box = text.get_window_extent(renderer)
        half = math.sqrt(SMALLEST + (LARGEST - SMALLEST) * rows[at]["share"]) / 2
        for offset in _offsets(half, box.width / scale, box.height / scale):
            x, y = centers[at][0] + offset[0] * scale, centers[at][1] + offset[1] * scale
            wide, high = box.width / 2 + 2, box.height / 2 + 1
            tried = np.array((x - wide, y - high, x + wide, y + high))
            if _free(tried, inside, taken):
                break
        text.set_position(offset)
        taken = np.vstack([taken, tried])


def _offsets(half: float, width: float, height: float) -> Iterator[tuple[float, float]]:
    """Yield places of a label's center around a marker in points, nearest first; the last is the fallback."""
    for distance in DISTANCES:
        for angle in DIRECTIONS:
            across, up = math.cos(angle), math.sin(angle)
            reach = half + distance - DISTANCES[0] + 4
            yield across * (reach + width / 2), up * (reach + height / 2)


def _free(tried: Array, inside: Array, taken: Array) -> bool:
    """Tell whether a box lies inside another and over none of n taken ones; left, bottom, right, top of each."""
    within = bool((tried[:2] >= inside[:2]).all() and (tried[2:] <= inside[2:]).all())
    over = (taken[:, :2] <= tried[2:]) & (taken[:, 2:] >= tried[:2])
    return within and not over.all(axis=1).any()
