"""The gates that a question for a kernel goes through: what the engine loads there, then the rules of `kernels.csv`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from aicalib.engines.defaults import version_number
from aicalib.engines.kernels import ANY, REFUSED, Rule, generations, order, rules_of
from aicalib.engines.loading import hold_cache, loads
from aicalib.engines.releases import version_key
from aicalib.errors import NotCovered, UnknownName, fold
from aicalib.hardware import Accelerator
from aicalib.quant import Field, ParsedMode

PRIORITIES: Final = ("latency", "throughput")
"""What a kernel is chosen for where an engine has one for few rows and one for many."""

ATTENTION: Final = {
    "attention": "full",
    "window_attention": "window",
    "sink_attention": "sinks",
    "unequal_attention": "unequal",
    "wide_attention": "wide_head",
    "mla": "latent",
    "sparse_mla": "sparse",
    "linear_attention": "linear",
}
"""Kinds of attention layers, as operators name them -> as rules do."""

PHASES: Final = ("prefill", "decode")

OPERATORS: Final[Mapping[str, tuple[Field, str]]] = {
    "gemm": ("gemm", "gemm"),
    "moe": ("moe", "moe"),
    **{f"{name}_{phase}": ("kvcache", kind) for name, kind in ATTENTION.items() for phase in PHASES},
    "kv_quantize": ("kvcache", "kv_quantize"),
    "kv_dequantize": ("kvcache", "kv_dequantize"),
    "activation_quantize": ("gemm", "activation_quantize"),
}
"""Operators: the field whose modes they take, and the kind of their rules."""

WEIGHTS: Final = ("gemm", "moe", "activation_quantize")
"""Operators that read weights; all others read the cache."""


class Asked(NamedTuple):
    """A question, checked."""

    operator: str
    parsed: ParsedMode[Any]
    engine: str
    version: str
    accelerator: Accelerator
    backend: str | None
    priority: str
    stack: tuple[tuple[str, str], ...]

    @property
    def kind(self) -> str:
        """The kind of the operator's rules."""
        return OPERATORS[self.operator][1]

    @property
    def label(self) -> str:
        """Engine and accelerator, for messages."""
        return f"{self.engine} {self.version} on {self.accelerator.name}"


def hold_format(asked: Asked) -> None:
    """Hold a question to what the engine loads there, as `launch` does.

    Raises
    ------
    NotCovered
    """
    where = (asked.engine, asked.version, asked.accelerator)
    if asked.operator in WEIGHTS:
        loads(*where, OPERATORS[asked.operator][0], asked.parsed)
    else:
        hold_cache(*where, asked.parsed.mode)


def choose(asked: Asked, kind: str, formats: tuple[str, ...], backend: str | None) -> Rule:
    """Return the rule that answers."""
    words = generations(asked.accelerator)
    general = (ANY,) if asked.accelerator.vendor == "NVIDIA" else ()
    at = version_number(asked.version)
    found = [
        rule
        for rule in rules_of(asked.engine, kind)
        if not rule.generations.isdisjoint((*words, *general))
        and not rule.formats.isdisjoint((*formats, ANY))
        and rule.priority in (asked.priority, ANY)
    ]
    present = [rule for rule in found if rule.versions.includes(at)]
    if backend is None:
        present = [rule for rule in present if not rule.named]
    else:
        refusing = [rule for rule in present if rule.backend == REFUSED]
        of_name = [rule for rule in present if fold(rule.backend) == fold(backend)]
        known = sorted({rule.backend for rule in rules_of(asked.engine, kind)} - {REFUSED})
        if fold(backend) not in map(fold, known):
            raise UnknownName(f"{kind} backend of {asked.engine}", backend, known)
        if not of_name:
            others = sorted({rule.backend for rule in present} - {REFUSED})
            reason = refusing[0].source if refusing else f"there it has {', '.join(others) or 'none'}"
            raise NotCovered(f"backend {backend} does not run it: {reason}")
        present = of_name
    if not present:
        later = [rule for rule in found if rule.versions.since > at]
        reason = "a later version has it" if later else "no table holds one"
        raise NotCovered(f"no kernel is known: {reason}")
    best = max(present, key=lambda rule: (order(rule, words, formats), rule.priority != ANY))
    if best.backend == REFUSED:
        raise NotCovered(best.source)
    return best


def hold(asked: Asked, rule: Rule) -> list[str]:
    """Hold a rule to the vendor's software; return what could not be checked."""
    if not rule.needs:
        return []
    name, least = rule.needs.split()
    given = {fold(key): value for key, value in asked.stack}.get(fold(name))
    if given is None:
        return [f"needs {rule.needs} or newer"]
    if (version_key(given) or (0,)) < (version_key(f"{least}.0") or (0,)):
        raise NotCovered(f"it needs {rule.needs} or newer, and {name} is {given}")
    return []
