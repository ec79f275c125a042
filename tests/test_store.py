"""The store: ingesting twice, from two files, with context; what it answers, and what it refuses."""

import json
import os
import tomllib
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores import CONTEXT, DATA, MEASUREMENTS, ONLINE, RUN, SYNTHETIC, content, write

import perfdb
from perfdb import quality
from perfdb.connection import INTERRUPTED, workspace
from perfdb.keys import KEYS, PROVENANCE, SQL_TYPES, VIEW_ONLY


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    with perfdb.Store(tmp_path_factory.mktemp("shipped") / "store.duckdb") as opened:
        report = opened.ingest(MEASUREMENTS / "runs.jsonl")
        opened.refresh_flags()
        applied = opened.apply_flags_file(MEASUREMENTS / "flags.jsonl")
        yield opened, report, applied


def test_ingest_reports_and_keeps_raw_lines(store):
    seen = []
    report = store.ingest(ONLINE, CONTEXT, seen.append)
    assert (report.kept, report.known, report.incomplete, report.rejected) == (7, 0, 0, [])
    assert seen[-1] == 7
    raw = [
        row["text"]
        for row in store.query(
            "SELECT text FROM run_sources JOIN raw_lines USING (line_sha256) ORDER BY line"
        )
    ]
    assert raw == ONLINE.read_text().splitlines()
    row = store.query("SELECT * FROM runs ORDER BY request_rate LIMIT 1")[0]
    assert (row["gpu"], row["tp"], row["load"], row["status"]) == ("h200_sxm", 4, "open", "complete")
    assert row["source"] == ONLINE.name
    assert row["src_ref"] == f"{ONLINE.name}#L1"
    assert row["sources"] == [ONLINE.name]
    assert row["completed"] == 300


LINES = ONLINE.read_text().splitlines() + SYNTHETIC.read_text().splitlines()


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.lists(st.integers(0, len(LINES) - 1), min_size=1, max_size=8), again=st.randoms())
def test_any_order_of_any_lines_gives_the_same_runs(tmp_path_factory, order, again):
    folder = tmp_path_factory.mktemp("orders")
    file = write(folder / "a.jsonl", *(LINES[index] for index in order))
    shuffled = list(order)
    again.shuffle(shuffled)
    other = write(folder / "b.jsonl", *(LINES[index] for index in shuffled))
    with perfdb.Store(folder / "store.duckdb") as opened:
        first = opened.ingest(file, CONTEXT)
        assert first.kept == len(set(order))
        assert first.kept + first.known == len(order)
        before = content(opened.path, times=False)
        second = opened.ingest(file, CONTEXT)
        assert (second.kept, second.known) == (0, len(order))
        assert content(opened.path, times=False) == before
        third = opened.ingest(other, CONTEXT)
        assert (third.kept, third.known) == (0, len(order))
        assert content(opened.path, times=False)["run_records"] == before["run_records"]


def test_the_same_run_from_two_files_is_one_run_with_two_sources(store, tmp_path):
    one = write(tmp_path / "mine.jsonl", RUN)
    two = write(tmp_path / "yours.jsonl", dict(reversed(RUN.items())) | {"isl": 1024.0, "notes": "copied"})
    assert store.ingest(one).kept == 1
    report = store.ingest(two)
    assert (report.kept, report.known) == (0, 1)
    rows = store.query("SELECT run_id, sources, notes FROM runs")
    assert [row["sources"] for row in rows] == [["mine.jsonl", "yours.jsonl"]]
    assert len(store.query("SELECT * FROM run_sources")) == 2


def test_an_appended_file_adds_only_what_is_new(store, tmp_path):
    path = write(tmp_path / "grows.jsonl", *LINES[:3])
    assert store.ingest(path, CONTEXT).kept == 3
    write(path, *LINES[:5])
    report = store.ingest(path)
    assert (report.known, report.kept, report.incomplete) == (3, 2, 2)


def test_bad_lines_are_rejected_and_the_rest_is_kept(store, tmp_path):
    path = write(tmp_path / "cut.jsonl", LINES[0], LINES[1][:150], LINES[2])
    report = store.ingest(path, CONTEXT)
    assert report.kept == 2
    assert [rejection.line for rejection in report.rejected] == [2]
    assert "cut off" in report.rejected[0].reason
    assert store.query("SELECT line FROM run_sources ORDER BY line") == [{"line": 1}, {"line": 3}]


