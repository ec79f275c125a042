"""Readers of AIPerf, GenAI-Perf, guidellm and genai-bench: every figure against the file, units, traps."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perfdb import UnknownFormat, read_records
from perfdb.readers import aiperf, genai_perf, guidellm, read
from perfdb.readers.summaries import spread
from perfdb.record import Record

DATA = Path(__file__).parent / "data"
AIPERF = DATA / "aiperf"
GENAI_BENCH = DATA / "genai_bench"
GENAI_PERF = DATA / "genai_perf/profile_export_genai_perf.composed.json"
GUIDELLM = DATA / "guidellm"
ONE_RUN = GENAI_BENCH / "D32_16_text-to-text_num_concurrency_2_time_9s.json"

WORDS = {"mean": "avg", "median": "p50", "std": "std", "p90": "p90", "p95": "p95", "p99": "p99"}


def load(path):
    return json.loads(path.read_text())


def write(folder, value, name="run.json"):
    path = folder / name
    path.write_text(json.dumps(value))
    return path


def only(path, **context):
    """The one record of a file."""
    result = read_records(path, context)
    assert result.rejected == []
    (found,) = result.records
    return found


def refusal(path):
    """The one reason for which a file gives nothing."""
    result = read_records(path)
    assert result.records == []
    (found,) = result.rejected
    return found.reason


def raw(path):
    """The records of a file before they are checked."""
    return [found for found in read(path).records if isinstance(found, Record)]


# AIPerf


@pytest.mark.parametrize("name", ["profile_export_aiperf.json", "profile_export_aiperf_rate_goodput.json"])
def test_aiperf_figures_are_those_of_the_file(name):
    export, run = load(AIPERF / name), only(AIPERF / name)
    for metric, short in (
        ("time_to_first_token", "ttft"),
        ("inter_token_latency", "tpot"),
        ("inter_chunk_latency", "itl"),
        ("request_latency", "e2e"),
    ):
        assert export[metric]["unit"] == "ms"
        for ours, theirs in WORDS.items():
            assert run[f"{ours}_{short}_ms"] == export[metric][theirs]
        assert run[metric]["max"] == export[metric]["max"]
    assert run["requests_s"] == export["request_throughput"]["avg"]
    assert run["output_tok_s"] == export["output_token_throughput"]["avg"]
    assert run["input_tok_s"] == export["input_token_throughput"]["avg"]
    assert run["total_tok_s"] == export["total_token_throughput"]["avg"]
    assert run["duration_s"] == export["benchmark_duration"]["avg"]
    assert run["completed"] == run["num_prompts"] == export["request_count"]["avg"] == 8
    assert run["mean_isl_actual"] == export["input_sequence_length"]["avg"]
    assert run["mean_osl_actual"] == export["output_sequence_length"]["avg"]
    assert run["model"] == "./tiny"
    assert run["time_to_second_token"] == export["time_to_second_token"]
    assert run["missing"] == ["gpu", "engine"]


def test_aiperf_loads():
    closed = only(AIPERF / "profile_export_aiperf.json")
    assert (closed["load"], closed["concurrency"], closed["request_rate"]) == ("closed", 2, None)
    paced = only(AIPERF / "profile_export_aiperf_rate_goodput.json")
    assert (paced["load"], paced["concurrency"], paced["request_rate"]) == ("open", None, 4.0)


def test_aiperf_settings_before_phases(tmp_path):
    export = load(AIPERF / "profile_export_aiperf.json")
    export["input_config"] = {
        "endpoint": {"model_names": ["meta-llama/Llama-3.1-8B"]},
        "loadgen": {"concurrency": 16, "request_rate": 3.5},
    }
    run = only(write(tmp_path, export))
    assert (run["model"], run["load"]) == ("meta-llama/Llama-3.1-8B", "open")
    assert (run["request_rate"], run["concurrency"]) == (3.5, 16)


def test_aiperf_two_profiling_phases_are_no_load(tmp_path):
    export = load(AIPERF / "profile_export_aiperf.json")
    export["input_config"]["phases"] *= 2
    assert only(write(tmp_path, export))["missing"] == ["gpu", "engine", "load"]


def test_aiperf_units_are_read_and_kept(tmp_path):
    export = load(AIPERF / "profile_export_aiperf.json")
    export["time_to_first_token"] |= {"unit": "s", "avg": 0.25}
    export["request_latency"] |= {"unit": "us", "p99": 4000.0}
    export["benchmark_duration"] = {"unit": "ms", "avg": 7500.0}
    path = write(tmp_path, export)
    run = only(path)
    assert run["mean_ttft_ms"] == 250.0
    assert run["p99_e2e_ms"] == 4.0
    assert run["duration_s"] == 7.5
    (record,) = raw(path)
    assert record.stated["mean_ttft_ms"] == ("time_to_first_token.avg", 0.25, "s")
    assert record.stated["p99_e2e_ms"] == ("request_latency.p99", 4000.0, "us")
    assert record.stated["duration_s"] == ("benchmark_duration.avg", 7500.0, "ms")
    assert "mean_tpot_ms" not in record.stated


def test_aiperf_unknown_unit_is_refused(tmp_path):
    export = load(AIPERF / "profile_export_aiperf.json")
    export["time_to_first_token"]["unit"] = "fortnights"
    assert "time_to_first_token.avg has the unit 'fortnights'; known are ns, us, ms" in refusal(
        write(tmp_path, export)
    )


@pytest.mark.parametrize(("key", "value"), [("was_cancelled", True), ("is_complete", False)])
def test_aiperf_unfinished_runs_are_refused(tmp_path, key, value):
    export = load(AIPERF / "profile_export_aiperf.json") | {key: value, "incomplete_reason": "timeout"}
    assert f"{key} is {value!r}: the run was not finished (timeout)" in refusal(write(tmp_path, export))


def test_aiperf_gpu_is_suggested_by_telemetry(tmp_path):
    export = load(AIPERF / "profile_export_aiperf.json")
    gpus = {f"gpu_{index}": {"gpu_index": index, "gpu_name": "NVIDIA H100 80GB HBM3"} for index in (0, 1)}
    export["telemetry_data"]["endpoints"] = {"localhost:9400": {"gpus": gpus}}
    path = write(tmp_path, export)
    assert only(path)["gpu"] == "NVIDIA H100 80GB HBM3"
    assert only(path, gpu="h100-sxm")["gpu"] == "h100-sxm"
    gpus["gpu_1"]["gpu_name"] = "NVIDIA A100"
    assert only(write(tmp_path, export))["gpu"] is None


def test_aiperf_failed_requests_were_sent(tmp_path):
    export = load(AIPERF / "profile_export_aiperf.json")
    export["error_request_count"] = {"unit": "requests", "avg": 2.0}
    run = only(write(tmp_path, export))
    assert (run["completed"], run["failed"], run["num_prompts"]) == (8, 2, 10)


def test_aiperf_lengths_only_where_all_are_one():
    prompts = {"isl": {"mean": 32.0, "stddev": 0.0}, "osl": {"mean": 16.0, "stddev": 4.0}}
    assert aiperf._lengths({"datasets": [{"type": "synthetic", "prompts": prompts}]}) == {
        "isl": 32.0,
        "dataset": "synthetic",
    }


def test_aiperf_requests_alone_give_the_export_s_figures(tmp_path):
    shutil.copy(AIPERF / "profile_export.jsonl", tmp_path)
    run, export = only(tmp_path / "profile_export.jsonl"), only(AIPERF / "profile_export_aiperf.json")
    for short in ("ttft", "tpot", "itl", "e2e"):
        for word in WORDS:
            assert run[f"{word}_{short}_ms"] == pytest.approx(export[f"{word}_{short}_ms"], rel=1e-9)
    for name in ("duration_s", "completed", "num_prompts", "mean_isl_actual", "mean_osl_actual"):
        assert run[name] == pytest.approx(export[name], rel=1e-7)
    assert run["output_tok_s"] == pytest.approx(128 / run["duration_s"])
    assert run["missing"] == ["model", "gpu", "engine", "load"]
    (record,) = raw(tmp_path / "profile_export.jsonl")
    assert record.text.count("\n") == 7


def test_aiperf_failed_and_warmup_requests_are_no_figures(tmp_path):
    lines = [json.loads(line) for line in (AIPERF / "profile_export.jsonl").read_text().splitlines()]
    lines[0]["error"] = {"code": 500}
    lines[1]["metadata"]["benchmark_phase"] = "warmup"
    path = tmp_path / "profile_export.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    run = only(path)
    assert (run["completed"], run["failed"], run["num_prompts"]) == (6, 1, 7)
    ttfts = [line["metrics"]["time_to_first_token"]["value"] for line in lines[2:]]
    assert run["mean_ttft_ms"] == pytest.approx(sum(ttfts) / 6)


def test_aiperf_cut_off_requests_are_no_run(tmp_path):
    path = tmp_path / "profile_export.jsonl"
    path.write_text((AIPERF / "profile_export.jsonl").read_text()[:-200])
    assert "line 8 is cut off" in refusal(path)


def test_aiperf_other_exports_name_the_file_to_give(tmp_path):
    assert "give profile_export_aiperf.json beside it" in refusal(AIPERF / "profile_export.jsonl")
    assert "give profile_export_aiperf.json" in refusal(AIPERF / "profile_export_aiperf.csv")
    assert "time slices" in refusal(AIPERF / "profile_export_aiperf_timeslices.json")


# GenAI-Perf


def test_genai_perf_figures_are_those_of_the_file():
    export, run = load(GENAI_PERF), only(GENAI_PERF)
    for metric, short in (
        ("time_to_first_token", "ttft"),
        ("inter_token_latency", "tpot"),
        ("request_latency", "e2e"),
    ):
        for ours, theirs in WORDS.items():
            assert run[f"{ours}_{short}_ms"] == export[metric][theirs]
    assert run["mean_itl_ms"] is None
    assert run["requests_s"] == export["request_throughput"]["avg"]
    assert run["output_tok_s"] == export["output_token_throughput"]["avg"]
    assert run["completed"] == export["request_count"]["avg"]
    assert (run["load"], run["concurrency"], run["isl"], run["osl"]) == ("closed", 2, 32, 16)
    assert read_records(GENAI_PERF).format == "genai_perf"


def test_genai_perf_backend_option_is_not_the_engine():
    assert load(GENAI_PERF)["input_config"]["endpoint"]["backend"]
    assert only(GENAI_PERF)["engine"] is None


def test_genai_perf_flat_settings(tmp_path):
    export = load(GENAI_PERF)
    export["input_config"] = {
        "model": ["llama"], "concurrency": None, "request_rate": 2.5, "service_kind": "openai",
        "prompt_source": "synthetic", "synthetic_input_tokens_mean": 550, "synthetic_input_tokens_stddev": 0,
        "output_tokens_mean": -1, "output_tokens_stddev": 0,
    }  # fmt: skip
    run = only(write(tmp_path, export))
    assert (run["model"], run["load"], run["request_rate"]) == ("llama", "open", 2.5)
    assert (run["isl"], run["osl"]) == (550, None)


def test_genai_perf_lengths_mean_nothing_with_prompts_of_a_file():
    config = load(GENAI_PERF)["input_config"]
    config["input"]["prompt_source"] = "file"
    assert genai_perf._lengths(config) == {"dataset": "file"}


def test_genai_perf_csv_names_the_file_to_give():
    assert "give the ..._genai_perf.json" in refusal(GENAI_PERF.with_suffix(".csv"))


# guidellm


def successful(benchmark, metric):
    return benchmark["metrics"][metric]["successful"]


@pytest.mark.parametrize("name", ["benchmarks.json", "benchmarks_two.json"])
def test_guidellm_figures_are_those_of_the_file(name):
    report = load(GUIDELLM / name)
    runs = read_records(GUIDELLM / name).records
    assert len(runs) == len(report["benchmarks"])
    for run, benchmark in zip(runs, report["benchmarks"], strict=True):
        for metric, short, factor in (
            ("request_latency", "e2e", 1000.0),
            ("time_to_first_token_ms", "ttft", 1.0),
            ("inter_token_latency_ms", "tpot", 1.0),
        ):
            summary = successful(benchmark, metric)
            flat = {"mean": summary["mean"], "median": summary["median"], "std": summary["std_dev"]}
            for word, value in (flat | {p: summary["percentiles"][p] for p in ("p90", "p95", "p99")}).items():
                assert run[f"{word}_{short}_ms"] == value * factor
        assert run["mean_isl_actual"] == successful(benchmark, "prompt_token_count")["mean"]
        assert run["mean_osl_actual"] == successful(benchmark, "output_token_count")["mean"]
        assert (
            run["tpot_with_first_token_ms"]["mean"]
            == successful(benchmark, "time_per_output_token_ms")["mean"]
        )
        assert run["requests_s"] == pytest.approx(
            successful(benchmark, "requests_per_second")["mean"], rel=1e-3
        )
        assert run["output_tok_s"] == pytest.approx(
            successful(benchmark, "output_tokens_per_second")["mean"], rel=1e-3
        )
        assert run["duration_s"] == benchmark["duration"]
        assert (run["load"], run["concurrency"]) == (
            "closed",
            benchmark["config"]["strategy"]["max_concurrency"],
        )


def test_guidellm_each_run_has_its_own_text():
    texts = [record.text for record in raw(GUIDELLM / "benchmarks_two.json")]
    assert len(set(texts)) == 2
    assert all(json.loads(text)["type_"] == "generative_benchmark" for text in texts)


def test_guidellm_seconds_are_kept():
    (record,) = raw(GUIDELLM / "benchmarks.json")
    seconds = successful(load(GUIDELLM / "benchmarks.json")["benchmarks"][0], "request_latency")["mean"]
    assert record.stated["mean_e2e_ms"] == ("request_latency.mean", seconds, "s")


def test_guidellm_run_without_an_answer_is_refused():
    assert "no request was answered: 6 failed" in refusal(GUIDELLM / "benchmarks_errored.json")


def unequal_lengths():
    """A report whose answers have lengths 16 and 31: the weighted mean is not that of requests."""
    report = load(GUIDELLM / "benchmarks.json")
    benchmark = report["benchmarks"][0]
    successful(benchmark, "output_token_count")["max"] = 31.0
    requests = benchmark["requests"]["successful"]
    for place, request in enumerate(requests):
        request["output_tokens"], request["inter_token_latency_ms"] = (31, 4.0) if place < 3 else (16, 8.0)
    successful(benchmark, "inter_token_latency_ms")["mean"] = (30 * 4.0 + 15 * 8.0) / 45
    return report


def test_guidellm_token_weighted_latency_is_not_tpot(tmp_path):
    report = unequal_lengths()
    run = only(write(tmp_path, report))
    assert run["mean_tpot_ms"] == 6.0
    assert run["inter_token_latency_ms"]["mean"] == pytest.approx(5.3333333)
    # A sample of the requests is not all of them.
    del report["benchmarks"][0]["requests"]["successful"][0]
    assert only(write(tmp_path, report))["mean_tpot_ms"] is None


@pytest.mark.parametrize("phase", ["warmup", "cooldown"])
def test_guidellm_cut_runs_have_latencies_but_no_rates(tmp_path, phase):
    report = load(GUIDELLM / "benchmarks.json")
    report["benchmarks"][0]["config"][phase]["percent"] = 0.1
    run = only(write(tmp_path, report))
    assert run["mean_ttft_ms"] is not None
    assert [run[name] for name in ("requests_s", "input_tok_s", "output_tok_s", "total_tok_s")] == [None] * 4
    assert run["output_tokens_per_second"]["mean"] > 0


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ({"type_": "synchronous"}, {"load": "closed", "concurrency": 1}),
        ({"type_": "concurrent", "streams": 8}, {"load": "closed", "concurrency": 8}),
        ({"type_": "throughput", "max_concurrency": 512}, {"load": "closed", "concurrency": 512}),
        ({"type_": "throughput", "max_concurrency": None}, {"load": "burst"}),
        ({"type_": "throughput", "max_concurrency": 1000}, {"load": "burst"}),
        ({"type_": "constant", "rate": 2.5}, {"load": "open", "request_rate": 2.5}),
        ({"type_": "poisson", "rate": 4.0, "max_concurrency": 64}, {"load": "open", "request_rate": 4.0}),
        ({"type_": "trace"}, {}),
    ],
)
def test_guidellm_strategies_are_loads(strategy, expected):
    assert guidellm._load(strategy, 1000) == expected


def first_layout():
    """A report of guidellm 0.2 or 0.3: settings under `args`, no metadata."""
    report = load(GUIDELLM / "benchmarks.json")
    benchmark = report["benchmarks"][0]
    return {
        "benchmarks": [
            {
                "type_": "generative_benchmark",
                "args": {
                    "strategy": {"type_": "constant", "rate": 2.0, "initial_burst": True},
                    "warmup_number": None, "warmup_duration": None, "cooldown_number": None, "cooldown_duration": None,
                },
                "worker": {"backend_model": "meta-llama/Llama-3.1-8B", "backend_type": "openai_http"},
                "request_loader": {"data": "prompt_tokens=32,output_tokens=16,samples=6"},
                "request_totals": {"successful": 6, "errored": 0, "incomplete": 1, "total": 7},
                "metrics": {
                    name: metric
                    for name, metric in benchmark["metrics"].items()
                    if name != "request_totals"
                },
                "requests": benchmark["requests"],
                "duration": benchmark["duration"],
            }
        ]
    }  # fmt: skip


def test_guidellm_first_layout(tmp_path):
    report = first_layout()
    path = write(tmp_path, report)
    run = only(path)
    assert read_records(path).format == "guidellm"
    assert (run["model"], run["load"], run["request_rate"]) == ("meta-llama/Llama-3.1-8B", "open", 2.0)
    assert (run["isl"], run["osl"], run["completed"], run["num_prompts"]) == (32, 16, 6, 7)
    assert run["output_tok_s"] == pytest.approx(96 / run["duration_s"])
    # Up to 0.3 this figure is (last - first) / tokens, which counts the first token in by name only.
    assert "tpot_with_first_token_ms" not in run
    assert run["time_per_output_token_ms"]["mean"] > 0
    report["benchmarks"][0]["args"]["warmup_number"] = 2
    assert only(write(tmp_path, report))["output_tok_s"] is None


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ('{"prompt_tokens": 256, "output_tokens": 128}', (256, 128)),
        ("prompt_tokens=256, output_tokens=128, output_tokens_stdev=5", (256, None)),
        ([{"kind": "synthetic_text", "prompt_tokens": 256, "output_tokens": 128}], (256, 128)),
        ([{"kind": "json_file", "path": "x"}], (None, None)),
    ],
)
def test_guidellm_lengths_of_synthetic_data(data, expected):
    found = guidellm._lengths({"args": {"data": data}}, {})
    assert (found.get("isl"), found.get("osl")) == expected


def test_guidellm_csv_names_the_file_to_give():
    assert "give benchmarks.json" in refusal(GUIDELLM / "benchmarks.csv")


# genai-bench


def alone(tmp_path, edit=lambda run: None):
    """Copy the run away from its experiment's description."""
    run = load(ONE_RUN)
    edit(run)
    return write(tmp_path, run, "D32_16_text-to-text_num_concurrency_2_time_9s.json")


