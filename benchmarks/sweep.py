"""What a sweep of a grid costs, in one process and on a real scheduler with two worker processes on loopback."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.figures import Figure, figure

CONFIGURATIONS = 10**9
GRID = {
    "model": ["llama-8b", "llama-70b", "qwen3-32b", "qwen3-235b-a22b", "gpt-oss-120b", "deepseek-r1"],
    "gpu": ["h100-sxm", "h200-sxm", "b200-sxm"],
    "kv": ["auto", "fp8_e4m3"],
    "tp": [1, 2, 4, 8],
    "isl": {"first": 512, "last": 8192, "step": 512},
    "osl": [128, 512, 1024],
    "concurrency": {"first": 1, "last": 256},
}


def sweeps() -> Iterator[Figure]:
    """Yield the cost of a billion configurations: processor hours of work, and core-hours with all that travels."""
    from distributed import LocalCluster

    from aicalib.plan.sweep.cost import cost
    from aicalib.plan.sweep.grid import grid_of
    from aicalib.plan.sweep.run import plan_sweep
    from aicalib.plan.workers import HERE, Where

    asked = plan_sweep(grid_of(GRID))
    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster:
        for name, where in (("here", HERE), ("cluster", Where(scheduler=cluster.scheduler_address))):
            found = cost(asked, CONFIGURATIONS, where)
            rows = found.chunks * found.chunk
            yield figure(f"sweep_{name}_processor", found.chunk / found.busy_s, "rows/s", rows)
            yield figure(f"sweep_{name}_core", found.chunk / found.core_s, "rows/s", rows)
            yield figure(f"sweep_{name}_1e9_processor", found.busy_hours, "hours", rows)
            yield figure(f"sweep_{name}_1e9_core", found.core_hours, "hours", rows)
            if found.passed_s is not None and found.most_workers is not None:
                yield figure("sweep_chunks_passed_on", found.passed_s, "chunks/s", rows)
                yield figure("sweep_most_workers", found.most_workers, "cores", rows)
