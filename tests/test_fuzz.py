"""Whatever a file holds, it ends in rows, in named rejections, or in `UnknownFormat`; never in another error.

All of it goes into one store, in which each record is accounted for, and which is sound in the end.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfdb
from perfdb.check import check
from perfdb.readers import read
from perfdb.readers.aiconfigurator_kernels import is_parquet
from perfdb.record import Rejection

DATA = Path(__file__).parent / "data"
FILES = sorted(path for path in DATA.rglob("*") if path.is_file() and path.suffix != ".md")
TEXTS = [path for path in FILES if not is_parquet(path)]
NAMES = [path.relative_to(DATA).as_posix() for path in FILES]
CONTEXT = {"gpu": "h100-sxm", "model": "Qwen/Qwen3-32B", "tp": 1}

SQL = "'); DROP TABLE run_records; --"
NASTY: list[Any] = [
    None, True, 0, -1, 0.5, 2**31, 2**63, -(2**64), 10**400, 1e308, 5e-324,
    float("nan"), float("inf"), float("-inf"),
    "", " ", "0", "NaN", "inf", SQL, '"', "\\", "\0", "a\nb", "\ud800", "\N{GRINNING FACE}", "x" * 5000,
    "--api-key", "1e999", "../../etc/passwd", "%s{0}",
    [], {}, [None], [[]], [{}], {"": None}, {"a": {"b": []}}, [1, "a", None, {}], [float("nan")],
    {"mean": "x"}, {SQL: SQL}, ["--api-key", "k"],
]  # fmt: skip


def damaged(content: bytes) -> dict[str, bytes]:
    """Return the content damaged in every way that has a name."""
    middle = len(content) // 2
    text = content.decode(errors="replace")
    return {
        "whole": content,
        "empty": b"",
        "cut in the middle": content[:middle],
        "cut at the end": content.rstrip()[:-1],
        "beginning lost": content[middle:],
        "twice": content + content,
        "byte order mark": codecs.BOM_UTF8 + content,
        "UTF-16": text.encode("utf-16"),
        "UTF-16 without a mark": text.encode("utf-16-le"),
        "half of a mark": content[:100] + codecs.BOM_UTF16_LE,
        "latin-1": re.sub(rb'": "', b'": "\xe9', content),
        "zeros at the end": content + bytes(4096),
        "zeros inside": content.replace(b" ", b"\0"),
        "old Mac ends": content.replace(b"\n", b"\r"),
        "DOS ends": content.replace(b"\n", b"\r\n"),
        "one line": content.replace(b"\n", b" "),
        "keys twice": content.replace(b"{", b'{"tp": 1, "tp": 2, '),
        "nested deep": b'{"a":' * 5000 + content,
        "lists around": b"[" * 60 + content + b"]" * 60,
        "numbers to NaN": re.sub(rb"\b\d+\.\d+\b", b"NaN", content),
        "numbers to Infinity": re.sub(rb"\b\d+\.\d+\b", b"-Infinity", content),
        "numbers too large": re.sub(rb"\b\d+\.\d+\b", b"9" * 400, content),
        "numbers too long": re.sub(rb"\b\d+\.\d+\b", b"9" * 5000, content, count=3),
        "numbers to texts": re.sub(rb"\b(\d+\.\d+)\b", rb'"\1"', content),
        "objects to null": re.sub(rb"\{[^{}]*\}", b"null", content),
        "SQL": content.replace(b'": "', b'": "' + SQL.encode()),
        "SQL in names": content.replace(b', "', b', "' + SQL.encode()),
        "half surrogates": content.replace(b'": "', b'": "\\ud800'),
        "escaped zeros": content.replace(b'": "', b'": "\\u0000'),
    }


DAMAGES = list(damaged(b""))


def raw_texts_end_well(path: Path) -> None:
    """Read a file for what would be kept of its lines, which can be stored."""
    with contextlib.suppress(perfdb.UnknownFormat):
        for item in read(path).records:
            if not isinstance(item, Rejection):
                item.text.encode()


def ends_well(store: perfdb.Store, path: Path) -> tuple[int, int]:
    """Ingest a file; return its numbers of rows and rejections, which are all that it holds."""
    before = counted(store)
    try:
        records = list(read(path).records)
        report = store.ingest(path, CONTEXT)
    except perfdb.UnknownFormat:
        assert counted(store) == before
        return 0, 0
    for rejection in report.rejected:
        assert rejection.line >= 1
        assert rejection.reason
    assert report.kept + report.known + len(report.rejected) == len(records)
    assert counted(store) == before + report.kept
    return report.kept + report.known, len(report.rejected)


def counted(store: perfdb.Store) -> int:
    """Return how many records a store has, or had before fuller ones took their place."""
    tables = ("run_records", "superseded_runs", "startup_records")
    total = " + ".join(f"(SELECT count(*) FROM {table})" for table in tables)
    return store.query(f"SELECT {total} AS total")[0]["total"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    opened = perfdb.Store(tmp_path_factory.mktemp("fuzz") / "fuzz.duckdb")
    yield opened
    assert check(opened.path) == []
    rows = opened.query("SELECT to_json(runs) AS row FROM runs")
    json.dumps(rows, ensure_ascii=False).encode()


@pytest.fixture(scope="module")
def mutated(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "mutated.json"


def test_there_are_files():
    assert len(TEXTS) >= 6


@pytest.mark.parametrize("name", NAMES)
def test_named_damage(store, mutated, name):
    turn = NAMES.index(name)
    for place, (damage, content) in enumerate(damaged((DATA / name).read_bytes()).items()):
        mutated.write_bytes(content)
        try:
            raw_texts_end_well(mutated)
            if place == turn % len(DAMAGES):  # every damage meets several files
                ends_well(store, mutated)
        except Exception as error:
            raise AssertionError(f"{name}, {damage}") from error


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(FILES), st.data())
def test_bytes_flipped(store, mutated, path, data):
    content = bytearray(path.read_bytes()[:20_000])
    places = st.integers(0, len(content) - 1)
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=8)):
        content[place] = value
    start, stop = sorted((data.draw(places), data.draw(places)))
    mutated.write_bytes(content if data.draw(st.booleans()) else content[:start] + content[stop:])
    ends_well(store, mutated)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every member and of the first elements of every array in a JSON value."""
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value[:3]))
    return [path] * bool(path) + [found for key, item in items for found in places(item, (*path, key))]


