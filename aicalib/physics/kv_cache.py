"""The KV cache by kind of layer: bytes of a token, of a window, of a state.

How many of them an engine's pool holds is said in `aicalib.physics.pools`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.models.products import kv_shares
from aicalib.models.stack import ArchitectureArrays
from aicalib.physics import sparse_layers
from aicalib.physics.kernels.sparse import INDEX_KEY_BYTES
from aicalib.physics.state_layers import recurrent_state_bytes
from aicalib.physics.system import System
from aicalib.physics.weights import stage_share

Array = NDArray[np.float64]


class Cells(NamedTuple):
    """What d deployments keep of a request on one GPU, in bytes.

    `full` is per token, of layers that see the whole context, latent layers and indexers; `window` per token of
    sliding-window layers; `state` per request, of linear layers. `full_layers`, `window_layers` and
    `state_layers` count the layers of the fullest pipeline stage; `window_tokens` is the window.
    """

    full: Array
    window: Array
    state: Array
    full_layers: Array
    window_layers: Array
    state_layers: Array
    window_tokens: Array

    def take(self, rows: NDArray[np.intp]) -> Cells:
        """Return the cells of some deployments, in that order."""
        return Cells(*(values[rows] for values in self))


def kv_elements_per_token(arch: ArchitectureArrays, attention_width: Array) -> tuple[Array, Array, Array]:
    """Elements that one token adds to the cache of one GPU.

    Returns
    -------
    full, window, latent : ndarray, shape (n,)
        Of layers that see the whole context or blocks of it, of sliding-window layers, and of what stands
        whole on every rank: MLA latents and compressed entries. KV heads are split over the attention width
        but never below one; layers that reuse another's keys and values add none. The windows of compressed
        attention, one head that is key and value, are among the windows.
    """
    full = _held(arch.kv_heads, attention_width) * (arch.head_dim + arch.v_head_dim)
    window = _held(arch.window_kv_heads, attention_width) * (arch.window_head_dim + arch.window_v_head_dim)
    latent = arch.mla_layers * (arch.kv_lora_rank + arch.qk_rope_head_dim)
    return (
        (arch.full_layers + arch.block_sparse_layers - arch.reused_full_layers) * full,
        (arch.window_layers - arch.reused_window_layers) * window
        + sparse_layers.compressed_layers(arch) * arch.head_dim,
        latent + sparse_layers.compressed_elements_per_token(arch),
    )


def indexer_bytes_per_token(arch: ArchitectureArrays) -> Array:
    """Bytes that one token adds to the indexer's key cache on every rank: FP8 keys and a scale per 128."""
    return sparse_layers.index_elements_per_token(arch) * INDEX_KEY_BYTES


def _held(kv_heads: Array, width: Array) -> Array:
    """Return the KV heads of one rank."""
    return kv_heads / kv_shares(kv_heads, width)


def cells(system: System) -> Cells:
    """Return what d deployments keep of a request on one GPU.

    KV heads are split over the attention width, never below one; the latent row and the indexer's keys stand
    on every rank. A model all of whose softmax layers have windows is held as if they had none.
    """
    arch = system.arch
    share = stage_share(system)
    full, window, latent = kv_elements_per_token(arch, system.attention_width)
    held = full * system.kv_bits + latent * system.latent_bits
    windowed = window * system.kv_bits / 8.0
    whole = held / 8.0 + indexer_bytes_per_token(arch)
    unbounded = (
        arch.full_layers + arch.block_sparse_layers + arch.mla_layers + arch.csa_layers + arch.hca_layers
    )
    bounded = arch.window_layers + arch.local_layers
    alone = (full + latent == 0.0) | system.one_pool
    state = recurrent_state_bytes(arch, system.attention_width)
    return Cells(
        full=share * (whole + np.where(alone, windowed, 0.0)),
        window=share * np.where(alone, 0.0, windowed),
        state=share * state,
        full_layers=share * (unbounded + np.where(alone, bounded, 0.0)),
        window_layers=share * np.where(alone, 0.0, bounded),
        state_layers=share * arch.state_layers,
        window_tokens=arch.window,
    )


def draft_cell_bytes(system: System, layers: Array) -> Array:
    """Return what one token takes in `layers` multi-token-prediction layers on one GPU, shape (d,).

    A draft layer keeps what one layer of the model keeps.
    """
    found = cells(system)
    return layers * (found.full + found.window) / np.maximum(found.full_layers + found.window_layers, 1.0)
