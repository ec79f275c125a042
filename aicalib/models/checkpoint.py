"""What a model's published checkpoint stores, as the two words that an `Architecture` carries.

The reading is `aicalib.quant.checkpoint`; a format that it does not know is handed on by the name of its method, so
that an architecture can still be predicted in other formats and a look-up of its own refuses by that name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aicalib.errors import NotCovered, UnknownName
from aicalib.quant.checkpoint import checkpoint_of, quantization_of
from aicalib.quant.names import ParsedMode, parse_mode

_SHORT = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def weight_formats(config: Mapping[str, Any], *, experts: bool) -> tuple[str, str, list[str]]:
    """Read the storage formats of a checkpoint.

    Parameters
    ----------
    config : mapping
        The whole `config.json`.
    experts : bool
        The model has experts.

    Returns
    -------
    dense, routed : str
        Formats of the dense weights and of the routed experts (equal without experts).
    notes : list of str
        What had to be assumed.

    Raises
    ------
    InvalidValue
        If a key of the quantization is missing or holds a wrong value.
    """
    try:
        found = checkpoint_of(config, experts=experts)
    except (UnknownName, NotCovered) as error:
        name = _unrecognized(config)
        return name, name, [str(error)]
    dense = _written(found.gemm)
    return dense, _written(found.moe) if found.moe else dense, list(found.notes)


def _written(parsed: ParsedMode[Any] | None) -> str:
    assert parsed is not None, "a configuration names a format, or none of the weights is quantized"
    spelled = parsed.spelled()
    return _SHORT.get(spelled, spelled)


def _unrecognized(config: Mapping[str, Any]) -> str:
    """Name the method in a way that no mode is spelled."""
    name = str((quantization_of(config) or {}).get("quant_method") or "unrecognized").lower()
    try:
        parse_mode("gemm", name)
    except UnknownName:
        return name
    return f"{name} of unknown layout"
