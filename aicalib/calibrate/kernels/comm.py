"""Exchange between ranks: the tables `custom_allreduce_perf` and `wideep_deepep_*`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aicalib.calibrate.kernels.table import Array, Calls, Table, octave
from aicalib.hardware import get_accelerator
from aicalib.physics.kernels.comm import ALL_REDUCE, COMBINE, DISPATCH, all_reduce_variant

if TYPE_CHECKING:
    import pandas as pd

ELEMENT_BYTES = 2.0
"""The message size of the all-reduce tables counts elements of bf16: the package's own models ask for tokens times
hidden size."""

SMS = 20
"""Multiprocessors that DeepEP's normal mode uses unless told otherwise; the tables try others too."""


def _constant(value: float, like: Array) -> Array:
    return np.full(like.size, value)


def _all_reduce(frame: pd.DataFrame) -> Calls:
    if not frame.empty:
        frame = frame[frame["backend"].isin(["sglang_graph", "sglang_eager"])]
    fabric = {name: bool(get_accelerator(name).link_name) for name in frame["accelerator"].unique()}
    names = [
        all_reduce_variant(graph=backend == "sglang_graph", fabric=fabric[accelerator])
        for accelerator, backend in zip(frame["accelerator"], frame["backend"], strict=True)
    ]
    bytes_ = frame["message_size"].to_numpy(float) * ELEMENT_BYTES
    width = frame["num_gpus"].to_numpy(float)
    return Calls(
        variant=np.array(names, dtype=str),
        shape={"bytes": bytes_, "width": width},
        bits=_constant(8.0 * ELEMENT_BYTES, bytes_),
        peak=np.full(bytes_.size, "bf16"),
        latency_s=frame["latency_ms"].to_numpy(float) / 1e3,
        blocks={"message": octave(bytes_, 2)},
    )


def _deepep(frame: pd.DataFrame, direction: str) -> Calls:
    normal = "dispatch_sms" in frame
    if normal:
        frame = frame[frame[f"{direction}_sms"] == SMS]
    column = f"{direction}_transmit_us" if normal else f"{direction}_avg_t_us"
    mode = "normal" if normal else "low_latency"
    nodes = frame["node_num"].astype(int)
    sizes = {
        size: frame[column].to_numpy(float)
        for size, column in {
            "tokens": "num_token", "hidden": "hidden_size", "topk": "num_topk", "experts": "num_experts"
        }.items()
    }  # fmt: skip
    tokens = sizes["tokens"]
    models = zip(sizes["hidden"], sizes["topk"], sizes["experts"], strict=True)
    names = [f"{hidden:g}x{topk:g}x{experts:g}" for hidden, topk, experts in models]
    return Calls(
        variant=np.array([mode if count == 1 else f"{mode}_{count}_nodes" for count in nodes], dtype=str),
        shape=sizes,
        bits=_constant(8.0, tokens),
        peak=np.full(tokens.size, "bf16"),
        latency_s=frame[column].to_numpy(float) / 1e6,
        blocks={"model": np.array(names, dtype=str), "tokens": octave(tokens, 2)},
    )


def _dispatch(frame: pd.DataFrame) -> Calls:
    return _deepep(frame, "dispatch")


def _combine(frame: pd.DataFrame) -> Calls:
    return _deepep(frame, "combine")


_DEEPEP = ("wideep_deepep_ll_perf", "wideep_deepep_normal_perf")

TABLES = (
    # From one width to the next another algorithm, and beyond a node another link, takes over: no smoothness there.
    Table(ALL_REDUCE, ("custom_allreduce_perf",), _all_reduce, bend=(0.05, 0.001)),
    Table(DISPATCH, _DEEPEP, _dispatch, bend=0.3),
    Table(COMBINE, _DEEPEP, _combine, bend=0.3),
)
