"""A user's own accelerator, read from a short TOML file.

    name = "my-gpu"
    memory_gib = 96
    bandwidth_gb_s = 3000
    [peak_tflops]
    bf16 = 500

All keys are described in `docs/accelerators.md`.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aicalib.errors import InvalidValue, UnknownName, fold
from aicalib.hardware.accelerator import CPU, FORMATS, GIB, GIGA, TERA, Accelerator
from aicalib.quant.tables import RATES_WORD

SUFFIX = ".toml"
"""What the name of an accelerator ends in when it is a file."""

NUMBERS: Mapping[str, tuple[float, float, str]] = {
    "memory_gib": (1, 4096, "GiB (2^30 bytes), as the driver reports it"),
    "bandwidth_gb_s": (10, 100_000, "GB/s (1e9 bytes a second)"),
    "link_gb_s": (1, 10_000, "GB/s in one direction, all links of one device together"),
    "link_gpus": (1, 100_000, "devices that one link domain joins"),
    "gpus_per_node": (1, 1024, "devices of one server"),
    "pcie_gb_s": (1, 1000, "GB/s in one direction"),
    "power_w": (1, 100_000, "watts"),
    "taken_gib": (0, 4096, "GiB that other programs hold before an engine starts"),
}
"""Keys with a number: lowest, highest, and the unit. The ranges catch another unit, not a bold design."""

COUNTS = ("link_gpus", "gpus_per_node")
"""Numbers that are whole."""

PEAK_TFLOPS = (0.1, 1_000_000.0)
"""Range of a dense peak in 1e12 operations a second."""

CPU_BANDWIDTH_GB_S = (0.5, 10_000)
CPU_PEAK_TFLOPS = (1e-4, 1000.0)
"""The same two ranges for a processor, one core of which may be all that there is."""

TEXTS = ("name", "like", "vendor", "generation", "capability", "link", "source", "notes")
"""Keys with a text."""

KEYS = (*TEXTS, *NUMBERS, "peak_tflops")

NEEDED = ("memory_gib", "bandwidth_gb_s", "peak_tflops")
"""Keys that only `like` makes dispensable, beside `name`."""


def read_accelerator(
    path: str | Path, catalogue: Mapping[str, Accelerator], spellings: Mapping[str, str]
) -> Accelerator:
    """Read an accelerator file.

    Parameters
    ----------
    path : str or Path
    catalogue : mapping of str to Accelerator
        What `like` and `generation` refer to, by name.
    spellings : mapping of str to str
        Folded name or alias -> name in the catalogue.

    Returns
    -------
    Accelerator
        Its `file` is the absolute path.

    Raises
    ------
    InvalidValue
        If the file cannot be read, a key is missing or unknown, or a figure is outside its range.
    """
    given = _checked(path, _table(path))
    if fold(given["name"]) in spellings:
        raise _wrong(path, f"name '{given['name']}' is one of the catalogue; give yours another")
    figures: dict[str, Any] = {}
    if "like" in given:
        like = spellings.get(fold(given["like"]))
        if like is None:
            raise _unknown(path, "accelerator in like:", given["like"], tuple(catalogue))
        figures = as_file(catalogue[like])
        figures["source"] = f"as {like} where not given; {Path(path).name}"
        figures["notes"] = ""
        if "generation" in given or "capability" in given:
            del figures["generation"], figures["capability"], figures["vendor"]
        # A new link, or another number of devices where all were joined, joins all of them.
        all_joined = figures["link_gpus"] == figures["gpus_per_node"] and "gpus_per_node" in given
        if all_joined or ("link_gb_s" in given and "link_gb_s" not in figures):
            del figures["link_gpus"]
    missing = [key for key in NEEDED if not (given.get(key) or figures.get(key))]
    if missing:
        raise _wrong(path, f"{', '.join(missing)} missing; say it, or name a similar GPU with like", missing)
    peaks = {**figures.get("peak_tflops", {}), **given.get("peak_tflops", {})}
    figures = {"source": Path(path).name} | figures | given | {"peak_tflops": peaks}

    def scaled(key: str) -> float | None:
        return figures[key] * GIGA if key in figures else None

    link, pcie = scaled("link_gb_s"), scaled("pcie_gb_s")
    # Devices that nothing joins stand alone; eight is the usual server.
    together = int(figures.get("gpus_per_node", 8 if link or pcie else 1))
    joined = int(figures.get("link_gpus", together if link else 1))
    if together > (joined if link else 1) and not pcie:
        joins = f"the link joins {joined}" if link else "nothing joins them"
        reason = f"gpus_per_node = {together}, but {joins}; say pcie_gb_s or link_gb_s, or gpus_per_node = 1"
        raise _wrong(path, reason, ["pcie_gb_s", "link_gb_s"])
    return Accelerator(
        name=figures["name"],
        **_generation(path, figures, catalogue),
        memory_bytes=figures["memory_gib"] * GIB,
        bandwidth_bytes_s=figures["bandwidth_gb_s"] * GIGA,
        peak_flops={form: rate * TERA for form, rate in peaks.items()},
        link_name=figures.get("link", ""),
        link_bytes_s=link,
        link_gpus=joined,
        pcie_bytes_s=pcie,
        power_w=figures.get("power_w"),
        gpus_per_node=together,
        confidence="user",
        source=figures["source"],
        notes=figures.get("notes", ""),
        file=str(Path(path).resolve()),
        taken_bytes=figures.get("taken_gib", 0.0) * GIB,
    )


def as_file(accelerator: Accelerator) -> dict[str, Any]:
    """Return all figures of an accelerator under the keys of a file: read again, they give the same device."""
    figures: dict[str, float | None] = {
        "memory_gib": accelerator.memory_bytes / GIB,
        "bandwidth_gb_s": accelerator.bandwidth_bytes_s / GIGA,
        "link_gb_s": accelerator.link_bytes_s and accelerator.link_bytes_s / GIGA,
        "link_gpus": accelerator.link_gpus,
        "gpus_per_node": accelerator.gpus_per_node,
        "pcie_gb_s": accelerator.pcie_bytes_s and accelerator.pcie_bytes_s / GIGA,
        "power_w": accelerator.power_w,
        "taken_gib": accelerator.taken_bytes / GIB or None,
    }
    texts = {
        "name": accelerator.name,
        "vendor": accelerator.vendor,
        "generation": accelerator.architecture,
        "capability": "" if accelerator.capability.startswith(RATES_WORD) else accelerator.capability,
        "link": accelerator.link_name,
        "source": accelerator.source,
        "notes": accelerator.notes,
    }
    return {
        **{key: text for key, text in texts.items() if text},
        **{key: figure for key, figure in figures.items() if figure is not None},
        "peak_tflops": {form: rate / TERA for form, rate in accelerator.peak_flops.items()},
    }


def as_toml(figures: Mapping[str, Any]) -> str:
    """Return the text of an accelerator file with these keys; figures are kept to six digits."""

    def written(value: object) -> str:
        return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else f"{value:.6g}"

    plain = [f"{key} = {written(value)}" for key, value in figures.items() if key != "peak_tflops"]
    peaks = [f"{form} = {written(rate)}" for form, rate in figures["peak_tflops"].items()]
    return "\n".join([*plain, "", "[peak_tflops]", *peaks, ""])


def _wrong(path: str | Path, reason: str, alternatives: list[str] | None = None) -> InvalidValue:
    return InvalidValue(f"accelerator file {path}: {reason}", alternatives or [])


def _table(path: str | Path) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise _wrong(path, str(error.strerror)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _wrong(path, f"is no TOML: {error}") from error


def _checked(path: str | Path, given: dict[str, Any]) -> dict[str, Any]:
    """Return the table of a file after a look at every key and value."""
    on_cpu = fold(str(given.get("vendor", ""))) == fold(CPU)
    for key, value in given.items():
        if key in TEXTS:
            if not isinstance(value, str) or not value.strip():
                raise _wrong(path, f"{key} = {value!r} is not a text in quotes")
        elif key in NUMBERS:
            low, high, unit = NUMBERS[key]
            if key == "bandwidth_gb_s" and on_cpu:
                low, high = CPU_BANDWIDTH_GB_S
            _number(path, key, value, low, high, unit)
            if key in COUNTS and value % 1:
                raise _wrong(path, f"{key} = {value} is not a whole number")
        elif key != "peak_tflops":
            raise _unknown(path, "key", key, KEYS)
    peaks = given.get("peak_tflops", {})
    if not isinstance(peaks, dict):
        raise _wrong(path, "peak_tflops is a table of formats: [peak_tflops], then for example bf16 = 500")
    for form, rate in peaks.items():
        if form not in FORMATS:
            raise _unknown(path, "format in [peak_tflops]:", form, FORMATS)
        limits = CPU_PEAK_TFLOPS if on_cpu else PEAK_TFLOPS
        _number(path, f"peak_tflops.{form}", rate, *limits, "1e12 dense operations a second")
    if "name" not in given:
        raise _wrong(path, "name missing", ["name"])
    return given


def _number(path: str | Path, key: str, value: object, low: float, high: float, unit: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(path, f"{key} = {value!r} is not a number")
    if not low <= value <= high:
        raise _wrong(path, f"{key} = {value:g} is not between {low:g} and {high:g}; the unit is {unit}")


def _unknown(path: str | Path, what: str, name: str, known: tuple[str, ...]) -> InvalidValue:
    error = UnknownName(what, name, known)
    return _wrong(path, str(error), error.alternatives)


def _generation(
    path: str | Path, figures: Mapping[str, Any], catalogue: Mapping[str, Accelerator]
) -> dict[str, str]:
    """Return vendor, architecture and capability; what is not given is that of the generation's GPUs.

    A device of no known generation multiplies in the formats that it has a rate for, and its capability says
    just that.
    """
    generation, capability = figures.get("generation", ""), figures.get("capability", "")
    kin = [
        each
        for each in catalogue.values()
        if capability in ("", each.capability) and fold(generation) in ("", fold(each.architecture))
    ]
    if not generation and not capability:
        rates = "+".join(form for form in FORMATS if form in figures["peak_tflops"])
        vendor = figures.get("vendor", "")
        vendor = CPU if fold(vendor) == fold(CPU) else vendor
        return {"vendor": vendor, "architecture": "", "capability": RATES_WORD + rates}
    if kin:
        choices = sorted({each.capability for each in kin})
        if len(choices) > 1:
            reason = (
                f"generation '{generation}' is capability {' or '.join(choices)}; say which with capability"
            )
            raise _wrong(path, reason, choices)
        vendor = figures.get("vendor", kin[0].vendor)
        return {"vendor": vendor, "architecture": kin[0].architecture, "capability": choices[0]}
    if not capability:
        known = {each.architecture for each in catalogue.values()}
        raise _unknown(path, "generation", generation, tuple(known))
    if "vendor" not in figures:
        reason = f"no GPU of the catalogue has capability '{capability}'"
        raise _wrong(
            path, f"{reason}{f' and generation {generation!r}' if generation else ''}; say vendor too"
        )
    return {"vendor": figures["vendor"], "architecture": generation, "capability": capability}
