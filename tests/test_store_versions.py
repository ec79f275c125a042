"""Stores of older and newer schemas: every run is kept, and what cannot be opened is named."""

import json
from pathlib import Path

import duckdb
import pytest
from stores import MEASUREMENTS, RUN, write

import perfdb
from perfdb import migrations
from perfdb.check import check
from perfdb.keys import KEYS, PROVENANCE
from perfdb.record import content_id

OLD_STEPS = 4
"""Schema steps of the first version, which kept a run as one row with its whole content beside it."""


def old_store(path: Path, runs: list[dict], starts: list[dict]) -> None:
    """Make a store as that version left it: two sources and a flag a run, a start-up, a profile, a prediction."""
    with duckdb.connect(str(path)) as connection:
        run = connection.execute
        run("CREATE TABLE migrations (name VARCHAR PRIMARY KEY, applied_at TIMESTAMP NOT NULL)")
        for name, text in list(migrations.steps().items())[:OLD_STEPS]:
            run(text)
            run("INSERT INTO migrations VALUES ($1, now()::TIMESTAMP)", [name])
        for file in "fg":
            run("INSERT INTO files VALUES ($1, 'a.jsonl', 'runs', now()::TIMESTAMP, $2)", [file, len(runs)])
        columns = [name for (name, *_) in run("DESCRIBE run_records").fetchall()]
        for number, each in enumerate(runs, start=1):
            kept = {name: value for name, value in each.items() if name in columns}
            extra = {name: each[name] for name in each.keys() - kept.keys() - {*PROVENANCE}}
            row = kept | {
                "run_id": f"old-{number}",
                "status": "complete",
                "missing": [],
                "content": json.dumps(kept),
                "extra": json.dumps(extra) if extra else None,
            }
            places = ", ".join(f"${at}" for at in range(1, len(row) + 1))
            values = [
                json.dumps(value) if isinstance(value, dict | list) and name != "missing" else value
                for name, value in row.items()
            ]
            run(f"INSERT INTO run_records ({', '.join(row)}) VALUES ({places})", values)
            text = json.dumps(each)
            for file in "fg":
                run("INSERT INTO raw_lines VALUES ($1, $2, $3)", [file, number, text])
                run(
                    "INSERT INTO run_sources (run_id, file_sha256, line, line_sha256, "
                    f"{', '.join(PROVENANCE)}) VALUES ($1, $2, $3, 'l', $4, $5, $6, $7, $8, $9, $10)",
                    [row["run_id"], file, number, *(f"{each.get(name)} {file}" for name in PROVENANCE)],
                )
            run("INSERT INTO flags VALUES ($1, 'noisy', $2, 'user')", [row["run_id"], f"run {number}"])
        for number, each in enumerate(starts, start=1):
            kept = {name: value for name, value in each.items() if name not in PROVENANCE}
            run("INSERT INTO startup_records VALUES ($1, $2)", [content_id(kept), json.dumps(kept)])
            run(
                "INSERT INTO startup_sources (startup_id, file_sha256, line) VALUES ($1, 'f', $2)",
                [content_id(kept), number],
            )
        run("INSERT INTO profiles VALUES ('mine', '1', '{}', now()::TIMESTAMP)")
        run("INSERT INTO predictions VALUES ('p', 'mine@1', '{\"value\": 1.5}', now()::TIMESTAMP)")
        run("INSERT INTO files VALUES ('k', 'gemm_perf.parquet', 'kernels', now()::TIMESTAMP, 1)")
        run(
            "INSERT INTO kernel_runs VALUES ('k', 'gemm_perf', 'NVIDIA H200', 'sglang', '0.5', 'gemm', 'x', "
            "'{\"m\": 1}', 0.5)"
        )


def test_a_store_of_the_first_version_keeps_every_run(tmp_path):
    lines = (MEASUREMENTS / "runs.jsonl").read_text().splitlines()
    # what that version knew as keys and what it kept beside them
    runs = [json.loads(line) for line in lines[::40]]
    runs += [
        RUN | {"concurrency": 77, "p99_itl_ms": 30.5, "completed": 9, "server": {"mode": None, "x": [1e-9]}}
    ]
    starts = [json.loads(line) for line in (MEASUREMENTS / "startup.jsonl").read_text().splitlines()[:5]]
    path = tmp_path / "old.duckdb"
    old_store(path, runs, starts)
    with perfdb.Store(path) as opened:
        stored = {row["flags_of"]: row for row in opened.query(
            "SELECT flags.reason AS flags_of, runs.* FROM runs JOIN flags USING (run_id)"
        )}  # fmt: skip
        info = opened.info()
        texts = opened.query(
            "SELECT text FROM run_sources JOIN raw_lines USING (line_sha256) ORDER BY number"
        )
        known = opened.ingest(write(tmp_path / "a.jsonl", *runs))
    assert info["runs"] == len({json.dumps(_without_provenance(run), sort_keys=True) for run in runs})
    assert (info["startups"], info["predictions"], info["kernel_runs"]) == (5, 1, {"gemm_perf": 1})
    assert [(each["name"], each["version"]) for each in info["profiles"]] == [("mine", "1")]
    for number, run in enumerate(runs, start=1):
        row = stored[f"run {number}"]
        assert {name: row[name] for name in run if name in KEYS} == {
            name: value for name, value in run.items() if name in KEYS
        }
        assert len(row["sources"]) >= 1 + ("source" in run)
        beside = {name: run[name] for name in run if name not in {*KEYS, *PROVENANCE}}
        assert (row["extra"] or {}) == beside
    assert [json.loads(row["text"]) for row in texts] == [run for run in runs for _ in range(2)]
    assert (known.kept, known.known) == (0, len(runs))
    assert check(path) == []


def _without_provenance(run: dict) -> dict:
    return {name: value for name, value in run.items() if name not in PROVENANCE}


def test_a_newer_schema_is_named(tmp_path):
    path = tmp_path / "store.duckdb"
    perfdb.Store(path).close()
    with duckdb.connect(str(path)) as connection:
        connection.execute("INSERT INTO migrations VALUES ('0099_tomorrow', now())")
    for read_only in (True, False):
        with pytest.raises(perfdb.NewerSchema, match=r"0099_tomorrow.*upgrade"):
            perfdb.Store(path, read_only=read_only)


def test_an_older_schema_needs_one_opening_for_writing(tmp_path):
    path = tmp_path / "store.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE migrations (name VARCHAR PRIMARY KEY, applied_at TIMESTAMP)")
    with pytest.raises(perfdb.OlderSchema, match=r"0001_first.*for writing"):
        perfdb.Store(path, read_only=True)
    with perfdb.Store(path) as opened:
        assert opened.info()["schema"] == list(migrations.steps())
