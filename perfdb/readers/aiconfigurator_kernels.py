"""Kernel timings as AIConfigurator's collector writes them: one Parquet table an operator, accelerator and engine.

Known by their columns `framework`, `version`, `device`, `op_name` and `kernel_source`, whatever the shape
columns are. Rows go from Parquet into the store inside DuckDB, never one by one through Python.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

NAME = "aiconfigurator_kernels"

IDENTITY = ("framework", "version", "device", "op_name", "kernel_source")
"""Columns that every table has."""

LATENCY = "latency"
"""Time in milliseconds, in the tables that have one time a row."""

_MAGIC = b"PAR1"


def is_parquet(path: Path) -> bool:
    """Tell whether a file is Parquet by its first bytes."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def columns(connection: duckdb.DuckDBPyConnection, path: Path) -> list[str]:
    """Return the column names of a Parquet file."""
    described = connection.execute("DESCRIBE SELECT * FROM read_parquet($1)", [str(path)])
    return [str(row[0]) for row in described.fetchall()]


def matches(connection: duckdb.DuckDBPyConnection, path: Path) -> bool:
    """Tell whether a Parquet file is a table of kernel timings."""
    return set(IDENTITY) <= set(columns(connection, path))


def load(connection: duckdb.DuckDBPyConnection, path: Path, digest: str) -> int:
    """Insert the rows of a table into `kernel_runs`; return their number.

    Parameters
    ----------
    connection : DuckDBPyConnection
        Of a store, in a transaction.
    path : Path
        A file that `matches`.
    digest : str
        SHA-256 of the file.
    """
    names = columns(connection, path)
    quoted = ('"' + name.replace('"', '""') + '"' for name in names if name not in (*IDENTITY, LATENCY))
    shape = ", ".join(f"{name} := {name}" for name in quoted)
    latency = LATENCY if LATENCY in names else "NULL"
    done = connection.execute(
        f"""
        INSERT INTO kernel_runs
        SELECT $1, $2, device, lower(framework), version, op_name, kernel_source,
               {f"to_json(struct_pack({shape}))" if shape else "'{}'"}, {latency}
        FROM read_parquet($3)
        """,
        [digest, path.stem, str(path)],
    )
    return int(done.fetchall()[0][0])
