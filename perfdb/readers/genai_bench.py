"""Runs of genai-bench: `{scenario}_{task}_num_concurrency_{N}_time_{T}s.json`, one document a run.

A run says nothing of model, engine and GPU: the folder's `experiment_metadata.json` does, and is read where it
lies beside the file. Latencies are in `_time_unit` (versions before that key: seconds). Per request tpot is
(e2e - ttft) / (output tokens - 1), as here; answers streamed in under 1 ms are left out of it. The client cuts
warm-up and cool-down requests out of its statistics and token sums but not out of the time it divides by: such
throughputs stay under the client's own names. Lengths of `D(in,out)` and `U(...)` are what was asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from perfdb.readers.reading import Reading
from perfdb.readers.redact import redact
from perfdb.readers.source import Object, Source
from perfdb.readers.summaries import Figures, model_keys
from perfdb.readers.values import mapping, number, ratio
from perfdb.record import BadRecord, Record, Rejection

NAME = "genai_bench"

METADATA = "experiment_metadata.json"

_STATISTICS = {
    "mean": "mean", "p50": "median", "stddev": "std", "p90": "p90", "p95": "p95", "p99": "p99",
}  # fmt: skip
_LATENCIES = {"ttft": "ttft", "tpot": "tpot", "e2e_latency": "e2e"}
_RATES = {
    "output_tok_s": "mean_output_throughput_tokens_per_s",
    "input_tok_s": "mean_input_throughput_tokens_per_s",
    "total_tok_s": "mean_total_tokens_throughput_tokens_per_s",
}
_COUNTS = {
    "num_prompts": "num_requests",
    "completed": "num_completed_requests",
    "failed": "num_error_requests",
    "requests_s": "requests_per_second",
    "duration_s": "run_duration",
}
_CONTEXT = {"engine": "server_engine", "engine_version": "server_version", "gpu": "server_gpu_type"}
_KEPT_CONTEXT = ("task", "api_backend", "api_model_name", "additional_request_params", "dataset_path")
_DETERMINISTIC = re.compile(r"D\((\d{1,9}),(\d{1,9})\)")
_UNIFORM = re.compile(r"U\((\d{1,9}),(\d{1,9})\)(?:/\((\d{1,9}),(\d{1,9})\))?")


def matches(source: Source) -> bool:
    """Tell whether the first object is a run, or the description of an experiment."""
    first = source.first
    return first is not None and ("aggregated_metrics" in first or _is_experiment(first))


def _is_experiment(found: Mapping[str, Any]) -> bool:
    return "benchmark_version" in found and "traffic_scenario" in found


def read(source: Source) -> Reading:
    """Read the run, with what the experiment's description beside it states."""
    path = source.path.parent / METADATA
    is_run = source.first is not None and "aggregated_metrics" in source.first
    experiment = _experiment(path) if is_run else None
    metadata: dict[str, Any] = {"tool": "genai-bench"}
    if isinstance(experiment, Mapping):
        metadata |= {"tool_version": experiment.get("benchmark_version"), "context_from": str(path)}
    return Reading(_records(source, experiment), metadata)


def _experiment(path: Path) -> Mapping[str, Any] | str | None:
    """Read the description of the experiment: its content, or why it cannot be read, or None."""
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return f"{METADATA} beside the file cannot be read: {error}"
    if not isinstance(found, dict):
        return f"{METADATA} beside the file is no JSON object"
    return mapping(redact(found))


def _records(source: Source, experiment: Mapping[str, Any] | str | None) -> Iterator[Record | Rejection]:
    for item in source.objects():
        if isinstance(item, Rejection):
            yield item
        elif _is_experiment(item.data):
            yield Rejection(
                item.number,
                "the description of an experiment, not a run: give the files ..._time_<seconds>s.json beside "
                "it; it is read with each of them",
            )
        elif isinstance(experiment, str):
            yield Rejection(item.number, experiment)
        else:
            try:
                yield _record(item, experiment)
            except BadRecord as error:
                yield Rejection(item.number, str(error))


