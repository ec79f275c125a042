"""Every combination of some options: as many configurations as a sweep takes, none of which is laid out in memory.

    model = ["qwen3-32b", "llama-70b"]
    gpu = ["h100-sxm", "b200-sxm"]
    tp = [1, 2, 4, 8]
    concurrency = {first = 1, last = 256}

Options are those of `aicalib predict` with underscores. A configuration is known by its number; the first axis varies
slowest.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aicalib.deployment import Identity
from aicalib.errors import InvalidValue, NotCovered, RequestError, UnknownName
from aicalib.models import get_architecture
from aicalib.resolve.columns import DEFAULTS, FLAG_COLUMNS, NAME_COLUMNS, check_options
from aicalib.resolve.features import DRAFT_NAMES
from aicalib.resolve.identify import identify

Codes = NDArray[np.intp]

QUESTION: Final = ("model", "isl", "osl", "prefix_hit")
"""Options that say what is asked; all others say how it may be answered."""

LOADS: Final = ("concurrency", "request_rate")
"""Options under which one start of an engine is asked again and again."""

MOST_NAMES: Final = 100_000
"""Combinations of names beyond which they are not looked up: at some 0.1 ms each, that takes ten seconds."""

_WORDS: Final = {*NAME_COLUMNS, *DRAFT_NAMES, "moe_a2a_backend", "load"}
_RANGE: Final = ("first", "last", "step")


@dataclass(frozen=True)
class Grid:
    """A grid of options.

    Attributes
    ----------
    axes : mapping of str to tuple
        Option -> values; the first varies slowest.
    """

    axes: Mapping[str, tuple[Any, ...]]

    @property
    def size(self) -> int:
        """How many configurations there are."""
        return prod(map(len, self.axes.values()))

    def places(self, numbers: Codes) -> dict[str, Codes]:
        """Return which value of each axis configurations have, by axis, shape (n,)."""
        found = {}
        for name, values in reversed(list(self.axes.items())):
            numbers, found[name] = np.divmod(numbers, len(values))
        return found

    def columns(self, numbers: Codes) -> dict[str, NDArray[Any]]:
        """Return the options of configurations as columns of n cells, in the order of the axes."""
        places = self.places(numbers)
        return {name: _cells(name, values)[places[name]] for name, values in self.axes.items()}

    def grouped(self, by: Sequence[str]) -> Grid:
        """Return the same configurations in another order: some axes first, then names, others, and loads last."""
        for name in by:
            if name not in self.axes:
                raise UnknownName("axis", name, self.axes)
        names, loads = ([name for name in each if name in self.axes] for each in (NAME_COLUMNS, LOADS))
        order = [*by, *names, *(name for name in self.axes if name not in loads), *loads]
        return Grid({name: self.axes[name] for name in order})

    def levels(self, by: Sequence[str]) -> int:
        """Return how many configurations in a row, grouped so, are one start under several loads."""
        return prod(len(self.axes[name]) for name in LOADS if name in self.axes and name not in by)


class Names:
    """The names of a grid, looked up once and by value: who looks at a configuration needs no file of them.

    Attributes
    ----------
    axes : tuple of str
        The axes that are names.
    identities : list of Identity
    codes : ndarray of int, one axis for each of `axes`
        Place in `identities` of each combination, -1 where it was refused.
    refused : dict of str to int
        Reason -> combinations.
    """

    def __init__(self, grid: Grid) -> None:
        self.axes = tuple(name for name in grid.axes if name in NAME_COLUMNS)
        shape = tuple(len(grid.axes[name]) for name in self.axes)
        if prod(shape) > MOST_NAMES:
            raise InvalidValue(
                f"{prod(shape)} combinations of {', '.join(self.axes)} are more than the {MOST_NAMES} that are "
                "looked up"
            )
        self.identities: list[Identity] = []
        self.refused: dict[str, int] = {}
        codes = []
        for words in product(*(grid.axes[name] for name in self.axes)):
            given = dict(zip(self.axes, words, strict=True))
            cells: list[Any] = [given.get(name, DEFAULTS.get(name)) for name in NAME_COLUMNS]
            try:
                self.identities.append(identify(*cells))
            except RequestError as error:
                self.refused[str(error)] = self.refused.get(str(error), 0) + 1
                codes.append(-1)
            else:
                codes.append(len(self.identities) - 1)
        self.codes: Codes = np.array(codes, dtype=np.intp).reshape(shape)
        if not self.identities:
            raise InvalidValue(f"no configuration of the grid is left: {'; '.join([*self.refused][:3])}")

    def of(self, places: Mapping[str, Codes], n: int) -> Codes:
        """Return the place in `identities` of n configurations, -1 where it was refused."""
        found: Codes = self.codes[tuple(places[name] for name in self.axes)]
        return np.broadcast_to(found, n)


def read_grid(path: str | Path) -> Grid:
    """Read a grid from a TOML file.

    Raises
    ------
    InvalidValue
        If the file cannot be read, or a value is not what its option takes.
    UnknownName
        For an option that does not exist.
    """
    try:
        given = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidValue(f"grid file {path} is no TOML: {error}") from error
    return grid_of(given)


def grid_of(axes: Mapping[str, Any]) -> Grid:
    """Return a grid of options: each a value, a sequence of them, or a range with `first`, `last` and maybe `step`.

    Raises
    ------
    UnknownName
        For an option that does not exist.
    InvalidValue
        If a value is not what its option takes, or comes twice.
    NotCovered
        For a draft model that is a file: only names of the catalogue are known wherever the grid is swept.
    """
    check_options(axes)
    found = {name: tuple(_values(name, given)) for name, given in axes.items()}
    for model in found.get("draft_model", ()):
        if not get_architecture(model).hf_id:
            raise NotCovered(f"draft_model '{model}' is a file: a grid takes draft models of the catalogue")
    return Grid(found)


def _values(name: str, given: Any) -> Iterator[Any]:
    if isinstance(given, Mapping):
        given = _range(name, given)
    elif isinstance(given, str) or not isinstance(given, Sequence | range | np.ndarray):
        given = [given]
    listed = list(given)
    if not listed:
        raise InvalidValue(f"{name}: no value to try")
    kind = "a text" if name in _WORDS else "yes or no" if name in FLAG_COLUMNS else "a number"
    for value in listed:
        number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        if not {"a text": isinstance(value, str), "yes or no": isinstance(value, bool), "a number": number}[
            kind
        ]:
            raise InvalidValue(f"{name}: {value!r} is not {kind}")
    if len(set(listed)) < len(listed):
        raise InvalidValue(f"{name}: a value comes twice")
    yield from listed


def _range(name: str, given: Mapping[str, Any]) -> range:
    wrong = [key for key in given if key not in _RANGE] + [key for key in _RANGE[:2] if key not in given]
    if wrong or not all(isinstance(each, int) for each in given.values()):
        raise InvalidValue(
            f"{name}: a range has whole numbers first, last and maybe step", ["{first = 1, last = 256}"]
        )
    step = given.get("step", 1)
    if step < 1 or given["last"] < given["first"]:
        raise InvalidValue(f"{name}: a range rises from first to last, by a step from 1 on")
    return range(given["first"], given["last"] + 1, step)


def _cells(name: str, values: Sequence[Any]) -> NDArray[Any]:
    kind: Any = object if name in _WORDS else np.bool_ if name in FLAG_COLUMNS else np.float64
    return np.array(values, dtype=kind)
