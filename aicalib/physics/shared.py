"""Deployments that share kernels: those that differ only in what some kernels do not read are timed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from aicalib.physics.system import System

Codes = NDArray[np.intp]

_MIXER_SURFACES = ("attention_", "window_", "latent_", "sparse_", "linear_", "convolution_")
"""How the names of the surfaces of mixers begin; all others but that of the experts are of dense parts and links."""

OF_MIXERS = (
    "kv_bits",
    "kv_class",
    "attention_class",
    "attention_peak_flops_s",
    "latent_bits",
    "masks_window",
    "cache_widens",
)
OF_EXPERTS = (
    "expert_bits",
    "expert_class",
    "expert_peak_flops_s",
    "expert_tile",
    "hidden_pad",
    "width_pad",
    "ep",
    "expert_widens",
)
OF_WEIGHTS = (
    "gemm_bits",
    "gemm_class",
    "gemm_peak_flops_s",
    "dynamic_scales",
    "table_bits",
    "wide_peak_flops_s",
    "direct_rows",
    "wide_direct_rows",
    "direct_columns",
)
OF_NO_KERNEL = (
    "vector_peak_flops_s",
    "memory_bytes",
    "window_ratio",
    "one_pool",
    "has_encoder",
    "version",
    "engine",
    "engine_month",
    "pp",
)
OF_LINKS = ("node_gpus", "network_bytes_s")


def once(system: System, unread: tuple[str, ...], surfaces: Callable[[str], bool]) -> tuple[System, Codes]:
    """Return the deployments that differ in what some kernels read, and for each deployment its place among them.

    Deployments of a search share most kernels: many formats of experts come with one of the cache.

    Parameters
    ----------
    system : System
        d deployments.
    unread : tuple of str
        Fields that the kernels do not read.
    surfaces : callable
        Tells by its name whether a surface is read.
    """
    read = [each.name for each in fields(system) if each.name not in ("arch", "surfaces", *unread)]
    columns = [getattr(system, name) for name in read]
    columns += [codes for name, codes in system.surfaces.items() if surfaces(name)]
    columns += [getattr(system.arch, each.name) for each in fields(system.arch)]
    key = np.zeros(system.tp.size, dtype=np.int64)
    for values in columns:
        if values.size and (values != values[0]).any():
            _, place = np.unique(values, return_inverse=True)
            _, key = np.unique(key * (int(place.max()) + 1) + place, return_inverse=True)
    _, first, at = np.unique(key, return_index=True, return_inverse=True)
    return system.take(first), at


def is_mixer(name: str) -> bool:
    """Tell whether a surface is that of a mixer."""
    return name.startswith(_MIXER_SURFACES)


def is_expert(name: str) -> bool:
    """Tell whether a surface is that of routed experts."""
    return name.startswith("moe")
