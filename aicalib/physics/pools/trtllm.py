"""TensorRT-LLM's rule: a share of what weights and the largest step leave of the memory that was free.

Everything else of its pool is counted as SGLang's is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def pool_bytes(
    free_bytes: Array, memory_fraction: Array, weights_bytes: Array, activation_bytes: Array
) -> Array:
    """Return what TensorRT-LLM gives to the KV pool: (free before loading - weights - activations) x fraction.

    The engine runs its largest step once and takes the share of what its peak leaves of the GPU's memory
    (NVIDIA/TensorRT-LLM tensorrt_llm/_torch/pyexecutor/_util.py).
    """
    return (free_bytes - weights_bytes - activation_bytes) * memory_fraction
