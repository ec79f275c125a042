"""Results of `vllm bench latency`: the time of one static batch, repeated.

The file holds times in seconds and, in newer versions, the model. Batch size and lengths stand on the command
line alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perfdb.readers.reading import Reading, results
from perfdb.readers.source import Object, Source, count
from perfdb.readers.spellings import by_meaning, model_named
from perfdb.readers.values import mapping, scaled
from perfdb.record import Record

NAME = "vllm_bench_latency"

_PERCENTILES = {"50": "median_e2e_ms", "90": "p90_e2e_ms", "95": "p95_e2e_ms", "99": "p99_e2e_ms"}


def matches(source: Source) -> bool:
    """Tell whether the first object is a result of this benchmark."""
    return source.first is not None and _is_result(source.first)


def _is_result(found: Mapping[str, Any]) -> bool:
    return {"avg_latency", "latencies", "percentiles"} <= found.keys()


def read(source: Source) -> Reading:
    """Read one record an object."""
    otherwise = f"not a {NAME} result: no avg_latency, latencies and percentiles"
    return Reading(results(source, _is_result, _record, otherwise), {"tool": "vllm bench latency"})


def _record(item: Object) -> Record:
    result = item.data
    percentiles = mapping(result["percentiles"])
    found = {"mean_e2e_ms": ("avg_latency", result["avg_latency"])} | {
        key: (f"percentiles.{name}", percentiles.get(name)) for name, key in _PERCENTILES.items()
    }
    times = {key: scaled(value, 1000) for key, (_, value) in found.items()}
    stated = {key: (name, value, "s") for key, (name, value) in found.items() if times[key] is not None}
    own = ("avg_latency", "latencies", "percentiles", "model_id")
    suggested, rest = by_meaning({name: value for name, value in result.items() if name not in own})
    named, path = model_named(result.get("model_id"))
    data = rest | named | times
    # The names that the tool's own options have; the percentiles as they are, in seconds.
    data |= {"num_iters": count(result["latencies"]), "percentiles": result["percentiles"]}
    data |= {"engine": "vllm", "load": "static_batch"}
    return Record(item.number, item.text, data, suggested | path, stated)
