"""Profiles as artefacts: compared, shown, exported, imported, refused when stale."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from stores import answer

import perfdb
from aicalib.calibrate.lineage import version_of
from aicalib.errors import InvalidValue
from aicalib.profiles import Profile, all_coefficients, default_profile, priors, uncalibrated
from aicalib.profiles.coefficients import position
from aicalib.profiles.compare import compare
from aicalib.profiles.exchange import read_profile

FREE = [each.name for each in all_coefficients() if each.spread > 0]


def changed(profile, **factors):
    """Return a profile whose coefficients differ by factors, under the version "2"."""
    values = profile.values.copy()
    for name, factor in factors.items():
        values[position(name)] *= factor
    return dataclasses.replace(profile, version="2", values=values)


@pytest.fixture(scope="module")
def base():
    """A profile of a team: every free coefficient at its prior, known within 5 %."""
    deviations = np.array([0.05 if each.spread > 0 else 0.0 for each in all_coefficients()])
    fitted = {
        "run_id": ["a", "b", "c"], "engine": ["sglang"] * 3, "family": ["llama3-70b", "llama3-70b", "qwen3-32b"],
        "gpu": ["h100-sxm", "h200-sxm", "h200-sxm"],
    }  # fmt: skip
    score = {
        "n": 3, "median_ape": 0.1, "mape": 0.1, "group_median_ape": 0.1, "within_20": 0.8, "coverage_90": 0.9
    }  # fmt: skip
    row = {"engine": "sglang", "metric": "tpot_ms", "groups": 2, "physics": score, "calibrated": score}
    return dataclasses.replace(
        default_profile(), name="team", version="1", values=priors(), deviations=deviations, fitted=fitted,
        lineage={"scoreboard": [row]},
    )  # fmt: skip


def test_a_profile_does_not_differ_from_itself(base):
    found = compare(base, Profile.from_json(base.to_json()))
    assert found.equal
    assert found.moved == []
    assert found.parts == found.groups == {}
    assert found.runs == (0, 3, 0)


def test_coefficients_that_moved_by_more_than_their_deviations_come_first(base):
    far, near = FREE[0], FREE[1]
    found = compare(base, changed(base, **{far: 1.5, near: 1.03}))
    assert [each.name for each in found.moved] == [far, near]
    assert [each.clear for each in found.moved] == [True, False]
    assert found.moved[0].log_ratio == pytest.approx(math.log(1.5), abs=1e-5)
    assert found.moved[0].deviation == pytest.approx(math.hypot(0.05, 0.05))
    assert not found.equal


def test_a_coefficient_that_is_held_may_not_move_unsaid(base):
    held = next(each.name for each in all_coefficients() if each.spread == 0)
    (moved,) = compare(base, changed(base, **{held: 1.01})).moved
    assert moved.deviation == 0.0
    assert moved.clear


def test_groups_runs_and_scores_that_came_and_went(base):
    fitted = {
        "run_id": ["b", "c", "d"], "engine": ["sglang", "sglang", "vllm"],
        "family": ["llama3-70b", "qwen3-32b", "qwen3-32b"], "gpu": ["h200-sxm", "h200-sxm", "b200-sxm"],
    }  # fmt: skip
    (row,) = base.lineage["scoreboard"]
    row = row | {"calibrated": row["calibrated"] | {"median_ape": 0.07}}
    found = compare(base, dataclasses.replace(base, fitted=fitted, lineage={"scoreboard": [row]}))
    assert found.runs == (1, 2, 1)
    assert found.groups == {
        ("sglang", "llama3-70b", "h100-sxm"): (1, 0), ("vllm", "qwen3-32b", "b200-sxm"): (0, 1)
    }  # fmt: skip
    assert found.scores[0]["median_ape"] == (0.1, 0.07)
    assert found.equal


def halved(part):
    return {name: halved(each) for name, each in part.items()} if isinstance(part, dict) else (
        [each / 2 for each in part] if isinstance(part, list) else part / 2
    )  # fmt: skip


def test_any_other_part_that_differs_is_named_by_its_path(base):
    document = json.loads(base.to_json())
    quantiles = document["quantiles"]
    quantiles["other"] = {"tpot_ms": quantiles["vllm"]["tpot_ms"]}
    del quantiles["vllm"]["ttft_ms"]
    quantiles["sglang"]["tpot_ms"] = halved(quantiles["sglang"]["tpot_ms"])
    changes = compare(base, Profile.from_json(json.dumps(document))).parts["quantiles"]
    assert changes.keys() == {"added", "lost", "changed"}
    for kind, begins in {
        "changed": "sglang / tpot_ms",
        "added": "other / tpot_ms",
        "lost": "vllm / ttft_ms",
    }.items():
        assert changes[kind]
        assert all(path.startswith(begins) for path in changes[kind])


def test_a_profile_without_runs_compares_too():
    found = compare(uncalibrated(), default_profile())
    assert found.runs[2] == len(default_profile().fitted["run_id"])
    assert any(each.clear for each in found.moved)
    assert found.scores[0]["median_ape"][0] is None


def test_a_round_through_file_and_store_changes_nothing(capsys, tmp_path, base):
    db, file, again = tmp_path / "store.duckdb", tmp_path / "team.json", tmp_path / "again.json"
    file.write_text(base.to_json())
    for _ in range(2):
        assert answer(capsys, "profiles", "import", file, "--db", db)[0] == 0
    status, told, _ = answer(capsys, "profiles", "export", "team", again, "--db", db)
    assert status == 0
    assert "team@1" in told
    assert again.read_text() == file.read_text()
    with perfdb.Store(db, read_only=True) as store:
        rows = store.query("SELECT run_id FROM profile_runs WHERE name = 'team' ORDER BY run_id")
        assert [row["run_id"] for row in rows] == ["a", "b", "c"]
    status, told, _ = answer(capsys, "profiles", "list", "--db", db, "--json")
    listed = {each["name"]: each for each in json.loads(told)}
    assert listed.keys() == {"default", "priors", "team"}
    assert (listed["team"]["runs"], listed["team"]["groups"], listed["team"]["usable"]) == (3, 3, True)
    assert json.loads(answer(capsys, "list", "profiles", "--db", db, "--json")[1]) == json.loads(told)


def test_a_file_is_not_overwritten_unasked(capsys, tmp_path):
    file = tmp_path / "kept.json"
    file.write_text("mine")
    status, _, told = answer(capsys, "profiles", "export", "priors", file, "--db", tmp_path / "no.duckdb")
    assert status == 2
    assert "is there already" in told
    assert file.read_text() == "mine"
    assert answer(capsys, "profiles", "export", "priors", file, "--overwrite")[0] == 0
    assert Profile.from_json(file.read_text()).label == uncalibrated().label
    status, _, told = answer(capsys, "profiles", "export", "priors", tmp_path / "nowhere" / "p.json")
    assert status == 2
    assert "there is no folder" in told


def test_a_profile_takes_another_name(capsys, tmp_path, base):
    db, file = tmp_path / "store.duckdb", tmp_path / "theirs.json"
    file.write_text(base.to_json())
    assert answer(capsys, "profiles", "import", file, "--name", "theirs", "--db", db)[0] == 0
    assert answer(capsys, "profiles", "show", "theirs@1", "--db", db)[0] == 0


def test_a_version_with_other_content_is_refused(capsys, tmp_path, base):
    db, file = tmp_path / "store.duckdb", tmp_path / "team.json"
    file.write_text(base.to_json())
    answer(capsys, "profiles", "import", file, "--db", db)
    file.write_text(dataclasses.replace(changed(base, **{FREE[0]: 1.1}), version="1").to_json())
    status, _, told = answer(capsys, "profiles", "import", file, "--db", db)
    assert status == 2
    assert "team@1 is stored with other content" in told


def altered(base, path, value):
    document = json.loads(base.to_json())
    place = document
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("schema",), 99, "has schema 99"),
        (("physics",), "0", "physics 0"),
        (("name",), "default", "always means the shipped profile"),
        (("name",), "a/b", "letters, digits"),
        (("version",), "1@2", "letters, digits"),
        (("coefficients", FREE[0], "value"), 1e9, f"{FREE[0]} is 1e+09"),
        (("coefficients", FREE[0], "value"), float("nan"), f"{FREE[0]} is nan"),
        (("coefficients", FREE[0], "value"), -1.0, "outside"),
        (("coefficients", FREE[0], "log_deviation"), -1.0, f"deviation of {FREE[0]} is -1"),
        (("coefficients", FREE[0]), {}, "is not a profile"),
        (("fitted", "engine"), ["sglang"], "differ in length"),
    ],
)
def test_what_an_import_refuses(capsys, tmp_path, base, path, value, said):
    file = tmp_path / "theirs.json"
    file.write_text(altered(base, path, value))
    with pytest.raises(InvalidValue, match=said.replace("+", r"\+")):
        read_profile(file)
    db = tmp_path / "store.duckdb"
    status, _, told = answer(capsys, "profiles", "import", file, "--db", db)
    assert status == 2
    assert said in told
    if db.exists():
        with perfdb.Store(db, read_only=True) as store:
            assert store.profiles() == []


def test_a_stale_profile_is_listed_as_such_and_refused_with_what_to_do(capsys, tmp_path, base):
    db = tmp_path / "store.duckdb"
    with perfdb.Store(db) as store:
        store.save_profile("old", "1", altered(base, ("physics",), "0"))
    status, told, _ = answer(capsys, "profiles", "list", "--db", db, "--json")
    assert status == 0
    old = next(each for each in json.loads(told) if each["name"] == "old")
    assert not old["usable"]
    assert "calibrate again" in old["reason"]
    assert "physics 0" in answer(capsys, "profiles", "list", "--db", db)[1]
    for command in (["show", "old"], ["diff", "default", "old"], ["export", "old", tmp_path / "x.json"]):
        status, told, _ = answer(capsys, "profiles", *command, "--db", db, "--json")
        assert status == 2
        error = json.loads(told)["error"]
        assert "physics 0" in error["message"]
        assert error["alternatives"][0] == "aicalib calibrate --base default"


def test_show_and_diff_say_the_same_as_text_and_as_json(capsys, tmp_path, base):
    db, file = tmp_path / "no.duckdb", tmp_path / "other.json"
    file.write_text(changed(base, **{FREE[0]: 1.5}).to_json())
    (tmp_path / "team.json").write_text(base.to_json())
    shown = json.loads(answer(capsys, "profiles", "show", "default", "--db", db, "--json")[1])
    text = answer(capsys, "profiles", "show", "default", "--db", db)[1]
    assert shown["fitted"]["runs"] == sum(each["runs"] for each in shown["fitted"]["groups"])
    assert f"fitted on {shown['fitted']['runs']} runs of {len(shown['fitted']['groups'])} groups" in text
    assert all(name in text for name in FREE)
    assert "no run was looked at" in answer(capsys, "profiles", "show", "priors", "--db", db)[1]
    given = ("profiles", "diff", tmp_path / "team.json", file, "--db", db)
    (moved,) = json.loads(answer(capsys, *given, "--json")[1])["coefficients"]
    assert (moved["name"], moved["clear"]) == (FREE[0], True)
    assert moved["ratio"] == pytest.approx(1.5, rel=1e-4)
    text = answer(capsys, *given)[1]
    assert "+50.0 %" in text
    assert "runs kept 3, added 0, lost 0" in text
    same = answer(capsys, "profiles", "diff", file, file, "--db", db)[1]
    assert "the two predict the same" in same


@pytest.mark.parametrize("command", ["drift", "profiles", *(f"profiles {each}" for each in
    ("list", "show", "diff", "export", "import"))])  # fmt: skip
def test_each_command_has_help(capsys, command):
    status, told, _ = answer(capsys, *command.split(), "--help")
    assert status == 0
    assert max(map(len, told.splitlines())) <= 100
    assert len(told.splitlines()) > 5


@pytest.mark.parametrize("value", [-0.1, float("nan")])
def test_intervals_that_no_fit_gives_are_refused(base, value):
    document = json.loads(base.to_json())
    document["quantiles"]["sglang"]["tpot_ms"]["curve"] = value
    with pytest.raises(InvalidValue, match="quantile of sglang tpot_ms curve"):
        Profile.from_json(json.dumps(document))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("coefficients", FREE[0], "value"), 1e9, f"{FREE[0]} is 1e"),
        (("fitted", "curve"), None, "names curve 99999"),
    ],
)
def test_a_file_that_is_predicted_with_is_held_to_the_same(capsys, tmp_path, base, path, value, said):
    file = tmp_path / "altered.json"
    file.write_text(altered(base, path, value or [99999] * len(base.fitted["engine"])))
    status, _, told = answer(capsys, "predict", "--profile", file)
    assert status == 2
    assert said in told


def test_a_version_is_of_all_that_a_profile_says(base):
    other = dataclasses.replace(base, lineage=base.lineage | {"left_out_by_flag": {"near_repeat": 1}})
    assert version_of(other) != version_of(base)
    assert version_of(dataclasses.replace(base, name="other", version="x")) == version_of(base)
