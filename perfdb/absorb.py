"""One store into another, by content: what is new, what is known, what completes, what contradicts.

Whatever comes into a store comes as a small store of its own, `side`: a file that was read, an export, a
colleague's store, runs completed by hand. Taking it in is one transaction on `store`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from perfdb.canonical import same
from perfdb.keys import KEYS
from perfdb.record import Rejection

if TYPE_CHECKING:
    import duckdb


@dataclass
class IngestReport:
    """What became of a file, or of another store.

    Parameters
    ----------
    kept : int
        Records that are new, or that complete one already stored.
    known : int
        Records that were stored before.
    incomplete : int
        Those of `kept` that lack a key, and are kept as incomplete.
    rejected : list of Rejection
        Lines that were not taken, with the reason.
    missing : dict
        Keys that incomplete runs lack, with their number.
    steps : int
        Engine steps of a server log that are new.
    unmatched : list of dict
        The `match` of every `[[run]]` table of the file's sidecar that no run of it met.
    """

    kept: int = 0
    known: int = 0
    incomplete: int = 0
    rejected: list[Rejection] = field(default_factory=list)
    missing: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    unmatched: list[dict[str, Any]] = field(default_factory=list)


def absorb(connection: duckdb.DuckDBPyConnection) -> IngestReport:
    """Take `side` into `store`, inside the caller's transaction.

    A raw line stands for one run, so that a later record of the same line can complete it but not contradict
    it. What two stores say about the same things is kept once, with both sources.

    Parameters
    ----------
    connection : DuckDBPyConnection
        With both attached, `store` current.
    """
    report = IngestReport()
    _weigh(connection)
    _report_runs(connection, report)
    _runs(connection)
    _supersede(connection)
    _startups(connection, report)
    _kernels(connection, report)
    _rest(connection)
    return report


def _weigh(connection: duckdb.DuckDBPyConnection) -> None:
    """Decide on every source of a run: which stored run it belongs to, or that it is new.

    The table `weighed` has a row a source: `kept_id` is the run that it is a source of in the end,
    `replaced_id` the stored run that it completes, `reason` why it is refused.
    """
    columns = list(KEYS)
    side, stored = (
        f"(SELECT r.*, c.* EXCLUDE (config_id) FROM {name}.run_records r "
        f"JOIN {name}.configurations c USING (config_id))"
        for name in ("side", "store")
    )

    def holds(larger: str, smaller: str) -> str:
        parts = [
            f"({smaller}.{key} IS NULL OR coalesce({same(key, f'{larger}.{key}', f'{smaller}.{key}')}, false))"
            for key in columns
        ]
        extra = (
            f"({smaller}.extra IS NULL OR coalesce(json_contains({larger}.extra, {smaller}.extra), false))"
        )
        return " AND ".join([*parts, extra])

    run = connection.execute
    run(
        """
        CREATE OR REPLACE TEMP TABLE met AS
        SELECT DISTINCT n.run_id AS new_id, o.run_id AS old_id, n.line_sha256
        FROM side.run_sources n JOIN store.run_sources o USING (line_sha256)
        WHERE n.run_id != o.run_id
            AND NOT EXISTS (FROM store.run_sources e WHERE e.line_sha256 = n.line_sha256 AND e.run_id = n.run_id)
        """
    )
    run(
        f"""
        CREATE OR REPLACE TEMP TABLE verdicts AS
        SELECT met.*, {holds("o", "n")} AS known, {holds("n", "o")} AS completes,
            'this line was ingested before: ' || coalesce(nullif(ltrim(concat({_concat(columns)}), '; '), ''),
                'it is stored with other keys') AS reason
        FROM met JOIN {side} n ON met.new_id = n.run_id JOIN {stored} o ON met.old_id = o.run_id
        """
    )
    # Equal lines of one file may be several runs, told apart by their place: the same place goes first.
    run(
        """
        CREATE OR REPLACE TEMP TABLE settled AS
        SELECT DISTINCT ON (s.number) s.number, v.*
        FROM verdicts v
        JOIN side.run_sources s ON s.run_id = v.new_id AND s.line_sha256 = v.line_sha256
        LEFT JOIN store.run_sources o
            ON o.run_id = v.old_id AND o.file_sha256 = s.file_sha256 AND o.line = s.line
        ORDER BY s.number, known DESC, completes DESC, o.number IS NULL, old_id
        """
    )
    run(
        """
        CREATE OR REPLACE TEMP TABLE weighed AS
        SELECT s.*, CASE WHEN v.known THEN v.old_id WHEN v.completes OR v.old_id IS NULL THEN s.run_id END AS kept_id,
            CASE WHEN NOT v.known AND v.completes THEN v.old_id END AS replaced_id,
            CASE WHEN NOT v.known AND NOT v.completes THEN v.reason END AS reason
        FROM side.run_sources s
        LEFT JOIN settled v USING (number)
        """
    )


def _concat(columns: list[str]) -> str:
    """Return the expressions that name each key on which `o` and `n` disagree."""
    return ", ".join(
        f"CASE WHEN NOT ({same(key, f'o.{key}', f'n.{key}')}) THEN "
        f"'; {key} is stored as ' || o.{key} || ' and now said to be ' || n.{key} END"
        for key in columns
    )


def _report_runs(connection: duckdb.DuckDBPyConnection, report: IngestReport) -> None:
    run = connection.execute
    run(
        """
        CREATE OR REPLACE TEMP TABLE fresh AS
        SELECT DISTINCT kept_id AS run_id FROM weighed
        WHERE kept_id IS NOT NULL AND kept_id NOT IN (SELECT run_id FROM store.run_records)
        """
    )
    accepted, report.kept, report.incomplete = run(
        """
        SELECT (SELECT count(*) FROM weighed WHERE kept_id IS NOT NULL), count(*),
            count(*) FILTER (status = 'incomplete')
        FROM fresh JOIN side.run_records USING (run_id)
        """
    ).fetchall()[0]
    report.known = accepted - report.kept
    report.missing = dict(
        run(
            "SELECT unnest(missing) AS key, count(*) FROM fresh JOIN side.run_records USING (run_id) "
            "GROUP BY key ORDER BY key"
        ).fetchall()
    )
    rejected = run(
        "SELECT line, reason FROM side.rejected_lines UNION ALL "
        "SELECT line, reason FROM weighed WHERE reason IS NOT NULL ORDER BY 1"
    ).fetchall()
    report.rejected = [Rejection(line, reason) for line, reason in rejected]


def _runs(connection: duckdb.DuckDBPyConnection) -> None:
    """Insert what is new: runs, their configurations, sources, raw lines and flags."""
    run = connection.execute
    run("INSERT INTO store.run_records BY NAME FROM side.run_records SEMI JOIN fresh USING (run_id)")
    run(
        """
        INSERT INTO store.configurations BY NAME
        FROM (FROM side.configurations SEMI JOIN
              (FROM side.run_records SEMI JOIN fresh USING (run_id)) USING (config_id))
        ANTI JOIN store.configurations USING (config_id)
        """
    )
    run(
        """
        CREATE OR REPLACE TEMP TABLE placed AS
        SELECT w.* EXCLUDE (kept_id, replaced_id, reason) REPLACE (kept_id AS run_id)
        FROM weighed w ANTI JOIN store.run_sources s
            ON s.run_id = w.kept_id AND s.file_sha256 = w.file_sha256 AND s.line = w.line
        WHERE kept_id IS NOT NULL
            AND NOT EXISTS (FROM store.run_sources o WHERE o.run_id = w.replaced_id
                            AND o.file_sha256 = w.file_sha256 AND o.line = w.line)
        """
    )
    run(
        """
        INSERT INTO store.run_sources BY NAME
        SELECT * REPLACE (number + (SELECT coalesce(max(number), 0) FROM store.run_sources) AS number)
        FROM placed
        """
    )
    run(
        """
        INSERT INTO store.flags
        SELECT DISTINCT coalesce(w.kept_id, f.run_id), f.flag, f.reason, f.origin
        FROM side.flags f JOIN (SELECT DISTINCT run_id, kept_id FROM weighed WHERE kept_id IS NOT NULL) w USING (run_id)
        WHERE NOT EXISTS (FROM store.flags s WHERE s.run_id = w.kept_id AND s.flag = f.flag AND s.origin = f.origin)
        """
    )


def _supersede(connection: duckdb.DuckDBPyConnection) -> None:
    """Let completed runs take the place of those they complete, sources and flags included."""
    run = connection.execute
    run(
        """
        CREATE OR REPLACE TEMP TABLE replaced AS
        SELECT DISTINCT ON (s.number) s.number, replaced_id, kept_id, w.context
        FROM weighed w
        JOIN store.run_sources s ON s.run_id = replaced_id AND s.line_sha256 = w.line_sha256
        ORDER BY s.number, s.file_sha256 != w.file_sha256, s.line != w.line, kept_id, w.number
        """
    )
    if not run("SELECT count(*) FROM replaced").fetchall()[0][0]:
        return
    run(
        """
        UPDATE store.run_sources AS s SET run_id = r.kept_id, context = coalesce(r.context, s.context)
        FROM replaced r WHERE s.number = r.number
        """
    )
    run(
        """
        CREATE OR REPLACE TEMP TABLE gone AS
        SELECT DISTINCT replaced_id, kept_id FROM replaced
        WHERE replaced_id NOT IN (SELECT run_id FROM store.run_sources)
        """
    )
    run(
        """
        CREATE OR REPLACE TEMP TABLE moved AS
        SELECT DISTINCT ON (g.kept_id, f.flag, f.origin) f.* REPLACE (g.kept_id AS run_id)
        FROM store.flags f JOIN gone g ON f.run_id = g.replaced_id
        WHERE NOT EXISTS (FROM store.flags s WHERE s.run_id = g.kept_id AND s.flag = f.flag AND s.origin = f.origin)
        """
    )
    run("DELETE FROM store.flags WHERE run_id IN (SELECT replaced_id FROM gone)")
    run("INSERT INTO store.flags FROM moved")
    now = datetime.now(UTC).replace(tzinfo=None)
    run("INSERT INTO store.superseded_runs SELECT replaced_id, kept_id, $1 FROM gone", [now])
    run("DELETE FROM store.run_records WHERE run_id IN (SELECT replaced_id FROM gone)")
    run("DELETE FROM store.configurations WHERE config_id NOT IN (SELECT config_id FROM store.run_records)")


def _add(connection: duckdb.DuckDBPyConnection, table: str, keys: str) -> tuple[int, int]:
    """Insert the rows of a table whose keys are not stored; return how many are new, and how many there are."""
    rows = connection.execute(f"SELECT count(*) FROM side.{table}").fetchall()[0][0]
    fresh = connection.execute(
        f"INSERT INTO store.{table} BY NAME FROM side.{table} ANTI JOIN store.{table} USING ({keys})"
    ).fetchall()[0][0]
    return fresh, rows


def _startups(connection: duckdb.DuckDBPyConnection, report: IngestReport) -> None:
    fresh, _ = _add(connection, "startup_records", "startup_id")
    report.kept += fresh
    report.known += connection.execute("SELECT count(*) FROM side.startup_sources").fetchall()[0][0] - fresh
    _add(connection, "startup_sources", "startup_id, file_sha256, line")
    report.steps, _ = _add(connection, "server_steps", "file_sha256")


def _kernels(connection: duckdb.DuckDBPyConnection, report: IngestReport) -> None:
    fresh, rows = _add(connection, "kernel_runs", "file_sha256")
    report.kept += fresh
    report.known += rows - fresh


def _rest(connection: duckdb.DuckDBPyConnection) -> None:
    """Insert raw lines, files, refused lines, profiles and recorded answers that are new."""
    _add(connection, "raw_lines", "line_sha256")
    _add(connection, "files", "sha256")
    connection.execute(
        "DELETE FROM store.rejected_lines WHERE file_sha256 IN (SELECT sha256 FROM side.files)"
    )
    connection.execute("INSERT INTO store.rejected_lines FROM side.rejected_lines")
    _add(connection, "profiles", "name, version")
    _add(connection, "predictions", "prediction_id")
