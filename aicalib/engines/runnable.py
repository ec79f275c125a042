"""Whether a deployment can be started as it is, or needs a checkpoint that was quantized beforehand."""

from __future__ import annotations

from typing import NamedTuple

from aicalib.deployment import Identity
from aicalib.quant import Field, GEMMQuantMode, WeightMode, parse_mode, weight_format


class Runnable(NamedTuple):
    """Whether it runs at once; if not, why, and the checkpoint that would make it run."""

    ok: bool
    reason: str | None
    needs_checkpoint: str | None


def runnable(identity: Identity) -> Runnable:
    """Tell whether the formats of a deployment can be had from the model's published checkpoint.

    A 16-bit format and one that the engine makes while loading run at once; so does the published
    checkpoint's own. Any other needs a checkpoint in that format.
    """
    arch, quant = identity.architecture, identity.quant
    native = parse_mode("gemm", arch.weight_format)
    wide = (GEMMQuantMode.float16, GEMMQuantMode.bfloat16)
    native_wide = native is None or native.mode in wide
    wanted: list[tuple[Field, WeightMode, str | None, str]] = [
        ("gemm", quant.gemm, quant.gemm_variant, arch.weight_format)
    ]
    if arch.moe_layers:
        wanted.append(("moe", quant.moe, quant.moe_variant, arch.expert_weight_format))
    for field, mode, variant, published in wanted:
        own = parse_mode("gemm" if field == "gemm" else "moe", published)
        if own is not None and own.mode.name == mode.name:
            continue
        if mode.name in ("float16", "bfloat16") and (own is None or own.mode.name in ("float16", "bfloat16")):
            continue
        online = weight_format(mode, variant).online
        if online and native_wide:
            continue
        name = mode.name if variant is None else f"{mode.name}:{variant}"
        checkpoint = f"{arch.name} in {name}"
        return Runnable(
            False,
            f"{field} {name} cannot be made from the published {published} checkpoint while loading",
            checkpoint,
        )
    return Runnable(True, None, None)
