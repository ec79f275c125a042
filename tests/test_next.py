"""What to measure next: what is believed, what a run is worth, and what `aicalib next` proposes."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_house import hold

from aicalib.cli.main import main
from aicalib.errors import InvalidValue, UnknownName
from aicalib.loop.acquire import Base, Decision, regrets, with_measured
from aicalib.loop.belief import DEVIATE, Observed, Places, believe, kernels_of
from aicalib.loop.candidates import candidates, observed
from aicalib.loop.next import next_runs
from aicalib.loop.normal import Normal
from aicalib.measure.results import deployment_keys
from aicalib.nearness import LEVELED
from aicalib.plan.tasks.task import read_task
from aicalib.profiles import default_profile, load_profile

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "quant_multi_preset_task.json"
GOLDEN = Path(__file__).parent / "golden"

TASK = {
    "task_name": "next",
    "model": {"id_or_path": "meta-llama/Llama-3.1-8B-Instruct"},
    "base_runtime": "sglang",
    "runtime_image_tag": "v0.5.9",
    "quant_config": {"presets": ["default", "dynamic-fp8"]},
    "parameters": {"tp-size": [1, 2]},
    "optimization": {"objective": "maximize_throughput"},
    "benchmark": {"traffic_scenarios": ["D(1024,256)"], "num_concurrency": [8, 32], "gpu_type": "h100-sxm"},
    "slo": {"tpot": {"threshold": 0.02, "hard_fail": True, "fail_ratio": 0.0}},
}
ROWS = 8


@pytest.fixture(scope="module")
def found():
    return candidates(read_task(TASK), [], default_profile())


def record(found, row, ttft=1.0, tpot=1.0, **more):
    """Return a stored run of a candidate that measured so many times what was predicted."""
    start, level = divmod(row, len(found.levels))
    load, service = found.levels[level], found.plain.service
    ttft_ms, tpot_ms = 1e3 * service.ttft_mean_s[row] * ttft, 1e3 * service.tpot_s[row] * tpot
    deployment = dict(found.starts[start].deployment)
    return {
        **deployment_keys(deployment, deployment["hf_id"], deployment["engine_version"]),
        "run_id": f"{row}-{ttft}-{tpot}", "flags": [], "load": "closed", "isl": int(load.isl), "osl": int(load.osl),
        "concurrency": load.concurrency, "range_ratio": 1.0, "num_prompts": 10 * load.concurrency,
        "mean_ttft_ms": ttft_ms, "mean_tpot_ms": tpot_ms, "warmed_up": True,
        "output_tok_s": 1e3 * load.concurrency * load.osl / (ttft_ms + tpot_ms * (load.osl - 1)), **more,
    }  # fmt: skip


def ask(records=(), count=ROWS, **more):
    return next_runs(read_task(TASK), records, count=count, **more)


def summary(answer):
    runs = [
        (each.key, round(each.expected_gain, 12), round(each.uncertainty_fall, 12)) for each in answer.runs
    ]
    return runs, answer.settled, answer.best.start, round(answer.best.regret, 12)


# What is proposed


def test_a_stored_run_is_a_measurement_of_its_candidate(found):
    records = [record(found, row) for row in range(ROWS)]
    again = candidates(read_task(TASK), records, default_profile())
    assert again.measured.row.tolist() == list(range(ROWS))
    for metric in LEVELED:
        assert np.allclose(again.measured.logs[metric], 0.0, atol=0.05)


@settings(max_examples=6)
@given(st.sets(st.integers(0, ROWS - 1)), st.integers(1, ROWS))
def test_what_was_measured_is_not_proposed_and_nothing_comes_twice(found, measured, count):
    answer = ask([record(found, row, tpot=1.1) for row in sorted(measured)], count)
    keys = [each.key for each in answer.runs]
    assert len(keys) == len(set(keys)) == min(count, ROWS - len(measured))
    assert not set(keys) & {found.key(row) for row in measured}
    assert answer.measured == len(measured)
    assert all(each.expected_gain >= 0 and each.uncertainty_fall >= 0 for each in answer.runs)
    assert all(each.cost_minutes > 0 for each in answer.runs)
    assert answer.settled >= (len(measured) == ROWS)


def test_the_order_of_the_store_means_nothing(found):
    records = [record(found, row, tpot=each) for row, each in ((0, 1.1), (3, 0.9), (3, 0.95), (6, 1.2))]
    assert summary(ask(records)) == summary(ask(records[::-1]))


def test_all_measured_is_settled_on_the_best_that_was_measured(found):
    records = [record(found, row, tpot=1.0 + 0.2 * (row // 2)) for row in range(ROWS)]
    answer = ask(records, noise=dict.fromkeys(LEVELED, 1e-4))
    assert (answer.settled, answer.runs) == (True, ())
    assert answer.reason == "every run of the task was measured"
    meeting = [
        start
        for start in range(ROWS // 2)
        if np.mean([records[2 * start + level]["mean_tpot_ms"] for level in (0, 1)]) <= 20.0
    ]
    rate = [
        sum(records[2 * start + level]["output_tok_s"] for level in (0, 1))
        / found.starts[start].deployment["tp"]
        for start in meeting
    ]
    assert answer.best.start == meeting[int(np.argmax(rate))]


def test_noise_does_not_settle_sooner(found):
    for measured in ((0,), (0, 1, 2, 3), (4, 5)):
        records = [record(found, row) for row in measured]
        sure = [
            ask(records, 1, noise=dict.fromkeys(LEVELED, noise)).best.within for noise in (0.01, 0.1, 0.4)
        ]
        assert sure[0] + 0.02 >= sure[1]
        assert sure[1] + 0.02 >= sure[2]


def test_a_choice_is_not_settled_by_prediction_alone(found):
    loose = {**TASK, "slo": {}, "quant_config": {"presets": ["dynamic-fp8"]}}
    answer = next_runs(read_task(loose), [])
    assert not answer.settled
    assert not answer.best.touched


def test_another_load_of_a_running_engine_costs_no_restart(found):
    first, second, *others = (found.key(row) for row in range(ROWS))
    (up,) = ask(taken=[first, *others], running=first).runs
    (cold,) = ask(taken=[first, *others]).runs
    assert up.key == cold.key == second
    assert (up.restarts, cold.restarts) == (False, True)
    assert up.cost_minutes < cold.cost_minutes - 1.0


def test_taken_runs_are_not_proposed(found):
    first = ask(count=1).runs[0]
    assert first.key not in [each.key for each in ask(taken=[first.key]).runs]


def test_keys_are_those_of_another_process(found):
    again = candidates(read_task(TASK), [], default_profile())
    assert [found.key(row) for row in range(ROWS)] == [again.key(row) for row in range(ROWS)]
    assert len({found.key(row) for row in range(ROWS)}) == ROWS


def test_runs_of_another_model_are_ignored_and_said(found):
    other = record(found, 0, run_id="other") | {"model": "Qwen/Qwen3-32B"}
    flagged = record(found, 1, run_id="flagged") | {"flags": ["lumped_stream"]}
    answer = ask([other, flagged], 1)
    assert answer.measured == 0
    assert any("1 stored runs are not used: of another model" in note for note in answer.notes)
    assert any("lumped_stream 1" in note for note in answer.notes)
    assert summary(answer) == summary(ask([], 1))


def failure(start, **more):
    started = start.arguments.launch()
    return {
        "launch": started.line(),
        "gpu": start.deployment["gpu"],
        "engine_version": started.engine_version,
        "lasting": True,
        "reason": "out_of_memory",
        "message": "CUDA out of memory",
        **more,
    }


def test_a_start_that_failed_is_dropped_with_its_reason(found):
    bad = found.starts[0]
    answer = ask(failures=[failure(bad)])
    (dropped,) = answer.candidates.failed
    assert dropped.point == bad.point
    assert "out_of_memory" in dropped.reason
    assert len(answer.runs) == ROWS - 2
    assert len(ask(failures=[failure(bad, lasting=False)]).runs) == ROWS


@pytest.mark.parametrize("other", [{"gpu": "l40s"}, {"engine_version": "0.4.6"}])
def test_a_start_failed_on_that_accelerator_under_that_version_only(found, other):
    assert len(ask(failures=[failure(each, **other) for each in found.starts]).runs) == ROWS


def test_a_start_with_another_memory_fraction_has_not_failed(found):
    task = read_task({**TASK, "parameters": {**TASK["parameters"], "mem-fraction-static": [0.6]}})
    assert next_runs(task, failures=[failure(each) for each in found.starts]).runs


def test_of_a_large_task_the_best_by_prediction_are_looked_at(monkeypatch):
    whole = ask(count=1)
    monkeypatch.setattr("aicalib.loop.candidates.MOST_RUNS", 4)
    part = ask()
    assert len(part.runs) == 4
    assert part.candidates.starts == whole.candidates.starts[:2]
    assert any(note.startswith("2 starts with worse predicted scores") for note in part.notes)


def test_nothing_left_says_why(found):
    with pytest.raises(InvalidValue, match="CUDA out of memory"):
        ask(failures=[failure(each) for each in found.starts])
    with pytest.raises(InvalidValue, match="no point of task"):
        next_runs(read_task({**TASK, "parameters": {"tp-size": [3]}}))
    with pytest.raises(InvalidValue, match="fitted on no runs"):
        ask(profile=load_profile("priors"))
    with pytest.raises(InvalidValue, match="--count 0"):
        ask(count=0)


# What is believed


def prior(found, records=()):
    known = candidates(read_task(TASK), records, default_profile())
    kernels = kernels_of(default_profile().spreads)
    return known, believe(known.places, known.widths, kernels, observed(known, default_profile()))


def test_before_anything_is_measured_a_belief_is_as_wide_as_the_interval(found):
    nothing = Observed(
        found.places.take(np.zeros(0, int)), {m: np.zeros(0) for m in LEVELED}, np.zeros(0, int)
    )
    kernels = kernels_of(default_profile().spreads)
    belief = believe(found.places, found.widths, kernels, nothing)
    for metric in LEVELED:
        wide = np.hypot(belief[metric].deviation, kernels[metric].noise)
        assert np.allclose(DEVIATE * wide, found.widths[metric])
        assert np.allclose(belief[metric].mean, 0.0)


def test_what_the_profile_knows_already_counts_once(found):
    """A profile that was calibrated on runs of the store says the same with and without them."""
    from aicalib.calibrate.own import calibrate_on

    records = [record(found, 0, 1.2, 1.2), record(found, 3, 1.1, 1.3)]
    profile = calibrate_on(default_profile(), records).profile
    with_both, base_alone = ask(records, 2, profile=profile), ask(records, 2)
    assert [each.key for each in with_both.runs] == [each.key for each in base_alone.runs]
    for one, other in zip(with_both.runs, base_alone.runs, strict=True):
        assert one.figures["tpot_ms"].value == pytest.approx(other.figures["tpot_ms"].value, rel=1e-3)


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 6), st.floats(1e-3, 0.5))
def test_variance_never_grows_with_data(seed, count, noise):
    random = np.random.default_rng(seed)
    root = random.standard_normal((6, 6))
    before = Normal(np.zeros(6), root @ root.T + 1e-6 * np.eye(6))
    at = random.integers(0, 6, count)
    after = before.given(at, random.standard_normal(count), noise)
    assert np.all(after.deviation <= before.deviation + 1e-9)
    assert np.all(after.deviation[at] <= noise + 1e-6)


def test_conditioning_step_by_step_is_conditioning_at_once():
    random = np.random.default_rng(1)
    root = random.standard_normal((5, 5))
    start = Normal(np.zeros(5), root @ root.T)
    values = random.standard_normal(3)
    at_once = start.given(np.array([0, 1, 4]), values, 0.2)
    stepwise = start
    for at, value in zip((0, 1, 4), values, strict=True):
        stepwise = stepwise.given(np.array([at]), np.array([value]), 0.2)
    assert np.allclose(at_once.mean, stepwise.mean)
    assert np.allclose(at_once.covariance, stepwise.covariance)


def test_neighbors_move_with_what_was_measured_and_near_ones_more(found):
    _, plain = prior(found)
    _, moved = prior(found, [record(found, 0, tpot=1.3)])
    change = moved["tpot_ms"].mean - plain["tpot_ms"].mean
    assert change[0] == pytest.approx(np.log(1.3), abs=0.05)
    near = [row for row in range(ROWS) if row != 0 and row // 2 == 0]
    assert change[near].min() > 0.05
    assert change[near].min() >= np.delete(change, [0, *near]).max()


def test_measured_figures_stand_for_the_predicted_ones(found):
    records = [record(found, 2, 1.5, 0.8), record(found, 5, tpot=1.2, output_tok_s=100.0)]
    known, belief = prior(found, records)
    base, beyond = with_measured(
        Base.of(known.plain), belief, known.measured.runs, known.measured.row, known.measured.logs
    )
    assert base.ttft_s[None][2] == pytest.approx(records[0]["mean_ttft_ms"] / 1e3)
    assert base.tpot_s[None][5] == pytest.approx(records[1]["mean_tpot_ms"] / 1e3)
    gpus = known.batch.n_gpus[5]
    assert base.tok_s_per_gpu[5] == pytest.approx(100.0 * (1024 + 256) / 256 / gpus)
    assert np.all(np.abs(beyond["tpot_ms"].mean[[2, 5]]) < 0.02)


BOUNDS = {
    "tpot": {"p99": {"threshold": 0.005, "weight": 2.0}},
    "ttft": {"p50": {"threshold": 0.05}},
    "latency": {"p90": {"threshold": 2.0, "hard_fail": True}, "p50": {"threshold": 1.0}},
}


@pytest.mark.parametrize(
    "objective", ["maximize_throughput", "minimize_latency", "minimize_ttft", "minimize_tpot", "balanced"]
)
def test_scores_without_errors_are_those_of_the_screening(objective):
    task = read_task({**TASK, "optimization": {"objective": objective}, "slo": BOUNDS})
    plain = replace(default_profile(), levels={})
    known = candidates(task, [], plain)
    decision = Decision(task.objective, task.bounds, task.steepness, Base.of(known.plain), len(known.starts))
    ones = np.ones(ROWS)
    assert np.allclose(decision.scores(ones, ones), [each.score.value for each in known.starts])


def test_regret_is_a_share_of_the_best():
    scores = np.array([[-100.0, -50.0, np.inf, 20.0], [np.inf, np.inf, np.inf, np.inf], [2.0, 3.0, 8.0, 2.0]])
    expected = [[0.0, 0.5, 1.0, 1.0], [0.0] * 4, [0.0, 0.5, 1.0, 0.0]]
    assert np.allclose(regrets(scores), expected)


def test_places_of_nothing_are_nothing(found):
    assert Places.of(found.batch.take(np.zeros(0, int))).octaves.shape == (0, 4)


# The command


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main(["next", *map(str, arguments)])
    captured = capsys.readouterr()
    return left.value.code, captured.out, captured.err


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("AICALIB_DB", str(tmp_path / "store.duckdb"))
    monkeypatch.setenv("COLUMNS", "80")


def test_what_a_person_sees(capsys, store):
    status, out, err = run(capsys, EXAMPLE, "--count", 2)
    assert (status, err) == (0, "")
    path = GOLDEN / "next.txt"
    if os.environ.get("AICALIB_RENEW_GOLDEN"):
        path.write_text(out)
    assert out == path.read_text()
    hold("docs/loop.md", "$ aicalib next", f"$ aicalib next examples/{EXAMPLE.name} --count 2\n{out}")


def test_json_has_what_was_agreed(capsys, store):
    status, out, err = run(capsys, EXAMPLE, "--count", 2, "--json")
    document = json.loads(out)
    assert (status, err) == (0, "")
    assert document["settled"] is False
    for each in document["runs"]:
        assert {"deployment", "workload", "expected_gain", "launch", "bench"} <= set(each)
        assert each["launch"][:3] == ["python", "-m", "sglang.launch_server"]
        assert each["bench"][:3] == ["python", "-m", "sglang.bench_serving"]
        for number in each["prediction"].values():
            assert number["low"] < number["value"] < number["high"]
    assert {each["kind"] for each in document["dropped"]} == {"does_not_fit"}


@pytest.mark.parametrize(("engine", "port"), [("vllm", 8000), ("trtllm", None)])
def test_the_clients_line_is_that_of_the_engine(engine, port):
    task = {name: each for name, each in TASK.items() if name not in ("parameters", "runtime_image_tag")}
    (run,) = next_runs(read_task({**task, "base_runtime": engine})).runs
    assert (run.lacking is None) == (port is not None)
    assert port is None or f"http://127.0.0.1:{port}" in run.bench


def test_bad_input_is_refused(capsys, store, tmp_path):
    path = tmp_path / "task.json"
    path.write_text(json.dumps({**TASK, "prameters": {}}))
    status, out, err = run(capsys, path, "--json")
    assert (status, json.loads(out)["error"]["kind"]) == (2, UnknownName.kind)
    assert "prameters" in err
    path.write_text(json.dumps(TASK))
    assert run(capsys, path, "--db", tmp_path / "none.duckdb")[0] == 2
    assert run(capsys, path, "--count", 0)[0] == 2
    for url in ("foo", "localhost:30000", "http://", "ftp://host"):
        status, _, err = run(capsys, path, "--base-url", url)
        assert (status, f"--base-url '{url}' is no address of a server" in err) == (2, True)
