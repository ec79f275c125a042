"""Tasks screened: scores as the autotuner counts them, reasons for what is dropped, smaller tasks."""

from __future__ import annotations

import ast
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aicalib.cli.main import main
from aicalib.errors import InvalidValue, RequestError, UnknownName
from aicalib.measure.client import Load
from aicalib.measure.facts import Planned
from aicalib.plan.score import BASES, THROUGHPUT, penalty, score
from aicalib.plan.tasks.screen import REASONS, describe, screen
from aicalib.plan.tasks.smaller import promising, smaller_task
from aicalib.plan.tasks.starts import loads_of, predicted
from aicalib.plan.tasks.task import Bound, Point, expand, load_task, read_task
from aicalib.prediction import predict_many
from aicalib.profiles.profile import default_profile, load_profile

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.json"))
TASKS = ROOT / "tests" / "data" / "tasks"

TASK = {
    "task_name": "grid",
    "model": {"id_or_path": "meta-llama/Llama-3.1-8B-Instruct"},
    "base_runtime": "sglang",
    "runtime_image_tag": "v0.5.9-cu129",
    "parameters": {"tp-size": [1, 2], "mem-fraction-static": [0.85, 0.9]},
    "benchmark": {"num_concurrency": [8], "traffic_scenarios": ["D(1024,256)"], "gpu_type": "h100-sxm"},
}


def screened(**change):
    return screen(read_task({**TASK, **change}))


def figures(**given):
    found = {("ttft", None): 0.5, ("tpot", None): 0.02, ("latency", None): 4.0, THROUGHPUT: 2000.0, **given}
    return {key: np.array([value]) for key, value in found.items()}


# ------------------------------------------------------------------------------------------------------- the score


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ("maximize_throughput", -2000.0),
        ("minimize_latency", 4.0),
        ("minimize_ttft", 0.5),
        ("minimize_tpot", 0.02),
        ("balanced", math.sqrt(4.0 / 2000.0)),
    ],
)
def test_a_base_by_hand(objective, expected):
    assert score(objective, (), 0.1, figures()) == pytest.approx(expected)


def test_every_objective_of_tasks_has_a_base():
    for objective in BASES:
        assert read_task({**TASK, "optimization": {"objective": objective}}).objective == objective
    with pytest.raises(UnknownName, match=next(iter(BASES))):
        read_task({**TASK, "optimization": {"objective": "maximize_throughputs"}})


def test_penalties_are_those_of_the_autotuners_own_examples():
    """docs/SLO_SCORING.md of novitalabs/inference-autotuner, scenarios 2 to 4."""
    p50, p90 = Bound("latency", "p50", 2.0), Bound("latency", "p90", 5.0, 2.0)
    found = figures() | {("latency", "p90"): np.array([5.5])}
    assert penalty((p90,), 0.1, found) == pytest.approx(2.0 * math.e)
    assert 3.0 * (1.0 + penalty((p90,), 0.1, found)) == pytest.approx(19.3, abs=0.02)
    hard = replace(p90, hard_fail=True, fail_ratio=0.2)
    assert penalty((hard,), 0.1, found | {("latency", "p90"): np.array([6.5])}) == math.inf
    several = found | {("latency", "p50"): np.array([2.3]), ("latency", "p99"): np.array([11.0])}
    several |= {("ttft", None): np.array([1.2])}
    bounds = (p50, p90, Bound("latency", "p99", 10.0, 3.0), Bound("ttft", None, 1.0, 2.0))
    by_hand = math.exp(1.5) + 2.0 * math.e + 3.0 * math.e + 2.0 * math.exp(2.0)
    assert penalty(bounds, 0.1, several) == pytest.approx(by_hand)


def test_a_penalty_worsens_a_throughput():
    bound = Bound("ttft", None, 0.25)
    assert score("maximize_throughput", (bound,), 1.0, figures()) == pytest.approx(-2000.0 + 2000.0 * math.e)


POSITIVE = st.floats(1e-3, 1e3)


