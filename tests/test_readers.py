"""Readers: every key set of the client, and what a line must not do."""

import json
import shutil
from pathlib import Path

import pytest

import perfdb
from perfdb.keys import KEYS, PROVENANCE
from perfdb.readers import format_of
from perfdb.readers.redact import REDACTED, redact
from perfdb.readers.source import Source

DATA = Path(__file__).parent / "data"
MEASUREMENTS = Path(__file__).parent.parent / "measurements" / "runs.jsonl"
RUN = {
    "engine": "sglang",
    "gpu": "h100_sxm",
    "model": "Qwen/Qwen3-32B",
    "isl": 1024,
    "osl": 256,
    "load": "closed",
    "concurrency": 8,
    "mean_tpot_ms": 9.5,
    "mean_ttft_ms": 100.0,
}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def one(tmp_path: Path, row: object, **context: object) -> dict:
    result = perfdb.read_records(write(tmp_path / "one.jsonl", RUN, row), context)
    assert not result.rejected, result.rejected
    return result.records[1]


def refusal(tmp_path: Path, row: object, **context: object) -> perfdb.Rejection:
    result = perfdb.read_records(write(tmp_path / "one.jsonl", row, RUN | {"gpu": None}), context)
    assert [rejection.line for rejection in result.rejected] == [1]
    assert len(result.records) == 1
    return result.rejected[0]


@pytest.mark.parametrize("name", sorted(path.name for path in DATA.glob("*sglang*.jsonl")))
def test_every_key_set_of_the_client_is_read(name):
    result = perfdb.read_records(DATA / name, {"gpu": "h100-sxm"})
    assert result.format == "sglang_bench_serving"
    assert result.records
    assert not result.rejected
    for record in result.records:
        assert {*KEYS, *PROVENANCE} <= record.keys()
        assert record["engine"] == "sglang"


@pytest.mark.parametrize("which", ["online", "offline"])
def test_native_lines_give_the_published_rows(which):
    context = {
        "gpu": "h200_sxm",
        "model": "meta-llama/Llama-3.3-70B-Instruct",
        "tp": 4,
        "weight_quant": "bf16",
    }
    read = perfdb.read_records(DATA / f"datacrunch_llama_3_3_70b_{which}.jsonl", context).records
    published = [
        row
        for row in map(json.loads, MEASUREMENTS.read_text().splitlines())
        if f"llama_3_3_70b_{which}_output" in row["src_ref"]
    ]
    assert len(read) == len(published) == 7
    for ours, theirs in zip(read, published, strict=True):
        for name in ("isl", "osl", "load", "request_rate", "num_prompts", "median_ttft_ms", "mean_e2e_ms"):
            assert ours[name] == theirs.get(name), name
        assert ours["output_tok_s"] == theirs["output_tok_s"]
        assert ours["mean_isl_actual"] == pytest.approx(theirs["mean_isl_actual"], abs=0.006)
        assert ours["mean_osl_actual"] == pytest.approx(theirs["mean_osl_actual"], abs=0.006)


def test_rate_and_cap_decide_the_load():
    records = perfdb.read_records(DATA / "synthetic_sglang_0.4.6.jsonl").records
    found = [(record["load"], record["request_rate"], record["concurrency"]) for record in records]
    assert found == [
        ("closed", None, 8),
        ("burst", None, None),
        ("open", 4.0, None),
        ("open", 4.0, 16),
        ("closed", None, 8),
    ]


def test_zero_latency_is_missing_and_says_why():
    result = perfdb.read_records(DATA / "synthetic_sglang_0.4.6.jsonl")
    record = result.records[4]
    assert record["mean_ttft_ms"] is None
    assert record["mean_tpot_ms"] is None
    assert record["mean_e2e_ms"] == 2004.0
    zeros = [remark for remark in result.remarks if "mean_ttft_ms" in remark.reason]
    assert [(remark.line, remark.flag) for remark in zeros] == [(5, "zero_metric")]


def test_lengths_come_from_token_totals():
    record = perfdb.read_records(DATA / "synthetic_sglang_0.4.6.jsonl").records[0]
    assert (record["isl"], record["osl"], record["range_ratio"]) == (1024, 256, 0.5)
    assert (record["mean_isl_actual"], record["mean_osl_actual"]) == (49152 / 64, 12288 / 64)
    assert record["total_tok_s"] == pytest.approx((49152 + 12288) / 20.0)


def test_random_lengths_do_not_count_for_another_data_set():
    record = perfdb.read_records(DATA / "datacrunch_llama_3_3_70b_offline.jsonl").records[6]
    assert record["dataset"] == "sharegpt"
    assert record["isl"] is None
    assert record["mean_isl_actual"] == pytest.approx(224.05, abs=0.01)


