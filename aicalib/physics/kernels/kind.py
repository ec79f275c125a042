"""What a kind of kernel is: the shape it takes, its ideal time, and where its surface is looked up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.physics.roofline import smooth_maximum
from aicalib.physics.surface import interpolate

Array = NDArray[np.float64]
Codes = NDArray[np.intp]
Shape = Mapping[str, Array]
"""Sizes of calls of a kernel by name; arrays that broadcast."""


class Machine(NamedTuple):
    """What a kernel's ideal time reads of an accelerator; arrays that broadcast with the shapes.

    `peak_flops_s` is the dense peak of the math that the kernel multiplies in, `bits` the true storage bits of an
    element of what it reads from memory (weights, or cache), `link_bytes_s` the one-way rate of a link.
    """

    bandwidth_bytes_s: Array
    peak_flops_s: Array
    bits: Array
    link_bytes_s: Array

    def roofline_s(self, flops: Array, bytes_: Array) -> Array:
        """Return max(flops / peak, bytes / bandwidth) in seconds, smooth (`aicalib.physics.roofline`)."""
        return smooth_maximum(flops / self.peak_flops_s, bytes_ / self.bandwidth_bytes_s)


class Kind(NamedTuple):
    """A kind of kernel whose time is ideal_s(shape, machine) * exp(surface(coordinates(shape))).

    Attributes
    ----------
    name : str
        For example "gemm".
    sizes : tuple of str
        Names of the sizes that a shape holds.
    axes : tuple of ndarray
        Knots of the surface.
    coordinates : callable
        Shape -> a point for each axis, none of them of the machine: a faster machine is never slower.
    ideal_s : callable
        (shape, machine) -> seconds: smooth maximum of compute and memory time plus a floor.
    """

    name: str
    sizes: tuple[str, ...]
    axes: tuple[Array, ...]
    coordinates: Callable[[Shape], tuple[Array, ...]]
    ideal_s: Callable[[Shape, Machine], Array]


def time_s(kind: Kind, surfaces: Array, codes: Codes, shape: Shape, machine: Machine) -> Array:
    """Return the time of calls of one kind of kernel in seconds.

    Parameters
    ----------
    kind : Kind
    surfaces : ndarray, shape (s, k_1, ..., k_d)
        Natural logarithms of time over ideal time at the knots, one surface an accelerator and variant.
    codes : ndarray of int
        Which surface each call is on.
    shape : mapping of str to ndarray
        The sizes of the kind.
    machine : Machine
    """
    logs = interpolate(surfaces, codes, kind.axes, kind.coordinates(shape))
    result: Array = kind.ideal_s(shape, machine) * np.exp(logs)
    return result
