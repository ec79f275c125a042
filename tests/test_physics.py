"""Properties that the physics must have whatever the coefficients are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aicalib.errors import InvalidValue, NotCovered, UnknownName
from aicalib.models import get_architecture, list_architectures, parameters
from aicalib.models.stack import stack
from aicalib.physics import operators
from aicalib.physics.links import layer_collectives_time
from aicalib.physics.memory import memory, weight_bytes
from aicalib.physics.roofline import smooth_maximum
from aicalib.physics.steps import decode_step, prefill_step
from aicalib.physics.system import spread_over
from aicalib.profiles import priors
from aicalib.resolve import resolve

MODELS = ("llama-3.1-8b", "llama-3.3-70b", "mixtral-8x7b", "deepseek-r1", "gpt-oss-120b", "qwen3-235b-a22b")


def one(**options):
    batch = resolve({name: [value] for name, value in ({"gpu": "h200-sxm", "tp": 8} | options).items()})
    for error in batch.refused.values():
        raise error
    return batch


def decode_ms(batch, running=16.0, context=1500.0):
    system = batch.system
    step = decode_step(system, spread_over(system, priors()), np.array([running]), np.array([context]))
    return 1e3 * step.time_s[0]


def prefill_ms(batch, tokens=2048.0, length=2048.0):
    system = batch.system
    c = spread_over(system, priors())
    step = prefill_step(system, c, np.array([tokens]), np.array([length]), np.ones(1))
    return 1e3 * step.time_s[0]


@given(st.floats(0, 1e3), st.floats(0, 1e3))
def test_smooth_maximum_is_between_the_greater_and_the_sum(first, second):
    found = smooth_maximum(np.array([first]), np.array([second]))[0]
    assert max(first, second) * (1 - 1e-12) <= found <= (first + second) * (1 + 1e-12)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "field", ["bandwidth_bytes_s", "link_bytes_s", "gemm_peak_flops_s", "expert_peak_flops_s"]
)
@given(factor=st.floats(1.0, 10.0))
@settings(max_examples=10, deadline=None)
def test_a_faster_part_never_slows_a_step(model, field, factor):
    batch = one(model=model)
    faster = replace(batch, system=replace(batch.system, **{field: getattr(batch.system, field) * factor}))
    assert decode_ms(faster) <= decode_ms(batch) * (1 + 1e-12)
    assert prefill_ms(faster) <= prefill_ms(batch) * (1 + 1e-12)


@pytest.mark.parametrize("model", MODELS)
@given(running=st.integers(1, 511), more=st.integers(1, 100), context=st.integers(1, 50_000))
@settings(max_examples=20, deadline=None)
def test_more_work_never_takes_less_time(model, running, more, context):
    batch = one(model=model)
    assert decode_ms(batch, running + more, context) >= decode_ms(batch, running, context)
    assert decode_ms(batch, running, context + more) >= decode_ms(batch, running, context)
    assert prefill_ms(batch, context + more, context + more) >= prefill_ms(batch, context, context)


@pytest.mark.parametrize(
    ("mode", "bits"), [("bfloat16", 16.0), ("fp8", 8.0), ("awq", 4.15625), ("nvfp4", 4.5)]
)
def test_weight_bytes_scale_with_the_bits(mode, bits):
    wide = weight_bytes(one(model="llama-3.3-70b", gemm="bfloat16").system)[0]
    arch = get_architecture("llama-3.3-70b")
    tables = 2.0 * 2 * arch.vocab_size * arch.hidden_size / 8
    norms = 2.0 * arch.hidden_size * (2 * arch.num_layers + 1)
    narrow = weight_bytes(one(model="llama-3.3-70b", gemm=mode).system)[0]
    assert narrow - tables - norms == pytest.approx((wide - tables - norms) * bits / 16.0, rel=1e-9)


def test_weights_of_a_dense_model_in_16_bit_are_two_bytes_a_parameter():
    found = weight_bytes(one(model="llama-3.1-8b", gemm="bfloat16", tp=1).system)[0]
    assert found == pytest.approx(2 * 8.030e9, rel=1e-3)


COVERED = [each.name for each in list_architectures() if each.reason is None]


@pytest.mark.parametrize("model", COVERED)
def test_weights_in_16_bit_are_two_bytes_a_parameter_for_every_model(model):
    moe = {"moe": "bfloat16"} if get_architecture(model).moe_layers else {}
    found = weight_bytes(one(model=model, gpu="b300", gemm="bfloat16", tp=1, isl=64, osl=64, **moe).system)[0]
    assert found == pytest.approx(2 * parameters(get_architecture(model)).total, rel=3e-3)


@pytest.mark.parametrize(("kv", "bits"), [("bfloat16", 16), ("fp8_e4m3", 8), ("nvfp4", 4.5)])
def test_the_pool_holds_more_tokens_with_fewer_bits(kv, bits):
    wide = memory(one(model="llama-3.1-8b", tp=1, gpu="b200", kv="bfloat16").system)
    found = memory(one(model="llama-3.1-8b", tp=1, gpu="b200", kv=kv).system)
    assert found.cell_bytes[0] == pytest.approx(wide.cell_bytes[0] * bits / 16)
    assert found.max_total_tokens[0] == pytest.approx(wide.max_total_tokens[0] * 16 / bits, rel=1e-4)


def test_a_token_of_deepseek_takes_70272_bytes_on_every_rank():
    found = memory(one(model="deepseek-r1", gpu="b200", kv="bfloat16").system)
    assert found.cell_bytes[0] == 576 * 61 * 2


def test_kv_heads_are_replicated_below_one_a_rank():
    narrow = one(model="qwen3-235b-a22b", tp=4).system
    wide = one(model="qwen3-235b-a22b", tp=8).system
    assert memory(narrow).cell_bytes[0] == memory(wide).cell_bytes[0]


@given(tokens=st.floats(1, 1e6))
def test_touched_experts_lie_between_what_one_token_takes_and_all(tokens):
    arch = stack([get_architecture("deepseek-r1")])
    found = operators.touched_experts(arch, np.array([tokens]))[0]
    assert 8 * (1 - 1e-9) <= found <= 256
    assert operators.touched_experts(arch, np.array([1.0]))[0] == pytest.approx(8)


def test_prefill_attention_counts_half_the_square_and_a_window_less():
    arch = stack([get_architecture("llama-3.1-8b")])
    found = operators.prefill_attention_flops(arch, np.array([4096.0]))[0]
    assert found == 4 * 32 * 128 * 32 * 4096**2 / 2
    windowed = stack([get_architecture("gpt-oss-120b")])
    full = operators.prefill_attention_flops(stack([replace(get_architecture("gpt-oss-120b"), window=10**9)]),
                                             np.array([4096.0]))[0]  # fmt: skip
    assert operators.prefill_attention_flops(windowed, np.array([4096.0]))[0] < 0.55 * full


def test_many_rows_are_the_rows_one_by_one():
    table = {"model": list(MODELS), "gpu": ["h200-sxm"] * 6, "tp": [8, 4, 2, 8, 4, 8]}
    together = resolve(table)
    c = spread_over(together.system, priors())
    times = decode_step(together.system, c, np.full(6, 7.0), np.full(6, 900.0)).time_s
    for row in range(6):
        alone = one(**{name: values[row] for name, values in table.items()})
        assert 1e3 * times[row] == pytest.approx(decode_ms(alone, 7.0, 900.0), rel=1e-12)


def test_linear_attention_takes_its_states_out_of_the_pool():
    hybrid = one(model="qwen3-next-80b-a3b", tp=4)
    held = memory(hybrid.system)
    system = hybrid.system
    left = (system.memory_bytes - 2 * 2**30) * system.memory_fraction - held.weights_bytes
    assert held.kv_pool_bytes[0] == pytest.approx(left[0] / 1.9)


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
@pytest.mark.parametrize("model", MODELS)
def test_the_parts_of_memory_make_the_gpu(model, engine):
    system = one(model=model, engine=engine).system
    held = memory(system)
    parts = held.weights_bytes + held.kv_pool_bytes + held.activation_bytes + held.graph_bytes
    assert (parts + held.reserve_bytes)[0] == pytest.approx(system.memory_bytes[0])


def test_attention_data_parallelism_moves_the_whole_batch_once():
    tensor, data = (one(model="deepseek-r1", gpu="b200", dp=dp) for dp in (1, 8))
    bytes_s = []
    for batch in (tensor, data):
        c = replace(spread_over(batch.system, priors()), all_reduce_latency_s=0.0)
        bytes_s.append(layer_collectives_time(batch.system, c, np.array([512.0]), graph=True)[0])
    assert bytes_s[0] == pytest.approx(2 * bytes_s[1])
    assert bytes_s[1] == pytest.approx(2 * 7 / 8 * 512 * 7168 * 2 / (900e9 * 0.8))


def test_attention_data_parallelism_replicates_and_splits():
    tensor, data = (one(model="deepseek-r1", gpu="b200", dp=dp) for dp in (1, 8))
    assert weight_bytes(data.system)[0] > weight_bytes(tensor.system)[0]
    assert memory(data.system).cell_bytes[0] == memory(tensor.system).cell_bytes[0]
    split = [one(model="qwen3-235b-a22b", dp=dp, tp=4).system for dp in (1, 4)]
    assert memory(split[1]).cell_bytes[0] == 4 * memory(split[0]).cell_bytes[0]


def test_all_reduce_over_pcie_gets_slower_with_every_card():
    rates = [one(model="llama-3.1-8b", gpu="l40s", tp=tp).system.link_bytes_s[0] for tp in (2, 4, 8)]
    assert rates == pytest.approx([0.56 * 32e9, 0.11 * 32e9, 0.056 * 32e9])
    bridged = [one(model="llama-3.1-8b", gpu="a100-pcie-80gb", tp=tp).system.link_bytes_s[0] for tp in (2, 4)]
    assert bridged == pytest.approx([300e9, 0.11 * 32e9])


def test_padding_costs_rows_but_no_cache():
    batch = one(model="llama-3.1-8b", tp=1)
    c = spread_over(batch.system, priors())
    nine, context = np.array([9.0]), np.array([32000.0])
    plain = decode_step(batch.system, c, nine, context)
    padded = decode_step(batch.system, c, nine, context, np.array([12.0]))
    times = [{each.name: each.time_s[0] for each in step.operators} for step in (plain, padded)]
    assert times[0]["attention"] == times[1]["attention"]
    assert times[0]["dense ffn"] < times[1]["dense ffn"]
    assert padded.time_s[0] < 1.05 * plain.time_s[0]


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
    system = one(model="llama-3.1-8b", gpu=gpu, tp=tp, engine_version=version, gemm="fp16").system
    assert (system.chunk_tokens[0], system.graph_max_batch[0]) == (chunk, graph)


@pytest.mark.parametrize(("tp", "fraction"), [(1, 0.835), (8, 0.818)])
def test_the_memory_fraction_of_the_worked_examples(tp, fraction):
    found = one(model="llama-3.1-8b", gpu="h100", tp=tp, engine_version="0.5.4").system
    assert found.memory_fraction[0] == pytest.approx(fraction, abs=0.001)


@pytest.mark.parametrize(
    ("gpu", "chunk", "running"), [("h100", 8192, 1024), ("a100", 2048, 256), ("b200", 16384, 1024)]
)
def test_what_vllm_takes_by_itself(gpu, chunk, running):
    system = one(model="llama-3.1-8b", gpu=gpu, tp=1, engine="vllm", scheduler_recv_interval=30).system
    assert (system.chunk_tokens[0], system.max_running[0]) == (chunk, running)
    assert system.poll_interval[0] == 1


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"tp": 7}, InvalidValue, "does not divide the 64 attention heads"),
        ({"tp": 0}, InvalidValue, "tp 0"),
        ({"tp": 8, "dp": 3}, InvalidValue, "dp 3 does not divide tp 8"),
        ({"tp": 8, "ep": 4}, InvalidValue, "ep 4 does not divide the 0 experts"),
        ({"pp": 2}, NotCovered, "pipeline"),
        ({"tp": 16}, NotCovered, "several nodes"),
        ({"load": "open"}, NotCovered, "open"),
        ({"engine": "trtllm"}, NotCovered, "trtllm"),
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
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(options, error, words):
    with pytest.raises(error, match=words.replace("(", r"\(")):
        one(**({"model": "llama-3.3-70b"} | options))


def test_an_unknown_option_is_refused():
    with pytest.raises(UnknownName, match="did you mean"):
        resolve({"modle": ["llama-70b"]})
