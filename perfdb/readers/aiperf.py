"""Exports of NVIDIA AIPerf: `profile_export_aiperf.json` (one run) and `profile_export.jsonl` (one line a request).

Every metric is an object with its `unit`, which is read. `inter_token_latency` is (request latency - time to
first token) / (output tokens - 1) of each request, thus tpot; `inter_chunk_latency` is the gap between streamed
chunks, thus itl. The lines of the requests give the same latencies as the JSON export but name no model and no
load; where that export lies beside them, it is the file to give. Rates are then over the time from the first
request to the last answer; the export divides by up to a few ms more. The CSV export rounds to two decimals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from perfdb.readers.reading import Reading
from perfdb.readers.source import LARGEST_BYTES, Object, Source
from perfdb.readers.summaries import Figures, model_keys, spread
from perfdb.readers.values import mapping, number
from perfdb.record import BadRecord, Record, Rejection

NAME = "aiperf"

EXPORT: Final = "profile_export_aiperf.json"

_STATISTICS = {
    "avg": "mean", "p50": "median", "std": "std", "p90": "p90", "p95": "p95", "p99": "p99",
}  # fmt: skip
_LATENCIES = {
    "time_to_first_token": "ttft",
    "inter_token_latency": "tpot",
    "inter_chunk_latency": "itl",
    "request_latency": "e2e",
}
_FIGURES = {
    "requests_s": ("request_throughput", "1/s"),
    "output_tok_s": ("output_token_throughput", "1/s"),
    "input_tok_s": ("input_token_throughput", "1/s"),
    "total_tok_s": ("total_token_throughput", "1/s"),
    "duration_s": ("benchmark_duration", "s"),
    "completed": ("request_count", "1"),
    "failed": ("error_request_count", "1"),
    "mean_isl_actual": ("input_sequence_length", "1"),
    "mean_osl_actual": ("output_sequence_length", "1"),
}
TAKEN: Final = frozenset({*_LATENCIES, *(name for name, _ in _FIGURES.values())})
"""Metrics of an export that a run has keys for."""

_CSV = ("Metric", "avg", "min", "max", "sum")
_RATES = ("poisson", "gamma", "constant")


def matches(source: Source) -> bool:
    """Tell whether the file is an export of a run, of its time slices or of its requests."""
    first = source.first
    if first is None:
        return source.header[:5] == _CSV or source.header[:3] == ("Timeslice", "Start_NS", "End_NS")
    if "input_config" in first and ("timeslices" in first or has_metrics(first)):
        return True
    return _is_request(first)


def has_metrics(found: Mapping[str, Any]) -> bool:
    """Tell whether an object has metrics with units and averages."""
    return any(isinstance(item, Mapping) and "unit" in item and "avg" in item for item in found.values())


def _is_request(found: Mapping[str, Any]) -> bool:
    metadata = found.get("metadata")
    return "metrics" in found and isinstance(metadata, Mapping) and "request_start_ns" in metadata


def read(source: Source) -> Reading:
    """Read the run."""
    first = source.first
    if first is None:
        reason = f"the CSV export rounds to two decimals: give {EXPORT}, which has the same figures in full"
        return Reading([Rejection(1, reason)], {"tool": "aiperf"})
    if _is_request(first):
        return Reading(_of_requests(source), {"tool": "aiperf"})
    metadata = {"tool": "aiperf", "tool_version": first.get("aiperf_version")}
    return Reading(_records(source), metadata)


def _records(source: Source) -> Iterator[Record | Rejection]:
    for item in source.objects():
        try:
            yield item if isinstance(item, Rejection) else _record(item)
        except BadRecord as error:
            yield Rejection(item.number if isinstance(item, Object) else 1, str(error))


def _record(item: Object) -> Record:
    export = item.data
    if "timeslices" in export:
        raise BadRecord(f"time slices of a run, not a run: give {EXPORT} beside it")
    for name, whole in (("was_cancelled", False), ("is_complete", True)):
        if export.get(name, whole) not in (whole, None):
            reason = export.get("incomplete_reason")
            raise BadRecord(
                f"{name} is {export[name]!r}: the run was not finished" + f" ({reason})" * bool(reason)
            )
    figures = measured(export)
    config = mapping(export.get("input_config"))
    stated, inferred = _model(config)
    inferred |= _gpu(mapping(export.get("telemetry_data")))
    figures.data |= stated | _load(config) | _lengths(config)
    figures.data["num_prompts"] = _sent(figures.data)
    figures.keep(export, TAKEN)
    return Record(item.number, item.text, figures.data, inferred, figures.stated)


def measured(export: Mapping[str, Any]) -> Figures:
    """Read the metrics of an export; GenAI-Perf writes them under the same names.

    Raises
    ------
    BadRecord
        If a unit is unknown.
    """
    figures = Figures()
    for name, short in _LATENCIES.items():
        summary = export.get(name)
        if isinstance(summary, Mapping):
            figures.latency(short, name, summary, _STATISTICS, summary.get("unit"))
    for key, (name, unit) in _FIGURES.items():
        summary = export.get(name)
        if isinstance(summary, Mapping):
            figures.put(key, summary.get("avg"), f"{name}.avg", summary.get("unit"), unit)
            rest = {item: value for item, value in summary.items() if item not in ("avg", "unit")}
            if any(value is not None for value in rest.values()):
                figures.data[name] = rest
    return figures


def _sent(data: Mapping[str, Any]) -> float | None:
    """Add the requests that failed to those that were answered."""
    completed = number(data.get("completed"))
    return None if completed is None else completed + (number(data.get("failed")) or 0)


def _model(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the model's name under either layout of the settings; of several, none is the run's."""
    items = mapping(config.get("models")).get("items")
    names = (
        [mapping(item).get("name") for item in items]
        if isinstance(items, list)
        else mapping(config.get("endpoint")).get("model_names")
    )
    return only_model(names)