def test_genai_bench_figures_are_those_of_the_file(tmp_path):
    file = load(ONE_RUN)["aggregated_metrics"]
    run = only(alone(tmp_path))
    words = WORDS | {"mean": "mean", "std": "stddev"}
    for metric, short in (("ttft", "ttft"), ("tpot", "tpot"), ("e2e_latency", "e2e")):
        for ours, theirs in words.items():
            assert run[f"{ours}_{short}_ms"] == file["stats"][metric][theirs] * 1000
    assert run["output_tok_s"] == file["mean_output_throughput_tokens_per_s"]
    assert run["input_tok_s"] == file["mean_input_throughput_tokens_per_s"]
    assert run["total_tok_s"] == file["mean_total_tokens_throughput_tokens_per_s"]
    assert run["requests_s"] == file["requests_per_second"]
    assert run["duration_s"] == file["run_duration"]
    assert (run["completed"], run["failed"], run["num_prompts"]) == (6, 0, 6)
    assert (run["load"], run["concurrency"]) == ("closed", 2)
    assert run["mean_isl_actual"] == file["stats"]["num_input_tokens"]["mean"]
    assert run["mean_osl_actual"] == 16.0
    assert run["missing"] == ["model", "gpu", "engine"]


def test_genai_bench_tpot_is_that_of_requests(tmp_path):
    requests = load(ONE_RUN)["individual_request_metrics"]
    tpots = [(one["e2e_latency"] - one["ttft"]) / (one["num_output_tokens"] - 1) * 1000 for one in requests]
    assert only(alone(tmp_path))["mean_tpot_ms"] == pytest.approx(sum(tpots) / len(tpots))


