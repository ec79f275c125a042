"""The accelerators that aicalib knows, read from `accelerators.csv`.

Each row holds datasheet figures of one device with their source: dense rates without sparsity, with fp32
accumulation where the hardware makes a difference; memory as the driver reports it; the link as one
direction of one device. An empty rate means that the hardware lacks that math, never that it is unknown.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from aicalib.errors import AicalibError, UnknownName, fold

FORMATS = ("fp32", "tf32", "fp16", "bf16", "fp8", "int8", "fp4")
"""Number formats of the rates, in the order of the columns."""

MIB = 2**20
GIGA = 1e9
TERA = 1e12


@dataclass(frozen=True)
class Accelerator:
    """Datasheet of one device as software sees it.

    Attributes
    ----------
    name : str
        Catalogue name.
    vendor, architecture : str
    capability : str
        CUDA compute capability ("9.0"), or the compiler target of other vendors ("gfx942").
    memory_bytes : float
        Total that the driver reports, in bytes.
    bandwidth_bytes_s : float
        Peak memory bandwidth in bytes per second.
    peak_flops : mapping of str to float
        Dense peak rate in operations per second by number format, keys out of `FORMATS`. A format that
        is absent is one the hardware has no math for.
    link_name : str
        Link between devices; empty where there is only the host bus. "(pairs)" marks a bridge.
    link_bytes_s : float or None
        All links of one device together, one direction, in bytes per second; None without a link.
    link_gpus : int
        Devices that one link domain joins: 1 without a link, 2 for a bridged pair, 72 for a rack.
    pcie_bytes_s : float or None
        Host bus, one direction, in bytes per second; None where the device has no such bus.
    power_w : float or None
        Board power limit in watts; None where none is published.
    gpus_per_node : int
        Devices in the largest usual server (one tray of a rack).
    confidence : str
        "high": datasheet and a second source agree; "medium": one source or a minor conflict; "low": no
        datasheet, to be replaced by a measurement.
    source, notes : str
        Where the figures come from, and what to know before using them.
    """

    name: str
    vendor: str
    architecture: str
    capability: str
    memory_bytes: float
    bandwidth_bytes_s: float
    peak_flops: Mapping[str, float] = field(hash=False)
    link_name: str
    link_bytes_s: float | None
    link_gpus: int
    pcie_bytes_s: float | None
    power_w: float | None
    gpus_per_node: int
    confidence: str
    source: str
    notes: str


def get_accelerator(name: str) -> Accelerator:
    """Find an accelerator by name or alias; case, separators and the vendor's name do not count.

    Parameters
    ----------
    name : str
        For example "h100-sxm", "H100-SXM5-80GB", or "NVIDIA H100 80GB HBM3" as torch prints it.

    Returns
    -------
    Accelerator

    Raises
    ------
    UnknownName
        No row and no alias of that name; the near misses are the alternatives.
    """
    by_name, spellings = _read()
    row = spellings.get(fold(name))
    if row is None:
        raise UnknownName("accelerator", name, by_name)
    return by_name[row]


def list_accelerators() -> list[Accelerator]:
    """Return all accelerators in the order of the data file."""
    return list(_read()[0].values())


@cache
def _read() -> tuple[dict[str, Accelerator], dict[str, str]]:
    """Read the data file: accelerators by name, and names by folded spelling."""
    by_name: dict[str, Accelerator] = {}
    spellings: dict[str, str] = {}
    text = files("aicalib.hardware").joinpath("accelerators.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        accelerator = _accelerator(row)
        by_name[accelerator.name] = accelerator
        for spelling in _spellings(row):
            owner = spellings.setdefault(fold(spelling), accelerator.name)
            if owner != accelerator.name:
                raise AicalibError(f"'{spelling}' names two accelerators: {owner} and {accelerator.name}")
    return by_name, spellings


def _spellings(row: Mapping[str, str]) -> Iterator[str]:
    for spelling in (row["name"], *row["aliases"].split("|")):
        if spelling:
            yield spelling
            yield f"{row['vendor']} {spelling}"


def _accelerator(row: Mapping[str, str]) -> Accelerator:
    def optional(column: str, scale: float) -> float | None:
        return float(row[column]) * scale if row[column] else None

    rates = {form: optional(f"{form}_tflops", TERA) for form in FORMATS}
    return Accelerator(
        name=row["name"],
        vendor=row["vendor"],
        architecture=row["architecture"],
        capability=row["capability"],
        memory_bytes=float(row["memory_mib"]) * MIB,
        bandwidth_bytes_s=float(row["bandwidth_gb_s"]) * GIGA,
        peak_flops={form: rate for form, rate in rates.items() if rate is not None},
        link_name=row["link"],
        link_bytes_s=optional("link_gb_s", GIGA),
        link_gpus=int(row["link_gpus"]),
        pcie_bytes_s=optional("pcie_gb_s", GIGA),
        power_w=optional("power_w", 1.0),
        gpus_per_node=int(row["gpus_per_node"]),
        confidence=row["confidence"],
        source=row["source"],
        notes=row["notes"],
    )
