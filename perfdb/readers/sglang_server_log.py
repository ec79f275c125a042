"""The log of an SGLang server: what it says of memory when it starts, and its lines on prefill and decode steps.

Wordings are those of 0.2.15, 0.3.0, 0.4.1, 0.4.2, 0.4.6, 0.5.2, 0.5.9, 0.5.15 and 0.5.23 (`srt/managers`,
`srt/model_executor`, `srt/mem_cache`). A line is `[time rank] message`, whatever stands before the bracket, or the
message alone; up to 0.3 the time has no date. "GB" in these lines is GiB.

A start begins with `server_args=`, or where the log begins after that line, with the first line of a start. By
rank, the first weights and the first pool are the model's, the second are those of a draft model.

Definitions of the memory figures: free memory before loading, after the pool and at the end is the smallest over
ranks; weights, pool and graphs are those of the first rank; all captures are summed; a pool of a sliding window
counts into `kv_gib`. `weights_gib` is the line's own figure, or of logs without it (to 0.4.1) free memory before
less free memory after. A size below zero (host memory moves on a CPU) is kept as `..._logged`. SGLang does not log
its version or the GPU.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from perfdb.readers.reading import Reading
from perfdb.readers.redact import redact, redact_text
from perfdb.readers.sglang_server_args import server_args
from perfdb.readers.sglang_server_info import settings
from perfdb.readers.sglang_steps import is_step, step
from perfdb.readers.source import Line, Source
from perfdb.record import Record

NAME = "sglang_server_log"

_PREFIX: Final = (
    r"\[(?P<at>(?:\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d(?:[.,]\d+)?)(?P<rank>(?: [A-Z][A-Z_]{0,9}\d{1,6})*)\]\s+"
)
_LINE = re.compile(_PREFIX + r"(?P<message>\S.*)$")
_SIGNS = re.compile(
    rf"(?:{_PREFIX}|^)"
    + r"(?:server_args=(?:ServerArgs\(|\{)|Load weight (?:begin|end)\. |Memory pool end\. "
    r"|max_total_num_tokens=\d|(?:Decode|Prefill) batch\b[^\n]*#(?:running|queue|new))",
    re.MULTILINE,
)
_FACT = re.compile(
    r"server_args=|Load weight (?:begin|end)\.|Using KV cache dtype|Mamba Cache is allocated|Memory pool end"
    r"|(?:[\w -]* )?KV Cache is allocated|Post-capture KV sizing|Capture .*\b(?:begin|end)\b"
    r"|SWAKVPool mem usage|max_total_num_tokens=|The server is fired up"
)
_MARKS: Final = (
    *("server_args=", "Load weight", "KV Cache", "KV cache", "SWAKVPool", "Mamba Cache"),
    *("Memory pool end", "Capture ", "max_total_num_tokens=", "fired up", " batch"),
)
"""A line without any of these is passed over at once."""

_SIZE: Final = r"(-?\d{1,9}(?:\.\d{1,9})?)\s*GB"
_FREE = re.compile(r"avail mem=" + _SIZE)
_USED = re.compile(r"mem usage=" + _SIZE)
_POOL_PART = re.compile(r"\b(?:K|V|KV) size: " + _SIZE)
_STATE_PART = re.compile(r"size: " + _SIZE)
_DTYPE = re.compile(r"dtype(?:: |=)torch\.(\w+)")
_FIELD = re.compile(r"(\w+)=(-?\d{1,18}(?:\.\d{1,9})?)")

_KV_FORMATS: Final = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "float8_e4m3fn": "fp8_e4m3",
    "float8_e4m3fnuz": "fp8_e4m3",
    "float8_e5m2": "fp8_e5m2",
}


@dataclass
class _Pool:
    """One pool of keys and values: its size in GiB, its tokens if logged, whether it is an index."""

    size_gib: float
    tokens: int | None
    index: bool = False


@dataclass
class _Rank:
    """What one rank logged, in GiB: the model's figures first, then a draft model's."""

    before: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    weights: list[float | None] = field(default_factory=list)
    pools: list[list[_Pool]] = field(default_factory=lambda: [[], []])
    after_pool: list[float] = field(default_factory=list)
    state: float | None = None
    graphs: list[float] = field(default_factory=list)
    after_graphs: float | None = None


@dataclass
class _Start:
    """One start of a server, gathered line by line."""

    line: int
    at: str | None
    texts: list[str] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)
    ranks: dict[str, _Rank] = field(default_factory=dict)
    sizes: dict[str, float] = field(default_factory=dict)
    tokens: list[int] = field(default_factory=list)
    named: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Entry:
    """A recognized line and the start that it belongs to or follows; None before any."""

    line: Line
    at: str | None
    rank: str
    message: str
    start: int | None


def matches(source: Source) -> bool:
    """Tell whether the head of the file holds a line of this server."""
    return _SIGNS.search(source.head) is not None


def read(source: Source) -> Reading:
    """Read one record a start; step lines go to `steps`."""
    return Reading(_starts(source), {"tool": "sglang server log"}, _steps(source))


def _entries(source: Source) -> Iterator[_Entry]:
    """Stream the recognized lines and count the starts."""
    start: int | None = None
    for line in source.lines():
        if not any(mark in line.text for mark in _MARKS):
            continue
        found = _LINE.search(line.text)
        message = found["message"] if found else line.text.strip()
        fact = _FACT.match(message) is not None
        if not fact and not is_step(message):
            continue
        if message.startswith("server_args="):
            start = 0 if start is None else start + 1
        elif fact and start is None:
            start = 0
        at, rank = (found["at"], found["rank"].strip()) if found else (None, "")
        yield _Entry(line, at, rank, message, start)


def _steps(source: Source) -> Iterator[Mapping[str, Any]]:
    for entry in _entries(source):
        if is_step(entry.message):
            place = {"line": entry.line.number, "start": entry.start}
            yield place | {"at": entry.at, "rank": entry.rank or None} | step(entry.message)


def _starts(source: Source) -> Iterator[Record]:
    begun: _Start | None = None
    index: int | None = None
    for entry in _entries(source):
        if entry.start is None or is_step(entry.message):
            continue
        if begun is None or entry.start != index:
            if begun is not None:
                yield _record(begun)
            begun, index = _Start(entry.line.number, entry.at), entry.start
        _note(begun, entry)
    if begun is not None:
        yield _record(begun)


def _note(start: _Start, entry: _Entry) -> None:
    """Take what one line says."""
    message = entry.message
    start.texts.append(redact_text(entry.line.text))
    rank = start.ranks.setdefault(entry.rank, _Rank())
    free, used = _gib(_FREE, message), _gib(_USED, message)
    if message.startswith("server_args="):
        start.info = redact(server_args(message.removeprefix("server_args=")))
    elif message.startswith("Load weight begin") and free is not None:
        rank.before.append(free)
    elif message.startswith("Load weight end") and free is not None:
        rank.after.append(free)
        rank.weights.append(used)
        _name(start, message)
    elif message.startswith("Memory pool end") and free is not None:
        rank.after_pool.append(free)
    elif message.startswith("Mamba Cache"):
        rank.state = (rank.state or 0.0) + sum(map(float, _STATE_PART.findall(message)))
    elif message.startswith("Capture") and used is not None:
        rank.graphs.append(used)
        rank.after_graphs = rank.after_graphs if free is None else free
    elif message.startswith("max_total_num_tokens="):
        _totals(start, message)
    elif message.startswith("The server is fired up"):
        start.named["ready"] = True
    elif "KV cache dtype" in message:
        start.named.setdefault("kv_dtype", _kv_format(message.replace("dtype: ", "dtype=")))
    elif found := re.search(r"^SWAKVPool.*\bswa size: (\d{1,18})", message):
        start.named.setdefault("swa_tokens", int(found[1]))
    elif "KV " in message:
        _pool(start, rank, message)


def _pool(start: _Start, rank: _Rank, message: str) -> None:
    """Take a pool; one that is sized after the graphs takes the place of the first estimate."""
    parts = _POOL_PART.findall(message)
    if not parts:
        return
    tokens = re.search(r"#tokens: (\d{1,18})", message)
    head = message.split("KV C", 1)[0].split("KV c", 1)[0]
    pool = _Pool(sum(map(float, parts)), int(tokens[1]) if tokens else None, "index" in head)
    sized = message.startswith("Post-capture")
    draft = "draft" in head if sized else len(rank.after_pool) > 0
    rank.pools[draft] = [pool] if sized else [*rank.pools[draft], pool]
    if not draft and not pool.index:
        start.named.setdefault("kv_dtype", _kv_format(message))


def _totals(start: _Start, message: str) -> None:
    """Take the line that sums the start up."""
    for name, value in _FIELD.findall(message):
        if name == "max_total_num_tokens":
            start.tokens.append(int(float(value)))
        elif name.startswith("available_"):
            start.sizes["avail_mem_end_gib"] = min(
                float(value), start.sizes.get("avail_mem_end_gib", float("inf"))
            )
        elif name in ("max_running_requests", "context_len", "chunked_prefill_size", "max_prefill_tokens"):
            start.named[name] = int(float(value))


def _name(start: _Start, message: str) -> None:
    """Take class, number format and quantization of the weights, of the first model that is loaded."""
    for name, pattern in (
        ("model_class", r"\btype=(\w+)"),
        ("weight_dtype", r"\bdtype=(?:torch\.)?(\w+)"),
        ("checkpoint_quant", r"\bquant=([\w-]+)"),
    ):
        if (found := re.search(pattern, message)) and len(start.ranks) == 1:
            start.named.setdefault(name, found[1])


def _kv_format(message: str) -> str | None:
    found = _DTYPE.search(message)
    return _KV_FORMATS.get(found[1]) if found else None


def _gib(pattern: re.Pattern[str], message: str) -> float | None:
    found = pattern.search(message)
    return float(found[1]) if found else None


def _record(start: _Start) -> Record:
    """Make the start-up record."""
    stated, suggested = settings(start.info) if start.info else ({"engine": "sglang"}, {})
    data = {name: value for name, value in stated.items() if value is not None}
    data |= {name: value for name, value in start.named.items() if value is not None}
    data |= {"ready": start.named.get("ready", False), "started_at": start.at}
    if "speculative_algorithm" in start.info:
        data["speculative"] = start.info["speculative_algorithm"] or False
    if "max_total_tokens" in start.info:
        data["tokens_capped_by_user"] = start.info["max_total_tokens"] is not None
    data |= {"page_size": start.info["page_size"]} if start.info.get("page_size") is not None else {}
    if start.tokens:
        data["max_total_tokens"] = min(start.tokens)
    for name, value in (_sizes(start) | start.sizes).items():
        data[name if value >= 0 else f"{name}_logged"] = round(value, 3)
    if "kv_gib" in data:
        data["kv_gib_source"] = "log"
    if "weights_gib" in data:
        first = _first(start)
        data["weights_source"] = "log" if first.weights[0] is not None else "begin_minus_end"
    windows = {pool.tokens for pool in _first(start).pools[0] if not pool.index} - {None}
    if len(windows) == 2 and data.get("max_total_tokens") in windows:
        (data["swa_tokens"],) = windows - {data["max_total_tokens"]}
    return Record(start.line, "\n".join(start.texts), data, suggested, table="startups")


def _first(start: _Start) -> _Rank:
    """Return the first rank that logged memory."""
    names = sorted(start.ranks, key=lambda name: [int(digits) for digits in re.findall(r"\d+", name)])
    logged = [start.ranks[name] for name in names if start.ranks[name].after or any(start.ranks[name].pools)]
    return logged[0] if logged else _Rank()


def _sizes(start: _Start) -> dict[str, float]:
    """Reduce the figures of the ranks, in GiB."""
    first, ranks = _first(start), start.ranks.values()
    weights = list(first.weights)
    if weights and weights[0] is None and first.before:
        weights[0] = first.before[0] - first.after[0]
    pools = [[pool.size_gib for pool in model if not pool.index] for model in first.pools]
    found = {
        "avail_mem_before_load_gib": _least(rank.before[0] for rank in ranks if rank.before),
        "avail_mem_after_load_gib": first.after[0] if first.after else None,
        "avail_mem_after_load_min_gib": _least(rank.after[0] for rank in ranks if rank.after),
        "weights_gib": weights[0] if weights else None,
        "draft_weights_gib": weights[1] if len(weights) > 1 else None,
        "kv_gib": sum(pools[0]) if pools[0] else None,
        "draft_kv_gib": sum(pools[1]) if pools[1] else None,
        "index_gib": sum(pool.size_gib for pool in first.pools[0] if pool.index) or None,
        "mamba_gib": first.state,
        "avail_mem_after_pool_gib": _least(rank.after_pool[0] for rank in ranks if rank.after_pool),
        "graph_mem_gib": sum(first.graphs) if first.graphs else None,
        "avail_mem_end_gib": _least(rank.after_graphs for rank in ranks if rank.after_graphs is not None),
    }
    return {name: value for name, value in found.items() if value is not None}


def _least(values: Iterable[float]) -> float | None:
    return min(values, default=None)
