"""The formats that weight files hold, told from the names, types and shapes in their headers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aicalib.errors import InvalidValue, NotCovered
from aicalib.quant.declared import Setting, tables
from aicalib.quant.formats import storage_bits, variants
from aicalib.quant.headers import Tensor
from aicalib.quant.modes import GEMMQuantMode

_WIDE = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
_LINEAR = re.compile(
    r"\.(layers?|blocks?|h)\.\d+\..*(proj|attn|mlp|ffn|experts|fc\d|w[123]|dense|wqkv|c_\w+)"
)
_OTHER = re.compile(r"norm|bias$|router|mlp\.gate\.|gate\.weight$|embed|rotary|visual|vision|audio|image")
_EXPERT = re.compile(r"(?<!shared_)experts\b")
_GGUF_EXPERT = re.compile(r"_exps\.")


@dataclass
class Stored:
    """What headers tell.

    Parameters
    ----------
    dense, experts : str or None
        Format that most of the elements have; None where there are no such layers.
    narrow : bool
        Some matrix is stored in less than 16 bits.
    matrices : int
        Linear layers seen.
    dtypes : set of str
        Number formats of those.
    notes : list of str
    settings : dict
    """

    dense: str | None = None
    experts: str | None = None
    narrow: bool = False
    matrices: int = 0
    dtypes: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    settings: dict[str, Setting] = field(default_factory=dict)


def stored_formats(tensors: Mapping[str, Tensor]) -> Stored:
    """Tell dense layers' and experts' format from safetensors headers.

    A format that headers alone do not settle is named as such by ``None`` with a note, unless 16-bit.
    """
    found = Stored()
    sizes: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
    for name, tensor in tensors.items():
        if len(tensor.shape) < 2 or not _LINEAR.search(f".{name}") or _OTHER.search(name):
            continue
        if name.endswith(("_scale", "_scale_inv", "scales", "qzeros", "_scale_2", "absmax", "quant_map")):
            continue
        found.matrices += 1
        found.dtypes.add(str(tensor.dtype))
        found.narrow |= tensor.dtype not in _WIDE
        sizes[_EXPERT.search(name) is not None][_format(name, tensor, tensors)] += tensor.elements
    found.dense, found.experts = (_settled(sizes[routed], found, routed) for routed in (False, True))
    return found


def _settled(sizes: Counter[str], found: Stored, routed: bool) -> str | None:
    if not sizes:
        return None
    layers = "experts" if routed else "dense layers"
    if len(sizes) > 1:
        found.notes.append(
            f"{layers} are stored as {', '.join(name or 'unsettled' for name in sorted(sizes))}"
        )
    name = sizes.most_common(1)[0][0]
    if not name:
        found.notes.append(f"{layers}: {' and '.join(sorted(found.dtypes))} alone do not tell the format")
    return name or None


def _format(name: str, tensor: Tensor, tensors: Mapping[str, Tensor]) -> str:
    """Name the format of one matrix, "" where its neighbors do not settle it."""
    if tensor.dtype in _WIDE:
        return _WIDE[str(tensor.dtype)]
    stem = name.removesuffix(".weight")
    scale = next((tensors[key] for key in (f"{name}_scale_inv", f"{name}_scale") if key in tensors), None)
    if tensor.dtype == "F8_E4M3" and scale is not None:
        return _fp8(tensor, scale, static=f"{stem}.input_scale" in tensors)
    if (
        tensor.dtype == "U8"
        and name.endswith("_blocks")
        and f"{name.removesuffix('_blocks')}_scales" in tensors
    ):
        return "mxfp4"
    packed = tensor.dtype == "U8" and scale is not None and scale.dtype == "F8_E4M3"
    if packed and scale is not None and tensor.shape[-1] == 8 * scale.shape[-1]:
        return "nvfp4"
    return ""


def _fp8(tensor: Tensor, scale: Tensor, *, static: bool) -> str:
    if scale.elements == 1:
        return "fp8_static" if static else "fp8"
    if scale.shape in ((tensor.shape[0],), (tensor.shape[0], 1)):
        return "fp8:per_channel"
    blocks = tuple(-(-width // 128) for width in tensor.shape[-2:])
    return "fp8_block" if scale.shape[-2:] == blocks else ""


def gguf_formats(metadata: Mapping[str, Any], tensors: Mapping[str, Tensor], name: str) -> Stored:
    """Tell the recipe of a GGUF file, and its true bits per weight.

    Returns
    -------
    Stored
        `settings` holds `bits_per_weight` over all tensors [bit/element], `recipe` where the file names one it
        was written by, and `expert_bits_per_weight` beside experts.

    Raises
    ------
    InvalidValue
        The file holds no tensors.
    NotCovered
        A tensor type or a recipe that is not known here.
    """
    if not tensors:
        raise InvalidValue(f"{name} holds no tensors")
    types = {key: _gguf_type(tensor, name) for key, tensor in tensors.items()}
    routed = {key for key in tensors if _GGUF_EXPERT.search(key)}
    found = Stored(narrow=True, matrices=len(tensors), dtypes=set(types.values()))
    found.settings["bits_per_weight"] = _mean_bits(tensors, types, tensors)
    recipe = _recipe(metadata, name)
    dense = _prevailing(tensors, types, tensors.keys() - routed)
    if recipe:
        found.settings["recipe"] = recipe
    known = variants(GEMMQuantMode.gguf)
    variant = recipe if recipe in known else dense
    if recipe and recipe not in known:
        found.notes.append(f"recipe {recipe} has no variant; counted as {dense}, the type of most weights")
    if dense not in known:
        raise NotCovered(f"{name}: most weights are {dense}, which no variant of gguf stores", known)
    true = float(found.settings["bits_per_weight"])
    counted = storage_bits(GEMMQuantMode.gguf, variant)
    if abs(true / counted - 1) > 0.02:
        found.notes.append(f"{true:.4g} bits a weight over all tensors, {variant} counts {counted:.4g}")
    found.dense = f"gguf:{variant}"
    if routed:
        own = _prevailing(tensors, types, routed)
        found.experts = f"gguf:{variant if recipe in known else own}"
        found.settings["expert_bits_per_weight"] = _mean_bits(tensors, types, routed)
    return found


def _gguf_type(tensor: Tensor, name: str) -> str:
    known = tables()["ggml"]["types"]
    if str(tensor.dtype) not in known:
        raise NotCovered(
            f"{name}: tensor type {tensor.dtype} of ggml is not known here", sorted(known.values())
        )
    return str(known[str(tensor.dtype)])


def _recipe(metadata: Mapping[str, Any], name: str) -> str | None:
    number = metadata.get("general.file_type")
    if number is None:
        return None
    recipes = tables()["ggml"]["recipes"]
    if str(number) not in recipes:
        raise NotCovered(f"{name}: general.file_type {number} is not known here", sorted(recipes.values()))
    return str(recipes[str(number)])


def _prevailing(tensors: Mapping[str, Tensor], types: Mapping[str, str], names: Iterable[str]) -> str:
    sizes: Counter[str] = Counter()
    for key in sorted(names):
        sizes[types[key]] += tensors[key].elements
    return sizes.most_common(1)[0][0] if sizes else next(iter(types.values()))


def _mean_bits(tensors: Mapping[str, Tensor], types: Mapping[str, str], names: Iterable[str]) -> float:
    own, known = tables()["ggml"]["bits"], variants(GEMMQuantMode.gguf)
    bits = {
        kind: storage_bits(GEMMQuantMode.gguf, kind) if kind in known else own[kind]
        for kind in types.values()
    }
    sizes = {key: tensors[key].elements for key in names}
    return float(sum(bits[types[key]] * size for key, size in sizes.items()) / max(1, sum(sizes.values())))
