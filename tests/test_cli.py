"""The command line as its users meet it: answers, refusals, exit statuses, help texts, start-up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aicalib.cli.main import main

GOLDEN = Path(__file__).parent / "golden"
DATA = Path(__file__).parent / "data"
ONLINE = DATA / "datacrunch_llama_3_3_70b_online.jsonl"
COMPLETE = ("--model", "llama-70b", "--gpu", "h200-sxm", "--tp", "8", "--engine-version", "0.4.6")
"""Context that the file `ONLINE` lacks."""

METRICS = {"ttft_ms", "tpot_ms", "e2e_ms", "requests_s", "output_tok_s", "output_tok_s_per_gpu"}
SCORE = {"n", "median_ape", "mape", "p90_ape", "bias", "within_20", "coverage_90"}
SCORED = {"tpot_ms", "ttft_ms", "e2e_ms", "output_tok_s"}


@dataclass(frozen=True)
class Answer:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        """The refusal under `--json`, checked for its shape."""
        assert self.status == 2
        assert set(self.json) == {"error"}
        error: dict[str, Any] = self.json["error"]
        assert set(error) == {"kind", "message", "alternatives"}
        assert error["message"] in self.err
        return error


Command = Callable[..., Answer]


@pytest.fixture
def aicalib(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Run a command in this process, with a store of its own."""
    monkeypatch.setenv("AICALIB_DB", str(tmp_path / "store.duckdb"))
    monkeypatch.setenv("COLUMNS", "80")

    def command(*arguments: object) -> Answer:
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        status = left.value.code
        assert isinstance(status, int)
        return Answer(status, captured.out, captured.err)

    return command


@pytest.fixture
def sample(tmp_path: Path, published: list[dict[str, Any]]) -> Path:
    """Some published runs of three model families on two GPUs."""
    groups = [
        ("deepseek-v3-arch-671b", "h200_sxm"), ("qwen3.5-397b-a17b", "b200_sxm"), ("glm-5-family", "b200_sxm")
    ]  # fmt: skip
    runs = [
        run
        for group in groups
        for run in [
            run
            for run in published
            if (run.get("model_group"), run["gpu"], run["engine"]) == (*group, "sglang")
            and run.get("mean_tpot_ms") and not run.get("disagg") and not run.get("spec_decode")
        ][:12]
    ]  # fmt: skip
    path = tmp_path / "sample.jsonl"
    path.write_text("".join(json.dumps(run) + "\n" for run in runs))
    return path


# Golden texts. Renew them with: AICALIB_RENEW_GOLDEN=1 pytest tests/test_cli.py


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("help", "--help"),
        ("help-predict", "predict --help"),
        ("help-launch", "launch --help"),
        *((f"help-quant{name and '-'}{name}", f"quant {name} --help") for name in ("", "map", "presets", "matrix")),
        ("launch", "launch --gemm fp8 --kv fp8"),
        ("launch-trtllm", "launch --engine trtllm --kv fp8 --tp 4 --cuda-graph-max-bs 64"),
        ("quant-presets", "quant presets"),
        ("quant-map", "quant map --gpu h100-sxm"),
        ("predict-presets", "predict --tp 4 --preset default,kv-cache-fp8,dynamic-fp8"),
        ("help-ingest", "ingest --help"),
        ("help-calibrate", "calibrate --help"),
        ("help-evaluate", "evaluate --help"),
        *((f"help-list{name and '-'}{name}", f"list {name} --help") for name in
          ("", "models", "gpus", "modes", "engines", "profiles")),
        *((f"help-db{name and '-'}{name}", f"db {name} --help") for name in ("", "info", "sql", "flag")),
        ("predict", "predict --profile priors --gemm fp8"),
        ("predict-explain", "predict --profile priors --model qwen3-235b-a22b --gpu h200 --explain"),
        ("predict-does-not-fit", "predict --profile priors --model deepseek-r1 --gpu l4"),
        ("list-engines", "list engines"),
        ("list-gpus", "list gpus"),
        ("help-task", "task --help"),
        ("help-sweep", "sweep --help"),
        ("help-report", "report --help"),
        ("help-search", "search --help"),
        (
            "search",
            "search --profile priors --model qwen3-32b --gpu h200-sxm --gpus 4 --isl 4000 --osl 500 --ttft-ms 2000 "
            "--tpot-ms 25 --gemm auto,fp8,int4_wo --kv auto,fp8 --fmha auto --concurrency 4,16,64 --top 3 --limit 3000",
        ),
        ("help-next", "next --help"),
        ("help-measure", "measure --help"),
        ("help-probe", "probe --help"),
        ("help-loop", "loop --help"),
    ],
)  # fmt: skip
def test_golden(aicalib: Command, name: str, arguments: str) -> None:
    answer = aicalib(*arguments.split())
    assert (answer.status, answer.err) == (0, "")
    widest = (
        100 if not arguments.startswith(("launch -", "search -")) or "--help" in arguments else 200
    )  # a command is one line
    assert max(map(len, answer.out.splitlines())) <= (130 if "--explain" in arguments else widest)
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("AICALIB_RENEW_GOLDEN"):
        path.write_text(answer.out)
    assert answer.out == path.read_text()


