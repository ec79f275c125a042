"""Numbers as tables for people show them."""

from __future__ import annotations


def short(number: float | None, figures: int = 3) -> str:
    """Return a number to so many significant figures, never with an exponent above; "-" where there is none."""
    if number is None:
        return "-"
    return f"{number:.{figures}g}" if abs(number) < 10.0**figures else f"{number:.0f}"
