"""Found records made canonical: filled from their context, checked, typed and named by their content, in SQL.

A reader leaves records in a table `found`; `judge` turns them into a table `judged`, one row a record: every
key of `perfdb.keys` in its type, or the reason why the record is no run. The checks run once over all
(record, key, value) entries against a table of rules, so that a million records cost little more than reading.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Final

from perfdb.keys import (
    CONFIGURATION,
    ENGINE_SPELLINGS,
    ENGINES,
    FRACTIONS,
    KEYS,
    LOADS,
    METRICS,
    NAMES,
    POSITIVE,
    PROVENANCE,
    SQL_TYPES,
    VIEW_ONLY,
)

if TYPE_CHECKING:
    import duckdb

    from perfdb.record import Alike

FOUND: Final = {
    "line": "BIGINT",
    "text": "VARCHAR",
    "data": "JSON",
    "context": "JSON",
    "inferred": "JSON",
    "stated": "JSON",
}
"""Columns of `found`: a record as `perfdb.record.Record` has it, and the context given for it."""

_ALL: Final = (*KEYS, *PROVENANCE)
_LONGEST_SHOWN: Final = 80


def judge(connection: duckdb.DuckDBPyConnection, alike: Alike | None = None) -> None:
    """Create the table `judged` from the table `found`.

    Parameters
    ----------
    connection : DuckDBPyConnection
        Its present schema is a store's, and holds `found`.
    alike : callable, optional
        Tells of a key, the file's text and the context's whether they are spellings of one name.

    Notes
    -----
    `judged` has `line`, `line_sha256`, `reason` (null for a run), `run_id`, `config_id`, `status`, `missing`,
    every key, `extra`, `stated`, `context` and the provenance. The table `remarks` (`line`, `flag`, `reason`) says
    which figures were taken as missing.
    """
    told, suggested = (_keys(connection, side) for side in ("context", "inferred"))
    run = connection.execute
    run("CREATE OR REPLACE TEMP TABLE shapes AS SELECT DISTINCT json_keys(data) AS names FROM found")
    names = (
        {name for (name,) in run("SELECT DISTINCT unnest(names) FROM shapes").fetchall()} | told | suggested
    )
    twice = run("SELECT count(*) FROM shapes WHERE len(names) > len(list_distinct(names))").fetchall()[0][0]
    here = [key for key in _ALL if key in names] or ["engine"]  # what no record has costs nothing
    run(
        "CREATE OR REPLACE TEMP VIEW merged AS "
        f"SELECT * EXCLUDE (data), {_filled(sorted(told | suggested))} AS data FROM found"
    )
    run(f"CREATE OR REPLACE TEMP TABLE rules AS {_RULES}")
    run(f"CREATE OR REPLACE TEMP TABLE suspects AS {_suspects(here)}")
    run(f"CREATE OR REPLACE TEMP TABLE odd AS {_ODD}")
    clashing = [key for key in here if key in told]
    if clashing:
        _find_clashes(connection, clashing, alike)
    problems = [*([_TWICE] if twice else []), _WRONG, *([_CLASHES] if clashing else [])]
    run(f"CREATE OR REPLACE TEMP TABLE problems AS {_first(problems)}")
    run(
        """
        CREATE OR REPLACE TEMP TABLE remarks AS
        SELECT line, flag, key || ' is ' || value || ': taken as missing' AS reason FROM odd WHERE flag IS NOT NULL
        """
    )
    run(f"CREATE OR REPLACE TEMP TABLE extras AS {_EXTRAS}{'' if names - set(_ALL) else ' LIMIT 0'}")
    shape = ", ".join(f'"{key}":"{SQL_TYPES[KEYS.get(key, "text")]}"' for key in here)
    absent = (f"CAST(NULL AS {SQL_TYPES[KEYS.get(key, 'text')]}) AS {key}" for key in _ALL if key not in here)
    run(
        f"""
        CREATE OR REPLACE TEMP TABLE judged AS
        SELECT *,
            coalesce(problem, CASE WHEN coalesce({_each(METRICS)}) IS NULL
                THEN 'nothing measured: no latency or throughput above zero' END) AS reason,
            {configuration_identity(here)} AS config_id,
            {run_identity(here)} AS run_id,
            list_filter([{_missing()}], lambda one: one IS NOT NULL) AS missing,
            CASE WHEN missing = [] THEN 'complete' ELSE 'incomplete' END AS status
        FROM (
            SELECT line, line_sha256, context, stated, problem, extra,
                {_each([*(f"{_typed(key)} AS {key}" for key in here), *absent])}
            FROM (
                SELECT line, sha256(text) AS line_sha256, context, stated, from_json(data, '{{{shape}}}') AS d
                FROM merged
            )
            LEFT JOIN problems USING (line)
            LEFT JOIN extras USING (line)
        )
        """
    )


def _keys(connection: duckdb.DuckDBPyConnection, side: str) -> set[str]:
    """Return every key that the contexts, or the inferred objects, of `found` have."""
    rows = connection.execute(
        f"SELECT DISTINCT unnest(json_keys({side})) FROM found WHERE {side} IS NOT NULL"
    )
    return {key for (key,) in rows.fetchall()}


def _filled(given: Iterable[str]) -> str:
    """Return the SQL expression of a record with the keys that it lacks from its context, else as inferred.

    A key that the record has stays as it is, at any depth: merging into it would drop what is null within.
    """
    stated = [
        f"CASE WHEN nullif(json_extract(data, {_quoted(_pointer(key))}), 'null') IS NOT NULL "
        f"THEN {_quoted(json.dumps(key) + ':null')} END"
        for key in given
    ]
    if not stated:
        return "data"
    told = "json_merge_patch(coalesce(inferred, '{}'), coalesce(context, '{}'))"
    return (
        f"json_merge_patch(data, json_merge_patch({told}, '{{' || concat_ws(',', {_each(stated)}) || '}}'))"
    )


def _pointer(key: str) -> str:
    return "/" + key.replace("~", "~0").replace("/", "~1")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def configuration_identity(given: Collection[str] = tuple(KEYS)) -> str:
    """Return the SQL expression of a configuration's identity over the columns of its keys, of those `given`."""
    return _identity(_member(key) for key in CONFIGURATION if key in given)


