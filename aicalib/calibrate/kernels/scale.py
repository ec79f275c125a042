"""Dynamic scales of activations: the tables `computescale_perf` of every engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aicalib.calibrate.kernels.table import Calls, Table, octave
from aicalib.physics.kernels.scale import SCALE

if TYPE_CHECKING:
    import pandas as pd

NOTHING_S = 1e-15
"""Stands for no time at all in seconds, since surfaces are logarithms; far below `NEGLIGIBLE`."""


def _calls(frame: pd.DataFrame) -> Calls:
    """Return the timings; where most are zero, one kernel casts and scales at once, and the others are noise."""
    m, k = frame["m"].to_numpy(float), frame["k"].to_numpy(float)
    latency_s = frame["latency_ms"].to_numpy(float) / 1e3
    if np.median(latency_s) <= 0.0:
        latency_s = np.full_like(latency_s, NOTHING_S)
    return Calls(
        variant=frame["engine"].to_numpy(str),
        shape={"m": m, "k": k},
        bits=np.full(m.size, 16.0),
        peak=np.full(m.size, "bf16"),
        latency_s=latency_s,
        blocks={"k": k.astype(int).astype(str), "m": octave(m)},
    )


TABLES = (
    Table(
        SCALE, ("computescale_perf",), _calls, bend=0.05, target=0.10, engines=("sglang", "trtllm", "vllm")
    ),
)
