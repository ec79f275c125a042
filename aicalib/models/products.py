"""Every dense matrix product of one decoder step on one rank, as the engines fuse them.

A product multiplies m rows of k values by a matrix of k x n: m follows from `rows`, n and k are of one rank
after its share is taken. Routed experts are not here, a grouped kernel computes them; neither are embedding
look-ups, convolutions and attention itself.

What replicates: KV heads below one a rank, the down-projections to latents, the key of an indexer, the
groups of a state-space layer below one a rank, low-rank inputs of gates, routers, the projections of a
latent that experts read, hyper-connections and the per-layer embedding's projections.

Fusions are those of SGLang 0.5.23 in 16 bit (Apache-2.0, `python/sglang/srt/models`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.models.stack import ArchitectureArrays

Array = NDArray[np.float64]

ATTENTION = "attention projections"
DENSE = "dense ffn"
ROUTER = "router"
SHARED = "shared experts"
HEAD = "output head"


@dataclass(frozen=True, eq=False)
class Product:
    """One kind of matrix product of a step.

    Attributes
    ----------
    name, group : str
        Module as the engine names it; `ATTENTION`, `DENSE`, `ROUTER`, `SHARED` or `HEAD`.
    count : ndarray
        Calls of it in a step, over all layers.
    n, k : ndarray
        Columns and inner size on one rank.
    batch : ndarray
        Matrices of that size in one call, each with rows of its own: 1, or heads or groups of a rank.
    rows : str
        "local" (tokens of the attention rank), "all" (tokens of the step) or "sampled" (one a request).
    phase : str
        "both", or the phase that alone computes it: "decode" or "prefill". The two forms of latent
        attention are the same weights.
    """

    name: str
    group: str
    count: Array
    n: Array
    k: Array
    batch: Array | float = 1.0
    rows: str = "local"
    phase: str = "both"

    @property
    def weights(self) -> Array:
        """Weights that a rank holds for it, over all layers; zero for the second form of the same ones."""
        return 0.0 * self.count if self.phase == "prefill" else self.count * self.batch * self.n * self.k


def matrix_products(
    arch: ArchitectureArrays, width: Array, tp: Array, shared_width: Array | None = None
) -> list[Product]:
    """Return the dense matrix products of one step on one rank.

    Parameters
    ----------
    arch : ArchitectureArrays
    width : ndarray
        Ranks that share the heads of attention: tensor over attention-data parallelism.
    tp : ndarray
        Ranks that share feed-forward parts and the output head.
    shared_width : ndarray, optional
        Ranks that share a shared expert; `tp` if not given.

    Returns
    -------
    list of Product
        Arrays that broadcast with `arch`, `width` and `tp`. A kind of layer that no model of `arch` has is
        left out; one that some lack has a count of 0 for them.
    """
    found: list[Product] = []
    for layers, products in (
        (arch.full_layers + arch.block_sparse_layers, _full),
        (arch.window_layers, _window),
        (arch.block_sparse_layers, _block_indexer),
        (arch.mla_layers, _latent),
        (arch.sparse_layers, _latent_indexer),
        (arch.csa_layers + arch.hca_layers + arch.local_layers, _compressed),
        (arch.linear_layers, _delta),
        (arch.kda_layers, _kimi_delta),
        (arch.mamba_layers, _state_space),
        (arch.lightning_layers, _lightning),
        (arch.conv_layers, _convolution),
        (arch.hyper_connections, _hyper_connections),
    ):
        if np.any(layers):
            found += products(arch, width)
    return [*found, *_feed_forward(arch, tp, tp if shared_width is None else shared_width)]


def group_weights(products: list[Product], *groups: str) -> Array:
    """Return the weights that one rank holds for the products of some groups, over all layers."""
    return sum((each.weights for each in products if each.group in groups), start=np.zeros(()))


def kv_shares(kv_heads: Array, width: Array) -> Array:
    """Return over how many ranks KV heads are split: never below one head a rank."""
    return np.maximum(np.minimum(width, kv_heads), 1.0)


class _Heads(NamedTuple):
    """Heads of one kind of softmax layer."""

    query: Array
    key_value: Array
    key_dim: Array
    value_dim: Array


def _softmax(
    arch: ArchitectureArrays, width: Array, kind: str, heads: _Heads, own: Array, reused: Array, values: Array
) -> list[Product]:
    """Return the products of layers with own keys and values, and of those that reuse a layer's."""
    h = arch.hidden_size
    query = heads.query * heads.key_dim * (1.0 + arch.attention_gate) / width
    split = heads.key_value / kv_shares(heads.key_value, width)
    projected = split * (heads.key_dim + values * heads.value_dim)
    output = heads.query * heads.value_dim / width
    return [
        Product(f"{kind}qkv_proj", ATTENTION, own, query + projected, h),
        Product(f"{kind}q_proj", ATTENTION, reused, query, h),
        Product(f"{kind}g_proj", ATTENTION, (own + reused) * arch.head_gate, heads.query / width, h),
        Product(f"{kind}o_proj", ATTENTION, own + reused, h, output),
    ]


