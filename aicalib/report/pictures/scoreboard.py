"""Plots of a scoreboard: predicted against measured, residual by field, coverage of intervals."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aicalib.calibrate.runs import Runs
from aicalib.calibrate.scoreboard import Board
from aicalib.calibrate.validate import SPLITS, LeftOut
from aicalib.nearness import NEARNESS
from aicalib.report.pictures.style import COLORS, RATIOS, save, styled
from aicalib.report.scores import ENGINE_NAMES, LABELS, METRIC_NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

GENERATION_COLORS = {"hopper": COLORS[0], "blackwell": COLORS[1], "ampere": COLORS[2], "CDNA3": COLORS[3]}
OTHER_COLOR = "#4D4D4D"
ENGINE_COLORS = dict(zip(ENGINE_NAMES, COLORS, strict=False))

DOTS_PER_INCH = 110
BAND = 0.2
"""Error that counts as near."""

METRICS = ("tpot_ms", "ttft_ms", "e2e_ms")
COVERED = (*METRICS, "output_tok_s")

FEWEST = 3
"""Runs from which on quantiles are drawn."""

MOST_FAMILIES = 16
"""Families with a line of their own, those with the most runs."""

LENGTH_EDGES = (256, 640, 1536, 3072, 6144, 12288)
CONCURRENCY_EDGES = (2, 4, 8, 16, 32, 64, 128, 256, 512)


def write_plots(board: Board, folder: Path) -> None:
    """Write every plot of the page as PNG, the same bytes for the same scoreboard."""
    folder.mkdir(exist_ok=True)
    runs, found = board.runs, board.answers["group"]
    with styled():
        figures = {
            "measured.png": measured(runs, found),
            "residual_tpot.png": residuals(runs, found, "tpot_ms"),
            "residual_ttft.png": residuals(runs, found, "ttft_ms"),
            "coverage.png": coverage(board.document),
            "learning.png": learning(board.document),
        }
        for name, figure in figures.items():
            save(figure, folder / name)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")


def _engines(runs: Runs) -> tuple[NDArray[np.object_], list[str]]:
    """Return the engine of each run, and the engines in the order of `ENGINE_NAMES`."""
    engines = np.array([group[0] for group in runs.groups], dtype=object)
    return engines, [each for each in ENGINE_NAMES if (engines == each).any()]


def measured(runs: Runs, found: LeftOut) -> Figure:
    """Draw predicted against measured by metric and engine, colored by GPU generation."""
    engines, shown = _engines(runs)
    generations = np.array([label[0] for label in SPLITS["generation"](runs)], dtype=object)
    figure = _figure(4.4 * len(shown), 3.9 * len(METRICS))
    panels = figure.subplots(len(METRICS), len(shown), squeeze=False)
    for metric, across in zip(METRICS, panels, strict=True):
        for engine, axes in zip(shown, across, strict=True):
            both = (engines == engine) & np.isfinite(runs.measured[metric] * found.values[metric])
            x, y = runs.measured[metric][both], found.values[metric][both]
            _square(axes, x, y)
            for generation in sorted(set(generations[both])):
                chosen = generations[both] == generation
                color = GENERATION_COLORS.get(generation, OTHER_COLOR)
                axes.scatter(x[chosen], y[chosen], s=9, c=color, alpha=0.45, linewidths=0, label=generation)
            error = np.abs(y / x - 1.0)
            axes.set(
                title=f"{ENGINE_NAMES[engine]}, {METRIC_NAMES[metric]}",
                xlabel="measured (ms)",
                ylabel="predicted (ms)",
            )
            words = (
                f"{x.size} runs\nmedian error {100 * np.median(error):.1f} %\n"
                f"within 20 %: {100 * np.mean(error <= BAND):.0f} %"
            )
            axes.annotate(words, (0.98, 0.03), xycoords="axes fraction", ha="right", color="#4D4D4D")
            legend = axes.legend(loc="upper left", markerscale=2.2, handletextpad=0.1)
            for handle in legend.legend_handles:
                handle.set_alpha(1.0)
    return figure


def _square(axes: Axes, x: Array, y: Array) -> None:
    """Set equal logarithmic axes around all points, with the diagonal and the band of 20 %."""
    low, high = min(x.min(), y.min()) / 1.3, max(x.max(), y.max()) * 1.3
    ends = np.array([low, high])
    axes.fill_between(ends, ends * (1 - BAND), ends * (1 + BAND), color="#E6E6E6", linewidth=0)
    axes.plot(ends, ends, color="#8C8C8C", linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.yaxis.set_major_formatter("{x:,g}")


Categories = tuple[list[str], NDArray[np.intp]]
"""Names, in the order of the axis, and for each run the place of its own."""


def _binned(values: Array, edges: Sequence[int]) -> Categories:
    """Return bins of whole numbers between edges, each named by where it begins and ends."""
    names = [
        f"up to {edges[0] - 1}",
        *(f"{low} to {high - 1}" for low, high in pairwise(edges)),
        f"from {edges[-1]}",
    ]
    return names, np.searchsorted(np.array(edges), values, side="right")


def _named(labels: Sequence[str], order: Sequence[str] | None = None) -> Categories:
    """Return labels in an order, else by name."""
    names = list(order) if order is not None else sorted(set(labels))
    place = {name: at for at, name in enumerate(names)}
    return names, np.array([place[label] for label in labels], dtype=np.intp)


def _fields(runs: Runs) -> dict[str, Categories]:
    """Return what residuals are looked at by."""
    batch = runs.batch
    family, gpu = [group[1] for group in runs.groups], [group[2] for group in runs.groups]
    counts = {name: family.count(name) for name in sorted(set(family))}
    most = sorted(counts, key=lambda name: -counts[name])[:MOST_FAMILIES]
    dates = [record.get("measured_on") for record in runs.answered]
    quarters = [f"{str(day)[:4]} Q{(int(str(day)[5:7]) + 2) // 3}" if day else "no date" for day in dates]
    widths = batch.system.tp[batch.at].astype(int)
    return {
        "concurrency": _binned(batch.load.concurrency, CONCURRENCY_EDGES),
        "input tokens": _binned(batch.load.isl, LENGTH_EDGES),
        "output tokens": _binned(batch.load.osl, LENGTH_EDGES),
        "tensor-parallel width": _named([str(each) for each in widths], list(map(str, sorted(set(widths))))),
        "GPU": _named(gpu),
        "date of the run": _named(quarters),
        "model family": _named([each if each in most else "others" for each in family], [*most, "others"]),
    }


def residuals(runs: Runs, found: LeftOut, metric: str) -> Figure:
    """Draw quantiles of predicted over measured by field and engine."""
    engines, shown = _engines(runs)
    ratio = found.values[metric] / runs.measured[metric]
    fields = _fields(runs)
    figure = _figure(10.5, 12.5)
    grid = figure.add_gridspec(1, 2)
    names = list(fields)
    for column, chosen in enumerate((names[:4], names[4:])):
        heights = [len(fields[name][0]) + 1.5 for name in chosen]
        rows = grid[0, column].subgridspec(len(chosen), 1, height_ratios=heights)
        for row, name in enumerate(chosen):
            axes = figure.add_subplot(rows[row])
            _by_category(axes, fields[name], ratio, [(each, engines == each) for each in shown])
            axes.set_title(name)
    handles = [
        figure.axes[0].plot([], [], color=ENGINE_COLORS[each], linewidth=5, label=ENGINE_NAMES[each])[0]
        for each in shown
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(shown))
    figure.suptitle(f"{METRIC_NAMES[metric]}, predicted / measured", x=0.01, ha="left", fontweight="bold")
    return figure


def _by_category(
    axes: Axes, categories: Categories, ratio: Array, parts: Sequence[tuple[str, NDArray[np.bool_]]]
) -> None:
    """Draw a bar (25 to 75 %), a line (5 to 95 %) and a dot (median) for each category and engine."""
    names, place = categories
    used = [at for at in range(len(names)) if (np.isfinite(ratio) & (place == at)).any()]
    offsets = np.linspace(-0.2, 0.2, len(parts)) if len(parts) > 1 else [0.0]
    for y, at in enumerate(used):
        for (engine, own), offset in zip(parts, offsets, strict=True):
            values = ratio[own & (place == at) & np.isfinite(ratio)]
            if not values.size:
                continue
            color, level = ENGINE_COLORS[engine], y + offset
            if values.size >= FEWEST:
                low, first, third, high = np.quantile(values, (0.05, 0.25, 0.75, 0.95))
                axes.plot([low, high], [level] * 2, color=color, linewidth=1)
                axes.plot(
                    [first, third], [level] * 2, color=color, linewidth=5, solid_capstyle="butt", alpha=0.55
                )
            axes.plot(np.median(values), level, marker="o", markersize=3.5, color=color)
            axes.annotate(
                f"{values.size}",
                (1.01, level),
                xycoords=axes.get_yaxis_transform(),
                fontsize=7,
                color=color,
                va="center",
                annotation_clip=False,
            )
    axes.axvspan(1 - BAND, 1 + BAND, color="#EFEFEF", linewidth=0, zorder=0)
    axes.axvline(1.0, color="#8C8C8C", linewidth=0.8, zorder=0)
    axes.set(xscale="log", xlim=(RATIOS[0], RATIOS[-1]), ylim=(len(used) - 0.4, -0.6))
    axes.set_xticks(RATIOS, [f"{each:g}" for each in RATIOS])
    axes.set_xticks([], minor=True)
    axes.set_yticks(range(len(used)), [names[at] for at in used])
    axes.tick_params(axis="y", length=0)


def coverage(document: dict[str, Any]) -> Figure:
    """Draw the share of rows and of groups inside their interval, by split, metric and nearness."""
    found = document["coverage"]
    places = [each for each in NEARNESS if any(each in by_near for by_near in found.values())]
    figure = _figure(5.2 * len(found), 3.8)
    panels = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
    for (split, by_near), axes in zip(found.items(), panels, strict=True):
        axes.axhspan(85, 95, color="#EFEFEF", linewidth=0)
        present = [near for near in places if near in by_near]
        offsets = np.linspace(-0.27, 0.27, len(present)) if len(present) > 1 else [0.0]
        for near, offset in zip(present, offsets, strict=True):
            color = COLORS[places.index(near)]
            for x, metric in enumerate(COVERED):
                score = by_near[near].get(metric)
                if score is None or score["coverage_90"] is None:
                    continue
                rows, groups = 100 * score["coverage_90"], 100 * score["group_coverage_90"]
                axes.plot([x + offset] * 2, [rows, groups], color=color, linewidth=1, alpha=0.6)
                axes.plot(x + offset, rows, marker="o", color=color, markersize=6)
                axes.plot(x + offset, groups, marker="D", color=color, markersize=5, markerfacecolor="white")
                axes.annotate(
                    f"{score['n']}", (x + offset, 102.5), fontsize=7, color=color, ha="center", rotation=90
                )
        axes.set_xticks(range(len(COVERED)), [METRIC_NAMES[metric] for metric in COVERED])
        axes.set(ylim=(50, 110), title=f"{LABELS[split]} left out")
        axes.set_yticks(range(50, 101, 10))
        axes.grid(axis="y")
    panels[0].set_ylabel("inside the 90 % interval (%)")
    keys: list[Any] = [
        panels[0].plot([], [], color=COLORS[at], linewidth=5, label=near)[0] for at, near in enumerate(places)
    ]
    keys += panels[0].plot([], [], "o", color=OTHER_COLOR, label="rows")
    keys += panels[0].plot([], [], "D", color=OTHER_COLOR, markerfacecolor="white", label="groups")
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys))
    return figure


def learning(document: dict[str, Any]) -> Figure:
    """Draw the median error over how many runs of a left-out group are known, by metric and engine."""
    steps = document["learning"]
    ways = list(dict.fromkeys(each["revealed"] for each in steps))
    figure = _figure(10.5, 3.4)
    panels = figure.subplots(1, len(METRICS))
    for metric, axes in zip(METRICS, panels, strict=True):
        for engine in ENGINE_NAMES:
            own = [each for each in steps if (each["engine"], each["metric"]) == (engine, metric)]
            counted = [each for each in own if each["revealed"].isdigit()]
            apart = [each for each in own if not each["revealed"].isdigit()]
            for part, label in ((counted, ENGINE_NAMES[engine]), (apart, None)):
                x, color = [ways.index(each["revealed"]) for each in part], ENGINE_COLORS[engine]
                if part:
                    axes.plot(
                        x, [100 * each["base"] for each in part], "o--", color=color, markerfacecolor="white"
                    )
                    axes.plot(x, [100 * each["own"] for each in part], "o-", color=color, label=label)
        axes.set_xticks(range(len(ways)), [textwrap.fill(way, 8) for way in ways])
        axes.set(title=METRIC_NAMES[metric], ylim=(0, None), xlabel="own runs known")
        axes.grid(axis="y")
    panels[0].set_ylabel("median error (%)")
    panels[0].plot([], [], "o--", color=OTHER_COLOR, markerfacecolor="white", label="without them")
    panels[0].legend()
    return figure
