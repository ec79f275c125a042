"""SGLang's files, broken at random: every input ends in rows, rejections or UnknownFormat."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import perfdb
from perfdb.readers import format_of
from perfdb.readers.source import Source

DATA = Path(__file__).parent / "data" / "sglang"


def shortened(line: dict[str, Any]) -> dict[str, Any]:
    """Cut the settings of the server down to what the reader asks for, so that mutations hit it."""
    if isinstance(info := line.get("server_info"), dict):
        asked = (
            *(
                "version",
                "model_path",
                "quantization",
                "kv_cache_dtype",
                "tp_size",
                "dp_size",
                "pp_size",
                "ep_size",
            ),
            *("attn_dp_size", "enable_dp_attention", "speculative_algorithm", "cuda_graph_config"),
            *("disaggregation_mode", "mem_fraction_static"),
        )
        state = {"memory_usage": {"weight": 1.0, "kvcache": 2.0, "graph": {"decode": 0.5}}}
        line["server_info"] = {name: info.get(name) for name in asked} | {"internal_states": [state]}
    return line


LINES = [
    shortened(json.loads(line))
    for path in sorted(DATA.glob("*.jsonl"))
    for line in path.read_text().splitlines()
] + [
    {"batch_size": 8, "input_len": 9, "output_len": 5, "prefill_latency": 0.05, "total_latency": 0.09,
     "median_decode_latency": 0.01, "overall_throughput": 1e4, "run_name": "x"},
    {"backend": "engine", "successful_requests": 9, "total_latency": 4.0, "total_input_tokens": 10,
     "total_output_tokens": 5, "request_throughput": 2.5, "input_throughput": 2.0, "output_throughput": 1.0,
     "total_throughput": 3.0},
    *json.loads((DATA / "one_batch_server_0.5.23_pydantic.json").read_text()),
]  # fmt: skip
LINES[-1]["server_args"] = ["--tp", "2"]

TEXTS = [
    *(path.read_text() for path in sorted(DATA.glob("bench_serving_*.txt"))),
    (DATA / "server_0.5.23.log").read_text(),
    "sglang serve --model-path a/b --tp 2\n" + (DATA / "bench_serving_0.2.15.txt").read_text(),
]

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**30)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["inf", "trace", "fp8", "/a/b", "", "None", "random"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)

NOISE = st.text(max_size=12) | st.sampled_from(
    [
        "\n",
        "GB",
        "9" * 400,
        "-",
        ": ",
        "=",
        "nan",
        "inf",
        "'",
        "(",
        "[",
        "batch",
        "\x00",
        "\\\n",
        "1e999",
        "=" * 50,
    ]
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    keys = (
        value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    )
    for key, inner in keys:
        found += places(inner, (*path, key))
    return found


@st.composite
def broken_lines(draw: st.DrawFn) -> str:
    line = json.loads(json.dumps(draw(st.sampled_from(LINES))))
    for _ in range(draw(st.integers(1, 4))):
        known = places(line)
        if not known:
            break
        *way, last = draw(st.sampled_from(known))
        holder = line
        for key in way:
            holder = holder[key]
        if draw(st.booleans()):
            holder[last] = draw(VALUES)
        elif isinstance(holder, dict):
            del holder[last]
    text = json.dumps([line] if draw(st.integers(0, 9)) == 0 else line)
    return text[: draw(st.integers(0, len(text)))] if draw(st.integers(0, 4)) == 0 else text


@st.composite
def broken_texts(draw: st.DrawFn) -> str:
    text = draw(st.sampled_from(TEXTS))
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(text)))
        text = text[:start] + draw(NOISE) + text[start + draw(st.integers(0, 60)) :]
    lines = text.split("\n")
    if draw(st.booleans()):
        keep = draw(st.lists(st.integers(0, len(lines) - 1), min_size=1, max_size=120))
        lines = [lines[place] for place in keep]
    return "\n".join(lines)


def read_through(content: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "broken.jsonl"
        path.write_bytes(content.encode(errors="replace"))
        try:
            result = perfdb.read_records(path)
            source = Source(path)
            steps = list(format_of(source).read(source).steps)
        except perfdb.UnknownFormat:
            return
        assert all(rejection.reason for rejection in result.rejected)
        json.dumps(steps, allow_nan=False)


def test_whole_numbers_beyond_a_float(tmp_path):
    for place, line in enumerate(LINES):
        path = tmp_path / f"{place}.jsonl"
        path.write_text(
            json.dumps({name: 10**400 if value is not None else value for name, value in line.items()})
        )
        source = Source(path)
        assert len(list(format_of(source).read(source).records)) == 1


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(broken_lines(), min_size=1, max_size=3))
def test_broken_result_lines(lines):
    read_through("\n".join(lines))


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(broken_texts())
def test_broken_logs_and_reports(text):
    read_through(text)
