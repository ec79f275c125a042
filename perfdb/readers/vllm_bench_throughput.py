"""Results of `vllm bench throughput`: a list of prompts given to the engine at once, without a server.

The file holds the sum of input and output tokens, not the parts: lengths come from the context.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perfdb.readers.reading import Reading, results
from perfdb.readers.source import Object, Source
from perfdb.readers.spellings import by_meaning, model_named
from perfdb.record import Record

NAME = "vllm_bench_throughput"

_RENAMED = {
    "elapsed_time": "duration_s",
    "num_requests": "num_prompts",
    "requests_per_second": "requests_s",
    "tokens_per_second": "total_tok_s",
}


def matches(source: Source) -> bool:
    """Tell whether the first object is a result of this benchmark."""
    return source.first is not None and _is_result(source.first)


def _is_result(found: Mapping[str, Any]) -> bool:
    return {*_RENAMED, "total_num_tokens"} <= found.keys()


def read(source: Source) -> Reading:
    """Read one record an object."""
    otherwise = f"not a {NAME} result: no elapsed_time and tokens_per_second"
    return Reading(results(source, _is_result, _record, otherwise), {"tool": "vllm bench throughput"})


def _record(item: Object) -> Record:
    result = item.data
    own = (*_RENAMED, "total_num_tokens", "model_id")
    suggested, rest = by_meaning({name: value for name, value in result.items() if name not in own})
    named, path = model_named(result.get("model_id"))
    data = rest | named | {key: result[name] for name, key in _RENAMED.items()}
    data |= {"total_num_tokens": result["total_num_tokens"], "load": "burst"}
    # The benchmark also drives other back ends (`--backend hf`) and does not write which.
    return Record(item.number, item.text, data, {"engine": "vllm"} | suggested | path)
