"""The error of a loop's predictions over its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from aicalib.errors import InvalidValue
from aicalib.report.loop import NAMES
from aicalib.report.pictures.style import picture_file

COLORS: Final = {"ttft_ms": "#D55E00", "tpot_ms": "#0072B2"}
"""Vermilion and blue of Okabe and Ito, apart under every color blindness."""

WINDOW: Final = 5
"""Runs over which the line is a median."""


def plot(steps: Sequence[Mapping[str, Any]], path: str | Path, title: str) -> Path:
    """Draw |predicted / measured - 1| of each run just before it was measured; return the file.

    Parameters
    ----------
    steps : sequence of mapping
        As `aicalib.loop.result.step` returns them.
    path : str or Path
        .png or .svg.
    title : str

    Raises
    ------
    InvalidValue
        If the file can be no plot, or nothing was measured.
    """
    file = picture_file(path)
    measured = [step for step in steps if step["errors"]]
    if not measured:
        raise InvalidValue(f"plot {file}: nothing was measured that was predicted")
    import numpy as np
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"font.family": "DejaVu Sans", "font.size": 9, "svg.hashsalt": "aicalib"}):
        figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for metric, name in NAMES.items():
            points = [
                (step["number"], 100 * abs(step["errors"][metric]), step["repeat"])
                for step in measured
                if metric in step["errors"]
            ]
            for repeated, face in ((False, COLORS[metric]), (True, "none")):
                at = [(number, error) for number, error, repeat in points if repeat is repeated]
                label = f"{name}, repeat" if repeated else name
                if at:
                    x, y = zip(*at, strict=True)
                    axes.scatter(x, y, s=28, edgecolors=COLORS[metric], facecolors=face, label=label)
            first = [(number, error) for number, error, repeat in points if not repeat]
            numbers, errors = [each[0] for each in first], [each[1] for each in first]
            line = [np.median(errors[max(0, at - WINDOW + 1) : at + 1]) for at in range(len(errors))]
            axes.plot(numbers, line, color=COLORS[metric], linewidth=1.2)
        axes.set(title=title, xlabel="run", ylabel="error of the prediction before it was measured [%]")
        axes.set_ylim(bottom=0)
        axes.legend(title=f"line: median of {WINDOW}", frameon=False)
        kind = {"Date": None} if file.suffix.lower() == ".svg" else {"Software": None}
        figure.savefig(file, metadata=kind)
    return file
