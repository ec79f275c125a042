"""The feed-forward half of a `config.json`: which layers hold experts, and how wide each part is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from aicalib.errors import InvalidValue, NotCovered
from aicalib.models.layers import layer_kinds
from aicalib.models.reader import Reader

_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_SHARED = (
    "shared_expert_intermediate_size",
    "shared_intermediate_size",
    "moe_shared_expert_intermediate_size",
    "share_expert_dim",
)
_PER_TOKEN = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "experts_per_token",
    "moe_top_k",
    "top_k_experts",
)


def parts(read: Reader, traits: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """Return the feed-forward fields of an `Architecture`.

    Parameters
    ----------
    read : Reader
    traits : mapping
        Of the model type.
    layers : int

    Raises
    ------
    InvalidValue
        A key is missing or wrong.
    """
    experts = read.integer(*_EXPERTS, default=0)
    matrices = {"ffn_matrices": int(traits.get("ffn_matrices", 3))}
    kinds = Counter(layer_kinds(read, traits, layers)) if traits.get("one_part_a_layer") else None
    if not experts:
        dense = layers if kinds is None else kinds["dense"]
        return {"dense_layers": dense, "intermediate_size": _dense_width(read, traits, layers), **matrices}
    moe_layers = _expert_layers(read, layers) if kinds is None else kinds["moe"]
    dense_layers = layers - moe_layers if kinds is None else kinds["dense"]
    width = read.integer(traits.get("expert_width", "moe_intermediate_size"))
    values: dict[str, Any] = {
        **matrices,
        "dense_layers": dense_layers,
        "moe_layers": moe_layers,
        "num_experts": experts,
        "experts_per_token": read.integer(*_PER_TOKEN),
        "moe_intermediate_size": width,
        "moe_latent_size": read.integer("moe_latent_size", "routed_expert_hidden_size", default=0),
        "shared_intermediate_size": _shared_width(read, traits, width),
        "router_bias": bool(
            traits.get("router_bias")
            or read.get("use_routing_bias")
            or read.get("use_expert_bias")
            or read.get("topk_method") == "noaux_tc"
        ),
        "expert_bias": bool(traits.get("expert_bias", False)),
    }
    if dense_layers:
        values["intermediate_size"] = _dense_width(read, traits, layers)
    return values


def _dense_width(read: Reader, traits: Mapping[str, Any], layers: int) -> float:
    """Return the width of a dense part, the mean where layers that reuse keys and values have twice it."""
    width = read.integer(*traits.get("dense_width", ("intermediate_size",)))
    if traits.get("adjusted_width") and read.get("block_auto_adjust_ff_dim"):
        multiple = read.integer("block_multiple_of")
        width = int(2 * width / 3 * (read.get("block_ffn_dim_multiplier") or 1.0))
        width = -(-width // multiple) * multiple
    double = read.integer("num_kv_shared_layers", default=0) if read.get("use_double_wide_mlp") else 0
    return width * (layers + double) / layers


def _shared_width(read: Reader, traits: Mapping[str, Any], expert_width: int) -> int:
    if read.get("enable_moe_block"):
        return read.integer("intermediate_size")
    stated = read.integer(*_SHARED, default=0)
    if stated:
        return stated
    shared = read.integer("n_shared_experts", "num_shared_experts", default=traits.get("shared_experts", 0))
    return shared * expert_width


def _expert_layers(read: Reader, layers: int) -> int:
    """Count the layers with experts, by whichever of the keys in use is there."""
    kinds = read.listed("mlp_layer_types", layers)
    if kinds is not None:
        return kinds.count("sparse")
    if isinstance(read.get("moe_layer_freq"), list):
        return sum(bool(each) for each in read.listed("moe_layer_freq", layers) or ())
    if isinstance(read.get("moe_layers"), list):
        return len(read.get("moe_layers"))
    if isinstance(read.get("moe_layers_enum"), str):
        return len(read.get("moe_layers_enum").split(","))
    if read.get("interleave_moe_layer_step") is not None:
        return layers // read.integer("interleave_moe_layer_step")
    first = read.integer("first_k_dense_replace", "num_dense_layers", default=0)
    every = read.integer("moe_layer_freq", default=1) or 1
    step = read.integer("decoder_sparse_step", default=1) or 1
    dense = set(read.get("mlp_only_layers") or ())
    return sum(
        layer >= first and layer % every == 0 and (layer + 1) % step == 0 and layer not in dense
        for layer in range(layers)
    )


def blocks(read: Reader, layers: int) -> dict[str, Any]:
    """Return the fields of a searched architecture, whose blocks differ in width (NVIDIA's Puzzle).

    Widths and key/value heads become their means, so that totals are exact; a block without attention has no
    attention layer.

    Notes
    -----
    The width of a block is 2 / 3 of `ffn_mult` hidden sizes, rounded up to a multiple of 256.

    Raises
    ------
    NotCovered
        Blocks replace a part by another kind.
    InvalidValue
        A key is missing or wrong.
    """
    configured = read.listed("block_configs", layers)
    if configured is None:
        raise InvalidValue(f"{read.name}: the configuration has no 'block_configs'")
    attention = [block["attention"] for block in configured if not block["attention"].get("no_op")]
    feed = [block["ffn"] for block in configured if not block["ffn"].get("no_op")]
    for part in (*attention, *feed):
        strange = [key for key in ("replace_with_linear", "sparsify", "window_length") if part.get(key)]
        if strange:
            raise NotCovered(f"{read.name}: blocks with {', '.join(strange)} are not computed")
    heads = read.integer("num_attention_heads")
    kv_heads = [heads // part["n_heads_in_group"] for part in attention]
    hidden = read.integer("hidden_size")
    widths = [-(-int(2 * part["ffn_mult"] * hidden / 3) // 256) * 256 for part in feed]
    return {
        "full_layers": len(attention),
        "kv_heads": sum(kv_heads) / len(kv_heads),
        "dense_layers": len(feed),
        "intermediate_size": sum(widths) / len(widths),
    }