def test_server_info_fills_the_deployment():
    plain, dp = perfdb.read_records(DATA / "synthetic_sglang_0.5.6.jsonl", {"gpu": "h200_sxm"}).records
    wanted = {
        "engine_version": "0.5.6",
        "model": "Qwen/Qwen3-32B",
        "tp": 4,
        "dp": 1,
        "n_gpus": 4,
        "weight_quant": "fp8",
        "kv_dtype": "fp8_e4m3",
        "mem_fraction": 0.86,
        "chunked_prefill_size": 8192,
        "max_running_requests": 256,
        "cuda_graph_max_bs": 160,
        "attention_backend": "fa3",
        "moe_backend": None,
        "prefix_cache": False,
        "spec_decode": False,
        "disagg": False,
        "num_prompts": 70,
        "max_total_tokens": 900000,
        "kv_gib": 50.2,
        "missing": [],
    }
    assert {name: plain[name] for name in wanted} == wanted
    wanted = {
        "dp": 8,
        "n_gpus": 8,
        "ep": 8,
        "weight_quant": None,
        "kv_dtype": "auto",
        "moe_backend": "flashinfer_trtllm",
        "prefix_cache": True,
        "spec_decode": True,
        "spec_algorithm": "EAGLE",
        "spec_steps": 3,
        "spec_draft_tokens": 4,
        "accept_length": 2.7,
    }
    assert {name: dp[name] for name in wanted} == wanted


def test_newest_server_info():
    trace, burst = perfdb.read_records(DATA / "synthetic_sglang_0.5.23.jsonl").records
    assert (trace["load"], trace["request_rate"], trace["missing"]) == ("open", None, ["gpu", "request_rate"])
    assert trace["cache_hit_rate_pct"] == 12.5
    assert burst["cuda_graph_max_bs"] == 512
    assert burst["graph_mem_gib"] == 1.5
    assert burst["p95_ttft_ms"] == pytest.approx(121 * 1.6)
    # Two plain replicas of two GPUs: no attention data parallelism.
    assert (burst["dp"], burst["dp_replicas"], burst["n_gpus"]) == (1, 2, 4)


def test_context_refines_what_a_file_only_suggests():
    context = {"gpu": "h200", "model": "deepseek-ai/DeepSeek-R1-0528", "kv_dtype": "fp8_e4m3"}
    result = perfdb.read_records(DATA / "synthetic_sglang_0.5.6.jsonl", context)
    assert [rejection.line for rejection in result.rejected] == [1]
    assert "Qwen/Qwen3-32B" in result.rejected[0].reason
    assert "deepseek-ai/DeepSeek-R1-0528" in result.rejected[0].reason
    assert result.records[0]["model"] == "deepseek-ai/DeepSeek-R1-0528"
    assert result.records[0]["kv_dtype"] == "fp8_e4m3"


def test_number_of_prompts_from_the_file_name(tmp_path):
    path = tmp_path / "sglang_0109_80_1024_256.jsonl"
    shutil.copy(DATA / "synthetic_sglang_0.4.6.jsonl", path)
    assert {record["num_prompts"] for record in perfdb.read_records(path).records} == {80}
    assert perfdb.read_records(DATA / "synthetic_sglang_0.4.6.jsonl").records[0]["num_prompts"] == 64


def test_model_name_inside_a_hub_cache(tmp_path):
    line = json.loads((DATA / "synthetic_sglang_0.5.6.jsonl").read_text().splitlines()[0])
    line["server_info"]["model_path"] = "/home/me/hub/models--Qwen--Qwen3-8B/snapshots/0c35"
    assert perfdb.read_records(write(tmp_path / "a.jsonl", line)).records[0]["model"] == "Qwen/Qwen3-8B"


def test_prefill_and_decode_apart(tmp_path):
    line = json.loads((DATA / "synthetic_sglang_0.5.6.jsonl").read_text().splitlines()[1])
    side = line["server_info"]
    line["server_info"] = {"prefill": [side, side], "decode": [side | {"version": "0.5.7"}]}
    record = perfdb.read_records(write(tmp_path / "a.jsonl", line)).records[0]
    assert (record["disagg"], record["tp"], record["engine_version"]) == (True, None, "0.5.7")
    assert record["disagg_layout"]["prefill_num_workers"] == 2
    assert record["disagg_layout"]["decode_attention_dp_size"] == 8


def test_secrets_and_texts_are_not_kept():
    for name in ("synthetic_sglang_0.5.6.jsonl", "synthetic_sglang_0.5.23.jsonl"):
        original = (DATA / name).read_text()
        assert "not-to-be-kept" in original
        source = Source(DATA / name)
        for record in format_of(source).read(source).records:
            assert "not-to-be-kept" not in record.text
            assert "private text" not in record.text
            assert '"max_total_num_tokens": 900000' in record.text
            assert json.loads(record.text)["completed"] == 64


