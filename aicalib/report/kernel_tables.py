"""The tables of the page on kernel times: `python -m aicalib.report.kernel_tables PAGE.md`.

They stand between two marks in the page and are written anew in place.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aicalib.calibrate.kernels.families import TABLES
from aicalib.hardware import get_accelerator, list_accelerators
from aicalib.profiles.kernels import ANY, SUBSTITUTES, describe, donor
from aicalib.report.markdown import row, rule

BEGIN = "<!-- tables: make kernel-tables -->"
END = "<!-- end of tables -->"

ACCELERATOR = "accelerator"
"""What `left_out` says of a score on a whole accelerator."""

Document = Mapping[str, Any]
"""Content of `kernels.json`."""


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def surface_lines(document: Document) -> Iterator[str]:
    """Yield a line a kind: axes of its surfaces, how many there are, and from how many timings."""
    yield row("kind", "axes: knots, from and to (log2)", "knots", "surfaces", "timings", "KiB as float16")
    yield rule(2, 4)
    for table in TABLES:
        found = document["kinds"][table.kind.name]
        axes = " x ".join(f"{axis.size}: {axis[0]:g}..{axis[-1]:g}" for axis in table.kind.axes)
        knots = int(np.prod([axis.size for axis in table.kind.axes]))
        own = [rows for (name, _), rows in zip(found["labels"], found["rows"], strict=True) if name != ANY]
        kib = 2 * knots * len(found["labels"]) / 1024
        yield row(table.kind.name, axes, knots, len(found["labels"]), sum(own), f"{kib:.0f}")


def summary_lines(document: Document) -> Iterator[str]:
    """Yield a line a kind: medians and worst of the errors of its surfaces on what they were not fitted to."""
    yield row(
        "kind", "target", "surfaces x ways to leave shapes out", "median", "worst", "accelerators left out",
        "median", "worst",
    )  # fmt: skip
    yield rule(1, 7)
    for table in TABLES:
        by_way: dict[bool, list[float]] = defaultdict(list)
        for score in document["kinds"][table.kind.name]["scores"]:
            by_way[score["left_out"] == ACCELERATOR].append(score["median_ape"])
        cells: list[str] = []
        for whole in (False, True):
            errors = by_way[whole]
            medians = (float(np.median(errors)), max(errors)) if errors else (None, None)
            cells += [str(len(errors)), *map(_percent, medians)]
        yield row(table.kind.name, _percent(table.target), *cells)


def held_out_lines(document: Document, kind: str) -> Iterator[str]:
    """Yield a line an accelerator and variant of a kind: its error by what was left out."""
    found = document["kinds"][kind]
    scores = {(each[ACCELERATOR], each["variant"], each["left_out"]): each for each in found["scores"]}
    ways = list(dict.fromkeys(way for *_, way in scores if way != ACCELERATOR))
    yield row(ACCELERATOR, "variant", "timings", *ways, "whole accelerator", "answered from")
    yield rule(2, 2 + len(ways)) + " --- |"
    for (name, variant), rows in zip(found["labels"], found["rows"], strict=True):
        if name == ANY:
            continue
        each = [scores.get((name, variant, way), {}) for way in (*ways, ACCELERATOR)]
        errors = (_percent(score.get("median_ape")) for score in each)
        yield row(name, variant, rows, *errors, each[-1].get("donor", "-"))


def substitute_lines() -> Iterator[str]:
    """Yield a line a format without a table: what answers in its place, nearest first, and why."""
    yield row("variant", "answered by", "because")
    yield rule(3, 0)
    for variant, choices in SUBSTITUTES.items():
        for name, reason in choices:
            yield row(variant, name, reason)


def donor_lines(document: Document) -> Iterator[str]:
    """Yield a line a measured accelerator: which accelerators of the catalogue its 16-bit products answer for."""
    owners = [
        get_accelerator(name)
        for name, variant in document["kinds"]["gemm"]["labels"]
        if variant == "wide" and name != ANY
    ]
    served: dict[str, list[str]] = {each.name: [] for each in owners}
    served[ANY] = []
    for each in list_accelerators():
        if each.name not in served:
            lender = donor(each, owners)
            served[lender.name if lender else ANY].append(each.name)
    yield row("measured", "generation", "answers for")
    yield rule(3, 0)
    for name, others in served.items():
        measured = name if name != ANY else "mean over all measured"
        kin = get_accelerator(name).generation if name != ANY else "none of these"
        yield row(measured, kin, ", ".join(others) or "-")


def section(document: Document) -> str:
    """Return all tables of the page."""
    parts: list[tuple[str, Iterator[str]]] = [
        ("### Surfaces", surface_lines(document)),
        ("### Who answers for whom", donor_lines(document)),
        ("### Formats without a table", substitute_lines()),
        ("### Held out, by kind", summary_lines(document)),
        *((f"### Held out: {each.kind.name}", held_out_lines(document, each.kind.name)) for each in TABLES),
    ]
    return "\n\n".join("\n".join([title, "", *lines]) for title, lines in parts)


def with_tables(page: str, tables: str) -> str:
    """Return a page with what is between its marks replaced."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}"


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(with_tables(target.read_text(), section(describe())))
