"""`vllm serve` and `vllm bench serve` without vLLM."""

import argparse
import json
import sys
from pathlib import Path

from stand_in_client import WAY, go_wrong, send, varied, write
from stand_in_engine import DATA, serve


def served(words: list[str]) -> None:
    """Answer as the server does."""
    parser = argparse.ArgumentParser(prog="vllm serve")
    parser.add_argument("model")
    for flag in ("--host", "--kv-cache-dtype", "--dtype", "--quantization"):
        parser.add_argument(flag)
    for flag in ("--port", "--tensor-parallel-size", "--max-model-len"):
        parser.add_argument(flag, type=int)
    parser.add_argument("--no-enable-prefix-caching", action="store_true")
    given = parser.parse_args(words)
    models = {"data": [{"id": given.model, "root": given.model, "max_model_len": 1024}]}
    documents = {"/version": {"version": "0.32.0"}, "/v1/models": models}
    serve(given.host, given.port, DATA / "vllm" / "server_0.32.0.log", documents)


def measured(words: list[str]) -> None:
    """Write one object of a real file, for the load asked."""
    parser = argparse.ArgumentParser(prog="vllm bench serve")
    for flag in (
        "--backend",
        "--base-url",
        "--model",
        "--tokenizer",
        "--dataset-name",
        "--served-model-name",
    ):
        parser.add_argument(flag)
    for flag in ("--result-dir", "--result-filename", "--percentile-metrics", "--metric-percentiles"):
        parser.add_argument(flag)
    for flag in ("--random-input-len", "--random-output-len", "--num-prompts", "--max-concurrency", "--seed"):
        parser.add_argument(flag, type=int)
    for flag in ("--random-range-ratio", "--request-rate", "--temperature"):
        parser.add_argument(flag, type=float)
    parser.add_argument("--num-warmups", type=int)
    parser.add_argument("--metadata", nargs="*", default=[])
    for flag in ("--ignore-eos", "--save-result", "--disable-tqdm"):
        parser.add_argument(flag, action="store_true")
    given = parser.parse_args(words)
    send(
        f"{given.base_url}/v1/completions",
        {"prompt": "w5", "max_tokens": given.random_output_len, "stream": True},
    )
    go_wrong(WAY)
    real = json.loads((DATA / "vllm" / "vllm-small-bf16-isl128-osl64-c4-p1.json").read_text())
    real = {name: value for name, value in real.items() if name not in ("tag", "latencies", "queue_times")}
    result = varied(real, given.seed)
    result |= {
        "model_id": "other/model" if WAY == "another_model" else given.model, "tokenizer_id": given.tokenizer,
        "num_prompts": given.num_prompts, "completed": given.num_prompts, "failed": 0, "request_rate": "inf",
        "max_concurrency": given.max_concurrency, "total_input_tokens": given.random_input_len * given.num_prompts,
        "total_output_tokens": given.random_output_len * given.num_prompts,
    } | dict(each.split("=", 1) for each in given.metadata)  # fmt: skip
    result |= {"median_itl_ms": 0.01} if WAY == "lumped" else {}
    write(Path(given.result_dir, given.result_filename), result, WAY, "w")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        served(sys.argv[2:])
    else:
        measured(sys.argv[3:])
