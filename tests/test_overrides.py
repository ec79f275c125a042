"""Which method an engine runs on a checkpoint: what its own check lets through, replaces and refuses."""

import tomllib
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicalib.engines.overrides import resolve_method
from aicalib.engines.releases import version_key
from aicalib.errors import InvalidValue, NotCovered, UnknownName
from aicalib.quant.checkpoint import Checkpoint, checkpoint_of

TABLES = tomllib.loads(files("aicalib.engines").joinpath("overrides.toml").read_text(encoding="utf-8"))

PLAIN = {"torch_dtype": "bfloat16"}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
W8A8 = {
    "quant_method": "compressed-tensors",
    "config_groups": {
        "group_0": {
            "weights": {"num_bits": 8, "type": "int", "strategy": "channel"},
            "input_activations": {"num_bits": 8, "type": "int", "dynamic": True},
        }
    },
}
MIXED = {
    "model.layers.0.mlp.experts": {"quant_algo": "NVFP4"},
    "model.layers.0.self_attn.o_proj": {"quant_algo": "FP8"},
}


def stored(quantization, **model):
    return checkpoint_of(
        {**PLAIN, **model, **({"quantization_config": quantization} if quantization else {})}
    )


def modelopt(algorithm, *, inside=False, **more):
    """A ModelOpt checkpoint, declared in hf_quant_config.json or inside config.json."""
    own = {"quant_method": "modelopt"} if inside else {}
    return stored({"producer": {"name": "modelopt"}, "quant_algo": algorithm, **own, **more})


CHECKPOINTS = {
    "plain": stored(None),
    "awq": stored(AWQ),
    "gptq": stored(GPTQ),
    "gptq_act": stored({**GPTQ, "desc_act": True}),
    "gptq_asymmetric": stored({**GPTQ, "sym": False}),
    "fp8": stored(FP8),
    "fp8_tensor": stored({"quant_method": "fp8"}),
    "w8a8": stored(W8A8),
    "gpt_oss": stored({"quant_method": "mxfp4"}, model_type="gpt_oss"),
    "mxfp4": stored({"quant_method": "mxfp4"}),
    "deepseek_v4": stored(FP8, model_type="deepseek_v4"),
    "auto_round": stored({"quant_method": "auto-round", "bits": 4, "group_size": 128, "sym": True}),
    "modelopt_fp8": modelopt("FP8"),
    "modelopt_fp8_inside": modelopt("FP8", inside=True),
    "modelopt_fp4": modelopt("NVFP4"),
    "modelopt_fp4_inside": modelopt("NVFP4", inside=True),
    "mixed": modelopt("MIXED_PRECISION", quantized_layers=MIXED),
    "w4afp8": modelopt("MIXED_PRECISION", quantized_layers={"a.experts": {"quant_algo": "W4A8_AWQ"}}),
    "gguf": Checkpoint("gguf", None, None, None),
    "bitsandbytes": stored({"quant_method": "bitsandbytes", "load_in_8bit": True}),
}


