"""A JSON object too large to parse at once: its text read in one pass, its largest arrays only counted."""

from __future__ import annotations

import json
from typing import Any, Final

from perfdb.readers.redact import DEEPEST, TooDeep
from perfdb.readers.tokens import ELEMENTS, TOKEN

PRUNED_CHARACTERS: Final = 2**18
"""An array longer than this, after its own children were pruned, is counted and not held."""

HELD: Final = frozenset({"benchmarks", "internal_states"})
"""Arrays that are held at any size: lists of runs and of ranks, whose elements readers look into."""

_MARK: Final = "\0pruned"


class Pruned(dict[str, int]):
    """Stands in parsed data for an array too large to hold; its text is kept.

    It is a JSON object, `{"pruned": count}`, so that whatever holds it can be written.
    """

    def __init__(self, count: int) -> None:
        super().__init__(pruned=count)

    @property
    def count(self) -> int:
        """Number of elements of the array."""
        return self["pruned"]


class DuplicateKey(ValueError):
    """An object that has a key twice: one of the values would be lost."""


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its members; for `json.loads(object_pairs_hook=)`.

    Raises
    ------
    DuplicateKey
        If a key stands twice.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise DuplicateKey(f"key {twice[:80]} stands twice")
    return found


_DECODER: Final = json.JSONDecoder(object_pairs_hook=unique)


def parse(text: str) -> Any:
    """Parse a JSON text; `json.loads`, but no key may stand twice."""
    return _DECODER.decode(text)


def _parse_marked(text: str) -> Any:
    """Parse a JSON text in which pruned arrays are marked."""

    def unmarked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = unique(pairs)
        count = found.get(_MARK)
        return Pruned(count) if isinstance(count, int) else found

    return json.loads(text, object_pairs_hook=unmarked)


class _Array:
    """An array or object whose end has not been met.

    `first` is the place of its own text among the pieces, `length` the length of the pieces before it,
    `count` the number of elements already counted and let go.
    """

    __slots__ = ("closing", "count", "first", "held", "length")

    def __init__(self, closing: str, first: int, length: int, held: bool) -> None:
        self.closing, self.first, self.length, self.held = closing, first, length, held
        self.count: int | None = None


class _Walk:
    """One pass over a text, which collects the text without the content of its largest arrays."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.pieces: list[str] = []
        self.length = 0
        self.copied = 0
        self.open: list[_Array] = []

    def skeleton(self) -> str:
        name_ends = name_begins = 0
        for token in TOKEN.finditer(self.text):
            begin, end = token.span()
            first = self.text[begin]
            if first == '"':
                name_begins, name_ends = begin, end
            elif end - begin > 1:
                if first == "[" and end - begin > PRUNED_CHARACTERS:
                    self._copy(begin)
                    self._put(_placeholder(_count_leaf(self.text, begin + 1, end - 1)), end)
            elif first in "[{":
                held = first == "{" or (
                    self.text[name_begins + 1 : max(name_ends - 1, 0)] in HELD
                    and self.text[name_ends:begin].strip() == ":"
                )
                self._enter(begin, "]" if first == "[" else "}", held)
            elif not self._leave(begin, first):
                break
            if self.open and not self.open[-1].held:
                self._settle(self.open[-1], end)
        self._copy(len(self.text))
        return "".join(self.pieces)

    def _copy(self, end: int) -> None:
        """Take the text over up to `end`."""
        self._put(self.text[self.copied : end], end)

    def _put(self, piece: str, end: int) -> None:
        self.pieces.append(piece)
        self.length += len(piece)
        self.copied = end

    def _enter(self, begin: int, closing: str, held: bool) -> None:
        if len(self.open) > DEEPEST:
            raise TooDeep(f"nested deeper than {DEEPEST}")
        self._copy(begin + 1)
        self.open.append(_Array(closing, len(self.pieces), self.length, held))

    def _leave(self, begin: int, closing: str) -> bool:
        """End the innermost array or object; False where another one should have ended, which is not JSON."""
        if not self.open or self.open[-1].closing != closing:
            return False
        array = self.open.pop()
        if array.count is not None:
            self._let_go(array, begin)
            opening = self.pieces.pop()
            self.length -= len(opening)
            self._put(opening[:-1] + _placeholder(array.count), begin + 1)
        return True

    def _settle(self, array: _Array, end: int) -> None:
        """Count and let go what an array holds so far, once that is much; `end` is the end of an element."""
        if self.length + end - self.copied - array.length > PRUNED_CHARACTERS:
            self._let_go(array, end)

    def _let_go(self, array: _Array, end: int) -> None:
        self._copy(end)
        part = "".join(self.pieces[array.first :])
        del self.pieces[array.first :]
        self.length = array.length
        if array.count is None:
            array.count = 0
        elif part.strip():
            comma, part = part[: part.find(",") + 1], part[part.find(",") + 1 :]
            if comma.strip() != ",":
                raise json.JSONDecodeError("Expecting ',' delimiter", self.text, end)
        else:
            return
        array.count += _count(part)


def skeleton(text: str) -> Any:
    """Parse a JSON text, with a `Pruned` in place of every array longer than `PRUNED_CHARACTERS`.

    All of it is parsed, some at a time, so that what is pruned is known to be JSON.

    Raises
    ------
    ValueError
        If it is not JSON, or a key stands twice.
    TooDeep
        If it is nested deeper than `DEEPEST`.
    """
    return _parse_marked(_Walk(text).skeleton())


def _placeholder(count: int) -> str:
    return json.dumps({_MARK: count})


def _count_leaf(text: str, begin: int, end: int) -> int:
    """Count the elements of an array that holds no other, between its brackets, a part at a time."""
    count = 0
    while part := ELEMENTS.match(text, begin, end):
        count += _count(text[begin : part.end() - 1])
        begin = part.end()
    return count + _count(text[begin:end])


def _count(part: str) -> int:
    """Count the elements in a part of an array, which is not empty."""
    count = len(parse(f"[{part}]"))
    if not count:
        raise json.JSONDecodeError("Expecting value", part, 0)
    return count


def elements(text: str, name: str) -> list[str]:
    """Return the text of each object in the array that an object has under a name; none if it has none.

    Parameters
    ----------
    text : str
        A JSON object.
    name : str
        A member of it, not of an object inside.
    """
    depth = 0
    inside = False
    begun = name_begins = name_ends = 0
    found: list[str] = []
    for token in TOKEN.finditer(text):
        begin, end = token.span()
        first = text[begin]
        if first == '"':
            if depth == 1:
                name_begins, name_ends = begin, end
            continue
        whole = end - begin > 1
        if whole or first in "[{":
            if inside and depth == 2:
                begun = begin
            elif depth == 1 and first == "[":
                is_value = text[name_ends:begin].strip() == ":"
                inside = is_value and json.loads(text[name_begins:name_ends]) == name
            depth += not whole
        else:
            depth -= 1
        if inside and depth == 2 and (whole or first in "]}") and text[begun] == "{":
            found.append(text[begun:end])
        elif inside and depth == 1:
            return found
    return found
