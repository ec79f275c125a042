"""Casting activations with a given scale: the tables `scale_matrix_perf`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aicalib.calibrate.kernels.table import Calls, Table, octave
from aicalib.physics.kernels.quantize import QUANTIZE

if TYPE_CHECKING:
    import pandas as pd


def _calls(frame: pd.DataFrame) -> Calls:
    m, k = frame["m"].to_numpy(float), frame["k"].to_numpy(float)
    return Calls(
        variant=frame["quant_dtype"].to_numpy(str),
        shape={"m": m, "k": k},
        bits=np.full(m.size, 8.0),
        peak=np.full(m.size, "bf16"),
        latency_s=frame["latency_ms"].to_numpy(float) / 1e3,
        blocks={
            "k": k.astype(int).astype(str),
            "elements": octave(m * k),
        },
    )


TABLES = (Table(QUANTIZE, ("scale_matrix_perf",), _calls, bend=0.05),)
