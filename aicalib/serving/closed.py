"""From step times to what a benchmark client reports under a closed loop of requests.

The engine runs prefill steps and decode steps one after the other. A client keeps C requests in flight:
it begins with a burst of C requests, and then sends a new one whenever one ends. Throughput X solves
X = running / (TTFT + osl * TPOT), where TPOT carries the prefill steps of others that stop a decode.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.engines.releases import ENGINES
from aicalib.physics.steps import decode_step, prefill_step
from aicalib.physics.system import Coefficients, System
from aicalib.serving.load import Load, Service

Array = NDArray[np.float64]

ITERATIONS = 6
"""Rounds of the fixed point of throughput; the change of the last is below 0.1 % on the published runs."""


PREFILL_FIRST = ENGINES.index("sglang")
"""The engine that prefills before it decodes, so that requests of equal lengths stay in one wave for ever."""


def captured_batch(batch: Array, graph_max_batch: Array) -> Array:
    """Return the batch that a decode step is padded to: the next captured size.

    SGLang and vLLM capture 1, 2, 4, 8 and then every eighth size up to the largest; above it a step runs
    as it is.
    """
    small = np.where(batch <= 2.0, np.ceil(batch), np.where(batch <= 4.0, 4.0, np.ceil(batch / 8.0) * 8.0))
    return np.where(batch <= graph_max_batch, np.minimum(small, np.maximum(graph_max_batch, 1.0)), batch)


class Wave(NamedTuple):
    """A burst of prompts, all prefilled before any is decoded; seconds, shape (n,)."""

    first_token_s: Array
    others_s: Array


def wave(system: System, c: Coefficients, load: Load, requests: Array) -> Wave:
    """Return how long the mean request of a burst waits for its first token, and then for the rest.

    Chunks of the engine's size run one after the other. The mean request waits for half of the others'
    chunks before its first token and for the other half after it, before its second.
    """
    total = requests * load.isl
    tokens = np.minimum(total, system.chunk_tokens)
    passes = total / tokens
    own = np.maximum(load.isl / tokens, 1.0)
    time_s = prefill_step(system, c, tokens, load.isl).time_s
    half_s = time_s * (passes - own) / 2.0
    return Wave(time_s * own + half_s, half_s)


def serve(system: System, c: Coefficients, load: Load, max_total_tokens: Array) -> Service:
    """Return what a client reports for each deployment and workload.

    Parameters
    ----------
    system : System
        n deployments.
    c : Coefficients
        Their coefficients.
    load : Load
        n workloads.
    max_total_tokens : ndarray, shape (n,)
        Tokens of the KV pool of the instance, positive.

    Returns
    -------
    Service
        Times in seconds, shape (n,).
    """
    context = load.isl + load.osl / 2.0
    locked = load.static | (load.lockstep & (system.engine == PREFILL_FIRST))
    # Requests at different points of their answer hold half of it on average; in lockstep all end full.
    held = np.where(locked, load.isl + load.osl, context)
    capacity = np.floor(np.minimum(system.max_running, max_total_tokens / held))
    running = np.minimum(load.concurrency, np.maximum(capacity, 1.0))
    batch = captured_batch(running, system.graph_max_batch)
    step_s = decode_step(system, c, batch, context).time_s
    first = wave(system, c, load, running)

    most = np.maximum(system.chunk_tokens / load.isl, 1.0)
    throughput = running / (load.osl * step_s)
    others = (running - 1.0) / load.osl
    locked_tpot_s = step_s + first.others_s / np.maximum(load.osl - 1.0, 1.0)
    for _ in range(ITERATIONS):
        together = np.clip(throughput * system.poll_interval * step_s, 1.0, most)
        tokens = np.minimum(together * load.isl, system.chunk_tokens)
        pass_s = prefill_step(system, c, tokens, load.isl).time_s
        prefill_s = pass_s * load.isl / tokens
        tpot_s = np.where(locked, locked_tpot_s, step_s + others * prefill_s)
        busy = np.minimum(throughput * prefill_s, 0.95)
        own_s = pass_s * np.maximum(load.isl / tokens, 1.0)
        queue_s = np.minimum(busy / (2.0 * (1.0 - busy)), running / 2.0) * prefill_s
        poll_s = c.poll_wait * system.poll_interval * step_s * np.minimum(1.0, running - 1.0)
        steady_s = own_s + queue_s + poll_s
        usual_s = np.where(locked, first.first_token_s, steady_s)
        waiting_s = (load.concurrency - running) / throughput
        ttft_s = c.host_s + c.host_token_s * load.isl + usual_s
        throughput = running / (ttft_s + (load.osl - 1.0) * tpot_s)
    cold_s = np.where(load.warmed_up | load.static, 0.0, c.cold_s)
    burst = np.clip(load.concurrency / load.num_prompts, 0.0, 1.0)
    host_s = np.where(load.static, 0.0, c.host_s + c.host_token_s * load.isl)
    mean_s = host_s + (1.0 - burst) * usual_s + burst * (first.first_token_s + cold_s) + waiting_s
    median_s = host_s + np.where(burst > 0.5, first.first_token_s + cold_s, usual_s) + waiting_s
    e2e_s = mean_s + (load.osl - 1.0) * tpot_s
    return Service(
        ttft_mean_s=mean_s,
        ttft_median_s=median_s,
        tpot_s=tpot_s,
        e2e_s=e2e_s,
        requests_s=load.concurrency / e2e_s,
        running=running,
        prefill_share=busy,
    )