@pytest.mark.parametrize("shape", ["kubernetes", "compose"])
def test_one_container_spans_no_nodes(aicalib: Command, shape: str) -> None:
    answer = aicalib("launch", "--model", "deepseek-v3", "--gpu", "h200-sxm", "--tp", "16", "--format", shape)
    assert answer.status == 2
    assert "one container does not span the 2 nodes" in answer.err


# predict


def test_predict_json_has_every_key(aicalib: Command) -> None:
    found = aicalib("predict", "--json", "--gemm", "fp8").json
    assert set(found) == {
        "deployment", "workload", "profile", "status", "runnable", "evidence", "prediction",
        "uncalibrated", "memory", "breakdown", "basis",
    }  # fmt: skip
    assert found["status"] == "ok"
    assert set(found["runnable"]) == {"ok", "reason", "needs_checkpoint"}
    assert set(found["prediction"]) == METRICS == set(found["uncalibrated"])
    for metric, each in found["prediction"].items():
        shares = {"p50", "p90", "p99"} if metric in ("ttft_ms", "tpot_ms") else set()
        assert set(each) - {"level"} == {"value", "low", "high", "origin", "nearness"} | shares
        assert 0 < each["low"] < each["value"] < each["high"]
        assert each["origin"] in ("datasheet", "kernel-fit", "calibrated", "extrapolated")
    assert set(found["memory"]) == {
        "weights_gib", "kv_pool_gib", "activation_gib", "graphs_gib", "reserve_gib", "margin_gib",
        "max_total_tokens", "max_concurrency",
    }  # fmt: skip
    assert {each["phase"] for each in found["breakdown"]} == {"decode", "prefill"}
    for each in found["breakdown"]:
        assert set(each) >= {"phase", "op", "ms", "share", "bound", "origin", "flops", "bytes", "calls"}
        assert each["bound"] in ("memory", "compute", "latency", "link")
    for each in found["evidence"]:
        assert {"source", "distance", "measured"} <= set(each)