def test_incomplete_runs_are_kept_and_completed_later(store):
    report = store.ingest(ONLINE)
    assert (report.kept, report.incomplete) == (7, 7)
    assert report.missing == {"gpu": 7, "model": 7}
    assert store.info()["missing"] == {"gpu": 7, "model": 7}
    run_id = store.query("SELECT run_id FROM runs WHERE request_rate = 1")[0]["run_id"]
    store.flag([{"run_id": run_id, "flag": "noisy", "reason": "fans"}])
    report = store.ingest(ONLINE, CONTEXT)
    assert (report.kept, report.incomplete) == (7, 0)
    rows = store.query("SELECT status, flags, request_rate FROM runs")
    assert [row["status"] for row in rows] == ["complete"] * 7
    assert [row["request_rate"] for row in rows if row["flags"] == ["noisy"]] == [1.0]
    assert len(store.query("SELECT * FROM run_sources")) == 7
    before = content(store.path, times=False)
    assert store.ingest(ONLINE).known == 7
    assert store.ingest(ONLINE, {"gpu": "H200-SXM"}).known == 7
    assert content(store.path, times=False) == before


def test_context_that_contradicts_is_rejected_with_both_values(store, tmp_path):
    report = store.ingest(write(tmp_path / "a.jsonl", RUN | {"tp": 4}), {"tp": 8})
    assert report.kept == 0
    assert report.rejected == [perfdb.Rejection(1, "tp: the file says 4, the context says 8")]
    store.ingest(ONLINE, CONTEXT)
    report = store.ingest(ONLINE, CONTEXT | {"gpu": "b200_sxm"})
    assert len(report.rejected) == 7
    assert "h200_sxm" in report.rejected[0].reason
    assert "b200_sxm" in report.rejected[0].reason
    assert {row["gpu"] for row in store.query("SELECT gpu FROM runs")} == {"h200_sxm"}


def test_infinity_and_zero_are_stored_as_missing(store):
    store.ingest(SYNTHETIC, {"gpu": "a", "model": "b"})
    row = store.query("SELECT * FROM runs WHERE list_contains(flags, 'zero_metric')")
    assert len(row) == 1
    assert row[0]["mean_ttft_ms"] is None
    assert row[0]["request_rate"] is None
    assert row[0]["load"] == "closed"
    reasons = store.query("SELECT DISTINCT origin, reason FROM flags WHERE reason LIKE 'mean_ttft_ms%'")
    assert reasons == [{"origin": "ingest", "reason": "mean_ttft_ms is 0.0: taken as missing"}]


def test_secrets_do_not_reach_the_file(tmp_path):
    path = tmp_path / "store.duckdb"
    with perfdb.Store(path) as opened:
        opened.ingest(DATA / "synthetic_sglang_0.5.6.jsonl", {"gpu": "h200_sxm"})
        text = opened.query("SELECT string_agg(text, '') AS t FROM raw_lines")[0]["t"]
    assert "redacted" in text
    assert "not-to-be-kept" not in text
    assert b"not-to-be-kept" not in path.read_bytes()


def test_writes_to_a_read_only_store_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "store.duckdb"
    with perfdb.Store(path) as opened:
        opened.ingest(ONLINE, CONTEXT)
        opened.save_profile("mine", 1, "{}")
    with perfdb.Store(path, read_only=True) as opened:
        assert opened.info()["runs"] == 7
        assert opened.load_profile("mine") == "{}"
        for write_something in (
            lambda: opened.ingest(SYNTHETIC),
            lambda: opened.save_profile("mine", 2, "{}"),
            lambda: opened.flag([]),
            opened.refresh_flags,
        ):
            with pytest.raises(perfdb.ReadOnlyStore, match="reading only"):
                write_something()
    # The superuser may write anything, so the answer of the system is what is tested.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(perfdb.ReadOnlyStore, match="read_only=True"):
        perfdb.Store(path)


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM run_records",
        "EXPLAIN ANALYZE DELETE FROM run_records",
        "DROP VIEW runs",
        "CREATE TABLE more (x INTEGER)",
        "COPY runs TO '/tmp/never.csv'",
        "SELECT 1; DELETE FROM flags",
        "ATTACH 'other.duckdb'",
        "SET threads = 1",
        "COMMIT",
        "INSERT INTO flags VALUES ('a', 'b', 'c', 'd')",
        "SELECT nothing FROM nowhere",
        "SELEC",
        "",
    ],
)
def test_query_refuses_what_writes(store, sql):
    store.ingest(ONLINE, CONTEXT)
    with pytest.raises(perfdb.QueryRefused):
        store.query(sql)
    assert store.info()["runs"] == 7


