"""Reports of `trtllm-bench`."""

import json
from pathlib import Path

import mutation
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import perfdb
from perfdb.readers import read
from perfdb.record import Record

REPORT = Path(__file__).parent / "data" / "trtllm" / "throughput_report.composed.json"
STATED = json.loads(REPORT.read_text())


def changed(tmp_path: Path, part: str, **changes: object) -> Record:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(STATED | {part: STATED[part] | changes}, indent=4))
    (record,) = read(path).records
    return record


def test_every_figure_of_a_report():
    result = perfdb.read_records(REPORT)
    assert (result.format, len(result.records), result.rejected) == ("trtllm_bench", 1, [])
    run = result.records[0]
    performance, requests, world = STATED["performance"], STATED["request_info"], STATED["world_info"]
    streaming = STATED["streaming_metrics"]
    wanted = {
        "engine": "trtllm",
        "engine_version": "1.2.0",
        "model": "composed/model-8b",
        "gpu": "NVIDIA H100 80GB HBM3",
        "kv_dtype": "fp8",
        "weight_quant": "fp8",
        "tp": world["tp_size"],
        "pp": world["pp_size"],
        "ep": None,
        "dp": None,
        "n_gpus": world["world_size"],
        "max_running_requests": world["max_batch_size"],
        "chunked_prefill_size": world["max_num_tokens"],
        "mem_fraction": world["kv_cache_percentage"],
        "num_prompts": requests["num_requests"],
        "achieved_concurrency": requests["avg_num_concurrent_requests"],
        "mean_isl_actual": requests["avg_input_length"],
        "mean_osl_actual": requests["avg_output_length"],
        "duration_s": performance["total_latency_ms"] / 1000,
        "requests_s": performance["request_throughput_req_s"],
        "output_tok_s": performance["system_output_throughput_tok_s"],
        "total_tok_s": performance["system_total_throughput_tok_s"],
        "tok_s_per_gpu": performance["output_throughput_per_gpu_tok_s"],
        "mean_e2e_ms": performance["avg_request_latency_ms"],
        "mean_ttft_ms": streaming["avg_ttft_ms"],
        "mean_tpot_ms": streaming["avg_tpot_ms"],
        "spec_decode": True,
        "spec_algorithm": "MTP",
        "accept_length": None,
        "load": None,
        "request_rate": None,
    }
    spreads = {
        "e2e": performance["request_latency_percentiles_ms"],
        "ttft": streaming["ttft_percentiles"],
        "tpot": streaming["tpot_percentiles"],
    }
    for metric, spread in spreads.items():
        wanted |= {f"{name}_{metric}_ms": spread[name] for name in ("p90", "p95", "p99")}
        wanted[f"median_{metric}_ms"] = spread["p50"]
    assert {name: run[name] for name in wanted} == wanted
    assert run["missing"] == ["load"]


def test_the_parts_of_a_report_are_kept_whole():
    (run,) = perfdb.read_records(REPORT).records
    assert run["engine_info"] == STATED["engine"]
    assert run["dataset_info"] == STATED["dataset"]
    for part in (
        "machine",
        "world_info",
        "request_info",
        "performance",
        "streaming_metrics",
        "decoding_stats",
    ):
        # What is null at the top of a part says nothing, and is only in the raw line.
        assert run[part] == STATED[part]


def test_the_converted_figure_keeps_its_original():
    (record,) = read(REPORT).records
    assert record.stated == {"duration_s": ("performance.total_latency_ms", 25000.0, "ms")}


def test_reports_of_both_commands_with_and_without_streaming():
    """The figures that four or eight requests of round times give."""
    found = {}
    for path in sorted(REPORT.parent.glob("*.composed.json")):
        (run,) = perfdb.read_records(path).records
        names = ("mean_e2e_ms", "mean_ttft_ms", "mean_tpot_ms", "duration_s", "gpu", "spec_algorithm")
        found[path.name.removesuffix(".composed.json")] = tuple(run[name] for name in names)
        assert run["output_tok_s"] == pytest.approx(
            run["num_prompts"] * run["mean_osl_actual"] / run["duration_s"]
        )
    gpu = "NVIDIA H100 80GB HBM3"
    assert found == {
        "latency": (1100.0, 100.0, 10.0, 4.4, gpu, None),
        "latency_speculative": (595.0, 100.0, 5.0, 2.395, gpu, "Eagle"),
        "throughput": (1150.0, None, None, 2.453, None, None),
        "throughput_report": (10000.0, 500.0, 95.0, 25.0, gpu, "MTP"),
        "throughput_streaming": (1150.0, 150.0, 11.25, 2.453, gpu, None),
    }


def test_answers_of_one_token_spoil_tpot_and_nothing_else(tmp_path):
    spread = STATED["streaming_metrics"]["tpot_percentiles"] | {"minimum": 0.0}
    data = changed(tmp_path, "streaming_metrics", tpot_percentiles=spread).data
    assert not [name for name in data if "_tpot_" in name]
    assert data["mean_ttft_ms"] == 500.0


def test_a_report_without_streaming_has_no_ttft(tmp_path):
    path = tmp_path / "report.json"
    path.write_text(json.dumps({name: part for name, part in STATED.items() if name != "streaming_metrics"}))
    (run,) = perfdb.read_records(path).records
    assert (run["mean_ttft_ms"], run["mean_tpot_ms"], run["mean_e2e_ms"]) == (None, None, 10000.0)


@pytest.mark.parametrize(
    ("quantization", "dtype", "weights"),
    [
        ("NVFP4", "bfloat16", "nvfp4"),
        ("W4A16_AWQ", "float16", "awq_int4"),
        (None, "bfloat16", "bf16"),
        ("MIXED_PRECISION", "bfloat16", None),
    ],
)
def test_names_of_weight_formats(tmp_path, quantization, dtype, weights):
    record = changed(tmp_path, "engine", quantization=quantization, dtype=dtype)
    assert record.inferred["weight_quant"] == weights


def test_expert_width_where_it_was_set(tmp_path):
    assert changed(tmp_path, "world_info", ep_size=2).data["ep"] == 2


def test_an_object_of_another_kind_is_rejected(tmp_path):
    path = tmp_path / "reports.jsonl"
    path.write_text(json.dumps(STATED) + "\n" + json.dumps({"engine": "trtllm"}) + "\n")
    result = perfdb.read_records(path)
    assert len(result.records) == 1
    assert "no engine, world_info and performance" in result.rejected[0].reason


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(found=st.lists(mutation.mutated(STATED), min_size=1, max_size=3))
def test_mutated_reports_end_in_rows_or_reasons(tmp_path, found):
    mutation.ends_well(tmp_path / "lines.json", "".join(map(mutation.as_line, found)))
    mutation.ends_well(tmp_path / "list.json", json.dumps(found, indent=4))
