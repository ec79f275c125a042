"""The nominal triples, the true storage and the compute path of every mode."""

import doctest
import math

import pytest

import aicalib.quant
from aicalib.errors import InvalidValue, UnknownName
from aicalib.quant import (
    MATH_BITS,
    MODES,
    ActivationScaling,
    FMHAQuantMode,
    GEMMQuantMode,
    KVCacheQuantMode,
    MoEQuantMode,
    activation_bits,
    compute_path,
    formats,
    is_weight_only,
    names,
    storage_bits,
    variants,
    weight_format,
)
from aicalib.quant.tables import format_tables

GEMM, KV, FMHA, MOE = GEMMQuantMode, KVCacheQuantMode, FMHAQuantMode, MoEQuantMode

FIXED_TRIPLES = {
    GEMM: {
        "float16": (2, 1),
        "int8_wo": (1, 1),
        "int4_wo": (0.5, 1),
        "fp8": (1, 2),
        "sq": (1, 2),
        "fp8_block": (1, 2),
        "fp8_ootb": (1, 2),
        "nvfp4": (0.5, 4),
        "awq_marlin": (0.5, 1.5),
        "gptq_marlin": (0.5, 1.5),
        "gguf": (0.5, 1),
        "bitsandbytes": (0.5, 1),
        "auto_round": (0.5, 1),
        "compressed_tensors": (0.5, 1),
        "qoq": (0.25, 1.5),
        "w4afp8": (0.5, 2),
    },
    KV: {
        "float16": (2, 0),
        "bfloat16": (2, 0),
        "int8": (1, 0),
        "fp8": (1, 0),
        "fp8_e5m2": (1, 0),
        "fp8_e4m3": (1, 0),
        "fp4_e2m1": (0.5, 0),
    },
    FMHA: {"float16": (0, 1), "fp8": (0, 2), "fp8_block": (1, 2)},
    MOE: {
        "float16": (2, 1),
        "fp8": (1, 2),
        "fp8_block": (1, 2),
        "int4_wo": (0.5, 1),
        "w4a16_mxfp4": (0.5, 1),
        "w4afp8": (0.5, 2),
        "nvfp4": (0.5, 4),
    },
}

WEIGHT_BITS = [
    (GEMM.float16, None, 16),
    (GEMM.bfloat16, None, 16),
    (GEMM.float32, None, 32),
    (GEMM.fp8, None, 8),
    (GEMM.fp8, "per_channel", 8),
    (GEMM.fp8_block, None, 8.002),
    (GEMM.mxfp8, None, 8.25),
    (GEMM.int4_wo, None, 4.156),
    (GEMM.int4_wo, "awq", 4.156),
    (GEMM.awq_marlin, None, 4.156),
    (GEMM.int4_wo, "gptq", 4.125),
    (GEMM.gptq_marlin, None, 4.125),
    (GEMM.int4_wo, "g64", 4.3125),
    (GEMM.int4_wo, "g64_sym", 4.25),
    (GEMM.int4_wo, "g32", 4.625),
    (GEMM.int4_wo, "g32_sym", 4.5),
    (GEMM.int8_wo, "gptq", 8.125),
    (GEMM.gptq_marlin, "8", 8.125),
    (GEMM.w4afp8, None, 4.125),
    (GEMM.qoq, None, 4.125),
    (GEMM.mxfp4, None, 4.25),
    (MOE.w4a16_mxfp4, None, 4.25),
    (MOE.w4a8_mxfp4_mxfp8, None, 4.25),
    (GEMM.nvfp4, None, 4.5),
    (GEMM.compressed_tensors, "nvfp4", 4.5),
    (GEMM.bitsandbytes, None, 4.5),
    (GEMM.bitsandbytes, "nf4_double", 4.127),
    (GEMM.bitsandbytes, "int8", 8),
]

GGUF_BYTES = {
    "Q8_0": (34, 32),
    "Q4_0": (18, 32),
    "Q4_1": (20, 32),
    "Q5_0": (22, 32),
    "Q5_1": (24, 32),
    "Q2_K": (84, 256),
    "Q3_K": (110, 256),
    "Q4_K": (144, 256),
    "Q5_K": (176, 256),
    "Q6_K": (210, 256),
    "IQ1_S": (50, 256),
    "IQ1_M": (56, 256),
    "IQ2_XXS": (66, 256),
    "IQ2_XS": (74, 256),
    "IQ2_S": (82, 256),
    "IQ3_XXS": (98, 256),
    "IQ3_S": (110, 256),
    "IQ4_XS": (136, 256),
    "IQ4_NL": (18, 32),
    "TQ1_0": (54, 256),
    "TQ2_0": (66, 256),
    "MXFP4": (17, 32),
    "F16": (2, 1),
    "BF16": (2, 1),
    "F32": (4, 1),
}