def run_identity(given: Collection[str] = tuple(KEYS)) -> str:
    """Return the SQL expression of a run's identity over `config_id`, `extra` and its keys, of those `given`."""
    keys = (_member(key) for key in KEYS if key in given and key not in CONFIGURATION)
    extra = "'\"extra\":' || CAST(json_merge_patch('{}', extra) AS VARCHAR)"
    return _identity(["'\"config_id\":\"' || config_id || '\"'", *keys, extra])


def _identity(members: Iterable[str]) -> str:
    """Return the hash of a JSON object of these members.

    Those without a value do not count, so that a later key changes no old identity.
    """
    return f"left(sha256('{{' || concat_ws(',', {_each(['NULL', *members])}) || '}}'), 32)"


def _member(key: str) -> str:
    """Return the member of a JSON object that a column is, null where it has no value."""
    value = f"CAST({key} AS VARCHAR)"
    if key in NAMES:
        value = f"'\"' || fold({key}) || '\"'"
    elif KEYS[key] == "text":
        value = f"CASE WHEN {key} IS NOT NULL THEN CAST(to_json({key}) AS VARCHAR) END"
    elif KEYS[key] == "json":
        value = f"CAST(json_merge_patch('{{}}', {key}) AS VARCHAR)"
    return f"'\"{key}\":' || {value}"


def same(key: str, one: str, other: str) -> str:
    """Return the SQL condition that two values of a key, of its type, mean the same.

    A model's owner counts only where both sides name one.
    """
    if key == "model":
        short: Callable[[str], str] = "regexp_replace({}, '^.*/', '')".format
        return (
            f"CASE WHEN contains({one}, '/') = contains({other}, '/') THEN fold({one}) = fold({other}) "
            f"ELSE fold({short(one)}) = fold({short(other)}) END"
        )
    return f"fold({one}) = fold({other})" if key in NAMES else f"{one} = {other}"


def _each(expressions: Iterable[str]) -> str:
    return ", ".join(expressions)


_RULES = "SELECT * FROM (VALUES " + _each(
    f"('{key}', '{KEYS.get(key, 'text')}', {key in METRICS}, {key in POSITIVE}, {key in FRACTIONS})" for key in _ALL
) + ") AS rules(key, kind, metric, positive, fraction)"  # fmt: skip

