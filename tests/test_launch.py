"""From options to what starts an engine: arguments that the version takes, refusals that say what works."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aicalib.engines import flags
from aicalib.engines.flags import find_flag, known_versions, trtllm_keys
from aicalib.engines.launch import assemble, launch, starts
from aicalib.engines.request import request_of, request_of_deployment
from aicalib.engines.runnable import runnable
from aicalib.engines.support import support
from aicalib.engines.tables import CONTAINERS, backends, cache_formats, methods, moe_backends, settings_table
from aicalib.errors import Refusal, RequestError
from aicalib.quant import MODES, parse_mode
from aicalib.quant.presets import list_presets

LLAMA = {"model": "llama-3.3-70b", "gpu": "h100-sxm", "tp": 4}
MOE = {"model": "qwen3-30b-a3b", "gpu": "h100-sxm", "tp": 4}
DEEPSEEK = {"model": "deepseek-v3", "gpu": "h200-sxm", "tp": 8}


def line(**options):
    return launch(request_of(options)).line()


def refusal(**options):
    with pytest.raises(RequestError) as caught:
        launch(request_of(options))
    return caught.value


def check(found):
    """Hold a launch to the parser of its version, item by item."""
    words = list(found.argv)
    place = next((at for at, word in enumerate(words) if word.startswith("--")), len(words))
    while place < len(words):
        flag = find_flag(found.engine, found.engine_version, words[place])
        assert words[place] in flag.spellings
        place += 1
        if flag.kind != "bool":
            value = words[place]
            assert flag.choices is None or flag.open or value in flag.choices, (flag, value)
            if flag.kind in ("int", "float"):
                float(value)
            if flag.kind == "json":
                json.loads(value)
            place += 1


# ---------------------------------------------------------------------------------------------------- tables


def test_every_row_of_the_tables_is_read_and_means_something():
    for engine, version in (("sglang", "0.5.23"), ("vllm", "0.33.0"), ("trtllm", "1.2.1")):
        assert methods(engine, version)
        assert backends(engine, version)
        for row in methods(engine, version):
            fields = ("gemm", "moe") if row.field == "both" else (row.field,)
            assert row.source
            assert row.how in ("plain", "online", "offline")
            assert row.nvidia or row.others, row
            assert row.format == "*" or all(parse_mode(field, row.format) for field in fields), row
        for row in cache_formats(engine).values():
            assert row.mode in MODES["kvcache"].__members__
        assert all(backend.source for backend in backends(engine, version))
        assert all(row.source for row in moe_backends(engine))


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_every_word_of_the_tables_is_one_of_some_version(engine):
    """A method, backend or cache that no version ever took would be a slip of the pen."""

    def ever(flag):
        found = set()
        for version in known_versions(engine):
            try:
                found |= set(find_flag(engine, version, flag).choices or ())
            except RequestError:
                continue
        return found

    named = {
        row.name
        for version in known_versions(engine)
        for row in methods(engine, version)
        if row.how != "plain" and (row.nvidia or "gfx" in row.others)
    }
    assert {name for name in named if not name.startswith("torchao:")} <= ever("--quantization")
    assert {row.name for version in known_versions(engine) for row in backends(engine, version)} <= ever(
        "--attention-backend"
    )
    assert {word for row in cache_formats(engine).values() for word in row.words} <= ever("--kv-cache-dtype")


@pytest.mark.parametrize("engine", ["sglang", "vllm", "trtllm"])
def test_every_setting_is_a_flag_of_the_newest_or_an_older_version(engine):
    for option, row in settings_table().items():
        for spelling in row.get(engine, ()):
            if not spelling.startswith("--"):
                assert spelling in trtllm_keys(), option
                continue
            having = [each for each in known_versions(engine) if spelling in all_spellings(engine, each)]
            assert having, (option, spelling)


def all_spellings(engine, version):
    return set(flags.flags(engine, version))


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_no_method_is_offered_below_what_its_own_class_asks_for(engine):
    for version in known_versions(engine):
        registered = flags.methods(engine, version)
        for row in methods(engine, version):
            asks = registered.get(row.name)
            if asks is None or asks.min_capability is None or not row.nvidia.endswith("+"):
                continue
            least = int(row.nvidia.removesuffix("+").replace(".", ""))
            assert least >= asks.min_capability, (version, row)
            assert least == asks.min_capability or row.name in CONTAINERS, (version, row)


# ----------------------------------------------------------------------------------------------- lines by hand


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (LLAMA, "python -m sglang.launch_server --model-path meta-llama/Llama-3.3-70B-Instruct --tp-size 4"),
        (
            {**LLAMA, "gemm": "fp8", "kv": "fp8"},
            "python -m sglang.launch_server --model-path meta-llama/Llama-3.3-70B-Instruct --quantization fp8 "
            "--kv-cache-dtype fp8_e4m3 --tp-size 4",
        ),
        (
            {**LLAMA, "engine": "vllm", "gemm": "fp8", "kv": "fp8_e5m2"},
            "vllm serve meta-llama/Llama-3.3-70B-Instruct --quantization fp8 --kv-cache-dtype fp8_e5m2 "
            "--attention-backend FLASHINFER --tensor-parallel-size 4",
        ),
        (
            {**DEEPSEEK, "dp": 8, "ep": 8, "kv": "fp8"},
            "python -m sglang.launch_server --model-path deepseek-ai/DeepSeek-V3 --kv-cache-dtype fp8_e4m3 "
            "--tp-size 8 --attn-dp-size 8 --ep-size 8",
        ),
        (
            {**DEEPSEEK, "dp": 8, "ep": 8, "engine_version": "0.5.9"},
            "python -m sglang.launch_server --model-path deepseek-ai/DeepSeek-V3 --tp-size 8 --dp-size 8 "
            "--enable-dp-attention --ep-size 8",
        ),
        (
            {**DEEPSEEK, "ep": 8, "engine_version": "0.4.6"},
            "python -m sglang.launch_server --model-path deepseek-ai/DeepSeek-V3 --tp-size 8 --enable-ep-moe",
        ),
        (
            {**DEEPSEEK, "dp": 4, "ep": 8, "engine": "vllm"},
            "vllm serve deepseek-ai/DeepSeek-V3 --tensor-parallel-size 2 --data-parallel-size 4 "
            "--enable-expert-parallel",
        ),
        (
            {**LLAMA, "cuda_graph_max_bs": 64},
            "python -m sglang.launch_server --model-path meta-llama/Llama-3.3-70B-Instruct --tp-size 4 "
            "--cuda-graph-max-bs-decode 64",
        ),
        (
            {**LLAMA, "cuda_graph_max_bs": 64, "engine_version": "0.5.9"},
            "python -m sglang.launch_server --model-path meta-llama/Llama-3.3-70B-Instruct --tp-size 4 "
            "--cuda-graph-max-bs 64",
        ),
        (
            {**LLAMA, "gemm": "int8_wo", "engine_version": "0.5.15"},
            "python -m sglang.launch_server --model-path meta-llama/Llama-3.3-70B-Instruct --torchao-config int8wo "
            "--tp-size 4",
        ),
        (
            {**MOE, "gemm": "bf16", "moe": "fp8", "engine": "vllm"},
            "vllm serve Qwen/Qwen3-30B-A3B --dtype bfloat16 --quantization online --quantization-config "
            """'{"moe": "fp8_per_tensor"}' --tensor-parallel-size 4""",
        ),
        (
            {**DEEPSEEK, "spec_method": "mtp", "spec_tokens": 3},
            "python -m sglang.launch_server --model-path deepseek-ai/DeepSeek-V3 --tp-size 8 --speculative-algorithm "
            "NEXTN --speculative-num-steps 3 --speculative-eagle-topk 1 --speculative-num-draft-tokens 4",
        ),
    ],
)  # fmt: skip
def test_a_line(options, expected):
    assert line(**options) == expected


def test_tensorrt_llm_gets_its_yaml():
    found = launch(
        request_of({**LLAMA, "engine": "trtllm", "kv": "fp8", "cuda_graph_max_bs": 64, "page_size": 32})
    )
    assert found.line() == (
        "trtllm-serve meta-llama/Llama-3.3-70B-Instruct --backend pytorch --tp_size 4 "
        "--extra_llm_api_options config.yaml"
    )
    assert found.files["config.yaml"] == (
        "kv_cache_config:\n  dtype: fp8\n  tokens_per_block: 32\ncuda_graph_config:\n  max_batch_size: 64\n"
    )


def test_prefill_instances_have_a_line_of_their_own():
    found = launch(request_of({**LLAMA, "prefill_tp": 2, "prefill_instances": 3}))
    assert found.argv[-2:] == ("--disaggregation-mode", "decode")
    assert "--tp-size 2 --disaggregation-mode prefill" in found.files["prefill.sh"]
    assert any("3 x prefill.sh" in note for note in found.notes)


def test_a_shell_reads_the_line_as_the_same_words(tmp_path):
    found = launch(
        request_of({**MOE, "gemm": "bf16", "moe": "fp8", "engine": "vllm", "checkpoint": "/a b/it's $x"})
    )
    echo = ["bash", "-c", "printf '%s\\0' " + found.line()]
    assert subprocess.run(echo, capture_output=True, text=True, check=True).stdout.split("\0")[:-1] == list(
        found.argv
    )


# --------------------------------------------------------- each rule: what is refused, and its nearest working choice


REFUSED = [
    # compute capability of a method, of a cache, of a backend
    ({**LLAMA, "gemm": "mxfp8"}, "needs compute capability 10.0 or newer", {"gemm": "fp8"}),
    ({**LLAMA, "kv": "nvfp4"}, "10.0 10.3 12.0 12.1", {"kv": "fp8_e4m3"}),
    ({**LLAMA, "attention_backend": "trtllm_mla"}, "runs on 10.0 or newer", {"attention_backend": "fa3"}),
    ({**MOE, "moe_backend": "flashinfer_trtllm"}, "needs compute capability",
     {"moe_backend": "auto"}),
    # not in that version
    ({**LLAMA, "kv": "bf16", "engine_version": "0.4.6", "gemm": "fp16"}, "has no such cache", {"kv": "fp8_e4m3"}),
    ({**LLAMA, "torchao_config": "int8wo"}, "has no --torchao-config", {"engine_version": "0.5.17"}),
    ({**LLAMA, "enable_fp32_lm_head": True, "engine_version": "0.4.6"}, "has no --enable-fp32-lm-head",
     {"enable_fp32_lm_head": None}),
    ({**LLAMA, "kv": "int4"}, "has no such cache", {"kv": "fp8_e4m3"}),
    ({**LLAMA, "kv": "int4", "engine": "trtllm"}, "has no such cache", {"kv": "fp8"}),
    # online request for an offline format
    ({**LLAMA, "gemm": "int4_wo"}, "cannot be made from the 16-bit checkpoint", {"gemm": "fp8"}),
    ({**LLAMA, "gemm": "fp8", "engine": "trtllm"}, "cannot be made from the 16-bit checkpoint", {"engine": "vllm"}),
    # against the checkpoint
    ({**DEEPSEEK, "gemm": "int4_wo"}, "contradicts the checkpoint", {"gemm": None}),
    ({**LLAMA, "quantization": "awq"}, "contradicts", {"quantization": None}),
    # cache against a backend that was named
    ({**LLAMA, "kv": "fp8_e5m2", "attention_backend": "fa3"}, "holds no cache in fp8_e5m2", {"kv": "fp8_e4m3"}),
    ({**DEEPSEEK, "kv": "fp8_e5m2"}, "no attention backend", {"kv": "fp8_e4m3"}),
    ({**LLAMA, "kv": "int8", "attention_backend": "FLASH_ATTN", "engine": "vllm"}, "holds no cache in int8",
     {"attention_backend": "TRITON_ATTN"}),
    # math of attention
    ({**LLAMA, "fmha": "fp8"}, "needs an FP8 cache", {"kv": "fp8_e4m3"}),
    ({**LLAMA, "fmha": "fp8", "kv": "fp8_e5m2"}, "needs an FP8 cache", {"kv": "fp8_e4m3"}),
    ({**LLAMA, "gpu": "l40s", "fmha": "fp8", "kv": "fp8"}, "no attention backend", {"fmha": None}),
    ({**LLAMA, "fmha": "fp8", "kv": "fp8", "attention_backend": "flashinfer"}, "does not attend in fp8",
     {"attention_backend": "fa3"}),
    ({**LLAMA, "fmha": "fp8_block"}, "no engine has a switch", {"fmha": None}),
    # one switch for dense layers and experts
    ({**MOE, "gemm": "bf16", "moe": "fp8"}, "one quantization", {"gemm": "fp8", "moe": None}),
    # a dense model
    ({**LLAMA, "moe": "fp8"}, "dense model without experts", {"moe": None}),
    ({**LLAMA, "ep": 4}, "no experts", {"ep": 1}),
    ({**LLAMA, "moe_a2a_backend": "deepep"}, "no experts", {"moe_a2a_backend": None}),
    # software
    ({**LLAMA, "cuda_version": "11.7"}, "needs CUDA 11.8", {"cuda_version": "11.8"}),
    ({**LLAMA, "gpu": "b200-sxm", "kv": "nvfp4", "torch_version": "2.7"}, "needs PyTorch 2.8",
     {"torch_version": "2.8"}),
    # widths
    ({**MOE, "ep": 2, "moe_a2a_backend": "deepep"}, "over all of tp", {"ep": 4}),
    ({**DEEPSEEK, "ep": 4, "engine": "vllm"}, "over all ranks or not at all", {"ep": 8}),
    ({**LLAMA, "dp": 2, "engine": "vllm"}, "whole replicas", {"dp": 1}),
    # what the engine would drop or refuse
    ({**LLAMA, "quantize_and_serve": True, "modelopt_quant": "fp8"}, "refuses it", {"quantize_and_serve": None}),
    ({**DEEPSEEK, "modelopt_quant": "fp8"}, "quantized already", {"modelopt_quant": None}),
    ({**LLAMA, "modelopt_quant": "int3"}, "known are", {"modelopt_quant": "fp8"}),
    ({**DEEPSEEK, "spec_method": "mtp", "spec_tokens": 3, "enable_mixed_chunk": True}, "drops mixed chunks",
     {"enable_mixed_chunk": None}),
    ({**LLAMA, "enable_mixed_chunk": True, "engine": "vllm"}, "mixes prefill and decode",
     {"enable_mixed_chunk": None}),
    ({**LLAMA, "page_size": 48, "attention_backend": "trtllm_mha"}, "takes 16, 32, 64, 128", {"page_size": 64}),
    ({**LLAMA, "page_size": 64, "chunked_prefill_size": 1000}, "no multiple of page_size",
     {"chunked_prefill_size": 960}),
    ({**LLAMA, "kv": "float16"}, "in the model's type", {"kv": "bfloat16"}),
    ({**LLAMA, "spec_tokens": 3}, "without spec_method", {"spec_tokens": None}),
    ({**LLAMA, "gemm": "awq_marlin", "engine": "trtllm", "checkpoint": "PATH"}, "names a kernel of other engines",
     {"gemm": "int4_wo:awq"}),
    ({**MOE, "moe_backend": "auto", "engine": "trtllm"}, "takes AUTO", {"moe_backend": "CUTLASS"}),
    ({**LLAMA, "enable_fp32_lm_head": True, "engine": "vllm"}, "no such setting", {"enable_fp32_lm_head": None}),
]  # fmt: skip


@pytest.mark.parametrize(("options", "says", "works"), REFUSED)
def test_a_rule_refuses_and_its_nearest_choice_starts(options, says, works):
    error = refusal(**options)
    assert says in str(error)
    assert isinstance(error, Refusal)
    assert error.alternatives
    newer = {"engine_version": None} if "engine" in works else {}
    assert starts(request_of({**options, **newer, **works}))


@pytest.mark.parametrize(
    "options",
    [{**LLAMA, "kv": "fp8_e5m2", "attention_backend": "fa3"}, {**LLAMA, "gemm": "int4_wo"},
     {**MOE, "gemm": "bf16", "moe": "fp8"}, {**LLAMA, "gpu": "a100-sxm-80gb", "kv": "fp8", "fmha": "fp8"}],
)  # fmt: skip
def test_alternatives_start(options):
    for words in refusal(**options).alternatives:
        if words.startswith("--checkpoint"):
            continue
        given, _, taken = words.rpartition("without ") if "without " in words else (words, "", "")
        changed = dict(part.split(" ", 1) for part in given.split(", ") if part)
        changed |= dict.fromkeys(taken.split(", ")) if taken else {}
        assert starts(request_of({**options, **changed})), words


def test_a_format_that_is_widened_for_every_product_is_noted():
    assert launch(request_of({**LLAMA, "gpu": "a100-sxm-80gb", "gemm": "fp8"})).notes == (
        "gemm fp8 on a100-sxm-80gb: multiplies in bf16",
    )
    assert launch(request_of({**LLAMA, "gemm": "fp8"})).notes == ()


def test_an_open_backend_is_filled_in_with_a_note():
    found = launch(request_of({**LLAMA, "kv": "fp8_e5m2"}))
    assert "--attention-backend" in found.argv
    assert any("fp8_e5m2" in note for note in found.notes)
    assert "--attention-backend" not in launch(request_of({**LLAMA, "kv": "fp8_e4m3"})).argv


def test_sixteen_bit_attention_on_an_fp8_cache_takes_another_backend():
    found = launch(request_of({**LLAMA, "kv": "fp8", "fmha": "bf16"}))
    assert found.argv[found.argv.index("--attention-backend") + 1] == "flashinfer"


def test_an_older_vllm_takes_its_backend_from_the_environment():
    found = launch(request_of({**LLAMA, "engine": "vllm", "engine_version": "0.10.2", "kv": "fp8_e5m2"}))
    assert found.env == {"VLLM_ATTENTION_BACKEND": "FLASHINFER"}
    assert found.line().startswith("VLLM_ATTENTION_BACKEND=FLASHINFER vllm serve ")


def test_a_checkpoint_that_lies_elsewhere_is_taken_at_its_word():
    found = launch(
        request_of({**LLAMA, "gemm": "nvfp4", "checkpoint": "nvidia/Llama-3.3-70B-Instruct-NVFP4"})
    )
    assert found.argv[3:7] == (
        "--model-path",
        "nvidia/Llama-3.3-70B-Instruct-NVFP4",
        "--quantization",
        "modelopt_fp4",
    )
    assert "say what it stores" in str(refusal(**LLAMA, checkpoint="some/where"))


def test_a_checkpoint_is_read_and_resolved_as_the_engine_does(tmp_path):
    config = {
        "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "torch_dtype": "float16",
        "architectures": ["LlamaForCausalLM"],
        "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm",
                                "zero_point": True},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    options = {"model": "llama-3.1-8b", "gpu": "h100-sxm", "checkpoint": str(tmp_path)}
    assert starts(request_of(options))
    assert starts(request_of({**options, "gemm": "int4_wo"}))
    assert "contradicts the checkpoint" in str(refusal(**options, gemm="fp8"))
    assert "awq_marlin" in line(**options, quantization="awq_marlin")
    refusal(**options, quantization="gptq")


@pytest.mark.parametrize("engine", ["sglang", "vllm", "trtllm"])
def test_heads_that_ranks_cannot_share_are_refused(engine):
    found = refusal(model="llama-8b", gpu="h100-sxm", tp=3, engine=engine)
    assert "does not divide the 32 attention heads of llama-3.1-8b" in str(found)
    assert found.alternatives[:2] == ["tp 2", "tp 4"]


@pytest.mark.parametrize("engine", ["sglang", "vllm", "trtllm"])
def test_a_file_that_no_engine_loads_is_noted(tmp_path, engine):
    config = json.loads(Path("aicalib/models/architectures.json").read_text())["qwen3-32b"]["config"]
    own, folder = tmp_path / "own.json", tmp_path / "own" / "config.json"
    folder.parent.mkdir()
    for file in (own, folder):
        file.write_text(json.dumps(config))
    asked = {"engine": engine, "gpu": "h100-sxm", "tp": 2}
    assert any(
        "no engine loads it" in note for note in launch(request_of({**asked, "model": str(own)})).notes
    )
    found = launch(request_of({**asked, "model": str(folder)}))
    assert str(folder.parent) in found.argv
    for each in (found, launch(request_of({**asked, "model": str(own), "checkpoint": str(folder.parent)}))):
        assert not any("no engine loads it" in note for note in each.notes)


# ------------------------------------------------------------------------------------------- products, properties


VERSIONS = [
    *[("sglang", each) for each in ["0.4.6", "0.4.10.post2", "0.5.2", "0.5.6", "0.5.9", "0.5.15", "0.5.18", "0.5.23"]],
    *[("vllm", each) for each in ["0.8.5.post1", "0.11.0", "0.20.0", "0.33.0"]],
    ("trtllm", "1.2.1"),
]  # fmt: skip


@pytest.mark.parametrize(("engine", "version"), VERSIONS)
def test_every_line_of_modes_and_presets_is_one_that_the_parser_takes(engine, version):
    tried, refused = 0, set()
    for gpu in ("t4", "a100-sxm-80gb", "l40s", "h100-sxm", "b200-sxm", "rtx-5090", "mi300x"):
        for model in ("llama-3.1-8b", "qwen3-30b-a3b", "deepseek-v3", "gpt-oss-20b"):
            plain = {"engine": engine, "engine_version": version, "gpu": gpu, "model": model}
            asked = [{field: mode.name} for field, key in FIELDS.items() for mode in MODES[key]]
            asked += [
                {
                    name: text
                    for name, key in FIELDS.items()
                    if (text := preset.quant.to_mapping()[key]) != "auto"
                }
                for preset in list_presets()
            ]
            for fields in asked:
                for more in ({}, {"checkpoint": "PATH"}):
                    try:
                        found = assemble(request_of({**plain, **fields, **more}))
                    except RequestError as error:
                        refused.add(str(error))
                        continue
                    check(found)
                    tried += 1
    assert tried > 100
    assert all(len(reason) > 20 for reason in refused)


FIELDS = {"gemm": "gemm", "kv": "kvcache", "fmha": "fmha", "moe": "moe"}


def any_of(words):
    """Mostly nothing, so that many combinations start."""
    return st.one_of(st.none(), st.none(), st.none(), st.none(), st.sampled_from(words))


ANY = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["llama-3.1-8b", "llama-2-7b", "qwen3-30b-a3b", "deepseek-v3", "deepseek-v3.2",
                                  "gpt-oss-120b", "kimi-k2.5", "deepseek-v4-flash", "gemma-3-27b"]),
        "gpu": st.sampled_from(["t4", "v100-sxm-32gb", "a100-sxm-80gb", "l40s", "h100-sxm", "b200-sxm", "gb300",
                                "rtx-5090", "mi300x", "mi355x", "gaudi3", "ascend-910b1", "tpu-v5p"]),
        "gemm": any_of([mode.name for mode in MODES["gemm"]]),
        "kv": any_of([mode.name for mode in MODES["kvcache"]]),
        "fmha": any_of([mode.name for mode in MODES["fmha"]]),
        "moe": any_of([mode.name for mode in MODES["moe"]]),
        "tp": st.sampled_from([1, 2, 4, 8]),
        "dp": st.sampled_from([1, 1, 2, 8]),
        "ep": st.sampled_from([1, 1, 2, 8]),
        "pp": st.sampled_from([1, 1, 2]),
        "attention_backend": any_of(["fa3", "flashinfer", "triton", "trtllm_mla", "FLASH_ATTN", "TRTLLM", "dsa"]),
        "moe_backend": any_of(["auto", "triton", "flashinfer_cutlass", "TRITON"]),
        "cuda_graph_max_bs": any_of([0, 8, 256]),
        "page_size": any_of([1, 16, 64]),
        "chunked_prefill_size": any_of([2048, 8192]),
        "mem_fraction": any_of([0.5, 0.9]),
        "spec_method": any_of(["mtp", "eagle"]),
        "spec_tokens": any_of([1, 3]),
        "quantization": any_of(["fp8", "awq_marlin", "modelopt_fp4"]),
        "checkpoint": any_of(["some/where"]),
        "prefill_tp": any_of([1, 4]),
        "modelopt_quant": any_of(["fp8", "nvfp4"]),
        "cuda_version": any_of(["11.8", "12.8"]),
    }
)  # fmt: skip


@given(
    options=ANY,
    at=st.sampled_from([*VERSIONS, ("sglang", "0.3.6"), ("vllm", "nightly"), ("trtllm", "0.9.0")]),
)
@settings(max_examples=800, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_combination_ends_in_arguments_or_a_named_error(options, at):
    given_options = {name: value for name, value in options.items() if value is not None}
    try:
        found = launch(request_of({**given_options, "engine": at[0], "engine_version": at[1]}))
    except RequestError:
        return
    check(found)
    for text in found.files.values():
        assert text.endswith("\n")


PREDICTED = {name: None for name in ("model", "gpu", "gemm", "kv", "fmha", "moe", "tp", "dp", "ep", "pp",
                                     "chunked_prefill_size", "mem_fraction")}  # fmt: skip


@given(options=ANY, at=st.sampled_from([*VERSIONS[:-1], ("sglang", "0.3.6")]))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_predict_calls_runnable_is_what_launch_starts(options, at):
    from aicalib.resolve.rows import question

    asked = {name: value for name, value in options.items() if name in PREDICTED and value is not None}
    asked |= {"engine": at[0], "engine_version": at[1]}
    try:
        deployment, _ = question(**asked)
    except RequestError:
        return
    assert runnable(deployment).ok == starts(request_of(asked)), runnable(deployment)
    assert runnable(deployment).ok == starts(request_of_deployment(deployment))


@pytest.mark.parametrize(("engine", "version"), [("sglang", "0.3.6"), ("vllm", "0.5.0"), ("trtllm", "0.9.0")])
def test_a_version_that_no_parser_was_read_of_is_refused(engine, version):
    error = refusal(model="llama-3.1-8b", gpu="a100-sxm-80gb", engine=engine, engine_version=version)
    assert error.kind == "not_covered"
    assert known_versions(engine)[0] in error.alternatives


def test_support_shows_each_format_once():
    rows = support("sglang", "0.5.23", "h100-sxm", "qwen3-30b-a3b")
    assert (
        len(rows)
        == len({(row.field, row.mode) for row in rows})
        == sum(len(list(each)) for each in MODES.values())
    )
    by = {(row.field, row.mode): row for row in rows}
    assert by["gemm", "fp8"].how == "online"
    assert by["gemm", "fp8"].arguments == ("--quantization", "fp8")
    assert by["gemm", "int4_wo"].how == "offline"
    assert by["kvcache", "int4"].how == "-"
    assert by["fmha", "fp8"].how == "online"


# ------------------------------------------------------------------------------------------------------- pages


@pytest.mark.parametrize(
    "command",
    [
        "quant presets",
        "quant map --gpu h100-sxm",
        "quant map --engine vllm --gpu h100-sxm",
        "quant map --engine trtllm --gpu h100-sxm",
    ],
)
def test_the_tables_of_the_page_are_what_the_commands_print(capsys, command):
    from test_house import hold

    from aicalib.cli.main import main

    with pytest.raises(SystemExit):
        main(command.split())
    hold("docs/quantization.md", f"$ aicalib {command}\n", f"$ aicalib {command}\n{capsys.readouterr().out}")


def test_every_refusal_of_the_rules_has_an_entry_in_troubleshooting():
    page = (Path(__file__).parent.parent / "docs/troubleshooting.md").read_text()
    firsts = [line.split("|")[1] for line in page.splitlines() if line.startswith("|")]
    patterns = [
        re.escape(words)
        .replace(r"\.\.\.", ".*")
        .replace("FLAG", ".*")
        .replace("KEY", ".*")
        .replace("ENGINE", ".*")
        for words in re.findall(r"`([^`]+)`", " ".join(firsts))
    ]
    messages = [str(refusal(**options)) for options, _, _ in REFUSED]
    assert not [text for text in messages if not any(re.search(pattern, text) for pattern in patterns)]
