"""The registry of kernels and the kernel plan: every question ends in a kernel or a named refusal."""

import csv
import json
from importlib.resources import files

import numpy as np
import pytest
import typer
from test_house import hold
from typer.testing import CliRunner

from aicalib.cli.quant_plan import plan
from aicalib.engines import ENGINES, newest_version
from aicalib.engines.defaults import version_number
from aicalib.engines.kernels import ATTENTION_KINDS, MODE, REFUSED, VENDORS, generations, rules
from aicalib.engines.launch import starts
from aicalib.engines.plan import kernel_plan, scales_of
from aicalib.engines.registry import FALLBACK, OPERATORS, PRIORITIES, kernel_for
from aicalib.engines.request import request_of
from aicalib.engines.versions import VersionRange
from aicalib.errors import InvalidValue, NotCovered, RequestError, UnknownName
from aicalib.hardware import get_accelerator, list_accelerators
from aicalib.models import list_architectures
from aicalib.physics.kv_cache import cells
from aicalib.physics.memory import needs, pool_tokens
from aicalib.profiles import kernels
from aicalib.quant import MODES, KVCacheQuantMode, parse_mode
from aicalib.quant.tables import format_tables
from aicalib.resolve.identify import identify, surface_codes
from aicalib.resolve.rows import resolve

VERSIONS = {"sglang": ("0.4.6", "0.5.9", "0.5.23"), "vllm": ("0.10.2", "0.33.0"), "trtllm": ("1.2.0",)}


ALL_TO_ALL = {"moe_deepep_prefill", "moe_deepep_decode"}


def kernel(form, operator, gpu, engine="sglang", version=None, **options):
    return kernel_for(
        form, operator, engine, version or newest_version(engine), get_accelerator(gpu), **options
    )


def attempt(*asked):
    """Return the kernel, or the refusal."""
    try:
        return kernel_for(*asked)
    except RequestError as error:
        return error


@pytest.mark.parametrize(("engine", "version"), [(each, at) for each, of in VERSIONS.items() for at in of])
def test_every_combination_of_the_catalogue_ends_in_a_kernel_or_a_named_refusal(engine, version):
    answered = refused = 0
    timed = set()
    for accelerator in list_accelerators():
        for operator, (field, _) in OPERATORS.items():
            for mode in MODES[field]:
                found = attempt(mode.name, operator, engine, version, accelerator)
                if isinstance(found, RequestError):
                    refused += 1
                    assert isinstance(found, NotCovered)
                    assert all(name in str(found) for name in (operator, mode.name, accelerator.name))
                    assert " calls in " not in str(found)
                    for near in found.alternatives[:1]:
                        assert kernel_for(near, operator, engine, version, accelerator).name
                    continue
                answered += 1
                assert found.backend != REFUSED
                assert found.name
                assert ":" in found.file or "/" in found.file or found.backend in ("magicmind", "xpu_ops")
                assert found.source
                assert found.path
                if found.efficiency:
                    timed.add((found.efficiency, accelerator))
    assert answered > 100
    assert refused > 100
    for (kind, variant), accelerator in timed:
        kernels.code(kind, accelerator, variant)


AGREEMENT = {
    **VERSIONS,
    "sglang": ("0.4.6", "0.5.9", "0.5.13", "0.5.23"),
    "vllm": ("0.8.5.post1", "0.18.0", "0.33.0"),
}

EXCEPTIONS = {
    ("trtllm", "1.2.0", "NVIDIA", "nvfp4"): "its scales come with a ModelOpt checkpoint that is read",
    **dict.fromkeys(
        [("vllm", "0.8.5.post1", "AMD", mode) for mode in ("fp8", "fp8_e4m3", "fp8_e5m2")],
        "the attention backends of vLLM on ROCm are known from 0.10 on",
    ),
}
"""Caches that have a kernel, and that `launch` does not start."""


