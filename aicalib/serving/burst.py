"""A burst: all requests of a benchmark are sent at once, whatever the engine can run at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aicalib.serving.closed import stall_deviation_s, steady_state
from aicalib.serving.load import Load, Service, Spread
from aicalib.serving.prefill import burst
from aicalib.serving.server import Server

Array = NDArray[np.float64]

SEEN = np.log(2.0)
"""Mean share of the first batch that runs during an answer where nothing follows and lengths are exponential:
the integral of (1 - exp(-u)) / u over lengths u of the mean one."""


def serve_burst(server: Server, load: Load, max_total_tokens: Array) -> Service:
    """Return what a client reports that sends all at once; parameters as for `serve_closed`.

    Notes
    -----
    As many as the engine can run form a first batch. The others take the places of those that end, at the
    throughput of a closed loop of that many; the last of them end while the batch empties. Drawn lengths are taken
    as exponential, the spread of recorded conversations: the longest of R is ln R + 0.577 times the mean, while the
    batch is R / (ln R + 0.577) on average.
    """
    context, after_first = load.context, load.osl - 1.0
    whole = load.isl + load.osl
    full = server.capacity(np.where(load.lockstep, whole, server.held(load)), max_total_tokens)
    running = np.minimum(load.num_prompts, full)
    later = load.num_prompts - running
    seen = np.where(load.lockstep, running, np.maximum(SEEN * running, 1.0))
    alone_s = server.decode_s(seen, context) / server.accepted
    longest = np.where(load.lockstep, 1.0, np.log(running) + np.euler_gamma)
    longest = np.maximum(longest, 1.0)
    tail_s = after_first * longest * server.decode_s(running / longest, context) / server.accepted

    first = burst(server, load, running)
    steady = steady_state(server, load, running, server.decode_s(running, context), np.zeros_like(running))
    first_tpot_s = np.where(later > 0.0, np.maximum(steady.tpot_s, alone_s), alone_s)
    first_tpot_s = first_tpot_s + first.others_s / np.maximum(after_first, 1.0)
    share = running / load.num_prompts
    tpot_s = share * first_tpot_s + (1.0 - share) * steady.tpot_s
    admitted_s = first.whole_s + later / steady.throughput
    # In lockstep nobody is admitted before the first batch has ended.
    wait_s = later / steady.throughput / 2.0 + np.where(load.lockstep, after_first * first_tpot_s / 2.0, 0.0)
    host_s = server.host_per_request_s(load) + np.where(load.warmed_up, 0.0, server.cold_s)
    mean_s = host_s + share * first.first_token_s + (1.0 - share) * (first.whole_s + wait_s + steady.ttft_s)
    low_s, high_s = host_s + first.earliest_s, host_s + np.where(later > 0.0, admitted_s, first.whole_s)
    median_s = np.clip(mean_s, low_s, (low_s + high_s) / 2.0)
    answer_s = after_first * tpot_s
    none = np.zeros_like(mean_s)
    deviation = np.hypot(
        first.others_s / np.sqrt(3.0) / np.maximum(after_first, 1.0) * np.sqrt(share),
        stall_deviation_s(steady.stall_s, running - 1.0, load) * np.sqrt(1.0 - share),
    )
    return Service(
        ttft_mean_s=mean_s,
        ttft_median_s=median_s,
        tpot_s=np.where(after_first > 0.0, tpot_s, np.nan),
        e2e_mean_s=mean_s + answer_s,
        e2e_median_s=median_s + answer_s,
        requests_s=load.num_prompts / (host_s + admitted_s + tail_s),
        running=running,
        sustainable_s=np.full_like(mean_s, np.nan),
        spread=Spread(none, none, none, none, low_s, high_s, none + 1.0, deviation),
    )
