"""Write what the engines' parsers accept into the package, or compare with what is there.

`python -m checks.engines.extract` reads every release of `versions.toml` and writes `flags.csv`, `methods.csv` and
`parsers.csv` beside `aicalib/engines/flags.py`; with `--check` it lists every difference and ends with exit status 1
where there is one. Rows of engines without wheels are kept as they are.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aicalib.engines import flags as shipped
from aicalib.engines.flags import Flag, Method
from checks.engines.methods import REGISTRIES, read_methods
from checks.engines.readers import read_flags
from checks.engines.sources import NoSource, Source, read_source

HERE = Path(__file__).parent
PACKAGE = Path(shipped.__file__).parent
DEFAULT_CACHE = Path.home() / ".cache" / "aicalib" / "engines"

FLAGS_HEAD = ("engine", "flag", "also", "kind", "choices", "marks", "since", "until")
METHODS_HEAD = ("engine", "method", "min_capability", "activation_dtypes", "since", "until", "source")
PARSERS_HEAD = ("engine", "version", "source", "sha256")


Row = tuple[str, ...]


def flag_row(flag: Flag) -> Row:
    """Return the columns of a flag between its engine and its versions."""
    choices = flag.choices or ()
    assert not any(not choice or " " in choice for choice in choices), flag
    marks = " ".join(mark for mark in ("optional", "open") if getattr(flag, mark))
    also = " ".join(text for text in flag.spellings if text != flag.name)
    return flag.name, also, flag.kind, " ".join(choices), marks


def method_row(name: str, method: Method) -> Row:
    """Return the columns of a method between its engine and its versions."""
    lowest = "" if method.min_capability is None else str(method.min_capability)
    return name, lowest, " ".join(method.activation_dtypes)


def stretches(by_version: dict[str, dict[str, Row]]) -> list[tuple[Row, str, str]]:
    """Return each row with the first and last version of every stretch of versions that hold it.

    Parameters
    ----------
    by_version : dict
        Version, oldest first, to the rows of that version by name.
    """
    versions = list(by_version)
    found: list[tuple[Row, str, str]] = []
    names = sorted({name for rows in by_version.values() for name in rows})
    for name in names:
        start: str | None = None
        for place, version in enumerate(versions):
            row = by_version[version].get(name)
            if row is None:
                continue
            start = start or version
            following = by_version[versions[place + 1]].get(name) if place + 1 < len(versions) else None
            if following != row:
                found.append((row, start, version))
                start = None
    return found


def table(head: tuple[str, ...], rows: Iterable[Iterable[str]]) -> str:
    """Return rows as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return out.getvalue()


def kept(name: str) -> list[list[str]]:
    """Return the rows of a shipped file whose engine has no wheels."""
    rows = (
        list(csv.reader((PACKAGE / name).read_text().splitlines()))[1:] if (PACKAGE / name).exists() else []
    )
    return [row for row in rows if row[0] not in REGISTRIES]


def read(source: Source) -> tuple[dict[str, Row], dict[str, Row], list[str]]:
    """Return the rows of flags and of methods of one release, and what could not be read."""
    flags, unread = read_flags(source)
    methods, unread_methods = read_methods(source)
    flag_rows = {flag.name: flag_row(flag) for flag in flags.values()}
    return (
        flag_rows,
        {name: method_row(name, found) for name, found in methods.items()},
        unread + unread_methods,
    )


def write(versions: dict[str, list[str]], cache: Path) -> int:
    """Write the files anew; returns the number of things that could not be read."""
    flag_rows, method_rows, parser_rows = kept("flags.csv"), kept("methods.csv"), kept("parsers.csv")
    unread = 0
    for engine, wanted in versions.items():
        all_flags: dict[str, Any] = {}
        all_methods: dict[str, Any] = {}
        for version in wanted:
            source = read_source(engine, version, cache)
            all_flags[version], all_methods[version], problems = read(source)
            parser_rows.append([engine, version, source.origin, source.sha256])
            unread += len(problems)
            for problem in problems:
                print(f"{engine} {version}: {problem}", file=sys.stderr)
        flag_rows += [[engine, *row, since, until] for row, since, until in stretches(all_flags)]
        registry = REGISTRIES[engine]
        method_rows += [
            [engine, *row, since, until, registry] for row, since, until in stretches(all_methods)
        ]
    (PACKAGE / "flags.csv").write_text(table(FLAGS_HEAD, flag_rows))
    (PACKAGE / "methods.csv").write_text(table(METHODS_HEAD, method_rows))
    (PACKAGE / "parsers.csv").write_text(table(PARSERS_HEAD, parser_rows))
    return unread


def differences(source: Source) -> list[str]:
    """Return where the shipped files say something else than a release."""
    engine, version = source.engine, source.version
    read_rows, read_methods_rows, found = read(source)
    if (source.origin, source.sha256) != recorded(engine, version):
        found.append(f"read from {source.origin} {source.sha256}, recorded is {recorded(engine, version)}")
    known = {flag.name: flag_row(flag) for flag in shipped.flags(engine, version).values()}
    known_methods = {
        name: method_row(name, found) for name, found in shipped.methods(engine, version).items()
    }
    for ours, theirs in ((known, read_rows), (known_methods, read_methods_rows)):
        for name in sorted(ours.keys() | theirs.keys()):
            if ours.get(name) != theirs.get(name):
                found.append(f"{name}: file {ours.get(name)}, source {theirs.get(name)}")
    return found


def recorded(engine: str, version: str) -> tuple[str, str]:
    """Return the wheel and digest that the shipped file names for a release."""
    rows = csv.reader((PACKAGE / "parsers.csv").read_text().splitlines())
    return next(((row[2], row[3]) for row in rows if row[:2] == [engine, version]), ("nothing", ""))


def check(versions: dict[str, list[str]], cache: Path) -> int:
    """List differences between the shipped files and the releases; returns the exit status."""
    compared, status = 0, 0
    for engine, wanted in versions.items():
        for version in wanted:
            try:
                source = read_source(engine, version, cache)
            except NoSource as reason:
                print(f"skipped: {reason}")
                continue
            compared += 1
            for line in differences(source):
                status = 1
                print(f"{engine} {version}: {line}")
    print(f"{compared} releases compared: " + ("differences above" if status else "no difference"))
    return status


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m checks.engines.extract", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="folder of downloaded source")
    parser.add_argument(
        "--only", nargs="*", default=[], metavar="ENGINE==VERSION", help="releases to compare"
    )
    chosen = parser.parse_args(arguments)
    versions = tomllib.loads((HERE / "versions.toml").read_text())
    if chosen.only:
        versions = {e: [v for v in listed if f"{e}=={v}" in chosen.only] for e, listed in versions.items()}
    if chosen.check:
        return check(versions, chosen.cache)
    if chosen.only:
        parser.error("--only goes with --check: the files hold every release")
    return 1 if write(versions, chosen.cache) else 0


if __name__ == "__main__":
    sys.exit(main())