def only_model(names: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the keys of the model if the list names one."""
    return model_keys(names[0]) if isinstance(names, list) and len(names) == 1 else ({}, {})


def _gpu(telemetry: Mapping[str, Any]) -> dict[str, Any]:
    """Read the GPU's name if all scraped GPUs have one: a suggestion, as the engine may use some of them."""
    names = {
        str(mapping(gpu).get("gpu_name"))
        for endpoint in mapping(telemetry.get("endpoints")).values()
        for gpu in mapping(mapping(endpoint).get("gpus")).values()
    } - {"None"}
    return {"gpu": names.pop()} if len(names) == 1 else {}


def _load(config: Mapping[str, Any]) -> dict[str, Any]:
    """Decide the load: from the only profiling phase, or from `loadgen` in versions before phases."""
    phases = config.get("phases")
    if isinstance(phases, list):
        found = [phase for phase in phases if mapping(phase).get("kind", "profiling") == "profiling"]
        phase = mapping(found[0]) if len(found) == 1 else {}
        kind = phase.get("type")
        return (
            arrivals(phase.get("concurrency"), phase.get("rate")) if kind in ("concurrency", *_RATES) else {}
        )
    generator = mapping(config.get("loadgen"))
    return arrivals(generator.get("concurrency"), generator.get("request_rate"))


def arrivals(concurrency: Any, rate: Any) -> dict[str, Any]:
    """Return the keys of a load: open where a rate is set, closed where only a number in flight is."""
    if rate is not None:
        return {"load": "open", "request_rate": rate, "concurrency": concurrency}
    return {} if concurrency is None else {"load": "closed", "concurrency": concurrency}


def _lengths(config: Mapping[str, Any]) -> dict[str, Any]:
    """Read the lengths asked for, where every request has the same."""
    datasets = config.get("datasets")
    dataset = mapping(datasets[0]) if isinstance(datasets, list) and len(datasets) == 1 else {}
    prompts = mapping(dataset.get("prompts"))
    found = {}
    for key in ("isl", "osl"):
        length = mapping(prompts.get(key))
        if not length.get("stddev"):
            found[key] = length.get("mean")
    return found | {"dataset": dataset.get("type")}


def _of_requests(source: Source) -> Iterator[Record | Rejection]:
    """Read a run from the lines of its requests, as the client itself sums them up."""
    export = source.path.with_name(f"{source.path.stem}_aiperf.json")
    if export.is_file():
        reason = (
            f"the requests of a run: give {export.name} beside it, which has the same figures, model and load"
        )
        yield Rejection(1, reason)
    elif source.path.stat().st_size > LARGEST_BYTES:
        yield Rejection(1, f"the requests of a run, above {LARGEST_BYTES // 2**20} MB: give {EXPORT} instead")
    else:
        try:
            yield _summed_up(source)
        except BadRecord as error:
            yield Rejection(1, f"the requests of a run: {error}; give {EXPORT} instead")


def _summed_up(source: Source) -> Record:
    lists: dict[str, list[float]] = {}
    units: dict[str, Any] = {}
    texts: list[str] = []
    spans: list[tuple[int, float]] = []
    failed = 0
    for item in source.objects():
        if isinstance(item, Rejection):
            raise BadRecord(f"line {item.line} is {item.reason}")
        metadata, metrics = mapping(item.data.get("metadata")), mapping(item.data.get("metrics"))
        texts.append(item.text)
        if metadata.get("benchmark_phase", "profiling") != "profiling":
            continue
        if item.data.get("error") is not None or metadata.get("was_cancelled"):
            failed += 1
            continue
        spans.append(_span(item.number, metadata, metrics))
        for name, metric in metrics.items():
            value, unit = mapping(metric).get("value"), mapping(metric).get("unit")
            if units.setdefault(name, unit) != unit:
                raise BadRecord(f"{name} is in {unit!r} on line {item.number} and in {units[name]!r} before")
            lists.setdefault(name, []).extend(_numbers(value))
    data = {name: _summary(values, units[name]) for name, values in lists.items() if values}
    first = min((begin for begin, _ in spans), default=0)
    seconds = max(((begin - first) / 1e9 + latency for begin, latency in spans), default=0.0)
    if seconds <= 0:
        raise BadRecord("no answered request that took time")
    figures = measured(data)
    figures.data |= {
        "completed": len(spans),
        "failed": failed,
        "num_prompts": len(spans) + failed,
        "duration_s": seconds,
        "requests_s": len(spans) / seconds,
    }
    for key, name in (("output_tok_s", "output_sequence_length"), ("input_tok_s", "input_sequence_length")):
        if name in lists:
            figures.data[key] = sum(lists[name]) / seconds
    figures.keep(data, TAKEN)
    return Record(1, "\n".join(texts), figures.data, {}, figures.stated)


def _span(line: int, metadata: Mapping[str, Any], metrics: Mapping[str, Any]) -> tuple[int, float]:
    """Return when a request began, in ns since the epoch, and how long it took, in s."""
    begin, latency = metadata.get("request_start_ns"), mapping(metrics.get("request_latency"))
    figures = Figures()
    figures.put("seconds", latency.get("value"), "request_latency.value", latency.get("unit"), "s")
    seconds = number(figures.data.get("seconds"))
    if not isinstance(begin, int) or seconds is None or not 0 <= begin < 2**63:
        raise BadRecord(f"line {line} has no request_start_ns and request_latency")
    return begin, seconds


def _numbers(value: Any) -> list[float]:
    items = value if isinstance(value, list) else [value]
    return [found for found in map(number, items) if found is not None]


def _summary(values: Sequence[float], unit: Any) -> dict[str, Any]:
    """Write the statistics of a list as the JSON export has them."""
    found = spread(values)
    return {"unit": unit} | {name: found[word] for name, word in _STATISTICS.items()}