_NUMBER = """CASE WHEN type IN ('UBIGINT', 'BIGINT', 'HUGEINT', 'UHUGEINT', 'DOUBLE')
    THEN TRY_CAST(value AS DOUBLE) END"""

_PROBLEM = f"""CASE
    WHEN kind = 'text' AND type != 'VARCHAR' THEN 'not a text'
    WHEN kind = 'bool' AND type != 'BOOLEAN' THEN 'neither true nor false'
    WHEN key = 'request_rate' AND lower(value ->> '$') IN ('inf', 'infinity') THEN NULL
    WHEN kind IN ('int', 'float') AND number IS NULL THEN 'not a number'
    WHEN metric AND isfinite(number) AND number < 0 THEN 'a measured figure cannot be negative'
    WHEN kind IN ('int', 'float') AND NOT metric AND isinf(number) THEN 'not a finite number'
    WHEN positive AND number <= 0 THEN 'must be above zero'
    WHEN fraction AND NOT isnan(number) AND number NOT BETWEEN 0 AND 1 THEN 'must lie between 0 and 1'
    WHEN kind = 'int' AND isfinite(number) AND TRY_CAST(number AS BIGINT) IS DISTINCT FROM number
        THEN 'not a whole number'
    WHEN key = 'engine' AND fold(value ->> '$') NOT IN {(*ENGINES, *ENGINE_SPELLINGS, "")}
        THEN 'known are {", ".join(ENGINES)}'
    WHEN key = 'load' AND trim(value ->> '$') NOT IN {(*LOADS, "")} THEN 'known are {", ".join(LOADS)}'
END"""

_FLAG = """CASE
    WHEN isnan(number) OR metric AND NOT isfinite(number) THEN 'not_finite'
    WHEN metric AND number = 0 THEN 'zero_metric'
END"""

_ODD = f"""
SELECT * FROM (
    SELECT line, key, value, {_PROBLEM} AS problem, {_FLAG} AS flag
    FROM (
        SELECT line, key, value, type, {_NUMBER} AS number, kind, metric, positive, fraction
        FROM (
            SELECT line, entry.key, entry.value, entry.type
            FROM (FROM merged SEMI JOIN suspects USING (line)) AS doubtful, json_each(doubtful.data) AS entry
        )
        JOIN rules USING (key)
        WHERE type != 'NULL'
    )
)
WHERE problem IS NOT NULL OR flag IS NOT NULL
"""
"""The entries that need a word: what is wrong, what is taken as missing."""

_EXTRAS = f"""
SELECT line, to_json(map(list(key ORDER BY key), list(value ORDER BY key))) AS extra
FROM (
    SELECT DISTINCT ON (line, key) line, key,
        json_extract(data, '/' || replace(replace(key, '~', '~0'), '/', '~1')) AS value
    FROM (
        SELECT line, key, data
        FROM (SELECT line, unnest(json_keys(data)) AS key FROM merged)
        ANTI JOIN rules USING (key)
        JOIN merged USING (line)
        WHERE key NOT IN {VIEW_ONLY}
    )
)
WHERE json_type(value) != 'NULL'
GROUP BY line
"""
"""The keys that no column has, one object a record, in the order of their names."""


def _plain(key: str) -> str:
    """Return the condition that the JSON value of a key, as text, surely needs no word; null where there is none."""
    kind, value = KEYS.get(key, "text"), f"CAST(d.{key} AS VARCHAR)"
    if kind == "json":
        return "true"
    if kind == "text":
        names = {"engine": ENGINES, "load": tuple(LOADS)}.get(key)
        return f"{value} IN {tuple(map(json.dumps, names))}" if names else f"starts_with({value}, '\"')"
    if kind == "bool":
        return f"{value} IN ('true', 'false')"
    number = f"TRY_CAST({value} AS DOUBLE)"
    least = "> 0" if key in METRICS or key in POSITIVE else ">= 0"
    most = "1" if key in FRACTIONS else "1e15"
    whole = f" AND floor({number}) = {number}" if kind == "int" else ""
    return f"{value} IS NULL OR coalesce({number} {least} AND {number} <= {most}{whole}, false)"


