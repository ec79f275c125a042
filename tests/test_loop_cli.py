"""`aicalib loop` as a user runs it, with stand-ins for engine and client."""

from __future__ import annotations

import json
import socket
import sys
from collections import Counter
from pathlib import Path

import pytest
from stores import answer, write

from perfdb import Store

ROOT = Path(__file__).parent.parent
TASK = {
    "task_name": "stand in", "model": {"id_or_path": "meta-llama/Llama-3.1-8B-Instruct"}, "base_runtime": "sglang",
    "runtime_image_tag": "v0.5.23", "parameters": {"tp-size": [1], "disable-radix-cache": [True]},
    "quant_config": {"presets": ["default", "kv-cache-fp8"]}, "optimization": {"objective": "minimize_latency"},
    "benchmark": {"traffic_scenarios": ["D(128,64)"], "num_concurrency": [4], "gpu_type": "h100-sxm"},
}  # fmt: skip


@pytest.fixture
def options(tmp_path, monkeypatch):
    """Arguments that find the stand-ins in place of engine and client."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "stand_in"))
    for name in ("STAND_IN_ENGINE", "STAND_IN_CLIENT"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [
        write(tmp_path / "task.json", TASK), "--db", tmp_path / "store.duckdb", "--engine-python", sys.executable,
        "--port", port, "--num-prompts", 8, "--start-timeout", 30, "--run-timeout", 30,
    ]  # fmt: skip


def test_a_loop_goes_on_where_it_was_left(options, tmp_path, capsys):
    plot = tmp_path / "errors.svg"
    status, out, err = answer(capsys, "loop", *options, "--spend", "--runs", 1)
    assert status == 0
    assert "of 1 runs are measured" in out
    assert "predicted TTFT" in err
    status, out, err = answer(capsys, "loop", *options, "--spend", "--runs", 2, "--plot", plot, "--json")
    found = json.loads(out)
    assert (status, found["runs"], found["repeats"], found["failures"]) == (0, 2, 0, 0)
    assert [step["number"] for step in found["steps"]] == [1, 2]
    assert len({step["key"] for step in found["steps"]}) == 2
    assert found["choice"]["launch"][:3] == ["python", "-m", "sglang.launch_server"]
    assert found["measured_candidates"] == 2
    assert plot.stat().st_size > 1000
    assert Path(found["journal"]).is_relative_to(tmp_path / "store.loop" / "stand-in")
    with Store(tmp_path / "store.duckdb") as store:
        runs = store.query("SELECT run_id, extra FROM runs")
        profiles = [f"{each['name']}@{each['version']}" for each in store.profiles()]
    assert {run["run_id"] for run in runs} == {each for step in found["steps"] for each in step["run_ids"]}
    assert len({run["extra"]["occasion"] for run in runs}) == 2
    assert found["own_profile"] in profiles
    again = answer(capsys, "loop", *options, "--spend", "--runs", 2, "--json")
    assert json.loads(again[1])["steps"] == found["steps"]


def test_a_client_that_writes_nothing_ends_it_with_its_reason_and_the_store_intact(
    options, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("STAND_IN_CLIENT", "writes_nothing")
    status, out, _ = answer(capsys, "loop", *options, "--failures", 1, "--json")
    found = json.loads(out)
    assert (status, found["ended"]["kind"], found["runs"]) == (1, "too_many_failures", 0)
    assert Counter(step["outcome"] for step in found["steps"]) == {"run_failed": 1}
    assert found["steps"][0]["reason"] == "wrote_nothing"
    with Store(tmp_path / "store.duckdb") as store:
        assert store.query("SELECT count(*) AS n FROM runs") == [{"n": 0}]


def test_where_nothing_could_be_measured_nothing_is_settled_and_each_failure_is_told(options, capsys):
    missing = [*options, "--engine-python", "/nowhere/python"]
    status, out, err = answer(capsys, "loop", *missing)
    assert status == 1
    assert "ended, nothing left: " in out
    assert out.count("not_installed: ") == 2
    assert out.count("/nowhere/python") >= 2
    assert err.count("/nowhere/python") == 2
    status, out, _ = answer(capsys, "loop", *missing, "--json")
    found = json.loads(out)
    assert (status, found["settled"], found["ended"]["kind"]) == (1, False, "nothing_left")


def test_where_every_start_failed_for_good_the_report_is_given_and_the_status_is_2(
    options, capsys, monkeypatch
):
    monkeypatch.setenv("STAND_IN_ENGINE", "out_of_memory")
    status, out, err = answer(capsys, "loop", *options)
    assert status == 2
    assert "ended, every start failed: " in out
    assert out.count("out_of_memory: torch.OutOfMemoryError") == 2
    assert "error: no point of task 'stand in' is left" in err
    status, out, _ = answer(capsys, "loop", *options, "--json")
    found = json.loads(out)
    assert (status, found["ended"]["kind"], found["choice"], len(found["steps"])) == (
        2, "every_start_failed", None, 2,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "more", "words"),
    [
        ({"colour": 1}, [], "unknown key of task 'colour'"),
        ({"benchmark": {"num_concurrency": [4]}}, [], "names no gpu_type"),
        ({}, ["--base-url", "http://127.0.0.1:9"], "is one start, and the task has 2"),
        ({}, ["--plot", "errors.pdf"], "must end in .png or .svg"),
        ({}, ["--name", "default"], "always means the shipped profile"),
        ({}, ["--repeat-every", "1"], "one of how many runs"),
        ({}, ["--minutes", "nan"], "--minutes nan is not above 0"),
        (
            {"model": {"id_or_path": "meta-llama/Llama-3.1-405B-Instruct"}},
            [],
            "no point of task 'stand in' is left",
        ),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_started(options, tmp_path, capsys, change, more, words):
    task = write(tmp_path / "other.json", TASK | change)
    status, _, err = answer(capsys, "loop", task, *options[1:], *more)
    assert status == 2
    assert words in err
    assert not (tmp_path / "store.duckdb").exists()


def test_a_taken_port_starts_nothing_and_another_task_of_the_same_name_is_refused(options, tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        status, _, err = answer(capsys, "loop", *options, "--port", port)
    assert status == 2
    assert f"port {port} of 127.0.0.1 is taken" in err
    assert "the same command goes on from there" in err
    task = write(tmp_path / "other.json", TASK | {"optimization": {"objective": "minimize_ttft"}})
    status, _, err = answer(capsys, "loop", task, *options[1:])
    assert status == 2
    assert "belongs to task 'stand in' and differs from 'stand in' in task" in err
