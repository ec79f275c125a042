"""The datasheet of one accelerator as software sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

FORMATS = ("fp32", "tf32", "fp16", "bf16", "fp8", "int8", "fp4")
"""Number formats of the rates, in the order of the columns of the catalogue."""

GENERATIONS = {
    "8.0": "ampere",
    "8.6": "ampere",
    "8.7": "ampere",
    "8.9": "ada",
    "9.0": "hopper",
    "10.0": "blackwell",
    "10.3": "blackwell",
    "12.0": "blackwell_sm120",
    "12.1": "blackwell_sm120",
}
"""CUDA compute capability -> the generation whose kernels it runs. Others have no measured relative."""

MIB = 2**20
GIB = 2**30
GIGA = 1e9
TERA = 1e12

CPU = "CPU"
"""Vendor of a machine without an accelerator: engines run on its processor, and its memory is the machine's."""


@dataclass(frozen=True)
class Accelerator:
    """Datasheet of one device as software sees it.

    Attributes
    ----------
    name : str
        Catalogue name.
    vendor, architecture : str
    capability : str
        CUDA compute capability ("9.0"), the compiler target of other vendors ("gfx942"), or, for a device of no
        known generation, the formats that it has a rate for ("rates:bf16+fp8").
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
        datasheet, to be replaced by a measurement; "user": from a file of the user.
    source, notes : str
        Where the figures come from, and what to know before using them.
    file : str
        Absolute path of the user's file that it was read from; empty for the catalogue.
    taken_bytes : float
        Memory that other programs hold before an engine starts, in bytes: 0 on a GPU, which an engine has to itself.
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
    file: str = ""
    taken_bytes: float = 0.0

    @property
    def is_cpu(self) -> bool:
        """Whether it is a processor and no accelerator beside one."""
        return self.vendor == CPU

    @property
    def gpus_together(self) -> int:
        """Devices that exchange without a network: those of a node, or of a larger link domain."""
        return max(self.gpus_per_node, self.link_gpus)

    @property
    def generation(self) -> str | None:
        """The generation whose kernels it runs, a value of `GENERATIONS`; None where no kernel was timed on one."""
        return GENERATIONS.get(self.capability) if self.vendor == "NVIDIA" else None

    @property
    def wide_format(self) -> str:
        """The 16-bit format that it multiplies in: BF16 where it has a rate for it."""
        return "bf16" if "bf16" in self.peak_flops else "fp16"
