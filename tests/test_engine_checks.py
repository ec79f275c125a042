"""The checks of lines, refusals and checkpoints against the engines: what they catch, on sources that are made up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aicalib.engines.launch import Launch, launch
from aicalib.engines.request import request_of
from aicalib.errors import Refusal, UnknownName
from checks.engines.inside import check_inside
from checks.engines.lines import check_key
from checks.engines.product import Line, modes_of, problems_of, settings_of
from checks.engines.refusals import Citation, kind_of, refusals, stands
from checks.engines.sources import Source


def release(**texts):
    named = {path.replace("__", "/") + ".py": text for path, text in texts.items()}
    return Source("vllm", "0", "made-up", "", named)


# ---------------------------------------------------------------------------------------------------- refusals


def test_every_message_of_the_page_has_a_place_or_a_reason():
    page = (Path(__file__).parent.parent / "docs/troubleshooting.md").read_text().split("## Presets")[0]
    firsts = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert {words for first in firsts for words in re.findall("`([^`]+)`", first)} == {
        each.says for each in refusals()
    }


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("kv int4: sglang 0.5.23 has no such cache; it has auto", "has no such cache"),
        (
            "gemm mxfp4 by quark of vllm 0.33.0: it does not run on NVIDIA; t4 is 7.5",
            "does not run on NVIDIA",
        ),
        ("torchao_config: sglang 0.5.23 has no --torchao-config", "has no --FLAG"),
        ("unknown quantization of vllm 0.33.0 'x'; known are fp8", "unknown NAME of ENGINE"),
        ("none of ours", None),
    ],
)
def test_a_message_finds_its_kind(message, says):
    kind = kind_of(message)
    assert (kind and kind.says) == says


def test_a_place_is_looked_up():
    source = release(
        vllm__a="class One:\n    def stop(self):\n        raise ValueError('no')\n\ndef go(): pass\n"
    )
    assert stands(Citation("vllm", "0", "vllm/a.py", "One.stop", "'no'"), source) is None
    assert "does not stand" in stands(Citation("vllm", "0", "vllm/a.py", "go", "'no'"), source)
    assert stands(Citation("vllm", "0", "vllm/a.py", "go", "'no'", "lacks"), source) is None
    assert "stands there" in stands(Citation("vllm", "0", "vllm/a.py", "", "'no'", "lacks"), source)
    assert "is not there" in stands(Citation("vllm", "0", "vllm/a.py", "halt", "'no'"), source)
    assert "is not there" in stands(Citation("vllm", "0", "vllm/b.py", "", "'no'"), source)


# ------------------------------------------------------------------------------------------------------- lines


def test_a_line_that_no_parser_takes_is_a_problem():
    assert problems_of(Launch("sglang", "0.5.23", ("--tp-size", "2"))) == []
    assert "--tensor-size" in problems_of(Launch("sglang", "0.5.23", ("--tensor-size", "2")))[0]
    files = {"prefill.sh": "A=1 python -m sglang.launch_server --kv-cache-dtype fp7\n"}
    assert "fp7" in problems_of(Launch("sglang", "0.5.23", (), {}, files))[0]
    assert "no key 'cuda'" in problems_of(Launch("trtllm", "1.2.0", (), {}, {"config.yaml": "cuda: 1\n"}))[0]


@pytest.mark.parametrize(
    ("key", "value", "well"),
    [
        ("kv_cache_config.dtype", "fp8", True),
        ("kv_cache_config.enable_block_reuse", False, True),
        ("kv_cache_config.enable_block_reuse", "fp8", False),
        ("cuda_graph_config", None, True),
        ("cuda_graph_config.max_batch_size", 8, True),
        ("moe_config.backend", "NONE", False),
        ("tokens", 1, False),
    ],
)
def test_keys_are_held_against_those_of_the_yaml(key, value, well):
    assert (check_key(key, value) == []) is well


def test_words_inside_of_json_are_looked_up():
    source = release(
        vllm__config__speculative="class SpeculativeConfig:\n    method: Literal['mtp']\n    model: str = ''\n",
        vllm__envs="VLLM_ATTENTION_BACKEND = 1\n",
        vllm__platforms="class _Backend:\n    FLASHINFER = 1\n",
    )

    def wrong(value, **env):
        return check_inside(
            Line("vllm", "0", ("--speculative-config", value), tuple(env.items()), ()), source
        )

    assert wrong('{"method": "mtp", "model": "any/where"}', VLLM_ATTENTION_BACKEND="FLASHINFER") == []
    assert "no 'tokens'" in wrong('{"tokens": 3}')[0]
    assert "nowhere is 'eagle9'" in wrong('{"method": "eagle9"}')[0]
    assert "no environment variable" in wrong("{}", VLLM_OTHER="1")[0]
    assert "is not TRITON" in wrong("{}", VLLM_ATTENTION_BACKEND="TRITON")[0]


@pytest.mark.parametrize(
    ("engine", "version"), [("sglang", "0.5.23"), ("vllm", "0.20.0"), ("trtllm", "1.2.0")]
)
def test_a_part_of_the_product_has_no_problem(engine, version):
    tally = modes_of(engine, version, "h100-sxm", "llama-3.1-8b", None)
    tally.add(settings_of(engine, version, "h100-sxm", "qwen3-30b-a3b"))
    assert tally.problems == []
    assert tally.tried == tally.started + sum(tally.refused.values())
    assert len(tally.lines) > 10


# ------------------------------------------------------------------------------- what the checks have brought out


def test_nvfp4_made_by_sglang_is_for_experts_alone():
    options = {"gpu": "b200-sxm", "engine": "sglang", "gemm": "nvfp4"}
    for model in ("llama-3.1-8b", "qwen3-30b-a3b"):
        with pytest.raises(Refusal, match="cannot be made from the 16-bit checkpoint"):
            launch(request_of({**options, "model": model}))
    experts = {**options, "gemm": "bf16", "moe": "nvfp4", "model": "qwen3-30b-a3b"}
    assert "nvfp4_online" in launch(request_of(experts)).argv
    assert "modelopt_fp4" in launch(request_of({**experts, "gpu": "rtx-5090"})).argv


def test_a_method_that_is_named_makes_its_own_format():
    named = {"model": "llama-3.3-70b", "gpu": "h100-sxm", "quantization": "fp8"}
    assert launch(request_of(named)).argv == launch(request_of({**named, "gemm": "fp8"})).argv
    with pytest.raises(Refusal, match="contradicts"):
        launch(request_of({**named, "gemm": "bf16"}))


def test_a_chunk_is_held_to_the_page_where_the_engine_does():
    options = {"model": "llama-3.3-70b", "gpu": "h100-sxm", "page_size": 64, "chunked_prefill_size": 1000}
    with pytest.raises(Refusal, match="no multiple"):
        launch(request_of(options))
    assert "1000" in launch(request_of({**options, "engine": "vllm"})).argv


def test_an_older_vllm_is_told_only_what_it_knows():
    options = {
        "model": "deepseek-v3",
        "gpu": "h200-sxm",
        "tp": 8,
        "engine": "vllm",
        "engine_version": "0.10.2",
    }
    with pytest.raises(UnknownName, match="FLASHINFER_MLA_SPARSE"):
        launch(request_of({**options, "attention_backend": "FLASHINFER_MLA_SPARSE"}))
    drafting = {**options, "spec_method": "mtp", "spec_tokens": 1}
    with pytest.raises(Refusal, match="word for the drafter of each model") as refused:
        launch(request_of(drafting))
    assert "spec_algorithm deepseek_mtp" in refused.value.alternatives
    line = launch(request_of({**drafting, "spec_algorithm": "deepseek_mtp"}))
    assert "deepseek_mtp" in line.line()
    with pytest.raises(Refusal, match="has no NixlConnector"):
        launch(request_of({**options, "engine_version": "0.8.5.post1", "prefill_tp": 8}))
