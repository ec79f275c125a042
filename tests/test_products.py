import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicalib.models import get_architecture, list_architectures, parameters, stack
from aicalib.models.products import ATTENTION, DENSE, HEAD, ROUTER, SHARED, group_weights, matrix_products
from aicalib.physics import sparse_layers
from aicalib.physics.kv_cache import kv_elements_per_token
from aicalib.physics.state_layers import recurrent_state_bytes

COVERED = [each.name for each in list_architectures() if each.reason is None]


def of(model, width=1, tp=None):
    arch = stack([get_architecture(model)])
    return matrix_products(arch, np.array([float(width)]), np.array([float(tp or width)]))


# Calls in a step, columns, inner size, and matrices in a call where there are several; worked out from the
# released configurations by hand.
BY_HAND = {
    ("llama-3.3-70b", 8): {
        "qkv_proj": (80, (64 + 2 * 8) * 128 / 8, 8192),
        "o_proj": (80, 8192, 1024),
        "gate_up_proj": (80, 7168, 8192),
        "down_proj": (80, 8192, 3584),
        "lm_head": (1, 16032, 8192),
    },
    ("deepseek-v3", 8): {
        "fused_qkv_a_proj": (61, 1536 + 512 + 64, 7168),
        "q_b_proj": (61, 16 * 192, 1536),
        "w_kc": (61, 512, 128, 16),
        "w_vc": (61, 128, 512, 16),
        "kv_b_proj": (61, 16 * 256, 512),
        "latent o_proj": (61, 7168, 16 * 128),
        "gate_up_proj": (3, 4608, 7168),
        "down_proj": (3, 7168, 2304),
        "gate": (58, 256, 7168),
        "shared gate_up_proj": (58, 512, 7168),
        "shared down_proj": (58, 7168, 256),
        "lm_head": (1, 16160, 7168),
    },
    ("deepseek-v3.2", 8): {
        "index wq_b": (61, 64 * 128, 1536),
        "index wk": (61, 128, 7168),
        "index weights_proj": (61, 64, 7168),
    },
    ("gpt-oss-120b", 4): {
        "qkv_proj": (18, (64 + 2 * 8) * 64 / 4, 2880),
        "o_proj": (18, 2880, 1024),
        "window qkv_proj": (18, 1280, 2880),
        "window o_proj": (18, 2880, 1024),
        "gate": (36, 128, 2880),
        "lm_head": (1, 50272, 2880),
    },
    ("qwen3-next-80b-a3b", 4): {
        # Query and its gate are split by four, one of two KV heads stands on each rank.
        "qkv_proj": (12, 2 * 4 * 256 + 2 * 256, 2048),
        "o_proj": (12, 2048, 1024),
        "in_proj_qkvz": (36, 2 * (16 * 128 + 32 * 128) / 4, 2048),
        "in_proj_ba": (36, 16, 2048),
        "linear out_proj": (36, 2048, 1024),
        "shared gate_up_proj": (48, 256, 2048),
        "shared down_proj": (48, 2048, 128),
        "gate": (48, 512, 2048),
        "lm_head": (1, 37984, 2048),
    },
    ("nemotron-3-nano-30b-a3b", 8): {
        "qkv_proj": (6, 4 * 128 + 2 * 128, 2688),
        "o_proj": (6, 2688, 512),
        "mamba in_proj": (23, 2 * 512 + 2 * 128 + 8, 2688),
        "mamba out_proj": (23, 2688, 512),
        "shared gate_up_proj": (23, 464, 2688),
        "shared down_proj": (23, 2688, 464),
        "gate": (23, 128, 2688),
        "lm_head": (1, 16384, 2688),
    },
    ("kimi-linear-48b-a3b", 4): {
        "fused_qkvbfg_a_proj": (20, (3 * 4096 + 32) / 4 + 2 * 128, 2304),
        "f_b_proj": (20, 1024, 128),
        "g_b_proj": (20, 1024, 128),
        "kda o_proj": (20, 2304, 1024),
        "q_proj": (7, 8 * 192, 2304),
        "kv_a_proj": (7, 576, 2304),
        "w_kc": (7, 512, 128, 8),
        "w_vc": (7, 128, 512, 8),
        "kv_b_proj": (7, 8 * 256, 512),
        "latent o_proj": (7, 2304, 1024),
        "gate_up_proj": (1, 4608, 2304),
        "down_proj": (1, 2304, 2304),
        "shared gate_up_proj": (26, 512, 2304),
        "shared down_proj": (26, 2304, 256),
        "gate": (26, 256, 2304),
        "lm_head": (1, 40960, 2304),
    },
    ("lfm2.5-1.2b", 2): {
        "qkv_proj": (6, (32 + 2 * 8) * 64 / 2, 2048),
        "o_proj": (6, 2048, 1024),
        "conv in_proj": (10, 3072, 2048),
        "conv out_proj": (10, 2048, 1024),
        "gate_up_proj": (16, 8192, 2048),
        "down_proj": (16, 2048, 4096),
        "lm_head": (1, 32768, 2048),
    },
    ("deepseek-v4-flash", 4): {
        "wqkv_a": (43, 1024 + 512, 4096),
        "wq_b": (43, 16 * 512, 1024),
        "wo_a": (43, 1024, 8 * 512, 2),
        "wo_b": (43, 4096, 2 * 1024),
        "csa compressor": (21, 2048, 4096),
        "hca compressor": (20, 1024, 4096),
        "index wq_b": (21, 64 * 128, 1024),
        "index weights_proj": (21, 64, 4096),
        "index compressor": (21, 512, 4096),
        "hc_fn": (86, 24, 16384),
        "hc_head": (1, 4, 16384),
        "shared gate_up_proj": (43, 1024, 4096),
        "shared down_proj": (43, 4096, 512),
        "gate": (43, 256, 4096),
        "lm_head": (1, 32320, 4096),
    },
    ("gemma-4-e2b", 1): {
        "qkv_proj": (3, 8 * 512 + 2 * 512, 1536),
        "q_proj": (4, 8 * 512, 1536),
        "o_proj": (7, 1536, 8 * 512),
        "window qkv_proj": (12, 8 * 256 + 2 * 256, 1536),
        "window q_proj": (16, 8 * 256, 1536),
        "window o_proj": (28, 1536, 8 * 256),
        "per_layer_model_projection": (1, 35 * 256, 1536),
        "per_layer_input_gate": (35, 256, 1536),
        "per_layer_projection": (35, 1536, 256),
    },
}


