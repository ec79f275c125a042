"""The store: ingesting twice, from two files, with context, killed; and what it refuses."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections import Counter
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import perfdb
from perfdb import migrations, quality
from perfdb.check import check
from perfdb.connection import workspace
from perfdb.keys import KEYS, PROVENANCE, SQL_TYPES, VIEW_ONLY
from perfdb.record import content_id

DATA = Path(__file__).parent / "data"
ONLINE = DATA / "datacrunch_llama_3_3_70b_online.jsonl"
SYNTHETIC = DATA / "synthetic_sglang_0.4.6.jsonl"
MEASUREMENTS = Path(__file__).parent.parent / "measurements"
CONTEXT = {"gpu": "h200_sxm", "model": "meta-llama/Llama-3.3-70B-Instruct", "tp": 4}
KILLS = 50
RUN = {
    "engine": "sglang",
    "gpu": "h100_sxm",
    "model": "Qwen/Qwen3-32B",
    "weight_quant": "bf16",
    "spec_decode": False,
    "isl": 1024,
    "osl": 256,
    "range_ratio": 1.0,
    "load": "closed",
    "concurrency": 8,
    "mean_tpot_ms": 10.0,
    "mean_ttft_ms": 100.0,
}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def content(store: perfdb.Store) -> dict[str, list]:
    """Everything in the store but times."""
    tables = {
        "files": "sha256, name, format, lines",
        "raw_lines": "*",
        "run_records": "*",
        "run_sources": "* EXCLUDE (number)",
        "flags": "*",
    }
    return {
        table: sorted(map(repr, store.query(f"SELECT {columns} FROM {table}")))
        for table, columns in tables.items()
    }


@pytest.fixture
def store(tmp_path):
    with perfdb.Store(tmp_path / "store.duckdb") as opened:
        yield opened


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
        before = content(opened)
        second = opened.ingest(file, CONTEXT)
        assert (second.kept, second.known) == (0, len(order))
        assert content(opened) == before
        third = opened.ingest(other, CONTEXT)
        assert (third.kept, third.known) == (0, len(order))
        assert content(opened)["run_records"] == before["run_records"]


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
    before = content(store)
    assert store.ingest(ONLINE).known == 7
    assert store.ingest(ONLINE, {"gpu": "H200-SXM"}).known == 7
    assert content(store) == before


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


def test_a_failed_ingest_leaves_nothing(store):
    store.ingest(SYNTHETIC, CONTEXT)
    before = content(store)

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.ingest(ONLINE, CONTEXT, stop)
    assert content(store) == before
    assert store.ingest(ONLINE, CONTEXT).kept == 7


NURSERY = """
import os, sys, duckdb, pandas, perfdb
work = sys.modules["perfdb.ingest"]
work.LARGE_BYTES = 0
absorb = work.absorb

def told(connection):
    os.write(1, b"taking in\\n")
    return absorb(connection)

work.absorb = told
for _ in sys.stdin:
    pid = os.fork()
    if not pid:
        perfdb.Store(sys.argv[1]).ingest(sys.argv[2])
        os.write(1, b"done\\n")
        os._exit(0)
    os.write(1, b"%d\\n" % pid)
    os.waitpid(pid, 0)
    os.write(1, b"gone\\n")
