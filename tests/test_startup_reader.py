"""Start-up records: found by content, checked, kept once in the store."""

from __future__ import annotations

import json

import pytest

from perfdb import Store, read_records

START = {
    "engine": "SGLang", "engine_version": "0.5.9", "gpu": "h100_sxm", "model": "llama-3.1-8b", "tp": 1,
    "mem_fraction": 0.85, "avail_mem_before_load_gib": 78.5, "weights_gib": 15.0, "max_total_tokens": 420000,
    "kv_gib": None,
}  # fmt: skip


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_start_is_found_by_its_content(tmp_path):
    found = read_records(write(tmp_path / "any.jsonl", START), {"kv_dtype": "bf16"})
    assert (found.format, found.rejected) == ("startup", [])
    (record,) = found.records
    assert (record["engine"], record["kv_dtype"], record["src_ref"]) == ("sglang", "bf16", "any.jsonl#L1")
    assert "kv_gib" not in record
    assert len(record["startup_id"]) == 32


def test_a_run_with_memory_is_still_a_run(tmp_path):
    run = START | {"engine": "sglang", "load": "closed", "concurrency": 1, "mean_tpot_ms": 5.0}
    assert read_records(write(tmp_path / "runs.jsonl", run)).format == "runs"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"engine": "lmdeploy"}, "known are sglang, vllm, trtllm"),
        ({"tp": 1.5}, "tp is 1.5: not a positive whole number"),
        ({"mem_fraction": 1.2}, "must lie between 0 and 1"),
        ({"weights_gib": -1}, "cannot be negative"),
        ({"weights_gib": "15 GB"}, "not a number"),
        ({"model": 7}, "model is 7: not a text"),
        ({"max_total_tokens": None, "weights_gib": None}, "nothing logged"),
    ],
)
def test_an_impossible_start_is_rejected_with_the_reason(tmp_path, changed, reason):
    found = read_records(write(tmp_path / "starts.jsonl", START | changed))
    assert found.records == []
    assert reason in found.rejected[0].reason


def test_a_contradicting_context_is_rejected(tmp_path):
    found = read_records(write(tmp_path / "starts.jsonl", START), {"gpu": "h200_sxm"})
    assert "the context says 'h200_sxm'" in found.rejected[0].reason


def test_the_store_keeps_a_start_once(tmp_path):
    file = write(tmp_path / "starts.jsonl", START, START | {"tp": 2, "src_ref": "log 2"}, START)
    with Store(tmp_path / "store.duckdb") as store:
        first, second = store.ingest(file), store.ingest(file)
        assert (first.kept, first.known, second.kept, second.known) == (2, 1, 0, 3)
        rows = store.query("SELECT engine, tp, max_total_tokens, sources FROM startups ORDER BY tp")
        assert rows[1] == {
            "engine": "sglang", "tp": 2, "max_total_tokens": 420000, "sources": ["starts.jsonl"]
        }  # fmt: skip
        info = store.info()
        assert (info["startups"], info["runs"]) == (2, 0)
        assert "0004_startup" in info["schema"]
        kept = store.query("SELECT count(*) AS n FROM raw_lines")
        assert kept == [{"n": 2}]
