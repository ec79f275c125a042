"""Columns of options as people give them: which there are, their defaults, and cells read as numbers and words.

A cell that says nothing it could mean is refused with its row.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aicalib.errors import InvalidValue, NotCovered, RequestError, UnknownName
from aicalib.resolve.features import DRAFT_NAMES, DRAFT_NUMBERS, POOL_NUMBERS
from aicalib.resolve.loads import load_code, load_kinds

Array = NDArray[np.float64]
Codes = NDArray[np.intp]

NAME_COLUMNS = (
    "model", "gpu", "gemm", "kv", "fmha", "moe", "engine", "engine_version",
    "attention_backend", "prefill_attention_backend", "decode_attention_backend", "moe_backend",
)  # fmt: skip
"""Columns that are looked up as one name each."""

NUMBER_COLUMNS = (
    "tp", "dp", "ep", "pp", "isl", "osl", "concurrency", "num_prompts", "mem_fraction",
    "chunked_prefill_size", "max_running_requests", "cuda_graph_max_bs", "scheduler_recv_interval",
    "engine_month", "context_len",
)  # fmt: skip
"""Columns of numbers; NaN or None where not given."""

FLAG_COLUMNS = ("lockstep", "warmed_up", "enable_mixed_chunk")
"""Columns of yes or no."""

A2A_BACKENDS = {"none": False, "auto": False, "allgather_reducescatter": False, "deepep": True}
"""Values of `moe_a2a_backend` that are predicted, and whether tokens reach their experts by DeepEP: else collectives
over the hidden states of all ranks take them there."""

RARE_NUMBERS = ("request_rate", "prefix_hit", *DRAFT_NUMBERS, *POOL_NUMBERS)
"""Columns of numbers that most tables lack; NaN or None where not given."""

COLUMNS = frozenset(
    {*NAME_COLUMNS, *NUMBER_COLUMNS, *FLAG_COLUMNS, *RARE_NUMBERS, *DRAFT_NAMES, "moe_a2a_backend", "load"}
)
"""All columns."""

YES_OR_NO = {"true": True, "yes": True, "1": True, "1.0": True, "false": False, "no": False, "0": False,
             "0.0": False}  # fmt: skip

DEFAULTS: Mapping[str, Any] = {
    "model": "llama-70b",
    "gpu": "h100-sxm",
    "engine": "sglang",
    "isl": 1024.0,
    "osl": 256.0,
    "concurrency": 32.0,
    "dp": 1.0,
    "ep": 1.0,
    "pp": 1.0,
    "prefix_hit": 0.0,
    "lockstep": False,
    "warmed_up": True,
    "enable_mixed_chunk": False,
    "moe_a2a_backend": "none",
}
"""What `predict` takes where an option is missing. tp is then the smallest that fits."""


def is_missing(value: Any) -> bool:
    """Tell whether a cell is empty: None, NaN, pandas' NA or an empty text."""
    if value is None or (isinstance(value, str) and not value):
        return True
    try:
        return bool(value != value)
    except TypeError:  # NA compares to NA
        return True
    except ValueError:  # an array is no empty cell; it is refused as what it should be
        return False


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse a column that is no option.

    Raises
    ------
    UnknownName
    """
    for name in options:
        if name not in COLUMNS:
            raise UnknownName("option", name, COLUMNS)


def is_read(name: str, value: Any) -> bool:
    """Tell whether an option that an engine is started with is one that the prediction reads, with that value."""
    return name in COLUMNS and (name != "moe_a2a_backend" or str(value).lower() in A2A_BACKENDS)


def distinct(values: Any, default: Any) -> tuple[Codes, list[Any]]:
    """Return the distinct values of a column and where they stand, `default` in place of empty cells."""
    if hasattr(values, "factorize"):
        try:
            codes, found = values.factorize()
        except TypeError:  # a cell that is no name, such as a list
            return distinct(values.tolist(), default)
        if codes.size == 0 or codes.min() < 0 or "" in found:
            return distinct(values.tolist(), default)
        return codes, list(found)
    places: dict[Hashable, int] = {}
    filled = ((default if is_missing(value) else value) for value in values)
    each = [
        places.setdefault(value if isinstance(value, Hashable) else str(value), len(places))
        for value in filled
    ]
    return np.array(each, dtype=np.intp), list(places)


def _numbers(values: Any, name: str, refused: dict[int, RequestError]) -> Array:
    if getattr(getattr(values, "dtype", None), "kind", "O") in "iufb":
        return np.asarray(values, dtype=np.float64)
    numbers = np.full(len(values), np.nan)
    for row, value in enumerate(values):
        if is_missing(value):
            value = DEFAULTS.get(name)
        if value is None:
            continue
        try:
            numbers[row] = float(value)
        except (TypeError, ValueError):
            refused.setdefault(row, InvalidValue(f"{name} '{value}' is not a number"))
    return numbers


def number_columns(options: Mapping[str, Any], n: int, refused: dict[int, RequestError]) -> dict[str, Array]:
    """Return the columns of numbers of n rows, NaN where nothing is given and there is no default.

    A cell that is no number goes into `refused` with its row.
    """
    found = {}
    for name in (*NUMBER_COLUMNS, *(name for name in RARE_NUMBERS if name in options)):
        default = float(DEFAULTS.get(name, np.nan))
        if name in options:
            values = _numbers(options[name], name, refused)
            found[name] = np.where(np.isnan(values), default, values)
        else:
            found[name] = np.full(n, default)
    return found


def _choice(
    options: Mapping[str, Any],
    name: str,
    n: int,
    meaning: Callable[[str], Any],
    refused: dict[int, RequestError],
) -> NDArray[np.bool_]:
    """Return what each cell of a column of few words means, as yes or no; refuse what means nothing."""
    if name not in options:
        return np.full(n, meaning(str(DEFAULTS[name])), dtype=np.bool_)
    codes, words = distinct(options[name], DEFAULTS[name])
    means = np.zeros(len(words), dtype=np.bool_)
    for code, word in enumerate(words):
        try:
            means[code] = meaning(str(word))
        except RequestError as error:
            for row in np.flatnonzero(codes == code):
                refused.setdefault(int(row), error)
    return means[codes]


def _yes(name: str) -> Callable[[str], bool]:
    def meaning(word: str) -> bool:
        if word.lower() not in YES_OR_NO:
            raise InvalidValue(f"{name} '{word}' is neither yes nor no")
        return YES_OR_NO[word.lower()]

    return meaning


def _is_deepep(word: str) -> bool:
    if word.lower() not in A2A_BACKENDS:
        raise NotCovered(
            f"moe_a2a_backend '{word}' is not predicted", ["moe_a2a_backend none", "moe_a2a_backend deepep"]
        )
    return A2A_BACKENDS[word.lower()]


def flag_columns(
    options: Mapping[str, Any], n: int, refused: dict[int, RequestError]
) -> dict[str, NDArray[np.bool_]]:
    """Return the columns of yes or no of n rows, defaults filled in; "deepep" tells who exchanges by DeepEP."""
    found = {name: _choice(options, name, n, _yes(name), refused) for name in FLAG_COLUMNS}
    return found | {"deepep": _choice(options, "moe_a2a_backend", n, _is_deepep, refused)}


def load_column(
    options: Mapping[str, Any], n: int, rate: Array | None, refused: dict[int, RequestError]
) -> Codes:
    """Return the kind of load of n rows."""
    if "load" not in options and rate is None:
        return np.zeros(n, dtype=np.intp)
    said = np.full(n, -1, dtype=np.intp)
    if "load" in options:
        codes, words = distinct(options["load"], None)
        means = np.full(len(words), -1, dtype=np.intp)
        for code, word in enumerate(words):
            try:
                means[code] = -1 if word is None else load_code(str(word))
            except RequestError as error:
                for row in np.flatnonzero(codes == code):
                    refused.setdefault(int(row), error)
        said = means[codes]

    def refuse(row: int, error: RequestError) -> None:
        refused.setdefault(row, error)

    return load_kinds(said, np.full(n, np.nan) if rate is None else rate, refuse)
