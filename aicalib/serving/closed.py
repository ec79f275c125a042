"""From step times to what a benchmark client reports under a closed loop of requests.

A client keeps C requests in flight: it begins with a burst of C requests, and then sends a new one whenever one
ends. Throughput X solves X = running / (TTFT + (osl - 1) TPOT), where TPOT carries the prefill of others: whole steps
of it where the engine prefills first, what chunks add to the steps they ride in where it mixes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.serving.load import Load, Service, Spread
from aicalib.serving.prefill import burst, drawn_together, prefill_passes
from aicalib.serving.server import Server

Array = NDArray[np.float64]

ROUNDS = 10
"""Rounds of the fixed point of throughput and TPOT: within 1e-4 of where it ends. All rows take them all, so that no
answer depends on its neighbours in a batch."""

BUSIEST = 0.95
"""Utilisation by prefill at which the queue in front of it is cut off: a closed loop holds itself below."""


class Steady(NamedTuple):
    """The closed loop after its first burst; seconds, shape (n,).

    Of TTFT, `queue_s` is the mean wait for the prefill of others, which a share `busy` of the requests meets, and
    `look_s` that for the scheduler; `stall_s` is what the prefill of one prompt adds to the answers of others.
    """

    ttft_s: Array
    tpot_s: Array
    throughput: Array
    queue_s: Array
    busy: Array
    look_s: Array
    stall_s: Array


def steady_state(server: Server, load: Load, running: Array, step_s: Array, host_s: Array) -> Steady:
    """Solve the closed loop of requests that come and go independently of each other.

    Parameters
    ----------
    server, load
        n engines and their workloads.
    running : ndarray, shape (n,)
        Requests that run at a time.
    step_s : ndarray, shape (n,)
        Time of a decode step at that batch.
    host_s : ndarray, shape (n,)
        Time between the end of a request and the arrival of the next.

    Returns
    -------
    Steady
        TTFT without the host's time; throughput in requests per second.

    Notes
    -----
    Between two looks of the scheduler a = X TPOT poll requests end, and as many begin. With Poisson arrivals a
    look that finds any finds a / (1 - exp(-a)) of them; they are prefilled together, a chunk at most. Where attention
    ranks take f further steps for a prompt, those that ended within the host's time before, and are still on their
    way, join on other ranks for f / (1 + f) of these steps. Rounds are damped by the geometric mean where they swing.

    Where steps are mixed, a chunk adds to the step that takes it only what the step takes longer; there are never
    more such steps than steps, so that prefill bounds the throughput.
    """
    interval, mixed = server.settings.poll_interval, server.mixed
    passes = prefill_passes(server, load, running)
    most = passes.most
    on_their_way = server.accepted * host_s / step_s * passes.further / (1.0 + passes.further)
    decoding_s = np.minimum(1.0, running - 1.0) * step_s
    look_s = server.poll_wait * interval * decoding_s
    ahead_s = server.steps_ahead * decoding_s
    after_first = load.osl - 1.0
    others = (running - 1.0) / load.osl
    half = running / 2.0
    until = interval * server.accepted
    plain_s = tpot_s = step_s / server.accepted
    throughput = running / (load.osl * plain_s)
    move, swings = np.zeros_like(throughput), np.zeros(throughput.shape, dtype=np.bool_)
    for _ in range(ROUNDS):
        ended = throughput * tpot_s
        together = np.minimum(drawn_together(until * ended) + ended * on_their_way, most)
        tokens, pass_s = passes.at(together)
        share = passes.new / tokens
        stage_s = server.stage_s(pass_s)
        prefill_s = stage_s * share
        added_s = others * prefill_s
        if mixed is not None:
            longer_s = np.maximum(stage_s - server.stage_s(step_s), 0.0)
            steps = np.minimum(others * share, _steps(server))
            added_s = np.where(mixed, steps * longer_s, added_s)
        found_s = plain_s + added_s
        tpot_s = np.where(swings, np.sqrt(tpot_s * found_s), found_s)
        busy = np.minimum(throughput * prefill_s, BUSIEST)
        queue_s = np.minimum(0.5 * busy / (1.0 - busy), half) * prefill_s
        own_s = pass_s + stage_s * passes.further
        ttft_s = own_s + queue_s + look_s + ahead_s
        if mixed is not None:
            bound_s = running * prefill_s - host_s - after_first * tpot_s
            ttft_s = np.where(mixed, np.maximum(ttft_s, bound_s), ttft_s)
        found = running / (host_s + ttft_s + after_first * tpot_s)
        last, move = move, found - throughput
        swings = last * move < 0.0
        throughput = np.where(swings, np.sqrt(throughput * found), found)
    stall_s = np.divide(added_s, others, out=np.zeros_like(added_s), where=others > 0.0)
    return Steady(ttft_s, tpot_s, throughput, queue_s, busy, look_s, stall_s)


def _steps(server: Server) -> Array | float:
    """Return the steps for each token of an answer, over all stages."""
    return (1.0 if server.stages is None else server.stages.number) / server.accepted


def stall_deviation_s(stall_s: Array, prompts: Array, load: Load) -> Array:
    """Return the standard deviation of TPOT over requests in seconds, shape (n,).

    Parameters
    ----------
    stall_s : ndarray, shape (n,)
        What the prefill of one other prompt adds to an answer.
    prompts : ndarray, shape (n,)
        Mean number of prompts that are prefilled during an answer; their number is Poisson distributed.
    """
    return stall_s * np.sqrt(prompts) / np.maximum(load.osl - 1.0, 1.0)


def serve_closed(server: Server, load: Load, max_total_tokens: Array) -> Service:
    """Return what a client reports for each deployment and workload.

    Parameters
    ----------
    server : Server
        n engines.
    load : Load
        n workloads.
    max_total_tokens : ndarray, shape (n,)
        Tokens of the KV pool of the instance, positive.

    Returns
    -------
    Service
        Times in seconds, shape (n,); TPOT is NaN where an answer has one token.
    """
    context, after_first = load.context, load.osl - 1.0
    locked = load.lockstep & server.prefill_first
    # Requests at different points of their answer hold half of it on average; in lockstep all end full.
    held = np.where(locked, load.isl + load.osl, server.held(load))
    running = np.minimum(load.concurrency, server.capacity(held, max_total_tokens))
    step_s = server.decode_s(running, context)
    host_s = server.host_per_request_s(load)

    first = burst(server, load, running)
    steady = steady_state(server, load, running, step_s, host_s)
    locked_tpot_s = step_s / server.accepted + first.others_s / np.maximum(after_first, 1.0)
    tpot_s = np.where(locked, locked_tpot_s, steady.tpot_s)
    usual_s = np.where(locked, first.first_token_s, steady.ttft_s)

    cold_s = np.where(load.warmed_up, 0.0, server.cold_s)
    others_s = server.handed_over_s(load)
    wave_s = first.first_token_s + cold_s + others_s
    served_s = host_s + usual_s + after_first * tpot_s
    line_s = (load.concurrency - running) * served_s / running
    share = np.clip(load.concurrency / load.num_prompts, 0.0, 1.0)
    mean_s = host_s + (1.0 - share) * usual_s + share * wave_s + line_s
    median_s = host_s + np.where(share > 0.5, wave_s, usual_s) + line_s
    e2e_s = mean_s + after_first * tpot_s
    random_s = steady.queue_s + steady.look_s
    even = np.sqrt(1.0 / 3.0) * first.others_s / np.maximum(after_first, 1.0)
    return Service(
        ttft_mean_s=mean_s,
        ttft_median_s=median_s,
        tpot_s=np.where(after_first > 0.0, tpot_s, np.nan),
        e2e_mean_s=e2e_s,
        e2e_median_s=median_s + after_first * tpot_s,
        requests_s=load.concurrency / e2e_s,
        running=running,
        sustainable_s=np.full_like(mean_s, np.nan),
        spread=Spread(
            fixed_s=host_s + usual_s - random_s + line_s,
            even_s=2.0 * steady.look_s,
            queue_s=steady.queue_s,
            queued=steady.busy,
            first_low_s=host_s + first.earliest_s + cold_s + line_s,
            first_high_s=host_s + first.whole_s + cold_s + 2.0 * others_s + line_s,
            first_share=np.where(locked, 1.0, share),
            tpot_deviation_s=np.where(locked, even, stall_deviation_s(steady.stall_s, running - 1.0, load)),
        ),
    )
