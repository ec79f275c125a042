"""What others published of the accuracy of a model in a format: shown beside its speed, never estimated.

The figures stand in `accuracy.csv`, each with its source and licence; of most models and formats none are known.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

SIXTEEN_BIT = "bfloat16"
"""What a score is set against."""


SPELLINGS = {"fp8": "fp8_e4m3"}
"""Modes of the cache that are another by a shorter name."""


class Accuracy(NamedTuple):
    """A published score.

    Attributes
    ----------
    model : str
        Catalogue name.
    field, mode : str
        The one format that the score is about ("kv", "fp8_e4m3"); all others as the source had them.
    test : str
        Name of the test; mmlu_100 are 100 questions of MMLU.
    score : float
        Share of right answers.
    of_16_bit : float or None
        The same source's score of the same test with 16 bit in that field.
    runs : int or None
        Runs that the score is the median of.
    note, source, licence : str
    """

    model: str
    field: str
    mode: str
    test: str
    score: float
    of_16_bit: float | None
    runs: int | None
    note: str
    source: str
    licence: str

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return self._asdict()


@cache
def table() -> tuple[Accuracy, ...]:
    """Return all scores that are known."""
    text = files("aicalib.plan.search").joinpath("accuracy.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    wide = {
        (row["model"], row["field"], row["test"], row["source"]): float(row["score"])
        for row in rows
        if row["mode"] == SIXTEEN_BIT
    }
    return tuple(
        Accuracy(
            row["model"], row["field"], row["mode"], row["test"], float(row["score"]),
            wide.get((row["model"], row["field"], row["test"], row["source"])),
            int(row["runs"]) if row["runs"] else None, row["note"], row["source"], row["licence"],
        )
        for row in rows
    )  # fmt: skip


def published(deployment: Mapping[str, Any]) -> tuple[Accuracy, ...]:
    """Return what is known of a model in its formats, 16 bit apart.

    Parameters
    ----------
    deployment : mapping
        With the catalogue name `model` and the modes `gemm`, `kvcache` and `moe`, as `predict --json` has them.
    """
    cache_mode = deployment["kvcache"]
    own = {
        ("gemm", deployment["gemm"]),
        ("moe", deployment["moe"]),
        ("kv", SPELLINGS.get(cache_mode, cache_mode)),
    }
    return tuple(
        each
        for each in table()
        if each.model == deployment["model"] and (each.field, each.mode) in own and each.mode != SIXTEEN_BIT
    )
