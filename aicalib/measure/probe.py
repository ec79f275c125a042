"""The machine as an accelerator: what its processor multiplies and moves, measured with numpy alone."""

from __future__ import annotations

import datetime
import re
import time
import tomllib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from aicalib.errors import AicalibError
from aicalib.hardware.accelerator import CPU, GIB, GIGA, MIB, TERA
from aicalib.measure.machine import Machine, bound_to

SHORTEST_PRODUCT_S = 0.05
"""A matrix product is enlarged until it takes that long, so that starting threads does not count."""

FIRST_ORDER, LAST_ORDER = 1024, 4096
"""Orders of the matrices; at 4096 each takes 64 MiB, and each core has a result of its own."""

REPEATS = 5
LONG_ENOUGH_S = 1.5
"""Each figure is measured so often and for so long. The best counts: others on the machine only ever make it slower."""

STEADY = 1.25
"""Median over best time above which something else was computing."""

CACHES = 4.0
"""Bytes of each array of the stream over those of the last-level cache, as STREAM asks for
(McCalpin, https://www.cs.virginia.edu/stream/ref.html, "How large should I make the arrays?")."""

LEAST_ARRAY_BYTES = 64 * MIB

MEMORY_SHARE = 1.0 / 8.0
"""Largest part of the free memory that the three arrays of the stream may take."""

STREAM_ARRAYS = 3.0
"""a = b + c reads two arrays and writes one; what a write reads beforehand is not counted, as in STREAM."""


@dataclass(frozen=True)
class Rates:
    """What was measured.

    Attributes
    ----------
    matrix_flops_s : float
        Largest rate of an FP32 matrix product, in operations per second.
    matrix_order : int
        Rows and columns of its matrices.
    matrix_library : str
        What numpy multiplies with.
    bandwidth_bytes_s : float
        Largest rate of a = b + c over long arrays, bytes read and written per second.
    array_bytes : float
        Size of each of the arrays.
    threads : int
        Threads of both.
    unsteadiness : float
        Median over best time, the larger of the two measurements: 1 on a machine that did nothing else.
    """

    matrix_flops_s: float
    matrix_order: int
    matrix_library: str
    bandwidth_bytes_s: float
    array_bytes: float
    threads: int
    unsteadiness: float

    @property
    def steady(self) -> bool:
        """Whether the machine had little else to do."""
        return self.unsteadiness <= STEADY


class Time(NamedTuple):
    """Seconds that a piece of work took: the shortest, and the median."""

    best_s: float
    median_s: float


def measure_rates(machine: Machine, tell: Callable[[str], None] = lambda text: None) -> Rates:
    """Measure the matrix rate and the memory bandwidth of one memory node, with a thread on each of its cores.

    Parameters
    ----------
    machine : Machine
    tell : callable
        Takes what is being measured, for people.
    """
    # A product of its own on each core: threads that wait for each other would measure the waiting.
    with bound_to(machine.node_cpus), threadpool_limits(limits=1):
        tell("matrix product")
        order, product = _product(machine.cores)
        tell("memory bandwidth")
        array_bytes = _array_bytes(machine)
        stream = _stream(array_bytes, machine.cores)
        libraries = [each["internal_api"] for each in threadpool_info() if each["user_api"] == "blas"]
    return Rates(
        matrix_flops_s=machine.cores * 2.0 * order**3 / product.best_s,
        matrix_order=order,
        matrix_library=", ".join(dict.fromkeys(libraries)) or "numpy's own loops",
        bandwidth_bytes_s=STREAM_ARRAYS * array_bytes / stream.best_s,
        array_bytes=array_bytes,
        threads=machine.cores,
        unsteadiness=max(each.median_s / each.best_s for each in (product, stream)),
    )


def _timed(work: Callable[[], object], long_enough_s: float) -> Time:
    """Time a piece of work again and again, after a first time that does not count."""
    work()
    times: list[float] = []
    while len(times) < REPEATS or sum(times) < long_enough_s:
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return Time(min(times), median(times))


def _product(threads: int) -> tuple[int, Time]:
    """Return the order of square matrices, and the time in which each thread multiplies two of its own."""
    order = FIRST_ORDER
    while _product_time(order, threads, 0.0).best_s < SHORTEST_PRODUCT_S and order < LAST_ORDER:
        order *= 2
    return order, _product_time(order, threads, LONG_ENOUGH_S)