"""
"""A process that forks one that ingests, for each line it is sent, and says how far that is."""


def everything(path: Path) -> dict[str, list[str]]:
    """Every row of every table of a store but times, as text."""
    with duckdb.connect(str(path), read_only=True) as connection:
        names = [name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        return {
            name: sorted(
                str(row)
                for row in connection.execute(
                    f"SELECT COLUMNS(lambda name: NOT suffix(name, '_at'))::VARCHAR FROM {name}"
                ).fetchall()
            )
            for name in names
        }


def test_a_kill_at_any_moment_leaves_the_store_as_before_or_after(tmp_path):
    path, base = tmp_path / "store.duckdb", tmp_path / "base.duckdb"
    with perfdb.Store(base) as opened:
        opened.ingest(ONLINE, CONTEXT)
    rows = [json.dumps(RUN | {"concurrency": number, "any": number}) for number in range(1, 101)]
    fresh = write(tmp_path / "fresh.jsonl", *rows, *SYNTHETIC.read_text().splitlines())
    before = everything(base)
    draw = random.Random(0)
    states: Counter[str] = Counter()
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY, str(path), str(fresh)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as nursery:
        assert nursery.stdin is not None
        assert nursery.stdout is not None

        def start() -> int:
            shutil.copy(base, path)
            path.with_name(f"{path.name}.wal").unlink(missing_ok=True)
            print(file=nursery.stdin)
            return int(nursery.stdout.readline())

        def until(word: str) -> float:
            began = time.monotonic()
            while nursery.stdout.readline().strip() != word:
                pass
            return time.monotonic() - began

        start()
        staging_s, taking_in_s = until("taking in"), until("gone")
        after = everything(path)
        assert len(after["run_records"]) > len(before["run_records"])
        for turn in range(KILLS):
            process = start()
            if turn % 2:
                until("taking in")
            time.sleep(draw.uniform(0, taking_in_s * 1.1 if turn % 2 else staging_s))
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            until("gone")
            now = everything(path)
            assert now in (before, after)
            states["before" if now == before else "after"] += 1
        nursery.stdin.close()
    assert set(states) == {"before", "after"}, states
    with perfdb.Store(path) as opened:
        opened.ingest(fresh)
    assert everything(path) == after


LIMITED = """
import resource, sys, duckdb, pandas, perfdb
store, file, limit, large = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "large"
if large:
    sys.modules["perfdb.ingest"].LARGE_BYTES = 0
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    perfdb.Store(store).ingest(file)
except perfdb.StorageFull as error:
    print(error)
"""


@pytest.mark.parametrize("large", ["small", "large"])
def test_a_full_disk_is_named_and_the_store_is_as_before(tmp_path, large):
    base, path = tmp_path / "base.duckdb", tmp_path / "store.duckdb"
    with perfdb.Store(base) as opened:
        opened.ingest(ONLINE, CONTEXT)
    rows = [RUN | {"concurrency": number, "any": f"{number:0500}"} for number in range(1, 400)]
    fresh = write(tmp_path / "fresh.jsonl", *rows)
    before, size = everything(base), base.stat().st_size
    refused = 0
    for limit in (1, 5000, 70_000, size, size + 300_000):
        shutil.copy(base, path)
        path.with_name(f"{path.name}.wal").unlink(missing_ok=True)
        arguments = [sys.executable, "-c", LIMITED, str(path), str(fresh), str(limit), large]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), limit
        assert not list(tmp_path.glob("*.staging-*"))
        if done.stdout:
            refused += 1
            assert "free some space" in done.stdout
            assert everything(path) == before, limit
        else:
            assert len(everything(path)["run_records"]) == len(before["run_records"]) + len(rows), limit
    assert refused >= 2


AS_NOBODY = """
import os, sys, duckdb, pandas, perfdb
store, file, warm = sys.argv[1:]
perfdb.Store(warm).ingest(file)  # loads all modules, which nobody might not be allowed to read
if os.geteuid() == 0:  # who may write anything
    os.setuid(65534)
try:
    perfdb.Store(store).ingest(file)
except perfdb.StoreError as error:
    print(type(error).__name__, error)
if os.path.exists(store):
    print(perfdb.Store(store, read_only=True).info()["runs"])
"""


@pytest.mark.parametrize("what", ["file", "folder", "new", "new folder"])
def test_a_store_that_cannot_be_written_is_named(what, tmp_path):
    with TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / ("sub/store.duckdb" if what == "new folder" else "store.duckdb")
        if not what.startswith("new"):
            with perfdb.Store(path) as opened:
                opened.ingest(ONLINE, CONTEXT)
            path.chmod(0o444 if what == "file" else 0o666)
        fresh = write(folder / "a.jsonl", RUN)
        folder.chmod(0o777 if what == "file" else 0o555)
        try:
            arguments = [
                sys.executable,
                "-c",
                AS_NOBODY,
                str(path),
                str(fresh),
                str(tmp_path / "warm.duckdb"),
            ]
            done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        finally:
            folder.chmod(0o777)
    assert done.stderr == ""
    told, *runs = done.stdout.splitlines()
    assert told.startswith("ReadOnlyStore")
    assert "store.duckdb" in told
    assert runs == ([] if what.startswith("new") else ["7"])


HEADER_BYTES, BLOCK_BYTES = 3 * 4096, 262_144
"""DuckDB's file: three headers, then blocks of this size."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    with perfdb.Store(folder / "store.duckdb") as opened:
        opened.ingest(ONLINE, CONTEXT)
        opened.ingest(MEASUREMENTS / "startup.jsonl")
        opened.save_profile("mine", 1, "{}")
        opened.export(folder / "export")
    return folder


