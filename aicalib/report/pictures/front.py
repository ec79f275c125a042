"""The Pareto front of a search: throughput of a GPU against speed for a user, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from aicalib.errors import InvalidValue
from aicalib.report.pictures.style import (
    BAND_ALPHA,
    COLORS,
    INK,
    MARKERS,
    new_figure,
    picture_file,
    save,
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
"""Choices that are numbered on the picture and named above it."""


NEAR = 0.06
"""Share of both axes within which choices lie together."""


class Named(NamedTuple):
    """A choice with a number of its own on the picture."""

    number: int
    words: str
    x: float
    y: float


def named(found: Mapping[str, Any]) -> list[Named]:
    """Return the best choices of a search's document: those that start at once, else those that need a checkpoint."""
    chosen = (found["best"] or found["best_with_checkpoint"])[:MOST_NAMED]
    return [
        Named(
            number,
            f"{number}: {words(each)}{' (a tie)' if number > 1 and each['tie'] else ''}",
            each["prediction"][X]["value"],
            each["prediction"][Y]["value"],
        )
        for number, each in enumerate(chosen, 1)
    ]


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


def draw(found: Mapping[str, Any], path: str | Path) -> Path:
    """Write the picture of a search.

    Parameters
    ----------
    found : mapping
        What `search --json` prints (`Found.as_dict`).
    path : str or Path
        A .png or .svg file.

    Raises
    ------
    InvalidValue
        If the file can be no picture, or the search found no deployment.
    """
    file = picture_file(path)
    return save(picture(found), file)


def picture(found: Mapping[str, Any], size: tuple[float, float] = (8.0, 6.0)) -> Figure:
    """Draw the fronts of a search's document; parameters and errors as `draw`."""
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
        _numbers(axes, best)
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


def _numbers(axes: Axes, best: Sequence[Named]) -> None:
    """Write the numbers of choices beside them, those of choices that lie together into one ring."""
    wide, high = axes.get_xlim()[1], axes.get_ylim()[1]
    together: list[list[Named]] = []
    for each in best:  # a choice under its best concurrency need not be on the front
        axes.scatter(each.x, each.y, s=90, facecolors="none", edgecolors=INK, linewidths=1.1, zorder=5)
        for others in together:
            if abs(each.x - others[0].x) < NEAR * wide and abs(each.y - others[0].y) < NEAR * high:
                others.append(each)
                break
        else:
            together.append([each])
    for place, others in enumerate(together):
        axes.annotate(
            ", ".join(str(each.number) for each in others),
            (others[0].x, others[0].y),
            (24 + 34 * place, 24),
            textcoords="offset points",
            fontweight="bold",
            bbox={"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": INK, "linewidth": 0.8},
            arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.8},
            zorder=6,
        )


def _keys(axes: Axes, found: Mapping[str, Any]) -> list[Any]:
    """Return what the legend says of marks."""
    points = [each for name in GROUPS for each in found[name]]
    ring = axes.scatter([], [], s=90, facecolors="none", edgecolors=INK, linewidths=1.1)
    ring.set_label("choice, by its number")
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
