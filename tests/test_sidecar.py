"""Sidecars: which file is read, which runs it speaks of, and what it may not say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stores import answer, write

import perfdb
from perfdb.check import check
from perfdb.errors import SidecarError, StoreError
from perfdb.keys import KEYS
from perfdb.sidecar import find, read


def sidecar(tmp_path, text, name="results.toml"):
    path = tmp_path / name
    path.write_text(text)
    return path


def refusal(tmp_path, text):
    path = sidecar(tmp_path, text)
    with pytest.raises(SidecarError) as error:
        read(path)
    assert isinstance(error.value, StoreError)
    assert error.value.kind == "sidecar"
    assert str(error.value).startswith(str(path))
    return str(error.value)


def test_the_nearest_sidecar_is_the_one_read(tmp_path):
    result = tmp_path / "results.jsonl"
    assert find(result) is None
    folder = sidecar(tmp_path, "", "aicalib.toml")
    assert find(result) == folder
    plain = sidecar(tmp_path, "", "results.toml")
    assert find(result) == plain
    plain.unlink()
    named = sidecar(tmp_path, "", "results.jsonl.toml")
    assert find(result) == named


def test_two_sidecars_of_one_file_are_refused(tmp_path):
    for name in ("results.toml", "results.jsonl.toml"):
        sidecar(tmp_path, "", name)
    with pytest.raises(SidecarError, match=r"results\.jsonl\.toml and .*results\.toml both describe results"):
        find(tmp_path / "results.jsonl")


def test_a_name_with_dots_or_none(tmp_path):
    bare = sidecar(tmp_path, "", "results.toml")
    assert find(tmp_path / "results") == bare
    dotted = sidecar(tmp_path, "", "run-0.5.23.toml")
    assert find(tmp_path / "run-0.5.23.json") == dotted
    # A sidecar does not describe itself.
    assert find(bare) is None


def test_flat_keys_hold_for_every_run(tmp_path):
    path = sidecar(
        tmp_path,
        'gpu = "h100-sxm"\ntp = 4\nmem_fraction = 0.88\nrange_ratio = 1\nprefix_cache = false\n'
        'source = "lab"\n[disagg_layout]\nprefill_num_workers = 2\n',
    )
    found = read(path)
    assert found.path == path
    expected = {
        "gpu": "h100-sxm", "tp": 4, "mem_fraction": 0.88, "range_ratio": 1, "prefix_cache": False,
        "source": "lab", "disagg_layout": {"prefill_num_workers": 2},
    }  # fmt: skip
    assert found.context(1, {}) == found.context(99, {"tag": "x"}) == expected
    assert found.unused() == []


TWO = """
gpu = "h100-sxm"
tp = 1

[[run]]
match = {tag = "tp4"}
tp = 4

