"""The whole loop against a real engine: killed on the way, resumed, and held to what is stable on a noisy machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from aicalib.calibrate.evaluate import evaluate
from aicalib.calibrate.records import occasion, stored_runs
from aicalib.profiles import default_profile
from perfdb import Store

METRICS = ("ttft_ms", "tpot_ms")

LEAST_POINTS = 12
RUNS = 15
"""Runs of the loop: with one in five a repeat they are 12 points."""

KILLED_AFTER = 5
"""Runs after which the loop is killed."""

LEAST_STARTS = 3
"""Of the engine: two restarts."""

LEAST_FALL = 1.0 / 3.0
"""Share by which the median error on the loop's last third must fall from its beginning on."""

LOOK_S = 0.5


def task(model: Path, machine: Path, engine: str, version: str) -> dict[str, Any]:
    """Return a task of two starts and twelve loads; a chunk below the longest prompt is cut into steps."""
    chunk, context, cache = {
        "sglang": ("chunked-prefill-size", "context-length", "disable-radix-cache"),
        "vllm": ("max-num-batched-tokens", "max-model-len", "no-enable-prefix-caching"),
    }[engine]
    fraction = {"sglang": {"mem-fraction-static": [0.1]}, "vllm": {"gpu-memory-utilization": [0.25]}}[engine]
    return {
        "task_name": f"{engine}-on-this-machine",
        "model": {"id_or_path": str(model)},
        "base_runtime": engine,
        "runtime_image_tag": f"v{version}",
        "parameters": {chunk: [128, 1024], context: [1024], cache: [True], **fraction},
        "optimization": {"objective": "maximize_throughput"},
        "benchmark": {
            "num_concurrency": [1, 2, 4, 8],
            "traffic_scenarios": ["D(32,16)", "D(128,32)", "D(384,16)"],
            "gpu_type": str(machine),
        },
    }


@dataclass(frozen=True)
class Looped:
    """What a killed and resumed loop left.

    Attributes
    ----------
    report : mapping
        The JSON document of the loop's end.
    before_kill : frozenset of str
        Runs that were stored when it was killed.
    runs : list of mapping
        All runs that are stored.
    with_server_info : int
        Raw lines of the store that carry the server's own account.
    """

    report: Mapping[str, Any]
    before_kill: frozenset[str]
    runs: list[dict[str, Any]]
    with_server_info: int


def loop(command: list[str], store: Path, state: Path, say_to: Path) -> Looped:
    """Run a loop, kill it without a warning after some runs, and run it again to its end.

    Parameters
    ----------
    command : list of str
        `aicalib loop` with all of its options.
    store, state : Path
        Its store and the folder of its journal.
    say_to : Path
        Takes what it says on the way.

    Raises
    ------
    RuntimeError
        If it ends before it could be killed, or fails.
    """
    with say_to.open("w") as said:
        first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True)
        try:
            while _came(state / "journal.jsonl") < KILLED_AFTER:
                if first.poll() is not None:
                    raise RuntimeError(
                        f"the loop ended with status {first.returncode} before it was killed: {say_to}"
                    )
                time.sleep(LOOK_S)
        finally:
            if first.poll() is None:
                os.kill(first.pid, signal.SIGKILL)
                first.wait()
        before = frozenset(each["run_id"] for each in _runs(store))
        second = subprocess.run(command, stdout=subprocess.PIPE, stderr=said, text=True)
    if second.returncode:
        raise RuntimeError(f"the resumed loop ended with status {second.returncode}: {say_to}")
    with Store(store, read_only=True) as opened:
        lines = opened.query("SELECT count(*) AS n FROM raw_lines WHERE text LIKE '%\"server_info\": {%'")
    return Looped(json.loads(second.stdout), before, _runs(store), int(lines[0]["n"]))


def _came(journal: Path) -> int:
    """Count the runs that a journal has an answer of."""
    if not journal.exists():
        return 0
    return sum('"came"' in line for line in journal.read_text(encoding="utf-8").splitlines())


def _runs(store: Path) -> list[dict[str, Any]]:
    with Store(store, read_only=True, wait_s=60.0) as opened:
        return stored_runs(opened)


def errors(looped: Looped) -> tuple[float, float]:
    """Return the median error on the last third of the points: as the loop began, and just before each was measured.

    Of TTFT and TPOT together, as shares; repeats are left out.
    """
    steps = [each for each in looped.report["steps"] if each["errors"] and not each["repeat"]]
    last = steps[-(len(steps) // 3) :]
    ids = {run_id for each in last for run_id in each["run_ids"]}
    runs = [run for run in looped.runs if run["run_id"] in ids]
    alone = [row for row in evaluate(runs, default_profile()).rows() if row["metric"] in METRICS]
    first = median(abs(row["predicted"] / row["measured"] - 1.0) for row in alone)
    return first, median(abs(each["errors"][name]) for each in last for name in METRICS)


def faults(looped: Looped, engine: str) -> Iterator[str]:
    """Yield what is not as it must be."""
    report = looped.report
    points = sum(1 for each in report["steps"] if each["outcome"] == "measured" and not each["repeat"])
    if points < LEAST_POINTS:
        yield f"{points} points were measured, not {LEAST_POINTS}"
    kept = {run["run_id"] for run in looped.runs}
    journaled = {each for step in report["steps"] for each in step["run_ids"]}
    if lost := looped.before_kill - kept:
        yield f"{len(lost)} runs of before the kill are lost"
    if unknown := journaled - kept:
        yield f"{len(unknown)} runs of the journal are not in the store"
    if report["runs"] != RUNS:
        yield f"the loop counts {report['runs']} runs, not {RUNS}: a run was lost or done twice"
    starts = len({occasion(run) for run in looped.runs})
    if starts < LEAST_STARTS:
        yield f"{starts} starts of the engine, not {LEAST_STARTS}: no two restarts"
    if engine == "sglang" and looped.with_server_info < len(kept):
        yield f"{looped.with_server_info} of {len(kept)} runs carry their server_info"
    first, last = errors(looped)
    if last > (1.0 - LEAST_FALL) * first:
        yield f"the median error on points not yet measured went from {first:.1%} to {last:.1%}"


def command(path: Path, store: Path, state: Path, python: Path, port: int) -> list[str]:
    """Return the command of the loop."""
    return [
        *(
            sys.executable,
            "-m",
            "aicalib.cli.main",
            "loop",
            str(path),
            "--json",
            "--spend",
            "--runs",
            str(RUNS),
        ),
        *("--num-prompts", "6", "--db", str(store), "--state", str(state)),
        *("--engine-python", str(python), "--port", str(port)),
    ]
