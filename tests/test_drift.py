"""Drift of new runs against a profile: synthetic shifts of known size, and published runs that a fit did not see."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from stores import MEASUREMENTS, RUN, answer, write

import perfdb
from aicalib.calibrate.build import usable
from aicalib.calibrate.drift import CURVE, beside_fitted, drift, units
from aicalib.calibrate.evaluate import evaluate
from aicalib.calibrate.fit import fit
from aicalib.calibrate.limits import refresh_flags
from aicalib.calibrate.records import stored_runs
from aicalib.calibrate.runs import as_runs
from aicalib.calibrate.shift import FALSE_ALARMS, UNITS, WORTH, Shift, median_variance, shifts_of
from aicalib.errors import InvalidValue
from aicalib.profiles import default_profile, uncalibrated
from aicalib.report.drift import document, summary, words

EIGHT_PERCENT = math.log(1.08)


def simulated(
    seed, shift=0.0, cells=1, families=1, curves=12, runs=2, unit="curve", spread=0.055, tails=None
):
    """Residuals of runs whose errors are common to a unit, of a profile whose interval says `spread`.

    With `tails` the errors follow a t distribution of so many degrees of freedom and the same variance.
    """
    rng = np.random.default_rng(seed)
    scale = 1.0 if tails is None else math.sqrt(tails / (tails - 2))

    def drawn(width):
        return width * (rng.normal() if tails is None else rng.standard_t(tails) / scale)

    rows = []
    for cell in range(cells):
        for family in range(families):
            common = drawn(spread) if unit == "family" else 0.0
            for curve in range(curves):
                own = drawn(spread if unit == "curve" else 0.02)
                for run in range(runs):
                    log_ratio = shift + common + own + drawn(0.01)
                    rows.append(
                        {
                            "run": len(rows), "engine": "sglang", "engine_version": f"0.5.{cell}", "gpu": "h200-sxm",
                            "family": f"family-{family}", "curve": f"{family}-{curve}", "concurrency": run,
                            "kind": UNITS.index(unit), "unit": f"{family}" if unit == "family" else f"{family}-{curve}",
                            "metric": "tpot_ms", "measured": 2.0 + log_ratio, "log_ratio": log_ratio, "centre": 0.0,
                            "interval": math.hypot(spread, 0.01), "known": False,
                        }
                    )  # fmt: skip
    return pd.DataFrame(rows)


def only(table):
    (shift,), _ = shifts_of(table, {("sglang", "h200-sxm"): 40})
    return shift


def test_a_known_drift_is_found_with_its_interval():
    found = [only(simulated(seed, EIGHT_PERCENT)) for seed in range(100)]
    assert sum(each.beyond for each in found) > 95
    inside = sum(abs(each.log_ratio - EIGHT_PERCENT) < each.half_width for each in found)
    assert inside >= 94
    assert np.mean([each.log_ratio for each in found]) == pytest.approx(EIGHT_PERCENT, abs=0.005)
    assert np.mean([each.half_width for each in found]) < 0.06


@pytest.mark.parametrize(
    "kind",
    [
        {"cells": 3, "curves": 6},
        {"cells": 3, "curves": 6, "tails": 4},
        {"cells": 3, "curves": 1},
        {"cells": 3, "curves": 1, "tails": 4},
        {"cells": 1, "families": 3, "curves": 4, "unit": "family"},
    ],
)
def test_reports_on_what_did_not_drift_alarm_no_more_often_than_stated(kind):
    seeds = 120
    alarms = 0
    for seed in range(seeds):
        shifts, apart = shifts_of(simulated(seed, **kind), {})
        alarms += any(each.beyond for each in shifts)
        assert len(apart) <= 1
    assert alarms <= FALSE_ALARMS * seeds


def test_runs_of_one_curve_count_as_one():
    many = only(simulated(1, EIGHT_PERCENT, curves=1, runs=12))
    spread = only(simulated(1, EIGHT_PERCENT, curves=12, runs=1))
    assert many.units == 1
    assert spread.units == pytest.approx(12)
    assert many.error > 2.5 * spread.error
    assert many.verdict == "too_few"
    assert many.to_settle > 1


def test_a_curve_with_most_runs_has_one_voice():
    table = simulated(2, curves=3, runs=1, spread=1e-4)
    loud = pd.concat([table, *[table[table["curve"] == "0-0"].assign(log_ratio=0.5)] * 20])
    assert abs(only(loud).log_ratio) < 0.1


def test_model_families_share_an_error_that_more_of_their_curves_do_not_thin():
    found = only(simulated(3, families=2, curves=20, unit="family", spread=0.1))
    assert found.units == pytest.approx(2)
    assert found.error > 0.05
    uneven = simulated(3, families=2, curves=10, unit="family")
    uneven = uneven[(uneven["family"] == "family-0") | (uneven["curve"] == "1-0")]
    assert 1.0 < only(uneven).units < 1.25


def test_a_family_that_lies_apart_is_named():
    table = simulated(4, families=4, curves=5)
    table.loc[table["family"] == "family-2", "log_ratio"] += 0.3
    _, apart = shifts_of(table, {})
    assert [each.family for each in apart] == ["family-2"]
    assert apart[0].beyond
    assert "with family-2" in words(apart[0])
    assert math.exp(apart[0].log_ratio) == pytest.approx(1.35, abs=0.08)


def test_repeats_that_scatter_more_than_the_interval_widen_it():
    table = simulated(5, curves=4, runs=1, spread=0.01)
    twice = pd.concat([table, table.assign(run=table["run"] + 100, measured=table["measured"] + 0.2)])
    found = only(twice)
    assert found.repeats == pytest.approx(0.2 / math.sqrt(2))
    assert found.error > 5 * only(table).error
    assert only(table).repeats is None


def test_what_a_profile_was_off_by_on_fitted_runs_of_a_curve_is_no_drift():
    fitted = simulated(8, 0.2, curves=8, runs=4, spread=0.15).assign(fitted=True, engine_version="0.4.9")
    means = fitted.groupby("curve")["log_ratio"].median()
    new = fitted.assign(fitted=False, engine_version="0.5.14", run=fitted["run"] + 100)
    for shift in (0.0, EIGHT_PERCENT, -EIGHT_PERCENT):
        moved = beside_fitted(pd.concat([fitted, new.assign(log_ratio=new["curve"].map(means) + shift)]))
        found = only(moved.drop(columns="fitted"))
        assert found.known
        assert (found.runs, found.curves, found.unit) == (32, 8, "curve")
        assert found.log_ratio - found.centre == pytest.approx(shift)
        assert found.interval < 0.03
        # A shift back towards what is predicted is none away from it.
        assert found.beyond == (shift > 0.0)
    elsewhere = beside_fitted(pd.concat([fitted, new.assign(gpu="b200-sxm")]))
    assert not elsewhere["known"].any()
    assert (elsewhere["interval"] == new["interval"].iloc[0]).all()


def test_noise_is_never_less_than_what_repeats_differ_by():
    table = simulated(5, curves=4, runs=1, spread=1e-9).assign(interval=0.0, log_ratio=0.004)
    assert not only(table).beyond
    assert only(table).error > 0.002
    assert only(table.assign(log_ratio=0.05)).beyond


def test_an_interval_that_leans_is_no_drift():
    table = simulated(6, 0.06)
    assert only(table).beyond
    leaning = only(table.assign(centre=0.06))
    assert not leaning.beyond
    assert leaning.p_value > 0.5
    assert only(table.assign(centre=0.3)).p_value == 1.0


def test_what_would_settle_a_level_does():
    found = only(simulated(7, EIGHT_PERCENT, curves=3))
    wide, needed = found.half_width, found.to_settle
    assert wide > WORTH["tpot_ms"]
    assert needed > 3
    enough = dataclasses.replace(
        found,
        units=float(needed),
        freedom=found.freedom + needed - 3,
        error=found.error * math.sqrt(median_variance(needed) / median_variance(found.units)),
    )
    assert enough.half_width <= WORTH["tpot_ms"]
    assert enough.to_settle == needed
    assert dataclasses.replace(found, error=9.0).to_settle is None


def test_the_variance_of_a_median():
    rng = np.random.default_rng(0)
    for count in (1, 3, 5, 13):
        drawn = np.median(rng.normal(size=(40_000, count)), axis=1).var()
        assert median_variance(count) == pytest.approx(drawn, rel=0.04)
    for count in (2, 4, 12):
        drawn = np.median(rng.normal(size=(40_000, count)), axis=1).var()
        assert 1.0 < median_variance(count) / drawn < 1.25


SHIFT = Shift(
    engine="sglang", engine_version="0.5.14", gpu="h200-sxm", metric="tpot_ms", known=False, family=None,
    runs=12, curves=6, families=3, unit="curve", units=6.0, log_ratio=EIGHT_PERCENT, error=0.018, freedom=9.0,
    centre=0.0, interval=0.05, repeats=0.01, beyond=True, fitted_runs=60,
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "SGLang 0.5.14 decodes 8 % slower than this profile predicts on h200-sxm, 12 runs, beyond noise "
             "(TPOT +8 %, +4 to +12 %)"),
        ({"log_ratio": math.log(0.9)}, "decodes 10 % faster than"),
        ({"metric": "ttft_ms"}, "gives the first token 8 % later than"),
        ({"metric": "output_tok_s", "log_ratio": math.log(0.9)}, "puts out 10 % fewer tokens/s than"),
        ({"metric": "e2e_ms", "engine": "vllm"}, "vLLM 0.5.14 answers 8 % slower"),
        ({"beyond": False, "log_ratio": 0.01}, "decodes as this profile predicts on h200-sxm, 12 runs, within noise "
             "(TPOT +1 %, -3 to +5 %)"),
        ({"beyond": False, "error": 0.1, "runs": 1}, "SGLang 0.5.14 on h200-sxm: 1 run is too few to tell"),
        ({"engine_version": None}, "SGLang of unrecorded version decodes"),
    ],
)  # fmt: skip
def test_it_is_said_in_words(change, said):
    assert said in words(dataclasses.replace(SHIFT, **change))


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """The published runs of SGLang with their flags, from a store that keeps them."""
    path = tmp_path_factory.mktemp("drift") / "store.duckdb"
    with perfdb.Store(path) as store:
        store.ingest(MEASUREMENTS / "runs.jsonl")
        refresh_flags(store)
        store.apply_flags_file(MEASUREMENTS / "flags.jsonl")
        return path, [each for each in stored_runs(store) if each["engine"] == "sglang"]


def is_new(record):
    """Whether a run is one of the H200 runs of March 2026, or of a later build: what the older fit did not see."""
    return record["gpu"] == "h200_sxm" and record["engine_version"] in ("0.5.9", "0.0.0.dev1+g631db6c75")


@pytest.fixture(scope="module")
def older(shipped):
    """A profile whose coefficients were fitted without the new runs; the intervals are those of the default."""
    records = [each for each in shipped[1] if not is_new(each)]
    base = default_profile()
    known = {each["run_id"] for each in records} & set(base.fitted["run_id"])
    runs = as_runs([each for each in records if each["run_id"] in known])
    keep = [run_id in known for run_id in base.fitted["run_id"]]
    fitted = {name: list(itertools.compress(column, keep)) for name, column in base.fitted.items()}
    return dataclasses.replace(base, name="older", version="1", values=fit(runs).values, fitted=fitted)


def test_new_runs_are_held_against_an_older_fit(shipped, older):
    records = shipped[1]
    found = drift(records, older)
    usable_new = [each for each in usable(records)[0] if is_new(each)]
    assert {(each.engine_version, each.gpu) for each in found.shifts} >= {
        ("0.5.9", "h200-sxm"), ("0.0.0.dev1+g631db6c75", "h200-sxm")
    }  # fmt: skip
    # Runs that the base left out because it is in doubt whether they speculated were not fitted either.
    in_doubt = older.lineage["left_out_by_flag"]["speculation_in_doubt"]
    assert 30 < found.compared <= len(usable_new) + in_doubt
    assert found.given == len(records)
    assert found.doubted["repeat"] > 20
    assert found.fitted == len(older.fitted["run_id"])
    assert sum(found.refused.values()) > 100
    for each in found.shifts:
        assert abs(each.log_ratio) < math.log(2.5), words(each)
        assert each.fitted_runs > 0
    wide = next(
        each for each in found.shifts if each.metric == "tpot_ms" and each.engine_version.startswith("0.0.0")
    )
    # Eight models of one make, on a GPU where the profile does not know them, are off by half: no drift.
    assert wide.families >= 5
    assert wide.unit == "cell"
    assert wide.units == 1
    assert not wide.beyond


def test_left_out_curves_alarm_no_more_often_than_stated(shipped):
    """Published curves that a fit did not see: whatever they are off by is the profile's own error."""
    base = default_profile()
    seen = set(base.fitted["run_id"])
    records = [each for each in shipped[1] if each["run_id"] in seen]
    curves = {each["run_id"]: tuple(each[key] for key in ("gpu", *CURVE)) for each in records}
    fold = {curve: number % 3 for number, curve in enumerate(dict.fromkeys(curves.values()))}
    kept = [each for each in records if fold[curves[each["run_id"]]]]
    known = {each["run_id"] for each in kept}
    mask = [run_id in known for run_id in base.fitted["run_id"]]
    profile = dataclasses.replace(
        base, values=fit(as_runs(kept)).values,
        fitted={name: list(itertools.compress(column, mask)) for name, column in base.fitted.items()},
    )  # fmt: skip
    found = drift(records, profile)
    assert found.compared == len(records) - len(kept)
    assert len(found.shifts) > 50
    assert not any(each.beyond for each in found.shifts)
    assert found.families == []
    # The cells are four metrics of some thirty, so that a single one of these counts up to four times.
    assert np.mean([each.p_value < FALSE_ALARMS for each in found.shifts]) <= 2 * FALSE_ALARMS


