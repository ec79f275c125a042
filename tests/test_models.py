import dataclasses
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicalib.errors import InvalidValue, NotCovered, UnknownName, fold
from aicalib.models import (
    Architecture,
    ArchitectureArrays,
    architecture_from_config,
    get_architecture,
    kv_elements_per_token,
    list_architectures,
    load_config,
    parameters,
    stack,
)
from aicalib.models.architecture import MIXERS
from aicalib.physics.state_layers import recurrent_state_bytes

ENTRIES = json.loads(files("aicalib.models").joinpath("architectures.json").read_text(encoding="utf-8"))
RUNS = Path(__file__).parents[1] / "measurements" / "runs.jsonl"
COVERED = [each.name for each in list_architectures() if each.reason is None]

# Total as the model cards publish it, in billions, and cache elements a token, worked out from the widths.
PUBLISHED = {
    "llama-2-7b": (6.74, 262144),
    "llama-2-13b": (13.02, 409600),
    "llama-2-70b": (68.98, 163840),
    "llama-3-8b": (8.03, 65536),
    "llama-3.1-8b": (8.03, 65536),
    "llama-3-70b": (70.55, 163840),
    "llama-3.1-70b": (70.55, 163840),
    "llama-3.3-70b": (70.55, 163840),
    "llama-3.1-405b": (405.85, 258048),
    "llama-3.2-1b": (1.236, 16384),
    "llama-3.2-3b": (3.213, 57344),
    "llama-4-maverick": (400.0, 98304),
    "qwen2.5-0.5b": (0.494, 6144),
    "qwen2.5-3b": (3.09, 18432),
    "qwen2.5-7b": (7.616, 28672),
    "qwen2.5-14b": (14.77, 98304),
    "qwen2.5-32b": (32.76, 131072),
    "qwen2.5-72b": (72.71, 163840),
    "qwen3-0.6b": (0.596, 57344),
    "qwen3-1.7b": (1.721, 57344),
    "qwen3-4b": (4.022, 73728),
    "qwen3-8b": (8.191, 73728),
    "qwen3-14b": (14.77, 81920),
    "qwen3-32b": (32.76, 131072),
    "qwen3-30b-a3b": (30.53, 49152),
    "qwen3-235b-a22b": (235.09, 96256),
    "qwen3-coder-480b-a35b": (480.0, 126976),
    "qwen3-next-80b-a3b": (80.0, 12288),
    "qwen3.5-27b": (27.0, 32768),
    "qwen3.5-35b-a3b": (35.0, 10240),
    "qwen3.5-122b-a10b": (122.0, 12288),
    "qwen3.5-397b-a17b": (397.0, 15360),
    "mistral-7b-v0.1": (7.24, 65536),
    "mistral-7b-v0.3": (7.25, 65536),
    "mistral-small-22b": (22.2, 114688),
    "mistral-small-24b": (23.57, 81920),
    "mistral-large": (122.6, 180224),
    "ministral-3-14b": (13.5, 81920),
    "mixtral-8x7b": (46.7, 65536),
    "mixtral-8x22b": (140.6, 114688),
    "deepseek-v2-lite": (15.7, 15552),
    "deepseek-v2": (236.0, 34560),
    "deepseek-v3": (671.0, 35136),
    "deepseek-r1": (671.0, 35136),
    "deepseek-v3.1": (671.0, 35136),
    "deepseek-v3.2": (671.0, 35136),
    "gpt-oss-20b": (20.9, 24576),
    "gpt-oss-120b": (116.8, 36864),
    "gemma-2-9b": (9.24, 172032),
    "gemma-2-27b": (27.23, 188416),
    "gemma-3-12b": (11.77, 196608),
    "gemma-3-27b": (27.0, 253952),
    "phi-3-mini": (3.821, 196608),
    "phi-3-medium": (13.96, 102400),
    "phi-4": (14.66, 102400),
    "glm-4.5": (355.0, 188416),
    "glm-4.5-air": (106.0, 94208),
    "glm-5": (744.0, 44928),
    "minimax-m2": (230.0, 126976),
    "nemotron-super-49b": (49.9, 100352),
}
VISION_TOWER_COUNTED = {"llama-4-scout": (109.0, 0.015)}
ROUNDED_TO_A_TRILLION = {"kimi-k2": (1000.0, 0.03), "kimi-k2.5": (1000.0, 0.03)}

