"""How the weights that are asked for come about: as the checkpoint stores them, made while loading, or not at all."""

from __future__ import annotations

from typing import NamedTuple

from aicalib.engines import flags
from aicalib.engines.command import Command
from aicalib.engines.loading import (
    KERNELS,
    PLAIN,
    STORED_AS,
    TORCHAO,
    hold_engine,
    is_of,
    math_of,
    method_of,
    needs,
    of_format,
    plain_mode,
    runs_on,
)
from aicalib.engines.online import made_by, make_online
from aicalib.engines.request import Request, like_dense
from aicalib.engines.software import check_software
from aicalib.engines.tables import Method, methods
from aicalib.engines.weight_words import catalogued, checkpoint_name, label, other_engines
from aicalib.errors import InvalidValue, Refusal, UnknownName
from aicalib.quant import MATH_BITS, Field, ParsedMode, compute_path, weight_format
from aicalib.quant.modes import GEMMQuantMode, MoEQuantMode, QuantMode

SAME_STORAGE = ({"mxfp4", "w4a16_mxfp4", "w4a8_mxfp4_mxfp8"}, {"nvfp4", "nvfp4_wo"})
"""Modes that one checkpoint serves where the accelerator multiplies them alike."""


class Weights(NamedTuple):
    """What an engine does with the weights.

    Attributes
    ----------
    method : str or None
        What it runs; None for weights that are not quantized.
    named : str or None
        What the command says as its quantization.
    dtype : str or None
        Type of the model that the command must say.
    by_layer : dict of str to str
        Methods for dense layers ("linear") and experts ("moe") apart, where they differ.
    gemm, moe : ParsedMode
        What they end up in.
    """

    method: str | None
    named: str | None
    dtype: str | None
    by_layer: dict[str, str]
    gemm: ParsedMode[QuantMode]
    moe: ParsedMode[QuantMode]


def resolve_weights(command: Command) -> Weights:
    """Return how the weights come about.

    Raises
    ------
    Refusal
        With the reason, what starts instead, and the checkpoint that would change it.
    """
    request = command.request
    hold_engine(request.engine, request.engine_version, request.accelerator)
    gemm, moe = _wanted(command)
    stored = request.stored
    dtype = _dtype(request, gemm, moe)
    same = _served(request, gemm, stored.gemm) and (
        not request.has_experts or _served(request, moe, stored.moe)
    )
    if same:
        found = _as_stored(command, gemm, moe, dtype)
    elif stored.is_wide:
        row, by_layer = make_online(command, gemm, moe)
        named = None if row.name.startswith(TORCHAO) else row.name
        found = Weights(row.name, named, row.dtype or dtype, by_layer, gemm, moe)
    else:
        asked = label(request, gemm, moe)
        raise Refusal(
            f"{asked} contradicts the checkpoint, which stores {label(request, stored.gemm, stored.moe)}: no engine "
            "makes one quantized format from another",
            {"gemm": None, "moe": None},
            *catalogued(request, gemm, moe),
            checkpoint=checkpoint_name(request, gemm, moe),
        )
    check_software(request, (found.gemm.mode.name, found.moe.mode.name))
    _note_math(command, found)
    return found


def _wanted(command: Command) -> tuple[ParsedMode[QuantMode], ParsedMode[QuantMode]]:
    """Return the formats asked for.

    Open ones are the checkpoint's, or what a named method makes of it, and experts follow explicit dense weights.
    """
    request = command.request
    asked, stored = request.quant, request.stored
    named = request.get("quantization")
    if named is not None and stored.is_wide and asked.gemm is None and asked.moe is None:
        dense, experts = made_by(command, named)
        return dense or stored.gemm, experts if experts is not None and request.has_experts else stored.moe
    if asked.moe is not None and request.has_experts is False:
        assert request.architecture is not None
        raise Refusal(
            f"moe '{asked.moe.name}' on {request.architecture.name}: it is a dense model without experts",
            {"moe": None},
        )
    gemm = ParsedMode[QuantMode](asked.gemm, asked.gemm_variant) if asked.gemm else stored.gemm
    if (
        asked.moe is not None
        and {gemm.mode.name, asked.moe.name} <= {*PLAIN}
        and "float32" in {gemm.mode.name, asked.moe.name} != {"float32"}
    ):
        raise Refusal(
            f"moe {asked.moe.name} with gemm {gemm.mode.name}: the model has one type",
            {"moe": gemm.mode.name}, {"gemm": asked.moe.name, "moe": asked.moe.name}, {"moe": None},
        )  # fmt: skip
    if asked.moe is not None:
        moe = ParsedMode[QuantMode](asked.moe, asked.moe_variant)
    elif asked.gemm is not None and request.has_experts is not False:
        try:
            moe = like_dense(gemm)
        except InvalidValue as error:
            if request.has_experts:
                raise Refusal(str(error), {"moe": "bfloat16"}, {"moe": "fp8"}) from error
            moe = stored.moe
    else:
        moe = stored.moe
    return gemm, moe


