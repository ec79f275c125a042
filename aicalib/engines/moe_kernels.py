"""Which format class weights are listed by in `kernels.csv`, dense ones and experts.

Rows of kind moe_deepep_prefill and moe_deepep_decode hold where the all-to-all is DeepEP.
"""

from __future__ import annotations

EXPERT_FORMATS = ("wide", "fp8", "fp8_block", "int8", "fp4", "w4a8", "weight_only_8", "weight_only_4", "int4")
"""The format classes of the profile; 4-bit weights with 8-bit math apart ("w4a8"), and INT4 apart from FP4 where only
weights are narrow, because they are other kernels."""


def dense_format(mode: str, math: str, bits: float) -> str:
    """Return the class of dense weights, one of `aicalib.profiles.coefficients.FORMAT_CLASSES`.

    Parameters
    ----------
    mode : str
        Name of a `GEMMQuantMode`, or of a `MoEQuantMode` whose efficiency is asked for.
    math : str
        Number format that the accelerator multiplies it in.
    bits : float
        True storage of a weight in bits.
    """
    if math in ("fp4", "int8"):
        return math
    if math == "fp8":
        return "fp8_block" if mode in ("fp8_block", "mxfp8") else "fp8"
    return "wide" if bits >= 16 else "weight_only_8" if bits > 7 else "weight_only_4"


def expert_format(mode: str, math: str, bits: float) -> str:
    """Return the format of experts, one of `EXPERT_FORMATS`.

    Parameters
    ----------
    mode : str
        Name of a `MoEQuantMode`.
    math : str
        Number format that the accelerator multiplies it in: "bf16", "fp16", "fp32", "fp8", "int8", "fp4".
    bits : float
        True storage of a weight in bits.
    """
    if math == "fp4":
        return "fp4"
    if math in ("fp8", "int8"):
        if bits < 7:
            return "w4a8"
        return "fp8_block" if mode in ("fp8_block", "mxfp8") else math
    if bits >= 16:
        return "wide"
    if bits > 7:
        return "weight_only_8"
    return "weight_only_4" if "fp4" in mode else "int4"
