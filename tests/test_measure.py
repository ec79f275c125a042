"""Measuring with stand-ins for engine and client: what becomes a fact, what does not, and that nothing stays."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import perfdb
from aicalib.calibrate.records import failed_starts
from aicalib.calibrate.runs import warmed_up
from aicalib.calibrate.startup import evaluate_startups
from aicalib.cli.main import main
from aicalib.engines.launch import Launch
from aicalib.errors import InvalidValue, NotCovered
from aicalib.measure import occasion as occasion_module
from aicalib.measure import results
from aicalib.measure.client import Load
from aicalib.measure.failures import lasting
from aicalib.measure.http import status_of
from aicalib.measure.process import Kept
from aicalib.measure.server import StartFailed, _bind, environment, must_be_free, started
from aicalib.measure.session import Planned, Where, measure

ROOT = Path(__file__).parent.parent
MODEL = "meta-llama/Llama-3.1-8B-Instruct"
DEPLOYMENT = {
    "model": MODEL, "gpu": "h100-sxm", "n_gpus": 1, "tp": 1, "pp": 1, "dp": 1, "ep": 1, "gemm": "bfloat16",
    "kvcache": "bfloat16", "fmha": "bfloat16", "moe": "bfloat16",
}  # fmt: skip
LOAD = Load(128, 64, 4)


def sglang(*flags):
    argv = ("python", "-m", "sglang.launch_server", "--model-path", MODEL, "--disable-radix-cache", *flags)
    return Planned(Launch("sglang", "0.5.23", argv), (LOAD,), DEPLOYMENT)


def vllm():
    argv = ("vllm", "serve", MODEL, "--no-enable-prefix-caching", "--port=1")
    return Planned(Launch("vllm", "0.32.0", argv), (LOAD,), DEPLOYMENT)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def where(tmp_path, monkeypatch):
    """Where the stand-ins are found in place of engines and clients."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "stand_in"))
    for name in ("STAND_IN_ENGINE", "STAND_IN_CLIENT"):
        monkeypatch.delenv(name, raising=False)
    return Where(
        tmp_path / "results", engine_python=sys.executable, port=free_port(), start_timeout_s=30.0, run_timeout_s=30.0,
        grace_s=0.3,
    )  # fmt: skip


def run(planned, where, tmp_path, **others):
    return measure([planned], tmp_path / "store.duckdb", where, num_prompts=lambda load: 8, **others)


def runs_in(tmp_path):
    with perfdb.Store(tmp_path / "store.duckdb") as store:
        return store.query("SELECT * FROM runs ORDER BY source")


def running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def nothing_runs(folder, port):
    """Tell that the engine's child, which has a session of its own, is gone, and that nothing listens."""
    logs = list(folder.glob("*/engine.log"))
    pids = [int(each) for log in logs for each in re.findall(r"scheduler pid=(\d+)", log.read_text())]
    assert pids, "the stand-in did not start"
    return not any(running(pid) for pid in pids) and status_of(f"http://127.0.0.1:{port}/health") is None


def test_a_start_and_its_runs_become_facts(where, tmp_path):
    planned = Planned(sglang().start, (LOAD, Load(96, 32, 2, spread=0.5)), DEPLOYMENT)
    found = list(run(planned, where, tmp_path))
    assert [each.kind for each in found] == ["started", "run", "run"]
    assert nothing_runs(where.folder, where.port)
    stored = {each["run_id"]: each for each in runs_in(tmp_path)}
    assert set(stored) == {each.run_ids[0] for each in found[1:]}
    for each in stored.values():
        assert (each["status"], each["model"], each["gpu"]) == ("complete", MODEL, "h100-sxm")
        assert (each["engine"], each["engine_version"], each["num_prompts"]) == ("sglang", "0.5.23", 8)
        assert (each["weight_quant"], each["kv_dtype"], each["prefix_cache"]) == (
            "bfloat16",
            "bfloat16",
            False,
        )
        assert each["extra"]["occasion"] == found[0].occasion
        assert warmed_up(each)
    assert len({each["extra"]["seed"] for each in stored.values()}) == 2
    varied = stored[found[2].run_ids[0]]
    assert (varied["isl"], varied["range_ratio"], varied["mean_isl_actual"]) == (
        144,
        0.333333,
        pytest.approx(96, rel=0.02),
    )
    with perfdb.Store(tmp_path / "store.duckdb") as store:
        (start,) = store.query("SELECT content FROM startups")
        assert start["content"]["outcome"] == "started"
        assert start["content"]["max_total_tokens"] == 65536
        again = [store.ingest(each.raw) for each in found[1:]]
        assert [(each.known, each.kept) for each in again] == [(1, 0)] * 2, (
            "the sidecars say all that the session said"
        )


