"""Values as JSON and as text that any reader takes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from perfdb.record import BadRecord


def encoded(value: Any) -> str:
    """Return a value as JSON text that any reader takes.

    Top-level numbers that JSON lacks stay, so that they can be named as missing; deeper ones become null.
    """
    if isinstance(value, Mapping):
        value = {name: item if isinstance(item, float) else finite(item) for name, item in value.items()}
    try:
        return utf8(json.dumps(value, ensure_ascii=False, default=str))
    except RecursionError:
        raise BadRecord("nested too deeply") from None


def finite(value: Any) -> Any:
    """Return a value with null in place of numbers that JSON lacks, at any depth."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(name): finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def utf8(text: str) -> str:
    """Return a text that UTF-8 can hold: lone surrogates become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")
