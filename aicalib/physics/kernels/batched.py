"""The batched products of absorbed multi-head latent attention: query to latent before it, latent to value after."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aicalib.physics.kernels.kind import Kind, Machine, Shape

Array = NDArray[np.float64]

FLOOR_S = 3e-6
"""Time of a product of nothing in seconds; the surface corrects it."""

ACTIVATION_BYTES = 2.0
"""Input and output are in 16 bit whatever the weights are in."""


def _coordinates(shape: Shape) -> tuple[Array, ...]:
    return np.log2(shape["tokens"]), np.log2(shape["heads"])


def _ideal_s(shape: Shape, machine: Machine) -> Array:
    """Return the time of `heads` products of (tokens x inner) by (inner x outer), plus the floor.

    max(2 t h i o / peak, bytes / bandwidth), smooth; bytes are the weights h i o and the activations t h (i + o).
    """
    rows = shape["tokens"] * shape["heads"]
    weights = shape["heads"] * shape["inner"] * shape["outer"]
    flops = 2.0 * shape["tokens"] * weights
    bytes_ = machine.bits / 8.0 * weights + ACTIVATION_BYTES * rows * (shape["inner"] + shape["outer"])
    return machine.roofline_s(flops, bytes_) + FLOOR_S


MLA_BATCHED = Kind(
    name="mla_batched",
    sizes=("tokens", "heads", "inner", "outer"),
    axes=(np.array([0.0, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14.3]), np.arange(0.0, 8.0)),
    coordinates=_coordinates,
    ideal_s=_ideal_s,
)
"""Axes are log2 of tokens and of the heads on a rank. Variants: "pre_wide" and "pre_fp8" (inner: width of a head
without rotary position, outer: rank of the latent), "post_wide" and "post_fp8" (inner: rank, outer: width of a
value); in FP8 the cast of the activation is part of the time."""
