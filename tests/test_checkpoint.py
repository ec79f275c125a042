"""What checkpoints already are: configurations of every method, headers of weight files, and broken ones."""

import json
import struct
from math import prod
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicalib.errors import InvalidValue, NotCovered, RequestError, UnknownName
from aicalib.quant.checkpoint import Checkpoint, checkpoint_of, read_checkpoint
from aicalib.quant.declared import tables
from aicalib.quant.names import parse_mode

DATA = Path(__file__).parent / "data" / "checkpoints"
LLAMA = {"model_type": "llama", "torch_dtype": "bfloat16", "num_hidden_layers": 32}
MOE = {"model_type": "qwen3_moe", "torch_dtype": "bfloat16", "num_hidden_layers": 48, "num_experts": 128}


def example(name):
    return json.loads((DATA / f"{name}.composed.json").read_text())


def spelled(found):
    return tuple(field and field.spelled() for field in (found.gemm, found.moe, found.kvcache))


EXAMPLES = {
    "awq": ("awq", "int4_wo:awq", None, None),
    "gptq": ("gptq", "int8_wo:gptq", None, None),
    "fp8_block_deepseek_v3": ("fp8", "fp8_block", "fp8_block", None),
    "w8a8_int8": ("compressed-tensors", "sq", None, None),
    "fp8_dynamic": ("compressed-tensors", "fp8:per_channel", None, None),
    "w4a16": ("compressed-tensors", "int4_wo:g128_sym", None, None),
    "nvfp4_compressed": ("compressed-tensors", "nvfp4", None, "fp8_e4m3"),
    "mixed_compressed": ("compressed-tensors", "nvfp4", None, None),
    "gpt_oss": ("mxfp4", "bfloat16", "mxfp4", None),
    "modelopt_nvfp4_config": ("modelopt_fp4", "nvfp4", None, "fp8_e4m3"),
    "modelopt_fp8_hf_quant": ("modelopt", "fp8_static", None, "fp8_e4m3"),
    "modelopt_nvfp4_hf_quant": ("modelopt_fp4", "nvfp4", None, "fp8_e4m3"),
    "modelopt_mixed_hf_quant": ("modelopt_mixed", "fp8_static", "nvfp4_wo", "fp8_e4m3"),
    "w4afp8_hf_quant": ("modelopt_mixed", "fp8_block", "w4afp8", None),
    "auto_round": ("auto-round", "auto_round:4", None, None),
    "bitsandbytes": ("bitsandbytes", "bitsandbytes:nf4_double", None, None),
    "quark_mxfp4": ("quark", "mxfp4:w4a4", None, "fp8_e4m3"),
    "torchao": ("torchao", "int4_wo:torchao", None, None),
    "fbgemm_fp8": ("fbgemm_fp8", "fp8:per_channel", None, None),
    "qwen3_vl_fp8": ("fp8", "fp8_block", "fp8_block", None),
}


def test_every_example_is_read():
    assert {path.name.removesuffix(".composed.json") for path in DATA.glob("*.json")} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_published_forms(name):
    found = checkpoint_of(example(name))
    assert (found.method, *spelled(found)) == EXAMPLES[name]


def test_mixed_formats_of_dense_layers_are_named():
    found = checkpoint_of(example("mixed_compressed"))
    assert any("attention: fp8:per_channel" in note and "gemm is nvfp4" in note for note in found.notes)


def test_the_layers_left_out_are_kept():
    assert "model.layers.*.self_attn" in checkpoint_of(example("gpt_oss")).ignored
    assert checkpoint_of(example("modelopt_fp8_hf_quant")).ignored == ("lm_head",)


def test_what_engines_look_at_besides():
    settings = checkpoint_of(example("gptq")).settings
    assert (settings["bits"], settings["group_size"], settings["sym"], settings["desc_act"]) == (
        8,
        128,
        True,
        False,
    )


def test_a_vision_language_model_says_what_stays():
    found = checkpoint_of(example("qwen3_vl_fp8"))
    assert any("encoder stays 16-bit" in note for note in found.notes)
    plain = {"model_type": "qwen2_5_vl", "torch_dtype": "bfloat16", "vision_config": {}}
    assert any("vision-language" in note for note in checkpoint_of(plain).notes)


@pytest.mark.parametrize(
    ("dtype", "name"), [("bfloat16", "bfloat16"), ("torch.float16", "float16"), ("float32", "float32")]
)
def test_plain_checkpoints(dtype, name):
    found = checkpoint_of({**MOE, "torch_dtype": dtype})
    assert (found.method, *spelled(found)) == (None, name, name, None)
    assert checkpoint_of({**LLAMA, "torch_dtype": dtype}).moe is None


