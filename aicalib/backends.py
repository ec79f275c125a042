"""Backends that a question names: those that can be predicted, and what the others are refused for.

A backend answers by the timings of its own kernels on the accelerator or one of its generation, the engine's own choice
by what `kernels.csv` has for it. What the engine does not run there, and what was not timed, is refused with what would
work.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from aicalib.deployment import Backends, Identity
from aicalib.engines.backends import ATTENTION, MOE, hold_backends, read_backends
from aicalib.engines.kernels import MODE, timed_backends
from aicalib.errors import NotCovered, NotTimed, RequestError
from aicalib.layer_kernels import PHASES, attention_kinds, attention_of, chosen_kernels, expert_class
from aicalib.profiles import kernels
from aicalib.quant import FMHAQuantMode


def with_backends(asked: Identity) -> Identity:
    """Return an identity with all that the backends which it names change: math of attention, notes.

    Raises
    ------
    InvalidValue, NotCovered
        For a backend that the engine does not run there.
    NotTimed
        For one without timings.
    """
    try:
        return _held(asked)
    except NotCovered as error:
        choices = backend_choices(asked)
        options = ([ATTENTION] if any(asked.backends[:2]) else []) + ([MOE] if asked.backends.moe else [])
        working = [f"{option} {name}" for option in options for name in choices.get(option, ())]
        hint = f"; {', '.join(working)} would work" if working else ""
        raise type(error)(f"{error}{hint}", working) from error


def backend_choices(identity: Identity) -> dict[str, tuple[str, ...]]:
    """Return the backends that can be named and predicted, by option; the engine's own choice comes first."""
    plain = replace(identity, backends=Backends())
    found: dict[str, tuple[str, ...]] = {}
    for option, name in _candidates(plain):
        try:
            backends = read_backends(
                identity.engine, identity.engine_version, name if option == ATTENTION else None, None, None,
                name if option == MOE else None,
            )  # fmt: skip
            _held(replace(plain, backends=backends))
        except RequestError:
            continue
        found[option] = (*found.get(option, ()), str(backends.options()[option]))
    return found


def _candidates(identity: Identity) -> Iterator[tuple[str, str]]:
    """Yield option and name of the backends that have a surface, which the engine may yet refuse."""
    where = (identity.engine, identity.engine_version, identity.accelerator)
    arch, cache = identity.architecture, identity.quant.kvcache
    formats = (MODE + cache.name, "wide" if cache.value.memory >= 2 else "fp8")
    names = [
        name
        for kind in attention_kinds(arch)
        for name in timed_backends(*where, kind.partition("+")[0], formats)
    ]
    yield from ((ATTENTION, name) for name in dict.fromkeys(names))
    if arch.moe_layers:
        form = expert_class(identity)
        yield from (
            (MOE, name) for name in timed_backends(*where, "moe", (MODE + identity.quant.moe.name, form))
        )


def _held(asked: Identity) -> Identity:
    """Hold backends to engine, timings and model."""
    arch, gpu = asked.architecture, asked.accelerator
    hold_backends(asked.engine, asked.engine_version, asked.backends, arch, gpu)
    for kind in attention_kinds(arch):
        for phase in PHASES:
            attention_of(asked, kind, phase)
    own, named = chosen_kernels(replace(asked, backends=Backends())), chosen_kernels(asked)
    changed = {name: kernels.code(kind, gpu, variant) for name, (kind, variant) in named.items()
               if named[name] != own[name]}  # fmt: skip
    for name, (_, origin) in changed.items():
        if origin == "datasheet":
            backend = (
                asked.backends.moe if name == "moe" else getattr(asked.backends, name.rpartition("_")[2])
            )
            raise NotTimed(
                f"{backend} of {asked.engine}: not timed on {gpu.name} or another of its generation"
            )
    if not changed:
        return asked
    quant = asked.quant
    if asked.asked.fmha is None and asked.backends.prefill is not None:
        math = attention_of(asked, attention_kinds(arch)[0], "prefill").math
        wide = FMHAQuantMode.bfloat16 if gpu.wide_format == "bf16" else FMHAQuantMode.float16
        quant = replace(quant, fmha=FMHAQuantMode.fp8 if math == "fp8" else wide)
    words = ", ".join(f"{option} {name}" for option, name in asked.backends.options().items())
    note = f"{words}: other kernels than {asked.engine} takes by itself, as they were timed"
    notes = tuple(each for each in asked.notes if quant == asked.quant or not each.startswith("fmha:"))
    return replace(asked, quant=quant, notes=(*notes, note), other_kernels=True)
