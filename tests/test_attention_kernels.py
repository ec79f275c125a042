"""Attention kernels: bytes and flops by hand, windows and prefixes, a faster machine, complete defaults."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicalib.calibrate.kernels import attention, latent, linear, sparse
from aicalib.calibrate.kernels.surface_fit import fit_surface
from aicalib.engines import ENGINES
from aicalib.engines.kernels import ATTENTION_KINDS, attention_kernel, default_backend
from aicalib.errors import NotCovered, UnknownName
from aicalib.hardware import get_accelerator
from aicalib.physics.kernels.attention import DECODE, FLOOR_S, PREFILL, causal_pairs
from aicalib.physics.kernels.kind import Machine, time_s
from aicalib.physics.kernels.latent import LATENT_DECODE
from aicalib.physics.kernels.linear import CONVOLUTION, LINEAR_DECODE, LINEAR_PREFILL
from aicalib.physics.kernels.sparse import DECODE_FLOOR_S, SPARSE_DECODE, weights
from aicalib.quant.modes import KVCacheQuantMode

KINDS = (
    DECODE,
    PREFILL,
    LATENT_DECODE,
    LINEAR_DECODE,
    LINEAR_PREFILL,
    CONVOLUTION,
    SPARSE_DECODE,
)


def machine(bandwidth=1e12, peak=1e15, bits=16.0):
    return Machine(*(np.array(value) for value in (bandwidth, peak, bits, 1e11)))


def shape(**sizes):
    return {name: np.asarray(size, dtype=float) for name, size in sizes.items()}


LLAMA_70B = {"heads": 64, "kv_heads": 8, "head_dim": 128, "v_head_dim": 128, "window": np.inf}


def test_decode_reads_the_cache_of_llama_70b():
    # 32 requests x 4096 tokens x 8 KV heads x 256 elements x 2 bytes = 512 MiB; queries and outputs 1 MiB.
    call = shape(batch=32, context=4096, **LLAMA_70B)
    slow_memory = DECODE.ideal_s(call, machine(peak=1e30))
    assert slow_memory == pytest.approx(FLOOR_S + (512 + 1) * 2**20 / 1e12)
    # 2 x 32 x 64 x 256 x 4096 = 4.29e9 operations.
    slow_math = DECODE.ideal_s(call, machine(bandwidth=1e30))
    assert slow_math == pytest.approx(FLOOR_S + 2 * 32 * 64 * 256 * 4096 / 1e15)
    assert DECODE.ideal_s(call, machine(bits=8.0, peak=1e30)) == pytest.approx(FLOOR_S + 257 * 2**20 / 1e12)


def test_prefill_counts_each_causal_pair_once():
    # 2 prompts of 1024: 1024 x 1025 / 2 pairs each, 2 x 64 x 256 operations a pair.
    call = shape(prompts=2, new_tokens=1024, prefix_tokens=0, **LLAMA_70B)
    flops = 2 * 2 * 64 * 256 * 1024 * 1025 / 2
    assert PREFILL.ideal_s(call, machine(bandwidth=1e30)) == pytest.approx(FLOOR_S + flops / 1e15)
    # 2 x 1024 tokens x (8 KV heads + 64 heads) x 256 elements x 2 bytes.
    bytes_ = 2 * 1024 * (8 + 64) * 256 * 2
    assert PREFILL.ideal_s(call, machine(peak=1e30)) == pytest.approx(FLOOR_S + bytes_ / 1e12)


@given(st.integers(1, 60), st.integers(0, 60), st.one_of(st.just(np.inf), st.integers(1, 90)))
def test_pairs_are_those_of_a_loop_over_queries(new, prefix, window):
    counted = sum(min(prefix + query, window) for query in range(1, new + 1))
    assert causal_pairs(np.array(new), np.array(prefix), np.array(float(window))) == pytest.approx(counted)


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=5), st.integers(1, 4000))
def test_chunks_have_the_pairs_of_the_whole_prompt(chunks, window):
    window = np.array(float(window))
    before = np.concatenate([[0], np.cumsum(chunks)[:-1]])
    whole = causal_pairs(np.array(float(sum(chunks))), np.zeros(()), window)
    assert causal_pairs(np.array(chunks, dtype=float), before, window).sum() == pytest.approx(whole)


def test_a_prefix_is_a_longer_prompt_of_fewer_rows():
    call = shape(prompts=1, new_tokens=512, prefix_tokens=3584, **LLAMA_70B)
    work, length = PREFILL.coordinates(call)[:2]
    assert 2**length == pytest.approx(512 + 2 * 3584)
    assert 2 ** (work + length) == pytest.approx(64 * 512)


def test_a_window_bounds_what_decode_reads():
    windowed = LLAMA_70B | {"window": 128}
    far = shape(batch=8, context=100000, **windowed)
    near = shape(batch=8, context=128, **LLAMA_70B)
    assert DECODE.ideal_s(far, machine()) == DECODE.ideal_s(near, machine())
    assert DECODE.coordinates(far) == DECODE.coordinates(near)


def test_latent_decode_of_deepseek_v3():
    # One latent of 512 + 64 elements a token for all heads; 2 x 128 x (1024 + 64) operations a token.
    call = shape(batch=16, context=2048, heads=128, latent_dim=512, rope_dim=64)
    bytes_ = 16 * 2048 * 576 * 2 + 16 * 128 * 1088 * 2
    assert LATENT_DECODE.ideal_s(call, machine(peak=1e30)) == pytest.approx(FLOOR_S + bytes_ / 1e12)
    flops = 2 * 16 * 2048 * 128 * 1088
    assert LATENT_DECODE.ideal_s(call, machine(bandwidth=1e30)) == pytest.approx(FLOOR_S + flops / 1e15)


def test_linear_decode_of_qwen3_next_reads_and_writes_its_state():
    # 32 value heads x 128 x 128 in 32 bit, twice; a row of 2 x (16 x 128 + 32 x 128) elements in 16 bit.
    call = shape(requests=10, key_heads=16, value_heads=32, key_dim=128, value_dim=128)
    floor = LINEAR_DECODE.ideal_s(call, machine(bandwidth=1e30, peak=1e30, bits=32.0))
    seconds = LINEAR_DECODE.ideal_s(call, machine(peak=1e30, bits=32.0))
    assert seconds - floor == pytest.approx(10 * (2 * 4 * 32 * 128 * 128 + 2 * 2 * 6144) / 1e12)


def test_convolution_moves_each_channel_in_and_out():
    # 8192 channels; 100 tokens and 3 rows of state of 1 request, in and out, 16 bit.
    call = shape(requests=1, tokens=100, channels=8192, kernel=4)
    floor = CONVOLUTION.ideal_s(call, machine(bandwidth=1e30))
    assert CONVOLUTION.ideal_s(call, machine()) - floor == pytest.approx(4 * 103 * 8192 / 1e12)


DEEPSEEK_V32 = {
    "heads": 128,
    "hidden_size": 7168,
    "q_lora_rank": 1536,
    "latent_dim": 512,
    "rope_dim": 64,
    "nope_dim": 128,
    "v_head_dim": 128,
    "index_heads": 64,
    "index_dim": 128,
    "index_topk": 2048,
    "cache_bits": 8,
}


def test_sparse_module_attends_to_the_best_and_scores_all():
    # Down 7168 x 2112, up 128 x (1536 x 192 + 512 x 256 + 128 x 7168), indexer 1536 x 8192 + 7168 x 192.
    size = 15138816 + 171966464 + 13959168
    assert weights(shape(**DEEPSEEK_V32)) == size
    call = shape(batch=8, context=32768, **DEEPSEEK_V32)
    bytes_ = size + 8 * 2048 * 576 + 8 * 32768 * 128 * (1 + 4 / 128) + 4 * 8 * 7168
    seconds = SPARSE_DECODE.ideal_s(call, machine(peak=1e30, bits=8.0))
    assert seconds == pytest.approx(DECODE_FLOOR_S + bytes_ / 1e12)
    flops = 2 * 8 * size + 2 * 128 * 1088 * 8 * 2048 + 2 * 64 * 128 * 8 * 32768
    seconds = SPARSE_DECODE.ideal_s(call, machine(bandwidth=1e30))
    assert seconds == pytest.approx(DECODE_FLOOR_S + flops / 1e15)


def test_a_layer_without_an_indexer_scores_nothing():
    near = shape(batch=8, context=2048, **(DEEPSEEK_V32 | {"index_heads": 0}))
    far = shape(batch=8, context=65536, **(DEEPSEEK_V32 | {"index_heads": 0}))
    assert SPARSE_DECODE.ideal_s(near, machine()) == SPARSE_DECODE.ideal_s(far, machine())


sizes = {
    "batch": st.integers(1, 2048),
    "prompts": st.integers(1, 64),
    "requests": st.integers(1, 1024),
    "context": st.integers(1, 200000),
    "new_tokens": st.integers(1, 32768),
    "prefix_tokens": st.integers(0, 65536),
    "tokens": st.integers(1024, 100000),
    "channels": st.integers(64, 16384),
    "cache_bits": st.just(8),
    "window": st.one_of(st.just(np.inf), st.integers(1, 8192)),
}


@given(st.sampled_from(KINDS), st.data(), st.floats(1.0, 10.0), st.floats(1.0, 10.0))
def test_a_faster_machine_is_never_slower_and_fewer_bits_never_cost(kind, data, wider, quicker):
    call = shape(**{name: data.draw(sizes.get(name, st.integers(1, 128)), label=name) for name in kind.sizes})
    base = kind.ideal_s(call, machine())
    assert np.isfinite(base)
    assert base > 0
    assert all(np.isfinite(at) for at in kind.coordinates(call))
    assert kind.ideal_s(call, machine(bandwidth=1e12 * wider)) <= base
    assert kind.ideal_s(call, machine(peak=1e15 * quicker)) <= base
    assert kind.ideal_s(call, machine(bits=8.0)) <= base


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_flat_surface_scales_the_ideal_time_over_broadcast_arrays(kind):
    grid = {"batch", "prompts", "requests"}
    call = {
        name: np.array([[1.0], [2.0], [64.0]]) if name in grid else np.array([64.0, 128.0])
        for name in kind.sizes
    }
    surfaces = np.full((2, *(knots.size for knots in kind.axes)), np.log(2.0))
    surfaces[1] = 0.0
    codes = np.array([0, 1])
    found = time_s(kind, surfaces, codes, call, machine())
    ideal = np.broadcast_to(kind.ideal_s(call, machine()), found.shape)
    assert found[..., 0] == pytest.approx(2.0 * ideal[..., 0])
    assert found[..., 1] == pytest.approx(ideal[..., 1])


GPUS = ("a100", "a10", "l40s", "h100", "b200", "b300-sxm", "rtx-pro-6000", "mi300x", "t4", "gaudi3")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("version", ["0.4.0", "0.5.14", "9.0.0"])
def test_every_engine_and_generation_has_an_attention_of_every_kind(engine, gpu, version):
    accelerator = get_accelerator(gpu)
    for kind in (*ATTENTION_KINDS, "sinks+window", "wide_head+window"):
        for mode in KVCacheQuantMode:
            kernel = attention_kernel(engine, version, accelerator, kind, mode)
            assert kernel.math in accelerator.peak_flops
            assert kernel.variant.endswith("/window") == ("window" in kind)


def test_defaults_are_those_of_the_engines():
    def of(engine, version, gpu, kind="full", mode=KVCacheQuantMode.bfloat16):
        return attention_kernel(engine, version, get_accelerator(gpu), kind, mode)

    assert of("sglang", "0.5.14", "h100").variant == "fa3/wide"
    assert of("sglang", "0.5.14", "h200", mode=KVCacheQuantMode.fp8).math == "fp8"
    assert of("sglang", "0.4.4", "h100").backend == "flashinfer"
    assert of("sglang", "0.5.14", "b200").backend == "trtllm_mha"
    assert of("sglang", "0.5.3", "b200").backend == "flashinfer"
    assert of("sglang", "0.5.14", "l40s", mode=KVCacheQuantMode.fp8).math == "bf16"
    assert of("sglang", "0.5.14", "l40s", "window").masks_window
    assert of("sglang", "0.5.14", "b200", "latent").variant == "trtllm_mla/wide"
    assert of("sglang", "0.5.14", "l40s", "latent", KVCacheQuantMode.fp8).variant == "triton/wide"
    assert of("vllm", "0.20.0", "h100").variant == "fa3/wide"
    assert of("vllm", "0.20.0", "b200").backend == "flashinfer"
    assert default_backend("sglang", "0.5.14", get_accelerator("h100"), "gemm", "fp8_block")[0] == "deep_gemm"
    assert default_backend("sglang", "0.5.14", get_accelerator("a100"), "gemm", "fp8")[1] == "weight_only_8"


def test_unknown_engines_and_kinds_are_refused_by_name():
    with pytest.raises(UnknownName, match="tgi"):
        attention_kernel("tgi", "1.0.0", get_accelerator("h100"), "full", KVCacheQuantMode.fp8)
    with pytest.raises(NotCovered, match="banded"):
        attention_kernel("vllm", "0.20.0", get_accelerator("h100"), "banded", KVCacheQuantMode.fp8)


def timings(**columns):
    """Return kernel runs with the columns of attention tables; a column is a value or a list of them."""
    row = {
        "accelerator": "h100-sxm",
        "kernel_source": "fa3",
        "attn_dtype": "bfloat16",
        "kv_cache_dtype": "bfloat16",
        "batch_size": 4,
        "num_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "window_size": 0,
        "latency_ms": 1.0,
    }
    return pd.DataFrame(row | columns)


def test_timings_out_of_the_cache_of_the_chip_are_left_out():
    # 4 x 8 x 256 x 4096 x 2 bytes = 64 MiB take 20 us at 3350 GB/s.
    frame = timings(step=[4095, 4095], latency_ms=[0.019, 0.021])
    calls = attention.TABLES[0].calls(frame)
    assert calls.latency_s == pytest.approx([21e-6])
    assert calls.shape["context"] == pytest.approx([4096])


def test_chunked_attention_is_no_window_and_masks_are_no_saving():
    frame = timings(isl=1024, window_size=[0, 128, 8192], step=0)
    calls = attention.TABLES[1].calls(frame)
    assert calls.variant.tolist() == ["fa3/wide", "fa3/wide/window"]
    assert calls.shape["window"].tolist() == [np.inf, 128.0]
    masked = attention.TABLES[1].calls(frame.assign(kernel_source="triton"))
    assert masked.variant.tolist() == ["triton/wide", "triton/wide/window"]
    assert masked.shape["window"].tolist() == [np.inf, np.inf]


def test_tables_without_windows_see_everything():
    frame = timings(isl=1024, step=0, latency_ms=[1.0]).drop(columns="window_size")
    assert attention.TABLES[1].calls(frame).shape["window"].tolist() == [np.inf]


@pytest.mark.parametrize(
    ("source", "kv", "math"),
    [("fa3", "fp8", "fp8"), ("flashinfer", "fp8", "bf16"), ("fa3", "bfloat16", "bf16")],
)
def test_math_follows_cache_and_backend(source, kv, math):
    frame = timings(isl=[64], step=0, kernel_source=source, kv_cache_dtype=kv)
    calls = attention.TABLES[1].calls(frame)
    assert calls.peak.tolist() == [math]
    assert calls.bits.tolist() == [8.0 if kv == "fp8" else 16.0]


def test_latent_tables_have_the_widths_of_deepseek_v3():
    decode = latent.TABLES[0].calls(timings(isl=[512], step=[0]))
    assert decode.shape["latent_dim"] + decode.shape["rope_dim"] == pytest.approx([576])


def test_linear_tables_are_read_by_kernel():
    frame = timings(
        kernel_source=["chunk_gated_delta_rule", "causal_conv1d_fn", "fused_recurrent_kda_packed_decode"],
        op_name=["gdn", "gdn", "kda"],
        phase=["context", "context", "generation"],
        seq_len=[100, 100, 1],
        num_k_heads=16,
        num_v_heads=32,
        head_k_dim=128,
        head_v_dim=128,
        d_conv=4,
    )
    decode, prefill, convolution = (table.calls(frame) for table in linear.TABLES)
    assert decode.variant.tolist() == ["kda"]
    assert prefill.variant.tolist() == ["gdn"]
    assert prefill.shape["tokens"] == pytest.approx([400])
    assert convolution.variant.tolist() == ["gdn/prefill"]
    assert convolution.shape["channels"] == pytest.approx([8192])


def test_sparse_tables_name_cache_projections_and_reuse():
    frame = timings(
        kernel_source="sglang_dsa_indexer_fa3",
        op_name=["dsa_generation_module", "dsa_generation_module_skip_indexer"],
        architecture=["DeepseekV32ForCausalLM", "GlmMoeDsaForCausalLM"],
        gemm_type=["fp8_block", "bfloat16"],
        step=2047,
    )
    calls = sparse.TABLES[0].calls(frame)
    assert calls.variant.tolist() == ["dsa/wide/fp8_block", "dsa/wide/wide/reuse"]
    assert calls.shape["index_heads"].tolist() == [64.0, 0.0]
    assert calls.shape["hidden_size"].tolist() == [7168.0, 6144.0]


def test_a_surface_levels_off_and_stays_within_what_was_measured():
    axes = (np.arange(10.0), np.arange(3.0))
    along = np.tile(np.linspace(0.0, 4.0, 40), 2)
    across = np.repeat([0.0, 1.0], 40)
    surface = fit_surface(axes, (along, across), 0.3 * along, 0.05)
    assert surface[:5, 0] == pytest.approx(0.3 * np.arange(5), abs=0.02)
    assert surface.max() <= 1.2
    assert surface.min() >= 0.0