# Active parameters with the embedding table, in billions: the same counts with top-k experts.
ACTIVE = {
    "mixtral-8x7b": 12.88,
    "mixtral-8x22b": 39.152,
    "qwen3-30b-a3b": 3.353,
    "qwen3-235b-a22b": 22.191,
    "qwen3-next-80b-a3b": 3.875,
    "deepseek-v2-lite": 2.661,
    "deepseek-v3": 37.552,
    "deepseek-v3.2": 38.404,
    "kimi-k2": 32.862,
    "gpt-oss-20b": 4.187,
    "gpt-oss-120b": 5.712,
    "glm-4.5": 33.632,
    "glm-4.5-air": 13.424,
    "minimax-m2": 11.031,
    "llama-4-maverick": 17.185,
    "llama-3.1-8b": 8.03,
}

LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}
QWEN3_MOE = {
    **LLAMA,
    "model_type": "qwen3_moe",
    "head_dim": 128,
    "num_experts": 64,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 768,
}
KINDS = [
    ({"model_type": "jamba"}, "Mamba-1"),
    ({"model_type": "falcon_h1"}, "side by side"),
    ({"model_type": "bailing_hybrid"}, "lightning"),
    ({"model_type": "gemma3n", "text_config": {"model_type": "gemma3n_text"}}, "per-layer"),
    ({"model_type": "mllama", "text_config": {"model_type": "mllama_text_model"}}, "cross-attention"),
    ({"model_type": "t5", "is_encoder_decoder": True}, "encoder-decoder"),
    ({**LLAMA, "ssm_state_size": 128}, "state-space"),
    ({**LLAMA, "linear_attn_config": {"kda_layers": [1]}}, "KDA"),
    ({**LLAMA, "swa_num_key_value_heads": 4}, "key/value heads"),
    ({**LLAMA, "moe_latent_size": 1024}, "latent space"),
    ({**LLAMA, "model_type": "longcat_flash", "zero_expert_num": 256}, "compute nothing"),
    ({**LLAMA, "model_type": "brand_new", "conv_L_cache": 3}, "short convolutions"),
    ({**LLAMA, "model_type": "brand_new"}, "brand_new"),
    ({**LLAMA, "layer_types": ["full_attention"] * 31 + ["lightning_attention"]}, "lightning_attention"),
    (
        {
            **LLAMA,
            "model_type": "laguna",
            "layer_types": ["full_attention"] * 32,
            "num_attention_heads_per_layer": [32] * 31 + [48],
        },
        "differ among full layers",
    ),
    (
        {**LLAMA, "model_type": "deepseek_v4", "head_dim": 512, "compress_ratios": [0, 4, 64, 128] * 8},
        "64, 128",
    ),
]


