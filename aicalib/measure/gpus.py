"""The GPUs of this machine, by what their drivers say: no torch, no library of a vendor."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aicalib.errors import RequestError
from aicalib.hardware import get_accelerator
from aicalib.hardware.accelerator import MIB

LONGEST_S = 20.0
"""A driver's tool that says nothing for that long is left alone."""

ROOT = Path("/")

Run = Callable[[Sequence[str]], str]
"""Runs a command and returns what it printed, nothing where there is no such command or it fails."""


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes
    ----------
    name : str
        As its driver calls it.
    memory_bytes : float or None
        In all; None where the driver is not there to say.
    accelerator : str or None
        Its name in the catalogue; None where the catalogue has none of that name.
    told_by : str
        Tool or file.
    """

    name: str
    memory_bytes: float | None
    accelerator: str | None
    told_by: str


def find_gpus(run: Run | None = None, root: Path = ROOT) -> list[Gpu]:
    """Return the GPUs of this machine, each once.

    Parameters
    ----------
    run : callable, optional
        Stands in for the tools of the drivers.
    root : Path
        Where /proc and /sys lie.
    """
    run = run or _run
    return [*(_nvidia_smi(run) or _nvidia_proc(root)), *(_rocm_smi(run) or _amd_sysfs(root))]


def _run(command: Sequence[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _gpu(name: str, memory_bytes: float | None, told_by: str) -> Gpu:
    try:
        known = get_accelerator(name).name
    except RequestError:
        known = None
    return Gpu(name, memory_bytes, known, told_by)


def _nvidia_smi(run: Run) -> list[Gpu]:
    said = run(["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"])
    rows = [row for row in csv.reader(said.splitlines(), skipinitialspace=True) if len(row) == 2]
    return [_gpu(name, float(mib) * MIB if mib.isdigit() else None, "nvidia-smi") for name, mib in rows]


def _nvidia_proc(root: Path) -> list[Gpu]:
    """Read what the kernel's driver says where its tool is missing, as in many containers."""
    found = []
    for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        model = re.search(r"^Model:\s*(.+)$", path.read_text(errors="replace"), flags=re.MULTILINE)
        if model:
            found.append(_gpu(model[1].strip(), None, "/proc/driver/nvidia"))
    return found


def _rocm_smi(run: Run) -> list[Gpu]:
    said = run(["rocm-smi", "--showproductname", "--showmeminfo", "vram", "--json"])
    try:
        cards = json.loads(said or "{}")
    except json.JSONDecodeError:
        return []
    found = []
    for card in cards.values():
        told = {key.lower(): value for key, value in card.items()} if isinstance(card, dict) else {}
        name, total = told.get("card series"), str(told.get("vram total memory (b)"))
        if name:
            found.append(_gpu(str(name), float(total) if total.isdigit() else None, "rocm-smi"))
    return found


def _amd_sysfs(root: Path) -> list[Gpu]:
    """Read what the kernel's driver says where ROCm's tool is missing."""
    found = []
    for path in sorted((root / "sys/class/drm").glob("card*/device/mem_info_vram_total")):
        product = path.with_name("product_name")
        name = product.read_text(errors="replace").strip() if product.exists() else ""
        found.append(_gpu(name or "AMD GPU", float(path.read_text()), "/sys/class/drm"))
    return found
