"""The settings that an SGLang server prints when it starts: a Python call up to 0.5.21, a mapping since."""

from __future__ import annotations

import ast
import json
import re
import warnings
from typing import Any

LONGEST = 1_000_000
"""Characters beyond which the text is not taken for settings."""

_PAIR = re.compile(
    r"(?:^|[({,]\s*)'?(\w+)'?(?:=|: )('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|None|True|False|-?\d[\d.eE+-]*)"
    r"(?=\s*[,)}])"
)


def server_args(text: str) -> dict[str, Any]:
    """Read what follows `server_args=`.

    Values that are no plain Python literal are left out. A text that is cut off or holds what Python cannot
    parse is searched for its plain values instead, the first of each name.
    """
    if len(text) > LONGEST:
        return {}
    try:
        with warnings.catch_warnings():
            # A broken text may hold escapes that Python warns of.
            warnings.simplefilter("ignore")
            tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        found: dict[str, Any] = {}
        for name, value in _PAIR.findall(text):
            found.setdefault(name, _literal(value))
        return _plain(found)
    pairs: list[tuple[Any, ast.expr]] = []
    if isinstance(tree, ast.Call):
        pairs = [(keyword.arg, keyword.value) for keyword in tree.keywords]
    elif isinstance(tree, ast.Dict):
        pairs = [
            (key.value, value)
            for key, value in zip(tree.keys, tree.values, strict=True)
            if isinstance(key, ast.Constant)
        ]
    return _plain({name: _literal(value) for name, value in pairs if isinstance(name, str)})


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if value is not ...}


def _literal(value: ast.expr | str) -> Any:
    """Return a literal's value as JSON has it, or `...` for what is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return json.loads(json.dumps(ast.literal_eval(value), allow_nan=False))
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return ...
