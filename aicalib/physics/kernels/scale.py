"""Computing the scales of an activation while it is cast, where no checkpoint says them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aicalib.physics.kernels.kind import Kind, Machine, Shape

Array = NDArray[np.float64]

FLOOR_S = 1e-6
"""Time of a scale of nothing in seconds; the surface corrects it."""

NEGLIGIBLE = 1e-6
"""Share of the ideal time below which a whole surface says that finding scales takes no time."""

INPUT_BYTES = 2.0
"""The activation is read once more in 16 bit, for its largest value."""


def _coordinates(shape: Shape) -> tuple[Array, ...]:
    return np.log2(shape["m"]), np.log2(shape["k"])


def _ideal_s(shape: Shape, machine: Machine) -> Array:
    """Return the time to read m k elements in 16 bit, plus the floor."""
    result: Array = INPUT_BYTES * shape["m"] * shape["k"] / machine.bandwidth_bytes_s + FLOOR_S
    return result


SCALE = Kind(
    name="dynamic_scale",
    sizes=("m", "k"),
    axes=(np.arange(0.0, 17.0), np.arange(7.0, 18.0)),
    coordinates=_coordinates,
    ideal_s=_ideal_s,
)
"""What a cast of m rows and k columns to FP8 takes longer where it finds its scales itself; the variant is the engine.

Timed as the difference of two kernels that run alone: the engine's cast with dynamic scales, and the one with a given
scale. TensorRT-LLM finds one scale a tensor in kernels of their own, launched before each product (`FP8QDQLinearMethod`
in `tensorrt_llm/_torch/modules/linear.py`). vLLM finds one a row, and may fuse the cast, either way of scaling, into
the norm before it (docs.vllm.ai, "Fusion torch.compile passes"): there the difference is an upper bound. SGLang finds
one a row in the kernel that casts, which is faster than what the difference was taken against, PyTorch's own operations
one by one: the timings are zero, and say that dynamic scales cost nothing, not that given ones could save nothing.
"""
