"""`python -m sglang.benchmark.serving` without SGLang: one line of a real file, for the load asked."""

import argparse
import json
import urllib.request
from pathlib import Path

from stand_in_client import DATA, WAY, go_wrong, send, varied, write

parser = argparse.ArgumentParser()
for flag in ("--backend", "--base-url", "--model", "--tokenizer", "--dataset-name", "--output-file", "--tag"):
    parser.add_argument(flag)
parser.add_argument("--served-model-name")
for flag in ("--random-input-len", "--random-output-len", "--num-prompts", "--max-concurrency", "--seed"):
    parser.add_argument(flag, type=int)
parser.add_argument("--warmup-requests", type=int)
for flag in ("--random-range-ratio", "--request-rate"):
    parser.add_argument(flag, type=float)
for flag in ("--disable-tqdm", "--cache-report"):
    parser.add_argument(flag, action="store_true")
given = parser.parse_args()

for _ in range(2):
    sampling = {"max_new_tokens": given.random_output_len, "ignore_eos": True}
    send(f"{given.base_url}/generate", {"text": "w5", "sampling_params": sampling, "stream": True})
go_wrong(WAY)
with urllib.request.urlopen(f"{given.base_url}/server_info") as answer:
    info = json.loads(answer.read())
line = (DATA / "sglang" / "bench_serving_0.5.23_summary.jsonl").read_text()
result = varied(json.loads(line), given.seed)
isl = given.random_input_len // (4 if WAY == "another_load" else 1)
mean = (1 + given.random_range_ratio) / 2
result |= {
    "tag": given.tag, "request_rate": given.request_rate, "max_concurrency": given.max_concurrency,
    "random_input_len": given.random_input_len, "random_output_len": given.random_output_len,
    "random_range_ratio": given.random_range_ratio, "completed": 0 if WAY == "none_completed" else given.num_prompts,
    "total_input_tokens": int(isl * mean * given.num_prompts),
    "total_output_tokens": int(given.random_output_len * mean * given.num_prompts),
    "server_info": info | ({"model_path": "other/model"} if WAY == "another_model" else {}),
}  # fmt: skip
result |= {"median_itl_ms": 0.01} if WAY == "lumped" else {}
write(Path(given.output_file), result, WAY, "a")
