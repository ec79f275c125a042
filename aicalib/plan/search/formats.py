"""Which combinations of the four formats and of backends a search tries: what an engine starts, each physics once.

Weights and experts decide how a model is loaded, cache and attention which kernels run; the engine's rules are asked
once for each pair, with the words of its refusal kept. Modes that differ in name alone for the model (one storage,
one math, one kernel) are one choice: that which starts from the published checkpoint before one that needs its own,
and one that was measured before one that was not. Beside the engine's own kernels those backends of attention and
experts are tried that it can be told to take there and that were timed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from aicalib.deployment import Identity
from aicalib.engines.backends import ATTENTION, MOE
from aicalib.engines.launch import assemble
from aicalib.engines.request import Request, request_of
from aicalib.errors import NotCovered, RequestError
from aicalib.nearness import group_key
from aicalib.profiles.profile import DEPTH_MARK, Profile
from aicalib.quant import MODES, Field, parse_mode
from aicalib.resolve.backends import predictable
from aicalib.resolve.identify import identify, numbers_of

CHECKPOINT: Final = "PATH"
"""Stands in a command for a checkpoint in the format that it needs."""

FIELDS: Final[Mapping[str, Field]] = {"gemm": "gemm", "kv": "kvcache", "fmha": "fmha", "moe": "moe"}
"""Options of the four fields."""

BACKENDS: Final = (ATTENTION, MOE)
"""Options of backends that are varied."""

OPEN: Final = "auto"
"""Leaves a field to checkpoint, engine and accelerator."""


class Format(NamedTuple):
    """A combination of the four formats, and the backends that run it.

    Attributes
    ----------
    gemm, kv, fmha, moe : str or None
        None where left open.
    needs : str or None
        The checkpoint without which the engine does not start it; None where the published one does.
    attention_backend, moe_backend : str or None
        None where left to the engine.
    """

    gemm: str | None
    kv: str | None
    fmha: str | None
    moe: str | None
    needs: str | None
    attention_backend: str | None = None
    moe_backend: str | None = None

    @property
    def own_backends(self) -> Format:
        """The same formats, backends left to the engine."""
        return self._replace(attention_backend=None, moe_backend=None)

    @property
    def options(self) -> dict[str, str]:
        """The fields and backends that are not left open, and the checkpoint."""
        given = {name: mode for name in (*FIELDS, *BACKENDS) if (mode := getattr(self, name)) is not None}
        return given | ({"checkpoint": CHECKPOINT} if self.needs else {})


@dataclass(frozen=True)
class Formats:
    """What one engine on one accelerator offers a model.

    Attributes
    ----------
    model, gpu, engine, engine_version : str
    found : tuple of Format
        The one with every field open first.
    refused : mapping of str to str
        "gemm mxfp8" -> why the engine does not start it.
    same : mapping of str to str
        "kv fp8_e5m2" -> the one that stands for it, since both are predicted alike.
    """

    model: str
    gpu: str
    engine: str
    engine_version: str
    found: tuple[Format, ...]
    refused: Mapping[str, str]
    same: Mapping[str, str]


def formats_of(
    model: str,
    gpu: str,
    engine: str,
    engine_version: str | None,
    profile: Profile,
    only: Mapping[str, Sequence[str]],
) -> Formats:
    """Return the formats in which an engine serves a model on an accelerator.

    Parameters
    ----------
    only : mapping of str to sequence of str
        Option of a field or a backend -> the modes or backends to try ("auto" leaves it open); those that are missing
        take all.

    Raises
    ------
    RequestError
        For names that no table holds, or where the engine does not serve the model there at all.
    """
    plain = {"model": model, "gpu": gpu, "engine": engine, "engine_version": engine_version}
    base = request_of(plain)
    own = identify(model, gpu, None, None, None, None, engine, engine_version)
    refused: dict[str, str] = {}
    same: dict[str, str] = {}
    tried = _Tried(base, own, _measured(own, profile), refused, same)
    modes = {
        field: tried.modes(field, only.get(field)) for field in ("gemm", "moe") if field in _fields(base)
    }
    weights = tried.pairs("gemm", modes["gemm"], "moe", modes.get("moe", [None]))
    _need(weights, refused, 0)
    before = len(refused)
    run = [
        (pair, name)
        for pair in weights
        for name in tried.backends(MOE, dict(zip(("gemm", "moe"), pair, strict=True)), only.get(MOE))
    ]
    _need(run, refused, before)
    # Where the published weights do not start, the caches are those of weights that do.
    (gemm, moe), needs = next(iter(weights.items()))
    anchored = replace(tried, base=base.changed(Format(gemm, None, None, moe, needs).options))
    before = len(refused)
    caches = anchored.distinct(
        "kv", anchored.modes("kv", only.get("kv")), "fmha", anchored.named("fmha", only.get("fmha"))
    )
    _need(caches, refused, before)
    before = len(refused)
    attend = [
        (pair, name)
        for pair in caches
        for name in anchored.backends(
            ATTENTION, dict(zip(("kv", "fmha"), pair, strict=True)), only.get(ATTENTION)
        )
    ]
    _need(attend, refused, before)
    found = [
        Format(gemm, kv, fmha, moe, weights[gemm, moe], attention, experts)
        for (gemm, moe), experts in run
        for (kv, fmha), attention in attend
    ]
    return Formats(model, gpu, base.engine, base.engine_version, tuple(found), refused, same)


def _need(found: Sized, refused: Mapping[str, str], before: int) -> None:
    """Refuse a step that leaves nothing, by the first reason since: that with the fewest fields asked for."""
    if not found:
        raise NotCovered([*refused.values()][before])


def _fields(request: Request) -> tuple[str, ...]:
    """Return the fields that say how the weights are stored."""
    return ("gemm", "moe") if request.has_experts else ("gemm",)


def started(request: Request) -> tuple[bool, str | None]:
    """Return whether an engine starts from the published checkpoint, and else the checkpoint that makes it start.

    Raises
    ------
    RequestError
        Where neither does.
    """
    try:
        assemble(request)
    except RequestError as error:
        needs: str | None = getattr(error, "checkpoint", None)
        if needs is None:
            raise
        assemble(request.changed({"checkpoint": CHECKPOINT}))
        return False, needs
    return True, None


def _measured(own: Identity, profile: Profile) -> set[str]:
    """Return "kv fp8_e4m3" and "fp8_block" for the formats in which runs of the group were fitted."""
    group = f"{group_key(own)}{DEPTH_MARK}"
    keys = {
        key.removeprefix(group)
        for levels in profile.levels.values()
        for key in levels
        if key.startswith(group)
    }
    found: set[str] = set()
    for key in keys:
        _, *weights, _, cache = key.partition(DEPTH_MARK)[0].partition(",")[0].split()
        found |= {*weights, f"kv {cache}"}
    return found


@dataclass(frozen=True)
class _Tried:
    """Modes that are held to an engine's rules; what it refuses, and what another stands for, is noted."""

    base: Request
    own: Identity
    measured: set[str]
    refused: dict[str, str]
    same: dict[str, str]

    def named(self, field: str, only: Sequence[str] | None) -> list[str | None]:
        """Return the modes of a field to try, None for the one that leaves it open; first the accelerator's 16 bit."""
        if only is not None:
            for name in only:
                if name != OPEN:
                    parse_mode(FIELDS[field], name)
            return [None if name == OPEN else name for name in only]
        wide = {"bf16": "bfloat16", "fp16": "float16"}[self.own.accelerator.wide_format]
        return [None, *sorted((mode.name for mode in MODES[FIELDS[field]]), key=lambda name: name != wide)]

    def modes(self, field: str, only: Sequence[str] | None) -> list[str | None]:
        """Return the modes of a field that start with all others open, one for each kind of physics."""
        held: dict[tuple[float, ...], list[tuple[bool, bool, int, str | None]]] = {}
        for place, mode in enumerate(self.named(field, only)):
            spelled = f"{field} {mode or OPEN}"
            try:
                at_once, _ = started(self.base.changed({field: mode}))
                key = self._numbers({field: mode})
            except RequestError as error:
                self.refused[spelled] = str(error)
                continue
            words = f"kv {mode}" if field == "kv" else mode
            rank = mode is not None and not at_once, mode is not None and words not in self.measured
            held.setdefault(key, []).append((*rank, place, mode))
        found = []
        for each in held.values():
            best, *others = (mode for *_, mode in sorted(each, key=lambda one: one[:3]))
            self.same.update({f"{field} {mode or OPEN}": f"{field} {best or OPEN}" for mode in others})
            found.append(best)
        return found

    def pairs(
        self, first: str, modes: Sequence[str | None], second: str, others: Sequence[str | None]
    ) -> dict[tuple[str | None, str | None], str | None]:
        """Return the pairs of modes of two fields that start, each with the checkpoint that it needs."""
        found: dict[tuple[str | None, str | None], str | None] = {}
        for one in modes:
            for other in self._beside(one, second, others):
                try:
                    _, found[one, other] = started(self.base.changed({first: one, second: other}))
                except RequestError as error:
                    self.refused[f"{first} {one or OPEN}, {second} {other or OPEN}"] = str(error)
        return found

    def _beside(self, one: str | None, second: str, others: Sequence[str | None]) -> Sequence[str | None]:
        """Return what to try of a second field: experts that are left open follow explicit dense weights."""
        if one is None or second != "moe" or others == [None]:
            return others
        named = [self.own.quant.moe.name if other is None else other for other in others]
        return [None, *(other for other in named if other != one)]

    def distinct(
        self, first: str, modes: Sequence[str | None], second: str, others: Sequence[str | None]
    ) -> list[tuple[str | None, str | None]]:
        """Return the pairs that start, one for each kind of physics."""
        found: dict[tuple[float, ...], tuple[str | None, str | None]] = {}
        for one, other in self.pairs(first, modes, second, others):
            spelled = f"{first} {one or OPEN}, {second} {other or OPEN}"
            try:
                best = found.setdefault(self._numbers({first: one, second: other}), (one, other))
            except RequestError as error:
                self.refused[spelled] = str(error)
                continue
            if best != (one, other):
                self.same[spelled] = f"{first} {best[0] or OPEN}, {second} {best[1] or OPEN}"
        return list(found.values())

    def backends(
        self, option: str, formats: Mapping[str, str | None], only: Sequence[str] | None
    ) -> list[str | None]:
        """Return the backends of an option that start in some formats, one for each kind of physics.

        None, the engine's own choice, comes first. Where a format of attention is asked for, the engine's rules choose
        the backend that has it.
        """
        asked: list[str | None]
        if only is not None:
            asked = [None if name == OPEN else name for name in only]
        elif formats.get("fmha") is not None:
            return [None]
        else:
            others = [each for each in predictable(self._identity(formats), option) if each.other_kernels]
            if not others:
                return [None]
            asked = [None, *(str(each.backends.options()[option]) for each in others)]
        found: dict[tuple[float, ...], str | None] = {}
        for name in asked:
            given = {**formats, option: name}
            try:
                started(self.base.changed(given))
                found.setdefault(tuple(numbers_of(self._identity(given)).values()), name)
            except RequestError as error:
                spelled = ", ".join(f"{each} {value or OPEN}" for each, value in given.items())
                self.refused[spelled] = str(error)
        return list(found.values())

    def _numbers(self, asked: Mapping[str, str | None]) -> tuple[float, ...]:
        """Return what physics reads of the model in a format; experts stay as they are if `gemm` alone is asked for."""
        fields = dict(asked)
        if self.own.architecture.moe_layers and fields.get("moe") is None and fields.get("gemm") is not None:
            fields["moe"] = self.own.quant.moe.name
        return tuple(numbers_of(self._identity(fields)).values())

    def _identity(self, asked: Mapping[str, str | None]) -> Identity:
        own, (gemm, kv, fmha, moe) = self.own, (asked.get(name) for name in FIELDS)
        return identify(
            own.architecture.name if own.architecture.hf_id else own.architecture.source,
            own.accelerator.file or own.accelerator.name, gemm, kv, fmha, moe, own.engine, own.engine_version,
            attention_backend=asked.get(ATTENTION), moe_backend=asked.get(MOE),
        )  # fmt: skip
