"""What a checkpoint already is: its formats, read from its configuration and from the headers of its weight files.

Nothing is guessed: a method, width or file that is not recognized ends in an error that names it, and what a mode
leaves out stands in a note.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aicalib.errors import InvalidValue, NotCovered, UnknownName
from aicalib.quant.declared import Declared, Setting, declared, tables, unwrapped
from aicalib.quant.headers import Tensor, gguf_header, safetensors_header
from aicalib.quant.modes import SIXTEEN_BIT, GEMMQuantMode, KVCacheQuantMode, MoEQuantMode
from aicalib.quant.names import ParsedMode, parse_mode
from aicalib.quant.schemes import keep_out, names_experts, split
from aicalib.quant.tensors import gguf_formats, stored_formats

_MODELOPT_FILES = ("hf_quant_config.json", "quant_cfg.json")
"""What NVIDIA ModelOpt writes beside a configuration: the algorithm, and the layers of a mixed one."""


@dataclass(frozen=True)
class Checkpoint:
    """The formats of a checkpoint.

    Parameters
    ----------
    method : str or None
        What engines call it: "awq", "gptq", "fp8", "mxfp8", "fbgemm_fp8", "compressed-tensors", "modelopt" (all
        but those), "modelopt_fp4", "modelopt_mxfp8", "modelopt_mixed", "mxfp4", "w4afp8", "gguf", "auto-round",
        "bitsandbytes", "quark", "torchao", ...; None where no file names one, as in 16-bit checkpoints.
    gemm : ParsedMode or None
        Dense linear layers; None where no file tells.
    moe : ParsedMode or None
        Routed experts; None in a dense model, or where no file tells.
    kvcache : ParsedMode or None
        Keys and values that it holds scales for; None leaves them to the engine.
    ignored : tuple of str
        Names and patterns of the layers left in 16 bits.
    evidence : str
        Where it was read.
    notes : tuple of str
        What a mode leaves out, and limits.
    settings : mapping
        What engines look at besides the method: bits, group_size, sym, desc_act, zero_point, quant_algo, format,
        model_type, bits_per_weight, ...; those that the files hold.
    """

    method: str | None
    gemm: ParsedMode[GEMMQuantMode] | None
    moe: ParsedMode[MoEQuantMode] | None
    kvcache: ParsedMode[KVCacheQuantMode] | None
    ignored: tuple[str, ...] = ()
    evidence: str = ""
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Setting] = field(default_factory=dict)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read what a model folder or one of its files is.

    Parameters
    ----------
    path : str or Path
        A folder, or a `.gguf`, `.safetensors`, `config.json` or `hf_quant_config.json` file. Headers of weight
        files are read, never their tensors.

    Raises
    ------
    InvalidValue
        If a file is missing, damaged, or two files contradict each other.
    UnknownName, NotCovered
        For a method or format that is unknown, or that no mode stores.

    Notes
    -----
    In a folder `config.json` decides, `hf_quant_config.json` and `quant_cfg.json` fill what it leaves out, and the
    headers are checked against it; where no file names a method, the headers are the only evidence.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise InvalidValue(
            f"there is no {path}", ["a model folder, a .gguf, .safetensors or config.json file"]
        )
    if path.suffix == ".gguf":
        return _gguf([path])
    if path.suffix == ".safetensors":
        return _weights_alone(safetensors_header(path), path.name)
    if path.suffix == ".json":
        content = json_object(path)
        if path.name == "hf_quant_config.json" or "producer" in content:
            beside = path.with_name("config.json")
            model = json_object(beside) if beside.is_file() else {}
            return replace(checkpoint_of(_merged(model, content)), evidence=path.name)
        return replace(checkpoint_of(content), evidence=path.name)
    raise InvalidValue(f"{path.name} is no file of a model", [".gguf", ".safetensors", "config.json"])


def checkpoint_of(config: Mapping[str, Any], *, experts: bool | None = None) -> Checkpoint:
    """Read the content of a `config.json`, or of a `quantization_config` or `hf_quant_config.json` alone.

    Parameters
    ----------
    config : mapping
        The parsed file.
    experts : bool, optional
        The model has experts. Default: told by its keys, or by layers that the quantization names.

    Raises
    ------
    InvalidValue, UnknownName, NotCovered
        As :func:`read_checkpoint`.
    """
    text = text_part(config)
    base, notes = _base(config, text)
    quantization = quantization_of(config)
    found = declared(quantization) if quantization else None
    patterns = [] if found is None else [pattern for pattern, _ in found.layers]
    if experts is None:
        experts = _has_experts(config, text) or names_experts(patterns)
    if _has_encoder(config, text):
        notes.append(_encoder_note(found))
    settings: dict[str, Setting] = {} if found is None else found.settings
    if isinstance(config.get("model_type"), str):
        settings = {**settings, "model_type": config["model_type"]}
    if found is None:
        parts = split([], experts=experts, base=base)
        return _checkpoint(None, parts.dense, parts.experts, None, (), notes, settings)
    parts = keep_out(
        split(found.layers, experts=experts, base=base), found.ignored, base=base, layers=_layers(text)
    )
    dense, routed = parts.dense, parts.experts
    own = text.get("expert_dtype") or config.get("expert_dtype")
    if own and routed:
        if str(own) not in tables()["expert_dtype"]:
            raise UnknownName("expert_dtype", str(own), tables()["expert_dtype"])
        routed = str(tables()["expert_dtype"][str(own)])
    if SIXTEEN_BIT[0] not in (dense, routed) and SIXTEEN_BIT[1] not in (dense, routed):
        notes = [note for note in notes if "16-bit weights are taken" not in note]
    return _checkpoint(
        found.method,
        dense,
        routed,
        found.kvcache,
        found.ignored,
        [*notes, *found.notes, *parts.notes],
        settings,
    )


def quantization_of(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Find the quantization part of a `config.json`; None in a 16-bit model's.

    Raises
    ------
    InvalidValue
        It is no object.
    """
    parts = (config, text_part(config))
    keys = ("quantization_config", "compression_config")
    found = next((part[key] for key in keys for part in parts if part.get(key)), None)
    if found is None:
        inner = config.get("quantization")
        alone = any(config.get(key) for key in ("quant_method", "quant_algo", "config_groups"))
        found = config if alone or isinstance(inner, Mapping) else None
    if found is not None and not isinstance(found, Mapping):
        raise InvalidValue(f"quantization_config is {found!r}, not an object")
    return found or None


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the language model's part of a configuration, the whole where nothing is nested."""
    keys = tables()["config_keys"]["text"]
    return next((config[key] for key in keys if isinstance(config.get(key), Mapping)), config)


