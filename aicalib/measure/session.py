"""Measuring: each start of an engine, each load on it, and what becomes of either, as facts in the store."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from pathlib import Path

from aicalib.measure.client import Load, prompts_for
from aicalib.measure.facts import Outcome, Planned, Where
from aicalib.measure.occasion import Occasion
from aicalib.measure.results import disk_full_named

__all__ = ["Outcome", "Planned", "Where", "measure"]


def measure(
    planned: Iterable[Planned],
    store: Path,
    where: Where,
    repeats: int = 1,
    retries: int = 2,
    num_prompts: Callable[[Load], int] = prompts_for,
    tell: Callable[[str], object] = lambda text: None,
) -> Generator[Outcome]:
    """Measure, and yield each fact once it is stored.

    Closing the generator, or an error anywhere, stops the engine and all its children.

    Parameters
    ----------
    planned : iterable of Planned
        One after the other; taken only when the one before is done.
    store : Path
    where : Where
    repeats : int
        Times that each load is measured: all loads once, then all again, so that repeats lie apart in time.
    retries : int
        Times that a doubted run (`occasion.DOUBTED`) is measured again, after all others. All are kept and flagged.
    num_prompts : callable
        Requests of a load.
    tell : callable
        Called with what is being done, for people.

    Raises
    ------
    InvalidValue
        For a line that starts no engine, a taken port, or a running server of another model or engine.
    NotCovered
        For an engine that is not measured here.
    perfdb.StorageFull
        Where the disk is full: what was measured before stays.
    """
    for each in planned:
        with disk_full_named(where.folder):
            yield from Occasion(each, store, where, repeats, retries, num_prompts, tell).outcomes()
