"""Formats that engines write out in 16 bit before they multiply or attend: which, above how many rows, at what cost."""

from __future__ import annotations

import csv
from math import inf
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicalib.engines.registry import kernel_for
from aicalib.engines.widening import DIRECT, widening
from aicalib.hardware import get_accelerator
from aicalib.models import get_architecture
from aicalib.physics.steps import decode_step, prefill_step, total_s
from aicalib.physics.system import spread_over
from aicalib.plan.search.best import Goal, search
from aicalib.plan.search.space import Sought
from aicalib.prediction import predict_batch
from aicalib.profiles import priors
from aicalib.profiles.profile import default_profile, uncalibrated
from aicalib.quant import parse_mode
from aicalib.resolve.rows import resolve
from aicalib.served import memory_of

TABLE = Path(__file__).parent.parent / "aicalib" / "engines" / "widening.csv"

OLD = "0.5.15"
"""Newest SGLang before bitsandbytes 0.50."""

DENSE = ("llama-3.1-8b", "qwen3-32b", "gemma-3-27b")
GPUS = ("a100-sxm", "l40s", "h100-sxm", "h200-sxm", "b200-sxm", "rtx4090")


def asked(**options):
    given = {"gpu": "h100-sxm", "engine": "sglang", "tp": 8} | options
    batch = resolve({name: [value] for name, value in given.items()})
    for error in batch.refused.values():
        raise error
    return batch


def found(engine, version, gpu, kind, name):
    field = {"gemm": "gemm", "moe": "moe", "kv_dequantize": "kvcache"}[kind]
    return widening(engine, version, get_accelerator(gpu), kind, parse_mode(field, name), "weight_only_4")


def decode(rows, **options):
    """Return the operators of a decode step of so many requests, and the deployment."""
    batch = asked(**options)
    c, n = spread_over(batch.system, priors()), np.array([float(rows)])
    held, _ = memory_of(batch)
    slots = held.max_total_tokens / held.ranks
    return decode_step(batch.system, c, n, np.array([1000.0]), n, np.array([512.0]), slots), batch


def decode_s(rows, **options):
    return float(total_s(decode(rows, **options)[0])[0])


def names(step):
    return {each.name for each in step if np.any(each.calls > 0) and np.any(each.time_s > 0)}


# ---------------------------------------------------------------------------------------------- which, and from where


def test_every_row_names_a_kernel_of_the_registry_and_its_source():
    registry = (TABLE.parent / "kernels.csv").read_text()
    known = {(row["engine"], kind, row["backend"]) for row in csv.DictReader(registry.splitlines())
             for kind in row["kind"].split()}  # fmt: skip
    for row in csv.DictReader(TABLE.read_text().splitlines()):
        for kind in row["kind"].split():
            assert any((row["engine"], kind, backend) in known for backend in row["backend"].split()), row
        assert row["source"]


@pytest.mark.parametrize(
    ("engine", "version", "gpu", "kind", "name", "rows", "wide_rows"),
    [
        ("sglang", OLD, "h100-sxm", "gemm", "bitsandbytes", 1, 1),
        ("sglang", "0.5.23", "h100-sxm", "gemm", "bitsandbytes", 7, 32),
        ("sglang", "0.5.23", "b200-sxm", "gemm", "bitsandbytes", 4, 8),
        ("sglang", "0.5.23", "h100-sxm", "gemm", "bitsandbytes:int8", inf, inf),
        ("sglang", "0.5.23", "h100-sxm", "moe", "bitsandbytes", 0, 0),
        ("vllm", "0.10.0", "l40s", "gemm", "bitsandbytes", 1, 1),
        ("sglang", "0.5.23", "h100-sxm", "gemm", "gguf:IQ4_XS", 16, 8),
        ("sglang", "0.5.23", "h100-sxm", "gemm", "gguf:Q4_K_M", inf, inf),
        ("sglang", "0.5.23", "h100-sxm", "gemm", "gguf:F16", inf, inf),
        ("sglang", "0.5.23", "t4", "gemm", "int4_wo:awq", 0, 0),
        ("sglang", "0.5.23", "h100-sxm", "gemm", "int4_wo:awq", inf, inf),
        ("sglang", "0.5.23", "mi300x", "gemm", "int4_wo:awq", 0, 0),
        ("vllm", "0.32.0", "mi300x", "gemm", "nvfp4", 0, 0),
        ("vllm", "0.32.0", "b200-sxm", "gemm", "nvfp4", inf, inf),
        ("sglang", "0.5.23", "h100-sxm", "kv_dequantize", "fp4_e2m1", 0, 0),
        ("sglang", "0.5.23", "b200-sxm", "kv_dequantize", "nvfp4", inf, inf),
        ("vllm", "0.32.0", "b200-sxm", "kv_dequantize", "nvfp4", inf, inf),
    ],
)
def test_rows_up_to_which_a_kernel_multiplies_packed_weights(
    engine, version, gpu, kind, name, rows, wide_rows
):
    what = found(engine, version, gpu, kind, name)
    assert (what.rows, what.wide_rows) == (rows, wide_rows)
    assert what.widens == (rows < inf)