def test_a_version_that_decodes_eight_percent_slower_is_called_on_curves_that_are_known(shipped):
    """Published vLLM runs, a third left out at random: nothing drifted; then the new ones take 8 % longer."""
    base = default_profile()
    seen = set(base.fitted["run_id"])
    with perfdb.Store(shipped[0], read_only=True) as store:
        records = [each for each in stored_runs(store) if each["engine"] == "vllm" and each["run_id"] in seen]
    new = {each["run_id"] for each in records[::3]}
    kept = [each for each in records if each["run_id"] not in new]
    known = {each["run_id"] for each in kept}
    mask = [run_id in known for run_id in base.fitted["run_id"]]
    profile = dataclasses.replace(
        base, values=fit(as_runs(kept)).values,
        fitted={name: list(itertools.compress(column, mask)) for name, column in base.fitted.items()},
    )  # fmt: skip
    assert not any(each.beyond for each in drift(records, profile).shifts)
    times = [name for name in perfdb.keys.METRICS if "tpot" in name]
    slow = [
        each
        | {name: each[name] and 1.08 * each[name] for name in times}
        | {"run_id": f"slow {each['run_id']}"}
        for each in records
        if each["run_id"] in new
    ]
    found = [
        each for each in drift([*kept, *slow], profile).shifts if each.metric == "tpot_ms" and each.beyond
    ]
    assert {each.gpu for each in found} >= {"b200-sxm"}
    for each in found:
        assert each.known
        assert 0.03 < each.log_ratio < 0.2


