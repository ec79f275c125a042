"""Predictions of stored runs, lineage, and the views that hold predictions against measurements."""

from __future__ import annotations

import math

import evidence
import pandas as pd
import pytest

from aicalib.calibrate.build import LEFT_OUT_FLAGS, TTFT_FLAGS
from perfdb import lineage
from perfdb.errors import PredictionsRefused

RUN = {
    "engine": "vllm", "engine_version": "0.10.0", "gpu": "h100_sxm", "tp": 1, "model": "org/llama-8b",
    "model_group": "llama-8b", "weight_quant": "bf16", "load": "closed", "concurrency": 8, "isl": 1000, "osl": 101,
    "mean_ttft_ms": 100.0, "median_ttft_ms": 90.0, "mean_tpot_ms": 10.0,
}  # fmt: skip

VERSIONS = ("0.9.2", "0.10.0", "0.11.0")


@pytest.fixture
def store():
    """Return a connection with one run of each version, ids by version."""
    connection = evidence.empty()
    evidence.fill(connection, [RUN | {"engine_version": each, "src_ref": each} for each in VERSIONS])
    connection.execute("INSERT INTO files VALUES ('file', 'f', 'runs', '2026-01-01', 3, NULL)")
    return connection


def ids(connection):
    return dict(connection.execute("SELECT src_ref, run_id FROM run_sources").fetchall())


def rows(connection, sql):
    cursor = connection.execute(sql)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def predictions(run_ids, metric="tpot_ms", value=8.0, low=7.0, high=11.0, **more):
    return pd.DataFrame(
        [
            {
                "run_id": run_id,
                "metric": metric,
                "value": value,
                "low": low,
                "high": high,
                "origin": "calibrated",
            }
            | more
            for run_id in run_ids
        ]
    )


def profile(connection, version="1", created="2026-01-02", run_ids=()):
    connection.execute("INSERT INTO profiles VALUES ('team', $1, '{}', $2)", [version, created])
    lineage.put_profile_runs(connection, "team", version, run_ids)


def flag(connection, run_id, name):
    connection.execute("INSERT INTO flags VALUES ($1, $2, 'because', 'user')", [run_id, name])


def test_what_a_prediction_is_held_against(store):
    evidence.fill(
        store,
        [
            RUN | {"src_ref": "median", "mean_ttft_ms": None, "total_tok_s": 1101.0, "requests_s": 3.0},
            RUN | {"src_ref": "counted", "mean_osl_actual": 51.0, "output_tok_s": 7.0, "mean_e2e_ms": 1.0},
            RUN | {"src_ref": "drawn", "range_ratio": 0.5, "concurrency": 9, "total_tok_s": 1101.0},
            RUN | {"src_ref": "nothing", "mean_ttft_ms": None, "median_ttft_ms": None, "osl": None},
        ],
    )
    stored = ids(store)
    for metric in lineage.MEASURED:
        lineage.put_predictions(store, "p@1", predictions(stored.values(), metric))
    figures = store.execute(
        "SELECT src_ref, metric, measured FROM predicted JOIN run_sources USING (run_id) ORDER BY ALL"
    ).fetchall()
    found = {}
    for src_ref, metric, measured in figures:
        found.setdefault(src_ref, {})[metric] = measured
    assert found["0.9.2"]["ttft_ms"] == 100.0
    assert found["0.9.2"]["e2e_ms"] == 100.0 + 10.0 * 100
    assert found["0.9.2"]["output_tok_s"] is None
    assert found["median"]["ttft_ms"] == 90.0
    assert math.isclose(found["median"]["output_tok_s"], 101.0)
    assert found["median"]["requests_s"] == 3.0
    assert (found["counted"]["e2e_ms"], found["counted"]["output_tok_s"]) == (1.0, 7.0)
    assert found["drawn"]["e2e_ms"] == 100.0 + 10.0 * (101 * 0.75 - 1)
    assert math.isclose(found["drawn"]["output_tok_s"], 101.0)
    assert found["nothing"] == dict.fromkeys(found["nothing"], None) | {"tpot_ms": 10.0}


