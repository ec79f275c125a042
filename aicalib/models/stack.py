"""Many architectures as arrays, one element a model, for formulas that broadcast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from aicalib.models.architecture import Architecture

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ArchitectureArrays:
    """The numbers of n architectures.

    Fields as in `Architecture`, each a float64 array of shape (n,), with flags as 0 or 1.
    """

    hidden_size: Array
    num_layers: Array
    vocab_size: Array
    tied_embeddings: Array
    max_position: Array

    heads: Array
    kv_heads: Array
    head_dim: Array
    v_head_dim: Array
    full_layers: Array
    window_layers: Array
    window: Array
    attention_gate: Array
    qkv_bias: Array
    o_bias: Array
    attention_sinks: Array
    norms_per_layer: Array

    mla_layers: Array
    q_lora_rank: Array
    kv_lora_rank: Array
    qk_nope_head_dim: Array
    qk_rope_head_dim: Array
    sparse_layers: Array
    index_heads: Array
    index_head_dim: Array
    index_topk: Array

    linear_layers: Array
    linear_key_heads: Array
    linear_value_heads: Array
    linear_key_head_dim: Array
    linear_value_head_dim: Array
    linear_conv_kernel: Array

    dense_layers: Array
    intermediate_size: Array
    ffn_matrices: Array
    moe_layers: Array
    num_experts: Array
    experts_per_token: Array
    moe_intermediate_size: Array
    shared_intermediate_size: Array
    router_bias: Array
    expert_bias: Array
    mtp_layers: Array

    def __len__(self) -> int:
        return len(self.hidden_size)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> ArchitectureArrays:
        """Return the architectures of some rows, in that order."""
        return ArchitectureArrays(**{each.name: getattr(self, each.name)[rows] for each in fields(self)})


def stack(architectures: Sequence[Architecture]) -> ArchitectureArrays:
    """Put the numbers of n architectures into arrays of shape (n,)."""
    return ArchitectureArrays(
        **{
            each.name: np.array([getattr(arch, each.name) for arch in architectures], dtype=np.float64)
            for each in fields(ArchitectureArrays)
        }
    )
