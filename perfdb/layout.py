"""Found records laid out in the tables of a store: runs, their sources and raw lines, steps, and the file itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from perfdb.canonical import judge
from perfdb.encoding import encoded
from perfdb.keys import CONFIGURATION, KEYS, PROVENANCE
from perfdb.record import Alike

if TYPE_CHECKING:
    import duckdb

ORIGIN: Final = "ingest"
"""Origin of the flags that say what was taken as missing while a line was read."""

_STEP_COLUMNS: Final = (
    "line", "rank", "phase", "new_seqs", "new_tokens", "cached_tokens", "running", "queued",
    "used_tokens", "token_usage", "gen_tok_s", "input_tok_s", "accept_length", "cuda_graph",
)  # fmt: skip


def lay_out(
    connection: duckdb.DuckDBPyConnection, sha256: str, name: str, alike: Alike | None = None
) -> None:
    """Judge what was found, and write it into the tables of the store that is the current schema.

    Parameters
    ----------
    connection : DuckDBPyConnection
        Of a workspace that holds `found`.
    sha256, name : str
        Hash and name of the file: a run without a source is named after it and its line.
    alike : callable, optional
        As `judge` takes it.
    """
    run = connection.execute
    judge(connection, alike)
    run("INSERT INTO rejected_lines SELECT $1, line, reason FROM judged WHERE reason IS NOT NULL", [sha256])
    put_runs(connection)
    origin = ", ".join(key for key in PROVENANCE if key not in ("source", "src_ref"))
    run(
        f"""
        INSERT INTO run_sources BY NAME
        SELECT row_number() OVER (ORDER BY line) + (SELECT coalesce(max(number), 0) FROM run_sources) AS number,
            run_id, $1 AS file_sha256, line, line_sha256, context,
            coalesce(source, $2) AS source, coalesce(src_ref, $2 || '#L' || line) AS src_ref, {origin}
        FROM judged WHERE reason IS NULL
        """,
        [sha256, name],
    )
    run(
        f"""
        INSERT INTO flags
        SELECT DISTINCT ON (run_id, flag) run_id, flag, r.reason, '{ORIGIN}'
        FROM remarks r JOIN judged j USING (line) ANTI JOIN flags USING (run_id, flag) WHERE j.reason IS NULL
        """
    )
    run(
        """
        INSERT INTO raw_lines
        SELECT line_sha256, text FROM found
        JOIN (
            SELECT min(line) AS line, line_sha256 FROM judged ANTI JOIN raw_lines USING (line_sha256)
            WHERE reason IS NULL GROUP BY line_sha256
        ) USING (line)
        """
    )


def put_runs(connection: duckdb.DuckDBPyConnection) -> None:
    """Write the runs of `judged`, and their configurations, that the store of the current schema lacks."""
    connection.execute(
        f"""
        INSERT INTO configurations BY NAME
        SELECT config_id, {", ".join(CONFIGURATION)}
        FROM judged
        SEMI JOIN (SELECT min(line) AS line FROM judged WHERE reason IS NULL GROUP BY config_id) USING (line)
        ANTI JOIN configurations USING (config_id)
        """
    )
    others = ", ".join(key for key in KEYS if key not in CONFIGURATION)
    connection.execute(
        f"""
        INSERT INTO run_records BY NAME
        SELECT run_id, config_id, status, missing, {others}, extra, stated
        FROM judged SEMI JOIN (SELECT min(line) AS line FROM judged WHERE reason IS NULL GROUP BY run_id) USING (line)
        ANTI JOIN run_records USING (run_id)
        """
    )


def put_steps(
    connection: duckdb.DuckDBPyConnection, sha256: str, steps: Iterable[Mapping[str, Any]], starts: list[str]
) -> None:
    """Write the steps of a server log; `starts` are the start-ups of the log in their order."""
    import pandas as pd

    rows = []
    for step in steps:
        at = step.get("start")
        start = starts[at] if isinstance(at, int) and at < len(starts) else None
        extra = step.get("extra")
        rows.append(
            {name: step.get(name) for name in _STEP_COLUMNS}
            | {
                "logged_at": step.get("at"),
                "file_sha256": sha256,
                "startup_id": start,
                "extra": encoded(extra) if extra else None,
            }
        )
    if rows:
        batch = pd.DataFrame(rows).astype(object).where(lambda frame: frame.notna(), None)  # noqa: F841
        connection.execute("INSERT INTO server_steps BY NAME SELECT * FROM batch")


def remember(
    connection: duckdb.DuckDBPyConnection,
    sha256: str,
    path: Path,
    form: str,
    lines: int,
    metadata: Mapping[str, Any],
) -> None:
    """Write down the file itself."""
    connection.execute(
        "INSERT INTO files BY NAME SELECT $1 AS sha256, $2 AS name, $3 AS format, $4 AS ingested_at, $5 AS lines, "
        "$6 AS metadata",
        [
            sha256,
            path.name,
            form,
            datetime.now(UTC).replace(tzinfo=None),
            lines,
            encoded(metadata) if metadata else None,
        ],
    )
