"""CUDA and PyTorch, where their versions were given, held to what accelerators and formats need."""

from __future__ import annotations

from collections.abc import Iterable

from aicalib.engines.request import Request
from aicalib.engines.tables import software_table
from aicalib.errors import InvalidValue, Refusal


def check_software(request: Request, formats: Iterable[str]) -> None:
    """Hold CUDA, where its version was given, to what the accelerator and the formats need."""
    cuda = request.get("cuda_version")
    if cuda is None:
        return
    table = software_table()
    gpu = request.accelerator
    needs = {}
    if gpu is not None and gpu.vendor == "NVIDIA" and gpu.capability in table["capability"]:
        needs[f"compute capability {gpu.capability}"] = table["capability"][gpu.capability]
    for name in formats:
        if name in table["weights"]:
            needs[name] = table["weights"][name]["cuda"]
    hold_software("cuda_version", cuda, needs)


def hold_software(option: str, given: str, needs: dict[str, str]) -> None:
    """Refuse a version of CUDA or PyTorch that is older than something needs.

    Raises
    ------
    Refusal
    """
    at = _numbers(option, given)
    for what, least in needs.items():
        if at < _numbers(option, least):
            name = {"cuda_version": "CUDA", "torch_version": "PyTorch"}[option]
            raise Refusal(
                f"{option} {given}: {what} needs {name} {least} or newer", {option: max(needs.values())}
            )


def _numbers(option: str, text: str) -> tuple[int, ...]:
    parts = text.split("+")[0].split(".")
    if not all(part.isdigit() for part in parts):
        raise InvalidValue(f"{option} '{text}' is no version; write it as 12.8", ["12.8"])
    return tuple(int(part) for part in parts)[:2]
