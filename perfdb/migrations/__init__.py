"""The schema of the store as named steps, applied in order of their names and recorded once applied."""

from __future__ import annotations

from importlib.resources import files


def steps() -> dict[str, str]:
    """Return the SQL of each step by its name, in order."""
    found = {
        entry.name.removesuffix(".sql"): entry
        for entry in files(__name__).iterdir()
        if entry.name.endswith(".sql")
    }
    return {name: found[name].read_text(encoding="utf-8") for name in sorted(found)}
