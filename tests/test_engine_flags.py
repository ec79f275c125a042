"""What the engines' parsers take, by version; how it is read from source; and lines held against it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from aicalib.engines.flags import (
    find_flag,
    flags,
    known_versions,
    methods,
    parser_version,
    trtllm_keys,
)
from aicalib.errors import InvalidValue, NotCovered, UnknownName
from aicalib.physics.system import ENGINES
from checks.engines import extract
from checks.engines.lines import check_line
from checks.engines.methods import read_methods
from checks.engines.readers import read_flags
from checks.engines.sources import NoSource, Source

DATA = Path(__file__).parent / "data" / "engines"
RELEASES = [(engine, version) for engine in ENGINES for version in known_versions(engine)]


def composed(engine, name):
    """Return the modules of a composed source file."""
    parts = (DATA / f"{name}.composed.txt").read_text().split("# file: ")[1:]
    texts = dict(part.split("\n", 1) for part in parts)
    return Source(engine, "0", name, "", texts)


def choices(engine, version, spelling):
    return set(flags(engine, version)[spelling].choices)


@pytest.mark.parametrize(("engine", "version"), RELEASES)
def test_every_spelling_stands_for_one_flag(engine, version):
    known = flags(engine, version)
    distinct = {flag.name: flag for flag in known.values()}
    assert sum(len(flag.spellings) for flag in distinct.values()) == len(known)
    for flag in distinct.values():
        assert flag.spellings[0].startswith("-")
        assert flag.kind in ("choice", "int", "float", "text", "bool", "json", "list")
        assert (flag.kind == "choice") <= bool(flag.choices)
        assert not (flag.kind in ("bool", "int", "float", "text", "json") and flag.choices)
        assert len(set(flag.choices or ())) == len(flag.choices or ())


@pytest.mark.parametrize(
    ("engine", "spelling", "since", "until"),
    [
        ("sglang", "--torchao-config", "0.4.6", "0.5.17"),
        ("sglang", "--cuda-graph-max-bs", "0.4.6", "0.5.19"),
        ("sglang", "--cuda-graph-max-bs-decode", "0.5.14", "0.5.23"),
        ("sglang", "--enable-ep-moe", "0.4.6", "0.5.4"),
        ("sglang", "--modelopt-quant", "0.5.3.post3", "0.5.23"),
        ("sglang", "--fp8-gemm-backend", "0.5.6.post2", "0.5.23"),
        ("sglang", "--tp-size", "0.4.6", "0.5.23"),
        ("sglang", "--attn-dp-size", "0.5.22", "0.5.23"),
        ("sglang", "--enable-dp-attention", "0.4.6", "0.5.23"),
        ("vllm", "--moe-backend", "0.17.1", "0.33.0"),
        ("vllm", "--attention-backend", "0.13.0", "0.33.0"),
        ("vllm", "--swap-space", "0.8.5.post1", "0.17.1"),
    ],
)
def test_flags_come_and_go(engine, spelling, since, until):
    holding = [version for version in known_versions(engine) if spelling in flags(engine, version)]
    assert (holding[0], holding[-1]) == (since, until)


@pytest.mark.parametrize(
    ("version", "kv"),
    [
        ("0.4.6.post5", {"auto", "fp8_e5m2", "fp8_e4m3"}),
        ("0.5.2", {"auto", "fp8_e5m2", "fp8_e4m3"}),
        ("0.5.4", {"auto", "fp8_e5m2", "fp8_e4m3", "bf16", "bfloat16"}),
        ("0.5.9", {"auto", "fp8_e5m2", "fp8_e4m3", "bf16", "bfloat16", "fp4_e2m1"}),
        ("0.5.23", {"auto", "fp8_e5m2", "fp8_e4m3", "mxfp8", "bf16", "bfloat16", "nvfp4", "fp4_mx_block16"}),
    ],
)
def test_sglang_cache_types(version, kv):
    assert choices("sglang", version, "--kv-cache-dtype") == kv


def test_sglang_methods_come_and_go():
    assert "marlin" in choices("sglang", "0.5.18", "--quantization")
    assert "marlin" not in choices("sglang", "0.5.21", "--quantization")
    assert "qoq" not in choices("sglang", "0.5.18", "--quantization")
    assert len(choices("sglang", "0.5.23", "--quantization")) == 31
    assert methods("sglang", "0.5.9")["modelopt_fp4"].min_capability == 100
    assert methods("sglang", "0.5.23")["modelopt_fp4"].min_capability == 80
    assert methods("sglang", "0.5.9")["awq"].activation_dtypes == ("float16",)
    assert "gptq" not in methods("sglang", "0.5.23")


def test_vllm_choices():
    assert {"nvfp4", "int8_per_token_head", "fp8_e5m2"} <= choices("vllm", "0.33.0", "--kv-cache-dtype")
    assert "nvfp4" not in choices("vllm", "0.11.0", "--kv-cache-dtype")
    assert "gguf" in choices("vllm", "0.11.0", "-q")
    assert "gguf" not in choices("vllm", "0.33.0", "-q")
    assert "FLASHINFER" in choices("vllm", "0.33.0", "--attention-backend")
    assert "--no-enforce-eager" in flags("vllm", "0.33.0")["--enforce-eager"].spellings
    assert methods("vllm", "0.33.0")["fp8"].min_capability == 75


def test_trtllm_has_no_flag_for_quantization():
    for version in known_versions("trtllm"):
        assert not [text for text in flags("trtllm", version) if "quant" in text]
    assert "--kv_cache_dtype" not in flags("trtllm", "1.2.0")
    assert trtllm_keys()["moe_config.backend"].choices[0] == "AUTO"
    assert trtllm_keys()["kv_cache_config.dtype"].kind == "text"


def test_versions_between_take_the_older_one():
    assert parser_version("sglang", "0.5.5.post1") == "0.5.5"
    assert parser_version("sglang", "9.9") == known_versions("sglang")[-1]
    assert parser_version("vllm", "nightly") == known_versions("vllm")[-1]
    with pytest.raises(NotCovered, match=r"oldest known are of 0\.4\.6"):
        flags("sglang", "0.4.1")
    with pytest.raises(UnknownName, match="engine"):
        flags("lmdeploy", "1.0")


def test_finding_a_flag_as_the_parser_does():
    assert find_flag("sglang", "0.5.9", "--tp").name == "--tensor-parallel-size"
    assert find_flag("vllm", "0.33.0", "--kv_cache_dtype").name == "--kv-cache-dtype"
    with pytest.raises(InvalidValue, match="--cuda-graph-max-bs-decode"):
        find_flag("sglang", "0.5.23", "--cuda-graph-max-bs")
    with pytest.raises(UnknownName, match=r"flag of trtllm 1\.2\.0"):
        find_flag("trtllm", "1.2.0", "--tensor")


def test_flags_load_without_heavy_packages():
    heavy = ["pandas", "scipy", "sklearn", "duckdb", "matplotlib"]
    code = "import sys; from aicalib.engines.flags import flags; flags('vllm', '0.33.0')"
    code += f"; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("engine", "version", "line", "problem"),
    [
        ("sglang", "0.5.23", "python -m sglang.launch_server --model-path m --tp 8 --kv-cache-dtype nvfp4", None),
        ("sglang", "0.5.9", "python3 -m sglang.launch_server --kv-cache-dtype nvfp4", "does not take 'nvfp4'"),
        ("sglang", "0.5.18", "--torchao-config int8wo", "unknown flag of sglang 0.5.18 '--torchao-config'"),
        ("sglang", "0.5.9", "--mem-fraction-static high", "float is wanted"),
        ("sglang", "0.5.9", "--tp-size=2.5", "int is wanted"),
        ("sglang", "0.5.9", "--attention-backend --tp 2", "misses its value"),
        ("sglang", "0.5.9", "--enable-dp-attention=yes", "takes no value"),
        ("sglang", "0.5.9", "--chunked-prefill-size -1", None),
        ("sglang", "0.5.9", "--cuda-graph-bs 1 2 4 --trust-remote-code", None),
        ("sglang", "0.5.9", "--cuda-graph-bs", "misses its value"),
        ("sglang", "0.5.9", "--trust-remote-code stray", "arguments without a flag: stray"),
        ("vllm", "0.33.0", "vllm serve m -tp 8 --kv-cache-dtype=nvfp4 --no-enforce-eager", None),
        ("vllm", "0.33.0", "vllm serve m --quantization gguf", "does not take 'gguf'"),
        ("vllm", "0.33.0", "vllm serve m --attention-config.backend FLASHINFER", None),
        ("vllm", "0.33.0", "vllm serve m --kv-cache-dtype.x 1", "has no keys"),
        ("vllm", "0.33.0", "vllm serve m --attention-config {backend}", "JSON is wanted"),
        ("vllm", "0.33.0", "vllm serve m n", "arguments without a flag: n"),
        ("trtllm", "1.2.0", "trtllm-serve m --tp_size 2 --config extra.yaml", None),
        ("trtllm", "1.2.0", "trtllm-serve serve m --kv_cache_dtype fp8", "unknown flag of trtllm 1.2.0"),
    ],
)  # fmt: skip
def test_lines_are_held_against_the_parser(engine, version, line, problem):
    found = check_line(engine, version, line.split())
    if problem is None:
        assert found == []
    else:
        assert len(found) == 1
        assert problem in found[0]


def test_reading_calls_of_add_argument():
    found, unread = read_flags(composed("sglang", "sglang_calls"))
    assert unread == []
    assert found["--tensor-parallel-size"].spellings == ("--tensor-parallel-size", "--tp-size")
    assert found["--dtype"].choices == ("auto", "half", "float", "bfloat16")
    assert found["--reader"].choices == ("one", "two")
    assert (found["--shapes"].kind, found["--shapes"].optional) == ("list", False)
    assert (found["--tags"].choices, found["--tags"].optional) == (("a", "b"), True)
    assert [found[name].kind for name in ("--extra", "--share", "--old-switch", "--fast")] == [
        "json", "float", "bool", "bool",
    ]  # fmt: skip
    assert found["--graphs"].spellings == ("--graphs", "--no-graphs")
    assert {"--prefill-backend", "--decode-backend", "--sometimes"} <= set(found)
    assert "--of-amd" not in found


def test_reading_annotated_fields():
    found, unread = read_flags(composed("sglang", "sglang_fields"))
    assert unread == []
    assert set(found) == {
        "--model-path", "--quantization", "--mode", "--ids", "--fused", "--tf32", "--share", "--checksum",
        "--tensor-parallel-size", "--config",
    }  # fmt: skip
    assert found["--model-path"].spellings == ("--model-path", "--model")
    assert found["--quantization"].choices == ("awq", "fp8")
    assert found["--mode"].choices == ("serial", "overlap")
    assert [found[name].kind for name in ("--ids", "--fused", "--tf32", "--share")] == [
        "list",
        "bool",
        "bool",
        "float",
    ]
    assert found["--checksum"].optional


def test_reading_config_classes():
    found, unread = read_flags(composed("vllm", "vllm"))
    assert unread == []
    assert found["--host"].spellings == ("-H", "--host")
    assert found["--port"].kind == "text"
    assert (found["--origins"].kind, found["--middleware"].kind) == ("json", "text")
    assert found["--block-size"].choices == ("1", "8")
    assert found["--kv-cache-dtype"].choices == ("auto", "fp8")
    assert found["--all2all-backend"].choices == ("naive", "pplx")
    assert found["--enforce-eager"].spellings == ("--enforce-eager", "--no-enforce-eager")
    assert (found["--eplb-config"].kind, found["--swap"].kind, found["--sizes"].kind) == (
        "json",
        "float",
        "list",
    )
    assert found["--quantization"].choices == ("fp8", "nvfp4")
    assert found["--attention-backend"].choices == ("FLASHINFER", "TRITON_ATTN")
    assert found["--device"].choices == ("auto", "cuda")
    read, unread = read_methods(composed("vllm", "vllm"))
    assert unread == []
    assert (read["fp8"].min_capability, read["nvfp4"].min_capability) == (75, 100)
    assert read["nvfp4"].activation_dtypes == ("bfloat16", "half")


def test_choices_that_cannot_be_read_are_said():
    source = composed("sglang", "sglang_calls")
    path = "sglang/srt/server_args.py"
    source.texts[path] = source.texts[path].replace("choices=DTYPES", "choices=unknowable() + DTYPES")
    assert read_flags(source)[1] == ["choices of --dtype could not be read: Unknown(why='operation')"]


def test_stretches_of_versions():
    rows = {
        "1": {"a": ("a", "x")},
        "2": {"a": ("a", "x")},
        "3": {},
        "4": {"a": ("a", "x")},
        "5": {"a": ("a", "y")},
    }
    assert extract.stretches(rows) == [(("a", "x"), "1", "2"), (("a", "x"), "4", "4"), (("a", "y"), "5", "5")]


def test_differences_are_listed_and_a_missing_mirror_is_no_failure(monkeypatch, tmp_path, capsys):
    def nothing(engine, version, cache):
        raise NoSource(f"{engine} {version}: no network")

    monkeypatch.setattr(extract, "read_source", nothing)
    assert extract.main(["--check", "--only", "sglang==0.5.23"]) == 0
    assert "skipped: sglang 0.5.23: no network" in capsys.readouterr().out
    texts = composed("sglang", "sglang_calls").texts
    monkeypatch.setattr(
        extract, "read_source", lambda engine, version, cache: Source(engine, version, "w", "", texts)
    )
    assert extract.main(["--check", "--only", "sglang==0.5.23"]) == 1
    shown = capsys.readouterr().out
    assert "sglang 0.5.23: --reader: file None, source ('--reader'" in shown
    assert "differences above" in shown
