"""Levels of measured places, intervals by nearness, own runs on a base profile, and the nearest runs."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicalib.calibrate.build import coefficients, fitted, log_errors
from aicalib.calibrate.intervals import Imitation, conformal, quantiles, with_tables_of
from aicalib.calibrate.intervals import _relative as relative
from aicalib.calibrate.intervals import _untimed as untimed
from aicalib.calibrate.learning import learning_curve
from aicalib.calibrate.levels import Tree, Variances, curve_keys, levels_of, shrunk
from aicalib.calibrate.lineage import fitted_rows
from aicalib.calibrate.own import base_errors, calibrate_on, with_own
from aicalib.calibrate.runs import as_runs
from aicalib.calibrate.validate import SPLITS, folds, left_out
from aicalib.errors import InvalidValue
from aicalib.nearness import DEPTHS, NEARNESS, Nodes, paths
from aicalib.prediction import METRICS, predict_batch
from aicalib.profiles import Profile, priors, uncalibrated
from aicalib.profiles.coefficients import position
from aicalib.profiles.profile import DEPTH_MARK
from aicalib.report.evidence import distances
from aicalib.report.prediction import document, text
from aicalib.resolve.rows import resolve

TRUTH = Variances((0.20**2, 0.10**2, 0.05**2, 0.05**2, 0.06**2), 0.05**2)


def some_runs(published, count=240):
    kept = [
        row for row in published if row.get("source") == "aic-silicon" and not row.get("ambiguous_config")
    ]
    return as_runs(kept[:: max(len(kept) // count, 1)])


def synthetic(random, groups=60, inside=2, points=4, variances=TRUTH):
    """Runs with known effects: keys of their curves, logs, and the level of each run's curve."""
    curves, logs, truth = [], [], []

    def grow(path, level):
        depth = len(path)
        if depth == len(DEPTHS):
            noise = np.sqrt(variances.noise) * random.standard_normal(points)
            curves.extend([DEPTH_MARK.join(path)] * points)
            logs.extend(level + noise)
            truth.extend([level] * points)
            return
        for number in range(groups if depth == 0 else inside):
            effect = np.sqrt(variances.effects[depth]) * random.standard_normal()
            grow([*path, f"{DEPTHS[depth]}{number}"], level + effect)

    grow([], 0.0)
    return curves, np.array(logs), np.array(truth)


def test_known_variances_are_found():
    curves, logs, truth = synthetic(np.random.default_rng(1))
    levels, found = shrunk(logs, Tree.of(curves))
    for name, expected in TRUTH.as_dict().items():
        # Student's t of four degrees has heavier tails than what is found here: its scale comes out smaller.
        assert 0.6 * expected < found.as_dict()[name] < 1.2 * expected, name
    assert np.sqrt(np.mean((levels[-1][Tree.of(curves).curve] - truth) ** 2)) < 0.03


def test_one_run_a_curve_is_worth_more_with_its_neighbors():
    curves, logs, truth = synthetic(np.random.default_rng(7), groups=30, points=1)
    levels, _ = shrunk(logs, Tree.of(curves), TRUTH)
    miss = levels[-1][Tree.of(curves).curve] - truth
    assert np.sqrt(np.mean(miss**2)) < 0.85 * np.sqrt(np.mean((logs - truth) ** 2))


def test_a_run_that_cannot_be_moves_its_neighbors_little():
    curves, logs, _ = synthetic(np.random.default_rng(2), groups=20)
    tree = Tree.of(curves)
    before, _ = shrunk(logs, tree, TRUTH)
    odd = logs.copy()
    odd[0] += 3.0
    after, _ = shrunk(odd, tree, TRUTH)
    assert abs(after[-1][tree.curve[0]] - before[-1][tree.curve[0]]) < 0.25
    elsewhere = tree.curve != tree.curve[0]
    assert np.abs(after[-1] - before[-1])[tree.curve[elsewhere]].max() < 0.05