@given(
    st.sampled_from(sorted(BASES)),
    st.lists(st.builds(Bound, st.sampled_from(["ttft", "tpot", "latency"]), st.none(), POSITIVE,
                       st.floats(0.0, 10.0), st.booleans(), st.floats(0.0, 1.0)), max_size=3),
    st.floats(1.0, 100.0), st.floats(0.01, 1.0),
)  # fmt: skip
def test_a_more_relaxed_service_level_never_worsens_a_score(objective, bounds, by, steepness):
    relaxed = [
        replace(each, threshold_s=each.threshold_s * by, hard_fail=each.hard_fail and by < 10.0)
        for each in bounds
    ]
    before, after = (score(objective, each, steepness, figures()) for each in (bounds, relaxed))
    assert after <= before


# ----------------------------------------------------------------------------------------------------- the ranking


def test_figures_are_those_of_predict():
    import pandas as pd

    found = screened(benchmark={"num_concurrency": [4, 32], "traffic_scenarios": ["D(1024,256)"]})
    best = next(
        each for each in found.ranked if each.point.parameters == {"tp-size": 2, "mem-fraction-static": 0.9}
    )
    table = predict_many(
        pd.DataFrame({"model": ["llama-3.1-8b"] * 2, "tp": [2] * 2, "mem_fraction": [0.9] * 2, "concurrency": [4, 32],
                      "engine_version": ["0.5.9"] * 2, "lockstep": [True] * 2})
    )  # fmt: skip
    assert best.figures["ttft_ms"].value == pytest.approx(table["ttft_ms"].mean())
    assert best.figures["e2e_ms"] == pytest.approx(
        (table["e2e_ms"].mean(), table["e2e_ms_low"].mean(), table["e2e_ms_high"].mean())
    )
    rates = [table[f"output_tok_s_per_gpu{end}"].mean() * 5.0 for end in ("", "_low", "_high")]
    assert best.figures["total_tok_s_per_gpu"] == pytest.approx(tuple(rates))
    assert best.score == pytest.approx(tuple(each / 1e3 for each in best.figures["e2e_ms"]))


def test_best_first_with_intervals_around_and_fewer_ties_than_overlaps():
    found = screened(optimization={"objective": "minimize_tpot"})
    values = [each.score.value for each in found.ranked]
    assert values == sorted(values)
    assert len(values) == 4
    for each in found.ranked:
        assert each.score.low < each.score.value < each.score.high
        assert each.score.low <= found.ranked[0].score.high or not each.tie
    overlapping = sum(each.score.low <= found.ranked[0].score.high for each in found.ranked)
    assert 1 <= sum(each.tie for each in found.ranked) < overlapping


def test_deepep_of_a_task_is_predicted_as_that_of_a_launch_line_is():
    found = screened(
        model={"id_or_path": "deepseek-ai/DeepSeek-V3"},
        runtime_image_tag="v0.5.12",
        parameters={"tp-size": [8], "ep-size": [8], "moe-a2a-backend": ["none", "deepep"]},
        benchmark={**TASK["benchmark"], "gpu_type": "h200-sxm"},
    )
    assert {each.deployment.get("moe_a2a_backend") for each in found.ranked} == {None, "deepep"}
    one, other = (
        predicted(
            Planned(each.arguments.launch(), loads_of(found), each.deployment),
            [(Load.at(1024, 256, 8, True), 80)],
            default_profile(),
        )[0]["tpot_ms"].value
        for each in found.ranked
    )
    assert one != other
    assert [one, other] == pytest.approx([each.figures["tpot_ms"].value for each in found.ranked])


def test_percentiles_rise_and_the_mean_lies_among_them():
    from aicalib.plan.figures import figures_of
    from aicalib.prediction import predict_batch
    from aicalib.resolve.rows import resolve

    batch = resolve({"model": ["llama-3.1-8b"] * 2, "tp": [1, 2], "concurrency": [8, 64]})
    found = figures_of(predict_batch(batch, default_profile()), "value")
    for metric in ("ttft", "tpot", "latency"):
        rising = [found[metric, each] for each in ("p50", "p90", "p95", "p99")]
        assert (np.diff(rising, axis=0) > 0.0).all()
        assert (found[metric, None] < rising[-1]).all()


