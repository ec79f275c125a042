"""Linear attention: the tables `gdn_perf` (gated delta net) and `kda_perf` (Kimi delta attention).

Read are the kernels that every version runs. Left out: `kda_fused_decode` (one head count) and the kernels that verify
speculated tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aicalib.calibrate.kernels.attention import out_of_memory
from aicalib.calibrate.kernels.table import Array, Calls, Names, Table, octave
from aicalib.physics.kernels.linear import CONVOLUTION, LINEAR_DECODE, LINEAR_PREFILL

if TYPE_CHECKING:
    import pandas as pd

STATE_BITS = 32.0
"""The recurrent state is held in 32 bit (SGLang's default state type)."""

DECODE_KERNELS = (
    "fused_recurrent_gated_delta_rule",
    "fused_recurrent_gated_delta_rule_packed_decode",
    "fused_recurrent_kda_packed_decode",
)
PREFILL_KERNELS = ("chunk_gated_delta_rule", "chunk_kda")
CONVOLUTION_KERNELS = ("causal_conv1d_fn", "causal_conv1d_fn_qkv3", "causal_conv1d_update")


def _rows(frame: pd.DataFrame, kernels: tuple[str, ...]) -> pd.DataFrame:
    return frame[frame["kernel_source"].isin(list(kernels)) & (frame["phase"] != "verify")]


def _shape(frame: pd.DataFrame) -> dict[str, Array]:
    requests = frame["batch_size"].to_numpy(float)
    return {
        "requests": requests,
        "tokens": requests * frame["seq_len"].to_numpy(float),
        "key_heads": frame["num_k_heads"].to_numpy(float),
        "value_heads": frame["num_v_heads"].to_numpy(float),
        "key_dim": frame["head_k_dim"].to_numpy(float),
        "value_dim": frame["head_v_dim"].to_numpy(float),
    }


def _calls(frame: pd.DataFrame, shape: dict[str, Array], variant: Names) -> Calls:
    heads = [
        f"{keys}x{values}" for keys, values in zip(frame["num_k_heads"], frame["num_v_heads"], strict=True)
    ]
    tokens = frame["batch_size"].to_numpy(float) * frame["seq_len"].to_numpy(float)
    return Calls(
        variant=variant,
        shape=shape,
        bits=np.full(len(frame), STATE_BITS),
        peak=np.full(len(frame), "bf16"),
        latency_s=frame["latency_ms"].to_numpy(float) / 1e3,
        blocks={"heads": np.array(heads, dtype=str), "tokens": octave(tokens)},
    )


def _decode(frame: pd.DataFrame) -> Calls:
    frame = _rows(frame, DECODE_KERNELS)
    whole = _shape(frame)
    elements = whole["requests"] * whole["value_heads"] * whole["key_dim"] * whole["value_dim"]
    states = 2.0 * STATE_BITS / 8.0 * elements
    frame = frame[out_of_memory(frame["latency_ms"].to_numpy(float) / 1e3, states, frame)]
    shape = {name: size for name, size in _shape(frame).items() if name != "tokens"}
    return _calls(frame, shape, frame["op_name"].to_numpy(str))


def _prefill(frame: pd.DataFrame) -> Calls:
    frame = _rows(frame, PREFILL_KERNELS)
    return _calls(frame, _shape(frame), frame["op_name"].to_numpy(str))


def _convolution(frame: pd.DataFrame) -> Calls:
    frame = _rows(frame, CONVOLUTION_KERNELS)
    whole = _shape(frame)
    channels = 2.0 * whole["key_heads"] * whole["key_dim"] + whole["value_heads"] * whole["value_dim"]
    shape = {
        "requests": whole["requests"],
        "tokens": whole["tokens"],
        "channels": channels,
        "kernel": frame["d_conv"].to_numpy(float),
    }
    phase = np.where((frame["phase"] == "generation").to_numpy(), "/decode", "/prefill")
    return _calls(frame, shape, np.char.add(frame["op_name"].to_numpy(str), phase))


TABLES = (
    Table(LINEAR_DECODE, ("gdn_perf", "kda_perf"), _decode, bend=0.05, target=0.06),
    Table(LINEAR_PREFILL, ("gdn_perf", "kda_perf"), _prefill, bend=0.05, target=0.06),
    Table(CONVOLUTION, ("gdn_perf", "kda_perf"), _convolution, bend=0.05, target=0.06),
)
