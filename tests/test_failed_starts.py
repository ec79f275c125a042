"""Starts that came to nothing as facts of the store: taken in once, exported, merged, and asked for."""

from __future__ import annotations

import json

import pytest

import perfdb
from aicalib.calibrate.records import failed_starts, read_runs
from aicalib.calibrate.runs import warmed_up
from aicalib.measure.results import keep_start

FAILED = {
    "engine": "sglang", "engine_version": "0.5.23", "gpu": "h100-sxm", "tp": 1,
    "model": "meta-llama/Llama-3.1-8B-Instruct", "outcome": "failed", "reason": "out_of_memory",
    "message": "CUDA out of memory", "lasting": True, "occasion": "20261121T100000Z-1a2b3c",
}  # fmt: skip


def ingest(store, tmp_path, *records):
    path = tmp_path / "starts.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    return store.ingest(path)


def test_a_failed_start_travels_like_any_record(store, tmp_path):
    assert ingest(store, tmp_path, FAILED).kept == 1
    assert ingest(store, tmp_path, FAILED).known == 1
    store.export(tmp_path / "export")
    with perfdb.Store(tmp_path / "other.duckdb") as other:
        assert other.import_folder(tmp_path / "export").kept == 1
        assert other.merge(store.path).kept == 0
        assert failed_starts(other) == failed_starts(store) == [FAILED]


def test_no_secret_of_a_launch_line_is_kept(tmp_path):
    line = "HF_TOKEN=hf_abcdefgh python -m sglang.launch_server --model-path m --api-key verysecret"
    keep_start(
        tmp_path / "store.duckdb", tmp_path / "start.jsonl", {**FAILED, "launch": line, "log_tail": line}
    )
    with perfdb.Store(tmp_path / "store.duckdb") as store:
        (fact,) = failed_starts(store)
    assert "verysecret" not in json.dumps(fact)
    assert "hf_abcdefgh" not in json.dumps(fact)
    assert "--model-path m" in fact["launch"]


def test_only_what_failed_is_asked_for_oldest_first(store, tmp_path):
    later = {**FAILED, "occasion": "20261122T100000Z-000000", "outcome": "died", "under": {"concurrency": 64}}
    served = {**FAILED, "outcome": "started", "max_total_tokens": 65536, "reason": None}
    ingest(store, tmp_path, later, FAILED, served)
    assert [each["outcome"] for each in failed_starts(store)] == ["failed", "died"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"outcome": "exploded"}, "known are started, failed, died"),
        ({"reason": None}, "has a reason in words"),
        ({"outcome": "started"}, "nothing logged"),
    ],
)
def test_what_says_nothing_of_a_start_is_refused(store, tmp_path, change, said):
    (refused,) = ingest(store, tmp_path, FAILED | change).rejected
    assert said in refused.reason
    assert failed_starts(store) == []


def test_a_sidecar_says_the_occasion_of_a_run(tmp_path, published):
    run = {name: value for name, value in published[0].items() if value is not None}
    path = tmp_path / "runs.jsonl"
    path.write_text(json.dumps(run) + "\n")
    beside = tmp_path / "runs.jsonl.toml"
    beside.write_text('occasion = "a"\nseed = 7\nwarmed_up = true\n')
    (record,), _ = read_runs([path])
    assert (record["occasion"], record["seed"]) == ("a", 7)
    assert warmed_up(record)
    assert not warmed_up(record | {"warmed_up": False})
    beside.write_text('seed = "7"\n')
    with pytest.raises(perfdb.SidecarError, match="seed is '7': must be a whole number"):
        read_runs([path])


def test_flags_of_one_run_are_those_of_the_whole_store(store, tmp_path, published):
    runs = [each for each in published if each.get("mean_itl_ms") or each["load"] == "closed"][:40]
    path = tmp_path / "runs.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in runs))
    store.ingest(path)
    ids = [each["run_id"] for each in store.query("SELECT run_id FROM runs")]
    alone = store.judge(ids)
    assert any(alone.values())
    store.refresh_flags()
    for each in store.query("SELECT run_id, flags FROM runs"):
        assert set(alone[each["run_id"]]) <= set(each["flags"])
        assert set(each["flags"]) - set(alone[each["run_id"]]) <= {
            *("ambiguous_config", "copied_report", "repeat", "near_repeat", "mirrored_model")
        }