def test_without_intervals_only_equals_tie():
    found = screen(read_task(TASK), profile=load_profile("priors"))
    assert math.isnan(found.ranked[0].score.low)
    assert all(each.tie == (each.score.value == found.ranked[0].score.value) for each in found.ranked)


def test_a_hard_bound_ranks_last_and_is_never_promising_beside_others():
    slo = {"tpot": {"threshold": 0.005, "hard_fail": True, "fail_ratio": 0.0}}
    found = screened(
        parameters={"tp-size": [1, 4]}, slo=slo, optimization={"objective": "maximize_throughput"}
    )
    assert [each.point.parameters["tp-size"] for each in found.ranked] == [4, 1]
    assert found.ranked[-1].score.value == math.inf
    assert promising(found, within_percent=1000.0) == found.ranked[:1]


def dropped(kind, match, **change):
    found = screened(**change)
    assert {each.kind for each in found.dropped} <= set(REASONS)
    reasons = [each.reason for each in found.dropped if each.kind == kind]
    assert any(match in each for each in reasons), found.dropped
    return found


def test_each_reason():
    dropped("refused", "does not divide the 32 attention heads", parameters={"tp-size": [1, 3]})
    dropped("refused", "takes auto, fp8_e5m2", parameters={"kv-cache-dtype": ["auto", "fp4"]})
    dropped("not_predicted", "several nodes", parameters={"tp-size": [1, 16]})
    dropped("not_predicted", "whole replicas", parameters={"dp-size": [1, 2]})
    dropped("does_not_fit", "do not fit", model={"id_or_path": "llama-70b"}, parameters={"tp-size": [1, 4]})
    dropped("duplicate", "kv-cache-dtype bfloat16 starts the same as kv-cache-dtype auto",
            parameters={"kv-cache-dtype": ["auto", "bfloat16"]})  # fmt: skip
    dropped(
        "refused", "a dense model without experts", quant_config={"presets": ["default", "aggressive-moe"]}
    )
    dropped(
        "refused",
        "cannot be made from the 16-bit checkpoint",
        quant_config={"presets": ["default", "blackwell"]},
    )


def test_what_the_prediction_does_not_tell_apart_is_no_duplicate():
    same = {"dtype": ["bfloat16", "float16"], "quantization": ["fp8"]}
    assert len(screened(parameters=same).ranked) == 2
    lora = screened(parameters={"enable-lora": [True, False], "schedule-policy": ["lpm", "fcfs"]}).ranked
    assert len(lora) == 4
    assert len({each.score for each in lora}) == 1
    assert any(
        "not predicted: --enable-lora, --schedule-policy" in note for each in lora for note in each.notes
    )
    assert len(screened(parameters={"attention-backend": ["fa3", "flashinfer"]}).ranked) == 2


def test_what_the_user_says_wins_and_the_result_says_so():
    found = screened(
        quant_config={"preset": "dynamic-fp8"}, parameters={"kv-cache-dtype": ["auto", "fp8_e5m2"]}
    )
    named = {each.point.parameters["kv-cache-dtype"]: each for each in found.ranked}
    assert named["fp8_e5m2"].deployment["kvcache"] == "fp8_e5m2"
    assert any("fp8_e5m2 of the user's parameters stands" in note for note in named["fp8_e5m2"].notes)
    assert named["fp8_e5m2"].deployment["gemm"] == "fp8"


def test_a_format_without_a_flag_of_its_own_is_predicted():
    found = screened(quant_config={"presets": ["kv-cache-fp8", "bf16-stable"]}, parameters={})
    modes = {each.point.quant["preset"]: each.deployment["fmha"] for each in found.ranked}
    assert modes == {"kv-cache-fp8": "fp8", "bf16-stable": "bfloat16"}


