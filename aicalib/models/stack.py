"""Many architectures as arrays, one element a model, for formulas that broadcast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aicalib.models.architecture import MIXERS, Architecture

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
    window_heads: Array
    window_kv_heads: Array
    window_head_dim: Array
    window_v_head_dim: Array
    reused_full_layers: Array
    reused_window_layers: Array
    shared_kv_projection: Array
    attention_gate: Array
    head_gate: Array
    qkv_bias: Array
    o_bias: Array
    attention_sinks: Array
    norms_per_layer: Array
    hyper_connections: Array

    mla_layers: Array
    q_lora_rank: Array
    kv_lora_rank: Array
    qk_nope_head_dim: Array
    qk_rope_head_dim: Array
    sparse_layers: Array
    index_heads: Array
    index_head_dim: Array
    index_topk: Array
    block_sparse_layers: Array
    index_block: Array
    csa_layers: Array
    csa_ratio: Array
    hca_layers: Array
    hca_ratio: Array
    local_layers: Array
    o_groups: Array
    o_lora_rank: Array

    linear_layers: Array
    linear_key_heads: Array
    linear_value_heads: Array
    linear_key_head_dim: Array
    linear_value_head_dim: Array
    linear_conv_kernel: Array
    kda_layers: Array
    kda_heads: Array
    kda_head_dim: Array
    kda_conv_kernel: Array
    kda_forget_rank: Array
    kda_gate_rank: Array
    mamba_layers: Array
    mamba_heads: Array
    mamba_head_dim: Array
    mamba_state: Array
    mamba_groups: Array
    mamba_conv_kernel: Array
    lightning_layers: Array
    lightning_heads: Array
    lightning_head_dim: Array
    conv_layers: Array
    conv_kernel: Array

    dense_layers: Array
    intermediate_size: Array
    ffn_matrices: Array
    moe_layers: Array
    num_experts: Array
    experts_per_token: Array
    moe_intermediate_size: Array
    moe_latent_size: Array
    shared_intermediate_size: Array
    router_bias: Array
    expert_bias: Array
    per_layer_embedding: Array
    mtp_layers: Array

    def __len__(self) -> int:
        return len(self.hidden_size)

    @property
    def mixers(self) -> Array:
        """Layers in which a token learns of the tokens before it."""
        total: Array = np.sum([getattr(self, kind) for kind in MIXERS], axis=0)
        return total

    @property
    def expert_hidden_size(self) -> Array:
        """Width that experts read and write: the hidden size, or that of a latent before and after them."""
        return np.where(self.moe_latent_size > 0, self.moe_latent_size, self.hidden_size)

    @property
    def whole_layers(self) -> Array:
        """Layers of a mixer and a feed-forward part; a layer of one part alone (Nemotron-H) counts half."""
        return 0.5 * (self.mixers + self.dense_layers + self.moe_layers)

    @property
    def state_layers(self) -> Array:
        """Layers that keep a state of constant size."""
        return (
            self.linear_layers
            + self.kda_layers
            + self.mamba_layers
            + self.lightning_layers
            + self.conv_layers
        )

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> ArchitectureArrays:
        """Return the architectures of some rows, in that order."""
        return self.each(lambda values: values[rows])

    def each(self, change: Callable[[NDArray[Any]], NDArray[Any]]) -> ArchitectureArrays:
        """Return the architectures with every field changed alike."""
        return ArchitectureArrays(**{each.name: change(getattr(self, each.name)) for each in fields(self)})


def stack(architectures: Sequence[Architecture]) -> ArchitectureArrays:
    """Put the numbers of n architectures into arrays of shape (n,)."""
    return ArchitectureArrays(
        **{
            each.name: np.array([getattr(arch, each.name) for arch in architectures], dtype=np.float64)
            for each in fields(ArchitectureArrays)
        }
    )
