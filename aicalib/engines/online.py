"""Formats made from 16-bit weights while an engine loads them: by one method, or by one for each kind of layer."""

from __future__ import annotations

from aicalib.engines.command import Command
from aicalib.engines.loading import PLAIN, is_of, needs, offered, runs_on
from aicalib.engines.request import Request
from aicalib.engines.tables import Method, methods
from aicalib.engines.weight_words import catalogued, checkpoint_name, label, other_engines
from aicalib.errors import Refusal
from aicalib.quant import ParsedMode, parse_mode
from aicalib.quant.modes import QuantMode


def make_online(
    command: Command, gemm: ParsedMode[QuantMode], moe: ParsedMode[QuantMode]
) -> tuple[Method, dict[str, str]]:
    """Return the method that makes the formats from 16-bit weights, and the methods by layer where they differ.

    Raises
    ------
    Refusal
    """
    request = command.request
    asked = request.get("quantization")
    table = [row for row in _makers(request) if asked is None or row.name == asked]
    wide_dense, wide_moe = gemm.mode.name in PLAIN, request.has_experts is False or moe.mode.name in PLAIN
    made: list[Method] = []
    for name in dict.fromkeys(row.name for row in table):
        rows = [row for row in table if row.name == name]
        dense = [row for row in rows if is_of(gemm, row.format, row.field, "gemm")]
        experts = [row for row in rows if is_of(moe, row.format, row.field, "moe")]
        both = any(row.field == "both" for row in rows)
        if wide_dense and experts and not wide_moe and not both:
            made += experts
        elif dense and (experts or request.has_experts is False or (wide_moe and not both)):
            made += dense
    if not made:
        return _by_layer(command, table, gemm, moe)
    return _met(command, made, gemm, moe), {}


def made_by(command: Command, name: str) -> tuple[ParsedMode[QuantMode] | None, ParsedMode[QuantMode] | None]:
    """Return what a method makes of 16-bit dense weights and experts, None for those that it leaves."""
    rows = [row for row in _makers(command.request) if row.name == name]
    gemm, moe = (
        next((row.format for row in rows if row.field in (field, "both")), "auto")
        for field in ("gemm", "moe")
    )
    return parse_mode("gemm", gemm), parse_mode("moe", moe)


def _makers(request: Request) -> list[Method]:
    """Return what a version makes while loading, where its command can name it."""
    return [row for row in offered(request.engine, request.engine_version) if row.how == "online"]


def _met(
    command: Command, rows: list[Method], gemm: ParsedMode[QuantMode], moe: ParsedMode[QuantMode]
) -> Method:
    request = command.request
    gpu = request.accelerator
    for row in rows:
        if runs_on(request.engine, request.engine_version, gpu, row):
            return row
    assert gpu is not None
    raise Refusal(
        f"{label(command.request, gemm, moe)} by {rows[0].name} of {command.label}: {needs(rows, gpu)}; "
        f"{gpu.name} is {gpu.capability}",
        {"gemm": "fp8", "moe": None},
        {"gemm": "bfloat16", "moe": None},
        {"gemm": "float16", "moe": None},
        checkpoint=checkpoint_name(command.request, gemm, moe)
        if _can_read(command.request, gemm, moe)
        else None,
    )


def _by_layer(
    command: Command,
    table: list[Method],
    gemm: ParsedMode[QuantMode],
    moe: ParsedMode[QuantMode],
) -> tuple[Method, dict[str, str]]:
    """Make dense layers and experts by methods of their own, where the engine takes one for each (vLLM)."""
    request = command.request
    splits = request.engine == "vllm" and command.find(["--quantization-config"]) is not None
    if splits and request.has_experts and request.get("quantization") is None:
        found = {}
        for field, key, mode in (("gemm", "linear", gemm), ("moe", "moe", moe)):
            if mode.mode.name in PLAIN:
                continue
            rows = [
                row
                for row in table
                if is_of(mode, row.format, row.field, field) and row.name not in OWN_CLASS
            ]
            if mode.mode.name == "fp8" and mode.variant is None:
                rows = [row for row in table if row.format == "fp8:per_tensor"]
            if not rows:
                raise _unmakeable(command, gemm, moe)
            found[key] = _met(command, rows, gemm, moe).name
        return Method(
            "online", "online", "both", "*", "*", "*", "", True, "vLLM's layer configuration"
        ), found
    raise _unmakeable(command, gemm, moe)


OWN_CLASS = ("fp8", "experts_int8", "bitsandbytes")
"""Online methods of vLLM that are no shorthand of its layer configuration."""


def _unmakeable(command: Command, gemm: ParsedMode[QuantMode], moe: ParsedMode[QuantMode]) -> Refusal:
    """Return why formats cannot be made from 16-bit weights."""
    request = command.request
    named = request.get("quantization")
    if named:
        return Refusal(
            f"quantization '{named}' of {command.label} does not make {label(request, gemm, moe)} from a 16-bit "
            "checkpoint",
            {"quantization": None},
        )
    stays = request.architecture.name if request.architecture else "the model"
    asked, one = label(request, gemm, moe), ""
    if request.has_experts and gemm.mode.name != moe.mode.name and request.engine != "trtllm":
        singles = _makers(request)
        if all(
            mode.mode.name in PLAIN or any(is_of(mode, row.format, row.field, field) for row in singles)
            for field, mode in (("gemm", gemm), ("moe", moe))
        ):
            one = f": {command.label} has one quantization for dense layers and experts together"
    return Refusal(
        f"{asked} cannot be made from the 16-bit checkpoint of {stays} while {command.label} loads it{one}",
        {"moe": gemm.spelled()},
        {"gemm": moe.spelled(), "moe": None},
        {"gemm": "fp8", "moe": None},
        *catalogued(request, gemm, moe),
        *other_engines(request),
        {"gemm": "bfloat16", "moe": None},
        checkpoint=checkpoint_name(request, gemm, moe) if _can_read(request, gemm, moe) else None,
    )


def _can_read(request: Request, gemm: ParsedMode[QuantMode], moe: ParsedMode[QuantMode]) -> bool:
    """Tell whether a checkpoint of these formats would start."""
    for field, mode in (("gemm", gemm), ("moe", moe)):
        if mode.mode.name in PLAIN or (field == "moe" and not request.has_experts):
            continue
        rows = [row for row in methods(request.engine, request.engine_version) if row.how == "offline"]
        if not any(
            is_of(mode, row.format, row.field, field)
            and runs_on(request.engine, request.engine_version, request.accelerator, row)
            for row in rows
        ):
            return False
    return True
