"""Ties: intervals of ratios, and what the errors of two questions have in common."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicalib.nearness import DEPTHS, paths
from aicalib.plan.capacity.demand import steady
from aicalib.plan.capacity.plan import plan
from aicalib.plan.search.best import bound, search
from aicalib.plan.search.configuration import Sought
from aicalib.plan.search.goal import Goal
from aicalib.prediction import Interval, predict_batch
from aicalib.profiles.profile import default_profile, load_profile
from aicalib.report.comparison import METRICS, comparison
from aicalib.report.prediction import document
from aicalib.resolve.rows import resolve
from aicalib.ties import THROUGHPUT_LEVEL, common_errors, reach, tied, ties_with_first

WIDTH = st.floats(0.01, 2.0)


@given(worse=WIDTH, better=WIDTH, common=st.floats(0.0, 0.99))
def test_a_ratio_is_surer_than_both_figures_together_and_the_surer_the_more_is_common(worse, better, common):
    ends = np.array([worse]), np.array([better])
    width = float(sum(reach(*ends, np.array([common])))[0])
    assert width == pytest.approx(np.sqrt(worse**2 + better**2 - 2 * common * worse * better))
    assert width <= float(sum(reach(*ends, np.zeros(1)))[0]) <= worse + better


def test_what_moves_both_alike_leaves_the_ratio_as_it_is():
    assert sum(reach(np.array([0.3]), np.array([0.3]), np.ones(1)))[0] == 0.0


def test_without_intervals_only_equals_tie_and_without_an_end_all():
    nothing, known = np.array([np.nan]), np.array([0.3])
    assert sum(reach(nothing, nothing, np.zeros(1)))[0] == 0.0
    assert all(np.isinf(each[0]) for each in reach(np.array([np.inf]), known, np.array([0.5])))


def pairs(profile, **columns):
    """Return what the first question has in common with each."""
    size = max(map(len, columns.values()))
    batch = resolve({"model": ["qwen3-32b"] * size, "engine": ["sglang"] * size} | columns)
    rows = np.arange(size)
    return common_errors(batch, profile, THROUGHPUT_LEVEL, np.zeros_like(rows), rows)


def test_the_nearer_two_deployments_the_more_of_their_errors_is_common():
    profile = replace(default_profile(), levels={})
    found = pairs(
        profile,
        gpu=["h200-sxm", "h200-sxm", "h200-sxm", "h200-sxm", "h100-sxm"],
        gemm=["fp8", "fp8", "fp8", "bfloat16", "fp8"],
        tp=[2, 2, 4, 2, 2],
        concurrency=[16, 32, 16, 16, 16],
    )
    # the same curve, the same formats, the same group, another GPU
    assert found[0] == found[1] > found[2] > found[3] > found[4] == 0.0
    assert found[0] < 1.0


def test_what_runs_have_told_of_both_is_no_longer_an_error_of_both():
    profile = default_profile()
    asked = {"gpu": ["h200-sxm"] * 2, "gemm": ["fp8"] * 2, "tp": [2, 4]}
    batch = resolve({"model": ["qwen3-32b"] * 2, "engine": ["sglang"] * 2} | asked)
    [(_, _, (group,)), (_, _, (formats,)), *_] = paths(batch, np.arange(2))
    levels = {metric: {group: (0.1, 9), formats: (0.2, 9)} for metric in ("ttft_ms", "tpot_ms")}
    unknown, known = (pairs(replace(profile, levels=each, fitted={}), **asked)[1] for each in ({}, levels))
    spread = profile.spreads[THROUGHPUT_LEVEL]
    left = [spread[name] ** 2 for name in (*DEPTHS[2:], "noise")]
    assert known == pytest.approx(left[0] / sum(left))
    assert known < unknown


def test_what_runs_have_told_is_still_open_on_other_kernels():
    asked = {"gpu": ["h200-sxm"] * 3, "gemm": ["fp8"] * 3, "tp": [2, 4, 4],
             "attention_backend": [None, None, "triton"]}  # fmt: skip
    batch = resolve({"model": ["qwen3-32b"] * 3, "engine": ["sglang"] * 3} | asked)
    assert [who.other_kernels for who in batch.identities] == [False, True]
    [(_, _, (group,)), (_, _, (formats,)), *_] = paths(batch, np.arange(2))
    levels = {metric: {group: (0.1, 9), formats: (0.2, 9)} for metric in ("ttft_ms", "tpot_ms")}
    profile = replace(default_profile(), levels=levels, fitted={})
    spread = profile.spreads[THROUGHPUT_LEVEL]
    left = [spread[name] ** 2 for name in (*DEPTHS[1:], "noise")]
    assert pairs(profile, **asked)[2] == pytest.approx(
        spread["engine"] ** 2 / np.sqrt(sum(left) * sum(left[1:]))
    )


def test_a_profile_without_spreads_knows_of_nothing_in_common():
    assert (pairs(load_profile("priors"), gpu=["h200-sxm"] * 2, tp=[2, 4]) == 0.0).all()


@pytest.mark.parametrize("objective", ["throughput", "ttft", "balance"])
def test_search_ties_what_lies_in_the_interval_of_the_ratio(objective):
    only = {"gemm": ("auto", "fp8", "int4_wo"), "kv": ("auto",), "fmha": ("auto",), "concurrency": (8, 64)}
    sought = Sought("llama-8b", ("h100-sxm",), 2, only=only, separate=False)
    found = search(sought, Goal(objective), top=9)
    best, *others = found.at_once
    assert not best.tie
    sign = -1.0 if objective == "throughput" else 1.0
    for each in others:
        behind = sign * np.log(each.score.value / best.score.value)
        widest = abs(np.log(best.score.high / best.score.value)) + abs(
            np.log(each.score.low / each.score.value)
        )
        assert behind >= 0.0
        assert not each.tie or behind <= widest
    assert any(each.tie for each in others)


def test_fleets_tie_less_often_than_their_intervals_overlap():
    found = plan("llama-8b", ["h100-sxm", "b200-sxm"], steady(200, 2000, 300), [bound("ttft", 2000)],
                 only={"gemm": ["auto", "fp8"], "kv": ["auto"], "tp": [1, 2]})  # fmt: skip
    best, *others = [each for each in found.fleets if each.needs is None]
    overlap = [each.gpus.low <= best.gpus.high for each in others]
    ties = [each.tie for each in others]
    assert all(over or not tie for over, tie in zip(overlap, ties, strict=True))
    assert sum(ties) < sum(overlap)


def test_equals_tie_also_where_both_count_as_infinitely_bad():
    worst = Interval(*(np.array([each]) for each in (np.inf, 1.0, np.inf)))
    assert tied(worst, worst, np.zeros(1)).all()
    best, other = (
        Interval(*(np.array([each]) for each in ends)) for ends in ((1.0, 0.9, 1.1), (9.0, 8.0, 9.9))
    )
    assert not tied(best, other, np.zeros(1)).any()


@given(st.floats(1.0, 3.0), st.floats(1.01, 2.0), st.floats(0.0, 0.9))
def test_a_yield_ties_as_the_time_that_it_is_the_inverse_of(ratio, factor, common):
    value = np.array([1.0]), np.array([ratio])
    times = [Interval(each, each / factor, each * factor) for each in value]
    yields = [Interval(-1.0 / each, -factor / each, -1.0 / (factor * each)) for each in value]
    assert tied(*times, np.array([common])) == tied(*yields, np.array([common]))


def test_predictions_side_by_side_tie_less_often_than_their_intervals_overlap():
    load = [16, 16, 32, 64, 256]
    same = {"model": ["llama-70b"] * len(load), "gpu": ["h100-sxm"] * len(load), "tp": [4] * len(load)}
    found = predict_batch(resolve(same | {"concurrency": load}), default_profile())
    documents = [document(found, at) for at in range(len(load))]
    rows = comparison([str(each) for each in load], documents, found)
    ties, overlaps = 0, 0
    for metric in METRICS:
        tie, number = ties_with_first(found, metric), found.mean[metric]
        overlap = (number.low <= number.high[0]) & (number.low[0] <= number.high)
        assert tie[1]
        assert not tie[-1]
        assert (overlap | ~tie).all()
        assert [cells[-1].endswith("tie") for cells in rows if cells[1] == metric] == [False, *tie[1:]]
        ties, overlaps = ties + tie.sum(), overlaps + overlap.sum()
    assert ties < overlaps