def _suspects(given: Iterable[str]) -> str:
    """Return the query of the records to look at entry by entry: a wide and quick test spares all others that."""
    shape = _each(f'"{key}":"JSON"' for key in given)
    plain = " AND ".join(f"coalesce({_plain(key)}, true)" for key in given)
    return f"""
    SELECT line FROM (SELECT line, from_json(data, '{{{shape}}}') AS d FROM merged) WHERE NOT ({plain or "true"})"""


def _first(problems: Iterable[str]) -> str:
    """Return the query of one problem of each record that has any: of the first query that names one."""
    placed = " UNION ALL ".join(
        f"SELECT *, {place} AS place FROM ({one})" for place, one in enumerate(problems)
    )
    return f"SELECT line, first(problem ORDER BY place, problem) AS problem FROM ({placed}) GROUP BY line"


_TWICE = """
SELECT line, 'key ' || list_filter(names, lambda one, place: list_position(names, one) < place)[1]
    || ' stands twice' AS problem
FROM (SELECT line, json_keys(data) AS names FROM found)
WHERE len(names) > len(list_distinct(names))"""

_WRONG = f"""
SELECT line, key || ' is ' || left(value, {_LONGEST_SHOWN}) || ': ' || problem AS problem
FROM odd WHERE problem IS NOT NULL"""


_CLASHES = """
SELECT line, key || ': the file says ' || one || ', the context says ' || other AS problem FROM clashes"""


def _find_clashes(connection: duckdb.DuckDBPyConnection, keys: Iterable[str], alike: Alike | None) -> None:
    """Create the table `clashes`: records whose file and context say different things of a key."""
    run = connection.execute
    run(f"CREATE OR REPLACE TEMP TABLE clashes AS {' UNION ALL '.join(map(_clash, keys))}")
    if alike is None:
        return
    pairs = run("SELECT DISTINCT key, one ->> '$', other ->> '$' FROM clashes").fetchall()
    for pair in pairs:
        if alike(*pair):
            run("DELETE FROM clashes WHERE key = $1 AND one ->> '$' = $2 AND other ->> '$' = $3", list(pair))


def _clash(key: str) -> str:
    """Return the query of the records whose file and context say different things of a key."""
    texts = key in NAMES or key == "model"
    equal = same(key, "(one ->> '$')", "(other ->> '$')") if texts else _EQUAL
    return f"""
SELECT line, '{key}' AS key, one, other
FROM (SELECT line, json_extract(data, '/{key}') AS one, json_extract(context, '/{key}') AS other FROM found)
WHERE nullif(one, 'null') IS NOT NULL AND nullif(other, 'null') IS NOT NULL AND NOT ({equal})"""


_EQUAL = "coalesce(TRY_CAST(one AS DOUBLE) = TRY_CAST(other AS DOUBLE), one = other)"


def _typed(key: str) -> str:
    """Return the value of a key from the parsed struct `d`, null where it says nothing."""
    kind, value = KEYS.get(key, "text"), f"d.{key}"
    if key == "engine":
        spellings = " ".join(f"WHEN '{one}' THEN '{other}'" for one, other in ENGINE_SPELLINGS.items())
        return f"CASE fold({value}) {spellings} ELSE nullif(fold({value}), '') END"
    if kind == "text":
        trimmed = f"trim({value}, chr(32) || chr(9) || chr(10) || chr(13))"
        bare = f"ascii({value}) > 32 AND ascii(right({value}, 1)) > 32"  # trimming all of them takes four times as long
        return f"nullif(CASE WHEN {bare} THEN {value} ELSE {trimmed} END, '')"
    if kind == "json":
        return f"nullif({value}, 'null')"
    if kind == "float":
        return f"CASE WHEN isfinite({value}){f' AND {value} > 0' if key in METRICS else ''} THEN {value} END"
    return value


def _missing() -> str:
    """Return the keys without which a run cannot be compared with a prediction, each null where it is there."""
    absent = [f"CASE WHEN {key} IS NULL THEN '{key}' END" for key in ("model", "gpu", "engine")]
    absent += [
        f"CASE WHEN coalesce({key}, mean_{key}_actual) IS NULL THEN '{key}' END" for key in ("isl", "osl")
    ]
    needed = " ".join(f"WHEN load = '{load}' AND {key} IS NULL THEN '{key}'" for load, key in LOADS.items())
    return _each([*absent, f"CASE WHEN load IS NULL THEN 'load' {needed} END"])