def test_version_and_gpu_come_from_the_task_unless_given():
    found = screened()
    assert (found.engine_version, found.gpu, found.notes) == ("0.5.9", "h100-sxm", ())
    other = screen(read_task({**TASK, "runtime_image_tag": "latest"}), gpu="h200-sxm")
    assert other.gpu == "h200-sxm"
    assert "image 'latest' names none" in " ".join(other.notes)
    assert screen(read_task(TASK), engine_version="0.5.2").engine_version == "0.5.2"


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"base_runtime": "sglan"}, UnknownName, "base_runtime"),
        ({"base_runtime": "trtllm"}, InvalidValue, "trtllm"),
        ({"model": {"id_or_path": "llama-33-70"}}, UnknownName, "llama"),
        ({"benchmark": {"gpu_type": "h1000"}}, UnknownName, "h100"),
        ({"parameters": {"tp-siz": [1]}}, None, None),
        ({"parameters": {"tp-width": [1, 2]}}, InvalidValue, "2 x refused: unknown flag"),
        ({"benchmark": {"traffic_scenarios": ["D(200000,10)"]}}, InvalidValue, "positions"),
    ],
)
def test_a_task_of_which_nothing_is_left(change, kind, says):
    if kind is None:  # both engines' parsers take the beginning of a flag
        assert screened(**change).ranked
        return
    with pytest.raises(kind, match=says):
        screened(**change)


# ------------------------------------------------------------------------------------------------ the smaller task


def test_a_smaller_task_has_the_values_that_are_left():
    task = read_task({**TASK, "quant_config": {"presets": ["default", "kv-cache-fp8", "dynamic-fp8"]},
                      "parallel_config": {"pp": 1}, "optimization": {"max_iterations": 50}})  # fmt: skip
    points = [each for each in expand(task) if each.quant != {"preset": "default"}]
    kept = [points[0], points[-1]]
    found = smaller_task(task, kept)
    assert found.content["quant_config"] == {"presets": ["kv-cache-fp8", "dynamic-fp8"]}
    assert found.content["parameters"] == TASK["parameters"]
    assert (found.points, found.readmitted) == (8, 6)
    assert found.content["optimization"]["max_iterations"] == 8
    assert found.content["parallel_config"] == {"pp": [1]}
    assert task.content["quant_config"]["presets"][0] == "default", "the task itself stays as it is"
    one = smaller_task(task, kept[:1])
    assert (one.points, one.readmitted, one.content["quant_config"]) == (1, 0, {"presets": ["kv-cache-fp8"]})


def test_a_budget_below_the_points_is_said():
    task = read_task({**TASK, "optimization": {"max_iterations": 2}})
    assert smaller_task(task, expand(task)).content["optimization"]["max_iterations"] == 2
    assert "below the 4 points" in smaller_task(task, expand(task)).notes[0]


def test_what_is_kept():
    found = screened(optimization={"objective": "minimize_tpot"})
    assert promising(found, keep=2) == found.ranked[:2]
    assert promising(found, keep=100) == found.ranked
    assert promising(found) == tuple(each for each in found.ranked if each.tie)
    assert promising(found, within_percent=0.0) == tuple(
        each for each in found.ranked if each.score.value == found.ranked[0].score.value
    )
    for wrong in (
        {"keep": 0},
        {"within_percent": -1.0},
        {"within_percent": math.nan},
        {"keep": 1, "within_percent": 1},
    ):
        with pytest.raises(InvalidValue):
            promising(found, **wrong)
    with pytest.raises(InvalidValue):
        smaller_task(found.task, [])
    with pytest.raises(InvalidValue, match="none of task"):
        smaller_task(found.task, [Point({"tp-size": 1, "mem-fraction-static": 0.85}, {"preset": "default"})])


VALUES = {
    "tp-size": [1, 2, 3, 4, 16, "two"],
    "kv-cache-dtype": ["auto", "bf16", "fp8_e4m3", "fp8_e5m2", "fp4_e2m1"],
    "quantization": ["fp8", "w8a8_fp8", "awq", "modelopt_fp8", "none"],
    "dtype": ["auto", "half", "bfloat16", "float32"],
    "mem-fraction-static": [0.3, 0.85, 0.9, 2.0],
    "attention-backend": ["fa3", "triton", "nothing"],
    "disable-cuda-graph": [True, False],
    "enable-lora": [True, False],
    "max-running-requests": [1, 64],
    "moe-tp-size": [1],
}
GRIDS = st.dictionaries(st.sampled_from(sorted(VALUES)), st.integers(1, 31), max_size=3).map(
    lambda masks: {
        name: [value for bit, value in enumerate(VALUES[name]) if mask >> bit & 1] or VALUES[name][:1]
        for name, mask in masks.items()
    }
)
BOUNDS = st.dictionaries(
    st.sampled_from(["ttft", "tpot"]),
    st.builds(lambda s, hard: {"threshold": s, "hard_fail": hard}, st.floats(0.001, 10.0), st.booleans()),
)