def test_predict_defaults_are_the_documented_ones(aicalib: Command) -> None:
    found = aicalib("predict", "--json").json
    deployment, workload = found["deployment"], found["workload"]
    assert deployment["hf_id"] == "meta-llama/Llama-3.3-70B-Instruct"
    assert (deployment["gpu"], deployment["engine"]) == ("h100-sxm", "sglang")
    assert (workload["isl"], workload["osl"], workload["concurrency"]) == (1024, 256, 32)
    assert aicalib("predict", "--json", "--tp", deployment["tp"] // 2).json["status"] == "does_not_fit"


def test_predict_json_repeats_itself(aicalib: Command) -> None:
    given = aicalib("predict", "--json", "--model", "qwen3-30b-a3b", "--gpu", "H200-SXM", "--kv", "fp8").json
    at = given["deployment"]
    options = [f"--{name}={at[name]}" for name in ("model", "gpu", "tp", "gemm", "fmha", "moe", "engine")]
    again = aicalib("predict", "--json", *options, "--kv", at["kvcache"]).json
    assert again["prediction"] == given["prediction"]


def test_predict_has_no_moe_format_for_a_dense_model(aicalib: Command) -> None:
    assert aicalib("predict", "--json").json["deployment"]["moe"] is None
    assert "moe" not in aicalib("predict").out


def test_a_model_that_fits_nowhere_is_an_answer_without_numbers(aicalib: Command) -> None:
    answer = aicalib("predict", "--model", "deepseek-r1", "--gpu", "l4", "--json")
    found = answer.json
    assert (answer.status, found["status"], found["smallest_tp"]) == (0, "does_not_fit", None)
    assert {each["value"] for each in found["prediction"].values()} == {None}
    assert {each[end] for each in found["prediction"].values() for end in ("low", "high")} == {None}
    assert set(found["uncalibrated"].values()) == {None}
    assert found["memory"]["reserve_gib"] >= 0
    assert found["breakdown"] == []


def test_a_width_that_is_too_small_names_the_smallest_that_fits(aicalib: Command) -> None:
    options = ("--model", "llama-70b", "--gpu", "h100-sxm", "--tp")
    smallest = aicalib("predict", *options, 1, "--json").json["smallest_tp"]
    assert aicalib("predict", *options, smallest, "--json").json["status"] == "ok"
    assert aicalib("predict", *options, smallest // 2, "--json").json["status"] == "does_not_fit"
    assert f"smallest tp that fits: {smallest}" in aicalib("predict", *options, 1).out


def test_a_fraction_that_is_too_small_is_not_mended_by_a_width(aicalib: Command) -> None:
    said = aicalib("predict", "--model", "llama-70b", "--tp", 8, "--mem-fraction", 0.1).out
    assert "smallest tp" not in said
    assert "tp 4 fits with the memory fraction and limits that the engine takes by itself" in said


@pytest.mark.parametrize("without", [("--tp", 1), ("--request-rate", 1000)])
def test_an_answer_without_numbers_has_no_breakdown_to_explain(
    aicalib: Command, without: tuple[object]
) -> None:
    answer = aicalib("predict", *without, "--explain")
    assert (answer.status, answer.err, answer.out) == (0, "", aicalib("predict", *without).out)


def test_an_engine_version_above_the_known_is_said_to_be_so(aicalib: Command) -> None:
    assert "9.9 is not known: taken as" in aicalib("predict", "--engine-version", "9.9").out
    assert "is not known" not in aicalib("predict", "--engine-version", "0.5.9").out


@pytest.mark.parametrize(
    ("arguments", "kind", "names"),
    [
        ("--model llama-71b", "unknown_name", "llama-71b"),
        ("--gpu h101-sxm", "unknown_name", "h101-sxm"),
        ("--gemm fp9", "unknown_name", "fp9"),
        ("--kv fp9", "unknown_name", "fp9"),
        ("--engine sglong", "unknown_name", "sglong"),
        ("--moe fp8", "invalid_value", "dense"),
        ("--tp 7", "invalid_value", "64 attention heads"),
        ("--tp 16", "not_covered", "16"),
        ("--tp 0", "invalid_value", "tp 0"),
        ("--tp 8 --pp 2", "not_covered", "pp 2"),
        ("--tp 4 --dp 3", "invalid_value", "dp 3"),
        ("--load open", "invalid_value", "request_rate"),
        ("--load ramp", "unknown_name", "ramp"),
        ("--request-rate 0", "invalid_value", "request_rate 0"),
        ("--request-rate 4 --concurrency 8", "invalid_value", "--max-concurrency"),
        ("--spec-method mtp --spec-tokens 2 --spec-accept 2", "invalid_value", "llama-3.3-70b"),
        ("--model deepseek-r1 --tp 8 --spec-method mtp --spec-tokens 2", "not_covered", "acceptance"),
        ("--isl -1", "invalid_value", "isl -1"),
        ("--isl nan", "invalid_value", "isl"),
        ("--concurrency 0", "invalid_value", "concurrency 0"),
        ("--profile nobody", "invalid_value", "nobody"),
        ("--model ./nowhere/config.json", "invalid_value", "nowhere"),
        ("--tp x", "usage", "--tp"),
        ("--no-such-option", "usage", "--no-such-option"),
        ("extra", "usage", "extra"),
    ],
)
def test_predict_refuses_and_says_why(aicalib: Command, arguments: str, kind: str, names: str) -> None:
    error = aicalib("predict", "--json", *arguments.split()).error
    assert error["kind"] == kind
    assert names in error["message"]
    text = aicalib("predict", *arguments.split())
    assert (text.status, text.out) == (2, "")
    assert text.err.startswith(f"error: {error['message']}")


@pytest.mark.parametrize(
    ("arguments", "near"),
    [("--model llama-3.3-71b", "llama-3.3-70b"), ("--gpu h101-sxm", "h100-sxm"),
     ("--gemm fp8_blok", "fp8_block"), ("--tp 16", "tp 8"), ("--load opne", "open")],
)  # fmt: skip
def test_a_refusal_says_what_would_work(aicalib: Command, arguments: str, near: str) -> None:
    error = aicalib("predict", "--json", *arguments.split()).error
    assert near in error["alternatives"]
    assert near in aicalib("predict", *arguments.split()).err


def test_percentiles_stand_beside_the_mean(aicalib: Command) -> None:
    found = aicalib("predict", "--json").json["prediction"]
    for metric in ("ttft_ms", "tpot_ms"):
        assert 0 < found[metric]["p50"] <= found[metric]["p90"] <= found[metric]["p99"]
    assert set(found["output_tok_s"]) == {"value", "low", "high", "origin", "nearness"}


@pytest.mark.parametrize(
    ("arguments", "kind", "names"),
    [
        ("--tpot-ms 0.5", "unmet", "tpot of 0.5 ms"),
        ("--model deepseek-v3 --gpu l40s --gpus 2", "does_not_fit", "gib a gpu"),
        ("--objective speed", "unknown_name", "speed"),
        ("--objective cost", "invalid_value", "price"),
        ("--objective cost --prices no-such-file.toml", "invalid_value", "no-such-file"),
        ("--percentile p42 --ttft-ms 100", "unknown_name", "p42"),
        ("--tp two", "invalid_value", "two"),
        ("--ttft-ms nan", "invalid_value", "nan"),
        ("--gpus 0", "invalid_value", "0"),
    ],
)
def test_search_refuses_and_says_why(aicalib: Command, arguments: str, kind: str, names: str) -> None:
    answer = aicalib("search", "--limit", "500", *arguments.split(), "--json")
    assert answer.status == 2
    refusal = json.loads(answer.out)["error"]
    assert refusal["kind"] == kind
    assert names in refusal["message"].lower()
    assert refusal["alternatives"] or kind == "invalid_value"


def test_search_json_has_every_key(aicalib: Command) -> None:
    level = "--ttft-ms 2000 --percentile p99 --robust --prices example"
    answer = aicalib("search", "--limit", "2000", "--top", "2", *level.split(), "--json")
    assert answer.status == 0
    found = json.loads(answer.out)
    assert {"evaluated", "best", "pareto", "refused"} <= set(found)
    assert {"deployment", "workload", "prediction", "argv"} <= set(found["best"][0])
    assert found["best"][0]["prediction"]["ttft_ms p99"]["high"] <= 2000.0
    assert found["best"][0]["cost_per_mtok"]["value"] > 0.0


def test_search_reads_a_service_level_of_a_task(aicalib: Command, tmp_path: Path) -> None:
    level = tmp_path / "slo.json"
    level.write_text('{"tpot": {"threshold": 0.02, "hard_fail": true, "fail_ratio": 0}, "steepness": 0.2}')
    answer = aicalib("search", "--limit", "2000", "--slo", level, "--json")
    assert json.loads(answer.out)["best"][0]["prediction"]["tpot_ms"]["value"] <= 20.0
    assert aicalib("search", "--slo", level, "--tpot-ms", "20").status == 2


def test_a_search_shows_times_as_they_are_bounded(aicalib: Command) -> None:
    level = ("--ttft-ms", "4000@p99", "--tpot-ms", "50", "--e2e-ms", "40000@p90", "--no-separate")
    narrow = ("--model", "llama-8b", "--gpu", "h100", "--gpus", "1", "--limit", "500", "--top", "1")
    header, _, row = aicalib("search", *narrow, *level).out.split("starts from")[1].splitlines()[1:4]
    assert "TTFT p99 ms  TPOT ms  E2E p90 ms" in header
    assert "TTFT ms" not in header
    found = json.loads(aicalib("search", *narrow, *level, "--json").out)["best"][0]["prediction"]
    shown = [float(cell) for cell in row.split(")")[1].split()[:3]]
    assert shown == pytest.approx(
        [found[name]["value"] for name in ("ttft_ms p99", "tpot_ms", "e2e_ms p90")], rel=1e-3
    )


def test_too_high_a_rate_is_an_answer(aicalib: Command) -> None:
    asked = ("predict", "--model", "llama-8b", "--tp", "1", "--request-rate")
    found = aicalib(*asked, "100000", "--json").json
    assert found["status"] == "overloaded"
    assert f"{found['sustainable_requests_s']:.4g} requests/s" in found["reason"]
    for metric in METRICS:
        assert found["prediction"][metric]["value"] is None
        assert found["uncalibrated"][metric] is None
    text = aicalib(*asked, "100000")
    assert (text.status, text.err) == (0, "")
    assert found["reason"] in text.out
    found = aicalib(*asked, "2", "--json").json
    assert found["status"] == "ok"
    assert found["workload"]["request_rate"] == 2
    assert found["workload"]["concurrency"] is None
    assert found["prediction"]["requests_s"]["value"] == 2
    assert found["prediction"]["ttft_ms"]["origin"] == "extrapolated"
    assert "2 requests/s" in aicalib(*asked, "2").out


def test_what_is_unlike_a_plain_engine_is_said(aicalib: Command) -> None:
    arguments = "--model deepseek-r1 --gpu b200 --tp 8 --spec-method mtp --spec-tokens 3 --spec-accept 2.4"
    assert "mtp, 3 drafted, 2.4 tokens a step" in aicalib("predict", *arguments.split()).out
    arguments = (
        "--tp 4 --prefill-tp 2 --prefill-instances 2 --network-gbit-s 400 --gpu b200 --prefix-hit 0.25"
    )
    answer = aicalib("predict", *arguments.split())
    assert "on 8 x b200" in answer.out
    assert "instances: 1 decode, 2 prefill of tp 2" in answer.out
    assert "25 % of the input" in answer.out


def test_predict_reads_the_users_own_config(aicalib: Command, tmp_path: Path) -> None:
    config = tmp_path / "my-model" / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4096,
        "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 128256, "torch_dtype": "bfloat16",
        "max_position_embeddings": 131072, "tie_word_embeddings": False,
    }))  # fmt: skip
    own = aicalib("predict", "--model", config, "--json").json
    published = aicalib("predict", "--model", "llama-3.1-8b", "--json").json
    assert own["deployment"]["model"] == "my-model"
    assert own["memory"] == published["memory"]
    assert own["deployment"]["config"] == str(config)
    broken = tmp_path / "broken.json"
    broken.write_text("not JSON")
    assert str(broken) in aicalib("predict", "--model", broken, "--json").error["message"]