def startable(field, mode, **at):
    """Tell whether `launch` starts a format, from the published weights or from a checkpoint that stores it."""
    if field == "kvcache":
        tried = [{"model": "llama-8b", "kv": mode, "gemm": gemm} for gemm in (None, "float16")]
    elif field == "gemm":
        tried = [{"model": "llama-8b", "gemm": mode}]
    else:
        dense = (mode, None, "bfloat16", "float16", "fp8_block", "fp8", "fp8_static")
        tried = [
            {"model": "qwen3-30b-a3b", "gemm": gemm, "moe": mode}
            for gemm in dense
            if gemm is None or gemm in MODES["gemm"].__members__
        ]
    return any(
        starts(request_of({**at, **options, "checkpoint": path}))
        for options in tried
        for path in ((None, "PATH") if field != "kvcache" else (None,))
    )


KINDS_OF_GPU = list({(each.vendor, each.capability): each for each in list_accelerators()}.values())


@pytest.mark.parametrize(("engine", "version"), [(each, at) for each, of in AGREEMENT.items() for at in of])
def test_there_is_a_kernel_where_launch_starts_and_nowhere_else(engine, version):
    checked = 0
    for gpu in KINDS_OF_GPU:
        for field, operator in (("gemm", "gemm"), ("moe", "moe"), ("kvcache", "kv_quantize")):
            for mode in MODES[field]:
                found = attempt(mode.name, operator, engine, version, gpu)
                has = not isinstance(found, RequestError)
                can = startable(field, mode.name, engine=engine, engine_version=version, gpu=gpu.name)
                if field == "kvcache" and (engine, version, gpu.vendor, mode.name) in EXCEPTIONS:
                    assert not can
                    continue
                assert has == can, (gpu.name, field, mode.name, found)
                checked += 1
    assert checked > 500


def test_efficiency_keys_are_those_that_predict_times_with():
    for model in ("llama-70b", "deepseek-v3", "gpt-oss-120b", "qwen3-30b-a3b"):
        for gpu in ("a100", "l40s", "h100", "b200", "mi300x"):
            for engine in ("sglang", "vllm"):
                for kv in ("bfloat16", "fp8"):
                    who = identify(model, gpu, None, kv, None, None, engine, None)
                    codes = surface_codes(who)
                    at = (who.engine, who.engine_version, who.accelerator)
                    asked = {"gemm": ("gemm", who.quant.gemm.name, "gemm")}
                    if who.architecture.moe_layers:
                        asked["moe"] = ("moe", who.quant.moe.name, "moe")
                    if who.architecture.mla_layers:
                        asked["latent_decode"] = ("mla_decode", kv, "latent_decode")
                    elif not who.architecture.attention_sinks:
                        asked["attention_decode"] = ("attention_decode", kv, "decode_attention")
                        asked["attention_prefill"] = ("attention_prefill", kv, "prefill_attention")
                    for code, (operator, form, kind) in asked.items():
                        found = attempt(form, operator, *at)
                        if isinstance(found, NotCovered):
                            continue
                        assert found.efficiency[0] == kind
                        assert kernels.code(kind, who.accelerator, found.efficiency[1]) == codes[code]


def test_rules_are_unique_sourced_and_of_known_words():
    words = {word for each in list_accelerators() for word in generations(each)} | {*VENDORS.values(), "*"}
    kinds = {kind for _, kind in OPERATORS.values()} | {*ATTENTION_KINDS, *ALL_TO_ALL}
    seen = set()
    for rule in rules():
        assert rule.engine in ENGINES
        assert rule.generations <= words
        assert {*rule.kinds} <= kinds
        assert rule.source
        assert rule.priority in (*PRIORITIES, "*")
        assert rule.versions.since < rule.versions.until
        for word in rule.generations:
            for kind in rule.kinds:
                for form in rule.formats:
                    key = (
                        rule.engine,
                        rule.versions.since,
                        word,
                        kind,
                        form,
                        rule.priority,
                        rule.named and rule.backend,
                    )
                    assert key not in seen, key
                    seen.add(key)
                    if form.startswith(MODE) and kind in ("gemm", "moe"):
                        assert parse_mode(kind, form.removeprefix(MODE))


