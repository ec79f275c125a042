"""From a Hugging Face `config.json` to an `Architecture`.

A kind of layer that the cost model does not compute is refused by its name; nothing is read as a plain
transformer because its keys happen to be there. What a class leaves unsaid stands in `model_types.toml`.
"""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from aicalib.errors import InvalidValue, NotCovered
from aicalib.models import feed_forward
from aicalib.models.architecture import Architecture
from aicalib.models.checkpoint import weight_formats
from aicalib.models.reader import Reader

Config = Mapping[str, Any]

_TEXT_PARTS = ("text_config", "language_config", "llm_config")
_LAYER_KINDS = {
    "full_attention": "full",
    "sliding_attention": "window",
    "chunked_attention": "window",
    "linear_attention": "linear",
}
_LATENT_KINDS = {"full_attention", "deepseek_sparse_attention"}


def architecture_from_config(
    config: Config, name: str, *, hf_id: str = "", family: str = "", source: str = ""
) -> Architecture:
    """Read an architecture from the content of a `config.json`.

    Parameters
    ----------
    config : mapping
        The parsed file, in any of the forms in use: flat, or with the language model nested.
    name : str
        Name of the result, used in messages.
    hf_id, family, source : str
        Handed on; `family` is the name where it is empty.

    Returns
    -------
    Architecture
        The language model alone; a note says so where the file describes more.

    Raises
    ------
    NotCovered
        The model holds a kind of layer that the cost model does not compute, or a model type it does not
        know; the message names both.
    InvalidValue
        A key is missing or holds a wrong value; the message names it.
    """
    text, model_type = _text_part(config, name)
    traits = _traits(config, text, model_type, name)
    read = Reader(name, text, traits.get("defaults", {}))
    notes = []
    if text is not config or "vision_config" in config or "audio_config" in config:
        notes.append("language model only: encoders of images or sound are left out")
    layers = read.integer("num_hidden_layers")
    attention = _attention(read, traits, layers)
    feed = (
        feed_forward.blocks(read, layers)
        if traits.get("blocks")
        else feed_forward.parts(read, traits, layers)
    )
    dense, routed, assumed = weight_formats(config, text, experts=feed.get("moe_layers", 0) > 0)
    return Architecture(
        name=name,
        hf_id=hf_id,
        family=family or name,
        source=source,
        notes=(*notes, *assumed),
        hidden_size=read.integer("hidden_size"),
        num_layers=layers,
        vocab_size=read.integer("vocab_size"),
        tied_embeddings=_tied(config, text, traits),
        max_position=read.integer("max_position_embeddings", default=0),
        norms_per_layer=traits.get("norms_per_layer", 2),
        mtp_layers=_prediction_layers(read),
        weight_format=dense,
        expert_weight_format=routed,
        **{**attention, **feed},
    )


def load_config(path: str | Path) -> dict[str, Any]:
    """Read a `config.json`, given the file or the folder that holds it.

    A folder's `hf_quant_config.json` (NVIDIA ModelOpt) stands in for a missing `quantization_config`.

    Raises
    ------
    InvalidValue
        There is no such file, or it is not a JSON object.
    """
    file = Path(path) / "config.json" if Path(path).is_dir() else Path(path)
    config = _json_object(file)
    beside = file.with_name("hf_quant_config.json")
    if "quantization_config" not in config and beside.is_file():
        config["quantization_config"] = {
            "quant_method": "modelopt",
            **_json_object(beside).get("quantization", {}),
        }
    return config