def test_predict_keeps_the_prediction_on_request(aicalib: Command) -> None:
    found = aicalib("predict", "--record", "--json").json
    assert aicalib("predict", "--record", "--model", "deepseek-r1", "--gpu", "l4").status == 0
    rows = aicalib("db", "sql", "SELECT * FROM predictions", "--json").json
    assert len(rows) == 2
    assert found in [row["document"] for row in rows]


# ingest


def test_of_several_files_one_that_is_unknown_stops_no_other(aicalib: Command, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("shopping")
    found = aicalib("ingest", tmp_path / "notes.txt", ONLINE, *COMPLETE, "--json")
    assert (found.status, found.json["kept"]) == (2, 7)
    assert [Path(each["file"]).name for each in found.json["refused"]] == ["notes.txt"]
    assert "of no known format" in found.err


def test_ingest_counts_what_it_kept_and_knows_it_again(aicalib: Command) -> None:
    first = aicalib("ingest", ONLINE, *COMPLETE, "--json")
    nothing = {"incomplete": 0, "missing": {}, "rejected": [], "unmatched": [], "refused": []}
    assert (first.status, first.json) == (0, {"kept": 7, "known": 0} | nothing)
    again = aicalib("ingest", ONLINE, *COMPLETE, "--json", "--strict")
    assert (again.status, again.json) == (0, {"kept": 0, "known": 7} | nothing)
    assert aicalib("ingest", ONLINE, *COMPLETE).out == "kept 0 (0 incomplete), already known 7, rejected 0\n"


def test_ingest_stores_canonical_names(aicalib: Command) -> None:
    aicalib("ingest", ONLINE, *COMPLETE)
    other_spelling = ("--model", "Llama-3.3-70B-Instruct", "--gpu", "NVIDIA H200", "--tp", "8")
    assert aicalib("ingest", ONLINE, *other_spelling, "--json").json["known"] == 7
    rows = aicalib("db", "sql", "SELECT DISTINCT model, gpu FROM runs", "--json").json
    assert rows == [{"model": "meta-llama/Llama-3.3-70B-Instruct", "gpu": "h200-sxm"}]


def test_an_alias_of_what_the_file_says_is_no_contradiction(
    aicalib: Command, tmp_path: Path, published: list[dict[str, Any]]
) -> None:
    file = tmp_path / "run.jsonl"
    run = published[0]
    file.write_text(
        json.dumps(run | {"gpu": "h100_sxm", "model": "meta-llama/Llama-3.3-70B-Instruct"}) + "\n"
    )
    alias = ("--gpu", "NVIDIA H100 80GB HBM3", "--model", "llama-70b")
    assert aicalib("ingest", file, *alias, "--json").json["kept"] == 1
    other = aicalib("ingest", file, "--gpu", "h200-sxm", "--json")
    assert other.status == 2
    assert "h100_sxm" in other.json["rejected"][0]["reason"]


@pytest.mark.parametrize(
    ("arguments", "near"),
    [("--gpu h201-sxm", "h200-sxm"), ("--model llama-3.3-71b", "llama-3.3-70b"),
     ("--engine sglong", "sglang"), ("--gemm fp8_blok", "fp8_block")],
)  # fmt: skip
def test_ingest_refuses_unknown_names_before_anything_is_stored(
    aicalib: Command, tmp_path: Path, arguments: str, near: str
) -> None:
    error = aicalib("ingest", ONLINE, *arguments.split(), "--json").error
    assert error["kind"] == "unknown_name"
    assert near in error["alternatives"]
    assert not (tmp_path / "store.duckdb").exists()


def test_a_cut_off_line_is_rejected_with_its_number(aicalib: Command, tmp_path: Path) -> None:
    file = tmp_path / "cut.jsonl"
    file.write_text(ONLINE.read_text()[:-200])
    answer = aicalib("ingest", file, *COMPLETE, "--json")
    assert (answer.status, answer.json["kept"]) == (0, 6)
    [rejected] = answer.json["rejected"]
    assert (rejected["file"], rejected["line"]) == (str(file), 7)
    assert "cut off" in rejected["reason"]
    strict = aicalib("ingest", file, *COMPLETE, "--strict")
    assert strict.status == 2
    assert "line 7" in strict.err


@pytest.mark.parametrize("command", ["ingest", "evaluate"])
@pytest.mark.parametrize(
    ("content", "kind"), [(None, "usage"), ("", "unknown_format"), ("# a page\n\ntext\n", "unknown_format")]
)
def test_a_file_that_is_no_result_is_refused(
    aicalib: Command, tmp_path: Path, command: str, content: str | None, kind: str
) -> None:
    file = tmp_path / "results.jsonl"
    if content is not None:
        file.write_text(content)
    error = aicalib(command, file, "--json").error
    assert error["kind"] == kind
    assert str(file) in error["message"]


@pytest.mark.parametrize("command", ["ingest", "evaluate", "db flag"])
def test_a_folder_is_refused(aicalib: Command, command: str) -> None:
    assert "is a directory" in aicalib(*command.split(), DATA, "--json").error["message"]


# calibrate and evaluate


def test_calibrate_needs_a_store_and_enough_groups(aicalib: Command) -> None:
    assert aicalib("calibrate", "--json").error["kind"] == "not_a_store"
    aicalib("ingest", ONLINE, *COMPLETE)
    error = aicalib("calibrate", "--json").error
    assert error["kind"] == "invalid_value"
    assert "at least 2 groups" in error["message"]
    assert aicalib("calibrate", "--json", "--output", "/nowhere/at/all.json").error["kind"] == "invalid_value"


def test_one_own_run_on_a_base_profile_moves_its_prediction(aicalib: Command, tmp_path: Path) -> None:
    run = {
        "model": "gemma-4-31b", "gpu": "h200", "engine": "sglang", "engine_version": "0.5.20", "tp": 2, "isl": 1000,
        "osl": 200, "load": "closed", "concurrency": 16, "mean_tpot_ms": 40.0, "mean_ttft_ms": 400.0,
        "source": "own", "src_ref": "first",
    }  # fmt: skip
    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps(run) + "\n")
    aicalib("ingest", file)
    assert "--base default" in aicalib("calibrate", "--json").err
    answer = aicalib("calibrate", "--base", "default", "--json")
    assert answer.status == 0, answer.err
    assert answer.json["runs"] == 1
    assert {each["metric"] for each in answer.json["scores"]} == {"tpot_ms", "ttft_ms", "e2e_ms"}
    asked = ("predict", "--model", "gemma-4-31b", "--gpu", "h200", "--engine-version", "0.5.20", "--tp", "2",
             "--isl", "1000", "--osl", "200", "--concurrency", "32", "--json")  # fmt: skip
    before, after = (aicalib(*asked, "--profile", name).json for name in ("default", "team"))
    level = after["prediction"]["tpot_ms"]["level"]
    assert level["runs"] == 1
    assert level["of"].startswith("sglang ")
    of_base = before["prediction"]["tpot_ms"].get("level", {}).get("factor", 1.0)
    assert after["prediction"]["tpot_ms"]["value"] / level["factor"] == pytest.approx(
        before["prediction"]["tpot_ms"]["value"] / of_base, rel=1e-6
    )
    assert after["prediction"]["tpot_ms"]["nearness"] == "curve"
    assert after["evidence"][0]["src_ref"] == "first"
    again = aicalib("calibrate", "--base", "team", "--json").error
    assert "fitted on all 1 runs already" in again["message"]


