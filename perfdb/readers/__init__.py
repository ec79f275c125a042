"""Readers of benchmark files: one module a format, found by the content of the file.

A format module has a `NAME`, `matches(source)`, which looks at the content, and `read(source)`, which returns a
`Reading`. Tables of kernel timings are Parquet and have a reader of their own, `aiconfigurator_kernels`.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

from perfdb.errors import UnknownFormat
from perfdb.readers import (
    aiperf,
    genai_bench,
    genai_perf,
    guidellm,
    inferencex,
    inferencex_csv,
    runs,
    sglang_bench_offline_throughput,
    sglang_bench_one_batch,
    sglang_bench_one_batch_server,
    sglang_bench_serving,
    sglang_server_log,
    sglang_text_report,
    startup,
    trtllm_bench,
    vllm_bench_latency,
    vllm_bench_serve,
    vllm_bench_throughput,
    vllm_server_log,
)
from perfdb.readers.aiconfigurator_kernels import is_parquet
from perfdb.readers.reading import Format, Reading
from perfdb.readers.source import Source

FORMATS: tuple[Format, ...] = tuple(
    cast(Format, module)
    for module in (
        vllm_bench_serve,
        vllm_bench_latency,
        vllm_bench_throughput,
        trtllm_bench,
        inferencex,
        inferencex_csv,
        sglang_bench_serving,
        sglang_bench_one_batch,
        sglang_bench_one_batch_server,
        sglang_bench_offline_throughput,
        guidellm,
        genai_bench,
        genai_perf,
        aiperf,
        startup,
        runs,
        sglang_server_log,
        sglang_text_report,
        vllm_server_log,
    )
)
"""Every format, the most specific first: the first that matches reads the file."""


def format_of(source: Source) -> Format:
    """Find the format of a file.

    Raises
    ------
    UnknownFormat
        If no reader knows it; the message names those that exist.
    """
    path = source.path
    if is_parquet(path):
        raise UnknownFormat(f"{path} is Parquet: it can go into a store, as a table of kernel timings")
    for candidate in FORMATS:
        if candidate.matches(source):
            return candidate
    known = ", ".join(one.NAME for one in FORMATS)
    what = "is empty" if path.stat().st_size == 0 else "is of no known format"
    why = f" (line {source.trouble.line}: {source.trouble.reason})" if source.trouble else ""
    raise UnknownFormat(f"{path} {what}{why}; known formats are {known}")


def read(path: str | Path) -> Reading:
    """Read a file by its own format.

    Raises
    ------
    UnknownFormat
        If no reader knows the file.
    """
    source = Source(Path(path))
    return format_of(source).read(source)
