"""Calls of kernels in a step: what is called, how often, on which sizes; and their time, operations and bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.physics.kernels.kind import Kind, Machine, Shape, time_s
from aicalib.profiles.kernels import surfaces

Array = NDArray[np.float64]
Codes = NDArray[np.intp]


@dataclass(frozen=True)
class Call:
    """A kernel, called `count` times in a step on the same sizes; arrays broadcast.

    Attributes
    ----------
    name : str
        For people: the engine's name of the module.
    kind : Kind
    code : ndarray of int, optional
        Which fitted surface of the kind; without one the ideal time stands.
    count : ndarray
        0 where a model has no such module.
    shape, machine
        As the kind reads them.
    scale : str
        The coefficient (a field of `Coefficients`) that carries the kernel's time over to the engine.
    math : str
        Whose number format it multiplies in: "gemm", "wide" (16 bit), "expert", "attention", or "" for none.
    surface : str
        Name of its surface in `System.surfaces`, empty without one.
    """

    name: str
    kind: Kind
    code: Codes | None
    count: Array
    shape: Shape
    machine: Machine
    scale: str
    math: str = ""
    surface: str = ""


def seconds(call: Call) -> Array:
    """Return the time of all calls in seconds, as the kernel alone takes it."""
    # Where a model has no such module the sizes are zero and so is the count.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if call.code is None:
            one = call.kind.ideal_s(call.shape, call.machine)
        else:
            one = time_s(call.kind, surfaces(call.kind.name), call.code, call.shape, call.machine)
        return np.where(call.count > 0, call.count * one, 0.0)


TUNED = ("gemm", "experts", "links")
"""Scales of kernels whose time beyond the roofline is what an engine's own tuning, fusion and graphs change."""


def split(call: Call) -> tuple[Array, Array]:
    """Return of all calls the seconds that no engine takes away, and those that the coefficient of `scale` multiplies.

    Of a kernel in `TUNED` the first is the roofline, the time on the datasheet's rates; of others it is nothing.
    """
    alone_s = seconds(call)
    if call.scale not in TUNED:
        return np.zeros_like(alone_s), alone_s
    at = call.machine
    endless = np.full_like(at.bandwidth_bytes_s, np.inf)
    floor = at._replace(peak_flops_s=endless, bandwidth_bytes_s=endless, link_bytes_s=endless)
    with np.errstate(divide="ignore", invalid="ignore"):
        one_s = call.kind.ideal_s(call.shape, at) - call.kind.ideal_s(call.shape, floor)
        roof_s = np.minimum(np.where(call.count > 0, call.count * one_s, 0.0), alone_s)
    return roof_s, alone_s - roof_s


class Parts(NamedTuple):
    """What all calls take by the datasheet: seconds of compute, of memory or link, and operations and bytes."""

    compute_s: Array
    moved_s: Array
    flops: Array
    bytes_: Array


def parts(call: Call) -> Parts:
    """Take the ideal time apart: without a limit on compute, on memory and links, and on both."""
    at = call.machine
    unbounded = np.full_like(at.bandwidth_bytes_s, np.inf)
    no_compute = at._replace(peak_flops_s=unbounded)
    nothing_moves = at._replace(bandwidth_bytes_s=unbounded, link_bytes_s=unbounded)
    neither = nothing_moves._replace(peak_flops_s=unbounded)
    with np.errstate(divide="ignore", invalid="ignore"):
        floor = call.kind.ideal_s(call.shape, neither)

        def beyond(machine: Machine) -> Array:
            time = call.kind.ideal_s(call.shape, machine) - floor
            return np.where(call.count > 0, call.count * time, 0.0)

        compute_s, moved_s = beyond(nothing_moves), beyond(no_compute)
        link_s = beyond(no_compute._replace(bandwidth_bytes_s=unbounded))
    bytes_ = np.where(link_s > 0, np.nan_to_num(link_s * at.link_bytes_s), moved_s * at.bandwidth_bytes_s)
    return Parts(compute_s, moved_s, compute_s * at.peak_flops_s, bytes_)
