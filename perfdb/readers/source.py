"""A file to read: its first bytes, its lines, its JSON objects."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

from perfdb.readers import framing, large
from perfdb.readers.framing import LARGEST_BYTES as LARGEST_BYTES
from perfdb.readers.framing import Piece
from perfdb.readers.large import Pruned as Pruned
from perfdb.readers.redact import DEEPEST, Edit, TooDeep, redact, rewrite, without_private
from perfdb.record import Rejection

HEAD_BYTES = 65_536
SNIFF_LINES = 50
LARGE_BYTES = 16 * 2**20
"""From this size on, an object is parsed some at a time and its largest arrays are only counted."""

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class Line:
    """One line of a file, without its end; `number` counts from 1."""

    number: int
    text: str


@dataclass(frozen=True)
class Object:
    """One JSON object of a file.

    Parameters
    ----------
    number : int
        Line of the object in a file of JSON lines, else its place among the objects of the file, from 1.
    text : str
        The object as it is kept: without generated texts and prompts, secrets replaced.
    data : dict
        The parsed object, equally without them; of a large one, the largest arrays are `Pruned`.
    """

    number: int
    text: str
    data: dict[str, Any]


def count(value: Any) -> int | None:
    """Return the length of an array, held or pruned; None for anything else."""
    if isinstance(value, Pruned):
        return value.count
    return len(value) if isinstance(value, list) else None


def pieces(item: Object, name: str) -> list[str]:
    """Return the text of each object in the array that an object has under a name.

    For documents that hold several runs: the n-th text belongs to the n-th object of `item.data[name]`, and
    is a slice of `item.text`, so it is as free of private texts and secrets. Elements that are no objects
    have none.
    """
    return large.elements(item.text, name)


class Source:
    """A file as readers see it; nothing is read before it is asked for.

    Parameters
    ----------
    path : Path
        The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begun: Iterator[Object | Rejection] | None = None

    @cached_property
    def head(self) -> str:
        """The first 64 KiB as text; bytes that are not UTF-8 become U+FFFD."""
        with framing.open_bytes(self.path) as file:
            return file.read(HEAD_BYTES).decode("utf-8", errors="replace")

    @cached_property
    def header(self) -> tuple[str, ...]:
        """The cells of the first line, split at commas: the header of a CSV file."""
        line = self.head.split("\n", 1)[0]
        return tuple(cell.strip().strip('"') for cell in line.split(","))

    @cached_property
    def first(self) -> dict[str, Any] | None:
        """The first JSON object among the first lines, or the object that the file is; None if there is none."""
        return self._sniffed[0]

    @property
    def trouble(self) -> Rejection | None:
        """Why the first of the first lines is no JSON object, in a file that begins like one; else None."""
        return self._sniffed[1] if self._begins_as_json else None

    def lines(self) -> Iterator[Line]:
        """Stream the lines that are not blank; bytes that are not UTF-8 become U+FFFD.

        A carriage return ends a line too, as progress bars write it. A line above `LARGEST_BYTES` is left out.
        """
        largest = framing.LARGEST_BYTES
        with io.TextIOWrapper(framing.open_bytes(self.path), encoding="utf-8", errors="replace") as file:
            number = 0
            while text := file.readline(largest + 1):
                number += 1
                if len(text) > largest and not text.endswith("\n"):
                    while (more := file.readline(framing.CHUNK_BYTES)) and not more.endswith("\n"):
                        pass
                elif text.strip():
                    yield Line(number, text.rstrip("\r\n"))

    def objects(self) -> Iterator[Object | Rejection]:
        """Stream the JSON objects of a file: one a line, or the one object or list of objects that it is."""
        # What was parsed to know the format is not parsed again, and not held longer than for that.
        begun, self._begun = self._begun, None
        yield from self._objects() if begun is None else begun

    def _objects(self) -> Iterator[Object | Rejection]:
        document = self._begins_as_json and framing.is_document(self.path)
        framed = framing.values if document else framing.lines
        for piece in framed(self.path):
            yield read_object(piece)

    @property
    def _begins_as_json(self) -> bool:
        return self.head.lstrip().startswith(("{", "["))

    @cached_property
    def _sniffed(self) -> tuple[dict[str, Any] | None, Rejection | None]:
        """The first JSON object, and the first rejection before it."""
        found = self._objects()
        seen = []
        for item in islice(found, SNIFF_LINES):
            seen.append(item)
            if isinstance(item, Object):
                break
        self._begun = chain(seen, found)
        objects = (item.data for item in seen if isinstance(item, Object))
        troubles = (item for item in seen if isinstance(item, Rejection))
        return next(objects, None), next(troubles, None)


def read_object(piece: Piece) -> Object | Rejection:
    """Read one piece of a file as a JSON object as it is kept, or say why it is none."""
    number = piece.number
    if piece.too_large:
        limit = framing.LARGEST_BYTES
        return Rejection(
            number, f"has {piece.size_bytes} bytes or more; at most {limit} bytes of one object are read"
        )
    raw = without_private(piece.raw)
    place = " at {}" if len(raw) == piece.size_bytes else ""
    try:
        text = raw.decode()
        del raw
        data = large.skeleton(text) if len(text) > LARGE_BYTES else large.parse(text)
        if not isinstance(data, dict):
            return Rejection(number, f"not a JSON object but a {type(data).__name__}")
        if _SURROGATE.search(text):
            json.dumps(data, ensure_ascii=False).encode()
        edits: list[Edit] = []
        clean = redact(data, edits)
        kept = text if clean is data else _rewritten(text, clean, edits)
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        return Rejection(number, f"not UTF-8: byte {byte:#04x}" + place.format(f"byte {error.start + 1}"))
    except UnicodeEncodeError as error:
        half = ord(error.object[error.start])
        return Rejection(number, f"holds half of a surrogate pair, \\u{half:04x}, which is no character")
    except json.JSONDecodeError as error:
        cut = error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated")
        what = "cut off" if cut else "not JSON"
        place = "" if len(error.doc) != len(text) else place
        return Rejection(number, f"{what}: {error.msg}" + place.format(f"character {error.pos + 1}"))
    except (RecursionError, TooDeep):
        return Rejection(number, f"not JSON: nested too deeply, at most {DEEPEST} levels are read")
    except ValueError as error:
        # A key that stands twice, or a whole number of more digits than Python takes.
        return Rejection(number, f"not read: {error}")
    return Object(number, kept, clean)


def _rewritten(text: str, clean: dict[str, Any], edits: list[Edit]) -> str:
    """Return the text with its edits; written anew where they are not found as they stand."""
    kept = rewrite(text, edits)
    if kept is None and len(text) > LARGE_BYTES:
        names = ", ".join(sorted({name for name, _, _ in edits}))
        raise ValueError(f"a secret under one of {names} could not be taken out of so large a text")
    return json.dumps(clean, ensure_ascii=False) if kept is None else kept
