"""Backends that a question names: those that can be predicted, and what the others are refused for.

A backend answers by the timings of its own kernels on the accelerator or one of its generation, the engine's own choice
by what `kernels.csv` has for it. What the engine does not run there, and what was not timed, is refused with what would
work.
"""

from __future__ import annotations

from dataclasses import replace

from aicalib.deployment import Backends, Identity
from aicalib.engines.backends import ATTENTION, MOE, hold_backends, read_backends
from aicalib.engines.kernels import MODE, timed_backends
from aicalib.errors import NotCovered, NotTimed, Refusal, RequestError
from aicalib.profiles import kernels
from aicalib.quant import FMHAQuantMode
from aicalib.resolve.layer_kernels import PHASES, attention_kinds, attention_of, chosen_kernels, expert_class
from aicalib.resolve.widened import attended_cache


def with_backends(asked: Identity) -> Identity:
    """Return an identity with all that the backends which it names change: math of attention, notes.

    Raises
    ------
    InvalidValue, NotCovered
        For a backend that the engine does not run there, or experts of a dense model.
    NotTimed
        For one without timings.
    """
    try:
        return _held(asked)
    except (NotCovered, Refusal) as error:
        choices = backend_choices(asked)
        options = ([ATTENTION] if any(asked.backends[:2]) else []) + ([MOE] if asked.backends.moe else [])
        working = [f"{option} {name}" for option in options for name in choices.get(option, ())]
        hint = f"; {', '.join(working)} would work" if working else ""
        kind = NotTimed if isinstance(error, NotTimed) else NotCovered
        raise kind(f"{error}{hint}", working) from error


def backend_choices(identity: Identity) -> dict[str, tuple[str, ...]]:
    """Return the backends that can be named and predicted, by option; the engine's own choice comes first."""
    found = {
        option: tuple(str(each.backends.options()[option]) for each in predictable(identity, option))
        for option in (ATTENTION, MOE)
    }
    return {option: names for option, names in found.items() if names}


def predictable(identity: Identity, option: str) -> list[Identity]:
    """Return an identity with each backend of attention or of experts that can be named, the engine's own first.

    Parameters
    ----------
    identity : Identity
        Whatever it names itself does not count.
    option : str
        `ATTENTION` or `MOE`.
    """
    found = []
    engine, version = identity.engine, identity.engine_version
    for name in _candidates(identity, option):
        attention, experts = (name, None) if option == ATTENTION else (None, name)
        try:
            backends = read_backends(engine, version, attention, None, None, experts)
            found.append(_held(replace(identity, backends=backends)))
        except RequestError:
            continue
    return found


def _candidates(identity: Identity, option: str) -> tuple[str, ...]:
    """Return the backends that have a surface, which the engine may yet refuse."""
    where = (identity.engine, identity.engine_version, identity.accelerator)
    arch, cache = identity.architecture, attended_cache(identity)
    if option == ATTENTION:
        formats = (MODE + cache.name, "wide" if cache.value.memory >= 2 else "fp8")
        kinds = [kind.partition("+")[0] for kind in attention_kinds(arch)]
        names = [name for kind in kinds for name in timed_backends(*where, kind, formats)]
        return tuple(dict.fromkeys(names))
    if not arch.moe_layers:
        return ()
    return timed_backends(*where, "moe", (MODE + identity.quant.moe.name, expert_class(identity)))


def _held(asked: Identity) -> Identity:
    """Hold backends to engine, timings and model."""
    arch, gpu = asked.architecture, asked.accelerator
    hold_backends(asked)
    kinds = attention_kinds(arch)
    for kind in kinds:
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
    if asked.asked.fmha is None and asked.backends.prefill is not None and kinds:
        math = attention_of(asked, kinds[0], "prefill").math
        wide = FMHAQuantMode.bfloat16 if gpu.wide_format == "bf16" else FMHAQuantMode.float16
        quant = replace(quant, fmha=FMHAQuantMode.fp8 if math == "fp8" else wide)
    words = ", ".join(f"{option} {name}" for option, name in asked.backends.options().items())
    note = f"{words}: other kernels than {asked.engine} takes by itself, as they were timed"
    notes = tuple(each for each in asked.notes if quant == asked.quant or not each.startswith("fmha:"))
    return replace(asked, quant=quant, notes=(*notes, note), other_kernels=True)