def _record(item: Object, experiment: Mapping[str, Any] | None) -> Record:
    run = mapping(item.data.get("aggregated_metrics"))
    stats = mapping(run.get("stats"))
    tokens = {side: mapping(stats.get(f"num_{side}_tokens")) for side in ("input", "output")}
    if number(tokens["output"].get("sum")) == 0:
        raise BadRecord(
            "num_output_tokens is 0 in every request: embeddings, rankings and images are no runs"
        )
    unit = item.data.get("_time_unit", "s")
    figures = Figures({"mean_isl_actual": tokens["input"].get("mean")})
    figures.data["mean_osl_actual"] = tokens["output"].get("mean")
    for name, short in _LATENCIES.items():
        figures.latency(short, name, mapping(stats.get(name)), _STATISTICS, unit)
    figures.data |= {key: run.get(name) for key, name in _COUNTS.items()}
    used = {*_COUNTS.values(), "stats", "scenario", "num_concurrency"}
    counted = ratio(tokens["output"].get("sum"), tokens["output"].get("mean"))
    completed = number(run.get("num_completed_requests"))
    if counted is not None and completed is not None and abs(counted - completed) < 0.5:
        figures.data |= {key: run.get(name) for key, name in _RATES.items()}
        used |= {*_RATES.values()}
    scenario = run.get("scenario")
    figures.data |= {
        "concurrency": run.get("num_concurrency"),
        "load": "closed",
        "traffic_scenario": scenario,
    }
    figures.data |= _lengths(scenario)
    figures.keep(run, used)
    others = {name: value for name, value in stats.items() if name not in _LATENCIES}
    figures.keep({"stats": others, "time_unit": unit})
    inferred: dict[str, Any] = {}
    if experiment is not None:
        context, inferred = _context(experiment, run)
        figures.data |= context
    return Record(item.number, item.text, figures.data, inferred, figures.stated)


def _lengths(scenario: Any) -> dict[str, Any]:
    """Read the lengths asked for; normal distributions and data sets have no nominal length."""
    if not isinstance(scenario, str):
        return {}
    fixed = _DETERMINISTIC.fullmatch(scenario)
    if fixed:
        return {"isl": int(fixed[1]), "osl": int(fixed[2]), "range_ratio": 1.0}
    drawn = _UNIFORM.fullmatch(scenario)
    if not drawn:
        return {}
    if drawn[3] is None:
        return {"isl": int(drawn[1]), "osl": int(drawn[2]), "range_ratio": 0.0}
    low_in, isl, low_out, osl = (int(part) for part in drawn.groups())
    found: dict[str, Any] = {"isl": isl, "osl": osl}
    if low_in * osl == low_out * isl and isl:
        found["range_ratio"] = low_in / isl
    return found


def _context(experiment: Mapping[str, Any], run: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read what the description of the experiment states about this run.

    Raises
    ------
    BadRecord
        If it describes another experiment.
    """
    for listed, name in (("traffic_scenario", "scenario"), ("num_concurrency", "num_concurrency")):
        known, value = experiment.get(listed), run.get(name)
        if isinstance(known, list) and known and value is not None and value not in known:
            raise BadRecord(
                f"{name} is {value!r}, but {METADATA} beside the file lists {known!r}: it belongs to another "
                "experiment; move one of the two"
            )
    stated, inferred = model_keys(experiment.get("model"))
    stated |= {key: experiment.get(name) for key, name in _CONTEXT.items()}
    gpus = experiment.get("server_gpu_count")
    # The client keeps its option as a text.
    stated["n_gpus"] = int(gpus) if isinstance(gpus, str) and re.fullmatch("[0-9]{1,6}", gpus) else gpus
    stated |= {name: experiment.get(name) for name in _KEPT_CONTEXT}
    return stated, inferred
