"""The replay of published sweeps: nobody reads what is hidden, and regret is what it says."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from aicalib.calibrate.runs import as_runs
from aicalib.profiles import default_profile
from benchmarks.contestants import features, gaussian_process, grid, levels_alone, loop, physics, random_order
from benchmarks.loop import replay
from benchmarks.replay import questions
from benchmarks.sweeps import deployments_alone, sweeps

CONTESTANTS = (loop, levels_alone, physics, gaussian_process, random_order, grid)


@pytest.fixture(scope="module")
def asked(published):
    chosen = [
        run
        for run in published
        if run["gpu"] == "h100_sxm" and "Qwen3-32B" in run["model"] and run["engine"] == "vllm"
        and run.get("isl") == 4096 and not run.get("spec_decode") and run.get("load") == "closed"
    ]  # fmt: skip
    runs = as_runs(chosen)
    found = sweeps(runs, fewest=8)
    assert found
    group = SimpleNamespace(fold=np.zeros(runs.batch.at.size, int), profiles=[default_profile()])
    return list(questions(found[:1], runs, group))


def test_service_levels_part_what_was_measured(asked):
    assert asked[0].level == "none"
    shares = [each.meets.mean() for each in asked[1:]]
    assert shares == sorted(shares)
    assert all(0.0 < share < 1.0 for share in shares)
    for each in asked:
        assert each.regret.min() == 0.0
        assert np.all(each.regret[~each.meets] == 1.0)
        assert each.sweep.tok_s_per_gpu[each.regret.argmin()] == each.sweep.tok_s_per_gpu[each.meets].max()


@pytest.mark.parametrize("contestant", CONTESTANTS)
def test_nobody_reads_what_is_hidden(asked, contestant):
    question = asked[2]
    seen = np.array([1, 4, 5])
    hidden = np.ones(question.sweep.tpot_ms.size)
    hidden[np.setdiff1d(np.arange(hidden.size), seen)] = 7.0
    measured = {metric: each * hidden for metric, each in question.sweep.runs.measured.items()}
    altered = replace(
        question,
        sweep=replace(
            question.sweep,
            runs=replace(question.sweep.runs, measured=measured),
            tok_s_per_gpu=question.sweep.tok_s_per_gpu * hidden,
        ),
        logs={metric: each + np.log(hidden) for metric, each in question.logs.items()},
    )
    assert contestant(question, seen, 0) == contestant(altered, seen, 0)


@pytest.mark.parametrize("contestant", CONTESTANTS)
def test_nothing_is_revealed_twice(asked, contestant):
    seen = np.zeros(0, dtype=np.intp)
    for _ in range(4):
        look = contestant(asked[1], seen, 0)
        assert look.reveal not in seen.tolist()
        seen = np.append(seen, look.reveal)


def test_the_loop_finds_what_is_there(asked):
    assert replay(asked[0], loop, 0)[-1][0] <= 0.05


def test_features_vary_and_are_scaled(asked):
    table = features(asked[0])
    assert np.allclose(table.min(axis=0), 0.0)
    assert np.allclose(table.max(axis=0), 1.0)


def test_deployments_alone_are_one_concurrency(asked):
    (alone,) = deployments_alone([asked[0].sweep], fewest=2)
    assert np.unique(alone.concurrency).size == 1
    assert np.unique(alone.deployment).size == alone.deployment.size
