"""What an engine takes where no flag is given: chunk, graphs, running requests, memory fraction.

All functions are over arrays, so that a table of a million deployments is filled in one call. `version` is
a number that orders versions: `version_number("0.5.9")`.

Sources: sgl-project/sglang, server arguments and memory defaults of 0.4.1, 0.4.6.post5, 0.5.2, 0.5.4 to
0.5.9 and 0.5.23; vllm-project/vllm 0.33.0, engine arguments; NVIDIA/TensorRT-LLM
tensorrt_llm/llmapi/llm_args.py (KvCacheConfig, CudaGraphConfig) and builder.py (BuildConfig), 0.20 to 1.3.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aicalib.engines.releases import version_key
from aicalib.physics.system import Settings

Array = NDArray[np.float64]

MIB = 2.0**20

ENCODER_SHARE = 0.95
"""SGLang multiplies the fraction by this for a model with an image encoder, and by 1.1 - 0.1 x (layers x width^2 of
the encoder over 24 x 1024^2), which is 1 for the size that is taken here."""

LATENT_PREFILL_GRAPH_MIB = 1536.0
"""Kept back for prefill graphs of latent attention."""

DEEPEP_MIB = 2048.0
"""Kept back for DeepEP in decode graphs."""

PREFILL_BUCKET_MIB = 8.0
"""Kept back for each prefill graph of other models."""


def version_number(version: str) -> float:
    """Return a number that orders versions, infinite for one without numbers (a nightly: the newest)."""
    key = version_key(version)
    if key is None:
        return np.inf
    major, minor, patch, post = key
    return float(major * 10**9 + minor * 10**6 + patch * 10**3 + post)


def _at_least(version: Array, text: str) -> NDArray[np.bool_]:
    return version >= version_number(text)


def _given(value: Array, default: Array) -> Array:
    return np.where(np.isnan(value), default, value)


def prefill_buckets(chunk_tokens: Array) -> Array:
    """Return how many prefill graphs SGLang captures up to a chunk.

    Every 4th token count up to 32, every 16th to 256, 32nd to 512, 64th to 1024, 256th to 4096, then every 512th:
    58 up to 8192.
    """
    edges = ((0.0, 32.0, 4.0), (32.0, 256.0, 16.0), (256.0, 512.0, 32.0), (512.0, 1024.0, 64.0),
             (1024.0, 4096.0, 256.0), (4096.0, np.inf, 512.0))  # fmt: skip
    counts = [np.floor((np.clip(chunk_tokens, low, high) - low) / step) for low, high, step in edges]
    result: Array = np.sum(counts, axis=0)
    return result


def sglang(
    settings: Settings, version: Array, memory_bytes: Array, tp: Array, dp: Array, pp: Array,
    latent: NDArray[np.bool_], encoder: NDArray[np.bool_], is_cpu: NDArray[np.bool_], deepep: NDArray[np.bool_],
) -> Settings:  # fmt: skip
    """Fill in what SGLang takes by itself.

    Parameters
    ----------
    settings : Settings
        What was given, NaN elsewhere; arrays of shape (n,).
    version : ndarray, shape (n,)
        Version numbers.
    memory_bytes : ndarray, shape (n,)
        Memory of one GPU as the driver reports it.
    tp, dp, pp : ndarray, shape (n,)
        Widths; `dp` is the attention-data-parallel degree.
    latent, encoder : ndarray of bool, shape (n,)
        The model has latent attention; it has an encoder of images or sound.
    is_cpu : ndarray of bool, shape (n,)
        It runs on a CPU, without graphs: `launch` switches them off there.
    deepep : ndarray of bool, shape (n,)
        Experts exchange by DeepEP.

    Notes
    -----
    The memory fraction is (M - reserved) / M with M in MiB. From 0.5.4 on reserved is 512 + 1.5 max(chunk,
    2048) + tp pp / 8 1024 + 2 graph_max_batch, + 3 graph_max_batch dp under attention data parallelism, and
    at least 10 GiB on GPUs above 60 GiB; DeepEP in decode graphs adds
    2048. Prefill graphs, on by themselves since 0.5.10, add 8 a graph, and since
    0.5.21 1536 for latent attention. 0.5.0 to 0.5.3 keep back 2.8, 9.5, 12 or 32 GiB by size plus half a GiB a
    GPU; before, constants by width. A model with an encoder takes 0.95 of it.
    """
    mib = memory_bytes / MIB
    wide = tp >= 4
    chunk: Array = np.select([mib < 20480, mib < 61440, mib < 163840], [2048.0, 4096.0, 8192.0], 16384.0)
    chunk = np.where((mib < 35840) & ~_at_least(version, "0.5.10"), 2048.0, chunk)
    chunk = np.where(~_at_least(version, "0.5.4"), np.where(mib < 25000, 2048.0, 8192.0), chunk)
    chunk_tokens = _given(settings.chunk_tokens, chunk)
    graph = np.select(
        [mib < 20480, mib < 35840, mib < 61440, mib < 163840],
        [np.full_like(mib, 8.0), np.where(wide, 160.0, 48.0), np.where(wide, 160.0, 32.0),
         np.where(wide, 512.0, 256.0)],
        512.0,
    )  # fmt: skip
    small = (mib >= 20480) & (mib < 35840) & ~_at_least(version, "0.5.10")
    graph = np.where(small, np.where(wide, 80.0, 16.0), graph)
    early_graph = np.where(mib < 25000, np.where(wide, 80.0, 8.0), 160.0)
    graph = np.where(~_at_least(version, "0.5.2"), early_graph, graph)
    max_running = _given(settings.max_running, np.full_like(mib, 2048.0))
    graph_max_batch = _given(settings.graph_max_batch, np.where(is_cpu, 0.0, np.minimum(graph, max_running)))

    reserved = 512.0 + 1.5 * np.maximum(chunk_tokens, 2048.0) + tp * pp / 8.0 * 1024.0 + 2.0 * graph_max_batch
    reserved = reserved + np.where(
        dp > 1,
        3.0 * graph_max_batch * dp + np.where(graph_max_batch > 300, 1.5 * graph_max_batch * dp, 0.0),
        0.0,
    )
    reserved = reserved + np.where(deepep & (graph_max_batch > 0.0), DEEPEP_MIB, 0.0)
    graphs = np.where(
        latent,
        np.where(_at_least(version, "0.5.21"), LATENT_PREFILL_GRAPH_MIB, 0.0),
        PREFILL_BUCKET_MIB * prefill_buckets(chunk_tokens),
    )
    reserved = reserved + np.where(_at_least(version, "0.5.10") & ~is_cpu, graphs, 0.0)
    recent = (mib - np.where(mib > 60 * 1024, np.maximum(reserved, 10240.0), reserved)) / mib
    n = tp * pp
    by_size = np.select(
        [mib < 35 * 1024, mib < 90 * 1024, mib < 160 * 1024],
        [2.8 + n / 10.0, 9.5 + n / 2.0, 12.0 + n / 2.0],
        32.0,
    )
    early = (mib - 1024.0 * (by_size + np.where(dp > 1, 4.0, 0.0))) / mib
    constants = np.select([n >= 16, n >= 8, n >= 4, n >= 2], [0.79, 0.81, 0.85, 0.87], 0.88)
    constants = np.where(_at_least(version, "0.4.6") & (mib > 81920), 0.88, constants)
    fraction: Array = np.where(
        _at_least(version, "0.5.4"), recent, np.where(_at_least(version, "0.5.0"), early, constants)
    )
    fraction = fraction.round(3) * np.where(encoder, ENCODER_SHARE, 1.0)
    return Settings(
        memory_fraction=_given(settings.memory_fraction, fraction),
        chunk_tokens=chunk_tokens,
        max_running=max_running,
        graph_max_batch=graph_max_batch,
        poll_interval=_given(settings.poll_interval, np.ones_like(mib)),
    )


def vllm(
    settings: Settings, version: Array, memory_bytes: Array, is_a100: NDArray[np.bool_], context_tokens: Array,
    is_cpu: NDArray[np.bool_], tp: Array,
) -> Settings:  # fmt: skip
    """Fill in what `vllm serve` takes by itself.

    Parameters
    ----------
    settings, version, memory_bytes
        As for `sglang`.
    is_a100 : ndarray of bool, shape (n,)
        The A100 takes the small steps of smaller GPUs.
    context_tokens : ndarray, shape (n,)
        The longest context that is served; 0 where it is not known.
    is_cpu : ndarray of bool, shape (n,)
        It runs on a CPU.
    tp : ndarray, shape (n,)
        Tensor-parallel width.

    Notes
    -----
    Tokens per step and running requests by memory: from 160 GiB 16384 and 1024, from 70 GiB 8192 and 1024
    (not on an A100), else 2048 and 256. Before 0.8 a step holds a whole prompt, so that it takes the longest context,
    or 512 tokens where that is above 32768, and 256 requests. Memory utilization 0.92 from 0.33 on, before 0.9.
    Graphs up to 512. On a CPU 2048 tokens and 128 requests (32 before 0.10) a rank, and no graphs.
    The scheduler looks for requests at every step; the interval is a flag of SGLang alone.
    """
    gib = memory_bytes / 2.0**30
    whole_prompts = ~_at_least(version, "0.8.0")
    large = (gib >= 70) & ~is_a100 & ~whole_prompts
    chunk = np.select([(gib >= 160) & ~whole_prompts, large], [16384.0, 8192.0], 2048.0)
    prompt = np.where(context_tokens > 32768, 512.0, np.maximum(context_tokens, 2048.0))
    chunk = np.where(is_cpu, 2048.0 * tp, np.where(whole_prompts, prompt, chunk))
    on_cpu = np.where(_at_least(version, "0.10.0"), 128.0 * tp, 32.0)
    max_running = _given(settings.max_running, np.where(is_cpu, on_cpu, np.where(large, 1024.0, 256.0)))
    return Settings(
        memory_fraction=_given(settings.memory_fraction, np.where(_at_least(version, "0.33.0"), 0.92, 0.9)),
        chunk_tokens=_given(settings.chunk_tokens, chunk),
        max_running=max_running,
        graph_max_batch=_given(
            settings.graph_max_batch, np.where(is_cpu, 0.0, np.minimum(512.0, max_running))
        ),
        poll_interval=np.ones_like(gib),
    )


def trtllm(settings: Settings) -> Settings:
    """Fill in what `trtllm-serve` takes by itself under the PyTorch backend.

    Parameters
    ----------
    settings : Settings
        What was given, NaN elsewhere; arrays of shape (n,). Tokens, requests and graphs are those of one
        attention-data-parallel rank, as the flags mean them.

    Notes
    -----
    0.9 of the memory that is free once weights are loaded and a largest step has run, 8192 tokens a step, 2048
    requests, graphs up to a batch of 128. The scheduler looks for requests at every step.
    """
    max_running = _given(settings.max_running, np.full_like(settings.max_running, 2048.0))
    return Settings(
        memory_fraction=_given(settings.memory_fraction, np.full_like(max_running, 0.9)),
        chunk_tokens=_given(settings.chunk_tokens, np.full_like(max_running, 8192.0)),
        max_running=max_running,
        graph_max_batch=_given(settings.graph_max_batch, np.minimum(128.0, max_running)),
        poll_interval=_given(settings.poll_interval, np.ones_like(max_running)),
    )
