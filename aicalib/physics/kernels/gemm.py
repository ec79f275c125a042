"""Dense matrix products: an activation of m rows times a weight matrix of n columns and k rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aicalib.physics.kernels.kind import Kind, Machine, Shape

Array = NDArray[np.float64]

FLOOR_S = 3e-6
"""Time of a product of nothing in seconds. The surface corrects it by accelerator and format; the constant
keeps what is left to the surface small where a product is short."""

ACTIVATION_BITS = {
    "wide": 16.0,
    "fp8": 8.0,
    "fp8_block": 8.25,
    "int8": 8.0,
    "fp4": 4.5,
    "weight_only_8": 16.0,
    "weight_only_4": 16.0,
}
"""Bits of an element of the activation as the product reads it, scales included: FP8 blocks carry a 32-bit scale
per 128 elements, NVFP4 an 8-bit scale per 16."""

OUTPUT_BYTES = 2.0
"""Every format writes 16 bit."""

TILE = 128.0
"""Rows of the tile that products of more than 128 rows are cut into: a part of a tile costs a whole one."""


def _coordinates(shape: Shape) -> tuple[Array, ...]:
    return np.log2(shape["m"]), np.log2(shape["n"]), np.log2(shape["k"])


def _ideal_s(shape: Shape, machine: Machine) -> Array:
    """Return max(2 m' n k / peak, bytes / bandwidth), smooth, plus the floor; m' is m up to the next whole tile.

    Bytes: the weight n k, the activation m k in its own bits, and the output m n in 16 bit.
    """
    m, n, k = shape["m"], shape["n"], shape["k"]
    tiled = np.where(m > TILE, TILE * np.ceil(m / TILE), m)
    flops = 2.0 * tiled * n * k
    bytes_ = machine.bits / 8.0 * n * k + shape["activation_bits"] / 8.0 * m * k + OUTPUT_BYTES * m * n
    return machine.roofline_s(flops, bytes_) + FLOOR_S


_ROWS = (1, 4, 16, 32, 48, 64, 65, 96, 128, 129, 192, 256, 257, 512, 1024, 2048, 4096, 8192, 32768)
"""Knots in m: kernels change their tile after 64, 128 and 256 rows, where the time jumps."""

_COLUMNS = (32, 128, 256, 512, 768, 1024, 1536, 2048, 4096, 8192, 16384, 65536)
"""Knots in n and in k."""

GEMM = Kind(
    name="gemm",
    sizes=("m", "n", "k", "activation_bits"),
    axes=(np.log2(_ROWS), np.log2(_COLUMNS), np.log2(_COLUMNS)),
    coordinates=_coordinates,
    ideal_s=_ideal_s,
)
"""Variants are the format classes of `aicalib.profiles.coefficients`; axes are log2 of m, n and k."""
