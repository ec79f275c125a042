"""A store into a folder: as Parquet or JSON lines without loss, or its kernel timings as AIConfigurator has them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from perfdb import kernel_export
from perfdb.choice import choose
from perfdb.connection import LARGE_BYTES, opened, workspace
from perfdb.errors import FolderTaken, NotAnExport, QueryRefused, StorageFull
from perfdb.folder import RAW, RUNS, Form, Manifest, fill_table, summed, write_table
from perfdb.tables import schema, tables

if TYPE_CHECKING:
    import duckdb

FORMS: Final = ("parquet", "jsonl", "aiconfigurator")

_WIDE: Final = {
    RUNS: "SELECT * FROM runs",
    RAW: """
        SELECT raw_lines.*, engine, gpu FROM raw_lines LEFT JOIN (
            SELECT DISTINCT ON (line_sha256) line_sha256, engine, gpu
            FROM run_sources JOIN run_records USING (run_id) JOIN configurations USING (config_id)
            ORDER BY line_sha256, number
        ) USING (line_sha256)
        """,
}
"""Tables that are written with more columns than they have: what they are partitioned by, what a reader of the
runs format wants."""

_APART: Final = (
    "profiles", "profile_runs", "predictions", "startup_records", "startup_sources", "server_steps", "kernel_runs",
)  # fmt: skip
"""Tables that belong to no single run."""


def export(
    store: Path,
    folder: Path,
    form: str = "parquet",
    where: str | None = None,
    overwrite: bool = False,
    wait_s: float = 30.0,
) -> Manifest:
    """Write a store into a folder, which takes its name only once it is whole and was read back.

    Parameters
    ----------
    store : Path
    folder : Path
        Not there yet, or empty.
    form : str
        One of `FORMS`.
    where : str, optional
        A SQL condition on the view `runs`: only runs that meet it, and what belongs to them.
    overwrite : bool
        Let the folder take the place of an older export.
    wait_s : float
        How long to wait for another process to let go of the store.

    Raises
    ------
    FolderTaken
        If the folder holds anything, and is no older export that `overwrite` lets go.
    NothingChosen, QueryRefused
        If no run meets the condition, or it is none.
    StorageFull
        If there is no room for the folder.
    """
    if form not in FORMS:
        raise QueryRefused(f"no form {form!r} of an export; there are {', '.join(FORMS)}")
    if form == "aiconfigurator" and where:
        raise QueryRefused("a condition chooses runs, and kernel timings belong to none: leave it out")
    try:
        with opened(store, True, wait_s) as connection, new_folder(folder, overwrite) as scratch:
            steps = schema(connection, "store")
            if form == "aiconfigurator":
                written = kernel_export.write(connection, scratch)
            else:
                written = _write_tables(connection, scratch, "jsonl" if form == "jsonl" else "parquet", where)
                _read_back(scratch, form, written, store.stat().st_size >= LARGE_BYTES)
            manifest = described(form, steps, written, where=where)
            manifest.write(scratch)
            return manifest
    except StorageFull as error:
        told = str(error).partition("; the store")[0]
        raise StorageFull(f"no whole export at {folder}: {told}; free some space and try again") from error


def described(form: str, steps: list[str], written: Mapping[str, dict[str, Any]], **more: Any) -> Manifest:
    """Return the manifest of what was written now by this version."""
    try:
        program = f"aicalib {version('aicalib')}"
    except PackageNotFoundError:
        program = "perfdb"
    now = datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="seconds")
    return Manifest(form, steps, dict(written), created_by=program, created_at=now, **more)


@contextmanager
def new_folder(folder: Path, overwrite: bool = False) -> Iterator[Path]:
    """Make a folder beside the one that is wanted, which takes its name in the end, or is removed on an error.

    Raises
    ------
    FolderTaken
        As `export` says.
    """
    folder = Path(os.path.abspath(folder))
    there = folder.is_dir() and any(folder.iterdir())
    if folder.exists() and not folder.is_dir():
        raise FolderTaken(f"{folder} is a file: name a folder that is not there yet")
    if there and not overwrite:
        raise FolderTaken(
            f"{folder} is not empty: name another; `aicalib db export --overwrite` takes the place of an older export"
        )
    if there:
        try:
            Manifest.read(folder)
        except NotAnExport as error:
            raise FolderTaken(
                f"{folder} holds something else than an export, which stays: {error}"
            ) from error
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderTaken(f"{folder.parent} cannot be made: {error.strerror}; name another folder") from error
    stem = folder.with_name(f".{folder.name}-{os.getpid()}-{uuid4().hex[:8]}")
    fresh, old = stem.with_suffix(".new"), stem.with_suffix(".old")
    fresh.mkdir()
    try:
        yield fresh
        if there:
            folder.rename(old)
        fresh.rename(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _write_tables(
    connection: duckdb.DuckDBPyConnection, folder: Path, form: Form, where: str | None
) -> dict[str, dict[str, Any]]:
    """Write every table; return the rows and the checksum of each."""
    if where:
        choose(connection, where)
        connection.execute(
            "CREATE TEMP TABLE chosen_sources AS FROM run_sources SEMI JOIN chosen USING (run_id)"
        )
    written = {}
    for table, columns in tables(connection, "store").items():
        condition = f" WHERE {_belongs(table, columns)}" if where else ""
        write_table(
            connection,
            folder,
            form,
            table,
            columns,
            _WIDE.get(table, f"SELECT * FROM {table}") + condition,
            partitioned=table in _WIDE,
        )
        written[table] = summed(connection, f"SELECT * FROM {table}{condition}")
    return written


def _belongs(table: str, columns: Mapping[str, str]) -> str:
    """Return the condition that a row belongs to a chosen run: by its run, its file, its line."""
    if table in _APART:
        return "false"
    if "by_run_id" in columns:
        return "by_run_id IN (SELECT run_id FROM chosen)"
    if "run_id" in columns:
        return "run_id IN (SELECT run_id FROM chosen)"
    if "config_id" in columns:
        return "config_id IN (SELECT config_id FROM run_records SEMI JOIN chosen USING (run_id))"
    for column, key in (("file_sha256", "file_sha256"), ("sha256", "file_sha256"), ("line_sha256",) * 2):
        if column in columns:
            return f"{column} IN (SELECT {key} FROM chosen_sources)"
    return "false"


def _read_back(folder: Path, form: str, written: Mapping[str, dict[str, Any]], large: bool) -> None:
    """Read what was written, table by table, and compare.

    Raises
    ------
    StorageFull
        If it is not what was to be written: the disk, or the network that it is on, lost something.
    """
    with workspace(folder / "read-back" if large else None) as connection:
        for table, columns in tables(connection, "side").items():
            fill_table(connection, folder, form, table, columns)
            if summed(connection, f"SELECT * FROM {table}") != written[table]:
                raise StorageFull(f"{table} in {folder} is not what was written there")
            connection.execute(f"TRUNCATE {table}")
