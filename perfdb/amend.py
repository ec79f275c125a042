"""Stored runs completed later: keys that they lack are filled, and nothing that they say is overwritten."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfdb.absorb import absorb
from perfdb.canonical import judge
from perfdb.choice import choose
from perfdb.connection import LARGE_BYTES, attached, transaction, workspace
from perfdb.errors import ContextRefused, NothingChosen
from perfdb.keys import KEYS, MEASURED
from perfdb.layout import put_runs
from perfdb.record import Alike, Rejection

if TYPE_CHECKING:
    import duckdb


@dataclass
class Amended:
    """What became of the runs that were to be completed.

    Parameters
    ----------
    chosen : int
        Runs that met the condition.
    changed : int
        Those of them that now have a key more.
    incomplete : int
        Those of `changed` that still lack a key.
    missing : dict
        Keys that `changed` runs still lack, with their number.
    rejected : list of Rejection
        Sources of runs that say otherwise, with both values.
    """

    chosen: int = 0
    changed: int = 0
    incomplete: int = 0
    missing: dict[str, int] = field(default_factory=dict)
    rejected: list[Rejection] = field(default_factory=list)


def typed(name: str, text: str) -> Any:
    """Return a value that was typed as text, as its key has it.

    Raises
    ------
    ContextRefused
        If the key is none that can be set, or the text is no such value.
    """
    _must_be_settable(name)
    kind = KEYS[name]
    if kind == "text":
        return text
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        value = None
    wanted = {"int": (int,), "float": (int, float), "bool": (bool,), "json": (dict, list)}[kind]
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind != "bool"):
        said = {"int": "a whole number", "float": "a number", "bool": "true or false", "json": "a JSON value"}
        raise ContextRefused(f"{name}={text}: {name} is {said[kind]}")
    return value


def amend(
    store: Path,
    values: Mapping[str, Any],
    where: str | None = None,
    run_ids: Sequence[str] = (),
    incomplete: bool = False,
    wait_s: float = 30.0,
    alike: Alike | None = None,
) -> Amended:
    """Fill what stored runs lack.

    A run that gains a key is another run by its content: it takes the place of the former one, with its
    sources and flags, and `superseded_runs` says which that was. The values stand in `run_sources.context`.
    To take them back, ingest the files of these runs into a new store: the raw lines are as they were.

    Parameters
    ----------
    store : Path
    values : mapping
        Keys of a run but measured figures, and their values.
    where : str, optional
        A SQL condition on the columns of the view `runs`.
    run_ids : sequence of str
        Run ids, or beginnings of them.
    incomplete : bool
        Only runs that lack a key. Conditions given together must all be met.
    wait_s : float
        How long to wait for another process to let go of the store.
    alike : callable, optional
        Tells of a key and two texts whether they are spellings of one name.

    Raises
    ------
    NothingChosen
        If no condition is given, or no run meets it.
    ContextRefused
        If no values are given, or a key cannot be set.
    QueryRefused
        If the condition is not understood.
    """
    told = {name: value for name, value in values.items() if value is not None}
    if not told:
        raise ContextRefused("nothing to set: name keys and values, such as gpu=h100-sxm tp=4")
    for name in told:
        _must_be_settable(name)
    if not (where or run_ids or incomplete):
        raise NothingChosen(
            "say which runs: by a condition (--where), by their ids, or all --incomplete ones"
        )
    done = Amended()
    large = store.is_file() and store.stat().st_size >= LARGE_BYTES
    with workspace(store if large else None) as connection:
        run = connection.execute
        with attached(connection, store, True, wait_s):
            done.chosen = choose(connection, where, run_ids, incomplete)
            for table, key in (
                ("run_records", "run_id"),
                ("run_sources", "run_id"),
                ("configurations", "config_id"),
            ):
                met = "chosen" if key == "run_id" else "side.run_records"
                run(f"INSERT INTO side.{table} BY NAME FROM store.{table} SEMI JOIN {met} USING ({key})")
        run(
            "CREATE TEMP TABLE wanted AS SELECT run_id, CAST($1 AS JSON) AS told FROM chosen",
            [json.dumps(told)],
        )
        reasons = complete(connection, alike)
        done.rejected = [
            Rejection(line, f"{reference}: {reasons[run_id]}")
            for run_id, line, reference in run(
                "SELECT run_id, line, src_ref FROM run_sources ORDER BY number"
            ).fetchall()
            if run_id in reasons
        ]
        # A run may have become what another chosen one is already.
        left = "SELECT run_id FROM chosen ANTI JOIN completed ON chosen.run_id = completed.by_run_id"
        for table in ("run_sources", "run_records"):
            run(f"DELETE FROM {table} WHERE run_id IN ({left})")
        now = "FROM completed JOIN run_records r ON r.run_id = by_run_id"
        done.changed, done.incomplete = run(
            f"SELECT count(*), count(*) FILTER (status = 'incomplete') {now}"
        ).fetchall()[0]
        done.missing = dict(
            run(f"SELECT unnest(missing) AS key, count(*) {now} GROUP BY key ORDER BY key").fetchall()
        )
        if done.changed:
            with attached(connection, store, False, wait_s), transaction(connection):
                done.rejected += absorb(connection).rejected
    return done


def complete(connection: duckdb.DuckDBPyConnection, alike: Alike | None = None) -> dict[str, str]:
    """Fill runs of the store that is the current schema, a side store, in place.

    Parameters
    ----------
    connection : DuckDBPyConnection
        Has the temporary table `wanted`: `run_id`, and `told`, the keys and values that the run may lack.
    alike : callable, optional
        As `amend` takes it.

    Returns
    -------
    dict
        By run id, why a run stays as it is: a value that contradicts, or one that is none.

    Notes
    -----
    The temporary table `completed` says which run (`run_id`) became which (`by_run_id`).
    """
    run = connection.execute
    keys = ", ".join(f"{key} := {key}" for key in KEYS)
    # Texts are joined, not merged: a merge would drop what is null within a value.
    run(
        f"""
        CREATE OR REPLACE TABLE found AS
        SELECT row_number() OVER () AS line, '' AS text,
            CASE WHEN extra IS NULL OR json_keys(extra) = [] THEN plain
                ELSE left(plain, length(plain) - 1) || ',' || substr(ltrim(extra), 2) END AS data,
            told AS context, CAST(NULL AS JSON) AS inferred, stated, run_id
        FROM (
            SELECT *, CAST(to_json(struct_pack({keys})) AS VARCHAR) AS plain
            FROM run_records JOIN configurations USING (config_id)
        )
        JOIN wanted USING (run_id)
        """
    )
    judge(connection, alike)
    put_runs(connection)
    run(
        """
        CREATE OR REPLACE TEMP TABLE completed AS
        SELECT f.run_id, j.run_id AS by_run_id, f.context AS told
        FROM found f JOIN judged j USING (line) WHERE j.reason IS NULL AND j.run_id != f.run_id
        """
    )
    run(
        """
        UPDATE run_sources AS s SET run_id = c.by_run_id, context = json_merge_patch(coalesce(s.context, '{}'), c.told)
        FROM completed c WHERE s.run_id = c.run_id
        """
    )
    run(
        "INSERT INTO flags SELECT c.by_run_id, f.* EXCLUDE (run_id) FROM flags f JOIN completed c USING (run_id)"
    )
    for table in ("flags", "run_records"):
        run(f"DELETE FROM {table} WHERE run_id IN (SELECT run_id FROM completed)")
    run("DELETE FROM configurations WHERE config_id NOT IN (SELECT config_id FROM run_records)")
    refused = run(
        "SELECT f.run_id, j.reason FROM found f JOIN judged j USING (line) WHERE j.reason IS NOT NULL"
    )
    return {
        run_id: re.sub(r"the file says (.*), the context says ", r"stored is \1, now said is ", reason)
        for run_id, reason in refused.fetchall()
    }


def _must_be_settable(name: str) -> None:
    if name not in KEYS:
        raise ContextRefused(f"{name} is no key of a run: `aicalib db sql 'DESCRIBE runs'` lists them")
    if name in MEASURED:
        raise ContextRefused(f"{name} is a measured figure: it comes from a file, and cannot be set")