# What the ggml quantize tool prints for Llama-2-7B, whole file.
GGUF_MIX_BITS = {
    "Q3_K_S": 3.50,
    "Q3_K_M": 3.91,
    "Q3_K_L": 4.27,
    "Q4_K_S": 4.58,
    "Q4_K_M": 4.84,
    "Q5_K_S": 5.52,
    "Q5_K_M": 5.68,
}

KV_BITS = {
    "float16": 16,
    "bfloat16": 16,
    "float32": 32,
    "fp8": 8,
    "fp8_e4m3": 8,
    "fp8_e5m2": 8,
    "int8": 8.25,
    "int4": 4.25,
    "mxfp8": 8.25,
    "nvfp4": 4.5,
    "fp4_e2m1": 4.5,
}

WEIGHT_MODES = [*GEMM, *MOE]
LAYOUTS = [(mode, variant) for mode in WEIGHT_MODES for variant in (None, *variants(mode))]


@pytest.mark.parametrize("enum", MODES.values())
def test_fixed_triples(enum):
    triples = {mode.name: tuple(mode.value)[:2] for mode in enum}
    assert {name: triples[name] for name in FIXED_TRIPLES[enum]} == FIXED_TRIPLES[enum]


@pytest.mark.parametrize("enum", MODES.values())
def test_members_carry_their_own_name(enum):
    assert [mode.value.name for mode in enum] == list(enum.__members__)


@pytest.mark.parametrize("enum", MODES.values())
def test_float16_and_bfloat16_are_equal_but_for_the_name(enum):
    assert tuple(enum.float16.value)[:2] == tuple(enum.bfloat16.value)[:2]


def test_every_member_has_a_format_and_every_format_a_member():
    tables = format_tables()
    assert set(tables.weights) == {(field, mode.name) for field in ("gemm", "moe") for mode in MODES[field]}
    assert set(tables.kvcache) == set(KV.__members__)
    assert set(tables.fmha) == set(FMHA.__members__)


@pytest.mark.parametrize(("mode", "variant", "bits"), WEIGHT_BITS)
def test_weight_bits(mode, variant, bits):
    assert storage_bits(mode, variant) == pytest.approx(bits, abs=6e-4)


@pytest.mark.parametrize(("mode", "variant"), LAYOUTS)
def test_weight_bits_are_the_sum_of_their_parts(mode, variant):
    storage = weight_format(mode, variant).storage
    total = storage.payload_bits
    for part in storage.scales + storage.zeros:
        total += part.bits / part.elements
    assert storage_bits(mode, variant) == pytest.approx(total, rel=1e-12)
    assert storage_bits(mode, variant, row_elements=4096) == pytest.approx(total + storage.row_bits / 4096)
    assert storage.source


@pytest.mark.parametrize(("variant", "size"), GGUF_BYTES.items())
def test_gguf_layouts_from_their_block_size(variant, size):
    size_bytes, elements = size
    assert storage_bits(GEMM.gguf, variant) == pytest.approx(8 * size_bytes / elements, rel=1e-12)


@pytest.mark.parametrize(("variant", "bits"), GGUF_MIX_BITS.items())
def test_gguf_mixes_reach_what_the_quantize_tool_prints(variant, bits):
    assert storage_bits(GEMM.gguf, variant) == pytest.approx(bits, abs=0.01)


def test_every_gguf_variant_is_checked_against_a_figure():
    assert set(variants(GEMM.gguf)) == set(GGUF_BYTES) | set(GGUF_MIX_BITS)


def test_kv_bits():
    assert {mode.name: storage_bits(mode) for mode in KV} == KV_BITS


def test_row_scales_count_when_the_row_is_known():
    assert storage_bits(GEMM.sq) == 8
    assert storage_bits(GEMM.sq, row_elements=4096) == pytest.approx(8 + 32 / 4096)


@pytest.mark.parametrize("mode", [mode for mode in WEIGHT_MODES if mode.name != "qoq"])
def test_true_storage_is_never_below_the_payload_the_nominal_figure_means(mode):
    assert 8 * mode.value.memory <= storage_bits(mode) <= 8 * mode.value.memory * 1.25


