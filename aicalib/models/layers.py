"""Which kind of mixer each layer of a `config.json` has, from whichever of its many forms is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from aicalib.errors import InvalidValue, NotCovered
from aicalib.models.reader import Reader

Traits = Mapping[str, Any]

_KINDS = {
    "full_attention": "full",
    "attention": "full",
    "deepseek_sparse_attention": "full",
    "sliding_attention": "window",
    "chunked_attention": "window",
    "linear_attention": "linear",
    "conv": "conv",
    "mamba": "mamba",
    "minimax_m3_sparse": "block_sparse",
    "mlp": "dense",
    "moe": "moe",
}
_LETTERS = {"M": "mamba", "*": "full", "E": "moe", "-": "dense"}
"""Letters of Nemotron-H's `hybrid_override_pattern`."""


def number_of_layers(read: Reader) -> int:
    """Return `num_hidden_layers`, which Nemotron-H may leave to the length of its list of blocks."""
    blocks = read.get("layers_block_type")
    return read.integer("num_hidden_layers", default=len(blocks) if isinstance(blocks, list) else None)


def layer_kinds(read: Reader, traits: Traits, layers: int) -> list[str]:
    """Return the kind of each layer.

    Returns
    -------
    list of str
        "full", "window", "linear", "conv", "mamba", "block_sparse"; in an architecture with one part a
        layer also "dense" and "moe".

    Raises
    ------
    NotCovered
        A layer is of a kind that the cost model does not compute.
    InvalidValue
        A key is missing or wrong.
    """
    for key in ("layers_block_type", "layer_types"):
        listed = read.listed(key, layers)
        if listed is not None:
            return _named(read, listed)
    pattern = read.get("hybrid_override_pattern")
    if pattern is not None:
        return _letters(read, str(pattern), layers)
    for key, other in (("hybrid_layer_pattern", "window"), ("attn_type_list", "")):
        flags = read.listed(key, layers)
        if flags is not None:
            return [(other or "full") if flag else ("full" if other else "linear") for flag in flags]
    if read.get("full_attn_idxs") is not None:
        return ["full" if layer in read.get("full_attn_idxs") else "conv" for layer in range(layers)]
    if read.get("linear_attn_config"):
        linear = set(read.within("linear_attn_config").get("kda_layers") or ())
        # The checkpoint counts its layers from 1.
        return ["linear" if layer + 1 in linear else "full" for layer in range(layers)]
    if read.get("sparse_attention_config"):
        flags = read.within("sparse_attention_config").listed("sparse_attention_freq", layers)
        return ["block_sparse" if flag else "full" for flag in flags or ()]
    if read.get("linear_num_value_heads"):
        full = layers // read.integer("full_attention_interval")
        return ["full"] * full + ["linear"] * (layers - full)
    windowed = _windowed_layers(read, traits, layers)
    return ["full"] * (layers - windowed) + ["window"] * windowed


def compressed_kinds(read: Reader, layers: int) -> dict[str, int]:
    """Return DeepSeek-V4's layers from `compress_ratios`: 0 is a window alone, 4 has an indexer."""
    ratios = read.listed("compress_ratios", layers)
    if ratios is None:
        raise InvalidValue(f"{read.name}: the configuration has no 'compress_ratios'")
    count = Counter(ratios)
    heavy = sorted(ratio for ratio in count if ratio not in {0, 4})
    if len(heavy) > 1:
        raise NotCovered(
            f"{read.name}: not computed: compression by {', '.join(map(str, heavy))} in one model"
        )
    return {
        "local_layers": count[0],
        "csa_layers": count[4],
        "csa_ratio": 4 if count[4] else 0,
        "hca_layers": count[heavy[0]] if heavy else 0,
        "hca_ratio": heavy[0] if heavy else 0,
    }


def _named(read: Reader, listed: list[Any]) -> list[str]:
    strange = sorted({str(kind) for kind in listed} - _KINDS.keys())
    if strange:
        raise NotCovered(f"{read.name}: not computed: layers of kind {', '.join(strange)}")
    return [_KINDS[kind] for kind in listed]


def _letters(read: Reader, pattern: str, layers: int) -> list[str]:
    if len(pattern) != layers or not set(pattern) <= _LETTERS.keys():
        raise InvalidValue(
            f"{read.name}: 'hybrid_override_pattern' is not one of {', '.join(_LETTERS)} for each of {layers} layers"
        )
    return [_LETTERS[letter] for letter in pattern]


def _windowed_layers(read: Reader, traits: Traits, layers: int) -> int:
    rule = traits.get("window", "")
    if rule == "chunked":
        return layers - layers // read.integer("no_rope_layer_interval")
    if not rule or read.get("sliding_window") is None:
        return 0
    if rule == "flag":
        return (
            layers - min(layers, read.integer("max_window_layers")) if read.get("use_sliding_window") else 0
        )
    if rule == "alternate":
        return (layers + 1) // 2
    if rule == "pattern":
        return layers - layers // read.integer("sliding_window_pattern")
    return layers
