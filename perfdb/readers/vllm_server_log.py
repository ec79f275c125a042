"""Logs of a vLLM server or offline engine, 0.6 to 0.33: what each start said about memory, and its load lines.

A line is `(process) LEVEL MM-DD HH:MM:SS [file:line] message`, with colors and prefixes that vary. Sizes that
the engine calls GB are GiB. Every worker logs its own; one figure stands for all: the smallest pool and free
memory, the largest of what was taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from perfdb.readers.reading import Reading
from perfdb.readers.redact import REDACTED
from perfdb.readers.source import Line, Source
from perfdb.readers.spellings import WEIGHTS, model_named
from perfdb.record import Record

NAME = "vllm_server_log"

_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_TIME = re.compile(r"\b(?:DEBUG|INFO|WARNING|ERROR) (\d\d-\d\d \d\d:\d\d:\d\d)\b")
_PROCESS = re.compile(r"\(([^()]*\bpid=\d+[^()]*)\)")
_SECRET = re.compile(
    r"(\b(?:\w+_)?(?:key|keyfile|token|password|passwd|secret)(?:_\w+)?'?\s*[=:]\s*)('[^']*'|\"[^\"]*\"|\[[^\]]*\])"
)

_MARKS: Final = (
    re.compile(r"vLLM API server version (?P<version>\S+)"),
    re.compile(r"vLLM server version (?P<version>[^\s,]+), serving model (?P<model>\S+)"),
    re.compile(r"█  version (?P<version>\d\S*)\s*$", re.MULTILINE),
    re.compile(r"█  model   (?P<model>\S+)\s*$", re.MULTILINE),
    re.compile(r"non-default args: (?P<settings>.*)"),
    re.compile(r"\bargs: (?P<settings>Namespace\(.*)"),
    re.compile(r"Initializing an? (?:V\d )?LLM engine \(v(?P<version>[^)]+)\) with config: (?P<settings>.*)"),
)
"""Lines that name the engine and its settings, in the order in which a start logs them."""
_ORDER: Final = (0, 0, 0, 0, 1, 1, 2)
_FACTS_ORDER: Final = 3

Pick = Literal["least", "most"]
_FACTS: Final[tuple[tuple[str, Pick, re.Pattern[str]], ...]] = (
    ("weights_gib", "most", re.compile(r"(?:Loading model weights|Model loading) took ([\d.]+) Gi?B\b")),
    ("weights_gib", "most", re.compile(r"model weights take ([\d.]+)GiB")),
    ("kv_gib", "least", re.compile(r"Available KV cache memory: (-?[\d.]+) GiB")),
    ("kv_gib", "least", re.compile(r"reserved for KV Cache is (-?[\d.]+)GiB")),
    ("kv_gib", "least", re.compile(r"Memory profiling results:.* kv_cache_size=(-?[\d.]+)GiB")),
    ("kv_gib", "least", re.compile(r"reserved ([\d.]+) GiB memory for KV Cache as specified")),
    ("kv_gib", "least", re.compile(r"Explicitly set \(([\d.]+)/[\d.]+\) GiB for KV cache")),
    ("max_total_tokens", "least", re.compile(r"\bKV cache size: ([\d,]+) tokens")),
    ("gpu_blocks", "least", re.compile(r"# (?:GPU|cuda) blocks: (\d+)")),
    ("context_len", "least", re.compile(r"Maximum concurrency for ([\d,]+) tokens per request")),
    ("max_concurrency", "least", re.compile(r"Maximum concurrency for [\d,]+ tokens per request: ([\d.]+)x")),
    ("avail_mem_before_load_gib", "least", re.compile(r"Initial free memory:? ([\d.]+) GiB")),
    ("avail_mem_before_load_gib", "least", re.compile(r"Free memory on device[^(]*\(([\d.]+)/[\d.]+ GiB\)")),
    ("gpu_mem_total_gib", "least", re.compile(r"Free memory on device[^(]*\([\d.]+/([\d.]+) GiB\)")),
    ("gpu_mem_total_gib", "least", re.compile(r"total_gpu_memory (?:=|\()([\d.]+)GiB")),
    ("gpu_mem_total_gib", "least", re.compile(r"Memory profiling results: total_gpu_memory=([\d.]+)GiB")),
    ("activation_peak_gib", "most", re.compile(r"PyTorch activation peak memory takes ([\d.]+)GiB")),
    ("activation_peak_gib", "most", re.compile(r"([\d.]+) GiB for peak activation")),
    ("non_torch_gib", "most", re.compile(r"non_torch_memory takes (-?[\d.]+)GiB")),
    ("non_torch_gib", "most", re.compile(r"Memory profiling results:.* non_torch_memory=(-?[\d.]+)GiB")),
    ("non_torch_gib", "most", re.compile(r"(-?[\d.]+) GiB for non-torch memory")),
    ("consumed_gib", "most", re.compile(r"([\d.]+) GiB for consumed memory")),
    ("graph_estimate_gib", "most", re.compile(r"Estimated CUDA graph memory: ([\d.]+) GiB")),
    ("init_s", "most", re.compile(r"init engine \([^)]*\) took ([\d.]+) s")),
    ("mem_fraction", "least", re.compile(r"(?:gpu_memory_utilization \(|gpu_memory_utilization=)([\d.]+)\b")),
    ("mem_fraction", "least", re.compile(r"Desired GPU memory utilization is \(([\d.]+),")),
    ("chunked_prefill_size", "least", re.compile(r"[Cc]hunked prefill is enabled with max_num_batched_tokens=(\d+)")),
    ("max_running_requests", "least", re.compile(r"Defaulting max_num_seqs to (\d+)")),
)  # fmt: skip
"""What a line says, by the key of a start-up record, and which of the workers' figures stands for all."""
_LIMITS: Final = ("mem_fraction", "chunked_prefill_size", "max_running_requests")
"""Settings among them: logged before the configuration, and nothing about memory."""
_GRAPHS = re.compile(r"Graph capturing finished in .* took ([\d.]+) GiB")

