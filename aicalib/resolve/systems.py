"""From names and numbers of rows to the distinct deployments that physics reads, and the settings of their engines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.engines import defaults
from aicalib.errors import RequestError
from aicalib.physics.memory import fits, memory
from aicalib.physics.system import Settings, System
from aicalib.resolve import deepep
from aicalib.resolve.checks import Widths, kv_heads_divide
from aicalib.resolve.features import GIGABIT
from aicalib.resolve.identify import SURFACE, WIDTHS
from aicalib.resolve.names import Names

Array = NDArray[np.float64]
Codes = NDArray[np.intp]


def _distinct_rows(columns: list[NDArray[Any]]) -> tuple[Codes, Codes]:
    """Return the first of each set of equal rows, and which set each row is in."""
    key = np.zeros(columns[0].size, dtype=np.int64)
    for values in columns:
        if values.size and (values != values[0]).any():
            found, place = np.unique(values, return_inverse=True)
            key = key * found.size + place
    _, first, at = np.unique(key, return_index=True, return_inverse=True)
    return first, at


class Distinct(NamedTuple):
    """The d distinct deployments of n rows.

    Attributes
    ----------
    who : ndarray of int, shape (d,)
        Combination of names of each deployment.
    widths : Widths
    system : System
    at : ndarray of int, shape (n,)
        Which deployment each row is about.
    """

    who: Codes
    widths: Widths
    system: System
    at: Codes


def deployments(names: Names, codes: Codes, numbers: dict[str, Array]) -> Distinct:
    """Return the distinct deployments of n rows; a network that no part of an instance crosses sets none apart."""
    given = numbers["engine_month"]
    month = np.where(np.isnan(given), names.numbers["engine_month"][codes], given)
    exchanged = numbers.get("deepep", np.zeros(codes.size)) > 0.0
    if exchanged.any():
        # SGLang then splits experts over all of tp by itself.
        alone = exchanged & (numbers["ep"] == 1.0)
        numbers = numbers | {"ep": np.where(alone, numbers["tp"], numbers["ep"])}
    columns = [numbers[name] for name in Widths._fields]
    network = np.full(codes.size, np.nan)
    if "network_gbit_s" in numbers:
        spans = numbers["tp"] * numbers["pp"] > names.numbers["gpus_together"][codes]
        network = np.where(spans, numbers["network_gbit_s"] * GIGABIT, network)
    further = [network] if "network_gbit_s" in numbers else []
    first, at = _distinct_rows([codes, *columns, month, exchanged, *further])
    widths = Widths(*(values[first] for values in columns))
    who = codes[first]
    system = _system(names, who, widths, month[first], network[first])
    return Distinct(who, widths, _with_deepep(system, names, who, exchanged[first]), at)


def _with_deepep(system: System, names: Names, who: Codes, asked: NDArray[np.bool_]) -> System:
    """Return deployments some of which exchange the tokens of experts by DeepEP, with the surfaces of its kernels."""
    if not asked.any():
        return system
    codes = {name: np.zeros(who.size, dtype=np.intp) for name in deepep.NAMES}
    for (code, tp, ep, nodes), places in _exchanges(system, who, asked).items():
        identity = names.identities[code]
        if deepep.refused(identity, tp, ep, nodes) is None:
            for name, surface in deepep.surface_codes(identity, nodes).items():
                codes[name][places] = surface
    return replace(system, deepep=asked, surfaces={**system.surfaces, **codes})


def _exchanges(
    system: System, who: Codes, asked: NDArray[np.bool_]
) -> dict[tuple[int, int, int, int], list[int]]:
    """Return names, tp, ep and nodes of the deployments with DeepEP, and which have them."""
    found: dict[tuple[int, int, int, int], list[int]] = {}
    nodes = system.nodes_of(system.tp)
    for place in np.flatnonzero(asked).tolist():
        key = (int(who[place]), int(system.tp[place]), int(system.ep[place]), int(nodes[place]))
        found.setdefault(key, []).append(place)
    return found


def wrong_exchange(names: Names, found: Distinct) -> Iterator[tuple[int, RequestError]]:
    """Yield the deployments that cannot be asked with DeepEP, each with the reason."""
    system = found.system
    for (code, tp, ep, nodes), places in _exchanges(system, found.who, system.deepep).items():
        error = deepep.refused(names.identities[code], tp, ep, nodes)
        if error is not None:
            yield from ((place, error) for place in places)


def _system(names: Names, who: Codes, widths: Widths, month: Array, network_bytes_s: Array) -> System:
    """Build what physics reads of d deployments."""
    every = who.size == len(names.identities) and bool((who == np.arange(who.size)).all())
    sized = names.numbers if every else {name: values[who] for name, values in names.numbers.items()}
    tp = widths.tp
    fabric = np.minimum(tp, sized["gpus_together"]) <= sized["link_gpus"]
    surfaces = {
        name.removeprefix(SURFACE): sized[name].astype(np.intp) for name in sized if name.startswith(SURFACE)
    }
    for call in ("graph", "eager"):
        inside, outside = surfaces.pop(f"fabric_{call}"), surfaces.pop(f"host_bus_{call}")
        surfaces[call] = np.where(fabric, inside, outside)
    classes = ("gemm_class", "expert_class", "kv_class", "attention_class", "engine")
    plain = (
        "gemm_bits", "expert_bits", "kv_bits", "table_bits", "gemm_peak_flops_s", "expert_peak_flops_s",
        "attention_peak_flops_s", "wide_peak_flops_s", "vector_peak_flops_s", "bandwidth_bytes_s", "memory_bytes",
        "taken_bytes", "version", "masks_window", "expert_tile", "latent_bits", "hidden_pad", "width_pad",
        "window_ratio", "direct_rows", "wide_direct_rows", "direct_columns",
    )  # fmt: skip
    numbers: dict[str, Any] = {name: sized[name] for name in plain}
    numbers |= {name: sized[name].astype(np.intp) for name in classes}
    return System(
        arch=names.arch if every else names.arch.take(who),
        **numbers,
        link_bytes_s=np.where(fabric, sized["link_bytes_s"], sized["pcie_bytes_s"]),
        node_gpus=sized["gpus_together"],
        network_bytes_s=network_bytes_s,
        deepep=np.zeros(tp.size, dtype=np.bool_),
        surfaces=surfaces,
        dynamic_scales=sized["dynamic_scales"] > 0,
        is_amd=sized["is_amd"] > 0,
        is_cpu=sized["is_cpu"] > 0,
        one_pool=sized["one_pool"] > 0,
        has_encoder=sized["has_encoder"] > 0,
        expert_widens=sized["expert_widens"] > 0,
        cache_widens=sized["cache_widens"] > 0,
        tp=tp,
        dp=widths.dp,
        ep=widths.ep,
        pp=widths.pp,
        engine_month=month,
    )


def settings_of(system: System, at: Codes, is_a100: NDArray[np.bool_], numbers: dict[str, Array]) -> Settings:
    """Return the engine's settings of n rows: what was given, else what it takes by itself."""
    asked = Settings(
        memory_fraction=numbers["mem_fraction"],
        chunk_tokens=numbers["chunked_prefill_size"],
        max_running=numbers["max_running_requests"],
        graph_max_batch=numbers["cuda_graph_max_bs"],
        poll_interval=numbers["scheduler_recv_interval"],
    )
    if not any(np.isnan(values).any() for values in asked):
        return asked
    arch = system.arch
    where, widths = (
        (system.version[at], system.memory_bytes[at]),
        (system.tp[at], system.dp[at], system.pp[at]),
    )

    def sglang() -> Settings:
        latent = (arch.mla_layers > 0)[at]
        return defaults.sglang(
            asked, *where, *widths, latent, system.has_encoder[at], system.is_cpu[at], system.deepep[at]
        )

    def vllm() -> Settings:
        longest = numbers["context_len"]
        context = np.where(np.isnan(longest), arch.max_position[at], longest)
        return defaults.vllm(asked, *where, is_a100, context, system.is_cpu[at], system.tp[at])

    fill, engine = (sglang, vllm, lambda: defaults.trtllm(asked)), system.engine[at]
    there = np.flatnonzero(np.bincount(engine, minlength=len(fill)))
    if there.size == 1:
        return fill[there[0]]()
    chosen = [fill[code]() if code in there else asked for code in range(len(fill))]
    return Settings(*(np.choose(engine, each) for each in zip(*chosen, strict=True)))


def smallest_tp(names: Names, codes: Codes, numbers: dict[str, Array]) -> Array:
    """Return for each row the smallest width of one node that divides the heads and fits, shape (n,).

    Where none fits it is the widest that divides: the answer is then that the model does not fit.
    """
    best = np.ones(codes.size)
    is_a100 = names.numbers["is_a100"][codes] > 0
    widest = names.numbers["gpus_together"][codes].max(initial=1.0)
    for width in reversed([each for each in WIDTHS if each <= widest]):
        tried = {**numbers, "tp": np.full(codes.size, float(width))}
        _, _, system, at = deployments(names, codes, tried)
        with np.errstate(invalid="ignore", divide="ignore"):
            possible = np.mod(system.arch.heads, system.attention_width) == 0
            possible &= (np.mod(system.tp, system.dp) == 0) & (np.mod(system.tp, system.ep) == 0)
            possible &= system.tp <= system.node_gpus
            possible &= kv_heads_divide(system.arch, system.attention_width)
            length = numbers["isl"] + numbers["osl"]
            holds = fits(memory(system, at, settings_of(system, at, is_a100, tried), length), length)
        best = np.where(possible[at] & (holds | (best < width)), width, best)
    return best
