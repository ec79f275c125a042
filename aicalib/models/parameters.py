"""How many parameters a model has, and what a token adds to its cache."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aicalib.models import products
from aicalib.models.architecture import Architecture
from aicalib.models.stack import stack


@dataclass(frozen=True)
class Parameters:
    """How many parameters a model has, by part; multi-token-prediction layers are left out.

    Attributes
    ----------
    total, active : float
        All, and those that one token passes through, both with the embedding tables.
    embedding, lm_head : float
        `lm_head` is zero where it is tied.
    attention, dense_ffn, experts, shared, router : float
        Matrices over all layers, and the biases of experts; `attention` holds every mixer.
    vectors : float
        Norms, biases, convolution taps, sinks and the like.
    """

    total: float
    active: float
    embedding: float
    lm_head: float
    attention: float
    dense_ffn: float
    experts: float
    shared: float
    router: float
    vectors: float


def parameters(arch: Architecture) -> Parameters:
    """Count the parameters of a model from its widths.

    Notes
    -----
    The counts follow the modules of the Hugging Face implementations and meet the published totals within
    a percent (docs/models.md). Left out are the scalar gate of a shared expert (`hidden_size` a layer) and
    biases of feed-forward matrices other than those of experts.
    """
    one = np.ones(1)
    matrices = products.matrix_products(stack([arch]), one, one)

    def weights(group: str) -> float:
        return float(np.sum(products.group_weights(matrices, group)))

    biases = (
        (arch.ffn_matrices - 1) * arch.moe_intermediate_size + arch.hidden_size if arch.expert_bias else 0
    )
    one_expert = arch.ffn_matrices * (arch.moe_latent_size or arch.hidden_size) * arch.moe_intermediate_size
    one_expert += biases
    further = arch.num_layers * arch.per_layer_embedding
    head = weights(products.HEAD)
    parts = {
        "embedding": float(arch.vocab_size * (arch.hidden_size + further)),
        "lm_head": 0.0 if arch.tied_embeddings else head,
        "attention": weights(products.ATTENTION),
        "dense_ffn": weights(products.DENSE),
        "experts": float(arch.moe_layers * arch.num_experts * one_expert),
        "shared": weights(products.SHARED),
        "router": weights(products.ROUTER),
        "vectors": float(_vectors(arch)),
    }
    total = sum(parts.values())
    idle = arch.moe_layers * (arch.num_experts - arch.experts_per_token) * one_expert
    return Parameters(total=total, active=total - idle, **parts)


def kv_elements_per_token(arch: Architecture) -> float:
    """Return the cache elements that one more token adds, over all layers and before any sharding.

    Keys and values of softmax attention, the latent vector of MLA, the shared entries of compressed
    attention divided by the tokens that each stands for. Windowed layers are counted as if the window never
    closed, so that this is an upper bound for them; the windows of compressed attention, an indexer's own
    keys and the constant state of recurrent layers are not in it.
    """
    full = arch.full_layers + arch.block_sparse_layers - arch.reused_full_layers
    window = arch.window_layers - arch.reused_window_layers
    softmax = full * arch.kv_heads * (arch.head_dim + arch.v_head_dim)
    softmax += window * arch.window_kv_heads * (arch.window_head_dim + arch.window_v_head_dim)
    compressed = arch.csa_layers / max(arch.csa_ratio, 1) + arch.hca_layers / max(arch.hca_ratio, 1)
    latent = arch.mla_layers * (arch.kv_lora_rank + arch.qk_rope_head_dim)
    return float(softmax + latent + compressed * arch.head_dim)


def _vectors(arch: Architecture) -> float:
    """Count what is no matrix: of the hidden size, and of each kind of layer."""
    compressed = arch.csa_layers + arch.hca_layers + arch.local_layers
    streams = arch.hyper_connections
    return (
        arch.hidden_size * (arch.num_layers * arch.norms_per_layer + 1)
        + arch.moe_layers * arch.num_experts * arch.router_bias
        + _softmax_vectors(arch)
        + arch.mla_layers * (arch.q_lora_rank + arch.kv_lora_rank)
        + arch.sparse_layers * 2 * arch.index_head_dim
        + arch.block_sparse_layers * 2 * arch.index_head_dim
        + compressed * (arch.q_lora_rank + arch.head_dim + arch.heads)
        + arch.csa_layers * (1 + 2 * arch.csa_ratio) * (arch.head_dim + arch.index_head_dim)
        + arch.hca_layers * (1 + arch.hca_ratio) * arch.head_dim
        + 2 * arch.num_layers * ((2 + streams) * streams + 3) * (streams > 0)
        + _recurrent_vectors(arch)
        + arch.per_layer_embedding
    )


def _softmax_vectors(arch: Architecture) -> float:
    full = arch.full_layers + arch.block_sparse_layers
    kinds = (
        (full, arch.reused_full_layers, arch.heads, arch.kv_heads, arch.head_dim, arch.v_head_dim),
        (
            arch.window_layers,
            arch.reused_window_layers,
            arch.window_heads,
            arch.window_kv_heads,
            arch.window_head_dim,
            arch.window_v_head_dim,
        ),
    )
    found = 0.0
    for layers, reused, heads, kv_heads, head_dim, v_head_dim in kinds:
        own = layers - reused
        query = heads * head_dim * (1 + arch.attention_gate)
        found += arch.qkv_bias * (layers * query + own * kv_heads * (head_dim + v_head_dim))
        found += layers * (arch.hidden_size * arch.o_bias + heads * arch.attention_sinks)
        if arch.qk_norm == "head":
            found += (layers + own) * head_dim
        elif arch.qk_norm == "layer":
            found += layers * heads * head_dim + own * kv_heads * head_dim
    return found


def _recurrent_vectors(arch: Architecture) -> float:
    """Count convolution taps, decays, step biases and norms of recurrent layers."""
    keys = arch.linear_key_heads * arch.linear_key_head_dim
    values = arch.linear_value_heads * arch.linear_value_head_dim
    delta = (2 * keys + values) * arch.linear_conv_kernel + 2 * arch.linear_value_heads
    channels = arch.kda_heads * arch.kda_head_dim
    kimi = channels * (3 * arch.kda_conv_kernel + 1) + arch.kda_heads + arch.kda_head_dim
    inner = arch.mamba_heads * arch.mamba_head_dim
    mixed = inner + 2 * arch.mamba_groups * arch.mamba_state
    state_space = mixed * (arch.mamba_conv_kernel + 1) + 3 * arch.mamba_heads + inner
    return (
        arch.linear_layers * (delta + arch.linear_value_head_dim)
        + arch.kda_layers * kimi
        + arch.mamba_layers * state_space
        + arch.lightning_layers * arch.lightning_heads * arch.lightning_head_dim
        + arch.conv_layers * arch.hidden_size * arch.conv_kernel
    )
