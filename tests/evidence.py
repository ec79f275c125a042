"""A store's tables filled without a store: every migration, then records of the runs format through the checks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import duckdb

from perfdb import canonical, migrations
from perfdb.keys import CONFIGURATION, KEYS, PROVENANCE


def empty(path: str | Path = ":memory:") -> duckdb.DuckDBPyConnection:
    """Return a connection with the schema of a store."""
    connection = duckdb.connect(str(path))
    for sql in migrations.steps().values():
        connection.execute(sql)
    return connection


def fill(connection: duckdb.DuckDBPyConnection, records: Iterable[Mapping[str, Any]]) -> None:
    """Store records of the runs format in their order, each as one source of its run."""
    texts = [json.dumps(record) for record in records]
    shape = '["JSON"]'
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE found AS SELECT ordinality AS line, CAST(data AS VARCHAR) AS text, data, "
        "CAST(NULL AS JSON) AS context, CAST(NULL AS JSON) AS inferred, CAST(NULL AS JSON) AS stated "
        f"FROM unnest(from_json($1, '{shape}')) WITH ORDINALITY AS found(data, ordinality)",
        [f"[{','.join(texts)}]"],
    )
    canonical.judge(connection)
    store(connection)


def store(connection: duckdb.DuckDBPyConnection) -> None:
    """Move the table `judged` into the tables of a store, each configuration and run once."""
    kept = "FROM judged WHERE reason IS NULL"
    runs = [key for key in KEYS if key not in CONFIGURATION]
    for table, name, columns in (
        ("configurations", "config_id", ["config_id", *CONFIGURATION]),
        (
            "run_records",
            "run_id",
            ["run_id", "config_id", "status", "missing", *runs, "extra", "stated"],
        ),
    ):
        connection.execute(
            f"INSERT INTO {table} BY NAME SELECT {', '.join(columns)} {kept} AND {name} NOT IN "
            f"(SELECT {name} FROM {table}) QUALIFY row_number() OVER (PARTITION BY {name} ORDER BY line) = 1"
        )
    connection.execute(
        "INSERT INTO run_sources BY NAME SELECT line + (SELECT count(*) FROM run_sources) AS number, run_id, "
        f"'file' AS file_sha256, line, line_sha256, {', '.join(PROVENANCE)} {kept}"
    )
