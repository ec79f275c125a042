"""The mixing half of a `config.json`: softmax, latent, compressed, linear and state-space layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from aicalib.errors import InvalidValue, NotCovered
from aicalib.models.layers import compressed_kinds, layer_kinds
from aicalib.models.reader import Reader

Traits = Mapping[str, Any]


def mixers(read: Reader, traits: Traits, layers: int) -> dict[str, Any]:
    """Return the fields of an `Architecture` that say how tokens mix.

    Parameters
    ----------
    read : Reader
    traits : mapping
        Of the model type.
    layers : int

    Raises
    ------
    NotCovered
        A layer is of a kind that the cost model does not compute.
    InvalidValue
        A key is missing or wrong.
    """
    if read.get("compress_ratios") is not None:
        return _compressed(read, layers)
    kinds = layer_kinds(read, traits, layers)
    count = Counter(kinds)
    latent = bool(read.get("kv_lora_rank")) and bool(read.get("use_mla", True))
    values = _latent(read, count["full"]) if latent else _softmax(read, traits, kinds)
    if latent and (count["window"] or count["block_sparse"]):
        raise NotCovered(f"{read.name}: not computed: windows beside latent attention")
    if count["linear"]:
        values |= _LINEAR[traits.get("linear", "delta")](read, count["linear"])
    if count["mamba"]:
        values |= _state_space(read, count["mamba"])
    if count["conv"]:
        values |= {"conv_layers": count["conv"], "conv_kernel": read.integer("conv_L_cache")}
    return values


def _softmax(read: Reader, traits: Traits, kinds: list[str]) -> dict[str, Any]:
    count = Counter(kinds)
    bias = traits.get("attention_bias", "") if read.get("attention_bias") else ""
    gate = traits.get("gate") and read.get("gating", True)
    per_head = gate is True or gate == "per-head"
    values: dict[str, Any] = {
        **_full_heads(read, kinds),
        "full_layers": count["full"],
        "attention_gate": bool(read.get("attn_output_gate", False)) or bool(gate and not per_head),
        "head_gate": per_head,
        "qkv_bias": bool(traits.get("qkv_bias") or bias),
        "o_bias": bias == "qkvo" or bool(traits.get("o_bias")),
        "attention_sinks": bool(traits.get("attention_sinks", False)),
        "shared_kv_projection": bool(read.get("attention_k_eq_v", False)),
        "qk_norm": _qk_norm(read, traits),
    }
    if count["window"]:
        values |= _window(read, traits, kinds, values)
    if count["block_sparse"]:
        values |= _block_sparse(read, count["block_sparse"])
    shared = read.integer("num_kv_shared_layers", default=0)
    if shared:
        reused = Counter(kinds[-shared:])
        values |= {"reused_full_layers": reused["full"], "reused_window_layers": reused["window"]}
    return values


def _full_heads(read: Reader, kinds: list[str]) -> dict[str, int]:
    heads = _heads_of(read, kinds, "full") or read.integer("num_attention_heads")
    head_dim = read.integer("global_head_dim", "head_dim", "attention_head_dim", default=0)
    if not head_dim:
        head_dim, rest = divmod(read.integer("hidden_size"), heads)
        if rest:
            raise InvalidValue(
                f"{read.name}: hidden_size is not a multiple of num_attention_heads, and head_dim is missing"
            )
    return {
        "heads": heads,
        "kv_heads": read.integer(
            "num_global_key_value_heads", "num_key_value_heads", "num_attention_groups", default=heads
        ),
        "head_dim": head_dim,
        "v_head_dim": read.integer("v_head_dim", default=0) or head_dim,
    }


def _heads_of(read: Reader, kinds: list[str], kind: str) -> int:
    """Return the query heads of one kind of layer where the file lists them by layer, else 0."""
    listed = read.listed("num_attention_heads_per_layer", len(kinds))
    if listed is None:
        return 0
    found = {heads for heads, each in zip(listed, kinds, strict=True) if each == kind}
    if len(found) > 1:
        raise NotCovered(f"{read.name}: not computed: query heads that differ among {kind} layers")
    return int(found.pop()) if found else 0


def _window(read: Reader, traits: Traits, kinds: list[str], full: Mapping[str, Any]) -> dict[str, int]:
    """Return the fields of window layers; what the file does not say is as in full layers."""
    other = read.within("attention_other_setting")
    listed = _heads_of(read, kinds, "window")
    same = full["head_dim"] if read.get("global_head_dim") is None else read.integer("head_dim")
    head_dim = read.integer("swa_head_dim", default=0) or other.integer("head_dim", default=same)
    values = full["v_head_dim"] if full["v_head_dim"] != full["head_dim"] else head_dim
    kv_heads = read.integer("swa_num_key_value_heads", "num_key_value_heads", default=full["kv_heads"])
    return {
        "window_layers": Counter(kinds)["window"],
        "window": read.integer(
            "attention_chunk_size" if traits.get("window") == "chunked" else "sliding_window"
        ),
        "window_heads": listed
        or read.integer("swa_num_attention_heads", "num_sliding_attention_heads", default=0)
        or other.integer("num_attention_heads", default=full["heads"]),
        "window_kv_heads": other.integer("num_attention_groups", default=kv_heads),
        "window_head_dim": head_dim,
        "window_v_head_dim": read.integer("swa_v_head_dim", default=values),
    }


def _block_sparse(read: Reader, layers: int) -> dict[str, int]:
    inner = read.within("sparse_attention_config")
    block = inner.integer("sparse_block_size")
    return {
        "block_sparse_layers": layers,
        "index_block": block,
        "index_heads": inner.integer("sparse_num_index_heads"),
        "index_head_dim": inner.integer("sparse_index_dim"),
        "index_topk": inner.integer("sparse_topk_blocks") * block,
    }


def _qk_norm(read: Reader, traits: Traits) -> str:
    rule = str(traits.get("qk_norm", ""))
    if rule != "config":
        return rule
    if not read.get("use_qk_norm", False):
        return ""
    return "layer" if read.get("qk_norm_type", "per_head") == "per_layer" else "head"


def _latent(read: Reader, layers: int) -> dict[str, Any]:
    values: dict[str, Any] = {
        "heads": read.integer("num_attention_heads"),
        "mla_layers": layers,
        "q_lora_rank": read.integer("q_lora_rank", default=0),
        "kv_lora_rank": read.integer("kv_lora_rank"),
        "qk_nope_head_dim": read.integer("qk_nope_head_dim"),
        "qk_rope_head_dim": read.integer("qk_rope_head_dim"),
        "v_head_dim": read.integer("v_head_dim"),
        "attention_gate": bool(read.get("mla_use_output_gate", False)),
    }
    if read.get("index_topk"):
        indexers = read.listed("indexer_types", layers)
        values |= {
            "sparse_layers": layers if indexers is None else indexers.count("full"),
            "index_heads": read.integer("index_n_heads"),
            "index_head_dim": read.integer("index_head_dim"),
            "index_topk": read.integer("index_topk"),
        }
    return values


def _compressed(read: Reader, layers: int) -> dict[str, int]:
    """Return DeepSeek-V4's fields: one head that is key and value, shared by all query heads."""
    head_dim = read.integer("head_dim")
    return {
        **compressed_kinds(read, layers),
        "heads": read.integer("num_attention_heads"),
        "kv_heads": read.integer("num_key_value_heads"),
        "head_dim": head_dim,
        "v_head_dim": head_dim,
        "qk_rope_head_dim": read.integer("qk_rope_head_dim"),
        "q_lora_rank": read.integer("q_lora_rank"),
        "o_groups": read.integer("o_groups"),
        "o_lora_rank": read.integer("o_lora_rank"),
        "window": read.integer("sliding_window"),
        "index_heads": read.integer("index_n_heads"),
        "index_head_dim": read.integer("index_head_dim"),
        "index_topk": read.integer("index_topk"),
        "hyper_connections": read.integer("hc_mult", default=0),
    }