@pytest.mark.parametrize(("model", "width"), BY_HAND)
def test_products_by_hand(model, width):
    found = {each.name: each for each in of(model, width) if each.count[0]}
    expected = BY_HAND[model, width]
    for name, (count, n, k, *batch) in expected.items():
        each = found[name]
        sizes = (each.count[0], each.n[0], each.k[0], float(np.ravel(each.batch)[0]))
        assert sizes == (count, n, k, *(batch or [1])), name
    if model not in {"deepseek-v3.2", "gemma-4-e2b"}:
        assert found.keys() == expected.keys()


def test_weights_of_whole_models_by_hand():
    llama = sum(each.weights[0] for each in of("llama-3.3-70b"))
    layer = 8192 * (64 + 2 * 8 + 64) * 128 + 3 * 8192 * 28672
    assert llama == 80 * layer + 128256 * 8192
    deepseek = group_weights(of("deepseek-v3"), ATTENTION)[0]
    latent = 7168 * (1536 + 576) + 1536 * 128 * 192 + 512 * 128 * 256 + 128 * 128 * 7168
    assert deepseek == 61 * latent


@pytest.mark.parametrize("model", COVERED)
def test_a_model_is_its_products_its_experts_its_tables_and_its_vectors(model):
    products, count = of(model), parameters(get_architecture(model))
    tied = 0.0 if count.lm_head else group_weights(products, HEAD)[0]
    rest = count.total - count.embedding - count.experts - count.vectors
    assert sum(each.weights[0] for each in products) == rest + tied
    assert {each.group for each in products} <= {ATTENTION, DENSE, ROUTER, SHARED, HEAD}
    assert count.vectors < 0.005 * count.total


@pytest.mark.parametrize("model", COVERED)
def test_sizes_are_whole(model):
    for each in of(model):
        if each.count[0]:
            # The width of dense layers may be a mean.
            sizes = [each.count[0], *([] if each.group == DENSE else [each.n[0], each.k[0]])]
            assert [size % 1 for size in sizes] == [0] * len(sizes), each.name
            assert min(each.n[0], each.k[0]) >= 1, each.name


@pytest.mark.parametrize("width", [2, 4, 8, 16])
@pytest.mark.parametrize("model", COVERED)
def test_a_rank_holds_its_share_and_what_replicates(model, width):
    whole, share = of(model), {each.name: each for each in of(model, width)}
    replicated = 0.0
    for each in whole:
        part = share[each.name].weights[0]
        assert each.weights[0] / width <= part * (1 + 1e-12)
        assert part <= each.weights[0]
        replicated += (part - each.weights[0] / width) / (1 - 1 / width)
    assert replicated < 0.35 * sum(each.weights[0] for each in whole)


@given(st.lists(st.sampled_from(COVERED), min_size=1, max_size=6))
def test_models_do_not_touch_each_other_in_arrays(names):
    arch, ones = stack([get_architecture(name) for name in names]), np.ones(len(names))
    together = sum(each.weights for each in matrix_products(arch, ones, ones))
    alone = [sum(each.weights[0] for each in of(name)) for name in names]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


def test_groups_of_a_state_space_layer_are_never_split_below_one():
    at = {each.name: each.n[0] for each in of("nemotron-3-nano-30b-a3b", 16)}
    assert at["mamba in_proj"] == 2 * 256 + 2 * 128 + 4