METHODS = {
    "open": lambda store, _: perfdb.Store(store.path),
    "ingest": lambda store, _: store.ingest(SYNTHETIC),
    "import": lambda store, folder: store.import_folder(folder / "export"),
    "merge": lambda store, folder: store.merge(folder / "store.duckdb"),
    "merged": lambda store, folder: perfdb.Store(folder / f"{os.urandom(4).hex()}.duckdb").merge(store.path),
    "export": lambda store, _: store.export(store.path.with_name("out"), overwrite=True),
    "set": lambda store, _: store.set({"dp": 1}, where="true"),
    "flag": lambda store, _: store.flag([{"run_id": "x", "flag": "f", "reason": "r"}]),
    "refresh": lambda store, _: store.refresh_flags(),
    "flags file": lambda store, folder: store.apply_flags_file(MEASUREMENTS / "flags.jsonl"),
    "query": lambda store, _: store.query("SELECT sum(len(text)) FROM raw_lines"),
    "frame": lambda store, _: store.frame(),
    "info": lambda store, _: store.info(),
    "save": lambda store, _: store.save_profile("mine", 2, "{}", ["x"]),
    "load": lambda store, _: store.load_profile("mine"),
    "prediction": lambda store, _: store.save_prediction({"profile": "mine@1"}),
    "kernels": lambda store, _: store.kernel_tables(),
}


