"""Stored runs completed by hand: what they lack is filled, what they say stays, and the result is as if ingested so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from stores import answer, write

import perfdb
from perfdb.amend import typed

RUN = {
    "engine": "sglang", "model": "Qwen/Qwen3-32B", "isl": 1024, "osl": 256, "load": "closed", "concurrency": 8,
    "mean_tpot_ms": 10.0, "server": {"mode": None, "shares": [0.1, 1e-9]},
}  # fmt: skip


def tables(store: perfdb.Store) -> dict[str, list[str]]:
    """Everything that a store says of its runs, but times and what took whose place."""
    columns = {
        "run_records": "*",
        "configurations": "*",
        "run_sources": "* EXCLUDE (number)",
        "raw_lines": "*",
        "flags": "*",
        "rejected_lines": "*",
    }
    return {
        table: sorted(map(repr, store.query(f"SELECT {what} FROM {table}")))
        for table, what in columns.items()
    }


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A store of three runs: without an accelerator, with one, and one of another engine without."""
    folder = tmp_path_factory.mktemp("filled")
    rows = [RUN, RUN | {"gpu": "l40s", "concurrency": 16}, RUN | {"engine": "vllm", "mean_ttft_ms": 0}]
    opened = perfdb.Store(folder / "store.duckdb")
    opened.ingest(write(folder / "a.jsonl", *rows))
    return folder


@pytest.fixture
def store(filled, tmp_path):
    """A copy of that store, with the file beside it."""
    shutil.copytree(filled, tmp_path, dirs_exist_ok=True)
    return perfdb.Store(tmp_path / "store.duckdb")


def runs(store: perfdb.Store, columns: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in store.query(f"SELECT {columns} FROM runs ORDER BY src_ref")]


def test_incomplete_runs_are_completed(store):
    former = dict(runs(store, "src_ref, run_id"))
    done = store.set({"gpu": "h100_sxm"}, incomplete=True)
    assert (done.chosen, done.changed, done.incomplete, done.missing, done.rejected) == (2, 2, 0, {}, [])
    assert runs(store, "gpu, status, missing") == [
        ("h100_sxm", "complete", []),
        ("l40s", "complete", []),
        ("h100_sxm", "complete", []),
    ]
    now = dict(runs(store, "src_ref, run_id"))
    assert {name for name in now if now[name] != former[name]} == {"a.jsonl#L1", "a.jsonl#L3"}
    replaced = {
        (row["run_id"], row["by_run_id"])
        for row in store.query("SELECT run_id, by_run_id FROM superseded_runs")
    }
    assert replaced == {(former[name], now[name]) for name in ("a.jsonl#L1", "a.jsonl#L3")}
    contexts = store.query("SELECT context FROM run_sources ORDER BY line")
    assert [row["context"] for row in contexts] == [{"gpu": "h100_sxm"}, None, {"gpu": "h100_sxm"}]


def test_what_still_lacks_is_counted(store):
    done = store.set({"tp": 4}, where="gpu IS NULL")
    assert (done.chosen, done.changed, done.incomplete, done.missing) == (2, 2, 2, {"gpu": 2})


def test_flags_follow_the_run(store):
    first = runs(store, "run_id")[0][0]
    store.flag([{"run_id": first, "flag": "noisy", "reason": "fans"}])
    store.set({"gpu": "h100_sxm"}, incomplete=True)
    assert runs(store, "flags") == [(["noisy"],), ([],), (["zero_metric"],)]
    flags = store.query("SELECT flag, origin FROM flags ORDER BY flag")
    assert flags == [{"flag": "noisy", "origin": "user"}, {"flag": "zero_metric", "origin": "ingest"}]


def test_a_stored_value_is_never_overwritten(store):
    before = tables(store)
    done = store.set({"gpu": "h100_sxm", "tp": 4}, where="concurrency = 16")
    assert (done.chosen, done.changed) == (1, 0)
    assert [each.line for each in done.rejected] == [2]
    assert all(part in done.rejected[0].reason for part in ("a.jsonl#L2", "gpu", "l40s", "h100_sxm"))
    assert tables(store) == before
    same_gpu = store.set({"gpu": "L40S", "tp": 4}, where="concurrency = 16")
    assert (same_gpu.changed, same_gpu.rejected) == (1, [])
    assert runs(store, "gpu, tp")[1] == ("l40s", 4)