def _note_math(command: Command, weights: Weights) -> None:
    """Say where an accelerator lacks the math of a format, so that its weights are widened for every product.

    Raises
    ------
    Refusal
        Where it has no math for them at all.
    """
    request = command.request
    for field, mode in (("gemm", weights.gemm), ("moe", weights.moe)):
        if (
            request.accelerator is None
            or mode.mode.name in PLAIN
            or (field == "moe" and not request.has_experts)
        ):
            continue
        assert isinstance(mode.mode, GEMMQuantMode | MoEQuantMode)
        best, path = weight_format(mode.mode, mode.variant).path[0].math, math_of(request.accelerator, mode)
        if path is None:
            raise Refusal(
                f"{field} {mode.spelled()}: {request.accelerator.name} has no math for it",
                {field: "fp8"}, {field: "bfloat16"}, {field: "float16"},
            )  # fmt: skip
        if path in ("bf16", "fp16") and MATH_BITS[best] < MATH_BITS[path]:
            command.notes.append(
                f"{field} {mode.spelled()} on {request.accelerator.name}: multiplies in {path}"
            )


def _served(request: Request, wanted: ParsedMode[QuantMode], stored: ParsedMode[QuantMode]) -> bool:
    """Tell whether stored weights are what is wanted."""
    if wanted.mode.name in PLAIN:
        return stored.mode.name in PLAIN
    if wanted.mode is stored.mode:
        return wanted.variant in (None, stored.variant)
    if wanted.mode.name in KERNELS:
        return is_of(stored, STORED_AS[wanted.mode.name], "both", "gemm") and stored.variant is not None
    names = {wanted.mode.name, stored.mode.name}
    gpu = request.accelerator
    if not any(names <= family for family in SAME_STORAGE):
        return False
    return gpu is None or math_of(gpu, wanted) == math_of(gpu, stored)


def _dtype(request: Request, gemm: ParsedMode[QuantMode], moe: ParsedMode[QuantMode]) -> str | None:
    """Return the type of the model that was asked for by a 16 or 32-bit format of the dense weights.

    Raises
    ------
    Refusal
        Where the engine does not run a type there; one that was left open is float16 where nothing else is.
    """
    fields: list[tuple[Field, ParsedMode[QuantMode]]] = [("gemm", gemm)]
    if request.has_experts:
        fields.append(("moe", moe))
    for field, mode in fields:
        asked = request.quant.gemm if field == "gemm" else request.quant.moe
        if mode.mode.name not in PLAIN:
            continue
        name = mode.mode.name if asked is not None else "float16"
        rows = of_format(request.engine, request.engine_version, field, plain_mode(field, name))
        if not any(runs_on(request.engine, request.engine_version, request.accelerator, row) for row in rows):
            on = f" on {request.accelerator.name}" if request.accelerator else ""
            raise Refusal(
                f"{field} {name}: {request.engine} {request.engine_version} does not run it{on}",
                {field: "float16"}, {field: "bfloat16"}, {field: None},
            )  # fmt: skip
    named = request.quant.gemm
    return named.name if named is not None and named.name in PLAIN else None


def _has_bf16(request: Request) -> bool:
    gpu = request.accelerator
    return gpu is None or compute_path(GEMMQuantMode.bfloat16, gpu.vendor, gpu.capability) == "bf16"


def model_dtype(request: Request, weights: Weights) -> str:
    """Return the 16 or 32-bit type that the model runs in."""
    if weights.dtype is not None:
        return weights.dtype
    published = request.architecture.weight_format if request.architecture else "bf16"
    return "float16" if published == "fp16" or not _has_bf16(request) else "bfloat16"


# ------------------------------------------------------------------------------------- as the checkpoint stores


