"""What the machine is: its processor, memory and caches, as Linux tells; elsewhere what Python itself knows."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aicalib.errors import AicalibError

KIB = 2**10
ROOT = Path("/")


@dataclass(frozen=True)
class Machine:
    """A processor as one rank of an engine has it: the cores and the memory of one memory node.

    Attributes
    ----------
    model : str
        What the processor calls itself.
    cores : int
        Physical cores of the node that this process may use.
    node_cpus : frozenset of int
        Their logical processors; empty where the system does not say.
    nodes : int
        Memory nodes of the machine.
    memory_bytes : float
        Memory of one node, or what the container may use of it.
    free_bytes : float or None
        What of it a program can still take; None where the system does not say.
    cache_bytes : float or None
        Last-level caches of the node together; None where the system does not say.
    flags : frozenset of str
        Instructions beyond the plain ones, in Linux's words.
    unread : tuple of str
        What could not be read here.
    """

    model: str
    cores: int
    node_cpus: frozenset[int]
    nodes: int
    memory_bytes: float
    free_bytes: float | None
    cache_bytes: float | None
    flags: frozenset[str]
    unread: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self) | {"flags": sorted(self.flags), "node_cpus": sorted(self.node_cpus)}


def this_machine(root: Path = ROOT) -> Machine:
    """Read what this machine is.

    Parameters
    ----------
    root : Path
        Where /proc and /sys lie.

    Raises
    ------
    AicalibError
        If not even the size of the memory can be read.
    """
    first = _first_processor(_text(root / "proc/cpuinfo"))
    nodes = _nodes(root)
    here = _allowed()
    # A rank of SGLang and of vLLM is bound to one memory node; the first that this process may use stands for all.
    cpus = next((each & here for each in nodes if each & here), here)
    count = max(len(nodes), 1)
    memory, free = _memory(root)
    cache = _last_level_cache(root, cpus)
    unread = [
        words
        for words, value in (
            ("the processor's instructions: rates of narrow formats are left out", first),
            ("free memory: taken_gib is left out, as if nothing else ran", free),
            ("the last-level cache: each array of the stream is 64 MiB", cache),
        )
        if not value
    ]
    model = first.get("model name") or platform.processor() or platform.machine() or "processor"
    return Machine(
        model=model.strip(),
        cores=_cores(root, cpus) or os.cpu_count() or 1,
        node_cpus=frozenset(cpus),
        nodes=count,
        memory_bytes=memory / count,
        free_bytes=None if free is None else free / count,
        cache_bytes=cache,
        flags=frozenset((first.get("flags") or first.get("Features") or "").split()),
        unread=tuple(unread),
    )


def free_memory_bytes(root: Path = ROOT) -> float | None:
    """Return what a program can still take of one memory node, in bytes; None where the system does not say.

    As SGLang counts it: the kernel's MemAvailable, or less where a container may use less
    (sgl-project/sglang@v0.5.23 srt/utils/common.py, `get_free_cpu_memory`), over the memory nodes.
    """
    free = _memory(root)[1]
    return None if free is None else free / max(len(_nodes(root)), 1)


@contextmanager
def bound_to(cpus: frozenset[int]) -> Iterator[None]:
    """Keep this process to some logical processors, where the system can."""
    if not cpus or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _text(path: Path) -> str:
    """Return what a file of the system says, nothing where there is none."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _first_processor(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _allowed() -> set[int]:
    return set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else set()


def _listed(text: str) -> set[int]:
    """Read a list of processors: "0-3,8"."""
    ranges = [part.partition("-") for part in text.split(",") if part]
    return {each for low, _, high in ranges for each in range(int(low), int(high or low) + 1)}


def _nodes(root: Path) -> list[set[int]]:
    """Return the processors of each memory node; nodes without any are memory alone."""
    folders = sorted((root / "sys/devices/system/node").glob("node[0-9]*"))
    found = [_listed(_text(folder / "cpulist")) for folder in folders]
    return [each for each in found if each]


def _cores(root: Path, cpus: set[int]) -> int:
    """Count the physical cores behind logical processors."""
    topology = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    return len({_text(root / topology.format(cpu)) or str(cpu) for cpu in cpus})


def _last_level_cache(root: Path, cpus: set[int]) -> float | None:
    """Add up the distinct caches of the highest level in bytes."""
    found: dict[tuple[int, str], float] = {}
    for cpu in cpus:
        for folder in (root / f"sys/devices/system/cpu/cpu{cpu}/cache").glob("index*"):
            size = re.fullmatch(r"(\d+)K", _text(folder / "size"))
            level = _text(folder / "level")
            if size and level:
                found[int(level), _text(folder / "shared_cpu_list")] = float(size[1]) * KIB
    highest = max((level for level, _ in found), default=None)
    return sum(size for (level, _), size in found.items() if level == highest) or None


def _memory(root: Path) -> tuple[float, float | None]:
    """Return the memory in bytes that this process may have at most, and what is free of it."""
    lines = re.findall(r"^(\w+):\s+(\d+) kB", _text(root / "proc/meminfo"), flags=re.MULTILINE)
    said = {name: float(value) * KIB for name, value in lines}
    total, free = said.get("MemTotal"), said.get("MemAvailable")
    group = root / "sys/fs/cgroup"
    most, used = (_text(group / name) for name in ("memory.max", "memory.current"))
    if total is not None and most.isdigit():
        total = min(total, float(most))
        if free is not None and used.isdigit():
            free = min(free, max(float(most) - float(used), 0.0))
    if total is None:
        try:
            total = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        except (AttributeError, ValueError, OSError):
            raise AicalibError("the size of this machine's memory cannot be read") from None
    return total, free
