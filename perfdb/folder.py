"""An export as a folder: one file or subfolder a table, and a manifest that says what must be in it.

Each table has a checksum over its content, the same whichever the form of the files: the sum of 60 bits of the
SHA-256 of every row as JSON. So a folder that lacks a file, has one too many or was altered is known as such.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from perfdb.connection import literal
from perfdb.errors import NotAnExport

if TYPE_CHECKING:
    import duckdb

Form = Literal["parquet", "jsonl"]

FORMAT: Final = "perfdb-export"
FORMAT_VERSION: Final = 1
MANIFEST: Final = "manifest.json"
RUNS: Final = "run_records"
"""The table that an export calls `runs`: it holds every column of the view of that name."""
RAW: Final = "raw_lines"

_NAMES: Final = {RUNS: "runs"}
_RAW_GROUP_ROWS: Final = 2048
"""Rows of a Parquet group of raw lines, each of which may be large."""
_LONGEST_VALUE_BYTES: Final = 200
"""Length of a value as a folder's name, most file systems allowing 255 with `gpu=` before it."""
_LEAST_LINE_BYTES: Final = 2**20


@dataclass(frozen=True)
class Manifest:
    """What an export says of itself.

    Parameters
    ----------
    form : str
        "parquet", "jsonl", or "aiconfigurator" for tables of kernel timings alone.
    schema : list of str
        Schema steps of the store.
    tables : dict
        Of each table its `rows` and the `checksum` of its content.
    where : str or None
        The condition that the runs met, where not all were exported.
    lost : dict
        Of each table of a damaged store that could not be read whole, the number of rows that are missing.
    created_by, created_at : str
        Version of the program, and time in UTC.
    """

    form: str
    schema: list[str]
    tables: dict[str, dict[str, Any]]
    where: str | None = None
    lost: dict[str, int] = field(default_factory=dict)
    created_by: str = ""
    created_at: str = ""
    format: str = FORMAT
    format_version: int = FORMAT_VERSION

    def write(self, folder: Path) -> None:
        """Write the manifest into a folder."""
        (folder / MANIFEST).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of a folder.

        Raises
        ------
        NotAnExport
            If there is none, or one of a newer version or of something else.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise NotAnExport(f"{folder} is no export: it has no {MANIFEST}")
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(found, Mapping) or found.get("format") != FORMAT:
                raise NotAnExport(f"{path} is not that of an export: its format is not {FORMAT}")
            version = int(found["format_version"])
            if version > FORMAT_VERSION:
                raise NotAnExport(
                    f"{folder} was written by a newer version (format version {version}, this one reads up to "
                    f"{FORMAT_VERSION}): upgrade this package"
                )
            manifest = cls(**found)
            for facts in manifest.tables.values():
                int(facts["rows"]), str(facts["checksum"])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise NotAnExport(f"{path} is damaged: {type(error).__name__}: {error}") from error
        return manifest


def summed(connection: duckdb.DuckDBPyConnection, query: str) -> dict[str, Any]:
    """Return the number of rows that a query has, and the checksum of their content."""
    rows, checksum = connection.execute(
        f"""
        SELECT count(*), coalesce(sum(CAST('0x' || left(sha256(CAST(to_json(row) AS VARCHAR)), 15) AS BIGINT)), 0)
        FROM ({query}) AS row
        """
    ).fetchall()[0]
    return {"rows": rows, "checksum": f"{checksum:x}"}


def write_table(
    connection: duckdb.DuckDBPyConnection,
    folder: Path,
    form: Form,
    table: str,
    columns: Mapping[str, str],
    query: str,
    partitioned: bool = False,
) -> None:
    """Write the rows of a query as the file, or the subfolder, of a table.

    Parameters
    ----------
    connection : DuckDBPyConnection
    folder : Path
        The export.
    form : str
    table : str
    columns : mapping
        Columns of the table and their types.
    query : str
        Has these columns, and may have more.
    partitioned : bool
        Write Parquet in hive folders by the columns `engine` and `gpu` of the query.
    """
    name = _NAMES.get(table, table)
    if form == "jsonl":
        # In the runs format JSON stands as it is; elsewhere it is a text, which keeps its every character.
        texts = [column for column, kind in columns.items() if kind == "JSON" and table != RUNS]
        replaced = ", ".join(f"CAST({column} AS VARCHAR) AS {column}" for column in texts)
        query = f"SELECT * {f'REPLACE ({replaced})' if texts else ''} FROM ({query})"
        target, options = folder / f"{name}.jsonl", "FORMAT json"
    else:
        options = "FORMAT parquet, COMPRESSION zstd"
        if table == RAW:
            options += f", ROW_GROUP_SIZE {_RAW_GROUP_ROWS}"
        target = folder / f"{name}.parquet"
        if partitioned:
            query = f"SELECT * REPLACE ({_short('engine')}, {_short('gpu')}) FROM ({query})"
            target, options = folder / name, f"{options}, PARTITION_BY (engine, gpu)"
    connection.execute(f"COPY ({query}) TO {literal(str(target))} ({options})")


def _short(column: str) -> str:
    """Return a value that a folder can be called by: the hash of one that is too long."""
    return (
        f"CASE WHEN length(url_encode({column})) > {_LONGEST_VALUE_BYTES} THEN left(sha256({column}), 16) "
        f"ELSE {column} END AS {column}"
    )


def fill_table(
    connection: duckdb.DuckDBPyConnection, folder: Path, form: str, table: str, columns: Mapping[str, str]
) -> None:
    """Insert what an export has of a table into the table of that name in the current schema.

    Raises
    ------
    NotAnExport
        If the files cannot be read, or hold no such rows.
    """
    import duckdb

    files = _files(folder, form, table)
    if not files:
        return
    paths = "[" + ", ".join(literal(_escaped(file)) for file in files) + "]"
    if form == "jsonl":
        kinds = {
            column: "VARCHAR" if kind == "JSON" and table != RUNS else kind
            for column, kind in columns.items()
        }
        shape = ", ".join(f"{column}: '{kind}'" for column, kind in kinds.items())
        reader = (
            f"read_json({paths}, format = 'newline_delimited', columns = {{{shape}}}, "
            f"maximum_object_size = {max(_LEAST_LINE_BYTES, *map(_longest_line, files))})"
        )
    else:
        reader = f"read_parquet({paths}, hive_partitioning = false, union_by_name = true)"
    try:
        connection.execute(f"INSERT INTO {table} BY NAME SELECT {', '.join(columns)} FROM {reader}")
    except (duckdb.OutOfMemoryException, duckdb.InterruptException):
        raise
    except duckdb.Error as error:
        if "space" in str(error):
            raise
        raise NotAnExport(
            f"{folder} is damaged or was altered: {table} cannot be read: {str(error).splitlines()[0]}"
        ) from error


def _files(folder: Path, form: str, table: str) -> list[Path]:
    name = _NAMES.get(table, table)
    if form == "jsonl":
        return [path for path in [folder / f"{name}.jsonl"] if path.is_file()]
    return [path for path in [folder / f"{name}.parquet"] if path.is_file()] + sorted(
        (folder / name).rglob("*.parquet")
    )


def _longest_line(path: Path) -> int:
    with path.open("rb") as file:
        return max(map(len, file), default=0) + 1


def _escaped(path: Path) -> str:
    """Return a path in which DuckDB sees no pattern."""
    return "".join(f"[{one}]" if one in "*?[" else one for one in str(path))