_CAPPED = re.compile(
    r"as specified by kv_cache_memory_bytes|Explicitly set .* for KV cache|Overriding num_gpu_blocks="
)
_SECOND_ENGINE = re.compile(r"EngineCore_(?:DP)?[1-9]")

_LOAD = re.compile(r"Avg prompt throughput: ([\d.]+) tokens/s, Avg generation throughput: ([\d.]+) tokens/s")
_ENGINE = re.compile(r"\bEngine (\d+):")
_PART = re.compile(r"([A-Z][\w ]*?): (-?[\d.]*\d)(%| reqs)?")
_ACCEPTANCE = re.compile(r"SpecDecoding metrics:.*?Mean acceptance length: ([\d.]+)")
_OF_USE = re.compile(
    r"Gi?B\b|KV cache|blocks:|concurrency for|vLLM|█|args: |LLM engine|init engine|max_num|num_gpu_blocks=|Avg prompt"
    r"|SpecDecoding"
)
"""A line without any of these says nothing that is read: most lines of a long log are about requests."""
_SIGNS = (*_MARKS, _LOAD, *(pattern for _, _, pattern in _FACTS[:8]))


def matches(source: Source) -> bool:
    """Tell whether the first lines hold one that vLLM logs."""
    head = source.head
    if head.lstrip().startswith("{"):
        return False
    return any(sign.search(head) for sign in _SIGNS)


def read(source: Source) -> Reading:
    """Read a record a start, and its load lines as steps.

    A line `Avg prompt throughput` is an average over the seconds since the last one: a step of the phase
    `interval`, whose `start` counts the starts of this file from 0.
    """
    return Reading(_starts(source), {"tool": "vllm"}, _steps(source))


@dataclass
class _Start:
    """What one start has said so far; `order` is how far it has come."""

    line: int
    order: int = -1
    settings: list[str] = field(default_factory=list)
    named: dict[str, str] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    graphs_gib: dict[str, float] = field(default_factory=dict)
    capped: bool = False
    texts: list[str] = field(default_factory=list)

    @property
    def logged(self) -> bool:
        """Whether anything about memory was logged."""
        return self.order >= _FACTS_ORDER

    def take(self, order: int, hit: re.Match[str]) -> None:
        """Take what a line of the beginning says."""
        self.order = order
        found = hit.groupdict()
        if settings := found.pop("settings", None):
            self.settings.append(settings)
        self.named |= {name: text for name, text in found.items() if text}


def _starts(source: Source) -> Iterator[Record]:
    for found in _walk(source):
        if isinstance(found, _Start):
            yield _record(found)


def _steps(source: Source) -> Iterator[Mapping[str, Any]]:
    for found in _walk(source):
        if not isinstance(found, _Start):
            yield found


