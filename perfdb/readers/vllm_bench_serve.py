"""Results of `vllm bench serve`, vLLM 0.6 to 0.33, and of the clients that were derived from it.

One JSON object a run: alone in a file, appended as lines, or in the lists and run files of `vllm bench sweep`.
TensorRT-LLM and InferenceX ship clients of the same keys. The object names the client's protocol, not the
engine, and holds neither GPU, widths nor nominal lengths unless `--metadata` or a sweep put them there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from perfdb.keys import KEYS
from perfdb.readers.reading import Reading, results
from perfdb.readers.source import Object, Source
from perfdb.readers.spellings import by_meaning, model_named
from perfdb.readers.values import ratio
from perfdb.record import Record, Rejection

NAME = "vllm_bench_serve"

_ENGINES = {"vllm": "vllm", "sglang": "sglang", "tensorrt-llm": "trtllm"}
"""Client back ends named after an engine; the OpenAI protocol is spoken by all of them."""

_RENAMED = {
    "request_throughput": "requests_s",
    "input_throughput": "input_tok_s",
    "output_throughput": "output_tok_s",
    "total_token_throughput": "total_tok_s",
    "duration": "duration_s",
    "completed": "completed",
    "failed": "failed",
    "num_prompts": "num_prompts",
    "spec_decode_acceptance_length": "accept_length",
    "max_concurrency": "concurrency",
}
_METRIC = re.compile(r"^(mean|median|std|p[\d.]+)_(.+)_ms$")

_ARRAYS = frozenset(
    {"input_lens", "output_lens", "start_times", "ttfts", "itls", "latencies", "queue_times", "errors"}
)
"""One item a request: kept in the raw line only."""


def matches(source: Source) -> bool:
    """Tell whether the first object is a result of this client."""
    return source.first is not None and _is_result(source.first)


def _is_result(found: Mapping[str, Any]) -> bool:
    return {"model_id", "request_throughput", "duration", "completed"} <= found.keys()


def read(source: Source) -> Reading:
    """Read one record an object."""
    otherwise = f"not a {NAME} result: no model_id, request_throughput and duration"
    return Reading(results(source, _is_result, _record, otherwise), {"tool": "vllm bench serve"})


def _record(item: Object) -> Record | Rejection:
    result = item.data
    completed = result.get("completed")
    if isinstance(completed, bool) or not isinstance(completed, (int, float)) or completed <= 0:
        return Rejection(item.number, f"completed is {completed!r}: no request was answered")
    data: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for name, value in result.items():
        key = _RENAMED.get(name) or _metric_key(name)
        if key is not None:
            data[key] = value
        elif name not in (*_ARRAYS, "model_id", "request_rate"):
            others[name] = value
    suggested, rest = by_meaning(others)
    named, path = model_named(result.get("model_id"))
    engine = _ENGINES.get(str(result.get("backend", result.get("endpoint_type"))))
    data |= rest | named | _load(result)
    data["mean_isl_actual"] = ratio(result.get("total_input_tokens"), completed)
    data["mean_osl_actual"] = ratio(result.get("total_output_tokens"), completed)
    data["measured_on"] = _day(result.get("date"))
    if "spec_decode_num_drafts" in result:
        data["spec_decode"] = True
    return Record(item.number, item.text, data, {"engine": engine} | path | suggested)


def _metric_key(name: str) -> str | None:
    """Return the key of a run for a metric of the client; percentiles without one keep their name."""
    found = _METRIC.match(name)
    if found is None:
        return None
    metric = "e2e" if found[2] == "e2el" else found[2]
    key = f"{found[1]}_{metric}_ms"
    return key if key in KEYS else None


def _load(result: Mapping[str, Any]) -> dict[str, Any]:
    """Decide the kind of load from rate, cap and ramp; a ramp has no single rate."""
    rate, cap = result.get("request_rate"), result.get("max_concurrency")
    if result.get("ramp_up_strategy") is not None:
        return {"load": "open"}
    if (isinstance(rate, str) and rate.lower() in ("inf", "infinity")) or rate == float("inf"):
        return {"load": "burst" if cap is None else "closed"}
    return {} if rate is None else {"load": "open", "request_rate": rate}


def _day(date: Any) -> str | None:
    """Read the day of `YYYYmmdd-HHMMSS`."""
    found = re.match(r"^(\d{4})(\d{2})(\d{2})-\d{6}$", date) if isinstance(date, str) else None
    return f"{found[1]}-{found[2]}-{found[3]}" if found else None
