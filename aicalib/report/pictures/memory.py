"""Memory bars: what fills one GPU under each choice of formats, against the GPU's size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from aicalib.physics.memory import GIB, largest_concurrency
from aicalib.prediction import Prediction
from aicalib.report.pictures.style import COLORS, GRID, INK, new_figure, styled, surround

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PARTS = {
    "weights": COLORS[0],
    "KV pool": COLORS[4],
    "states of linear layers": COLORS[3],
    "activations": COLORS[2],
    "graphs": COLORS[5],
    "table of requests": COLORS[6],
    "reserve": GRID,
}
"""Parts of a bar in their order, and their colors."""

EDGE = "#B0B0B0"

SEEN_GIB = 0.005
"""A part below this is nothing that a bar could show."""

NARROWEST = 0.055
"""Share of the axis from which on a part has room for its own figure."""


class Bar(NamedTuple):
    """What fills one GPU: `gib` by the names of `PARTS`, and what the pool holds; all of the instance but `gib`.

    `requests` are of the length that was asked about, 0 where not one fits.
    """

    label: str
    gib: dict[str, float]
    memory_gib: float
    tokens: int
    requests: int


def bar(label: str, found: Prediction, index: int = 0) -> Bar:
    """Return the memory of one row of a prediction."""
    held, load = found.memory, found.batch.load
    bytes_ = (
        held.weights_bytes, held.kv_pool_bytes, held.state_bytes, held.activation_bytes, held.graph_bytes,
        held.request_table_bytes, held.reserve_bytes,
    )  # fmt: skip
    gib = {name: max(float(each[index]) / GIB, 0.0) for name, each in zip(PARTS, bytes_, strict=True)}
    accelerator = found.batch.deployment(index).identity.accelerator
    most = largest_concurrency(held, load.isl + load.osl, found.batch.instance_settings.max_running)
    fits = bool(found.fits[index])
    return Bar(
        label,
        gib,
        accelerator.memory_bytes / GIB,
        int(held.max_total_tokens[index]) if fits else 0,
        int(most[index]) if fits else 0,
    )


def draw(
    bars: Sequence[Bar], title: str, lines: Sequence[str] = (), source: str = "", width: float = 8.0
) -> Figure:
    """Draw bars of GiB under each other, the GPU's size as a line across them.

    Parameters
    ----------
    bars : sequence of Bar
        One deployment or more, all on the same GPU.
    title, source : str
        Above and below the picture.
    lines : sequence of str
        Below the title.
    width : float
        In inches.
    """
    from matplotlib.patches import Patch

    with styled():
        figure = new_figure(width, 1.75 + 0.16 * len(lines) + 0.6 * len(bars))
        axes = figure.add_subplot()
        most = max(bars[0].memory_gib, *(sum(each.gib.values()) for each in bars)) * 1.02
        for row, each in enumerate(bars):
            _bar(axes, row, each, most)
        axes.axvline(bars[0].memory_gib, color=INK, linewidth=1.6)
        axes.annotate(
            f"GPU {bars[0].memory_gib:.1f} GiB ",
            (bars[0].memory_gib, 1.0),
            (-2, 2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right",
            color=INK,
            fontsize=8,
        )
        axes.set(xlim=(0, most), ylim=(len(bars) - 0.4, -0.55), xlabel="memory of one GPU (GiB)")
        axes.set_yticks(range(len(bars)), [each.label for each in bars])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        shown = [name for name in PARTS if any(each.gib[name] > SEEN_GIB for each in bars)]
        handles = [Patch(facecolor=PARTS[name], edgecolor=EDGE, linewidth=0.4, label=name) for name in shown]
        surround(figure, title, lines, source, handles, columns=len(PARTS))
    return figure


def _bar(axes: Axes, row: int, found: Bar, most: float) -> None:
    """Draw one bar: its parts with their figures, and below it what the pool holds."""
    left = 0.0
    for name, color in PARTS.items():
        gib = found.gib[name]
        if gib <= SEEN_GIB:
            continue
        axes.barh(row, gib, left=left, height=0.5, color=color, edgecolor="white", linewidth=0.6)
        if gib > NARROWEST * most:
            words = "white" if name in ("weights", "table of requests") else "black"
            axes.annotate(
                f"{gib:.1f}", (left + gib / 2, row), ha="center", va="center", color=words, fontsize=8
            )
        left += gib
    says = (
        f"{found.tokens:,} tokens: {found.requests:,} requests of this length"
        if found.requests
        else "does not fit"
    )
    axes.annotate(
        says, (0, row + 0.27), (1, -1), textcoords="offset points", va="top", fontsize=7.5, color=INK
    )