def _full(arch: ArchitectureArrays, width: Array) -> list[Product]:
    heads = _Heads(arch.heads, arch.kv_heads, arch.head_dim, arch.v_head_dim)
    own = arch.full_layers + arch.block_sparse_layers - arch.reused_full_layers
    values = 1.0 - arch.shared_kv_projection
    return _softmax(arch, width, "", heads, own, arch.reused_full_layers, values)


def _window(arch: ArchitectureArrays, width: Array) -> list[Product]:
    heads = _Heads(arch.window_heads, arch.window_kv_heads, arch.window_head_dim, arch.window_v_head_dim)
    own = arch.window_layers - arch.reused_window_layers
    return _softmax(
        arch, width, "window ", heads, own, arch.reused_window_layers, np.ones_like(arch.window_layers)
    )


def _block_indexer(arch: ArchitectureArrays, width: Array) -> list[Product]:
    heads = arch.index_heads / kv_shares(arch.index_heads, width)
    n = (heads + 1.0) * arch.index_head_dim
    return [Product("index_qkv_proj", ATTENTION, arch.block_sparse_layers, n, arch.hidden_size)]


def _latent(arch: ArchitectureArrays, width: Array) -> list[Product]:
    h, layers, rank = arch.hidden_size, arch.mla_layers, arch.kv_lora_rank
    heads = arch.heads / width
    query = heads * (arch.qk_nope_head_dim + arch.qk_rope_head_dim)
    key_value = rank + arch.qk_rope_head_dim
    output = heads * arch.v_head_dim
    low_rank = arch.q_lora_rank > 0
    return [
        Product("fused_qkv_a_proj", ATTENTION, layers * low_rank, arch.q_lora_rank + key_value, h),
        Product("q_b_proj", ATTENTION, layers * low_rank, query, arch.q_lora_rank),
        Product("q_proj", ATTENTION, layers * ~low_rank, query, h),
        Product("kv_a_proj", ATTENTION, layers * ~low_rank, key_value, h),
        Product("w_kc", ATTENTION, layers, rank, arch.qk_nope_head_dim, batch=heads, phase="decode"),
        Product("w_vc", ATTENTION, layers, arch.v_head_dim, rank, batch=heads, phase="decode"),
        Product(
            "kv_b_proj",
            ATTENTION,
            layers,
            heads * (arch.qk_nope_head_dim + arch.v_head_dim),
            rank,
            phase="prefill",
        ),
        Product("latent g_proj", ATTENTION, layers * arch.attention_gate, output, h),
        Product("latent head gate", ATTENTION, layers * arch.head_gate, heads, h),
        Product("latent o_proj", ATTENTION, layers, h, output),
    ]


def _latent_indexer(arch: ArchitectureArrays, width: Array) -> list[Product]:
    layers, h = arch.sparse_layers, arch.hidden_size
    return [
        Product("index wq_b", ATTENTION, layers, arch.index_heads * arch.index_head_dim, arch.q_lora_rank),
        Product("index wk", ATTENTION, layers, arch.index_head_dim, h),
        Product("index weights_proj", ATTENTION, layers, arch.index_heads, h),
    ]


def _compressed(arch: ArchitectureArrays, width: Array) -> list[Product]:
    """Return those of DeepSeek-V4: a compressor projects a value and a gate, twice where entries overlap."""
    h, head, rank = arch.hidden_size, arch.head_dim, arch.q_lora_rank
    csa, hca = arch.csa_layers, arch.hca_layers
    layers = csa + hca + arch.local_layers
    groups = np.maximum(arch.o_groups, 1.0)
    return [
        Product("wqkv_a", ATTENTION, layers, rank + head, h),
        Product("wq_b", ATTENTION, layers, arch.heads * head / width, rank),
        Product(
            "wo_a", ATTENTION, layers, arch.o_lora_rank, arch.heads * head / groups, batch=groups / width
        ),
        Product("wo_b", ATTENTION, layers, h, groups * arch.o_lora_rank / width),
        Product("csa compressor", ATTENTION, csa, 4.0 * head, h),
        Product("hca compressor", ATTENTION, hca, 2.0 * head, h),
        Product("index wq_b", ATTENTION, csa, arch.index_heads * arch.index_head_dim, rank),
        Product("index weights_proj", ATTENTION, csa, arch.index_heads, h),
        Product("index compressor", ATTENTION, csa, 4.0 * arch.index_head_dim, h),
    ]


