"""What a user asked of the four fields, and the four modes that a deployment ends up with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

from aicalib.errors import InvalidValue, UnknownName, fold
from aicalib.quant.formats import weight_format
from aicalib.quant.modes import (
    MODES,
    Field,
    FMHAQuantMode,
    GEMMQuantMode,
    KVCacheQuantMode,
    MoEQuantMode,
    QuantMode,
)
from aicalib.quant.names import AUTO, ParsedMode, parse_mode

ModeInput: TypeAlias = str | QuantMode | None
"""A spelling, a member of the field's enum, or None for ``auto``."""

FIELD_KEYS: Final[dict[str, Field]] = {
    "gemm": "gemm",
    "gemm_dtype": "gemm",
    "gemm_quant_mode": "gemm",
    "kvcache": "kvcache",
    "kv": "kvcache",
    "kvcache_dtype": "kvcache",
    "kv_cache_dtype": "kvcache",
    "kvcache_quant_mode": "kvcache",
    "fmha": "fmha",
    "attention_dtype": "fmha",
    "fmha_dtype": "fmha",
    "fmha_quant_mode": "fmha",
    "moe": "moe",
    "moe_dtype": "moe",
    "moe_quant_mode": "moe",
}
"""Keys that a mapping may give the four fields by."""

_DESCRIBED: Final[dict[str, str]] = {
    "gemm": "GEMM",
    "kvcache": "KV cache",
    "fmha": "attention",
    "moe": "experts",
}


@dataclass(frozen=True)
class QuantConfig:
    """The four modes of one deployment, all decided.

    Parameters
    ----------
    gemm : GEMMQuantMode
        Dense linear layers.
    kvcache : KVCacheQuantMode
        Keys and values.
    fmha : FMHAQuantMode
        Attention.
    moe : MoEQuantMode
        Experts; without meaning for a dense model.
    gemm_variant, moe_variant : str, optional
        The layout among those of the mode; kept in the spelling of its table.

    Raises
    ------
    UnknownName, InvalidValue
        If a mode has no such variant.
    """

    gemm: GEMMQuantMode
    kvcache: KVCacheQuantMode
    fmha: FMHAQuantMode
    moe: MoEQuantMode
    gemm_variant: str | None = None
    moe_variant: str | None = None

    def __post_init__(self) -> None:
        _settle_variants(self)

    @classmethod
    def from_mapping(cls, given: Mapping[str, ModeInput]) -> QuantConfig:
        """Build it from a mapping that decides all four fields; keys and errors as :class:`QuantRequest`.

        Raises
        ------
        InvalidValue
            Also if a field is missing or ``auto``.
        """
        request = QuantRequest.from_mapping(given)
        if request.gemm is None or request.kvcache is None or request.fmha is None or request.moe is None:
            raise InvalidValue(f"{', '.join(request.open_fields())} must be given", list(MODES))
        return cls(
            request.gemm,
            request.kvcache,
            request.fmha,
            request.moe,
            request.gemm_variant,
            request.moe_variant,
        )

    def to_mapping(self) -> dict[str, str]:
        """Return the four fields as strings that :meth:`from_mapping` reads back."""
        return {field: _spelled(self, field) for field in MODES}

    def describe(self) -> str:
        """Return one line for people, such as ``GEMM fp8, KV cache fp8_e4m3, attention fp8, experts fp8``."""
        return ", ".join(f"{_DESCRIBED[field]} {text}" for field, text in self.to_mapping().items())


