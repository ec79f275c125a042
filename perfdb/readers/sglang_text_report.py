"""Reports that serving benchmarks print: `Serving Benchmark Result` blocks in any text, one run a block.

SGLang's `bench_serving` (every version, the misspelt "Max reqeuest concurrency" included) and vLLM's `vllm bench
serve`, which prints the same block without a `Backend` line: the engine is then not stated. Figures are rounded to
two decimals. A block holds neither model nor prompts sent nor nominal lengths; these are only suggested by

- the client's own `Namespace(...)` line before the block, after any earlier block;
- the command that starts the server, if exactly one stands before the block (with continued lines as one): of
  several, nothing says which one was measured.

vLLM prints its rate and cap only where they are set. Its source (`vllm/benchmarks/serve.py`, 0.10.2 to 0.32)
prints both wherever it prints "Peak concurrent requests" or "Failed requests"; their absence beside one of these
suggests an infinite rate, or no cap.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, Final

from perfdb.readers.launch_line import launch
from perfdb.readers.reading import Reading
from perfdb.readers.redact import redact_text
from perfdb.readers.sglang_bench_serving import engine_of, load, unstreamed
from perfdb.readers.source import Line, Source
from perfdb.readers.values import number, ratio
from perfdb.record import Record, Rejection

NAME = "sglang_text_report"

_OPENS = re.compile(r"^[ \t>|]*={3,} *Serving Benchmark Result *={3,}[ \t\r]*$", re.MULTILINE)
_CLOSES = re.compile(r"^[ \t>|]*={20,}\s*$")
_SECTION = re.compile(r"^[ \t>|]*-{3,}([^-].*?)-{3,}\s*$")
_ROW = re.compile(r"^[ \t>|]*([^\s:][^:]*):\s+(\S.*)$")
_LIMIT = re.compile(r"(\w+):(\d+(?:\.\d+)?)")
LONGEST: Final = 200
"""Lines after which a block that does not close is given up."""

WIDEST: Final = 1_000
"""Characters beyond which a line is no row of a report."""

_LABELS: Final = {
    "Backend": "backend",
    "Max request concurrency": "max_concurrency",
    "Max reqeuest concurrency": "max_concurrency",
    "Maximum request concurrency": "max_concurrency",
    "Traffic request rate": "request_rate",
    "Request rate configured (RPS)": "request_rate",
    "Successful requests": "completed",
    "Failed requests": "failed",
    "Benchmark duration (s)": "duration_s",
    "Total input tokens": "total_input_tokens",
    "Total input text tokens": "total_input_text_tokens",
    "Total input vision tokens": "total_input_vision_tokens",
    "Total generated tokens": "total_output_tokens",
    "Total generated tokens (retokenized)": "total_output_tokens_retokenized",
    "Request throughput (req/s)": "requests_s",
    "Input token throughput (tok/s)": "input_tok_s",
    "Output token throughput (tok/s)": "output_tok_s",
    "Peak output token throughput (tok/s)": "max_output_tokens_per_s",
    "Peak concurrent requests": "max_concurrent_requests",
    "Total token throughput (tok/s)": "total_tok_s",
    "Total Token throughput (tok/s)": "total_tok_s",
    "Concurrency": "achieved_concurrency",
    "Accept length": "accept_length",
    "Acceptance length": "accept_length",
    "Request goodput (req/s)": "request_goodput",
    "SLO attainment (%)": "slo_attainment_pct",
    "SLOs (ms)": "goodput_slos_ms",
    "Cache hit rate": "cache_hit_rate_pct",
} | {
    f"{word}{number_} {label} (ms)": f"{word.lower()}{number_}_{short}_ms"
    for word, number_ in (("Mean", ""), ("Median", ""), ("P", "90"), ("P", "95"), ("P", "99"))
    for label, short in (
        ("TTFT", "ttft"),
        ("TPOT", "tpot"),
        ("ITL", "itl"),
        ("E2E Latency", "e2e"),
        ("E2EL", "e2e"),
    )
}
"""What the clients print, and the key or the client's own name for it."""

_NAMESPACE = re.compile(r"Namespace\(.*\bnum_prompts=")
_ARGUMENT = re.compile(r"\b(\w+)=('[^']*'|[^,\s)]+)")


def matches(source: Source) -> bool:
    """Tell whether the head of the file holds the first line of a report."""
    return _OPENS.search(source.head) is not None


def read(source: Source) -> Reading:
    """Read one record a block."""
    return Reading(_records(source), {"tool": "Serving Benchmark Result, as printed"})


def _records(source: Source) -> Iterator[Record | Rejection]:
    launches: list[dict[str, Any]] = []
    client: dict[str, Any] = {}
    block: list[Line] = []
    for line in _joined(source):
        if _OPENS.match(line.text):
            if block:
                yield _cut(block)
            block = [line]
        elif block:
            block.append(line)
            if _CLOSES.match(line.text):
                yield _record(block, launches, client)
                block, client = [], {}
            elif len(block) > LONGEST:
                yield _cut(block)
                block, client = [], {}
        elif len(line.text) > 100 * WIDEST:
            continue
        elif found := launch(line.text):
            launches.append(found | {"launch_command": redact_text(line.text.strip(" #>|"))})
        elif _NAMESPACE.search(line.text):
            client = _arguments(line.text)
    if block:
        yield _cut(block)


