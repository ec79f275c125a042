"""The measurement store: one DuckDB file of runs, their raw lines, sources, flags, and fitted profiles.

No method holds the file longer than it works, so that several processes can share it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from perfdb import flags, quality
from perfdb.absorb import IngestReport
from perfdb.amend import Amended, amend
from perfdb.connection import is_broken, opened, transaction
from perfdb.contents import contents
from perfdb.errors import (
    ProfileExists,
    QueryRefused,
    ReadOnlyStore,
    UnknownProfile,
)
from perfdb.exchange import import_folder, merge
from perfdb.export import export
from perfdb.flags import FlagsApplied
from perfdb.folder import Manifest
from perfdb.ingest import ingest
from perfdb.keys import KEYS
from perfdb.lineage import put_predictions, put_profile_runs
from perfdb.query import hold_to_reading, plain, told_apart
from perfdb.record import Alike

if TYPE_CHECKING:
    import duckdb
    import pandas as pd


class Store:
    """A measurement store, open until it is closed or its `with` block ends.

    Parameters
    ----------
    path : str or Path
        The DuckDB file; made on first use unless `read_only`.
    read_only : bool
        Open for reading only; several processes may do so at once.
    wait_s : float
        How long to wait for another process to let go of the file.

    Raises
    ------
    NotAStore
        If the file is not a store, or is not there and `read_only`.
    NewerSchema, OlderSchema
        If its schema is not the one of this version.
    StoreBusy
        If another process still holds it after `wait_s`.
    ReadOnlyStore
        If the file cannot be written and `read_only` was not asked for.
    """

    def __init__(self, path: str | Path, read_only: bool = False, wait_s: float = 30.0) -> None:
        self.path = Path(path)
        self.read_only = read_only
        self.wait_s = wait_s
        with self._reading() if read_only else self._opened(False):
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Do nothing: the file is open only while a method works. Here so that `with` reads as it should."""

    def ingest(
        self,
        path: str | Path,
        context: Mapping[str, Any] | None = None,
        progress: Callable[[int], object] | None = None,
        alike: Alike | None = None,
    ) -> IngestReport:
        """Take a benchmark file in, whole or not at all.

        Parameters
        ----------
        path : str or Path
            A file of any known format.
        context : mapping, optional
            Keys that the file lacks (`gpu`, `model`, `tp`, ...). They fill what is missing, before those of a
            sidecar; a line that says otherwise is rejected with both values. A line stored as incomplete is
            completed by a later ingest with more context.
        progress : callable, optional
            Called with the number of lines read so far.
        alike : callable, optional
            Tells of a key, the file's text and the context's whether they are spellings of one name: the store
            knows no aliases. The file's spelling stays.

        Raises
        ------
        UnknownFormat
            If no reader knows the file.
        ReadOnlyStore
            If the store was opened for reading only.
        """
        self._must_write()
        return ingest(Path(path), self.path, self.wait_s, context, progress, alike)

    def import_folder(self, folder: str | Path) -> IngestReport:
        """Take an export in; see `merge`.

        Raises
        ------
        NotAnExport
            If the folder is no export, is of a newer version, lacks something, or was altered.
        """
        self._must_write()
        return import_folder(Path(folder), self.path, self.wait_s)

    def merge(self, other: str | Path) -> IngestReport:
        """Take another store, or an export of one, in, by content: the same run from two people is one run.

        Of two records of one line the fuller stays; what contradicts is rejected with both values. Merging
        twice changes nothing, and the other file is only read. Raises as `perfdb.exchange.merge` says.
        """
        self._must_write()
        return merge(Path(other), self.path, self.wait_s)

    def export(
        self, folder: str | Path, form: str = "parquet", where: str | None = None, overwrite: bool = False
    ) -> Manifest:
        """Write the store into a folder, without loss; see `perfdb.export.export`.

        Parameters
        ----------
        folder : str or Path
            Not there yet, or empty, or with `overwrite` an older export.
        form : str
            "parquet", "jsonl", or "aiconfigurator" for the kernel timings alone.
        where : str, optional
            A SQL condition on the view `runs`: only runs that meet it, and what belongs to them.
        """
        return export(self.path, Path(folder), form, where, overwrite, self.wait_s)

    def set(
        self,
        values: Mapping[str, Any],
        where: str | None = None,
        run_ids: Sequence[str] = (),
        incomplete: bool = False,
        alike: Alike | None = None,
    ) -> Amended:
        """Fill keys that stored runs lack; nothing is overwritten. See `perfdb.amend.amend`.

        Parameters
        ----------
        values : mapping
            Keys of a run but measured figures. A run that says otherwise is rejected with both values.
        where : str, optional
            A SQL condition on the view `runs`.
        run_ids : sequence of str
            Run ids, or beginnings of them.
        incomplete : bool
            Only runs that lack a key.
        alike : callable, optional
            As `ingest` takes it.

        Raises
        ------
        NothingChosen
            If no condition is given, or no run meets all of them.
        """
        self._must_write()
        return amend(self.path, values, where, run_ids, incomplete, self.wait_s, alike)

    def flag(self, rows: Iterable[Mapping[str, str]], origin: str = "user") -> int:
        """Set quality flags on runs; one that is already set is left as it is.

        Parameters
        ----------
        rows : iterable of mapping
            Each with `run_id`, `flag` and `reason`.
        origin : str
            Who says so.

        Returns
        -------
        int
            Number of flags newly set. Runs that are not stored are passed over.
        """
        with self._writing() as connection:
            return flags.add(connection, [dict(row) | {"origin": origin} for row in rows])

    def refresh_flags(self) -> dict[str, int]:
        """Compute the flags of every quality rule anew; return the number of runs under each."""
        with self._writing() as connection:
            return quality.refresh(connection)

    def judge(self, run_ids: Iterable[str]) -> dict[str, list[str]]:
        """Compute the flags of the rules that look at one run at a time, of some runs; return them by run."""
        with self._writing() as connection:
            return quality.judge(connection, run_ids)

    def apply_flags_file(self, path: str | Path) -> FlagsApplied:
        """Set the flags that a file names, in place of those the same file set before.

        Each line is a JSON object with `source`, `src_ref`, `flag`, `reason` and, where several runs share
        the reference, `match`: keys and values that the run must have.

        Raises
        ------
        FlagsFileError
            If a line is not such an object; the message has its number.
        """
        path = Path(path)
        entries = list(flags.read_entries(path))
        with self._writing() as connection:
            return flags.replace(connection, path.name, entries)

    def query(self, sql: str) -> list[dict[str, Any]]:
        """Answer one SQL query; the view `runs` has one row a run.

        Values are what JSON knows: times are ISO texts, JSON columns are parsed. Of several columns of one name
        the later ones are numbered: `a`, `a_1`.

        Raises
        ------
        QueryRefused
            If the statement would write, is not one statement, or is not understood.
        """
        with self._selected(sql) as cursor:
            names = told_apart([column[0] for column in cursor.description])
            parsed = [str(column[1]) == "JSON" for column in cursor.description]
            rows = cursor.fetchall()
        return [
            {
                name: json.loads(value) if is_json and value is not None else plain(value)
                for name, value, is_json in zip(names, row, parsed, strict=True)
            }
            for row in rows
        ]

    def frame(self, where: str | None = None) -> pd.DataFrame:
        """Return the view `runs` as a data frame, in the order in which runs came in.

        Parameters
        ----------
        where : str, optional
            A SQL condition on its columns.

        Returns
        -------
        pandas.DataFrame
            Numbers are float64 with NaN where unknown, yes-or-no keys are `boolean` with NA, JSON columns
            (`extra`, `disagg_layout`, `flags_variants`) are texts, `sources` and `flags` are arrays of texts.
        """
        condition = f"WHERE {where}" if where else ""
        first = "(SELECT min(number) FROM run_sources s WHERE s.run_id = runs.run_id)"
        with self._selected(f"SELECT * FROM runs {condition} ORDER BY {first}") as cursor:
            frame = cursor.df()
        dtypes = {"int": "float64", "float": "float64", "bool": "boolean"}
        return frame.astype({name: dtypes[kind] for name, kind in KEYS.items() if kind in dtypes})

    def kernel_tables(self) -> list[dict[str, Any]]:
        """List what is stored of kernel runs: `table_name`, `accelerator`, `engine`, `engine_version`, `rows`."""
        return self.query(
            "SELECT table_name, accelerator, engine, engine_version, count(*) AS rows FROM kernel_runs "
            "GROUP BY ALL ORDER BY ALL"
        )

    def kernel_runs(self, table_name: str, accelerator: str, engine: str, version: str) -> pd.DataFrame:
        """Return the kernel runs of one table in the order of their files.

        Parameters
        ----------
        table_name, accelerator, engine, version : str
            As `kernel_tables` lists them.

        Returns
        -------
        pandas.DataFrame
            `table_name`, `accelerator`, `engine_version`, `op_name`, `kernel_source`, every shape column of the
            table under its own name, and `latency_ms`.
        """
        chosen = "FROM kernel_runs WHERE table_name = $1 AND accelerator = $2 AND engine = $3 AND engine_version = $4"
        values = [table_name, accelerator, engine, version]
        with self._reading() as connection:
            structure = connection.execute(f"SELECT json_group_structure(shape) {chosen}", values).fetchall()[
                0
            ][0]
            return connection.execute(
                "SELECT table_name, accelerator, engine_version, op_name, kernel_source, latency_ms, "
                f"unnest(json_transform(shape, '{structure}')) {chosen} ORDER BY file_sha256, rowid",
                values,
            ).df()

    def info(self) -> dict[str, Any]:
        """Describe the store: schema, size, files, runs by status, engine and source, flags, profiles, start-ups."""
        with self._reading() as connection:
            found = contents(connection, self.path)
        return found | {"profiles": self.profiles()}

    def save_profile(
        self, name: str, version: str | int, json_text: str, run_ids: Iterable[str] = ()
    ) -> None:
        """Keep a fitted profile. A version never changes: other content needs another version.

        Parameters
        ----------
        name : str
        version : str or int
        json_text : str
        run_ids : iterable of str
            Runs that it was fitted on.

        Raises
        ------
        ProfileExists
            If that version is stored with other content.
        """
        with self._writing() as connection:
            stored = connection.execute(
                "SELECT json FROM profiles WHERE name = $1 AND version = $2", [name, str(version)]
            ).fetchone()
            if stored and stored[0] != json_text:
                raise ProfileExists(
                    f"profile {name}@{version} is stored with other content: give it another version"
                )
            if not stored:
                now = datetime.now(UTC).replace(tzinfo=None)
                connection.execute(
                    "INSERT INTO profiles VALUES ($1, $2, $3, $4)", [name, str(version), json_text, now]
                )
            put_profile_runs(connection, name, version, run_ids)

    def save_prediction(self, document: Mapping[str, Any]) -> str:
        """Keep a prediction, a JSON document with the key `profile`, once; return its id."""
        text = json.dumps(document, sort_keys=True, default=str)
        prediction_id = sha256(text.encode()).hexdigest()[:16]
        with self._writing() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO predictions VALUES ($1, $2, $3, $4)",
                [prediction_id, str(document["profile"]), text, datetime.now(UTC).replace(tzinfo=None)],
            )
        return prediction_id

    def save_predictions(self, profile: str, rows: pd.DataFrame | Iterable[Mapping[str, Any]]) -> int:
        """Keep what a profile (NAME@VERSION) predicts of stored runs; see `perfdb.lineage.put_predictions`.

        Returns
        -------
        int
            Number of figures kept. Runs that are not stored are passed over.

        Raises
        ------
        PredictionsRefused
            If a column lacks, a metric is none that is kept, or a figure is given twice.
        """
        with self._writing() as connection:
            return put_predictions(connection, profile, rows)

    def load_profile(self, name: str, version: str | int | None = None) -> str:
        """Return the JSON text of a profile, the newest where no version is named.

        Raises
        ------
        UnknownProfile
            If there is none; the message names those that exist.
        """
        rows = self._rows(
            "SELECT json FROM profiles WHERE name = $1 AND ($2 IS NULL OR version = $2) "
            "ORDER BY created_at DESC",
            [name, None if version is None else str(version)],
        )
        if not rows:
            wanted = name if version is None else f"{name}@{version}"
            known = ", ".join(f"{one['name']}@{one['version']}" for one in self.profiles()) or "none"
            raise UnknownProfile(f"no profile {wanted} in {self.path}; it has {known}")
        return str(rows[0][0])

    def profiles(self) -> list[dict[str, Any]]:
        """List the stored profiles: `name`, `version`, `created_at`, oldest first."""
        rows = self._rows("SELECT name, version, created_at FROM profiles ORDER BY created_at, name")
        return [dict(zip(("name", "version", "created_at"), map(plain, row), strict=True)) for row in rows]

    @contextmanager
    def _selected(self, sql: str) -> Iterator[duckdb.DuckDBPyConnection]:
        """Answer a query in a transaction that cannot write."""
        import duckdb

        hold_to_reading(sql)
        with self._reading() as connection:
            try:
                yield connection.execute(sql)
            except duckdb.Error as error:
                if is_broken(error):
                    raise
                raise QueryRefused(str(error)) from error

    def _rows(self, sql: str, values: list[Any] | None = None) -> list[tuple[Any, ...]]:
        with self._reading() as connection:
            return connection.execute(sql, values).fetchall()

    def _reading(self) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        return self._opened(True)

    def _opened(self, read_only: bool) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        return opened(self.path, read_only, self.wait_s)

    @contextmanager
    def _writing(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Hold one transaction: all of it, or nothing."""
        self._must_write()
        with self._opened(False) as connection, transaction(connection):
            yield connection

    def _must_write(self) -> None:
        if self.read_only:
            raise ReadOnlyStore(f"{self.path} was opened for reading only")
