"""Experts whose tokens DeepEP exchanges (SGLang's `--moe-a2a-backend deepep`): which timings answer."""

from __future__ import annotations

from aicalib.deployment import Identity
from aicalib.engines.kernels import default_backend
from aicalib.errors import InvalidValue, NotCovered, RequestError
from aicalib.profiles import kernels

TIMED_FORMAT = "fp8_block"
"""The format of the experts whose kernels were timed behind DeepEP."""

MODES = {"decode": "low_latency", "prefill": "normal"}
"""Phase -> mode of DeepEP in it (`--deepep-mode auto`)."""

WITHOUT = ["moe_a2a_backend none"]


def _variant(phase: str, nodes: int) -> str:
    return MODES[phase] if nodes == 1 else f"{MODES[phase]}_{nodes}_nodes"


def refused(identity: Identity, tp: int, ep: int, nodes: int) -> RequestError | None:
    """Return why a deployment cannot be asked with DeepEP, None where it can.

    Parameters
    ----------
    identity : Identity
    tp, ep : int
        Widths.
    nodes : int
        That the tp ranks span.
    """
    gpu, arch = identity.accelerator, identity.architecture
    if identity.engine != "sglang":
        return NotCovered(
            f"moe_a2a_backend deepep of {identity.engine}: SGLang's alone is predicted", WITHOUT
        )
    if not arch.moe_layers:
        return InvalidValue(
            f"moe_a2a_backend deepep on {arch.name}: it is a dense model without experts", WITHOUT
        )
    if tp == 1:
        return InvalidValue(
            "moe_a2a_backend deepep with tp 1: there is one rank, which exchanges nothing", ["tp 8", *WITHOUT]
        )
    if ep != tp:
        return InvalidValue(
            f"moe_a2a_backend deepep splits experts over all of tp {tp}; ep is {ep}", [f"ep {tp}", *WITHOUT]
        )
    if identity.quant.moe.name != TIMED_FORMAT:
        return NotCovered(
            f"moe_a2a_backend deepep with moe {identity.quant.moe.name}: its expert kernels were timed in "
            f"{TIMED_FORMAT} alone",
            [f"moe {TIMED_FORMAT}", *WITHOUT],
        )
    try:
        _, origin = kernels.code("dispatch", gpu, _variant("decode", nodes))
    except NotCovered:
        origin = "datasheet"
    if origin == "datasheet":
        over = f" over {nodes} nodes" if nodes > 1 else ""
        return NotCovered(
            f"moe_a2a_backend deepep on {gpu.name}{over}: it was timed on no such GPU{over}", WITHOUT
        )
    return None


def surface_codes(identity: Identity, nodes: int) -> dict[str, int]:
    """Return which fitted surface answers for each kernel: dispatch, combine and experts, of each phase."""
    gpu, found = identity.accelerator, {}
    for phase in MODES:
        for kind in ("dispatch", "combine"):
            found[f"{kind}_{phase}"] = kernels.code(kind, gpu, _variant(phase, nodes))[0]
        named = default_backend(
            identity.engine, identity.engine_version, gpu, f"moe_deepep_{phase}", TIMED_FORMAT
        )
        found[f"moe_{phase}"] = kernels.code("moe", gpu, named[1])[0]
    return found


NAMES = tuple(f"{kind}_{phase}" for phase in MODES for kind in ("dispatch", "combine", "moe"))
"""Names of these surfaces in `System.surfaces`."""
