"""Checks of numbers: what no deployment or workload can have, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.deployment import Identity
from aicalib.errors import InvalidValue, NotCovered, RequestError
from aicalib.models.stack import ArchitectureArrays
from aicalib.resolve.identify import WIDTHS

Array = NDArray[np.float64]

SETTINGS = ("chunked_prefill_size", "max_running_requests", "cuda_graph_max_bs", "scheduler_recv_interval")
"""Settings of the engine, which takes its own where none is given."""

COUNTS = ("tp", "dp", "ep", "pp", "concurrency", "num_prompts", *SETTINGS)
"""Numbers that are positive and whole."""

MAY_BE_ZERO = ("cuda_graph_max_bs",)
"""Counts whose zero means without."""


class Widths(NamedTuple):
    """Parallel widths of deployments, shape (d,) each."""

    tp: Array
    dp: Array
    ep: Array
    pp: Array


MOST_MONTHS = 240.0
"""Months from the epoch that no engine version is older or newer than."""


def kv_heads_divide(arch: ArchitectureArrays, width: Array) -> NDArray[np.bool_]:
    """Return whether the KV heads can be split over a width: into equal parts, or into copies of one each.

    A mean over blocks that differ says nothing of the single ones and passes.
    """
    result = np.ones(np.broadcast(arch.kv_heads, width).shape, dtype=bool)
    for layers, heads in (
        (arch.full_layers + arch.block_sparse_layers, arch.kv_heads),
        (arch.window_layers, arch.window_kv_heads),
    ):
        even = np.mod(np.maximum(heads, width), np.maximum(np.minimum(heads, width), 1.0)) == 0
        result &= even | (layers == 0) | (np.mod(heads, 1.0) > 0)
    return result


def wrong_numbers(
    numbers: dict[str, Array], max_position: Array, model: Callable[[int], str]
) -> Iterator[tuple[int, RequestError]]:
    """Yield the rows whose numbers cannot be, each with the reason.

    Parameters
    ----------
    numbers : dict of str to ndarray, shape (n,)
        Filled in, except the engine's settings, which are NaN where not given.
    max_position : ndarray, shape (n,)
        Longest sequence of the model in tokens, 0 where not known.
    model : callable
        Row -> name of its model.
    """
    for name in COUNTS:
        value = numbers[name]
        least = 0.0 if name in MAY_BE_ZERO else 1.0
        bad = ~((value >= least) & (value < np.inf) & (np.trunc(value) == value))
        if name in SETTINGS:
            bad &= ~np.isnan(value)
        for place in np.flatnonzero(bad):
            works = max(int(value[place]), 1) if np.isfinite(value[place]) else 1
            yield (
                int(place),
                InvalidValue(f"{name} {value[place]:g} is not a positive whole number", [f"{name} {works}"]),
            )
    for name in ("isl", "osl"):
        value = numbers[name]
        for place in np.flatnonzero(~np.isfinite(value) | (value < 1.0)):
            said = f"{name} {value[place]:g} is not a number of tokens from 1 on"
            yield int(place), InvalidValue(said, [f"{name} 1024"])
    longest = numbers["isl"] + numbers["osl"]
    for place in np.flatnonzero((max_position > 0) & (longest > max_position)):
        yield (
            int(place),
            InvalidValue(
                f"isl and osl make {longest[place]:g} tokens; {model(int(place))} has "
                f"{max_position[place]:g} positions"
            ),
        )
    context = numbers["context_len"]
    for place in np.flatnonzero(longest > context):
        yield (
            int(place),
            InvalidValue(f"isl and osl make {longest[place]:g} tokens; context_len is {context[place]:g}"),
        )
    month = numbers["engine_month"]
    for place in np.flatnonzero(np.abs(month) > MOST_MONTHS):
        yield int(place), InvalidValue(f"engine_month {month[place]:g} is no month of an engine")
    if "prefix_hit" in numbers:
        hit = numbers["prefix_hit"]
        for place in np.flatnonzero(~((hit >= 0.0) & (hit <= 1.0))):
            yield int(place), InvalidValue(f"prefix_hit {hit[place]:g} is not a share between 0 and 1")
    if "network_gbit_s" in numbers:
        rate = numbers["network_gbit_s"]
        for place in np.flatnonzero(rate <= 0.0):
            yield (
                int(place),
                InvalidValue(
                    f"network_gbit_s {rate[place]:g} is not a positive rate", ["network_gbit_s 400"]
                ),
            )
    fraction = numbers["mem_fraction"]
    for place in np.flatnonzero((fraction <= 0.0) | (fraction > 1.0)):
        yield int(place), InvalidValue(f"mem_fraction {fraction[place]:g} is not between 0 and 1")


def wrong_widths(
    arch: ArchitectureArrays,
    together: Array,
    widths: Widths,
    identities: list[Identity],
    networked: NDArray[np.bool_],
) -> Iterator[tuple[int, RequestError]]:
    """Yield the deployments whose parallel widths cannot be, each with the reason.

    Parameters
    ----------
    arch : ArchitectureArrays
        Of d deployments.
    together : ndarray, shape (d,)
        GPUs of a node, or of a link domain where that is larger.
    widths : Widths
        Of the d deployments.
    identities : list of Identity
        One a deployment, for their names.
    networked : ndarray of bool, shape (d,)
        Whether an instance may span several nodes: the network's rate is known, or memory alone is asked for.
    """  # fmt: skip
    tp, dp, ep, pp = widths
    heads, experts = arch.heads, arch.num_experts

    def model(at: int) -> str:
        return identities[at].architecture.name

    def no_network(at: int) -> RequestError:
        gpu = identities[at].accelerator.name
        asked = f"tp {tp[at]:g}" if pp[at] == 1 else f"tp {tp[at]:g} x pp {pp[at]:g}"
        fitting = [f"tp {together[at]:g}"] if tp[at] > together[at] else [f"pp {together[at] // tp[at]:g}"]
        return NotCovered(
            f"{asked} spans more than the {together[at]:g} {gpu} of one node; for several nodes give network_gbit_s, "
            "the rate at which one GPU sends, for example 400 for one ConnectX-7 a GPU",
            ["network_gbit_s 400", *fitting],
        )

    def heads_do_not_divide(at: int) -> RequestError:
        return InvalidValue(
            f"tp {tp[at]:g} (dp {dp[at]:g}) does not divide the {heads[at]:g} attention heads of {model(at)}",
            [f"tp {width}" for width in WIDTHS if width % dp[at] == 0 and heads[at] % (width / dp[at]) == 0],
        )

    with np.errstate(invalid="ignore", divide="ignore"):
        checks: list[tuple[NDArray[np.bool_], Callable[[int], RequestError]]] = [
            ((tp * pp > together) & ~networked, no_network),
            (
                pp > arch.num_layers,
                lambda at: InvalidValue(
                    f"pp {pp[at]:g} is more than the {arch.num_layers[at]:g} layers of {model(at)}", ["pp 1"]
                ),
            ),
            (np.mod(tp, dp) != 0, lambda at: InvalidValue(f"dp {dp[at]:g} does not divide tp {tp[at]:g}")),
            (
                (ep > 1) & (experts == 0),
                lambda at: InvalidValue(
                    f"ep {ep[at]:g} on {model(at)}: it is a dense model without experts", ["ep 1"]
                ),
            ),
            (np.mod(tp, ep) != 0, lambda at: InvalidValue(f"ep {ep[at]:g} does not divide tp {tp[at]:g}")),
            (np.mod(heads, tp / dp) != 0, heads_do_not_divide),
            (
                ~kv_heads_divide(arch, tp / dp),
                lambda at: InvalidValue(
                    f"tp {tp[at]:g} (dp {dp[at]:g}) neither divides nor is divided by the "
                    f"{arch.kv_heads[at]:g} KV heads of {model(at)}"
                ),
            ),
            (
                (ep > 1) & (experts > 0) & (np.mod(experts, ep) != 0),
                lambda at: InvalidValue(
                    f"ep {ep[at]:g} does not divide the {experts[at]:g} experts of {model(at)}", ["ep 1"]
                ),
            ),
        ]
    for mask, error in checks:
        for place in np.flatnonzero(mask):
            yield int(place), error(int(place))