def _json_object(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidValue(f"there is no {file.name} in {file.parent}") from None
    except (OSError, ValueError) as error:
        raise InvalidValue(f"cannot read {file}: {error}") from error
    if not isinstance(content, dict):
        raise InvalidValue(f"{file} is not a JSON object")
    return content


@cache
def _model_types() -> dict[str, Any]:
    return tomllib.loads(files("aicalib.models").joinpath("model_types.toml").read_text(encoding="utf-8"))


def _text_part(config: Config, name: str) -> tuple[Config, str]:
    part = next((config[key] for key in _TEXT_PARTS if isinstance(config.get(key), Mapping)), config)
    outer = str(config.get("model_type") or "")
    model_type = str(part.get("model_type") or _model_types()["wrappers"].get(outer, outer))
    if not model_type:
        raise InvalidValue(f"{name}: the configuration has no 'model_type'")
    return part, model_type


def _traits(config: Config, text: Config, model_type: str, name: str) -> dict[str, Any]:
    """Return the traits of a covered model type, or refuse by the kind."""
    table = _model_types()
    outer = str(config.get("model_type") or "")
    kind = table["refused"].get(model_type) or table["refused"].get(outer)
    kind = kind or next((what for key, what in table["refused_keys"].items() if text.get(key)), None)
    if kind:
        raise NotCovered(f"{name}: not computed: {kind} (model_type '{model_type}')")
    traits = table["covered"].get(model_type)
    if traits is None:
        raise NotCovered(
            f"{name}: model_type '{model_type}' is not one whose layers are known here",
            alternatives=sorted(table["covered"]),
        )
    return dict(traits)


def _tied(config: Config, text: Config, traits: Config) -> bool:
    stated = next(
        (part["tie_word_embeddings"] for part in (text, config) if "tie_word_embeddings" in part), None
    )
    return bool(traits.get("tied", False) if stated is None else stated)


def _prediction_layers(read: Reader) -> int:
    if read.get("num_mtp_modules") is not None and "num_nextn_predict_layers" not in read.values:
        return read.integer("num_mtp_modules") if read.get("use_mtp", True) else 0
    return read.integer("num_nextn_predict_layers", "mtp_num_hidden_layers", default=0)


def _attention(read: Reader, traits: Config, layers: int) -> dict[str, Any]:
    heads = read.integer("num_attention_heads")
    if read.get("kv_lora_rank") and read.get("use_mla", True):
        return {"heads": heads, **_latent(read, layers)}
    kinds = _layer_kinds(read, traits, layers)
    head_dim = read.integer("head_dim", default=0) or _quotient(read, "hidden_size", "num_attention_heads")
    bias = traits.get("attention_bias", "") if read.get("attention_bias") else ""
    values: dict[str, Any] = {
        "heads": heads,
        "kv_heads": read.integer("num_key_value_heads", default=heads),
        "head_dim": head_dim,
        "v_head_dim": read.integer("v_head_dim", default=0) or head_dim,
        "full_layers": kinds["full"],
        "window_layers": kinds["window"],
        "linear_layers": kinds["linear"],
        "attention_gate": bool(read.get("attn_output_gate", False)),
        "qkv_bias": bool(traits.get("qkv_bias") or bias),
        "o_bias": bias == "qkvo",
        "attention_sinks": bool(traits.get("attention_sinks", False)),
        "qk_norm": _qk_norm(read, traits),
    }
    if kinds["window"]:
        values["window"] = read.integer(
            "attention_chunk_size" if traits.get("window") == "chunked" else "sliding_window"
        )
    if kinds["linear"]:
        values.update(
            linear_key_heads=read.integer("linear_num_key_heads"),
            linear_value_heads=read.integer("linear_num_value_heads"),
            linear_key_head_dim=read.integer("linear_key_head_dim"),
            linear_value_head_dim=read.integer("linear_value_head_dim"),
            linear_conv_kernel=read.integer("linear_conv_kernel_dim"),
        )
    return values


def _quotient(read: Reader, over: str, under: str) -> int:
    whole, rest = divmod(read.integer(over), read.integer(under))
    if rest:
        raise InvalidValue(f"{read.name}: {over} is not a multiple of {under}, and head_dim is missing")
    return whole


def _qk_norm(read: Reader, traits: Config) -> str:
    rule = str(traits.get("qk_norm", ""))
    if rule != "config":
        return rule
    if not read.get("use_qk_norm", False):
        return ""
    return "layer" if read.get("qk_norm_type", "per_head") == "per_layer" else "head"


def _latent(read: Reader, layers: int) -> dict[str, int]:
    _refuse_others(read, read.listed("layer_types", layers), _LATENT_KINDS)
    values = {
        "mla_layers": layers,
        "q_lora_rank": read.integer("q_lora_rank", default=0),
        "kv_lora_rank": read.integer("kv_lora_rank"),
        "qk_nope_head_dim": read.integer("qk_nope_head_dim"),
        "qk_rope_head_dim": read.integer("qk_rope_head_dim"),
        "v_head_dim": read.integer("v_head_dim"),
    }
    if read.get("index_topk"):
        indexers = read.listed("indexer_types", layers)
        values.update(
            sparse_layers=layers if indexers is None else indexers.count("full"),
            index_heads=read.integer("index_n_heads"),
            index_head_dim=read.integer("index_head_dim"),
            index_topk=read.integer("index_topk"),
        )
    return values


def _layer_kinds(read: Reader, traits: Config, layers: int) -> Counter[str]:
    """Count the softmax layers with and without a window, and the linear ones."""
    listed = read.listed("layer_types", layers)
    if listed is not None:
        _refuse_others(read, listed, _LAYER_KINDS.keys())
        return Counter(_LAYER_KINDS[kind] for kind in listed)
    if read.get("linear_num_value_heads"):
        full = layers // read.integer("full_attention_interval")
        return Counter(full=full, linear=layers - full)
    windowed = _windowed_layers(read, traits, layers)
    return Counter(full=layers - windowed, window=windowed)


def _refuse_others(read: Reader, listed: Iterable[Any] | None, known: Set[str]) -> None:
    strange = sorted({str(kind) for kind in listed or ()} - known)
    if strange:
        raise NotCovered(f"{read.name}: not computed: layers of kind {', '.join(strange)}")


def _windowed_layers(read: Reader, traits: Config, layers: int) -> int:
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