def _walk(source: Source) -> Iterator[_Start | dict[str, Any]]:
    """Follow a log: a step where it stands, a start when the next one begins or the log ends."""
    start = _Start(1)
    done = 0
    step: dict[str, Any] | None = None
    for line in source.lines():
        if not _OF_USE.search(line.text):
            continue
        text = _COLOR.sub("", line.text)
        load = _LOAD.search(text)
        if load:
            if step:
                yield step
            index = done if start.logged else done - 1
            step = _step(line, text, load, index if index >= 0 else None)
            continue
        accepted = _ACCEPTANCE.search(text)
        if accepted and step:
            step["extra"]["acceptance_length"] = float(accepted[1])
            continue
        mark = _mark(text)
        if mark:
            order, hit = mark
            if start.logged:
                yield start
                done += 1
            if start.logged or order < start.order:
                start = _Start(line.number)
            start.take(order, hit)
            start.texts.append(_without_secrets(text))
        elif _facts(start, text):
            start.texts.append(text)
    if step:
        yield step
    if start.logged:
        yield start


def _mark(text: str) -> tuple[int, re.Match[str]] | None:
    """Find a line that belongs to the beginning of a start; other engines of the same start repeat it."""
    for order, sign in zip(_ORDER, _MARKS, strict=True):
        hit = sign.search(text)
        if hit and not _SECOND_ENGINE.search(text[: hit.start()]):
            return order, hit
    return None


def _facts(start: _Start, text: str) -> bool:
    """Take what a line says about memory; tell whether it said anything."""
    found = bool(_CAPPED.search(text))
    start.capped |= found
    for key, pick, pattern in _FACTS:
        hit = pattern.search(text)
        if hit and (value := _number(hit[1])) is not None:
            known = start.figures.get(key, value)
            start.figures[key] = min(known, value) if pick == "least" else max(known, value)
            found = True
            if key not in _LIMITS:
                start.order = _FACTS_ORDER
    graphs = _GRAPHS.search(text)
    if graphs and (value := _number(graphs[1])) is not None:
        # A worker may capture several times; its captures add up, those of other workers do not.
        process = _PROCESS.search(text)
        name = process[1] if process else ""
        start.graphs_gib[name] = start.graphs_gib.get(name, 0.0) + value
        start.order = _FACTS_ORDER
        found = True
    return found


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def _record(start: _Start) -> Record:
    figures: dict[str, Any] = dict(start.figures)
    for name in (
        "max_total_tokens",
        "gpu_blocks",
        "context_len",
        "chunked_prefill_size",
        "max_running_requests",
    ):
        if name in figures:
            figures[name] = int(figures[name])
    if start.graphs_gib:
        figures["graph_mem_gib"] = round(max(start.graphs_gib.values()), 6)
    settings, inferred = _settings(start)
    data = {"engine": "vllm", "engine_version": start.named.get("version")} | settings | figures
    if figures.get("non_torch_gib", 0) < 0:
        # A difference of two readings: below zero it is no size, and other processes freed memory meanwhile.
        data["non_torch_difference_gib"] = data.pop("non_torch_gib")
    if start.capped:
        data["tokens_capped_by_user"] = True
    if "weights_gib" in data:
        data["weights_source"] = "log"
    if "max_total_tokens" not in data and (page := _page_size(data)) is not None:
        data |= {"page_size": page, "max_total_tokens": data["gpu_blocks"] * page}
    return Record(start.line, "\n".join(start.texts), data, inferred, table="startups")


def _page_size(data: Mapping[str, Any]) -> int | None:
    """Return the tokens a block, stated or the one power of two that agrees with the maximum concurrency.

    Engines up to 0.8 log the pool in blocks: concurrency = blocks * page / context, printed to 0.01.
    """
    blocks, length, most = (data.get(name) for name in ("gpu_blocks", "context_len", "max_concurrency"))
    if blocks is None or data.get("page_size") is not None:
        return data.get("page_size") if blocks is not None else None
    if length is None or most is None:
        return None
    fitting = [page for page in (1, 8, 16, 32, 64, 128, 256) if abs(blocks * page / length - most) <= 0.0051]
    return fitting[0] if len(fitting) == 1 else None


