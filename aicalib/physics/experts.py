"""The routed experts of a step as calls of the grouped kernel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aicalib.physics.calls import Call
from aicalib.physics.kernels.moe import DEFAULT_SKEW, MOE, SKEW, rank_shape
from aicalib.physics.system import System
from aicalib.physics.widening import expert_call

Array = NDArray[np.float64]


def expert_calls(system: System, tokens: Array, phase: str) -> list[Call]:
    """Return the routed experts that `tokens` tokens, of all ranks together, choose: those of the busiest rank.

    Under DeepEP prefill ("prefill") and decode ("decode") run kernels of their own.
    """
    arch = system.arch
    if not np.any(arch.moe_layers):
        return []
    shape = rank_shape(
        np.maximum(tokens, 1.0),
        np.maximum(arch.num_experts, 1.0),
        np.maximum(arch.experts_per_token, 1.0),
        arch.expert_hidden_size,
        np.maximum(arch.moe_intermediate_size, 1.0),
        arch.ffn_matrices,
        system.tp / system.ep,
        system.ep,
        SKEW[DEFAULT_SKEW],
        system.expert_tile,
    )
    machine = system.machine(
        system.expert_peak_flops_s, np.where(system.expert_widens, 16.0, system.expert_bits)
    )
    code = system.surfaces["moe"]
    if np.any(system.deepep):
        code = np.where(system.deepep, system.surfaces[f"moe_{phase}"], code)
    found = [Call("experts", MOE, code, arch.moe_layers, shape, machine, "experts", "expert", "moe")]
    return [expert_call(system), *found] if np.any(system.expert_widens) else found
