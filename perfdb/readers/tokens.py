"""What a reader of raw JSON looks for: strings and brackets. Numbers, names and commas lie between them."""

from __future__ import annotations

import re
from typing import Final

# Possessive throughout: no text, however long or broken, makes the search go back.
_STRING: Final = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_LEAF: Final = rf'[\[{{][^"\[\]{{}}]*+(?:{_STRING}[^"\[\]{{}}]*+)*+[\]}}]'
"""An array or object that holds no other."""

_TOKEN: Final = rf'{_LEAF}|{_STRING}|["\[\]{{}}]'
"""A leaf, a string, a bracket; a quotation mark alone begins a string without end."""

STRING_BYTES: Final = re.compile(_STRING.encode(), re.DOTALL)
TOKEN_BYTES: Final = re.compile(_TOKEN.encode(), re.DOTALL)
TOKEN: Final = re.compile(_TOKEN, re.DOTALL)

ELEMENTS: Final = re.compile(rf'(?:[^",\[\]{{}}]*+(?:{_STRING}[^",\[\]{{}}]*+)?+,){{1,20000}}+', re.DOTALL)
"""Many elements of a leaf array, each with the comma after it."""


def end_of_container(raw: bytes, start: int) -> int | None:
    """Return where the array or object that begins at `start` ends; None if it does not."""
    depth = 0
    for token in TOKEN_BYTES.finditer(raw, start):
        first, length = raw[token.start()], token.end() - token.start()
        if first == ord('"'):
            if length == 1:
                return None
        elif length == 1:
            depth += 1 if first in b"[{" else -1
        if depth == 0:
            return token.end()
    return None