@given(
    grid=GRIDS,
    presets=st.lists(st.sampled_from(["default", "dynamic-fp8", "bf16-stable", "aggressive-moe"]), min_size=1,
                     max_size=3, unique=True),
    model=st.sampled_from(["llama-3.1-8b", "llama-70b", "qwen3-30b-a3b"]),
    engine=st.sampled_from(["sglang", "vllm"]), gpu=st.sampled_from(["h100-sxm", "a100-80gb-sxm", "l40s"]),
    objective=st.sampled_from(sorted(BASES)), slo=BOUNDS, keep=st.none() | st.integers(1, 5),
)  # fmt: skip
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_grid_ends_in_a_ranking_or_a_named_error(grid, presets, model, engine, gpu, objective, slo, keep):
    content = {**TASK, "parameters": grid, "quant_config": {"presets": presets}, "model": {"id_or_path": model},
               "base_runtime": engine, "runtime_image_tag": None, "slo": slo,
               "optimization": {"objective": objective, "max_iterations": 20}}  # fmt: skip
    task = read_task(content)
    points = expand(task)
    try:
        found = screen(task, gpu=gpu)
    except RequestError:
        return
    assert len(found.ranked) + len(found.dropped) == len(points)
    assert all(each.kind in REASONS and each.reason for each in found.dropped)
    scores = [each.score.value for each in found.ranked]
    assert scores == sorted(scores)
    assert not any(math.isnan(each) for each in scores)
    kept = promising(found, keep)
    assert kept
    assert {id(each) for each in kept} <= {id(each) for each in found.ranked}
    smaller = smaller_task(task, [each.point for each in kept])
    again = expand(read_task(smaller.content))
    assert all(each.point in again for each in kept)
    assert all(each in points for each in again)
    assert len(again) == smaller.points == len(kept) + smaller.readmitted <= len(points)
    assert smaller.content["optimization"]["max_iterations"] <= len(again)