def read(config, name="a-model"):
    return architecture_from_config(config, name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_total_and_cache_meet_the_published_figures(name):
    arch = get_architecture(name)
    total, elements = PUBLISHED[name]
    assert parameters(arch).total / 1e9 == pytest.approx(total, rel=0.01)
    assert kv_elements_per_token(arch) == elements


@pytest.mark.parametrize("name", {**VISION_TOWER_COUNTED, **ROUNDED_TO_A_TRILLION})
def test_total_meets_a_headline_that_counts_otherwise(name):
    total, share = {**VISION_TOWER_COUNTED, **ROUNDED_TO_A_TRILLION}[name]
    assert parameters(get_architecture(name)).total / 1e9 == pytest.approx(total, rel=share)


@pytest.mark.parametrize("name", ACTIVE)
def test_active_parameters(name):
    assert parameters(get_architecture(name)).active / 1e9 == pytest.approx(ACTIVE[name], abs=1e-3)


@pytest.mark.parametrize("name", COVERED)
def test_parts_add_up(name):
    arch = get_architecture(name)
    count = dataclasses.asdict(parameters(arch))
    total, active = count.pop("total"), count.pop("active")
    assert sum(count.values()) == total
    assert total * min(arch.experts_per_token / max(arch.num_experts, 1), 1) < active <= total
    assert (active == total) == (arch.moe_layers == 0)
    assert (count["lm_head"] == 0) == arch.tied_embeddings


def test_every_entry_has_a_source_and_is_covered_or_refused_by_kind():
    listed = {each.name: each for each in list_architectures()}
    assert listed.keys() == ENTRIES.keys()
    for each in listed.values():
        assert ENTRIES[each.name]["source"]
        assert each.family
        assert (each.total_parameters is None) != (each.reason is None)
        assert each.reason is None or "not computed:" in each.reason


def test_no_alias_points_at_two_entries():
    owners: dict[str, set[str]] = {}
    for name, entry in ENTRIES.items():
        for spelling in (name, entry["hf_id"], *entry["aliases"]):
            for form in (spelling, spelling.rpartition("/")[2]):
                owners.setdefault(fold(form), set()).add(name)
    assert {form: names for form, names in owners.items() if len(names) > 1} == {}


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("llama-70b", "llama-3.3-70b"),
        ("LLAMA_8B", "llama-3.1-8b"),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama-3.3-70b"),
        ("unsloth/Llama-3.3-70B-Instruct", "llama-3.3-70b"),
        ("Meta-Llama/Llama-3.1-70B", "llama-3.1-70b"),
        ("r1", "deepseek-r1"),
        ("DeepSeek-R1-0528", "deepseek-r1"),
        ("nvidia/DeepSeek-R1-NVFP4", "deepseek-r1"),
        ("qwen3-235b", "qwen3-235b-a22b"),
        ("gpt_oss_120b", "gpt-oss-120b"),
        ("mixtral", "mixtral-8x7b"),
        ("RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w8a16", "llama-3.1-8b"),
        ("GLM-4.5-Air", "glm-4.5-air"),
    ],
)
def test_a_spelling_finds_its_model(spelling, name):
    assert get_architecture(spelling).name == name


def test_unknown_name_has_near_misses():
    with pytest.raises(UnknownName, match=r"llama-3\.3-70b") as caught:
        get_architecture("llama-3.4-70b")
    assert caught.value.alternatives


@pytest.mark.skipif(not RUNS.exists(), reason="the published runs are not in this checkout")
def test_every_model_of_the_published_runs_is_known_and_grouped_as_there():
    with RUNS.open() as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    groups = {row["model"]: row.get("model_group") for row in rows}
    assert groups
    for name, group in groups.items():
        try:
            family = get_architecture(name).family
        except NotCovered:
            continue
        assert family == group, name


@pytest.mark.parametrize(("config", "kind"), KINDS)
def test_a_kind_that_is_not_computed_is_refused_by_its_name(config, kind):
    with pytest.raises(NotCovered, match=kind):
        read(config)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        *(
            ({k: v for k, v in LLAMA.items() if k != key}, key)
            for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        ),
        ({k: v for k, v in LLAMA.items() if k != "model_type"}, "model_type"),
        ({k: v for k, v in QWEN3_MOE.items() if k != "moe_intermediate_size"}, "moe_intermediate_size"),
        ({k: v for k, v in QWEN3_MOE.items() if k != "num_experts_per_tok"}, "num_experts_per_tok"),
        ({**LLAMA, "hidden_size": "4096"}, "hidden_size"),
        ({**LLAMA, "vocab_size": True}, "vocab_size"),
        ({**LLAMA, "num_hidden_layers": 0}, "num_hidden_layers"),
        ({**LLAMA, "num_attention_heads": 33}, "head_dim"),
        ({**LLAMA, "layer_types": ["full_attention"]}, "layer_types"),
        ({**LLAMA, "layer_types": ["sliding_attention"] * 32}, "sliding_window"),
        ({**QWEN3_MOE, "num_experts_per_tok": 65}, "experts_per_token"),
    ],
)
def test_a_missing_or_wrong_key_is_named(config, key):
    with pytest.raises(InvalidValue, match=key):
        read(config)


