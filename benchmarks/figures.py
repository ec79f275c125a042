"""A figure as it is printed, and the process that it is measured in."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024
"""Unit of the kernel's peak memory."""

Figure = dict[str, Any]


def figure(name: str, value: float, unit: str, n: int, peak_mib: float | None = None) -> Figure:
    """Return one figure, rounded to four digits."""
    rounded: Figure = {"name": name, "value": float(f"{value:.4g}"), "unit": unit, "n": n}
    return rounded if peak_mib is None else rounded | {"peak_mib": round(peak_mib, 1)}


def own_peak_mib() -> float:
    """Return the peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_BYTES / 2**20


def apart(group: Callable[[], T]) -> T:
    """Do some work in a fresh process, whose peak memory is its own."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(group).result()