def _delta(arch: ArchitectureArrays, width: Array) -> list[Product]:
    layers, h = arch.linear_layers, arch.hidden_size
    keys = arch.linear_key_heads * arch.linear_key_head_dim / width
    values = arch.linear_value_heads * arch.linear_value_head_dim / width
    return [
        Product("in_proj_qkvz", ATTENTION, layers, 2.0 * (keys + values), h),
        Product("in_proj_ba", ATTENTION, layers, 2.0 * arch.linear_value_heads / width, h),
        Product("linear out_proj", ATTENTION, layers, h, values),
    ]


def _kimi_delta(arch: ArchitectureArrays, width: Array) -> list[Product]:
    layers, h = arch.kda_layers, arch.hidden_size
    forget, gate = arch.kda_forget_rank, arch.kda_gate_rank
    channels = arch.kda_heads * arch.kda_head_dim / width
    direct = channels * ((forget == 0).astype(float) + (gate == 0))
    inputs = 3.0 * channels + arch.kda_heads / width + direct + forget + gate
    return [
        Product("fused_qkvbfg_a_proj", ATTENTION, layers, inputs, h),
        Product("f_b_proj", ATTENTION, layers * (forget > 0), channels, forget),
        Product("g_b_proj", ATTENTION, layers * (gate > 0), channels, gate),
        Product("kda o_proj", ATTENTION, layers, h, channels),
    ]


def _state_space(arch: ArchitectureArrays, width: Array) -> list[Product]:
    layers, h = arch.mamba_layers, arch.hidden_size
    inner = arch.mamba_heads * arch.mamba_head_dim / width
    groups = arch.mamba_groups / kv_shares(arch.mamba_groups, width)
    inputs = 2.0 * inner + 2.0 * groups * arch.mamba_state + arch.mamba_heads / width
    return [
        Product("mamba in_proj", ATTENTION, layers, inputs, h),
        Product("mamba out_proj", ATTENTION, layers, h, inner),
    ]


def _lightning(arch: ArchitectureArrays, width: Array) -> list[Product]:
    layers, h = arch.lightning_layers, arch.hidden_size
    channels = arch.lightning_heads * arch.lightning_head_dim / width
    return [
        Product("lightning qkv_proj", ATTENTION, layers, 3.0 * channels, h),
        Product("lightning g_proj", ATTENTION, layers, channels, h),
        Product("lightning o_proj", ATTENTION, layers, h, channels),
    ]


def _convolution(arch: ArchitectureArrays, width: Array) -> list[Product]:
    layers, h = arch.conv_layers, arch.hidden_size
    return [
        Product("conv in_proj", ATTENTION, layers, 3.0 * h / width, h),
        Product("conv out_proj", ATTENTION, layers, h, h / width),
    ]


def _hyper_connections(arch: ArchitectureArrays, width: Array) -> list[Product]:
    """Return the mixing of s streams: 2 s + s^2 coefficients before each of two parts, s at the end."""
    streams = arch.hyper_connections
    wide = streams * arch.hidden_size
    some = (streams > 0).astype(float)
    return [
        Product("hc_fn", ATTENTION, 2.0 * arch.num_layers * some, (2.0 + streams) * streams, wide),
        Product("hc_head", ATTENTION, some, streams, wide),
    ]


def _feed_forward(arch: ArchitectureArrays, tp: Array, shared_width: Array) -> list[Product]:
    h, up, moe = arch.hidden_size, arch.ffn_matrices - 1.0, arch.moe_layers
    dense, shared = arch.intermediate_size / tp, arch.shared_intermediate_size / shared_width
    has_shared = moe * (arch.shared_intermediate_size > 0)
    latent, has_latent = arch.moe_latent_size, moe * (arch.moe_latent_size > 0)
    narrow = arch.per_layer_embedding
    has_narrow = (narrow > 0).astype(float)
    found = [
        Product("gate_up_proj", DENSE, arch.dense_layers, up * dense, h, rows="all"),
        Product("down_proj", DENSE, arch.dense_layers, h, dense, rows="all"),
        Product("per_layer_model_projection", DENSE, has_narrow, arch.num_layers * narrow, h, rows="all"),
        Product("per_layer_input_gate", DENSE, arch.num_layers * has_narrow, narrow, h, rows="all"),
        Product("per_layer_projection", DENSE, arch.num_layers * has_narrow, h, narrow, rows="all"),
        Product("gate", ROUTER, moe, arch.num_experts, h, rows="all"),
        Product("shared gate_up_proj", SHARED, has_shared, up * shared, h, rows="all"),
        Product("shared down_proj", SHARED, has_shared, h, shared, rows="all"),
        Product("latent down_proj", SHARED, has_latent, latent, h, rows="all"),
        Product("latent up_proj", SHARED, has_latent, h, latent, rows="all"),
        Product("lm_head", HEAD, np.ones_like(h), arch.vocab_size / tp, h, rows="sampled"),
    ]
    return [each for each in found if np.any(each.count)]
