"""The kernel plan of a deployment: how its cache is laid out and which kernel each kind of layer runs, as data.

Bytes are those of `aicalib.physics.kv_cache`, asked for one kind of layer at a time, so that they add up to what
`predict` fills memory with.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

from aicalib.deployment import Deployment, Identity
from aicalib.engines.flags import flags
from aicalib.engines.kernel_gates import ATTENTION, PHASES
from aicalib.engines.kernels import softmax_kind
from aicalib.engines.layouts import latent_bits
from aicalib.engines.registry import kernel_for
from aicalib.errors import InvalidValue, NotCovered, RequestError
from aicalib.models.architecture import MIXERS
from aicalib.physics.kv_cache import cells, indexer_bytes_per_token
from aicalib.physics.system import System
from aicalib.physics.weights import stage_share
from aicalib.quant import ParsedMode, storage_bits

SLIDING = "sliding_window"
"""vLLM's word for all layers with a window, among the layers that keep a 16-bit cache."""

LATENT_ROWS = "latent rows"
"""8-bit rows of sparse latent attention that hold scales (`aicalib.engines.layouts.latent_bits`)."""

OPERATOR_OF = {kind: operator for operator, kind in ATTENTION.items()}
"""Kinds of attention layers, as rules name them -> as operators do."""

SKIP_FLAG = "--kv-cache-dtype-skip-layers"


class Scales(NamedTuple):
    """How the scales of a cache format lie.

    Attributes
    ----------
    granularity : str
        "none", "tensor", "token", "token and head" or "block".
    group_size : int
        Values that share a scale; 0 where a tensor does, or nothing.
    precision : str
        Number format of a scale.
    source : str
    """

    granularity: str
    group_size: int
    precision: str
    source: str


@cache
def scales_of(mode: str) -> Scales:
    """Return the scales of a `KVCacheQuantMode` by its name, or of `LATENT_ROWS`."""
    text = files("aicalib.engines").joinpath("kv_scales.csv").read_text()
    row = next(each for each in csv.DictReader(text.splitlines()) if each["mode"] == mode)
    return Scales(row["granularity"], int(row["group_size"]), row["scale_precision"], row["source"])


def kernel_plan(deployment: Deployment, system: System, skip_layers: Sequence[str] = ()) -> dict[str, Any]:
    """Return what a scheduler reads of a deployment's cache and kernels.

    Parameters
    ----------
    deployment : Deployment
    system : System
        The same deployment as physics reads it, one element (`aicalib.resolve.batch.Batch.system`).
    skip_layers : sequence of str
        Layers whose cache stays in 16 bits, as vLLM's `--kv-cache-dtype-skip-layers` takes them: "sliding_window", or
        numbers of layers where all layers with a cache are of one kind.

    Returns
    -------
    dict
        "kv" (format, page and group size, scale precision, bytes of a token on one GPU), "layers" (one entry a kind:
        count, bytes of a token in one layer, kernels), "kernels" (of products, experts, casts), each kernel as
        `Kernel.as_dict` gives it, or {"error": ...} where there is none.

    Raises
    ------
    InvalidValue, NotCovered
        For layers to skip that the engine or the model does not have.
    """
    who = deployment.identity
    kept = _skipped(who, skip_layers)
    layers = _layers(who, system, kept)
    held = cells(system)
    scales = scales_of(who.quant.kvcache.name)
    if latent_bits(who.engine, who.architecture, who.accelerator, who.quant) != storage_bits(
        who.quant.kvcache
    ):
        scales = scales_of(LATENT_ROWS)
    page = max((each["page_tokens"] or 1 for each in layers), default=1)
    changed = sum(each["skipped_extra_bytes_per_token"] for each in layers)
    return {
        "model": who.architecture.name,
        "gpu": who.accelerator.name,
        "engine": who.engine,
        "engine_version": who.engine_version,
        "tp": deployment.tp,
        "dp": deployment.dp,
        "pp": deployment.pp,
        "kv": {
            "format": who.quant.kvcache.name,
            "bits_per_element": storage_bits(who.quant.kvcache),
            "block_size": page,
            "group_size": scales.group_size,
            "scale_granularity": scales.granularity,
            "scale_precision": scales.precision,
            "bytes_per_token": float(held.full[0] + held.window[0]) + changed,
            "state_bytes_per_request": float(held.state[0]),
            "quantize": _binding(who, "kv_quantize", who.quant.kvcache.name),
            "dequantize": _binding(who, "kv_dequantize", who.quant.kvcache.name),
        },
        "layers": layers,
        "kernels": _products(who),
        "skip_layers": list(skip_layers),
    }


def _binding(who: Identity, operator: str, form: str, backend: str | None = None) -> dict[str, Any]:
    try:
        return kernel_for(form, operator, who.engine, who.engine_version, who.accelerator, backend).as_dict()
    except RequestError as error:
        return {"operator": operator, "format": form, "error": str(error), "alternatives": error.alternatives}


