"""What all pictures share: the files they are written as, the palette, the words at their edges."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aicalib.errors import InvalidValue

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")
"""Kinds of file that a picture is written as."""

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
"""Of Okabe and Ito (2008), apart under every color blindness and, with `MARKERS`, in black and white."""

MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":")

RATIOS = (0.25, 0.5, 0.8, 1.0, 1.25, 2.0, 4.0)
"""Marks on an axis of ratios of predicted and measured; its ends are the first and the last."""

INK = "#4D4D4D"
QUIET = "#767676"
"""Words that may be overlooked: the lightest gray that is legible on white (contrast 4.5, WCAG 2.2)."""

GRID = "#E6E6E6"
BAND_ALPHA = 0.14
"""Opacity of an interval's band: three of them over each other leave lines and points legible."""

TITLE_COLUMNS, LINE_COLUMNS, FOOT_COLUMNS = 10.0, 14.0, 17.0
"""Characters of the title, of the lines below it and of the last line, an inch of a picture's width."""

EDGE_INCHES = 0.05
TITLE_LINE_INCHES, LINE_INCHES, FOOT_LINE_INCHES = 0.21, 0.15, 0.13

LEGEND_GAP = 8.0
"""Dots between the axes and the legend below them."""

PALETTE = 256
"""Colors of a PNG."""

DOTS_PER_INCH = 150

STYLE: Any = {
    # An SVG names the family and its stand-ins; a PNG has DejaVu Sans, which comes with matplotlib.
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Helvetica", "Arial"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.edgecolor": "#8C8C8C",
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    # Text stays text: it can be searched, read aloud and tested. The salt makes identifiers the same every time.
    "svg.fonttype": "none",
    "svg.hashsalt": "aicalib",
}


def picture_file(path: str | Path) -> Path:
    """Return the path of a picture, checked before any work is done.

    Raises
    ------
    InvalidValue
        If the suffix is neither .png nor .svg, or the folder is not there.
    """
    file = Path(path)
    if file.suffix.lower() not in SUFFIXES:
        raise InvalidValue(
            f"plot {file}: the name must end in {' or '.join(SUFFIXES)}",
            [str(file.with_suffix(suffix)) for suffix in SUFFIXES if file.name],
        )
    if not file.resolve().parent.is_dir():
        raise InvalidValue(f"plot {file}: there is no folder {file.resolve().parent}")
    return file


@contextmanager
def styled() -> Iterator[None]:
    """Apply `STYLE` while something is drawn or written."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of some inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG or SVG: the same bytes for the same figure, without a date or a version.

    A PNG has a palette of 256 colors, at a third of the size.

    Raises
    ------
    InvalidValue
        As `picture_file`.
    """
    file = picture_file(path)
    with styled():
        if file.suffix.lower() == ".svg":
            figure.savefig(file, metadata={"Date": None})
            return file
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from PIL import Image

        canvas = FigureCanvasAgg(figure)
        canvas.draw()  # type: ignore[no-untyped-call]
        image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")  # type: ignore[no-untyped-call]
    image = image.quantize(PALETTE, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    image.save(file, "PNG", optimize=True)
    return file


def as_svg(figure: Figure, name: str) -> str:
    """Return a figure as an SVG element for a page: no background, no address, `name` before each of its identifiers.

    The rule on strokes that matplotlib writes into each SVG holds for the whole page and belongs into its style.
    """
    found = io.StringIO()
    with styled():
        figure.savefig(found, format="svg", metadata={"Date": None}, transparent=True)
    text = found.getvalue()
    text = text[text.index("<svg") :]
    for part in (
        r"<metadata>.*?</metadata>\s*",
        r"<defs>\s*<style.*?</style>\s*</defs>\s*",
        r' xmlns(:\w+)?="[^"]*"',
    ):
        text = re.sub(part, "", text, flags=re.S)
    text = text.replace("xlink:href=", "href=")
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)


def surround(
    figure: Figure,
    title: str,
    lines: Sequence[str] = (),
    source: str = "",
    handles: Sequence[Any] = (),
    columns: int = 2,
) -> None:
    """Write what stands around a picture, so that nothing lies over the data or over each other.

    Parameters
    ----------
    figure : Figure
    title : str
    lines : sequence of str
        Below the title.
    source : str
        Where the figures come from; the last line below the picture.
    handles : sequence
        What the legend between picture and source explains, in `columns` at most.
    """
    wide, high = figure.get_size_inches()
    above = textwrap.fill(title, int(wide * TITLE_COLUMNS))
    words = "\n".join(textwrap.fill(line, int(wide * LINE_COLUMNS)) for line in lines)
    below = textwrap.fill(source, int(wide * FOOT_COLUMNS))
    heads = EDGE_INCHES + len(above.splitlines()) * TITLE_LINE_INCHES
    figure.text(0.01, 1.0 - EDGE_INCHES / high, above, fontsize=11, fontweight="bold", va="top")
    figure.text(0.01, 1.0 - heads / high, words, fontsize=8, color=QUIET, va="top", linespacing=1.3)
    top = (heads + len(words.splitlines()) * LINE_INCHES + EDGE_INCHES) / high
    figure.text(0.01, EDGE_INCHES / high, below, fontsize=7, color=QUIET, va="bottom")
    bottom = (EDGE_INCHES + len(below.splitlines()) * FOOT_LINE_INCHES) / high
    if handles:
        bottom += _legend(figure, handles, bottom, columns)
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(0.0, bottom, 1.0, 1.0 - bottom - top))


def _legend(figure: Figure, handles: Sequence[Any], bottom: float, columns: int) -> float:
    """Write a legend from a height on, in as many columns as there is room for; return its share of the height."""
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    for count in range(columns, 0, -1):
        legend = figure.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(0.0, bottom, 1.0, 1.0), ncols=count, fontsize=8
        )
        extent = legend.get_window_extent(renderer)
        if extent.width <= figure.bbox.width or count == 1:
            break
        legend.remove()
    return float((extent.height + LEGEND_GAP) / figure.bbox.height)
