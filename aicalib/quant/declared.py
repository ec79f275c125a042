"""What a `quantization_config` declares: one reader a method, over the keys that method writes."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from aicalib.errors import InvalidValue, NotCovered, UnknownName
from aicalib.quant.schemes import (
    Format,
    Values,
    blocks,
    format_of,
    is_count,
    values_of,
    weight_only,
)

Setting = str | int | float | bool


@dataclass
class Declared:
    """What a configuration says, before it is known which layers the model has.

    Parameters
    ----------
    method : str
        As the engines name it.
    layers : list of (str, str)
        Pattern of layers and their format; "Linear" stands for every linear layer.
    kvcache : str or None
        Spelling of a kvcache mode.
    ignored : tuple of str
        Layers left in 16 bits.
    settings : dict
        What engines look at besides: bits, group_size, sym, desc_act, zero_point, quant_algo, ...
    notes : list of str
    """

    method: str
    layers: list[tuple[str, str]] = field(default_factory=list)
    kvcache: str | None = None
    ignored: tuple[str, ...] = ()
    settings: dict[str, Setting] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def store(self, format_: Format, pattern: str = "Linear") -> None:
        """Add layers in a format, with its note."""
        self.layers.append((pattern, format_.name))
        if format_.note and format_.note not in self.notes:
            self.notes.append(format_.note)


@cache
def tables() -> Mapping[str, Any]:
    """Read ``checkpoints.toml``, once."""
    return tomllib.loads(files("aicalib.quant").joinpath("checkpoints.toml").read_text(encoding="utf-8"))


def declared(given: Mapping[str, Any]) -> Declared:
    """Read a `quantization_config`, or the content of a `hf_quant_config.json`.

    Raises
    ------
    UnknownName
        For a `quant_method` or algorithm that nothing here knows.
    NotCovered
        For one that is known and has no mode, or widths without a mode.
    InvalidValue
        If a key is missing or holds a wrong value.
    """
    config = unwrapped(given)
    method = _method(config)
    if method in tables()["refused"]:
        raise NotCovered(
            f"quant_method '{method}' is not covered: {tables()['refused'][method]}", sorted(_READERS)
        )
    if method not in _READERS:
        raise UnknownName("quant_method", method, _READERS)
    found = Declared(method, ignored=_ignored(config))
    kept = (
        key for key in tables()["config_keys"]["settings"] if isinstance(config.get(key), str | int | float)
    )
    found.settings.update({key: config[key] for key in kept})
    found.kvcache = _cache(config)
    _READERS[method](config, found)
    return found


def unwrapped(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Lift the inner object of ModelOpt's `{"producer": ..., "quantization": {...}}`, which names no quant_method."""
    inner = config.get("quantization")
    if not isinstance(inner, Mapping):
        return config
    return {
        **{key: config[key] for key in config if key != "quantization"},
        **inner,
    }


def _method(config: Mapping[str, Any]) -> str:
    stated = config.get("quant_method")
    if stated is not None and not isinstance(stated, str):
        raise InvalidValue(f"quant_method is {stated!r}, not a name", sorted(_READERS))
    if stated:
        name = stated.lower()
        name = tables()["methods"].get(name, name)
        return "modelopt" if name.startswith("modelopt") else str(name)
    if "quant_algo" in config or "producer" in config:
        return "modelopt"
    if config.get("config_groups"):
        return "compressed-tensors"
    if is_count(config.get("bits")) and is_count(config.get("group_size")):
        return "mlx"
    raise InvalidValue("the quantization_config names no quant_method", sorted(_READERS))


def _ignored(config: Mapping[str, Any]) -> tuple[str, ...]:
    lists = (config.get(key) for key in tables()["config_keys"]["ignored"])
    return tuple(
        dict.fromkeys(
            str(name) for names in lists if isinstance(names, list | tuple) for name in names if name
        )
    )