def test_the_language_model_of_a_multimodal_file_is_taken_with_a_note():
    nested = {
        "model_type": "mistral3",
        "text_config": {**LLAMA, "model_type": "mistral"},
        "vision_config": {},
    }
    flat, inner = read({**LLAMA, "model_type": "mistral"}), read(nested)
    assert any("language model only" in note for note in inner.notes)
    assert dataclasses.replace(inner, notes=()) == flat


@pytest.mark.parametrize("stated", [True, False])
def test_a_wrapper_may_say_whether_embeddings_are_tied(stated):
    nested = {
        "model_type": "gemma3",
        "text_config": {**LLAMA, "model_type": "llama"},
        "tie_word_embeddings": stated,
    }
    assert read(nested).tied_embeddings is stated


def test_whether_embeddings_are_tied_by_default_depends_on_the_class():
    gemma = {**LLAMA, "model_type": "gemma2", "head_dim": 256, "sliding_window": 4096}
    assert not read(LLAMA).tied_embeddings
    assert read(gemma).tied_embeddings


def test_a_gemma3_file_leaves_much_to_its_class():
    gemma = {
        "model_type": "gemma3",
        "text_config": {
            "model_type": "gemma3_text",
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 34,
            "sliding_window": 1024,
        },
        "torch_dtype": "bfloat16",
    }
    arch = read(gemma)
    assert (arch.heads, arch.kv_heads, arch.head_dim, arch.norms_per_layer) == (8, 4, 256, 4)
    assert (arch.full_layers, arch.window_layers) == (5, 29)
    assert parameters(arch).total / 1e9 == pytest.approx(3.88, rel=0.01)


def test_head_dim_is_read_where_it_is_given():
    assert read({**LLAMA, "head_dim": 96}).head_dim == 96
    assert read(LLAMA).head_dim == 128


@pytest.mark.parametrize("experts", ["num_local_experts", "num_experts", "n_routed_experts"])
@pytest.mark.parametrize("per_token", ["num_experts_per_tok", "num_experts_per_token"])
def test_the_number_of_experts_has_several_names(experts, per_token):
    config = {k: v for k, v in QWEN3_MOE.items() if k not in {"num_experts", "num_experts_per_tok"}}
    arch = read({**config, experts: 64, per_token: 4})
    assert (arch.num_experts, arch.experts_per_token, arch.moe_layers) == (64, 4, 32)


@pytest.mark.parametrize(
    ("keys", "moe_layers"),
    [
        ({"first_k_dense_replace": 3}, 29),
        ({"mlp_only_layers": [0, 5]}, 30),
        ({"decoder_sparse_step": 2}, 16),
        ({"interleave_moe_layer_step": 2}, 16),
        ({"moe_layer_freq": [0] * 4 + [1] * 28}, 28),
        ({"mlp_layer_types": ["dense"] * 2 + ["sparse"] * 30}, 30),
    ],
)
def test_dense_layers_among_experts(keys, moe_layers):
    arch = read({**QWEN3_MOE, **keys})
    assert (arch.moe_layers, arch.dense_layers) == (moe_layers, 32 - moe_layers)
    assert arch.intermediate_size == 14336


def test_llama4_alternates_and_chunks():
    arch = get_architecture("llama-4-maverick")
    assert (arch.moe_layers, arch.dense_layers, arch.intermediate_size) == (24, 24, 16384)
    assert (arch.full_layers, arch.window_layers, arch.window) == (12, 36, 8192)
    assert arch.shared_intermediate_size == 8192


@pytest.mark.parametrize(
    ("config", "full", "window"),
    [
        ({"model_type": "mistral", "sliding_window": 4096}, 0, 4096),
        ({"model_type": "mistral", "sliding_window": None}, 32, 0),
        ({"model_type": "qwen2", "sliding_window": 4096, "max_window_layers": 24}, 32, 0),
        (
            {
                "model_type": "qwen2",
                "sliding_window": 4096,
                "max_window_layers": 24,
                "use_sliding_window": True,
            },
            24,
            4096,
        ),
        ({"model_type": "gemma2", "sliding_window": 4096}, 16, 4096),
        (
            {
                "model_type": "qwen3",
                "sliding_window": 512,
                "layer_types": ["full_attention", "sliding_attention"] * 16,
            },
            16,
            512,
        ),
    ],
)
def test_windows(config, full, window):
    arch = read({**LLAMA, **config})
    assert (arch.full_layers, arch.window_layers, arch.window) == (full, 32 - full, window)


