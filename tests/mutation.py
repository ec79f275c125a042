"""Benchmark objects with keys removed and values replaced by anything that JSON can hold."""

import copy
import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

import perfdb

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(min_value=-(10**30), max_value=10**30)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["inf", "true", "NaN", "-1", "0", "fp8", "./x", "2026-01-01"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def paths(value: Any, at: tuple = ()) -> list[tuple]:
    """Every place in an object, nested ones included."""
    found = [] if not at else [at]
    if isinstance(value, dict):
        for name, item in value.items():
            found += paths(item, (*at, name))
    return found


@st.composite
def mutated(draw: st.DrawFn, original: dict[str, Any]) -> dict[str, Any]:
    """Draw a copy with up to eight places removed or replaced."""
    found = copy.deepcopy(original)
    for place in draw(st.lists(st.sampled_from(paths(original)), min_size=1, max_size=8)):
        parent = found
        for name in place[:-1]:
            parent = parent.get(name) if isinstance(parent, dict) else None
        if not isinstance(parent, dict):
            continue
        if draw(st.booleans()):
            parent.pop(place[-1], None)
        else:
            parent[place[-1]] = draw(VALUES)
    return found


def ends_well(path: Path, content: str) -> None:
    """Read a file: rows and named rejections, or a format that nobody knows."""
    path.write_text(content)
    try:
        result = perfdb.read_records(path)
    except perfdb.UnknownFormat:
        return
    assert all(rejection.reason for rejection in result.rejected)
    assert all(isinstance(record, dict) for record in result.records)


def as_line(found: dict[str, Any]) -> str:
    """One JSON line."""
    return json.dumps(found) + "\n"
