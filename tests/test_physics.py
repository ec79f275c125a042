"""Properties that the physics must have whatever the coefficients are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicalib.errors import InvalidValue, NotCovered, UnknownName
from aicalib.models import list_architectures
from aicalib.physics.roofline import smooth_maximum
from aicalib.physics.steps import decode_step, prefill_step, total_s
from aicalib.physics.system import spread_over
from aicalib.physics.tables import StepTimes, tabulate
from aicalib.profiles import priors
from aicalib.resolve.rows import resolve

ALMOST = 1 - 1e-12
"""Room for the last digit of sums in another order."""

MODELS = ("llama-3.1-8b", "llama-3.3-70b", "mixtral-8x7b", "deepseek-r1", "gpt-oss-120b", "qwen3-235b-a22b")


def one(**options):
    batch = resolve({name: [value] for name, value in ({"gpu": "h200-sxm", "tp": 8} | options).items()})
    for error in batch.refused.values():
        raise error
    return batch


def times(batch, coefficients=None):
    c = coefficients or spread_over(batch.system, priors())
    return StepTimes(tabulate(batch.system, c), batch.at, batch.settings.graph_max_batch)


def decode_ms(batch, running=16.0, context=1500.0, padded=None):
    row = np.array([running]), np.array([context]), np.array([padded or running])
    return 1e3 * times(batch).decode_s(*row)[0]


def prefill_ms(batch, tokens=2048.0, length=2048.0):
    return 1e3 * times(batch).prefill_s(np.array([tokens]), np.array([length]), np.ones(1))[0]


@given(st.floats(0, 1e3), st.floats(0, 1e3))
def test_smooth_maximum_is_between_the_greater_and_the_sum(first, second):
    found = smooth_maximum(np.array([first]), np.array([second]))[0]
    assert max(first, second) * (1 - 1e-12) <= found <= (first + second) * (1 + 1e-12)


COVERED = [each.name for each in list_architectures() if each.reason is None]


def test_many_rows_are_the_rows_one_by_one():
    table = {"model": list(MODELS), "gpu": ["h200-sxm"] * 6, "tp": [8, 4, 2, 8, 4, 8]}
    together = resolve(table)
    found = times(together).decode_s(np.full(6, 7.0), np.full(6, 900.0), np.full(6, 7.0))
    for row in range(6):
        alone = one(**{name: values[row] for name, values in table.items()})
        assert 1e3 * found[row] == pytest.approx(decode_ms(alone, 7.0, 900.0), rel=1e-12)


def test_padding_costs_rows_but_no_cache():
    batch = one(model="llama-3.1-8b", tp=1)
    c = spread_over(batch.system, priors())
    nine, context = np.array([9.0]), np.array([32000.0])
    plain, padded = (
        decode_step(batch.system, c, nine, context, np.array([rows]), np.array([512.0]))
        for rows in (9.0, 12.0)
    )
    found = [{each.name: each.time_s[0] for each in step} for step in (plain, padded)]
    assert found[0]["attention"] == found[1]["attention"]
    assert found[0]["gate_up_proj"] < found[1]["gate_up_proj"]
    assert total_s(padded)[0] < 1.05 * total_s(plain)[0]


@pytest.mark.parametrize("model", COVERED)
def test_looked_up_times_are_those_of_the_operators(model):
    batch = one(model=model, gpu="b300", tp=1, isl=64, osl=64)
    c = spread_over(batch.system, priors())
    for running, context in ((1.0, 700.0), (37.0, 3000.0), (200.0, 900.0)):
        row = np.array([running]), np.array([context]), np.array([running])
        exact = total_s(decode_step(batch.system, c, *row, np.array([512.0])))[0]
        assert times(batch, c).decode_s(*row)[0] == pytest.approx(exact, rel=0.06)
    for tokens, length in ((100.0, 100.0), (6000.0, 1500.0), (8192.0, 50_000.0)):
        row = np.array([tokens]), np.array([length]), np.ones(1)
        exact = total_s(prefill_step(batch.system, c, *row))[0]
        assert times(batch, c).prefill_s(*row)[0] == pytest.approx(exact, rel=0.06)


def test_a_batch_without_a_graph_is_launched_kernel_by_kernel():
    graph, eager = (one(model="llama-3.1-8b", tp=1, cuda_graph_max_bs=size) for size in (32, 0))
    assert decode_ms(eager, 8.0) > 1.5 * decode_ms(graph, 8.0)


@pytest.mark.parametrize(
    ("version", "gpu", "tp", "chunk", "graph"),
    [
        ("0.5.23", "h100", 1, 8192, 256), ("0.5.23", "h100", 4, 8192, 512), ("0.5.23", "b200", 1, 16384, 512),
        ("0.5.23", "l4", 1, 4096, 48), ("0.5.4", "l4", 1, 2048, 16), ("0.5.4", "l4", 4, 2048, 80),
        ("0.5.23", "t4", 1, 2048, 8), ("0.4.6", "l4", 4, 2048, 80), ("0.4.6", "h100", 1, 8192, 160),
    ],
)  # fmt: skip
def test_what_sglang_takes_by_itself(version, gpu, tp, chunk, graph):
    found = one(model="llama-3.1-8b", gpu=gpu, tp=tp, engine_version=version, gemm="fp16").settings
    assert (found.chunk_tokens[0], found.graph_max_batch[0]) == (chunk, graph)


@pytest.mark.parametrize(
    ("gpu", "chunk", "running"), [("h100", 8192, 1024), ("a100", 2048, 256), ("b200", 16384, 1024)]
)
def test_what_vllm_takes_by_itself(gpu, chunk, running):
    found = one(model="llama-3.1-8b", gpu=gpu, tp=1, engine="vllm", scheduler_recv_interval=30).settings
    assert (found.chunk_tokens[0], found.max_running[0]) == (chunk, running)
    assert found.poll_interval[0] == 1


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"tp": 7}, InvalidValue, "does not divide the 64 attention heads"),
        ({"tp": 0}, InvalidValue, "tp 0"),
        ({"tp": 8, "dp": 3}, InvalidValue, "dp 3 does not divide tp 8"),
        ({"tp": 8, "ep": 4}, InvalidValue, "ep 4 on llama-3.3-70b: it is a dense model"),
        ({"tp": 16}, NotCovered, "several nodes"),
        ({"load": "open"}, InvalidValue, "request_rate"),
        ({"model": "lama-3.3-70b"}, UnknownName, "did you mean llama-3.3-70b"),
        ({"gpu": "h1000"}, UnknownName, "did you mean"),
        ({"gemm": "fp9"}, UnknownName, "fp8"),
        ({"moe": "fp8"}, InvalidValue, "dense model"),
        ({"isl": -5}, InvalidValue, "isl -5"),
        ({"concurrency": 0}, InvalidValue, "concurrency 0"),
        ({"osl": 0.5}, InvalidValue, "osl 0.5"),
        ({"isl": 200_000}, InvalidValue, "131072 positions"),
        ({"model": "phi-4", "tp": 4}, InvalidValue, "10 KV heads"),
        ({"chunked_prefill_size": 1.5}, InvalidValue, "chunked_prefill_size 1.5"),
        ({"max_running_requests": 0}, InvalidValue, "max_running_requests 0"),
        ({"cuda_graph_max_bs": -5}, InvalidValue, "cuda_graph_max_bs -5"),
        ({"scheduler_recv_interval": float("inf")}, InvalidValue, "scheduler_recv_interval inf"),
        ({"mem_fraction": 1.5}, InvalidValue, "mem_fraction 1.5"),
        ({"engine_month": 1e9}, InvalidValue, "engine_month"),
        ({"lockstep": "maybe"}, InvalidValue, "neither yes nor no"),
        ({"isl": "many"}, InvalidValue, "'many' is not a number"),
        ({"isl": 1000, "context_len": 512}, InvalidValue, "context_len is 512"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(options, error, words):
    with pytest.raises(error, match=words.replace("(", r"\(")):
        one(**({"model": "llama-3.3-70b"} | options))


@pytest.mark.parametrize(
    ("options", "works"),
    [
        ({"isl": 0}, {"isl": 1024}),
        ({"osl": float("inf")}, {"osl": 1024}),
        ({"concurrency": 2.5}, {"concurrency": 2}),
        ({"tp": 0}, {"tp": 1}),
    ],
)
def test_a_wrong_number_says_what_would_work_and_that_works(options, works):
    with pytest.raises(InvalidValue) as refused:
        one(model="llama-3.2-1b", **options)
    (name, value), *_ = works.items()
    assert refused.value.alternatives == [f"{name} {value}"]
    assert one(model="llama-3.2-1b", **works)


def test_an_unknown_format_says_where_all_are_listed():
    with pytest.raises(UnknownName, match="'aicalib list modes' lists all"):
        one(model="llama-3.3-70b", gemm="fp9")


def test_an_unknown_option_is_refused():
    with pytest.raises(UnknownName, match="did you mean"):
        resolve({"modle": ["llama-70b"]})
