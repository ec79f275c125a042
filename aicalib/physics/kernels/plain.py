"""Kernels without timings, answered by what their operations and bytes need: their ideal time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aicalib.physics.kernels.kind import Kind, Machine, Shape

Array = NDArray[np.float64]


def _no_coordinates(shape: Shape) -> tuple[Array, ...]:
    return ()


def _ideal_s(shape: Shape, machine: Machine) -> Array:
    """Return max(flops / peak, bytes / bandwidth), smooth."""
    return machine.roofline_s(shape["flops"], shape["bytes"])


PLAIN = Kind(name="plain", sizes=("flops", "bytes"), axes=(), coordinates=_no_coordinates, ideal_s=_ideal_s)
"""What launching such a kernel takes is in the fixed time of a layer."""
