"""How tokens learn of the tokens before them, layer kind by layer kind, as calls of kernels on one attention rank.

Attention over a cache (all of it, a window, a latent, chosen tokens) and layers that keep a state instead.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aicalib.models.products import kv_shares
from aicalib.physics import sparse_layers
from aicalib.physics.calls import Call
from aicalib.physics.kernels.attention import DECODE, PREFILL, WIDE_BYTES, causal_pairs
from aicalib.physics.kernels.kind import Kind, Shape
from aicalib.physics.kernels.latent import LATENT_DECODE
from aicalib.physics.kernels.linear import CONVOLUTION, LINEAR_DECODE, LINEAR_PREFILL
from aicalib.physics.kernels.plain import PLAIN
from aicalib.physics.kernels.sparse import SPARSE_DECODE
from aicalib.physics.state_layers import STATE_BYTES
from aicalib.physics.system import System

Array = NDArray[np.float64]

STATE_BITS = 8.0 * STATE_BYTES

CHOSEN_KEY_HEADS = 64.0
"""Heads that prefill over chosen keys computes at least. Modules of sparse attention take 5.9, 6.4 and 6.9 ms with 16,
32 and 64 heads on an H200, and 12.1 ms with 128 (8192 tokens; tables `dsa_context_module_perf` of aiconfigurator-core
0.12.0, Apache-2.0)."""


class _Rank:
    """Builds the calls of one phase on one attention rank."""

    def __init__(self, system: System, phase: str) -> None:
        self.system, self.arch, self.width, self.phase = system, system.arch, system.attention_width, phase

    def call(
        self, name: str, kind: Kind, surface: str, layers: Array, shape: Shape, bits: Array | float
    ) -> list[Call]:
        """Return a call where any model has such layers."""
        if not np.any(layers):
            return []
        s = self.system
        stored = np.broadcast_to(bits, s.attended_bits.shape)
        machine = s.machine(s.attention_peak_flops_s, stored)
        code = s.surfaces[surface] if surface else None
        return [Call(name, kind, code, layers, shape, machine, f"{self.phase}_mixers", "attention", surface)]

    def softmax(self, name: str, kind: Kind, window: bool, layers: Array, **sizes: Array) -> list[Call]:
        """Return attention with grouped heads: KV heads are split over the ranks, but never below one."""
        arch = self.arch
        heads, kv_heads, head_dim, v_head_dim = (
            (arch.window_heads, arch.window_kv_heads, arch.window_head_dim, arch.window_v_head_dim)
            if window
            else (arch.heads, arch.kv_heads, arch.head_dim, arch.v_head_dim)
        )
        skips = np.where(self.system.masks_window * (self.phase == "prefill") > 0, np.inf, arch.window)
        shape = {
            "heads": heads / self.width,
            "kv_heads": kv_heads / kv_shares(kv_heads, self.width),
            "head_dim": head_dim,
            "v_head_dim": v_head_dim,
            "window": skips if window else np.full_like(arch.window, np.inf),
            **sizes,
        }
        surface = f"{'window' if window else 'attention'}_{self.phase}"
        return self.call(name, kind, surface, layers, shape, self.system.attended_bits)

    def sparse_modules(self, batch: Array, context: Array) -> list[Call]:
        """Return the layers of sparse latent attention in decode: whole modules, their projections included."""
        s, arch = self.system, self.arch
        machine = s.dense_machine
        shape = {
            "batch": batch, "context": context, "heads": arch.heads / self.width,
            "hidden_size": arch.hidden_size, "q_lora_rank": arch.q_lora_rank, "latent_dim": arch.kv_lora_rank,
            "rope_dim": arch.qk_rope_head_dim, "nope_dim": arch.qk_nope_head_dim,
            "v_head_dim": arch.v_head_dim, "index_heads": arch.index_heads, "index_dim": arch.index_head_dim,
            "index_topk": arch.index_topk, "cache_bits": s.attended_bits,
        }  # fmt: skip
        own, all_ = arch.sparse_layers, np.where(arch.sparse_layers > 0, arch.mla_layers, 0.0)
        reuse = {**shape, "index_heads": np.zeros_like(arch.index_heads)}
        return [
            Call(name, SPARSE_DECODE, s.surfaces[code], layers, sizes, machine, "decode_mixers", "gemm", code)
            for name, code, layers, sizes in (
                ("sparse attention module", "sparse_decode", own, shape),
                ("sparse attention module, reused choice", "sparse_reuse_decode", all_ - own, reuse),
            )
            if np.any(layers)
        ]

    def states(self, requests: Array, tokens: Array) -> list[Call]:
        """Return the layers that keep a state: recurrences, and the short convolutions before or instead of them."""
        arch, width = self.arch, self.width
        groups = arch.mamba_groups / kv_shares(arch.mamba_groups, width)
        recurrences = (
            ("gated delta rule", arch.linear_layers, arch.linear_key_heads, arch.linear_value_heads,
             arch.linear_key_head_dim, arch.linear_value_head_dim),
            ("Kimi delta rule", arch.kda_layers, arch.kda_heads, arch.kda_heads, arch.kda_head_dim,
             arch.kda_head_dim),
            ("state space", arch.mamba_layers, groups * width, arch.mamba_heads, arch.mamba_state,
             arch.mamba_head_dim),
            ("lightning attention", arch.lightning_layers, arch.lightning_heads, arch.lightning_heads,
             arch.lightning_head_dim, arch.lightning_head_dim),
        )  # fmt: skip
        found = []
        for name, layers, key_heads, value_heads, key_dim, value_dim in recurrences:
            shape = {
                "requests": requests, "tokens": tokens, "key_heads": key_heads / width,
                "value_heads": value_heads / width, "key_dim": key_dim, "value_dim": value_dim,
            }  # fmt: skip
            kind = LINEAR_DECODE if self.phase == "decode" else LINEAR_PREFILL
            found += self.call(name, kind, f"linear_{self.phase}", layers, shape, STATE_BITS)
        keys = arch.linear_key_heads * arch.linear_key_head_dim
        values = arch.linear_value_heads * arch.linear_value_head_dim
        inner = arch.mamba_heads * arch.mamba_head_dim + 2.0 * groups * width * arch.mamba_state
        for name, layers, channels, taps in (
            ("delta convolution", arch.linear_layers, 2.0 * keys + values, arch.linear_conv_kernel),
            (
                "Kimi convolution",
                arch.kda_layers,
                3.0 * arch.kda_heads * arch.kda_head_dim,
                arch.kda_conv_kernel,
            ),
            ("state-space convolution", arch.mamba_layers, inner, arch.mamba_conv_kernel),
            ("short convolution", arch.conv_layers, arch.hidden_size, arch.conv_kernel),
        ):
            shape = {"requests": requests, "tokens": tokens, "channels": channels / width, "kernel": taps}
            found += self.call(name, CONVOLUTION, f"convolution_{self.phase}", layers, shape, 16.0)
        return found


def _has_sparse(system: System) -> Array:
    arch = system.arch
    return np.asarray(
        arch.csa_layers + arch.hca_layers + arch.local_layers + arch.block_sparse_layers > 0, float
    )


def decode_mixer_calls(system: System, batch: Array, context: Array) -> list[Call]:
    """Return the mixers of one new token for each of `batch` requests of one rank.

    Parameters
    ----------
    system : System
    batch : ndarray
        Running requests of one attention rank.
    context : ndarray
        Mean tokens in the cache of a request.
    """
    arch, rank = system.arch, _Rank(system, "decode")
    seen = {"batch": batch, "context": context}
    plain = np.where(arch.sparse_layers > 0, 0.0, arch.mla_layers)
    latent = {
        "batch": batch, "context": context, "heads": arch.heads / rank.width, "latent_dim": arch.kv_lora_rank,
        "rope_dim": arch.qk_rope_head_dim,
    }  # fmt: skip
    sparse = {
        "flops": batch * sparse_layers.decode_flops(arch, rank.width, context),
        "bytes": batch * sparse_layers.decode_bytes(arch, rank.width, context, system.attended_bits),
    }
    return [
        *rank.softmax("attention", DECODE, False, arch.full_layers, **seen),
        *rank.softmax("window attention", DECODE, True, arch.window_layers, **seen),
        *rank.call("latent attention", LATENT_DECODE, "latent_decode", plain, latent, system.attended_bits),
        *rank.sparse_modules(batch, context),
        *rank.call("sparse attention", PLAIN, "", _has_sparse(system), sparse, system.attended_bits),
        *rank.states(batch, batch),
    ]


def prefill_mixer_calls(system: System, prompts: Array, length: Array) -> list[Call]:
    """Return the mixers over `prompts` prompts of `length` tokens on one rank, causal.

    Latent attention is expanded, and then that of grouped heads with as many KV heads as heads; where an indexer
    chooses among more keys than it keeps, it is absorbed (SGLang's dense attention up to top-k tokens, and its sparse
    kernels beyond).
    """
    arch, rank = system.arch, _Rank(system, "prefill")
    nothing = np.zeros_like(length)
    new = {"prompts": prompts, "new_tokens": length, "prefix_tokens": nothing}
    heads = arch.heads / rank.width
    latent = {
        **new, "heads": heads, "kv_heads": heads, "head_dim": arch.qk_nope_head_dim + arch.qk_rope_head_dim,
        "v_head_dim": arch.v_head_dim, "window": np.full_like(heads, np.inf),
    }  # fmt: skip
    chooses = (arch.sparse_layers > 0) & (length > arch.index_topk)
    rope, rank_dim = arch.qk_rope_head_dim, arch.kv_lora_rank
    pairs = causal_pairs(length, nothing, np.maximum(arch.index_topk, 1.0))
    absorbed = 2.0 * rank_dim + rope
    chosen = {
        "flops": 2.0 * prompts * np.maximum(heads, CHOSEN_KEY_HEADS) * absorbed * pairs,
        "bytes": prompts
        * length
        * (system.attended_bits / 8.0 * (rank_dim + rope) + WIDE_BYTES * heads * absorbed),
    }
    indexer = {
        "flops": prompts * arch.index_heads * arch.index_head_dim * length**2,
        "bytes": prompts * length * arch.index_head_dim,
    }
    sparse = {
        "flops": prompts * sparse_layers.prefill_flops(arch, rank.width, length),
        "bytes": nothing * prompts,
    }
    return [
        *rank.softmax("attention", PREFILL, False, arch.full_layers, **new),
        *rank.softmax("window attention", PREFILL, True, arch.window_layers, **new),
        *rank.call(
            "latent attention",
            PREFILL,
            "attention_prefill",
            arch.mla_layers * ~chooses,
            latent,
            system.attended_bits,
        ),
        *rank.call(
            "latent attention to chosen keys",
            PLAIN,
            "",
            arch.mla_layers * chooses,
            chosen,
            system.attended_bits,
        ),
        *rank.call("indexer", PLAIN, "", arch.sparse_layers, indexer, 8.0),
        *rank.call("sparse attention", PLAIN, "", _has_sparse(system), sparse, system.attended_bits),
        *rank.states(prompts, prompts * length),
    ]
