"""Figures out of JSON values that may be anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def number(value: Any) -> float | None:
    """Return a number as a float; None for anything else: truth values, whole numbers that no float holds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def scaled(value: Any, factor: float) -> float | None:
    """Return a number in another unit, or None."""
    found = number(value)
    return None if found is None else found * factor


def ratio(upper: Any, lower: Any) -> float | None:
    """Divide two numbers; None where either is none or the lower is zero."""
    one, other = number(upper), number(lower)
    return None if one is None or not other else one / other


def mapping(value: Any) -> Mapping[str, Any]:
    """Return an object as it is, and anything else as an empty one."""
    return value if isinstance(value, Mapping) else {}
