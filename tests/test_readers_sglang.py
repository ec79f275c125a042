"""SGLang's result files, console reports and server logs: every figure of real files, and the traps."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import perfdb
from perfdb.keys import KEYS
from perfdb.readers import format_of
from perfdb.readers.launch_line import launch
from perfdb.readers.reading import Reading
from perfdb.readers.redact import REDACTED, redact_text
from perfdb.readers.sglang_server_args import server_args
from perfdb.readers.source import Source
from perfdb.record import Record, Rejection

DATA = Path(__file__).parent / "data" / "sglang"
SERVING = sorted(path.name for path in [*DATA.glob("bench_serving_*.jsonl"), *DATA.glob("sglang_*.jsonl")])
REPORTS = sorted(path.name for path in DATA.glob("bench_serving_*.txt"))

SAME = {
    "request_throughput": "requests_s",
    "input_throughput": "input_tok_s",
    "output_throughput": "output_tok_s",
    "total_throughput": "total_tok_s",
    "duration": "duration_s",
    "concurrency": "achieved_concurrency",
    "max_concurrency": "concurrency",
    "dataset_name": "dataset",
} | {
    f"{statistic}_e2e_latency_ms": f"{statistic}_e2e_ms"
    for statistic in ("mean", "median", "std", "p90", "p95", "p99")
}
"""What bench_serving calls a key of a run; any other name is the same on both sides."""


def reading(path: Path) -> Reading:
    source = Source(path)
    return format_of(source).read(source)


def records(path: Path) -> list[Record]:
    found = list(reading(path).records)
    assert not [item for item in found if isinstance(item, Rejection)]
    return [item for item in found if isinstance(item, Record)]


def written(path: Path, *lines: object) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def first_line(name: str) -> dict:
    return json.loads((DATA / name).read_text().splitlines()[0])


# bench_serving


@pytest.mark.parametrize("name", SERVING)
def test_every_figure_of_a_result_line(name):
    record, *_ = records(DATA / name)
    line = first_line(name)
    streamed = "no_stream" not in name
    for key, value in line.items():
        if isinstance(value, list) or key in ("server_info", "request_rate", "random_range_ratio"):
            continue
        if key in ("random_input_len", "random_output_len"):
            continue
        if not streamed and re.search("_(ttft|tpot|itl)_ms$", key):
            assert record.data[key] is None
            continue
        assert record.data.get(SAME.get(key, key)) == value, key
    assert not any(isinstance(value, list) for value in record.data.values())
    read = perfdb.read_records(DATA / name, {"gpu": "cpu"})
    assert (read.format, read.rejected) == ("sglang_bench_serving", [])
    for key in ("mean_isl_actual", "mean_osl_actual"):
        side = "input" if "isl" in key else "output"
        assert read.records[0][key] == line[f"total_{side}_tokens"] / line["completed"]


def test_versions_may_share_a_file(tmp_path):
    lines = [(DATA / name).read_text().splitlines()[0] for name in SERVING]
    found = records(written(tmp_path / "all.jsonl", *lines))
    assert [record.line for record in found] == list(range(1, len(SERVING) + 1))
    assert {"0.5.23", None} == {record.data.get("engine_version") for record in found}
    assert reading(tmp_path / "all.jsonl").metadata == {"tool": "sglang.bench_serving"}


def test_failed_requests_are_known_only_from_the_lists():
    with_lists = records(DATA / "bench_serving_0.5.23_details.jsonl")[0]
    assert (with_lists.data["num_prompts"], with_lists.data["failed"]) == (8, 0)
    without = records(DATA / "bench_serving_0.5.23_summary.jsonl")[0]
    assert "failed" not in without.data
    assert without.inferred["num_prompts"] == 16


def test_a_failed_request_is_counted(tmp_path):
    line = first_line("bench_serving_0.5.23_details.jsonl") | {"completed": 7}
    (record,) = records(written(tmp_path / "a.jsonl", line))
    assert (record.data["num_prompts"], record.data["completed"], record.data["failed"]) == (8, 7, 1)


def test_answers_without_a_chunk_are_counted():
    (record,) = records(DATA / "bench_serving_0.5.23_overlong.jsonl")
    assert record.data["completed_without_chunk"] == 2
    assert "completed_without_chunk" not in records(DATA / "bench_serving_0.5.23_details.jsonl")[0].data


def test_answers_in_one_piece_have_no_token_times():
    read = perfdb.read_records(DATA / "bench_serving_0.5.23_no_stream.jsonl").records[0]
    assert read["streamed"] is False
    assert (read["mean_ttft_ms"], read["mean_tpot_ms"], read["median_itl_ms"]) == (None, None, None)
    assert read["mean_e2e_ms"] == pytest.approx(1049.2087)


def test_one_token_an_answer_has_a_first_chunk(tmp_path):
    line = first_line("bench_serving_0.5.23_summary.jsonl")
    line |= {"total_output_tokens": line["completed"], "mean_itl_ms": 0.0, "mean_tpot_ms": 0.0}
    (record,) = records(written(tmp_path / "a.jsonl", line))
    assert record.data["mean_ttft_ms"] == line["mean_ttft_ms"]
    assert "streamed" not in record.data


def test_goodput_and_cache_report():
    data = records(DATA / "bench_serving_0.5.23_cache_goodput.jsonl")[0].data
    assert data["cache_hit_rate_pct"] == 60.0
    assert data["goodput_slos_ms"] == {"ttft": 100.0, "tpot": 10.0}
    assert (data["slo_attainment"], data["cache_report"]["total_cached_tokens"]) == (0.25, 384)
    # A data set of shared prefixes: the random_* arguments in the line are the client's defaults.
    assert "isl" not in data
    assert (data["mean_isl_actual"], data["mean_osl_actual"]) == (80.0, 16.0)


def test_random_lengths_without_a_ratio_are_half_as_long():
    data = records(DATA / "bench_serving_0.5.4.jsonl")[0].data
    assert (data["isl"], data["osl"], data["range_ratio"]) == (32, 16, 0.0)
    assert (data["mean_isl_actual"], data["mean_osl_actual"]) == (126 / 8, 71 / 8)


def test_number_of_prompts_in_the_clients_own_file_name():
    (record,) = records(DATA / "sglang_1121_4_32_8.jsonl")
    assert record.data["num_prompts"] == 4


def test_recorded_arrivals_are_open_at_no_rate(tmp_path):
    line = first_line("bench_serving_0.5.23_rate.jsonl")
    assert records(written(tmp_path / "a.jsonl", line))[0].data["request_rate"] == 8.0
    data = records(written(tmp_path / "b.jsonl", line | {"request_rate": "trace"}))[0].data
    assert (data["load"], data["arrivals"], data.get("request_rate")) == ("open", "trace", None)


@pytest.mark.parametrize(
    ("settings", "dp", "replicas", "gpus"),
    [
        ({"dp_size": 4, "enable_dp_attention": True}, 4, None, 8),
        ({"dp_size": 1, "attn_dp_size": 4, "enable_dp_attention": True}, 4, None, 8),
        ({"dp_size": 2, "attn_dp_size": 4, "enable_dp_attention": False}, 4, 2, 16),
        ({"dp_size": 2, "enable_dp_attention": False}, 1, 2, 16),
        ({"dp_size": "two", "enable_dp_attention": False}, 1, "two", None),
    ],
)
def test_attention_data_parallelism_and_replicas(tmp_path, settings, dp, replicas, gpus):
    line = first_line("bench_serving_0.5.23_summary.jsonl")
    line["server_info"] = {"version": "0.5.23", "tp_size": 8, "pp_size": 1} | settings
    data = records(written(tmp_path / "a.jsonl", line))[0].data
    assert (data["dp"], data.get("dp_replicas"), data.get("n_gpus")) == (dp, replicas, gpus)


@pytest.mark.parametrize("completed", [0, None, True, "8", [8]])
def test_a_line_without_answers_is_refused(tmp_path, completed):
    line = first_line("bench_serving_0.5.4.jsonl")
    (found,) = reading(written(tmp_path / "a.jsonl", line | {"completed": completed})).records
    assert isinstance(found, Rejection)
    assert repr(completed) in found.reason


# bench_one_batch, composed in the tool's key set

ONE_BATCH = {
    "run_name": "default",
    "batch_size": 8,
    "input_len": 256,
    "output_len": 5,
    "prefill_latency": 0.05,
    "prefill_throughput": 8 * 256 / 0.05,
    "median_decode_latency": 0.01,
    "median_decode_throughput": 8 / 0.01,
    "total_latency": 0.094,
    "overall_throughput": 8 * 261 / 0.094,
}


def test_a_static_batch(tmp_path):
    (record,) = records(written(tmp_path / "result.jsonl", ONE_BATCH))
    wanted = {
        "engine": "sglang",
        "load": "static_batch",
        "batch_size": 8,
        "isl": 256,
        "osl": 5,
        "ttft_ms_unspecified": pytest.approx(50.0),
        "median_tpot_ms": pytest.approx(10.0),
        "mean_tpot_ms": pytest.approx(11.0),
        "mean_e2e_ms": pytest.approx(94.0),
        "duration_s": 0.094,
        "total_tok_s": 8 * 261 / 0.094,
        "output_tok_s": pytest.approx(8 * 5 / 0.094),
        "run_name": "default",
        "prefill_throughput": 8 * 256 / 0.05,
        "median_decode_throughput": 800.0,
    }
    assert {name: record.data[name] for name in wanted} == wanted
    assert record.data.keys() == wanted.keys()
    assert record.stated["ttft_ms_unspecified"] == ("prefill_latency", 0.05, "s")
    read = perfdb.read_records(tmp_path / "result.jsonl", {"gpu": "h100", "model": "m"})
    assert (read.format, read.records[0]["missing"]) == ("sglang_bench_one_batch", [])


def test_every_figure_of_real_static_batches():
    path = DATA / "one_batch_0.5.23.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for record, line in zip(records(path), lines, strict=True):
        steps = line["output_len"] - 1
        for key, name in (
            ("prefill_latency", "ttft_ms_unspecified"),
            ("median_decode_latency", "median_tpot_ms"),
            ("total_latency", "mean_e2e_ms"),
        ):
            value = line.get(key)
            assert record.data[name] == (None if value is None else value * 1000)
            assert record.stated.get(name) == (None if value is None else (key, value, "s"))
        spent = (line["total_latency"] - line["prefill_latency"]) * 1000
        assert record.data["mean_tpot_ms"] == (pytest.approx(spent / steps) if steps else None)
        tokens = line["batch_size"] * line["output_len"]
        assert record.data["output_tok_s"] == pytest.approx(tokens / line["total_latency"])
        same = {"input_len": "isl", "output_len": "osl", "overall_throughput": "total_tok_s"}
        for key in line.keys() - {"prefill_latency", "median_decode_latency", "total_latency"}:
            assert record.data[same.get(key, key)] == line[key]
        assert record.data["duration_s"] == line["total_latency"]


def test_a_static_batch_of_one_token(tmp_path):
    line = {name: value for name, value in ONE_BATCH.items() if "decode" not in name}
    line |= {"output_len": 1, "total_latency": 0.05, "overall_throughput": 8 * 257 / 0.05}
    (record,) = perfdb.read_records(written(tmp_path / "result.jsonl", line)).records
    assert (record["median_tpot_ms"], record["mean_tpot_ms"]) == (None, None)
    assert record["mean_e2e_ms"] == record["ttft_ms_unspecified"] == pytest.approx(50.0)


def test_a_text_for_a_time_is_refused_by_its_name(tmp_path):
    path = written(tmp_path / "result.jsonl", ONE_BATCH | {"prefill_latency": "fast"})
    (rejected,) = perfdb.read_records(path).rejected
    assert 'ttft_ms_unspecified is "fast"' in rejected.reason


# bench_one_batch_server


@pytest.mark.parametrize("version", ["0.5.4", "0.5.9", "0.5.23"])
def test_output_rate_is_over_the_whole_time(version):
    name = f"one_batch_server_{version}.jsonl"
    lines = [json.loads(line) for line in (DATA / name).read_text().splitlines()]
    found = records(DATA / name)
    assert len(found) == len(lines)
    for record, line in zip(found, lines, strict=True):
        tokens = line["batch_size"] * line["output_len"]
        assert record.data["output_tok_s"] == pytest.approx(tokens / line["latency"])
        # The tool takes the time to the first token off.
        assert record.data["output_throughput"] == line["output_throughput"]
        assert record.data["output_tok_s"] < line["output_throughput"]
        same = {
            "input_len": "isl",
            "output_len": "osl",
            "latency": "duration_s",
            "overall_throughput": "total_tok_s",
        }
        for key, value in line.items():
            if key not in ("last_ttft", "acc_length", "cache_hit_rate"):
                assert record.data[same.get(key, key) if key != "latency" else "duration_s"] == value, key
        assert "accept_length" not in record.data
        assert (record.data["engine"], record.data["load"]) == ("sglang", "static_batch")


def test_only_a_batch_of_one_has_its_own_times():
    one, four = records(DATA / "one_batch_server_0.5.23.jsonl")
    assert one.data["mean_e2e_ms"] == pytest.approx(165.3)
    assert one.data["mean_ttft_ms"] == pytest.approx(31.5)
    assert one.data["mean_tpot_ms"] == pytest.approx((165.3 - 31.5) / 15)
    assert one.stated["mean_ttft_ms"] == ("last_ttft", 0.0315, "s")
    assert (four.data["latency"], four.data["last_ttft"]) == (0.206, 0.0421)
    assert not {"mean_e2e_ms", "mean_ttft_ms", "mean_tpot_ms"} & four.data.keys()


def test_the_list_with_server_arguments(tmp_path):
    found = records(DATA / "one_batch_server_0.5.23_pydantic.json")
    assert [record.data["batch_size"] for record in found] == [1, 4]
    assert [json.loads(record.text)["batch_size"] for record in found] == [1, 4]
    assert {record.inferred["model"] for record in found} == {"./tiny"}
    assert found[0].data["mean_tpot_ms"] == pytest.approx((0.16531135100012762 - 0.03145227499953762) / 15e-3)
    item = json.loads((DATA / "one_batch_server_0.5.23_pydantic.json").read_text())[1]
    item |= {"server_args": ["--tp", "8", "--kv-cache-dtype", "fp8_e4m3"], "acc_length": 2.5}
    (record,) = records(written(tmp_path / "a.json", [item]))
    assert (record.inferred["tp"], record.inferred["n_gpus"], record.inferred["kv_dtype"]) == (
        8,
        8,
        "fp8_e4m3",
    )
    assert record.data["accept_length"] == 2.5


def test_early_output_throughput_is_over_the_whole_time(tmp_path):
    line = {
        "run_name": "default",
        "batch_size": 16,
        "input_len": 1024,
        "output_len": 8,
        "latency": 2.0,
        "output_throughput": 64.0,
        "overall_throughput": 8256.0,
    }
    (record,) = records(written(tmp_path / "result.jsonl", line))
    assert (record.data["output_tok_s"], record.data["total_tok_s"]) == (64.0, 8256.0)
    assert (record.data["latency"], record.data["engine"]) == (2.0, "sglang")


def test_a_server_that_says_nothing_may_be_another_engine(tmp_path):
    line = json.loads((DATA / "one_batch_server_0.5.9.jsonl").read_text().splitlines()[0])
    line |= {"last_gen_throughput": -1, "acc_length": -1, "cache_hit_rate": 0.4}
    (record,) = records(written(tmp_path / "result.jsonl", line))
    assert "engine" not in record.data
    assert record.data["cache_hit_rate_pct"] == pytest.approx(40.0)
    assert record.stated["cache_hit_rate_pct"] == ("cache_hit_rate", 0.4, "fraction")


# bench_offline_throughput, composed in the tool's key set


def test_a_burst_without_a_server(tmp_path):
    line = {
        "backend": "engine",
        "successful_requests": 10,
        "total_latency": 4.0,
        "total_input_tokens": 1000,
        "total_output_tokens": 500,
        "request_throughput": 2.5,
        "input_throughput": 250.0,
        "output_throughput": 125.0,
        "total_throughput": 375.0,
        "last_gen_throughput": 140.0,
    }
    (record,) = perfdb.read_records(
        written(tmp_path / "o.jsonl", line), {"gpu": "h100", "model": "m"}
    ).records
    wanted = {
        "engine": "sglang",
        "load": "burst",
        "num_prompts": 10,
        "completed": 10,
        "duration_s": 4.0,
        "requests_s": 2.5,
        "input_tok_s": 250.0,
        "output_tok_s": 125.0,
        "total_tok_s": 375.0,
        "mean_isl_actual": 100.0,
        "mean_osl_actual": 50.0,
        "backend": "engine",
        "last_gen_throughput": 140.0,
        "missing": [],
    }
    assert {name: record[name] for name in wanted} == wanted


def test_every_figure_of_a_real_burst():
    path = DATA / "offline_throughput_0.5.23.jsonl"
    (record,) = records(path)
    line = first_line(path.name)
    same = SAME | {"successful_requests": "completed", "total_latency": "duration_s"}
    assert {key: record.data[same.get(key, key)] for key in line} == line
    assert (record.data["mean_isl_actual"], record.data["mean_osl_actual"]) == (140 / 8, 62 / 8)


# Reports on the console

VLLM_REPORT = """\
============ Serving Benchmark Result ============
Successful requests:                     98
Failed requests:                         2
Maximum request concurrency:             4
Benchmark duration (s):                  10.00
Total input tokens:                      9800
Total generated tokens:                  4900
Request throughput (req/s):              9.80
Output token throughput (tok/s):         490.00
Peak output token throughput (tok/s):    540.00
Peak concurrent requests:                13.00
Total Token throughput (tok/s):          1470.00
---------------Time to First Token----------------
Mean TTFT (ms):                          64.00
Median TTFT (ms):                        60.26
P99 TTFT (ms):                           98.59
-----Time per Output Token (excl. 1st token)------
Mean TPOT (ms):                          7.38
Median TPOT (ms):                        7.40
P99 TPOT (ms):                           7.96
---------------Inter-token Latency----------------
Mean ITL (ms):                           7.78
Median ITL (ms):                         7.37
P99 ITL (ms):                            40.98
----------------End-to-end Latency----------------
Mean E2EL (ms):                          400.50
P99.9 E2EL (ms):                         900.00
=================================================="""

OLD_REPORT = """\
============ Serving Benchmark Result ============
Backend:                                 vllm
Traffic request rate:                    8.0
Max reqeuest concurrency:                not set
Successful requests:                     10
Benchmark duration (s):                  2.00
Total input tokens:                      100
Total generated tokens:                  200
Total generated tokens (retokenized):    199
Output token throughput (tok/s):         100.00
Median E2E Latency (ms):                 50.00
=================================================="""


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_says_what_the_result_line_says(name):
    (printed,) = records(DATA / name)
    (line,) = records(DATA / name.replace(".txt", ".jsonl"))
    compared = 0
    for key, value in line.data.items():
        if isinstance(value, float) and key in printed.data and printed.data[key] is not None:
            assert printed.data[key] == pytest.approx(value, abs=0.006), key
            compared += 1
    assert compared >= 8
    for key in (
        "load",
        "concurrency",
        "completed",
        "dataset",
        "isl",
        "osl",
        "engine",
        "streamed",
        "num_prompts",
    ):
        both = printed.inferred | printed.data
        assert both.get(key) == (line.inferred | line.data).get(key), key
    # Nothing printed is lost.
    figures = re.findall(r":\s+(-?\d+(?:\.\d+)?)%?\s*$", printed.text, flags=re.MULTILINE)
    kept = [value for value in printed.data.values() if isinstance(value, (int, float))]
    streamed = "no_stream" not in name
    assert not streamed or {float(figure) for figure in figures} <= {float(value) for value in kept}


def test_the_report_of_another_client_states_no_engine(tmp_path):
    (record,) = records(written(tmp_path / "r.txt", "some text", VLLM_REPORT))
    assert (record.line, record.text) == (2, VLLM_REPORT)
    wanted = {
        "completed": 98,
        "failed": 2,
        "num_prompts": 100,
        "concurrency": 4,
        "duration_s": 10.0,
        "requests_s": 9.8,
        "output_tok_s": 490.0,
        "total_tok_s": 1470.0,
        "mean_isl_actual": 100.0,
        "mean_osl_actual": 50.0,
        "max_concurrent_requests": 13.0,
        "mean_ttft_ms": 64.0,
        "median_ttft_ms": 60.26,
        "p99_tpot_ms": 7.96,
        "median_itl_ms": 7.37,
        "mean_e2e_ms": 400.5,
        "End-to-end Latency / P99.9 E2EL (ms)": 900.0,
    }
    assert {name: record.data[name] for name in wanted} == wanted
    assert "engine" not in record.data.keys() | record.inferred.keys()
    assert "load" not in record.data
    assert record.inferred["load"] == "closed"


def test_a_real_report_of_the_other_client():
    folder = DATA.parent / "vllm"
    (record,) = records(folder / "bench_serve_rate8.txt")
    line = json.loads((folder / "rate8-8.0qps-tiny-20261121-122147.json").read_text())
    same = {"total_token_throughput": "total_tok_s"} | {
        name: key for name, key in SAME.items() if not name.startswith(("max_", "dataset"))
    }
    compared = 0
    for name, value in line.items():
        key = same.get(name, name).replace("e2el_ms", "e2e_ms")
        if key in record.data and isinstance(value, (int, float)):
            assert record.data[key] == pytest.approx(value, abs=0.006), name
            compared += 1
    assert compared == 25
    assert (record.data["load"], record.data["request_rate"]) == ("open", 8.0)
    wanted = {"model": "./tiny", "dataset": "random", "isl": 32, "osl": 16, "random_range_ratio": 0}
    assert {name: record.inferred[name] for name in wanted} == wanted
    assert not {"engine", "range_ratio"} & {*record.data, *record.inferred}


def test_rate_and_cap_as_printed(tmp_path):
    (record,) = records(written(tmp_path / "r.txt", OLD_REPORT))
    assert (record.data["load"], record.data["request_rate"], record.data["concurrency"]) == (
        "open",
        8.0,
        None,
    )
    # An OpenAI protocol: any engine may answer it.
    assert record.inferred["engine"] == "vllm"
    assert "engine" not in record.data


def test_without_a_hint_the_load_stays_open(tmp_path):
    plain = "\n".join(
        line
        for line in VLLM_REPORT.splitlines()
        if not line.startswith(("Failed", "Maximum", "Peak concurrent", "Peak output"))
    )
    (record,) = records(written(tmp_path / "r.txt", plain))
    assert "load" not in record.data.keys() | record.inferred.keys()
    burst = "\n".join(line for line in VLLM_REPORT.splitlines() if not line.startswith("Maximum"))
    assert records(written(tmp_path / "b.txt", burst))[0].inferred["load"] == "burst"


LAUNCH = (
    "$ CUDA_VISIBLE_DEVICES=0,1 python3 -m sglang.launch_server --model-path org/m --tp 2 \\\n"
    "  --mem-fraction-static=0.8 --api-key abc"
)


def test_one_launch_before_a_report_suggests_its_settings(tmp_path):
    (record,) = records(written(tmp_path / "r.txt", LAUNCH, VLLM_REPORT))
    wanted = {"engine": "sglang", "model": "org/m", "tp": 2, "mem_fraction": 0.8}
    assert {name: record.inferred[name] for name in wanted} == wanted
    assert "abc" not in record.inferred["launch_command"]
    assert not wanted.keys() & record.data.keys()
    refined = perfdb.read_records(tmp_path / "r.txt", {"model": "org/other", "tp": 4}).records[0]
    assert (refined["model"], refined["tp"], refined["engine"]) == ("org/other", 4, "sglang")


def test_two_launches_before_a_report_suggest_nothing(tmp_path):
    second = "vllm serve org/m -tp 4"
    one, two = records(
        written(tmp_path / "r.txt", LAUNCH, VLLM_REPORT, second, VLLM_REPORT.replace("98", "99"))
    )
    assert one.inferred["tp"] == 2
    assert not {"tp", "model", "engine", "launch_command"} & two.inferred.keys()


def test_a_report_that_is_cut_off_is_named(tmp_path):
    lines = OLD_REPORT.splitlines()
    path = written(tmp_path / "r.txt", *lines[:-1], VLLM_REPORT, *lines[:-2])
    first, second, third = reading(path).records
    assert isinstance(first, Rejection)
    assert isinstance(second, Record)
    assert isinstance(third, Rejection)
    assert "'Output token throughput (tok/s):         100.00' is the last" in third.reason


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("sglang serve --model-path a/b --tp-size 8 --dp 8 --enable-dp-attention", {"tp": 8, "dp": 8, "n_gpus": 8}),
        ("python -m sglang.launch_server --model a/b --disable-radix-cache &", {"prefix_cache": False, "tp": None}),
        ("sglang serve --model a/b --tp 4 --pp-size 2", {"pp": 2, "n_gpus": 8, "dp": None, "spec_decode": None}),
        ("vllm serve a/b -tp 8 --kv-cache-dtype fp8", {"engine": "vllm", "tp": 8, "kv_dtype": "fp8", "model": "a/b"}),
        ("Example: sglang serve --model-path <model> [options]", None),
        ("vllm serve is a command", None),
        ("python -m sglang.bench_serving --model a/b", None),
        ("sglang serve --model 'a/b", {"model": "'a/b"}),
    ],
)  # fmt: skip
def test_commands_that_start_an_engine(line, found):
    read = launch(line)
    assert (read is None) == (found is None)
    for name, value in (found or {}).items():
        assert (read or {}).get(name) == value, name


# The server's log


def test_a_real_log():
    path = DATA / "server_0.5.23.log"
    (record,) = records(path)
    wanted = {
        "engine": "sglang",
        "tp": 1,
        "mem_fraction": 0.2,
        "avail_mem_before_load_gib": 21.55,
        "avail_mem_after_load_gib": 21.56,
        "weights_gib_logged": -0.01,
        "kv_gib": 0.12,
        "max_total_tokens": 65536,
        "tokens_capped_by_user": True,
        "avail_mem_after_pool_gib": 21.45,
        "avail_mem_end_gib": 21.45,
        "chunked_prefill_size": 4096,
        "max_running_requests": 4096,
        "context_len": 1024,
        "kv_dtype": "bf16",
        "speculative": False,
        "ready": True,
        "started_at": "2026-11-21 11:57:45",
        "model_class": "LlamaForCausalLM",
    }
    assert {name: record.data[name] for name in wanted} == wanted
    assert record.table == "startups"
    assert "weights_gib" not in record.data
    read = perfdb.read_records(path)
    assert (read.format, read.rejected) == ("sglang_server_log", [])
    assert record.inferred["model"] == "./tiny"


def test_every_step_of_a_real_log():
    path = DATA / "server_0.5.23.log"
    steps = list(reading(path).steps)
    logged = [
        (number, line)
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if "] Decode batch" in line or "] Prefill batch" in line
    ]
    assert [step["line"] for step in steps] == [number for number, _ in logged]
    names = {
        "#new-seq": "new_seqs", "#new-token": "new_tokens", "#cached-token": "cached_tokens",
        "token usage": "token_usage", "#running-req": "running", "#queue-req": "queued", "#token": "used_tokens",
        "gen throughput (token/s)": "gen_tok_s", "input throughput (token/s)": "input_tok_s",
    }  # fmt: skip
    for step, (_, line) in zip(steps, logged, strict=True):
        stamp, message = re.match(r"\[([^\]]+)\] (.*)", line).groups()
        assert (step["at"], step["start"], step["rank"]) == (stamp, 0, None)
        assert step["phase"] == message.split()[0].lower()
        for item in message.split(", ")[1:]:
            name, value = item.split(": ")
            if name == "cpu graph":
                assert step["cuda_graph"] is (value == "True")
                assert step["extra"]["graph"] == name
            elif name in names:
                assert step[names[name]] == float(value), line
            else:
                assert step["extra"][name] == float(value), line


def log(*messages: str, rank: str = "") -> list[str]:
    return [f"[2025-05-01 10:00:{second:02d}{rank}] {message}" for second, message in enumerate(messages)]


ARGS = "server_args=ServerArgs(model_path='org/model', tp_size=2, mem_fraction_static=0.85, api_key='hush')"


def test_ranks_drafts_and_graphs(tmp_path):
    def rank(number: int, before: str, after: str) -> list[str]:
        return log(
            f"Load weight begin. avail mem={before} GB",
            f"Load weight end. type=LlamaForCausalLM, dtype=torch.bfloat16, avail mem={after} GB, mem usage=15.08 GB.",
            "KV Cache is allocated. #tokens: 400000, K size: 24.41 GB, V size: 24.41 GB",
            "Memory pool end. avail mem=12.50 GB",
            "Capture cuda graph begin. This can take up to several minutes. avail mem=12.40 GB",
            "Capture cuda graph end. Time elapsed: 8.00 s. mem usage=0.50 GB. avail mem=11.90 GB.",
            "Load weight begin. avail mem=11.90 GB",
            "Load weight end. type=LlamaForCausalLMEagle3, avail mem=10.90 GB, mem usage=1.00 GB.",
            "KV Cache is allocated. #tokens: 400000, K size: 0.76 GB, V size: 0.76 GB",
            "Memory pool end. avail mem=9.38 GB",
            "Capture draft cuda graph end. Time elapsed: 8.00 s. mem usage=0.25 GB. avail mem=9.13 GB.",
            "max_total_num_tokens=400000, chunked_prefill_size=8192, max_prefill_tokens=16384, "
            "max_running_requests=2048, context_len=131072",
            rank=f" TP{number}",
        )

    both = [
        line
        for pair in zip(rank(1, "78.10", "63.02"), rank(0, "78.53", "63.45"), strict=True)
        for line in pair
    ]
    args = ARGS.replace(
        "tp_size=2", "tp_size=2, speculative_algorithm='EAGLE3', max_total_tokens=None, page_size=1"
    )
    path = written(tmp_path / "s.log", *log(args), *both, *log("The server is fired up and ready to roll!"))
    (record,) = records(path)
    wanted = {
        "model": "org/model",
        "tp": 2,
        "avail_mem_before_load_gib": 78.10,
        "avail_mem_after_load_gib": 63.45,
        "avail_mem_after_load_min_gib": 63.02,
        "weights_gib": 15.08,
        "weights_source": "log",
        "kv_gib": 48.82,
        "draft_weights_gib": 1.0,
        "draft_kv_gib": 1.52,
        "avail_mem_after_pool_gib": 12.5,
        "graph_mem_gib": 0.75,
        "avail_mem_end_gib": 9.13,
        "max_total_tokens": 400000,
        "max_running_requests": 2048,
        "speculative": "EAGLE3",
        "tokens_capped_by_user": False,
        "page_size": 1,
        "ready": True,
    }
    assert {name: record.data[name] for name in wanted} == wanted
    assert "hush" not in record.text
    assert f"api_key='{REDACTED}'" in record.text
    assert record.text.count("\n") == 25


def test_logs_of_early_versions(tmp_path):
    lines = [
        "2024-08-01 [10:00:00] server_args=ServerArgs(model_path='/m', tp_size=1, mem_fraction_static=0.88)",
        "[10:00:01 TP0] Load weight begin. avail mem=23.40 GB",
        "[10:00:09 TP0] Load weight end. type=LlamaForCausalLM, dtype=torch.float16, avail mem=8.30 GB",
        "[10:00:10 TP0] Memory pool end. avail mem=1.68 GB",
        "[10:00:12 TP0] Capture cuda graph end. Time elapsed: 1.79 s",
        "[10:00:12 TP0] max_total_num_tokens=40000, max_prefill_tokens=16384, max_running_requests=2049, "
        "context_len=8192",
        "[10:00:20 TP0] Prefill batch(mixed #running-req: 3). #new-seq: 1, #new-token: 7, #cached-token: 1, "
        "cache hit rate: 3.35%, #queue-req: 0",
        "[10:00:21 TP0] Decode batch. #running-req: 1, #token: 40, token usage: 0.00, "
        "gen throughput (token/s): 5.27, #queue-req: 2",
    ]
    path = written(tmp_path / "s.log", *lines)
    (record,) = records(path)
    wanted = {
        "weights_gib": 15.1,
        "weights_source": "begin_minus_end",
        "max_total_tokens": 40000,
        "ready": False,
    }
    assert {name: record.data[name] for name in wanted} == wanted
    assert not {"kv_gib", "graph_mem_gib", "avail_mem_end_gib"} & record.data.keys()
    assert (record.inferred["model"], record.data["started_at"]) == ("/m", "10:00:00")
    prefill, decode = reading(path).steps
    assert (prefill["rank"], prefill["running"], prefill["cached_tokens"], prefill["used_tokens"]) == (
        "TP0",
        3,
        1,
        None,
    )
    assert prefill["extra"] == {"cache hit rate": "3.35%", "mixed": True}
    assert (decode["gen_tok_s"], decode["queued"], decode["cuda_graph"]) == (5.27, 2, None)


def test_pools_beside_the_cache(tmp_path):
    window = log(
        "server_args={'model_path': 'org/swa', 'tp_size': 1, 'kv_cache_dtype': 'auto'}",
        "KV Cache is allocated. dtype: torch.float8_e4m3fn, #tokens: 800, K size: 1.00 GB, V size: 1.00 GB",
        "KV Cache is allocated. dtype: torch.float8_e4m3fn, #tokens: 1000, K size: 3.00 GB, V size: 3.00 GB",
        "Memory pool end. avail mem=10.00 GB",
        "max_total_num_tokens=1000, context_len=4096, available_gpu_mem=9.50 GB",
    )
    state = log(
        "server_args={'model_path': 'org/gdn', 'tp_size': 1}",
        "Mamba Cache is allocated. max_mamba_cache_size: 64, conv_state size: 0.07GB, ssm_state size: 3.05GB "
        "intermediate_ssm_state_cache size: 48.75GB intermediate_conv_window_cache size: 0.43GB ",
        "KV Cache is allocated. #tokens: 500, KV size: 4.50 GB",
        "Memory pool end. avail mem=10.00 GB",
        "Capture target prefill CUDA graph end. elapsed=17.92 s, mem usage=3.85 GB, avail mem=10.85 GB.",
    )
    late = log(
        "server_args={'model_path': 'org/late', 'tp_size': 1}",
        "KV Cache VA upper bound. dtype: torch.bfloat16, #tokens: 900, K size: 9.00 GB, V size: 9.00 GB",
        "Memory pool end. avail mem=20.00 GB",
        "Post-capture KV sizing: KV cache allocated. dtype: torch.bfloat16, #tokens: 700, KV size: 7.00 GB, "
        "avail mem=2.00 GB",
        "max_total_num_tokens=700, context_len=4096, available_gpu_mem=2.00 GB",
    )
    steps = log("Decode batch, #running-req: 1, #full token: 9, full token usage: 0.50, #swa token: 4, "
                "swa token usage: 0.25, accept len: 3.50, accept rate: 0.50, cuda graph: True, "
                "gen throughput (token/s): 110.0, #queue-req: 0", rank=" DP1 TP0")  # fmt: skip
    path = written(tmp_path / "s.log", *steps, *window, *state, *steps, *late, *steps)
    swa, gdn, sized = (record.data for record in records(path))
    assert (swa["kv_gib"], swa["swa_tokens"], swa["max_total_tokens"]) == (8.0, 800, 1000)
    assert (swa["kv_dtype"], swa["avail_mem_end_gib"]) == ("fp8_e4m3", 9.5)
    assert (gdn["mamba_gib"], gdn["kv_gib"], gdn["graph_mem_gib"]) == (52.3, 4.5, 3.85)
    assert gdn["avail_mem_end_gib"] == 10.85
    assert (sized["kv_gib"], sized["max_total_tokens"], sized["kv_dtype"]) == (7.0, 700, "bf16")
    found = list(reading(path).steps)
    # Steps follow no start, the second, the third.
    assert [step["start"] for step in found] == [None, 1, 2]
    assert (found[0]["rank"], found[0]["used_tokens"], found[0]["token_usage"]) == ("DP1 TP0", 9, 0.5)
    assert (found[0]["accept_length"], found[0]["cuda_graph"]) == (3.5, True)
    assert found[0]["extra"] == {"#swa token": 4, "swa token usage": 0.25, "accept rate": 0.5}


def test_a_start_that_died_is_refused_by_the_store(tmp_path):
    read = perfdb.read_records(
        written(tmp_path / "s.log", *log(ARGS), *log(ARGS, "Memory pool end. avail mem=1.00 GB"))
    )
    assert [rejection.line for rejection in read.rejected] == [1, 2]
    assert "nothing logged" in read.rejected[0].reason


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ServerArgs(a='x', b=1, c=Config(d=2), e=[1, 2])", {"a": "x", "b": 1, "e": [1, 2]}),
        ("{'a': 'x', 'b': {'c': None}}", {"a": "x", "b": {"c": None}}),
        ("ServerArgs(a='x', b=<Kind.NONE: 0>, c=0.5, d=None)", {"a": "x", "c": 0.5, "d": None}),
        ("ServerArgs(a='x', b=True, c='cut o", {"a": "x", "b": True}),
        ("{'a': {1}, 'b': 1e999, 'c': b'x', 'd': 1j}", {}),
        ("(" * 5000, {}),
        ("", {}),
    ],
)
def test_printed_settings(text, found):
    assert server_args(text) == found


def test_secrets_of_printed_settings():
    line = redact_text(
        "ServerArgs(api_key='a\\'b', tokenizer_path='p', admin_api_key=None, 'ssl_keyfile_password': \"c\", "
        "'max_total_tokens': 5) --hf-token d"
    )
    assert line == (
        f"ServerArgs(api_key='{REDACTED}', tokenizer_path='p', admin_api_key=None, "
        f"'ssl_keyfile_password': '{REDACTED}', 'max_total_tokens': 5) --hf-token {REDACTED}"
    )


def test_keys_of_a_run_hold_no_other_kind():
    """What a reader puts under a key of a run is of its kind, in every real file."""
    kinds = {"text": str, "int": int, "float": (int, float), "bool": bool}
    for path in sorted({*DATA.glob("*.jsonl"), *DATA.glob("bench_serving*.txt"), *DATA.glob("*.log")}):
        for record in records(path):
            for name, value in record.data.items():
                kind = KEYS.get(name)
                if value is not None and kind in kinds:
                    assert isinstance(value, kinds[kind]), (path.name, name, value)
