"""When each engine version was the newest release: versions become ages in months.

`releases.csv` holds, for each stable version, the first day on a grid of ten days on which it was the
newest one on the Python package index (2024-01 to 2026-11). A version that is not in the table takes the
date of the next lower one that is.
"""

from __future__ import annotations

import csv
import re
from datetime import date
from functools import cache
from importlib.resources import files

from aicalib.errors import InvalidValue, UnknownName
from aicalib.physics.system import ENGINES

EPOCH = date(2024, 1, 1)
"""Months are counted from here."""

_NUMBER = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?(?:\.?(?:post)(\d+))?")


def version_key(version: str) -> tuple[int, int, int, int] | None:
    """Read a version as four numbers (major, minor, patch, post), or None where it has no such form.

    Examples
    --------
    >>> version_key("0.4.6.post5")
    (0, 4, 6, 5)
    >>> version_key("nightly-dev") is None
    True
    """
    match = _NUMBER.match(version.strip().lstrip("v"))
    if match is None or version.startswith("0.0.0"):
        return None
    major, minor, patch, post = match.groups()
    return int(major), int(minor), int(patch or 0), int(post or 0)


@cache
def _releases(engine: str) -> list[tuple[tuple[int, int, int, int], str, date]]:
    if engine not in ENGINES:
        raise UnknownName("engine", engine, ENGINES)
    text = files("aicalib.engines").joinpath("releases.csv").read_text()
    rows = [row for row in csv.DictReader(text.splitlines()) if row["engine"] == engine]
    keyed = []
    for row in rows:
        key = version_key(row["version"])
        assert key is not None, row
        keyed.append((key, row["version"], date.fromisoformat(row["newest_on"])))
    return sorted(keyed)


def newest_version(engine: str) -> str:
    """Return the newest version that the table knows.

    Raises
    ------
    UnknownName
        For an engine that is not one of `ENGINES`.
    """
    return _releases(engine)[-1][1]


def is_newer(version: str, other: str) -> bool:
    """Return whether the first of two versions is above the second; one without a number never is.

    Examples
    --------
    >>> is_newer("0.10.0", "0.9.2")
    True
    >>> is_newer("main", "0.9.2")
    False
    """
    first, second = version_key(version), version_key(other)
    return first is not None and second is not None and first > second


def months(day: date) -> float:
    """Return the months from `EPOCH` to a day (months of 30.44 days)."""
    return (day - EPOCH).days / 30.44


def release_month(engine: str, version: str | None) -> float | None:
    """Return the months from `EPOCH` at which a version was the newest.

    Parameters
    ----------
    engine : str
        One of `ENGINES`.
    version : str or None
        For example "0.5.9"; suffixes such as "rc3" or "+cu129" are passed over.

    Returns
    -------
    float or None
        Months, or None where the version is not given or not a number (a nightly, a branch).

    Raises
    ------
    UnknownName
        For an engine that is not one of `ENGINES`.
    InvalidValue
        For a version below the oldest in the table.
    """
    key = None if version is None else version_key(version)
    if key is None:
        return None
    releases = _releases(engine)
    known = [day for at, _, day in releases if at <= key]
    if not known:
        raise InvalidValue(
            f"{engine} {version} is older than the oldest version in the table, {releases[0][1]}",
            [releases[0][1], releases[-1][1]],
        )
    return months(known[-1])
