"""The tables of a store as they are found, so that whatever copies a store copies all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import duckdb

SCHEMA_TABLE: Final = "migrations"
"""The table of schema steps."""
SCHEMA_TABLES: Final = (SCHEMA_TABLE, "decisive_flags")
"""Tables that the schema steps fill: every store has its own, and none is copied."""


def tables(connection: duckdb.DuckDBPyConnection, catalog: str) -> dict[str, dict[str, str]]:
    """Return the SQL type of every column of every table of an attached store, in the order of the names."""
    rows = connection.execute(
        """
        SELECT c.table_name, c.column_name, c.data_type
        FROM duckdb_columns() c JOIN duckdb_tables() t USING (database_name, schema_name, table_name)
        WHERE c.database_name = $1 AND c.schema_name = 'main' AND c.table_name NOT IN (SELECT unnest($2))
        ORDER BY c.table_name, c.column_index
        """,
        [catalog, list(SCHEMA_TABLES)],
    )
    found: dict[str, dict[str, str]] = {}
    for table, column, kind in rows.fetchall():
        found.setdefault(table, {})[column] = kind
    return found


def copy_all(connection: duckdb.DuckDBPyConnection, source: str, target: str) -> None:
    """Copy every row of one attached store into another of the same schema, which is empty."""
    for table in tables(connection, source):
        connection.execute(f"INSERT INTO {target}.{table} BY NAME FROM {source}.{table}")


def schema(connection: duckdb.DuckDBPyConnection, catalog: str) -> list[str]:
    """Return the names of the schema steps of an attached store, in order."""
    rows = connection.execute(f"SELECT name FROM {catalog}.{SCHEMA_TABLE} ORDER BY name").fetchall()
    return [name for (name,) in rows]
