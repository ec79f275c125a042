"""The named coefficients of the physics: their priors, bounds, units and sources (`coefficients.toml`).

Two-level names (`gemm_compute.fp8`) are families with one member a format class; one-level names
(`layer_time`) stand alone. A set of values is a plain vector in the order of `NAMES`, so that a fit is an
ordinary least-squares problem over vectors and the physics reads a family with one index per row.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FORMAT_CLASSES = ("wide", "fp8", "fp8_block", "int8", "fp4", "weight_only_8", "weight_only_4")
"""Classes of number formats that share an efficiency; `wide` is 16 bit or more."""

KV_CLASSES = ("wide", "fp8", "fp8_blackwell")
"""Classes of KV-cache and attention formats that share an efficiency: 16 bit, and fewer by kernel family."""


@dataclass(frozen=True)
class Coefficient:
    """One coefficient of the physics.

    Attributes
    ----------
    name : str
        For example "gemm_compute.fp8".
    prior : float
        Value without calibration, in `unit`.
    spread : float
        Standard deviation of log(value / prior) in a fit; 0 keeps the prior.
    low, high : float
        Bounds of a fit, in `unit`.
    unit, meaning, source : str
        For people.
    absent : float, optional
        Value in a profile that was written before the coefficient was known; without one there is none.
    """

    name: str
    prior: float
    spread: float
    low: float
    high: float
    unit: str
    meaning: str
    source: str
    absent: float | None = None


@cache
def all_coefficients() -> tuple[Coefficient, ...]:
    """Return all coefficients in the order of their file."""
    table = tomllib.loads(files("aicalib.profiles").joinpath("coefficients.toml").read_text())
    found = []
    for name, entry in table.items():
        members = [(name, entry)] if "prior" in entry else [(f"{name}.{m}", e) for m, e in entry.items()]
        found += [Coefficient(name=full, **fields) for full, fields in members]
    return tuple(found)


@cache
def position(name: str) -> int:
    """Return where a coefficient stands in a vector of values."""
    return next(index for index, each in enumerate(all_coefficients()) if each.name == name)


@cache
def family_positions(family: str, classes: tuple[str, ...]) -> NDArray[np.intp]:
    """Return where the members of a family stand, in the order of `classes`."""
    return np.array([position(f"{family}.{member}") for member in classes], dtype=np.intp)


def priors() -> Array:
    """Return the vector of prior values."""
    return np.array([each.prior for each in all_coefficients()])