def test_runs_that_take_five_times_as_long_are_told(shipped, older):
    times = [name for name in perfdb.keys.METRICS if name.endswith("_ms") or name.endswith("_ms_unspecified")]
    slow = [
        each | {name: None if each[name] is None else 5.0 * each[name] for name in times if name in each}
        for each in shipped[1]
        if is_new(each)
    ]
    as_it_was = drift([each for each in shipped[1] if is_new(each)], older)
    found = drift(slow, older)
    assert found.compared == as_it_was.compared
    before = {(each.engine_version, each.metric): each for each in as_it_was.shifts}
    for each in found.shifts:
        was = before[each.engine_version, each.metric]
        if each.metric != "output_tok_s":
            assert each.log_ratio == pytest.approx(was.log_ratio + math.log(5.0), abs=1e-6)
    slower = next(
        each for each in found.shifts if each.metric == "tpot_ms" and each.engine_version == "0.5.9"
    )
    assert slower.beyond
    assert "SGLang 0.5.9 decodes 4" in words(slower)
    assert "% slower than this profile predicts on h200-sxm, 28 runs, beyond noise" in words(slower)
    told = document(found, ["aicalib calibrate"])
    assert told["drifted"]
    assert told["refit"]["commands"] == ["aicalib calibrate"]
    assert any("to refit: aicalib calibrate" in line for line in summary(found, ["aicalib calibrate"]))


