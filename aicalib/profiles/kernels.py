"""The shipped surfaces of kernel times, and which of them an accelerator is answered from.

`kernels.npz` holds one array a kind of kernel, `kernels.json` what its entries are; `make kernel-fit` writes both.
Entries are labelled (accelerator, variant); the accelerator `ANY` is the mean over all that have the variant.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aicalib.errors import NotCovered
from aicalib.hardware import Accelerator, get_accelerator

Array = NDArray[np.float64]
Label = tuple[str, str]

ANY = "any"
"""Stands for an accelerator without a table in its generation."""

IDEAL = -1
"""Place of the last surface of every kind: no ratio at all, the ideal time of the datasheet."""

SUBSTITUTES: dict[str, tuple[tuple[str, str], ...]] = {
    "int8": (
        ("fp8", "the same CUTLASS kernels with 8-bit operands and scales per token and channel"),
        ("wide", "where the hardware has no FP8, the 16-bit product is the nearest that was timed"),
    ),
    "weight_only_8": (("wide", "multiplies in 16 bit; only the bytes of the weights are fewer"),),
    "weight_only_4": (("wide", "multiplies in 16 bit; only the bytes of the weights are fewer"),),
    "fp8_block": (("fp8", "the same math with another layout of scales"),),
    "fp4": (("fp8", "the nearest format with a table; its ratio to the roofline is carried over"),),
    "fp8": (("wide", "the nearest format with a table; its ratio to the roofline is carried over"),),
}
"""Variant without a table -> variants that answer in its place, nearest first, each with the reason."""


@cache
def describe() -> dict[str, Any]:
    """Return the content of `kernels.json`."""
    document: dict[str, Any] = json.loads(files("aicalib.profiles").joinpath("kernels.json").read_text())
    return document


@cache
def _arrays() -> dict[str, Array]:
    with (
        files("aicalib.profiles").joinpath("kernels.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as found,
    ):
        arrays = {name: found[name].astype(np.float64) for name in found.files}
    return {name: np.concatenate([each, np.zeros_like(each[:1])]) for name, each in arrays.items()}


def surfaces(kind: str) -> Array:
    """Return the surfaces of a kind of kernel, shape (s + 1, k_1, ..., k_d): log(time / ideal) at its knots.

    The last is that of the ideal time.
    """
    return _arrays()[kind]


@cache
def labels(kind: str) -> dict[Label, int]:
    """Return the entries of a kind: (accelerator, variant) -> index of its surface."""
    listed = describe()["kinds"][kind]["labels"]
    return {(accelerator, variant): index for index, (accelerator, variant) in enumerate(listed)}


def donor(accelerator: Accelerator, owners: list[Accelerator]) -> Accelerator | None:
    """Return the accelerator of the same generation that is nearest in operations per byte, if there is one.

    Parameters
    ----------
    accelerator : Accelerator
        That has no surface of its own.
    owners : list of Accelerator
        That have one.
    """
    mine = accelerator.generation
    relatives = [each for each in owners if mine is not None and each.generation == mine]
    return min(relatives, key=lambda each: (_distance(accelerator, each), each.name), default=None)


def _distance(one: Accelerator, other: Accelerator) -> float:
    """Return the difference of the logarithms of 16-bit operations per byte of memory traffic."""
    first, second = (log(each.peak_flops["fp16"] / each.bandwidth_bytes_s) for each in (one, other))
    return abs(first - second)


@cache
def code(kind: str, accelerator: Accelerator, variant: str) -> tuple[int, str]:
    """Return which surface of a kind answers for an accelerator, and the origin of what it says.

    Its own table ("kernel-fit"); else one of its generation, or of a variant that stands in for this one
    ("extrapolated"); else the mean over all accelerators ("datasheet"). On a CPU no GPU's kernel says anything: the
    ideal time stands.

    Raises
    ------
    NotCovered
        If no accelerator has that variant or one that stands in for it.
    """
    if accelerator.is_cpu:
        return IDEAL, "datasheet"
    known = labels(kind)
    choices = (variant, *(name for name, _ in SUBSTITUTES.get(variant, ())))
    if (accelerator.name, variant) in known:
        return known[accelerator.name, variant], "kernel-fit"
    for choice in choices:
        own = known.get((accelerator.name, choice))
        if own is not None:
            return own, "extrapolated"
        owners = [get_accelerator(name) for name, each in known if each == choice and name != ANY]
        nearest = donor(accelerator, owners)
        if nearest is not None:
            return known[nearest.name, choice], "extrapolated"
    for choice in choices:
        if (ANY, choice) in known:
            return known[ANY, choice], "datasheet"
    variants = sorted({name for _, name in known})
    raise NotCovered(f"no timing of {kind} as '{variant}'; there is {', '.join(variants)}", variants)
