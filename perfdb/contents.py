"""What a store holds, counted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb

_INCOMPLETE = """
SELECT any_value(f.name) AS file, s.source, r.missing, count(DISTINCT r.run_id)
FROM run_records r JOIN run_sources s USING (run_id) JOIN files f ON f.sha256 = s.file_sha256
WHERE r.status = 'incomplete'
GROUP BY s.file_sha256, s.source, r.missing ORDER BY ALL
"""
"""Incomplete runs by file and what they lack."""


def contents(connection: duckdb.DuckDBPyConnection, path: Path) -> dict[str, Any]:
    """Describe all of a store but its profiles.

    Parameters
    ----------
    connection : DuckDBPyConnection
        Whose current schema is the store's.
    path : Path
        Its file.
    """

    def count(sql: str) -> dict[str, int]:
        return {str(name): int(number) for name, number in sorted(connection.execute(sql).fetchall())}

    def total(table: str) -> int:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0])

    status = count("SELECT status, count(*) FROM run_records GROUP BY 1")
    schema = connection.execute("SELECT name FROM migrations ORDER BY name").fetchall()
    return {
        "path": str(path),
        "schema": [name for (name,) in schema],
        "size_bytes": path.stat().st_size,
        "files": total("files"),
        "runs": sum(status.values()),
        "complete": status.get("complete", 0),
        "incomplete": status.get("incomplete", 0),
        "rejected_lines": total("rejected_lines"),
        "configurations": total("configurations"),
        "kernel_runs": count("SELECT table_name, count(*) FROM kernel_runs GROUP BY 1"),
        "missing": count(
            "SELECT key, count(*) FROM (SELECT unnest(missing) AS key FROM run_records) GROUP BY 1"
        ),
        "incomplete_runs": [
            {"file": file, "source": source, "missing": missing, "runs": runs}
            for file, source, missing, runs in connection.execute(_INCOMPLETE).fetchall()
        ],
        "engines": count(
            "SELECT coalesce(engine, 'unknown'), count(*) "
            "FROM run_records JOIN configurations USING (config_id) GROUP BY 1"
        ),
        "sources": count("SELECT source, count(DISTINCT run_id) FROM run_sources GROUP BY 1"),
        "flags": count("SELECT flag, count(DISTINCT run_id) FROM flags GROUP BY 1"),
        "startups": total("startup_records"),
        "server_steps": total("server_steps"),
        "predictions": total("predictions"),
        "predicted_runs": total("(SELECT DISTINCT profile, run_id FROM predicted)"),
    }
