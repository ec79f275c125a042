"""SGLang's rule: what was free before loading x fraction - weights, for KV pools and states of linear layers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aicalib.physics.kv_cache import Cells
from aicalib.physics.pools import release

Array = NDArray[np.float64]

STATE_RATIO = 0.9
"""Default memory for the states of linear layers over that for the KV pool (`--mamba-full-memory-ratio`)."""

STATES_PER_REQUEST = 3.0
"""States that are kept ready for each running request while the prefix cache is on."""

DRAFT_FIRST = release(5, 18)
"""From here on a draft model is loaded before the pool is sized, and its cells count in the pool."""

SAMPLER_VALUES = 1.0
"""32-bit values a logit at the sampler's peak, beside the logits as the model gives them: 32-bit logits, turned into
probabilities in place."""

REQUEST_SLOT_BYTES = 4.0
REQUEST_EXTRA = 4.0
"""The table of where each token of a request lies: 32 bit a position, and some positions more than the longest context
(`--context-length`) for each of the running requests and one."""


def pool_bytes(free_bytes: Array, memory_fraction: Array, weights_bytes: Array) -> Array:
    """Return what SGLang gives to KV pools and states: free before loading x fraction - weights."""
    return free_bytes * memory_fraction - weights_bytes


def state_bytes(pool_bytes: Array) -> Array:
    """Return what the states of linear layers take of KV pools and states together."""
    return np.maximum(pool_bytes, 0.0) * (STATE_RATIO / (1.0 + STATE_RATIO))


def request_table_bytes(max_running: Array, context_tokens: Array) -> Array:
    """Return the table of requests of one rank, which lies outside the budget."""
    return REQUEST_SLOT_BYTES * (max_running + 1.0) * (context_tokens + REQUEST_EXTRA)


def pool_tokens(pool_bytes: Array, held: Cells, window_ratio: Array, page_tokens: Array) -> Array:
    """Return the tokens of SGLang's pool on one rank: pool / (full + ratio x window), in whole pages.

    Sliding-window layers have a pool of their own that is `window_ratio` as long as the full one
    (`--swa-full-tokens-ratio`).
    """
    cell = held.full + window_ratio * held.window
    tokens = np.maximum(pool_bytes, 0.0) / np.maximum(cell, 1e-9)
    result: Array = np.floor(tokens / page_tokens) * page_tokens
    return result


def capacity_tokens(tokens: Array, held: Cells, window_ratio: Array, length: Array) -> Array:
    """Return the tokens of one rank's pool that requests of a length fill.

    The window pool is shorter than the full one, and binds requests that hardly outgrow the window.
    """
    kept = np.maximum(np.minimum(length, held.window_tokens), 1.0)
    share = np.minimum(1.0, window_ratio * length / kept)
    return tokens * np.where(held.window > 0.0, share, 1.0)
