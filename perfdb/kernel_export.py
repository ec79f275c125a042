"""Kernel timings as AIConfigurator lays them out, so that measurements of one's own can extend its tables.

What the layout is called stands in `aiconfigurator.toml`. A device, or a table, that is not named there stands
under its own name in small letters, or under `other`: that tool then needs a description of it.
"""

from __future__ import annotations

import json
import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from perfdb.connection import literal
from perfdb.errors import NothingChosen
from perfdb.folder import summed
from perfdb.readers.aiconfigurator_kernels import LATENCY

if TYPE_CHECKING:
    import duckdb

_UNKNOWN_FAMILY: Final = "other"
# JSON infers small whole numbers as unsigned; the tool's own columns are signed.
_SIGNED: Final = {"UBIGINT": "BIGINT", "HUGEINT": "DOUBLE", "UHUGEINT": "DOUBLE", "NULL": "VARCHAR"}


def write(connection: duckdb.DuckDBPyConnection, folder: Path) -> dict[str, dict[str, Any]]:
    """Write one Parquet file a system, engine, version and table; return rows and checksum of each.

    Parameters
    ----------
    connection : DuckDBPyConnection
        A store is its current schema.
    folder : Path

    Notes
    -----
    Where the rows of one file differ in their columns, each row has a null in those that it lacks.

    Raises
    ------
    NothingChosen
        If the store holds no kernel timings.
    """
    layout = tomllib.loads(files("perfdb").joinpath("aiconfigurator.toml").read_text(encoding="utf-8"))
    groups: dict[Path, list[tuple[str, ...]]] = {}
    found = connection.execute(
        "SELECT DISTINCT table_name, accelerator, engine, engine_version FROM kernel_runs ORDER BY ALL"
    ).fetchall()
    for table, device, engine, version in found:
        path = Path(
            "systems",
            "data",
            layout["systems"].get(device) or _plain(device),
            layout["families"].get(table, _UNKNOWN_FAMILY),
            _plain(layout["backends"].get(table, engine)),
            _plain(version),
            f"{_plain(table)}.parquet",
        )
        groups.setdefault(path, []).append((table, device, engine, version))
    if not groups:
        raise NothingChosen("the store holds no kernel timings: ingest a Parquet table of them first")
    written = {}
    for path, members in groups.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        query = _query(connection, members, layout)
        connection.execute(
            f"COPY ({query}) TO {literal(str(folder / path))} (FORMAT parquet, COMPRESSION zstd)"
        )
        written[str(path)] = summed(connection, query)
    return written


def _query(
    connection: duckdb.DuckDBPyConnection, members: list[tuple[str, ...]], layout: dict[str, Any]
) -> str:
    """Return the query of the rows of one file, in the order in which they came in."""
    chosen = ", ".join(f"({', '.join(map(literal, member))})" for member in members)
    rows = f"(table_name, accelerator, engine, engine_version) IN ({chosen})"
    structure, timed = connection.execute(
        f"SELECT json_group_structure(shape), count(latency_ms) FROM kernel_runs WHERE {rows}"
    ).fetchall()[0]
    kinds = {name: _kind(kind) for name, kind in json.loads(structure).items()}
    late = [name for name in layout["columns"]["last"] if name in kinds]
    spelled = "".join(
        f" WHEN {literal(engine)} THEN {literal(name)}" for engine, name in layout["frameworks"].items()
    )
    columns = [
        f"CASE engine{spelled} ELSE engine END AS framework",
        "engine_version AS version",
        "accelerator AS device",
        "op_name",
        "kernel_source",
        *(f"d.{_quoted(name)}" for name in kinds if name not in late),
        *([f"latency_ms AS {LATENCY}"] if timed else []),
        *(f"d.{_quoted(name)}" for name in late),
    ]
    return f"""
        SELECT {", ".join(columns)}
        FROM (
            SELECT *, json_transform(shape, {literal(json.dumps(kinds))}) AS d, rowid AS place
            FROM kernel_runs WHERE {rows}
        )
        ORDER BY file_sha256, place
        """


def _kind(found: Any) -> str:
    return _SIGNED.get(found, found) if isinstance(found, str) else "JSON"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _plain(name: str) -> str:
    """Return a name that a folder can have."""
    return re.sub(r"[^a-z0-9.+-]+", "_", name.lower()).strip("_.") or "_"