def test_genai_bench_units(tmp_path):
    (record,) = raw(alone(tmp_path))
    ttft = load(ONE_RUN)["aggregated_metrics"]["stats"]["ttft"]["mean"]
    assert record.stated["mean_ttft_ms"] == ("ttft.mean", ttft, "s")

    def in_milliseconds(run):
        run["_time_unit"] = "ms"

    (record,) = raw(alone(tmp_path, in_milliseconds))
    assert record.data["mean_ttft_ms"] == ttft
    assert record.stated == {}
    # Versions before the key wrote seconds.
    (record,) = raw(alone(tmp_path, lambda run: run.pop("_time_unit")))
    assert record.data["mean_ttft_ms"] == ttft * 1000
    assert "unit 'h'" in refusal(alone(tmp_path, lambda run: run.update(_time_unit="h")))


def described(tmp_path, **changes):
    """Copy the run with a changed description of its experiment beside it."""
    write(tmp_path, load(GENAI_BENCH / "experiment_metadata.json") | changes, "experiment_metadata.json")
    return alone(tmp_path)


def test_genai_bench_experiment_is_context(tmp_path):
    path = described(
        tmp_path, server_gpu_type="H100", server_gpu_count="4", model="Llama-3.1-8B", server_engine="vLLM"
    )
    run = only(path)
    assert (run["gpu"], run["n_gpus"], run["model"], run["engine"]) == ("H100", 4, "Llama-3.1-8B", "vllm")
    assert run["engine_version"] == "0.5.23"
    assert run["missing"] == []
    metadata = read(path).metadata
    assert metadata["tool_version"] == "0.0.5"
    assert metadata["context_from"] == str(tmp_path / "experiment_metadata.json")
    (rejected,) = read_records(path, {"gpu": "a100"}).rejected
    assert rejected.reason == 'gpu: the file says "H100", the context says "a100"'


