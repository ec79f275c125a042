"""The format that bits, type, group and scales of a quantized layer amount to, and which layers it is for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeGuard

from aicalib.errors import InvalidValue, NotCovered

_EXPERTS = re.compile(r"(?<!shared_)experts?(?!_gate)|block_sparse_moe|FusedMoE", re.IGNORECASE)
_ATTENTION = re.compile(r"attn|attention|\b[qkvo]_proj|qkv_proj|mixer", re.IGNORECASE)
_FEED_FORWARD = re.compile(r"mlp|ffn|feed_forward|(gate|up|down)_proj|shared_expert", re.IGNORECASE)
_ENDS = re.compile(r"lm_head|embed|^output$", re.IGNORECASE)
_ENCODER = re.compile(r"visual|vision|image|audio|projector|multi_modal", re.IGNORECASE)
_EVERY = re.compile(r"Linear|Embedding|re:\.\*|\.\*|\*", re.IGNORECASE)
_WHOLE_ATTENTION = re.compile(r"self_attn(\.?\*|\.\*|\.(q|q_a|q_b|qkv)_proj)?$")
_LAYER = re.compile(r"(?:layers|blocks|h)\\?\.(\d+)\\?\.")

_FEW: Final = 0.5
"""Share of the layers below which a list of single layers is not taken for the rule."""


class Values(NamedTuple):
    """How one operand of a layer is stored.

    Parameters
    ----------
    kind : str
        "int" or "float".
    bits : int
    group : int or None
        Values that share a scale; None where a row, a block or the tensor does.
    symmetric : bool
        No zero points.
    strategy : str
        "tensor", "channel", "group", "tensor_group", "block", "token" or "".
    dynamic : bool
        Scales are made while running.
    block : tuple of int
        Sides of a block.
    """

    kind: str
    bits: int
    group: int | None = None
    symmetric: bool = True
    strategy: str = ""
    dynamic: bool = False
    block: tuple[int, ...] = ()


class Format(NamedTuple):
    """A spelling that both the gemm and the moe field take, and what it leaves out.

    Parameters
    ----------
    name : str
        For example ``int4_wo:g64_sym``.
    note : str
        Empty where the mode stores exactly what the checkpoint does.
    """

    name: str
    note: str = ""


def values_of(part: Any, where: str) -> Values | None:
    """Read `weights` or `input_activations` of a compressed-tensors group; None where it is null.

    Raises
    ------
    InvalidValue
        If a key is missing or holds a wrong value.
    """
    if part is None:
        return None
    if not isinstance(part, Mapping):
        raise InvalidValue(f"{where} is {part!r}, not an object")
    bits, kind, group = part.get("num_bits"), part.get("type", "int"), part.get("group_size")
    if not is_count(bits) or kind not in ("int", "float"):
        raise InvalidValue(f"{where} has num_bits {bits!r} and type {kind!r}", ["num_bits 8, type float"])
    block = part.get("block_structure") or ()
    return Values(
        kind=str(kind),
        bits=bits,
        group=group if is_count(group) else None,
        symmetric=part.get("symmetric", True) is not False,
        strategy=str(part.get("strategy") or ""),
        dynamic=bool(part.get("dynamic", False)),
        block=tuple(side for side in block if is_count(side)) if isinstance(block, Sequence) else (),
    )


def is_count(value: Any) -> TypeGuard[int]:
    """Tell whether a value is a whole number above zero."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def format_of(weights: Values, inputs: Values | None) -> Format:
    """Name the format of a layer by its weights and inputs.

    Raises
    ------
    NotCovered
        If no mode stores weights so, or multiplies them with such inputs.
    """
    found = (_floats if weights.kind == "float" else _integers)(weights, inputs)
    if found is None:
        operands = f"{_described(weights)} with {_described(inputs) if inputs else '16-bit'} inputs"
        raise NotCovered(f"no mode stores {operands}", ["int4_wo", "int8_wo", "sq", "fp8", "nvfp4", "mxfp4"])
    return found


def _described(values: Values) -> str:
    group = f", groups of {values.group}" if values.group else ""
    return f"{values.bits}-bit {values.kind}{group}"


def _integers(weights: Values, inputs: Values | None) -> Format | None:
    if inputs is None:
        return weight_only(weights.bits, weights.group, weights.symmetric)
    if inputs.bits != 8 or weights.bits not in (4, 8):
        return None
    if inputs.kind == "float":
        return Format("w4afp8") if weights.bits == 4 else None
    return (
        Format("sq")
        if weights.bits == 8
        else Format("qoq", "4-bit weights with int8 inputs count as QServe's")
    )


def weight_only(bits: int, group: int | None, symmetric: bool, default: str = "") -> Format | None:
    """Name integer weights beside 16-bit inputs; `default` is the variant that groups of 128 go by.

    Returns
    -------
    Format or None
        With a note of the true bits where groups have another size than any variant; None for other widths.
    """
    if bits == 4:
        layout = f"g{group if group in (32, 64) else 128}{'_sym' if symmetric else ''}"
        name = f"int4_wo:{default}" if default and group == 128 else f"int4_wo:{layout}"
        known = group in (32, 64, 128)
    elif bits == 8:
        name = f"int8_wo:{default or 'g128'}" if group == 128 else "int8_wo"
        known = group in (None, 128)
    else:
        return None
    if known:
        return Format(name)
    true = bits + ((16 + (0 if symmetric else bits)) / group if group else 0.0)
    size = f"groups of {group}" if group else "one scale a row"
    return Format(name, f"{size}: {true:.4g} bits a weight, counted as {name}")


