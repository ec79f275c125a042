"""One file into the store: staged in a side store, then taken in by one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perfdb import sidecar
from perfdb.absorb import IngestReport, absorb
from perfdb.connection import LARGE_BYTES, attached, transaction, workspace
from perfdb.errors import ContextRefused, UnknownFormat
from perfdb.layout import remember
from perfdb.readers import aiconfigurator_kernels
from perfdb.record import Alike
from perfdb.staging import Progress, stage, survey


def ingest(
    path: Path,
    store: Path,
    wait_s: float,
    context: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    alike: Alike | None = None,
) -> IngestReport:
    """Ingest a file.

    Parameters
    ----------
    path, store : Path
        The file, and the store.
    wait_s : float
        How long to wait for another process to let go of the store.
    context : mapping, optional
        Keys that the file lacks; they come before those of a sidecar.
    progress : callable, optional
        Called with the number of lines read so far.
    alike : callable, optional
        Tells of a key, the file's text and the context's whether they are spellings of one name.
    """
    beside = None
    large = path.stat().st_size >= LARGE_BYTES
    with workspace(store if large else None) as connection:
        if aiconfigurator_kernels.is_parquet(path):
            _stage_kernels(connection, path, context, progress)
        else:
            found = sidecar.find(path)
            beside = sidecar.read(found) if found else None
            stage(connection, path, context, beside, progress, alike)
        with attached(connection, store, False, wait_s), transaction(connection):
            report = absorb(connection)
    report.unmatched = beside.unused() if beside else []
    return report


def _stage_kernels(
    connection: Any, path: Path, context: Mapping[str, Any] | None, progress: Progress | None
) -> None:
    """Read a Parquet table of kernel timings, known as a whole by the hash of its file."""
    reader = aiconfigurator_kernels
    if not reader.matches(connection, path):
        raise UnknownFormat(
            f"{path} is Parquet but no table of kernel timings: it lacks one of {', '.join(reader.IDENTITY)}"
        )
    if context:
        raise ContextRefused(
            f"{path} holds kernel timings, which say their own accelerator and engine: "
            f"leave out {', '.join(context)}"
        )
    sha256 = survey(path).sha256
    rows = reader.load(connection, path, sha256)
    remember(connection, sha256, path, reader.NAME, rows, {})
    if progress:
        progress(rows)
