"""Result lines of `python -m sglang.bench_offline_throughput`: all prompts handed to an engine at once.

By the tool's source (`throughput_test_once`, 0.4.1 to 0.5.23) the prompts are one call of the engine in the same
process, `successful_requests` is the number of prompts handed over, and every throughput is over the time of the
call: a burst, without latencies. `backend` is `engine` or `runtime`, both of them SGLang. `last_gen_throughput`
is the server's last gauge, not a mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from perfdb.readers.reading import Reading, results
from perfdb.readers.source import Object, Source
from perfdb.readers.values import ratio
from perfdb.record import Record

NAME = "sglang_bench_offline_throughput"

_SAME: Final = {
    "num_prompts": "successful_requests",
    "completed": "successful_requests",
    "duration_s": "total_latency",
    "requests_s": "request_throughput",
    "input_tok_s": "input_throughput",
    "output_tok_s": "output_throughput",
    "total_tok_s": "total_throughput",
}


def matches(source: Source) -> bool:
    """Tell whether the first object is a result line of this tool."""
    return source.first is not None and _is_result(source.first)


def _is_result(first: Mapping[str, Any]) -> bool:
    return {"successful_requests", "total_latency", "total_throughput"} <= first.keys()


def read(source: Source) -> Reading:
    """Read one record a line."""
    otherwise = f"not a {NAME} line: no successful_requests and total_latency"
    return Reading(
        results(source, _is_result, _record, otherwise), {"tool": "sglang.bench_offline_throughput"}
    )


def _record(item: Object) -> Record:
    result = item.data
    data: dict[str, Any] = {name: value for name, value in result.items() if name not in _SAME.values()}
    data |= {name: result.get(key) for name, key in _SAME.items()}
    data |= {
        "engine": "sglang",
        "load": "burst",
        "mean_isl_actual": ratio(result.get("total_input_tokens"), result.get("successful_requests")),
        "mean_osl_actual": ratio(result.get("total_output_tokens"), result.get("successful_requests")),
    }
    return Record(item.number, item.text, data)