def _joined(source: Source) -> Iterator[Line]:
    """Stream the lines, one that ends in a backslash together with the next."""
    begun: Line | None = None
    for line in source.lines():
        if begun is not None:
            line = Line(begun.number, begun.text[:-1] + " " + line.text.strip())
            begun = None
        if line.text.endswith("\\") and len(line.text) < 10_000:
            begun = line
        else:
            yield line
    if begun is not None:
        yield begun


def _cut(block: list[Line]) -> Rejection:
    return Rejection(block[0].number, f"report without its last line: {block[-1].text.strip()!r} is the last")


def _record(
    block: list[Line], launches: list[dict[str, Any]], client: Mapping[str, Any]
) -> Record | Rejection:
    rows = _rows(block)
    completed = rows.get("completed")
    if isinstance(completed, float) or not number(completed):
        return Rejection(block[0].number, f"Successful requests is {completed!r}: no request was answered")
    data = {name: value for name, value in rows.items() if name not in ("max_concurrency", "request_rate")}
    data["mean_isl_actual"] = ratio(rows.get("total_input_tokens"), completed) or None
    data["mean_osl_actual"] = ratio(rows.get("total_output_tokens"), completed) or None
    data |= unstreamed(data)
    inferred = dict(launches[0]) if len(launches) == 1 else {}
    engine, certain = engine_of(rows.get("backend"))
    if engine:
        # A backend of the client outranks a command that may belong to another measurement.
        inferred["engine"] = engine
        if certain:
            data["engine"] = engine
    inferred["num_prompts"] = completed
    inferred |= client
    if "backend" not in rows and "range_ratio" in inferred:
        # vLLM's ratio is a spread to both sides, 0 for one length, where SGLang's is the smallest share.
        inferred["random_range_ratio"] = inferred.pop("range_ratio")
    if isinstance(rows.get("failed"), int):
        data["num_prompts"] = completed + rows["failed"]
    if isinstance(limits := rows.get("goodput_slos_ms"), str):
        data["goodput_slos_ms"] = {name: float(value) for name, value in _LIMIT.findall(limits)}
    _fill_load(rows, data, inferred)
    return Record(block[0].number, "\n".join(line.text for line in block), data, inferred)


def _fill_load(rows: Mapping[str, Any], data: dict[str, Any], inferred: dict[str, Any]) -> None:
    """Decide the load from what was printed; what vLLM leaves out only suggests it."""
    cap, rate = rows.get("max_concurrency"), rows.get("request_rate")
    data["concurrency"] = cap
    if "request_rate" in rows:
        data |= load(rate, cap)
    elif "backend" not in rows and ("max_concurrent_requests" in rows or "failed" in rows):
        inferred |= load("inf", cap)


def _rows(block: list[Line]) -> dict[str, Any]:
    """Read the rows of a block under keys, or under section and label where there is no key."""
    found: dict[str, Any] = {}
    others: dict[str, Any] = {}
    section = ""
    above = ""
    for line in block[1:-1]:
        if len(line.text) > WIDEST:
            continue
        if heading := _SECTION.match(line.text):
            section = heading[1].strip()
        elif row := _ROW.match(line.text):
            label, value = row[1].strip(), _value(row[2].strip())
            indented = line.text.startswith("  ")
            above = above if indented else label
            key = None if indented or section == "Probe Requests" else _LABELS.get(label)
            if key is not None and key not in found:
                found[key] = value
            else:
                place = chain((section,) if section else (), (above,) if indented else (), (label,))
                others[" / ".join(place)] = value
    return others | found


def _value(text: str) -> Any:
    """Read a printed value: whole and decimal numbers, per cent, `not set`; anything else is text."""
    plain = text.removesuffix("%").strip()
    if plain in ("not set", "None"):
        return None
    if re.fullmatch(r"-?\d{1,18}", plain):
        return int(plain)
    try:
        return float(plain)
    except ValueError:
        return text


def _arguments(line: str) -> dict[str, Any]:
    """Read from the client's arguments what the block does not print."""
    given = {name: value.strip("'") for name, value in _ARGUMENT.findall(line)}
    found: dict[str, Any] = {"dataset": given.get("dataset_name")}
    found["num_prompts"] = _value(given.get("num_prompts", "None"))
    model = given.get("model", "None")
    if model != "None":
        found["model"] = model
    if str(found["dataset"]).startswith("random"):
        found |= {
            "isl": _value(given.get("random_input_len", "None")),
            "osl": _value(given.get("random_output_len", "None")),
            "range_ratio": _value(given.get("random_range_ratio", "None")),
        }
    return found
