"""The context that `aicalib ingest` is given by flags: its names, checked and made canonical."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aicalib.calibrate.spellings import CANONICAL, alike
from aicalib.engines import ENGINES
from aicalib.errors import UnknownName, fold
from aicalib.quant import parse_mode

__all__ = ["alike", "canonical"]


def canonical(context: Mapping[str, Any]) -> dict[str, Any]:
    """Check the names of a context and return it with the canonical ones.

    Parameters
    ----------
    context : mapping
        Keys of the runs format (`model`, `gpu`, `engine`, `weight_quant`, `kv_dtype`, ...) as typed.

    Raises
    ------
    UnknownName
        For a model, accelerator, engine or format that no table holds, with the near misses.
    """
    given = dict(context)
    for name, lookup in CANONICAL.items():
        if name in given:
            given[name] = lookup(given[name])
    if fold(str(given.get("engine", ENGINES[0]))) not in ENGINES:
        raise UnknownName("engine", given["engine"], ENGINES)
    parse_mode("gemm", given.get("weight_quant", "auto"))
    parse_mode("kvcache", given.get("kv_dtype", "auto"))
    return given
