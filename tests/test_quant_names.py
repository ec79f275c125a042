"""Spellings of modes, and the configurations built from them."""

import subprocess
import sys
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicalib.errors import InvalidValue, UnknownName, fold
from aicalib.quant import (
    MODES,
    FMHAQuantMode,
    GEMMQuantMode,
    KVCacheQuantMode,
    MoEQuantMode,
    ParsedMode,
    QuantConfig,
    QuantRequest,
    parse_mode,
    variants,
)
from aicalib.quant.names import spellings

PUBLISHED_WEIGHTS = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp8": "fp8",
    "fp8_block": "fp8_block",
    "fp8_dynamic": "fp8",
    "nvfp4": "nvfp4",
    "mxfp4": "mxfp4",
    "mxfp8": "mxfp8",
    "int4": "int4_wo",
    "awq_int4": "int4_wo:awq",
    "gptq_int4": "int4_wo:gptq",
    "gptq_int8": "int8_wo:gptq",
    "w8a8_int8": "sq",
    "w8a16": "int8_wo",
    "w4a16": "int4_wo",
}

TYPED = {
    "gemm": {
        "half": "float16",
        "float": "float32",
        "awq": "int4_wo:awq",
        "gptq": "int4_wo:gptq",
        "gptq:4": "int4_wo:gptq",
        "gptq:8": "int8_wo:gptq",
        "awq_marlin": "awq_marlin",
        "gptq_marlin:8": "gptq_marlin:8",
        "int8": "sq",
        "sq": "sq",
        "nf4": "bitsandbytes:nf4",
        "bnb_int4": "bitsandbytes",
        "bitsandbytes:int8": "bitsandbytes:int8",
        "e4m3": "fp8",
        "fp8_e4m3": "fp8",
        "w8a8_fp8": "fp8",
        "block_fp8": "fp8_block",
        "modelopt_fp8": "fp8_static",
        "modelopt_fp4": "nvfp4",
        "w4a16_mxfp4": "mxfp4:w4a16",
        "GGUF:q4_k_m": "gguf:Q4_K_M",
        "gguf_q4_k_m": "gguf:Q4_K_M",
        "Q8_0": "gguf:Q8_0",
        "compressed-tensors": "compressed_tensors",
        "compressed-tensors:w8a8_int8": "compressed_tensors:w8a8_int8",
        "auto-round:8": "auto_round:8",
        "int4_wo:g64": "int4_wo:g64",
        "qserve": "qoq",
    },
    "moe": {
        "mxfp4": "mxfp4",
        "w4a16_mxfp4": "w4a16_mxfp4",
        "w4a8_mxfp4": "w4a8_mxfp4_mxfp8",
        "w4afp8": "w4afp8",
        "moe_wna16": "int4_wo",
        "experts_int8": "int8_wo",
    },
    "kvcache": {
        "fp8": "fp8",
        "fp8_e4m3": "fp8_e4m3",
        "fp8_e5m2": "fp8_e5m2",
        "fp16": "float16",
        "bf16": "bfloat16",
        "fp32": "float32",
        "int4": "int4",
        "nvfp4": "nvfp4",
        "fp4_mx_block16": "fp4_e2m1",
    },
    "fmha": {"fp16": "float16", "bf16": "bfloat16", "e4m3": "fp8", "fp8_block": "fp8_block"},
}

ALL_SPELLINGS = [(field, text, parsed) for field in MODES for text, parsed in spellings(field).items()]


@pytest.mark.parametrize("field", ["gemm", "moe"])
@pytest.mark.parametrize(("text", "meant"), PUBLISHED_WEIGHTS.items())
def test_the_weight_formats_of_the_published_runs(field, text, meant):
    parsed = parse_mode(field, text)
    assert isinstance(parsed.mode, MODES[field])
    assert parsed.spelled() == meant


@pytest.mark.parametrize(
    ("field", "text", "meant"), [(field, *pair) for field in TYPED for pair in TYPED[field].items()]
)
def test_what_users_type(field, text, meant):
    assert parse_mode(field, text).spelled() == meant


@pytest.mark.parametrize("field", MODES)
@pytest.mark.parametrize("text", ["auto", "AUTO", " auto "])
def test_auto_leaves_the_field_open(field, text):
    assert parse_mode(field, text) is None


@pytest.mark.parametrize("field", MODES)
def test_no_spelling_is_auto(field):
    assert fold("auto") not in spellings(field)


@pytest.mark.parametrize("field", MODES)
def test_every_mode_and_variant_is_spelled_by_its_own_name(field):
    for mode in MODES[field]:
        layouts = [None, *variants(mode)] if field in ("gemm", "moe") else [None]
        for variant in layouts:
            parsed = ParsedMode(mode, variant)
            assert parse_mode(field, parsed.spelled()) == parsed


@given(st.sampled_from(ALL_SPELLINGS), st.data())
def test_case_and_separators_do_not_count(spelling, data):
    field, text, meant = spelling
    letters = st.sampled_from([str.lower, str.upper])
    separators = st.sampled_from(["", "-", "_", ":", " ", ".", "_-"])
    written = "".join(data.draw(separators) + data.draw(letters)(character) for character in text)
    assert parse_mode(field, written) == meant