@given(
    st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=8),
    st.lists(st.floats(1e-3, 0.5), min_size=6, max_size=6),
)
def test_a_level_lies_between_nothing_and_its_runs(logs, deviations):
    variances = Variances(tuple(each**2 for each in deviations[:-1]), deviations[-1] ** 2)
    levels, _ = shrunk(np.array(logs), Tree.of([DEPTH_MARK.join("abcde")] * len(logs)), variances)
    low, high = min(0.0, *logs), max(0.0, *logs)
    path = [float(each[0]) for each in levels]
    assert all(low - 1e-9 <= each <= high + 1e-9 for each in path)
    assert all(abs(above) <= abs(below) + 1e-9 for above, below in pairwise(path))


@given(st.floats(0.01, 0.2), st.integers(1, 20))
def test_more_runs_of_the_same_figure_bring_the_level_nearer_to_it(log, count):
    key = DEPTH_MARK.join("abcde")
    one, more = (shrunk(np.full(n, log), Tree.of([key] * n), TRUTH)[0][-1][0] for n in (count, count + 1))
    assert 0.0 < one <= more + 1e-12 <= log + 1e-9


def test_places_count_their_runs_and_contain_each_other():
    curves, logs, _ = synthetic(np.random.default_rng(3), groups=4)
    missing = np.where(np.arange(logs.size) % 3 == 0, np.nan, logs)
    levels, deviations = levels_of({"tpot_ms": logs, "ttft_ms": missing}, curves)
    for metric, values in (("tpot_ms", logs), ("ttft_ms", missing)):
        groups = [runs for key, (_, runs) in levels[metric].items() if DEPTH_MARK not in key]
        assert len(groups) == 4
        assert sum(groups) == np.isfinite(values).sum()
        assert set(deviations[metric]) == {*DEPTHS, "noise"}


def test_conformal_quantiles_cover_new_groups():
    random = np.random.default_rng(4)
    covered = []
    for _ in range(300):
        sizes = random.integers(1, 40, 31)
        level = 0.1 * random.standard_normal(31)
        groups = np.repeat(np.arange(31), sizes)
        errors = np.abs(level[groups] + 0.1 * random.standard_normal(groups.size))
        seen = groups < 30
        covered.append(np.mean(errors[~seen] <= conformal(errors[seen], groups[seen])))
    assert 0.88 < np.mean(covered) < 0.97


def test_too_few_groups_give_the_largest_error():
    assert conformal(np.array([0.1, 0.3, 0.2]), np.array([0, 1, 2])) == 0.3


def test_to_know_less_never_makes_surer(published):
    runs = some_runs(published)
    random = np.random.default_rng(5)
    n = runs.batch.at.size
    parts = [
        Imitation(
            {metric: (0.1 + 0.02 * place) * random.standard_normal(n) for metric in METRICS[:3]}
            | {"output_tok_s": random.standard_normal(n)},
            {metric: np.full(n, place) for metric in (*METRICS[:3], "output_tok_s")},
        )
        for place in (0, 1, 3, 4, 5)
    ]
    found = quantiles(runs, parts, np.ones(n, dtype=bool))
    for by_metric in found.values():
        for by in by_metric.values():
            assert list(by) == list(NEARNESS)
            assert (np.diff(list(by.values())) >= -1e-9).all()
    assert found["any"]["ttft_ms"]["curve"] < found["any"]["ttft_ms"]["datasheet"]


def test_keys_say_where_a_run_lies():
    asked = {
        "model": ["deepseek-r1", "deepseek-r1", "deepseek-r1"], "gpu": "h200", "engine": "sglang", "tp": 8,
        "engine_version": ["0.5.9", "0.5.9.post1", "0.5.10"], "isl": [1024.0, 922.0, 1024.0], "osl": 1024.0,
        "concurrency": [4, 64, 4],
    }  # fmt: skip
    batch = resolve({key: value if isinstance(value, list) else [value] * 3 for key, value in asked.items()})
    steps = paths(batch, np.arange(3))
    assert [len(keys) for _, _, keys in steps] == [1, 1, 2, 2, 2]
    codes, _, keys = steps[-1]
    assert codes[0] == codes[1] != codes[2]
    assert keys[codes[0]] == (
        "sglang deepseek-v3-arch-671b h200-sxm / deepseek-r1 fp8_block fp8_block kv bfloat16 / 0.5.9 poll 1 / "
        "tp 8 dp 1 ep 1 pp 1 / 1024 in 1024 out"
    )


