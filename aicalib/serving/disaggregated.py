"""Prefill and decode on instances of their own: the cache of a prompt is sent from one to the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.serving.load import OPEN, Load, Service, Spread
from aicalib.serving.open import KNOTS, between_knots
from aicalib.serving.percentiles import ttft_quantile_s
from aicalib.serving.prefill import Passes, burst, drawn_together, prefill_passes
from aicalib.serving.server import Server

Array = NDArray[np.float64]
Codes = NDArray[np.intp]

ROUNDS = 20
"""Damped rounds of the fixed point of throughput and latency in a closed loop."""

BUSIEST = 0.999
"""Share of its time in prefill at which the queue of an instance is cut off."""


@dataclass(frozen=True)
class Pools:
    """The two pools of instances of n questions; arrays of shape (n,).

    Attributes
    ----------
    separate : ndarray of bool
        Prefill has instances of its own.
    prefill : Server
        One prefill instance.
    prefill_instances, decode_instances : ndarray
        How many of each.
    transfer_s : ndarray
        Time in which the cache of a whole prompt goes from a prefill instance to a decode instance.
    """

    separate: NDArray[np.bool_]
    prefill: Server
    prefill_instances: Array
    decode_instances: Array
    transfer_s: Array

    def take(self, rows: Codes) -> Pools:
        """Return the pools of some questions, in that order."""
        return Pools(
            self.separate[rows],
            self.prefill.take(rows),
            self.prefill_instances[rows],
            self.decode_instances[rows],
            self.transfer_s[rows],
        )


class Prefilled(NamedTuple):
    """A prefill instance under Poisson arrivals: own pass and mean wait before it, in seconds, shape (n,)."""

    own_s: Array
    wait_s: Array
    busy: Array


def prefilled(server: Server, load: Load, passes: Passes, rate: Array) -> Prefilled:
    """Return what a prompt meets at an instance that does nothing but prefill, at a rate of arrivals.

    Prompts that arrive during a pass are prefilled together in the next, a chunk at most; the wait is that of
    `serve_open`.
    """
    together = np.ones_like(rate)
    for _ in range(4):
        tokens, pass_s = passes.at(together)
        arrivals = np.maximum(rate * server.stage_s(pass_s), 1e-9)
        together = passes.in_progress(drawn_together(arrivals), rate, server.stage_s(pass_s))
    busy = np.minimum(rate * server.stage_s(pass_s) * load.new / tokens, BUSIEST)
    busiest = rate * fastest_s(server, load, passes)
    wait_s = busy * pass_s / 2.0 / (1.0 - np.minimum(busiest, BUSIEST))
    return Prefilled(pass_s + server.stage_s(pass_s) * passes.further, wait_s, busy)


def fastest_s(server: Server, load: Load, passes: Passes) -> Array:
    """Return the time in seconds that a prompt takes of a prefill instance at full chunks, shape (n,)."""
    return server.stage_s(passes.fullest[1]) * load.new / passes.fullest[0]


def serve_disaggregated(server: Server, load: Load, max_total_tokens: Array) -> Service:
    """Return what a client reports of separate pools under closed and open loads; parameters as for `serve_closed`.

    Notes
    -----
    TTFT counts host, wait and pass at the prefill instance, and the transfer of the cache, after which the decode
    instance streams the first token; TPOT is a decode step that no prefill stops. Throughput is at most that of
    either pool. A request of a closed loop of C over k instances meets 1 - k / C of what an arrival from outside
    would meet. A closed loop begins with all C at once: that share of its requests waits as in `burst`, C / k of them
    at each prefill instance.
    """
    pools = server.pools
    if pools is None:
        raise ValueError("no question has prefill instances")
    context, after_first = load.context, load.osl - 1.0
    is_open = load.kind == OPEN
    host_s = server.host_per_request_s(load)
    flight = np.where(is_open, np.inf, load.concurrency)
    share = np.maximum(flight / pools.decode_instances, 1.0)
    full = np.minimum(server.capacity(server.held(load), max_total_tokens), share)
    batch = full ** np.linspace(0.0, 1.0, KNOTS)[:, None]
    tokens_s = server.decode_s(batch, context) / server.accepted
    passes = prefill_passes(pools.prefill, load, np.ones_like(full))
    by_prefill = pools.prefill_instances / fastest_s(pools.prefill, load, passes)
    by_decode = pools.decode_instances * full / np.maximum(after_first * tokens_s[-1], 1e-9)
    limit = np.minimum(by_prefill, by_decode)

    others_at_prefill = np.clip(1.0 - pools.prefill_instances / flight, 0.0, 1.0)
    others_at_decode = np.clip(1.0 - pools.decode_instances / flight, 0.0, 1.0)
    given = limit if load.request_rate is None else np.where(is_open, load.request_rate, limit)
    rate = np.where(is_open, given, np.minimum(limit, load.concurrency / (after_first * tokens_s[0] + 1e-3)))
    for _ in range(1 if is_open.all() else ROUNDS):
        found = prefilled(pools.prefill, load, passes, others_at_prefill * rate / pools.prefill_instances)
        seen = others_at_decode * rate / pools.decode_instances * after_first * tokens_s
        tpot_s = between_knots(batch, 1.0 + seen, tokens_s)
        ttft_s = found.own_s + found.wait_s + pools.transfer_s
        queued_s = np.where(is_open, 0.0, load.concurrency / limit - host_s - after_first * tpot_s)
        ttft_s = np.maximum(ttft_s, queued_s)
        cycle = load.concurrency / (host_s + ttft_s + after_first * tpot_s)
        rate = np.where(is_open, rate, np.minimum(np.sqrt(rate * cycle), limit))
    over = np.where(is_open & (rate >= limit), np.nan, 1.0)
    usual_s = over * (host_s + ttft_s)
    at_once = np.where(is_open, 1.0, np.maximum(load.concurrency / pools.prefill_instances, 1.0))
    first = burst(pools.prefill, load, at_once)
    share = np.where(is_open, 0.0, np.clip(load.concurrency / load.num_prompts, 0.0, 1.0))
    sent_s = host_s + pools.transfer_s
    mean_s = (1.0 - share) * usual_s + share * (sent_s + first.first_token_s)
    wait_s = over * np.maximum(ttft_s - found.own_s - pools.transfer_s, 0.0)
    answer_s = after_first * tpot_s
    none = np.zeros_like(mean_s)
    # What bounds a closed loop makes every request wait alike.
    queue_s = np.minimum(wait_s, over * found.wait_s)
    spread = Spread(
        usual_s - queue_s,
        none,
        queue_s,
        found.busy,
        sent_s + first.earliest_s,
        sent_s + first.whole_s,
        share,
        none,
    )
    median_s = ttft_quantile_s(spread, 0.5)
    ends = load.num_prompts * np.where(is_open, 1.0, np.inf)
    e2e_s = mean_s + answer_s
    requests_s = np.where(is_open, rate / (1.0 + rate * e2e_s / ends), load.concurrency / e2e_s)
    return Service(
        ttft_mean_s=mean_s,
        ttft_median_s=median_s,
        tpot_s=np.where(after_first > 0.0, over * tpot_s, np.nan),
        e2e_mean_s=e2e_s,
        e2e_median_s=median_s + answer_s,
        requests_s=requests_s,
        running=over * rate * answer_s,
        sustainable_s=np.where(is_open, limit, np.nan),
        spread=spread,
    )