def test_vllm_says_in_its_log_what_its_client_does_not(where, tmp_path):
    outcomes = run(Planned(vllm().start, (LOAD, LOAD), DEPLOYMENT), where, tmp_path)
    found = [next(outcomes), next(outcomes)]
    assert [each.kind for each in found] == ["started", "run"]
    outcomes.close()  # with a load to go: the engine is stopped
    (stored,) = runs_in(tmp_path)
    assert (stored["engine_version"], stored["isl"], stored["osl"], stored["range_ratio"]) == (
        "0.32.0",
        128,
        64,
        1.0,
    )
    assert stored["extra"]["seed"] == occasion_module.seed_of(found[0].occasion, 1)
    assert (stored["cuda_graph_max_bs"], stored["prefix_cache"]) == (0, False)
    assert nothing_runs(where.folder, where.port)


@pytest.mark.parametrize(
    ("way", "flags", "reason", "stays"),
    [
        ("crash stubborn", (), "crashed", True),
        ("never", (), "timeout", False),
        ("", ("--no-such-flag", "1"), "refused_flag", True),
    ],
)
def test_why_an_engine_did_not_come_up(where, tmp_path, monkeypatch, way, flags, reason, stays):
    monkeypatch.setenv("STAND_IN_ENGINE", way)
    log, limit_s = tmp_path / "engine.log", 1.0 if way == "never" else 30.0
    start = sglang(*flags).start
    there = (sys.executable, where.host, where.port, log, limit_s)
    with pytest.raises(StartFailed) as found, started(start, *there, grace_s=0.3):
        pass
    assert (found.value.failure.reason, lasting(reason)) == (reason, stays)
    assert not any(running(int(pid)) for pid in re.findall(r"scheduler pid=(\d+)", log.read_text()))


def test_a_start_that_fails_is_a_fact(where, tmp_path, monkeypatch):
    monkeypatch.setenv("STAND_IN_ENGINE", "out_of_memory")
    (found,) = run(sglang(), where, tmp_path)
    assert (found.kind, found.reason, found.run_ids) == ("start_failed", "out_of_memory", ())
    assert nothing_runs(where.folder, where.port)
    with perfdb.Store(tmp_path / "store.duckdb") as store:
        assert store.ingest(next(where.folder.glob("*/*-start_failed.jsonl"))).known == 1
        (fact,) = failed_starts(store)
    assert (fact["outcome"], fact["lasting"], fact["model"]) == ("failed", True, MODEL)
    assert "3.50 GiB" in fact["message"]
    assert "did not start: out_of_memory" in str(evaluate_startups([fact]).refused[0])


class JumpingClock:
    """The clocks of `time`, of which the wall's is set an hour ahead between two looks."""

    def __init__(self):
        self.looks = 0

    def monotonic(self):
        return time.monotonic()

    def time(self):
        self.looks += 1
        return time.time() + 3600.0 * (self.looks > 1)