def json_object(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    InvalidValue
        The file cannot be read, or it is not a JSON object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidValue(f"there is no {file.name} in {file.parent}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidValue(f"cannot read {file}: {error}") from error
    if not isinstance(content, dict):
        raise InvalidValue(f"{file} is not a JSON object")
    return content


def with_modelopt(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Fill a configuration with what NVIDIA ModelOpt left in files of its own beside it.

    Raises
    ------
    InvalidValue
        If a file is not a JSON object, or says something else than the configuration.
    """
    filled = dict(config)
    for name in _MODELOPT_FILES:
        if (folder / name).is_file():
            filled = _merged(filled, json_object(folder / name))
    return filled


def _folder(folder: Path) -> Checkpoint:
    ggufs, weights = sorted(folder.glob("*.gguf")), sorted(folder.glob("*.safetensors"))
    config, beside = folder / "config.json", folder / "hf_quant_config.json"
    if ggufs and not weights:
        recipes = {file.name.rsplit("-of-", 1)[0].rsplit("-0", 1)[0] for file in ggufs}
        if len(recipes) > 1:
            raise InvalidValue(f"{folder} holds several GGUF models; name one", [str(file) for file in ggufs])
        return _gguf(ggufs)
    tensors: dict[str, Tensor] = {}
    for file in weights:
        tensors.update(safetensors_header(file))
    if not config.is_file() and not beside.is_file():
        if tensors:
            return _weights_alone(tensors, f"headers of {len(weights)} safetensors files")
        raise InvalidValue(
            f"there is no config.json in {folder}", ["a folder with config.json or weight files"]
        )
    content = with_modelopt(json_object(config) if config.is_file() else {}, folder)
    names = [name for name in (config.name, *_MODELOPT_FILES) if (folder / name).is_file()]
    found = replace(checkpoint_of(content), evidence=" and ".join(names))
    return _checked(found, tensors) if tensors else found


def _merged(config: Mapping[str, Any], beside: Mapping[str, Any]) -> dict[str, Any]:
    """Fill a configuration with what a file of ModelOpt beside it says.

    Raises
    ------
    InvalidValue
        If both name an algorithm and they differ.
    """
    own, other = quantization_of(config), dict(unwrapped(beside))
    if own is None:
        return {**config, "quantization_config": other}
    inner = unwrapped(own)
    for key in ("quant_algo", "kv_cache_quant_algo"):
        said, again = inner.get(key), other.get(key)
        if said and again and str(said).upper() != str(again).upper():
            raise InvalidValue(
                f"two files contradict each other: {key} is {said} in one and {again} in the other"
            )
    if not inner.get("quant_algo") and str(inner.get("quant_method", "")).split("_")[0] not in (
        "",
        "modelopt",
    ):
        own_name, algorithm = inner["quant_method"], other.get("quant_algo")
        if algorithm:
            raise InvalidValue(
                f"two files contradict each other: quant_method is '{own_name}' in one, quant_algo {algorithm} in"
                " the other"
            )
        return dict(config)
    return {**config, "quantization_config": {**other, **{key: inner[key] for key in inner if inner[key]}}}


def _checked(found: Checkpoint, tensors: Mapping[str, Tensor]) -> Checkpoint:
    """Hold what the configuration says against the headers, which are the evidence where it names no method."""
    stored = stored_formats(tensors)
    if found.method is None:
        if stored.narrow:
            alone = _weights_alone(tensors, f"{found.evidence} and headers", experts=found.moe is not None)
            note = f"{found.evidence} names no quant_method: engines take the weights for 16 bits"
            return replace(alone, notes=(note, *found.notes, *alone.notes), settings=found.settings)
        return found
    if stored.matrices and not stored.narrow and found.method != "torchao":
        raise InvalidValue(
            f"two files contradict each other: {found.evidence} says {found.method}, and the weight files hold"
            f" {', '.join(sorted(stored.dtypes))} alone"
        )
    return replace(found, evidence=f"{found.evidence}, checked against headers")


def _weights_alone(tensors: Mapping[str, Tensor], evidence: str, experts: bool = False) -> Checkpoint:
    stored = stored_formats(tensors)
    if not stored.matrices:
        raise InvalidValue(f"{evidence}: no linear layer is among its {len(tensors)} tensors")
    routed = stored.experts or (stored.dense if experts else None)
    return _checkpoint(None, stored.dense, routed, None, (), stored.notes, {}, evidence)


def _gguf(paths: Sequence[Path]) -> Checkpoint:
    headers = [gguf_header(path) for path in paths]
    tensors = {name: tensor for header in headers for name, tensor in header.tensors.items()}
    found = gguf_formats(headers[0].metadata, tensors, paths[0].name)
    return _checkpoint(
        "gguf",
        found.dense,
        found.experts,
        None,
        (),
        found.notes,
        found.settings,
        f"header of {paths[0].name}",
    )


def _checkpoint(
    method: str | None,
    dense: str | None,
    routed: str | None,
    cache: str | None,
    ignored: tuple[str, ...],
    notes: Sequence[str],
    settings: Mapping[str, Setting],
    evidence: str = "configuration",
) -> Checkpoint:
    try:
        moe = parse_mode("moe", routed) if routed else None
    except UnknownName as error:
        raise NotCovered(f"experts in {routed} have no mode", error.alternatives) from error
    return Checkpoint(
        method=method,
        gemm=parse_mode("gemm", dense) if dense else None,
        moe=moe,
        kvcache=parse_mode("kvcache", cache) if cache else None,
        ignored=ignored,
        evidence=evidence,
        notes=tuple(dict.fromkeys(notes)),
        settings=dict(settings),
    )


def _base(config: Mapping[str, Any], text: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return the format of unquantized layers, with a note where nothing says it."""
    keys = ("dtype", "torch_dtype")
    dtype = next((part[key] for part in (text, config) for key in keys if part.get(key)), None)
    if dtype is None or dtype == "auto":
        return "bfloat16", ["the configuration names no dtype; 16-bit weights are taken as bf16"]
    name = str(dtype).removeprefix("torch.").lower()
    if name not in tables()["dtypes"]:
        raise UnknownName("dtype", name, tables()["dtypes"])
    return str(tables()["dtypes"][name]), []


def _has_experts(config: Mapping[str, Any], text: Mapping[str, Any]) -> bool:
    keys = tables()["config_keys"]["experts"]
    counts = (part.get(key) for part in (text, config) for key in keys)
    return any(isinstance(count, int) and count > 1 for count in counts)


def _layers(text: Mapping[str, Any]) -> int:
    count = text.get("num_hidden_layers")
    return count if isinstance(count, int) and count > 0 else 0


def _has_encoder(config: Mapping[str, Any], text: Mapping[str, Any]) -> bool:
    kind = str(config.get("model_type") or "").lower().replace("-", "_")
    named = any(config.get(key) for key in tables()["config_keys"]["encoders"])
    return named or "_vl" in kind or kind.endswith("vl") or kind.startswith("llava")


def _encoder_note(found: Declared | None) -> str:
    """Say what is known of an encoder of images or sound, which the four fields do not reach."""
    if found is None:
        return "vision-language model: formats made while loading are for the language model; encoders stay 16-bit"
    kept = [name for name in found.ignored if any(word in name.lower() for word in ("vis", "image", "audio"))]
    if kept:
        return f"vision-language model: its encoder stays 16-bit ({len(kept)} entries of the ignore list)"
    return (
        "vision-language model: no entry keeps its encoder in 16 bits; engines differ in what they load it as"
    )
