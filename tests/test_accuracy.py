"""The scoreboard: what it computes, what of it is committed, and that the committed errors do not grow."""

from __future__ import annotations

import copy
import dataclasses
import json
import tomllib
from contextlib import nullcontext
from importlib.resources import files

import numpy as np
import pytest
from conftest import MEASUREMENTS, ROOT

from aicalib.calibrate import scoreboard as module
from aicalib.calibrate.build import fitted
from aicalib.calibrate.floor import floors
from aicalib.calibrate.learning import Step
from aicalib.calibrate.peer import SOURCE, beside, read_peer
from aicalib.calibrate.runs import as_runs
from aicalib.calibrate.score import score, score_groups
from aicalib.calibrate.scoreboard import CERTIFIED, FOLDS, broken, limits, runs_to_fit, scoreboard
from aicalib.calibrate.ship import shipped_runs
from aicalib.calibrate.validate import SPLITS, answered, folds, group_labels
from aicalib.nearness import NEARNESS
from aicalib.profiles import uncalibrated
from aicalib.profiles.profile import METRICS
from aicalib.report.accuracy import PLOTS, page
from aicalib.report.pictures.scoreboard import coverage, save, write_plots
from aicalib.report.pictures.style import styled

FIGURES = ROOT / "docs" / "accuracy.json"

REFITTED = 6
"""The fold that is fitted again."""

TOLERANCE = 0.005
"""What a median error may differ by between builds of the numerical libraries."""

LARGEST_PLOT_BYTES = 200_000


@pytest.fixture(scope="module")
def committed():
    """The committed figures."""
    return json.loads(FIGURES.read_text())


@pytest.fixture(scope="module")
def shipped():
    """The shipped runs with their quality flags."""
    return shipped_runs(MEASUREMENTS)


# what is committed


@pytest.mark.xdist_group("accuracy")
def test_a_fold_fitted_again_has_its_certified_errors(committed, shipped):
    runs, flagged = runs_to_fit(shipped)
    assert (runs.batch.rows.size, flagged) == (committed["runs"], committed["flagged"])
    fold = folds(group_labels(runs), FOLDS)
    out = runs.take(np.flatnonzero(fold == REFITTED))
    certified = committed["folds"][REFITTED]
    assert sorted({" x ".join(label) for label in group_labels(out)}) == certified["left_out"]
    profile = fitted(runs.take(np.flatnonzero(fold != REFITTED)))
    found = answered(out, np.zeros(out.batch.rows.size, dtype=np.intp), [profile])
    engines = np.array([group[0] for group in out.groups])
    for engine, errors in certified["median_ape"].items():
        for metric, error in errors.items():
            measured = np.where(engines == engine, out.measured[metric], np.nan)
            reached = score(measured, found.values[metric])["median_ape"]
            assert reached == pytest.approx(error, abs=TOLERANCE), (engine, metric)


def test_no_committed_error_is_above_its_limit(committed):
    assert broken(committed, committed["limits"]) == []
    for split in SPLITS:
        for engine, scores in committed["splits"][split]["engines"].items():
            assert set(committed["limits"][split][engine]) == set(scores) & set(CERTIFIED), (split, engine)


def test_a_worse_figure_breaks_its_limit_and_a_better_one_lowers_it(committed):
    worse = copy.deepcopy(committed)
    worse["splits"]["group"]["engines"]["vllm"]["tpot_ms"]["median_ape"] += 0.02
    assert [each.split(":")[0] for each in broken(worse, committed["limits"])] == ["group, vllm, tpot_ms"]
    assert limits(worse, committed["limits"]) == committed["limits"]
    gone = copy.deepcopy(committed)
    del gone["splits"]["group"]["engines"]["vllm"]["tpot_ms"]
    assert [each.rpartition(", ")[2] for each in broken(gone, committed["limits"])] == [
        "and no run is scored"
    ]
    better = copy.deepcopy(committed)
    better["splits"]["group"]["engines"]["vllm"]["tpot_ms"]["median_ape"] -= 0.02
    lowered = limits(better, committed["limits"])["group"]["vllm"]["tpot_ms"]
    assert lowered < committed["limits"]["group"]["vllm"]["tpot_ms"]