STATES = {
    # 36 layers: 32 heads of 128 x 128, and 3 inputs of 2 x 16 + 32 heads of 128.
    "qwen3-next-80b-a3b": 36 * (4 * 32 * 128 * 128 + 2 * 3 * 64 * 128),
    # 23 layers: 64 heads of 64 x 128, and 3 inputs of 4096 channels and 2 x 8 groups of 128.
    "nemotron-3-nano-30b-a3b": 23 * (4 * 64 * 64 * 128 + 2 * 3 * (4096 + 2048)),
    # 20 layers: 32 heads of 128 x 128, and 3 inputs of 3 x 4096 channels.
    "kimi-linear-48b-a3b": 20 * (4 * 32 * 128 * 128 + 2 * 3 * 3 * 4096),
    # 10 layers: 2 inputs of 2048 channels.
    "lfm2.5-1.2b": 10 * 2 * 2 * 2048,
    "llama-3.1-8b": 0,
}


@pytest.mark.parametrize("model", STATES)
def test_states_by_hand(model):
    arch = stack([get_architecture(model)])
    assert recurrent_state_bytes(arch, np.ones(1))[0] == STATES[model]
    assert recurrent_state_bytes(arch, np.array([8.0]))[0] == STATES[model] / 8


# Start-up logs of SGLang: ranks, tokens of the full pool and of the window pool, GiB of both caches in 16 bit.
# Gemma 4: mattbucci/2x-3090-GA102-300-A1-sglang-inference at 84aca7276bf4.
# Laguna: sostrowsk/dgx-spark-local-llm at 4b5486468ec6.
LOGGED = [
    ("gemma-4-12b", 2, 102094, 81675, 14.02),
    ("gemma-4-12b", 2, 565446, 35340, 14.02),
    ("gemma-4-26b-a4b", 2, 176760, 88380, 10.10),
    ("gemma-4-26b-a4b", 2, 815815, 24474, 10.12),
    ("laguna-s-2.1", 1, 185897, 148717, 28.92),
]


@pytest.mark.parametrize(("model", "width", "tokens", "windowed", "gib"), LOGGED)
def test_caches_of_unlike_window_layers_are_as_logged(model, width, tokens, windowed, gib):
    arch, ranks = stack([get_architecture(model)]), np.array([float(width)])
    full, window, _ = kv_elements_per_token(arch, ranks)
    assert 2 * (full[0] * tokens + window[0] * windowed) / 2**30 == pytest.approx(gib, rel=2e-3)


def test_compressed_attention_by_hand():
    arch, context = stack([get_architecture("deepseek-v4-flash")]), np.array([65536.0])
    # Every layer reads its window; 21 keep 512 of 16384 entries, 20 read all of 512.
    entries = 43 * 128 + 21 * 512 + 20 * 512
    indexer = 21 * 2 * 64 * 128 * 16384
    keys = 21 * 128 * 16384 * (1 + 4 / 128)
    for ranks in (1, 8):
        width = np.array([float(ranks)])
        # Heads are split; the shared key and value, and the indexer, stand on every rank.
        attended = 4 * 64 * 512 * entries / ranks
        assert sparse_layers.decode_flops(arch, width, context)[0] == attended + indexer
        assert sparse_layers.decode_bytes(arch, width, context, 16.0)[0] == 2 * 512 * entries + keys
    assert sparse_layers.compressed_elements_per_token(arch)[0] == 512 * (21 / 4 + 20 / 128)
    assert sparse_layers.index_elements_per_token(arch)[0] == 128 * 21 / 4


def test_block_sparse_attention_by_hand():
    arch, context = stack([get_architecture("minimax-m3")]), np.array([65536.0])
    # 64 query, 4 KV and 4 index heads: of the latter two kinds one a rank from four ranks on.
    for ranks, kept in ((1, 4), (4, 1), (8, 1)):
        width = np.array([float(ranks)])
        attended = 57 * 4 * 64 / ranks * 128 * 2048
        scored = 57 * 2 * kept * 128 * 65536
        assert sparse_layers.decode_flops(arch, width, context)[0] == attended + scored
        read = 57 * (2 * kept * 256 * 2048 + 128 * 65536 * (1 + 4 / 128))
        assert sparse_layers.decode_bytes(arch, width, context, 16.0)[0] == read


@pytest.mark.parametrize("model", ["deepseek-v4-flash", "minimax-m3"])
@pytest.mark.parametrize("length", [100, 5000])
def test_a_prefill_is_its_tokens_one_after_the_other(model, length):
    arch, width = stack([get_architecture(model)]), np.array([4.0])
    each = sparse_layers.decode_flops(arch, width, np.arange(length) + 0.5)
    whole = sparse_layers.prefill_flops(arch, width, np.array([float(length)]))
    assert np.sum(each) == pytest.approx(whole[0], rel=1e-3)