def test_every_backend_has_a_name_and_every_name_a_backend():
    text = files("aicalib.engines").joinpath("kernel_names.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    named = {(row["engine"], kind, row["backend"]) for row in rows for kind in row["kind"].split()}
    ruled = {
        (rule.engine, kind, rule.backend)
        for rule in rules()
        for kind in rule.kinds
        if kind not in ALL_TO_ALL and rule.backend != REFUSED
    }
    assert ruled <= named
    assert {(engine, backend) for engine, _, backend in named} == {
        (engine, backend) for engine, _, backend in ruled
    }
    for row in rows:
        assert row["kernel"]
        assert row["file"]
        versions = VersionRange.of(row)
        assert versions.since < versions.until


@pytest.mark.parametrize(
    ("since", "until", "version", "included"),
    [
        ("0", "", "0.4.1", True),
        ("0.5", "", "0.4.9", False),
        ("0.5", "0.5.9", "0.5.8.post1", True),
        ("0.5", "0.5.9", "0.5.9", False),
        ("0.5.23", "", "main", True),
        ("0", "0.5.9", "main", False),
        ("0", "1", "1.0.0", False),
    ],
)
def test_a_range_ends_before_its_last_version_and_holds_for_a_nightly_where_open(
    since, until, version, included
):
    versions = VersionRange.of({"since": since, "until": until})
    assert versions.includes(version_number(version)) is included


@pytest.mark.parametrize(
    ("form", "operator", "gpu", "engine", "version", "backend", "path"),
    [
        ("fp8_block", "gemm", "h100", "sglang", "0.5.23", "deep_gemm", "w8a8"),
        ("fp8_block", "gemm", "b200", "sglang", "0.5.23", "deep_gemm", "w8a8"),
        ("fp8_block", "gemm", "l40s", "sglang", "0.5.23", "triton", "w8a8"),
        ("fp8_block", "gemm", "rtx-5090", "sglang", "0.5.23", "cutlass", "w8a8"),
        ("fp8", "gemm", "a100", "sglang", "0.5.23", "marlin", "w8a16"),
        ("nvfp4", "gemm", "a100", "sglang", "0.5.23", "marlin", "w4a16"),
        ("nvfp4", "gemm", "h100", "sglang", "0.5.23", "marlin", "w4a16"),
        ("nvfp4", "gemm", "b200", "sglang", "0.5.23", "flashinfer_cutedsl", "w4a4"),
        ("nvfp4", "gemm", "rtx-5090", "sglang", "0.5.23", "flashinfer_cutlass", "w4a4"),
        ("int4_wo", "gemm", "t4", "sglang", "0.5.23", "awq", "w4a16"),
        ("int4_wo", "gemm", "h100", "vllm", "0.33.0", "machete", "w4a16"),
        ("bfloat16", "attention_decode", "h100", "sglang", "0.5.23", "fa3", "q16kv16"),
        ("fp8_e4m3", "attention_decode", "h100", "sglang", "0.5.23", "fa3", "q8kv8"),
        ("fp8_e5m2", "attention_decode", "h100", "sglang", "0.5.23", "triton", "kv8"),
        ("bfloat16", "attention_prefill", "b200", "sglang", "0.5.23", "trtllm_mha", "q16kv16"),
        ("bfloat16", "attention_decode", "b200", "sglang", "0.5.4", "flashinfer", "q16kv16"),
        ("bfloat16", "mla_decode", "b200", "sglang", "0.5.23", "trtllm_mla", "q16kv16"),
        ("int8", "attention_decode", "h100", "vllm", "0.33.0", "triton_attn", "kv8"),
        ("w4afp8", "moe", "h100", "sglang", "0.5.23", "cutlass_w4a8", "w4a8"),
        ("mxfp4", "moe", "h100", "sglang", "0.5.23", "marlin", "w4a16"),
        ("mxfp4", "moe", "b200", "sglang", "0.5.23", "flashinfer_mxfp4", "w4a8"),
        ("fp8_block", "moe", "b200", "sglang", "0.5.23", "flashinfer_trtllm", "w8a8"),
        ("fp8_block", "gemm", "mi300x", "sglang", "0.5.23", "aiter", "w8a8"),
        ("mxfp4", "gemm", "mi355x", "vllm", "0.33.0", "aiter", "w4a4"),
        ("sq", "gemm", "ascend-910b1", "sglang", "0.5.23", "cann", "w8a8"),
        ("int4_wo:g64", "gemm", "ascend-910b1", "vllm", "0.33.0", "cann", "w4a16"),
        ("sq", "gemm", "mlu590", "vllm", "0.33.0", "magicmind", "w8a8"),
    ],
)
def test_known_kernels(form, operator, gpu, engine, version, backend, path):
    found = kernel(form, operator, gpu, engine, version)
    assert (found.backend, found.path) == (backend, path)


@pytest.mark.parametrize(
    ("form", "operator", "gpu", "engine", "version", "reason"),
    [
        ("nvfp4", "gemm", "h100", "sglang", "0.5.9", "10.0"),
        ("qoq", "gemm", "h100", "sglang", "0.5.23", "no quantization method"),
        ("gguf", "gemm", "h100", "vllm", "0.33.0", "no quantization method"),
        ("sq", "gemm", "b200", "vllm", "0.33.0", r"8\.9 9\.0; b200"),
        ("w4afp8", "moe", "l40s", "sglang", "0.5.23", "9.0"),
        ("nvfp4", "gemm", "h100", "trtllm", "1.2.0", r"10\.0"),
        ("int8", "attention_decode", "h100", "sglang", "0.5.23", "no such cache"),
        ("nvfp4", "kv_quantize", "b200", "sglang", "0.5.9", "no such cache"),
        ("fp8_e5m2", "mla_decode", "b200", "sglang", "0.5.23", "E4M3"),
        ("bfloat16", "gemm", "v100", "sglang", "0.5.23", "7.5"),
        ("bfloat16", "gemm", "gaudi3", "vllm", "0.33.0", "known to run on"),
        ("fp8", "gemm", "ascend-910b1", "sglang", "0.5.23", "does not run on Huawei.*int4_wo:g32"),
        ("int4_wo", "gemm", "ascend-910b1", "sglang", "0.5.23", "int4_wo:g32, int4_wo:g64"),
        ("fp8", "gemm", "dcu-z100", "vllm", "0.33.0", "does not run on Hygon"),
        ("fp8", "gemm", "mlu590", "vllm", "0.33.0", "does not run on Cambricon"),
        ("bfloat16", "gemm", "mlu590", "sglang", "0.5.23", "Cambricon"),
        ("bfloat16", "gemm", "mi300x", "trtllm", "1.2.0", "compute capability 8.0 or newer; mi300x"),
    ],
)
def test_known_refusals(form, operator, gpu, engine, version, reason):
    with pytest.raises(NotCovered, match=reason):
        kernel(form, operator, gpu, engine, version)


def test_kernels_moved_between_versions():
    def file(version):
        return kernel("int4_wo", "gemm", "h100", version=version).file

    assert file("0.5.4").startswith("sgl-kernel@")
    assert "jit_kernel" in file("0.5.12")
    assert "kernels/ops/gemm" in file("0.5.23")
    with pytest.raises(NotCovered, match=r"oldest known are of 0\.4\.6"):
        kernel("bfloat16", "attention_decode", "h100", version="0.4.4")


def test_named_backends():
    assert kernel("bfloat16", "mla_decode", "h100", backend="flashmla").page_tokens == 64
    assert kernel("fp8_block", "gemm", "h100", backend="Triton").name == "w8a8_block_fp8_matmul_triton"
    assert (
        kernel("bfloat16", "mla_decode", "b200", version="0.5.18", backend="cutlass_mla").page_tokens == 128
    )
    with pytest.raises(NotCovered, match="cutlass_mla"):
        kernel("bfloat16", "mla_decode", "b200", backend="cutlass_mla")
    with pytest.raises(NotCovered, match="flashmla"):
        kernel("bfloat16", "mla_decode", "l40s", backend="flashmla")
    with pytest.raises(UnknownName, match="flashmlo"):
        kernel("bfloat16", "mla_decode", "h100", backend="flashmlo")


def test_priority_chooses_among_kernels_for_few_and_for_many_rows():
    assert kernel("gguf", "gemm", "h100", priority="latency").name == "ggml_mul_mat_vec_a8"
    assert kernel("gguf", "gemm", "h100", priority="throughput").name == "ggml_mul_mat_a8"
    assert kernel("gguf:IQ4_XS", "gemm", "h100", priority="throughput").name == "ggml_dequantize"
    masked, contiguous = (
        kernel("fp8_block", "moe", "h100", backend="deep_gemm", priority=each).name for each in PRIORITIES
    )
    assert "masked" in masked
    assert contiguous.endswith("_contig")
    with pytest.raises(InvalidValue, match="memory"):
        kernel("gguf", "gemm", "h100", priority="memory")


def test_the_fallback_is_taken_only_by_its_name():
    with pytest.raises(NotCovered) as refusal:
        kernel("nvfp4", "gemm", "ascend-910b1")
    assert "int4_wo:g32" in refusal.value.alternatives
    found = kernel("nvfp4", "gemm", "ascend-910b1", fallback=FALLBACK)
    assert (found.format, found.path) == ("bfloat16", "w16a16")
    assert FALLBACK in found.notes[0]
    assert kernel("sq", "gemm", "ascend-910b1", fallback=FALLBACK).path == "w8a8"
    with pytest.raises(InvalidValue, match=FALLBACK):
        kernel("nvfp4", "gemm", "ascend-910b1", fallback="auto")


def test_vendor_software_is_checked_where_it_is_given():
    assert "needs CANN 7.1 or newer" in kernel("fp8", "attention_decode", "ascend-910b1").notes
    assert not kernel("fp8", "kv_quantize", "ascend-910b1", stack={"cann": "7.1"}).notes[1:]
    with pytest.raises(NotCovered, match=r"CANN is 7\.0"):
        kernel("fp8", "attention_decode", "ascend-910b1", stack={"CANN": "7.0"})


def test_wrong_words_are_refused():
    with pytest.raises(UnknownName, match="matmul"):
        kernel("fp8", "matmul", "h100")
    with pytest.raises(UnknownName, match="tgi"):
        kernel("fp8", "gemm", "h100", engine="tgi", version="1.0")
    with pytest.raises(InvalidValue, match="auto"):
        kernel("auto", "gemm", "h100")


GPUS = ("a100", "l40s", "h100", "b200", "rtx-5090", "mi300x", "ascend-910b1")


def test_the_table_on_the_page_is_what_the_registry_answers():
    rows = [("format", *GPUS)]
    for mode in MODES["gemm"]:
        found = [attempt(mode.name, "gemm", "sglang", "0.5.23", get_accelerator(gpu)) for gpu in GPUS]
        cells = ["-" if isinstance(each, RequestError) else f"{each.backend} {each.path}" for each in found]
        rows.append((mode.name, *cells))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    hold("docs/kernel-registry.md", "format", "\n".join(lines) + "\n")


# ------------------------------------------------------------------------------------------------- the plan


def planned(skip=(), **options):
    batch = resolve({name: [value] for name, value in options.items()}, rows=1, memory_only=True)
    for error in batch.refused.values():
        raise error
    return kernel_plan(batch.deployment(0), batch.system, skip), batch


MODELS = [each.name for each in list_architectures() if each.reason is None]


@pytest.mark.parametrize("model", MODELS)
def test_bytes_of_a_token_are_what_predict_fills_memory_with(model):
    answered = 0
    for options in (
        {"tp": 1},
        {"engine": "vllm", "kv": "fp8", "tp": 4},
        {"kv": "fp8", "gpu": "b200", "tp": 8},
    ):
        try:
            found, batch = planned(model=model, **options)
        except InvalidValue:  # a width that the heads do not divide by
            continue
        held = needs(batch.system).held
        total = float(held.full[0] + held.window[0])
        assert found["kv"]["bytes_per_token"] == pytest.approx(total)
        assert sum(each["bytes_per_token"] for each in found["layers"]) == pytest.approx(total)
        assert sum(each["state_bytes_per_request"] for each in found["layers"]) == pytest.approx(
            float(held.state[0])
        )
        assert all(each["bytes_per_token_per_layer"] >= 0 for each in found["layers"])
        answered += 1
    assert answered


def test_a_pool_of_the_planned_bytes_holds_the_tokens_that_predict_reports():
    found, batch = planned(model="llama-70b", gpu="h100", tp=4, kv="fp8")
    need = needs(batch.system)
    at = np.array([1e10])
    tokens, _ = pool_tokens(need, at, np.array([8192.0]), np.array([8192.0]), need.window_ratio)
    assert tokens[0] == at[0] // found["kv"]["bytes_per_token"]
    assert found["layers"][0]["bytes_per_token_per_layer"] == 8 / 4 * 2 * 128


def test_layouts_of_sparse_latent_attention():
    hopper, batch = planned(model="deepseek-v3.2", gpu="h200", tp=8, kv="fp8_e4m3")
    layer = hopper["layers"][0]
    assert layer["bytes_per_token_per_layer"] == pytest.approx(656 + 132)
    assert layer["indexer_bytes_per_token"] == pytest.approx(61 * 132)
    assert (hopper["kv"]["block_size"], hopper["kv"]["group_size"]) == (64, 128)
    blackwell, _ = planned(model="deepseek-v3.2", gpu="b200", tp=8)
    assert blackwell["layers"][0]["bytes_per_token_per_layer"] == pytest.approx(576 + 132)
    assert (blackwell["kv"]["group_size"], blackwell["kv"]["scale_precision"]) == (0, "fp32")
    assert float(cells(batch.system).full[0]) == pytest.approx(hopper["kv"]["bytes_per_token"])


def test_layers_left_in_sixteen_bit():
    plain, _ = planned(model="gpt-oss-120b", engine="vllm", kv="fp8", tp=1)
    kept, _ = planned(("sliding_window",), model="gpt-oss-120b", engine="vllm", kv="fp8", tp=1)
    window = next(each for each in plain["layers"] if each["kind"] == "window")
    assert kept["kv"]["bytes_per_token"] - plain["kv"]["bytes_per_token"] == pytest.approx(
        window["bytes_per_token"]
    )
    two, batch = planned(("0", "79"), model="llama-70b", engine="vllm", kv="fp8", tp=4)
    assert two["kv"]["bytes_per_token"] == pytest.approx(float(cells(batch.system).full[0]) * 82 / 80)
    with pytest.raises(NotCovered, match="sglang"):
        planned(("0",), model="llama-70b", kv="fp8")
    with pytest.raises(InvalidValue, match="0 to 79"):
        planned(("80",), model="llama-70b", engine="vllm", kv="fp8")
    with pytest.raises(InvalidValue, match="window"):
        planned(("sliding_window",), model="llama-70b", engine="vllm", kv="fp8")
    with pytest.raises(NotCovered, match="kinds"):
        planned(("3",), model="gpt-oss-120b", engine="vllm", kv="fp8", tp=1)


@pytest.mark.parametrize("mode", KVCacheQuantMode)
def test_scales_agree_with_the_bits_of_the_format(mode):
    scales, stored = scales_of(mode.name), format_tables().kvcache[mode.name].scales
    assert [part.elements for part in stored] == ([scales.group_size] if scales.group_size else [])
    width = {"none": None, "fp32": 32, "e4m3": 8, "e8m0": 8}[scales.precision]
    assert all(part.bits == width for part in stored)
    assert scales.source


def test_the_command_prints_the_plan_as_json_and_as_a_table():
    app = typer.Typer()
    app.command()(plan)
    asked = ["--model", "deepseek-v3", "--gpu", "h200", "--tp", "8", "--kv", "fp8"]
    found = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert found["kv"]["format"] == "fp8"
    assert found["layers"][0]["kernels"][1]["backend"] == "fa3"
    assert {each["operator"] for each in found["kernels"]} == {"gemm", "moe", "activation_quantize"}
    shown = CliRunner().invoke(app, asked).stdout
    assert "deep_gemm" in shown
    assert "mla_decode" in shown
    refused = CliRunner().invoke(app, ["--model", "llama-70b", "--kv-cache-dtype-skip-layers", "1"])
    assert isinstance(refused.exception, NotCovered)
