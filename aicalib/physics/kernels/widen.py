"""Packed weights or a packed cache, written out in 16 bit before another kernel reads them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aicalib.physics.kernels.kind import Kind, Machine, Shape

Array = NDArray[np.float64]

WIDE_BYTES = 2.0
"""Bytes of a widened element."""

FLOOR_S = 2.5e-6
"""Time of widening nothing in seconds. Times the 1.6 of kernels that only pass over memory it is the 4 us by which one
such kernel less shortens a product on a B300 (bitsandbytes-foundation/bitsandbytes#2051: 8.1 us for two)."""


def _no_coordinates(shape: Shape) -> tuple[Array, ...]:
    return ()


def _ideal_s(shape: Shape, machine: Machine) -> Array:
    """Return max(operations / peak, bytes / bandwidth), smooth, plus the floor.

    Bytes: the elements in their own bits, and in 16 bit. `machine.peak_flops_s` is that of the general-purpose cores.
    """
    elements = shape["elements"]
    bytes_ = elements * (machine.bits / 8.0 + WIDE_BYTES)
    return machine.roofline_s(elements * shape["operations"], bytes_) + FLOOR_S


WIDEN = Kind(
    name="widen", sizes=("elements", "operations"), axes=(), coordinates=_no_coordinates, ideal_s=_ideal_s
)
"""No table times such kernels: their ideal time stands. `operations` are those of one element; kernels written for
their format take so few that memory binds."""
