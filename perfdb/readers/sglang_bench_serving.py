"""Result lines of `python -m sglang.bench_serving`, 0.2 to 0.5.23, one JSON object a run.

Key sets of all these versions are read by what a line holds, not by a version number. Since 0.5.6 a line
carries the server's settings (`server_info`); before that, model, widths and formats come from the context.
The GPU is in no version.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from perfdb.readers.lines import Line, parse
from perfdb.readers.redact import redact
from perfdb.readers.sglang_server_info import settings
from perfdb.record import Record, Rejection

NAME = "sglang_bench_serving"

# `{backend}_{MMDD}_{num_prompts}_{...}.jsonl` is the client's own file name.
_FILE_NAME = re.compile(r"^[a-z-]+_\d{4}_(\d+)_.+\.jsonl$")

_STATED_BACKENDS = {"sglang": "sglang", "sglang-native": "sglang", "trt": "trtllm"}
# These speak the OpenAI protocol, which every engine serves.
_PROTOCOL_BACKENDS = {
    "sglang-oai": "sglang",
    "sglang-oai-chat": "sglang",
    "vllm": "vllm",
    "vllm-chat": "vllm",
}

_FIGURES = {
    "mean_e2e_latency_ms": "mean_e2e_ms",
    "median_e2e_latency_ms": "median_e2e_ms",
    "output_throughput": "output_tok_s",
}
_STATISTICS = ("mean", "median", "std", "p90", "p95", "p99")


def matches(first: Mapping[str, Any]) -> bool:
    """Tell whether an object is a result line of this client."""
    return "dataset_name" in first and "median_ttft_ms" in first


def read(lines: Iterable[Line], path: Path) -> Iterator[Record | Rejection]:
    """Read one record a line; `path` is asked for the number of prompts in its name only."""
    named = _FILE_NAME.match(path.name)
    prompts_in_name = int(named[1]) if named else None
    for line in lines:
        found = parse(line)
        if isinstance(found, Rejection):
            yield found
        elif not matches(found):
            yield Rejection(line.number, f"not a {NAME} line: no dataset_name and median_ttft_ms")
        else:
            yield _record(line, found, prompts_in_name)


def _record(line: Line, result: dict[str, Any], prompts_in_name: int | None) -> Record | Rejection:
    completed = result.get("completed")
    if not isinstance(completed, int) or completed <= 0:
        return Rejection(line.number, f"completed is {completed!r}: no request was answered")
    data = _measured(result) | _workload(result, completed)
    inferred: dict[str, Any] = {"num_prompts": _prompts(result, completed, prompts_in_name)}
    backend = str(result.get("backend"))
    info = result.get("server_info")
    if isinstance(info, dict) and info:
        stated, suggested = settings(info)
        data |= stated
        inferred |= suggested
    elif backend in _STATED_BACKENDS:
        data["engine"] = _STATED_BACKENDS[backend]
    else:
        inferred["engine"] = _PROTOCOL_BACKENDS.get(backend)
    return Record(line.number, _kept_text(line, result), data, inferred)


def _measured(result: Mapping[str, Any]) -> dict[str, Any]:
    """Collect latencies and throughputs under the names of a run."""
    found = {name: result.get(key) for key, name in _FIGURES.items()}
    for statistic in _STATISTICS:
        for short in ("ttft", "tpot", "itl"):
            found[f"{statistic}_{short}_ms"] = result.get(f"{statistic}_{short}_ms")
    for statistic in ("std", "p90", "p95", "p99"):
        found[f"{statistic}_e2e_ms"] = result.get(f"{statistic}_e2e_latency_ms")
    found["requests_s"] = result.get("request_throughput")
    found["duration_s"] = result.get("duration")
    found["achieved_concurrency"] = result.get("concurrency")
    found["accept_length"] = result.get("accept_length") or None
    found["tag"] = result.get("tag")
    cache = result.get("cache_report")
    if isinstance(cache, Mapping):
        found["cache_hit_rate_pct"] = cache.get("cache_hit_rate_pct")
    return found


def _workload(result: Mapping[str, Any], completed: int) -> dict[str, Any]:
    """Decide lengths and load: actual mean lengths from token totals, the load from rate and cap."""
    total_in, total_out = result.get("total_input_tokens"), result.get("total_output_tokens")
    duration = result.get("duration")
    total = (total_in or 0) + (total_out or 0)
    found: dict[str, Any] = {
        "dataset": result.get("dataset_name"),
        "completed": completed,
        "mean_isl_actual": total_in / completed if total_in else None,
        "mean_osl_actual": total_out / completed if total_out else None,
        "total_tok_s": result.get("total_throughput") or (total / duration if total and duration else None),
    }
    # The client writes its random_* arguments even when another data set ran.
    if str(result.get("dataset_name")).startswith("random"):
        found["isl"] = result.get("random_input_len")
        found["osl"] = result.get("random_output_len")
        found["range_ratio"] = result.get("random_range_ratio")
    rate, cap = result.get("request_rate"), result.get("max_concurrency")
    unlimited = rate == math.inf or str(rate).lower() in ("inf", "infinity")
    found["concurrency"] = cap
    if unlimited:
        found["load"] = "burst" if cap is None else "closed"
    elif rate is not None:
        found["load"] = "open"
        # "trace" replays recorded arrival times: open, at no single rate.
        found["request_rate"] = None if isinstance(rate, str) else rate
    return found


def _prompts(result: Mapping[str, Any], completed: int, in_name: int | None) -> int:
    """Count the prompts sent: the per-request lists, else the file name, else those answered."""
    lengths = result.get("output_lens")
    if isinstance(lengths, list) and lengths:
        return len(lengths)
    return in_name if in_name is not None and in_name >= completed else completed


def _kept_text(line: Line, result: dict[str, Any]) -> str:
    """Return the raw line, rewritten only where it holds generated texts or secrets."""
    kept = redact({name: value for name, value in result.items() if name != "generated_texts"})
    return line.text if kept == result else json.dumps(kept, ensure_ascii=False)
