"""Batched products of latent attention: the tables `mla_bmm_perf`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aicalib.calibrate.kernels.table import Calls, Table, octave
from aicalib.physics.kernels.batched import MLA_BATCHED

if TYPE_CHECKING:
    import pandas as pd

SIDES = {"mla_gen_pre": ("pre", 128.0, 512.0), "mla_gen_post": ("post", 512.0, 128.0)}
"""Operator -> side, inner and outer size; the tables are of DeepSeek-V3's latent of 512 and heads of 128."""

FORMATS = {"bfloat16": ("wide", 16.0, "bf16"), "fp8": ("fp8", 8.0, "fp8")}


def _calls(frame: pd.DataFrame) -> Calls:
    sides = [SIDES[name] for name in frame["op_name"]]
    formats = [FORMATS[name] for name in frame["bmm_dtype"]]
    tokens, heads = frame["num_tokens"].to_numpy(float), frame["num_heads"].to_numpy(float)
    return Calls(
        variant=np.array(
            [f"{side[0]}_{form[0]}" for side, form in zip(sides, formats, strict=True)], dtype=str
        ),
        shape={
            "tokens": tokens,
            "heads": heads,
            "inner": np.array([side[1] for side in sides]),
            "outer": np.array([side[2] for side in sides]),
        },
        bits=np.array([form[1] for form in formats]),
        peak=np.array([form[2] for form in formats], dtype=str),
        latency_s=frame["latency_ms"].to_numpy(float) / 1e3,
        blocks={
            "heads": heads.astype(int).astype(str),
            "tokens": octave(tokens),
        },
    )


TABLES = (Table(MLA_BATCHED, ("mla_bmm_perf",), _calls, bend=0.1),)
