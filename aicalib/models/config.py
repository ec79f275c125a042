"""From a Hugging Face `config.json` to an `Architecture`.

A kind of layer that the cost model does not compute is refused by its name; nothing is read as a plain
transformer because its keys happen to be there. What a class leaves unsaid stands in `model_types.toml`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from aicalib.errors import InvalidValue, NotCovered
from aicalib.models import feed_forward
from aicalib.models.architecture import Architecture
from aicalib.models.attention import mixers
from aicalib.models.checkpoint import weight_formats
from aicalib.models.layers import number_of_layers
from aicalib.models.reader import Reader
from aicalib.quant.checkpoint import json_object, with_modelopt

Config = Mapping[str, Any]

_TEXT_PARTS = ("text_config", "language_config", "llm_config")


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
    layers = number_of_layers(read)
    attention = mixers(read, traits, layers)
    feed = (
        feed_forward.blocks(read, layers)
        if traits.get("blocks")
        else feed_forward.parts(read, traits, layers)
    )
    dense, routed, assumed = weight_formats(config, experts=feed.get("moe_layers", 0) > 0)
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
        norms_per_layer=_norms(read, traits),
        per_layer_embedding=read.integer("hidden_size_per_layer_input", default=0),
        mtp_layers=_prediction_layers(read),
        weight_format=dense,
        expert_weight_format=routed,
        **{**attention, **feed},
    )


def load_config(path: str | Path) -> dict[str, Any]:
    """Read a `config.json`, given the file or the folder that holds it.

    What NVIDIA ModelOpt writes into `hf_quant_config.json` beside it fills a missing `quantization_config`.

    Raises
    ------
    InvalidValue
        There is no such file, it is not a JSON object, or the two files contradict each other.
    """
    file = Path(path) / "config.json" if Path(path).is_dir() else Path(path)
    return with_modelopt(json_object(file), file.parent)


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
    traits = table["covered"].get(model_type)
    reads = (traits or {}).get("reads", ())
    tells = (what for key, what in table["refused_keys"].items() if text.get(key) and key not in reads)
    kind = table["refused"].get(model_type) or table["refused"].get(outer) or next(tells, None)
    if kind:
        raise NotCovered(f"{name}: not computed: {kind} (model_type '{model_type}')")
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


def _norms(read: Reader, traits: Config) -> int:
    """Return the vectors of the hidden size a layer, with those that some options of a class add."""
    if read.get("attn_res_block_size") is not None:
        return 6  # Each of two parts norms and weighs the residuals of earlier blocks.
    per_layer = int(traits.get("norms_per_layer", 2))
    # Experts beside the dense part have norms of their own, and their router a scale.
    per_layer += 4 if read.get("enable_moe_block", False) else 0
    return per_layer + (1 if read.get("hidden_size_per_layer_input", 0) else 0)


def _prediction_layers(read: Reader) -> int:
    if read.get("num_mtp_modules") is not None and "num_nextn_predict_layers" not in read.values:
        return read.integer("num_mtp_modules") if read.get("use_mtp", True) else 0
    return read.integer("num_nextn_predict_layers", "mtp_num_hidden_layers", default=0)
