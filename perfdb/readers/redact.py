"""Secrets out of a server's settings before anything is kept."""

from __future__ import annotations

import re
from typing import Any

REDACTED = "<redacted>"

# Whole words of a setting's name: `tokenizer_path` and `max_total_tokens` are no secrets, `api_key` is.
_SECRET = re.compile(r"(^|[_-])(key|keyfile|token|password|passwd|secret)([_-]|$)", re.IGNORECASE)
_OPTION = re.compile(
    r"(--[\w-]*(?:key|token|password|passwd|secret)(?:-[\w-]*)?)([= ]+)(?!-)(\"[^\"]*\"|'[^']*'|\S+)",
    re.IGNORECASE,
)


def redact(value: Any) -> Any:
    """Copy a JSON value with every secret text replaced, at any depth.

    A secret is a text under a name that contains the word key, token, password or secret, and what follows
    an option of such a name in a command line.
    """
    if isinstance(value, dict):
        return {
            name: REDACTED
            if _SECRET.search(name) and item and not isinstance(item, (bool, int, float))
            else redact(item)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return _redact_arguments([redact(item) for item in value])
    if isinstance(value, str) and "--" in value:
        return _OPTION.sub(rf"\1\2{REDACTED}", value)
    return value


def _redact_arguments(items: list[Any]) -> list[Any]:
    """Replace the item after a secret option in a list of arguments."""
    return [
        REDACTED
        if position
        and isinstance(item, str)
        and not item.startswith("-")
        and _is_secret_option(items[position - 1])
        else item
        for position, item in enumerate(items)
    ]


def _is_secret_option(item: Any) -> bool:
    return isinstance(item, str) and item.startswith("--") and "=" not in item and bool(_SECRET.search(item))
