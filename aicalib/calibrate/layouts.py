"""Runs with prefill on instances of its own: their widths as options, and the network that no record names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aicalib.errors import InvalidValue, RequestError
from aicalib.hardware import get_accelerator
from aicalib.resolve.batch import Batch
from aicalib.resolve.features import GIGABIT
from aicalib.served import transfer_bytes

Array = NDArray[np.float64]

USUAL_GBIT_S = 400.0
"""Network of a GPU between nodes: one ConnectX-7 adapter each in NVIDIA's DGX H100, H200, B200 and GB200 systems
(their datasheets)."""

SLOW_GBIT_S = 100.0
"""The slowest network that is plausible between such nodes."""

SMALL_SHARE = 0.1
"""Share of the measured TTFT up to which the transfer over the slowest network leaves the answer as it is."""

COUNTS = {
    "prefill_num_workers": "number of prefill instances",
    "decode_num_workers": "number of decode instances",
    "prefill_tp_size": "width of the prefill instances",
    "decode_tp_size": "width of the decode instances",
}
"""Keys of a layout without which it cannot be asked, and what they are."""


WIDEST = 8
"""GPUs of an instance up to which runs are asked: collectives were timed on no more, and the share of memory of wider
instances, which SGLang's own rule makes small, is not recorded."""


def _number(layout: Mapping[str, Any], key: str) -> int:
    """Return a width of a layout, 1 where it is not told."""
    value = layout.get(key)
    return 1 if value is None or value != value else int(value)


def wrong_layout(record: Mapping[str, Any]) -> RequestError | None:
    """Return why the instances of a run cannot be told, None where they can."""
    layout = record.get("disagg_layout") or {}
    for key, what in COUNTS.items():
        value = layout.get(key)
        if value is None or value != value:
            return InvalidValue(f"prefill on instances of its own: the {what} is not recorded")
    if _number(layout, "prefill_pp_size") > 1 or _number(layout, "decode_pp_size") > 1:
        return InvalidValue("prefill on instances of its own: pipeline stages are not covered")
    for side in ("prefill", "decode"):
        width = _widths(layout, side)["tp"]
        if width > WIDEST:
            return InvalidValue(
                f"prefill on instances of its own: a {side} instance of {width} GPUs is wider than the {WIDEST} on "
                "which collectives were timed"
            )
    return None


def _widths(layout: Mapping[str, Any], side: str) -> dict[str, int]:
    """Return the widths of the instances of one side: `tp` counts the attention-data-parallel ranks."""
    ranks = _number(layout, f"{side}_attention_dp_size")
    return {
        "tp": _number(layout, f"{side}_tp_size") * ranks,
        "dp": ranks,
        "ep": _number(layout, f"{side}_moe_ep_size"),
    }


def layout_options(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a run with prefill on instances of its own; empty for any other.

    All GPUs within one link domain, or one node, talk over the accelerator's own link; others over `USUAL_GBIT_S`.
    """
    if record.get("disagg") is not True:
        return {}
    layout = record["disagg_layout"]
    prefill, decode = (_widths(layout, side) for side in ("prefill", "decode"))
    instances = {side: _number(layout, f"{side}_num_workers") for side in ("prefill", "decode")}
    gpus = instances["prefill"] * prefill["tp"] + instances["decode"] * decode["tp"]
    gpu = get_accelerator(str(record["gpu"]))
    near = gpu.link_bytes_s is not None and gpus <= max(gpu.link_gpus, gpu.gpus_per_node)
    return {
        **decode,
        **{f"prefill_{name}": value for name, value in prefill.items()},
        **{f"{side}_instances": value for side, value in instances.items()},
        "network_gbit_s": gpu.link_bytes_s / GIGABIT if near and gpu.link_bytes_s else USUAL_GBIT_S,
    }


def network_assumed(batch: Batch) -> NDArray[np.bool_]:
    """Return which questions are asked with the usual network between nodes, shape (n,)."""
    pools = batch.features.separation
    if pools is None:
        return np.zeros(batch.rows.size, dtype=bool)
    result: NDArray[np.bool_] = pools.separate & (pools.network_bytes_s == USUAL_GBIT_S * GIGABIT)
    return result


def network_decides(batch: Batch, ttft_ms: Array) -> NDArray[np.bool_]:
    """Return which questions hang on the network that is not recorded, shape (n,).

    Parameters
    ----------
    batch : Batch
        n questions.
    ttft_ms : ndarray, shape (n,)
        As measured; NaN where it was not, where the network shows in nothing that was measured.
    """
    slowest_ms = 1e3 * transfer_bytes(batch) / (SLOW_GBIT_S * GIGABIT)
    return network_assumed(batch) & (slowest_ms > SMALL_SHARE * ttft_ms)
