"""Timings of routed experts as shapes: which rows measure what a rank runs, and what their routing touches.

The tables are those of AIConfigurator's SGLang collector (`collector/sglang/collect_moe.py`, Apache-2.0), whose
routing is synthetic: "balanced" spreads T k choices evenly over the experts, "power_law_A" draws loads from a
truncated power law and puts the busiest rank's experts on the timed rank. The draws are repeated here, so that a
row's shape is the pairs and experts that it really ran.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from aicalib.calibrate.kernels.table import Array, Calls, Names, Table
from aicalib.physics.kernels.moe import MOE, TILE, padded

if TYPE_CHECKING:
    import pandas as pd

DRAWS = 8
"""Routings drawn for a row; the collector times five."""

KERNELS = {
    "sglang_fused_moe_triton": "triton",
    "sglang_fused_moe_triton_situ_as_silu": "triton",
    "sglang_marlin_moe": "marlin",
    "sglang_marlin_moe_situ_as_silu": "marlin",
    "sglang_flashinfer_trtllm_moe": "trtllm",
    "sglang_mxfp4_flashinfer_trtllm_moe": "trtllm",
    "sglang_flashinfer_cutlass_moe": "cutlass",
}
"""Kernel sources of the table moe_perf that stand for one implementation."""


class Format(NamedTuple):
    """Part of the variant's name, true bits of a weight, number format of the math."""

    name: str
    bits: float
    peak: str


FORMATS = {
    "bfloat16": Format("wide", 16.0, "bf16"),
    "fp8_block": Format("fp8_block", 8.0 + 32.0 / 128**2, "fp8"),
    "int4_wo": Format("weight_only_4", 4.0 + 16.0 / 128, "bf16"),
    "w4a16_mxfp4": Format("weight_only_4", 4.0 + 8.0 / 32, "bf16"),
    "nvfp4": Format("fp4", 4.0 + 8.0 / 16, "fp4"),
    "w4a8_mxfp4_mxfp8": Format("mxfp4_mxfp8", 4.0 + 8.0 / 32, "fp8"),
}
"""Formats of the tables; scales included as the formats define them (OCP MX, NVFP4, groups of 128)."""

SPLIT = {"trtllm/int4_wo": "trtllm/int4"}
"""TRT-LLM's INT4 experts are another kernel than its MXFP4 ones; Marlin's are the same."""

UNPACKED = "triton/weight_only_4"
"""SGLang's Triton kernel has no MXFP4: its weights are unpacked to 16 bit while loading, and read as such."""

LEFT_OUT = ("sglang_flashinfer_cutlass_moe", "bfloat16")
"""16-bit CUTLASS experts: timed for one model family only (Nemotron), at three to five times the cost of the
same experts in Triton, with left-out errors above 30 %."""

WITHOUT_GATE = ((6, 128, 2688), (22, 512, 1024), (22, 512, 2048), (22, 512, 4096), (22, 512, 8192))
"""(top-k, experts, hidden size) of Nemotron-H, whose experts have two matrices; Triton is timed with three."""

GROUP_LIMITED = (7168, 2048, 8, 256)
"""(hidden, inter, top-k, experts) of DeepSeek-V3: under "balanced" its group-limited choice breaks ties so that
half the experts are never touched (seen in the latencies); those rows are dropped."""

WIDE_EP = {"moe_context": "deepgemm_contiguous", "moe_generation": "deepgemm_masked"}
"""Operators of the DeepEP tables: the grouped layout of prefill, and the masked one of decode. Their tokens
are those of all ranks together (latency follows tokens / ranks); the all-to-all is not in them."""

HOST_BOUND = 2.0
"""Prefill of the DeepEP tables is launched without a graph: no call takes less than 0.3 to 0.4 ms, however few its
tokens. Calls below this multiple of their table's shortest are the host's time, not the kernel's, and dropped."""


def power_law_counts(tokens: int, top_k: int, experts: int, alpha: float, rng: np.random.Generator) -> Array:
    """Draw how many of T k pairs each expert gets, as the collector does.

    Loads follow x^-alpha on [1, 0.8 T], or on [0.01, 2] where the pairs are no more than the experts; scaled
    to T k, rounded, no expert above T; what is missing goes to the least loaded, what is over comes from the
    most loaded.
    """
    low, high = (1.0, 0.8 * tokens) if tokens * top_k > experts else (0.01, 2.0)
    power = 1.0 - alpha
    loads = ((high**power - low**power) * rng.random(experts) + low**power) ** (1.0 / power)
    counts: Array = np.minimum(np.rint(loads / loads.sum() * tokens * top_k), tokens)
    while missing := int(tokens * top_k - counts.sum()):
        order = np.argsort(counts if missing > 0 else -counts, kind="stable")
        free = order[counts[order] < tokens] if missing > 0 else order[counts[order] > 0]
        counts[free[: abs(missing)]] += np.sign(missing)
    return counts


