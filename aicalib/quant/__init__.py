"""Quantization: the four fields of a deployment, their modes, true storage and compute path."""

from aicalib.quant.config import FIELD_KEYS, QuantConfig, QuantRequest
from aicalib.quant.formats import (
    activation_bits,
    compute_path,
    is_weight_only,
    storage_bits,
    variants,
    weight_format,
)
from aicalib.quant.modes import (
    MODES,
    SIXTEEN_BIT,
    ComputeMode,
    Field,
    FMHAQuantMode,
    GEMMQuantMode,
    KVCacheQuantMode,
    MoEQuantMode,
    QuantMapping,
    QuantMode,
    StorageMode,
    WeightMode,
)
from aicalib.quant.names import ParsedMode, parse_mode
from aicalib.quant.tables import MATH_BITS, ActivationScaling, StorageFormat, WeightFormat

__all__ = [
    "FIELD_KEYS",
    "MATH_BITS",
    "MODES",
    "SIXTEEN_BIT",
    "ActivationScaling",
    "ComputeMode",
    "FMHAQuantMode",
    "Field",
    "GEMMQuantMode",
    "KVCacheQuantMode",
    "MoEQuantMode",
    "ParsedMode",
    "QuantConfig",
    "QuantMapping",
    "QuantMode",
    "QuantRequest",
    "StorageFormat",
    "StorageMode",
    "WeightFormat",
    "WeightMode",
    "activation_bits",
    "compute_path",
    "is_weight_only",
    "parse_mode",
    "storage_bits",
    "variants",
    "weight_format",
]