def test_runs_that_can_be_completed_are_though_others_contradict(store):
    done = store.set({"gpu": "h100_sxm"}, where="true")
    assert (done.chosen, done.changed, len(done.rejected)) == (3, 2, 1)
    assert runs(store, "gpu") == [("h100_sxm",), ("l40s",), ("h100_sxm",)]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"mean_tpot_ms": 9.0}, "mean_tpot_ms is a measured figure"),
        ({"cached": 1}, "cached is no key of a run"),
        ({"run_id": "a"}, "run_id is no key of a run"),
        ({"source": "me"}, "source is no key of a run"),
        ({}, "nothing to set"),
        ({"gpu": None}, "nothing to set"),
    ],
)
def test_what_cannot_be_set_is_refused(store, values, told):
    before = tables(store)
    with pytest.raises(perfdb.ContextRefused, match=told):
        store.set(values, incomplete=True)
    assert tables(store) == before


def test_a_value_that_is_none_is_rejected_by_name(store):
    before = tables(store)
    done = store.set({"tp": 0}, incomplete=True)
    assert (done.changed, len(done.rejected)) == (0, 2)
    assert "tp is 0: must be above zero" in done.rejected[0].reason
    assert store.set({"tp": "four"}, incomplete=True).rejected[0].reason.endswith("not a number")
    assert tables(store) == before


@pytest.mark.parametrize("name", ["completed", "std_ttft_ms", "accept_length", "duration_s"])
def test_whatever_was_measured_cannot_be_set(store, name):
    with pytest.raises(perfdb.ContextRefused, match="measured"):
        store.set({name: 1}, incomplete=True)


def test_which_runs_must_be_said_and_found(store):
    with pytest.raises(perfdb.NothingChosen, match="say which runs"):
        store.set({"tp": 4})
    with pytest.raises(perfdb.NothingChosen, match="no run meets"):
        store.set({"tp": 4}, where="gpu = 'nowhere'")
    with pytest.raises(perfdb.NothingChosen, match="no stored id starts so"):
        store.set({"tp": 4}, run_ids=["xyz"])
    with pytest.raises(perfdb.NothingChosen, match="several ids start so"):
        store.set({"tp": 4}, run_ids=[""])
    for bad in ("no_such_key = 1", "true) OR (true", "true); DELETE FROM flags; --", "gpu ="):
        with pytest.raises(perfdb.QueryRefused):
            store.set({"tp": 4}, where=bad)
    assert runs(store, "tp") == [(None,)] * 3


def test_runs_by_id_and_conditions_together(store):
    ids = [run_id for (run_id,) in runs(store, "run_id")]
    assert store.set({"tp": 2}, run_ids=[ids[0][:12].upper(), ids[1]]).changed == 2
    assert runs(store, "tp") == [(2,), (2,), (None,)]
    done = store.set({"dp": 2}, where="tp = 2 -- these", incomplete=True)
    assert done.chosen == 1
    assert runs(store, "dp") == [(2,), (None,), (None,)]


def test_two_runs_that_become_the_same_are_one_with_both_sources(store, tmp_path):
    store.ingest(write(tmp_path / "b.jsonl", RUN | {"gpu": "h100_sxm"}))
    store.set({"gpu": "h100_sxm"}, where="gpu IS NULL AND engine = 'sglang'")
    rows = store.query("SELECT sources FROM runs WHERE engine = 'sglang' AND concurrency = 8")
    assert rows == [{"sources": ["a.jsonl", "b.jsonl"]}]


def test_ingesting_the_file_again_changes_nothing(store, tmp_path):
    store.set({"gpu": "h100_sxm"}, incomplete=True)
    before = tables(store)
    report = store.ingest(tmp_path / "a.jsonl")
    assert (report.kept, report.known) == (0, 3)
    assert tables(store) == before


SETTABLE = st.fixed_dictionaries(
    {},
    optional={
        "gpu": st.sampled_from(["h100_sxm", "ü 'x'"]),
        "tp": st.sampled_from([1, 8]),
        "mem_fraction": st.sampled_from([0.5, 1.0]),
        "spec_decode": st.booleans(),
        "disagg_layout": st.just({"prefill": [1, None]}),
        "weight_quant": st.just("fp8"),
        "osl": st.just(256),
        "model": st.just("Qwen3-32B"),
    },
).filter(bool)


