"""A file as numbered lines, and a line as a JSON object."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfdb.record import Rejection


@dataclass(frozen=True)
class Line:
    """One line of a file, without its end; `number` counts from 1."""

    number: int
    text: str


def numbered(path: Path) -> Iterator[Line]:
    """Stream the lines of a file that are not blank; bytes that are not UTF-8 become U+FFFD."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, text in enumerate(file, start=1):
            if text.strip():
                yield Line(number, text.rstrip("\r\n"))


def parse(line: Line) -> dict[str, Any] | Rejection:
    """Read a line as a JSON object, or say why it is none."""
    try:
        found = json.loads(line.text)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(line.text.rstrip()) or error.msg.startswith("Unterminated")
        what = "cut off" if cut else "not JSON"
        return Rejection(line.number, f"{what}: {error.msg} at character {error.pos + 1}")
    except RecursionError:
        return Rejection(line.number, "not JSON: nested too deeply")
    if not isinstance(found, dict):
        return Rejection(line.number, f"not a JSON object but a {type(found).__name__}")
    return found
