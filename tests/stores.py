"""What tests of the store share: files of lines, a store's content to compare, and commands run as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest

from aicalib.cli.main import main
from perfdb.tables import tables

DATA = Path(__file__).parent / "data"
ONLINE = DATA / "datacrunch_llama_3_3_70b_online.jsonl"
SYNTHETIC = DATA / "synthetic_sglang_0.4.6.jsonl"
MEASUREMENTS = Path(__file__).parent.parent / "measurements"
CONTEXT = {"gpu": "h200_sxm", "model": "meta-llama/Llama-3.3-70B-Instruct", "tp": 4}
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
    """Write a line for each row: a text as it is, anything else as JSON."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def content(path: Path, but: tuple[str, ...] = (), times: bool = True) -> dict[str, list[str]]:
    """Every row of every table of a store, as text; without `times` what does not depend on when it was written."""
    columns = "*" if times else "lambda name: NOT suffix(name, '_at')"
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{path}' AS store (READ_ONLY)")
        return {
            table: sorted(
                str(row)
                for row in connection.execute(
                    f"SELECT COLUMNS({columns})::VARCHAR FROM store.{table}"
                ).fetchall()
            )
            for table in tables(connection, "store")
            if table not in but
        }


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int | str | None, str, str]:
    """Run `aicalib`; return its exit status, what it printed, and what it said on stderr."""
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    told = capsys.readouterr()
    return left.value.code, told.out, told.err
