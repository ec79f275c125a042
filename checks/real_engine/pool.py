"""The KV pool that a real engine makes of what is free, against what is predicted from the memory free beforehand."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import aicalib
from aicalib.engines.launch import launch
from aicalib.engines.request import request_of
from aicalib.hardware import as_toml
from aicalib.hardware.accelerator import GIB
from aicalib.measure.facts import Planned, Where
from aicalib.measure.machine import free_memory_bytes
from aicalib.measure.session import measure
from perfdb import Store

MOST_ERROR = 0.05
"""Largest error of a predicted pool."""

STARTS = 3
"""Starts at each fraction. Other programs take and give back memory while an engine starts: one start may be off by
that, the median of three is not."""

SHORT = 16
"""Tokens in and out of the question: the pool depends on neither."""

PREDICTED = ("model", "gpu", "engine", "engine_version", "mem_fraction", "context_len")
"""Options of a start that decide the pool."""


@dataclass(frozen=True)
class Pool:
    """One start: the share of free memory, tokens predicted and logged."""

    fraction: float
    predicted: float
    logged: float

    @property
    def error(self) -> float:
        """Return predicted / logged - 1."""
        return self.predicted / self.logged - 1.0


def pools(
    options: dict[str, Any], machine: Path, fractions: tuple[float, ...], store: Path, where: Where
) -> Iterator[Pool]:
    """Start the engine `STARTS` times at each fraction in turn, without a given number of tokens; yield every start.

    Parameters
    ----------
    options : dict
        Of `aicalib launch`, without GPU and fraction.
    machine : Path
        Accelerator file of this machine.
    fractions : tuple of float
    store : Path
    where : Where

    Raises
    ------
    RuntimeError
        If the engine does not start.
    """
    for fraction in fractions * STARTS:
        yield _start(options, machine, fraction, store, where)


def typical(starts: Iterable[Pool]) -> float:
    """Return the median error of starts."""
    return median(each.error for each in starts)


def _start(options: dict[str, Any], machine: Path, fraction: float, store: Path, where: Where) -> Pool:
    free = free_memory_bytes()
    if free is None:
        raise RuntimeError("the free memory of this machine cannot be read: its pool cannot be predicted")
    asked = {**options, "mem_fraction": fraction, "gpu": str(as_found(machine, free))}
    planned = Planned(launch(request_of(asked)), (), {"gpu": asked["gpu"]})
    with closing(measure([planned], store, where)) as outcomes:
        outcome = next(outcomes)
    if outcome.startup_id is None:
        raise RuntimeError(f"no start at fraction {fraction:g}: {outcome.reason} ({outcome.message})")
    with Store(store, read_only=True) as opened:
        said = "SELECT content ->> 'max_total_tokens' AS tokens FROM startups WHERE startup_id = "
        logged = float(opened.query(f"{said}'{outcome.startup_id}'")[0]["tokens"])
    kept = {name: value for name, value in asked.items() if name in PREDICTED}
    memory = aicalib.predict(*aicalib.question(**kept, isl=SHORT, osl=SHORT)).memory
    return Pool(fraction, float(memory.max_total_tokens[0]), logged)


def as_found(machine: Path, free_bytes: float) -> Path:
    """Write the accelerator file anew with the memory that is free just now."""
    figures = tomllib.loads(machine.read_text(encoding="utf-8"))
    figures["taken_gib"] = max(figures["memory_gib"] - free_bytes / GIB, 0.0)
    machine.write_text(as_toml(figures), encoding="utf-8")
    return machine