def _floats(weights: Values, inputs: Values | None) -> Format | None:
    width = inputs.bits if inputs else 16
    if inputs and inputs.kind != "float":
        return None
    if weights.bits == 4 and weights.group == 32:
        # Weights alone do not settle the math: engines multiply MXFP4 with what the accelerator has.
        return {4: Format("mxfp4:w4a4"), 8: Format("mxfp4"), 16: Format("mxfp4")}.get(width)
    if weights.bits == 4 and weights.group == 16:
        return {4: Format("nvfp4"), 16: Format("nvfp4_wo")}.get(width)
    if weights.bits != 8 or inputs is None or width != 8:
        return None
    if weights.group == 32:
        return Format("mxfp8")
    if weights.strategy == "block":
        return blocks(weights.block)
    if weights.strategy == "channel":
        return Format("fp8:per_channel")
    return Format("fp8" if inputs.dynamic else "fp8_static") if weights.group is None else None


def blocks(sides: Sequence[int]) -> Format | None:
    """Name FP8 weights by the sides of the blocks that share a scale; no sides count as 128 x 128."""
    if tuple(sides) in ((), (128, 128)):
        return Format("fp8_block")
    return Format("mxfp8") if tuple(sides) == (1, 32) else None


@dataclass(frozen=True)
class Parts:
    """What is stored how: dense layers and routed experts, with what had to be assumed.

    Parameters
    ----------
    dense : str
        Format of the dense layers.
    experts : str or None
        Format of the routed experts; None without experts.
    notes : tuple of str
    """

    dense: str
    experts: str | None
    notes: tuple[str, ...] = ()


def names_experts(patterns: Iterable[str]) -> bool:
    """Tell whether a pattern is about routed experts."""
    return any(_EXPERTS.search(pattern) for pattern in patterns)


def split(layers: Sequence[tuple[str, str]], *, experts: bool, base: str) -> Parts:
    """Tell dense layers and experts apart where formats go by layer.

    Parameters
    ----------
    layers : sequence of (str, str)
        Pattern or name of layers, and their format.
    experts : bool
        The model has experts.
    base : str
        Format of what no pattern names.

    Returns
    -------
    Parts
        Where dense layers have several formats, the one that holds most weights: the feed-forward part's, or
        attention's beside experts; a note names all.
    """
    found: dict[str, Counter[str]] = {}
    for pattern, name in layers:
        found.setdefault(_part(pattern), Counter())[name] += 1
    wide = Counter(name for pattern, name in layers if _part(pattern) == "mlp" and _is_pattern(pattern))
    routed = _first(found.get("experts"), wide, found.get("all")) if experts else None
    order = ("attention", "other", "mlp", "all") if experts else ("mlp", "other", "attention", "all")
    dense = _first(*(found.get(part) for part in order)) or base
    kinds = {part: names for part in order if (names := found.get(part))}
    notes = []
    if len({name for names in kinds.values() for name in names}) > 1:
        listed = ", ".join(f"{part}: {' and '.join(sorted(names))}" for part, names in kinds.items())
        notes.append(f"dense layers have several formats ({listed}); gemm is {dense}")
    several = found.get("experts", Counter())
    if len(several) > 1:
        notes.append(f"experts have several formats ({' and '.join(sorted(several))}); moe is {routed}")
    return Parts(dense, (routed or base) if experts else None, tuple(notes))


def keep_out(parts: Parts, ignored: Sequence[str], *, base: str, layers: int) -> Parts:
    """Take out what a checkpoint leaves in 16 bits: attention, or the experts.

    Parameters
    ----------
    parts : Parts
    ignored : sequence of str
        Patterns and names of layers left out.
    base : str
        Format of those.
    layers : int
        Layers of the model; 0 where unknown.
    """
    own = [pattern for pattern in ignored if not _ENCODER.search(pattern)]
    notes = list(parts.notes)
    dense, routed = parts.dense, parts.experts
    attention, single = _whole([pattern for pattern in own if _WHOLE_ATTENTION.search(pattern)], layers)
    if attention:
        rest = "the rest is" if routed is None else "the experts are"
        notes.append(f"attention stays {base} in this checkpoint, {rest} {routed or dense}")
        dense = dense if routed is None else base
    elif single:
        notes.append(f"attention stays {base} in {single} of {layers} layers")
    named = [pattern for pattern in own if _EXPERTS.search(pattern) and not pattern.endswith("gate")]
    if routed is not None and named and _whole(named, layers)[0]:
        notes.append(f"experts stay {base} in this checkpoint, the rest is {dense}")
        routed = base
    return Parts(dense, routed, tuple(notes))


def _whole(patterns: Sequence[str], layers: int) -> tuple[bool, int]:
    """Tell whether patterns are about most layers, and how many single layers they name."""
    single = {match[1] for pattern in patterns if (match := _LAYER.search(pattern))}
    general = any(not _LAYER.search(pattern) for pattern in patterns)
    return general or (bool(single) and len(single) >= _FEW * layers), len(single)


def _part(pattern: str) -> str:
    if _ENCODER.search(pattern):
        return "encoder"
    if _EXPERTS.search(pattern):
        return "experts"
    if _ENDS.search(pattern):
        return "ends"
    if _EVERY.fullmatch(pattern):
        return "all"
    if _ATTENTION.search(pattern):
        return "attention"
    return "mlp" if _FEED_FORWARD.search(pattern) else "other"


def _is_pattern(text: str) -> bool:
    return text.startswith("re:") or "*" in text


def _first(*counters: Counter[str] | None) -> str | None:
    """Return the most frequent format of the first counter that holds any; the earlier one of equals."""
    return next((counter.most_common(1)[0][0] for counter in counters if counter), None)
