"""Bytes and floating-point operations of each operator, from the architecture alone.

All functions are pure, take arrays that broadcast, and count one instance as a whole unless they say per
GPU. A multiply-add is two operations. h is the hidden size, T the tokens in the step.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aicalib.models.stack import ArchitectureArrays

Array = NDArray[np.float64]


def softmax_projections(arch: ArchitectureArrays, width: Array) -> Array:
    """Return the weights of query, key, value and output products of MHA, GQA and MQA on one rank, all layers.

    Per layer h (n_q d (1 + gate) + n_q d_v) / w + h n_kv (d + d_v) / min(w, n_kv): an output gate doubles the
    query, and KV heads are never split below one.
    """
    query = arch.heads * arch.head_dim * (1.0 + arch.attention_gate)
    output = arch.heads * arch.v_head_dim
    key_value = arch.kv_heads * (arch.head_dim + arch.v_head_dim)
    kv_ranks = np.maximum(np.minimum(width, arch.kv_heads), 1.0)
    layers = arch.full_layers + arch.window_layers
    return layers * arch.hidden_size * ((query + output) / width + key_value / kv_ranks)


def latent_projections(arch: ArchitectureArrays, width: Array) -> Array:
    """Return the weights of multi-head latent attention (MLA) on one rank, all layers.

    Up-projections and output are split by heads; the down-projections to the latents, and the indexer of
    sparse attention, are held whole by every rank.
    """
    query_key = arch.qk_nope_head_dim + arch.qk_rope_head_dim
    query_in = np.where(arch.q_lora_rank > 0, arch.q_lora_rank, arch.hidden_size)
    split = arch.heads * (
        query_in * query_key
        + arch.kv_lora_rank * (arch.qk_nope_head_dim + arch.v_head_dim)
        + arch.v_head_dim * arch.hidden_size
    )
    whole = arch.hidden_size * (arch.q_lora_rank + arch.kv_lora_rank + arch.qk_rope_head_dim)
    indexer = arch.q_lora_rank * arch.index_heads * arch.index_head_dim + arch.hidden_size * (
        arch.index_head_dim + arch.index_heads
    )
    return arch.mla_layers * (split / width + whole) + arch.sparse_layers * indexer


def linear_projections(arch: ArchitectureArrays, width: Array) -> Array:
    """Return the weights of gated-delta-net layers on one rank: inputs, gates and output, all layers."""
    keys = arch.linear_key_heads * arch.linear_key_head_dim
    values = arch.linear_value_heads * arch.linear_value_head_dim
    per_layer = arch.hidden_size * (2 * keys + 2 * values + 2 * arch.linear_value_heads + values)
    return arch.linear_layers * per_layer / width


def attention_projections(arch: ArchitectureArrays, width: Array) -> Array:
    """Return the weights of all attention layers' products on one of `width` ranks."""
    return (
        softmax_projections(arch, width) + latent_projections(arch, width) + linear_projections(arch, width)
    )


def dense_ffn(arch: ArchitectureArrays) -> Array:
    """Weights of dense feed-forward layers and of shared experts, all layers."""
    matrices = arch.ffn_matrices * arch.hidden_size
    return matrices * (
        arch.dense_layers * arch.intermediate_size + arch.moe_layers * arch.shared_intermediate_size
    )


def expert(arch: ArchitectureArrays) -> Array:
    """Weights of one routed expert of one layer."""
    return arch.ffn_matrices * arch.hidden_size * arch.moe_intermediate_size


def touched_experts(arch: ArchitectureArrays, tokens: Array) -> Array:
    """Return the expected number of distinct experts that T tokens touch: E (1 - (1 - k / E)^T).

    Every token draws k of E experts, independently of the others and uniformly.
    """
    experts = np.maximum(arch.num_experts, 1.0)
    share = np.minimum(arch.experts_per_token / experts, 1.0)
    return arch.num_experts * -np.expm1(tokens * np.log1p(-np.minimum(share, 1.0 - 1e-12)))


def head(arch: ArchitectureArrays) -> Array:
    """Weights of the output head (the embedding table read as a matrix when tied)."""
    return arch.vocab_size * arch.hidden_size