def test_latent_and_sparse_attention():
    arch = get_architecture("deepseek-v3.2")
    assert (arch.mla_layers, arch.full_layers, arch.kv_heads, arch.head_dim) == (61, 0, 0, 0)
    assert (arch.sparse_layers, arch.index_heads, arch.index_head_dim, arch.index_topk) == (61, 64, 128, 2048)
    assert get_architecture("deepseek-v2-lite").q_lora_rank == 0


def test_an_indexer_may_serve_several_layers():
    assert get_architecture("glm-5").sparse_layers == 78
    assert get_architecture("glm-5.2").sparse_layers == 21


def test_latent_attention_that_is_switched_off_is_plain():
    arch = get_architecture("deepseek-ocr")
    assert (arch.mla_layers, arch.full_layers, arch.heads, arch.head_dim) == (0, 12, 10, 128)


def test_gated_delta_net():
    arch = get_architecture("qwen3-next")
    assert (arch.full_layers, arch.linear_layers, arch.attention_gate) == (12, 36, True)
    assert (arch.linear_key_heads, arch.linear_value_heads, arch.linear_conv_kernel) == (16, 32, 4)


def test_searched_blocks_become_their_mean():
    arch = get_architecture("nemotron-super-49b")
    assert (arch.full_layers, arch.dense_layers, arch.kv_heads) == (49, 80, 8)
    blocks = {**ENTRIES["nemotron-super-49b"]["config"]}
    other = [{**each, "attention": {**each["attention"]}} for each in blocks["block_configs"]]
    other[0]["attention"]["n_heads_in_group"] = 4
    uneven = read({**blocks, "block_configs": other})
    assert uneven.kv_heads == (48 * 8 + 16) / 49
    further = 8192 * 8 * 2 * 128
    assert parameters(uneven).total - parameters(arch).total == pytest.approx(further)
    assert kv_elements_per_token(uneven) - kv_elements_per_token(arch) == pytest.approx(8 * 2 * 128)


def test_state_space_layers_beside_attention_and_experts():
    arch = get_architecture("nemotron-3-nano-30b-a3b")
    assert (arch.mamba_layers, arch.full_layers, arch.moe_layers, arch.dense_layers) == (23, 6, 23, 0)
    assert (arch.mamba_heads, arch.mamba_head_dim, arch.mamba_state, arch.mamba_groups) == (64, 64, 128, 8)
    assert (arch.ffn_matrices, arch.norms_per_layer, arch.shared_intermediate_size) == (2, 1, 3712)
    dense = get_architecture("nemotron-h-56b")
    assert (dense.mamba_layers, dense.full_layers, dense.moe_layers, dense.dense_layers) == (54, 10, 0, 54)
    assert get_architecture("nemotron-3-super-120b-a12b").moe_latent_size == 1024
    listed = get_architecture("nemotron-3-ultra-550b-a55b")
    assert (listed.num_layers, listed.mamba_layers, listed.full_layers, listed.moe_layers) == (
        108,
        48,
        12,
        48,
    )


def test_a_pattern_of_blocks_has_a_letter_for_each_layer():
    config = {**ENTRIES["nemotron-h-56b"]["config"], "hybrid_override_pattern": "M-*?"}
    with pytest.raises(InvalidValue, match="hybrid_override_pattern"):
        read(config)


def test_kimi_delta_attention_beside_latent_attention():
    arch = get_architecture("kimi-linear-48b-a3b")
    assert (arch.kda_layers, arch.mla_layers, arch.dense_layers, arch.moe_layers) == (20, 7, 1, 26)
    assert (arch.kda_heads, arch.kda_head_dim, arch.kda_forget_rank, arch.kda_gate_rank) == (
        32,
        128,
        128,
        128,
    )
    larger = get_architecture("kimi-k3")
    assert (larger.kda_layers, larger.mla_layers, larger.kda_gate_rank) == (69, 24, 0)
    assert (larger.attention_gate, larger.moe_latent_size, larger.norms_per_layer) == (True, 3584, 6)


