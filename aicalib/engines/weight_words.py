"""Formats of weights in words, and where they are to be had: checkpoints, models of the catalogue, other engines."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from aicalib.engines.releases import newest_version
from aicalib.engines.request import Request
from aicalib.models import Architecture, relatives
from aicalib.quant import ParsedMode, parse_mode
from aicalib.quant.modes import QuantMode


def label(request: Request, gemm: ParsedMode[QuantMode], moe: ParsedMode[QuantMode]) -> str:
    """Say formats in the words of the options."""
    if request.has_experts is not True or gemm.spelled() == moe.spelled():
        return f"gemm {gemm.spelled()}"
    return f"gemm {gemm.spelled()} with moe {moe.spelled()}"


def checkpoint_name(request: Request, gemm: ParsedMode[QuantMode], moe: ParsedMode[QuantMode]) -> str:
    """Say which checkpoint is needed."""
    name = request.architecture.name if request.architecture else "the model"
    if request.has_experts is True and gemm.spelled() != moe.spelled():
        return f"{name} in {gemm.spelled()} with experts in {moe.spelled()}"
    return f"{name} in {gemm.spelled()}"


def catalogued(
    request: Request, gemm: ParsedMode[QuantMode], moe: ParsedMode[QuantMode]
) -> Iterable[dict[str, object]]:
    """Yield the models of the family whose published checkpoint is in the formats asked for."""
    arch = request.architecture
    if arch is None or not arch.family:
        return
    for other in _relatives(arch.family):
        dense = parse_mode("gemm", other.weight_format)
        experts = parse_mode("moe", other.expert_weight_format)
        if other.name != arch.name and dense == gemm and (not request.has_experts or experts == moe):
            yield {"model": other.name}


@cache
def _relatives(family: str) -> tuple[Architecture, ...]:
    """Return the models of the catalogue that are of one architecture."""
    return tuple(relatives(family))


def other_engines(request: Request) -> list[dict[str, object]]:
    """Return the newest versions of the engine and of the others, as options to change."""
    newest: list[dict[str, object]] = [{"engine_version": newest_version(request.engine)}]
    others = [each for each in ("sglang", "vllm") if each != request.engine]
    return newest + [{"engine": each, "engine_version": newest_version(each)} for each in others]