def test_an_unknown_curve_takes_the_level_of_its_configuration(published):
    runs = some_runs(published, 80)
    key = curve_keys(runs.batch)[0]
    parts = key.split(DEPTH_MARK)
    levels = {"tpot_ms": {DEPTH_MARK.join(parts[: depth + 1]): (0.1 * (depth + 1), depth + 7) for depth in range(4)},
              "ttft_ms": {parts[0]: (-0.2, 9)}}  # fmt: skip
    nodes = Nodes(levels, {})
    found = nodes.find(runs.batch)
    assert found.log["tpot_ms"][0] == pytest.approx(0.4)
    assert found.runs["tpot_ms"][0] == 10
    assert found.depth["tpot_ms"][0] == 3
    assert found.log["ttft_ms"][0] == pytest.approx(-0.2)
    assert nodes.key_of(int(found.node[0]), "ttft_ms") == parts[0]
    elsewhere = np.array([group != runs.groups[0] for group in runs.groups])
    assert (found.log["tpot_ms"][elsewhere] == 0).all()
    assert (found.depth["ttft_ms"][elsewhere] == -1).all()


def test_a_point_far_from_the_measured_ones_is_not_in_their_curve(published):
    runs = some_runs(published, 80)
    key, at_once = curve_keys(runs.batch)[0], float(runs.batch.load.concurrency[0])
    parts = key.split(DEPTH_MARK)
    known = {DEPTH_MARK.join(parts[: depth + 1]): (0.1, 1) for depth in range(len(DEPTHS))}
    levels = {"tpot_ms": known, "ttft_ms": known}
    for span, depth in (
        ((at_once, at_once), 4),
        ((at_once / 2, at_once / 2), 4),
        ((4 * at_once, 8 * at_once), 3),
    ):
        found = Nodes(levels, {key: span}).find(runs.batch)
        assert found.depth["tpot_ms"][0] == depth
        assert found.log["tpot_ms"][0] == 0.1


def test_levels_carry_through_to_end_to_end_and_throughput(published):
    runs = some_runs(published, 60)
    plain = uncalibrated()
    group = curve_keys(runs.batch)[0].split(DEPTH_MARK)[0]
    level = {"ttft_ms": {group: (np.log(1.5), 1)}, "tpot_ms": {group: (np.log(0.8), 1)}}
    moved = predict_batch(runs.batch, dataclasses.replace(plain, levels=level))
    before = predict_batch(runs.batch, plain)
    inside = np.array([each == runs.groups[0] for each in runs.groups])
    for metric, factor in (("ttft_ms", 1.5), ("tpot_ms", 0.8)):
        ratio = moved.mean[metric].value / before.mean[metric].value
        np.testing.assert_allclose(ratio[inside], factor)
        np.testing.assert_allclose(ratio[~inside], 1.0)
        assert moved.percentiles[metric][50][inside] == pytest.approx(
            factor * before.percentiles[metric][50][inside]
        )
    first, each = moved.mean["ttft_ms"].value, moved.mean["tpot_ms"].value
    whole = first + (runs.batch.load.osl - 1.0) * each
    np.testing.assert_allclose(moved.mean["e2e_ms"].value, whole, rtol=1e-6)
    # Little's law: what is in flight stays the same.
    flight = moved.mean["requests_s"].value * moved.mean["e2e_ms"].value
    np.testing.assert_allclose(flight, before.mean["requests_s"].value * before.mean["e2e_ms"].value)