def test_short_convolutions():
    arch = get_architecture("lfm2.5-1.2b")
    assert (arch.conv_layers, arch.full_layers, arch.conv_kernel) == (10, 6, 3)
    assert arch.intermediate_size == 8192
    assert get_architecture("lfm2.5-350m").intermediate_size == 4608
    mixed = get_architecture("lfm2.5-8b-a1b")
    assert (mixed.conv_layers, mixed.full_layers, mixed.dense_layers, mixed.moe_layers) == (18, 6, 2, 22)
    old = {k: v for k, v in ENTRIES["lfm2.5-1.2b"]["config"].items() if k != "layer_types"}
    indexed = read({**old, "full_attn_idxs": [2, 5, 8, 10, 12, 14]}, "lfm2.5-1.2b")
    assert parameters(indexed) == parameters(arch)


@pytest.mark.parametrize(
    ("name", "full", "window"),
    [
        ("gemma-4-31b", (10, 32, 4, 512, 512), (50, 32, 16, 256, 256)),
        ("mimo-v2-flash", (9, 64, 4, 192, 128), (39, 64, 8, 192, 128)),
        ("step-3.5-flash", (12, 64, 8, 128, 128), (33, 96, 8, 128, 128)),
        ("laguna-xs-2.1", (10, 48, 8, 128, 128), (30, 64, 8, 128, 128)),
        ("gpt-oss-120b", (18, 64, 8, 64, 64), (18, 64, 8, 64, 64)),
        ("llama-3.1-8b", (32, 32, 8, 128, 128), (0, 0, 0, 0, 0)),
    ],
)
def test_window_layers_may_differ_from_full_ones(name, full, window):
    arch = get_architecture(name)
    assert (arch.full_layers, arch.heads, arch.kv_heads, arch.head_dim, arch.v_head_dim) == full
    found = (arch.window_layers, arch.window_heads, arch.window_kv_heads)
    assert (*found, arch.window_head_dim, arch.window_v_head_dim) == window


def test_layers_may_reuse_keys_and_values():
    arch = get_architecture("gemma-4-e2b")
    assert (arch.full_layers, arch.window_layers) == (7, 28)
    assert (arch.reused_full_layers, arch.reused_window_layers) == (4, 16)
    assert arch.intermediate_size == 6144 * (35 + 20) / 35
    assert arch.per_layer_embedding == 256
    assert get_architecture("gemma-4-31b").shared_kv_projection
    beside = get_architecture("gemma-4-26b-a4b")
    assert (beside.moe_layers, beside.dense_layers, beside.shared_intermediate_size) == (30, 0, 2112)


def test_compressed_and_block_sparse_attention():
    arch = get_architecture("deepseek-v4-flash")
    assert (arch.local_layers, arch.csa_layers, arch.hca_layers) == (2, 21, 20)
    assert (arch.csa_ratio, arch.hca_ratio, arch.window, arch.index_topk) == (4, 128, 128, 512)
    assert (arch.kv_heads, arch.head_dim, arch.hyper_connections) == (1, 512, 4)
    assert get_architecture("deepseek-v4-pro").local_layers == 0
    blocks = get_architecture("minimax-m3")
    assert (blocks.full_layers, blocks.block_sparse_layers) == (3, 57)
    assert (blocks.index_block, blocks.index_topk, blocks.index_heads) == (128, 2048, 4)


def test_a_released_file_of_step_is_read_in_its_own_words():
    listed = {**ENTRIES["step-3.5-flash"]["config"]}
    renamed = {"num_key_value_heads", "num_experts", "num_experts_per_tok", "first_k_dense_replace"}
    released = {
        **{key: value for key, value in listed.items() if key not in renamed},
        "num_attention_groups": 8,
        "moe_num_experts": 288,
        "moe_top_k": 8,
        "moe_layers_enum": ",".join(map(str, range(3, 45))),
        "layer_types": [*listed["layer_types"], *["sliding_attention"] * 3],
    }
    nested = {"model_type": "step3p7", "text_config": released, "vision_config": {}}
    found, expected = read(nested, "step-3.5-flash"), get_architecture("step-3.5-flash")
    assert parameters(found) == parameters(expected)
    assert found.window_heads == expected.window_heads == 96


