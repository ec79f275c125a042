"""Whether a deployment can be started as it is, or needs a checkpoint that was quantized beforehand.

The tables of what each engine version accepts are not here yet: what they would decide is answered with
`ok` None and said, never with yes.
"""

from __future__ import annotations

from typing import NamedTuple

from aicalib.deployment import Identity
from aicalib.quant import SIXTEEN_BIT, Field, WeightMode, parse_mode, weight_format

ONLINE = ("fp8",)
"""Formats that SGLang and vLLM both make from a 16-bit checkpoint while loading, for dense weights and experts
together."""

CACHES = (*SIXTEEN_BIT, "fp8", "fp8_e4m3")
"""Cache formats that both engines accept on every accelerator below."""

CAPABILITIES = ("8.0", "8.6", "8.9", "9.0", "10.0", "10.3", "12.0")
"""NVIDIA compute capabilities on which the formats above are accepted (FP8 below 8.9 as weights only)."""


class Runnable(NamedTuple):
    """Whether it runs at once (None: not known yet); if not, why, and the checkpoint that would make it run."""

    ok: bool | None
    reason: str | None
    needs_checkpoint: str | None


def _published(identity: Identity, field: Field, mode: WeightMode) -> bool:
    """Tell whether a weight format is that of the model's published checkpoint; the 16-bit ones count as one."""
    arch = identity.architecture
    own = parse_mode(field, arch.weight_format if field == "gemm" else arch.expert_weight_format)
    name = "bfloat16" if own is None else own.mode.name
    return name == mode.name or (name in SIXTEEN_BIT and mode.name in SIXTEEN_BIT)


def runnable(identity: Identity) -> Runnable:
    """Tell whether the formats of a deployment can be had from the model's published checkpoint."""
    arch, quant = identity.architecture, identity.quant
    weights: dict[Field, WeightMode] = {"gemm": quant.gemm}
    if arch.moe_layers:
        weights["moe"] = quant.moe
    other = {field: mode for field, mode in weights.items() if not _published(identity, field, mode)}
    wide = arch.weight_format in ("bf16", "fp16")
    together = len({mode.name for mode in weights.values()}) == 1
    online = bool(other) and wide and together and all(mode.name in ONLINE for mode in other.values())
    if other and not online:
        field, mode = next(iter(other.items()))
        if wide and weight_format(mode, None).online:
            return Runnable(
                None, f"whether the engine makes {field} {mode.name} while loading is not known yet", None
            )
        return Runnable(
            False,
            f"{field} {mode.name} cannot be made from the published {arch.weight_format} checkpoint while loading",
            f"{arch.name} in {mode.name}",
        )
    if identity.accelerator.capability not in CAPABILITIES:
        return Runnable(None, f"what the engine runs on {identity.accelerator.name} is not known yet", None)
    if quant.kvcache.name not in CACHES:
        return Runnable(None, f"whether the engine accepts kv {quant.kvcache.name} is not known yet", None)
    if quant.fmha.name not in SIXTEEN_BIT and quant.kvcache.name in SIXTEEN_BIT:
        return Runnable(False, f"fmha {quant.fmha.name} needs an FP8 cache, kv is {quant.kvcache.name}", None)
    return Runnable(True, None, None)
