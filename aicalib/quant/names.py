"""Every spelling of a quantization mode, resolved to the mode and its variant."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Generic, Literal, NamedTuple, TypeVar, overload

from aicalib.errors import InvalidValue, UnknownName, fold
from aicalib.quant.formats import variants
from aicalib.quant.modes import (
    MODES,
    Field,
    FMHAQuantMode,
    GEMMQuantMode,
    KVCacheQuantMode,
    MoEQuantMode,
    QuantMode,
)
from aicalib.quant.tables import format_tables

M = TypeVar("M", bound=QuantMode, covariant=True)

AUTO = "auto"
"""The spelling that leaves a field to the model, the engine and the accelerator."""


class ParsedMode(NamedTuple, Generic[M]):
    """A mode and, where the spelling named one, its variant.

    Parameters
    ----------
    mode : GEMMQuantMode, KVCacheQuantMode, FMHAQuantMode or MoEQuantMode
        The mode.
    variant : str or None
        One of ``variants(mode)``; always None for the KV cache and attention.
    """

    mode: M
    variant: str | None = None

    def spelled(self) -> str:
        """Write it so that :func:`parse_mode` reads it back."""
        return self.mode.name if self.variant is None else f"{self.mode.name}:{self.variant}"


@overload
def parse_mode(field: Literal["gemm"], text: str) -> ParsedMode[GEMMQuantMode] | None: ...
@overload
def parse_mode(field: Literal["kvcache"], text: str) -> ParsedMode[KVCacheQuantMode] | None: ...
@overload
def parse_mode(field: Literal["fmha"], text: str) -> ParsedMode[FMHAQuantMode] | None: ...
@overload
def parse_mode(field: Literal["moe"], text: str) -> ParsedMode[MoEQuantMode] | None: ...
@overload
def parse_mode(field: Field, text: str) -> ParsedMode[QuantMode] | None: ...
def parse_mode(field: Field, text: str) -> ParsedMode[Any] | None:
    """Resolve what a user typed for one of the four fields.

    Parameters
    ----------
    field : {"gemm", "kvcache", "fmha", "moe"}
        The field.
    text : str
        A mode, ``mode:variant`` or any alias; case, ``-``, ``_``, ``.``, ``:`` and blanks do not count.

    Returns
    -------
    ParsedMode or None
        None for ``auto``.

    Raises
    ------
    UnknownName
        If no mode of the field is spelled so; the alternatives are near misses.
    InvalidValue
        If the spelling may mean several modes; the alternatives are those.

    Examples
    --------
    >>> parse_mode("gemm", "GPTQ:8").spelled()
    'int8_wo:gptq'
    >>> parse_mode("kvcache", "auto") is None
    True
    """
    folded = fold(text)
    if folded == AUTO:
        return None
    known = spellings(field)
    if folded in known:
        return known[folded]
    choices = _ambiguous(field).get(folded)
    if choices:
        raise InvalidValue(f"{field} mode '{text}' may mean {' or '.join(choices)}; say which", choices)
    names = [*_canonical(field), *_written_aliases(field), AUTO]
    raise UnknownName(f"{field} mode", text, names, listed_by="aicalib list modes")


@cache
def spellings(field: Field) -> Mapping[str, ParsedMode[Any]]:
    """Map every folded spelling of a field to what it means.

    Names of modes and variants come first, then aliases, then variants that go by their own name.

    Raises
    ------
    ValueError
        If the data file gives one alias two meanings.
    """
    known = {fold(name): parsed for name, parsed in _canonical(field).items()}
    for alias, target in _written_aliases(field).items():
        meant = _canonical(field)[target]
        if known.setdefault(fold(alias), meant) != meant:
            raise ValueError(f"{field} alias '{alias}' stands for {meant} and for {known[fold(alias)]}")
    for parsed in _canonical(field).values():
        if (field, parsed.mode.name) in format_tables().bare_variants and parsed.variant is not None:
            known.setdefault(fold(parsed.variant), parsed)
    return MappingProxyType(known)


@cache
def _canonical(field: Field) -> Mapping[str, ParsedMode[Any]]:
    """Map ``mode`` and ``mode:variant`` to themselves."""

    def of(mode: QuantMode) -> Iterator[ParsedMode[Any]]:
        yield ParsedMode(mode)
        if isinstance(mode, GEMMQuantMode | MoEQuantMode):
            yield from (ParsedMode(mode, variant) for variant in variants(mode))

    return {parsed.spelled(): parsed for mode in MODES[field] for parsed in of(mode)}


@cache
def _aliases_file() -> Mapping[str, Any]:
    return tomllib.loads(files("aicalib.quant").joinpath("aliases.toml").read_text(encoding="utf-8"))


def _sections(field: Field) -> Iterable[str]:
    return ("weights", field) if field in ("gemm", "moe") else (field,)


def _written_aliases(field: Field) -> dict[str, str]:
    """Map each alias, as the file writes it, to ``mode`` or ``mode:variant``."""
    return {
        alias: target
        for section in _sections(field)
        for target, aliases in _aliases_file()[section].items()
        for alias in aliases
    }


def _ambiguous(field: Field) -> dict[str, list[str]]:
    tables = _aliases_file()["ambiguous"]
    return {
        fold(text): choices
        for section in _sections(field)
        for text, choices in tables.get(section, {}).items()
    }
