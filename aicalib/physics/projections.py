"""The dense matrix products of a step as calls of kernels, with the casts of their activations."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.models.products import HEAD, ROUTER, SHARED, Product, matrix_products
from aicalib.physics.calls import Call
from aicalib.physics.kernels.batched import MLA_BATCHED
from aicalib.physics.kernels.gemm import ACTIVATION_BITS, GEMM
from aicalib.physics.kernels.kind import Machine
from aicalib.physics.kernels.quantize import QUANTIZE
from aicalib.physics.kernels.scale import SCALE
from aicalib.physics.system import System
from aicalib.physics.widening import weight_call, widened
from aicalib.profiles.coefficients import FORMAT_CLASSES

Array = NDArray[np.float64]
Codes = NDArray[np.intp]

WIDE = FORMAT_CLASSES.index("wide")
"""Class of routers, and of heads where a format leaves them alone: 16 bit."""

ACTIVATIONS = np.array([ACTIVATION_BITS[name] for name in FORMAT_CLASSES])
"""Bits of an activation as a product of each format class reads it."""

ABSORBED = {"w_kc": "pre", "w_vc": "post"}
"""Products with one matrix a head that have timings of their own: those of absorbed latent attention."""

ABSORBED_IN_FP8 = tuple(FORMAT_CLASSES.index(name) for name in ("fp8", "fp8_block"))
"""Classes whose absorbed products multiply in FP8. From all others SGLang makes 16-bit matrices while it loads them
(`models/deepseek_v2.py`, `post_load_weights`)."""


IN_SPARSE_MODULE = (
    "fused_qkv_a_proj", "q_b_proj", "w_kc", "w_vc", "latent o_proj", "index wq_b", "index wk",
    "index weights_proj",
)  # fmt: skip
"""Products that are part of the timed modules of sparse latent attention in decode."""


class Format(NamedTuple):
    """What a product reads of the format of its weights; arrays of the deployments."""

    machine: Machine
    code: Codes
    activation_bits: Array
    math: str
    surface: str
    packed: NDArray[np.bool_]


def _format(system: System, group: str) -> Format:
    """Return the format of a group: that of dense weights; 16 bit for routers, and for most heads."""
    if group not in (ROUTER, HEAD):
        bits, plain = system.gemm_bits, np.zeros(system.gemm_bits.shape, dtype=np.bool_)
    else:
        bits = np.full_like(system.gemm_bits, 16.0) if group == ROUTER else system.table_bits
        plain = bits >= 16.0
    peak = np.where(plain, system.wide_peak_flops_s, system.gemm_peak_flops_s)
    return Format(
        system.machine(peak, bits),
        np.where(plain, system.surfaces["gemm_wide"], system.surfaces["gemm"]),
        ACTIVATIONS[np.where(plain, WIDE, system.gemm_class)],
        "wide" if plain.all() else "gemm",
        "gemm_wide" if plain.all() else "gemm",
        ~plain,
    )


def _read_wide(system: System, of: Format, widens: NDArray[np.bool_]) -> Format:
    """Return the format as a product reads it whose weights are written out in 16 bit where `widens`."""
    machine = of.machine._replace(
        peak_flops_s=np.where(widens, system.wide_peak_flops_s, of.machine.peak_flops_s),
        bits=np.where(widens, 16.0, of.machine.bits),
    )
    return of._replace(
        machine=machine,
        code=np.where(widens, system.surfaces["gemm_wide"], of.code),
        activation_bits=np.where(widens, ACTIVATIONS[WIDE], of.activation_bits),
    )


def _calls(system: System, each: Product, rows: Array) -> list[Call]:
    """Return a product over `rows` rows, preceded by the cast of its input where the format has narrow ones.

    Products are those of an engine's modules, with matrices that share an input side by side in one: an input is cast,
    and its scales found, once for queries, keys and values, and once for gate and up.
    """
    of = _format(system, each.group)
    if each.name in ABSORBED:
        shape = {"tokens": rows, "heads": np.asarray(each.batch), "inner": each.k, "outer": each.n}
        surface = ABSORBED[each.name]
        code, narrow = system.surfaces[surface], np.isin(system.gemm_class, ABSORBED_IN_FP8)
        machine = of.machine._replace(
            peak_flops_s=np.where(narrow, of.machine.peak_flops_s, system.wide_peak_flops_s),
            bits=np.where(narrow, of.machine.bits, 16.0),
        )
        math = "gemm" if narrow.all() else "wide"
        return [Call(each.name, MLA_BATCHED, code, each.count, shape, machine, "gemm", math, surface)]
    shape = {
        "m": rows,
        "n": each.n * np.asarray(each.batch),
        "k": each.k,
        "activation_bits": of.activation_bits,
    }
    found = []
    if np.isfinite(system.direct_rows).any():
        widens = of.packed & widened(system, rows, shape["n"])
        found.append(weight_call(system, each.name, each.count * widens, shape["n"], each.k, of.machine.bits))
        of = _read_wide(system, of, widens)
        shape["activation_bits"] = of.activation_bits
    found.append(Call(each.name, GEMM, of.code, each.count, shape, of.machine, "gemm", of.math, of.surface))
    narrow = of.activation_bits < 16.0
    if narrow.any():
        machine = of.machine._replace(bits=of.activation_bits)
        sizes = {"m": rows, "k": each.k}
        code, count = system.surfaces["quantize"], each.count * narrow
        name = f"cast for {each.name}"
        found.append(Call(name, QUANTIZE, code, count, sizes, machine, "quantize", "", "quantize"))
        if system.dynamic_scales.any():
            code, count = system.surfaces["dynamic_scale"], count * system.dynamic_scales
            name = f"scales for {each.name}"
            found.append(Call(name, SCALE, code, count, sizes, machine, "dynamic_scale", "", "dynamic_scale"))
    return found


def product_calls(system: System, rows: Array, where: str, phase: str) -> list[Call]:
    """Return the dense matrix products over some rows.

    Parameters
    ----------
    system : System
    rows : ndarray
        Rows of each product; broadcasts with the deployments.
    where : str
        "local" (products on the rows of an attention rank), "all" or "sampled".
    phase : str
        "decode" or "prefill": the two forms of latent attention differ.
    """
    listed = matrix_products(system.arch, system.attention_width, system.tp, system.shared_width)
    chosen = [each for each in listed if each.rows == where and each.phase in ("both", phase)]
    if phase == "decode":
        apart = system.arch.sparse_layers == 0
        chosen = [
            replace(each, count=each.count * apart) if each.name in IN_SPARSE_MODULE else each
            for each in chosen
        ]
    own = rows
    if where == "all" and np.any(system.deepep):
        own = np.where(system.deepep, np.maximum(rows / system.tp, np.minimum(rows, 1.0)), rows)
    return [
        call
        for each in chosen
        for call in _calls(system, each, own if each.group in (ROUTER, SHARED) else rows)
    ]