@pytest.mark.parametrize(
    ("field", "text", "near"),
    [
        ("gemm", "fp88", "fp8"),
        ("gemm", "nvpf4", "nvfp4"),
        ("gemm", "gguf:Q4KX", "gguf:Q4_K"),
        ("moe", "w4afp9", "w4afp8"),
        ("kvcache", "fp8_e4m2", "fp8_e4m3"),
        ("fmha", "fp8_e5m2", "fp8_e4m3"),
    ],
)
def test_a_typo_is_refused_with_near_misses(field, text, near):
    with pytest.raises(UnknownName, match=f"unknown {field} mode") as refusal:
        parse_mode(field, text)
    assert near in refusal.value.alternatives


@pytest.mark.parametrize(
    ("field", "text", "choices"),
    [
        ("gemm", "w8a8", {"sq", "fp8"}),
        ("gemm", "FP4", {"nvfp4", "mxfp4"}),
        ("moe", "w4a8", {"w4afp8", "w4a8_mxfp4_mxfp8"}),
        ("gemm", "w4a8", {"w4afp8", "qoq"}),
        ("kvcache", "fp4", {"nvfp4", "fp4_e2m1"}),
    ],
)
def test_an_ambiguous_spelling_is_refused_with_the_choices(field, text, choices):
    with pytest.raises(InvalidValue, match="may mean") as refusal:
        parse_mode(field, text)
    assert {parse_mode(field, choice).mode.name for choice in refusal.value.alternatives} == choices


def test_a_request_reads_every_input_spelling_of_the_fields():
    expected = QuantRequest(
        GEMMQuantMode.fp8, KVCacheQuantMode.fp8_e4m3, FMHAQuantMode.fp8, MoEQuantMode.w4afp8
    )
    short = {"gemm": "fp8", "kv": "fp8_e4m3", "fmha": "fp8", "moe": "w4afp8"}
    dtype = {
        "gemm_dtype": "fp8",
        "kvcache_dtype": "fp8_e4m3",
        "attention_dtype": "fp8",
        "moe_dtype": "w4afp8",
    }
    mode = {
        "gemm_quant_mode": GEMMQuantMode.fp8,
        "kvcache-quant-mode": "FP8-E4M3",
        "FMHA_quant_mode": FMHAQuantMode.fp8,
        "moe_quant_mode": "w4afp8",
    }
    assert [QuantRequest.from_mapping(given) for given in (short, dtype, mode)] == [expected] * 3


def test_auto_and_missing_stay_open():
    request = QuantRequest.from_mapping({"gemm": "fp8", "kv": "auto", "fmha": None})
    assert request == QuantRequest(gemm=GEMMQuantMode.fp8)
    assert request.open_fields() == ["kvcache", "fmha", "moe"]
    assert request.to_mapping() == {"gemm": "fp8", "kvcache": "auto", "fmha": "auto", "moe": "auto"}


def test_filling_keeps_a_variant_with_its_mode():
    defaults = QuantConfig.from_mapping(
        {"gemm": "gguf:Q8_0", "kv": "bf16", "fmha": "bf16", "moe": "int4_wo:g64"}
    )
    request = QuantRequest.from_mapping({"gemm": "int4_wo", "kv": "fp8"})
    assert request.filled(defaults).to_mapping() == {
        "gemm": "int4_wo",
        "kvcache": "fp8",
        "fmha": "bfloat16",
        "moe": "int4_wo:g64",
    }


def test_a_config_survives_its_mapping_and_describes_itself():
    config = QuantConfig(
        GEMMQuantMode.gguf,
        KVCacheQuantMode.fp8_e5m2,
        FMHAQuantMode.bfloat16,
        MoEQuantMode.gguf,
        gemm_variant="q4_k_m",
        moe_variant="Q6-K",
    )
    assert (config.gemm_variant, config.moe_variant) == ("Q4_K_M", "Q6_K")
    assert QuantConfig.from_mapping(config.to_mapping()) == config
    assert config.describe() == "GEMM gguf:Q4_K_M, KV cache fp8_e5m2, attention bfloat16, experts gguf:Q6_K"
    with pytest.raises(FrozenInstanceError):
        config.gemm = GEMMQuantMode.fp8


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"gem": "fp8"}, UnknownName, "did you mean gemm"),
        ({"kv": "fp8", "kvcache_dtype": "bf16"}, InvalidValue, "kvcache is given twice"),
        ({"gemm": MoEQuantMode.fp8}, InvalidValue, "is no GEMMQuantMode"),
        ({"gemm": ""}, UnknownName, "unknown gemm mode"),
        ({"gemm": "fp4"}, InvalidValue, "may mean"),
    ],
)
def test_wrong_mappings_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        QuantRequest.from_mapping(given)


def test_one_field_may_be_given_twice_when_both_agree():
    assert QuantRequest.from_mapping({"kv": "bf16", "kvcache_dtype": "bfloat16"}) == QuantRequest(
        kvcache=KVCacheQuantMode.bfloat16
    )


def test_a_config_needs_all_four_fields():
    with pytest.raises(InvalidValue, match="kvcache, fmha must be given"):
        QuantConfig.from_mapping({"gemm": "fp8", "moe": "fp8", "kv": "auto"})


def test_variants_are_checked():
    with pytest.raises(UnknownName, match="variant of int4_wo"):
        QuantRequest(gemm=GEMMQuantMode.int4_wo, gemm_variant="g65x")
    with pytest.raises(InvalidValue, match="needs a moe mode"):
        QuantRequest(moe_variant="g64")


def test_the_package_loads_no_heavy_library():
    heavy = {"pandas", "scipy", "duckdb", "sklearn", "matplotlib"}
    code = f"import sys, aicalib.quant; print(sorted({heavy!r} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