def test_genai_bench_foreign_experiment_is_refused(tmp_path):
    assert "it belongs to another experiment" in refusal(described(tmp_path, traffic_scenario=["D(1,1)"]))
    assert "num_concurrency is 2" in refusal(described(tmp_path, num_concurrency=[4, 8]))
    path = alone(tmp_path)
    (tmp_path / "experiment_metadata.json").write_text("{")
    assert "experiment_metadata.json beside the file cannot be read" in refusal(path)


def test_genai_bench_experiment_itself_is_no_run():
    assert "give the files ..._time_<seconds>s.json" in refusal(GENAI_BENCH / "experiment_metadata.json")


@pytest.mark.parametrize(
    ("scenario", "expected"),
    [
        ("D(100,1000)", (100, 1000, 1.0)),
        ("U(1000,100)", (1000, 100, 0.0)),
        ("U(100,200)/(150,300)", (200, 300, 0.5)),
        ("U(100,200)/(100,300)", (200, 300, None)),
        ("N(480,240)/(300,150)", (None, None, None)),
        ("dataset", (None, None, None)),
        (None, (None, None, None)),
    ],
)
def test_genai_bench_scenarios(tmp_path, scenario, expected):
    run = only(alone(tmp_path, lambda run: run["aggregated_metrics"].update(scenario=scenario)))
    assert (run["isl"], run["osl"], run["range_ratio"]) == expected
    assert run.get("traffic_scenario") == scenario