def test_what_a_client_may_do_wrong(where, tmp_path, monkeypatch):
    refused = {
        "crash": "crashed", "writes_nothing": "wrote_nothing", "half_a_line": "unreadable",
        "another_model": "another_model", "another_load": "another_load", "none_completed": "nothing_completed",
        "full": "disk_full", "hangs": "timeout",
    }  # fmt: skip
    limited = Where(**{**where.__dict__, "run_timeout_s": 2.5})
    outcomes = run(
        Planned(sglang().start, (LOAD,) * (len(refused) + 1), DEPLOYMENT), limited, tmp_path, retries=1
    )
    assert next(outcomes).kind == "started"

    def following(way):
        monkeypatch.setenv("STAND_IN_CLIENT", way)
        return next(outcomes)

    lumped = following("lumped")
    assert lumped.flags == ("lumped_stream",)
    for way, reason in refused.items():
        assert following(way).reason == reason, way
    # Measured again after all others, and then the clock jumps.
    with monkeypatch.context() as patch:
        patch.setattr(occasion_module, "time", JumpingClock())
        jumped = following("")
    assert jumped.flags == ("clock_jumped",)
    assert jumped.seconds < limited.run_timeout_s
    assert list(outcomes) == []
    flags = {each["run_id"]: each["flags"] for each in runs_in(tmp_path)}
    assert set(flags) == {*lumped.run_ids, *jumped.run_ids}
    assert "lumped_stream" in flags[lumped.run_ids[0]]
    assert "clock_jumped" in flags[jumped.run_ids[0]]
    assert nothing_runs(where.folder, where.port)


def test_an_engine_that_dies_under_a_load_is_a_fact(where, tmp_path, monkeypatch):
    monkeypatch.setenv("STAND_IN_ENGINE", "dies")
    found = list(run(sglang(), where, tmp_path))
    assert [(each.kind, each.reason) for each in found] == [("started", None), ("died", "out_of_memory")]
    with perfdb.Store(tmp_path / "store.duckdb") as store:
        (fact,) = failed_starts(store)
    assert (fact["outcome"], fact["under"]["concurrency"]) == ("died", 4)
    assert nothing_runs(where.folder, where.port)


def test_an_engine_that_no_longer_answers_is_ended(where, tmp_path, monkeypatch):
    monkeypatch.setenv("STAND_IN_ENGINE", "hangs stubborn")
    monkeypatch.setattr(occasion_module.Server, "answers", lambda self: False)  # without waiting for it
    limited = Where(**{**where.__dict__, "run_timeout_s": 1.0})
    found = list(run(sglang(), limited, tmp_path))
    assert [(each.kind, each.reason) for each in found] == [("started", None), ("died", "hung")]
    assert nothing_runs(where.folder, where.port)