def documents() -> list[tuple[str, Any]]:
    """Return the first JSON value of each file that has one: its first line, or all of it."""
    found = []
    for path in TEXTS:
        text = path.read_text(errors="replace")
        for part in (text.partition("\n")[0], text):
            try:
                value = json.loads(part)
            except ValueError:
                continue
            if isinstance(value, (dict, list)):
                found.append((path.name, value))
                break
    return found


DOCUMENTS = documents()


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(DOCUMENTS), st.data())
def test_values_of_other_types(store, mutated, document, data):
    value = json.loads(json.dumps(document[1]))
    top = [path for path in places(value) if len(path) == 1]
    for _ in range(data.draw(st.integers(1, 4))):
        # Half of the draws go to the top, where readers look most.
        path = data.draw(st.sampled_from(top) | st.sampled_from(places(value) or top))
        inside = value
        for key in path[:-1]:
            inside = inside[key]
        what = data.draw(st.sampled_from(["replace", "remove", "wrap"]))
        if what == "remove":
            del inside[path[-1]]
            break
        inside[path[-1]] = data.draw(st.sampled_from(NASTY)) if what == "replace" else [inside[path[-1]]]
        top = [path for path in places(value) if len(path) == 1]
    mutated.write_text(json.dumps(value, indent=data.draw(st.sampled_from([None, 1]))) + "\n")
    raw_texts_end_well(mutated)
    ends_well(store, mutated)


@settings(max_examples=12, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    )
)
def test_a_run_with_any_other_key(store, mutated, value):
    run = {"engine": "sglang", "load": "closed", "mean_tpot_ms": 9.5, "any": value, "other": {"deep": value}}
    mutated.write_text(json.dumps(run))
    rows, rejected = ends_well(store, mutated)
    assert rows + rejected == 1


@pytest.mark.parametrize(
    "line",
    [
        "x" * 10**7,
        "[" * 10**7,
        '{"a":' * 2 * 10**6,
        '{"a": "' + "x" * 10**7,
        '{"a": "' + '\\"' * 5 * 10**6 + '"}',
        '{"a": "' + "-" * 10**7 + '"}',
        '{"a": ' + "9" * 10**7 + "}",
        '{"a": [' + "1," * 5 * 10**6 + "1]}",
        '{"a": [' + "{}," * 3 * 10**6 + "}",
        '{"' + "a" * 10**7 + '": 1}',
        '{"prompt": "' * 10**6,
        '"prompt":[' * 10**6,
        "\0" * 10**7,
        " " * 10**7,
        "," * 10**7,
    ],
    ids=lambda line: line[:12].strip() or "space",
)
def test_lines_of_10_mb(store, mutated, line):
    run = json.dumps({"engine": "sglang", "load": "closed", "mean_tpot_ms": 9.5})
    mutated.write_text(f"{run}\n{line}\n{run}\n")
    rows, rejected = ends_well(store, mutated)
    # The long line may be blank, or may be an object of which nothing was measured.
    assert (rows, rejected) == (2, 0 if line.isspace() else 1)
