"""The KV cache by kind of layer: bytes of a token, of a window, of a state; and how many tokens a pool holds.

`cells` is over d deployments; the pool functions take plain arrays that broadcast.
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

BLOCK_TOKENS = 16.0
"""Tokens of a block of vLLM's pool."""

SIMILAR_LAYERS = 1.25
"""Up to this ratio of the most to the fewest layers of a kind vLLM pads the smaller kind to one group."""


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


def sglang_tokens(pool_bytes: Array, held: Cells, window_ratio: Array, page_tokens: Array) -> Array:
    """Return the tokens of SGLang's pool on one rank: pool / (full + ratio x window), in whole pages.

    Sliding-window layers have a pool of their own that is `window_ratio` as long as the full one
    (`--swa-full-tokens-ratio`).
    """
    cell = held.full + window_ratio * held.window
    tokens = np.maximum(pool_bytes, 0.0) / np.maximum(cell, 1e-9)
    result: Array = np.floor(tokens / page_tokens) * page_tokens
    return result


def vllm_tokens(
    pool_bytes: Array, held: Cells, context_tokens: Array, chunk_tokens: Array, hybrid: NDArray[np.bool_]
) -> Array:
    """Return the tokens of vLLM's pool as it reports them: concurrency x longest context.

    Parameters
    ----------
    pool_bytes : ndarray
    held : Cells
    context_tokens : ndarray
        The longest context that is served (`--max-model-len`).
    chunk_tokens : ndarray
        Tokens of a step.
    hybrid : ndarray of bool
        The engine sorts layers into groups of one kind; else each layer keeps the whole context.

    Notes
    -----
    All groups have as many layers, g, as the rarest kind, and share one pool of pages of g layers. A request
    holds ceil(context / block) pages of a full group, ceil(min(window - 1 + chunk, context) / block) + 1 of a window
    group, and one of a state group. Where there are states, a block is as many tokens as one layer's state
    fills.
    """
    counts = np.stack([held.full_layers, held.window_layers, held.state_layers])
    kinds = (counts > 0).sum(axis=0)
    fewest = np.where(counts > 0, counts, np.inf).min(axis=0)
    most = counts.max(axis=0)
    together = np.where(most < SIMILAR_LAYERS * fewest, most, fewest)
    layer = np.maximum(
        held.full / np.maximum(held.full_layers, 1.0), held.window / np.maximum(held.window_layers, 1.0)
    )
    state = held.state / np.maximum(held.state_layers, 1.0)
    block = np.maximum(np.ceil(state / layer / BLOCK_TOKENS), 1.0) * BLOCK_TOKENS
    pages = np.floor(np.maximum(pool_bytes, 0.0) / (together * block * layer))
    groups = np.ceil(counts / together)
    seen = np.minimum(held.window_tokens - 1.0 + chunk_tokens, context_tokens)
    per_request = (
        groups[0] * np.ceil(context_tokens / block) + groups[1] * (np.ceil(seen / block) + 1.0) + groups[2]
    )
    sorted_tokens = np.floor(pages / np.maximum(per_request, 1.0) * context_tokens)
    cell = np.maximum(held.full + held.window, 1e-9)
    plain = np.floor(np.maximum(pool_bytes, 0.0) / (cell * BLOCK_TOKENS)) * BLOCK_TOKENS
    result: Array = np.where(hybrid & (kinds > 1), sorted_tokens, plain)
    return result
