"""A sweep on a real Dask scheduler with two worker processes, of which one is killed on the way."""

from __future__ import annotations

import json
import operator
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest

from aicalib.cli.main import main
from aicalib.errors import NoWorkers, WorkLost
from aicalib.plan import workers
from aicalib.plan.search.best import search
from aicalib.plan.search.space import Sought
from aicalib.plan.sweep.grid import grid_of
from aicalib.plan.sweep.run import plan_sweep, sweep
from aicalib.plan.workers import Where, connect, run

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.xdist_group("cluster")


class Cluster:
    """A scheduler and its workers, each a process of its own, on the loopback interface."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "scheduler.json"
        self.log = (folder / "log").open("wb")
        self.processes = {"scheduler": self.start("scheduler", "--port", "0")}
        for name in ("one", "two"):
            self.start_worker(name)
        end = monotonic() + 60
        while not self.file.is_file() or not self.file.stat().st_size:
            assert monotonic() < end, (folder / "log").read_text()
            sleep(0.05)
        self.address = json.loads(self.file.read_text())["address"]
        self.wait_for(2)

    def start_worker(self, name: str, path: Path = ROOT) -> None:
        options = ("--name", name, "--nthreads", "1", "--no-nanny")
        self.processes[name] = self.start("worker", *options, path=path)

    def wait_for(self, count: int) -> None:
        end = monotonic() + 60
        with connect(self.address) as client:
            while len(client.ncores()) != count:
                assert monotonic() < end
                sleep(0.05)

    def start(self, role: str, *options: str, path: Path = ROOT) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "dask",
            role,
            "--scheduler-file",
            str(self.file),
            "--host",
            "127.0.0.1",
        ]
        # A chunk may be lost with one worker, not with two.
        failures = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}
        given = failures | {"PYTHONPATH": str(path), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        return subprocess.Popen(
            [*command, "--no-dashboard", *options],
            stdout=self.log, stderr=self.log, env=os.environ | given, cwd=self.file.parent,
        )  # fmt: skip

    def kill(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes[name].wait()

    def close(self) -> None:
        for name in reversed(self.processes):
            self.kill(name)
        self.log.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    started = Cluster(tmp_path_factory.mktemp("cluster"))
    yield started
    started.close()


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks so small that a small grid has many."""
    monkeypatch.setattr("aicalib.plan.sweep.run.CHUNK", 500)


AXES = {
    "model": ["qwen3-32b", "deepseek-v3"],
    "gpu": ["h200-sxm", "b200-sxm"],
    "kv": ["auto", "fp8_e4m3"],
    "tp": [4, 8],
    "isl": [512, 4096],
    "osl": [256],
    "concurrency": {"first": 1, "last": 512},
}


def assert_same(one, other):
    assert one.statuses == other.statuses
    assert one.refused == other.refused
    for mine, theirs in ((one.best, other.best), (one.front, other.front)):
        for column, same in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(column, same)


def tasks_on(client):
    return client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))


def test_files_of_this_machine_travel_by_value(cluster, tmp_path, small_chunks):
    accelerator, model = tmp_path / "mine.toml", tmp_path / "my-model" / "config.json"
    accelerator.write_text('name = "mine"\nlike = "h100-sxm"\nmemory_gib = 96\n')
    model.parent.mkdir()
    catalogue = json.loads((ROOT / "aicalib/models/architectures.json").read_text())
    model.write_text(json.dumps(catalogue["qwen3-32b"]["config"]))
    asked = plan_sweep(grid_of(AXES | {"model": [str(model)], "gpu": [str(accelerator), "h200-sxm"]}))
    here = sweep(asked)
    accelerator.unlink()
    model.unlink()
    assert_same(sweep(asked, Where(scheduler=cluster.address)), here)
    assert here.best.number.size


def test_a_search_finds_the_same_on_the_cluster(cluster, monkeypatch):
    monkeypatch.setattr("aicalib.plan.search.evaluate.BLOCK", 200)
    sought = Sought("llama-8b", ("h100-sxm",), 1)
    blocks = []
    there = search(
        sought, limit=2000, tick=lambda: blocks.append(None), where=Where(scheduler=cluster.address)
    ).as_dict()
    assert there == search(sought, limit=2000).as_dict()
    assert len(blocks) > 5


def test_a_worker_of_another_version_is_named(cluster, tmp_path):
    (tmp_path / "aicalib").mkdir()
    (tmp_path / "aicalib" / "__init__.py").write_text('__version__ = "0.0.9"\n')
    cluster.start_worker("other", path=tmp_path)
    cluster.wait_for(3)
    # An editable installation finds the modules that this version lacks.
    says = r"worker tcp://127.0.0.1:.* has another aicalib: (none that can be used|0\.0\.9)"
    try:
        with pytest.raises(NoWorkers, match=says):
            next(run(max, 0, [1], Where(scheduler=cluster.address)))
    finally:
        cluster.kill("other")
        cluster.wait_for(2)


