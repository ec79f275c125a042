"""What GPUs cost and draw: a TOML file of the user's own, or the example that is shipped.

    currency = "EUR"
    date = 2026-11-01
    source = "our contract"
    [gpu.h100-sxm]
    per_hour = 2.10
    busy_w = 640
    idle_w = 110

All keys are described in `docs/plan.md`.
"""

from __future__ import annotations

import datetime
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from math import isfinite
from pathlib import Path
from typing import Any, Final

from aicalib.errors import InvalidValue, UnknownName, fold
from aicalib.hardware import Accelerator, get_accelerator

EXAMPLE: Final = "example"
"""Name of the prices that are shipped."""

KEYS: Final = ("example", "currency", "date", "source", "pue", "energy_per_kwh", "gpu")
GPU_KEYS: Final = ("per_hour", "busy_w", "idle_w", "source")

_RANGES: Final[Mapping[str, tuple[float, float, str]]] = {
    "per_hour": (0.0, 10_000.0, "for one GPU and hour"),
    "busy_w": (1.0, 100_000.0, "watts of one GPU"),
    "idle_w": (0.0, 100_000.0, "watts of one GPU"),
    "pue": (1.0, 10.0, "power of the site over power of its servers"),
    "energy_per_kwh": (0.0, 1_000.0, "for one kWh"),
}
"""Numbers: lowest, highest, and what they are. The ranges catch another unit, not a bold contract."""


@dataclass(frozen=True)
class Rate:
    """One GPU.

    Attributes
    ----------
    per_hour : float
        Price of one GPU and hour.
    busy_w, idle_w : float or None
        Power of one GPU under load and without; None where the file does not say.
    """

    per_hour: float
    busy_w: float | None
    idle_w: float | None


@dataclass(frozen=True)
class Prices:
    """Prices and power.

    Attributes
    ----------
    gpus : mapping of str to Rate
        By folded catalogue name, or by the name of a user's own accelerator.
    names : tuple of str
        The GPUs as the file spells them.
    currency, date, source : str
    example : bool
        It is no offer.
    pue : float or None
        Power of the site over power of its servers; None where not known: power is then that of the GPUs alone.
    energy_per_kwh : float or None
        What a kWh costs on top of the price; None where the price holds it.
    path : str
        The file.
    """

    gpus: Mapping[str, Rate]
    names: tuple[str, ...]
    currency: str
    date: str
    source: str
    example: bool
    pue: float | None
    energy_per_kwh: float | None
    path: str

    @property
    def warning(self) -> str:
        """What is said beside the shipped example."""
        return f"prices in {self.currency} are an EXAMPLE of {self.date}, no offer: give your own ({self.source})"

    def of(self, accelerator: Accelerator) -> Rate:
        """Return what one GPU costs.

        Raises
        ------
        InvalidValue
            If the file has no price of it; with the lines to add.
        """
        found = self.gpus.get(fold(accelerator.name))
        if found is None:
            where = "a file of your own" if self.path == EXAMPLE else self.path
            raise InvalidValue(
                f"{self.path} has no price of {accelerator.name}; it has {', '.join(self.names)}",
                [f"[gpu.{accelerator.name}] and below it per_hour = PRICE, in {where}", "--gpu without it"],
            )
        return found


@dataclass(frozen=True)
class Power:
    """Power of one GPU, its share of the site included where that is known.

    Attributes
    ----------
    busy_w, idle_w : float
        Under full load and without any [W].
    note : str
        What of it was not said by the user; empty if nothing.
    """

    busy_w: float
    idle_w: float
    note: str

    def at(self, utilisation: Any) -> Any:
        """Return the power at a utilisation [W]: idle + (busy - idle) x utilisation.

        Notes
        -----
        The straight line is that of Fan, Weber and Barroso, "Power provisioning for a warehouse-sized computer",
        ISCA 2007, section 4.2, fitted there to servers.
        """
        return self.idle_w + (self.busy_w - self.idle_w) * utilisation


