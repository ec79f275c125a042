"""Result lines of `python -m sglang.bench_serving`, 0.2 to 0.5.23, one JSON object a run.

Key sets of all these versions are read by what a line holds, not by a version number, so that lines of several
versions may stand in one file. Since 0.5.6 a line carries the server's settings (`server_info`); before that,
model, widths and formats come from the context. The GPU is in no version.

Definitions (`sglang/bench_serving.py`, since 0.5.15 `sglang/benchmark/serving.py`): TTFT is the first streamed
chunk, TPOT is (end to end - TTFT) / (output tokens - 1) of a request, `concurrency` is the sum of end-to-end
times over the duration, `duration` contains ramp up and down, failed requests are in no figure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from perfdb.readers.reading import Reading, results
from perfdb.readers.sglang_server_info import settings
from perfdb.readers.source import Object, Source, count
from perfdb.readers.values import mapping, number, ratio
from perfdb.record import Record, Rejection

NAME = "sglang_bench_serving"

# `{backend}_{MMDD}_{num_prompts}_{...}.jsonl` is the client's own file name.
_FILE_NAME = re.compile(r"^[a-z-]+_\d{4}_(\d+)_.+\.jsonl$")

STATED_BACKENDS: Final = {"sglang": "sglang", "sglang-native": "sglang", "trt": "trtllm"}
"""Backends of the client that speak an engine's own protocol."""

PROTOCOL_BACKENDS: Final = {
    "sglang-oai": "sglang",
    "sglang-oai-chat": "sglang",
    "vllm": "vllm",
    "vllm-chat": "vllm",
}
"""Backends that speak the OpenAI protocol, which every engine serves."""

_STATISTICS: Final = ("mean", "median", "std", "p90", "p95", "p99")
_FIGURES: Final = {
    f"{statistic}_{short}_ms": f"{statistic}_{key}_ms"
    for statistic in _STATISTICS
    for short, key in (("ttft", "ttft"), ("tpot", "tpot"), ("itl", "itl"), ("e2e", "e2e_latency"))
} | {
    "requests_s": "request_throughput",
    "input_tok_s": "input_throughput",
    "output_tok_s": "output_throughput",
    "duration_s": "duration",
    "achieved_concurrency": "concurrency",
    "concurrency": "max_concurrency",
    "dataset": "dataset_name",
    "completed": "completed",
}
"""Keys of a run, and what the client calls them."""

_RANDOM: Final = {
    "isl": "random_input_len",
    "osl": "random_output_len",
    "range_ratio": "random_range_ratio",
}
_READ: Final = {
    *(*_FIGURES.values(), *_RANDOM.values()),
    *("total_throughput", "accept_length", "request_rate", "server_info"),
}
"""Names of the client that need not be kept beside the keys of a run."""


def matches(source: Source) -> bool:
    """Tell whether the first object is a result line of this client."""
    return source.first is not None and _is_result(source.first)


def _is_result(first: Mapping[str, Any]) -> bool:
    return "dataset_name" in first and "median_ttft_ms" in first


def read(source: Source) -> Reading:
    """Read one record a line; the file name is asked for the number of prompts only."""
    named = _FILE_NAME.match(source.path.name)
    record = partial(_record, prompts_in_name=int(named[1]) if named else None)
    otherwise = f"not a {NAME} line: no dataset_name and median_ttft_ms"
    return Reading(results(source, _is_result, record, otherwise), {"tool": "sglang.bench_serving"})