def test_other_spellings_of_a_width():
    old = {**ENTRIES["lfm2.5-1.2b"]["config"], "block_ff_dim": 12288, "intermediate_size": 1}
    assert read(old).intermediate_size == 8192
    wrapped = {k: v for k, v in ENTRIES["minimax-m3"]["config"].items() if k != "moe_intermediate_size"}
    del wrapped["model_type"]
    found = read({"model_type": "minimax_m3_vl", "text_config": wrapped})
    assert parameters(found) == parameters(get_architecture("minimax-m3"))


def test_lightning_attention():
    config = {
        **LLAMA,
        "model_type": "minimax_m1",
        "hidden_size": 6144,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "head_dim": 128,
        "attn_type_list": [0, 0, 0, 0, 0, 0, 0, 1] * 10,
        "num_local_experts": 32,
        "num_experts_per_tok": 2,
        "intermediate_size": 9216,
        "vocab_size": 200064,
    }
    arch = read(config)
    assert (arch.lightning_layers, arch.full_layers, arch.lightning_head_dim) == (70, 10, 128)
    assert parameters(arch).total / 1e9 == pytest.approx(456, rel=0.01)
    count = parameters(arch)
    assert (count.active - count.embedding - count.lm_head) / 1e9 == pytest.approx(45.9, rel=0.01)


NVFP4 = {"num_bits": 4, "type": "float", "group_size": 16}


@pytest.mark.parametrize(
    ("quantization", "dense", "routed"),
    [
        (None, "bf16", "bf16"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8_block", "fp8_block"),
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, "fp8", "fp8"),
        ({"quant_method": "fp8", "activation_scheme": "static"}, "fp8_static", "fp8_static"),
        ({"quant_method": "awq", "bits": 4}, "int4_wo:awq", "int4_wo:awq"),
        ({"quant_method": "gptq", "bits": 8}, "int8_wo:gptq", "int8_wo:gptq"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4", "nvfp4"),
        (
            {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]},
            "bf16",
            "mxfp4",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 32}}},
                "ignore": ["lm_head", "re:.*self_attn.*"],
            },
            "bf16",
            "int4_wo:g32_sym",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "group_0": {
                        "weights": {"num_bits": 8, "type": "int", "strategy": "channel"},
                        "input_activations": {"num_bits": 8, "type": "int", "dynamic": True},
                    }
                },
            },
            "sq",
            "sq",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "group_0": {"weights": {"num_bits": 8, "type": "int"}, "input_activations": None}
                },
            },
            "int8_wo",
            "int8_wo",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": NVFP4, "input_activations": NVFP4}},
            },
            "nvfp4",
            "nvfp4",
        ),
        ({"quant_method": "something_new"}, "something_new", "something_new"),
    ],
)
def test_formats_of_a_checkpoint(quantization, dense, routed):
    arch = read({**QWEN3_MOE, "quantization_config": quantization})
    assert (arch.weight_format, arch.expert_weight_format) == (dense, routed)


@pytest.mark.parametrize("name", ["deepseek-v4-flash", "deepseek-v4-pro"])
def test_experts_beside_fp8_may_be_fp4(name):
    arch = get_architecture(name)
    assert (arch.weight_format, arch.expert_weight_format) == ("fp8_block", "mxfp4")


def test_an_unknown_format_of_experts_is_handed_on():
    stored = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    arch = read({**QWEN3_MOE, "quantization_config": stored, "expert_dtype": "fp3"})
    assert (arch.weight_format, arch.expert_weight_format) == ("fp8 of unknown layout",) * 2
    assert any("fp3" in note for note in arch.notes)


def test_a_missing_dtype_is_said():
    arch = read({k: v for k, v in LLAMA.items() if k != "torch_dtype"})
    assert any("dtype" in note for note in arch.notes)


