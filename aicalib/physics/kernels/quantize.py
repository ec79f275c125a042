"""Quantization of activations as a kernel of its own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aicalib.physics.kernels.kind import Kind, Machine, Shape

Array = NDArray[np.float64]

FLOOR_S = 6e-6
"""Time of quantizing nothing in seconds; the surface corrects it."""

INPUT_BYTES = 2.0
"""The activation comes in 16 bit."""


def _coordinates(shape: Shape) -> tuple[Array, ...]:
    return (np.log2(shape["m"] * shape["k"]),)


def _ideal_s(shape: Shape, machine: Machine) -> Array:
    """Return the time to read m k elements in 16 bit and to write them in their new bits, plus the floor."""
    bytes_ = shape["m"] * shape["k"] * (INPUT_BYTES + machine.bits / 8.0)
    result: Array = bytes_ / machine.bandwidth_bytes_s + FLOOR_S
    return result


QUANTIZE = Kind(
    name="quantize",
    sizes=("m", "k"),
    axes=(np.arange(5.0, 32.0),),
    coordinates=_coordinates,
    ideal_s=_ideal_s,
)
"""Casting an activation of m rows and k columns to FP8; the axis is log2(m k), the timings depend on nothing else.

They are of PyTorch's operations one by one, at a tenth of the memory bandwidth (the collector of the tables,
`collector/sglang` in ai-dynamo/aiconfigurator). Engines fuse the cast into the norm or the
activation before it, so the time is an upper bound. The variant is "fp8".
"""
