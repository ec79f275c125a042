"""One SQL statement that only reads, and its answer as JSON knows values."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from perfdb.errors import QueryRefused


def hold_to_reading(sql: str) -> None:
    """Let one statement that only reads pass.

    Raises
    ------
    QueryRefused
        If the statement would write, is not one statement, or is not understood.
    """
    import duckdb

    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise QueryRefused(f"not understood: {error}") from error
    readers = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
    if len(statements) != 1 or statements[0].type not in readers:
        what = ", ".join(statement.type.name for statement in statements) or "nothing"
        raise QueryRefused(f"one statement that only reads is answered (SELECT, WITH, DESCRIBE), not {what}")


def told_apart(names: Sequence[str]) -> list[str]:
    """Return the names, with a number behind those that stand before, so that no column hides another."""
    found: list[str] = []
    for name in names:
        numbered = (f"{name}_{number}" for number in itertools.count(1))
        found.append(next(each for each in itertools.chain([name], numbered) if each not in found))
    return found


def plain(value: Any) -> Any:
    """Turn what the database returns into what JSON knows."""
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (str, int, float)) or value is None:
        return value
    return str(value)
