"""vLLM's files: `bench serve`, `latency`, `throughput`, sweeps and the server log."""

import json
from pathlib import Path

import mutation
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import perfdb
from perfdb.keys import KEYS
from perfdb.readers import format_of, read
from perfdb.readers.source import Source
from perfdb.record import Record

DATA = Path(__file__).parent / "data" / "vllm"
REAL = sorted([*DATA.glob("vllm-*.json"), *DATA.glob("bench_serve_*.json"), *DATA.glob("rate8-*.json")])
ONE = json.loads((DATA / "vllm-small-bf16-isl128-osl64-c4-p1.json").read_text())
LATENCY, THROUGHPUT = DATA / "bench_latency.json", DATA / "bench_throughput.json"
LOG = DATA / "server_0.32.0.log"
RENAMED = {
    "request_throughput": "requests_s",
    "output_throughput": "output_tok_s",
    "total_token_throughput": "total_tok_s",
    "duration": "duration_s",
    "completed": "completed",
    "failed": "failed",
    "spec_decode_acceptance_length": "accept_length",
    "num_prompts": "num_prompts",
    "max_concurrency": "concurrency",
}
ARRAYS = {"latencies", "queue_times", "input_lens", "output_lens", "ttfts", "itls", "start_times", "errors"}
ENGINE_NAMED = {"vllm": "vllm", "openai-chat": None}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def one(tmp_path: Path, **changes: object) -> Record:
    path = write(tmp_path / "one.json", {name: v for name, v in (ONE | changes).items() if v != "absent"})
    assert format_of(Source(path)).NAME == "vllm_bench_serve"
    (found,) = read(path).records
    assert isinstance(found, Record), found
    return found


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_every_figure_of_a_real_result(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    records = list(read(path).records)
    assert len(records) == len(lines) == (2 if "appended" in path.name else 1)
    for stated, record in zip(lines, records, strict=True):
        run = dict(record.data)
        for name, value in stated.items():
            if name in RENAMED:
                assert run.pop(RENAMED[name]) == value, name
            elif name.endswith("_ms"):
                key = name.replace("_e2el_", "_e2e_")
                assert run.pop(key if key in KEYS else name) == value, name
            elif name not in (*ARRAYS, "model_id", "request_rate", "generated_texts", "gpu", "tp"):
                assert run.pop(name) == value, name
        rate = stated["request_rate"]
        assert run == {
            "load": "closed" if rate == "inf" else "open",
            "mean_isl_actual": stated["total_input_tokens"] / stated["completed"],
            "mean_osl_actual": stated["total_output_tokens"] / stated["completed"],
            "measured_on": f"2026-11-{stated['date'][6:8]}",
        } | ({} if rate == "inf" else {"request_rate": rate}) | (
            {"spec_decode": True} if "spec_decode_num_drafts" in stated else {}
        )
        assert {
            "engine": ENGINE_NAMED[stated["backend"]],
            "model": stated["model_id"],
        }.items() <= record.inferred.items()


def test_read_records_takes_a_real_result():
    result = perfdb.read_records(DATA / "vllm-small-bf16-isl128-osl64-c4-p1.json", {"gpu": "cpu"})
    assert (result.format, len(result.records), result.rejected) == ("vllm_bench_serve", 1, [])
    assert result.records[0]["missing"] == []
    assert result.records[0]["p50_e2el_ms"] == ONE["p50_e2el_ms"]
    assert not ARRAYS & result.records[0].keys()


def test_real_metadata_and_requests_that_failed():
    (rate,) = read(DATA / "rate8-8.0qps-tiny-20261121-122147.json").records
    assert (rate.inferred["gpu"], rate.inferred["tp"], rate.data["version"]) == ("none", 1, "0.32.0")
    assert (rate.data["label"], rate.data["burstiness"]) == ("rate8", 0.5)
    (failed,) = read(DATA / "bench_serve_failed.json").records
    assert (failed.data["num_prompts"], failed.data["completed"], failed.data["failed"]) == (6, 4, 2)
    assert failed.data["mean_isl_actual"] == 2597 / 4


@pytest.mark.parametrize(
    ("changes", "load", "rate", "cap"),
    [
        ({}, "closed", None, ONE["max_concurrency"]),
        ({"max_concurrency": None}, "burst", None, None),
        ({"max_concurrency": "absent"}, "burst", None, None),
        ({"request_rate": 4.5, "max_concurrency": None}, "open", 4.5, None),
        ({"request_rate": 4.5, "max_concurrency": 16}, "open", 4.5, 16),
        ({"ramp_up_strategy": "linear", "ramp_up_start_rps": 1, "max_concurrency": None}, "open", None, None),
    ],
)
def test_rate_cap_and_ramp_decide_the_load(tmp_path, changes, load, rate, cap):
    data = one(tmp_path, **changes).data
    assert (data["load"], data.get("request_rate"), data.get("concurrency")) == (load, rate, cap)


@pytest.mark.parametrize(
    ("backend", "engine"),
    [("vllm", "vllm"), ("openai", None), ("openai-chat", None), ("tensorrt-llm", "trtllm"), (7, None)],
)
def test_only_a_back_end_named_after_an_engine_suggests_one(tmp_path, backend, engine):
    record = one(tmp_path, backend=backend, endpoint_type=backend)
    assert record.inferred["engine"] == engine
    assert "engine" not in record.data


def test_metadata_of_the_user_only_suggests(tmp_path):
    record = one(
        tmp_path,
        gpu="h100_sxm",
        tensor_parallel_size="4",
        isl="1024",
        enable_expert_parallel="True",
        commit="abc",
        tp_note="x",
        dp="two",
        status="good",
    )
    found = {name: record.inferred[name] for name in ("gpu", "tp", "isl", "expert_parallel")}
    assert found == {"gpu": "h100_sxm", "tp": 4, "isl": 1024, "expert_parallel": True}
    assert {"commit": "abc", "tp_note": "x"}.items() <= record.data.items()
    assert record.data["metadata"] == {"dp": "two", "status": "good"}
    taken = perfdb.read_records(tmp_path / "one.json", {"tp": 8}).records[0]
    assert (taken["tp"], taken["gpu"]) == (8, "h100_sxm")


def test_a_width_beside_replicas_is_not_taken_for_tp(tmp_path):
    record = one(tmp_path, tensor_parallel_size="4", data_parallel_size="2")
    assert "tp" not in record.inferred
    assert (record.data["tensor_parallel_size"], record.data["data_parallel_size"]) == ("4", "2")


def test_speculation_that_the_server_counted(tmp_path):
    record = one(tmp_path, spec_decode_acceptance_length=2.5, spec_decode_num_drafts=40)
    assert (record.data["spec_decode"], record.data["accept_length"]) == (True, 2.5)
    assert record.data["spec_decode_num_drafts"] == 40


def test_other_percentiles_and_older_keys_keep_their_names(tmp_path):
    older = {
        "p99.9_ttft_ms": 9.5,
        "p25_tpot_ms": 1.5,
        "request_goodput:": 3.0,
        "best_of": 1,
        "input_throughput": 70.5,
    }
    data = one(tmp_path, **older, mean_client_queue_time_ms=0.5).data
    assert data["input_tok_s"] == older.pop("input_throughput")
    assert older.items() <= data.items()
    assert data["mean_client_queue_time_ms"] == 0.5


def test_texts_and_arrays_of_a_detailed_result_stay_out(tmp_path):
    record = one(tmp_path, generated_texts=["private"], input_lens=[128], ttfts=[0.1], errors=[""])
    assert not {"generated_texts", "input_lens", "ttfts", "errors", *ARRAYS} & record.data.keys()
    assert "private" not in record.text
    assert "input_lens" in record.text


def test_a_local_path_only_suggests_the_model(tmp_path):
    assert one(tmp_path, model_id="Qwen/Qwen3-32B").data["model"] == "Qwen/Qwen3-32B"
    cached = "/root/.cache/hub/models--Qwen--Qwen3-32B/snapshots/abc"
    assert one(tmp_path, model_id=cached).inferred["model"] == "Qwen/Qwen3-32B"


def test_appended_lines_and_a_run_that_answered_nothing(tmp_path):
    path = write(tmp_path / "runs.json", ONE, ONE | {"completed": 0}, {"x": 1}, ONE | {"date": "x"})
    result = perfdb.read_records(path)
    assert len(result.records) == 2
    assert [(bad.line, bad.reason.split(":")[0]) for bad in result.rejected] == [
        (2, "completed is 0"),
        (3, "not a vllm_bench_serve result"),
    ]
    assert result.records[1]["measured_on"] is None


def test_a_sweep_gives_its_runs_from_both_of_its_files(tmp_path):
    runs = [ONE | {"run_number": n, "max_num_seqs": 64, "random-input-len": 128} for n in (0, 1)]
    (tmp_path / "run=0.json").write_text(json.dumps(runs[0], indent=4))
    (tmp_path / "summary.json").write_text(json.dumps(runs, indent=4))
    single = perfdb.read_records(tmp_path / "run=0.json").records
    both = perfdb.read_records(tmp_path / "summary.json").records
    assert [record["run_id"] for record in single] == [both[0]["run_id"]]
    assert [record["run_number"] for record in both] == [0, 1]
    assert (both[0]["max_running_requests"], both[0]["isl"]) == (64, 128)


def test_latency_is_a_static_batch_in_seconds():
    stated = json.loads(LATENCY.read_text())
    (record,) = read(LATENCY).records
    seconds = stated["percentiles"]
    assert {
        name: value for name, value in record.data.items() if name.endswith("_ms") and value is not None
    } == {
        "mean_e2e_ms": stated["avg_latency"] * 1000,
        "median_e2e_ms": seconds["50"] * 1000,
        "p90_e2e_ms": seconds["90"] * 1000,
        "p99_e2e_ms": seconds["99"] * 1000,
    }
    assert record.stated["p99_e2e_ms"] == ("percentiles.99", seconds["99"], "s")
    assert record.stated["mean_e2e_ms"] == ("avg_latency", stated["avg_latency"], "s")
    assert record.data["percentiles"] == seconds
    assert (record.data["engine"], record.data["load"], record.data["num_iters"]) == (
        "vllm",
        "static_batch",
        5,
    )
    assert record.inferred == {"model": "./tiny"}
    (run,) = perfdb.read_records(LATENCY).records
    assert run["missing"] == ["gpu", "isl", "osl", "batch_size"]
    given_later = {"gpu": "cpu", "isl": 32, "osl": 16, "batch_size": 2}
    assert perfdb.read_records(LATENCY, given_later).records[0]["missing"] == []


def test_latency_of_older_versions_has_no_model(tmp_path):
    stated = json.loads(LATENCY.read_text())
    del stated["model_id"]
    (run,) = perfdb.read_records(write(tmp_path / "a.json", stated)).records
    assert run["missing"][0] == "model"


def test_throughput_is_a_burst_without_the_split_of_its_tokens():
    (run,) = perfdb.read_records(THROUGHPUT).records
    stated = json.loads(THROUGHPUT.read_text())
    assert run["duration_s"] == stated["elapsed_time"]
    assert run["num_prompts"] == stated["num_requests"]
    assert run["requests_s"] == stated["requests_per_second"]
    assert run["total_tok_s"] == stated["tokens_per_second"]
    assert run["total_num_tokens"] == stated["total_num_tokens"]
    assert (run["engine"], run["load"], run["model"]) == ("vllm", "burst", stated["model_id"])
    assert run["missing"] == ["gpu", "isl", "osl"]


def test_real_server_log_of_a_cpu():
    log = read(LOG)
    (start,) = log.records
    assert start.table == "startups"
    stated = {name: value for name, value in start.data.items() if value is not None}
    assert stated == {
        "engine": "vllm",
        "engine_version": "0.32.0",
        "context_len": 1024,
        "prefix_cache": True,
        "dtype": "torch.bfloat16",
        "cuda_graph_max_bs": 0,
        "speculative": False,
        "n_gpus": 1,
        "tp": 1,
        "pp": 1,
        "dp": 1,
        "kv_gib": 1.0,
        "max_total_tokens": 524_288,
        "max_concurrency": 512.0,
        "init_s": 0.49,
        "tokens_capped_by_user": True,
    }
    assert start.inferred == {"model": "./tiny", "kv_dtype": "auto", "weight_quant": "bf16"}
    steps = list(log.steps)
    assert [step["at"][-8:] for step in steps] == ["12:21:34", "12:21:44", "12:21:54", "12:22:04", "12:22:14"]
    assert [step["gen_tok_s"] for step in steps] == [12.8, 8.8, 19.2, 6.4, 0.0]
    assert [step["input_tok_s"] for step in steps] == [25.6, 19.3, 38.4, 12.8, 0.0]
    assert {(step["rank"], step["start"], step["running"], step["phase"]) for step in steps} == {
        (0, 0, 0, "interval")
    }
    assert perfdb.read_records(LOG).records[0]["max_total_tokens"] == 524_288


def test_two_starts_of_older_engines_in_one_log():
    log = read(DATA / "server_0.6.composed.log")
    first, second = log.records
    assert (first.line, second.line) == (1, 16)
    wanted = {
        "engine_version": "0.6.4",
        "tp": 2,
        "n_gpus": 2,
        "mem_fraction": 0.9,
        "chunked_prefill_size": 512,
        "max_running_requests": 256,
        "context_len": 8192,
        "weights_gib": 7.52,
        "kv_gib": 62.4,
        "non_torch_gib": 0.8,
        "gpu_mem_total_gib": 80.0,
        "graph_mem_gib": 0.32,
        "page_size": 16,
        "max_total_tokens": 63_897 * 16,
    }
    assert wanted.items() <= first.data.items()
    wanted = {
        "engine_version": "0.7.3",
        "quantization": "awq_marlin",
        "kv_dtype": "fp8",
        "cuda_graph_max_bs": 0,
        "prefix_cache": True,
        "mem_fraction": 0.7,
        "weights_gib": 5.25,
        "kv_gib": 10.25,
        "non_torch_gib": 0.1,
        "activation_peak_gib": 1.2,
        "gpu_mem_total_gib": 24.0,
        "page_size": 16,
        "max_total_tokens": 10_496 * 16,
    }
    assert wanted.items() <= second.data.items()
    assert second.inferred["weight_quant"] == "awq_int4"
    (step,) = log.steps
    assert (step["line"], step["start"], step["rank"]) == (14, 0, None)
    assert (step["running"], step["queued"], step["token_usage"]) == (92, 3, 0.985)
    assert (step["input_tok_s"], step["gen_tok_s"]) == (512.5, 128.0)
    assert step["extra"] == {"swapped": 1.0, "cpu_kv_cache_usage_pct": 2.0}


def test_workers_of_one_start_and_what_speculation_reports():
    log = read(DATA / "server_0.19.composed.log")
    (start,) = log.records
    wanted = {
        "engine_version": "0.19.0",
        "model": "composed/model-70b-fp8",
        "tp": 2,
        "dp": 1,
        "mem_fraction": 0.95,
        "max_running_requests": 1024,
        "chunked_prefill_size": 8192,
        "kv_dtype": "fp8_e4m3",
        "speculative": True,
        "cuda_graph_max_bs": 512,
        "weights_gib": 33.9,
        "kv_gib": 36.25,
        "max_total_tokens": 475_136,
        "avail_mem_before_load_gib": 78.5,
        "gpu_mem_total_gib": 79.25,
        "activation_peak_gib": 1.5,
        "non_torch_gib": 0.5,
        "graph_mem_gib": 1.0,
    }
    assert wanted.items() <= start.data.items()
    first, second = log.steps
    assert (first["rank"], second["rank"]) == (0, 1)
    assert first["extra"] == {
        "deferred": 1.0,
        "preemptions": 3.0,
        "prefix_cache_hit_rate_pct": 0.0,
        "external_prefix_cache_hit_rate_pct": 20.5,
        "acceptance_length": 3.03,
    }


@pytest.mark.parametrize("name", ["server_0.6", "server_0.19"])
def test_keys_on_the_command_line_are_not_kept(name):
    text = "\n".join(start.text for start in read(DATA / f"{name}.composed.log").records)
    assert "composed-secret" not in text
    assert "'<redacted>'" in text
    assert "tokenizer='composed/" in text


def test_replicas_leave_open_what_tp_is(tmp_path):
    log = (DATA / "server_0.19.composed.log").read_text()
    path = tmp_path / "a.log"
    path.write_text(log.replace("data_parallel_size=1", "data_parallel_size=2"))
    (start,) = read(path).records
    assert start.data.get("tp") is None
    assert start.data.get("dp") is None
    assert (start.data["tensor_parallel_size"], start.data["data_parallel_size"]) == (2, 2)
    assert start.data["n_gpus"] == 4


def test_a_difference_below_zero_is_no_size(tmp_path):
    log = (DATA / "server_0.19.composed.log").read_text()
    path = tmp_path / "a.log"
    path.write_text(log.replace("0.50 GiB for non-torch", "-3.58 GiB for non-torch"))
    result = perfdb.read_records(path)
    assert result.rejected == []
    assert result.records[0]["non_torch_difference_gib"] == -3.58
    assert "non_torch_gib" not in result.records[0]


def test_a_start_that_found_no_room_for_a_pool_is_rejected(tmp_path):
    log = (DATA / "server_0.19.composed.log").read_text()
    path = tmp_path / "a.log"
    path.write_text(log.replace("memory: 36.25 GiB", "memory: -2.81 GiB"))
    (rejection,) = perfdb.read_records(path).rejected
    assert rejection.reason == "kv_gib is -2.81: cannot be negative"


def test_engines_side_by_side_are_one_start(tmp_path):
    lines = (DATA / "server_0.19.composed.log").read_text().splitlines()
    again = [
        line.replace("EngineCore pid=469", "EngineCore_DP1 pid=470")
        for line in lines
        if "Initializing" in line
    ]
    path = write(tmp_path / "a.log", *lines[:-3], *again, *lines[-3:])
    assert len(list(read(path).records)) == 1


def test_a_pool_in_blocks_of_unknown_size_gives_no_tokens(tmp_path):
    path = tmp_path / "a.log"
    path.write_text(
        "INFO 01-02 03:04:07 llm_engine.py:249] Initializing an LLM engine (v0.6.0) with config: model='x/y'\n"
        "INFO 01-02 03:04:22 gpu_executor.py:122] # GPU blocks: 1000, # CPU blocks: 2048\n"
        "INFO 01-02 03:04:22 gpu_executor.py:122] Loading model weights took 5.0 GB\n"
    )
    (start,) = read(path).records
    assert start.data["gpu_blocks"] == 1000
    assert "max_total_tokens" not in start.data


def test_steps_without_a_start_belong_to_none(tmp_path):
    lines = (LOG).read_text().splitlines()
    path = write(tmp_path / "tail.log", *(line for line in lines if "Avg prompt" in line))
    log = read(path)
    assert list(log.records) == []
    assert {step["start"] for step in log.steps} == {None}


ORIGINALS = [ONE, json.loads(LATENCY.read_text()), json.loads(THROUGHPUT.read_text())]
LOG_LINES = [line for path in sorted(DATA.glob("*.log")) for line in path.read_text().splitlines()]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(found=st.lists(st.sampled_from(ORIGINALS).flatmap(mutation.mutated), min_size=1, max_size=3))
def test_mutated_results_end_in_rows_or_reasons(tmp_path, found):
    mutation.ends_well(tmp_path / "lines.json", "".join(map(mutation.as_line, found)))
    mutation.ends_well(tmp_path / "list.json", json.dumps(found, indent=4))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(st.sampled_from(LOG_LINES), min_size=1, max_size=12),
    cut=st.integers(0, 300),
    junk=st.text(max_size=20),
)
def test_mutated_logs_end_in_rows_or_reasons(tmp_path, lines, cut, junk):
    path = tmp_path / "a.log"
    mutation.ends_well(path, "\n".join([*lines, lines[-1][:cut] + junk]))
    try:
        steps = list(read(path).steps)
    except perfdb.UnknownFormat:
        return
    assert all(isinstance(step, dict) for step in steps)
