"""Another store, or an export of one, into a store: the same run from two people is one run with both sources."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from perfdb import migrations
from perfdb.absorb import IngestReport, absorb
from perfdb.amend import complete
from perfdb.canonical import same
from perfdb.connection import LARGE_BYTES, apply, attached, literal, transaction, workspace
from perfdb.errors import NotAnExport, OlderSchema
from perfdb.folder import Manifest, fill_table, summed
from perfdb.keys import KEYS
from perfdb.record import Rejection
from perfdb.tables import copy_all, tables

if TYPE_CHECKING:
    import duckdb


def merge(other: Path, store: Path, wait_s: float = 30.0) -> IngestReport:
    """Take another store, or an export of one, into a store.

    Runs are known by their content, and records by their raw line: of two that say different amounts about one
    line the fuller stays, and where each says what the other lacks, they are joined. What contradicts is rejected.

    Parameters
    ----------
    other : Path
        A store, of this schema or an older one, or the folder of an export. It is only read.
    store : Path
    wait_s : float
        How long to wait for another process to let go of either.

    Returns
    -------
    IngestReport
        The reasons of its rejections name the file of the line, and both values.

    Raises
    ------
    NotAStore, NewerSchema, DamagedStore
        If the other file cannot be taken.
    NotAnExport
        If the folder is none, or not whole.
    """
    if other.is_dir():
        return import_folder(other, store, wait_s)
    large = other.is_file() and other.stat().st_size >= LARGE_BYTES
    with workspace(store if large else None) as connection:
        with _attached_older(connection, other, wait_s):
            copy_all(connection, "store", "side")
        return _take(connection, store, wait_s)


def import_folder(folder: Path, store: Path, wait_s: float = 30.0) -> IngestReport:
    """Take an export into a store; see `merge`.

    Raises
    ------
    NotAnExport
        If the folder is no export, is of a newer version, lacks something, or was altered.
    """
    manifest = Manifest.read(folder)
    if manifest.form not in ("parquet", "jsonl"):
        raise NotAnExport(
            f"{folder} holds tables in the layout of {manifest.form}: ingest its .parquet files one by one"
        )
    unknown = [name for name in manifest.schema if name not in migrations.steps()]
    if unknown:
        raise NotAnExport(
            f"{folder} was written by a newer version (it has the schema step {', '.join(unknown)}): "
            "upgrade this package"
        )
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    with workspace(store if size >= LARGE_BYTES else None) as connection:
        if set(manifest.schema) == migrations.steps().keys():
            _fill(connection, folder, manifest, "side")
        else:
            _fill_older(connection, folder, manifest)
        orphans = _orphans(connection) if manifest.lost else []
        report = _take(connection, store, wait_s)
    report.rejected += orphans
    return report


@contextmanager
def _attached_older(connection: duckdb.DuckDBPyConnection, path: Path, wait_s: float) -> Iterator[None]:
    """Attach a store for reading, or, where its schema is older, a copy that is brought up to date."""
    try:
        with attached(connection, path, True, wait_s):
            pass
    except OlderSchema:
        with TemporaryDirectory(prefix="perfdb-") as scratch:
            copy = Path(scratch) / "copy.duckdb"
            shutil.copyfile(path, copy)
            log = path.with_name(f"{path.name}.wal")
            if log.exists():
                shutil.copyfile(log, copy.with_name(f"{copy.name}.wal"))
            with attached(connection, copy, False, wait_s):
                yield
        return
    with attached(connection, path, True, wait_s):
        yield


def _fill(connection: duckdb.DuckDBPyConnection, folder: Path, manifest: Manifest, catalog: str) -> None:
    """Read an export into the empty store that is the current schema, and compare it with its manifest."""
    known = tables(connection, catalog)
    for table, facts in manifest.tables.items():
        if table not in known:
            raise NotAnExport(f"{folder} was altered: no schema step of its own has the table {table!r}")
        fill_table(connection, folder, manifest.form, table, known[table])
        found = summed(connection, f"SELECT * FROM {table}")
        if found != facts:
            what = (
                f"{table} has {found['rows']} rows, of {facts['rows']}"
                if found["rows"] != facts["rows"]
                else f"the content of {table} is not what was exported"
            )
            raise NotAnExport(f"{folder} is not whole or was altered: {what}")
    absent = sorted(known.keys() - manifest.tables.keys() - manifest.lost.keys())
    if absent:
        raise NotAnExport(f"{folder} is not whole: its manifest lacks {', '.join(absent)}")


def _fill_older(connection: duckdb.DuckDBPyConnection, folder: Path, manifest: Manifest) -> None:
    """Read an export of an older schema into the side store, by way of a store of that schema."""
    steps = {name: text for name, text in migrations.steps().items() if name in manifest.schema}
    with TemporaryDirectory(prefix="perfdb-") as scratch:
        path = Path(scratch) / "older.duckdb"
        connection.execute(f"ATTACH {literal(str(path))} AS older")
        connection.execute("USE older")
        try:
            apply(connection, steps)
            _fill(connection, folder, manifest, "older")
        finally:
            connection.execute("USE side")
            connection.execute("DETACH older")
        with attached(connection, path, False, 0.0):
            copy_all(connection, "store", "side")


def _orphans(connection: duckdb.DuckDBPyConnection) -> list[Rejection]:
    """Take out of an export that was saved from a damaged store what lost its other half; say what that is."""
    run = connection.execute
    lost = []
    for table, other, key, what in (
        ("run_records", "configurations", "config_id", "its configuration was lost"),
        ("run_records", "run_sources", "run_id", "where it comes from was lost"),
        ("run_sources", "run_records", "run_id", "the run itself was lost"),
    ):
        named = "' (' || src_ref || ')'" if table == "run_sources" else "''"
        rows = run(
            f"SELECT run_id || {named} FROM {table} ANTI JOIN {other} USING ({key}) ORDER BY ALL"
        ).fetchall()
        again = "with a damaged part of the store: ingest its file again"
        lost += [Rejection(0, f"run {which}: {what} {again}") for (which,) in rows]
        run(f"DELETE FROM {table} WHERE {key} NOT IN (SELECT {key} FROM {other})")
    return lost


def _take(connection: duckdb.DuckDBPyConnection, store: Path, wait_s: float) -> IngestReport:
    """Take the side store, which is a whole store, into a store."""
    run = connection.execute
    with attached(connection, store, False, wait_s):
        run("USE side")
        _join(connection)
        run("USE store")
        other_content = _refuse_profiles(connection)
        with transaction(connection):
            report = absorb(connection)
            _remember_fuller(connection)
            _take_lineage(connection)
    refused = run(
        """
        SELECT w.line, coalesce(f.name || ': ', '') || w.reason
        FROM weighed w LEFT JOIN side.files f ON f.sha256 = w.file_sha256 WHERE reason IS NOT NULL ORDER BY ALL
        """
    ).fetchall()
    report.rejected = other_content + [Rejection(line, reason) for line, reason in refused]
    return report


def _refuse_profiles(connection: duckdb.DuckDBPyConnection) -> list[Rejection]:
    """Take out of `side` the versions of profiles that are stored with another content; say which they are."""
    run = connection.execute
    run(
        """
        CREATE OR REPLACE TEMP TABLE other_profiles AS
        SELECT n.name, n.version, n.name || '@' || n.version AS profile
        FROM side.profiles n JOIN store.profiles o USING (name, version) WHERE n.json != o.json ORDER BY ALL
        """
    )
    for table in ("profiles", "profile_runs"):
        run(f"DELETE FROM side.{table} WHERE (name, version) IN (SELECT (name, version) FROM other_profiles)")
    run("DELETE FROM side.predicted WHERE profile IN (SELECT profile FROM other_profiles)")
    return [
        Rejection(
            0, f"profile {profile} is stored with other content: save one of them under another version"
        )
        for (profile,) in run("SELECT profile FROM other_profiles").fetchall()
    ]


def _take_lineage(connection: duckdb.DuckDBPyConnection) -> None:
    """Insert which runs took the place of others, which the profiles were fitted on, and what they predict.

    What speaks of runs that were refused stays away; what was lost with a damaged store may come again.
    """
    run = connection.execute
    known, there = (
        f"(SELECT run_id FROM {name}.run_records UNION ALL SELECT run_id FROM {name}.superseded_runs)"
        for name in ("store", "side")
    )
    fresh = True
    while fresh:  # one run may have taken the place of another that did so itself
        fresh = run(
            f"""
            INSERT INTO store.superseded_runs BY NAME
            FROM side.superseded_runs ANTI JOIN store.superseded_runs USING (run_id, by_run_id)
            WHERE by_run_id IN {known} OR by_run_id NOT IN {there}
            """
        ).fetchall()[0][0]
    run(
        """
        INSERT INTO store.profile_runs BY NAME
        FROM side.profile_runs ANTI JOIN store.profile_runs USING (name, version, run_id)
        """
    )
    run(
        f"""
        INSERT INTO store.predicted BY NAME
        FROM side.predicted ANTI JOIN store.predicted USING (profile, run_id, metric) WHERE run_id IN {known}
        """
    )


def _join(connection: duckdb.DuckDBPyConnection) -> None:
    """Complete each run of `side` that says of a line what `store` lacks, and lacks what that says."""

    def lacks(one: str, other: str) -> str:
        parts = [f"({one}.{key} IS NULL AND {other}.{key} IS NOT NULL)" for key in KEYS]
        extra = f"NOT coalesce(json_contains({one}.extra, {other}.extra), {other}.extra IS NULL)"
        return " OR ".join([*parts, extra])

    agree = " AND ".join(f"coalesce({same(key, f'n.{key}', f'o.{key}')}, true)" for key in KEYS)
    extras = [f"coalesce({side}.extra, '{{}}')" for side in ("n", "o")]
    pointer = "'/' || replace(replace(key, '~', '~0'), '/', '~1')"
    differ = " != ".join(f"json_extract({extra}, {pointer})" for extra in extras)
    shared = f"list_intersect({', '.join(f'json_keys({extra})' for extra in extras)})"
    known = f"list_transform({shared}, lambda key: CAST(to_json(key) AS VARCHAR) || ':null')"
    wide = "(SELECT r.*, c.* EXCLUDE (config_id) FROM {0}.run_records r JOIN {0}.configurations c USING (config_id))"
    told = ", ".join(f"{key} := CASE WHEN n.{key} IS NULL THEN o.{key} END" for key in KEYS)
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE wanted AS
        SELECT DISTINCT ON (n.run_id) n.run_id,
            json_merge_patch({extras[1]}, '{{' || array_to_string({known}, ',') || '}}',
                to_json(struct_pack({told}))) AS told
        FROM (
            SELECT DISTINCT a.run_id AS new_id, b.run_id AS old_id
            FROM side.run_sources a JOIN store.run_sources b USING (line_sha256) WHERE a.run_id != b.run_id
        ) met
        JOIN {wide.format("side")} n ON n.run_id = new_id JOIN {wide.format("store")} o ON o.run_id = old_id
        WHERE {agree} AND ({lacks("n", "o")}) AND ({lacks("o", "n")})
            AND list_filter({shared}, lambda key: {differ}) = []
        ORDER BY n.run_id, o.run_id
        """
    )
    if not connection.execute("SELECT count(*) FROM wanted").fetchall()[0][0]:
        return
    complete(connection)
    now = datetime.now(UTC).replace(tzinfo=None)
    connection.execute("INSERT INTO superseded_runs SELECT run_id, by_run_id, $1 FROM completed", [now])


def _remember_fuller(connection: duckdb.DuckDBPyConnection) -> None:
    """Write down which stored run stands for one that the other store had with less."""
    connection.execute(
        """
        INSERT INTO superseded_runs
        SELECT DISTINCT w.run_id, w.kept_id, $1
        FROM weighed w
        WHERE w.kept_id != w.run_id AND w.run_id NOT IN (SELECT run_id FROM run_records)
            AND NOT EXISTS (FROM superseded_runs s WHERE s.run_id = w.run_id AND s.by_run_id = w.kept_id)
        """,
        [datetime.now(UTC).replace(tzinfo=None)],
    )
