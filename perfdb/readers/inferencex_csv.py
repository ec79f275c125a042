"""Exports of the InferenceX dashboard: one CSV row a run.

The header says ms for times that are seconds. Which of the two a row holds is told by its interactivity,
1 / TPOT in tokens/s a user: interactivity x TPOT is 1 in seconds and 1000 in milliseconds.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from typing import Any

from perfdb.readers import inferencex
from perfdb.readers.reading import Reading
from perfdb.readers.source import Line, Source
from perfdb.readers.values import number
from perfdb.record import Record, Rejection

NAME = "inferencex_csv"

_RENAMED = {
    "Model": "model",
    "ISL": "isl",
    "OSL": "osl",
    "Hardware": "hw",
    "Framework": "framework",
    "Precision": "precision",
    "TP": "tp",
    "EP": "ep",
    "Concurrency": "conc",
    "Date": "measured_on",
    "Throughput/GPU (tok/s)": "tput_per_gpu",
    "Output Throughput/GPU (tok/s)": "output_tput_per_gpu",
    "Input Throughput/GPU (tok/s)": "input_tput_per_gpu",
    "Disaggregated": "disagg",
    "Num Prefill GPUs": "num_prefill_gpu",
    "Num Decode GPUs": "num_decode_gpu",
    "Spec Decoding": "spec_decoding",
    "DP Attention": "dp_attention",
    "Is Multinode": "is_multinode",
}
_METRICS = {"TTFT": "ttft", "TPOT": "tpot", "ITL": "itl", "E2E Latency": "e2el"}
_TIMES = {
    f"{statistic} {label} (ms)": f"{statistic.lower()}_{short}"
    for statistic in ("Mean", "Median", "Std", "P90", "P95", "P99")
    for label, short in _METRICS.items()
}
_INTERACTIVITY = "{} Interactivity (tok/s/user)"
_SIGNS = {"Hardware Key", "Framework", "Throughput/GPU (tok/s)", "Median TPOT (ms)", "DP Attention"}


def matches(source: Source) -> bool:
    """Tell whether the first line that is no comment is the header of such an export."""
    return set(_header(source.head.splitlines())) >= _SIGNS


def _header(lines: list[str]) -> list[str]:
    first = next((text for text in lines if text.strip() and not text.startswith("#")), "")
    return _cells(first)


def _cells(text: str) -> list[str]:
    try:
        return next(csv.reader([text]), [])
    except csv.Error:
        return []


def read(source: Source) -> Reading:
    """Read one record a row; the comment before the header names licence and origin."""
    notes = [text.lstrip("# ") for text in source.head.splitlines()[:20] if text.startswith("#")]
    return Reading(_records(source), {"tool": "InferenceX dashboard", "notes": " ".join(notes)})


def _records(source: Source) -> Iterator[Record | Rejection]:
    header: list[str] = []
    for line in source.lines():
        if line.text.startswith("#"):
            continue
        cells = _cells(line.text)
        if not header:
            header = cells
        elif len(cells) != len(header):
            yield Rejection(line.number, f"{len(cells)} cells where the header has {len(header)}")
        else:
            yield _record(line, dict(zip(header, cells, strict=True)))


def _record(line: Line, row: Mapping[str, str]) -> Record | Rejection:
    to_ms = _milliseconds(row)
    if to_ms is None:
        return Rejection(
            line.number,
            "interactivity x TPOT is neither 1 (seconds) nor 1000 (ms): the unit of the times is not known",
        )
    columns = _RENAMED | _TIMES
    result = {columns.get(name, name): _value(cell) for name, cell in row.items() if cell.strip()}
    data, inferred, stated = inferencex.run(result, to_ms)
    data["measured_on"] = result.get("measured_on")
    names = {key: name for name, key in columns.items()}
    stated = {key: (names[name], value, unit) for key, (name, value, unit) in stated.items()}
    return Record(line.number, line.text, data, inferred, stated)


def _milliseconds(row: Mapping[str, str]) -> float | None:
    """Return what the times of a row are multiplied by to become ms."""
    for statistic in ("Median", "Mean"):
        tpot = number(_value(row.get(f"{statistic} TPOT (ms)", "")))
        rate = number(_value(row.get(_INTERACTIVITY.format(statistic), "")))
        if tpot is not None and rate is not None:
            for product, factor in ((1.0, 1000.0), (1000.0, 1.0)):
                if abs(tpot * rate / product - 1) < 0.01:
                    return factor
    return None


def _value(cell: str) -> Any:
    """Read a cell as a number where it is one."""
    try:
        found = float(cell)
    except ValueError:
        return cell.strip()
    return int(found) if found.is_integer() and cell.strip().lstrip("-").isdigit() else found