def test_what_was_not_begun_is_taken_back_on_interrupt(cluster, small_chunks):
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(plan_sweep(grid_of(AXES)), Where(scheduler=cluster.address), interrupt)
    with connect(cluster.address) as client:
        end = monotonic() + 30
        while tasks_on(client):
            assert monotonic() < end
            sleep(0.05)


def test_the_result_is_the_same_after_a_worker_was_killed(cluster, small_chunks):
    asked = plan_sweep(grid_of(AXES), top=3)
    done = []
    with connect(cluster.address) as client:

        def kill_one() -> None:
            done.append(None)
            if len(done) == 5:
                busy = {client.scheduler_info()["workers"][worker]["name"]: keys
                        for worker, keys in client.processing().items()}  # fmt: skip
                assert busy["one"], "no chunk is lost with this worker"
                cluster.kill("one")

        found = sweep(asked, Where(scheduler=cluster.address), kill_one)
        assert len(client.ncores()) == 1
    assert len(done) == len(asked.chunks()) > 10
    assert_same(found, sweep(asked))


def test_a_chunk_that_kills_its_workers_ends_the_work(cluster):
    cluster.start_worker("three")
    cluster.wait_for(2)
    with pytest.raises(WorkLost, match="a chunk was lost on the cluster: KilledWorker"):
        list(run(operator.call, signal.raise_signal, [signal.SIGKILL], Where(scheduler=cluster.address)))


def test_a_scheduler_without_workers_is_refused(cluster, monkeypatch):
    for name in cluster.processes.keys() - {"scheduler"}:
        cluster.kill(name)
    cluster.wait_for(0)
    monkeypatch.setattr(workers, "CONNECT_S", 0.3)
    with pytest.raises(NoWorkers, match="has no worker"):
        next(run(max, 0, [1], Where(scheduler=cluster.address)))


def test_a_scheduler_that_is_lost_midway_is_told_in_one_line(tmp_path, capsys, monkeypatch, small_chunks):
    cluster = Cluster(tmp_path)
    ticks = iter([lambda: cluster.kill("scheduler")])
    monkeypatch.setattr(
        "aicalib.cli.sweep.progress", lambda *_: nullcontext(lambda: next(ticks, lambda: None)())
    )
    grid = tmp_path / "grid.toml"
    grid.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in AXES.items() if name != "concurrency")
                    + "concurrency = { first = 1, last = 512 }\n")  # fmt: skip
    with pytest.raises(SystemExit) as left:
        main(["sweep", str(grid), "--scheduler", cluster.address])
    cluster.close()
    printed = capsys.readouterr()
    assert (left.value.code, printed.out) == (1, "")
    (line,) = printed.err.splitlines()
    assert line.startswith(f"error: the scheduler at {cluster.address} was lost; ")
    assert line.endswith("chunks were done, and nothing of them is kept: ask again")


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "carrier-pigeon://127.0.0.1:8786", "nowhere"])
def test_a_scheduler_that_is_not_there_is_refused(address, monkeypatch):
    monkeypatch.setattr(workers, "CONNECT_S", 0.3)
    with pytest.raises(NoWorkers, match=f"no scheduler answers at {address}"):
        next(run(max, 0, [1], Where(scheduler=address)))


@pytest.mark.parametrize("command", ["search", "sweep"])
def test_the_commands_exit_with_two_where_no_scheduler_is(command, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(workers, "CONNECT_S", 0.3)
    grid = tmp_path / "grid.toml"
    grid.write_text('model = "llama-8b"')
    options = ["--model", "llama-8b", "--gpus", "1"] if command == "search" else [str(grid)]
    with pytest.raises(SystemExit) as left:
        main([command, *options, "--scheduler", "tcp://127.0.0.1:9", "--json"])
    assert left.value.code == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out)["error"]["kind"] == "no_workers"
    assert printed.err.startswith("error: no scheduler answers at tcp://127.0.0.1:9")


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(NoWorkers, match="pip install 'aicalib\\[cluster\\]'"):
        next(run(max, 0, [1], Where(scheduler="tcp://127.0.0.1:8786")))


def test_a_worker_that_joins_late_with_another_version_refuses_the_work():
    with pytest.raises(NoWorkers, match="joined late"):
        workers._call(b"0.0.9 (0123456789ab)\n", b"")