def groups(weights, inputs=None, targets=("Linear",)):
    group = {"weights": weights, "input_activations": inputs, "targets": list(targets)}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}


FP8_IN = {"num_bits": 8, "type": "float", "dynamic": True, "strategy": "token"}


@pytest.mark.parametrize(
    ("quantization", "dense", "routed"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True}, "int4_wo:g64", "int4_wo:g64"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": False}, "int4_wo:g128", "int4_wo:g128"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32}, "int4_wo:g32_sym", "int4_wo:g32_sym"),
        ({"quant_method": "fp8", "activation_scheme": "static"}, "fp8_static", "fp8_static"),
        ({"quant_method": "fp8", "weight_block_size": [1, 32]}, "mxfp8", "mxfp8"),
        (groups({"num_bits": 4, "type": "int", "group_size": 128}, FP8_IN), "w4afp8", "w4afp8"),
        (groups({"num_bits": 4, "type": "float", "group_size": 32}), "mxfp4", "mxfp4"),
        (groups({"num_bits": 4, "type": "float", "group_size": 16}), "nvfp4_wo", "nvfp4_wo"),
        (groups({"num_bits": 8, "type": "float", "strategy": "block"}, FP8_IN), "fp8_block", "fp8_block"),
        (groups({"num_bits": 4, "type": "int", "group_size": 32}, None, ["re:.*mlp.experts.*"]), "bfloat16",
         "int4_wo:g32_sym"),
        ({"quant_method": "modelopt", "quant_algo": "MXFP8"}, "mxfp8", "mxfp8"),
        ({"quant_method": "modelopt", "quant_algo": None, "kv_cache_quant_algo": "FP8"}, "bfloat16", "bfloat16"),
        ({"quant_method": "w4afp8"}, "fp8_block", "w4afp8"),
        ({"quant_method": "fp8", "ignored_layers": ["model.layers.1.mlp.experts.0.up_proj"]}, "fp8", "fp8"),
        ({"quant_method": "fp8", "ignored_layers": ["re:.*mlp.experts.*"]}, "fp8", "bfloat16"),
        ({"quant_method": "fp8", "ignored_layers": ["model.layers.0.self_attn.q_proj"]}, "fp8", "fp8"),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp8_e4m3", "qscheme": "per_tensor"},
          "input_tensors": {"dtype": "fp8_e4m3", "qscheme": "per_tensor"}}}, "fp8_static", "fp8_static"),
    ],
)  # fmt: skip
def test_formats_beside_experts(quantization, dense, routed):
    found = checkpoint_of({**MOE, "quantization_config": quantization})
    assert spelled(found)[:2] == (dense, routed)


def test_groups_without_a_variant_say_their_bits():
    found = checkpoint_of(
        {**LLAMA, "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 16}}
    )
    assert any("5 bits a weight" in note for note in found.notes)


def test_a_few_layers_left_out_are_not_all():
    quantization = {"quant_method": "fp8", "ignored_layers": ["model.layers.0.self_attn.q_proj"]}
    found = checkpoint_of({**MOE, "quantization_config": quantization})
    assert any("1 of 48 layers" in note for note in found.notes)


@pytest.mark.parametrize(
    ("quantization", "kind", "named"),
    [
        ({"quant_method": "something_new"}, UnknownName, "something_new"),
        ({"quant_method": "aqlm"}, NotCovered, "codebooks"),
        ({"bits": 4, "group_size": 64}, NotCovered, "MLX"),
        ({"quant_method": 3}, InvalidValue, "3"),
        ({"a": 1}, InvalidValue, "quant_method"),
        ([1], InvalidValue, "not an object"),
        ({"quant_method": "gptq"}, InvalidValue, "bits"),
        ({"quant_method": "gptq", "bits": 3}, NotCovered, "3 bits"),
        ({"quant_method": "fp8", "weight_block_size": [64, 64]}, NotCovered, "64x64"),
        ({"quant_method": "fp8", "activation_scheme": "sometimes"}, InvalidValue, "sometimes"),
        ({"quant_method": "modelopt", "quant_algo": "FP9"}, UnknownName, "FP9"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 32}, NotCovered, "groups of 32"),
        ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}, InvalidValue, "quantized_layers"),
        ({"quant_method": "modelopt_fp4"}, InvalidValue, "quant_algo"),
        ({"quant_method": "compressed-tensors"}, InvalidValue, "config_groups"),
        (groups({"num_bits": 6, "type": "float"}), NotCovered, "6-bit"),
        (groups({"num_bits": "4"}), InvalidValue, "num_bits"),
        ({"quant_method": "fp8", "kv_cache_quant_algo": "FP3"}, UnknownName, "FP3"),
        ({"quant_method": "torchao", "quant_type": "int3"}, UnknownName, "int3"),
        ({"quant_method": "quark", "global_quant_config": {"weight": [{}, {}]}}, NotCovered, "two steps"),
        ({"quant_method": "bitsandbytes", "bnb_4bit_quant_type": "x"}, InvalidValue, "bnb_4bit_quant_type"),
        ({"quant_method": "auto-round", "bits": 5}, NotCovered, "5 bits"),
    ],
)  # fmt: skip
def test_what_is_not_recognized_is_named(quantization, kind, named):
    with pytest.raises(kind, match=named):
        checkpoint_of({**LLAMA, "quantization_config": quantization})


