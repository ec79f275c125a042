"""The Pareto front of a search: throughput of a GPU against speed for a user, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from aicalib.errors import InvalidValue
from aicalib.report.pictures.style import (
    BAND_ALPHA,
    COLORS,
    INK,
    MARKERS,
    new_figure,
    styled,
    surround,
)
from aicalib.report.prediction import formats_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

X, Y = "tok_s_per_user", "output_tok_s_per_gpu"

GROUPS = {
    "pareto": "front of what starts at once",
    "pareto_with_checkpoint": "front of what needs a checkpoint of its own",
}

MOST_NAMED = 3
"""Best choices that are numbered on the picture and named above it."""

CALIBRATED = "C"
"""Mark of the best choice whose like was fitted, where that is not the first."""

LABEL_STEP, HEADROOM = 0.05, 1.1
"""Share of the width from one label to the next at least, and factor on the height that makes room for them."""


class Named(NamedTuple):
    """A choice with a label of its own on the picture."""

    mark: str
    words: str
    x: float
    y: float


def named(found: Mapping[str, Any]) -> list[Named]:
    """Return the best choices of a search's document: those that start at once, else those that need a checkpoint.

    Beside them the best that is calibrated, where that is another one; among them it is said of it.
    """
    chosen = (found["best"] or found["best_with_checkpoint"])[:MOST_NAMED]
    marked = {str(number): each for number, each in enumerate(chosen, 1)}
    calibrated = found.get("best_calibrated")
    if calibrated is not None and calibrated not in marked.values():
        marked[CALIBRATED] = calibrated
    return [
        Named(
            mark,
            f"{mark}: {words(each)}{_said(each['tie'], each == calibrated)}",
            each["prediction"][X]["value"],
            each["prediction"][Y]["value"],
        )
        for mark, each in marked.items()
    ]


def _said(tie: bool, calibrated: bool) -> str:
    said = ["a tie"] * tie + ["best that is calibrated"] * calibrated
    return f" ({', '.join(said)})" if said else ""


def words(choice: Mapping[str, Any]) -> str:
    """Return a choice in words: engine, formats, widths, requests in flight."""
    at, load = choice["deployment"], choice["workload"]
    times = f"{choice['replicas']} x " if choice.get("replicas", 1) > 1 else ""
    widths = f"tp {at['tp']} dp {at['dp']} ep {at['ep']}"
    if "prefill_tp" in at:
        pools = at["prefill_instances"], at["prefill_tp"], at["decode_instances"]
        widths = "{} prefill (tp {}) and {} decode instances ({})".format(*pools, widths)
    return (
        f"{times}{at['engine']} on {at['gpu']}, {widths}, {formats_text(at)}, {load['concurrency']} in flight"
    )


def picture(found: Mapping[str, Any], size: tuple[float, float] = (8.0, 6.0)) -> Figure:
    """Draw the fronts of a search.

    Parameters
    ----------
    found : mapping
        What `search --json` prints (`Found.as_dict`).
    size : tuple of float
        Width and height in inches.

    Raises
    ------
    InvalidValue
        If the search found no deployment.
    """
    if not any(found[name] for name in GROUPS):
        raise InvalidValue("front: the search found no deployment to draw")
    best = named(found)
    at = (found["best"] or found["best_with_checkpoint"])[0]
    load = at["workload"]
    with styled():
        figure = new_figure(*size)
        axes = figure.add_subplot()
        handles: list[Any] = []
        for place, (name, label) in enumerate(GROUPS.items()):
            if found[name]:
                handles.append(_front(axes, found[name], label, COLORS[place], MARKERS[place]))
        axes.set(xlabel="speed for a user (tok/s)", ylabel="output of one GPU (tok/s)")
        axes.set_xlim(0, None)
        axes.set_ylim(0, None)
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.grid()
        _labels(axes, best)
        handles += _keys(axes, found)
        kinds = sorted({point["options"]["gpu"] for name in GROUPS for point in found[name]})
        gpu = at["deployment"]["gpu"] if len(kinds) == 1 else " or ".join(kinds)
        title = f"{at['deployment']['model']} on {found['gpus']} x {gpu}: Pareto front"
        lines = [f"{load['isl']:g} tokens in, {load['osl']:g} out", *(each.words for each in best)]
        source = (
            f"aicalib, profile {found['profile']}; {found['evaluated']:,} configurations; objective "
            f"{found['objective']}{', by the pessimistic end of intervals' if found['robust'] else ''}"
        )
        surround(figure, title, lines, source, handles)
    return figure


def _front(axes: Axes, points: Sequence[Mapping[str, Any]], label: str, color: str, marker: str) -> Any:
    """Draw one front, its points hollow where they miss the service level; return its key.

    The band reaches from where all points would lie at the low ends of both intervals to where they would at the high.
    """
    order = sorted(points, key=lambda each: each[X]["value"])
    xs, ys = ([each[name]["value"] for each in order] for name in (X, Y))
    (line,) = axes.plot(
        xs, ys, color=color, linewidth=1.2, marker=marker, markersize=6, label=label, zorder=2
    )
    line.set_markevery([])
    ends = [(each[X]["low"], each[Y]["low"]) for each in order]
    ends += [(each[X]["high"], each[Y]["high"]) for each in reversed(order)]
    if _known(order):
        axes.fill(*zip(*ends, strict=True), color=color, alpha=BAND_ALPHA, linewidth=0, zorder=1)
    for each, x, y in zip(order, xs, ys, strict=True):
        meets = each["meets"]
        axes.plot(
            x,
            y,
            marker,
            color=color,
            markersize=6,
            markerfacecolor=color if meets else "white",
            markeredgecolor="white" if meets else color,
            markeredgewidth=0.8 if meets else 1.3,
            zorder=4,
        )
    return line


def _known(points: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether points have intervals: under a profile without them the ends are NaN, or null in JSON."""
    return all(
        each[name]["low"] is not None and each[name]["low"] == each[name]["low"]
        for each in points
        for name in (X, Y)
    )


