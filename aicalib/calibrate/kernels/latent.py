"""Latent attention: the tables `generation_mla_perf`.

Prefill is not fitted: the calls of `context_mla_perf` are absorbed except on Blackwell (16 ms for 128 heads and 8192
tokens on an H200, 5.7 times the operations of the expanded form over the peak and 1.7 times those of the absorbed one),
while engines expand what has no prefix. On Blackwell they agree within 15 % with grouped heads of the same widths,
which answer for prefill everywhere.

The tables `wideep_*_mla_perf` time whole modules, projections included, of one model at one width: they are not
read. All rows read have the widths of DeepSeek-V3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aicalib.calibrate.kernels.attention import formats
from aicalib.calibrate.kernels.table import Calls, Table, octave
from aicalib.physics.kernels.latent import LATENT_DECODE

if TYPE_CHECKING:
    import pandas as pd

ROPE_DIM, LATENT_DIM = 64.0, 512.0
"""Widths of DeepSeek-V3 (its config.json: qk_rope_head_dim, kv_lora_rank)."""


def _decode(frame: pd.DataFrame) -> Calls:
    classes, bits, peak = formats(frame)
    context = frame["step"].to_numpy(float) + 1.0
    heads = frame["num_heads"].to_numpy(float)
    return Calls(
        variant=np.char.add(np.char.add(frame["kernel_source"].to_numpy(str), "/"), classes),
        shape={
            "batch": frame["batch_size"].to_numpy(float),
            "context": context,
            "heads": heads,
            "latent_dim": np.full_like(heads, LATENT_DIM),
            "rope_dim": np.full_like(heads, ROPE_DIM),
        },
        bits=bits,
        peak=peak,
        latency_s=frame["latency_ms"].to_numpy(float) / 1e3,
        blocks={"heads": heads.astype(int).astype(str), "context": octave(context)},
    )


TABLES = (Table(LATENT_DECODE, ("generation_mla_perf",), _decode, bend=0.05, target=0.06),)
