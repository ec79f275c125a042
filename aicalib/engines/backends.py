"""Backends of attention and experts that a start names: words of its engine, held to where the engine has them."""

from __future__ import annotations

from functools import cache
from typing import Final

from aicalib.deployment import Backends, Identity
from aicalib.engines.cache import BACKEND_VARIABLE, hold_named
from aicalib.engines.flags import flags, trtllm_keys
from aicalib.engines.request import Request
from aicalib.engines.tables import backends, environment_words, meets, moe_backends, settings_table
from aicalib.errors import InvalidValue, NotCovered, Refusal, UnknownName, fold

ATTENTION: Final = "attention_backend"
PHASES: Final = ("prefill_attention_backend", "decode_attention_backend")
MOE: Final = "moe_backend"

BACKENDS: Final = (ATTENTION, *PHASES, MOE)
"""Options that name a backend."""

OPEN: Final = "auto"
"""Leaves a backend to the engine, as leaving it out does."""


def read_backends(
    engine: str, version: str, attention: str | None, prefill: str | None, decode: str | None, moe: str | None
) -> Backends:
    """Return the backends that are asked for, spelled as the engine spells them.

    Parameters
    ----------
    engine, version : str
    attention, prefill, decode, moe : str, optional
        Of attention in both phases, in one of them, and of the experts; the narrower one wins. Case, "-" and "_" do
        not count.

    Raises
    ------
    InvalidValue
        For a backend of one phase where the engine has one for both.
    NotCovered
        Where the version takes none.
    UnknownName
        For a word that the version does not know; near misses are the alternatives.
    """
    if engine != "sglang":
        for option, name in zip(PHASES, (prefill, decode), strict=True):
            if name is not None:
                raise InvalidValue(
                    f"{option}: {engine} has one attention backend for both", [f"{ATTENTION} {name}"]
                )
    both = _word(engine, version, ATTENTION, attention)
    first, second = (
        _word(engine, version, option, name) for option, name in zip(PHASES, (prefill, decode), strict=True)
    )
    return Backends(first or both, second or both, _word(engine, version, MOE, moe))


def _word(engine: str, version: str, option: str, name: str | None) -> str | None:
    if name is None or fold(name) == OPEN:
        return None
    known = _words(engine, version, option)
    if not known:
        raise NotCovered(f"{option} '{name}': {engine} {version} takes none", [f"without {option}"])
    if fold(name) not in known:
        raise UnknownName(f"{option} of {engine} {version}", name, known.values())
    return known[fold(name)]


@cache
def _words(engine: str, version: str, option: str) -> dict[str, str]:
    """Return the words that a version takes for an option, by what counts of them."""
    return {fold(word): word for word in _listed(engine, version, option)}


def _listed(engine: str, version: str, option: str) -> tuple[str, ...]:
    if engine == "trtllm":
        if option == ATTENTION:
            return tuple(each.name for each in backends(engine, version))
        return trtllm_keys()[settings_table()[MOE][engine][0]].choices or ()
    known = flags(engine, version)
    spellings = settings_table()[MOE][engine] if option == MOE else ["--" + option.replace("_", "-")]
    for spelling in spellings:
        if spelling in known:
            return known[spelling].choices or ()
    return environment_words(BACKEND_VARIABLE, version) if engine == "vllm" and option == ATTENTION else ()


def hold_backends(identity: Identity) -> None:
    """Hold the backends that an identity names to its engine, as `launch` does.

    Raises
    ------
    InvalidValue
        For a backend that does not run there, and for experts of a dense model.
    """
    asked, arch, gpu = identity.backends, identity.architecture, identity.accelerator
    attention = {name: backend for name, backend in asked.options().items() if name != MOE}
    if attention:
        start = Request(identity.engine, identity.engine_version, arch, gpu, settings=attention)
        hold_named(start, identity.quant.kvcache)
    if asked.moe is not None and arch.moe_layers == 0:
        raise InvalidValue(f"{MOE} '{asked.moe}': a dense model has no experts", [f"without {MOE}"])
    rows = [row for row in moe_backends(identity.engine) if row.name == asked.moe]
    if rows and not any(meets(gpu, row.nvidia, "") for row in rows):
        needs = rows[0].nvidia.replace("+", " or newer")
        raise Refusal(
            f"{MOE} '{asked.moe}' needs compute capability {needs}; {gpu.name} is {gpu.capability}",
            {MOE: None},
        )