def test_redaction_reaches_every_depth():
    found = redact(
        {
            "api_key": "a",
            "tokenizer_path": "p",
            "max_total_tokens": 5,
            "nested": [{"Admin-Secret": "s", "token": None}],
            "launch": "serve --api-key=abc --hf-token 'x y' --tp 2",
            "argv": ["serve", "--api-key", "abc", "--tp", "2"],
        }
    )
    assert found == {
        "api_key": REDACTED,
        "tokenizer_path": "p",
        "max_total_tokens": 5,
        "nested": [{"Admin-Secret": REDACTED, "token": None}],
        "launch": f"serve --api-key={REDACTED} --hf-token {REDACTED} --tp 2",
        "argv": ["serve", "--api-key", REDACTED, "--tp", "2"],
    }


def test_a_cut_line_is_named_and_the_rest_is_read(tmp_path):
    whole = (DATA / "datacrunch_llama_3_3_70b_online.jsonl").read_text().splitlines()
    path = write(tmp_path / "cut.jsonl", whole[0], whole[1][:200], whole[2])
    result = perfdb.read_records(path)
    assert len(result.records) == 2
    assert [rejection.line for rejection in result.rejected] == [2]
    assert "cut off" in result.rejected[0].reason


@pytest.mark.parametrize("text", ["not json at all", "[1, 2]", "[" * 100_000, '"text"', "\x00\x01"])
def test_lines_that_are_no_object(tmp_path, text):
    assert refusal(tmp_path, text).reason.startswith("not ") or "cut off" in refusal(tmp_path, text).reason


@pytest.mark.parametrize("content", ["", "\n\n", "hello\nworld\n", '{"a": 1}\n'])
def test_unknown_formats_name_the_known_ones(tmp_path, content):
    path = tmp_path / "what.txt"
    path.write_text(content)
    with pytest.raises(
        perfdb.UnknownFormat, match=r"known formats are .*sglang_bench_serving.*startup, runs"
    ):
        perfdb.read_records(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mean_ttft_ms": -1.0}, "mean_ttft_ms is -1.0: a measured figure cannot be negative"),
        ({"tp": 0}, "tp is 0: must be above zero"),
        ({"tp": 2.5}, "tp is 2.5: not a whole number"),
        ({"tp": True}, "tp is true: not a number"),
        ({"tp": "four"}, 'tp is "four": not a number'),
        ({"dp": -1}, "dp is -1: must be above zero"),
        ({"concurrency": float("inf")}, "not a finite number"),
        ({"mem_fraction": 1.5}, "must lie between 0 and 1"),
        ({"engine": "tgi"}, 'engine is "tgi": known are sglang, vllm, trtllm'),
        ({"load": "wave"}, 'load is "wave": known are closed, open, burst, static_batch'),
        ({"mean_ttft_ms": None, "mean_tpot_ms": 0}, "nothing measured"),
        ({"mean_ttft_ms": float("nan"), "mean_tpot_ms": float("inf")}, "nothing measured"),
        ({"spec_decode": "yes"}, "neither true nor false"),
        ({"gpu": 5}, "gpu is 5: not a text"),
    ],
)
def test_impossible_values_are_rejected_with_their_value(tmp_path, change, reason):
    assert reason in refusal(tmp_path, RUN | change).reason


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ({}, []),
        ({"gpu": None}, ["gpu"]),
        ({"model": None, "engine": ""}, ["model", "engine"]),
        ({"isl": None}, ["isl"]),
        ({"isl": None, "mean_isl_actual": 900.5}, []),
        ({"load": None}, ["load"]),
        ({"concurrency": None}, ["concurrency"]),
        ({"load": "open"}, ["request_rate"]),
        ({"load": "open", "request_rate": "inf"}, ["request_rate"]),
        ({"load": "burst"}, ["num_prompts"]),
        ({"load": "static_batch", "batch_size": 4}, []),
        ({"tp": float("nan")}, []),
    ],
)
def test_what_a_complete_run_states(tmp_path, change, missing):
    record = one(tmp_path, RUN | change)
    assert record["missing"] == missing
    assert record["tp"] is None


def test_context_fills_and_contradicts(tmp_path):
    filled = one(tmp_path, {name: value for name, value in RUN.items() if name != "gpu"}, gpu="H100-SXM")
    assert filled["gpu"] == "H100-SXM"
    reason = refusal(tmp_path, RUN | {"tp": 4}, tp=8).reason
    assert reason == "tp: the file says 4, the context says 8"


def test_identity_is_content(tmp_path):
    first = one(tmp_path, RUN)
    same = {"src_ref": "elsewhere", "notes": "n", "licence": "MIT", "gpu": "H100-SXM", "isl": 1024.0}
    assert one(tmp_path, dict(reversed((RUN | same).items())))["run_id"] == first["run_id"]
    assert one(tmp_path, RUN | {"mean_tpot_ms": 9.51})["run_id"] != first["run_id"]
    assert one(tmp_path, RUN | {"cooling": "water"})["run_id"] != first["run_id"]
    assert one(tmp_path, RUN | {"cooling": "water"})["cooling"] == "water"


def test_reading_needs_no_database():
    import subprocess
    import sys

    code = "import sys, perfdb; sys.exit(any(m in sys.modules for m in ('duckdb', 'pandas', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
