"""Autotuner tasks: read strictly, expanded in file order."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicalib.errors import InvalidValue, RequestError, UnknownName
from aicalib.plan.tasks.task import Bound, Task, expand, load_task, read_task

EXAMPLES = Path(__file__).parents[1] / "examples"

TASK = {
    "task_name": "full-space",
    "model": {"id_or_path": "meta-llama/Llama-3.2-1B-Instruct", "namespace": "autotuner"},
    "base_runtime": "sglang",
    "parameters": {
        "dtype": ["bfloat16", "float16"],
        "kv-cache-dtype": ["auto", "fp8_e4m3", "bf16"],
        "tp-size": [1, 2, 4],
        "mem-fraction-static": [0.85, 0.9],
    },
    "optimization": {"strategy": "bayesian", "objective": "balanced", "max_iterations": 100},
    "slo": {
        "ttft": {"threshold": 1.0, "weight": 2.0, "hard_fail": False},
        "tpot": {"threshold": 0.05, "weight": 2.0, "hard_fail": False},
    },
}


def test_every_key_is_read():
    task = read_task({**TASK, "benchmark": {"num_concurrency": [1, 4, 8]}})
    assert (task.name, task.model, task.runtime) == ("full-space", TASK["model"]["id_or_path"], "sglang")
    assert (task.strategy, task.objective, task.max_iterations) == ("bayesian", "balanced", 100)
    assert task.concurrency == (1, 4, 8)
    assert task.bounds == (Bound("ttft", None, 1.0, 2.0), Bound("tpot", None, 0.05, 2.0))
    assert task.notes == ("traffic_scenarios D(100,100), the autotuner's default",)


def test_what_a_file_leaves_out_is_the_autotuners_default_and_said():
    task = read_task({key: TASK[key] for key in ("task_name", "model", "base_runtime")})
    assert (task.concurrency, task.lengths, task.steepness) == ((1,), ((100.0, 100.0, True),), 0.1)
    assert Bound("ttft", None, 1.0).fail_ratio == 0.5
    assert len(task.notes) == 2


def test_the_benchmark_is_read():
    given = {"traffic_scenarios": ["D(1024,256)", "N(480,240)/(300,150)", "U(50,150)/(200,300)", "U(99,199)"],
             "gpu_type": "h100-sxm", "num_concurrency": 4}  # fmt: skip
    task = read_task({**TASK, "benchmark": given, "runtime_image_tag": "v0.5.2-cu126"})
    assert task.lengths == (
        (1024.0, 256.0, True), (480.0, 300.0, False), (100.0, 250.0, False), (50.0, 100.0, False)
    )  # fmt: skip
    assert (task.gpu, task.concurrency, task.image_tag) == ("h100-sxm", (4,), "v0.5.2-cu126")


def test_a_list_may_be_written_the_longer_way():
    task = read_task({**TASK, "parameters": {"tp-size": {"type": "choice", "values": [1, 2]}}})
    assert task.parameters == {"tp-size": (1, 2)}


def test_points_come_in_file_order():
    points = expand(read_task(TASK))
    assert len(points) == 2 * 3 * 3 * 2
    assert points[0].parameters == {
        "dtype": "bfloat16", "kv-cache-dtype": "auto", "tp-size": 1, "mem-fraction-static": 0.85
    }  # fmt: skip
    assert points[1].parameters["mem-fraction-static"] == 0.9
    assert len({json.dumps(point.parameters) for point in points}) == len(points)
    assert all(point.quant is None for point in points)


def test_presets_multiply_the_grid():
    points = expand(read_task({**TASK, "quant_config": {"presets": ["default", "kv-cache-fp8"]}}))
    assert len(points) == 72
    assert [points[0].quant, points[36].quant] == [{"preset": "default"}, {"preset": "kv-cache-fp8"}]


@pytest.mark.parametrize(
    ("name", "points", "quant"),
    [
        ("quant_preset_task", 4, [{"preset": "kv-cache-fp8"}]),
        ("quant_custom_task", 4, [{"gemm_dtype": "fp8", "kvcache_dtype": "fp8_e4m3", "attention_dtype": "fp8",
                                   "moe_dtype": "auto"}]),
        ("quant_multi_preset_task", 9, [{"preset": "default"}, {"preset": "kv-cache-fp8"},
                                        {"preset": "dynamic-fp8"}]),
    ],
)  # fmt: skip
def test_the_examples(name, points, quant):
    task = load_task(EXAMPLES / f"{name}.json")
    assert len(expand(task)) == points == task.max_iterations
    assert list(task.quant) == quant


def test_percentiles_and_widths():
    given = {
        **TASK,
        "parallel_config": {"tp": [2, 4], "dp": 1},
        "parameters": {"mem-fraction-static": [0.85]},
        "slo": {"latency": {"p90": {"threshold": 5, "hard_fail": True, "fail_ratio": 0.2}}, "steepness": 0.1},
    }
    task = read_task(given)
    assert task.bounds == (Bound("latency", "p90", 5.0, 1.0, True, 0.2),)
    assert task.steepness == 0.1
    assert task.parameters == {"mem-fraction-static": (0.85,), "tp-size": (2, 4), "dp-size": (1,)}


@pytest.mark.parametrize(
    ("change", "kind", "named"),
    [
        ({"task_nam": "x"}, UnknownName, "task_name"),
        ({"model": {"id_or_pth": "x"}}, UnknownName, "id_or_path"),
        ({"model": {}}, InvalidValue, "id_or_path"),
        ({"model": None}, InvalidValue, "model"),
        ({"base_runtime": 3}, InvalidValue, "base_runtime"),
        ({"parameters": [1]}, InvalidValue, "parameters"),
        ({"parameters": {"tp-size": []}}, InvalidValue, "tp-size"),
        ({"parameters": {"tp-size": 2}}, InvalidValue, "'tp-size' is 2, not a list"),
        ({"parameters": {"tp-size": {"type": "integer", "low": 1, "high": 8}}}, InvalidValue, "not a list"),
        ({"parameters": {"tp-size": [[1]]}}, InvalidValue, "tp-size"),
        ({"parameters": {"tp-size": [1, 1]}}, InvalidValue, "twice"),
        ({"parameters": {"tp-size": [1], "tp_size": [2]}}, InvalidValue, "twice"),
        ({"parallel_config": {"tp": [1]}}, InvalidValue, "twice"),
        ({"optimization": {"strategy": "grid"}}, UnknownName, "grid_search"),
        ({"optimization": {"objective": "fast"}}, UnknownName, "fast"),
        ({"optimization": {"max_iterations": 0}}, InvalidValue, "max_iterations"),
        ({"benchmark": {"num_concurency": [1]}}, UnknownName, "num_concurrency"),
        ({"benchmark": {"num_concurrency": [0]}}, InvalidValue, "num_concurrency"),
        ({"benchmark": {"traffic_scenarios": ["D(1,2,3)"]}}, InvalidValue, "traffic_scenarios"),
        ({"benchmark": {"traffic_scenarios": ["D(0,2)"]}}, InvalidValue, "without tokens"),
        ({"benchmark": {"gpu_type": 3}}, InvalidValue, "gpu_type"),
        ({"slo": {"ttft": {"weight": 1}}}, InvalidValue, "threshold"),
        ({"slo": {"ttft": {"threshold": -1}}}, InvalidValue, "slo.ttft"),
        ({"slo": {"ttft": {"threshold": 1, "hard_fail": "no"}}}, InvalidValue, "hard_fail"),
        ({"slo": {"itl": {"threshold": 1}}}, UnknownName, "itl"),
        ({"quant_config": {"preset": "default", "gemm_dtype": "fp8"}}, InvalidValue, "preset"),
        ({"quant_config": {"presets": []}}, InvalidValue, "presets"),
        ({"quant_config": {"presets": ["default", "Default"]}}, InvalidValue, "twice"),
        ({"quant_config": {"preset": "kv-cache-fp"}}, UnknownName, "did you mean kv-cache-fp8"),
        ({"quant_config": {"presets": "default"}}, InvalidValue, "a list of names"),
        ({"quant_config": {"gemm_dtyp": "fp8"}}, UnknownName, "gemm_dtyp"),
        ({"quant_config": {"gemm_dtype": 8}}, InvalidValue, "gemm_dtype"),
        ({"quant_config": {"gemm_dtype": "fp88"}}, UnknownName, "fp8"),
    ],
)
def test_what_is_refused_is_named(change, kind, named):
    with pytest.raises(kind, match=named):
        read_task({**TASK, **change})


def test_a_grid_that_no_one_measures():
    values = list(range(1, 1001))
    with pytest.raises(InvalidValue, match="points"):
        expand(read_task({**TASK, "parameters": {"a": values, "b": values, "c": [1, 2]}}))


@pytest.mark.parametrize("content", ["[]", "{", None])
def test_files_that_are_no_task(tmp_path, content):
    if content is not None:
        (tmp_path / "task.json").write_text(content)
    with pytest.raises(InvalidValue):
        load_task(tmp_path / "task.json")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["threshold", "p50", "tp"]), inner),
    max_leaves=4,
)  # fmt: skip


@given(st.sampled_from([*TASK, "quant_config", "benchmark", "parallel_config"]), VALUES)
def test_any_content_is_a_task_or_a_named_error(key, value):
    try:
        found = read_task({**TASK, key: value})
    except RequestError:
        return
    assert isinstance(found, Task)
    assert len(expand(found)) > 0