def test_the_page_is_written_from_the_committed_figures(committed):
    assert (ROOT / "docs" / "accuracy.md").read_text() == page(committed)
    for name in PLOTS:
        size = (ROOT / "docs" / "accuracy" / name).stat().st_size
        assert 1_000 < size < LARGEST_PLOT_BYTES, name


def test_targets_name_what_is_scored(committed):
    targets = tomllib.loads(files("aicalib.report").joinpath("targets.toml").read_text())["target"]
    for target in targets:
        assert target.get("left_out", "group") in SPLITS
        assert len({"left_out", "revealed"} & set(target)) == 1
        for goal in set(target) - {"left_out", "revealed", "engine"}:
            assert goal in {*METRICS, "within_20"}
            bar, *aim = target[goal]
            assert all(each > bar if goal == "within_20" else each < bar for each in aim)
    # What a target asks is said of each: met, missed, or why there is no figure.
    text = page(committed)
    count = sum(len(target) - 2 for target in targets)
    words = ("meets the aim", "meets the bar", "**misses the bar**", "no run is answered")
    assert sum(text.count(f"| {word} |") for word in words) == count


def test_the_peer_answers_rows_that_are_shipped(published):
    rows = {row["src_ref"] for row in published if row["source"] == SOURCE}
    lines = (MEASUREMENTS / "peer.jsonl").read_text().splitlines()
    peer = read_peer(MEASUREMENTS / "peer.jsonl")
    assert len(lines) == len(peer) == 2864
    assert set(peer) <= rows
    assert sum("tpot_ms" in each for each in peer.values()) == 1794
    for each in peer.values():
        figures = [each[metric] for metric in ("ttft_ms", "tpot_ms") if metric in each]
        assert len(figures) == 2 * ("unanswered" not in each)
        assert all(figure > 0 for figure in figures)


# what is computed


def test_groups_count_once_each():
    measured = np.full(10, 100.0)
    predicted = np.array([110.0] * 8 + [150.0, np.nan])
    low, high = predicted / 1.2, predicted * 1.2
    found = score_groups(["a"] * 8 + ["b", "b"], measured, predicted, low, high, resamples=100)
    assert (found["n"], found["groups"]) == (9, 2)
    assert found["median_ape"] == pytest.approx(0.10)
    assert found["group_median_ape"] == pytest.approx(0.30)
    assert found["coverage_90"] == pytest.approx(8 / 9)
    assert found["group_coverage_90"] == pytest.approx(0.5)
    assert found["width_90"] == pytest.approx(1.2)
    assert found["range_80"] == pytest.approx((0.10, 0.50))
    nothing = score_groups(["a"], np.array([np.nan]), np.array([1.0]))
    assert (nothing["n"], nothing["groups"], nothing["group_median_ape"]) == (0, 0, None)


def test_the_floor_pairs_runs_of_one_setting(shipped):
    usual = next(
        row for row in shipped if row["engine"] == "vllm" and row["mean_tpot_ms"] and row["mean_ttft_ms"]
    )
    one = dict(usual) | {"engine_version": "0.10.0", "mean_tpot_ms": 10.0, "config_id": "x"}
    runs = as_runs(
        [
            one,
            one | {"mean_tpot_ms": 11.0},
            one | {"mean_tpot_ms": 20.0, "engine_version": "0.9.0", "config_id": "y"},
            one | {"mean_tpot_ms": 50.0, "concurrency": one["concurrency"] * 2},
        ]
    )
    found = floors(runs)
    same = found["same setting"]["vllm"]["tpot_ms"]
    assert (same["pairs"], same["median"]) == (1, pytest.approx(0.1))
    point = found["same point"]["vllm"]["tpot_ms"]
    assert (point["pairs"], point["median"]) == (3, pytest.approx(20 / 11 - 1))
    assert found["same setting"]["vllm"]["ttft_ms"]["median"] == 0.0