def test_measured_figures_are_those_that_aicalib_scores(published):
    from aicalib.calibrate.runs import as_runs

    chosen = published[::40]
    connection = evidence.empty()
    evidence.fill(connection, chosen)
    lines = dict(connection.execute("SELECT line, run_id FROM run_sources").fetchall())
    runs = as_runs(chosen)
    compared = 0
    for metric in ("ttft_ms", "tpot_ms", "e2e_ms", "output_tok_s"):
        lineage.put_predictions(connection, "p@1", predictions(set(lines.values()), metric))
        stored = dict(
            connection.execute(
                "SELECT run_id, measured FROM predicted WHERE metric = $1", [metric]
            ).fetchall()
        )
        for row, measured in zip(runs.batch.rows.tolist(), runs.measured[metric], strict=True):
            figure = stored[lines[row + 1]]
            assert (figure is None) == math.isnan(measured)
            assert figure is None or math.isclose(figure, measured)
            compared += figure is not None
    assert compared > 100


def test_a_later_prediction_takes_the_place_of_the_same(store):
    run_id = ids(store)["0.9.2"]
    assert lineage.put_predictions(store, "p@1", predictions([run_id, "not stored"])) == 1
    assert lineage.put_predictions(store, "p@1", predictions([run_id], value=9.0)) == 1
    assert lineage.put_predictions(store, "p@1", predictions([run_id], "ttft_ms", 50.0)) == 1
    assert lineage.put_predictions(store, "p@2", predictions([run_id], value=5.0)) == 1
    kept = store.execute("SELECT profile, metric, value FROM predicted ORDER BY ALL").fetchall()
    assert kept == [("p@1", "tpot_ms", 9.0), ("p@1", "ttft_ms", 50.0), ("p@2", "tpot_ms", 5.0)]


def test_no_answer_is_null_and_no_residual(store):
    run_id = ids(store)["0.9.2"]
    row = {
        "run_id": run_id,
        "metric": "tpot_ms",
        "value": math.nan,
        "low": None,
        "high": math.inf,
        "origin": None,
    }
    assert lineage.put_predictions(store, "p@1", [row]) == 1
    assert store.execute("SELECT value, low, high, origin FROM predicted").fetchall() == [(None,) * 4]
    assert rows(store, "FROM residuals") == []


def test_predictions_that_are_refused(store):
    run_id = ids(store)["0.9.2"]
    good = predictions([run_id])
    with pytest.raises(PredictionsRefused, match="column low"):
        lineage.put_predictions(store, "p@1", good.drop(columns="low"))
    with pytest.raises(PredictionsRefused, match=r"speed.*known are ttft_ms"):
        lineage.put_predictions(store, "p@1", predictions([run_id], "speed"))
    with pytest.raises(PredictionsRefused, match=f"tpot_ms of run {run_id}"):
        lineage.put_predictions(store, "p@1", pd.concat([good, good]))
    assert lineage.put_predictions(store, "p@1", []) == 0
    assert rows(store, "FROM predicted") == []


def test_residuals(store):
    stored = ids(store)
    lineage.put_profile_runs(store, "p", 1, [stored["0.10.0"]])
    lineage.put_predictions(store, "p@1", predictions(stored.values()))
    lineage.put_predictions(store, "p@1", predictions(stored.values(), "ttft_ms", 120.0, 110.0, 130.0))
    flag(store, stored["0.9.2"], "queueing")
    flag(store, stored["0.11.0"], "repeat")
    flag(store, stored["0.11.0"], "queueing")
    flag(store, stored["0.10.0"], "speculative_unknown")
    found = {(row["engine_version"], row["metric"]): row for row in rows(store, "FROM residuals")}
    assert len(found) == 6
    row = found["0.10.0", "tpot_ms"]
    assert (row["profile"], row["run_id"], row["model_group"]) == ("p@1", stored["0.10.0"], "llama-8b")
    assert math.isclose(row["log_ratio"], math.log(10.0 / 8.0))
    assert row["covered"]
    assert not found["0.10.0", "ttft_ms"]["covered"]
    assert [found[each, "tpot_ms"]["fitted"] for each in VERSIONS] == [False, True, False]
    assert [found[each, "tpot_ms"]["doubted"] for each in VERSIONS] == [False, False, True]
    assert [found[each, "ttft_ms"]["doubted"] for each in VERSIONS] == [True, False, True]