[[run]]
match = {line = 3}
tp = 8
"""


def test_runs_are_matched_by_line_or_by_what_they_state(tmp_path):
    found = read(sidecar(tmp_path, TWO))
    assert found.unused() == [{"tag": "tp4"}, {"line": 3}]
    assert found.context(1, {"tag": "tp1"}) == {"gpu": "h100-sxm", "tp": 1}
    assert found.context(2, {"tag": "tp4"}) == {"gpu": "h100-sxm", "tp": 4}
    assert found.unused() == [{"line": 3}]
    assert found.context(3, {}) == {"gpu": "h100-sxm", "tp": 8}
    assert found.unused() == []


def test_all_of_a_match_must_hold_and_names_are_folded(tmp_path):
    text = '[[run]]\nmatch = {model = "llama-3.1-8b", concurrency = 8}\ntp = 2\n'
    found = read(sidecar(tmp_path, text))
    assert found.context(1, {"model": "meta-llama/Llama-3.1-8B"}) == {}
    assert found.context(1, {"model": "meta-llama/Llama-3.1-8B", "concurrency": 8.0}) == {"tp": 2}


def test_contradicting_runs_are_refused(tmp_path):
    found = read(sidecar(tmp_path, TWO))
    with pytest.raises(SidecarError, match=r"tp: two \[\[run\]\] tables match line 3, with 4 and 8"):
        found.context(3, {"tag": "tp4"})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('gpux = "h100"', "gpux is no key of a run; did you mean gpu"),
        ('tensor_parallel_width_of_engine = 4', "is no key of a run; known are engine, engine_version"),
        ('tp = "4"', "tp is '4': must be a whole number"),
        ("tp = true", "tp is True: must be a whole number"),
        ("tp = 4.0", "tp is 4.0: must be a whole number"),
        ("gpu = 4", "gpu is 4: must be a text"),
        ("prefix_cache = 1", "prefix_cache is 1: must be true or false"),
        ("mem_fraction = 2026-01-01", "must be a number"),
        ("disagg_layout = 4", "must be a table or an array"),
        ("mean_ttft_ms = 4.0", "mean_ttft_ms is a measured figure: it comes from the result file alone"),
        ("gpu = ", "cannot be read as TOML: Invalid value (at end of document)"),
        ('gpu = "a"\ngpu = "b"', "cannot be read as TOML"),
        ("run = 4", "write one table [[run]] for each deployment"),
        ("[[run]]\ntp = 4", "match is None in a [[run]]: say which runs, as in {line = 3}"),
        ("[[run]]\nmatch = {}\ntp = 4", "match is {}"),
        ("[[run]]\nmatch = {line = 0}\ntp = 4", "match.line is 0: a whole number from 1"),
        ("[[run]]\nmatch = {line = true}\ntp = 4", "match.line is True"),
        ("[[run]]\nmatch = {line = 1}\ntpp = 4", "tpp is no key of a run; did you mean tp"),
        ("server_info = 4", "server_info is 4: must be the path of a saved /server_info answer"),
        ('server_info = "gone.json"', "gone.json cannot be read"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(tmp_path, text, reason):
    assert reason in refusal(tmp_path, text)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "results.toml"
    path.write_bytes(b'gpu = "\xff"')
    with pytest.raises(SidecarError, match="cannot be read as TOML"):
        read(path)


INFO = {
    "model_path": "/models/llama", "version": "0.5.4", "tp_size": 4, "kv_cache_dtype": "auto",
    "mem_fraction_static": 0.85, "quantization": "fp8",
}  # fmt: skip


def test_saved_server_settings_are_context(tmp_path):
    (tmp_path / "info.json").write_text(json.dumps(INFO))
    found = read(sidecar(tmp_path, 'server_info = "info.json"\ngpu = "h100-sxm"\nmodel = "llama-3.1-8b"'))
    context = found.context(1, {})
    assert (context["engine"], context["engine_version"], context["tp"]) == ("sglang", "0.5.4", 4)
    assert (context["mem_fraction"], context["gpu"]) == (0.85, "h100-sxm")
    # What the server only suggests does not outweigh a key.
    assert context["model"] == "llama-3.1-8b"
    assert found.suggested(1, {}) == {"kv_dtype": "auto", "weight_quant": "fp8"}


def test_saved_server_settings_of_one_run(tmp_path):
    (tmp_path / "info.json").write_text(json.dumps(INFO))
    found = read(sidecar(tmp_path, '[[run]]\nmatch = {line = 2}\nserver_info = "info.json"'))
    assert found.context(1, {}) == found.suggested(1, {}) == {}
    assert found.context(2, {})["tp"] == 4
    assert found.suggested(2, {})["model"] == "/models/llama"


def test_a_key_against_the_saved_server_settings(tmp_path):
    (tmp_path / "info.json").write_text(json.dumps(INFO))
    reason = refusal(tmp_path, 'server_info = "info.json"\ntp = 8')
    assert "tp is 8, but info.json says 4: remove one of the two" in reason


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_saved_server_settings_that_are_none(tmp_path, content):
    (tmp_path / "info.json").write_text(content)
    assert "server_info: " in refusal(tmp_path, 'server_info = "info.json"')


VALUES = st.sampled_from(
    ['"x"', "4", "-1", "0.5", "nan", "true", "[]", "[1, {a = 2}]", "{b = 1}", "2026-01-01", "", "{"]
)
LINES = st.tuples(st.sampled_from(["run", "match", "server_info", "[[run]]", "[run]", *KEYS]), VALUES)


@given(lines=st.lists(LINES, max_size=6))
def test_any_text_is_a_sidecar_or_a_named_error(tmp_path_factory, lines):
    text = "\n".join(name if name.startswith("[") else f"{name} = {value}" for name, value in lines)
    path = sidecar(tmp_path_factory.mktemp("any"), text)
    said = ""
    try:
        found = read(path)
    except SidecarError as error:
        said = str(error)
    assert said.startswith(str(path)) if said else found.context(1, {}).keys() <= KEYS.keys()


def test_near_misses_are_from_the_keys(tmp_path):
    assert "did you mean concurrency" in refusal(tmp_path, "concurency = 4")
    assert Path(refusal(tmp_path, "x = 1").split(":")[0]).name == "results.toml"


def test_equal_lines_that_a_sidecar_tells_apart_keep_their_places(tmp_path):
    path = tmp_path / "a.jsonl"
    line = {
        "engine": "sglang",
        "model": "m",
        "gpu": "l40s",
        "isl": 8,
        "osl": 8,
        "load": "burst",
        "mean_tpot_ms": 9.0,
    }
    path.write_text(2 * (json.dumps(line) + "\n"))
    store = perfdb.Store(tmp_path / "store.duckdb")
    assert store.ingest(path).kept == 1
    beside = tmp_path / "a.toml"
    beside.write_text("".join(f"[[run]]\nmatch = {{line = {each}}}\ntp = {each}\n" for each in (1, 2)))
    wanted = [{"line": 1, "tp": 1}, {"line": 2, "tp": 2}]
    for kept, known in ((2, 0), (0, 2)):
        report = store.ingest(path)
        assert (report.kept, report.known, report.rejected) == (kept, known, [])
    beside.unlink()
    assert store.ingest(path).known == 2
    other = perfdb.Store(tmp_path / "other.duckdb")
    other.ingest(path)
    other.merge(store.path)
    for each in (store, other):
        found = each.query(
            "SELECT line, tp FROM run_sources JOIN run_records USING (run_id) JOIN configurations USING (config_id) "
            "ORDER BY ALL"
        )
        assert found == wanted
        assert check(each.path) == []


def test_what_no_run_met_and_what_runs_lack_is_told(tmp_path, capsys):
    path = write(tmp_path / "a.jsonl", {"engine": "sglang", "gpu": "l40s", "osl": 8, "mean_tpot_ms": 9.0})
    (tmp_path / "a.toml").write_text("[[run]]\nmatch = {line = 7}\ntp = 2\n")
    db = ["--db", tmp_path / "store.duckdb"]
    status, out, err = answer(capsys, "ingest", path, *db)
    assert (status, out) == (
        0, "kept 1 (1 incomplete, lacking isl (1), load (1), model (1)), already known 0, rejected 0\n",
    )  # fmt: skip
    assert err == f"  {path}: no run meets the [[run]] of its sidecar with line = 7\n"
    told = json.loads(answer(capsys, "ingest", path, *db, "--json")[1])
    assert (told["known"], told["unmatched"]) == (1, [{"file": str(path), "match": {"line": 7}}])
