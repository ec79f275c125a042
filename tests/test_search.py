"""Searches: the same winners as trying one by one, fronts, ties, levels that bind, and refusals."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aicalib.engines.launch import assemble
from aicalib.engines.request import request_of
from aicalib.errors import InvalidValue, RequestError, UnknownName, fold
from aicalib.hardware import get_accelerator
from aicalib.models import get_architecture
from aicalib.physics.tables import tabulate_kernels
from aicalib.plan.chance import chances
from aicalib.plan.price import Prices, Rate, load_prices
from aicalib.plan.search.accuracy import table
from aicalib.plan.search.best import OBJECTIVES, Goal, bound, search
from aicalib.plan.search.evaluate import evaluate
from aicalib.plan.search.formats import formats_of
from aicalib.plan.search.found import Found
from aicalib.plan.search.front import front
from aicalib.plan.search.space import Sought, lay_out
from aicalib.plan.search.unmet import NoRoom, Unmet
from aicalib.prediction import predict_batch
from aicalib.profiles import default_profile, load_profile
from aicalib.quant import MODES
from aicalib.resolve.rows import resolve

SMALL = Sought(
    "qwen3-32b", ("h200-sxm",), 4, 2000.0, 300.0, separate=False,
    only={"gemm": ("auto", "fp8", "int4_wo"), "kv": ("auto", "fp8"), "fmha": ("auto",), "tp": (1, 2, 4), "pp": (1, 2),
          "dp": (1,), "mem_fraction": (None, 0.7), "chunked_prefill_size": (None, 2048), "enable_mixed_chunk": (None,),
          "concurrency": (1, 4, 16, 64, 256)},
)  # fmt: skip
EXPERTS = Sought(
    "qwen3-30b-a3b", ("h100-sxm",), 4, 1000.0, 200.0, network_gbit_s=400.0,
    only={"gemm": ("auto", "fp8"), "moe": ("auto",), "kv": ("auto",), "fmha": ("auto",), "tp": (1, 2), "pp": (1,),
          "dp": (1, 2), "ep": (1, 2), "mem_fraction": (None,), "chunked_prefill_size": (None,),
          "enable_mixed_chunk": (None,), "concurrency": (4, 32)},
)  # fmt: skip


@cache
def found(sought: str = "small", **goal: Any) -> Found:
    bounds = goal.pop("bounds", ())
    return search(
        {"small": SMALL, "experts": EXPERTS}[sought], Goal(bounds=bounds, **goal), limit=None, top=100
    )


def priced(per_hour: dict[str, float]) -> Prices:
    """Return prices of some GPUs."""
    gpus = {fold(name): Rate(price, None, None) for name, price in per_hour.items()}
    return replace(load_prices("example"), gpus=gpus, names=tuple(per_hour))


def one_by_one(sought: Sought, tpot_ms: float) -> list[tuple[float, dict[str, Any]]]:
    """Predict every combination of the plain layouts as a question of its own; best expected throughput first."""
    only, rows = sought.only, []
    for values in itertools.product(*(only[name] for name in only)):
        options = {name: None if value == "auto" else value for name, value in zip(only, values, strict=True)}
        if options["tp"] * options["pp"] > sought.count:
            continue
        rows.append(
            {"model": sought.model, "gpu": sought.gpus[0], "isl": sought.isl, "osl": sought.osl, **options}
        )
    batch = resolve({name: [row[name] for row in rows] for name in rows[0]})
    prediction = predict_batch(batch, default_profile())
    times = {
        "ttft": prediction.mean["ttft_ms"],
        "tpot": prediction.mean["tpot_ms"],
        "latency": prediction.mean["e2e_ms"],
    }
    figures = {(name, None): each.value / 1e3 for name, each in times.items()}
    factors = {name: each.high / each.value for name, each in times.items()}
    worth = chances((bound("tpot", tpot_ms),), figures, factors).worth
    answers = []
    for place, row in enumerate(batch.rows):
        rate = prediction.mean["output_tok_s_per_gpu"].value[place]
        if prediction.fits[place] and prediction.mean["tpot_ms"].value[place] <= tpot_ms:
            start = {
                name: value for name, value in rows[row].items() if name not in ("isl", "osl", "concurrency")
            }
            try:
                assemble(request_of(start))
            except RequestError:
                continue
            answers.append((float(worth[place] * rate), float(rate), rows[row]))
    return [each[1:] for each in sorted(answers, key=lambda each: -each[0])]


@pytest.mark.parametrize("tpot_ms", [12.0, 25.0, 1000.0])
def test_the_winner_is_that_of_trying_one_by_one(tpot_ms: float) -> None:
    best_rate, best = one_by_one(SMALL, tpot_ms)[0]
    winner = found(bounds=(bound("tpot", tpot_ms),)).at_once[0]
    assert winner.figures["output_tok_s_per_gpu"].value == pytest.approx(best_rate, rel=1e-9)
    chosen = winner.start.options(SMALL)
    for name in ("gemm", "kv", "tp", "mem_fraction", "chunked_prefill_size"):
        assert chosen.get(name) == best[name], name
    assert winner.workload["concurrency"] == best["concurrency"]


def test_everything_that_fits_is_evaluated_once() -> None:
    outcome = found()
    formats, layouts, settings_ = 3 * 2 * 2, 5, 4  # each cache by FA3 and by Triton
    assert outcome.evaluated == formats * layouts * settings_ * 5
    assert [tried for tried, _ in outcome.stages] == [all_ for _, all_ in outcome.stages]


def test_a_limit_tries_the_most_important_first_and_says_so() -> None:
    few = search(SMALL, limit=60)
    assert few.evaluated == 60
    assert few.stages[0][0] > 0
    assert any("60 of" in note for note in few.notes)
    assert (
        few.best.figures["output_tok_s_per_gpu"].value <= found().best.figures["output_tok_s_per_gpu"].value
    )
    first = lay_out(SMALL, default_profile()).start(0)
    assert (first.format.options, first.setting.options, first.layout.n_gpus) == ({}, {}, 1)


@settings(max_examples=12)
@given(st.floats(6.0, 60.0), st.floats(1.0, 2.0))
def test_a_stricter_level_never_yields_more(tpot_ms: float, looser: float) -> None:
    def best(threshold_ms: float) -> float:
        try:
            outcome = search(SMALL, Goal(bounds=(bound("tpot", threshold_ms),)), top=1, limit=200)
        except Unmet:
            return 0.0
        return outcome.best.figures["output_tok_s_per_gpu"].value

    assert best(tpot_ms) <= best(looser * tpot_ms)


# the front

points = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12)


def ahead(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one != other and one[0] >= other[0] and one[1] >= other[1]


def front_of(listed: list[tuple[int, int]]) -> list[tuple[int, int]]:
    columns = np.array(listed, dtype=float).reshape(-1, 2)
    return [listed[at] for at in front(columns[:, 0], columns[:, 1])]


@given(points)
def test_the_front_is_what_nothing_dominates_once(listed: list[tuple[int, int]]) -> None:
    expected = {each for each in listed if not any(ahead(other, each) for other in listed)}
    assert sorted(front_of(listed)) == sorted(expected)
    assert front_of(listed) == sorted(expected, reverse=True)


@given(points, points)
def test_more_points_take_off_the_front_only_what_they_dominate(
    listed: list[tuple[int, int]], more: list[tuple[int, int]]
) -> None:
    for each in set(front_of(listed)) - set(front_of(listed + more)):
        assert any(ahead(other, each) for other in more)


def test_a_point_without_a_figure_is_on_no_front() -> None:
    assert front(np.array([1.0, np.nan, 2.0]), np.array([1.0, 9.0, np.nan])).tolist() == [0]


def test_the_front_of_a_search_holds_its_best_throughput() -> None:
    outcome = found()
    rates = [each.output_tok_s_per_gpu.value for each in outcome.pareto]
    users = [each.tok_s_per_user.value for each in outcome.pareto]
    assert rates == sorted(rates, reverse=True)
    assert users == sorted(users)
    assert rates[0] == outcome.at_once[0].figures["output_tok_s_per_gpu"].value
    assert all(each.needs is None for each in outcome.pareto)


# ranking


def test_two_groups_and_each_start_is_what_launch_says() -> None:
    outcome = found()
    assert {each.needs is None for each in outcome.at_once} == {True}
    assert {each.start.format.gemm for each in outcome.with_checkpoint} == {"int4_wo"}
    for each in (*outcome.at_once[:3], *outcome.with_checkpoint[:2]):
        options = each.start.options(SMALL) | ({"checkpoint": "PATH"} if each.needs else {})
        assert each.launch == assemble(request_of(options))


def test_a_tie_is_what_the_best_beats_by_less_than_the_interval_of_their_ratio() -> None:
    outcome = found()
    best = outcome.at_once[0].figures["output_tok_s_per_gpu"]
    assert not outcome.at_once[0].tie
    for each in outcome.at_once[1:]:
        other = each.figures["output_tok_s_per_gpu"]
        worse, better = np.log(best.value / best.low), np.log(other.high / other.value)
        behind = np.log(best.value / other.value)
        # The interval of the ratio if all of the errors were common, and if none was.
        assert each.tie or behind > abs(worse - better)
        assert not each.tie or behind <= np.hypot(worse, better)
    assert any(each.tie for each in outcome.at_once)


def test_the_best_that_is_calibrated_stands_beside_one_that_is_not() -> None:
    assert found().best.origin == "calibrated"
    assert found().calibrated is None
    bounds = (bound("ttft", 1000.0), bound("tpot", 15.0))
    outcome = search(replace(SMALL, separate=True, network_gbit_s=400.0), Goal(bounds=bounds), top=100)
    assert outcome.best.origin != "calibrated"
    of_those = [each for each in outcome.at_once if each.origin == "calibrated"]
    assert outcome.calibrated is not None
    assert outcome.calibrated.as_dict() == of_those[0].as_dict()
    assert outcome.calibrated.score.value == min(each.score.value for each in of_those)


def test_without_intervals_nothing_ties() -> None:
    outcome = search(SMALL, Goal(), load_profile("priors"), limit=300)
    assert not any(each.tie for each in outcome.at_once)
    assert np.isnan(outcome.best.figures["tpot_ms"].low)


def test_robust_ranks_and_holds_the_level_by_the_pessimistic_end() -> None:
    outcome = found(bounds=(bound("tpot", 30.0),), robust=True)
    lows = [each.figures["output_tok_s_per_gpu"].low for each in outcome.at_once]
    assert lows == sorted(lows, reverse=True)
    assert all(each.figures["tpot_ms"].high <= 30.0 for each in outcome.at_once)
    plain = found(bounds=(bound("tpot", 30.0),))
    assert lows[0] <= plain.best.figures["output_tok_s_per_gpu"].value


def test_a_weighted_bound_penalizes_what_a_hard_one_rules_out() -> None:
    hard_ = found(bounds=(bound("tpot", 15.0),)).best
    soft = found(bounds=(bound("tpot", 15.0, hard=False),)).best
    assert hard_.figures["tpot_ms"].value <= 15.0
    assert soft.score.value <= hard_.score.value
    free = found().best.figures["output_tok_s_per_gpu"].value
    assert soft.figures["output_tok_s_per_gpu"].value < free


def test_far_beyond_a_weighted_bound_a_penalty_overflows_without_a_word() -> None:
    for threshold_ms in (21.0, 33.0, 50.0):
        assert found(bounds=(bound("ttft", threshold_ms, hard=False),)).best.keeps_level is None


def test_a_bound_on_a_percentile_binds_harder_than_on_the_mean() -> None:
    mean = found(bounds=(bound("ttft", 900.0),)).best
    tail = found(bounds=(bound("ttft", 900.0, "p99"),)).best
    assert tail.figures["ttft_ms p99"].value <= 900.0
    assert tail.figures["output_tok_s_per_gpu"].value <= mean.figures["output_tok_s_per_gpu"].value


def test_objectives_choose_what_they_name() -> None:
    lowest = {
        metric: min(each.figures[f"{metric}_ms"].value for each in found(objective=objective).at_once)
        for metric, objective in (("e2e", "latency"), ("ttft", "ttft"), ("tpot", "tpot"))
    }
    for metric, objective in (("e2e", "latency"), ("ttft", "ttft"), ("tpot", "tpot")):
        assert found(objective=objective).best.figures[f"{metric}_ms"].value == lowest[metric]
    assert set(OBJECTIVES) == {"throughput", "latency", "ttft", "tpot", "balance", "cost"}


def test_under_a_limit_kinds_of_gpu_take_turns() -> None:
    space = lay_out(replace(SMALL, gpus=("h100-sxm", "h200-sxm")), default_profile(), limit=40)
    counts = np.bincount(space.places[:, 0], minlength=2)
    assert abs(int(counts[0]) - int(counts[1])) <= 1


def test_example_prices_are_said_to_be_an_example() -> None:
    outcome = search(SMALL, Goal(prices=load_prices("example")), limit=100)
    assert any("EXAMPLE" in note for note in outcome.notes)


def test_cost_weighs_throughput_by_price() -> None:
    two = replace(SMALL, gpus=("h100-sxm", "h200-sxm"))
    cheap = search(two, Goal("cost", prices=priced({"h100-sxm": 1.0, "h200-sxm": 100.0})), limit=None, top=3)
    dear = search(two, Goal("cost", prices=priced({"h100-sxm": 100.0, "h200-sxm": 1.0})), limit=None, top=3)
    assert (cheap.best.deployment["gpu"], dear.best.deployment["gpu"]) == ("h100-sxm", "h200-sxm")
    cost = dear.best.cost_per_mtok
    assert cost is not None
    rate = dear.best.figures["output_tok_s_per_gpu"].value
    assert cost.value == pytest.approx(1e6 / (3600.0 * rate))
    assert cost.low < cost.value < cost.high


def test_separate_prefill_is_among_the_choices_and_divides_the_gpus() -> None:
    outcome = found("experts")
    pools = [each for each in outcome.at_once if each.start.layout.pools is not None]
    assert pools
    for each in pools:
        assert EXPERTS.count % each.start.layout.n_gpus == 0
        assert each.deployment["n_gpus"] == each.start.layout.n_gpus
        assert "prefill.sh" in each.launch.files


def test_gpus_that_no_replica_covers_count_as_idle() -> None:
    odd = search(replace(SMALL, count=3, only={**SMALL.only, "tp": (2,)}), limit=None)
    assert (odd.best.replicas, odd.best.idle_gpus) == (1, 1)
    even = search(replace(SMALL, count=2, only={**SMALL.only, "tp": (2,)}), limit=None)
    rates = [each.best.figures["output_tok_s_per_gpu"].value for each in (odd, even)]
    assert rates[0] == pytest.approx(rates[1] * 2.0 / 3.0)


# reasons


def test_what_binds_is_read_off_the_prediction() -> None:
    fp8 = next(each for each in found().at_once if each.start.format.gemm == "fp8")
    assert "compute" in fp8.why or "memory" in fp8.why
    tight = Sought(
        "llama-70b", ("h200-sxm",), 2, 1000.0, 200.0, separate=False,
        only={"gemm": ("auto", "fp8"), "kv": ("auto",), "fmha": ("auto",), "tp": (1,), "pp": (1,),
              "mem_fraction": (None,), "chunked_prefill_size": (None,), "enable_mixed_chunk": (None,)},
    )  # fmt: skip
    outcome = search(tight)
    assert outcome.best.start.format.gemm == "fp8"
    assert "memory size: fp8 weights fits" in outcome.best.why
    assert any(each.reason.startswith("holds no request") for each in outcome.lost)


def test_a_small_pool_makes_the_cache_decide() -> None:
    starved = replace(SMALL, isl=6000.0, only={**SMALL.only, "gemm": ("auto",), "tp": (1,), "pp": (1,),
                                               "concurrency": (64,)})  # fmt: skip
    outcome = search(starved, limit=None)
    assert outcome.best.start.format.kv == "fp8"
    assert "KV size" in outcome.best.why


def test_losers_are_counted_once_by_kind() -> None:
    outcome = found(bounds=(bound("tpot", 7.0),))
    kinds = len({(each.start.format, each.start.layout) for each in (*found().at_once,)})
    assert sum(each.number for each in outcome.lost) == kinds - 1
    assert any("misses TPOT" in each.reason for each in outcome.lost)


def test_accuracy_stands_beside_the_speed_where_it_is_published() -> None:
    sought = Sought(
        "gpt-oss-120b", ("h200-sxm",), 1, only={"kv": ("fp8",), "concurrency": (8,)}, separate=False
    )
    known = search(sought, limit=200).best.accuracy
    assert {(each.field, each.mode) for each in known} == {("kv", "fp8_e4m3")}
    assert all(each.of_16_bit is not None and each.licence for each in known)
    assert not found().best.accuracy  # nothing is known of this model, and nothing is made up


def test_every_published_score_has_source_and_licence() -> None:
    fields = {"gemm": "gemm", "kv": "kvcache", "moe": "moe", "fmha": "fmha"}
    for each in table():
        assert each.licence
        assert "@" in each.source
        assert 0.0 < each.score < 1.0
        assert get_architecture(each.model).name == each.model
        assert each.mode in {mode.name for mode in MODES[fields[each.field]]}  # type: ignore[index]


# formats and kernels


def test_formats_are_each_kind_of_physics_once_and_start() -> None:
    offer = formats_of("qwen3-32b", "h200-sxm", "sglang", None, default_profile(), {})
    assert offer.found[0].options == {}
    assert "kv fp8_e4m3" in offer.same
    assert offer.refused["gemm mxfp8"]
    for form in offer.found:
        assemble(request_of({"model": "qwen3-32b", "gpu": "h200-sxm", **form.options}))
        assert (form.needs is not None) == ("checkpoint" in form.options)


def test_kernels_that_deployments_share_are_those_of_each_alone() -> None:
    axes = {
        "model": ("deepseek-r1", "qwen3-30b-a3b", "glm-5"), "gemm": ("auto", "bfloat16"), "moe": ("auto", "fp8"),
        "kv": ("auto", "fp8_e4m3"), "tp": (4, 8), "dp": (1, 2), "ep": (1, 4),
    }  # fmt: skip
    rows = list(itertools.product(*axes.values()))
    columns = {name: [row[at] for row in rows] for at, name in enumerate(axes)}
    batch = resolve({"gpu": ["b200-sxm"] * len(rows)} | columns)
    assert batch.system.tp.size > 100
    together = tabulate_kernels(batch.system)
    for at in range(0, batch.system.tp.size, 17):
        alone = tabulate_kernels(batch.system.take(np.array([at])))
        for key, times in alone.by_tokens.items():
            np.testing.assert_array_equal(together.by_tokens[key][at], times[0])
        np.testing.assert_array_equal(together.decode_mixers[at], alone.decode_mixers[0])
        np.testing.assert_array_equal(together.prefill_mixers[at], alone.prefill_mixers[0])


def test_columns_are_what_questions_one_by_one_answer() -> None:
    columns = evaluate(lay_out(EXPERTS, default_profile()), default_profile(), ["p99"])
    rows = np.linspace(0, columns.at.size - 1, 9).astype(int)
    prediction = predict_batch(columns.asked(rows), default_profile())
    np.testing.assert_allclose(columns.figures["tpot", None][rows], prediction.mean["tpot_ms"].value / 1e3)
    np.testing.assert_allclose(
        columns.figures["ttft", "p99"][rows], prediction.percentiles["ttft_ms"][99] / 1e3
    )


# what cannot be


def test_an_impossible_level_names_the_bound_and_what_is_reached() -> None:
    with pytest.raises(Unmet, match=r"not reached: TPOT of 0\.5 ms") as refused:
        found(bounds=(bound("tpot", 0.5),))
    nearest = float(refused.value.alternatives[0].removeprefix("--tpot-ms "))
    assert found(bounds=(bound("tpot", nearest),)).best
    with pytest.raises(Unmet):
        found(bounds=(bound("tpot", 0.97 * nearest),))


def test_bounds_that_are_reached_apart_but_not_together() -> None:
    tpot = found(objective="tpot").best
    ttft = found(objective="ttft").best
    both = (
        bound("tpot", tpot.figures["tpot_ms"].value * 1.001),
        bound("ttft", ttft.figures["ttft_ms"].value * 1.001),
    )
    if tpot.start == ttft.start:
        pytest.skip("one start is the best in both")
    with pytest.raises(Unmet, match="by itself"):
        found(bounds=both)


def test_a_model_that_fits_nowhere_says_what_is_missing_and_where_it_would_fit() -> None:
    with pytest.raises(NoRoom, match=r"lacks \d+\.\d GiB a GPU") as refused:
        search(Sought("deepseek-v3", ("l40s",), 2), limit=1000)
    assert refused.value.alternatives
    count, _, name = refused.value.alternatives[0].partition(" x ")
    fits = search(
        Sought("deepseek-v3", (get_accelerator(name).name,), int(count), only={"gemm": ("auto",)}), limit=200
    )
    assert fits.at_once


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"model": "no-such-model"}, UnknownName),
        ({"gpus": ("no-such-gpu",)}, UnknownName),
        ({"engines": ("no-such-engine",)}, UnknownName),
        ({"count": 0}, InvalidValue),
        ({"isl": 0.0}, InvalidValue),
        ({"isl": float("nan")}, InvalidValue),
        ({"isl": 1e9}, InvalidValue),
        ({"gpus": ("h200-sxm", "h200-sxm")}, InvalidValue),
        ({"only": {"concurrency": (0,)}}, InvalidValue),
        ({"only": {"tp": (3,)}}, InvalidValue),
        ({"only": {"gemm": ("no-such-format",)}}, RequestError),
    ],
)
def test_wrong_requests_are_refused(changed: dict[str, Any], kind: type[RequestError]) -> None:
    with pytest.raises(kind):
        search(replace(SMALL, **changed), limit=500)


@pytest.mark.parametrize(
    ("only", "words"),
    [
        ({"kv": ("auto", "no-such-format")}, "unknown kvcache mode 'no-such-format'"),
        ({"fmha": ("no-such-format",)}, "unknown fmha mode 'no-such-format'"),
        ({"attention_backend": ("no-such-backend",)}, "unknown attention_backend of sglang"),
        ({"moe_backend": ("triton",)}, "a dense model has no experts"),
        ({"moe_a2a_backend": ("deepep",)}, "laid out so: moe_a2a_backend deepep"),
        ({"tp": (64,)}, "laid out so: tp 64"),
        ({"tp": (3,)}, "tp 3 .* does not divide"),
    ],
)
def test_where_nothing_is_left_the_option_that_leaves_nothing_is_named(
    only: dict[str, Any], words: str
) -> None:
    with pytest.raises(RequestError, match=f"^[^;]*{words}"):
        search(replace(SMALL, only=only), limit=500)


def test_without_a_level_nothing_is_said_to_keep_it() -> None:
    found = search(SMALL, limit=500)
    assert found.lost
    assert all(each.reason.startswith(("within", "more than", "holds no")) for each in found.lost)


def test_the_note_on_separate_prefill_stands_where_that_was_tried() -> None:
    for separate in (True, False):
        notes = search(replace(SMALL, separate=separate), limit=500).notes
        assert any("prefill on instances of its own" in each for each in notes) == separate
    tensorrt = search(replace(SMALL, engines=("trtllm",)), limit=500)
    assert not any("prefill on instances of its own" in each for each in tensorrt.notes)


def test_more_than_can_be_held_is_refused_before_it_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aicalib.plan.search.space.MOST_CONFIGURATIONS", 100)
    with pytest.raises(InvalidValue, match="more than the 100"):
        search(SMALL, limit=None)
    assert search(SMALL, limit=100).evaluated == 100


def test_weights_that_need_a_checkpoint_are_found_where_the_published_ones_do_not_start() -> None:
    offer = formats_of("deepseek-v3.2", "rtx-4090", "trtllm", None, default_profile(), {})
    assert offer.found
    assert all(form.needs for form in offer.found)
    assert "gemm auto" in offer.refused


@pytest.mark.parametrize(
    ("goal", "kind"),
    [
        (Goal("speed"), UnknownName),
        (Goal("cost"), InvalidValue),
        (Goal(bounds=(bound("tpot", -1.0),)), InvalidValue),
        (Goal(bounds=(bound("tpot", float("nan")),)), InvalidValue),
        (Goal(prices=priced({"h200-sxm": 0.0})), InvalidValue),
        (Goal(prices=priced({"h100-sxm": 1.0})), InvalidValue),
    ],
)
def test_wrong_goals_are_refused(goal: Goal, kind: type[RequestError]) -> None:
    with pytest.raises(kind):
        search(SMALL, goal)


def test_an_answer_of_one_token_has_no_tpot_to_choose_by() -> None:
    with pytest.raises(InvalidValue, match="one token"):
        search(replace(SMALL, osl=1.0), Goal("tpot"), limit=200)
    assert search(replace(SMALL, osl=1.0), limit=200).best.figures["output_tok_s_per_gpu"].value > 0.0


def test_the_document_has_every_key_and_is_json() -> None:
    document = json.loads(json.dumps(found("experts").as_dict()))
    assert {"evaluated", "best", "pareto", "refused", "stages", "lost"} <= set(document)
    for each in document["best"]:
        assert {
            "deployment",
            "workload",
            "prediction",
            "argv",
            "why",
            "memory",
            "tie",
            "keeps_level",
            "ranked_by",
        } <= set(each)
        assert each["prediction"]["tpot_ms"]["origin"]
