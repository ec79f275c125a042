"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence


def row(*cells: object) -> str:
    """Return one line of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def rule(left: int, right: int) -> str:
    """Return the line below a table's head: columns aligned to the left, then to the right."""
    return row(*["---"] * left, *["---:"] * right)


def table(head: Sequence[str], left: int, rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Yield the lines of a table whose first columns are aligned to the left and the others to the right."""
    yield row(*head)
    yield rule(left, len(head) - left)
    for each in rows:
        yield row(*each)