def _delta(read: Reader, layers: int) -> dict[str, int]:
    return {
        "linear_layers": layers,
        "linear_key_heads": read.integer("linear_num_key_heads"),
        "linear_value_heads": read.integer("linear_num_value_heads"),
        "linear_key_head_dim": read.integer("linear_key_head_dim"),
        "linear_value_head_dim": read.integer("linear_value_head_dim"),
        "linear_conv_kernel": read.integer("linear_conv_kernel_dim"),
    }


def _kimi_delta(read: Reader, layers: int) -> dict[str, int]:
    inner = read.within("linear_attn_config")
    head_dim = inner.integer("head_dim")
    return {
        "kda_layers": layers,
        "kda_heads": inner.integer("num_heads"),
        "kda_head_dim": head_dim,
        "kda_conv_kernel": inner.integer("short_conv_kernel_size"),
        "kda_forget_rank": head_dim,
        "kda_gate_rank": 0 if inner.get("use_full_rank_gate", False) else head_dim,
    }


def _lightning(read: Reader, layers: int) -> dict[str, int]:
    return {
        "lightning_layers": layers,
        "lightning_heads": read.integer("num_attention_heads"),
        "lightning_head_dim": read.integer("head_dim"),
    }


_LINEAR = {"delta": _delta, "kimi": _kimi_delta, "lightning": _lightning}


def _state_space(read: Reader, layers: int) -> dict[str, int]:
    return {
        "mamba_layers": layers,
        "mamba_heads": read.integer("mamba_num_heads", "mamba_n_heads"),
        "mamba_head_dim": read.integer("mamba_head_dim", "mamba_d_head"),
        "mamba_state": read.integer("ssm_state_size", "mamba_d_state"),
        "mamba_groups": read.integer("n_groups", "mamba_n_groups"),
        "mamba_conv_kernel": read.integer("conv_kernel", "mamba_d_conv"),
    }