def _product_time(order: int, threads: int, long_enough_s: float) -> Time:
    one, other = (np.full((order, order), value, dtype=np.float32) for value in (0.5, 2.0))
    results = [np.empty_like(one) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        return _timed(
            lambda: list(pool.map(lambda out: np.matmul(one, other, out=out), results)), long_enough_s
        )


def _array_bytes(machine: Machine) -> float:
    wanted = max(CACHES * (machine.cache_bytes or 0.0), LEAST_ARRAY_BYTES)
    if machine.free_bytes is None:
        return wanted
    most = machine.free_bytes * MEMORY_SHARE / STREAM_ARRAYS
    if most < LEAST_ARRAY_BYTES:
        raise AicalibError(
            f"{machine.free_bytes / GIB:.2f} GiB of memory are free: too few to measure its bandwidth"
        )
    return min(wanted, most)


def _stream(array_bytes: float, threads: int) -> Time:
    """Return the time of a = b + c in FP64, each thread on a part of its own that it touched first."""
    part = int(array_bytes / 8 / threads)

    def make(_: int) -> tuple[np.ndarray[Any, Any], ...]:
        return np.full(part, 1.0), np.full(part, 2.0), np.full(part, 3.0)

    def add(arrays: tuple[np.ndarray[Any, Any], ...]) -> None:
        np.add(arrays[1], arrays[2], out=arrays[0])

    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(make, range(threads)))
        return _timed(lambda: list(pool.map(add, parts)), LONG_ENOUGH_S)


@cache
def _instructions() -> list[Mapping[str, Any]]:
    """Read `instructions.toml`: what multiplies a narrow format, and how much faster than FP32."""
    text = files("aicalib.measure").joinpath("instructions.toml").read_text(encoding="utf-8")
    found: list[Mapping[str, Any]] = tomllib.loads(text)["instruction"]
    return found


def derived_rates(flags: frozenset[str]) -> dict[str, tuple[float, str]]:
    """Return by number format how much faster than FP32 a processor multiplies, and the instruction that does.

    A format without an instruction of its own has none, except BF16, which is then computed in FP32.
    """
    found: dict[str, tuple[float, str]] = {"bf16": (1.0, "")}
    for row in _instructions():
        if row["flag"] in flags and row["ratio"] > found.get(row["format"], (0.0, ""))[0]:
            found[row["format"]] = (float(row["ratio"]), str(row["flag"]))
    return found


def accelerator_file(machine: Machine, rates: Rates, day: datetime.date) -> dict[str, Any]:
    """Return the keys of an accelerator file (`aicalib.hardware.file`) for this machine."""
    fp32 = rates.matrix_flops_s / TERA
    ratios = derived_rates(machine.flags)
    peaks = {"fp32": fp32, **{form: fp32 * ratio for form, (ratio, _) in ratios.items()}}
    words = ", ".join(
        f"{form} as {ratio:g} x fp32 by {flag}" if flag else f"{form} as fp32"
        for form, (ratio, flag) in ratios.items()
    )
    cores = f"{machine.cores} core{'s' if machine.cores > 1 else ''}"
    node = f"one of {machine.nodes} memory nodes: " if machine.nodes > 1 else ""
    taken = None if machine.free_bytes is None else machine.memory_bytes - machine.free_bytes
    figures: dict[str, Any] = {
        "name": _name(machine),
        "vendor": CPU,
        "memory_gib": machine.memory_bytes / GIB,
        **({} if taken is None else {"taken_gib": taken / GIB}),
        "bandwidth_gb_s": rates.bandwidth_bytes_s / GIGA,
        "source": f"measured by aicalib probe on {day.isoformat()}",
        "notes": f"{node}{machine.model}, {cores}. Measured: fp32 by a product of order {rates.matrix_order} "
        f"({rates.matrix_library}), bandwidth by a = b + c. Not measured: {words}. taken_gib is what other programs "
        "held just then",
    }
    return {**figures, "peak_tflops": peaks}


def _name(machine: Machine) -> str:
    """Return a name of a machine that no catalogue has: its model and its cores."""
    words = re.sub(r"\((R|TM)\)|\bCPU\b|@.*", " ", machine.model, flags=re.IGNORECASE)
    slug = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-") or "processor"
    return f"cpu-{slug}-{machine.cores}c"