@dataclass(frozen=True)
class QuantRequest:
    """What a user asked of the four fields; None leaves a field to the model, the engine and the accelerator.

    Parameters
    ----------
    gemm, kvcache, fmha, moe : member of the field's enum, optional
        As in :class:`QuantConfig`.
    gemm_variant, moe_variant : str, optional
        The layout among those of the mode; kept in the spelling of its table.

    Raises
    ------
    UnknownName, InvalidValue
        If a mode has no such variant, or there is a variant without a mode.
    """

    gemm: GEMMQuantMode | None = None
    kvcache: KVCacheQuantMode | None = None
    fmha: FMHAQuantMode | None = None
    moe: MoEQuantMode | None = None
    gemm_variant: str | None = None
    moe_variant: str | None = None

    def __post_init__(self) -> None:
        _settle_variants(self)

    @classmethod
    def from_mapping(cls, given: Mapping[str, ModeInput]) -> QuantRequest:
        """Read the four fields from a mapping.

        Parameters
        ----------
        given : mapping
            Keys are those of ``FIELD_KEYS``; case, ``-`` and ``_`` do not count. Values are spellings
            (:func:`aicalib.quant.names.parse_mode`), members of the field's enum, or None for ``auto``.

        Raises
        ------
        UnknownName
            If a key or a spelling is unknown.
        InvalidValue
            If a spelling may mean several modes, a member belongs to another field, or two keys give one
            field different modes.
        """
        keys = {fold(key): field for key, field in FIELD_KEYS.items()}
        found: dict[Field, ParsedMode[QuantMode] | None] = {}
        for key, value in given.items():
            if fold(key) not in keys:
                raise UnknownName("quantization field", key, FIELD_KEYS)
            field = keys[fold(key)]
            parsed = _parse(field, value)
            if field in found and found[field] != parsed:
                raise InvalidValue(f"{field} is given twice, as different modes")
            found[field] = parsed
        modes = {field: parsed.mode for field, parsed in found.items() if parsed}
        layouts = {field: parsed.variant for field, parsed in found.items() if parsed}
        return cls(
            cast(GEMMQuantMode | None, modes.get("gemm")),
            cast(KVCacheQuantMode | None, modes.get("kvcache")),
            cast(FMHAQuantMode | None, modes.get("fmha")),
            cast(MoEQuantMode | None, modes.get("moe")),
            layouts.get("gemm"),
            layouts.get("moe"),
        )

    def to_mapping(self) -> dict[str, str]:
        """Return the four fields as strings that :meth:`from_mapping` reads back, open ones as ``auto``."""
        return {field: _spelled(self, field) for field in MODES}

    def open_fields(self) -> list[Field]:
        """List the fields that were left open."""
        return [field for field in MODES if getattr(self, field) is None]

    def filled(self, defaults: QuantConfig) -> QuantConfig:
        """Decide the open fields; a variant comes with its mode.

        Parameters
        ----------
        defaults : QuantConfig
            What the open fields become.
        """
        return QuantConfig(
            self.gemm or defaults.gemm,
            self.kvcache or defaults.kvcache,
            self.fmha or defaults.fmha,
            self.moe or defaults.moe,
            self.gemm_variant if self.gemm else defaults.gemm_variant,
            self.moe_variant if self.moe else defaults.moe_variant,
        )


def _settle_variants(holder: QuantConfig | QuantRequest) -> None:
    """Check the variants and bring them to their table's spelling, so that equal layouts compare equal."""
    modes: dict[str, GEMMQuantMode | MoEQuantMode | None] = {"gemm": holder.gemm, "moe": holder.moe}
    for field, mode in modes.items():
        variant: str | None = getattr(holder, f"{field}_variant")
        if variant is None:
            continue
        if mode is None:
            raise InvalidValue(f"{field}_variant '{variant}' needs a {field} mode")
        object.__setattr__(holder, f"{field}_variant", weight_format(mode, variant).variant)


def _spelled(holder: QuantConfig | QuantRequest, field: Field) -> str:
    mode: QuantMode | None = getattr(holder, field)
    return AUTO if mode is None else ParsedMode(mode, getattr(holder, f"{field}_variant", None)).spelled()


def _parse(field: Field, value: ModeInput) -> ParsedMode[QuantMode] | None:
    if value is None:
        return None
    if isinstance(value, str):
        return parse_mode(field, value)
    if not isinstance(value, MODES[field]):
        raise InvalidValue(f"{value} is no {MODES[field].__name__}", [mode.name for mode in MODES[field]])
    return ParsedMode(value)
