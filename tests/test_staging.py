"""Files of runs that the database itself splits into lines: blocks of any size, and lines read one by one, agree."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import write

import perfdb
from perfdb import staging
from perfdb.connection import workspace
from perfdb.tables import tables

RUN = {
    "engine": "sglang", "gpu": "h100_sxm", "model": "Qwen/Qwen3-32B", "isl": 1024, "osl": 256, "load": "closed",
    "concurrency": 8, "mean_tpot_ms": 10.0, "mean_ttft_ms": 100.0,
}  # fmt: skip
LINES = [
    *(json.dumps(RUN | {"concurrency": number}) for number in (8, 16)),
    json.dumps(RUN | {"model": "qwen/qwen3-32b", "isl": 1024.0}),
    json.dumps(RUN | {"gpu": None}),
    json.dumps(RUN | {"mean_ttft_ms": 0}),
    json.dumps(RUN | {"mean_tpot_ms": -1}),
    json.dumps(RUN | {"x": {"deep": [None, 2.0]}}),
    json.dumps(RUN | {"api_key": "not-to-be-kept", "x": 1}),
    json.dumps(RUN)[:-1] + ', "isl": 7}',
    json.dumps(RUN)[:-9],
    f"  {json.dumps(RUN | {'concurrency': 32})} ",
    "   ",
    "[1, 2]",
]
CONTEXTS = [None, {"gpu": "h100_sxm"}, {"gpu": "H100-SXM", "model": "Qwen3-32B"}, {"gpu": "b200", "tp": 8}]


@settings(max_examples=12, deadline=None)
@given(
    lines=st.lists(st.sampled_from(LINES), min_size=1, max_size=9),
    ended=st.booleans(),
    context=st.sampled_from(CONTEXTS),
)
def test_blocks_of_any_size_and_single_lines_give_one_store(lines, ended, context):
    found = {}
    survey = staging.survey
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder) / "a.jsonl"
        path.write_text("\n".join([json.dumps(RUN), *lines]) + "\n" * ended)
        for way in (1, 3, staging.BLOCK_LINES, "line by line"):
            if isinstance(way, int):
                patch.setattr(staging, "BLOCK_LINES", way)
            else:
                patch.setattr(staging, "survey", lambda path: replace(survey(path), plain=False))
            with workspace() as side:
                staging.stage(side, path, context)
                found[way] = {
                    table: sorted(
                        str(row).replace("not read: ", "")
                        for row in side.execute(
                            f"SELECT COLUMNS(lambda name: NOT suffix(name, '_at'))::VARCHAR FROM {table}"
                        ).fetchall()
                    )
                    for table in tables(side, "side")
                }
    one, *others = found.values()
    assert others == [one] * 3


def test_spaces_around_a_line_do_not_hide_that_it_was_ingested_before(tmp_path):
    path = write(tmp_path / "a.jsonl", f" {json.dumps(RUN | {'gpu': None})} ")
    store = perfdb.Store(tmp_path / "store.duckdb")
    assert store.ingest(path).incomplete == 1
    (tmp_path / "a.toml").write_text('gpu = "h100_sxm"')
    store.ingest(path)
    assert [row["status"] for row in store.query("SELECT status FROM runs")] == ["complete"]
