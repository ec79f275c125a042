"""What a decoder is made of, as plain numbers.

An `Architecture` is flat on purpose: every kind of layer is a count, and a kind that a model lacks is a
zero, so that many models stack into arrays and one formula serves them all.
"""

from __future__ import annotations

from dataclasses import dataclass

from aicalib.errors import InvalidValue

MIXERS = (
    "full_layers",
    "window_layers",
    "mla_layers",
    "block_sparse_layers",
    "csa_layers",
    "hca_layers",
    "local_layers",
    "linear_layers",
    "kda_layers",
    "mamba_layers",
    "lightning_layers",
    "conv_layers",
)
"""The counts of layers, one for each way in which a token learns of the tokens before it."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A decoder-only language model.

    Every layer has one mixer (one of the counts of `MIXERS`) and one feed-forward part (`dense_layers` or
    `moe_layers`); a searched architecture may have neither in a layer, Nemotron-H has one part a layer.

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
        Softmax attention; in MLA `heads` and `v_head_dim` hold, the other two are zero. `kv_heads` is the mean
        where it differs by block.
    full_layers, window_layers : int
        Layers that see the whole context, and those that see the last `window` tokens.
    window : int
        Tokens; a chunk of chunked attention counts as one.
    window_heads, window_kv_heads, window_head_dim, window_v_head_dim : int
        The same four of window layers: equal where they do not differ, zero without window layers.
    reused_full_layers, reused_window_layers : int
        Those of the two counts that attend to an earlier layer's keys and values and have none of their own.
    shared_kv_projection : bool
        Layers that see the whole context take their values from the key projection.
    attention_gate, head_gate : bool
        An output gate as wide as the heads together, or of one value a head (also in MLA).
    qkv_bias, o_bias, attention_sinks : bool
    qk_norm : str
        "", "head" (one scale per channel of a head) or "layer" (one per channel of all heads).
    norms_per_layer : int
        Vectors of the hidden size: 2, or 4 where the outputs are normed too.
    hyper_connections : int
        Residual streams that each part reads and writes through learned mixing; 0 is the plain residual.
    mla_layers, q_lora_rank, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim : int
        Latent attention; `q_lora_rank` 0 is a direct query projection.
    sparse_layers : int
        Latent layers that hold an indexer of their own. Where there is one, every latent layer attends
        to `index_topk` tokens, the others reusing the choice of an earlier layer.
    index_heads, index_head_dim, index_topk : int
        The indexer of sparse attention. `index_topk` counts tokens, in compressed attention entries.
    block_sparse_layers, index_block : int
        Layers with the heads of the full ones that attend to `index_topk` tokens chosen in whole blocks
        of `index_block` tokens (MiniMax's MSA); 0 tokens where there are none.
    csa_layers, csa_ratio, hca_layers, hca_ratio, local_layers : int
        DeepSeek-V4's attention: one shared head of `head_dim` values serves as key and value; every layer
        sees the last `window` tokens, and besides `index_topk` of the entries that each stand for
        `csa_ratio` tokens, or all those that stand for `hca_ratio`, or (`local_layers`) nothing.
    o_groups, o_lora_rank : int
        Its output projection: groups of heads to `o_lora_rank` each, then to the hidden size.
    linear_layers, linear_key_heads, linear_value_heads, linear_key_head_dim, linear_value_head_dim : int
        Gated delta net.
    linear_conv_kernel : int
        Taps of its convolution.
    kda_layers, kda_heads, kda_head_dim, kda_conv_kernel : int
        Kimi delta attention.
    kda_forget_rank, kda_gate_rank : int
        Rank of its forget gate and output gate; 0 is a direct projection.
    mamba_layers, mamba_heads, mamba_head_dim, mamba_state, mamba_groups, mamba_conv_kernel : int
        State-space layers (Mamba-2).
    lightning_layers, lightning_heads, lightning_head_dim : int
        Lightning attention: linear attention with a fixed decay per head and an output gate.
    conv_layers, conv_kernel : int
        Gated short convolutions over the hidden size.
    dense_layers : int
    intermediate_size : float
        Width of a dense feed-forward part; the mean over the dense layers where it varies.
    ffn_matrices : int
        3 with a gate, 2 without.
    moe_layers, num_experts, experts_per_token, moe_intermediate_size : int
    moe_latent_size : int
        Width that experts read and write; 0 is the hidden size.
    shared_intermediate_size : int
        All shared experts of a layer together, or the dense part beside the experts.
    router_bias, expert_bias : bool
    per_layer_embedding : int
        Width of the further embedding that every layer has of each token.
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
    kv_heads: float = 0.0
    head_dim: int = 0
    v_head_dim: int = 0
    full_layers: int = 0
    window_layers: int = 0
    window: int = 0
    window_heads: int = 0
    window_kv_heads: int = 0
    window_head_dim: int = 0
    window_v_head_dim: int = 0
    reused_full_layers: int = 0
    reused_window_layers: int = 0
    shared_kv_projection: bool = False
    attention_gate: bool = False
    head_gate: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: str = ""
    attention_sinks: bool = False
    norms_per_layer: int = 2
    hyper_connections: int = 0

    mla_layers: int = 0
    q_lora_rank: int = 0
    kv_lora_rank: int = 0
    qk_nope_head_dim: int = 0
    qk_rope_head_dim: int = 0
    sparse_layers: int = 0
    index_heads: int = 0
    index_head_dim: int = 0
    index_topk: int = 0
    block_sparse_layers: int = 0
    index_block: int = 0
    csa_layers: int = 0
    csa_ratio: int = 0
    hca_layers: int = 0
    hca_ratio: int = 0
    local_layers: int = 0
    o_groups: int = 0
    o_lora_rank: int = 0

    linear_layers: int = 0
    linear_key_heads: int = 0
    linear_value_heads: int = 0
    linear_key_head_dim: int = 0
    linear_value_head_dim: int = 0
    linear_conv_kernel: int = 0
    kda_layers: int = 0
    kda_heads: int = 0
    kda_head_dim: int = 0
    kda_conv_kernel: int = 0
    kda_forget_rank: int = 0
    kda_gate_rank: int = 0
    mamba_layers: int = 0
    mamba_heads: int = 0
    mamba_head_dim: int = 0
    mamba_state: int = 0
    mamba_groups: int = 0
    mamba_conv_kernel: int = 0
    lightning_layers: int = 0
    lightning_heads: int = 0
    lightning_head_dim: int = 0
    conv_layers: int = 0
    conv_kernel: int = 0

    dense_layers: int = 0
    intermediate_size: float = 0.0
    ffn_matrices: int = 3
    moe_layers: int = 0
    num_experts: int = 0
    experts_per_token: int = 0
    moe_intermediate_size: int = 0
    moe_latent_size: int = 0
    shared_intermediate_size: int = 0
    router_bias: bool = False
    expert_bias: bool = False
    per_layer_embedding: int = 0
    mtp_layers: int = 0

    weight_format: str = "bf16"
    expert_weight_format: str = "bf16"

    def __post_init__(self) -> None:
        mixers = sum(getattr(self, kind) for kind in MIXERS)
        feed_forward = self.dense_layers + self.moe_layers
        if not 0 < mixers <= self.num_layers or not 0 < feed_forward <= self.num_layers:
            raise InvalidValue(
                f"{self.name}: {mixers} attention or state parts and {feed_forward} feed-forward parts"
                f" do not fit num_layers = {self.num_layers}"
            )
        if self.window_layers and not self.window_heads:
            raise InvalidValue(f"{self.name}: {self.window_layers} window layers without window_heads")
        if self.sparse_layers > self.mla_layers:
            raise InvalidValue(f"{self.name}: {self.sparse_layers} indexers in {self.mla_layers} MLA layers")
        if self.experts_per_token > self.num_experts:
            raise InvalidValue(
                f"{self.name}: experts_per_token = {self.experts_per_token} of {self.num_experts} experts"
            )
