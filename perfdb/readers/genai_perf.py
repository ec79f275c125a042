"""Exports of NVIDIA GenAI-Perf: `{prefix}_genai_perf.json`, one document a run.

Metrics are objects with a `unit`, under the names that AIPerf took over; `inter_token_latency` is
(request latency - time to first token) / (output tokens - 1) of each request, thus tpot. Settings are under
`input_config`, flat up to 0.0.8 or so, nested later. `backend` there is the default of a Triton option and says
nothing of the engine behind an OpenAI endpoint: the engine comes from the context. The CSV export is rounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from perfdb.readers import aiperf
from perfdb.readers.reading import Reading
from perfdb.readers.source import Object, Source
from perfdb.readers.values import mapping
from perfdb.record import BadRecord, Record, Rejection

NAME = "genai_perf"

_CSV = ("Metric", "avg", "min", "max", "p99")
_SIGNS = ("model_names", "model", "service_kind")


def matches(source: Source) -> bool:
    """Tell whether the file is an export of this tool: its settings name the models at their top."""
    first = source.first
    if first is None:
        return source.header[:5] == _CSV
    config = first.get("input_config")
    return (
        isinstance(config, Mapping) and any(name in config for name in _SIGNS) and aiperf.has_metrics(first)
    )


def read(source: Source) -> Reading:
    """Read the run."""
    if source.first is None:
        reason = "the CSV export rounds its figures: give the ..._genai_perf.json beside it"
        return Reading([Rejection(1, reason)], {"tool": "genai-perf"})
    return Reading(_records(source), {"tool": "genai-perf"})


def _records(source: Source) -> Iterator[Record | Rejection]:
    for item in source.objects():
        try:
            yield item if isinstance(item, Rejection) else _record(item)
        except BadRecord as error:
            yield Rejection(item.number if isinstance(item, Object) else 1, str(error))


def _record(item: Object) -> Record:
    export = item.data
    figures = aiperf.measured(export)
    config = mapping(export.get("input_config"))
    names = config.get("model_names", config.get("model"))
    stated, inferred = aiperf.only_model([names] if isinstance(names, str) else names)
    figures.data |= stated | _load(config) | _lengths(config)
    figures.keep(export, aiperf.TAKEN)
    return Record(item.number, item.text, figures.data, inferred, figures.stated)


def _load(config: Mapping[str, Any]) -> dict[str, Any]:
    """Read the load: `perf_analyzer.stimulus`, or the flat options of older versions."""
    if "perf_analyzer" not in config:
        return aiperf.arrivals(config.get("concurrency"), config.get("request_rate"))
    stimulus = mapping(mapping(config.get("perf_analyzer")).get("stimulus"))
    return aiperf.arrivals(stimulus.get("concurrency"), stimulus.get("request_rate"))


def _lengths(config: Mapping[str, Any]) -> dict[str, Any]:
    """Read the lengths asked for, where every request has the same; with prompts from a file they mean nothing."""
    nested = mapping(config.get("input"))
    source = nested.get("prompt_source", config.get("prompt_source"))
    if source != "synthetic":
        return {"dataset": source}
    if nested:
        tokens = mapping(nested.get("synthetic_tokens")), mapping(nested.get("output_tokens"))
        lengths = [(part.get("mean"), part.get("stddev")) for part in tokens]
    else:
        lengths = [
            (config.get(f"{side}_tokens_mean"), config.get(f"{side}_tokens_stddev"))
            for side in ("synthetic_input", "output")
        ]
    found: dict[str, Any] = {"dataset": source}
    for key, (mean, deviation) in zip(("isl", "osl"), lengths, strict=True):
        # The client writes -1 for an output length that was not asked for.
        if not deviation and mean != -1:
            found[key] = mean
    return found