def _settings(start: _Start) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the engine's settings out of its argument and configuration lines, the latter resolved."""
    # The configuration comes last in a start and holds what the engine made of the arguments.
    lines = start.settings[::-1]
    tp, pp = _whole(lines, "tensor_parallel_size"), _whole(lines, "pipeline_parallel_size")
    copies = _whole(lines, "data_parallel_size")
    found: dict[str, Any] = {
        "mem_fraction": _number(_setting(lines, "gpu_memory_utilization") or ""),
        "chunked_prefill_size": _whole(lines, "max_num_batched_tokens"),
        "max_running_requests": _whole(lines, "max_num_seqs"),
        "context_len": _whole(lines, "max_seq_len") or _whole(lines, "max_model_len"),
        "page_size": _whole(lines, "block_size"),
        "prefix_cache": _flag(lines, "enable_prefix_caching"),
        "expert_parallel": _flag(lines, "enable_expert_parallel"),
        "quantization": _setting(lines, "quantization"),
        "dtype": _setting(lines, "dtype"),
        "cuda_graph_max_bs": _whole(lines, "max_cudagraph_capture_size") or _whole(lines, "max_capture_size"),
    }
    if _flag(lines, "enforce_eager"):
        found["cuda_graph_max_bs"] = 0
    speculation = next(
        (hit[1] for text in lines if (hit := re.search(r"speculative_config=(\w+)", text))), None
    )
    if speculation is not None:
        found["speculative"] = speculation != "None"
    if tp is not None and pp is not None:
        found["n_gpus"] = tp * pp * (copies or 1)
    if copies is None or copies == 1:
        found |= {"tp": tp, "pp": pp, "dp": copies}
    else:
        # Replicas of a dense model, attention ranks of one with experts: the log does not say which.
        found |= {"pp": pp, "tensor_parallel_size": tp, "data_parallel_size": copies}
    named, path = model_named(
        _setting(lines, "model") or _setting(lines, "model_tag") or start.named.get("model")
    )
    inferred = dict(path)
    kv_dtype = _setting(lines, "kv_cache_dtype")
    (inferred if kv_dtype == "auto" else found)["kv_dtype"] = kv_dtype
    resolved = any(text.startswith("model=") and ", quantization=None," in text for text in lines)
    weights = found["dtype"].removeprefix("torch.") if resolved and found["dtype"] else found["quantization"]
    inferred["weight_quant"] = WEIGHTS.get(str(weights))
    return found | named, inferred


def _setting(lines: list[str], name: str) -> str | None:
    """Return a setting as text, from `name=value` or `'name': value`; None if absent, empty or None."""
    for text in lines:
        hit = re.search(
            rf"(?<![\w.])'?{name}'?\s*[=:]\s*(?:'([^']*)'|\"([^\"]*)\"|([^\s,(){{}}\[\]]+))", text
        )
        if hit:
            value = next((group for group in hit.groups() if group is not None), "")
            if value and value != "None":
                return value
    return None


def _whole(lines: list[str], name: str) -> int | None:
    value = _setting(lines, name)
    return int(value) if value is not None and value.isdecimal() else None


def _flag(lines: list[str], name: str) -> bool | None:
    return {"True": True, "False": False}.get(str(_setting(lines, name)))


def _without_secrets(text: str) -> str:
    """Replace keys and tokens in a line of arguments."""
    return _SECRET.sub(rf"\1'{REDACTED}'", text)


def _step(line: Line, text: str, load: re.Match[str], start: int | None) -> dict[str, Any]:
    """Read a load line; the first cache usage is the accelerator's, what else it states goes to `extra`."""
    at, engine = _TIME.search(text), _ENGINE.search(text)
    step: dict[str, Any] = {
        "line": line.number,
        "at": at[1] if at else None,
        "rank": int(engine[1]) if engine else None,
        "phase": "interval",
        "running": None,
        "queued": None,
        "token_usage": None,
        "gen_tok_s": _number(load[2]),
        "input_tok_s": _number(load[1]),
        "start": start,
    }
    extra: dict[str, Any] = {}
    for name, figure, unit in _PART.findall(text[load.end() :]):
        value = _number(figure)
        if name == "Running":
            step["running"] = value
        elif name in ("Waiting", "Pending"):
            step["queued"] = value
        elif name.endswith("KV cache usage") and step["token_usage"] is None and value is not None:
            step["token_usage"] = value / 100
        else:
            extra[name.lower().replace(" ", "_") + ("_pct" if unit == "%" else "")] = value
    for name in ("running", "queued"):
        step[name] = None if step[name] is None else int(step[name])
    return step | {"extra": extra}