# ---------------------------------------------------------------------------------------------- files and headers


def safetensors(path, tensors):
    """Write a file of the safetensors format with empty tensors."""
    header = {name: {"dtype": dtype, "shape": list(shape), "data_offsets": [0, 0]} for name, (dtype, shape) in
              tensors.items()}  # fmt: skip
    body = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(struct.pack("<Q", len(body)) + body)
    return path


def gguf_text(text):
    return struct.pack("<Q", len(text)) + text.encode()


def gguf(path, tensors, *, file_type=15, version=3):
    """Write the header of a GGUF file."""
    pairs = [
        gguf_text("general.architecture") + struct.pack("<I", 8) + gguf_text("llama"),
        gguf_text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 70) + gguf_text("tok") * 70,
        gguf_text("tokenizer.ggml.scores") + struct.pack("<IIQ", 9, 6, 70) + struct.pack("<70f", *[0] * 70),
    ]
    if file_type is not None:
        pairs.append(gguf_text("general.file_type") + struct.pack("<II", 4, file_type))
    rows = [
        gguf_text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, 0)
        for name, (kind, shape) in tensors.items()
    ]
    head = b"GGUF" + struct.pack("<IQQ", version, len(rows), len(pairs))
    path.write_bytes(head + b"".join(pairs) + b"".join(rows))
    return path


Q4_K_M = {
    "token_embd.weight": (12, (4096, 1000)),
    "blk.0.attn_q.weight": (12, (4096, 4096)),
    "blk.0.ffn_down.weight": (14, (4096, 1024)),
    "blk.0.attn_norm.weight": (0, (4096,)),
}


def test_a_gguf_file_tells_its_recipe_and_true_bits(tmp_path):
    found = read_checkpoint(gguf(tmp_path / "model-Q4_K_M.gguf", Q4_K_M))
    assert (found.method, *spelled(found)) == ("gguf", "gguf:Q4_K_M", None, None)
    sizes = {kind: sum(prod(shape) for k, shape in Q4_K_M.values() if k == kind) for kind in (0, 12, 14)}
    bits = 32 * sizes[0] + 4.5 * sizes[12] + 6.5625 * sizes[14]
    assert found.settings["bits_per_weight"] == pytest.approx(bits / sum(sizes.values()))
    assert read_checkpoint(tmp_path) == found


def test_gguf_experts_and_recipes_without_a_variant(tmp_path):
    tensors = {**Q4_K_M, "blk.0.ffn_gate_exps.weight": (39, (2048, 512, 64))}
    found = read_checkpoint(gguf(tmp_path / "oss.gguf", tensors, file_type=38))
    assert found.moe.spelled() == "gguf:MXFP4"
    assert found.settings["expert_bits_per_weight"] == 4.25
    assert any("MXFP4_MOE" in note for note in found.notes)
    unnamed = read_checkpoint(gguf(tmp_path / "oss.gguf", Q4_K_M, file_type=None))
    assert unnamed.gemm.spelled() == "gguf:Q4_K"


@pytest.mark.parametrize(
    ("tensors", "options", "kind"),
    [({"a.weight": (99, (8, 8))}, {}, NotCovered), (Q4_K_M, {"file_type": 999}, NotCovered),
     (Q4_K_M, {"version": 7}, InvalidValue), ({}, {}, InvalidValue)],
)  # fmt: skip
def test_gguf_files_that_are_refused(tmp_path, tensors, options, kind):
    with pytest.raises(kind, match=r"x\.gguf"):
        read_checkpoint(gguf(tmp_path / "x.gguf", tensors, **options))


