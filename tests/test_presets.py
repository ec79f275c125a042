"""Presets and `quant_config`, and runtime arguments under what the user says himself."""

from __future__ import annotations

import pytest

from aicalib.engines import get_runtime_args
from aicalib.errors import InvalidValue, RequestError, UnknownName
from aicalib.quant.presets import get_preset, list_presets, read_quant_config

SEEDS = ("default", "kv-cache-fp8", "dynamic-fp8", "bf16-stable", "aggressive-moe")


def test_presets_have_the_names_of_the_guide_and_the_four_reference_configurations():
    assert [each.name for each in list_presets()][:5] == list(SEEDS)
    assert len(list_presets()) == 9
    assert get_preset("KV_Cache_FP8").name == "kv-cache-fp8"
    with pytest.raises(UnknownName):
        get_preset("fp8-everything")


def test_a_quant_config_is_a_preset_or_presets_or_fields():
    assert read_quant_config({"preset": "default"})[0].quant.open_fields() == [
        "gemm",
        "kvcache",
        "fmha",
        "moe",
    ]
    assert [each.name for each in read_quant_config({"presets": ["default", "dynamic-fp8"]})] == [
        "default",
        "dynamic-fp8",
    ]
    fields = {
        "gemm_dtype": "fp8",
        "kvcache_dtype": "fp8_e5m2",
        "attention_dtype": "auto",
        "moe_quant_mode": "w4afp8",
    }
    mapping = read_quant_config(fields)[0].quant.to_mapping()
    assert mapping == {"gemm": "fp8", "kvcache": "fp8_e5m2", "fmha": "auto", "moe": "w4afp8"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"preset": "default", "presets": ["default"]},
        {"preset": "default", "gemm_dtype": "fp8"},
        {"preset": ["default"]},
        {"presets": "default"},
        {"presets": []},
        {"presets": ["default", "DEFAULT"]},
        {"preset": "fast"},
        {"gemm_type": "fp8"},
        {"gemm_dtype": 8},
        {"gemm_dtype": "fp9"},
    ],
)
def test_a_quant_config_is_read_strictly(wrong):
    with pytest.raises((InvalidValue, UnknownName)):
        read_quant_config(wrong)


@pytest.mark.parametrize(
    ("runtime", "config", "expected"),
    [
        ("sglang", {"preset": "default"}, {}),
        ("sglang", {"preset": "kv-cache-fp8"}, {"--kv-cache-dtype": "fp8_e4m3"}),
        ("vllm", {"preset": "kv-cache-fp8"}, {"--kv-cache-dtype": "fp8_e4m3"}),
        ("sglang", {"preset": "dynamic-fp8"}, {"--quantization": "fp8", "--kv-cache-dtype": "fp8_e4m3"}),
        ("vllm", {"gemm_dtype": "fp8", "kvcache_dtype": "fp8_e5m2"},
         {"--quantization": "fp8", "--kv-cache-dtype": "fp8_e5m2"}),
        ("sglang", {"preset": "bf16-stable"},
         {"--dtype": "bfloat16", "--kv-cache-dtype": "fp8_e4m3", "--attention-backend": "flashinfer"}),
    ],
)  # fmt: skip
def test_runtime_arguments(runtime, config, expected):
    assert get_runtime_args(runtime=runtime, quant_config=config) == expected


def test_runtime_arguments_of_tensorrt_llm_come_with_a_file():
    args = get_runtime_args(runtime="trtllm", quant_config={"preset": "kv-cache-fp8"})
    assert args == {"--backend": "pytorch", "--extra_llm_api_options": "config.yaml"}
    assert args.files == {"config.yaml": "kv_cache_config:\n  dtype: fp8\n"}


def test_parameters_of_the_user_win_and_it_is_said():
    args = get_runtime_args(
        runtime="sglang",
        quant_config={"kvcache_dtype": "fp8_e5m2"},
        user_parameters={
            "kv-cache-dtype": "fp8_e4m3",
            "tp-size": 2,
            "disable_radix_cache": True,
            "schedule-policy": "lpm",
        },
    )
    assert args == {
        "--kv-cache-dtype": "fp8_e4m3", "--tp-size": "2", "--disable-radix-cache": "", "--schedule-policy": "lpm"
    }  # fmt: skip
    assert any("fp8_e4m3 of the user's parameters stands, not fp8_e5m2" in note for note in args.notes)
    assert args.argv()[-3:] == ["--disable-radix-cache", "--schedule-policy", "lpm"]


@pytest.mark.parametrize(
    ("config", "parameters", "says"),
    [
        ({"kvcache_dtype": "fp8_e5m2"}, {"attention-backend": "fa3"}, "holds no cache in fp8_e5m2"),
        ({"preset": "default"}, {"moe-tp-size": 2}, "unknown flag"),
        ({"preset": "default"}, {"tp-size": [1, 2]}, "expand a grid first"),
        ({"presets": ["default", "dynamic-fp8"]}, {}, "one choice"),
        ({"gemm_dtype": "int8"}, {}, "cannot be made"),
    ],
)
def test_runtime_arguments_are_refused(config, parameters, says):
    with pytest.raises(RequestError, match=says):
        get_runtime_args(runtime="sglang", quant_config=config, user_parameters=parameters)


def test_the_preset_of_the_guide_for_experts_needs_its_checkpoint():
    with pytest.raises(RequestError) as caught:
        get_runtime_args(
            runtime="sglang", quant_config={"preset": "aggressive-moe"}, model="deepseek-v3", gpu="h200-sxm"
        )
    assert caught.value.kind == "needs_checkpoint"
    assert any("--checkpoint" in each for each in caught.value.alternatives)


def test_a_value_that_the_version_does_not_take_reaches_no_command_line():
    with pytest.raises(InvalidValue, match="takes auto") as caught:
        get_runtime_args(
            runtime="sglang", engine_version="0.5.23", user_parameters={"kv-cache-dtype": "fp4_e2m1"}
        )
    assert "nvfp4" in caught.value.alternatives