def test_fitted_is_told_or_looked_up_whichever_comes_first(store):
    stored = ids(store)
    lineage.put_predictions(store, "p@1", predictions(stored.values()))
    assert lineage.put_profile_runs(store, "p", "1", [stored["0.9.2"], "elsewhere", stored["0.9.2"]]) == 2
    assert lineage.put_profile_runs(store, "p", "1", [stored["0.9.2"]]) == 0
    fitted = "SELECT run_id FROM predicted WHERE fitted AND profile = '{}'"
    assert store.execute(fitted.format("p@1")).fetchall() == [(stored["0.9.2"],)]
    lineage.put_predictions(store, "shipped@1", predictions([stored["0.11.0"]], fitted=True))
    assert store.execute(fitted.format("shipped@1")).fetchall() == [(stored["0.11.0"],)]


def test_groups_and_coverage_leave_out_what_is_doubted(store):
    stored = ids(store)
    lineage.put_predictions(store, "p@1", predictions(stored.values()))
    lineage.put_predictions(store, "p@1", predictions([stored["0.9.2"]], low=7.0, high=9.0))
    (group,) = rows(store, "FROM residuals_by_group")
    assert (group["gpu"], group["weight_quant"], group["n"]) == ("h100_sxm", "bf16", 3)
    assert math.isclose(group["median_ape"], 0.2)
    (covered,) = rows(store, "FROM coverage")
    assert (covered["n"], round(covered["covered"], 4)) == (3, 0.6667)
    assert math.isclose(covered["median_log_width"], math.log(11 / 7))
    flag(store, stored["0.9.2"], "implausible")
    assert rows(store, "SELECT n, covered FROM coverage") == [{"n": 2, "covered": 1.0}]


def test_drift_goes_by_version_and_against_what_was_fitted(store):
    stored = ids(store)
    profile(store, run_ids=[stored["0.9.2"], stored["0.10.0"]])
    for version, value in zip(VERSIONS, (10.0, 10.0, 20.0), strict=True):
        lineage.put_predictions(store, "team@1", predictions([stored[version]], value=value))
    found = rows(store, "FROM drift")
    assert [row["engine_version"] for row in found] == list(VERSIONS)
    assert [row["fitted"] for row in found] == [True, True, False]
    assert [row["fitted_runs"] for row in found] == [1, 1, 0]
    assert [row["newer_than_fitted"] for row in found] == [False, False, True]
    assert [row["n"] for row in found] == [1, 1, 1]
    assert {row["gpu"] for row in found} == {"h100_sxm"}
    assert math.isclose(found[2]["shift"], math.log(0.5))
    assert found[0]["shift"] == found[0]["spread"] == 0.0


def test_a_curve_has_one_voice_in_a_drift(store):
    loud = [
        RUN | {"src_ref": f"loud {each}", "concurrency": each, "mean_tpot_ms": 16.0} for each in (1, 2, 4)
    ]
    quiet = [
        RUN | {"src_ref": f"quiet {each}", "isl": each, "mean_tpot_ms": 8.0, "engine_version": "0.10.0"}
        for each in (500, 2000)
    ]
    evidence.fill(store, [*loud, *quiet])
    lineage.put_predictions(store, "p@1", predictions(ids(store).values()))
    by_version = {row["engine_version"]: row for row in rows(store, "FROM drift")}
    row = by_version["0.10.0"]
    assert (row["n"], row["curves"]) == (6, 3)
    assert row["median_log_ratio"] == 0.0
    assert row["shift"] is None
    assert not row["newer_than_fitted"]


def test_only_what_is_calibrated_and_undoubted_can_drift(store):
    stored = ids(store)
    lineage.put_predictions(store, "p@1", predictions(stored.values(), origin="kernel-fit"))
    lineage.put_predictions(store, "p@1", predictions([stored["0.9.2"], stored["0.10.0"]]))
    flag(store, stored["0.9.2"], "repeat")
    assert [row["engine_version"] for row in rows(store, "FROM drift")] == ["0.10.0"]


@pytest.mark.parametrize(
    "ascending",
    [
        ["0.5.6.dev4", "0.5.6b2", "0.5.6rc1", "0.5.6", "0.5.6.post2", "0.5.10"],
        ["0.0.0.dev1+g7d99", "0.5.1-rc0.pre1", "0.5.1", "v0.5.2"],
        ["0.20.0a1", "0.20.0rc1", "0.20.0", "1.2.0rc3", "1.2.0"],
    ],
)
def test_versions_have_an_order(store, ascending):
    sql = "SELECT version FROM (SELECT unnest($1) AS version) ORDER BY version_order(version)"
    assert [version for (version,) in store.execute(sql, [ascending[::-1]]).fetchall()] == ascending


