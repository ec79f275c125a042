"""Layers whose memory of the past is a state of constant size: its bytes.

Gated delta net, Kimi delta attention, Mamba-2, lightning attention and gated short convolutions. Heads and
channels are split over the ranks of attention; groups of a state-space layer never below one a rank. What
they project is in `aicalib.models.products`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aicalib.models.products import kv_shares
from aicalib.models.stack import ArchitectureArrays

Array = NDArray[np.float64]

STATE_BYTES = 4.0
"""Bytes of one value of a recurrent state: SGLang and vLLM keep it in 32 bit."""

CONVOLUTION_BYTES = 2.0
"""Bytes of one value of a convolution's window, kept in 16 bit."""


def recurrent_state_bytes(arch: ArchitectureArrays, attention_width: Array) -> Array:
    """Return the bytes of the states of one request on one rank, all layers.

    Notes
    -----
    A head of a delta net, of Kimi delta attention and of lightning attention keeps key x value channels, one
    of Mamba-2 keeps channels x state; a convolution of k taps keeps its last k - 1 inputs: of query, key and
    value, of Mamba's channels and groups, of a short convolution's whole hidden size.
    """
    delta_keys = arch.linear_key_heads * arch.linear_key_head_dim
    delta_values = arch.linear_value_heads * arch.linear_value_head_dim
    channels = arch.kda_heads * arch.kda_head_dim
    inner = arch.mamba_heads * arch.mamba_head_dim
    groups = arch.mamba_groups * attention_width / kv_shares(arch.mamba_groups, attention_width)
    state = (
        arch.linear_layers * delta_values * arch.linear_key_head_dim
        + arch.kda_layers * channels * arch.kda_head_dim
        + arch.mamba_layers * inner * arch.mamba_state
        + arch.lightning_layers * arch.lightning_heads * arch.lightning_head_dim**2
    )
    convolution = (
        arch.linear_layers * (2.0 * delta_keys + delta_values) * _held(arch.linear_conv_kernel)
        + arch.kda_layers * 3.0 * channels * _held(arch.kda_conv_kernel)
        + arch.mamba_layers * (inner + 2.0 * groups * arch.mamba_state) * _held(arch.mamba_conv_kernel)
        + arch.conv_layers * arch.hidden_size * _held(arch.conv_kernel)
    )
    return (STATE_BYTES * state + CONVOLUTION_BYTES * convolution) / attention_width


def _held(taps: Array) -> Array:
    return np.maximum(taps - 1.0, 0.0)
