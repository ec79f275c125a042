"""Reports of TensorRT-LLM's `trtllm-bench throughput` and `latency` (`--report_json`): one nested object a run.

Times are in ms. Its TPOT is (end to end - TTFT) / (tokens - 1) a request, as here, but an answer of one token
counts as 0 where other tools leave it out. Its percentiles are the value at that place of the sorted list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from perfdb.keys import KEYS
from perfdb.readers.reading import Reading
from perfdb.readers.source import Object, Source
from perfdb.readers.spellings import WEIGHTS, model_named
from perfdb.readers.values import mapping, number, scaled
from perfdb.record import Record, Rejection

NAME = "trtllm_bench"

_PERFORMANCE = {
    "avg_request_latency_ms": "mean_e2e_ms",
    "request_throughput_req_s": "requests_s",
    "system_output_throughput_tok_s": "output_tok_s",
    "system_total_throughput_tok_s": "total_tok_s",
    "output_throughput_per_gpu_tok_s": "tok_s_per_gpu",
}
_REQUESTS = {
    "num_requests": "num_prompts",
    "avg_num_concurrent_requests": "achieved_concurrency",
    "avg_input_length": "mean_isl_actual",
    "avg_output_length": "mean_osl_actual",
}
_WORLD = {
    "tp_size": "tp",
    "pp_size": "pp",
    "ep_size": "ep",
    "world_size": "n_gpus",
    "max_batch_size": "max_running_requests",
    "max_num_tokens": "chunked_prefill_size",
}
_PARTS = {"engine": "engine_info", "dataset": "dataset_info"}
"""Parts of a report whose own name means something else in a run."""
_STATISTICS = {"p50": "median", "p90": "p90", "p95": "p95", "p99": "p99"}


def matches(source: Source) -> bool:
    """Tell whether the first object is a report."""
    return source.first is not None and _is_report(source.first)


def _is_report(found: Mapping[str, Any]) -> bool:
    return all(isinstance(found.get(part), Mapping) for part in ("engine", "world_info", "performance"))


def read(source: Source) -> Reading:
    """Read one record an object."""
    return Reading(_records(source), {"tool": "trtllm-bench"})


def _records(source: Source) -> Iterator[Record | Rejection]:
    for item in source.objects():
        if isinstance(item, Rejection):
            yield item
        elif not _is_report(item.data):
            yield Rejection(item.number, f"not a {NAME} report: no engine, world_info and performance")
        else:
            yield _record(item)


def _record(item: Object) -> Record:
    report = {name: part for name, part in item.data.items() if part is not None}
    performance, requests = mapping(report["performance"]), mapping(report.get("request_info"))
    data: dict[str, Any] = {key: performance.get(name) for name, key in _PERFORMANCE.items()}
    data |= {key: requests.get(name) for name, key in _REQUESTS.items()}
    data |= _percentiles("e2e", performance.get("request_latency_percentiles_ms"))
    data |= _streaming(mapping(report.get("streaming_metrics")))
    settings, inferred = _settings(report)
    data |= settings
    data["duration_s"] = scaled(performance.get("total_latency_ms"), 0.001)
    stated = {}
    if data["duration_s"] is not None:
        stated["duration_s"] = ("performance.total_latency_ms", performance["total_latency_ms"], "ms")
    if isinstance(report.get("decoding_stats"), Mapping):
        # Its acceptance length is a mean over requests, not over steps: it stays in `decoding_stats`.
        data |= {"spec_decode": True, "spec_algorithm": report["decoding_stats"].get("mode")}
    # `issue_rate` is no request rate: the tool multiplies nanoseconds a request by 1e9.
    parts = {_PARTS.get(name, name): part for name, part in report.items()}
    data |= {name: part for name, part in parts.items() if name not in KEYS}
    return Record(item.number, item.text, data, inferred, stated)


def _percentiles(metric: str, found: Any) -> dict[str, Any]:
    values = mapping(found)
    return {f"{short}_{metric}_ms": values.get(name) for name, short in _STATISTICS.items()}


def _streaming(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Read TTFT and TPOT; TPOT only where no answer of one token pulled it down."""
    found = {"mean_ttft_ms": metrics.get("avg_ttft_ms")} | _percentiles(
        "ttft", metrics.get("ttft_percentiles")
    )
    spread = mapping(metrics.get("tpot_percentiles"))
    if number(spread.get("minimum")) == 0:
        return found
    return found | {"mean_tpot_ms": metrics.get("avg_tpot_ms")} | _percentiles("tpot", spread)


def _settings(report: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the deployment: what is stated, and what is only suggested."""
    engine, world = mapping(report["engine"]), mapping(report["world_info"])
    stated: dict[str, Any] = {"engine": "trtllm", "engine_version": engine.get("version")}
    stated |= {key: world.get(name) for name, key in _WORLD.items()}
    # -1 stands for "not set".
    if (number(stated["ep"]) or 0) < 1:
        stated["ep"] = None
    share = number(world.get("kv_cache_percentage"))
    if share is not None and share <= 1:
        stated["mem_fraction"] = share
    kv_dtype = engine.get("kv_cache_dtype")
    stated["kv_dtype"] = kv_dtype.lower() if isinstance(kv_dtype, str) else None
    stated["gpu"] = mapping(report.get("machine")).get("name")
    named, path = model_named(engine.get("model"))
    format_name = engine.get("quantization") or engine.get("dtype")
    return stated | named, path | {"weight_quant": WEIGHTS.get(str(format_name).lower())}