def test_a_full_disk_is_named_and_the_engine_stopped(where, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(results, "keep_start", full)
    with pytest.raises(perfdb.StorageFull, match="what was measured before is kept"):
        next(run(sglang(), where, tmp_path))
    assert nothing_runs(where.folder, where.port)


def test_a_port_in_use_is_refused_before_anything_starts(where, tmp_path):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", where.port))
        holder.listen()
        with pytest.raises(
            InvalidValue, match=rf"port {where.port} of 127.0.0.1 is taken by process {os.getpid()}"
        ):
            list(run(sglang(), where, tmp_path))
    assert not list(where.folder.glob("*/engine.log"))


def test_a_port_is_waited_for_whose_engine_is_being_ended(where, tmp_path):
    listen = (
        "import signal, socket, sys, time\n"
        f"s = socket.socket(); s.bind(('127.0.0.1', {where.port})); s.listen()\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), sys.exit(0)))\n"
        "time.sleep(60)"
    )
    old = Kept([sys.executable, "-c", listen], dict(os.environ), tmp_path / "old.log")
    while _bind("127.0.0.1", where.port) is None:
        time.sleep(0.02)
    ending = threading.Thread(target=old.close)
    ending.start()
    must_be_free("127.0.0.1", where.port)
    ending.join()


def test_a_server_that_runs_is_measured_and_left_running(where, tmp_path):
    argv = [sys.executable, "-m", "sglang.launch_server", "--model-path", MODEL, "--disable-radix-cache"]
    argv += ["--host", "127.0.0.1", "--port", str(where.port)]
    there = Where(where.folder, engine_python=sys.executable, base_url=f"http://127.0.0.1:{where.port}/")
    with Kept(argv, environment({}, "127.0.0.1"), tmp_path / "log", grace_s=0.3) as process:
        while status_of(f"{there.base_url}health") != 200:
            assert process.wait(0.05) is None
        found = list(run(sglang(), there, tmp_path))
        assert [each.kind for each in found] == ["started", "run"]
        assert process.status is None
        other = Launch(
            "sglang", "0.5.23", ("python", "-m", "sglang.launch_server", "--model-path", "Qwen/Qwen3-8B")
        )
        with pytest.raises(InvalidValue, match=f"serves {MODEL}, not Qwen/Qwen3-8B"):
            list(run(Planned(other, (LOAD,), DEPLOYMENT), there, tmp_path))
        with pytest.raises(InvalidValue, match="is sglang, not vllm"):
            list(run(vllm(), there, tmp_path))
        assert process.status is None


def benchmarking(folder):
    """Wait until a client runs."""
    until = time.monotonic() + 60
    while not list(folder.glob("*/*warm-up*.log")):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_ctrl_c_stops_the_engine(where, tmp_path, monkeypatch):
    monkeypatch.setenv("STAND_IN_ENGINE", "stubborn")
    monkeypatch.setenv("STAND_IN_CLIENT", "hangs")

    def press():
        benchmarking(where.folder)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        list(run(sglang(), where, tmp_path))
    thread.join()
    assert nothing_runs(where.folder, where.port)


def test_a_kill_of_aicalib_leaves_no_engine(where, tmp_path, monkeypatch):
    monkeypatch.setenv("STAND_IN_CLIENT", "hangs")
    command = [
        sys.executable, "-m", "aicalib.cli.main", "measure", "--launch", " ".join(sglang().start.argv), "--gpu", "h100",
        "--engine-python", sys.executable, "--port", str(where.port), "--results", str(where.folder),
        "--db", str(tmp_path / "store.duckdb"), "--concurrency", "4", "--profile", "priors",
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ['PYTHONPATH']}"}
    with subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL) as ours:
        benchmarking(where.folder)
        ours.kill()
    until = time.monotonic() + 60
    while not nothing_runs(where.folder, where.port):  # the keeper gives it its grace
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("launch", "error", "said"),
    [
        (Launch("trtllm", "1.0.0", ("trtllm-serve", MODEL)), NotCovered, "trtllm is not started here"),
        (Launch("sglang", "0.5.23", ("bash", "-c", "true")), InvalidValue, "starts no server of sglang"),
        (
            Launch("sglang", "0.5.23", ("python", "-m", "http.server")),
            InvalidValue,
            "starts no server of sglang",
        ),
        (
            Launch("vllm", "0.32.0", ("vllm", "serve", MODEL), files={"prefill.sh": "vllm serve"}),
            NotCovered,
            "prefill.sh",
        ),
    ],
)
def test_what_is_no_engine_is_not_started(where, tmp_path, launch, error, said):
    with pytest.raises(error, match=said):
        list(run(Planned(launch, (LOAD,), DEPLOYMENT), where, tmp_path))


REAL = ROOT / "tests" / "data" / "sglang" / "bench_serving_0.5.6_vllm_server.jsonl"


def real_line(tmp_path, number):
    """One line of a real client as a file with its sidecar, and its load."""
    said = json.loads(REAL.read_text().splitlines()[number])
    path = tmp_path / f"{number}.jsonl"
    path.write_text(json.dumps(said) + "\n")
    keys = {
        **results.deployment_keys(DEPLOYMENT, MODEL, "0.32.0"),
        "engine": "vllm",
        "num_prompts": said["completed"],
    }
    results.write_sidecar(path, keys | {"occasion": "a", "seed": number, "warmed_up": True})
    return path, said, Load(said["random_input_len"], said["random_output_len"], said["max_concurrency"])


