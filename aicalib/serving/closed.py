"""From step times to what a benchmark client reports under a closed loop of requests.

The engine runs prefill steps and decode steps one after the other. A client keeps C requests in flight:
it begins with a burst of C requests, and then sends a new one whenever one ends. Throughput X solves
X = running / (TTFT + (osl - 1) TPOT), where TPOT carries the prefill steps of others that stop a decode.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.physics.steps import decode_step, prefill_step
from aicalib.physics.system import ENGINES, Coefficients, System
from aicalib.serving.load import Load, Service

Array = NDArray[np.float64]

ROUNDS = 20
"""Damped rounds of the fixed point of throughput and TPOT."""

BUSIEST = 0.95
"""Utilisation by prefill at which the queue in front of it is cut off: a closed loop holds itself below."""

PREFILL_FIRST = ENGINES.index("sglang")
"""The engine that prefills before it decodes, so that requests of equal lengths stay in one wave for ever."""


def captured_batch(batch: Array, graph_max_batch: Array) -> Array:
    """Return the rows that a decode step is padded to: the next captured size, the batch itself above all.

    SGLang captures 1, 2, 4, 8, 12, 16, then every eighth size to 256, every sixteenth to 512 and every
    thirty-second above, and always the largest; vLLM's list differs little.
    """
    spacing = np.select([batch <= 2, batch <= 16, batch <= 256, batch <= 512], [1.0, 4.0, 8.0, 16.0], 32.0)
    captured = np.minimum(np.ceil(batch / spacing) * spacing, graph_max_batch)
    return np.where(batch <= graph_max_batch, captured, batch)


class Burst(NamedTuple):
    """Prompts that arrive together, all prefilled before any is decoded; seconds, shape (n,)."""

    first_token_s: Array
    others_s: Array
    whole_s: Array


def burst(system: System, c: Coefficients, load: Load, requests: Array) -> Burst:
    """Return how long the mean request of a burst waits for its first token, and then for the rest.

    Chunks of the engine's size run one after the other, on all attention ranks at once. The mean request waits
    for half of the others' chunks before its first token and for the other half after it, before its second.
    """
    ranks = np.minimum(system.dp, requests)
    total = requests * load.isl
    tokens = np.minimum(total, system.chunk_tokens / system.dp * ranks)
    passes = total / tokens
    own = np.maximum(load.isl * ranks / tokens, 1.0)
    time_s = prefill_step(system, c, tokens, load.isl, ranks).time_s
    half_s = time_s * np.maximum(passes - own, 0.0) / 2.0
    return Burst(time_s * own + half_s, half_s, time_s * passes)


class Steady(NamedTuple):
    """The closed loop after its first burst; seconds, shape (n,)."""

    ttft_s: Array
    tpot_s: Array
    throughput: Array


def steady_state(system: System, c: Coefficients, load: Load, running: Array, step_s: Array) -> Steady:
    """Solve the closed loop of requests that come and go independently of each other.

    Parameters
    ----------
    system, c, load
        n deployments, their coefficients and workloads.
    running : ndarray, shape (n,)
        Requests that run at a time.
    step_s : ndarray, shape (n,)
        Time of a decode step at that batch.

    Returns
    -------
    Steady
        TTFT without the host's time; throughput in requests per second.

    Notes
    -----
    Between two looks of the scheduler a = X TPOT poll requests end, and as many begin. With Poisson arrivals a
    look that finds any finds a / (1 - exp(-a)) of them; they are prefilled together, a chunk at most. Rounds are
    damped by the geometric mean, since more throughput makes larger, cheaper prefills, which make more throughput.
    """
    host_s = c.host_s + c.host_token_s * load.isl
    rank_chunk = system.chunk_tokens / system.dp
    most = np.maximum(system.chunk_tokens / load.isl, 1.0)
    poll_wait_s = c.poll_wait * system.poll_interval * np.minimum(1.0, running - 1.0)
    tpot_s = step_s
    throughput = running / (load.osl * step_s)
    for _ in range(ROUNDS):
        arrivals = throughput * system.poll_interval * tpot_s
        together = np.minimum(arrivals / -np.expm1(-arrivals), most)
        ranks = np.minimum(system.dp, together)
        tokens = np.minimum(together * load.isl, rank_chunk * ranks)
        pass_s = prefill_step(system, c, tokens, load.isl, ranks).time_s
        prefill_s = pass_s * load.isl / tokens
        tpot_s = np.sqrt(tpot_s * (step_s + (running - 1.0) / load.osl * prefill_s))
        busy = np.minimum(throughput * prefill_s, BUSIEST)
        queue_s = np.minimum(busy / (2.0 * (1.0 - busy)), running / 2.0) * prefill_s
        own_s = pass_s * np.maximum(load.isl * ranks / tokens, 1.0)
        ttft_s = own_s + queue_s + poll_wait_s * step_s
        throughput = np.sqrt(throughput * running / (host_s + ttft_s + (load.osl - 1.0) * tpot_s))
    return Steady(ttft_s, tpot_s, throughput)


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
        Times in seconds, shape (n,); TPOT is NaN where an answer has one token.
    """
    context = load.isl + load.osl / 2.0
    locked = load.lockstep & (system.engine == PREFILL_FIRST)
    # Requests at different points of their answer hold half of it on average; in lockstep all end full.
    held = np.where(locked | load.static, load.isl + load.osl, context)
    capacity = np.floor(np.minimum(system.max_running, max_total_tokens / held))
    running = np.minimum(load.concurrency, np.maximum(capacity, 1.0))
    padded = captured_batch(running, system.graph_max_batch)
    step_s = decode_step(system, c, running, context, padded).time_s
    after_first = load.osl - 1.0

    first = burst(system, c, load, running)
    steady = steady_state(system, c, load, running, step_s)
    locked_tpot_s = step_s + first.others_s / np.maximum(after_first, 1.0)
    tpot_s = np.where(load.static, step_s, np.where(locked, locked_tpot_s, steady.tpot_s))
    usual_s = np.where(load.static, first.whole_s, np.where(locked, first.first_token_s, steady.ttft_s))
    burst_s = np.where(load.static, first.whole_s, first.first_token_s)

    host_s = np.where(load.static, 0.0, c.host_s + c.host_token_s * load.isl)
    cold_s = np.where(load.warmed_up | load.static, 0.0, c.cold_s)
    served_s = host_s + usual_s + after_first * tpot_s
    waiting_s = (load.concurrency - running) * served_s / running
    share = np.clip(load.concurrency / load.num_prompts, 0.0, 1.0)
    mean_s = host_s + (1.0 - share) * usual_s + share * (burst_s + cold_s) + waiting_s
    median_s = host_s + np.where(share > 0.5, burst_s + cold_s, usual_s) + waiting_s
    e2e_s = mean_s + after_first * tpot_s
    return Service(
        ttft_mean_s=mean_s,
        ttft_median_s=median_s,
        tpot_s=np.where(after_first > 0.0, tpot_s, np.nan),
        e2e_mean_s=e2e_s,
        e2e_median_s=median_s + after_first * tpot_s,
        requests_s=load.concurrency / e2e_s,
        running=running,
    )