def test_a_calibrated_profile_is_found_by_its_name(aicalib: Command, sample: Path, tmp_path: Path) -> None:
    aicalib("ingest", sample)
    file = tmp_path / "team.json"
    answer = aicalib("calibrate", "--json", "--output", file)
    assert answer.status == 0, answer.err
    found = answer.json
    assert set(found) >= {"profile", "runs", "groups", "scoreboard", "quantiles", "remarks"}
    for row in found["scoreboard"]:
        assert set(row) >= {"engine", "metric", "groups", "physics", "calibrated"}
        assert set(row["physics"]) == SCORE | {"group_median_ape"} == set(row["calibrated"])
    for name in ("team", found["profile"], file):
        predicted = aicalib("predict", "--profile", name, "--json").json
        assert predicted["profile"] == found["profile"]
        assert predicted["prediction"]["tpot_ms"]["low"] is not None
    listed = aicalib("list", "profiles", "--json").json
    assert [each["name"] for each in listed] == ["default", "priors", "team"]
    assert found["profile"] in aicalib("predict", "--profile", "nobody", "--json").error["alternatives"]
    scored = aicalib("evaluate", sample, "--profile", "team", "--json").json
    assert scored["seen"]["tpot_ms"]["n"] > 0


def test_evaluate_json_has_every_key(aicalib: Command, sample: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    with sample.open("a") as file:
        file.write(json.dumps(json.loads(sample.read_text().splitlines()[0]) | {"disagg": True}) + "\n")
    found = aicalib("evaluate", sample, "--profile", "priors", "--rows", rows, "--json").json
    assert set(found) >= {"profile", "rows", "answered", "refused", "metrics", "groups"}
    assert found["rows"] == len(sample.read_text().splitlines())
    assert found["answered"] + sum(found["refused"].values()) == found["rows"]
    assert sum(found["refused"].values()) >= 1
    assert set(found["metrics"]) >= SCORED
    assert all(set(each) == SCORE for each in found["metrics"].values())
    for group in found["groups"]:
        assert set(group) >= {"engine", "gpu", "model", "n"} | SCORED
    written = [json.loads(line) for line in rows.read_text().splitlines()]
    assert len(written) == sum(each["n"] for each in found["metrics"].values())
    assert set(written[0]) >= {"src_ref", "metric", "measured", "predicted", "low", "high", "origin"}
    assert found["derived"]["e2e_ms"] <= found["metrics"]["e2e_ms"]["n"]
    text = aicalib("evaluate", sample, "--profile", "priors").out
    assert "prefill on instances of its own" in text
    assert max(map(len, text.splitlines())) <= 100


def test_evaluate_scores_the_unflagged_runs_beside_all(aicalib: Command, tmp_path: Path) -> None:
    run = {
        "engine": "sglang", "gpu": "h100_sxm", "model": "Qwen/Qwen3-32B", "tp": 2, "weight_quant": "bf16", "isl": 1024,
        "osl": 512, "load": "closed", "concurrency": 8, "mean_tpot_ms": 16.0, "mean_ttft_ms": 150.0, "source": "lab",
        "src_ref": "a",
    }  # fmt: skip
    copied = run | {"src_ref": "b", "notes": "once more"}
    queued = run | {"src_ref": "c", "concurrency": 16, "mean_ttft_ms": 9000.0}
    doubted = run | {"src_ref": "d", "concurrency": 32, "mean_tpot_ms": 20.0}
    file, by_hand = tmp_path / "runs.jsonl", tmp_path / "flags.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in (run, copied | {"tp": 2.0}, queued, doubted)))
    by_hand.write_text(
        json.dumps({"source": "lab", "src_ref": "d", "flag": "implausible", "reason": "no load explains it"})
        + "\n"
    )
    rows = tmp_path / "rows.jsonl"
    found = aicalib(
        "evaluate", file, "--profile", "priors", "--flags", by_hand, "--rows", rows, "--json"
    ).json
    counts = {metric: found["metrics"][metric]["n"] for metric in ("tpot_ms", "ttft_ms")}
    left = {metric: found["unflagged"]["metrics"][metric]["n"] for metric in ("tpot_ms", "ttft_ms")}
    assert found["unflagged"]["left_out"]["implausible"] == 1
    assert left["tpot_ms"] == counts["tpot_ms"] - sum(found["unflagged"]["left_out"].values())
    assert (
        left["ttft_ms"] == left["tpot_ms"] - 1
    )  # the queue's first token measures the line in front of the engine
    flags = {row["src_ref"]: row["flags"] for row in map(json.loads, rows.read_text().splitlines())}
    assert "queueing" in flags["c"]
    assert "implausible" in flags["d"]
    aicalib("ingest", file)
    aicalib("db", "flag", by_hand)
    assert (
        aicalib("evaluate", "--profile", "priors", "--json").json["unflagged"]["left_out"]["implausible"] == 1
    )
    assert aicalib("evaluate", "--flags", by_hand, "--json").error["kind"] == "invalid_value"
    text = aicalib("evaluate", file, "--profile", "priors", "--flags", by_hand).out
    assert "not among the unflagged: " in text


# list and db


@pytest.mark.parametrize("what", ["models", "gpus", "modes", "engines", "profiles"])
def test_list_names_the_same_things_as_text_and_as_json(aicalib: Command, what: str) -> None:
    entries = aicalib("list", what, "--json").json
    lines = aicalib("list", what).out
    assert len(entries) >= 2
    for entry in entries:
        assert str(entry.get("mode") or entry.get("engine") or entry["name"]) in lines


def test_db_answers_queries_and_refuses_writes(aicalib: Command) -> None:
    aicalib("ingest", ONLINE, *COMPLETE)
    assert aicalib("db", "sql", "SELECT count(*) AS n FROM runs", "--json").json == [{"n": 7}]
    assert aicalib("db", "sql", "SELECT count(*) AS n FROM runs").out == "n\n-\n7\n"
    assert aicalib("db", "sql", "SELECT 1 AS one WHERE false").err == "no rows\n"
    assert "Llama-3.3-70B" in aicalib("db", "sql", "SELECT * FROM runs LIMIT 1").out
    for wrong in ("DELETE FROM runs", "SELEC 1", "SELECT nothing FROM runs", "SELECT 1; SELECT 2", ""):
        assert aicalib("db", "sql", wrong, "--json").error["kind"] == "query_refused"
    info = aicalib("db", "info", "--json").json
    assert (info["runs"], info["complete"], info["engines"]) == (7, 7, {"sglang": 7})
    assert "runs: 7" in aicalib("db", "info").out


def test_db_flags_runs(aicalib: Command, tmp_path: Path) -> None:
    aicalib("ingest", ONLINE, *COMPLETE)
    file = tmp_path / "flags.jsonl"
    source = aicalib("db", "sql", "SELECT source, src_ref FROM runs LIMIT 1", "--json").json[0]
    lines = [
        source | {"flag": "repeat", "reason": "test"},
        source | {"src_ref": "x", "flag": "f", "reason": "r"},
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert aicalib("db", "flag", file, "--json").json == {"applied": 1, "unmatched": [2]}
    file.write_text("no JSON\n")
    assert aicalib("db", "flag", file, "--json").error["kind"] == "flags_file"


@pytest.mark.parametrize("command", ["db info", "db sql SELECT+1", "calibrate"])
def test_a_store_that_is_not_there_is_refused_and_not_made(
    aicalib: Command, tmp_path: Path, command: str
) -> None:
    arguments = [word.replace("+", " ") for word in command.split()]
    store = tmp_path / "none.duckdb"
    assert aicalib(*arguments, "--db", store, "--json").error["kind"] == "not_a_store"
    assert not store.exists()
    store.write_text("this is no database")
    assert aicalib(*arguments, "--db", store, "--json").error["kind"] == "not_a_store"


# the process


@pytest.mark.parametrize("arguments", ["", "list", "db"])
def test_a_command_without_its_subcommand_shows_the_help(aicalib: Command, arguments: str) -> None:
    answer = aicalib(*arguments.split())
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.startswith("Usage: aicalib")


def test_an_unknown_command_is_wrong_use(aicalib: Command) -> None:
    assert aicalib("forecast", "--json").error["kind"] == "usage"


def test_the_version_is_shown(aicalib: Command) -> None:
    import aicalib as package

    assert aicalib("--version").out == f"aicalib {package.__version__}\n"


def test_an_interrupted_command_ends_with_its_own_status(
    aicalib: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("aicalib.resolve.rows.resolve", interrupted)
    assert aicalib("predict").status == 130


def test_a_failure_of_the_tool_is_no_refusal(aicalib: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("aicalib.resolve.rows.resolve", broken)
    with pytest.raises(ZeroDivisionError):
        main(["predict"])


def _process(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_a_closed_pipe_ends_quietly() -> None:
    process = _process("-m", "aicalib.cli.main", "list", "models", "--json")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), err) == (0, "")


@pytest.mark.parametrize("arguments", [["--help"], ["predict"], ["predict", "--explain", "--json"]])
def test_start_up_loads_no_heavy_package(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "from aicalib.cli.main import main\n"
        f"try:\n    main({arguments!r})\n"
        "except SystemExit as left:\n    assert not left.code\n"
        "heavy = {'pandas', 'scipy', 'duckdb', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "sys.stderr.write(' '.join(sorted(heavy)))\n"
    )
    process = _process("-c", program)
    _, err = process.communicate()
    assert (process.returncode, err) == (0, "")


def test_nothing_is_coloured_when_piped() -> None:
    environment = dict(os.environ, TERM="xterm-256color")
    process = _process("-m", "aicalib.cli.main", "predict", "--explain", env=environment)
    out, err = process.communicate()
    assert process.returncode == 0
    assert "\x1b" not in out + err