def kv_elements_per_token(arch: ArchitectureArrays, attention_width: Array) -> tuple[Array, Array, Array]:
    """Elements that one token adds to the cache of one GPU.

    Returns
    -------
    full, window, latent : ndarray, shape (n,)
        Of layers that see the whole context, of sliding-window layers, and of MLA latents. KV heads are
        split over the attention width but never below one; the latent stands on every rank.
    """
    heads = np.maximum(np.floor(arch.kv_heads / attention_width), 1.0)
    per_layer = heads * (arch.head_dim + arch.v_head_dim)
    latent = arch.mla_layers * (arch.kv_lora_rank + arch.qk_rope_head_dim)
    return arch.full_layers * per_layer, arch.window_layers * per_layer, latent


def indexer_bytes_per_token(arch: ArchitectureArrays) -> Array:
    """Bytes that one token adds to the indexer's key cache on every rank: FP8 keys and a scale per 128."""
    return arch.sparse_layers * arch.index_head_dim * (1.0 + 4.0 / 128.0)


def linear_state_bytes(arch: ArchitectureArrays, attention_width: Array) -> Array:
    """Bytes of the recurrent and convolution state of one request on one GPU.

    State k_dim x v_dim per value head in 32 bit, and the convolution's window in 16 bit.
    """
    keys = arch.linear_key_heads * arch.linear_key_head_dim
    values = arch.linear_value_heads * arch.linear_value_head_dim
    recurrent = 4.0 * values * arch.linear_key_head_dim
    convolution = 2.0 * (2 * keys + values) * np.maximum(arch.linear_conv_kernel - 1.0, 0.0)
    return arch.linear_layers * (recurrent + convolution) / attention_width


def decode_attention_flops(arch: ArchitectureArrays, context: Array) -> Array:
    """Operations of one new token's attention over a context, all layers.

    MHA and GQA: 2 n_q (d + d_v) a context token. MLA in its absorbed form: 2 n_q (2 r + d_rope). Sparse
    attention attends to at most `index_topk` tokens after an indexer over all of them.
    """
    seen = np.where(arch.sparse_layers > 0, np.minimum(context, np.maximum(arch.index_topk, 1.0)), context)
    softmax = 2.0 * arch.heads * (arch.head_dim + arch.v_head_dim)
    latent = 2.0 * arch.heads * (2.0 * arch.kv_lora_rank + arch.qk_rope_head_dim)
    indexer = 2.0 * arch.sparse_layers * arch.index_heads * arch.index_head_dim * context
    linear = 6.0 * arch.linear_value_heads * arch.linear_key_head_dim * arch.linear_value_head_dim
    return (
        softmax * (arch.full_layers * context + arch.window_layers * np.minimum(context, arch.window))
        + arch.mla_layers * latent * seen
        + indexer
        + arch.linear_layers * linear
    )


def prefill_attention_flops(arch: ArchitectureArrays, length: Array) -> Array:
    """Operations of the causal attention of one prompt, all layers.

    A prompt of L tokens has L^2 / 2 pairs, L w - w^2 / 2 of them inside a window w < L; MLA runs in its
    expanded form with widths d_nope + d_rope and d_v; linear layers cost the same for every token.
    """
    pairs = 0.5 * length**2
    window = np.minimum(arch.window, length)
    window_pairs = length * window - 0.5 * window**2
    topk = np.minimum(np.where(arch.sparse_layers > 0, arch.index_topk, length), length)
    sparse_pairs = length * topk - 0.5 * topk**2
    softmax = 2.0 * arch.heads * (arch.head_dim + arch.v_head_dim)
    expanded = 2.0 * arch.heads * (arch.qk_nope_head_dim + arch.qk_rope_head_dim + arch.v_head_dim)
    indexer = 2.0 * arch.sparse_layers * arch.index_heads * arch.index_head_dim * pairs
    linear = 6.0 * arch.linear_value_heads * arch.linear_key_head_dim * arch.linear_value_head_dim
    return (
        softmax * (arch.full_layers * pairs + arch.window_layers * window_pairs)
        + arch.mla_layers * expanded * np.where(arch.sparse_layers > 0, sparse_pairs, pairs)
        + indexer
        + arch.linear_layers * linear * length
    )
