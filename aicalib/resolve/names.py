"""The names of rows, looked up once for each distinct combination."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.deployment import Identity
from aicalib.errors import RequestError
from aicalib.models.stack import ArchitectureArrays, stack
from aicalib.recent import Recent
from aicalib.resolve.columns import DEFAULTS, NAME_COLUMNS, distinct
from aicalib.resolve.identify import identify, numbers_of

Array = NDArray[np.float64]
Codes = NDArray[np.intp]


class Names(NamedTuple):
    """Names of n rows, looked up: the distinct combinations, and which of them each row is (-1 if refused).

    `arch` and `numbers` are what physics reads of the combinations, one element each.
    """

    identities: list[Identity]
    codes: Codes
    arch: ArchitectureArrays
    numbers: dict[str, Array]
    refused: dict[int, RequestError]

    @staticmethod
    def of(identities: list[Identity], codes: Codes, refused: dict[int, RequestError]) -> Names:
        """Return the names of n rows by their identities and the one of each."""
        known = [numbers_of(each) for each in identities]
        columns = known[0] if known else _columns()
        numbers = {name: np.array([each[name] for each in known], dtype=float) for name in columns}
        return Names(identities, codes, stack([each.architecture for each in identities]), numbers, refused)


@cache
def _columns() -> tuple[str, ...]:
    """Return the names of what `numbers_of` gives, for a table in which no name is known."""
    words: list[Any] = [DEFAULTS.get(name) for name in NAME_COLUMNS]
    return tuple(numbers_of(identify(*words)))


ONE_NAME: Recent[Names] = Recent(256)
"""Names of single deployments asked about last."""


def look_up(options: Mapping[str, Any], n: int) -> Names:
    """Look up each distinct combination of names once."""
    codes = np.zeros(n, dtype=np.intp)
    values: list[tuple[Codes, list[Any]]] = []
    first_of_all = np.zeros(n, dtype=np.intp)
    for name in NAME_COLUMNS:
        place, found = first_of_all, [DEFAULTS.get(name)]
        if name in options:
            place, found = distinct(options[name], DEFAULTS.get(name))
            codes = codes * len(found) + place
        values.append((place, found))
    _, first, codes = np.unique(codes, return_index=True, return_inverse=True)
    identities: list[Identity] = []
    place_of, failures = np.full(first.size, -1, dtype=np.intp), {}
    for number, row in enumerate(first):
        cells = (found[place[row]] for place, found in values)
        words: list[Any] = [None if each is None else str(each) for each in cells]
        try:
            identities.append(identify(*words))
            place_of[number] = len(identities) - 1
        except RequestError as error:
            failures[number] = error
    refused = (
        {int(row): failures[codes[row]] for row in np.flatnonzero(place_of[codes] < 0)} if failures else {}
    )
    return Names.of(identities, place_of[codes], refused)