def _as_stored(
    command: Command, gemm: ParsedMode[QuantMode], moe: ParsedMode[QuantMode], dtype: str | None
) -> Weights:
    """Serve a checkpoint as it is; a method that was named, or that a kernel's mode names, may stand in."""
    request = command.request
    stored = request.stored
    kernels = [each.mode.name for each in (gemm, moe) if each.mode.name in KERNELS]
    asked = request.get("quantization") or next(iter(kernels), None)
    if stored.is_wide and asked is None:
        return Weights(None, None, dtype, {}, gemm, moe)
    if stored.is_wide:
        raise Refusal(
            f"quantization '{asked}': the weights stay 16 bit, which contradicts it", {"quantization": None}
        )
    method = _settled(command, asked)
    rows = [
        _row(command, method, field, each)
        for field, each in (("gemm", stored.gemm), ("moe", stored.moe))
        if each.mode.name not in PLAIN and (field == "gemm" or request.has_experts is not False)
    ]
    only = {row.dtype for row in rows if row.dtype}
    if only and dtype not in (None, *only):
        raise Refusal(f"gemm {dtype} with {method}: it takes {', '.join(only)} alone", {"gemm": None})
    named = asked or (method if not stored.read and any(row.named for row in rows) else None)
    return Weights(method, named, next(iter(only), dtype), {}, gemm, moe)


def _settled(command: Command, asked: str | None) -> str:
    """Return the method that the engine runs on the checkpoint.

    Raises
    ------
    RequestError
        Where the engine refuses what was asked.
    """
    request = command.request
    if asked is not None and request.engine == "trtllm":
        raise Refusal(
            f"{asked} names a kernel of other engines", {"gemm": STORED_AS.get(asked)}, {"gemm": None}
        )
    if asked is not None:
        known = command.choices("--quantization")
        if known is not None and asked not in known:
            raise UnknownName(f"quantization of {command.label}", asked, known)
    if request.checkpoint is not None and request.stored.read:
        from aicalib.engines.overrides import resolve_method
        from aicalib.quant.checkpoint import read_checkpoint

        gpu = request.accelerator
        capability = gpu.capability if gpu is not None and gpu.vendor == "NVIDIA" else None
        checkpoint = read_checkpoint(request.checkpoint)
        found = resolve_method(
            request.engine, request.engine_version, asked, checkpoint, capability=capability
        )
        if found is not None:
            return found
    stored = request.stored
    method = (
        method_of(request.engine, request.engine_version, request.accelerator, stored.gemm, stored.moe)
        if request.engine == "trtllm"
        else asked or stored.method
    )
    if method is None:
        raise Refusal(
            f"{command.label} reads no checkpoint of {label(request, stored.gemm, stored.moe)}",
            *other_engines(request),
        )
    return method


def _row(command: Command, method: str, field: str, mode: ParsedMode[QuantMode]) -> Method:
    """Return what a method asks for when it reads a format, held to the accelerator."""
    request = command.request
    table = [each for each in methods(request.engine, request.engine_version) if each.name == method]
    rows = [each for each in table if each.how == "offline" and is_of(mode, each.format, each.field, field)]
    if not rows and request.checkpoint is not None and request.stored.read:
        return _registered(command, method, field, mode)
    if not rows:
        raise Refusal(
            f"{field} {mode.spelled()}: {method} of {command.label} reads no such weights",
            *({"quantization": name} for name in _readers(request, field, mode)),
            *other_engines(request),
        )
    gpu = request.accelerator
    met = [each for each in rows if runs_on(request.engine, request.engine_version, gpu, each)]
    if not met:
        assert gpu is not None
        raise Refusal(
            f"{field} {mode.spelled()} by {method} of {command.label}: {needs(rows, gpu)}; "
            f"{gpu.name} is {gpu.capability}",
            *({"quantization": name} for name in _readers(request, field, mode)),
            *other_engines(request),
            {"gemm": "fp8", "moe": None},
            {"gemm": "bfloat16", "moe": None},
        )
    return met[0]


def _registered(command: Command, method: str, field: str, mode: ParsedMode[QuantMode]) -> Method:
    """Return what the engine's own class of a method asks for, where no table says more of the format."""
    request = command.request
    asks = (
        flags.methods(request.engine, request.engine_version).get(method)
        if request.engine != "trtllm"
        else None
    )
    least = asks.min_capability if asks is not None else None
    cell = f"{least // 10}.{least % 10}+" if least is not None else "*"
    found = Method(method, "offline", field, mode.spelled(), cell, "*", "", False, "the engine's own class")
    gpu = request.accelerator
    if gpu is not None and not runs_on(request.engine, request.engine_version, gpu, found):
        raise Refusal(
            f"{field} {mode.spelled()} by {method} of {command.label}: {needs([found], gpu)}; "
            f"{gpu.name} is {gpu.capability}",
            *other_engines(request),
        )
    return found


def _readers(request: Request, field: str, mode: ParsedMode[QuantMode]) -> list[str]:
    table = methods(request.engine, request.engine_version)
    return list(
        dict.fromkeys(
            each.name
            for each in table
            if each.how == "offline" and is_of(mode, each.format, each.field, field)
        )
    )