def _cache(config: Mapping[str, Any]) -> str | None:
    """Read the format of keys and values that the checkpoint has scales for."""
    algorithm, scheme = config.get("kv_cache_quant_algo"), config.get("kv_cache_scheme")
    if not algorithm and isinstance(scheme, Mapping):
        algorithm = f"{scheme.get('type')}{scheme.get('num_bits')}"
    if not algorithm or str(algorithm).lower() in ("none", "auto"):
        return None
    known = {name.lower(): mode for name, mode in tables()["kvcache"].items()}
    if str(algorithm).lower() not in known:
        raise UnknownName("format of keys and values", str(algorithm), tables()["kvcache"])
    return str(known[str(algorithm).lower()])


def _width(config: Mapping[str, Any], *keys: str, default: int | None = None) -> int:
    value = next((config[key] for key in keys if config.get(key) is not None), default)
    if not is_count(value):
        raise InvalidValue(
            f"'{keys[0]}' of the quantization_config is {value!r}, not a number of bits", ["4", "8"]
        )
    return value


def _group(config: Mapping[str, Any], *keys: str) -> int | None:
    value = next((config[key] for key in keys if config.get(key) is not None), 128)
    return value if is_count(value) else None


def _must(format_: Format | None, what: str) -> Format:
    if format_ is None:
        raise NotCovered(f"{what} has no mode", ["int4_wo", "int8_wo", "fp8_block", "mxfp8"])
    return format_


def _awq(config: Mapping[str, Any], found: Declared) -> None:
    bits = _width(config, "bits", "w_bit", default=4)
    group = _group(config, "group_size", "q_group_size")
    symmetric = config.get("zero_point") is False
    known = weight_only(bits, group, symmetric, default="" if symmetric else "awq") if bits == 4 else None
    found.store(_must(known, f"AWQ of {bits} bits"))


def _gptq(config: Mapping[str, Any], found: Declared) -> None:
    bits, group, symmetric = (
        _width(config, "bits", "w_bit"),
        _group(config, "group_size"),
        config.get("sym", True),
    )
    default = "gptq" if symmetric is not False else ""
    found.store(_must(weight_only(bits, group, symmetric is not False, default), f"GPTQ of {bits} bits"))
    if config.get("desc_act") is True:
        found.notes.append("desc_act: columns are in order of activation, which slower kernels serve")
    if config.get("dynamic"):
        found.notes.append("'dynamic' gives single layers other bits; the figures are those of the rest")


def _fp8(config: Mapping[str, Any], found: Declared) -> None:
    sides = config.get("weight_block_size")
    if sides:
        if not isinstance(sides, Sequence) or isinstance(sides, str) or not all(map(is_count, sides)):
            raise InvalidValue(f"weight_block_size is {sides!r}, not two numbers", ["[128, 128]"])
        shape = "x".join(map(str, sides))
        found.settings["weight_block_size"] = shape
        found.store(_must(blocks(tuple(sides)), f"FP8 in blocks of {shape}"))
        return
    scheme = config.get("activation_scheme", "dynamic")
    if scheme not in ("dynamic", "static"):
        raise InvalidValue(f"activation_scheme is {scheme!r}", ["dynamic", "static"])
    found.store(Format("fp8_static" if scheme == "static" else "fp8"))


def _plain(name: str) -> Callable[[Mapping[str, Any], Declared], None]:
    """Return the reader of a method that has one format."""
    return lambda config, found: found.store(Format(name))


def _compressed_tensors(config: Mapping[str, Any], found: Declared) -> None:
    groups = config.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        if found.kvcache:
            return
        raise InvalidValue("compressed-tensors without config_groups says nothing of the weights")
    for name, group in groups.items():
        if not isinstance(group, Mapping):
            raise InvalidValue(f"config_groups.{name} is {group!r}, not an object")
        weights = values_of(group.get("weights"), f"config_groups.{name}.weights")
        if weights is None:
            continue
        if weights.strategy == "tensor_group" and weights.group is None:
            weights = weights._replace(group=16)
        inputs = values_of(group.get("input_activations"), f"config_groups.{name}.input_activations")
        stored = format_of(weights, inputs)
        targets = group.get("targets") or ["Linear"]
        if not isinstance(targets, str | list):
            raise InvalidValue(f"config_groups.{name}.targets is {targets!r}, not a list of modules")
        for target in [targets] if isinstance(targets, str) else targets:
            found.store(stored, str(target))


