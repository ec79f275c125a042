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
    """Return the time to read the elements in their bits and to write them in 16 bit, plus the floor."""
    bytes_ = shape["elements"] * (machine.bits / 8.0 + WIDE_BYTES)
    result: Array = bytes_ / machine.bandwidth_bytes_s + FLOOR_S
    return result


WIDEN = Kind(name="widen", sizes=("elements",), axes=(), coordinates=_no_coordinates, ideal_s=_ideal_s)
"""No table times such kernels: their ideal time stands."""
