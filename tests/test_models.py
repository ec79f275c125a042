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
    ({"model_type": "nemotron_h"}, "state-space"),
    ({"model_type": "kimi_linear"}, "KDA"),
    ({"model_type": "kimi_k3", "text_config": {"model_type": "kimi_linear"}}, "KDA"),
    ({"model_type": "lfm2_moe"}, "short convolutions"),
    ({"model_type": "minimax_m1"}, "lightning"),
    ({"model_type": "bailing_hybrid"}, "lightning"),
    ({"model_type": "deepseek_v4"}, "compressed sparse"),
    ({"model_type": "minimax_m3"}, "block-sparse"),
    ({"model_type": "gemma4", "text_config": {"model_type": "gemma4_text"}}, "head dimensions"),
    ({"model_type": "mimo_v2_flash"}, "key/value heads"),
    ({"model_type": "step3p5"}, "head counts"),
    ({"model_type": "t5", "is_encoder_decoder": True}, "encoder-decoder"),
    ({**LLAMA, "ssm_state_size": 128}, "state-space"),
    ({**LLAMA, "linear_attn_config": {"kda_layers": [1]}}, "KDA"),
    ({**LLAMA, "swa_num_key_value_heads": 4}, "key/value heads"),
    ({**LLAMA, "model_type": "brand_new", "conv_L_cache": 3}, "short convolutions"),
    ({**LLAMA, "model_type": "brand_new"}, "brand_new"),
    ({**LLAMA, "layer_types": ["full_attention"] * 31 + ["lightning_attention"]}, "lightning_attention"),
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
    with pytest.raises(NotCovered, match="differ by block"):
        read({**blocks, "block_configs": other})


NVFP4 = {"num_bits": 4, "type": "float", "group_size": 16}


@pytest.mark.parametrize(
    ("quantization", "dense", "routed"),
    [
        (None, "bf16", "bf16"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8_block", "fp8_block"),
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, "fp8", "fp8"),
        ({"quant_method": "fp8", "activation_scheme": "static"}, "fp8_static", "fp8_static"),
        ({"quant_method": "awq", "bits": 4}, "awq_int4", "awq_int4"),
        ({"quant_method": "gptq", "bits": 8}, "gptq_int8", "gptq_int8"),
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
            "int4",
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
            "w8a8_int8",
            "w8a8_int8",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "group_0": {"weights": {"num_bits": 8, "type": "int"}, "input_activations": None}
                },
            },
            "w8a16",
            "w8a16",
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
