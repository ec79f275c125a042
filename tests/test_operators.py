"""Operations and bytes of every operator of a step, worked out by hand from the released configurations.

A decode step of 8 requests with 1000 tokens each, and a prefill step of two prompts of 1024 tokens. All figures are of
one GPU. A row is (calls in the step, operations, bytes over memory or link); steps must have these operators and no
others. A multiply-add is two operations.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from aicalib.models.products import matrix_products
from aicalib.physics.kernels.sparse import weights
from aicalib.physics.projections import IN_SPARSE_MODULE
from aicalib.physics.steps import decode_step, prefill_step
from aicalib.physics.system import spread_over
from aicalib.profiles import priors
from aicalib.resolve.rows import resolve

BATCH, CONTEXT = 8, 1000
PROMPTS, LENGTH = 2, 1024
TOKENS = PROMPTS * LENGTH
PAIRS = 1024 * 1025 // 2  # causal pairs of one prompt: 1 + 2 + ... + 1024
BF16 = 2.0


def resolved(**options):
    batch = resolve({name: [value] for name, value in ({"gpu": "h100-sxm"} | options).items()})
    for error in batch.refused.values():
        raise error
    return batch.system


def steps_of(**options):
    system = resolved(**options)
    c = spread_over(system, priors())
    batch, context, tokens, length = (np.array([float(each)]) for each in (BATCH, CONTEXT, TOKENS, LENGTH))
    decode = decode_step(system, c, batch, context, batch, np.array([512.0]))
    return decode, prefill_step(system, c, tokens, length, np.ones(1))


def rows(step):
    found = {}
    for each in step:
        calls, flops, bytes_ = (
            float(np.broadcast_to(value, (1,))[0]) for value in (each.calls, each.flops, each.bytes_)
        )
        if calls:
            assert each.name not in found
            found[each.name] = calls, flops, bytes_
    return found


def check(step, expected):
    found = rows(step)
    assert sorted(found) == sorted(expected)
    for name, row in expected.items():
        assert found[name] == pytest.approx(row, rel=1e-9), name


def product(calls, m, n, k, weight=BF16, activation=BF16):
    """m rows times n x k weights: every weight, every input once; the output in 16 bit."""
    return calls, calls * 2 * m * n * k, calls * (n * k * weight + m * k * activation + m * n * BF16)


def cast(calls, m, k, narrow):
    """Reads 16 bit and writes `narrow` bytes an element."""
    return calls, 0, calls * m * k * (BF16 + narrow)


def moved(calls, bytes_):
    return calls, 0, calls * bytes_


def ring(calls, bytes_, ranks):
    """An all-reduce: every rank sends 2 (n - 1) / n of the message."""
    return calls, 0, calls * 2 * (ranks - 1) / ranks * bytes_


def gather(bytes_, ranks):
    """An all-gather: every rank sends (n - 1) / n of the result."""
    return 1, 0, (ranks - 1) / ranks * bytes_


def nothing(calls):
    return calls, 0, 0


def touched(tokens, experts, top_k):
    """Distinct experts under moderate skew: popularity is gamma distributed, squared deviation 0.3 (1 - k / E)."""
    spread = 0.3 * (1 - top_k / experts)
    hazard = -tokens * math.log(1 - top_k / experts)
    return experts * (1 - (1 + spread * hazard) ** (-1 / spread))


def grouped(calls, tokens, experts, top_k, hidden, inter, matrices, weight):
    """Routed experts on a rank that holds a slice of each: weights of those touched; in 16 bit the hidden state of a
    pair in and out, and what stands between its matrices."""
    pairs = tokens * top_k
    flops = 2 * pairs * matrices * hidden * inter
    read = weight * touched(tokens, experts, top_k) * matrices * hidden * inter
    return calls, calls * flops, calls * (read + BF16 * pairs * (2 * hidden + matrices * inter))


def test_llama_70b_in_fp8_on_four_ranks():
    decode, prefill = steps_of(model="llama-3.3-70b", tp=4, gemm="fp8")
    # On a rank 16 of 64 heads and 2 of 8 KV heads of 128; 7168 of 28672 columns; 32064 of 128256 logits.
    # FP8 weights and activations are a byte; the head stays in 16 bit.
    for step, m, sampled in ((decode, BATCH, BATCH), (prefill, TOKENS, PROMPTS)):
        keys = 2 * (128 + 128)  # key and value of 2 KV heads
        queries = 16 * (128 + 128)  # query and output of 16 heads
        expected = {
            "qkv_proj": product(80, m, (16 + 2 + 2) * 128, 8192, 1, 1),
            "o_proj": product(80, m, 8192, 16 * 128, 1, 1),
            "gate_up_proj": product(80, m, 2 * 7168, 8192, 1, 1),
            "down_proj": product(80, m, 8192, 7168, 1, 1),
            "cast for qkv_proj": cast(80, m, 8192, 1),
            "cast for o_proj": cast(80, m, 2048, 1),
            "cast for gate_up_proj": cast(80, m, 8192, 1),
            "cast for down_proj": cast(80, m, 7168, 1),
            "norms, rotary, residuals": moved(1, 10 * 80 * m * 8192 * BF16),
            "lm_head": product(1, sampled, 32064, 8192),
            "gather logits": gather(sampled * 128256 * BF16, 4),
            "sampling": moved(1, sampled * 128256 * (2 + 4 + 4 + 2)),
            "all-reduce": ring(80 + 80 + 1, m * 8192 * BF16, 4),
            "launch not hidden": nothing(1),
        }
        if step is decode:
            attention = 2 * 8 * 16 * (128 + 128) * 1000  # score and sum: 2 operations a channel and key
            read = 8 * 1000 * keys * BF16 + 8 * queries * BF16
            expected |= {
                "attention": (80, 80 * attention, 80 * read),
                "small kernels and gaps": nothing(80),
                "engine": nothing(1),
            }
        else:
            attention = 2 * 2 * 16 * (128 + 128) * PAIRS
            read = 2048 * keys * BF16 + 2048 * queries * BF16
            expected["attention"] = 80, 80 * attention, 80 * read
        check(step, expected)


def test_llama_70b_in_fp8_reads_its_weights_once():
    decode, _ = steps_of(model="llama-3.3-70b", tp=4, gemm="fp8", kv="bfloat16")
    found = rows(decode)
    names = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
    # 70.55e9 parameters less embedding and head, a byte each, on four ranks; activations add less than 1 %.
    weights_ = (70.554e9 - 2 * 128256 * 8192) / 4
    assert sum(found[name][2] for name in names) == pytest.approx(weights_, rel=0.01)
    # And the roofline at batch 8: 2 operations a weight and token.
    assert sum(found[name][1] for name in names) == pytest.approx(2 * 8 * weights_, rel=1e-4)


def test_deepseek_v3_in_block_fp8_on_eight_ranks():
    decode, prefill = steps_of(model="deepseek-v3", tp=8, gpu="h200-sxm", gemm="fp8_block", kv="bfloat16")
    # On a rank 16 of 128 heads; latents of 512 + 64 and down-projections stand whole.
    weight = 1 + 4 / 128**2  # a 32-bit scale a block of 128 x 128
    narrow = 1 + 4 / 128  # and one per 128 activations
    for step, m, sampled in ((decode, BATCH, BATCH), (prefill, TOKENS, PROMPTS)):
        block = {
            "fused_qkv_a_proj": (61, 1536 + 512 + 64, 7168),
            "q_b_proj": (61, 16 * (128 + 64), 1536),
            "latent o_proj": (61, 7168, 16 * 128),
            "gate_up_proj": (3, 2 * 18432 // 8, 7168),
            "down_proj": (3, 7168, 18432 // 8),
            "shared gate_up_proj": (58, 2 * 2048 // 8, 7168),
            "shared down_proj": (58, 7168, 2048 // 8),
        }
        if step is prefill:
            block["kv_b_proj"] = 61, 16 * (128 + 128), 512  # keys without position, and values
        expected = {
            **{name: product(calls, m, n, k, weight, narrow) for name, (calls, n, k) in block.items()},
            **{f"cast for {name}": cast(calls, m, k, narrow) for name, (calls, _, k) in block.items()},
            "norms, rotary, residuals": moved(1, 10 * 61 * m * 7168 * BF16),
            "gate": product(58, m, 256, 7168),
            "experts": grouped(58, m, 256, 8, 7168, 2048 // 8, 3, weight),
            "lm_head": product(1, sampled, 129280 // 8, 7168),
            "gather logits": gather(sampled * 129280 * BF16, 8),
            "sampling": moved(1, sampled * 129280 * 12),
            "all-reduce": ring(61 + 61 + 1, m * 7168 * BF16, 8),
            "launch not hidden": nothing(1),
        }
        if step is decode:
            # Absorbed: every head scores the latent of 512 + 64 and sums latents of 512, read once for all heads.
            attention = 2 * 8 * 1000 * 16 * (512 + 64 + 512)
            read = 8 * 1000 * (512 + 64) * BF16 + 8 * 16 * (512 + 64 + 512) * BF16
            absorbed = 2 * 8 * 16 * 128 * 512  # a 128 x 512 matrix a head, before and after
            matrices = 16 * 128 * 512 * weight + 8 * 16 * (128 + 512) * BF16
            expected |= {
                "latent attention": (61, 61 * attention, 61 * read),
                "w_kc": (61, 61 * absorbed, 61 * matrices),
                "w_vc": (61, 61 * absorbed, 61 * matrices),
                "small kernels and gaps": nothing(61),
                "engine": nothing(1),
            }
        else:
            # Expanded: 16 heads with keys of 128 + 64 and values of 128.
            attention = 2 * 2 * 16 * (192 + 128) * PAIRS
            read = 2048 * 16 * (192 + 128) * BF16 * 2  # keys and values; queries and outputs
            expected["latent attention"] = 61, 61 * attention, 61 * read
        check(step, expected)


def test_gpt_oss_120b_in_mxfp4_on_four_ranks():
    decode, prefill = steps_of(model="gpt-oss-120b", tp=4)
    # Every second of 36 layers sees 128 tokens. On a rank 16 of 64 heads and 2 of 8 KV heads of 64.
    for step, m, sampled in ((decode, BATCH, BATCH), (prefill, TOKENS, PROMPTS)):
        keys, queries = 2 * (64 + 64), 16 * (64 + 64)
        expected = {
            "qkv_proj": product(18, m, (16 + 2 + 2) * 64, 2880),
            "o_proj": product(18, m, 2880, 16 * 64),
            "window qkv_proj": product(18, m, (16 + 2 + 2) * 64, 2880),
            "window o_proj": product(18, m, 2880, 16 * 64),
            "norms, rotary, residuals": moved(1, 10 * 36 * m * 2880 * BF16),
            "gate": product(36, m, 128, 2880),
            # 4 bits and an 8-bit scale per 32: 4.25 bits.
            "experts": grouped(36, m, 128, 4, 2880, 2880 // 4, 3, 4.25 / 8),
            "lm_head": product(1, sampled, 201088 // 4, 2880),
            "gather logits": gather(sampled * 201088 * BF16, 4),
            "sampling": moved(1, sampled * 201088 * 12),
            "all-reduce": ring(36 + 36 + 1, m * 2880 * BF16, 4),
            "launch not hidden": nothing(1),
        }
        if step is decode:
            full, window = (
                (18, 18 * 2 * 8 * queries * seen, 18 * 8 * BF16 * (seen * keys + queries))
                for seen in (1000, 128)
            )
            expected |= {"small kernels and gaps": nothing(36), "engine": nothing(1)}
        else:
            # The first 128 queries see 1, 2, ... 128 tokens, the other 896 see 128.
            inside = 128 * 129 // 2 + 896 * 128
            full, window = (
                (18, 18 * 2 * 2 * queries * pairs, 18 * 2048 * BF16 * (keys + queries))
                for pairs in (PAIRS, inside)
            )
        check(step, expected | {"attention": full, "window attention": window})


def test_qwen3_next_on_four_ranks():
    decode, prefill = steps_of(model="qwen3-next-80b-a3b", tp=4)
    # 12 layers of attention with an output gate: 4 of 16 heads of 256, and one of 2 KV heads on each rank.
    # 36 gated delta nets: 4 of 16 key heads and 8 of 32 value heads of 128.
    for step, m, sampled, requests in ((decode, BATCH, BATCH, 8), (prefill, TOKENS, PROMPTS, 2)):
        keys, queries = 256 + 256, 4 * (256 + 256)
        state = 8 * 128 * 128  # of a request
        token = (2 * 4 * 128 + 2 * 8 * 128) * BF16  # query, key; value, output
        channels = (2 * 16 * 128 + 32 * 128) // 4
        # The last three of four taps are state: read and written; a token's channels go in and out.
        convolution = 36, 0, 36 * (m + 3 * requests) * channels * BF16 * 2
        expected = {
            "qkv_proj": product(12, m, 2 * 4 * 256 + 2 * 256, 2048),
            "o_proj": product(12, m, 2048, 4 * 256),
            "in_proj_qkvz": product(36, m, 2 * 4 * 128 + 2 * 8 * 128, 2048),
            "in_proj_ba": product(36, m, 2 * 8, 2048),
            "linear out_proj": product(36, m, 2048, 8 * 128),
            "delta convolution": convolution,
            "norms, rotary, residuals": moved(1, 10 * 48 * m * 2048 * BF16),
            "gate": product(48, m, 512, 2048),
            "shared gate_up_proj": product(48, m, 2 * 128, 2048),
            "shared down_proj": product(48, m, 2048, 128),
            "experts": grouped(48, m, 512, 10, 2048, 128, 3, BF16),
            "lm_head": product(1, sampled, 151936 // 4, 2048),
            "gather logits": gather(sampled * 151936 * BF16, 4),
            "sampling": moved(1, sampled * 151936 * 12),
            "all-reduce": ring(48 + 48 + 1, m * 2048 * BF16, 4),
            "launch not hidden": nothing(1),
        }
        if step is decode:
            # Decay and correction of the state, and the read-out: 6 operations a value; read and written in 32 bit.
            delta = 6 * 8 * state, 8 * state * 4 * 2 + 8 * token
            attention = 2 * 8 * queries * 1000, 8 * BF16 * (1000 * keys + queries)
            expected |= {"small kernels and gaps": nothing(48), "engine": nothing(1)}
        else:
            # Inside chunks of 64 tokens attention of 64 keys: 2 (2 d_k + d_v) a key, token and head. Between
            # chunks 32 states, written and read in 16 bit.
            inside = 2 * 64 * (2 * 128 + 128) * 8
            chunks = (2048 // 64) * state * BF16 * 2
            delta = 2048 * (6 * state + inside), 2 * state * 4 * 2 + chunks + 2048 * token
            attention = 2 * 2 * queries * PAIRS, 2048 * BF16 * (keys + queries)
        expected["gated delta rule"] = 36, 36 * delta[0], 36 * delta[1]
        expected["attention"] = 12, 12 * attention[0], 12 * attention[1]
        check(step, expected)


def test_nemotron_3_nano_on_eight_ranks():
    decode, prefill = steps_of(model="nemotron-3-nano-30b-a3b", tp=8)
    # 52 layers of one part each: 23 state spaces, 6 attentions, 23 with experts. On a rank 8 of 64 heads of
    # 64 x 128 and one of 8 groups; 4 of 32 heads and one of 2 KV heads of 128; experts have two matrices.
    for step, m, sampled, requests in ((decode, BATCH, BATCH, 8), (prefill, TOKENS, PROMPTS, 2)):
        keys, queries = 128 + 128, 4 * (128 + 128)
        state = 8 * 64 * 128
        token = (2 * 128 + 2 * 8 * 64) * BF16  # B and C of the group; input and output of the heads
        channels = 8 * 64 + 2 * 128
        expected = {
            "qkv_proj": product(6, m, (4 + 1 + 1) * 128, 2688),
            "o_proj": product(6, m, 2688, 4 * 128),
            # Gate and input of 8 heads, B and C of a group, a step a head.
            "mamba in_proj": product(23, m, 2 * 512 + 2 * 128 + 8, 2688),
            "mamba out_proj": product(23, m, 2688, 512),
            "state-space convolution": (23, 0, 23 * (m + 3 * requests) * channels * BF16 * 2),
            # Ten passes are those of a layer of two parts.
            "norms, rotary, residuals": moved(1, 10 * 26 * m * 2688 * BF16),
            "gate": product(23, m, 128, 2688),
            "shared gate_up_proj": product(23, m, 3712 // 8, 2688),
            "shared down_proj": product(23, m, 2688, 3712 // 8),
            "experts": grouped(23, m, 128, 6, 2688, 1856 // 8, 2, BF16),
            "lm_head": product(1, sampled, 131072 // 8, 2688),
            "gather logits": gather(sampled * 131072 * BF16, 8),
            "sampling": moved(1, sampled * 131072 * 12),
            "all-reduce": ring(29 + 23 + 1, m * 2688 * BF16, 8),
            "launch not hidden": nothing(1),
        }
        if step is decode:
            space = 6 * 8 * state, 8 * state * 4 * 2 + 8 * token
            attention = 2 * 8 * queries * 1000, 8 * BF16 * (1000 * keys + queries)
            expected |= {"small kernels and gaps": nothing(26), "engine": nothing(1)}
        else:
            inside = 2 * 64 * (2 * 128 + 64) * 8
            chunks = (2048 // 64) * state * BF16 * 2
            space = 2048 * (6 * state + inside), 2 * state * 4 * 2 + chunks + 2048 * token
            attention = 2 * 2 * queries * PAIRS, 2048 * BF16 * (keys + queries)
        expected["state space"] = 23, 23 * space[0], 23 * space[1]
        expected["attention"] = 6, 6 * attention[0], 6 * attention[1]
        check(step, expected)


def test_lfm2_on_one_rank():
    decode, prefill = steps_of(model="lfm2.5-1.2b", tp=1)
    # 6 attentions of 32 heads and 8 KV heads of 64, 10 gated convolutions of 3 taps over 2048 channels.
    for step, m, sampled, requests in ((decode, BATCH, BATCH, 8), (prefill, TOKENS, PROMPTS, 2)):
        keys, queries = 8 * (64 + 64), 32 * (64 + 64)
        expected = {
            "qkv_proj": product(6, m, (32 + 8 + 8) * 64, 2048),
            "o_proj": product(6, m, 2048, 2048),
            "conv in_proj": product(10, m, 3 * 2048, 2048),
            "conv out_proj": product(10, m, 2048, 2048),
            "short convolution": (10, 0, 10 * (m + 2 * requests) * 2048 * BF16 * 2),
            "norms, rotary, residuals": moved(1, 10 * 16 * m * 2048 * BF16),
            "gate_up_proj": product(16, m, 2 * 8192, 2048),
            "down_proj": product(16, m, 2048, 8192),
            "lm_head": product(1, sampled, 65536, 2048),
            "sampling": moved(1, sampled * 65536 * 12),
            "launch not hidden": nothing(1),
        }
        if step is decode:
            attention = 2 * 8 * queries * 1000, 8 * BF16 * (1000 * keys + queries)
            expected |= {"small kernels and gaps": nothing(16), "engine": nothing(1)}
        else:
            attention = 2 * 2 * queries * PAIRS, 2048 * BF16 * (keys + queries)
        expected["attention"] = 6, 6 * attention[0], 6 * attention[1]
        check(step, expected)


def test_attention_data_parallelism_gathers_and_scatters():
    decode, _ = steps_of(model="deepseek-v3", tp=8, dp=8, gpu="h200-sxm", gemm="fp8_block", kv="bfloat16")
    found = rows(decode)
    # Before a feed-forward part the rows of all are gathered, after it scattered: 7/8 of 8 rows each time.
    assert found["all-gather and reduce-scatter"] == pytest.approx(
        (2 * 61, 0, 2 * 61 * 7 / 8 * 8 * 7168 * BF16)
    )
    assert not {"all-reduce", "all-reduce of attention"} & set(found)
    # One request a rank with all 128 heads, and experts over the rows of all ranks.
    assert found["latent attention"][1] == pytest.approx(61 * 2 * 1000 * 128 * (512 + 64 + 512))
    assert found["experts"][1] == pytest.approx(58 * 2 * 8 * 8 * 3 * 7168 * 256)
    # Two ranks to an attention sum four of the eight rows.
    decode, _ = steps_of(model="deepseek-v3", tp=8, dp=2, gpu="h200-sxm", gemm="fp8_block", kv="bfloat16")
    assert rows(decode)["all-reduce of attention"] == pytest.approx((61, 0, 61 * 2 * 3 / 4 * 4 * 7168 * BF16))


def test_experts_over_ranks_wait_for_the_busiest():
    decode, _ = steps_of(model="deepseek-v3", tp=8, ep=8, gpu="h200-sxm", gemm="fp8_block", kv="bfloat16")
    experts = next(each for each in decode if each.name == "experts")
    # 64 pairs on 8 ranks of 32 experts: a mean of 8; luck 8 (7/8) (248/255), liking 8^2 x 0.3 (31/32) (8/256) (7/8);
    # of 8 normal draws the greatest is expected 1.4236 deviations above the mean.
    luck = 8 * 7 / 8 * 248 / 255
    liking = 8**2 * 0.3 * 31 / 32 * 8 / 256 * 7 / 8
    pairs = 8 + 1.4236 * math.sqrt(luck + liking)
    assert experts.sizes["pairs"][0] == pytest.approx(pairs)
    assert experts.flops[0] == pytest.approx(58 * 2 * pairs * 3 * 7168 * 2048)


def test_a_sparse_module_holds_its_projections():
    decode, _ = steps_of(model="deepseek-v3.2", tp=8, gpu="h200-sxm", kv="bfloat16")
    found = rows(decode)
    assert not set(IN_SPARSE_MODULE) & set(found)
    projections = (
        7168 * (1536 + 512 + 64) + 1536 * 16 * 192 + 16 * 512 * (128 + 128) + 16 * 128 * 7168
        + 1536 * 64 * 128 + 7168 * (128 + 64)
    )  # fmt: skip
    # All 1000 keys are scored by 64 index heads of 128, and attended to, being fewer than 2048.
    flops = 2 * 8 * projections + 2 * 8 * 1000 * 16 * (512 + 64 + 512) + 2 * 8 * 1000 * 64 * 128
    read = projections * (1 + 4 / 128**2) + 8 * 1000 * 576 * BF16 + 8 * 1000 * 128 * (1 + 4 / 128)
    rows_ = 2 * 8 * 7168 * BF16
    assert found["sparse attention module"] == pytest.approx((61, 61 * flops, 61 * (read + rows_)))


@pytest.mark.parametrize(
    ("gpu", "heads", "tokens", "timed_ms"),
    [
        # Rows of context_mla_perf of aiconfigurator-core 0.12.0 (Apache-2.0) for B200, where its calls are expanded.
        ("b200", 128, 8192.0, 2.082), ("b200", 128, 2048.0, 0.2007), ("b200", 16, 8192.0, 0.3152),
        ("b200", 16, 2048.0, 0.0460),
    ],
)  # fmt: skip
def test_expanded_latent_attention_is_that_of_grouped_heads(gpu, heads, tokens, timed_ms):
    system = resolved(
        model="deepseek-v3", tp=128 // heads, gpu=gpu, gemm="bfloat16", moe="bfloat16", kv="bfloat16"
    )
    step = prefill_step(
        system, spread_over(system, priors()), np.array([tokens]), np.array([tokens]), np.ones(1)
    )
    call = next(each for each in step if each.name == "latent attention")
    assert call.sizes["kv_heads"] == call.sizes["heads"] == heads
    assert 1e3 * call.time_s[0] / 61 == pytest.approx(timed_ms, rel=0.2)


def test_prefill_over_chosen_keys_is_absorbed():
    system = resolved(model="deepseek-v3.2", tp=8, gpu="h200-sxm", kv="bfloat16")
    c = spread_over(system, priors())
    few, many = (
        rows(prefill_step(system, c, np.array([length]), np.array([length]), np.ones(1)))
        for length in (2048.0, 8192.0)
    )
    # Up to 2048 tokens every key is kept: dense, 16 heads of 192 and 128.
    assert few["latent attention"][1] == pytest.approx(61 * 2 * 16 * (192 + 128) * 2048 * 2049 / 2)
    assert "latent attention to chosen keys" not in few
    # Beyond, 2048 queries see 1, 2, ... 2048 keys and the other 6144 see 2048, in the latent; 64 heads at least.
    pairs = 2048 * 2049 / 2 + 6144 * 2048
    read = 8192 * ((512 + 64) * BF16 + 16 * (512 + 64 + 512) * BF16)
    expected = 61, 61 * 2 * 64 * (512 + 64 + 512) * pairs, 61 * read
    assert many["latent attention to chosen keys"] == pytest.approx(expected)
    assert "latent attention" not in many
    # The indexer scores half of all pairs with 64 heads of 128, on every rank.
    assert many["indexer"][1] == pytest.approx(61 * 2 * 64 * 128 * 8192**2 / 2)


@pytest.mark.parametrize("model", ["deepseek-v3.2", "glm-5", "glm-5.2"])
def test_a_sparse_module_holds_all_projections_of_its_layers(model):
    system = resolved(model=model, tp=8, gpu="b300")
    local = [
        each for each in matrix_products(system.arch, system.attention_width, system.tp)
        if each.rows == "local" and each.phase != "prefill" and np.any(each.count)
    ]  # fmt: skip
    assert {each.name for each in local} <= set(IN_SPARSE_MODULE)
    decode, _ = steps_of(model=model, tp=8, gpu="b300")
    modules = [each for each in decode if each.name.startswith("sparse attention module")]
    held = sum(each.calls[0] * weights(each.sizes)[0] for each in modules)
    assert held == pytest.approx(sum(each.weights[0] for each in local))


def test_block_sparse_attention_reads_its_blocks_and_all_index_keys():
    decode, prefill = steps_of(model="minimax-m3", tp=4, gpu="b300", kv="bfloat16")
    # 16 of 64 heads, one of 4 KV heads and one of 4 index heads of 128; 1000 tokens are fewer than 2048.
    flops = 2 * 8 * 16 * (128 + 128) * 1000 + 2 * 8 * 128 * 1000
    read = 8 * 1000 * (128 + 128) * BF16 + 8 * 1000 * 128 * (1 + 4 / 128)
    calls, found, bytes_ = rows(decode)["sparse attention"]
    assert (calls, found, bytes_) == pytest.approx((1, 57 * flops, 57 * read))
    pairs = 1024**2 / 2
    assert rows(prefill)["sparse attention"][1] == pytest.approx(57 * 2 * pairs * (2 * 16 * 256 + 2 * 128))


@pytest.mark.parametrize(("gemm", "bytes_"), [("nvfp4", 2.0), ("fp8_block", 1 + 4 / 128**2)])
def test_absorbed_products_are_in_16_bit_where_weights_are_no_fp8(gemm, bytes_):
    decode, _ = steps_of(model="deepseek-v3", tp=8, gpu="b200", gemm=gemm, kv="bfloat16")
    matrices = 16 * 128 * 512 * bytes_ + 8 * 16 * (128 + 512) * BF16
    assert rows(decode)["w_kc"] == pytest.approx((61, 61 * 2 * 8 * 16 * 128 * 512, 61 * matrices))


def test_rows_above_128_are_computed_in_whole_tiles():
    system = resolved(model="llama-3.1-8b", tp=1)
    c = spread_over(system, priors())
    for m, tiled in ((100.0, 100), (128.0, 128), (130.0, 256)):
        step = decode_step(system, c, np.array([m]), np.array([10.0]), np.array([m]), np.array([512.0]))
        assert rows(step)["o_proj"][1] == pytest.approx(32 * 2 * tiled * 4096 * 4096)
