"""Result lines of `python -m sglang.bench_one_batch`: one static batch, no server, times in seconds.

The key set is the same from `sglang.bench_latency` of 0.2 to `sglang.benchmark.one_batch` of 0.5.23. By the tool's
source (`latency_test_run_once`), with every step synchronized:

- `prefill_latency` is one prefill of the whole batch: the TTFT of every request of it.
- `median_decode_latency` is the median over decode steps, each of which gives every request one token. It is kept
  as the median TPOT of the batch; the median over requests, which have equal times, is `mean_tpot_ms`.
- `total_latency` is the prefill and all decode steps: the end-to-end time of every request. It follows that each
  has the TPOT (total - prefill) / (output_len - 1), the mean.
- `overall_throughput` is batch_size x (input_len + output_len) / total_latency.

Model, GPU, widths and formats are in no line; `run_name` is free text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from perfdb.readers.reading import Reading, results
from perfdb.readers.source import Object, Source
from perfdb.readers.values import number, ratio, scaled
from perfdb.record import Record

NAME = "sglang_bench_one_batch"

_SECONDS: Final = {
    "ttft_ms_unspecified": "prefill_latency",
    "median_tpot_ms": "median_decode_latency",
    "mean_e2e_ms": "total_latency",
}
_SAME: Final = {
    "isl": "input_len",
    "osl": "output_len",
    "batch_size": "batch_size",
    "duration_s": "total_latency",
    "total_tok_s": "overall_throughput",
}
_READ: Final = {*_SECONDS.values(), *_SAME.values()}


def matches(source: Source) -> bool:
    """Tell whether the first object is a result line of this tool."""
    return source.first is not None and _is_result(source.first)


def _is_result(first: Mapping[str, Any]) -> bool:
    return {"batch_size", "prefill_latency", "total_latency", "overall_throughput"} <= first.keys()


def read(source: Source) -> Reading:
    """Read one record a line."""
    otherwise = f"not a {NAME} line: no prefill_latency and total_latency"
    return Reading(results(source, _is_result, _record, otherwise), {"tool": "sglang.bench_one_batch"})


def _record(item: Object) -> Record:
    result = item.data
    data: dict[str, Any] = {name: value for name, value in result.items() if name not in _READ}
    data |= {name: result.get(key) for name, key in _SAME.items()}
    data |= {"engine": "sglang", "load": "static_batch"}
    stated: dict[str, tuple[str, Any, str]] = {}
    for name, key in _SECONDS.items():
        value = result.get(key)
        milliseconds = scaled(value, 1000.0)
        # A value that is no number goes on as it is, to be refused by its name.
        data[name] = value if milliseconds is None else milliseconds
        if milliseconds is not None:
            stated[name] = (key, value, "s")
    decoding = difference(result.get("total_latency"), result.get("prefill_latency"))
    data["mean_tpot_ms"] = scaled(ratio(decoding, difference(result.get("output_len"), 1)), 1000.0)
    tokens = product(result.get("batch_size"), result.get("output_len"))
    data["output_tok_s"] = ratio(tokens, result.get("total_latency"))
    return Record(item.number, item.text, data, stated=stated)


def product(one: Any, other: Any) -> float | None:
    """Multiply two numbers; None where either is none."""
    factor = number(other)
    return None if factor is None else scaled(one, factor)


def difference(one: Any, other: Any) -> float | None:
    """Subtract two numbers; None where either is none."""
    upper, lower = number(one), number(other)
    return None if upper is None or lower is None else upper - lower