def routed(
    tokens: int, top_k: int, experts: int, ranks: int, distribution: str, seed: int = 0
) -> tuple[float, float]:
    """Return the pairs of the busiest rank and the experts that they touch, under a distribution of the tables.

    Raises
    ------
    ValueError
        A distribution that is neither "balanced", "uniform" nor "power_law_A".
    """
    if distribution in ("balanced", "uniform"):
        pairs = max(tokens * top_k / ranks, 1.0)
        return pairs, min(experts / ranks, pairs)
    name, _, alpha = distribution.rpartition("_")
    if name != "power_law":
        raise ValueError(
            f"{distribution}: not a distribution of the tables: balanced, uniform, power_law_1.2"
        )
    rng = np.random.default_rng(seed)
    found = np.empty((DRAWS, 2))
    for row in found:
        counts = power_law_counts(tokens, top_k, experts, float(alpha), rng).reshape(ranks, -1)
        busiest = counts[counts.sum(axis=1).argmax()]
        row[:] = busiest.sum(), np.count_nonzero(busiest)
    pairs, touched = found.mean(axis=0)
    return float(pairs), float(touched)


def _shapes(frame: pd.DataFrame, matrices: Array, tile: Array) -> dict[str, Array]:
    """Return the sizes of the kind for rows of either table."""
    keys = frame[["num_tokens", "topk", "num_experts", "moe_ep_size", "distribution"]]
    known = {key: routed(*key) for key in keys.drop_duplicates().itertuples(index=False, name=None)}
    found = np.array([known[key] for key in keys.itertuples(index=False, name=None)]).reshape(-1, 2)
    return {
        "pairs": found[:, 0],
        "touched": found[:, 1],
        "hidden_size": padded(frame["hidden_size"].to_numpy(float), tile),
        "inter_size": padded(
            frame["inter_size"].to_numpy(float) / frame["moe_tp_size"].to_numpy(float), tile
        ),
        "matrices": matrices,
    }


def _labels(frame: pd.DataFrame, *columns: str) -> Names:
    """Return the values of columns joined into one label a row."""
    joined = frame[columns[0]].astype(str)
    for column in columns[1:]:
        joined = joined + "x" + frame[column].astype(str)
    labels: Names = joined.to_numpy(str)
    return labels


def _usable(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that time what a rank of an engine runs.

    Under expert parallelism moe_perf is not used: the collector gives the choices of other ranks to the first
    local expert instead of masking them (`topk_ids.clamp(min=0)`), so that a rank computes up to all T k pairs;
    at 16384 tokens one of 8 ranks with an eighth of the pairs takes 65 % of the time of all. The DeepEP tables
    hold what a rank of a wide deployment receives, and are used whole.
    """
    wide = frame["op_name"].isin(list(WIDE_EP))
    names = frame[["hidden_size", "inter_size", "topk", "num_experts"]].itertuples(index=False, name=None)
    limited = np.array([key == GROUP_LIMITED for key in names], dtype=bool)
    ties = limited & (frame["distribution"] == "balanced")
    odd = (frame["kernel_source"] == LEFT_OUT[0]) & (frame["moe_dtype"] == LEFT_OUT[1])
    fused = frame["kernel_source"].isin(list(KERNELS)) & (frame["moe_ep_size"] == 1) & ~ties & ~odd
    known = frame["moe_dtype"].isin(list(FORMATS)) & (frame["latency_ms"] > 0)
    eager = frame["op_name"] == "moe_context"
    host = eager & (frame["latency_ms"] < HOST_BOUND * frame.loc[eager & known, "latency_ms"].min())
    usable: pd.DataFrame = frame[(wide | fused) & known & ~host]
    return usable


def calls(frame: pd.DataFrame) -> Calls:
    """Return the timed calls among kernel runs of experts; see `aicalib.calibrate.kernels.table.Table.calls`."""
    frame = _usable(frame)
    formats = [FORMATS[name] for name in frame["moe_dtype"]]
    kernels = frame["kernel_source"].map(KERNELS).fillna(frame["op_name"].map(WIDE_EP))
    named = zip(kernels, frame["moe_dtype"], formats, strict=True)
    variant = [SPLIT.get(f"{kernel}/{mode}", f"{kernel}/{form.name}") for kernel, mode, form in named]
    family = frame[["topk", "num_experts", "hidden_size"]].itertuples(index=False, name=None)
    gated = [
        name.startswith("triton") or key not in WITHOUT_GATE
        for name, key in zip(variant, family, strict=True)
    ]
    return Calls(
        variant=np.array(variant, dtype=str),
        shape=_shapes(
            frame,
            matrices=np.where(gated, 3.0, 2.0),
            tile=np.array([TILE.get(name, 1) for name in variant], dtype=float),
        ),
        bits=np.array(
            [16.0 if n == UNPACKED else form.bits for n, form in zip(variant, formats, strict=True)]
        ),
        peak=np.array([form.peak for form in formats], dtype=str),
        latency_s=frame["latency_ms"].to_numpy(float) * 1e-3,
        blocks={
            "model": _labels(frame, "hidden_size", "inter_size", "topk", "num_experts"),
            "tp": _labels(frame, "moe_tp_size"),
            "ep": _labels(frame, "moe_ep_size"),
        },
    )


TABLES = (
    Table(
        kind=MOE,
        tables=("moe_perf", "wideep_context_moe_perf", "wideep_generation_moe_perf"),
        calls=calls,
        bend=0.5,
        target=0.10,
    ),
)