@pytest.mark.parametrize(
    ("engine", "version", "requested", "checkpoint", "runs"),
    [
        ("sglang", "0.5.23", None, "plain", None),
        ("sglang", "0.5.23", "fp8", "plain", "fp8"),
        ("sglang", "0.5.23", "FP8", "plain", "fp8"),
        ("sglang", "0.5.23", None, "fp8", "fp8"),
        ("sglang", "0.5.23", "fp8", "fp8", "fp8"),
        ("sglang", "0.5.23", None, "awq", "awq_marlin"),
        ("sglang", "0.5.23", "awq", "awq", "awq"),
        ("sglang", "0.5.23", "moe_wna16", "awq", "moe_wna16"),
        ("sglang", "0.5.23", None, "gptq", "gptq_marlin"),
        ("sglang", "0.5.23", None, "gptq_act", "gptq_marlin"),
        ("sglang", "0.5.15", None, "gptq_asymmetric", "gptq"),
        ("sglang", "0.5.15", "gptq", "gptq", "gptq"),
        ("sglang", "0.5.23", "w8a8_int8", "w8a8", "w8a8_int8"),
        ("sglang", "0.5.15", "auto-round-int8", "w8a8", "auto-round-int8"),
        ("sglang", "0.5.2", None, "modelopt_fp4", "modelopt"),
        ("sglang", "0.5.2", "modelopt_fp4", "modelopt_fp4", "modelopt_fp4"),
        ("sglang", "0.5.4", None, "modelopt_fp4", "modelopt_fp4"),
        ("sglang", "0.5.9", None, "modelopt_fp4_inside", "modelopt"),
        ("sglang", "0.5.9", "modelopt_fp4", "modelopt_fp4_inside", "modelopt_fp4"),
        ("sglang", "0.5.9", "modelopt", "modelopt_fp4_inside", "modelopt_fp4"),
        ("sglang", "0.5.23", None, "modelopt_fp4_inside", "modelopt_fp4"),
        ("sglang", "0.5.23", None, "modelopt_fp8_inside", "modelopt_fp8"),
        ("sglang", "0.5.23", "fp8", "modelopt_fp8", "modelopt_fp8"),
        ("sglang", "0.5.23", "modelopt", "modelopt_fp8", "modelopt_fp8"),
        ("sglang", "0.5.23", "nvfp4_online", "modelopt_fp8", "nvfp4_online"),
        ("sglang", "0.5.23", "nvfp4_online", "fp8", "nvfp4_online"),
        ("sglang", "0.5.23", "modelopt_fp4", "fp8", "modelopt_fp4"),
        ("sglang", "0.5.23", None, "mixed", "modelopt_mixed"),
        ("sglang", "0.5.9", None, "mixed", "w4afp8"),
        ("sglang", "0.5.23", None, "w4afp8", "w4afp8"),
        ("sglang", "0.5.23", None, "gguf", "gguf"),
        ("sglang", "0.5.23", "humming", "gptq", "humming"),
        ("sglang", "0.5.20", None, "gpt_oss", "mxfp4"),
        ("sglang", "main", None, "fp8", "fp8"),
        ("vllm", "0.33.0", None, "awq", "auto_awq"),
        ("vllm", "0.33.0", "awq_marlin", "awq", "auto_awq"),
        ("vllm", "0.20.0", None, "gptq", "gptq_marlin"),
        ("vllm", "0.20.0", "gptq", "gptq", "gptq"),
        ("vllm", "0.33.0", None, "auto_round", "inc"),
        ("vllm", "0.33.0", "fp8", "modelopt_fp8", "modelopt"),
        ("vllm", "0.33.0", None, "modelopt_fp4", "modelopt_fp4"),
        ("vllm", "0.33.0", "fp8", "gpt_oss", "gpt_oss_mxfp4"),
        ("vllm", "0.33.0", None, "mxfp4", "mxfp4"),
        ("vllm", "0.33.0", None, "deepseek_v4", "deepseek_v4_fp8"),
        ("vllm", "0.33.0", "fp8_per_block", "plain", "fp8_per_block"),
        ("trtllm", "1.2.0", None, "plain", None),
        ("trtllm", "1.2.0", None, "fp8", "FP8_BLOCK_SCALES"),
        ("trtllm", "1.2.0", None, "modelopt_fp4", "NVFP4"),
    ],
)
def test_what_runs(engine, version, requested, checkpoint, runs):
    assert resolve_method(engine, version, requested, CHECKPOINTS[checkpoint]) == runs


