"""What a decoder is made of, as plain numbers, and how many parameters that makes.

An `Architecture` is flat on purpose: every kind of layer is a count, and a kind that a model lacks is a
zero, so that many models stack into arrays and one formula serves them all.
"""

from __future__ import annotations

from dataclasses import dataclass

from aicalib.errors import InvalidValue


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A decoder-only language model.

    Every layer has one attention (`full_layers`, `window_layers`, `mla_layers` or `linear_layers`) and one
    feed-forward part (`dense_layers` or `moe_layers`); a searched architecture may have neither in a layer.

    Attributes
    ----------
    name, hf_id : str
        Catalogue name, and the Hugging Face repository (empty where unknown).
    family : str
        Models of one architecture that differ in weights only share it.
    source : str
        Where the configuration was read.
    notes : tuple of str
        What the numbers leave out.
    hidden_size, num_layers, vocab_size, max_position : int
        `max_position` is 0 where the configuration does not say.
    tied_embeddings : bool
        The output head shares the embedding's table.
    heads, kv_heads, head_dim, v_head_dim : int
        Softmax attention; in MLA `heads` and `v_head_dim` hold, the other two are zero.
    full_layers, window_layers : int
        Layers that see the whole context, and those that see the last `window` tokens.
    window : int
        Tokens; a chunk of chunked attention counts as one.
    attention_gate : bool
        An output gate as wide as the query.
    qkv_bias, o_bias, attention_sinks : bool
    qk_norm : str
        "", "head" (one scale per channel of a head) or "layer" (one per channel of all heads).
    norms_per_layer : int
        2, or 4 where the outputs are normed too.
    mla_layers, q_lora_rank, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim : int
        Latent attention; `q_lora_rank` 0 is a direct query projection.
    sparse_layers : int
        Latent layers that hold an indexer of their own. Where there is one, every latent layer attends
        to `index_topk` tokens, the others reusing the choice of an earlier layer.
    index_heads, index_head_dim, index_topk : int
    linear_layers, linear_key_heads, linear_value_heads, linear_key_head_dim, linear_value_head_dim : int
        Gated delta net.
    linear_conv_kernel : int
        Taps of its convolution.
    dense_layers : int
    intermediate_size : float
        Width of a dense feed-forward part; the mean over the dense layers where it varies.
    ffn_matrices : int
        3 with a gate, 2 without.
    moe_layers, num_experts, experts_per_token, moe_intermediate_size : int
    shared_intermediate_size : int
        All shared experts of a layer together.
    router_bias, expert_bias : bool
    mtp_layers : int
        Layers for predicting further tokens, in no other count.
    weight_format, expert_weight_format : str
        What the native checkpoint stores: "bf16", "fp8_block", "mxfp4", ... Embedding, head, norms and
        router stay in 16 bit in nearly all quantized checkpoints.
    """

    name: str
    hf_id: str = ""
    family: str = ""
    source: str = ""
    notes: tuple[str, ...] = ()

    hidden_size: int
    num_layers: int
    vocab_size: int
    tied_embeddings: bool = False
    max_position: int = 0

    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    v_head_dim: int = 0
    full_layers: int = 0
    window_layers: int = 0
    window: int = 0
    attention_gate: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: str = ""
    attention_sinks: bool = False
    norms_per_layer: int = 2

    mla_layers: int = 0
    q_lora_rank: int = 0
    kv_lora_rank: int = 0
    qk_nope_head_dim: int = 0
    qk_rope_head_dim: int = 0
    sparse_layers: int = 0
    index_heads: int = 0
    index_head_dim: int = 0
    index_topk: int = 0

    linear_layers: int = 0
    linear_key_heads: int = 0
    linear_value_heads: int = 0
    linear_key_head_dim: int = 0
    linear_value_head_dim: int = 0
    linear_conv_kernel: int = 0

    dense_layers: int = 0
    intermediate_size: float = 0.0
    ffn_matrices: int = 3
    moe_layers: int = 0
    num_experts: int = 0
    experts_per_token: int = 0
    moe_intermediate_size: int = 0
    shared_intermediate_size: int = 0
    router_bias: bool = False
    expert_bias: bool = False
    mtp_layers: int = 0

    weight_format: str = "bf16"
    expert_weight_format: str = "bf16"

    def __post_init__(self) -> None:
        attention = self.full_layers + self.window_layers + self.mla_layers + self.linear_layers
        feed_forward = self.dense_layers + self.moe_layers
        if not 0 < attention <= self.num_layers or not 0 < feed_forward <= self.num_layers:
            raise InvalidValue(
                f"{self.name}: {attention} attention and {feed_forward} feed-forward parts"
                f" do not fit num_layers = {self.num_layers}"
            )
        if self.sparse_layers > self.mla_layers:
            raise InvalidValue(f"{self.name}: {self.sparse_layers} indexers in {self.mla_layers} MLA layers")
        if self.experts_per_token > self.num_experts:
            raise InvalidValue(
                f"{self.name}: experts_per_token = {self.experts_per_token} of {self.num_experts} experts"
            )


@dataclass(frozen=True)
class Parameters:
    """How many parameters a model has, by part; multi-token-prediction layers are left out.

    Attributes
    ----------
    total, active : float
        All, and those that one token passes through, both with the embedding table.
    embedding, lm_head : float
        `lm_head` is zero where it is tied.
    attention, dense_ffn, experts, shared, router, norms : float
        Over all layers.
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
    norms: float