def _labels(axes: Axes, best: Sequence[Named]) -> None:
    """Write the marks of choices in a row above the fronts, by their speed, each with a line to its own ring."""
    axes.set_ylim(0, HEADROOM * axes.get_ylim()[1])
    order, wide = sorted(best, key=lambda each: each.x), axes.get_xlim()[1]
    for place, each in enumerate(order):
        # A choice under its best concurrency need not be on the front.
        axes.scatter(each.x, each.y, s=90, facecolors="none", edgecolors=INK, linewidths=1.1, zorder=5)
        # As near above its choice as the labels before it, and room for those after it, allow.
        before = max(one.x / wide + LABEL_STEP * (place - at) for at, one in enumerate(order[: place + 1]))
        across = min(before, 1.0 - LABEL_STEP * (len(order) - place - 0.5))
        axes.annotate(
            each.mark,
            (each.x, each.y),
            (across, 0.96),
            textcoords="axes fraction",
            ha="center",
            va="center",
            fontweight="bold",
            bbox={"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": INK, "linewidth": 0.8},
            arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.8, "shrinkB": 4.0},
            zorder=6,
        )


def _keys(axes: Axes, found: Mapping[str, Any]) -> list[Any]:
    """Return what the legend says of marks."""
    points = [each for name in GROUPS for each in found[name]]
    ring = axes.scatter([], [], s=90, facecolors="none", edgecolors=INK, linewidths=1.1)
    ring.set_label("choice, as named above")
    keys: list[Any] = [ring]
    if _known(points):
        keys += axes.fill([], [], color=INK, alpha=BAND_ALPHA, linewidth=0, label="90 % intervals of both")
    if any(not each["meets"] for each in points):
        keys += axes.plot(
            [],
            [],
            "o",
            color=COLORS[0],
            markerfacecolor="white",
            markersize=6,
            label="misses the service level",
        )
    return keys
