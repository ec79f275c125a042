"""What an engine version starts on an accelerator: each format of each field, tried through the rules of `launch`."""

from __future__ import annotations

from typing import NamedTuple

from aicalib.engines.launch import Launch, assemble, launch
from aicalib.engines.request import request_of
from aicalib.engines.trtllm import FILE
from aicalib.errors import RequestError
from aicalib.quant import MODES, Field

CHECKPOINT = "PATH"
"""Stands for a checkpoint in the format that is tried."""

EXTRA = ("--extra_llm_api_options", FILE)
"""Words of a command that say no more than that there is a file."""

OPTIONS: dict[Field, str] = {"gemm": "gemm", "kvcache": "kv", "fmha": "fmha", "moe": "moe"}


class Supported(NamedTuple):
    """Whether one format starts.

    Attributes
    ----------
    engine, engine_version, field, mode : str
    how : str
        "online" (from the published 16-bit checkpoint), "offline" (from a checkpoint in the format) or "-".
    arguments : tuple of str
        What it adds to the command.
    reason : str or None
        Why it does not start.
    alternatives : tuple of str
        What starts instead.
    """

    engine: str
    engine_version: str
    field: str
    mode: str
    how: str
    arguments: tuple[str, ...]
    reason: str | None
    alternatives: tuple[str, ...]


def support(engine: str, engine_version: str | None, gpu: str, model: str) -> list[Supported]:
    """Return what starts of every format of every field, all other fields open.

    Raises
    ------
    RequestError
        Where the plain deployment does not start, or a name is unknown.
    """
    plain = {"engine": engine, "engine_version": engine_version, "gpu": gpu, "model": model}
    base = launch(request_of(plain))
    found = []
    for field, enum in MODES.items():
        for mode in enum:
            if field == "moe" and not request_of(plain).has_experts:
                continue
            options: dict[str, object] = {**plain, OPTIONS[field]: mode.name}
            if field == "fmha" and mode.name == "fp8":
                options["kv"] = "fp8"
            found.append(_tried(base, field, mode.name, options))
    return found


def _tried(base: Launch, field: Field, mode: str, options: dict[str, object]) -> Supported:
    where = (base.engine, base.engine_version, field, mode)
    request = request_of(options)
    try:
        return Supported(*where, "online", _added(base, launch(request)), None, ())
    except RequestError as error:
        reason, alternatives = str(error), tuple(error.alternatives)
    if field in ("gemm", "moe"):
        try:
            stored = assemble(request.changed({"checkpoint": CHECKPOINT}))
            return Supported(*where, "offline", _added(base, stored), reason, alternatives)
        except RequestError as error:
            reason = str(error)
    return Supported(*where, "-", (), reason, alternatives)


def _added(base: Launch, other: Launch) -> tuple[str, ...]:
    """Return the words of a command, and lines of its files, that another does not have."""
    lines = [line.strip() for text in other.files.values() for line in text.splitlines()]
    known = {line.strip() for text in base.files.values() for line in text.splitlines()}
    words = [word for word in other.argv if word not in base.argv and word not in (CHECKPOINT, *EXTRA)]
    return (*words, *(line for line in lines if line not in known))
