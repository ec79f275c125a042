"""The four quantization fields of a deployment and the modes that each may take."""

from __future__ import annotations

from enum import Enum
from typing import Final, Literal, NamedTuple, TypeAlias


class QuantMapping(NamedTuple):
    """The nominal figures of a mode, as AIConfigurator users know them.

    They are an interface and never change; what physics reads is the true storage and the compute path
    (:mod:`aicalib.quant.formats`), which count scales and know what the accelerator can multiply.

    Parameters
    ----------
    memory : float
        Bytes per element.
    compute : float
        Speed-up over 16-bit math; 0 where the mode only stores.
    name : str
        The name of the mode, equal to the name of its enum member.
    """

    memory: float
    compute: float
    name: str


class GEMMQuantMode(Enum):
    """Weights and math of the dense linear layers."""

    float16 = QuantMapping(2, 1, "float16")
    bfloat16 = QuantMapping(2, 1, "bfloat16")
    float32 = QuantMapping(4, 0.5, "float32")
    int8_wo = QuantMapping(1, 1, "int8_wo")
    int4_wo = QuantMapping(0.5, 1, "int4_wo")
    fp8 = QuantMapping(1, 2, "fp8")
    fp8_static = QuantMapping(1, 2, "fp8_static")
    fp8_block = QuantMapping(1, 2, "fp8_block")
    fp8_ootb = QuantMapping(1, 2, "fp8_ootb")
    sq = QuantMapping(1, 2, "sq")
    mxfp8 = QuantMapping(1, 2, "mxfp8")
    nvfp4 = QuantMapping(0.5, 4, "nvfp4")
    nvfp4_wo = QuantMapping(0.5, 1, "nvfp4_wo")
    mxfp4 = QuantMapping(0.5, 4, "mxfp4")
    awq_marlin = QuantMapping(0.5, 1.5, "awq_marlin")
    gptq_marlin = QuantMapping(0.5, 1.5, "gptq_marlin")
    gguf = QuantMapping(0.5, 1, "gguf")
    bitsandbytes = QuantMapping(0.5, 1, "bitsandbytes")
    auto_round = QuantMapping(0.5, 1, "auto_round")
    compressed_tensors = QuantMapping(0.5, 1, "compressed_tensors")
    qoq = QuantMapping(0.25, 1.5, "qoq")
    w4afp8 = QuantMapping(0.5, 2, "w4afp8")


class KVCacheQuantMode(Enum):
    """Storage of keys and values."""

    float16 = QuantMapping(2, 0, "float16")
    bfloat16 = QuantMapping(2, 0, "bfloat16")
    float32 = QuantMapping(4, 0, "float32")
    int8 = QuantMapping(1, 0, "int8")
    int4 = QuantMapping(0.5, 0, "int4")
    fp8 = QuantMapping(1, 0, "fp8")
    fp8_e5m2 = QuantMapping(1, 0, "fp8_e5m2")
    fp8_e4m3 = QuantMapping(1, 0, "fp8_e4m3")
    mxfp8 = QuantMapping(1, 0, "mxfp8")
    nvfp4 = QuantMapping(0.5, 0, "nvfp4")
    fp4_e2m1 = QuantMapping(0.5, 0, "fp4_e2m1")


class FMHAQuantMode(Enum):
    """Math of attention."""

    float16 = QuantMapping(0, 1, "float16")
    bfloat16 = QuantMapping(0, 1, "bfloat16")
    float32 = QuantMapping(0, 0.5, "float32")
    fp8 = QuantMapping(0, 2, "fp8")
    fp8_block = QuantMapping(1, 2, "fp8_block")


class MoEQuantMode(Enum):
    """Weights and math of the experts."""

    float16 = QuantMapping(2, 1, "float16")
    bfloat16 = QuantMapping(2, 1, "bfloat16")
    float32 = QuantMapping(4, 0.5, "float32")
    int8_wo = QuantMapping(1, 1, "int8_wo")
    int4_wo = QuantMapping(0.5, 1, "int4_wo")
    fp8 = QuantMapping(1, 2, "fp8")
    fp8_static = QuantMapping(1, 2, "fp8_static")
    fp8_block = QuantMapping(1, 2, "fp8_block")
    sq = QuantMapping(1, 2, "sq")
    mxfp8 = QuantMapping(1, 2, "mxfp8")
    nvfp4 = QuantMapping(0.5, 4, "nvfp4")
    nvfp4_wo = QuantMapping(0.5, 1, "nvfp4_wo")
    mxfp4 = QuantMapping(0.5, 4, "mxfp4")
    w4a16_mxfp4 = QuantMapping(0.5, 1, "w4a16_mxfp4")
    w4a8_mxfp4_mxfp8 = QuantMapping(0.5, 2, "w4a8_mxfp4_mxfp8")
    w4afp8 = QuantMapping(0.5, 2, "w4afp8")
    awq_marlin = QuantMapping(0.5, 1.5, "awq_marlin")
    gptq_marlin = QuantMapping(0.5, 1.5, "gptq_marlin")
    gguf = QuantMapping(0.5, 1, "gguf")
    bitsandbytes = QuantMapping(0.5, 1, "bitsandbytes")
    auto_round = QuantMapping(0.5, 1, "auto_round")
    compressed_tensors = QuantMapping(0.5, 1, "compressed_tensors")


Field: TypeAlias = Literal["gemm", "kvcache", "fmha", "moe"]
WeightMode: TypeAlias = GEMMQuantMode | MoEQuantMode
StorageMode: TypeAlias = GEMMQuantMode | MoEQuantMode | KVCacheQuantMode
ComputeMode: TypeAlias = GEMMQuantMode | MoEQuantMode | FMHAQuantMode
QuantMode: TypeAlias = GEMMQuantMode | KVCacheQuantMode | FMHAQuantMode | MoEQuantMode

SIXTEEN_BIT: Final = ("float16", "bfloat16")
"""Names of the modes with equal physics; which of the two is used depends on what an accelerator multiplies."""

MODES: Final[dict[Field, type[QuantMode]]] = {
    "gemm": GEMMQuantMode,
    "kvcache": KVCacheQuantMode,
    "fmha": FMHAQuantMode,
    "moe": MoEQuantMode,
}
"""The enum of each field."""