def _record(item: Object, prompts_in_name: int | None) -> Record | Rejection:
    result = item.data
    completed = result.get("completed")
    if isinstance(completed, bool) or not isinstance(completed, int) or completed <= 0:
        return Rejection(item.number, f"completed is {completed!r}: no request was answered")
    data: dict[str, Any] = {
        name: value for name, value in result.items() if name not in _READ and count(value) is None
    }
    data |= {name: result.get(key) for name, key in _FIGURES.items()}
    data |= _lengths(result, completed) | load(result.get("request_rate"), result.get("max_concurrency"))
    data |= unstreamed(data)
    data["accept_length"] = result.get("accept_length") or None
    data["cache_hit_rate_pct"] = mapping(result.get("cache_report")).get("cache_hit_rate_pct")
    inferred: dict[str, Any] = {}
    sent = count(result.get("output_lens"))
    if sent:
        data |= {"num_prompts": sent, "failed": sent - completed} | _silent(result)
    else:
        known = prompts_in_name is not None and prompts_in_name >= completed
        inferred["num_prompts"] = prompts_in_name if known else completed
    info = mapping(result.get("server_info"))
    if info:
        stated, suggested = settings(info)
        data |= stated
        inferred |= suggested
    else:
        engine, certain = engine_of(result.get("backend"))
        (data if certain else inferred)["engine"] = engine
    return Record(item.number, item.text, data, inferred)


def engine_of(backend: Any) -> tuple[str | None, bool]:
    """Return the engine behind a backend of the client, and whether it can be no other."""
    name = str(backend)
    if name in STATED_BACKENDS:
        return STATED_BACKENDS[name], True
    return PROTOCOL_BACKENDS.get(name), False


def load(rate: Any, cap: Any) -> dict[str, Any]:
    """Decide how requests arrive from the client's rate and cap; nothing without a rate.

    Parameters
    ----------
    rate : object
        Requests a second; infinite where all are sent at once; a word such as "trace" where recorded
        arrival times are replayed: open, at no single rate.
    cap : object
        Requests in flight at most, or None.
    """
    if rate == math.inf or str(rate).lower() in ("inf", "infinity"):
        return {"load": "burst" if cap is None else "closed"}
    if rate is None:
        return {}
    if isinstance(rate, str):
        return {"load": "open", "arrivals": rate}
    return {"load": "open", "request_rate": rate}


def _lengths(result: Mapping[str, Any], completed: int) -> dict[str, Any]:
    """Read nominal lengths where they held, actual mean lengths and the total throughput."""
    total_in, total_out = result.get("total_input_tokens"), result.get("total_output_tokens")
    tokens = (number(total_in) or 0.0) + (number(total_out) or 0.0)
    found: dict[str, Any] = {
        "mean_isl_actual": ratio(total_in, completed) or None,
        "mean_osl_actual": ratio(total_out, completed) or None,
        "total_tok_s": result.get("total_throughput") or ratio(tokens, result.get("duration")) or None,
    }
    # The client writes its random_* arguments even when another data set ran.
    if str(result.get("dataset_name")).startswith("random"):
        found |= {name: result.get(key) for name, key in _RANDOM.items()}
    return found


def unstreamed(data: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the token times of answers that came in one piece.

    Without streaming (`--disable-stream`) 0.5.23 writes the end-to-end time as TTFT, a TPOT a little below
    zero and no gap at all: with several tokens an answer, gaps of zero mean that there was no first chunk.
    """
    several = (number(data.get("mean_osl_actual")) or 0.0) > 1
    if not several or not number(data.get("mean_ttft_ms")) or number(data.get("mean_itl_ms")) != 0:
        return {}
    times = {
        f"{statistic}_{short}_ms": None for statistic in _STATISTICS for short in ("ttft", "tpot", "itl")
    }
    return times | {"streamed": False}


def _silent(result: Mapping[str, Any]) -> dict[str, Any]:
    """Count requests taken as answered that never sent a first chunk, such as prompts beyond the context."""
    first, lengths = result.get("ttfts"), result.get("output_lens")
    if not isinstance(first, list) or not isinstance(lengths, list):
        return {}
    pairs = zip(first, lengths, strict=False)
    silent = sum(1 for time, length in pairs if number(time) == 0 and number(length))
    return {"completed_without_chunk": silent} if silent else {}
