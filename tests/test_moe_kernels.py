"""Routed experts: touched experts, bytes and flops by hand, what must hold for every shape, and the tables' routing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicalib.calibrate.kernels.moe import FORMATS, KERNELS, SPLIT, WIDE_EP, calls, power_law_counts, routed
from aicalib.engines import ENGINES
from aicalib.engines.kernels import rules
from aicalib.engines.moe_kernels import EXPERT_FORMATS, expert_format
from aicalib.physics.kernels.kind import Machine, time_s
from aicalib.physics.kernels.moe import (
    MOE,
    TILE,
    busiest_pairs,
    flops,
    rank_shape,
    touched_experts,
    weight_elements,
)

DEEPSEEK_V3 = {"experts": 256, "top_k": 8, "hidden_size": 7168, "inter_size": 2048, "matrices": 3}
GPT_OSS_120B = {"experts": 128, "top_k": 4, "hidden_size": 2880, "inter_size": 2880, "matrices": 3}
QWEN3_NEXT = {"experts": 512, "top_k": 10, "hidden_size": 2048, "inter_size": 512, "matrices": 3}

FLAT = np.zeros((1, *(axis.size for axis in MOE.axes)))
CODE = np.zeros((), dtype=np.intp)


def machine(bandwidth: float = 3.35e12, peak: float = 1.9789e15, bits: float = 8.0) -> Machine:
    return Machine(np.array(bandwidth), np.array(peak), np.array(bits), np.array(1.0))


# Touched by hand: 256 (1 - (31/32)^64) = 222.44; 128 (1 - (31/32)^64) = 111.22; 512 (1 - (502/512)^64) = 367.11.
@pytest.mark.parametrize(
    ("model", "touched", "elements", "operations"),
    [
        (DEEPSEEK_V3, 222.44, 222.44 * 3 * 7168 * 2048, 64 * 8 * 6 * 7168 * 2048),
        (GPT_OSS_120B, 111.22, 111.22 * 3 * 2880 * 2880, 64 * 4 * 6 * 2880 * 2880),
        (QWEN3_NEXT, 367.11, 367.11 * 3 * 2048 * 512, 64 * 10 * 6 * 2048 * 512),
    ],
)
def test_uniform_routing_of_64_tokens_by_hand(
    model: dict[str, int], touched: float, elements: float, operations: float
) -> None:
    shape = rank_shape(tokens=64, tp=1, ep=1, skew=0.0, **model)
    assert shape["touched"] == pytest.approx(touched, rel=1e-4)
    assert weight_elements(shape) == pytest.approx(elements, rel=1e-4)
    assert flops(shape) == pytest.approx(operations)


def test_tensor_slices_divide_weights_and_flops() -> None:
    whole = rank_shape(tokens=64, tp=1, ep=1, skew=0.0, **DEEPSEEK_V3)
    slice_ = rank_shape(tokens=64, tp=8, ep=1, skew=0.0, **DEEPSEEK_V3)
    assert weight_elements(slice_) == pytest.approx(weight_elements(whole) / 8)
    assert flops(slice_) == pytest.approx(flops(whole) / 8)
    assert MOE.ideal_s(slice_, machine()) > MOE.ideal_s(whole, machine()) / 8


def test_one_token_of_deepseek_v3_reads_eight_experts_in_fp8() -> None:
    """8 x 3 x 7168 x 2048 bytes at 3.35 TB/s are 105.2 us; launches and activations add the rest."""
    shape = rank_shape(tokens=1, tp=1, ep=1, skew=0.0, **DEEPSEEK_V3)
    weights_s = 8 * 3 * 7168 * 2048 / 3.35e12
    assert weights_s == pytest.approx(105.2e-6, rel=1e-3)
    assert MOE.ideal_s(shape, machine()) == pytest.approx(weights_s + 10e-6, rel=0.01)


def test_skewed_popularity_of_64_tokens_by_hand() -> None:
    """v = 1 - 1/32, u = -64 ln(31/32) = 2.0319: 256 (1 - (1 + v u)^(-1/v)) = 173.13."""
    v, u = 31 / 32, -64 * np.log(31 / 32)
    expected = 256 * (1 - (1 + v * u) ** (-1 / v))
    assert touched_experts(64, 256, 8, 1, 1.0) == pytest.approx(expected)
    assert expected < touched_experts(64, 256, 8, 1, 0.0)


def test_busiest_of_eight_ranks_by_hand() -> None:
    """512 tokens: mean 512 pairs a rank, variance 512 x 7/8 x 248/255 = 435.7, z(8) = 1.4236."""
    assert busiest_pairs(512, 256, 8, 8, 0.0) == pytest.approx(512 + 1.4236 * 435.7**0.5, rel=1e-4)
    assert busiest_pairs(512, 256, 8, 1, 1.0) == pytest.approx(4096)


sizes = {
    "tokens": st.integers(1, 16384),
    "experts": st.sampled_from([8, 16, 32, 128, 160, 256, 384, 512]),
    "top_k": st.integers(1, 8),
    "ep": st.sampled_from([1, 2, 4, 8]),
    "skew": st.floats(0.0, 2.0),
}


@given(**sizes)
def test_touched_experts_stay_between_one_and_what_there_is(
    tokens: int, experts: int, top_k: int, ep: int, skew: float
) -> None:
    touched = touched_experts(tokens, experts, top_k, ep, skew)
    assert 1.0 <= touched <= min(experts / ep, tokens * top_k) * (1 + 1e-9)


@given(**sizes)
def test_more_tokens_are_never_ideally_faster(
    tokens: int, experts: int, top_k: int, ep: int, skew: float
) -> None:
    few, more = (
        MOE.ideal_s(rank_shape(t, experts, top_k, 4096, 1536, 3, 1, ep, skew), machine())
        for t in (tokens, 2 * tokens)
    )
    assert more >= few * (1 - 1e-9)


@given(**sizes, gain=st.floats(1.0, 10.0))
def test_more_bandwidth_or_peak_is_never_slower(
    tokens: int, experts: int, top_k: int, ep: int, skew: float, gain: float
) -> None:
    shape = rank_shape(tokens, experts, top_k, 4096, 1536, 3, 1, ep, skew)
    base = time_s(MOE, FLAT, CODE, shape, machine())
    assert time_s(MOE, FLAT, CODE, shape, machine(bandwidth=gain * 3.35e12)) <= base * (1 + 1e-12)
    assert time_s(MOE, FLAT, CODE, shape, machine(peak=gain * 1.9789e15)) <= base * (1 + 1e-12)
    assert time_s(MOE, FLAT, CODE, shape, machine(bits=8.0 / gain)) <= base * (1 + 1e-12)


@given(**sizes, tp=st.sampled_from([1, 2, 4, 8]))
def test_twice_the_slices_are_never_ideally_twice_as_fast(
    tokens: int, experts: int, top_k: int, ep: int, skew: float, tp: int
) -> None:
    whole, half = (
        MOE.ideal_s(rank_shape(tokens, experts, top_k, 4096, 1536, 3, slices, ep, skew), machine())
        for slices in (tp, 2 * tp)
    )
    assert whole / 2 < half <= whole * (1 + 1e-12)


@given(tokens=st.integers(1, 4096), top_k=st.integers(1, 8), seed=st.integers(0, 99))
def test_drawn_loads_add_up_and_no_expert_gets_a_token_twice(tokens: int, top_k: int, seed: int) -> None:
    counts = power_law_counts(tokens, top_k, 128, 1.2, np.random.default_rng(seed))
    assert counts.sum() == tokens * top_k
    assert counts.min() >= 0
    assert counts.max() <= tokens


def test_power_laws_touch_fewer_experts_than_balance() -> None:
    assert routed(64, 8, 256, 1, "balanced") == (512, 256)
    pairs, touched = routed(64, 8, 256, 1, "power_law_1.01")
    assert pairs == 512
    assert 150 < touched < 230
    with pytest.raises(ValueError, match="sampled"):
        routed(64, 8, 256, 1, "sampled")


def runs(**changes: object) -> pd.DataFrame:
    row = {
        "op_name": "moe",
        "kernel_source": "sglang_fused_moe_triton",
        "moe_dtype": "fp8_block",
        "num_tokens": 64,
        "hidden_size": 7168,
        "inter_size": 2048,
        "topk": 8,
        "num_experts": 256,
        "moe_tp_size": 8,
        "moe_ep_size": 1,
        "distribution": "power_law_1.2",
        "latency_ms": 0.386,
    }
    return pd.DataFrame([row | changes])


def test_a_row_becomes_the_shape_that_it_ran() -> None:
    found = calls(runs())
    assert found.variant.tolist() == ["triton/fp8_block"]
    assert found.latency_s == pytest.approx([386e-6])
    assert found.peak.tolist() == ["fp8"]
    assert found.bits == pytest.approx([FORMATS["fp8_block"][1]])
    assert {name: value[0] for name, value in found.shape.items() if name != "touched"} == {
        "pairs": 512,
        "hidden_size": 7168,
        "inter_size": 256,
        "matrices": 3,
    }
    assert found.blocks["model"].tolist() == ["7168x2048x8x256"]


@pytest.mark.parametrize(
    "changes",
    [
        {"moe_ep_size": 8},
        {"distribution": "balanced"},
        {"latency_ms": 0.0},
        {"kernel_source": "unknown"},
        {"kernel_source": "sglang_flashinfer_cutlass_moe", "moe_dtype": "bfloat16"},
    ],
)
def test_rows_that_time_something_else_are_dropped(changes: dict[str, object]) -> None:
    assert calls(runs(**changes)).variant.size == 0


def test_unpacked_mxfp4_counts_sixteen_bits_and_deepep_keeps_its_ranks() -> None:
    unpacked = calls(runs(moe_dtype="w4a16_mxfp4"))
    assert (unpacked.variant[0], unpacked.bits[0]) == ("triton/weight_only_4", 16.0)
    wide = calls(
        runs(
            op_name="moe_generation",
            kernel_source="deepepmoe",
            moe_ep_size=32,
            moe_tp_size=1,
            distribution="uniform",
        )
    )
    assert wide.variant[0] == "deepgemm_masked/fp8_block"
    assert (wide.shape["pairs"][0], wide.shape["touched"][0]) == (16.0, 8.0)


def test_prefill_calls_that_wait_for_the_host_are_dropped() -> None:
    eager = {
        "op_name": "moe_context",
        "kernel_source": "deepepmoe",
        "moe_ep_size": 32,
        "distribution": "uniform",
    }
    rows = [
        runs(**eager, num_tokens=n, latency_ms=ms) for n, ms in ((512, 0.39), (8192, 0.46), (131072, 3.6))
    ]
    assert calls(pd.concat(rows)).latency_s == pytest.approx([3.6e-3])


def test_padded_widths_are_what_the_kernel_reads() -> None:
    """gpt-oss-120b in MXFP4 on Blackwell at tp 8: 2880 / 8 = 360 becomes 512, and hidden 2880 becomes 3072."""
    shape = rank_shape(64, 128, 4, 2880, 2880, 3, 8, 1, 0.0, TILE["trtllm/mxfp4_mxfp8"])
    assert (shape["hidden_size"], shape["inter_size"]) == (3072, 512)


def test_every_engine_has_a_default_for_every_format_on_a_surface_that_is_fitted() -> None:
    fitted = {f"{kernel}/{form.name}" for kernel in KERNELS.values() for form in FORMATS.values()}
    fitted |= {*SPLIT.values(), *(f"{name}/fp8_block" for name in WIDE_EP.values())}
    defaults = [rule for rule in rules() if rule.surface and rule.kinds[0].startswith("moe")]
    assert {rule.surface for rule in defaults} <= fitted
    for engine in ENGINES:
        anywhere = {
            form
            for rule in defaults
            if rule.engine == engine and "*" in rule.generations and rule.kinds == ("moe",)
            for form in rule.formats
        }
        assert anywhere == set(EXPERT_FORMATS)


@pytest.mark.parametrize(
    ("mode", "math", "bits", "expected"),
    [
        ("bfloat16", "bf16", 16.0, "wide"),
        ("fp8", "fp8", 8.0, "fp8"),
        ("fp8_block", "fp8", 8.002, "fp8_block"),
        ("fp8", "bf16", 8.0, "weight_only_8"),
        ("nvfp4", "fp4", 4.5, "fp4"),
        ("nvfp4", "bf16", 4.5, "weight_only_4"),
        ("mxfp4", "fp8", 4.25, "w4a8"),
        ("w4a16_mxfp4", "bf16", 4.25, "weight_only_4"),
        ("int4_wo", "bf16", 4.156, "int4"),
        ("sq", "int8", 8.01, "int8"),
    ],
)
def test_format_that_a_kernel_is_listed_by(mode: str, math: str, bits: float, expected: str) -> None:
    assert expert_format(mode, math, bits) == expected
