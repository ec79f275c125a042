"""Matrix products: the tables `gemm_perf`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aicalib.calibrate.kernels.table import Calls, Table, octave
from aicalib.physics.kernels.gemm import ACTIVATION_BITS, GEMM

if TYPE_CHECKING:
    import pandas as pd

FORMATS = {
    "bfloat16": ("wide", 16.0, "bf16"),
    "fp8": ("fp8", 8.0, "fp8"),
    "fp8_block": ("fp8_block", 8.0 + 32.0 / 128**2, "fp8"),
    "nvfp4": ("fp4", 4.5, "fp4"),
}
"""Format of the table -> variant, bits of a weight, format of the math. The table's `int8_wo` (one accelerator,
an old engine) is no kernel that an engine serves with today."""


def _calls(frame: pd.DataFrame) -> Calls:
    frame = frame[frame["gemm_dtype"].isin(list(FORMATS))]
    formats = [FORMATS[name] for name in frame["gemm_dtype"]]
    variant = np.array([each[0] for each in formats], dtype=str)
    m, n, k = (frame[name].to_numpy(float) for name in "mnk")
    pairs = np.char.add(np.char.add(n.astype(int).astype(str), "x"), k.astype(int).astype(str))
    return Calls(
        variant=variant,
        shape={
            "m": m,
            "n": n,
            "k": k,
            "activation_bits": np.array([ACTIVATION_BITS[name] for name in variant]),
        },
        bits=np.array([each[1] for each in formats]),
        peak=np.array([each[2] for each in formats], dtype=str),
        latency_s=frame["latency_ms"].to_numpy(float) / 1e3,
        blocks={"n, k": pairs, "m": octave(m)},
    )


TABLES = (Table(GEMM, ("gemm_perf",), _calls, bend=0.2, target=0.07),)