def test_gguf_multiplies_8_bit_dot_products_on_the_general_purpose_cores():
    rate = found("sglang", "0.5.23", "h100-sxm", "gemm", "gguf").fp32_rates
    gpu = get_accelerator("h100-sxm")
    assert (
        asked(model="llama-3.1-8b", gemm="gguf").system.gemm_peak_flops_s[0] == rate * gpu.peak_flops["fp32"]
    )
    assert asked(model="llama-3.1-8b", gemm="gguf:F16").system.gemm_peak_flops_s[0] == gpu.peak_flops["bf16"]
    few, many = (kernel_for("gguf", "gemm", "sglang", "0.5.23", gpu, priority=each).backend
                 for each in ("latency", "throughput"))  # fmt: skip
    assert (few, many) == ("ggml", "ggml_mmq")


def test_a_prompt_in_gguf_takes_what_was_published():
    """Qwen3-14B in Q4_K_M prefills 925 tokens in 2.52 s on an RTX 4060 Ti of 22 TFLOP/s in FP32 (vllm#35987)."""
    batch = asked(model="qwen3-14b", gpu="rtx4090", tp=1, engine="vllm", engine_version="0.20.0", gemm="gguf")
    n = np.array([925.0])
    step = prefill_step(batch.system, spread_over(batch.system, priors()), n, n, np.ones(1))
    products = sum(float(each.time_s[0]) for each in step if each.math == "gemm")
    slower = get_accelerator("rtx4090").peak_flops["fp32"] / 22.1e12
    assert products * slower == pytest.approx(2.52, rel=0.2)


@pytest.mark.parametrize("name", ["bfloat16", "fp8", "fp8_block", "int4_wo", "nvfp4", "mxfp4"])
def test_other_formats_on_nvidia_are_read_as_they_are(name):
    for gpu in ("h100-sxm", "b200-sxm"):
        assert found("sglang", "0.5.23", gpu, "gemm", name) == DIRECT
    system = asked(model="llama-3.1-8b", gemm=name, gpu="b200-sxm").system
    assert np.isinf(system.direct_rows).all()
    assert not system.cache_widens.any()


# --------------------------------------------------------------------------------------------------------- weights


@given(
    st.sampled_from(DENSE), st.sampled_from(GPUS), st.sampled_from((1, 2, 4)), st.integers(2, 512),
    st.sampled_from((OLD, "0.5.23")),
)  # fmt: skip
def test_bitsandbytes_is_faster_than_16_bit_only_where_it_does_not_widen(model, gpu, tp, rows, version):
    options = {"model": model, "gpu": gpu, "tp": tp, "engine_version": version}
    step, batch = decode(rows, gemm="bitsandbytes", **options)
    packed, wide = float(total_s(step)[0]), decode_s(rows, gemm="bfloat16", **options)
    system = batch.system
    if rows > system.wide_direct_rows[0]:
        assert packed > wide
    if rows <= system.direct_rows[0]:
        assert packed <= wide
        assert not any(name.startswith("widening") for name in names(step))
    assert decode_s(1, gemm="bitsandbytes", **options) <= decode_s(1, gemm="bfloat16", **options)


