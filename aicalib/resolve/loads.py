"""Which kind of load each row asks for, from the columns `load`, `request_rate`, `concurrency` and `num_prompts`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from aicalib.errors import InvalidValue, RequestError, UnknownName, fold
from aicalib.serving.load import BURST, CLOSED, LOADS, OPEN

Array = NDArray[np.float64]
Codes = NDArray[np.intp]

PROMPTS_PER_SLOT = 10.0
"""Requests of a benchmark over its concurrency where not given, as InferenceX runs it."""

Refuse = Callable[[int, RequestError], None]


def load_code(word: str) -> int:
    """Return the code of a kind of load.

    Raises
    ------
    UnknownName
    """
    known = {fold(name): code for code, name in enumerate(LOADS)}
    if fold(word) not in known:
        raise UnknownName("load", word, LOADS)
    return known[fold(word)]


def load_kinds(said: Codes, rate: Array, refuse: Refuse) -> Codes:
    """Return the kind of load of n rows.

    Parameters
    ----------
    said : ndarray of int, shape (n,)
        Code of the kind, -1 where not given: then a finite rate makes it open, an infinite one a burst, and none
        closed.
    rate : ndarray, shape (n,)
        Requests a second, NaN where not given.
    refuse : callable
        Takes a row that cannot be, and why.
    """
    given = ~np.isnan(rate)
    by_rate = np.where(given, np.where(np.isinf(rate), BURST, OPEN), CLOSED)
    kinds = np.where(said < 0, by_rate, said)
    for at in np.flatnonzero(given & ~(rate > 0.0)):
        refuse(
            int(at), InvalidValue(f"request_rate {rate[at]:g} is not a positive number of requests a second")
        )
    for at in np.flatnonzero((kinds == OPEN) & ~np.isfinite(rate)):
        refuse(
            int(at), InvalidValue("an open load needs request_rate, in requests a second", ["request_rate 4"])
        )
    for at in np.flatnonzero((kinds != OPEN) & np.isfinite(rate)):
        name = LOADS[kinds[at]]
        refuse(
            int(at),
            InvalidValue(
                f"request_rate {rate[at]:g} with load '{name}': only an open load has one", ["open"]
            ),
        )
    result: Codes = kinds.astype(np.intp)
    return result


def fill_prompts(prompts: Array, concurrency: Array, kinds: Codes, refuse: Refuse) -> Array:
    """Return how many requests the benchmark sends, shape (n,): infinite under an open load if not given.

    A closed load keeps as many in flight as its concurrency, which fewer requests cannot be.
    """
    missing = np.isnan(prompts)
    for at in np.flatnonzero((kinds == CLOSED) & (prompts < concurrency) & (prompts >= 1.0)):
        sent = f"{prompts[at]:g}"
        refuse(
            int(at),
            InvalidValue(
                f"num_prompts {sent} is below concurrency {concurrency[at]:g}: no more than {sent} are ever in flight",
                [f"concurrency {sent}"],
            ),
        )
    if not missing.any():
        return prompts
    filled = np.where(missing, PROMPTS_PER_SLOT * concurrency, prompts)
    if (kinds == CLOSED).all():
        return filled
    for at in np.flatnonzero(missing & (kinds == BURST)):
        refuse(int(at), InvalidValue("a burst needs num_prompts: how many requests are sent at once"))
    return np.where(missing & (kinds == OPEN), np.inf, filled)
