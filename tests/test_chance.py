"""Chances that a service level is kept: certain cases, monotone, of the stated distribution, and as often as said."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from conftest import MEASUREMENTS, ROOT
from hypothesis import given
from hypothesis import strategies as st

from aicalib.calibrate.build import fitted
from aicalib.calibrate.validate import FOLDS, folds, group_labels
from aicalib.plan.chance import Chances, chances, share_kept
from aicalib.plan.search.best import Goal, bound, search
from aicalib.plan.search.found import Found
from aicalib.plan.search.space import Sought
from aicalib.plan.tasks.task import Bound
from aicalib.profiles import load_profile
from benchmarks.choice import FEWEST, replay
from benchmarks.choice_page import EDGES
from benchmarks.sweeps import published, sweeps

rooms = st.floats(-3.0, 3.0)
halves = st.floats(0.02, 1.0)
elasticities = st.floats(0.0, 1.0)


def share(room: float, half: float, elasticity: float = 0.0) -> float:
    return float(share_kept(np.array([room]), np.array([half]), elasticity)[0])


def test_even_odds_on_the_bound_and_a_tenth_of_the_misses_for_every_half_width() -> None:
    assert share(0.0, 0.3) == 0.5
    assert share(0.3, 0.3) == pytest.approx(0.95)
    assert share(0.6, 0.3) == pytest.approx(0.995)
    assert share(-0.3, 0.3) == pytest.approx(0.05)


@pytest.mark.parametrize("elasticity", [0.0, 1.0])
def test_what_is_certain_is_kept_or_not(elasticity: float) -> None:
    assert share(1e-9, 0.0, elasticity) == share(0.0, 0.0, elasticity) == 1.0
    assert share(-1e-9, 0.0, elasticity) == 0.0
    assert share(40.0, 0.3, elasticity) == pytest.approx(1.0)
    assert share(-400.0, 0.3, elasticity) == pytest.approx(0.0)


def test_without_an_interval_nothing_is_said() -> None:
    assert np.isnan(share(0.1, np.nan))


def test_under_an_interval_without_end_the_odds_are_even() -> None:
    assert share(0.1, np.inf) == share(-0.1, np.inf) == 0.5


@given(rooms, rooms, halves, elasticities)
def test_a_looser_bound_is_kept_no_less_likely(one: float, other: float, half: float, tilt: float) -> None:
    low, high = sorted((one, other))
    assert 0.0 <= share(low, half, tilt) <= share(high, half, tilt) <= 1.0


@given(rooms, halves, halves)
def test_a_wider_interval_makes_a_kept_bound_less_sure_and_a_missed_one_less_lost(
    room: float, one: float, other: float
) -> None:
    narrow, wide = sorted((one, other))
    closer = abs(share(room, wide) - 0.5) <= abs(share(room, narrow) - 0.5) + 1e-12
    assert closer


@given(rooms, halves, elasticities)
def test_the_share_is_that_of_the_distribution(room: float, half: float, elasticity: float) -> None:
    scale = half / np.log(10.0)
    # Midpoints of equal parts of the probability, the same on both sides of 0.
    tail = (np.arange(20_000) + 0.5) / 20_000
    error = np.concatenate([scale * np.log(tail), -scale * np.log(tail)])
    weight = np.exp(-elasticity * error)
    expected = weight[error <= room].sum() / weight.sum()
    assert share(room, half, elasticity) == pytest.approx(expected, abs=2e-3)


# a service level

TIMES = {("ttft", None): 0.2, ("tpot", None): 0.02, ("latency", None): 2.2, ("tpot", "p99"): 0.03}
FACTORS = {"ttft": 2.0, "tpot": 1.25, "latency": 1.25}


def level(*bounds: Bound) -> Chances:
    figures = {name: np.array([value]) for name, value in TIMES.items()}
    return chances(bounds, figures, {name: np.array([value]) for name, value in FACTORS.items()})


def test_of_several_bounds_the_least_likely_decides() -> None:
    ttft, tpot = bound("ttft", 300.0), bound("tpot", 21.0)
    both, alone = level(ttft, tpot), [level(ttft), level(tpot)]
    assert both.kept == min(each.kept for each in alone)
    assert both.worth == min(each.worth for each in alone)


def test_only_hard_bounds_are_held_and_up_to_their_ratio() -> None:
    assert level().kept == level(bound("tpot", 1.0, hard=False)).worth == 1.0
    assert level(Bound("tpot", None, 0.02, hard_fail=True, fail_ratio=0.25)).kept == pytest.approx(0.95)


def test_a_percentile_has_the_interval_of_its_mean() -> None:
    assert level(bound("tpot", 37.5, "p99")).kept == pytest.approx(0.95)


def test_where_a_level_is_kept_throughput_is_likelier_above_its_prediction() -> None:
    for each in (bound("tpot", 21.0), bound("latency", 2300.0), bound("ttft", 210.0)):
        assert level(each).worth > level(each).kept
    # TTFT is a small part of this latency, and says little of throughput.
    ttft = level(bound("ttft", 200.0))
    assert ttft.worth - ttft.kept < level(bound("tpot", 20.0)).worth - 0.5


# in a search

MANY = Sought(
    "qwen3-32b", ("h200-sxm",), 4, 2000.0, 300.0, separate=False,
    only={"gemm": ("fp8",), "kv": ("fp8",), "fmha": ("auto",), "tp": (1, 2), "pp": (1,), "dp": (1,),
          "mem_fraction": (None,), "chunked_prefill_size": (None,), "enable_mixed_chunk": (None,),
          "concurrency": tuple(range(8, 128, 2))},
)  # fmt: skip


def best(**goal: Any) -> Found:
    return search(MANY, Goal(**goal), limit=None, top=3)


def test_a_barely_kept_level_loses_to_a_safer_one_of_nearly_the_same_throughput() -> None:
    free = best(bounds=(bound("tpot", 1000.0),))
    assert free.best.keeps_level == pytest.approx(1.0)
    tight = (bound("tpot", free.best.figures["tpot_ms"].value / 2.0),)
    sure, blind = (
        best(bounds=tight).best,
        search(MANY, Goal(bounds=tight), load_profile("priors"), 3).best,
    )
    assert sure.keeps_level is not None
    assert sure.keeps_level > 0.7
    assert blind.keeps_level is None
    most = tight[0].threshold_s * 1e3
    assert blind.figures["tpot_ms"].value > 0.95 * most
    assert sure.figures["tpot_ms"].value < 0.95 * most


def test_choices_are_sorted_by_what_ranks_them() -> None:
    for goal in ({}, {"objective": "latency"}, {"objective": "balance"}, {"robust": True}):
        outcome = best(bounds=(bound("tpot", 25.0),), **goal)
        ranks = [each.ranked_by for each in outcome.at_once]
        assert ranks == sorted(ranks)
        for each in outcome.as_dict()["best"]:
            assert 0.5 <= each["keeps_level"] <= 1.0
            assert each["keeps_level"] >= (0.95 - 1e-9 if "robust" in goal else 0.5)
    assert best().best.keeps_level is None
    assert best().best.ranked_by == best().best.score.value


# against measurement

REFITTED = 9
"""The fold of groups that is left out and held to its chances."""

SLACK = 0.1
"""What a share of some hundred configurations of a few groups may differ by."""


@pytest.mark.xdist_group("accuracy")
def test_levels_are_kept_about_as_often_as_said_by_a_profile_that_saw_none_of_the_groups() -> None:
    runs, closed = published(MEASUREMENTS)
    labels = group_labels(runs)
    fold = folds(labels, FOLDS)
    profile = fitted(runs.take(np.flatnonzero(fold != REFITTED)))
    out = {label for label, number in zip(labels, fold, strict=True) if number == REFITTED}
    every = [each for each in sweeps(closed, FEWEST) if each.group in out]
    found = replay({"all": every}, {}, {}, [profile])
    said, kept = np.concatenate(found.said["TPOT"]), np.concatenate(found.kept["TPOT"])
    for low, high in ((0.0, 0.2), (0.2, 0.8), (0.8, 1.0)):
        at = (said >= low) & (said <= high)
        assert at.sum() > 50
        assert kept[at].mean() == pytest.approx(said[at].mean(), abs=SLACK), (low, high)


def test_the_published_shares_are_near_what_was_said() -> None:
    page = (ROOT / "docs" / "search-accuracy.md").read_text()
    chosen, every = (each.partition("\n\n")[0] for each in page.split("\n\n| said |")[1:])
    for rows in (chosen, every):
        (means,) = re.findall(r"^\| mean \| (.*) \|$", rows, flags=re.M)
        for said, kept in re.findall(r"([\d.]+) % said, ([\d.]+) % kept", means):
            assert float(kept) == pytest.approx(float(said), abs=6.0)
    bins = re.findall(r"^\| (\d+) to (\d+) % \| (.*) \|$", every, flags=re.M)
    assert len(bins) == len(EDGES) - 1
    for low, high, cells in bins:
        for kept, count in re.findall(r"(\d+) % \((\d+)\)", cells):
            if int(count) >= 100:
                assert int(low) - 10 <= int(kept) <= int(high) + 10, (low, kept)