@pytest.fixture(scope="module")
def small(shipped):
    """A scoreboard of few runs whose fits keep the priors: everything but the fits."""
    fixed = dataclasses.replace(
        uncalibrated(),
        quantiles={"any": {metric: dict.fromkeys(NEARNESS, 0.3) for metric in METRICS}},
        lineage={"evidence": ["sglang on 9.0", "vllm on 9.0", "gemm bf16 on 9.0", "gemm fp8 on 9.0"]},
    )
    learned = Step(
        engine="sglang", metric="tpot_ms", revealed="3", n=10, groups=2, uncalibrated=0.2, base=0.1, own=0.05,
        within_20=0.9, coverage_90=None,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name in ("fitted", "with_intervals"):
            patch.setattr(module, name, lambda _: fixed)
        patch.setattr(module, "FOLDS", 2)
        patch.setattr(module, "learning_curve", lambda *_, **__: [learned])
        lines = [dict(row) for row in shipped[::24]]
        return scoreboard(
            lines, lines, read_peer(MEASUREMENTS / "peer.jsonl"), lambda *_: nullcontext(lambda: None)
        )


@pytest.mark.xdist_group("accuracy")
def test_a_scoreboard_has_every_part_and_every_run_once(small):
    document, rows = small.document, small.runs.batch.rows.size
    assert document["runs"] == rows
    assert sum(each["n"] for each in document["folds"]) == rows
    for split, found in document["splits"].items():
        counts = [scores["tpot_ms"]["n"] for scores in found["engines"].values()]
        assert sum(counts) == np.isfinite(small.runs.measured["tpot_ms"]).sum(), split
    for part in document["by"].values():
        counts = [
            scores["tpot_ms"]["n"]
            for labels in part.values()
            for scores in labels.values()
            if "tpot_ms" in scores
        ]
        assert sum(counts) == np.isfinite(small.runs.measured["tpot_ms"]).sum()
    for by_near in document["coverage"].values():
        assert sum(scores["tpot_ms"]["n"] for scores in by_near.values() if "tpot_ms" in scores) == sum(
            counts
        )
    for engine, scores in document["with_flagged"].items():
        assert scores["ttft_ms"]["n"] >= document["splits"]["group"]["engines"][engine]["ttft_ms"]["n"]
    for each in document["answered"].values():
        assert each["answered"] + sum(each["refused"].values()) == each["runs"]


@pytest.mark.xdist_group("accuracy")
def test_ours_and_the_peers_are_scored_on_the_same_rows(small):
    for each in small.document["peer"].values():
        assert each["answered"] <= each["asked"]
        for metric in CERTIFIED:
            assert each[metric]["ours"]["n"] == each[metric]["peer"]["n"] > 0
    # A peer that says what was measured has no error.
    runs = small.runs
    exact = {
        record["src_ref"]: {metric: runs.measured[metric][at] for metric in ("ttft_ms", "tpot_ms")}
        for at, record in enumerate(runs.answered)
    }
    found = beside(runs, small.answers["group"], exact)
    for each in found.values():
        assert each["tpot_ms"]["peer"]["p90_ape"] == pytest.approx(0.0)
        assert each["e2e_ms"]["peer"]["median_ape"] == pytest.approx(0.0)


@pytest.mark.xdist_group("accuracy")
def test_page_and_plots_are_the_same_bytes_again(small, tmp_path):
    document = small.document | {"limits": limits(small.document, {})}
    document = json.loads(json.dumps(document))
    assert page(document) == page(json.loads(json.dumps(document)))
    write_plots(small, tmp_path)
    for name in PLOTS:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} == set(PLOTS)
    with styled():
        save(coverage(document), tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "coverage.png").read_bytes()
