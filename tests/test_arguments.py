"""Back from an engine's arguments, or a server's answer, to options; there and back is the same start."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from test_launch import ANY, VERSIONS

from aicalib.cli.main import main
from aicalib.engines.arguments import read_launch
from aicalib.engines.launch import launch
from aicalib.engines.request import request_of
from aicalib.engines.server_info import read_server_info
from aicalib.errors import InvalidValue, NotCovered, RequestError, UnknownName


@pytest.mark.parametrize(
    ("line", "options"),
    [
        (
            "python3 -m sglang.launch_server --model-path meta-llama/Llama-3.3-70B-Instruct --tp 4 --quantization fp8 "
            "--kv-cache-dtype fp8_e4m3 --mem-fraction-static=0.9 \\\n --port 30000 --trust-remote-code",
            {"model": "meta-llama/Llama-3.3-70B-Instruct", "tp": 4, "gemm": "fp8", "kv": "fp8_e4m3",
             "mem_fraction": 0.9},
        ),
        (
            "CUDA_VISIBLE_DEVICES=0,1 sglang serve --model deepseek-ai/DeepSeek-V3 --tp-size 8 --dp-size 8 "
            "--enable-dp-attention --ep 8 --disable-cuda-graph",
            {"model": "deepseek-ai/DeepSeek-V3", "tp": 8, "dp": 8, "ep": 8, "cuda_graph_max_bs": 0},
        ),
        (
            "vllm serve Qwen/Qwen3-30B-A3B --data-parallel-size 4 -tp 2 --enable-expert-parallel "
            "--no-enable-prefix-caching --max-num-seqs 256 --dtype bfloat16",
            {"model": "Qwen/Qwen3-30B-A3B", "tp": 8, "dp": 4, "ep": 8, "disable_radix_cache": True,
             "max_running_requests": 256, "gemm": "bfloat16"},
        ),
        (
            "sglang serve --model Qwen/Qwen3-30B-A3B --quantization modelopt_fp4",
            {"model": "Qwen/Qwen3-30B-A3B", "moe": "nvfp4", "quantization": "modelopt_fp4"},
        ),
        (
            "trtllm-serve meta-llama/Llama-3.3-70B-Instruct --backend pytorch --tp_size 4 --max_batch_size 64",
            {"model": "meta-llama/Llama-3.3-70B-Instruct", "tp": 4, "max_running_requests": 64},
        ),
    ],
)  # fmt: skip
def test_a_line_is_understood(line, options):
    assert read_launch(line).options == options


@pytest.mark.parametrize(
    ("line", "kind", "says"),
    [
        ("python train.py --tp 4", InvalidValue, "starts no engine"),
        ("vllm serve", None, None),
        ("python -m sglang.launch_server --model-path x --tp", InvalidValue, "without its value"),
        ("python -m sglang.launch_server --model-path x --moe-tp-size 2", UnknownName, "unknown flag"),
        ("python -m sglang.launch_server --model-path x --enable-lora", NotCovered, "--enable-lora"),
        ("python -m sglang.launch_server --model-path x --dp-size 2", NotCovered, "whole replicas"),
        ("python -m sglang.launch_server --model-path x y", InvalidValue, "stands where"),
        ("vllm serve x --speculative-config nonsense", InvalidValue, "no JSON object"),
    ],
)
def test_what_is_not_understood_is_named(line, kind, says):
    if kind is None:
        assert read_launch(line).options == {}
        return
    with pytest.raises(kind, match=says):
        read_launch(line)


def test_flags_without_effect_are_listed():
    assert read_launch("vllm serve x --port 8000 --api-key k").without_effect == ["--port", "--api-key"]


@given(options=ANY)
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_there_and_back_is_the_same_start(options):
    asked = {
        name: value
        for name, value in options.items()
        if value is not None and name not in ("prefill_tp", "cuda_version")
    }
    for engine, version in (VERSIONS[0], VERSIONS[4], VERSIONS[7], VERSIONS[-2], VERSIONS[-1]):
        try:
            first = launch(request_of({**asked, "engine": engine, "engine_version": version}))
        except RequestError:
            continue
        back = read_launch(first.line(), version, first.files.get("config.yaml"))
        more = {"gpu": asked["gpu"]}
        if "checkpoint" in asked:  # what the path stores stands nowhere on the line
            more |= {name: asked.get(name) for name in ("model", "checkpoint", "gemm", "moe")}
        again = {**back.options, **more, "engine": engine, "engine_version": version}
        second = launch(request_of(again))
        assert (second.argv, second.env, second.files) == (first.argv, first.env, first.files)


@pytest.mark.parametrize(
    "options",
    [
        {"kv": "fp8", "cuda_graph_max_bs": 64, "page_size": 32, "mem_fraction": 0.8, "disable_radix_cache": True},
        {"gemm": "bfloat16", "cuda_graph_max_bs": 0, "attention_backend": "FLASHINFER", "max_running_requests": 8},
        {"model": "deepseek-v3", "tp": 8, "dp": 8, "ep": 8, "spec_method": "mtp", "spec_tokens": 3,
         "moe_backend": "DEEPGEMM", "chunked_prefill_size": 8192},
        {"spec_method": "eagle", "spec_tokens": 3, "draft_model": "llama-3.2-1b"},
    ],
)  # fmt: skip
def test_tensorrt_llm_there_and_back(options):
    asked = {"model": "llama-3.1-8b", "gpu": "h100-sxm", "engine": "trtllm", "tp": 2, **options}
    first = launch(request_of(asked))
    back = read_launch(first.line(), None, first.files.get("config.yaml"))
    second = launch(request_of({**back.options, "gpu": "h100-sxm", "engine": "trtllm"}))
    assert (second.argv, second.files) == (first.argv, first.files)


SERVER = {
    "model_path": "meta-llama/Llama-3.3-70B-Instruct", "version": "0.5.9", "tp_size": 4, "pp_size": 1, "dp_size": 1,
    "ep_size": 1, "enable_dp_attention": False, "quantization": "fp8", "dtype": "auto", "kv_cache_dtype": "fp8_e4m3",
    "mem_fraction_static": 0.83, "chunked_prefill_size": 8192, "max_running_requests": None, "cuda_graph_max_bs": 256,
    "attention_backend": "fa3", "speculative_algorithm": None, "internal_states": [{}], "disaggregation_mode": "null",
}  # fmt: skip


def test_a_servers_answer_is_understood():
    found = read_server_info(SERVER)
    assert found.engine_version == "0.5.9"
    assert found.options == {
        "model": "meta-llama/Llama-3.3-70B-Instruct", "engine_version": "0.5.9", "tp": 4, "pp": 1, "ep": 1,
        "gemm": "fp8", "kv": "fp8_e4m3", "mem_fraction": 0.83, "chunked_prefill_size": 8192, "cuda_graph_max_bs": 256,
        "attention_backend": "fa3",
    }  # fmt: skip
    assert read_server_info({"server_info": SERVER}).options == found.options
    attention = read_server_info({**SERVER, "dp_size": 4, "enable_dp_attention": True}).options
    assert attention["dp"] == 4
    assert "dp" not in read_server_info({**SERVER, "dp_size": 4}).options
    with pytest.raises(InvalidValue):
        read_server_info({"tokens": 3})


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    out = capsys.readouterr()
    return left.value.code, out.out, out.err


def test_predict_from_a_line_from_an_answer_and_from_options_is_the_same(capsys, tmp_path):
    model = "meta-llama/Llama-3.3-70B-Instruct"
    line = f"python -m sglang.launch_server --model-path {model} --tp 4 --quantization fp8 --kv-cache-dtype fp8_e4m3"
    line += " --attention-backend fa3"
    code, first, _ = run(
        capsys, "predict", "--launch", line, "--engine-version", "0.5.9", "--gpu", "h200-sxm", "--json"
    )
    assert code == 0
    options = [
        "--tp",
        "4",
        "--gemm",
        "fp8",
        "--kv",
        "fp8_e4m3",
        "--attention-backend",
        "fa3",
        "--engine-version",
        "0.5.9",
        "--gpu",
        "h200-sxm",
    ]
    assert run(capsys, "predict", "--model", model, *options, "--json")[1] == first
    answer = {**SERVER, "mem_fraction_static": None, "chunked_prefill_size": None, "cuda_graph_max_bs": None}
    (tmp_path / "info.json").write_text(json.dumps(answer))
    found = run(
        capsys, "predict", "--server-info", str(tmp_path / "info.json"), "--gpu", "h200-sxm", "--json"
    )
    assert found[1] == first
    other = json.loads(run(capsys, "predict", "--launch", line, "--tp", "8", "--json")[1])
    assert other["deployment"]["tp"] == 8


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "--launch", "python foo.py"],
        ["predict", "--launch", "vllm serve --tensor-parallel-size 2"],
        ["predict", "--preset", "default,nonsense"],
        ["launch", "--kv", "int4"],
        ["launch", "--gemm", "int4_wo"],
        ["launch", "--engine", "trtllm", "--gemm", "fp8", "--tp", "4"],
        ["quant", "map", "--engine", "nonsense"],
        ["list", "modes", "--engine", "sglang", "--gpu", "h1000"],
        ["list", "modes", "--gpu", "h100"],
    ],
)
def test_a_refusal_leaves_with_two_and_says_why(capsys, arguments):
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 2
    error = json.loads(out)["error"]
    assert error["kind"]
    assert error["message"] in err


def test_launch_as_json_and_as_manifests(capsys):
    code, out, _ = run(capsys, "launch", "--model", "llama-3.1-8b", "--kv", "fp8", "--json")
    assert code == 0
    assert json.loads(out) == {
        "engine": "sglang", "engine_version": "0.5.23", "env": {}, "files": {}, "notes": [],
        "argv": ["python", "-m", "sglang.launch_server", "--model-path", "meta-llama/Llama-3.1-8B-Instruct",
                 "--kv-cache-dtype", "fp8_e4m3"],
    }  # fmt: skip
    _, manifest, _ = run(capsys, "launch", "--model", "llama-3.1-8b", "--format", "kubernetes", "--tp", "2")
    assert "nvidia.com/gpu: 2" in manifest
    assert '"--host", "0.0.0.0"' in manifest
    _, manifest, _ = run(capsys, "launch", "--engine", "trtllm", "--tp", "2", "--kv", "fp8", "--format", "compose",
                         "--image", "trtllm:1")  # fmt: skip
    assert "/config/config.yaml" in manifest
    assert run(capsys, "launch", "--engine", "trtllm", "--tp", "2", "--format", "compose")[0] == 2


def test_presets_side_by_side(capsys):
    names = ["default", "kv-cache-fp8", "dynamic-fp8"]
    code, out, _ = run(capsys, "predict", "--tp", "4", "--preset", ",".join(names))
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if "formats" in line] == names
    assert out.count("%, tie") == 6
    _, out, _ = run(capsys, "predict", "--tp", "4", "--preset", "default,dynamic-fp8", "--json")
    assert [each["preset"] for each in json.loads(out)] == ["default", "dynamic-fp8"]
    one = json.loads(run(capsys, "predict", "--tp", "4", "--preset", "dynamic-fp8", "--json")[1])
    assert one["deployment"]["gemm"] == "fp8"