def test_query_answers_in_json_values(store):
    store.ingest(DATA / "synthetic_sglang_0.5.6.jsonl", {"gpu": "h200_sxm"})
    assert store.query("SELECT count(*) AS n FROM runs") == [{"n": 2}]
    assert store.query("WITH x AS (SELECT 1 AS a) FROM x") == [{"a": 1}]
    rows = store.query("SELECT * FROM runs") + store.query("SELECT * FROM files")
    assert json.loads(json.dumps(rows)) == rows


def test_view_has_every_key_once(store):
    columns = [row["column_name"] for row in store.query("DESCRIBE runs")]
    assert len(columns) == len(set(columns))
    assert {*KEYS, *PROVENANCE, *VIEW_ONLY} == set(columns)
    types = {row["column_name"]: row["column_type"] for row in store.query("DESCRIBE runs")}
    assert {name: types[name] for name in KEYS} == {name: SQL_TYPES[kind] for name, kind in KEYS.items()}


def test_view_rows_come_back_as_the_same_runs(store, tmp_path):
    store.ingest(DATA / "synthetic_sglang_0.5.6.jsonl", {"gpu": "h200_sxm"})
    exported = write(tmp_path / "exported.jsonl", *store.query("SELECT * FROM runs"))
    report = store.ingest(exported)
    assert (report.kept, report.known, report.rejected) == (0, 2, [])


def test_columns_of_one_name_are_told_apart(store):
    assert store.query("SELECT 1 AS a, 2 AS a, 3 AS a_1, 4 AS a") == [
        {"a": 1, "a_1": 2, "a_1_1": 3, "a_2": 4}
    ]


def test_frame_has_stable_kinds(store):
    assert store.frame().empty
    store.ingest(ONLINE, CONTEXT)
    frame = store.frame("request_rate >= 4")
    assert 0 < len(frame) < 7
    assert frame["tp"].dtype == frame["median_ttft_ms"].dtype == frame["mean_ttft_ms"].dtype == "float64"
    assert frame["spec_decode"].dtype == "boolean"
    assert frame["mean_ttft_ms"].isna().all()
    assert store.frame()["src_ref"].tolist() == [f"{ONLINE.name}#L{line}" for line in range(1, 8)]
    with pytest.raises(perfdb.QueryRefused):
        store.frame("no_such_key > 1")


def test_profiles_are_kept_by_version(store):
    store.save_profile("mine", "1", '{"a": 1}')
    store.save_profile("mine", 2, '{"a": 2}')
    store.save_profile("mine", 2, '{"a": 2}')
    assert store.load_profile("mine") == '{"a": 2}'
    assert store.load_profile("mine", 1) == '{"a": 1}'
    assert [(one["name"], one["version"]) for one in store.profiles()] == [("mine", "1"), ("mine", "2")]
    with pytest.raises(perfdb.ProfileExists, match="mine@2"):
        store.save_profile("mine", 2, '{"a": 3}')
    with pytest.raises(perfdb.UnknownProfile, match=r"mine@3.*mine@1, mine@2"):
        store.load_profile("mine", 3)


def flagged(store: perfdb.Store, flag: str) -> list[str]:
    rows = store.query(f"SELECT src_ref FROM runs WHERE list_contains(flags, '{flag}') ORDER BY src_ref")
    return [row["src_ref"] for row in rows]


def test_quality_rules(store, tmp_path):
    rich = RUN | {"engine_version": "0.5.9", "tp": 1, "source": "s"}
    rows = [
        rich | {"src_ref": "first"},
        RUN | {"source": "s", "src_ref": "exact", "tp": 1},
        RUN | {"source": "s", "src_ref": "near", "mean_tpot_ms": 10.01, "mean_ttft_ms": 100.3},
        RUN | {"source": "s", "src_ref": "apart", "mean_tpot_ms": 10.05},
        RUN | {"source": "s", "src_ref": "other width", "tp": 2, "mean_tpot_ms": 10.005},
        rich | {"src_ref": "slow", "mean_tpot_ms": 13.0},
        rich | {"src_ref": "burst", "load": "burst", "num_prompts": 9},
        rich | {"src_ref": "no lengths", "isl": None, "dataset": "sharegpt"},
        rich | {"src_ref": "no spread", "range_ratio": None, "concurrency": 9},
        rich | {"src_ref": "cold", "num_warmups": 0, "concurrency": 11, "spec_decode": None},
        rich | {"src_ref": "experts", "ep": 1, "expert_parallel": True, "tp": 4},
    ]
    store.ingest(write(tmp_path / "a.jsonl", *rows))
    counts = store.refresh_flags()
    assert flagged(store, "repeat") == ["exact"]
    assert flagged(store, "near_repeat") == ["near"]
    assert flagged(store, "ambiguous_config") == ["first", "slow"]
    assert flagged(store, "queueing") == ["burst"]
    assert flagged(store, "length_unknown") == ["no lengths"]
    assert flagged(store, "length_spread_unknown") == ["no spread"]
    assert flagged(store, "cold_first_wave") == ["cold"]
    assert flagged(store, "speculative_unknown") == ["cold"]
    assert flagged(store, "expert_width_doubtful") == ["experts"]
    before = content(store.path, times=False)
    assert store.refresh_flags() == counts
    assert content(store.path, times=False) == before