# ---------------------------------------------------------------------------------------------------- the command


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main(["task", *map(str, arguments)])
    out = capsys.readouterr()
    return left.value.code, out.out, out.err


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_from_end_to_end(capsys, tmp_path, path):
    smaller = tmp_path / "smaller.json"
    code, out, err = run(capsys, path, "--keep", 1, "--output", smaller, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    counts = found["counts"]
    assert counts["points"] == len(expand(load_task(path)))
    assert counts["ranked"] + sum(counts["dropped"].values()) == counts["points"]
    assert (counts["kept"], counts["smaller"]) == (1, 1)
    best = found["ranked"][0]
    assert best["kept"]
    assert not any(each["kept"] for each in found["ranked"][1:])
    assert json.loads(smaller.read_text()) == found["smaller"]
    code, out, _ = run(capsys, smaller, "--json")
    again = json.loads(out)
    assert code == 0
    assert again["ranked"][0]["score"] == pytest.approx(best["score"])
    assert again["ranked"][0]["arguments"] == best["arguments"]


EXPECTED = {
    "kvcache_quant_comparison": {"points": 20, "ranked": 12, "dropped": {"refused": 4, "duplicate": 4}},
    "gemm_quant_comparison": {"points": 12, "ranked": 6, "dropped": {"duplicate": 6}},
    "full_quant_space_exploration": {
        "points": 108,
        "ranked": 48,
        "dropped": {"refused": 36, "duplicate": 24},
    },
}
"""fp4_e2m1 has another name in SGLang 0.5.23, modelopt_fp8 makes nothing of 16-bit weights, bf16 is what `auto` is."""


@pytest.mark.parametrize("name", EXPECTED)
def test_tasks_as_people_write_them(capsys, name):
    code, out, _ = run(
        capsys, TASKS / f"{name}.json", "--engine-version", "0.5.23", "--gpu", "h200-sxm", "--json"
    )
    assert code == 0
    counts = json.loads(out)["counts"]
    assert {key: counts[key] for key in EXPECTED[name]} == EXPECTED[name]


def test_a_task_with_a_flag_that_no_version_has(capsys):
    code, out, err = run(capsys, TASKS / "moe_quant_optimization.json")
    assert (code, out) == (2, "")
    assert "18 x refused: unknown flag" in err
    assert "--moe-dense-tp-size" in err


def test_files_are_kept(capsys, tmp_path):
    path = tmp_path / "task.json"
    path.write_text(json.dumps(TASK))
    before = path.read_text()
    code, _, err = run(capsys, path, "--output", path, "--keep", 1)
    assert (code, path.read_text()) == (2, before)
    assert "--force" in err
    assert run(capsys, path, "--output", path, "--keep", 1, "--force")[0] == 0
    assert len(expand(load_task(path))) == 1
    assert run(capsys, path, "--output", tmp_path / "no" / "such.json")[0] == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"optimisation": {}}, "did you mean optimization"),
        ({"quant_config": {"preset": "dynamic-fp"}}, "did you mean dynamic-fp8"),
        ({"parameters": {"tp-size": 2}}, "not a list of values"),
        ({"model": {}}, "no 'id_or_path'"),
        ({"parameters": {"tp-width": [1]}}, "no point of task 'grid' is left: 1 x refused"),
    ],
)
def test_a_wrong_task_leaves_with_two(capsys, tmp_path, change, says):
    path = tmp_path / "task.json"
    path.write_text(json.dumps({**TASK, **change}))
    code, out, err = run(capsys, path)
    assert (code, out) == (2, "")
    assert says in err
    code, out, _ = run(capsys, path, "--json")
    assert code == 2
    assert says in json.loads(out)["error"]["message"]


def test_the_table_of_the_page_is_what_the_command_prints(capsys):
    from test_house import hold

    command = "$ aicalib task examples/quant_multi_preset_task.json --keep 2\n"
    code, out, err = run(capsys, ROOT / "examples" / "quant_multi_preset_task.json", "--keep", 2)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 100
    hold("docs/tasks.md", command, command + out)


def test_the_python_of_the_page_runs(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs/tasks.md").read_text(), flags=re.S)
    assert code is not None
    exec(code[1], {})
    assert "fp8-cache" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("section", "modules"),
    [
        (
            "Tasks",
            (
                "figures",
                "score",
                "tasks/screen",
                "tasks/smaller",
                "tasks/task",
                "tasks/traffic",
                "../cli/task",
            ),
        ),
        (
            "Searches",
            (
                "search/evaluate",
                "search/formats",
                "search/best",
                "search/space",
                "search/unmet",
                "../cli/search",
            ),
        ),
    ],
)
def test_every_message_has_an_entry_in_troubleshooting(section, modules):
    page = (ROOT / "docs/troubleshooting.md").read_text().split(f"## {section}")[1].split("\n## ")[0]
    firsts = " ".join(line.split("|")[1] for line in page.splitlines() if line.startswith("|"))
    patterns = [re.escape(words).replace(r"\.\.\.", ".*") for words in re.findall(r"`([^`]+)`", firsts)]
    texts = []
    for module in modules:
        path = ROOT / "aicalib" / "plan" / f"{module}.py"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
                "InvalidValue",
                "Unmet",
                "NoRoom",
            ):
                parts = [each for each in ast.walk(node.args[0]) if isinstance(each, ast.Constant)]
                texts.append(" ".join(str(each.value) for each in parts))
    assert len(texts) > 15
    assert not [text for text in texts if not any(re.search(pattern, text) for pattern in patterns)]


def test_describe_is_one_line():
    assert describe(Point({"tp-size": 1, "enable-lora": True}, {"preset": "default"})) == (
        "default, tp-size 1, enable-lora true"
    )
    assert describe(Point({}, None)) == "no parameters"