def test_real_lines_are_taken_for_what_they_are(tmp_path):
    lines = [json.loads(line) for line in REAL.read_text().splitlines()]
    lumped = next(place for place, each in enumerate(lines) if each["median_itl_ms"] < 0.05)
    clean = next(
        place for place, each in enumerate(lines) if each["mean_ttft_ms"] < 0.2 * each["mean_e2e_latency_ms"]
    )
    for number in (lumped, clean):
        path, said, load = real_line(tmp_path, number)
        found = results.checked(path, load, said["completed"], MODEL)
        assert found["mean_ttft_ms"] == said["mean_ttft_ms"]
        flags = results.keep(tmp_path / "store.duckdb", path, found["run_id"], {})
        assert ("lumped_stream" in flags) == (number == lumped)
        with pytest.raises(results.ResultRefused, match="concurrency is"):
            results.checked(path, load._replace(concurrency=100), said["completed"], MODEL)
    assert {each["extra"]["seed"] for each in runs_in(tmp_path)} == {lumped, clean}


def test_the_command_sets_measured_beside_predicted(where, tmp_path, monkeypatch, capsys):
    arguments = [
        "measure", "--model", "llama-8b", "--gpu", "h100", "--tp", "1", "--disable-radix-cache", "--isl", "128",
        "--osl", "64", "--concurrency", "4", "--num-prompts", "8", "--engine-python", sys.executable,
        "--port", str(where.port), "--results", str(where.folder), "--db", str(tmp_path / "store.duckdb"), "--json",
    ]  # fmt: skip
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 0
    answer = capsys.readouterr()
    started_, run_ = json.loads(answer.out)["outcomes"]
    assert (started_["kind"], run_["kind"]) == ("started", "run")
    tpot = run_["predicted"]["tpot_ms"]
    assert tpot["low"] < tpot["value"] < tpot["high"]
    assert run_["errors"]["tpot_ms"] == pytest.approx(tpot["value"] / run_["measured"]["mean_tpot_ms"] - 1)
    assert "measured 128/64 x 4" in answer.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "nothing says what to start"),
        ("--model llama-8b", "no gpu is given"),
        ("--model llama-8b --launch x", "--launch and --model each say"),
        ("--count 2 --model llama-8b --gpu h100", "--count chooses among the starts of a task"),
        (
            "task.json --tp 2 --disable-radix-cache",
            "--tp, --disable-radix-cache: the task says what is started",
        ),
        ("--model llama-8b --gpu h100 --isl 0 --dry-run", "isl"),
        ("--base-url localhost:30000 --gpu h100", "--base-url 'localhost:30000' is no address"),
        ("--model llama-8b --gpu h100 --concurrency 1,x", "'1,x' is no list of numbers"),
        ("--model llama-8b --gpu h100 --concurrency 1 --request-rate 2", "both say how requests arrive"),
        ("--base-url http://127.0.0.1:9 --gpu h100", "nothing healthy answers"),
        ("--launch 'python -m http.server' --gpu h100", "http.server"),
    ],
)
def test_what_says_nothing_or_two_things_is_refused(tmp_path, capsys, arguments, said):
    with pytest.raises(SystemExit) as left:
        main(["measure", *shlex.split(arguments), "--results", str(tmp_path), "--profile", "priors"])
    assert left.value.code == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_dry_run_prints_the_commands(tmp_path, capsys):
    task = ROOT / "tests" / "data" / "tasks" / "kvcache_quant_comparison.json"
    with pytest.raises(SystemExit):
        main(
            [
                "measure",
                str(task),
                "--count",
                "2",
                "--results",
                str(tmp_path / "r"),
                "--dry-run",
                "--json",
                "--gpu",
                "h100",
            ]
        )
    starts = json.loads(capsys.readouterr().out)["starts"]
    assert len(starts) == 2
    for each in starts:
        assert each["launch"][-4:] == ["--host", "127.0.0.1", "--port", "30000"]
        assert each["bench"]
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_a_dry_run_calls_the_client_by_its_python(tmp_path, capsys, engine):
    where = f"--engine-python /e/python --client-python /c/python --results {tmp_path / 'r'} --profile priors"
    with pytest.raises(SystemExit):
        main(
            f"measure --model llama-8b --gpu h100 --engine {engine} --dry-run --json {where}".split(),
        )
    (start,) = json.loads(capsys.readouterr().out)["starts"]
    assert start["launch"][0] == "/e/python"
    assert [line[:2] for line in start["bench"]] == [["/c/python", "-m"]]
