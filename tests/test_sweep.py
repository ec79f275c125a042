"""Grids of options, and the best of each group of them, against a plain table of every configuration."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import aicalib
from aicalib.cli.main import main
from aicalib.errors import InvalidValue, NotCovered, RequestError, UnknownName
from aicalib.plan.search.best import bound
from aicalib.plan.search.front import front
from aicalib.plan.sweep.grid import grid_of, read_grid
from aicalib.plan.sweep.run import Kept, _Fronts, plan_sweep, sweep
from aicalib.plan.workers import Where

AXES = {
    "gpu": ["h100-sxm", "b200-sxm", "no-such-gpu"],
    "model": ["qwen3-32b", "llama-8b"],
    "kv": ["auto", "fp8_e4m3"],
    "tp": [1, 2, 3],
    "mem_fraction": [float("nan"), 0.8],
    "concurrency": [1, 16, 64],
    "isl": [512, 4096],
}
LEVEL = 40.0
"""Milliseconds that a token may take."""


@pytest.fixture(scope="module")
def asked():
    return plan_sweep(grid_of(AXES), bounds=[bound("tpot", LEVEL)], top=2)


@pytest.fixture(scope="module")
def found(asked):
    return sweep(asked)


@pytest.fixture(scope="module")
def everything(asked):
    """Every configuration of the grid, predicted as a table."""
    frame = pd.DataFrame(asked.grid.columns(np.arange(asked.grid.size)))
    return frame.join(aicalib.predict_many(frame).drop(columns="tp"))


def test_a_grid_holds_every_combination_once(asked):
    frame = pd.DataFrame(asked.grid.columns(np.arange(asked.grid.size)))
    assert len(frame) == asked.grid.size == 3 * 2 * 2 * 3 * 2 * 3 * 2
    assert len(frame.drop_duplicates()) == len(frame)
    assert {name: set(frame[name].dropna()) for name in AXES} == {
        name: {value for value in values if value == value} for name, values in AXES.items()
    }


def test_what_became_of_the_configurations_is_counted(found, everything):
    assert {name: count for name, count in found.statuses.items() if count} == dict(
        everything["status"].value_counts()
    )
    reasons = everything["reason"][everything["status"] == "refused"]
    assert dict(found.refused) == dict(reasons.value_counts())


def test_the_best_are_those_of_the_whole_table(asked, found, everything):
    within = everything[(everything["status"] == "ok") & (everything["tpot_ms"] <= LEVEL)].copy()
    within["total"] = within["output_tok_s_per_gpu"] * (within["isl"] + 256.0) / 256.0
    starts = [name for name in AXES if name not in ("model", "isl", "concurrency")]
    within = within.sort_values("total", ascending=False, kind="stable")
    within = within.drop_duplicates(["model", "isl", *starts])
    figures = ["model", "isl", "concurrency", "output_tok_s_per_gpu", "ttft_ms", "tpot_ms", "e2e_ms"]
    alike = within.groupby(figures, sort=False)["tp"].count() - 1
    assert alike.max() == 1  # the memory fraction
    within = within.drop_duplicates(figures)
    within["alike"] = alike.to_numpy()
    table = asked.table(found.best)
    for group, best in table.groupby(["model", "isl"]):
        expected = within[(within["model"] == group[0]) & (within["isl"] == group[1])].head(2)
        np.testing.assert_allclose(best["output_tok_s_per_gpu"], expected["output_tok_s_per_gpu"], rtol=1e-12)
        assert (best["tpot_ms"] <= LEVEL).all()
        rows = table.index.get_indexer(best.index)
        assert (found.best.starts[rows] - 1).tolist() == expected["alike"].tolist()
    assert table.groupby(["model", "isl"]).ngroups == within.groupby(["model", "isl"]).ngroups


def test_the_fronts_are_those_of_the_whole_table(asked, found, everything):
    table = asked.table(found.front)
    for (model, isl), group in everything[everything["status"] == "ok"].groupby(["model", "isl"]):
        points = group["output_tok_s_per_gpu"].to_numpy(), 1e3 / group["tpot_ms"].to_numpy()
        mine = table[(table["model"] == model) & (table["isl"] == isl)]
        expected = group["output_tok_s_per_gpu"].to_numpy()[front(*points)]
        np.testing.assert_allclose(mine["output_tok_s_per_gpu"], expected, rtol=1e-12)


def test_chunks_and_processes_make_no_difference(asked, found, monkeypatch):
    monkeypatch.setattr("aicalib.plan.sweep.run.CHUNK", 77)
    again = sweep(asked, Where(jobs=2))
    assert len(again.busy_s) > 5
    assert (again.statuses, again.refused) == (found.statuses, found.refused)
    for mine, theirs in ((again.best, found.best), (again.front, found.front)):
        for column, same in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(column, same)


def test_a_table_is_the_same_whoever_predicts_it(asked, everything, monkeypatch, tmp_path):
    monkeypatch.setattr("aicalib.plan.table.PART", 77)
    frame = pd.DataFrame(asked.grid.columns(np.arange(asked.grid.size))).iloc[::-1]
    pd.testing.assert_frame_equal(
        aicalib.predict_many(frame, where=Where(jobs=2)), aicalib.predict_many(frame)
    )
    assert aicalib.predict_many(frame.iloc[:0], where=Where(jobs=2)).empty
    with pytest.raises(UnknownName, match="modle"):
        aicalib.predict_many(frame.rename(columns={"model": "modle"}), where=Where(jobs=2))
    own = tmp_path / "own.toml"
    own.touch()
    with pytest.raises(NotCovered, match="is a file of this machine"):
        aicalib.predict_many(frame.assign(gpu=str(own)), where=Where(scheduler="tcp://127.0.0.1:9"))


points = st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 4))


@given(st.lists(points, max_size=30), st.integers(1, 7))
def test_fronts_of_groups_are_fronts_however_they_come_in(listed, step):
    table = np.array(listed, dtype=int).reshape(-1, 3)
    group, first, second = table.T
    nothing = np.zeros(len(table))
    kept = Kept(
        np.arange(len(table)), group, nothing, first.astype(float), second.astype(float), nothing, nothing.astype(int)
    )  # fmt: skip
    fronts = _Fronts()
    for begin in range(0, len(listed), step):
        fronts.add(kept.take(np.arange(begin, min(begin + step, len(listed)))))
    expected = []
    for each in range(3):
        rows = np.flatnonzero(kept.group == each)
        expected += rows[front(kept.per_gpu[rows], kept.per_user[rows])].tolist()
    assert fronts.kept().number.tolist() == expected


@pytest.mark.parametrize(
    ("axes", "kind", "words"),
    [
        ({"modle": "llama-8b"}, UnknownName, "unknown option 'modle'"),
        ({"tp": []}, InvalidValue, "no value"),
        ({"tp": ["four"]}, InvalidValue, "'four' is not a number"),
        ({"tp": [True]}, InvalidValue, "True is not a number"),
        ({"model": [70]}, InvalidValue, "70 is not a text"),
        ({"lockstep": ["yes"]}, InvalidValue, "is not yes or no"),
        ({"tp": [1, 2, 1]}, InvalidValue, "twice"),
        ({"isl": {"first": 1}}, InvalidValue, "a range has"),
        ({"isl": {"first": 1, "last": 0.5}}, InvalidValue, "a range has"),
        ({"isl": {"first": 9, "last": 1}}, InvalidValue, "a range rises"),
    ],
)
def test_wrong_grids_are_refused(axes, kind, words):
    with pytest.raises(kind, match=words):
        grid_of(axes)


def test_a_draft_model_of_a_file_is_refused(tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 512, "num_hidden_layers": 1,
        "num_attention_heads": 8, "num_key_value_heads": 8, "intermediate_size": 1024, "vocab_size": 1000,
        "max_position_embeddings": 4096, "torch_dtype": "bfloat16",
    }))  # fmt: skip
    with pytest.raises(NotCovered, match="is a file"):
        grid_of({"draft_model": str(config)})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"top": 0}, "top 0"),
        ({"objective": "beauty"}, "unknown objective"),
        ({"by": ["osl"]}, "unknown axis 'osl'"),
    ],
)
def test_wrong_questions_are_refused(given, words):
    with pytest.raises(RequestError, match=words):
        plan_sweep(grid_of(AXES), **given)


def test_a_grid_of_which_no_name_is_known_is_refused():
    with pytest.raises(
        InvalidValue, match="no configuration of the grid is left: unknown accelerator 'no-such-gpu'"
    ):
        plan_sweep(grid_of({"gpu": "no-such-gpu"}))


def command(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(["sweep", *arguments])
    printed = capsys.readouterr()
    return int(left.value.code), printed.out, printed.err


GRID = """
model = ["qwen3-32b", "llama-8b"]
gpu = "h200-sxm"
tp = [1, 3]
isl = [512, 2048]
concurrency = {first = 8, last = 64, step = 8}
"""


@pytest.fixture
def grid_file(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(GRID)
    return str(path)


def test_the_command_answers_each_group(grid_file, capsys):
    status, out, _ = command(capsys, grid_file, "--tpot-ms", "30", "--json")
    document = json.loads(out)
    assert status == 0
    assert document["evaluated"] == read_grid(grid_file).size == 64
    assert document["statuses"] == {"ok": 32, "does_not_fit": 0, "overloaded": 0, "refused": 32}
    assert {(row["model"], row["isl"]) for row in document["best"]} == {
        (model, isl) for model in ("qwen3-32b", "llama-8b") for isl in (512.0, 2048.0)
    }
    assert all(row["tpot_ms"] <= 30.0 for row in document["best"])
    assert document["pareto"]
    status, out, _ = command(capsys, grid_file, "--by", "model", "--top", "1")
    assert status == 0
    assert "64 configurations" in out
    assert out.count("calibrated") == 2
    assert "tp 3 (dp 1) does not divide the 64 attention heads of qwen3-32b" in out


def test_settings_that_change_nothing_are_no_starts_of_their_own(grid_file, capsys):
    with open(grid_file, "a") as grid:
        grid.write("mem_fraction = [nan, 0.8, 0.85]\n")
    status, out, _ = command(capsys, grid_file, "--by", "model", "--top", "1", "--json")
    best = json.loads(out)["best"]
    assert (status, [row["starts_alike"] for row in best]) == (0, [2, 2])
    assert [row["mem_fraction"] for row in best] == [None, None]
    out = command(capsys, grid_file, "--by", "model", "--top", "1")[1]
    assert out.count("and 2 alike") == 2
    assert "alike: starts under the same load" in out


def test_groups_that_keep_no_level_are_counted(grid_file, capsys):
    status, out, _ = command(capsys, grid_file, "--ttft-ms", "0.001")
    assert status == 0
    assert "4 of 4 groups have no configuration within the bounds" in out


def test_an_estimate_follows_from_what_it_measured(grid_file, capsys):
    status, out, _ = command(capsys, grid_file, "--estimate", "1e9", "--json")
    found = json.loads(out)
    assert status == 0
    assert found["chunk"] == 64
    seconds = found["core_hours"] * 3600.0
    assert seconds == pytest.approx(1e9 / found["chunk"] * found["core_s"])
    assert found["busy_hours"] * 3600.0 == pytest.approx(1e9 / found["chunk"] * found["busy_s"])
    assert found["core_s"] >= found["busy_s"] > 0.0
    assert found["hours"]["100"] == pytest.approx(found["core_hours"] / 100.0)
    assert "core-hours" in command(capsys, grid_file, "--estimate", "1e9")[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--estimate", "0"], "not a number of configurations"),
        (["--estimate", "nan"], "not a number of configurations"),
        (["--jobs", "0"], "jobs 0 is not"),
        (["--jobs", "2", "--scheduler", "tcp://127.0.0.1:1"], "a scheduler has workers of its own"),
        (["--objective", "cost"], "unknown objective 'cost'"),
        (["--percentile", "p42"], "unknown percentile 'p42'"),
        (["--tpot-ms", "40@42"], "unknown percentile '42'"),
    ],
)
def test_wrong_options_exit_with_two(grid_file, capsys, options, words):
    status, _, err = command(capsys, grid_file, *options)
    assert status == 2
    assert words in err
    assert "Traceback" not in err


def test_a_file_that_is_no_toml_exits_with_two(tmp_path, capsys):
    path = tmp_path / "grid.toml"
    path.write_text("model = [")
    status, _, err = command(capsys, str(path))
    assert status == 2
    assert "is no TOML" in err