def parameters(arch: Architecture) -> Parameters:
    """Count the parameters of a model from its widths.

    Notes
    -----
    The counts follow the modules of the Hugging Face implementations and meet the published totals within
    a percent. Left out are the scalar gate of a shared expert (`hidden_size` a layer) and biases of
    feed-forward matrices other than those of experts.
    """
    h = arch.hidden_size
    attention = (
        (arch.full_layers + arch.window_layers) * _softmax_layer(arch)
        + arch.mla_layers * _latent_layer(arch)
        + arch.sparse_layers * _indexer(arch)
        + arch.linear_layers * _delta_layer(arch)
    )
    biases = (arch.ffn_matrices - 1) * arch.moe_intermediate_size + h if arch.expert_bias else 0
    one_expert = arch.ffn_matrices * h * arch.moe_intermediate_size + biases
    experts = float(arch.moe_layers * arch.num_experts * one_expert)
    table = float(arch.vocab_size * h)
    parts = {
        "embedding": table,
        "lm_head": 0.0 if arch.tied_embeddings else table,
        "attention": float(attention),
        "dense_ffn": float(arch.dense_layers * arch.ffn_matrices * h * arch.intermediate_size),
        "experts": experts,
        "shared": float(arch.moe_layers * arch.ffn_matrices * h * arch.shared_intermediate_size),
        "router": float(arch.moe_layers * arch.num_experts * (h + arch.router_bias)),
        "norms": float(h * (arch.num_layers * arch.norms_per_layer + 1)),
    }
    total = sum(parts.values())
    idle = arch.moe_layers * (arch.num_experts - arch.experts_per_token) * one_expert
    return Parameters(total=total, active=total - idle, **parts)


def kv_elements_per_token(arch: Architecture) -> float:
    """Return the cache elements that one more token adds, over all layers and before any sharding.

    Keys and values of softmax attention, the latent vector of MLA. Windowed layers are counted as if the
    window never closed, so that this is an upper bound for them; the indexer's own keys and the constant
    state of linear layers are not in it.
    """
    softmax = (arch.full_layers + arch.window_layers) * arch.kv_heads * (arch.head_dim + arch.v_head_dim)
    return float(softmax + arch.mla_layers * (arch.kv_lora_rank + arch.qk_rope_head_dim))


def _softmax_layer(arch: Architecture) -> int:
    query = arch.heads * arch.head_dim * (1 + arch.attention_gate)
    key_value = arch.kv_heads * (arch.head_dim + arch.v_head_dim)
    norms = {"": 0, "head": 2 * arch.head_dim, "layer": (arch.heads + arch.kv_heads) * arch.head_dim}
    return (
        arch.hidden_size * (query + key_value + arch.heads * arch.v_head_dim)
        + (query + key_value) * arch.qkv_bias
        + arch.hidden_size * arch.o_bias
        + arch.heads * arch.attention_sinks
        + norms[arch.qk_norm]
    )


def _latent_layer(arch: Architecture) -> int:
    h, heads = arch.hidden_size, arch.heads
    query_width = heads * (arch.qk_nope_head_dim + arch.qk_rope_head_dim)
    query = h * query_width
    if arch.q_lora_rank:
        query = h * arch.q_lora_rank + arch.q_lora_rank + arch.q_lora_rank * query_width
    expand = arch.kv_lora_rank * heads * (arch.qk_nope_head_dim + arch.v_head_dim)
    key_value = h * (arch.kv_lora_rank + arch.qk_rope_head_dim) + arch.kv_lora_rank + expand
    return query + key_value + heads * arch.v_head_dim * h


def _indexer(arch: Architecture) -> int:
    h = arch.hidden_size
    query = arch.q_lora_rank * arch.index_heads * arch.index_head_dim
    return query + h * arch.index_head_dim + 2 * arch.index_head_dim + h * arch.index_heads


def _delta_layer(arch: Architecture) -> int:
    keys = arch.linear_key_heads * arch.linear_key_head_dim
    values = arch.linear_value_heads * arch.linear_value_head_dim
    projections = arch.hidden_size * (2 * keys + 3 * values + 2 * arch.linear_value_heads)
    convolution = (2 * keys + values) * arch.linear_conv_kernel
    return projections + convolution + 2 * arch.linear_value_heads + arch.linear_value_head_dim