def test_genai_bench_requests_cut_from_statistics_leave_no_throughput(tmp_path):
    def cut(run):
        run["aggregated_metrics"]["num_completed_requests"] = 8

    run = only(alone(tmp_path, cut))
    assert (run["output_tok_s"], run["input_tok_s"], run["total_tok_s"]) == (None, None, None)
    assert run["mean_output_throughput_tokens_per_s"] > 0
    assert run["requests_s"] > 0


def test_genai_bench_embeddings_are_no_runs(tmp_path):
    def embed(run):
        run["aggregated_metrics"]["stats"]["num_output_tokens"] |= {"sum": 0.0, "mean": 0.0}

    assert "num_output_tokens is 0" in refusal(alone(tmp_path, embed))


# All of them


def test_statistics_of_a_list():
    found = spread([1.0, 2.0, 3.0, 4.0])
    assert found["mean"] == found["median"] == 2.5
    assert found["std"] == pytest.approx(1.25**0.5)
    assert found["p90"] == pytest.approx(3.7)


ORIGINALS = {
    "aiperf": load(AIPERF / "profile_export_aiperf.json"),
    "aiperf_requests": json.loads((AIPERF / "profile_export.jsonl").read_text().splitlines()[0]),
    "aiperf_slices": load(AIPERF / "profile_export_aiperf_timeslices.json"),
    "genai_perf": load(GENAI_PERF),
    "guidellm": load(GUIDELLM / "benchmarks.json"),
    "guidellm_unequal": unequal_lengths(),
    "guidellm_first": first_layout(),
    "genai_bench": load(ONE_RUN),
    "genai_bench_experiment": load(GENAI_BENCH / "experiment_metadata.json"),
}
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8),
    st.sampled_from([1e308, "inf", "NaN", "; DROP TABLE runs"]),
    st.lists(st.one_of(st.integers(), st.text(max_size=3), st.none()), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)  # fmt: skip