@pytest.mark.parametrize(
    ("mode", "capability", "math"),
    [
        (GEMM.fp8, "8.0", "bf16"),
        (GEMM.fp8, "8.6", "bf16"),
        (GEMM.fp8, "8.9", "fp8"),
        (GEMM.fp8, "9.0", "fp8"),
        (GEMM.fp8, "7.5", "fp16"),
        (GEMM.fp8_static, "8.0", "bf16"),
        (GEMM.fp8_block, "9.0", "fp8"),
        (GEMM.nvfp4, "9.0", "bf16"),
        (GEMM.nvfp4, "10.0", "fp4"),
        (GEMM.nvfp4, "10.3", "fp4"),
        (GEMM.nvfp4, "12.0", "fp4"),
        (GEMM.nvfp4_wo, "10.0", "bf16"),
        (GEMM.mxfp8, "9.0", "bf16"),
        (GEMM.mxfp8, "10.0", "fp8"),
        (GEMM.sq, "7.5", "int8"),
        (GEMM.sq, "10.0", "int8"),
        (GEMM.float16, "7.0", "fp16"),
        (GEMM.bfloat16, "7.0", "fp16"),
        (GEMM.float16, "8.0", "bf16"),
        (GEMM.float32, "9.0", "fp32"),
        (GEMM.int4_wo, "7.5", "fp16"),
        (GEMM.int4_wo, "10.0", "bf16"),
        (GEMM.awq_marlin, "9.0", "bf16"),
        (GEMM.gguf, "9.0", "bf16"),
        (GEMM.w4afp8, "9.0", "fp8"),
        (MOE.mxfp4, "9.0", "bf16"),
        (MOE.mxfp4, "10.0", "fp8"),
        (MOE.w4a16_mxfp4, "10.0", "bf16"),
        (MOE.w4a8_mxfp4_mxfp8, "10.0", "fp8"),
        (FMHA.float16, "8.0", "bf16"),
        (FMHA.fp8, "9.0", "fp8"),
    ],
)
def test_compute_path_nvidia(mode, capability, math):
    assert compute_path(mode, "NVIDIA", capability) == math


@pytest.mark.parametrize(
    ("mode", "vendor", "capability", "math"),
    [
        (GEMM.fp8, "AMD", "gfx942", "fp8"),
        (GEMM.fp8, "amd", "GFX950", "fp8"),
        (GEMM.nvfp4, "AMD", "gfx942", "bf16"),
        (GEMM.mxfp4, "AMD", "gfx942", "bf16"),
        (GEMM.mxfp4, "AMD", "gfx950", "fp4"),
        (GEMM.sq, "AMD", "gfx90a", "int8"),
        (GEMM.bfloat16, "AMD", "gfx90a", "bf16"),
        (GEMM.float16, "AMD", "gfx906", "fp16"),
        (GEMM.float16, "Hygon", "gfx906", "fp16"),
        (GEMM.fp8, "Intel", "hpu", "fp8"),
        (GEMM.bfloat16, "Intel", "hpu", "bf16"),
        (GEMM.int4_wo, "Intel", "hpu", "bf16"),
        (GEMM.sq, "Huawei", "ascend910b", "int8"),
        (GEMM.fp8, "Huawei", "ascend910b", "bf16"),
        (GEMM.sq, "Google", "v5e", "int8"),
        (FMHA.bfloat16, "Google", "v5e", "bf16"),
    ],
)
def test_compute_path_other_vendors(mode, vendor, capability, math):
    assert compute_path(mode, vendor, capability) == math


def test_a_variant_may_have_its_own_path():
    assert compute_path(GEMM.compressed_tensors, "NVIDIA", "9.0") == "bf16"
    assert compute_path(GEMM.compressed_tensors, "NVIDIA", "9.0", "w8a8_fp8") == "fp8"
    assert compute_path(GEMM.compressed_tensors, "NVIDIA", "10.0", "NVFP4") == "fp4"
    assert compute_path(GEMM.mxfp4, "NVIDIA", "10.0", "w4a4") == "fp4"
    assert compute_path(GEMM.bitsandbytes, "NVIDIA", "8.0", "int8") == "int8"


@pytest.mark.parametrize(
    ("mode", "vendor", "capability", "works"),
    [
        (GEMM.sq, "NVIDIA", "7.0", "int8_wo"),
        (GEMM.fp8, "NVIDIA", "7.0", "int8_wo"),
        (GEMM.fp8, "AMD", "gfx90a", "int8_wo"),
        (GEMM.awq_marlin, "AMD", "gfx942", "int4_wo"),
        (MOE.w4a8_mxfp4_mxfp8, "NVIDIA", "9.0", "w4a16_mxfp4"),
        (MOE.w4afp8, "NVIDIA", "8.0", "int4_wo"),
        (FMHA.fp8, "NVIDIA", "8.0", "float16"),
        (GEMM.float16, "NVIDIA", "5.2", None),
    ],
)
def test_what_cannot_be_computed_is_refused_with_what_works(mode, vendor, capability, works):
    with pytest.raises(InvalidValue, match=f"{capability} cannot compute {mode.name}:") as refusal:
        compute_path(mode, vendor, capability)
    alternatives = refusal.value.alternatives
    assert all(name in str(refusal.value) for name in alternatives)
    assert alternatives == [] if works is None else works in alternatives
    for name in alternatives:
        assert compute_path(type(mode)[name], vendor, capability) in MATH_BITS


