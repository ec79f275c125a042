"""Grouped-head attention: the tables `context_attention_perf` and `generation_attention_perf`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from aicalib.calibrate.kernels.table import Array, Calls, Names, Table, octave
from aicalib.hardware import get_accelerator
from aicalib.physics.kernels.attention import DECODE, EIGHT_BIT_MATH, MASKING_PREFILL, PREFILL

if TYPE_CHECKING:
    import pandas as pd

CHUNKED_ATTENTION = 8192
"""A window of this size in the tables is the chunked attention of one model (Llama 4), which sees the tokens of
its own chunk and is no sliding window; only some backends skip anything there. Its rows are left out."""


def formats(frame: pd.DataFrame) -> tuple[Names, Array, Names]:
    """Return class ("wide", "fp8"), bits and format of the math of each row from its cache and its backend."""
    fp8 = (frame["kv_cache_dtype"] == "fp8").to_numpy()
    narrow_math = fp8 & frame["kernel_source"].isin(list(EIGHT_BIT_MATH)).to_numpy()
    return (
        np.where(fp8, "fp8", "wide").astype(str),
        np.where(fp8, 8.0, 16.0),
        np.where(narrow_math, "fp8", "bf16").astype(str),
    )


def _heads(frame: pd.DataFrame) -> dict[str, Array]:
    """Return heads, widths and window of rows; a table without windows, or a window of 0, sees everything."""
    window = (
        frame["window_size"].fillna(0.0).to_numpy(float) if "window_size" in frame else np.zeros(len(frame))
    )
    head_dim = frame["head_dim"].to_numpy(float)
    return {
        "heads": frame["num_heads"].to_numpy(float),
        "kv_heads": frame["num_key_value_heads"].to_numpy(float),
        "head_dim": head_dim,
        "v_head_dim": head_dim,
        "window": np.where(window > 0.0, window, np.inf),
    }


def _chunked(frame: pd.DataFrame) -> NDArray[np.bool_]:
    if "window_size" not in frame:
        return np.zeros(len(frame), dtype=bool)
    chunked: NDArray[np.bool_] = (frame["window_size"] == CHUNKED_ATTENTION).to_numpy(bool)
    return chunked


def _variants(frame: pd.DataFrame, classes: Names, window: Array) -> Names:
    full = np.char.add(np.char.add(frame["kernel_source"].to_numpy(str), "/"), classes)
    return np.where(np.isfinite(window), np.char.add(full, "/window"), full)


def _configurations(shape: dict[str, Array]) -> Names:
    parts = [shape[name].astype(int).astype(str) for name in ("heads", "kv_heads", "head_dim")]
    return np.array(["x".join(each) for each in zip(*parts, strict=True)], dtype=str)


def out_of_memory(latency_s: Array, bytes_: Array, frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which rows move their cache or state through the memory: no faster than its bandwidth.

    The others find the same small cache again and again in L2, which no layer of a model does.
    """
    rates = {name: get_accelerator(name).bandwidth_bytes_s for name in frame["accelerator"].unique()}
    bandwidth = frame["accelerator"].map(rates).to_numpy(float)
    slow: NDArray[np.bool_] = latency_s > bytes_ / bandwidth
    return slow


def _decode(frame: pd.DataFrame) -> Calls:
    frame = frame[~_chunked(frame)]
    heads = _heads(frame)
    seen = np.minimum(frame["step"].to_numpy(float) + 1.0, heads["window"])
    width = heads["head_dim"] + heads["v_head_dim"]
    cache = formats(frame)[1] / 8.0 * frame["batch_size"].to_numpy(float) * heads["kv_heads"] * width * seen
    frame = frame[out_of_memory(frame["latency_ms"].to_numpy(float) / 1e3, cache, frame)]
    classes, bits, peak = formats(frame)
    heads = _heads(frame)
    context = frame["step"].to_numpy(float) + 1.0
    shape = {"batch": frame["batch_size"].to_numpy(float), "context": context, **heads}
    return Calls(
        variant=_variants(frame, classes, heads["window"]),
        shape=shape,
        bits=bits,
        peak=peak,
        latency_s=frame["latency_ms"].to_numpy(float) / 1e3,
        blocks={"heads": _configurations(shape), "context": octave(context)},
    )


def _prefill(frame: pd.DataFrame) -> Calls:
    # FP8 queries in Triton are a path that no default takes.
    frame = frame[
        ~_chunked(frame) & ((frame["kernel_source"] != "triton") | (frame["attn_dtype"] == "bfloat16"))
    ]
    classes, bits, peak = formats(frame)
    heads = _heads(frame)
    new = frame["isl"].to_numpy(float)
    shape = {
        "prompts": frame["batch_size"].to_numpy(float),
        "new_tokens": new,
        "prefix_tokens": np.zeros_like(new),
        **heads,
    }
    variant = _variants(frame, classes, heads["window"])
    masking = frame["kernel_source"].isin(list(MASKING_PREFILL)).to_numpy()
    shape["window"] = np.where(masking, np.inf, heads["window"])
    return Calls(
        variant=variant,
        shape=shape,
        bits=bits,
        peak=peak,
        latency_s=frame["latency_ms"].to_numpy(float) / 1e3,
        blocks={"heads": _configurations(shape), "new tokens": octave(new)},
    )


TABLES = (
    Table(DECODE, ("generation_attention_perf",), _decode, bend=0.05, target=0.06),
    Table(PREFILL, ("context_attention_perf",), _prefill, bend=0.05, target=0.06),
)