def _modelopt(config: Mapping[str, Any], found: Declared) -> None:
    algorithm = str(config.get("quant_algo") or "").upper()
    if not algorithm and str(config.get("quant_method")).lower() not in ("none", "modelopt"):
        raise InvalidValue(
            f"quant_method '{config['quant_method']}' without quant_algo says nothing of the weights"
        )
    if algorithm in ("", "NO_QUANT", "NONE"):
        if config.get("config_groups"):
            _compressed_tensors(config, found)
        return
    found.settings["quant_algo"] = algorithm
    found.method = tables()["modelopt_methods"].get(algorithm, "modelopt")
    if algorithm != "MIXED_PRECISION":
        found.store(Format(_algorithm(algorithm)))
        _check_group(config, algorithm)
        return
    layers = config.get("quantized_layers")
    if isinstance(layers, Mapping) and layers:
        for name, entry in layers.items():
            own = str(entry.get("quant_algo") if isinstance(entry, Mapping) else entry).upper()
            if own not in ("NONE", "UNQUANTIZED", "NO_QUANT"):
                found.store(Format(_algorithm(own)), str(name))
    elif config.get("config_groups"):
        _compressed_tensors(config, found)
    else:
        raise InvalidValue("MIXED_PRECISION without quantized_layers says nothing of the weights")
    if not any(name.startswith("nvfp4") for _, name in found.layers):
        found.settings["nvfp4_layers"] = False


def _algorithm(name: str) -> str:
    if name not in tables()["modelopt"]:
        raise UnknownName("quant_algo", name, tables()["modelopt"])
    return str(tables()["modelopt"][name])


def _check_group(config: Mapping[str, Any], algorithm: str) -> None:
    """Refuse groups of another size than the format's own, which would store other bits."""
    size, own = config.get("group_size"), tables()["modelopt_groups"].get(algorithm)
    if own and is_count(size) and size != own:
        raise NotCovered(f"{algorithm} in groups of {size} has no mode", [f"groups of {own}"])


def _auto_round(config: Mapping[str, Any], found: Declared) -> None:
    bits, group = _width(config, "bits"), _group(config, "group_size")
    kind, symmetric = str(config.get("data_type", "int")), config.get("sym", True) is not False
    if kind != "int":
        floats = {"mx_fp": Values("float", bits, 32), "nv_fp": Values("float", bits, 16)}
        weights = next((values for start, values in floats.items() if kind.startswith(start)), None)
        if weights is None:
            raise NotCovered(f"auto-round data_type '{kind}' has no mode", ["int", "mx_fp", "nv_fp"])
        width = config.get("act_bits")
        same = weights._replace(dynamic=True) if width == bits else None
        found.store(format_of(weights, same if width in (bits, 8) else None))
        return
    if bits not in (2, 3, 4, 8):
        raise NotCovered(f"auto-round of {bits} bits has no mode", ["2", "3", "4", "8"])
    true = bits + ((16 + (0 if symmetric else bits)) / group if group else 0.0)
    exact = symmetric and group == 128
    note = "" if exact else f"auto-round: {true:.4g} bits a weight, counted as {bits + 0.125:.4g}"
    found.store(Format(f"auto_round:{bits}", note))
    found.settings["bits_per_weight"] = true
    if config.get("extra_config"):
        found.notes.append("'extra_config' gives single layers other bits; the figures are those of the rest")


def _bitsandbytes(config: Mapping[str, Any], found: Declared) -> None:
    if config.get("load_in_8bit") or config.get("_load_in_8bit"):
        found.store(Format("bitsandbytes:int8"))
        return
    kind = config.get("bnb_4bit_quant_type", "fp4")
    if kind not in ("nf4", "fp4"):
        raise InvalidValue(f"bnb_4bit_quant_type is {kind!r}", ["nf4", "fp4"])
    double = bool(config.get("bnb_4bit_use_double_quant"))
    if double and kind == "fp4":
        found.store(
            Format("bitsandbytes:fp4", "fp4 with double quantization: 4.127 bits a weight, counted as 4.5")
        )
    else:
        found.store(Format(f"bitsandbytes:{kind}{'_double' if double else ''}"))


