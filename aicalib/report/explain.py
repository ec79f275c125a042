"""Where the time of a step goes, operator by operator: a table that can be checked by hand."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
"""One operator of one phase, over all its calls on one GPU: the keys of `KEYS`, None where unknown."""

KEYS = (
    "phase", "op", "calls", "m", "n", "k", "math", "flops", "bytes", "over", "ms", "share", "bound", "origin"
)  # fmt: skip
"""Of a row. `m`, `n`, `k` is the shape of one call, `math` the number format that is multiplied in, `bytes` what
is moved over `over`, "memory" or "link", `share` that of the phase's time."""

PREFIXES = ("", "k", "M", "G", "T", "P", "E")

HEADER = ("op", "calls", "m x n x k", "math", "flop", "bytes", "ms", "share", "roof", "bound", "origin")
COLUMNS = 100
"""Width of a page; the lines below the table are broken there."""

LEFT = ("op", "math", "bound", "origin")
"""Columns that are aligned to the left."""


def as_json(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Return the rows with all keys of `KEYS`, in that order."""
    return [{key: row.get(key) for key in KEYS} for row in rows]


def roof_s(row: Row, peak_flops_s: float | None, bandwidth_bytes_s: float) -> float | None:
    """Return the least time in seconds that the datasheet allows: max(flops / peak, bytes / bandwidth).

    None where neither is known, and on a link, whose rate is not the memory's.
    """
    if row.get("over") == "link":
        return None
    compute = row["flops"] / peak_flops_s if row.get("flops") and peak_flops_s else 0.0
    memory = row["bytes"] / bandwidth_bytes_s if row.get("bytes") else 0.0
    return max(compute, memory) or None


def explain_text(rows: Sequence[Row], basis: Mapping[str, Any]) -> str:
    """Return the table of all phases, each with its total, and what the numbers rest on.

    Parameters
    ----------
    rows : sequence of mapping
        In the order to be shown; rows of one phase stand together.
    basis : mapping
        `gpu`, `bandwidth_gb_s`, `peak_tflops` (dense peaks by number format), `profile`, and `sources`: a mapping from
        what is relied on to where it comes from.
    """
    bandwidth = 1e9 * basis["bandwidth_gb_s"]
    peaks = {form: 1e12 * rate for form, rate in basis["peak_tflops"].items()}
    cells: list[tuple[str, ...]] = [HEADER]
    for phase in dict.fromkeys(row["phase"] for row in rows):
        found = [row for row in rows if row["phase"] == phase]
        cells.append((f"{phase}:",) + ("",) * (len(HEADER) - 1))
        cells += [_cells(row, peaks.get(row.get("math") or ""), bandwidth) for row in found]
        total = {
            "op": "total",
            "flops": sum(row.get("flops") or 0.0 for row in found),
            "bytes": sum(row.get("bytes") or 0.0 for row in found if row.get("over") != "link"),
            "ms": sum(row["ms"] for row in found),
            "share": sum(row["share"] for row in found),
            "bound": "",
            "origin": "",
        }
        cells.append(_cells(total, None, bandwidth, of_roof=False))
    used = dict.fromkeys(row["math"] for row in rows if row.get("math"))
    return "\n".join([*_aligned(cells), "", *_footer(basis, [form for form in used if form in peaks])])


def _cells(row: Row, peak: float | None, bandwidth: float, of_roof: bool = True) -> tuple[str, ...]:
    shape = [row.get(size) for size in ("m", "n", "k")]
    least = roof_s(row, peak, bandwidth) if of_roof else None
    return (
        f" {row['op']}",
        f"{row['calls']:g}" if row.get("calls") else "",
        " x ".join("?" if size is None else f"{size:g}" for size in shape) if any(shape) else "",
        row.get("math") or "",
        si(row["flops"]) if row.get("flops") else "-",
        f"{si(row['bytes'])}B" if row.get("bytes") else "-",
        f"{row['ms']:.3f}",
        f"{100 * row['share']:.1f}%",
        f"{1e5 * least / row['ms']:.0f}%" if least and row["ms"] > 0 else "-" if of_roof else "",
        row["bound"],
        row["origin"],
    )


def si(value: float) -> str:
    """Return a number to four digits with its decimal prefix: 1.234 G."""
    step = 0
    while abs(value) >= 999.95 and step < len(PREFIXES) - 1:
        value, step = value / 1e3, step + 1
    digits = 3 if abs(value) < 9.9995 else 2 if abs(value) < 99.995 else 1
    return f"{value:.{digits}f} {PREFIXES[step]}"


def _aligned(cells: Sequence[tuple[str, ...]]) -> list[str]:
    """Return lines of aligned columns; a column without any entry is left out."""
    columns = [column for column in zip(*cells, strict=True) if any(column[1:])]
    aligned = []
    for column in columns:
        entries = [each for each in column if not each.endswith(":")]
        width = max(map(len, entries))
        left = column[0] in LEFT
        aligned.append([each.ljust(width) if left else each.rjust(width) for each in column])
    lines = ["  ".join(line).rstrip() for line in zip(*aligned, strict=True)]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def _footer(basis: Mapping[str, Any], used: Sequence[str]) -> list[str]:
    """Return what the numbers rest on: the roof, its ridge points, the profile, the sources."""
    bandwidth = basis["bandwidth_gb_s"]
    roofs = [
        f"{form} {basis['peak_tflops'][form]:g} TFLOP/s (ridge {1e3 * basis['peak_tflops'][form] / bandwidth:.0f} "
        "flop/byte)"
        for form in used
    ]
    lines = [
        "all figures of one GPU; roof: max(flop / peak, bytes / bandwidth) as a share of ms",
        f"{basis['gpu']}: memory {bandwidth:g} GB/s; dense peaks {', '.join(roofs) if roofs else 'none used'}",
        f"profile {basis['profile']}",
        "sources:",
        *(f"  {what}: {source}" for what, source in basis["sources"].items()),
    ]
    return [part for line in lines for part in _wrapped(line)]


def _wrapped(line: str) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.wrap(line, COLUMNS, subsequent_indent=indent + "  ", break_on_hyphens=False)