def test_the_view_of_the_store_is_the_same_drift(shipped, older):
    path, records = shipped
    found = drift(records, older)
    with perfdb.Store(path) as store:
        store.save_predictions(older.label, evaluate(records, older).predictions())
        rows = store.query(f"SELECT * FROM drift WHERE profile = '{older.label}' AND NOT fitted")
    names = {"a100": "a100-sxm-80gb"}
    keys = [
        (row["engine_version"], row["gpu"].replace("_", "-"), row["metric"], row["known"]) for row in rows
    ]
    stored = {
        (version, names.get(gpu, gpu), metric, known): row
        for (version, gpu, metric, known), row in zip(keys, rows, strict=True)
    }
    assert stored.keys() == {
        (each.engine_version, each.gpu, each.metric, each.known) for each in found.shifts
    }
    for each in found.shifts:
        row = stored[each.engine_version, each.gpu, each.metric, each.known]
        assert (row["n"], row["curves"]) == (each.runs, each.curves)
        assert row["median_log_ratio"] == pytest.approx(each.log_ratio)


def test_what_was_not_fitted_cannot_drift(shipped, older):
    elsewhere = [each | {"gpu": "l4"} for each in shipped[1] if is_new(each)]
    found = drift([each | {"run_id": f"l4 {each['run_id']}"} for each in elsewhere], older)
    assert found.shifts == []
    assert found.compared == 0
    assert {gpu for _, gpu in found.uncalibrated} == {"l4"}


