"""Repeats of a point: factors of occasions, the noise between repeats, and what own runs make of both."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import RUN, write

from aicalib.calibrate.limits import refresh_flags
from aicalib.calibrate.own import calibrate_on, with_own
from aicalib.calibrate.records import stored_runs
from aicalib.calibrate.repeats import Repeats, Spread, repeats_of, two_way
from aicalib.calibrate.runs import as_runs
from aicalib.calibrate.shift import REPEATS
from aicalib.prediction import predict_batch
from aicalib.profiles.profile import default_profile

REAL = Path(__file__).parent / "data" / "cpu_repeats.jsonl"
GPU = "h100-sxm"


def test_a_real_sweep_repeated_19_minutes_later():
    """One SGLang server on a shared CPU host, 36 points twice: all of the second sweep is faster by a fourth."""
    rows = [json.loads(line) for line in REAL.read_text().splitlines()]
    spots = [(row["isl"], row["osl"], row["concurrency"]) for row in rows]
    points = np.array([sorted(set(spots)).index(spot) for spot in spots])
    again = np.array([int(row["occasion"] == "again") for row in rows])
    for metric, faster in (("mean_ttft_ms", 0.21), ("mean_tpot_ms", 0.24)):
        logs = np.log([row[metric] for row in rows])
        found = two_way(logs, points, again, REPEATS[metric.removeprefix("mean_")])
        assert 1.0 - np.exp(found.factors[1] - found.factors[0]) == pytest.approx(faster, abs=0.02)
        # What is left is a tenth, where the two sweeps as they stand differ by more than a fourth.
        assert 0.07 < found.noise < 0.13
        apart = (
            logs[again == 1][np.argsort(points[again == 1])]
            - logs[again == 0][np.argsort(points[again == 0])]
        )
        assert found.noise < np.sqrt(np.mean(apart**2) / 2.0)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.floats(0.02, 0.12), st.floats(0.01, 0.1))
def test_factors_and_noise_of_simulated_repeats(seed, between, noise):
    random = np.random.default_rng(seed)
    points, occasions = np.repeat(np.arange(40), 2), np.tile(random.permuted(np.arange(5)), 16)
    truth = between * random.standard_normal(5)
    logs = random.normal(0, 2, 40)[points] + truth[occasions] + noise * random.standard_normal(80)
    found = two_way(logs, points, occasions, REPEATS["tpot_ms"])
    apart = found.factors - truth
    assert np.std(apart) < 1.2 * noise
    assert 0.5 * noise < found.noise < 1.5 * noise
    # The level of all points together is theirs, not the occasions'.
    assert abs(found.factors.mean()) < between + noise


def test_one_repeat_is_little_and_none_is_the_prior():
    same = two_way(np.array([1.0, 1.3]), np.zeros(2, dtype=int), np.zeros(2, dtype=int), 0.006)
    assert 0.03 < same.noise < 0.3 / np.sqrt(2)
    assert repeats_of(as_runs([RUN | {"gpu": GPU}])).spread(GPU, "ttft_ms") == Spread(0.07, 0.07)


def test_an_odd_run_moves_its_occasion_little():
    points, occasions = np.repeat(np.arange(8), 2), np.tile([0, 1], 8)
    logs = np.where(occasions == 1, 0.2, 0.0) + 0.001 * np.arange(16)
    logs[3] += 2.0
    found = two_way(logs, points, occasions, 0.006)
    assert found.factors[1] - found.factors[0] == pytest.approx(0.2, abs=0.02)


def measured(tmp_path, store, occasions, factor, noise=0.0, name="own"):
    """Store a sweep over the concurrency, measured at each of the occasions; return what the store holds."""
    random = np.random.default_rng(3)
    rows = [
        RUN | {
            "tp": 1, "engine_version": "0.5.9",
            "concurrency": concurrency, "num_prompts": 4 * concurrency, "seed": 100 * at + concurrency,
            "mean_tpot_ms": (80 + concurrency) * factor**at * np.exp(noise * random.standard_normal()),
            "mean_ttft_ms": (60 + 20 * concurrency) * factor**at * np.exp(noise * random.standard_normal()),
        } | ({} if occasion is None else {"occasion": occasion})
        for at, occasion in enumerate(occasions)
        for concurrency in (1, 2, 4, 8, 16)
    ]  # fmt: skip
    store.ingest(write(tmp_path / f"{name}.jsonl", *rows))
    refresh_flags(store)
    return stored_runs(store)


def test_an_occasion_makes_far_repeats_no_ambiguous_configuration(tmp_path, store):
    for record in measured(tmp_path, store, ["a", "b"], 1.4):
        assert "ambiguous_config" not in record["flags"]
    unnamed = measured(tmp_path, store, [None, None], 1.4, name="unnamed")
    assert sum("ambiguous_config" in record["flags"] for record in unnamed) == 10


def test_near_repeats_at_two_occasions_are_no_copies(tmp_path, store):
    assert all(record["flags"] == [] for record in measured(tmp_path, store, ["a", "b"], 1.0001))


def test_the_factor_of_an_occasion_is_taken_out_of_own_runs(tmp_path, store):
    records = measured(tmp_path, store, ["first", "again"], 1.4)
    found = calibrate_on(default_profile(), records)
    assert found.runs.batch.at.size == 10
    spread = found.repeats.spread(GPU, "tpot_ms")
    assert (spread.repeats, spread.occasions) == (5, 2)
    assert np.exp(spread.factors["again"] - spread.factors["first"]) == pytest.approx(1.4, rel=0.02)
    logs = {}
    for run_id, log in zip(found.profile.fitted["run_id"], found.profile.fitted["log_tpot_ms"], strict=True):
        logs[run_id] = log
    mine = [(each["concurrency"], logs[each["run_id"]]) for each in records]
    for concurrency in (1, 2, 4, 8, 16):
        one, other = (log for at, log in mine if at == concurrency)
        assert one == pytest.approx(other, abs=0.02)
    assert any("2 occasions" in remark for remark in found.remarks)
    assert found.profile.lineage["repeats"][GPU]["tpot_ms"]["repeats"] == 5


def test_noise_within_one_occasion_is_found(tmp_path, store):
    records = measured(tmp_path, store, ["one"] * 4, 1.0, 0.2)
    spread = repeats_of(as_runs(records)).spread(GPU, "tpot_ms")
    assert (spread.repeats, spread.occasions, spread.factors) == (15, 0, {})
    assert spread.noise == pytest.approx(0.2, rel=0.4)


def test_runs_of_a_noisy_machine_weigh_less(tmp_path, store):
    runs = as_runs(measured(tmp_path, store, ["one"], 1.0)).take(np.arange(2))
    base, levels = default_profile(), []
    for noise in (0.006, base.spreads["tpot_ms"]["noise"], 0.5):
        said = Repeats({(GPU, metric): Spread(noise, noise, repeats=9) for metric in REPEATS})
        levels.append(predict_batch(runs.batch, with_own(base, runs, said)).levels.log["tpot_ms"][0])
    assert levels[0] == levels[1]  # never less than what runs of the base scatter by about a curve
    before = predict_batch(runs.batch, base).levels.log["tpot_ms"][0]
    assert before < levels[2] < levels[1]


def test_without_repeats_a_profile_is_what_it_was(tmp_path, store):
    records = measured(tmp_path, store, ["one"], 1.0)
    plain = [{**record, "extra": {"seed": record["extra"]["seed"]}} for record in records]
    with_, without = (calibrate_on(default_profile(), each).profile for each in (records, plain))
    assert with_.label == without.label