@pytest.mark.parametrize("factor", [0.7, 1.6])
def test_an_engine_of_another_pace_is_the_predicted_one_on_another_clock(factor):
    rates = np.linspace(0.2, 40.0, 25)
    asked = {"model": ["llama-8b"] * 25, "gpu": ["h100-sxm"] * 25, "isl": [1500.0] * 25, "osl": [300.0] * 25}
    slow, plain = (resolve(asked | {"request_rate": each}) for each in (rates, rates * factor))
    group = curve_keys(slow)[0].split(DEPTH_MARK)[0]
    levels = {metric: {group: (np.log(factor), 1)} for metric in ("ttft_ms", "tpot_ms")}
    found = predict_batch(slow, dataclasses.replace(uncalibrated(), levels=levels))
    other = predict_batch(plain, uncalibrated())
    assert set(found.overloaded) == {True, False}
    np.testing.assert_array_equal(found.overloaded, other.overloaded)
    np.testing.assert_array_equal(found.overloaded, rates >= found.service.sustainable_s)
    np.testing.assert_allclose(found.service.sustainable_s, other.service.sustainable_s / factor)
    for metric, ratio in (
        ("ttft_ms", factor),
        ("tpot_ms", factor),
        ("e2e_ms", factor),
        ("requests_s", 1 / factor),
    ):
        np.testing.assert_allclose(found.mean[metric].value, ratio * other.mean[metric].value)
    np.testing.assert_allclose(found.service.running, other.service.running)


def test_levels_of_other_groups_leave_a_left_out_group_as_it_is(published):
    runs = some_runs(published)
    fold = folds(SPLITS["group"](runs), 4)
    seen, out = runs.take(np.flatnonzero(fold != 0)), runs.take(np.flatnonzero(fold == 0))
    profile = fitted(seen)
    assert profile.levels["tpot_ms"]
    with_, without = (
        predict_batch(out.batch, each) for each in (profile, dataclasses.replace(profile, levels={}))
    )
    for metric in METRICS:
        np.testing.assert_array_equal(with_.mean[metric].value, without.mean[metric].value)
    assert with_.levels is not None
    assert (with_.levels.depth["tpot_ms"] == -1).all()


@pytest.fixture(scope="module")
def base(published):
    """A profile of some runs, without one group, with intervals of round figures; and the group's runs."""
    runs = some_runs(published)
    labels = SPLITS["group"](runs)
    group = max(set(labels), key=labels.count)
    own = np.array([label == group for label in labels])
    found = fitted(runs.take(np.flatnonzero(~own)), "base")
    width = {near: 0.1 * (1 + place) for place, near in enumerate(NEARNESS)}
    by = {"any": dict.fromkeys(("ttft_ms", "tpot_ms", "e2e_ms", "output_tok_s"), width)}
    lineage = {**found.lineage, "runs": int((~own).sum())}
    return dataclasses.replace(found, quantiles=by, lineage=lineage), runs.take(np.flatnonzero(own))


def records_of(runs):
    return [record | {"run_id": f"own {at}", "flags": []} for at, record in enumerate(runs.answered)]


def test_one_own_run_is_enough_and_is_shrunk(base):
    profile, own = base
    one = calibrate_on(profile, records_of(own)[:1], "team")
    assert one.profile.label.startswith("team@")
    assert one.profile.lineage["base"] == profile.label
    assert one.profile.values.tolist() == profile.values.tolist()
    assert one.profile.spreads == profile.spreads
    assert one.scores[0].left_out is None
    assert any("one run" in remark for remark in one.remarks)
    figure = np.log(
        one.runs.measured["tpot_ms"][0] / predict_batch(one.runs.batch, profile).mean["tpot_ms"].value[0]
    )
    found = predict_batch(one.runs.batch, one.profile)
    level = found.levels.log["tpot_ms"][0]
    assert 0 < level / figure < 1
    assert found.levels.runs["tpot_ms"][0] == 1
    assert NEARNESS[found.nearness("tpot_ms")[0]] == "curve"
    before = predict_batch(own.batch, profile).mean["tpot_ms"]
    assert (found.mean["tpot_ms"].high / found.mean["tpot_ms"].low)[0] < (before.high / before.low)[0]


def test_own_runs_help_the_rest_of_their_group(base):
    profile, own = base
    half = np.arange(0, own.batch.at.size, 2)
    rest = np.arange(1, own.batch.at.size, 2)
    known = with_own(profile, own.take(half))
    errors = [
        np.nanmedian(np.abs(predict_batch(own.take(rest).batch, each).mean["tpot_ms"].value
                            / own.take(rest).measured["tpot_ms"] - 1))
        for each in (profile, known)
    ]  # fmt: skip
    assert errors[1] < errors[0]