def test_a_widened_product_reads_packed_writes_16_bit_and_reads_that():
    arch = get_architecture("llama-3.1-8b")
    step, batch = decode(2, model="llama-3.1-8b", gemm="bitsandbytes", tp=1, engine_version=OLD)
    plain, _ = decode(2, model="llama-3.1-8b", gemm="bfloat16", tp=1, engine_version=OLD)
    rows, wide = ({each.name: each for each in steps} for steps in (step, plain))
    weights = arch.num_layers * arch.intermediate_size * arch.hidden_size
    assert rows["widening for down_proj"].bytes_[0] == pytest.approx(weights * (4.5 / 8 + 2))
    assert rows["down_proj"].bytes_[0] == pytest.approx(wide["down_proj"].bytes_[0])
    assert rows["down_proj"].flops[0] == pytest.approx(wide["down_proj"].flops[0])
    assert "widening for head" not in rows
    assert batch.system.gemm_bits[0] == 4.5
    assert (
        memory_of(batch)[0].weights_bytes[0]
        < 0.45 * memory_of(asked(model="llama-3.1-8b", tp=1))[0].weights_bytes[0]
    )


def test_wide_matrices_are_multiplied_packed_up_to_more_rows():
    step, _ = decode(20, model="llama-3.1-8b", gemm="bitsandbytes", tp=1)
    assert "widening for down_proj" in names(step)
    assert "widening for gate_up_proj" not in names(step)


def test_all_experts_are_widened_touched_or_not():
    one, batch = decode(1, model="qwen3-30b-a3b", gemm="bitsandbytes", tp=2)
    many, _ = decode(512, model="qwen3-30b-a3b", gemm="bitsandbytes", tp=2)
    first, last = (next(each for each in step if each.name == "widening for experts") for step in (one, many))
    assert first.bytes_[0] == last.bytes_[0]
    arch = get_architecture("qwen3-30b-a3b")
    held = arch.num_experts * 3 * arch.hidden_size * arch.moe_intermediate_size / 2
    assert first.bytes_[0] == pytest.approx(arch.num_layers * held * (4.5 / 8 + 2))
    assert batch.system.surfaces["moe"][0] == asked(model="qwen3-30b-a3b", tp=2).system.surfaces["moe"][0]


def test_prompts_widen_too():
    batch = asked(model="llama-3.1-8b", gemm="bitsandbytes", tp=1)
    c, n = spread_over(batch.system, priors()), np.array([2048.0])
    step = prefill_step(batch.system, c, n, n, np.ones(1))
    assert {"widening for qkv_proj", "widening for down_proj"} <= names(step)


# ------------------------------------------------------------------------------------------------------- the cache


def predicted(**options):
    batch = asked(**({"isl": 1000, "osl": 200, "concurrency": 8} | options))
    return predict_batch(batch, uncalibrated())


@given(st.floats(0.5, 0.85), st.floats(1.01, 1.1), st.sampled_from((*DENSE, "gpt-oss-120b", "deepseek-v3")))
def test_steps_with_a_4_bit_cache_grow_with_the_pool(fraction, more, model):
    small, large = (
        predicted(model=model, gpu="h200-sxm", kv="fp4_e2m1", mem_fraction=each)
        for each in (fraction, fraction * more)
    )
    plain = predicted(model=model, gpu="h200-sxm", kv="bfloat16", mem_fraction=fraction)
    if small.fits[0]:
        assert small.memory.max_total_tokens[0] < large.memory.max_total_tokens[0]
        assert plain.mean["tpot_ms"].value[0] < small.mean["tpot_ms"].value[0]
        assert small.mean["tpot_ms"].value[0] < large.mean["tpot_ms"].value[0]
        assert small.mean["ttft_ms"].value[0] <= large.mean["ttft_ms"].value[0]


