"""Checks of numbers: what no deployment or workload can have, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from aicalib.deployment import Identity
from aicalib.errors import InvalidValue, NotCovered, RequestError
from aicalib.identify import WIDTHS
from aicalib.models.stack import ArchitectureArrays

Array = NDArray[np.float64]

SETTINGS = ("chunked_prefill_size", "max_running_requests", "cuda_graph_max_bs", "scheduler_recv_interval")
"""Settings of the engine, which takes its own where none is given."""

COUNTS = ("tp", "dp", "ep", "pp", "concurrency", "num_prompts", *SETTINGS)
"""Numbers that are positive and whole."""

MAY_BE_ZERO = ("cuda_graph_max_bs",)
"""Counts whose zero means without."""

MOST_MONTHS = 240.0
"""Months from the epoch that no engine version is older or newer than."""


def kv_heads_divide(arch: ArchitectureArrays, width: Array) -> NDArray[np.bool_]:
    """Return whether the KV heads can be split over a width: into equal parts, or into copies of one each."""
    softmax = arch.full_layers + arch.window_layers > 0
    even = np.mod(np.maximum(arch.kv_heads, width), np.maximum(np.minimum(arch.kv_heads, width), 1.0)) == 0
    result: NDArray[np.bool_] = even | ~softmax
    return result


def wrong_numbers(
    arch: ArchitectureArrays, together: Array, numbers: dict[str, Array], identities: list[Identity]
) -> Iterator[tuple[int, RequestError]]:
    """Yield the rows whose numbers cannot be, each with the reason.

    Parameters
    ----------
    arch : ArchitectureArrays
        Of n rows.
    together : ndarray, shape (n,)
        GPUs of one node.
    numbers : dict of str to ndarray, shape (n,)
        Filled in, except the engine's settings, which are NaN where not given.
    identities : list of Identity
        One a row, for their names.
    """
    for name in COUNTS:
        value = numbers[name]
        bad = ~np.isfinite(value) | (value < 1.0) | (np.nan_to_num(value, posinf=0.5) % 1 != 0)
        if name in SETTINGS:
            bad &= ~np.isnan(value)
        if name in MAY_BE_ZERO:
            bad &= value != 0.0
        for place in np.flatnonzero(bad):
            yield int(place), InvalidValue(f"{name} {value[place]:g} is not a positive whole number")
    for name in ("isl", "osl"):
        value = numbers[name]
        for place in np.flatnonzero(~np.isfinite(value) | (value < 1.0)):
            yield int(place), InvalidValue(f"{name} {value[place]:g} is not a number of tokens from 1 on")
    longest = numbers["isl"] + numbers["osl"]
    for place in np.flatnonzero((arch.max_position > 0) & (longest > arch.max_position)):
        yield (
            int(place),
            InvalidValue(
                f"isl and osl make {longest[place]:g} tokens; {identities[place].architecture.name} has "
                f"{arch.max_position[place]:g} positions"
            ),
        )
    month = numbers["engine_month"]
    for place in np.flatnonzero(np.abs(month) > MOST_MONTHS):
        yield int(place), InvalidValue(f"engine_month {month[place]:g} is no month of an engine")
    fraction = numbers["mem_fraction"]
    for place in np.flatnonzero((fraction <= 0.0) | (fraction > 1.0)):
        yield int(place), InvalidValue(f"mem_fraction {fraction[place]:g} is not between 0 and 1")
    tp, dp, ep, pp = (numbers[name] for name in ("tp", "dp", "ep", "pp"))
    heads, experts = arch.heads, arch.num_experts

    def model(at: int) -> str:
        return identities[at].architecture.name

    def too_wide(at: int) -> RequestError:
        gpu = identities[at].accelerator.name
        return NotCovered(
            f"tp {tp[at]:g} spans more than the {together[at]:g} {gpu} of one node; several nodes are not "
            "covered yet",
            [f"tp {together[at]:g}"],
        )

    def heads_do_not_divide(at: int) -> RequestError:
        return InvalidValue(
            f"tp {tp[at]:g} (dp {dp[at]:g}) does not divide the {heads[at]:g} attention heads of {model(at)}",
            [f"tp {width}" for width in WIDTHS if width % dp[at] == 0 and heads[at] % (width / dp[at]) == 0],
        )

    with np.errstate(invalid="ignore", divide="ignore"):
        checks: list[tuple[NDArray[np.bool_], Callable[[int], RequestError]]] = [
            (
                pp > 1,
                lambda at: NotCovered(f"pp {pp[at]:g}: pipeline parallelism is not covered yet", ["pp 1"]),
            ),
            (tp > together, too_wide),
            (np.mod(tp, dp) != 0, lambda at: InvalidValue(f"dp {dp[at]:g} does not divide tp {tp[at]:g}")),
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
                (ep > 1) & ((experts == 0) | (np.mod(experts, ep) != 0)),
                lambda at: InvalidValue(
                    f"ep {ep[at]:g} does not divide the {experts[at]:g} experts of {model(at)}", ["ep 1"]
                ),
            ),
        ]
    for mask, error in checks:
        for place in np.flatnonzero(mask):
            yield int(place), error(int(place))