def test_a_profile_with_own_runs_can_be_the_base_of_more(base):
    profile, own = base
    records = records_of(own)
    first = calibrate_on(profile, records[:3], "team").profile
    second = calibrate_on(Profile.from_json(first.to_json()), records[:6], "team")
    assert second.known == 3
    assert second.runs.batch.at.size == 3
    at_once = calibrate_on(profile, records[:6], "team").profile
    for metric in ("ttft_ms", "tpot_ms"):
        assert second.profile.levels[metric].keys() == at_once.levels[metric].keys()
        for key, (level, runs) in at_once.levels[metric].items():
            assert second.profile.levels[metric][key] == (pytest.approx(level, abs=2e-3), runs), key
    assert second.profile.version != first.version
    logs, curves = base_errors(second.profile)
    assert len(curves) == len(second.profile.fitted["run_id"]) == logs["tpot_ms"].size


def test_own_runs_that_change_nothing_are_refused(base):
    profile, own = base
    records = records_of(own)[:2]
    known = calibrate_on(profile, records).profile
    with pytest.raises(InvalidValue, match="fitted on all 2 runs already"):
        calibrate_on(known, records)
    with pytest.raises(InvalidValue, match="fitted on no runs"):
        calibrate_on(uncalibrated(), records)
    with pytest.raises(InvalidValue, match="none of 1 runs can be fitted"):
        calibrate_on(profile, [records[0] | {"tp": None}])


def test_levels_survive_json(base):
    profile, _ = base
    again = Profile.from_json(profile.to_json())
    assert again.levels == profile.levels
    assert again.spreads == profile.spreads
    assert again.quantiles == profile.quantiles
    assert again.fitted == profile.fitted
    assert again.to_json() == profile.to_json()


def test_a_prediction_says_which_runs_moved_it_and_which_are_near(base):
    profile, own = base
    known = with_own(profile, own)
    prediction = predict_batch(own.batch, known)
    found = document(prediction, 0)
    level = found["prediction"]["tpot_ms"]["level"]
    assert level["of"] == curve_keys(own.batch)[0]
    assert level["runs"] >= 1
    assert found["prediction"]["tpot_ms"]["origin"] == "calibrated"
    assert found["prediction"]["e2e_ms"]["nearness"] == "curve"
    assert "level" not in found["prediction"]["e2e_ms"]
    assert f"TPOT x {level['factor']:.2f}, the level of {level['runs']} run" in text(found)
    assert found["evidence"][0]["distance"] == 0
    assert found["evidence"][0]["src_ref"] == own.answered[0]["src_ref"]
    far = distances(predict_batch(own.batch, known), 0, float(own.batch.load.concurrency[0]))
    families = np.array(known.fitted["family"]) == own.groups[0][1]
    assert far[families].min() < far[~families].min()
    assert far.min() == 0


def test_a_distance_grows_with_each_difference(base):
    profile, _ = base
    asked = {
        "model": "deepseek-r1", "gpu": "h200", "engine": "sglang", "tp": 8, "isl": 1024.0, "osl": 1024.0,
        "concurrency": 8,
    }  # fmt: skip
    row = {
        "run_id": "x", "family": "deepseek-v3-arch-671b", "model": "deepseek-r1", "gpu": "h200-sxm",
        "engine": "sglang", "gemm": "fp8_block", "moe": "fp8_block", "kv": "bfloat16", "tp": 8, "dp": 1, "ep": 1,
        "isl": 1024.0, "osl": 1024.0, "concurrency": 8,
    }  # fmt: skip
    others = {"family": "x", "model": "deepseek-v3", "gpu": "b200-sxm", "engine": "vllm", "gemm": "nvfp4",
              "moe": "nvfp4", "kv": "fp8", "tp": 4, "dp": 8, "ep": 8, "isl": 8192.0, "osl": 128.0,
              "concurrency": 64}  # fmt: skip
    rows = [row, *(row | {name: value} for name, value in others.items())]
    fitted_on = {name: [each[name] for each in rows] for name in row}
    batch = resolve({name: [value] for name, value in asked.items()})
    found = distances(predict_batch(batch, dataclasses.replace(profile, fitted=fitted_on)), 0, 8.0)
    assert found[0] == 0
    assert (found[1:] > 0).all()
    assert found.argmax() == 1 + list(others).index("family")


