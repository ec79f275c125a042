"""The accelerators that aicalib knows, read from `accelerators.csv`.

Each row holds datasheet figures of one device with their source: dense rates without sparsity, with fp32
accumulation where the hardware makes a difference; memory as the driver reports it; the link as one
direction of one device. An empty rate means that the hardware lacks that math, never that it is unknown.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files

from aicalib.errors import AicalibError, UnknownName, fold
from aicalib.hardware.accelerator import FORMATS, GIGA, MIB, TERA, Accelerator
from aicalib.hardware.file import SUFFIX, read_accelerator


def get_accelerator(name: str) -> Accelerator:
    """Find an accelerator of the catalogue by name or alias, or read a user's file.

    Parameters
    ----------
    name : str
        For example "h100-sxm", "H100-SXM5-80GB", or "NVIDIA H100 80GB HBM3" as torch prints it: case, separators
        and the vendor's name do not count. Anything that ends in ".toml" is the path of a file.

    Returns
    -------
    Accelerator

    Raises
    ------
    UnknownName
        No row and no alias of that name; the near misses are the alternatives.
    InvalidValue
        If a file cannot be read or says what cannot be.
    """
    by_name, spellings = _read()
    if name.lower().endswith(SUFFIX):
        return read_accelerator(name, by_name, spellings)
    row = spellings.get(fold(name))
    if row is None:
        raise UnknownName("accelerator", name, by_name, listed_by="aicalib list gpus")
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
