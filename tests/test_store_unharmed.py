"""The store killed, crowded, damaged, without room or right to write: as before or after, and named."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pytest
from stores import CONTEXT, MEASUREMENTS, ONLINE, RUN, SYNTHETIC, content, write

import perfdb
from perfdb.connection import workspace

KILLS = 50


def test_a_failed_ingest_leaves_nothing(store):
    store.ingest(SYNTHETIC, CONTEXT)
    before = content(store.path, times=False)

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.ingest(ONLINE, CONTEXT, stop)
    assert content(store.path, times=False) == before
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


def test_a_kill_at_any_moment_leaves_the_store_as_before_or_after(tmp_path):
    path, base = tmp_path / "store.duckdb", tmp_path / "base.duckdb"
    with perfdb.Store(base) as opened:
        opened.ingest(ONLINE, CONTEXT)
    rows = [json.dumps(RUN | {"concurrency": number, "any": number}) for number in range(1, 101)]
    fresh = write(tmp_path / "fresh.jsonl", *rows, *SYNTHETIC.read_text().splitlines())
    before = content(base, times=False)
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
        after = content(path, times=False)
        assert len(after["run_records"]) > len(before["run_records"])
        for turn in range(KILLS):
            process = start()
            if turn % 2:
                until("taking in")
            time.sleep(draw.uniform(0, taking_in_s * 2 if turn % 2 else staging_s))
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            until("gone")
            now = content(path, times=False)
            assert now in (before, after)
            states["before" if now == before else "after"] += 1
        nursery.stdin.close()
    assert set(states) == {"before", "after"}, states
    with perfdb.Store(path) as opened:
        opened.ingest(fresh)
    assert content(path, times=False) == after


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
    before, size = content(base, times=False), base.stat().st_size
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
            assert content(path, times=False) == before, limit
        else:
            assert len(content(path, times=False)["run_records"]) == len(before["run_records"]) + len(rows), (
                limit
            )
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
    before = content(store.path, times=False)
    config = perfdb.connection._CONFIG | {"memory_limit": "12MB", "max_temp_directory_size": "1MB"}
    with monkeypatch.context() as little:
        little.setattr(perfdb.connection, "_CONFIG", config)
        for work in (
            lambda: store.ingest(path),
            lambda: store.query("SELECT list(a.range || repeat('x', 1000)) AS all FROM range(100000) a"),
        ):
            with pytest.raises(perfdb.MemoryExceeded, match="by parts"):
                work()
    assert content(store.path, times=False) == before
    assert store.ingest(path).kept == len(rows)


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