def test_kernels_of_another_gpu_are_imitated(published):
    runs = some_runs(published, 60)
    chosen, strange = with_tables_of(runs, relative)
    plain = predict_batch(runs.take(chosen).batch, uncalibrated()).mean["tpot_ms"].value
    moved = predict_batch(strange.batch, uncalibrated()).mean["tpot_ms"].value
    ratio = moved / plain
    assert 0.02 < np.abs(np.log(ratio)).max() < 1.0
    _, nowhere = with_tables_of(runs, untimed)
    assert np.isfinite(predict_batch(nowhere.batch, uncalibrated()).mean["tpot_ms"].value).all()
    assert with_tables_of(runs, lambda _: None) is None


def test_kernels_of_another_gpu_are_not_those_asked_about_before(published):
    """The step times of few deployments are kept: these have the names of others, and other times."""
    runs, profile = some_runs(published, 20), uncalibrated()
    chosen, strange = with_tables_of(runs, relative)
    plain, moved = (predict_batch(each.batch, profile) for each in (runs.take(chosen), strange))
    assert np.abs(np.log(moved.mean["tpot_ms"].value / plain.mean["tpot_ms"].value)).max() > 0.01


def test_the_learning_curve_asks_only_what_was_not_revealed(published):
    def levels_alone(part):
        logs = log_errors(part, uncalibrated())
        levels, spreads = levels_of(logs, curve_keys(part.batch))
        rows = fitted_rows(part, logs)
        return dataclasses.replace(uncalibrated(), fitted=rows, levels=levels, spreads=spreads)

    runs = some_runs(published, 120)
    found = learning_curve(runs, left_out(runs, "group", levels_alone), draws=2)
    steps = {(each["engine"], each["metric"], each["revealed"]): each for each in found}
    assert {revealed for _, _, revealed in steps} >= {"1", "3", "one of each curve"}
    for engine in ("sglang", "vllm"):
        one, three = steps[engine, "tpot_ms", "1"], steps[engine, "tpot_ms", "3"]
        assert one["n"] > three["n"]
        assert one["own"] < one["base"]
        assert three["coverage_90"] is None


def test_coefficients_and_levels_that_made_the_figures_are_found(published):
    runs = some_runs(published)
    random = np.random.default_rng(6)
    truth = priors()
    changed = {"prefill_layer_time": 1.4, "moe_layer_time": 1.8}
    for name, factor in changed.items():
        truth[position(name)] *= factor
    made = predict_batch(runs.batch, dataclasses.replace(uncalibrated(), values=truth))
    codes, _, keys = paths(runs.batch, np.arange(runs.batch.at.size))[3]
    level = 0.08 * random.standard_normal(len(keys))[codes]
    measured = {
        metric: made.mean[metric].value * np.exp(level + 0.03 * random.standard_normal(level.size))
        for metric in runs.measured
    }
    plain = {metric: np.zeros(level.size, dtype=bool) for metric in runs.median}
    chosen = np.flatnonzero(np.isfinite(measured["tpot_ms"]))
    exact = dataclasses.replace(runs, measured=measured, median=plain).take(chosen)
    found = fitted(exact)
    for name in changed:
        at = position(name)
        miss = abs(np.log(found.values[at] / truth[at]))
        assert miss < 0.6 * abs(np.log(priors()[at] / truth[at])) + found.deviations[at], name
    alone = coefficients(exact)
    errors = [
        np.nanmedian(
            np.abs(predict_batch(exact.batch, each).mean["tpot_ms"].value / exact.measured["tpot_ms"] - 1)
        )
        for each in (alone, found)
    ]
    assert errors[1] < 0.035
    assert errors[1] < 0.7 * errors[0]