def test_refreshing_leaves_other_flags(store):
    store.ingest(ONLINE, CONTEXT)
    run_id = store.query("SELECT run_id FROM runs LIMIT 1")[0]["run_id"]
    row = {"run_id": run_id, "flag": "noisy", "reason": "fans"}
    assert store.flag([row, row, row | {"run_id": "nobody"}]) == 1
    assert store.flag([row]) == 0
    store.refresh_flags()
    assert store.info()["flags"]["noisy"] == 1


def test_flags_files_say_what_is_wrong(store, tmp_path):
    store.ingest(write(tmp_path / "a.jsonl", RUN | {"source": "s", "src_ref": "r"}))
    entry = {"source": "s", "src_ref": "r", "flag": "odd", "reason": "why"}
    rows = [entry, entry | {"src_ref": "gone"}, entry | {"flag": "never", "match": {"isl": 7}}]
    applied = store.apply_flags_file(write(tmp_path / "flags.jsonl", *rows))
    assert (applied.applied, applied.unmatched) == (1, [2, 3])
    assert store.info()["flags"] == {"odd": 1}
    for bad in ("{", "[]", json.dumps({"flag": "x"})):
        with pytest.raises(perfdb.FlagsFileError, match="line 2"):
            store.apply_flags_file(write(tmp_path / "flags.jsonl", entry, bad))


def test_the_shipped_measurements_come_in_whole(shipped):
    store, report, applied = shipped
    rows = [json.loads(line) for line in (MEASUREMENTS / "runs.jsonl").read_text().splitlines()]
    assert report.rejected == []
    assert report.kept + report.known == len(rows)
    assert store.info()["runs"] == report.kept == 4685
    assert report.incomplete == 643
    assert applied.unmatched == []
    assert store.ingest(MEASUREMENTS / "runs.jsonl").known == len(rows)


def test_shipped_figures_are_unchanged_by_the_store(shipped):
    store, _, _ = shipped
    stored = Counter(
        (row["src_ref"], row["mean_ttft_ms"], row["median_tpot_ms"], row["total_tok_s"], row["concurrency"])
        for row in store.query("SELECT * FROM runs")
    )
    rows = [json.loads(line) for line in (MEASUREMENTS / "runs.jsonl").read_text().splitlines()]
    shipped_rows = Counter(
        (row["src_ref"], *map(row.get, ("mean_ttft_ms", "median_tpot_ms", "total_tok_s", "concurrency")))
        for row in rows
    )
    assert stored == shipped_rows


def test_shipped_rows_have_a_source_and_a_licence():
    sources = tomllib.loads((MEASUREMENTS / "sources.toml").read_text())
    rows = [
        json.loads(line)
        for name in ("runs.jsonl", "startup.jsonl")
        for line in (MEASUREMENTS / name).read_text().splitlines()
    ]
    counted = Counter(row["source"] for row in rows)
    assert {name: table["rows"] for name, table in sources.items() if table["rows"]} == counted
    for row in rows:
        assert row["licence"] == sources[row["source"]]["licence"]
        assert row["attribution"]
        assert None not in row.values()
    for table in sources.values():
        assert {"repository", "path", "licence", "attribution", "what", "trust", "traps"} <= table.keys()


def test_shipped_flags_match_the_counts_in_the_readme(shipped):
    store, _, _ = shipped
    text = (MEASUREMENTS / "README.md").read_text()
    told = {
        cells[1].strip(" `"): int(cells[2])
        for cells in (line.split("|") for line in text.splitlines())
        if len(cells) == 5 and cells[2].strip().isdigit()
    }
    assert told == store.info()["flags"]
    assert all(f"`{name}`" in text for name in quality.RULES)


def test_an_interrupted_query_is_an_interruption(tmp_path):
    # What DuckDB makes of SIGINT while it works.
    with pytest.raises(KeyboardInterrupt), workspace(tmp_path / "store.duckdb"):
        raise RuntimeError(INTERRUPTED)
    with pytest.raises(RuntimeError, match="another"), workspace(tmp_path / "store.duckdb"):
        raise RuntimeError("another")
