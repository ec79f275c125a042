"""Readers of benchmark files: one module a format, found by the content of the file.

A format module has a `NAME`, `matches(first)` on one parsed JSON object, and `read(lines, path)`, which
yields a `Record` or a `Rejection` for each line. Tables of kernel timings are no lines and have a reader of
their own, `aiconfigurator_kernels`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, cast

from perfdb import startups
from perfdb.errors import UnknownFormat
from perfdb.readers import runs, sglang_bench_serving, startup
from perfdb.readers.aiconfigurator_kernels import is_parquet
from perfdb.readers.lines import Line, numbered, parse
from perfdb.record import BadRecord, Record, Rejection, Remark, Run, check

SNIFF_LINES = 50


class Format(Protocol):
    """What a format module offers."""

    NAME: str

    def matches(self, first: Mapping[str, Any]) -> bool:
        """Tell whether a JSON object is of this format."""

    def read(self, lines: Iterable[Line], path: Path) -> Iterator[Record | Rejection]:
        """Read records from the lines of a file."""


FORMATS: tuple[Format, ...] = (
    cast(Format, sglang_bench_serving),
    cast(Format, startup),
    cast(Format, runs),
)


@dataclass(frozen=True)
class ReadResult:
    """A file, read.

    Parameters
    ----------
    records : list of dict
        One a run, with every key of the runs format (missing ones None), the keys that the format does not
        know, and `run_id` and `missing`; of the format `startup` one a start, with its keys and `startup_id`.
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


def detect(lines: Iterable[Line]) -> Format | None:
    """Find the format of a file by its first lines that are JSON objects; None if none knows them."""
    for line in lines:
        first = parse(line)
        if not isinstance(first, Rejection):
            for candidate in FORMATS:
                if candidate.matches(first):
                    return candidate
    return None


def format_of(path: Path) -> Format:
    """Find the format of a file.

    Raises
    ------
    UnknownFormat
        If no reader knows it; the message names those that exist.
    """
    if is_parquet(path):
        raise UnknownFormat(f"{path} is Parquet: it can go into a store, as a table of kernel timings")
    found = detect(islice(numbered(path), SNIFF_LINES))
    if found is None:
        known = ", ".join(one.NAME for one in FORMATS)
        what = "is empty" if path.stat().st_size == 0 else "is of no known format"
        raise UnknownFormat(f"{path} {what}; known formats are {known}")
    return found


def read(path: str | Path) -> Iterator[Record | Rejection]:
    """Stream the records of a file, line by line.

    Raises
    ------
    UnknownFormat
        If no reader knows the file.
    """
    path = Path(path)
    return format_of(path).read(numbered(path), path)


def checked(
    found: Iterable[Record | Rejection], path: Path, context: Mapping[str, Any] | None
) -> Iterator[tuple[Record, Run] | Rejection]:
    """Check each record; one without a source is named after its file and line."""
    for record in found:
        if isinstance(record, Rejection):
            yield record
            continue
        inferred = {"source": path.name, "src_ref": f"{path.name}#L{record.line}"} | dict(record.inferred)
        try:
            yield record, check(Record(record.line, record.text, record.data, inferred), context)
        except BadRecord as error:
            yield Rejection(record.line, str(error))


def read_records(path: str | Path, context: Mapping[str, Any] | None = None) -> ReadResult:
    """Read a file without a store.

    Parameters
    ----------
    path : str or Path
        A benchmark file of any known format.
    context : mapping, optional
        Keys that the file lacks, such as `gpu`, `model`, `tp`.

    Raises
    ------
    UnknownFormat
        If no reader knows the file.
    """
    path = Path(path)
    form = format_of(path)
    result = ReadResult([], [], form.NAME)
    if form.NAME == startup.NAME:
        for start in startups.checked(form.read(numbered(path), path), path, context):
            if isinstance(start, Rejection):
                result.rejected.append(start)
            else:
                result.records.append(start[1].as_dict())
        return result
    for found in checked(form.read(numbered(path), path), path, context):
        if isinstance(found, Rejection):
            result.rejected.append(found)
        else:
            result.records.append(found[1].as_dict())
            result.remarks.extend(found[1].remarks)
    return result