def _products(who: Identity) -> list[dict[str, Any]]:
    gemm = ParsedMode(who.quant.gemm, who.quant.gemm_variant).spelled()
    found = [_binding(who, "gemm", gemm)]
    if who.architecture.moe_layers:
        found.append(
            _binding(who, "moe", ParsedMode(who.quant.moe, who.quant.moe_variant).spelled(), who.backends.moe)
        )
    cast = _binding(who, "activation_quantize", gemm)
    return found if "error" in cast else [*found, cast]


# --------------------------------------------------------------------------------------------- kinds of layers


def _operator(who: Identity, kind: str) -> str | None:
    """Return the operator of a kind of layer; None where no kernel of it is listed."""
    softmax = OPERATOR_OF[softmax_kind(who.architecture)]
    return {
        "full_layers": softmax,
        "window_layers": "window_attention" if softmax == "attention" else softmax,
        "mla_layers": "sparse_mla" if who.architecture.sparse_layers else "mla",
        "linear_layers": "linear_attention",
        "kda_layers": "linear_attention",
    }.get(kind)


def _layers(who: Identity, system: System, kept: dict[str, int]) -> list[dict[str, Any]]:
    arch, found = who.architecture, []
    share = float(np.broadcast_to(stage_share(system), (1,))[0])
    wide = 16.0 / storage_bits(who.quant.kvcache) - 1.0
    for kind in MIXERS:
        count = getattr(arch, kind)
        if not count:
            continue
        alone = _only(system, kind)
        cell = cells(alone)
        own = count - getattr(arch, f"reused_{kind}", 0)
        token = float(cell.full[0] + cell.window[0])
        index = float(share * indexer_bytes_per_token(alone.arch)[0])
        entry: dict[str, Any] = {
            "kind": kind.removesuffix("_layers"),
            "count": count,
            "with_a_cache_of_their_own": own if token else 0,
            "window_tokens": arch.window if kind == "window_layers" else None,
            "bytes_per_token": token,
            "bytes_per_token_per_layer": token / (share * own) if token else 0.0,
            "indexer_bytes_per_token": index,
            "state_bytes_per_request": float(cell.state[0]),
            "skipped_layers": kept.get(kind, 0),
            "skipped_extra_bytes_per_token": (token - index) / own * kept.get(kind, 0) * wide
            if token
            else 0.0,
            "page_tokens": None,
            "kernels": [],
        }
        operator = _operator(who, kind)
        if operator is not None:
            named = (
                (None, None)
                if operator == "linear_attention"
                else (who.backends.prefill, who.backends.decode)
            )
            bound = [
                _binding(who, f"{operator}_{phase}", who.quant.kvcache.name, backend)
                for phase, backend in zip(PHASES, named, strict=True)
            ]
            entry["kernels"] = bound
            entry["page_tokens"] = max((each.get("page_tokens") or 0 for each in bound), default=0) or None
        found.append(entry)
    return found


def _only(system: System, kind: str) -> System:
    """Return a deployment of the layers of one kind alone, for what they keep of a token."""
    arch = system.arch
    none = np.zeros_like(arch.full_layers)
    others = {each: none for each in MIXERS if each != kind}
    others |= {f"reused_{each}": none for each in ("full_layers", "window_layers") if each != kind}
    if kind != "mla_layers":
        others["sparse_layers"] = none
    return replace(system, arch=replace(arch, **others))


# ------------------------------------------------------------------------------------- layers left in 16 bits


def _skipped(who: Identity, asked: Sequence[str]) -> dict[str, int]:
    """Return how many layers of each kind keep a 16-bit cache."""
    if not asked:
        return {}
    if SKIP_FLAG not in flags(who.engine, who.engine_version):
        raise NotCovered(
            f"{who.engine} {who.engine_version} has no {SKIP_FLAG}: all layers share one cache format",
            ["vllm"],
        )
    arch = who.architecture
    kinds = [kind for kind in MIXERS if getattr(arch, kind) and kind not in STATE_KINDS]
    numbers = [each for each in asked if each != SLIDING]
    found: dict[str, int] = {}
    if SLIDING in asked:
        if not arch.window_layers:
            raise InvalidValue(f"skip layers '{SLIDING}': {arch.name} has no layers with a window")
        found["window_layers"] = arch.window_layers
    for number in numbers:
        if not number.isdecimal() or int(number) >= arch.num_layers:
            raise InvalidValue(
                f"skip layers '{number}': {arch.name} has layers 0 to {arch.num_layers - 1}", [SLIDING]
            )
    if numbers and len(kinds) > 1:
        raise NotCovered(
            f"skip layers {', '.join(numbers)}: which of its kinds a layer of {arch.name} is, is not kept",
            [SLIDING],
        )
    if numbers:
        found[kinds[0]] = max(found.get(kinds[0], 0), len(set(numbers)))
    return found


STATE_KINDS = ("linear_layers", "kda_layers", "mamba_layers", "lightning_layers", "conv_layers")
"""Layers that keep a state and no cache."""
