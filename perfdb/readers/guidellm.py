"""Reports of guidellm, `benchmarks.json`: one run a benchmark, schema version 2 and the layouts before it.

Figures are those of successful requests. `request_latency` is in seconds. `inter_token_latency_ms` is
(last token - first token) / (output tokens - 1) of each request, but its statistics weigh a request by its
tokens: they are those of tpot only where all answers are of one length. Otherwise tpot is formed from the
requests, if the file lists all of them, and else is not known; the weighted figures stay under their own name.
`time_per_output_token_ms` counts the time to the first token in and is kept as `tpot_with_first_token_ms`; up to
0.3 it is (last - first) / output tokens, neither the one nor the other, and keeps its name. Its rates are means
over time whose window differs by version, so rates are formed from totals and the duration, and not at all
where warm-up or cool-down requests were cut away. A percentile is the smallest value that reaches the share.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from perfdb.readers.reading import Reading
from perfdb.readers.source import Object, Source
from perfdb.readers.summaries import Figures, model_keys, spread
from perfdb.readers.values import mapping, number, ratio
from perfdb.record import BadRecord, Record, Rejection

NAME = "guidellm"

_STATISTICS = {
    "mean": "mean", "median": "median", "std_dev": "std", "p90": "p90", "p95": "p95", "p99": "p99",
}  # fmt: skip
_TOKEN_LATENCY = "inter_token_latency_ms"
_WITH_FIRST = "time_per_output_token_ms"
_MAPPED = ("request_latency", "time_to_first_token_ms", "request_totals")
_SETTINGS = (
    "constraints", "warmup", "cooldown", "warmup_number", "warmup_duration", "cooldown_number",
    "cooldown_duration", "profile", "requests", "backend", "environment", "slo",
)  # fmt: skip
_CUT = ("warmup_number", "warmup_duration", "cooldown_number", "cooldown_duration")


def matches(source: Source) -> bool:
    """Tell whether the file is a report: benchmarks whose metrics are split by the outcome of requests."""
    first = source.first
    if first is None:
        return source.header[0] == "Run Info" and "Benchmark" in source.header
    benchmarks = first.get("benchmarks")
    if not isinstance(benchmarks, list):
        return False
    metadata = mapping(first.get("metadata"))
    return "guidellm_version" in metadata or any(
        str(mapping(one).get("type_")).startswith("generative") for one in benchmarks[:1]
    )


def read(source: Source) -> Reading:
    """Read one record a benchmark."""
    if source.first is None:
        reason = "the CSV export lists no requests, without which tpot is not known: give benchmarks.json"
        return Reading([Rejection(1, reason)], {"tool": "guidellm"})
    metadata = mapping(source.first.get("metadata"))
    found = {"tool": "guidellm", "tool_version": metadata.get("guidellm_version")}
    return Reading(_records(source), found | {"platform": metadata.get("platform")})


def _records(source: Source) -> Iterator[Record | Rejection]:
    for item in source.objects():
        if isinstance(item, Rejection):
            yield item
            continue
        benchmarks = item.data.get("benchmarks")
        if not isinstance(benchmarks, list) or not benchmarks:
            yield Rejection(item.number, f"benchmarks is {str(benchmarks)[:80]}: no run")
            continue
        for number_in_file, benchmark in enumerate(benchmarks, start=1):
            try:
                yield _record(number_in_file, mapping(benchmark), item)
            except BadRecord as error:
                yield Rejection(number_in_file, str(error))


def _record(place: int, benchmark: Mapping[str, Any], report: Object) -> Record:
    # Settings are under `config`; up to 0.3 under `args`.
    config = mapping(benchmark.get("config", benchmark.get("args")))
    metrics = {
        name: mapping(metric.get("successful"))
        for name, metric in mapping(benchmark.get("metrics")).items()
        if isinstance(metric, Mapping) and "successful" in metric
    }
    totals = mapping(mapping(benchmark.get("metrics")).get("request_totals", benchmark.get("request_totals")))
    if totals.get("successful") == 0:
        raise BadRecord(f"no request was answered: {totals.get('errored')!r} failed")
    figures = Figures()
    figures.latency("e2e", "request_latency", _flat(metrics.get("request_latency")), _STATISTICS, "s")
    figures.latency(
        "ttft", "time_to_first_token_ms", _flat(metrics.get("time_to_first_token_ms")), _STATISTICS, "ms"
    )
    tokens = {side: mapping(metrics.get(f"{side}_token_count")) for side in ("prompt", "output")}
    _tpot(figures, benchmark, metrics, tokens["output"], totals)
    old = "args" in benchmark
    with_first = _flat(metrics.get(_WITH_FIRST))
    figures.data[_WITH_FIRST if old else "tpot_with_first_token_ms"] = with_first or None
    figures.data |= {
        "mean_isl_actual": tokens["prompt"].get("mean"),
        "mean_osl_actual": tokens["output"].get("mean"),
        "completed": totals.get("successful"),
        "failed": totals.get("errored"),
        "incomplete": totals.get("incomplete"),
        "num_prompts": totals.get("total"),
        "duration_s": benchmark.get("duration"),
        "achieved_concurrency": mapping(metrics.get("request_concurrency")).get("mean"),
    }
    if not _is_cut(config):
        figures.data |= _rates(figures.data, tokens)
    strategy = mapping(config.get("strategy"))
    figures.data |= _load(strategy, totals.get("total")) | {"strategy": strategy or None}
    figures.data |= _lengths(report.data, benchmark)
    stated, inferred = _model(benchmark, config)
    figures.data |= stated
    figures.keep({name: config.get(name) for name in _SETTINGS})
    figures.keep({name: benchmark.get(name) for name in ("start_time", "end_time", "extras", "run_stats")})
    figures.keep({name: _flat(metric) for name, metric in metrics.items()}, {*_MAPPED, _WITH_FIRST})
    text = json.dumps(benchmark, ensure_ascii=False)
    return Record(place, text, figures.data, inferred, figures.stated)


def _flat(summary: Any) -> dict[str, Any]:
    """Copy a summary with its percentiles beside the other statistics; one over no request is empty."""
    found = dict(mapping(summary))
    percentiles = found.pop("percentiles", None)
    for curve in ("pdf", "cumulative_distribution_function"):
        found.pop(curve, None)
    if found.get("count") == 0:
        return {}
    found.update(mapping(percentiles))
    return found


def _tpot(
    figures: Figures,
    benchmark: Mapping[str, Any],
    metrics: Mapping[str, Mapping[str, Any]],
    lengths: Mapping[str, Any],
    totals: Mapping[str, Any],
) -> None:
    """Take tpot from the weighted statistics where the weights are equal, else from the requests."""
    weighted = _flat(metrics.get(_TOKEN_LATENCY))
    shortest, longest = number(lengths.get("min")), number(lengths.get("max"))
    if shortest is not None and shortest == longest:
        figures.latency("tpot", _TOKEN_LATENCY, weighted, _STATISTICS, "ms")
        return
    figures.data[_TOKEN_LATENCY] = weighted or None
    requests = mapping(benchmark.get("requests")).get("successful")
    if not isinstance(requests, list) or len(requests) != totals.get("successful"):
        return
    values = [
        number(mapping(request).get(_TOKEN_LATENCY))
        for request in requests
        if (number(mapping(request).get("output_tokens")) or 0) > 1
    ]
    if values and None not in values:
        found = spread([value for value in values if value is not None])
        figures.data |= {f"{statistic}_tpot_ms": value for statistic, value in found.items()}


def _is_cut(config: Mapping[str, Any]) -> bool:
    """Tell whether requests at the start or the end were left out of the figures."""
    phases = [mapping(config.get(name)) for name in ("warmup", "cooldown")]
    if any(phase.get(name) for phase in phases for name in ("percent", "value")):
        return True
    bare = [config.get(name) for name in (*_CUT, "warmup", "cooldown")]
    return any(bool(value) for value in bare if not isinstance(value, Mapping))


def _rates(data: Mapping[str, Any], tokens: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Divide the totals of the answered requests by the duration."""
    seconds = data.get("duration_s")
    sums = {side: number(summary.get("total_sum")) for side, summary in tokens.items()}
    found = {
        "requests_s": ratio(data.get("completed"), seconds),
        "input_tok_s": ratio(sums["prompt"], seconds),
        "output_tok_s": ratio(sums["output"], seconds),
    }
    if sums["prompt"] is not None and sums["output"] is not None:
        found["total_tok_s"] = ratio(sums["prompt"] + sums["output"], seconds)
    return found