def test_a_file_or_its_folder(tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    by_folder, by_file = get_architecture(folder), get_architecture(str(folder / "config.json"))
    assert by_folder.name == by_file.name == "my-model"
    assert parameters(by_folder) == parameters(get_architecture("llama-3.1-8b"))
    (folder / "mine-13b.json").write_text(json.dumps(LLAMA))
    assert get_architecture(str(folder / "mine-13b.json")).name == "mine-13b"
    (folder / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "FP8"}}))
    assert get_architecture(folder).weight_format == "fp8_static"


@pytest.mark.parametrize("content", ["[]", "{", None])
def test_a_file_that_cannot_be_read(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InvalidValue, match=r"config\.json"):
        load_config(tmp_path)
    with pytest.raises(InvalidValue, match=r"config\.json"):
        get_architecture(tmp_path / "config.json")


def test_arrays_hold_exactly_the_numeric_fields():
    numeric = [
        field.name for field in dataclasses.fields(Architecture) if field.type in {"int", "float", "bool"}
    ]
    assert [field.name for field in dataclasses.fields(ArchitectureArrays)] == numeric


@given(st.lists(st.sampled_from(COVERED), max_size=8))
def test_a_stack_holds_each_model_in_its_place(names):
    models = [get_architecture(name) for name in names]
    arrays = stack(models)
    assert len(arrays) == len(models)
    for field in dataclasses.fields(ArchitectureArrays):
        column = getattr(arrays, field.name)
        assert column.dtype == np.float64
        assert column.shape == (len(models),)
        assert column.tolist() == [float(getattr(model, field.name)) for model in models]


@given(st.lists(st.sampled_from(COVERED), min_size=1, max_size=8), st.data())
def test_rows_are_taken_in_the_order_asked_for(names, data):
    rows = data.draw(st.lists(st.integers(0, len(names) - 1), max_size=8))
    taken = stack([get_architecture(name) for name in names]).take(np.array(rows, dtype=np.intp))
    again = stack([get_architecture(names[row]) for row in rows])
    for field in dataclasses.fields(ArchitectureArrays):
        np.testing.assert_array_equal(getattr(taken, field.name), getattr(again, field.name))


DOCS = Path(__file__).parents[1] / "docs" / "models.md"
MIXING = {
    "full_layers": "full",
    "window_layers": "window",
    "mla_layers": "latent",
    "block_sparse_layers": "block-sparse",
    "csa_layers": "compressed, chosen",
    "hca_layers": "compressed, all",
    "local_layers": "window alone",
    "linear_layers": "gated delta",
    "kda_layers": "Kimi delta",
    "mamba_layers": "Mamba-2",
    "lightning_layers": "lightning",
    "conv_layers": "convolution",
}


def documented():
    table = DOCS.read_text(encoding="utf-8").split("## Counts")[1].split("##")[0]
    rows = [line.strip("|\n").split("|") for line in table.splitlines() if line.startswith("|")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in rows[2:]}


def test_the_documented_table_has_every_covered_model():
    assert list(documented()) == COVERED
    assert set(MIXING) == set(MIXERS)


@pytest.mark.parametrize("name", COVERED)
def test_the_documented_counts_are_these(name):
    total, active, published, difference, reason, mixing, feed_forward, elements, state = documented()[name]
    arch = get_architecture(name)
    count = parameters(arch)
    assert (total, active) == (f"{count.total / 1e9:.3f}", f"{count.active / 1e9:.3f}")
    if published:
        away = 100 * (count.total / 1e9 / float(published.split(" / ")[0]) - 1)
        assert difference == f"{away:+.2f}"
        assert (abs(away) > 1) == bool(reason)
    else:
        assert difference == reason == ""
    kinds = [f"{getattr(arch, field)} {word}" for field, word in MIXING.items() if getattr(arch, field)]
    assert mixing == ", ".join(kinds)
    parts = [f"{n} {word}" for n, word in ((arch.dense_layers, "dense"), (arch.moe_layers, "experts")) if n]
    assert feed_forward == ", ".join(parts)
    assert elements == f"{kv_elements_per_token(arch):.0f}"
    held = recurrent_state_bytes(stack([arch]), np.ones(1))[0] / 2**20
    assert state == (f"{held:.2f}" if held else "")
