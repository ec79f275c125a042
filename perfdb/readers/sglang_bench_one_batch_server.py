"""Results of `python -m sglang.bench_one_batch_server`: one static batch sent to a running server.

Lines of `--result-filename` and the list that `--pydantic-result-filename` writes. What the tool's source says of
its figures, by version:

- `latency` (s) ends with the last request of the batch and `last_ttft` (s, since 0.5.9) is the first token of the
  last request to start. Both are those of every request only in a batch of one; in a larger batch they are the
  largest of the batch, and stay beside the keys of a run under their own names.
- `output_throughput` is batch_size x output_len / latency up to 0.4.6. Where a line has `last_gen_throughput`
  (0.4.10 on) the TTFT is taken off the latency first: it is then a rate of decoding, kept under its own name,
  and the output rate over the whole time is computed from the tokens.
- `overall_throughput` is all tokens over the latency in every version.
- `acc_length` and `last_gen_throughput` are -1 where the server says nothing; a vLLM server never does.
  `last_gen_throughput` is the server's last logged window, which may be another batch's.
- `cache_hit_rate` is a fraction, from the server's counters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from perfdb.readers.launch_line import sglang_arguments
from perfdb.readers.reading import Reading, results
from perfdb.readers.sglang_bench_one_batch import difference, product
from perfdb.readers.source import Object, Source
from perfdb.readers.values import number, ratio, scaled
from perfdb.record import Record

NAME = "sglang_bench_one_batch_server"

_SAME: Final = {
    "isl": "input_len",
    "osl": "output_len",
    "batch_size": "batch_size",
    "duration_s": "latency",
    "total_tok_s": "overall_throughput",
}
_LARGEST: Final = {"mean_e2e_ms": "latency", "mean_ttft_ms": "last_ttft"}
_READ: Final = {
    *_SAME.values(),
    *("output_throughput", "acc_length", "cache_hit_rate", "model_path", "server_args", "last_ttft"),
}


def matches(source: Source) -> bool:
    """Tell whether the first object is a result of this tool."""
    return source.first is not None and _is_result(source.first)


def _is_result(first: Mapping[str, Any]) -> bool:
    needed = {"batch_size", "input_len", "output_len", "latency", "output_throughput", "overall_throughput"}
    return needed <= first.keys()


def read(source: Source) -> Reading:
    """Read one record a line, or one an item of the list."""
    otherwise = f"not a {NAME} line: no latency and overall_throughput"
    return Reading(results(source, _is_result, _record, otherwise), {"tool": "sglang.bench_one_batch_server"})


def _record(item: Object) -> Record:
    result = item.data
    data: dict[str, Any] = {name: value for name, value in result.items() if name not in _READ}
    data |= {name: result.get(key) for name, key in _SAME.items()}
    data["load"] = "static_batch"
    stated: dict[str, tuple[str, Any, str]] = {}
    if result["batch_size"] == 1:
        for name, key in _LARGEST.items():
            data[name] = scaled(result.get(key), 1000.0)
            if data[name] is not None:
                stated[name] = (key, result[key], "s")
        data["mean_tpot_ms"] = _tpot_ms(result)
    else:
        data |= {key: result.get(key) for key in _LARGEST.values()}
    hit_share = result.get("cache_hit_rate")
    data["cache_hit_rate_pct"] = scaled(hit_share, 100.0)
    if data["cache_hit_rate_pct"] is not None:
        stated["cache_hit_rate_pct"] = ("cache_hit_rate", hit_share, "fraction")
    if (number(result.get("acc_length")) or -1.0) > 0:
        data["accept_length"] = result["acc_length"]
    inferred = _deployment(result, data)
    _throughput(result, data)
    return Record(item.number, item.text, data, inferred, stated)


def _throughput(result: Mapping[str, Any], data: dict[str, Any]) -> None:
    """Fill the output rate over the whole time; `output_throughput` was that up to 0.4.6 only."""
    written = result["output_throughput"]
    if "last_gen_throughput" not in result:
        data["output_tok_s"] = written
        return
    data["output_throughput"] = written
    # Before `total_output_tokens` (0.5.23) every request had to reach its length, or the tool failed.
    tokens = result.get("total_output_tokens")
    if tokens is None:
        tokens = product(result["batch_size"], result["output_len"])
    else:
        data["mean_osl_actual"] = ratio(tokens, result["batch_size"])
    data["output_tok_s"] = ratio(tokens, result["latency"])


def _tpot_ms(result: Mapping[str, Any]) -> float | None:
    """Return (end to end - TTFT) / (tokens - 1) of the one request."""
    tokens = result.get("total_output_tokens")
    gaps = difference(result["output_len"] if tokens is None else tokens, 1)
    return scaled(ratio(difference(result["latency"], result.get("last_ttft")), gaps), 1000.0)


def _deployment(result: Mapping[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """Fill the engine where only one is possible; return what model path and server arguments suggest."""
    suggested: dict[str, Any] = {}
    arguments = result.get("server_args")
    if isinstance(arguments, list):
        data["server_args"] = arguments
        suggested |= sglang_arguments([word for word in arguments if isinstance(word, str)])
    model = result.get("model_path")
    if isinstance(model, str) and model not in ("", "None"):
        suggested["model"] = model
    # A line without `last_ttft` is from before the tool could speak to vLLM.
    if "last_ttft" not in result or (number(result.get("last_gen_throughput")) or 0.0) > 0:
        data["engine"] = "sglang"
    return suggested
