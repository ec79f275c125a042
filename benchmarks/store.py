"""Speed of the measurement store on large files, beside DuckDB's own `read_json` of the same file into a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from benchmarks.figures import Figure, apart, figure, own_peak_mib
from benchmarks.generate import bench_serving, runs, write

RUNS_LINES = 1_000_000
DETAILS_BYTES = 2e9
OBJECT_BYTES = 2e8
VIEWS = ("residuals_by_group", "coverage", "drift", "stale")


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the wall time of some work, and what it gives."""
    begin = perf_counter()
    found = work()
    return perf_counter() - begin, found


def read_json_s(path: Path) -> float:
    """Return the time that DuckDB takes to read a file into a table of a database file."""
    import duckdb

    with duckdb.connect(str(path.with_suffix(".read_json"))) as connection:
        query = (
            f"CREATE TABLE read AS FROM read_json('{path}', maximum_object_size = {path.stat().st_size + 1})"
        )
        return timed(lambda: connection.execute(query))[0]


def ingest(path: Path) -> tuple[float, int, float]:
    """Return the time that a new store takes to ingest a file, its lines, and the peak memory in MiB."""
    from perfdb import Store

    with Store(path.with_suffix(".duckdb")) as store:
        wall_s, report = timed(lambda: store.ingest(path))
    return wall_s, report.kept + report.known + len(report.rejected), own_peak_mib()


def views(path: Path) -> list[Figure]:
    """Time the views of the loop, every run predicted in two metrics."""
    import pandas as pd

    from perfdb import Store

    with Store(path) as store:
        rates = pd.DataFrame(
            store.query("SELECT run_id, coalesce(mean_tpot_ms, 10) AS value FROM run_records")
        )
        given = rates.assign(low=0.8 * rates.value, high=1.2 * rates.value, origin="calibrated")
        given = pd.concat([given.assign(metric=metric) for metric in ("tpot_ms", "ttft_ms")])
        store.save_profile("default", 1, "{}", rates.run_id[::20])
        store.save_predictions("default@1", given)
        walls = [timed(lambda view=view: store.query(f"FROM {view} LIMIT 1000"))[0] for view in VIEWS]
        flags_s, _ = timed(store.refresh_flags)
    found = [figure(f"view_{view}", wall, "s", len(rates)) for view, wall in zip(VIEWS, walls, strict=True)]
    return [*found, figure("refresh_flags", flags_s, "s", len(rates))]


def beside_read_json(name: str, path: Path) -> Iterator[Figure]:
    """Yield the speed of ingesting a file, and how many times as long it takes as `read_json`."""
    baseline_s = apart(partial(read_json_s, path))
    wall_s, lines, peak_mib = apart(partial(ingest, path))
    size_mb = path.stat().st_size / 1e6
    yield figure(f"read_json_{name}", size_mb / baseline_s, "MB/s", lines)
    yield figure(f"ingest_{name}", size_mb / wall_s, "MB/s", lines, peak_mib)
    yield figure(f"ingest_over_read_json_{name}", wall_s / baseline_s, "ratio of s", 1)


def large_files() -> Iterator[Figure]:
    """Yield the figures of large files, made for the purpose and removed afterwards."""
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "runs.jsonl"
        write(path, runs(), most=RUNS_LINES)
        yield from beside_read_json("runs_1m_lines", path)
        yield from apart(partial(views, path.with_suffix(".duckdb")))
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "details.jsonl"
        write(path, bench_serving(), DETAILS_BYTES)
        yield from beside_read_json("bench_serving_2gb", path)
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "object.jsonl"
        requests = int(OBJECT_BYTES / 64 / 30)
        write(path, bench_serving(requests=requests), most=1)
        yield from beside_read_json("bench_serving_object_200mb", path)
