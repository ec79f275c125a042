"""Memory against hand-computed cases, properties, and what engines logged when they started."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aicalib.calibrate.evaluate import evaluate
from aicalib.calibrate.records import read_runs
from aicalib.calibrate.startup import evaluate_startups
from aicalib.engines.defaults import prefill_buckets
from aicalib.models import get_architecture, list_architectures, parameters
from aicalib.physics.kv_cache import cells
from aicalib.physics.memory import (
    GIB,
    MIB,
    fits,
    largest_concurrency,
    memory,
    memory_of,
    needs,
    pool_tokens,
    spare_bytes,
)
from aicalib.physics.pools import sglang, vllm
from aicalib.physics.weights import (
    buffer_bytes,
    draft_weight_bytes,
    expert_bytes,
    parameter_bytes,
    rounding_bytes,
    weight_bytes,
)
from aicalib.profiles.profile import default_profile
from aicalib.report.memory_table import BEGIN, END, table, with_table
from aicalib.resolve.rows import resolve

ROOT = Path(__file__).parent.parent
STARTUPS = ROOT / "measurements" / "startup.jsonl"
MODELS = ("llama-3.1-8b", "llama-3.3-70b", "mixtral-8x7b", "deepseek-r1", "gpt-oss-120b", "qwen3-235b-a22b")
COVERED = [each.name for each in list_architectures() if each.reason is None]


def asked(memory_only=False, **options):
    batch = resolve(
        {name: [value] for name, value in ({"gpu": "h200-sxm", "tp": 8} | options).items()},
        memory_only=memory_only,
    )
    for error in batch.refused.values():
        raise error
    return batch


def one(**options):
    return asked(**options).system


def held_by(batch, tokens=None):
    return memory(batch.system, batch.at, batch.settings, tokens)


# weights, written out


def test_weights_of_llama_70b_in_fp8_on_four():
    attention = 8192 * 8192 * 2 + 2 * 8192 * 1024
    layers = 80 * (attention + 3 * 8192 * 28672) / 4
    tables = 2 * 128256 * 8192 / 4 * 2
    norms = (2 * 80 + 1) * 8192 * 2
    system = one(model="llama-3.3-70b", gemm="fp8", tp=4)
    assert parameter_bytes(system)[0] == layers + tables + norms
    assert buffer_bytes(system)[0] == 131072 * 128 * 4  # 32-bit sines and cosines
    # gate and up 112 MiB, down 56 MiB, query to value 20 MiB, output 16 MiB, tables 501 MiB: 501 -> 502, twice
    assert rounding_bytes(system)[0] == 2 * MIB


def test_weights_of_deepseek_v3_in_fp8_on_eight():
    byte = 1 + 4 / 16384  # a 32-bit scale per block of 128 x 128
    split = 128 * (1536 * 192 + 512 * 256 + 128 * 7168)
    whole = 7168 * (1536 + 512 + 64)
    attention = 61 * (split / 8 + whole) * byte
    dense = (3 * 3 * 7168 * 18432 + 58 * 3 * 7168 * 2048) / 8 * byte
    experts = 58 * 256 * 3 * 7168 * 2048 / 8 * byte
    tables = 2 * 129280 * 7168 / 8 * 2
    rest = 2 * (58 * 256 * 7168 + (2 * 61 + 1) * 7168)
    system = one(model="deepseek-v3", tp=8)
    assert parameter_bytes(system)[0] == pytest.approx(attention + dense + experts + tables + rest, rel=1e-9)
    absorbed = 61 * 128 / 8 * 512 * (128 + 128) * 2
    assert buffer_bytes(system)[0] == 163840 * 64 * 4 + absorbed
    assert weight_bytes(system)[0] / GIB == pytest.approx(79.8, rel=4e-3)  # logged on H200, SGLang 0.5.12


@pytest.mark.parametrize(
    ("engine", "gpu", "tp", "hidden", "width"),
    [
        ("vllm", "h200", 1, 3072, 2944), ("vllm", "h200", 2, 3072, 1536), ("vllm", "h200", 8, 3072, 384),
        ("vllm", "b200", 1, 3072, 3072), ("sglang", "b200", 2, 3072, 1536), ("sglang", "b200", 8, 3072, 512),
        ("sglang", "h200", 1, 2880, 2880), ("sglang", "h200", 4, 2880, 736), ("sglang", "mi355x", 8, 3072, 512),
    ],
)  # fmt: skip
def test_experts_of_gpt_oss_are_padded_as_their_kernels_want(engine, gpu, tp, hidden, width):
    system = one(model="gpt-oss-120b", engine=engine, gpu=gpu, tp=tp)
    one_expert = 3 * hidden * width * 4.25 / 8 + 2 * (2 * width + hidden)
    assert expert_bytes(system)[0] == 36 * 128 * one_expert


@pytest.mark.parametrize(("tp", "logged_gib"), [(1, 13.64), (2, 7.01)])
def test_weights_of_gpt_oss_20b_are_what_vllm_logs(tp, logged_gib):
    system = one(model="gpt-oss-20b", engine="vllm", engine_version="0.19.0", gpu="h100", tp=tp)
    assert weight_bytes(system)[0] / GIB == pytest.approx(logged_gib, rel=0.015)


def test_the_allocator_explains_what_a_matrix_takes_more():
    # Qwen3-14B, TP 4: gate and up 85 -> 86 MiB, down 42.5 -> 44, query to value 17.5 -> 18, output 12.5 -> 14
    system = one(model="qwen3-14b", gemm="bf16", gpu="a10g", tp=4)
    tables = 2 * (372 - 151936 * 5120 * 2 / 4 / MIB)
    assert rounding_bytes(system)[0] / MIB == pytest.approx(40 * (1 + 1.5 + 0.5 + 1.5) + tables)
    assert weight_bytes(system)[0] / GIB == pytest.approx(7.08, abs=0.01)  # logged by SGLang
    # vLLM splits off what is more than 1 MiB: 24.5 of 26 MiB stay 24.5
    system = one(model="qwen2.5-7b", gemm="bf16", engine="vllm", engine_version="0.19.0", tp=1)
    assert weight_bytes(system)[0] / GIB == pytest.approx(14.25, abs=0.005)  # logged


@pytest.mark.parametrize("model", COVERED)
def test_parameters_in_16_bit_are_two_bytes_each_for_every_model(model):
    moe = {"moe": "bfloat16"} if get_architecture(model).moe_layers else {}
    found = parameter_bytes(one(model=model, gpu="b300", gemm="bfloat16", tp=1, isl=64, osl=64, **moe))[0]
    assert found == pytest.approx(2 * parameters(get_architecture(model)).total, rel=3e-3)


def test_a_model_in_32_bit_has_tables_in_32_bit():
    narrow, wide = (one(model="llama-3.1-8b", gemm=mode, tp=1) for mode in ("bf16", "fp32"))
    assert parameter_bytes(wide)[0] == pytest.approx(2 * parameter_bytes(narrow)[0], rel=1e-4)


def test_a_prediction_layer_of_deepseek_is_a_layer_and_a_product():
    system = one(model="deepseek-v3", tp=8)
    found = draft_weight_bytes(system, np.ones(1))[0]
    joined = 2 * 2 * 7168**2
    experts = 256 * 3 * 7168 * 2048 / 8
    assert experts + joined < found < 1.1 * (experts + joined)
    assert draft_weight_bytes(system, np.zeros(1))[0] == 0


# cells, written out


@pytest.mark.parametrize(
    ("options", "cell"),
    [
        ({"model": "llama-3.3-70b", "tp": 4, "kv": "bf16"}, 80 * 2 * 256 * 2),
        ({"model": "llama-3.3-70b", "tp": 4, "kv": "fp8_e4m3"}, 80 * 2 * 256),
        ({"model": "llama-3.3-70b", "tp": 4, "kv": "nvfp4", "gpu": "b200"}, 80 * 2 * 256 * 0.5625),
        ({"model": "llama-3.3-70b", "tp": 4, "kv": "mxfp8", "gpu": "b200"}, 80 * 2 * 256 * 33 / 32),
        ({"model": "qwen3-235b-a22b", "tp": 8}, 94 * 1 * 256 * 2),  # 4 KV heads on 8 ranks
        ({"model": "qwen3-235b-a22b", "tp": 4, "dp": 4}, 94 * 4 * 256 * 2),
        ({"model": "deepseek-v3", "kv": "bf16"}, 61 * 576 * 2),
        ({"model": "deepseek-v3", "kv": "nvfp4", "gpu": "b200"}, 61 * 576 * 0.5625),
        ({"model": "deepseek-v3.2", "kv": "bf16"}, 61 * (576 * 2 + 132)),
        ({"model": "deepseek-v3.2", "kv": "fp8_e4m3"}, 61 * (656 + 132)),
        ({"model": "deepseek-v3.2", "kv": "fp8_e4m3", "gpu": "b200"}, 61 * (576 + 132)),
        ({"model": "deepseek-v3.2", "kv": "fp8", "gpu": "b200", "engine": "vllm"}, 61 * (656 + 132)),
        ({"model": "gpt-oss-120b", "tp": 2}, 18 * 4 * 128 * 2),
        ({"model": "gemma-3-27b", "tp": 1}, 62 * 16 * 256 * 2),  # one pool for all layers
        ({"model": "qwen3-next-80b-a3b", "tp": 2}, 12 * 1 * 512 * 2),
    ],
)
def test_bytes_of_a_token(options, cell):
    assert cells(one(**options)).full[0] == pytest.approx(cell)


def test_a_window_pool_is_four_fifths_as_long():
    held = cells(one(model="gpt-oss-120b", tp=2))
    assert held.window[0] == held.full[0] == 18432
    tokens = sglang.pool_tokens(np.array([18432 * 1.8 * 1000 + 1]), held, np.array([0.8]), np.array([64.0]))
    assert tokens[0] == 960  # 1000 in whole pages of 64


def test_a_state_of_qwen3_next_is_a_matrix_a_head_and_a_window():
    recurrent = 32 * 128 * 128 * 4
    convolution = (2 * 16 * 128 + 32 * 128) * 3 * 2
    assert cells(one(model="qwen3-next-80b-a3b", tp=4)).state[0] == 36 * (recurrent + convolution) / 4


def test_draft_layers_count_from_0_5_18_on():
    cell = 61 * 576 * 2
    for version, wanted in (("0.5.12", cell), ("0.5.23", cell * 62 / 61)):
        system = one(model="deepseek-v3", kv="bf16", engine_version=version)
        need = needs(system, 1.0)
        assert need.held.full[0] + need.draft_cell[0] == pytest.approx(wanted)
        assert (need.draft_weights[0] > 0) == (wanted > cell)


# the rules, written out


def test_the_rules_themselves():
    assert sglang.pool_bytes(np.array([78.0]), np.array([0.85]), np.array([16.0]))[0] == pytest.approx(50.3)
    found = vllm.pool_bytes(*(np.array([value]) for value in (79.19, 0.95, 14.99, 1.89, 0.25, 0.0)))
    assert found[0] == pytest.approx(58.10, abs=0.005)  # 58.11 logged for Llama-3.1-8B, vLLM 0.19


@pytest.mark.parametrize(
    ("options", "fraction"),
    [
        ({"gpu": "h100", "tp": 1, "engine_version": "0.5.4"}, 0.835),
        ({"gpu": "h100", "tp": 8, "engine_version": "0.5.4"}, 0.818),
        ({"gpu": "h100", "tp": 1, "engine_version": "0.5.23"}, 0.83),  # logged with 58 prefill graphs
        ({"gpu": "h100", "tp": 4, "engine_version": "0.4.1"}, 0.85),
        ({"gpu": "h200", "tp": 8, "engine_version": "0.5.2"}, (143771 - 1024 * 16) / 143771),
        ({"model": "deepseek-v3", "gpu": "h200", "tp": 8, "engine_version": "0.5.23"},
         (143771 - 512 - 12288 - 1024 - 1024 - 1536) / 143771),
        ({"model": "qwen3-vl-8b", "gpu": "h200", "tp": 1, "engine_version": "0.5.6"}, 0.95 * 0.907),
    ],
)  # fmt: skip
def test_the_memory_fraction_by_version(options, fraction):
    found = asked(**({"model": "llama-3.1-8b"} | options)).settings.memory_fraction[0]
    assert found == pytest.approx(fraction, abs=0.001)


def test_prefill_graphs_are_counted_by_their_buckets():
    assert prefill_buckets(np.array([32.0, 256.0, 2048.0, 8192.0])).tolist() == [8, 22, 42, 58]


def test_vllm_steps_hold_whole_prompts_before_0_8():
    assert (
        asked(model="llama-3-8b", engine="vllm", engine_version="0.5.2", tp=1).settings.chunk_tokens[0]
        == 8192
    )
    assert (
        asked(model="llama-3.1-8b", engine="vllm", engine_version="0.5.2", tp=1).settings.chunk_tokens[0]
        == 512
    )


@pytest.mark.parametrize(
    ("model", "tp", "peak_gib"),
    [
        ("llama-3.1-8b", 1, 1.89), ("llama-3.1-8b", 4, 1.89), ("qwen2.5-7b", 2, 2.21), ("qwen3-8b", 1, 2.21),
        ("phi-4", 1, 1.52), ("gemma-2-9b", 1, 3.65), ("gemma-2-27b", 1, 3.66), ("qwen3-30b-a3b", 1, 2.68),
        ("mixtral-8x7b", 2, 1.21), ("gpt-oss-20b", 1, 2.87), ("qwen2.5-72b", 2, 2.29),
    ],
)  # fmt: skip
def test_the_activation_peak_is_what_vllm_logs(model, tp, peak_gib):
    fields = {
        "model": model,
        "engine": "vllm",
        "engine_version": "0.19.0",
        "gpu": "h100",
        "tp": tp,
        "isl": 64,
    }
    found = held_by(asked(**fields, osl=64)).activation_bytes[0] / GIB
    assert found == pytest.approx(peak_gib, rel=0.08)


def test_states_share_the_pool_and_cap_the_requests():
    batch = asked(model="qwen3-next-80b-a3b", tp=4)
    held = held_by(batch)
    whole = held.kv_pool_bytes + held.state_bytes
    assert held.state_bytes[0] == pytest.approx(whole[0] * 0.9 / 1.9)
    states = held.state_bytes[0] // cells(batch.system).state[0]
    assert held.max_requests[0] == states // 3
    assert largest_concurrency(held, np.array([10.0]), np.array([1e9]))[0] == held.max_requests[0]
    assert largest_concurrency(held, np.array([10.0]), np.array([7.0]))[0] == 7
    plenty = held_by(asked(model="llama-3.1-8b", tp=1))
    assert largest_concurrency(plenty, plenty.max_total_tokens / 2.5, np.array([99.0]))[0] == 2


def test_short_requests_fill_window_layers_as_well():
    short, long = np.array([100.0]), np.array([100_000.0])
    sglang = asked(model="gpt-oss-120b", tp=2)
    held = held_by(sglang, short)
    assert held.capacity_tokens[0] == pytest.approx(
        0.8 * held.max_total_tokens[0]
    )  # 100 of 128: the window pool binds
    assert held_by(sglang, long).capacity_tokens[0] == held.max_total_tokens[0]
    vllm = asked(model="gpt-oss-120b", engine="vllm", engine_version="0.22.0", tp=2)
    reported = held_by(vllm).max_total_tokens[0]
    cell = 2 * 18432
    pool = held_by(vllm).kv_pool_bytes[0]
    assert held_by(vllm, np.array([4096.0])).capacity_tokens[0] == pytest.approx(pool / cell, rel=0.01)
    assert reported > 1.8 * pool / cell  # concurrency x the longest context, of which windows keep little


def test_vllm_reports_concurrency_times_the_longest_context():
    # TP 2: 48 state and 16 full layers, pages of 16 layers; a state of 1.6 MB fills 784 tokens of 2048 bytes
    system = one(model="qwen3.5-27b", engine="vllm", engine_version="0.27.1", tp=2)
    pool = np.array([44.73 * GIB])
    found, _ = pool_tokens(needs(system), pool, np.array([8192.0]), np.array([65536.0]), np.array([0.8]))
    pages = pool[0] // (784 * 16 * 2048)
    assert found[0] == np.floor(pages / (84 + 3) * 65536)
    assert found[0] == pytest.approx(1407894, rel=1e-4)  # logged by vLLM 0.27.1


def test_the_margin_says_how_much_is_missing():
    held = held_by(asked(model="llama-3.3-70b", gemm="bf16", gpu="h100", tp=1))
    assert not fits(held, np.array([100.0]))[0]
    assert spare_bytes(held, np.array([100.0]))[0] < -60 * GIB
    held = held_by(asked(model="llama-3.1-8b", gpu="h100", tp=1))
    most = held.max_total_tokens
    assert fits(held, most)[0]
    assert not fits(held, most + 1)[0]
    assert 0 <= spare_bytes(held, most)[0] < held.cell_bytes[0]


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
@pytest.mark.parametrize("model", [*MODELS, "qwen3-next-80b-a3b"])
def test_the_parts_of_memory_make_the_gpu(model, engine):
    batch = asked(model=model, engine=engine)
    held = held_by(batch)
    parts = (
        held.weights_bytes + held.kv_pool_bytes + held.state_bytes + held.activation_bytes + held.graph_bytes
        + held.request_table_bytes + held.reserve_bytes
    )  # fmt: skip
    assert parts[0] == pytest.approx(batch.system.memory_bytes[0])


def test_the_table_of_requests_holds_every_position():
    held = held_by(asked(model="llama-3.3-70b", max_running_requests=100))
    assert held.request_table_bytes[0] == 4 * 101 * (131072 + 4)


def test_questions_about_one_deployment_share_what_it_takes():
    batch = asked(model="llama-3.1-8b", gpu="h100", tp=1)
    rows = np.zeros(3, dtype=np.intp)
    fractions = np.array([0.7, 0.8, 0.9])
    full = np.ones(3)
    found = memory_of(needs(batch.system).take(rows), fractions, 8192 * full, 2048 * full, 256 * full)
    again = held_by(replace(batch, settings=batch.settings._replace(memory_fraction=fractions[1:2])))
    assert found.max_total_tokens[1] == again.max_total_tokens[0]
    assert (np.diff(found.max_total_tokens) > 0).all()


# properties


@pytest.mark.parametrize("model", MODELS)
def test_fewer_bits_never_take_more_bytes(model):
    routed = get_architecture(model).moe_layers > 0
    taken = []
    for mode in ("bfloat16", "fp8", "nvfp4"):
        moe = {"moe": mode} if routed else {}
        taken.append(parameter_bytes(one(model=model, gpu="b200", gemm=mode, **moe))[0])
    assert taken == sorted(taken, reverse=True)
    held = [
        cells(one(model=model, gpu="b200", kv=kv)).full[0] for kv in ("bf16", "mxfp8", "fp8_e4m3", "nvfp4")
    ]
    assert held == sorted(held, reverse=True)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("tp", [2, 4, 8])
def test_a_rank_holds_its_share_and_what_replicates(model, tp):
    arch = get_architecture(model)
    alone, split = (parameter_bytes(one(model=model, engine="vllm", tp=n))[0] for n in (1, tp))
    # what every rank holds: norms, router, down-projections of latents, and KV heads above one a rank
    kept = 2 * (arch.hidden_size * (arch.norms_per_layer * arch.num_layers + 1))
    kept += 2 * arch.moe_layers * arch.num_experts * arch.hidden_size
    kept += (
        2
        * arch.mla_layers
        * arch.hidden_size
        * (arch.q_lora_rank + arch.kv_lora_rank + arch.qk_rope_head_dim)
    )
    kept += 2 * arch.hidden_size * 2 * arch.head_dim * arch.num_layers * (tp > arch.kv_heads)
    padding = 1.14 if model == "gpt-oss-120b" else 1.0
    assert alone / tp <= split * padding
    assert split <= padding * (alone / tp + kept)


@given(low=st.floats(0.5, 0.9), more=st.floats(0.001, 0.09))
@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_tokens_rise_with_the_fraction(engine, low, more):
    small, large = (
        held_by(asked(model="llama-3.1-8b", gpu="h100", tp=1, engine=engine, mem_fraction=each))
        for each in (low, low + more)
    )
    assert large.max_total_tokens[0] >= small.max_total_tokens[0]


def test_stages_hold_their_layers_and_one_table():
    one_stage, two = (
        parameter_bytes(one(memory_only=True, model="llama-3.1-8b", tp=1, pp=pp, engine="vllm"))[0]
        for pp in (1, 2)
    )
    table_bytes = 2 * 128256 * 4096
    assert two - table_bytes == pytest.approx((one_stage - 2 * table_bytes) / 2, rel=1e-4)


# what engines logged


@pytest.fixture(scope="module")
def logged():
    records, rejected = read_runs([STARTUPS])
    assert rejected == []
    return evaluate_startups(records)


@pytest.mark.parametrize(("engine", "whole", "alone"), [("sglang", 0.035, 0.005), ("vllm", 0.05, 0.005)])
def test_pools_are_what_the_logs_say(logged, engine, whole, alone):
    found = logged.scores(np.array([group[0] == engine for group in logged.groups]))
    assert found["max_total_tokens"]["median_ape"] <= whole
    assert found["max_total_tokens_given_memory"]["median_ape"] <= alone
    assert found["max_total_tokens"]["n"] >= {"sglang": 9, "vllm": 45}[engine]


@pytest.mark.parametrize(
    ("src_ref", "most"),
    [
        ("sgl-project/sglang#1386", 0.01),  # Qwen2-72B on 8 H100, 0.3.0
        ("sgl-project/sglang#4161", 0.02),  # DeepSeek-V3 on 16 H800, 0.4.3
        ("sgl-project/sglang#1612", 0.02),  # Mistral-7B on one RTX 4090
        ("meta-llama-llama-3-1-8b---h100-80gb--tp4", 0.002),
        ("qwen-qwen2-5-72b-instruc--h100-80gb--tp2", 0.03),
        ("openai-gpt-oss-20b--h100-80gb--tp2", 0.01),
        ("google-gemma-2-27b", 0.003),
        ("mixtral-8x7b", 0.005),
    ],
)
def test_certified_starts_stay_within_their_error(logged, src_ref, most):
    at = [
        row
        for row, record in enumerate(logged.answered)
        if src_ref in record["src_ref"] and np.isfinite(logged.predicted["max_total_tokens"][row])
    ]
    assert at
    for row in at:
        assert logged.predicted["max_total_tokens"][row] == pytest.approx(logged.logged[row], rel=most)


def test_an_fp8_pool_of_sparse_attention_is_budgeted_as_logged(logged):
    (row,) = [at for at, record in enumerate(logged.answered) if record["model"] == "glm-5"]
    assert logged.predicted["max_total_tokens_given_memory"][row] == pytest.approx(3262823, rel=1e-3)


def test_evaluate_scores_starts_beside_runs(tmp_path):
    file = tmp_path / "starts.jsonl"
    file.write_text(
        "".join(line + "\n" for line in STARTUPS.read_text().splitlines() if "llm-d-planner" in line)
    )
    records, _ = read_runs([file])
    found = evaluate(records, default_profile()).as_dict()
    assert found["metrics"]["tpot_ms"]["n"] == 0
    assert found["metrics"]["max_total_tokens"]["n"] >= 30
    assert found["metrics"]["max_total_tokens"]["median_ape"] < 0.005
    assert found["rows"] == len(records)
    assert {group["engine"] for group in found["groups"]} == {"vllm"}


def test_a_group_of_starts_and_runs_is_one(published):
    start = next(
        json.loads(line) for line in STARTUPS.read_text().splitlines() if "h100" in line and "vllm" in line
    )
    run = {
        "engine": "vllm", "gpu": "h100_sxm", "model": start["model"], "tp": start["tp"], "isl": 100, "osl": 100,
        "load": "closed", "concurrency": 1, "mean_tpot_ms": 5.0,
    }  # fmt: skip
    (group,) = evaluate([start | {"startup_id": "s", "gpu": "h100-sxm"}, run], default_profile()).as_dict()[
        "groups"
    ]
    assert group["n"] == 2
    assert group["tpot_ms"]["n"] == 1
    assert set(group) >= {"max_total_tokens", "max_total_tokens_given_memory"}


def test_evaluate_scores_what_a_server_said():
    run = {
        "engine": "sglang", "engine_version": "0.5.6", "gpu": "H100_SXM", "model": "llama-3.1-8b", "tp": 1, "isl": 100,
        "osl": 100, "load": "closed", "concurrency": 1, "mean_tpot_ms": 5.0, "extra": {"max_total_tokens": 430000},
        "kv_dtype": "auto",
    }  # fmt: skip
    found = evaluate([run, run], default_profile())
    assert found.as_dict()["metrics"]["max_total_tokens"]["n"] == 1  # one server, however many runs
    (group,) = found.as_dict()["groups"]
    assert (group["gpu"], group["n"], group["max_total_tokens"]["n"]) == ("h100-sxm", 2, 1)
    rows = [row for row in found.rows() if row["metric"] == "max_total_tokens"]
    assert [row["measured"] for row in rows] == [430000]


def test_the_page_holds_the_table_as_computed():
    page = (ROOT / "docs" / "memory.md").read_text()
    assert with_table(page, table(STARTUPS)) == page
    assert page.index(BEGIN) < page.index(END)


def test_shipped_starts_are_figures_with_a_source():
    rows = [json.loads(line) for line in STARTUPS.read_text().splitlines()]
    assert len(rows) == 168
    for row in rows:
        assert None not in row.values()
        assert row["src_ref"]
        assert not any(
            name in row["src_ref"] for name in ("bowenwan6", "heyram74", "mattbucci", "qwen3-speed-h20")
        )
