"""The tables of ``formats.toml``: layouts with their parts, and the steps of each compute path."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from math import inf
from typing import Any, Final

from aicalib.errors import InvalidValue, fold
from aicalib.quant.modes import Field

MATH_BITS: Final = {"fp32": 32, "bf16": 16, "fp16": 16, "fp8": 8, "int8": 8, "fp4": 4}
"""Bits of one operand in each number format of the multiply."""

RATES_WORD: Final = "rates:"
"""What the capability of a device of no known generation begins with; the formats it has a rate for follow."""


class ActivationScaling(StrEnum):
    """How the inputs of a quantized layer get their scales."""

    NONE = "none"
    PER_TENSOR_STATIC = "per_tensor_static"
    PER_TENSOR_DYNAMIC = "per_tensor_dynamic"
    PER_TOKEN_DYNAMIC = "per_token_dynamic"
    PER_GROUP_128_DYNAMIC = "per_group_128_dynamic"
    PER_GROUP_32_DYNAMIC = "per_group_32_dynamic"
    PER_GROUP_16_DYNAMIC = "per_group_16_dynamic"


@dataclass(frozen=True)
class Overhead:
    """A scale or zero point that several elements share.

    Parameters
    ----------
    bits : float
        Size of the shared value [bit].
    elements : int
        How many elements share it.
    """

    bits: float
    elements: int


@dataclass(frozen=True)
class StorageFormat:
    """The parts that one stored element is made of.

    Parameters
    ----------
    payload_bits : float
        The element itself [bit].
    scales, zeros : tuple of Overhead
        Shared scales and zero points.
    row_bits : float
        What is stored once per row of the matrix [bit].
    source : str
        Where the layout is defined.
    """

    payload_bits: float
    scales: tuple[Overhead, ...]
    zeros: tuple[Overhead, ...]
    row_bits: float
    source: str

    def bits(self, row_elements: float = inf) -> float:
        """Return the total per element.

        Parameters
        ----------
        row_elements : float, optional
            Length of a row [element]. Without it the share of ``row_bits`` is left out, which is at most
            0.8 % of 8 bits from rows of 512 on.

        Returns
        -------
        float
            Storage [bit/element], ``payload + sum(overhead / elements) + row_bits / row_elements``.
        """
        shared = sum(part.bits / part.elements for part in (*self.scales, *self.zeros))
        return self.payload_bits + shared + self.row_bits / row_elements


@dataclass(frozen=True)
class PathStep:
    """A number format of the multiply and the accelerators that have it.

    Parameters
    ----------
    math : str
        One of ``MATH_BITS``.
    nvidia : tuple of int or None
        Minimum compute capability, (major, minor); None where NVIDIA has no such step.
    amd : tuple of str
        Patterns of the AMD target.
    other : tuple of str
        Patterns of any other vendor's capability word.
    """

    math: str
    nvidia: tuple[int, int] | None
    amd: tuple[str, ...]
    other: tuple[str, ...]

    def met_by(self, vendor: str, capability: str) -> bool:
        """Tell whether the accelerator has this step.

        A capability that lists rates ("rates:bf16+fp8") has the steps of general-purpose math in those formats.

        Raises
        ------
        InvalidValue
            If an NVIDIA capability is not written as ``major.minor``.
        """
        if capability.startswith(RATES_WORD):
            listed = capability.removeprefix(RATES_WORD).split("+")
            return self.nvidia is not None and self.math in listed
        if fold(vendor) == "nvidia":
            return self.nvidia is not None and _compute_capability(capability) >= self.nvidia
        patterns = self.amd if fold(vendor) == "amd" else self.other
        return any(fnmatchcase(capability.strip().lower(), pattern) for pattern in patterns)

    def needs(self, vendor: str) -> str | None:
        """Say which accelerators of a vendor have this step; None if it has none."""
        if fold(vendor) == "nvidia":
            return f"{self.nvidia[0]}.{self.nvidia[1]} or newer for {self.math}" if self.nvidia else None
        patterns = self.amd if fold(vendor) == "amd" else self.other
        return f"{', '.join(patterns)} for {self.math}" if patterns else None


@dataclass(frozen=True)
class WeightFormat:
    """How the weights of linear layers or experts are stored and computed.

    Parameters
    ----------
    name : str
        Name of the mode.
    variant : str or None
        The layout among those of the mode; None where the mode has but one.
    storage : StorageFormat
        The stored element.
    activations : ActivationScaling
        How inputs are quantized where the multiply is narrower than 16 bit.
    online : bool
        Whether some engine makes it from a 16-bit checkpoint at load; else it needs a prepared one.
    whole_model : bool
        Whether embeddings and output head are stored in the format too; else they stay 16 bit.
    path : tuple of PathStep
        Number formats of the multiply, best first.
    """

    name: str
    variant: str | None
    storage: StorageFormat
    activations: ActivationScaling
    online: bool
    whole_model: bool
    path: tuple[PathStep, ...]


@dataclass(frozen=True)
class AttentionFormat:
    """What attention is computed with.

    Parameters
    ----------
    name : str
        Name of the mode.
    path : tuple of PathStep
        Number formats of the multiply, best first.
    source : str
        What the mode means.
    """

    name: str
    path: tuple[PathStep, ...]
    source: str


@dataclass(frozen=True)
class FormatTables:
    """All rows of ``formats.toml``.

    Parameters
    ----------
    weights : mapping of (field, mode name) to mapping
        From variant name to row; the key None holds what the mode means without a variant.
    kvcache : mapping of str to StorageFormat
        By mode name.
    fmha : mapping of str to AttentionFormat
        By mode name.
    bare_variants : frozenset of (field, mode name)
        Modes whose variants are known by their own names (``Q4_K_M``).
    """

    weights: Mapping[tuple[Field, str], Mapping[str | None, WeightFormat]]
    kvcache: Mapping[str, StorageFormat]
    fmha: Mapping[str, AttentionFormat]
    bare_variants: frozenset[tuple[Field, str]]


@cache
def format_tables() -> FormatTables:
    """Read ``formats.toml``, once."""
    raw = tomllib.loads(files("aicalib.quant").joinpath("formats.toml").read_text(encoding="utf-8"))
    paths = {name: _read_path(name, raw["paths"]) for name in raw["paths"]}
    return FormatTables(
        weights={
            (field, name): _read_variants(field, name, row, paths)
            for name, row in raw["weights"].items()
            for field in row["fields"]
        },
        kvcache={name: _read_storage(row, {}) for name, row in raw["kvcache"].items()},
        fmha={
            name: AttentionFormat(name, paths[row["path"]], row["source"])
            for name, row in raw["fmha"].items()
        },
        bare_variants=frozenset(
            (field, name)
            for name, row in raw["weights"].items()
            for field in row["fields"]
            if row.get("bare_variants", False)
        ),
    )


def _compute_capability(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)\.(\d+)", text.strip())
    if match is None:
        raise InvalidValue(
            f"'{text}' is no compute capability; write it as major.minor", ["8.0", "9.0", "10.0"]
        )
    return int(match[1]), int(match[2])


def _read_path(name: str, table: Mapping[str, Any]) -> tuple[PathStep, ...]:
    steps: list[PathStep] = []
    for step in table[name]:
        if isinstance(step, str):
            steps += _read_path(step, table)
            continue
        steps.append(
            PathStep(
                math=step["math"],
                nvidia=_compute_capability(step["nvidia"]) if "nvidia" in step else None,
                amd=tuple(step.get("amd", ())),
                other=tuple(step.get("other", ())),
            )
        )
    return tuple(steps)


def _read_variants(
    field: Field, name: str, row: Mapping[str, Any], paths: Mapping[str, tuple[PathStep, ...]]
) -> dict[str | None, WeightFormat]:
    storages: dict[str, StorageFormat] = {}
    rows: dict[str | None, WeightFormat] = {}

    def read(variant: str | None, cells: Mapping[str, Any]) -> WeightFormat:
        storage = _read_storage(cells, storages)
        if variant is not None:
            storages[variant] = storage
        return WeightFormat(
            name=name,
            variant=variant,
            storage=storage,
            activations=ActivationScaling(cells["activations"]),
            online=field in cells.get("online", ()),
            whole_model=cells.get("whole_model", False),
            path=paths[cells["path"]],
        )

    for variant, cells in row.get("variants", {}).items():
        rows[variant] = read(variant, {**row, **cells})
    rows[None] = rows[row["default"]] if "default" in row else read(None, row)
    return rows


def _read_storage(row: Mapping[str, Any], others: Mapping[str, StorageFormat]) -> StorageFormat:
    if "mix" in row:
        return _mix([(share, others[name]) for name, share in row["mix"].items()], row["source"])
    return StorageFormat(
        payload_bits=row["payload"],
        scales=tuple(Overhead(*part) for part in row.get("scales", ())),
        zeros=tuple(Overhead(*part) for part in row.get("zeros", ())),
        row_bits=row.get("row_bits", 0),
        source=row["source"],
    )


def _mix(shares: Sequence[tuple[float, StorageFormat]], source: str) -> StorageFormat:
    """Average layouts by their share of the elements; every part is linear in it."""

    def weighed(share: float, parts: Sequence[Overhead]) -> list[Overhead]:
        return [Overhead(share * part.bits, part.elements) for part in parts]

    return StorageFormat(
        payload_bits=sum(share * one.payload_bits for share, one in shares),
        scales=tuple(part for share, one in shares for part in weighed(share, one.scales)),
        zeros=tuple(part for share, one in shares for part in weighed(share, one.zeros)),
        row_bits=sum(share * one.row_bits for share, one in shares),
        source=source,
    )
