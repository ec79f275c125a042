"""Print speed figures as JSON lines, one object a figure: `python -m benchmarks.run`.

A figure has `name`, `value`, `unit`, `n` (repetitions, of which the median is given; or rows) and, where it
tells something, `peak_mib`, the peak resident memory of the process that did the work. Each group of figures
runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any

from benchmarks.figures import MAXRSS_BYTES, Figure, apart, figure, own_peak_mib
from benchmarks.store import large_files
from benchmarks.sweep import sweeps

MEASUREMENTS = Path(__file__).parent.parent / "measurements"
COMMAND = str(Path(sys.executable).with_name("aicalib"))
REPETITIONS = 5


def process(name: str, arguments: list[str]) -> Figure:
    """Return the wall time of a whole process, start to end, median of `REPETITIONS`.

    The peak that Linux reports for a child is never below its parent's. So this runs while the parent is
    still small, nothing heavy is imported at the top of this module, and a peak that does not rise above the
    parent's is left out.
    """
    walls, peaks = [], []
    for _ in range(REPETITIONS):
        begin = perf_counter()
        child = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert child.stderr is not None
        complaint = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        walls.append(perf_counter() - begin)
        peaks.append(usage.ru_maxrss * MAXRSS_BYTES / 2**20)
        child.returncode = os.waitstatus_to_exitcode(status)
        child.stderr.close()
        if child.returncode:
            sys.stderr.write(complaint)
            raise subprocess.CalledProcessError(child.returncode, arguments, stderr=complaint)
    peak_mib = median(peaks)
    return figure(name, median(walls), "s", REPETITIONS, peak_mib if peak_mib > own_peak_mib() else None)


def startup() -> Iterator[Figure]:
    """Time what a user waits for before the first answer; an empty Python is the floor."""
    yield process("python_empty", [sys.executable, "-c", "pass"])
    yield process("import_aicalib", [sys.executable, "-c", "import aicalib"])
    yield process("aicalib_help", [COMMAND, "--help"])
    yield process("aicalib_predict_cold", [COMMAND, "predict", "--model", "llama-70b", "--gemm", "fp8"])


MODELS = ("llama-8b", "llama-70b", "qwen3-32b", "qwen3-235b-a22b", "gpt-oss-120b", "deepseek-r1", "mixtral-8x7b",
          "qwen3-30b-a3b", "glm-4.5", "kimi-k2", "qwen3-next-80b-a3b", "gemma-3-27b")  # fmt: skip
GPUS = ("h100-sxm", "h200-sxm", "b200-sxm", "a100-sxm-80gb", "l40s", "gb200", "mi300x")
ROWS = 1_000_000


def configurations(rows: int, models: tuple[str, ...], gpus: tuple[str, ...]) -> dict[str, Any]:
    """Return columns of configurations drawn at random, with formats, widths, lengths and concurrency."""
    import numpy as np

    draw = np.random.default_rng(0)
    return {
        "model": draw.choice(models, rows),
        "gpu": draw.choice(gpus, rows),
        "kv": draw.choice(["auto", "fp8_e4m3"], rows),
        "tp": draw.choice([2, 4, 8], rows),
        "isl": draw.integers(128, 8192, rows),
        "osl": draw.integers(32, 2048, rows),
        "concurrency": draw.integers(1, 256, rows),
    }


def prediction() -> list[Figure]:
    """Time `predict` on a deployment asked about before, and `predict_many` on one architecture and on a mix."""
    import pandas as pd

    import aicalib

    deployment, workload = aicalib.question(model="llama-70b", gpu="h100-sxm", tp=4, gemm="fp8")
    times = []
    for _ in range(200):
        begin = perf_counter()
        aicalib.predict(deployment, workload)
        times.append(perf_counter() - begin)
    found = [figure("predict_warm", 1e3 * median(times), "ms", len(times), own_peak_mib())]
    tables = {"one_architecture": (MODELS[1:2], GPUS[:1]), "mix": (MODELS, GPUS)}
    for name, (models, gpus) in tables.items():
        frame = pd.DataFrame(configurations(ROWS, models, gpus))
        times = []
        for _ in range(REPETITIONS):
            begin = perf_counter()
            aicalib.predict_many(frame)
            times.append(perf_counter() - begin)
        found.append(figure(f"predict_many_{name}", ROWS / median(times), "rows/s", ROWS, own_peak_mib()))
    return found


SEARCHES = {
    "qwen3_32b_8_h200": ("qwen3-32b", 8, (4_000, 100_000)),
    "deepseek_v3_16_h200": ("deepseek-v3", 16, (40_000, 100_000)),
}
"""Searches: model, GPUs, and bounds on the configurations, from the most important on."""


def searches() -> Iterator[Figure]:
    """Time searches against a service level: in a process that runs, and as a whole command with its start."""
    for name, (model, gpus, limits) in SEARCHES.items():
        for limit in limits:
            yield from apart(partial(searched, f"search_{name}", model, gpus, limit))
            words = f"search --model {model} --gpu h200-sxm --gpus {gpus} --isl 4000 --osl 500 --network-gbit-s 400"
            words += " --ttft-ms 2000 --tpot-ms 30"
            yield process(f"search_{name}_{limit}_command", [COMMAND, *words.split(), "--limit", str(limit)])


def searched(name: str, model: str, gpus: int, limit: int) -> list[Figure]:
    """Time one search, by the clock and by the processor, and count the configurations that it evaluated."""
    from aicalib.plan.search.best import Goal, bound, search
    from aicalib.plan.search.space import Sought

    goal = Goal(bounds=(bound("ttft", 2000.0), bound("tpot", 30.0)))
    sought = Sought(model, ("h200-sxm",), gpus, 4000.0, 500.0, network_gbit_s=400.0)
    walls, processor = [], []
    for _ in range(REPETITIONS):
        begin, used = perf_counter(), process_time()
        found = search(sought, goal, limit=limit)
        walls.append(perf_counter() - begin)
        processor.append(process_time() - used)
    return [
        figure(f"{name}_{limit}_first", walls[0], "s", found.evaluated, own_peak_mib()),
        figure(f"{name}_{limit}", median(walls), "s", found.evaluated),
        figure(f"{name}_{limit}_processor", median(processor), "s", found.evaluated),
    ]


def ingestion() -> list[Figure]:
    """Time the published runs into a new store, and the same file again."""
    from perfdb import Store

    found = []
    with TemporaryDirectory() as scratch, Store(Path(scratch) / "benchmark.duckdb") as store:
        for name in ("ingest_new", "ingest_known"):
            begin = perf_counter()
            report = store.ingest(MEASUREMENTS / "runs.jsonl")
            wall = perf_counter() - begin
            rows = report.kept + report.known + len(report.rejected)
            found.append(figure(name, rows / wall, "rows/s", rows, own_peak_mib()))
    return found


def calibration() -> list[Figure]:
    """Time the whole cross-validated calibration on the published runs, and one fit alone."""
    from aicalib.calibrate.build import calibrate
    from aicalib.calibrate.fit import fit
    from aicalib.calibrate.records import stored_runs
    from perfdb import Store

    with TemporaryDirectory() as scratch, Store(Path(scratch) / "benchmark.duckdb") as store:
        store.ingest(MEASUREMENTS / "runs.jsonl")
        store.refresh_flags()
        store.apply_flags_file(MEASUREMENTS / "flags.jsonl")
        records = stored_runs(store)
    begin = perf_counter()
    calibrated = calibrate(records, "benchmark")
    whole_s = perf_counter() - begin
    begin = perf_counter()
    fit(calibrated.runs)
    fit_s = perf_counter() - begin
    rows = calibrated.runs.batch.rows.size
    return [
        figure("fit", fit_s, "s", rows),
        figure("calibrate_cross_validated", whole_s, "s", rows, own_peak_mib()),
        figure("calibrate_over_fit", whole_s / fit_s, "ratio of s", 1),
    ]


def figures() -> Iterator[Figure]:
    """Yield all figures as they are found."""
    yield from startup()
    yield from searches()
    for group in (prediction, ingestion, calibration):
        yield from apart(group)
    yield from large_files()
    yield from sweeps()


def main() -> None:
    for each in figures():
        print(json.dumps(each), flush=True)


if __name__ == "__main__":
    main()