def test_what_is_no_version_has_no_place(store):
    names = ["nightly-dev-20260402-d7256eb6", "main branch", ""]
    found = store.execute("SELECT version_order(name) FROM (SELECT unnest($1) AS name)", [names]).fetchall()
    assert found == [(None,)] * 3
    equal = store.execute("SELECT version_order('0.9.0-cu130') = version_order('0.9.0+local')").fetchall()
    assert equal == [(True,)]


def stale(connection):
    sql = "SELECT what, profile, engine_version, runs, example FROM stale"
    return {(row["what"], row["engine_version"]): row for row in rows(connection, sql)}


def test_nothing_is_stale_where_all_is_fitted_and_predicted(store):
    stored = ids(store)
    assert stale(store) == {}
    profile(store, run_ids=stored.values())
    lineage.put_predictions(store, "team@1", predictions(stored.values()))
    assert stale(store) == {}


def test_what_is_stale(store):
    stored = ids(store)
    profile(store, version="0", created="2025-01-01", run_ids=["long gone"])
    profile(store, version="1", created="2025-12-31", run_ids=[stored["0.9.2"], stored["0.10.0"]])
    lineage.put_predictions(store, "team@1", predictions([stored["0.9.2"], stored["0.11.0"]]))
    lineage.put_predictions(store, "team@0", predictions([stored["0.10.0"]]))
    found = stale(store)
    assert found.keys() == {
        ("not_fitted", "0.11.0"),
        ("not_predicted", "0.10.0"),
        ("newer_version", "0.11.0"),
    }
    assert {row["profile"] for row in found.values()} == {"team@1"}
    assert found["not_fitted", "0.11.0"]["example"] == stored["0.11.0"]
    flag(store, stored["0.9.2"], "ambiguous_config")
    flag(store, stored["0.10.0"], "queueing")
    flag(store, stored["0.11.0"], "lumped_stream")
    found = stale(store)
    assert ("fitted_on_doubted", "0.9.2") in found
    assert ("not_fitted", "0.11.0") not in found
    assert len(found) == 3


def test_superseded_runs_are_traced_and_not_counted_twice(store):
    stored = ids(store)
    profile(store, run_ids=stored.values())
    lineage.put_predictions(store, "team@1", predictions(stored.values()))
    old, new = stored["0.9.2"], stored["0.11.0"]
    store.execute("INSERT INTO superseded_runs VALUES ($1, $2, '2026-02-01')", [old, new])
    store.execute("DELETE FROM run_records WHERE run_id = $1", [old])
    assert {row["run_id"] for row in rows(store, "FROM residuals")} == set(stored.values()) - {old}
    found = stale(store)
    assert found["fitted_on_superseded", "0.11.0"]["example"] == old
    traced = rows(store, f"FROM lineage WHERE run_id = '{old}' ORDER BY use")
    assert [(row["use"], row["superseded_by"]) for row in traced] == [("fitted", new), ("predicted", new)]


def test_decisive_flags_are_those_of_the_calibration(store):
    told = store.execute(
        "SELECT doubts, list(flag ORDER BY flag) FROM decisive_flags GROUP BY doubts"
    ).fetchall()
    assert dict(told) == {"run": sorted(LEFT_OUT_FLAGS), "ttft": sorted(TTFT_FLAGS)}


def test_an_evaluation_gives_what_is_kept(store, published):
    from aicalib.calibrate.evaluate import evaluate
    from aicalib.profiles.profile import default_profile

    evidence.fill(store, chosen := [row for row in published if row["engine"] == "vllm"][:40:4])
    run_ids = [
        store.execute("SELECT run_id FROM run_sources WHERE src_ref = $1", [row["src_ref"]]).fetchall()[0][0]
        for row in chosen
    ]
    pairs = zip(chosen, run_ids, strict=True)
    found = evaluate([{**row, "run_id": run_id} for row, run_id in pairs], default_profile())
    assert lineage.put_predictions(store, found.profile, found.predictions()) == len(found.predictions())
    scored = [row for row in found.rows() if row["predicted"] is not None]
    kept = rows(store, "FROM residuals")
    assert len(kept) == len(scored) > 10
    assert math.isclose(sum(row["predicted"] for row in kept), sum(row["predicted"] for row in scored))
    assert math.isclose(sum(row["measured"] for row in kept), sum(row["measured"] for row in scored))
    assert {row["origin"] for row in kept} == {row["origin"] for row in scored}