def _load(strategy: Mapping[str, Any], sent: Any) -> dict[str, Any]:
    """Decide the load; a replayed trace is none of the four kinds."""
    kind, cap = strategy.get("type_"), strategy.get("max_concurrency")
    if kind == "synchronous":
        return {"load": "closed", "concurrency": 1}
    if kind == "concurrent":
        return {"load": "closed", "concurrency": strategy.get("streams")}
    if kind in ("constant", "poisson"):
        return {"load": "open", "request_rate": strategy.get("rate")}
    if kind != "throughput":
        return {}
    most, requests = number(cap), number(sent)
    # Everything is sent at once, up to a cap: with fewer requests than that there is no cap.
    if most is None or (requests is not None and requests <= most):
        return {"load": "burst"}
    return {"load": "closed", "concurrency": cap}


def _model(benchmark: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    name = mapping(config.get("backend")).get("model") or mapping(benchmark.get("worker")).get(
        "backend_model"
    )
    return model_keys(None if name == "None" else name)


def _lengths(report: Mapping[str, Any], benchmark: Mapping[str, Any]) -> dict[str, Any]:
    """Read the lengths asked for of synthetic data, where every request has the same."""
    spec = mapping(mapping(report.get("config")).get("spec", report.get("args")))
    data = spec.get("data", mapping(benchmark.get("request_loader")).get("data"))
    found: dict[str, Any] = {"data": data}
    one = data[0] if isinstance(data, list) and len(data) == 1 else data
    settings = _synthetic(one)
    for key, name in (("isl", "prompt_tokens"), ("osl", "output_tokens")):
        if not any(settings.get(f"{name}_{spread_by}") for spread_by in ("stdev", "min", "max")):
            found[key] = settings.get(name)
    return found


def _synthetic(data: Any) -> Mapping[str, Any]:
    """Return the settings of synthetic data: an object, or `prompt_tokens=256,output_tokens=128` before 0.7."""
    if isinstance(data, Mapping):
        return data
    if not isinstance(data, str) or "prompt_tokens" not in data:
        return {}
    try:
        return mapping(json.loads(data))
    except (ValueError, RecursionError):
        pairs = [pair.split("=", 1) for pair in data.split(",") if "=" in pair]
        return {
            name.strip(): int(value) for name, value in pairs if value.strip().isdecimal() and len(value) < 10
        }
