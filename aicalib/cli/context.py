"""The context that `aicalib ingest` is given by flags: its names, checked and made canonical."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aicalib.engines import ENGINES
from aicalib.errors import NotCovered, RequestError, UnknownName, fold
from aicalib.hardware import get_accelerator
from aicalib.models import get_architecture
from aicalib.quant import parse_mode


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


def alike(key: str, stated: str, given: str) -> bool:
    """Tell whether a file's text and the context's are spellings of one name, such as "H100" and "h100-sxm"."""
    return (
        key in CANONICAL
        and (meaning := _meaning(key, stated)) is not None
        and meaning == _meaning(key, given)
    )


def _meaning(name: str, stated: str) -> str | None:
    try:
        return CANONICAL[name](stated)
    except RequestError:
        return None


def _model(name: str) -> str:
    """Return the Hugging Face id; a config.json that has none is known by its path."""
    try:
        found = get_architecture(name)
    except NotCovered:  # a measured run is worth keeping before the model can be predicted
        return name
    return found.hf_id or str(Path(name).resolve())


def _gpu(name: str) -> str:
    """Return the name in the catalogue; a user's own accelerator is known by the path of its file."""
    found = get_accelerator(name)
    return found.file or found.name


CANONICAL: Mapping[str, Callable[[str], str]] = {"model": _model, "gpu": _gpu}
"""What turns any spelling of a key into the one that is stored."""