def load_prices(name: str | Path) -> Prices:
    """Read a file of prices, or the shipped example by the name "example".

    Raises
    ------
    InvalidValue
        If there is no such file, it is no TOML, or a key is missing or holds a wrong value.
    UnknownName
        For a key that there is not; the near misses are the alternatives.
    """
    if str(name) == EXAMPLE:
        return _read(
            files("aicalib.plan").joinpath("example_prices.toml").read_text(encoding="utf-8"),
            EXAMPLE,
        )
    try:
        return _read(Path(name).read_text(encoding="utf-8"), str(name))
    except FileNotFoundError:
        raise InvalidValue(f"there is no {name}", [EXAMPLE]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidValue(f"cannot read {name}: {error}", [EXAMPLE]) from error


def power_of(accelerator: Accelerator, prices: Prices | None) -> Power | None:
    """Return what one GPU draws, None where neither the prices nor the catalogue say it.

    Parameters
    ----------
    accelerator : Accelerator
    prices : Prices, optional

    Raises
    ------
    InvalidValue
        If energy has a price and its power is not known, or that without load is above that under load.
    """
    rate = prices.of(accelerator) if prices else Rate(0.0, None, None)
    busy_w = rate.busy_w or accelerator.power_w
    if busy_w is None and prices is not None and prices.energy_per_kwh is not None:
        raise InvalidValue(
            f"{prices.path} has a price of energy, and nobody says what {accelerator.name} draws",
            [f"busy_w = WATTS under [gpu.{accelerator.name}]"],
        )
    if busy_w is None:
        return None
    notes = [] if rate.busy_w else [f"{busy_w:g} W under load is the board's limit"]
    if rate.idle_w is None:
        notes.append("idle power is not known and taken as that under load")
    pue = prices.pue if prices else None
    if pue is None:
        notes.append("no PUE is given: GPUs alone")
    idle_w = busy_w if rate.idle_w is None else rate.idle_w
    if idle_w > busy_w:
        raise InvalidValue(
            f"idle_w {idle_w:g} of {accelerator.name} is above its power under load, {busy_w:g} W"
        )
    return Power(busy_w * (pue or 1.0), idle_w * (pue or 1.0), "; ".join(notes))


def _read(text: str, path: str) -> Prices:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidValue(f"{path} is no TOML: {error}") from error
    for key in table:
        if key not in KEYS:
            raise UnknownName(f"key of {path}", key, KEYS)
    currency, date, source = (table.get(key) for key in ("currency", "date", "source"))
    if not isinstance(currency, str) or not currency.strip():
        raise InvalidValue(f"{path} has no currency", ['currency = "USD"'])
    if not isinstance(date, datetime.date):
        raise InvalidValue(f"{path} has no date on which its prices held", ["date = 2026-11-01"])
    if not isinstance(source, str) or not source.strip():
        raise InvalidValue(f"{path} does not say where its prices come from", ['source = "our contract"'])
    gpus = table.get("gpu")
    if not isinstance(gpus, dict) or not gpus:
        raise InvalidValue(f"{path} has no GPU", ["[gpu.h100-sxm] with per_hour = PRICE"])
    found: dict[str, Rate] = {}
    for name, content in gpus.items():
        key = fold(_catalogue_name(name))
        if key in found:
            raise InvalidValue(f"{path} has {name} twice, under two spellings")
        found[key] = _rate(path, name, content)
    return Prices(
        gpus=found,
        names=tuple(gpus),
        currency=currency,
        date=date.isoformat(),
        source=source,
        example=table.get("example") is True,
        pue=_number(path, "pue", table),
        energy_per_kwh=_number(path, "energy_per_kwh", table),
        path=path,
    )


def _catalogue_name(name: str) -> str:
    """Return the catalogue's name of a GPU, the one given where it is the user's own."""
    try:
        return get_accelerator(name).name
    except UnknownName:
        return name


def _rate(path: str, name: str, content: Any) -> Rate:
    where = f"gpu.{name}"
    if not isinstance(content, dict):
        raise InvalidValue(
            f"{path}: {where} is {content!r}, not a table", [f"[{where}] with per_hour = {content}"]
        )
    for key in content:
        if key not in GPU_KEYS:
            raise UnknownName(f"key of {where} in {path}", key, GPU_KEYS)
    per_hour = _number(path, "per_hour", content, f"{where}.")
    if per_hour is None:
        raise InvalidValue(f"{path}: {where} has no price", [f"per_hour = PRICE under [{where}]"])
    busy_w, idle_w = (_number(path, key, content, f"{where}.") for key in ("busy_w", "idle_w"))
    return Rate(per_hour, busy_w, idle_w)


def _number(path: str, key: str, holder: Mapping[str, Any], where: str = "") -> float | None:
    value = holder.get(key)
    if value is None:
        return None
    low, high, unit = _RANGES[key]
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    if not is_number or not low <= value <= high:
        raise InvalidValue(f"{path}: {where}{key} is {value!r}; it is {low:g} to {high:g}, {unit}")
    return float(value)
