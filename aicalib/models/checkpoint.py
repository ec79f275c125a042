"""What a checkpoint stores, from `quantization_config`: format of the dense weights and of the experts.

Names are spellings that `aicalib.quant` takes. Where a configuration names a method that has none, its
own name is handed on, so that a later look-up refuses it by that name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}

_MODELOPT = {
    "FP8": "fp8_static",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8_per_channel_per_token",
    "NVFP4": "nvfp4",
    "MXFP8": "mxfp8",
    "W4A8_AWQ": "w4a8_awq",
    "W4A16_AWQ": "awq_int4",
    "W8A8_SQ_PER_CHANNEL": "w8a8_sq_per_channel",
}
"""`quant_algo` of NVIDIA ModelOpt."""

_EXPERT_DTYPES = {"fp4": "mxfp4", "fp8": "fp8_block"}
"""`expert_dtype` of DeepSeek-V4: routed experts beside dense weights that `quantization_config` describes; the FP4 has
one power of two a 32 values, the scale of MXFP4."""

_ATTENTION = re.compile(r"self_attn(\.?\*|\.\*|\.(q|q_b|qkv)_proj)?$")
"""A pattern that leaves out attention blocks, or at least their queries."""


def weight_formats(
    config: Mapping[str, Any], text: Mapping[str, Any], *, experts: bool
) -> tuple[str, str, list[str]]:
    """Read the storage formats of a checkpoint.

    Parameters
    ----------
    config, text : mapping
        The whole `config.json`, and its text part (the same object where nothing is nested).
    experts : bool
        The model has experts.

    Returns
    -------
    dense, routed : str
        Formats of the dense weights and of the routed experts (equal without experts).
    notes : list of str
        What had to be assumed.
    """
    dtype = next(
        (part[key] for part in (text, config) for key in ("dtype", "torch_dtype") if part.get(key)), None
    )
    base = _DTYPES.get(str(dtype).removeprefix("torch."), str(dtype)) if dtype else "bf16"
    unsaid = [] if dtype else ["the configuration names no dtype; 16-bit weights are taken as bf16"]
    quantization = config.get("quantization_config") or text.get("quantization_config")
    if not quantization:
        return base, base, unsaid
    stored = _stored_format(quantization)
    own = text.get("expert_dtype") or config.get("expert_dtype")
    if own and experts:
        return stored, _EXPERT_DTYPES.get(str(own), str(own)), []
    if not _keeps_attention(quantization):
        return stored, stored, []
    rest = "the experts are" if experts else "the rest is"
    note = f"attention stays {base} in this checkpoint, {rest} {stored}"
    return (base if experts else stored), stored, [*unsaid, note]


def _stored_format(quantization: Mapping[str, Any]) -> str:
    method = str(quantization.get("quant_method") or "").lower()
    algorithm = quantization.get("quant_algo")
    if algorithm:
        return _MODELOPT.get(str(algorithm), str(algorithm).lower())
    if method == "fp8":
        if quantization.get("weight_block_size"):
            return "fp8_block"
        return "fp8_static" if quantization.get("activation_scheme") == "static" else "fp8"
    if method in {"awq", "gptq"}:
        return f"{method}_int{quantization.get('bits', 4)}"
    if method == "bitsandbytes":
        return "bnb_int8" if quantization.get("load_in_8bit") else "bnb_nf4"
    if method == "compressed-tensors":
        return _compressed_tensors(quantization)
    return method


def _compressed_tensors(quantization: Mapping[str, Any]) -> str:
    """Name the format of the first group; checkpoints in the wild have one for all their linears."""
    group: Mapping[str, Any] = next(iter((quantization.get("config_groups") or {}).values()), {})
    weights: Mapping[str, Any] = group.get("weights") or {}
    inputs: Mapping[str, Any] = group.get("input_activations") or {}
    bits, kind, width = weights.get("num_bits"), weights.get("type"), inputs.get("num_bits")
    if kind == "int" and bits == 4:
        return _int4_layout(weights) if not inputs else "w4a8_int8"
    if kind == "int" and bits == 8:
        return "w8a8_int8" if width == 8 else "w8a16"
    if kind == "float" and bits == 8 and weights.get("group_size") == 32:
        return "mxfp8"
    if kind == "float" and bits == 8 and width == 8:
        if weights.get("strategy") == "block":
            return "fp8_block"
        return "fp8" if inputs.get("dynamic") else "fp8_static"
    if kind == "float" and bits == 4:
        if weights.get("group_size") == 32:
            return "mxfp4"
        return "nvfp4" if inputs else "nvfp4a16"
    return str(quantization.get("format") or "compressed-tensors")


def _int4_layout(weights: Mapping[str, Any]) -> str:
    """Name 4-bit integers by their groups where these are smaller than the usual 128."""
    group = weights.get("group_size")
    if group not in (32, 64):
        return "int4"
    return f"int4_wo:g{group}{'_sym' if weights.get('symmetric', True) else ''}"


def _keeps_attention(quantization: Mapping[str, Any]) -> bool:
    """Tell whether attention is left out of the quantization."""
    lists = (quantization.get(key) for key in ("ignore", "modules_to_not_convert", "exclude_modules"))
    return any(_ATTENTION.search(str(pattern)) for names in lists for pattern in names or ())