@pytest.mark.parametrize(
    ("damage", "least"),
    [
        (lambda content: content[:HEADER_BYTES] + bytes(len(content) - HEADER_BYTES), len(METHODS)),
        (lambda content: content[: len(content) // 2], 4),
        (lambda content: content[:HEADER_BYTES], len(METHODS)),
        (lambda content: content[: HEADER_BYTES // 2], len(METHODS)),
        (
            lambda content: bytes(
                byte ^ 1 if at % BLOCK_BYTES == BLOCK_BYTES // 2 else byte for at, byte in enumerate(content)
            ),
            0,
        ),
        (
            lambda content: (
                content[: HEADER_BYTES + BLOCK_BYTES]
                + bytes(255 - each for each in content[HEADER_BYTES + BLOCK_BYTES :])
            ),
            len(METHODS) // 2,
        ),
    ],
    ids=["zeros", "half", "headers", "not even headers", "some bits", "every bit"],
)
def test_a_damaged_store_is_named_by_every_method(whole, tmp_path, damage, least):
    content = damage((whole / "store.duckdb").read_bytes())
    store = perfdb.Store(tmp_path / "store.duckdb")
    named = set()
    for name, method in METHODS.items():
        store.path.write_bytes(content)
        store.path.with_name(f"{store.path.name}.wal").unlink(missing_ok=True)
        try:
            method(store, whole)
        except (perfdb.DamagedStore, perfdb.NotAStore):
            named.add(name)
    assert len(named) >= least, METHODS.keys() - named


def test_too_little_memory_is_named(store, tmp_path, monkeypatch):
    rows = [RUN | {"concurrency": number, "any": f"{number:02000}"} for number in range(1, 6000)]
    path = write(tmp_path / "a.jsonl", *rows)
    store.ingest(ONLINE, CONTEXT)
    before = everything(store.path)
    config = perfdb.connection._CONFIG | {"memory_limit": "12MB", "max_temp_directory_size": "1MB"}
    with monkeypatch.context() as little:
        little.setattr(perfdb.connection, "_CONFIG", config)
        for work in (
            lambda: store.ingest(path),
            lambda: store.query("SELECT list(a.range || repeat('x', 1000)) AS all FROM range(100000) a"),
        ):
            with pytest.raises(perfdb.MemoryExceeded, match="by parts"):
                work()
    assert everything(store.path) == before
    assert store.ingest(path).kept == len(rows)


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


def test_what_a_killed_ingest_left_is_removed_and_nothing_else(tmp_path):
    path = tmp_path / "store[1].duckdb"
    with subprocess.Popen([sys.executable, "-c", "pass"]) as gone:
        gone.wait()
    left = tmp_path / f"{path.name}.staging-{gone.pid}-0123abcd"
    others = [
        tmp_path / f"{path.name}.staging-{os.getpid()}-0123abcd",
        tmp_path / f"{path.name}.staging-mine",
    ]
    for folder in (left, *others):
        folder.mkdir()
    with workspace(path):
        pass
    assert not left.exists()
    assert all(folder.exists() for folder in others)


def test_a_held_store_names_its_holder(tmp_path):
    path = tmp_path / "store.duckdb"
    perfdb.Store(path).close()
    code = (
        "import sys, time, duckdb\n"
        "connection = duckdb.connect(sys.argv[1])\n"
        "print('held', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "held"
        for read_only in (True, False):
            with pytest.raises(perfdb.StoreBusy, match=rf"process {process.pid}.*--wait") as busy:
                perfdb.Store(path, read_only=read_only, wait_s=0.2)
            assert busy.value.pid == process.pid
        process.kill()


def test_two_stores_of_one_process_share_the_file(store):
    with perfdb.Store(store.path, read_only=True) as reader:
        store.ingest(ONLINE, CONTEXT)
        assert reader.info()["runs"] == 7


def test_two_writers_and_five_readers_at_once(tmp_path):
    path = tmp_path / "store.duckdb"
    perfdb.Store(path).close()
    code = (
        "import sys, perfdb\n"
        "for file in sys.argv[2:]:\n"
        "    try:\n"
        "        perfdb.Store(sys.argv[1]).ingest(file)\n"
        "    except perfdb.StoreBusy as error:\n"
        "        assert 'is held by' in str(error)\n"
    )
    reading = (
        "import sys, perfdb\n"
        "for _ in range(5):\n"
        "    try:\n"
        "        perfdb.Store(sys.argv[1], read_only=True).info()\n"
        "    except perfdb.StoreBusy as error:\n"
        "        assert 'is held by' in str(error)\n"
    )
    writers = [[sys.executable, "-c", code, str(path), str(ONLINE), str(SYNTHETIC)]] * 2
    readers = [[sys.executable, "-c", reading, str(path)]] * 5
    running = [subprocess.Popen(each, stderr=subprocess.PIPE, text=True) for each in writers + readers]
    for process in running:
        _, complaint = process.communicate(timeout=120)
        assert process.returncode == 0, complaint
    with perfdb.Store(path) as opened:
        assert opened.info()["runs"] == len(
            {*ONLINE.read_text().splitlines(), *SYNTHETIC.read_text().splitlines()}
        )


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


def test_what_is_not_a_store(tmp_path):
    text = write(tmp_path / "text.duckdb", "hello")
    empty = write(tmp_path / "empty.duckdb")
    foreign = tmp_path / "foreign.duckdb"
    with duckdb.connect(str(foreign)) as connection:
        connection.execute("CREATE TABLE theirs (x INTEGER)")
    for path, why in [
        (text, "not a DuckDB file"),
        (empty, "not a DuckDB file"),
        (tmp_path, "not a file"),
        (foreign, "something else"),
    ]:
        before = path.read_bytes() if path.is_file() else None
        with pytest.raises(perfdb.NotAStore, match=why):
            perfdb.Store(path)
        assert before is None or path.read_bytes() == before
    with pytest.raises(perfdb.NotAStore, match="ingesting a file makes one"):
        perfdb.Store(tmp_path / "absent.duckdb", read_only=True)


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
    before = content(store)
    assert store.refresh_flags() == counts
    assert content(store) == before


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