def test_a_gpu_that_was_not_fitted_is_said(shipped, older):
    elsewhere = [
        each | {"gpu": "a30", "run_id": f"a30 {each['run_id']}"} for each in shipped[1] if is_new(each)
    ]
    found = drift(elsewhere, older)
    assert {each.unit for each in found.shifts} == {"cell"}
    assert "the profile was fitted on no run of it there" in words(found.shifts[0])
    assert found.shifts[0].to_settle is None


def test_an_error_is_common_to_what_the_profile_has_no_level_of(shipped, older):
    found = evaluate([each for each in shipped[1] if is_new(each)], older)
    assert set(units(found, older)[0]) == {"formats", "cell"}
    levelled = SimpleNamespace(fitted=older.fitted, levels={"tpot_ms": {"sglang": [0.1, 3]}})
    groups = set(zip(*(older.fitted[name] for name in ("engine", "family", "gpu")), strict=True))
    for kind, name, group in zip(*units(found, levelled), found.runs.groups, strict=True):
        assert kind == ("formats" if group in groups else "cell")
        assert name.startswith(group[1]) or kind == "cell"


def test_a_profile_without_intervals_is_refused():
    with pytest.raises(InvalidValue, match="no interval that a drift could exceed"):
        drift([], uncalibrated())


def test_no_new_run_is_an_answer(capsys, shipped):
    status, told, _ = answer(capsys, "drift", "--db", shipped[0])
    assert status == 0
    assert "nothing to compare" in told
    assert "that the profile was fitted on" in told


def test_files_are_judged_before_they_are_compared(capsys, tmp_path):
    run = RUN | {
        "tp": 1, "engine_version": "0.5.14", "source": "team", "src_ref": "1", "mean_tpot_ms": 28.0,
        "mean_ttft_ms": 400.0,
    }  # fmt: skip
    file = write(tmp_path / "new.jsonl", run, run | {"src_ref": "2"}, run | {"concurrency": 16, "gpu": None})
    status, told, _ = answer(capsys, "drift", file, "--json")
    found = json.loads(told)
    assert status == 0
    assert found["runs"]["given"] == 1
    assert [each["reason"] for each in found["rejected"]] == ["1 runs lack gpu"]
    cell = next(each for each in found["cells"] if each["metric"] == "tpot_ms")
    assert (cell["engine_version"], cell["gpu"], cell["runs"]) == ("0.5.14", "h100-sxm", 1)
    assert cell["low"] < cell["ratio"] < cell["high"]
    assert cell["noise"]["unit"] == "formats"
    assert found["refit"]["commands"][0].startswith("aicalib ingest ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--profile", "priors", "{file}"], "no interval that a drift could exceed"),
        (["--profile", "nobody", "{file}"], "no profile 'nobody'"),
        (["{lacking}"], "no complete run in"),
        (["{unknown}"], "unknown.txt"),
        (["missing.jsonl"], "does not exist"),
    ],
)
def test_what_is_refused(capsys, tmp_path, arguments, said):
    run = RUN | {"tp": 1, "source": "team", "src_ref": "1"}
    files = {
        "file": write(tmp_path / "new.jsonl", run),
        "lacking": write(tmp_path / "lacking.jsonl", run | {"gpu": None}),
        "unknown": write(tmp_path / "unknown.txt", "hello"),
    }
    status, _, told = answer(
        capsys, "drift", *(each.format(**files) for each in arguments), "--db", tmp_path / "no.duckdb"
    )
    assert status == 2
    assert said in told


def test_a_store_without_complete_runs_says_what_to_do(capsys, tmp_path):
    perfdb.Store(tmp_path / "empty.duckdb").close()
    status, _, told = answer(capsys, "drift", "--db", tmp_path / "empty.duckdb")
    assert status == 2
    assert "empty.duckdb\nwhat would work: aicalib ingest" in told