def test_a_refusal_names_the_reason():
    with pytest.raises(InvalidValue, match=r"cannot compute sq: it needs 7\.5 or newer for int8; int8_wo"):
        compute_path(GEMM.sq, "NVIDIA", "7.0")
    with pytest.raises(InvalidValue, match="no AMD accelerator has what it needs"):
        compute_path(GEMM.awq_marlin, "AMD", "gfx942")


@pytest.mark.parametrize("capability", ["", "sm90", "9", "gfx942"])
def test_a_malformed_compute_capability_is_refused(capability):
    with pytest.raises(InvalidValue, match=r"major\.minor"):
        compute_path(GEMM.fp8, "NVIDIA", capability)


@pytest.mark.parametrize(("mode", "variant"), LAYOUTS)
def test_every_layout_runs_on_the_newest_nvidia(mode, variant):
    math_bits = MATH_BITS[compute_path(mode, "NVIDIA", "10.0", variant)]
    form = weight_format(mode, variant)
    assert math_bits >= math.floor(form.storage.payload_bits)
    assert all(step.math in MATH_BITS for step in form.path)
    narrow_math = any(MATH_BITS[step.math] < 16 for step in form.path)
    assert narrow_math == (form.activations is not ActivationScaling.NONE)


def test_weight_only():
    assert is_weight_only(GEMM.fp8, "NVIDIA", "8.0")
    assert not is_weight_only(GEMM.fp8, "NVIDIA", "9.0")
    assert is_weight_only(GEMM.nvfp4, "NVIDIA", "9.0")
    assert not is_weight_only(GEMM.nvfp4, "NVIDIA", "10.0")
    assert is_weight_only(GEMM.int4_wo, "NVIDIA", "10.0")
    assert not is_weight_only(GEMM.float16, "NVIDIA", "7.0")
    assert not is_weight_only(GEMM.float32, "NVIDIA", "9.0")
    assert is_weight_only(GEMM.gguf, "NVIDIA", "9.0", "q8_0")
    assert not is_weight_only(GEMM.gguf, "NVIDIA", "9.0", "f16")


@pytest.mark.parametrize(
    ("mode", "capability", "bits"),
    [
        (GEMM.fp8, "9.0", 8),
        (GEMM.fp8, "8.0", 16),
        (GEMM.fp8_block, "9.0", 8.25),
        (GEMM.mxfp8, "10.0", 8.25),
        (MOE.mxfp4, "10.0", 8.25),
        (GEMM.nvfp4, "10.0", 4.5),
        (GEMM.nvfp4, "9.0", 16),
        (GEMM.float32, "9.0", 32),
    ],
)
def test_activation_bits(mode, capability, bits):
    assert activation_bits(mode, "NVIDIA", capability) == bits


def test_online_is_a_matter_of_the_field():
    assert weight_format(MOE.int8_wo).online
    assert not weight_format(GEMM.int8_wo).online
    assert weight_format(GEMM.fp8).online
    assert not weight_format(GEMM.int4_wo, "awq").online


def test_only_gguf_covers_the_whole_model():
    assert {mode.name for mode in WEIGHT_MODES if weight_format(mode).whole_model} == {"gguf"}


def test_the_default_layout_of_a_family_has_its_variant_name():
    assert weight_format(GEMM.gguf).variant == "Q4_K_M"
    assert weight_format(GEMM.gguf) == weight_format(GEMM.gguf, "q4-k-m")
    assert weight_format(GEMM.int4_wo).variant is None


def test_unknown_variants_are_refused():
    with pytest.raises(UnknownName, match="variant of gguf 'Q4_K_X'") as near:
        weight_format(GEMM.gguf, "Q4_K_X")
    assert "Q4_K_M" in near.value.alternatives
    with pytest.raises(InvalidValue, match="nvfp4 has no variants"):
        weight_format(GEMM.nvfp4, "g64")


def test_examples_in_docstrings():
    for module in (formats, names):
        result = doctest.testmod(module)
        assert (result.failed, result.attempted > 0) == (0, True)


def test_the_exported_set_is_what_is_meant():
    assert sorted(aicalib.quant.__all__) == sorted(
        [
            "ActivationScaling",
            "ComputeMode",
            "FIELD_KEYS",
            "FMHAQuantMode",
            "Field",
            "GEMMQuantMode",
            "KVCacheQuantMode",
            "MATH_BITS",
            "MODES",
            "SIXTEEN_BIT",
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
    )
    assert all(hasattr(aicalib.quant, name) for name in aicalib.quant.__all__)