def _quark(config: Mapping[str, Any], found: Declared) -> None:
    """Read AMD Quark; its keys are those that sgl-project/sglang@v0.5.23:srt/layers/quantization/quark reads."""
    inner = config.get("quant_config")
    if isinstance(inner, Mapping):
        config = {**config, **inner}
    by_layer = config.get("layer_quant_config")
    schemes = {
        "Linear": config.get("global_quant_config"),
        **(by_layer if isinstance(by_layer, Mapping) else {}),
    }
    for pattern, scheme in schemes.items():
        if isinstance(scheme, Mapping):
            weights = _quark_values(scheme.get("weight"))
            if weights is not None:
                found.store(format_of(weights, _quark_values(scheme.get("input_tensors"))), str(pattern))
    if not found.layers:
        raise InvalidValue("quark without a global_quant_config says nothing of the weights")
    exported = config.get("export")
    if isinstance(exported, Mapping) and exported.get("kv_cache_group") and found.kvcache is None:
        found.kvcache = "fp8_e4m3"


def _quark_values(spec: Any) -> Values | None:
    if isinstance(spec, list):
        raise NotCovered("quark with two steps for one operand has no mode", ["fp8_e4m3", "fp4", "int8"])
    if not isinstance(spec, Mapping) or not spec.get("dtype"):
        return None
    dtype = str(spec["dtype"])
    types = tables()["quark"]
    if dtype not in types:
        raise NotCovered(f"quark dtype '{dtype}' has no mode", sorted(types))
    kind, bits = types[dtype]
    scheme, group = str(spec.get("qscheme") or ""), spec.get("group_size")
    return Values(
        kind=kind,
        bits=bits,
        group=int(group) if scheme in ("per_group", "") and is_count(group) else None,
        symmetric=dtype != "uint4",
        strategy=scheme.removeprefix("per_"),
        dynamic=bool(spec.get("is_dynamic", False)),
    )


def _torchao(config: Mapping[str, Any], found: Declared) -> None:
    kind = config.get("quant_type")
    kind = kind.get("default", kind) if isinstance(kind, Mapping) else kind
    name = kind.get("_type") if isinstance(kind, Mapping) else kind
    if not isinstance(name, str) or name not in tables()["torchao"]:
        raise UnknownName("quant_type of torchao", str(name), tables()["torchao"])
    data = kind.get("_data") if isinstance(kind, Mapping) else config.get("quant_type_kwargs")
    group = data.get("group_size") if isinstance(data, Mapping) else None
    note = (
        "" if group in (None, 128) else f"groups of {group} instead of 128: other bits a weight than counted"
    )
    found.store(Format(tables()["torchao"][name], note if "int4" in str(name).lower() else ""))


def _w4afp8(config: Mapping[str, Any], found: Declared) -> None:
    """Experts of 4 bits beside dense layers in FP8 blocks of 128 x 128, which SGLang's class takes for granted."""
    found.store(Format("w4afp8"), "experts")
    found.store(Format("fp8_block"))


_READERS: dict[str, Callable[[Mapping[str, Any], Declared], None]] = {
    "awq": _awq,
    "gptq": _gptq,
    "fp8": _fp8,
    "mxfp8": _plain("mxfp8"),
    "fbgemm_fp8": _plain("fp8:per_channel"),
    "mxfp4": _plain("mxfp4"),
    "w8a8_int8": _plain("sq"),
    "w8a8_fp8": _plain("fp8:per_channel"),
    "w4afp8": _w4afp8,
    "compressed-tensors": _compressed_tensors,
    "modelopt": _modelopt,
    "auto-round": _auto_round,
    "bitsandbytes": _bitsandbytes,
    "quark": _quark,
    "torchao": _torchao,
}