def test_the_published_figure_of_a_4_bit_cache():
    """Qwen3-32B on 4 B200 with at most 128 requests: 90 tokens/s, and 5000 with 16 bit (sglang#17365)."""
    found = [
        predict_batch(
            asked(model="qwen3-32b", gpu="b200-sxm", tp=4, engine_version="0.5.8", kv=kv, concurrency=128,
                  mem_fraction=0.8, isl=1024, osl=512),
            default_profile(),
        ).service
        for kv in ("fp4_e2m1", "bfloat16")
    ]  # fmt: skip
    four, sixteen = (float(each.requests_s[0] * 512) for each in found)
    assert 60 < four < 120
    assert 4000 < sixteen < 7000


def test_attention_reads_the_widened_cache_in_16_bit():
    four, sixteen = (asked(model="llama-3.1-8b", tp=1, kv=kv).system for kv in ("fp4_e2m1", "bfloat16"))
    assert four.kv_bits[0] == 4.5
    assert four.attended_bits[0] == 16.0
    for name in ("attention_decode", "attention_prefill"):
        assert four.surfaces[name][0] == sixteen.surfaces[name][0]


def test_the_workspace_lies_outside_of_the_pool():
    four = predicted(model="llama-3.1-8b", tp=1, kv="fp4_e2m1").memory
    plain = predicted(model="llama-3.1-8b", tp=1, kv="bfloat16").memory
    assert four.kv_pool_bytes[0] == plain.kv_pool_bytes[0]
    layer = four.max_total_tokens[0] * 2 * 8 * 128 * 2
    assert four.activation_bytes[0] - plain.activation_bytes[0] == pytest.approx(layer)


def test_a_step_without_the_size_of_its_pool_is_refused():
    batch = asked(model="llama-3.1-8b", kv="fp4_e2m1")
    one = np.ones(1)
    with pytest.raises(ValueError, match="slots"):
        decode_step(batch.system, spread_over(batch.system, priors()), one, one, one, one)


# ------------------------------------------------------------------------------------------------- what is shown


@pytest.mark.parametrize(
    ("options", "operator"),
    [
        ({"gemm": "bitsandbytes", "concurrency": 64}, "widening for gate_up_proj"),
        ({"kv": "fp4_e2m1"}, "widening of the cache"),
    ],
)
def test_the_breakdown_lists_the_widening_and_adds_up(options, operator):
    from aicalib.report.prediction import document

    found = predict_batch(asked(model="llama-3.1-8b", tp=1, **options), default_profile())
    rows = [row for row in document(found, 0)["breakdown"] if row["phase"] == "decode"]
    row = next(row for row in rows if row["op"] == operator)
    assert row["origin"] == "datasheet"
    assert sum(each["share"] for each in rows) == pytest.approx(1.0)
    assert found.origin == ["extrapolated"]


def test_other_rows_of_a_batch_stay_the_same_to_the_last_bit():
    alone = {
        "model": ["llama-3.1-8b", "qwen3-30b-a3b", "deepseek-v3"],
        "gpu": ["h200-sxm"] * 3,
        "tp": [1, 2, 8],
    }
    mixed = {name: [*values, values[0], values[1]] for name, values in alone.items()}
    mixed |= {"gemm": ["auto"] * 3 + ["bitsandbytes"] * 2, "kv": ["auto"] * 3 + ["fp4_e2m1", "auto"]}
    first, second = (predict_batch(resolve(each), default_profile()) for each in (alone, mixed))
    for metric, values in first.mean.items():
        assert (values.value == second.mean[metric].value[:3]).all()


def test_the_reasons_of_a_search_name_the_widening():
    sought = Sought(
        "llama-8b", ("l40s",), 1, 1000.0, 200.0, separate=False,
        only={"gemm": ("bfloat16", "bitsandbytes"), "kv": ("auto",), "fmha": ("auto",), "tp": (1,), "pp": (1,),
              "dp": (1,), "mem_fraction": (None,), "chunked_prefill_size": (None,), "enable_mixed_chunk": (None,),
              "concurrency": (32,)},
    )  # fmt: skip
    best = search(sought, Goal()).best
    assert best.start.format.gemm == "bfloat16"
    assert "most by widening to 16 bit in decode steps" in best.why
