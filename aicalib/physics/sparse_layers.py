"""Softmax layers that see part of the context or a compressed one: blocks (MSA), entries (DeepSeek-V4).

r is the ratio of compression, k the entries that an indexer keeps, w the window, n the query heads, d their
width. One shared head serves as key and value in compressed attention, so that every rank holds its cache and its
indexer whole; query heads and their work are split. MSA splits KV heads and index heads, never below one a rank.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aicalib.models.products import kv_shares
from aicalib.models.stack import ArchitectureArrays
from aicalib.physics.kernels.sparse import INDEX_KEY_BYTES

Array = NDArray[np.float64]


def compressed_layers(arch: ArchitectureArrays) -> Array:
    """Return the layers of DeepSeek-V4's attention, which all have a window."""
    return arch.csa_layers + arch.hca_layers + arch.local_layers


def compressed_elements_per_token(arch: ArchitectureArrays) -> Array:
    """Return the elements that one token adds to the compressed caches of every rank: d / r a layer."""
    csa = arch.csa_layers / np.maximum(arch.csa_ratio, 1.0)
    hca = arch.hca_layers / np.maximum(arch.hca_ratio, 1.0)
    return arch.head_dim * (csa + hca)


def index_elements_per_token(arch: ArchitectureArrays) -> Array:
    """Return the index keys that one token adds to every rank: of DSA, of MSA, and of CSA's entries."""
    csa = arch.csa_layers / np.maximum(arch.csa_ratio, 1.0)
    return arch.index_head_dim * (arch.sparse_layers + arch.block_sparse_layers + csa)


def decode_flops(arch: ArchitectureArrays, width: Array, context: Array) -> Array:
    """Return the operations on one rank of one new token's attention over a context, all such layers.

    Compressed: 4 n d an entry. MSA: 2 n (d + d_v) a token of the chosen blocks. Their indexers score every
    entry (every token): 2 operations a channel of each index head.

    Parameters
    ----------
    arch : ArchitectureArrays
    width : ndarray
        Ranks that share the heads.
    context : ndarray
        Tokens in the cache.
    """
    blocks = np.minimum(context, arch.index_topk)
    attended = _decode_entries(arch, context) + arch.block_sparse_layers * blocks
    scored = context / np.maximum(arch.csa_ratio, 1.0), context
    return _pair_flops(arch, width) * attended + _index_flops(arch, width, *scored)


def decode_bytes(arch: ArchitectureArrays, width: Array, context: Array, kv_bits: Array) -> Array:
    """Return the bytes of cache and of index keys that one new token reads on one rank, all such layers.

    Entries d (min(w, c) + min(c / r, k)) with an indexer, d (min(w, c) + c / r) where all are read; blocks
    min(c, k) (d + d_v) a KV head. An indexer reads the key of every entry (every token).
    """
    kv_heads = arch.kv_heads / kv_shares(arch.kv_heads, width)
    blocks = kv_heads * (arch.head_dim + arch.v_head_dim) * np.minimum(context, arch.index_topk)
    cache = arch.head_dim * _decode_entries(arch, context) + arch.block_sparse_layers * blocks
    keys = arch.csa_layers * context / np.maximum(arch.csa_ratio, 1.0) + arch.block_sparse_layers * context
    bytes_: Array = kv_bits / 8.0 * cache + INDEX_KEY_BYTES * arch.index_head_dim * keys
    return bytes_


def prefill_flops(arch: ArchitectureArrays, width: Array, length: Array) -> Array:
    """Return the operations on one rank of the causal attention of one prompt of L tokens, all such layers.

    Pairs of a query with an entry: L^2 / 2 r where all are read; L k - r k^2 / 2 where k of L / r are kept
    (k at most L / r); L w - w^2 / 2 inside a window w at most L. An indexer scores all pairs.
    """
    half = 0.5 * length**2
    csa_ratio, hca_ratio = np.maximum(arch.csa_ratio, 1.0), np.maximum(arch.hca_ratio, 1.0)
    kept = np.minimum(arch.index_topk, length / csa_ratio)
    blocks = np.minimum(arch.index_topk, length)
    window = np.minimum(arch.window, length)
    pairs = (
        compressed_layers(arch) * (length * window - 0.5 * window**2)
        + arch.csa_layers * (length * kept - 0.5 * csa_ratio * kept**2)
        + arch.hca_layers * half / hca_ratio
        + arch.block_sparse_layers * (length * blocks - 0.5 * blocks**2)
    )
    flops: Array = _pair_flops(arch, width) * pairs + _index_flops(arch, width, half / csa_ratio, half)
    return flops


def _pair_flops(arch: ArchitectureArrays, width: Array) -> Array:
    """Return the operations of a query with an entry (a token) over the heads of one rank."""
    flops: Array = 2.0 * arch.heads / width * (arch.head_dim + arch.v_head_dim)
    return flops


def _index_flops(arch: ArchitectureArrays, width: Array, entries: Array, tokens: Array) -> Array:
    """Return the operations of one rank's index heads, all of them on CSA's entries, a share on MSA's tokens."""
    share = arch.block_sparse_layers / kv_shares(arch.index_heads, width)
    scored = arch.csa_layers * entries + share * tokens
    flops: Array = 2.0 * arch.index_heads * arch.index_head_dim * scored
    return flops


def _decode_entries(arch: ArchitectureArrays, context: Array) -> Array:
    kept = np.minimum(context / np.maximum(arch.csa_ratio, 1.0), arch.index_topk)
    return (
        compressed_layers(arch) * np.minimum(context, arch.window)
        + arch.csa_layers * kept
        + arch.hca_layers * context / np.maximum(arch.hca_ratio, 1.0)
    )
