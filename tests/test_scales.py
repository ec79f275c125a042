"""Scales of FP8 activations: what finding them takes, where, and which runs had them given."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicalib.calibrate.checkpoints import weight_format
from aicalib.calibrate.kernels.scale import TABLES
from aicalib.physics.steps import decode_step, prefill_step, total_s
from aicalib.physics.system import spread_over
from aicalib.plan.search.best import Goal, search
from aicalib.plan.search.space import Sought
from aicalib.profiles import priors
from aicalib.resolve.rows import resolve

ENGINES = ("sglang", "vllm", "trtllm")
MODELS = ("qwen3-32b", "llama-3.1-8b", "qwen3-30b-a3b", "deepseek-v3")
GPUS = ("h100-sxm", "h200-sxm", "b200-sxm", "l40s", "rtx-4090", "a100-sxm-80gb", "mi300x")
ROOT = Path(__file__).parent.parent


def step(engine: str, gemm: str, batch: float, model: str = "qwen3-32b", gpu: str = "h200-sxm"):
    """Return the operators of a decode step of a batch, and of a prefill step of as many tokens."""
    row = {"model": model, "gpu": gpu, "tp": 8, "engine": engine, "gemm": gemm, "moe": None}
    system = resolve({name: [value] for name, value in row.items()}).system
    c, size = spread_over(system, priors()), np.array([batch])
    return (
        decode_step(system, c, size, np.array([1000.0]), size, np.array([1024.0])),
        prefill_step(system, c, size, size, np.ones(1)),
    )


@given(
    engine=st.sampled_from(ENGINES), model=st.sampled_from(MODELS), gpu=st.sampled_from(GPUS),
    batch=st.integers(1, 8192),
)  # fmt: skip
def test_given_scales_are_never_slower(engine, model, gpu, batch):
    for found, fixed in zip(
        *(step(engine, gemm, batch, model, gpu) for gemm in ("fp8", "fp8_static")), strict=True
    ):
        difference = float((total_s(found) - total_s(fixed))[0])
        scales = sum(float(each.time_s[0]) for each in found if each.scale == "dynamic_scale")
        assert not [each for each in fixed if each.scale == "dynamic_scale"]
        # Launches that overlap with the device hide a part in prefill, and no more than all of it.
        assert -1e-12 <= difference <= scales + 1e-12
        assert (difference > 0.0) == (scales > 0.0)
        if engine == "sglang" or gpu == "a100-sxm-80gb":
            assert scales == 0.0


@pytest.mark.parametrize("engine", ["vllm", "trtllm"])
def test_they_are_found_once_for_each_product(engine):
    decode, _ = step(engine, "fp8", 1)
    found = {each.name: each for each in decode if each.scale == "dynamic_scale" and each.calls > 0}
    modules = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
    assert set(found) == {f"scales for {name}" for name in modules}
    assert all(each.calls == 64 for each in found.values())
    # On TensorRT-LLM 6 to 9 microseconds each up to 256 rows; on vLLM up to 2, longer rows taking longer.
    low, high = {"trtllm": (6e-6, 9e-6), "vllm": (0.3e-6, 2.5e-6)}[engine]
    for each in found.values():
        assert low < float(each.time_s[0]) / 64 < high


@pytest.mark.parametrize("engine", ["vllm", "trtllm"])
def test_the_share_falls_as_the_batch_grows(engine):
    shares = []
    for batch in (1, 64, 512):
        found, fixed = (total_s(step(engine, gemm, batch)[0])[0] for gemm in ("fp8", "fp8_static"))
        shares.append(1.0 - fixed / found)
    assert shares[0] > 0.01
    assert np.all(np.diff(shares) < 0.0)


@pytest.mark.parametrize(
    "gemm", ["bfloat16", "fp8_block", "fp8_static", "int4_wo", "compressed_tensors_w8a8_int8"]
)
def test_other_formats_find_none(gemm):
    for operators in step("vllm", gemm, 8):
        assert "dynamic_scale" not in {each.scale for each in operators}


def test_where_most_timings_are_zero_there_is_no_time():
    import pandas as pd

    def read(latency_ms):
        frame = pd.DataFrame({"m": [1, 2, 4], "k": 4096, "engine": "some", "latency_ms": latency_ms})
        return TABLES[0].calls(frame).latency_s

    assert (read([0.0, 0.0, 0.004]) < 1e-12).all()
    assert read([0.008, 0.0, 0.007]).tolist() == [8e-6, 0.0, 7e-6]


def sought(engine: str) -> Sought:
    return Sought(
        "qwen3-32b", ("h200-sxm",), 1, 1000.0, 200.0, engines=(engine,), separate=False,
        only={"gemm": ("fp8", "fp8_static"), "kv": ("auto",), "fmha": ("auto",), "tp": (1,), "pp": (1,),
              "mem_fraction": (None,), "chunked_prefill_size": (None,), "concurrency": (1,)},
    )  # fmt: skip


@pytest.mark.parametrize("engine", ["vllm", "trtllm"])
def test_a_search_says_what_given_scales_save(engine):
    outcome = search(sought(engine), Goal(objective="tpot"))
    best = {each.start.format.gemm: each for each in (*outcome.at_once, *outcome.with_checkpoint)}
    assert best["fp8_static"].figures["tpot_ms"].value < best["fp8"].figures["tpot_ms"].value
    assert best["fp8_static"].why.startswith("launch and scale overhead: a token takes")
    assert "% less with fp8_static weights than with fp8 weights" in best["fp8_static"].why
    assert "scales of activations in decode steps" in best["fp8_static"].why


def test_on_sglang_the_two_are_one_choice():
    outcome = search(sought("sglang"), Goal(objective="tpot"))
    assert outcome.same == {"gemm fp8_static": "gemm fp8"}


@pytest.mark.parametrize(
    ("run", "format_"),
    [
        ({"engine": "trtllm", "weight_quant": "fp8"}, "fp8_static"),
        ({"engine": "trtllm", "weight_quant": "fp8_block"}, "fp8_block"),
        ({"engine": "vllm", "weight_quant": "fp8", "model": "redhatai/Meta-Llama-3.1-8B-Instruct-FP8"}, "fp8_static"),
        ({"engine": "vllm", "weight_quant": "fp8", "model": "RedHatAI/Qwen3-8B-FP8-dynamic"}, "fp8"),
        ({"engine": "vllm", "weight_quant": "fp8", "model": "Qwen/Qwen3-32B"}, "fp8"),
        ({"engine": "vllm", "weight_quant": None}, None),
        ({"engine": "vllm", "weight_quant": float("nan")}, None),
    ],
)  # fmt: skip
def test_what_a_runs_checkpoint_holds(run, format_):
    assert weight_format(run) == format_


def test_the_published_runs_of_llama_had_their_scales_given():
    runs = map(json.loads, (ROOT / "measurements" / "runs.jsonl").read_text().splitlines())
    known = [each for each in runs if "70b_fp8" in (each.get("flags_source") or "")]
    assert len(known) == 264
    assert {weight_format(each) for each in known} == {"fp8_static"}
    assert {each["weight_quant"] for each in known} == {"fp8"}