@pytest.mark.parametrize(
    ("engine", "version", "requested", "checkpoint", "kind", "named"),
    [
        ("sglang", "0.5.23", "fp8", "awq", InvalidValue, "does not match"),
        ("sglang", "0.5.23", "awq", "fp8", InvalidValue, "does not match"),
        ("sglang", "0.5.23", "fp8", "w8a8", InvalidValue, "w8a8_fp8"),
        ("sglang", "0.5.4", "fp8", "modelopt_fp8", InvalidValue, "modelopt_fp8"),
        ("sglang", "0.5.9", "modelopt_fp4", "fp8", InvalidValue, "does not match"),
        ("sglang", "0.5.12", "nvfp4_online", "fp8", UnknownName, "nvfp4_online"),
        ("sglang", "0.5.23", "nvfp4_online", "modelopt_fp4", InvalidValue, "FP4 already"),
        ("sglang", "0.5.23", "moe_wna16", "gptq_act", InvalidValue, "gptq"),
        ("sglang", "0.5.23", "humming", "gpt_oss", InvalidValue, "humming"),
        ("sglang", "0.5.23", None, "gptq_asymmetric", UnknownName, "gptq"),
        ("sglang", "0.5.23", "qoq", "plain", UnknownName, "qoq"),
        ("sglang", "0.5.23", "awq", "plain", InvalidValue, "16-bit"),
        ("sglang", "0.5.23", "w8a8_int8", "plain", InvalidValue, "16-bit"),
        ("sglang", "0.4.6.post5", None, "gpt_oss", UnknownName, "mxfp4"),
        ("sglang", "0.4.5", None, "fp8", NotCovered, "older"),
        ("vllm", "0.33.0", None, "gguf", UnknownName, "gguf"),
        ("vllm", "0.33.0", None, "bitsandbytes", UnknownName, "bitsandbytes"),
        ("vllm", "0.18.0", None, "mixed", InvalidValue, "hf_quant_config"),
        ("vllm", "0.18.0", "fp8", "modelopt_fp4", InvalidValue, "does not match"),
        ("vllm", "0.33.0", "awq", "gptq", InvalidValue, "does not match"),
        ("vllm", "0.33.0", "humming", "gpt_oss", InvalidValue, "--moe-backend"),
        ("vllm", "0.33.0", "compressed-tensors", "plain", InvalidValue, "16-bit"),
        ("vllm", "0.11.0", None, "fp8", NotCovered, "older"),
        ("trtllm", "1.2.0", "fp8", "plain", InvalidValue, "no flag"),
        ("trtllm", "1.2.0", None, "awq", InvalidValue, "does not read"),
        ("trtllm", "1.2.0", None, "fp8_tensor", InvalidValue, "does not read"),
        ("llama.cpp", "1", None, "plain", UnknownName, "engine"),
    ],
)
def test_what_is_refused(engine, version, requested, checkpoint, kind, named):
    with pytest.raises(kind, match=named):
        resolve_method(engine, version, requested, CHECKPOINTS[checkpoint])


def test_the_gpu_decides_between_kernels():
    resolve = [
        resolve_method("sglang", "0.5.15", None, CHECKPOINTS["awq"], capability=c) for c in ("7.5", "8.0")
    ]
    assert resolve == ["awq", "awq_marlin"]


METHODS = sorted({name for row in TABLES["registered"] for name in row["names"]} | {"marlin", "nothing"})
VERSIONS = {
    "sglang": ["0.4.6", "0.4.10.post2", "0.5.2", "0.5.3", "0.5.4", "0.5.6", "0.5.9", "0.5.12", "0.5.15", "0.5.18",
               "0.5.21", "0.5.23"],
    "vllm": ["0.18.0", "0.25.0", "0.33.0"],
    "trtllm": ["1.2.0"],
}  # fmt: skip


@given(st.sampled_from(sorted(VERSIONS)), st.data())
def test_what_is_named_as_working_does_work(engine, data):
    version = data.draw(st.sampled_from(VERSIONS[engine]))
    checkpoint = CHECKPOINTS[data.draw(st.sampled_from(sorted(CHECKPOINTS)))]
    requested = data.draw(st.sampled_from([None, *METHODS]))
    try:
        found = resolve_method(engine, version, requested, checkpoint)
    except InvalidValue as error:
        alternatives = error.alternatives if engine != "trtllm" else []
    except UnknownName:
        return
    else:
        assert found is None or engine == "trtllm" or found in METHODS
        return
    for alternative in alternatives:
        assert resolve_method(engine, version, alternative, checkpoint)


def test_rows_are_whole():
    kinds = {
        "registered": {"names"},
        "offline": {"names"},
        "called": {"method", "becomes"},
        "rule": {"method", "requested"},
    }
    for kind, keys in kinds.items():
        for row in TABLES[kind]:
            assert keys <= set(row), row
            assert "@v" in row["source"]
            assert version_key(row["since"])
            assert kind != "rule" or ("becomes" in row) != ("error" in row)
            if kind == "rule" and "*" not in row["requested"]:
                names = {
                    name
                    for one in TABLES["registered"]
                    if one["engine"] == row["engine"]
                    for name in one["names"]
                }
                assert set(row["requested"]) - {"", "marlin"} <= names, row