HUGE = st.sampled_from([10**400, -(10**400), [10**400], "\ud800"])


def places(value, path=()):
    """Every place inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        yield (*path, name)
        yield from places(item, (*path, name))


PLACES = {name: list(places(value)) for name, value in ORIGINALS.items()}


@st.composite
def mutated(draw, odd):
    """One of the files with some of its values replaced or removed."""
    name = draw(st.sampled_from(sorted(ORIGINALS)))
    value = copy.deepcopy(ORIGINALS[name])
    for place in draw(st.lists(st.sampled_from(PLACES[name]), min_size=1, max_size=4)):
        inner = value
        try:
            for step in place[:-1]:
                inner = inner[step]
            if draw(st.booleans()):
                inner[place[-1]] = draw(odd)
            else:
                del inner[place[-1]]
        except (KeyError, IndexError, TypeError):
            continue
    return value


def in_folder(factory, value, neighbour):
    folder = factory.mktemp("mutated")
    if neighbour is not None:
        write(folder, neighbour, "experiment_metadata.json")
    return write(folder, value)


NEIGHBOURS = st.one_of(st.none(), ODD, st.just(ORIGINALS["genai_bench_experiment"]))


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(value=mutated(ODD), neighbour=NEIGHBOURS)
def test_mutated_files_end_in_runs_or_named_rejections(tmp_path_factory, value, neighbour):
    try:
        result = read_records(in_folder(tmp_path_factory, value, neighbour))
    except UnknownFormat:
        return
    assert result.records or result.rejected
    assert all(rejection.reason for rejection in result.rejected)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(value=mutated(st.one_of(ODD, HUGE)), neighbour=NEIGHBOURS)
def test_readers_pass_on_whatever_a_file_holds(tmp_path_factory, value, neighbour):
    try:
        found = list(read(in_folder(tmp_path_factory, value, neighbour)).records)
    except UnknownFormat:
        return
    assert found
