"""Which kernels write narrow data out in 16 bit before they multiply or attend, and up to how many rows they do not.

`widening.csv` holds one row for what a backend of `kernels.csv` does with a format: engine, kind of operator, backends,
formats and generations as there, versions, and the most rows that it multiplies with the packed weights themselves
(`rows`; `wide_rows` for matrices of more than `columns` columns; without a number there is no end, and 0 is never). A
row with `fp32_rates` multiplies packed weights as 8-bit dot products of the general-purpose cores, at so many times
their FP32 rate. What no row names multiplies in the format or widens it in registers.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files
from math import inf
from typing import Any, NamedTuple

from aicalib.engines.defaults import version_number
from aicalib.engines.kernel_gates import Asked, choose
from aicalib.engines.kernels import ANY, MODE, generations
from aicalib.engines.versions import VersionRange
from aicalib.errors import NotCovered
from aicalib.hardware import Accelerator
from aicalib.quant import ParsedMode


class Widening(NamedTuple):
    """What a kernel does with packed weights, or a packed cache.

    Attributes
    ----------
    rows : float
        Most rows that are multiplied with them as they are; above, they are written out in 16 bit first. Infinite
        where they never are.
    columns : float
        Columns of a matrix above which `wide_rows` holds instead.
    wide_rows : float
    fp32_rates : float or None
        Rate of the multiplication over the accelerator's FP32 rate, where it runs on the general-purpose cores.
    """

    rows: float
    columns: float
    wide_rows: float
    fp32_rates: float | None

    @property
    def widens(self) -> bool:
        """Whether anything is ever written out in 16 bit."""
        return self.rows < inf


DIRECT = Widening(inf, inf, inf, None)
"""Packed data are read as they are."""


class _Row(NamedTuple):
    """One row of `widening.csv`: whom it is about, and what it says."""

    engine: str
    kinds: frozenset[str]
    backends: frozenset[str]
    formats: frozenset[str]
    generations: frozenset[str]
    versions: VersionRange
    says: Widening


def _number(text: str) -> float:
    return float(text) if text else inf


@cache
def _rows() -> tuple[_Row, ...]:
    text = files("aicalib.engines").joinpath("widening.csv").read_text()
    return tuple(
        _Row(
            engine=row["engine"],
            kinds=frozenset(row["kind"].split()),
            backends=frozenset(row["backend"].split()),
            formats=frozenset(row["format"].split()),
            generations=frozenset(row["generation"].split()),
            versions=VersionRange.of(row),
            says=Widening(
                _number(row["rows"]),
                _number(row["columns"]),
                _number(row["wide_rows"] or row["rows"]),
                float(row["fp32_rates"]) if row["fp32_rates"] else None,
            ),
        )
        for row in csv.DictReader(text.splitlines())
    )


@cache
def widening(
    engine: str, version: str, accelerator: Accelerator, kind: str, parsed: ParsedMode[Any], listed: str
) -> Widening:
    """Return what the kernel that an engine takes for a format by itself does with packed data.

    Parameters
    ----------
    engine, version : str
    accelerator : Accelerator
    kind : str
        "gemm", "moe" or "kv_dequantize".
    parsed : ParsedMode
        A mode of weights or of the cache, with its variant.
    listed : str
        Class that rules list it by beside its own name (`aicalib.engines.moe_kernels`, or "wide" and "fp8" of a cache).
    """
    names = [parsed.mode.name] if parsed.variant is None else [parsed.spelled(), parsed.mode.name]
    formats = (*(MODE + name for name in names), listed, ANY)
    words = (*generations(accelerator), ANY)
    at = version_number(version)
    near = [
        row
        for row in _rows()
        if row.engine == engine
        and kind in row.kinds
        and row.versions.includes(at)
        and not row.formats.isdisjoint(formats)
        and not row.generations.isdisjoint(words)
    ]
    if not near:
        return DIRECT
    asked = Asked(kind, parsed, engine, version, accelerator, None, "throughput", ())
    try:
        backend = choose(asked, kind, formats[:-1], None).backend
    except NotCovered:
        return DIRECT

    def nearness(row: _Row) -> tuple[int, int]:
        by_format = next(place for place, name in enumerate(formats) if name in row.formats)
        by_word = next(place for place, word in enumerate(words) if word in row.generations)
        return by_format, by_word

    found = min((row for row in near if backend in row.backends), key=nearness, default=None)
    return found.says if found else DIRECT