SOURCE = "* EXCLUDE (number, context)"


@settings(max_examples=5, deadline=None)
@given(SETTABLE)
@example({"tp": 8, "osl": 256})
def test_set_is_as_if_ingested_with_that_context(context):
    bare = {name: value for name, value in RUN.items() if name != "osl"}
    rows = [bare, bare | {"gpu": "h100_sxm", "any": {"deep": [None]}}, bare | {"osl": 256, "tp": 8}]
    with TemporaryDirectory() as folder:
        path = write(Path(folder) / "a.jsonl", *rows)
        one, other = (perfdb.Store(Path(folder) / name) for name in ("one.duckdb", "other.duckdb"))
        one.ingest(path)
        refused = one.set(context, where="true").rejected
        report = other.ingest(path, context)
        assert [each.line for each in refused] == [each.line for each in report.rejected]
        # A source that learned nothing new by being set does not say what it was told.
        mine, theirs = (
            {**tables(store), "run_sources": store.query(f"SELECT {SOURCE} FROM run_sources ORDER BY ALL")}
            for store in (one, other)
        )
        if refused:  # a refused line stands as it was, where an ingest does not take it at all
            kept = "SELECT run_id FROM run_sources WHERE line NOT IN " + str(
                (*(each.line for each in refused), 0)
            )
            assert one.query(kept + " ORDER BY ALL") == other.query(kept + " ORDER BY ALL")
        else:
            assert mine == theirs
        before = tables(one)
        assert one.set(context, where="true").changed == 0
        assert tables(one) == before


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("gpu", "8", "8"),
        ("tp", "8", 8),
        ("mem_fraction", "0.5", 0.5),
        ("spec_decode", "true", True),
        ("disagg_layout", '{"p": 1}', {"p": 1}),
    ],
)
def test_typed_values(name, text, value):
    assert typed(name, text) == value


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("tp", "four", "a whole number"),
        ("tp", "4.5", "a whole number"),
        ("tp", "true", "a whole number"),
        ("mem_fraction", "NaN%", "a number"),
        ("spec_decode", "1", "true or false"),
        ("disagg_layout", "[" * 100_000, "a JSON value"),
        ("mean_ttft_ms", "1", "measured"),
        ("nothing", "1", "no key of a run"),
    ],
)
def test_texts_that_are_no_such_value(name, text, told):
    with pytest.raises(perfdb.ContextRefused, match=told):
        typed(name, text)


def test_the_command(store, capsys):
    status, out, _ = answer(capsys, "db", "set", "gpu=H100-SXM", "tp=4", "--incomplete", "--db", store.path)
    assert (status, out) == (0, "chosen 2, completed 2, rejected 0\n")
    assert runs(store, "gpu, tp") == [("h100-sxm", 4), ("l40s", None), ("h100-sxm", 4)]
    status, out, err = answer(
        capsys, "db", "set", "gpu=l40s", "--where", "tp = 4", "--db", store.path, "--json"
    )
    told = json.loads(out)
    assert (status, told["changed"], len(told["rejected"]), err) == (2, 0, 2, "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["gpu"], "gpu= is not KEY=VALUE"),
        (["=4", "--incomplete"], "is not KEY=VALUE"),
        (["tp=4"], "say which runs"),
        (["tp=x", "--incomplete"], "a whole number"),
        (["gpu=gtx-9999", "--incomplete"], "gtx-9999"),
        (["tp=4", "tp=8", "--incomplete"], "tp is given twice"),
        (["mean_tpot_ms=4", "--incomplete"], "measured figure"),
        (["tp=4", "--where", "nothing = 1"], "not understood"),
        (["tp=4", "--run", "z"], "starts so"),
    ],
)
def test_wrong_commands_end_in_status_2(store, capsys, arguments, told):
    status, out, err = answer(capsys, "db", "set", *arguments, "--db", store.path)
    assert (status, out) == (2, "")
    assert told in err
    assert "Traceback" not in err


def test_setting_makes_no_store(tmp_path, capsys):
    status, _, err = answer(capsys, "db", "set", "tp=4", "--incomplete", "--db", tmp_path / "nowhere.duckdb")
    assert (status, "no store at" in err) == (2, True)
    assert list(tmp_path.iterdir()) == []
