"""Runs chosen by an SQL condition, by the start of their id, or because they are incomplete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from perfdb.errors import NothingChosen, QueryRefused

if TYPE_CHECKING:
    import duckdb


def choose(
    connection: duckdb.DuckDBPyConnection,
    where: str | None = None,
    run_ids: Sequence[str] = (),
    incomplete: bool = False,
) -> int:
    """Create the temporary table `chosen` with the `run_id` of every run that meets all that is given.

    Parameters
    ----------
    connection : DuckDBPyConnection
        A store is its current schema.
    where : str, optional
        A SQL condition on the columns of the view `runs`.
    run_ids : sequence of str
        Run ids, or beginnings that only one run has.
    incomplete : bool
        Only runs that lack a key.

    Returns
    -------
    int
        Number of runs chosen.

    Raises
    ------
    NothingChosen
        If no run meets all of it, or a beginning of an id is that of no run or of several.
    QueryRefused
        If the condition is not one SQL condition.
    """
    import duckdb

    conditions = ["status = 'incomplete'"] if incomplete else []
    if run_ids:
        found = ", ".join(f"'{_whole(connection, start)}'" for start in run_ids)
        conditions.append(f"run_id IN ({found})")
    # The line end closes a comment, and the inner query keeps an OR from reaching the other conditions.
    query = (
        f"SELECT run_id FROM (FROM runs WHERE {where or 'true'}\n) WHERE {' AND '.join(conditions) or 'true'}"
    )
    try:
        statements = duckdb.extract_statements(query)
        if len(statements) != 1:
            raise QueryRefused(f"not one condition: {where}")
        count = connection.execute(f"CREATE OR REPLACE TEMP TABLE chosen AS {query}").fetchall()[0][0]
    except (duckdb.ProgrammingError, duckdb.DataError) as error:
        raise QueryRefused(f"the condition {where!r} is not understood: {error}") from error
    if not count:
        told = " and ".join([*([where] if where else []), *conditions])
        raise NothingChosen(
            f"no run meets {told or 'the condition: there are none'}: "
            "`aicalib db sql 'DESCRIBE runs'` lists the columns to ask for"
        )
    return int(count)


def _whole(connection: duckdb.DuckDBPyConnection, start: str) -> str:
    """Return the id of the one run whose id starts so."""
    rows = connection.execute(
        "SELECT run_id FROM run_records WHERE starts_with(run_id, lower($1)) ORDER BY run_id LIMIT 3", [start]
    ).fetchall()
    if len(rows) != 1:
        many = ", ".join(run_id for (run_id,) in rows)
        raise NothingChosen(
            f"run {start}: several ids start so ({many}, ...): give more of it"
            if rows
            else f"run {start}: no stored id starts so"
        )
    return str(rows[0][0])
