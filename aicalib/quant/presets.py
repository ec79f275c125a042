"""Named choices of the four fields, and `quant_config` as tasks write it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from aicalib.errors import InvalidValue, UnknownName, fold
from aicalib.quant.config import FIELD_KEYS, QuantRequest


class Preset(NamedTuple):
    """A named choice.

    Attributes
    ----------
    name : str
    quant : QuantRequest
        What it asks for; None leaves a field open.
    note : str
        What it is for, and what it needs.
    """

    name: str
    quant: QuantRequest
    note: str


@cache
def list_presets() -> tuple[Preset, ...]:
    """Return all presets in the order of `presets.toml`."""
    raw = tomllib.loads(files("aicalib.quant").joinpath("presets.toml").read_text(encoding="utf-8"))
    return tuple(
        Preset(name, QuantRequest.from_mapping(row["fields"]), row["note"]) for name, row in raw.items()
    )


def get_preset(name: str) -> Preset:
    """Return one preset; case, `-` and `_` do not count.

    Raises
    ------
    UnknownName
    """
    for preset in list_presets():
        if fold(preset.name) == fold(name):
            return preset
    raise UnknownName("preset", name, [preset.name for preset in list_presets()])


def read_quant_config(given: Mapping[str, Any]) -> tuple[Preset, ...]:
    """Read a `quant_config`: one preset, several, or the four fields.

    Parameters
    ----------
    given : mapping
        `preset` (a name), `presets` (a list of names), or fields under the keys of `FIELD_KEYS`.

    Returns
    -------
    tuple of Preset
        One for each choice; fields make one named "custom".

    Raises
    ------
    UnknownName, InvalidValue
        For a key, a name or a format that is unknown, for two of the three ways at once, for a preset that is named
        twice.

    Examples
    --------
    >>> [each.name for each in read_quant_config({"presets": ["default", "kv-cache-fp8"]})]
    ['default', 'kv-cache-fp8']
    >>> read_quant_config({"gemm_dtype": "fp8"})[0].quant.gemm.name
    'fp8'
    """
    keys = {fold(key): key for key in given}
    ways = [key for key in ("preset", "presets") if key in keys]
    fields = {key: value for key, value in given.items() if fold(key) not in ("preset", "presets")}
    for key in fields:
        if fold(key) not in {fold(each) for each in FIELD_KEYS}:
            raise UnknownName("key of quant_config", key, ["preset", "presets", *FIELD_KEYS])
    if len(ways) + bool(fields) > 1:
        both = ", ".join([*ways, *fields])
        raise InvalidValue(
            f"quant_config has {both}: give a preset, presets, or fields", ["preset", "presets"]
        )
    if not ways:
        for key, value in fields.items():
            if not isinstance(value, str):
                raise InvalidValue(f"quant_config: {key} is {value!r}, not the name of a format", ["auto"])
        return (Preset("custom", QuantRequest.from_mapping(fields), "as the fields say"),)
    value = given[keys[ways[0]]]
    if ways == ["preset"] and isinstance(value, str):
        return (get_preset(value),)
    if ways == ["presets"] and isinstance(value, Sequence) and not isinstance(value, str) and value:
        return presets_of([str(each) for each in value])
    raise InvalidValue(
        f"quant_config: {ways[0]} is {value!r}; preset takes one name, presets a list of names",
        [preset.name for preset in list_presets()],
    )


def presets_of(names: Sequence[str]) -> tuple[Preset, ...]:
    """Return several presets.

    Raises
    ------
    UnknownName, InvalidValue
    """
    found = tuple(get_preset(name) for name in names)
    twice = {each.name for each in found if found.count(each) > 1}
    if twice:
        raise InvalidValue(f"preset {', '.join(sorted(twice))} is named twice")
    return found