def test_every_cut_of_a_header_is_named(tmp_path):
    whole = gguf(tmp_path / "x.gguf", Q4_K_M).read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "x.gguf").write_bytes(whole[:length])
        with pytest.raises(InvalidValue, match=r"x\.gguf"):
            read_checkpoint(tmp_path / "x.gguf")
    header = safetensors(tmp_path / "x.safetensors", {"w": ("BF16", (2, 2))}).read_bytes()
    for length in range(len(header)):
        (tmp_path / "x.safetensors").write_bytes(header[:length])
        with pytest.raises(InvalidValue, match=r"x\.safetensors"):
            read_checkpoint(tmp_path / "x.safetensors")


@pytest.mark.parametrize("body", [b"[]", b'{"w": 3}', b'{"w": {"dtype": "BF16", "shape": 3}}', b"\xff\xfe"])
def test_a_header_that_is_no_safetensors_header(tmp_path, body):
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(body)) + body)
    with pytest.raises(InvalidValue, match="safetensors header"):
        read_checkpoint(tmp_path / "x.safetensors")


UP = "model.layers.0.mlp.up_proj.weight"
EXPERT = "model.layers.0.mlp.experts.1.up_proj.weight"


@pytest.mark.parametrize(
    ("tensors", "dense", "routed"),
    [
        ({UP: ("BF16", (512, 256))}, "bfloat16", None),
        ({UP: ("F8_E4M3", (512, 256)), f"{UP}_scale_inv": ("F32", (4, 2))}, "fp8_block", None),
        ({UP: ("F8_E4M3", (512, 256)), f"{UP}_scale": ("F32", (512, 1))}, "fp8:per_channel", None),
        ({UP: ("F8_E4M3", (512, 256)), f"{UP}_scale": ("F32", ())}, "fp8", None),
        ({UP: ("F8_E4M3", (512, 256)), f"{UP}_scale": ("F32", ()), "model.layers.0.mlp.up_proj.input_scale":
          ("F32", ())}, "fp8_static", None),
        ({UP: ("BF16", (8, 8)), EXPERT: ("U8", (512, 128)), f"{EXPERT}_scale": ("F8_E4M3", (512, 16))}, "bfloat16",
         "nvfp4"),
        ({"model.layers.0.self_attn.q_proj.weight": ("BF16", (8, 8)), "model.layers.0.mlp.experts.up_proj_blocks":
          ("U8", (2, 64, 4, 16)), "model.layers.0.mlp.experts.up_proj_scales": ("U8", (2, 64, 4))}, "bfloat16",
         "mxfp4"),
    ],
)  # fmt: skip
def test_headers_alone(tmp_path, tensors, dense, routed):
    found = read_checkpoint(safetensors(tmp_path / "model.safetensors", tensors))
    assert (found.method, *spelled(found)[:2]) == (None, dense, routed)


def test_headers_that_do_not_settle_it_say_so(tmp_path):
    packed = {"model.layers.0.mlp.up_proj.qweight": ("I32", (64, 512))}
    found = read_checkpoint(safetensors(tmp_path / "model.safetensors", packed))
    assert found.gemm is None
    assert any("I32" in note for note in found.notes)


def folder(tmp_path, **files):
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def test_a_folder_is_checked_against_its_headers(tmp_path):
    folder(tmp_path, config=example("fp8_block_deepseek_v3"))
    assert read_checkpoint(tmp_path).evidence == "config.json"
    safetensors(tmp_path / "model-1.safetensors", {UP: ("F8_E4M3", (512, 256))})
    assert "headers" in read_checkpoint(tmp_path).evidence
    safetensors(tmp_path / "model-1.safetensors", {UP: ("BF16", (512, 256))})
    with pytest.raises(InvalidValue, match="contradict"):
        read_checkpoint(tmp_path)


def test_headers_are_the_evidence_where_the_configuration_says_nothing(tmp_path):
    folder(tmp_path, config=LLAMA)
    safetensors(tmp_path / "a.safetensors", {UP: ("F8_E4M3", (512, 256)), f"{UP}_scale_inv": ("F32", (4, 2))})
    found = read_checkpoint(tmp_path)
    assert (found.method, found.gemm.spelled()) == (None, "fp8_block")
    assert any("names no quant_method" in note for note in found.notes)


