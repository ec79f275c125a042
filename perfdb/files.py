"""A benchmark file read without a store."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perfdb import sidecar
from perfdb.connection import workspace
from perfdb.keys import KEYS, PROVENANCE
from perfdb.record import Alike, Rejection, Remark
from perfdb.staging import identify, stage


@dataclass(frozen=True)
class ReadResult:
    """A file, read.

    Parameters
    ----------
    records : list of dict
        One a run, with every key of the runs format (missing ones None), the keys that the format does not
        know, and `run_id` and `missing`; one a start-up with its keys and `startup_id`.
    rejected : list of Rejection
        Lines that are no run.
    format : str
        Name of the format.
    remarks : list of Remark
        Figures that were taken as missing, with the reason.
    """

    records: list[dict[str, Any]]
    rejected: list[Rejection]
    format: str
    remarks: list[Remark] = field(default_factory=list)


def read_records(
    path: str | Path, context: Mapping[str, Any] | None = None, alike: Alike | None = None
) -> ReadResult:
    """Read a file without a store.

    Parameters
    ----------
    path : str or Path
        A benchmark file of any known format.
    context : mapping, optional
        Keys that the file lacks, such as `gpu`, `model`, `tp`.
    alike : callable, optional
        Tells of a key, the file's text and the context's whether they are spellings of one name.

    Raises
    ------
    UnknownFormat
        If no reader knows the file.
    """
    with workspace() as side:
        beside = sidecar.find(Path(path))
        records: list[dict[str, Any]] = []
        remarks: list[tuple[Any, ...]] = []

        def keep(_: int) -> None:
            """Keep a block as the file spells it; runs of one content have one spelling in a store."""
            cursor = side.execute("SELECT * FROM judged WHERE reason IS NULL ORDER BY line")
            names = [column[0] for column in cursor.description]
            records.extend(_record(dict(zip(names, row, strict=True))) for row in cursor.fetchall())
            remarks.extend(side.execute("SELECT line, flag, reason FROM remarks ORDER BY line").fetchall())

        form = stage(side, Path(path), context, None if beside is None else sidecar.read(beside), keep, alike)
        starts = side.execute(
            "SELECT startup_id, content, s.* EXCLUDE (startup_id, file_sha256, line, line_sha256) "
            "FROM startup_records JOIN startup_sources s USING (startup_id) ORDER BY line"
        )
        names = [column[0] for column in starts.description]
        for row in starts.fetchall():
            start = dict(zip(names, row, strict=True))
            content = json.loads(start.pop("content"))
            records.append({name: value for name, value in start.items() if value is not None} | content)
        rejected = side.execute("SELECT line, reason FROM rejected_lines ORDER BY line").fetchall()
    return ReadResult(
        records,
        [Rejection(*each) for each in rejected],
        form,
        [Remark(*each) for each in remarks],
    )


def run_ids(records: Iterable[Mapping[str, Any]]) -> list[str | None]:
    """Return the identity of each record in the runs format, None for one that is no run."""
    with workspace() as side:
        return identify(side, records)


def _record(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of `judged` as a flat record."""
    known = {
        name: json.loads(row[name]) if KEYS.get(name) == "json" and row[name] is not None else row[name]
        for name in (*PROVENANCE, *KEYS)
    }
    extra = json.loads(row["extra"]) if row["extra"] else {}
    return known | extra | {"run_id": row["run_id"], "missing": row["missing"]}