def test_modelopt_files_beside_a_configuration(tmp_path):
    folder(tmp_path, config=MOE, hf_quant_config=example("modelopt_fp8_hf_quant"))
    for path in (tmp_path, tmp_path / "hf_quant_config.json"):
        assert spelled(read_checkpoint(path)) == ("fp8_static", "fp8_static", "fp8_e4m3")
    folder(tmp_path, config=example("modelopt_nvfp4_config"))
    with pytest.raises(InvalidValue, match="contradict"):
        read_checkpoint(tmp_path)
    folder(tmp_path, config=example("awq"))
    with pytest.raises(InvalidValue, match="contradict"):
        read_checkpoint(tmp_path)


def test_layers_of_a_mixed_checkpoint_may_stand_in_a_third_file(tmp_path):
    whole = example("w4afp8_hf_quant")
    short = {"quantization": {"quant_algo": "MIXED_PRECISION", "kv_cache_quant_algo": None}}
    folder(tmp_path, config=MOE, hf_quant_config=short, quant_cfg=whole["quantization"])
    assert spelled(read_checkpoint(tmp_path))[:2] == ("fp8_block", "w4afp8")


@pytest.mark.parametrize("content", ["{", "[]", "\x00", "[" * 100_000])
def test_json_that_cannot_be_read(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    for path in (tmp_path, tmp_path / "config.json"):
        with pytest.raises(InvalidValue, match=r"config\.json"):
            read_checkpoint(path)


def test_paths_that_are_no_checkpoint(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    for path in (tmp_path, tmp_path / "missing", tmp_path / "notes.txt"):
        with pytest.raises(InvalidValue):
            read_checkpoint(path)
    for name in ("a-Q4_0.gguf", "a-Q8_0.gguf"):
        gguf(tmp_path / name, Q4_K_M)
    with pytest.raises(InvalidValue, match="several"):
        read_checkpoint(tmp_path)


# ------------------------------------------------------------------------------------------------------ anything

KEYS = st.sampled_from(
    ["bits", "group_size", "sym", "desc_act", "zero_point", "weight_block_size", "activation_scheme", "config_groups",
     "g0", "weights", "input_activations", "targets", "num_bits", "type", "strategy", "ignore", "quant_algo",
     "kv_cache_quant_algo", "kv_cache_scheme", "quantized_layers", "quantization", "producer", "global_quant_config",
     "layer_quant_config", "weight", "input_tensors", "dtype", "qscheme", "quant_type", "default", "_type", "_data",
     "data_type", "export", "kv_cache_group", "load_in_8bit", "bnb_4bit_quant_type", "quant_config"]
)  # fmt: skip
LEAVES = st.none() | st.booleans() | st.integers(-2, 300) | st.floats() | st.sampled_from(
    ["int", "float", "FP8", "NVFP4", "MIXED_PRECISION", "Linear", "re:.*experts.*", "block", "static", "fp4", ""]
) | st.text(max_size=4)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=5,
)
METHODS = st.sampled_from(
    ["awq", "gptq", "fp8", "compressed-tensors", "modelopt", "modelopt_fp4", "mxfp4", "auto-round", "bitsandbytes",
     "quark", "torchao", "w4afp8", "mxfp8", None, 7, "new"]
)  # fmt: skip


def read_or_refuse(config):
    try:
        found = checkpoint_of(config)
    except RequestError:
        return
    assert isinstance(found, Checkpoint)


@given(METHODS, st.dictionaries(KEYS, VALUES, max_size=4))
def test_any_mapping_is_a_checkpoint_or_a_named_error(method, quantization):
    read_or_refuse(quantization)
    read_or_refuse({"quantization_config": {"quant_method": method, **quantization}})


def places(value, path=()):
    """Yield the path of every item of nested mappings and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


@given(st.sampled_from(sorted(EXAMPLES)), VALUES, st.data())
def test_an_example_with_one_value_changed_is_a_checkpoint_or_a_named_error(name, value, data):
    config = example(name)
    *path, last = data.draw(st.sampled_from(list(places(config))))
    holder = config
    for key in path:
        holder = holder[key]
    holder[last] = value
    read_or_refuse(config)


def test_the_data_file_names_modes_alone():
    data = tables()
    for name in {*data["modelopt"].values(), *data["torchao"].values(), *data["expert_dtype"].values()}:
        assert parse_mode("gemm", name).spelled() == parse_mode("moe", name).spelled() == name
    for name in data["kvcache"].values():
        assert parse_mode("kvcache", name).spelled() == name
    assert not set(data["refused"]) & {"awq", "gptq", "fp8", "modelopt"}
