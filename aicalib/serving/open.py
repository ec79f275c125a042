"""An open loop: requests arrive by themselves at a rate, Poisson distributed, however long the others take.

The batch follows from Little's law: a request finds, next to itself, as many others in decode as arrive during an
answer. The rate has a steady state only below what the engine sustains with a full batch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.serving.closed import stall_deviation_s
from aicalib.serving.load import Load, Service, Spread
from aicalib.serving.percentiles import ttft_quantile_s
from aicalib.serving.prefill import Passes, drawn_together, prefill_passes
from aicalib.serving.server import Server

Array = NDArray[np.float64]

KNOTS = 12
"""Batches from one request to a full one, at equal ratios, between which the step time is read."""

ROUNDS = 5
"""Rounds of a pass and the prompts that are prefilled in it, which follow from each other."""

BUSIEST = 0.999
"""Share of the time in prefill at which its queue is cut off; a rate above the sustainable one has no answer."""

LIFE = 2.0 / 3.0
"""Variance of the batch averaged over an answer, over that at one time: 2 x the integral of (1 - u)^2 du for batches
that are alike as far as two times fall into one answer."""

LOGISTIC = 1.702
"""Factor that brings the logistic curve within 0.01 of the normal distribution."""


class Stretched(NamedTuple):
    """Prefill between the steps of others, at a rate of arrivals; seconds, shape (..., n).

    `tpot_s` of a request whose first token waits for `own_s` and a mean of `queue_s` in front of prefill; `busy` is
    the share of the time in prefill, `stall_s` what the prefill of one prompt takes from decode.
    """

    tpot_s: Array
    own_s: Array
    queue_s: Array
    busy: Array
    stall_s: Array


def _stall_s(server: Server, passes: Passes, together: Array, step_s: Array) -> tuple[Array, Array, Array]:
    """Return for prompts prefilled together the pass, the share of prefill of one, and what it takes from decode."""
    tokens, pass_s = passes.at(together)
    prefill_s = server.stage_s(pass_s) * passes.new / tokens
    if server.mixed is None:
        return pass_s, prefill_s, prefill_s
    longer_s = np.maximum(server.stage_s(pass_s - step_s), 0.0) * passes.new / tokens
    return pass_s, prefill_s, np.where(server.mixed, longer_s, prefill_s)


def stretched(server: Server, load: Load, passes: Passes, step_s: Array, rate: Array) -> Stretched:
    """Return how long a token takes with the prefill of others in between, at a rate of arrivals.

    Notes
    -----
    The scheduler looks for prompts after each step. After a pass it finds a_p = rate x pass of them on average, after
    a decode step a_d = rate x step x poll; it goes on with prefill while it finds any. With Poisson arrivals a pass
    then holds a_p + a_d exp(-a_p) / (1 - exp(-a_d)) prompts, a chunk at most.

    In a second prompts take rate x stall seconds from decode. An answer of D seconds of decode is stalled by those
    that arrived while it waited S seconds for its first token, and by those that arrive during it: it takes
    (D + rate x stall x S) / (1 - rate x stall). In a mixed step the stall of a prompt is what its steps take longer.
    """
    plain_s, most = step_s / server.accepted, passes.most
    looks = np.maximum(rate * server.settings.poll_interval * step_s, 1e-12)
    first = drawn_together(looks)
    together = np.minimum(first, most)
    for _ in range(ROUNDS):
        _, pass_s = passes.at(together)
        arrivals = rate * server.stage_s(pass_s)
        found = arrivals + first * np.exp(-arrivals)
        together = passes.in_progress(found, rate, server.stage_s(pass_s))
    pass_s, prefill_s, stall_s = _stall_s(server, passes, together, step_s)
    busy = np.minimum(rate * prefill_s, BUSIEST)
    full_s = server.stage_s(passes.fullest[1]) * passes.new / passes.fullest[0]
    queue_s = busy * pass_s / 2.0 / (1.0 - np.minimum(rate * full_s, BUSIEST))
    # A request shares its pass with those that arrive in the same step as it does.
    _, own_s = passes.at(np.minimum(1.0 + busy * arrivals + (1.0 - busy) * looks, most))
    own_s = own_s + server.stage_s(own_s) * passes.further
    taken = np.minimum(rate * stall_s, BUSIEST)
    behind_s = taken * (queue_s + own_s) / np.maximum(load.osl - 1.0, 1.0)
    return Stretched((plain_s + behind_s) / (1.0 - taken), own_s, queue_s, busy, stall_s)


def sustainable_rate(server: Server, load: Load, passes: Passes, full: Array, step_s: Array) -> Array:
    """Return the rate in requests per second at which the batch is always full, shape (n,).

    Parameters
    ----------
    server, load
        n engines and their workloads.
    passes : Passes
        At the full batch.
    full : ndarray, shape (n,)
        Most requests that run at a time.
    step_s : ndarray, shape (n,)
        A decode step of so many.

    Notes
    -----
    While one request is answered, `full` prompts are prefilled, those that take the places of the ones that end in
    the same step together: rate = 1 / (answer / full + stall), and never more than prefill alone allows.
    """
    after_first = load.osl - 1.0
    look = server.settings.poll_interval * server.accepted
    ended = np.maximum(look * full / np.maximum(after_first, 1e-9), 1e-9)
    _, prefill_s, stall_s = _stall_s(server, passes, np.minimum(drawn_together(ended), passes.most), step_s)
    answer_s = after_first * step_s / server.accepted
    result: Array = np.minimum(1.0 / (answer_s / full + stall_s), 1.0 / prefill_s)
    return result


def crossing(batch: Array, needed: Array) -> tuple[NDArray[np.intp], Array]:
    """Return the knot up to which the needed batch falls below the batch, and the share of the way to it.

    Both of shape (n,), the arguments of shape (KNOTS, n); where it never does, the last knot.
    """
    gap = needed - batch
    below = gap <= 0.0
    at = np.where(below.any(axis=0), np.maximum(below.argmax(axis=0), 1), batch.shape[0] - 1)
    before, after = at_knot(gap, at - 1), at_knot(gap, at)
    span = before - after
    share = np.divide(before, span, out=np.ones_like(span), where=span > 0.0)
    return at, np.clip(share, 0.0, 1.0)


def at_knot(values: Array, at: NDArray[np.intp]) -> Array:
    """Return the value at one knot of each column, shape (n,)."""
    result: Array = np.take_along_axis(values, at[None], axis=0)[0]
    return result


def slopes(batch: Array, values: Array) -> Array:
    """Return how steeply values rise with the batch at each knot: the mean of both sides, shape (KNOTS, n)."""
    wider = np.diff(batch, axis=0)
    rise = np.divide(np.diff(values, axis=0), wider, out=np.zeros_like(wider), where=wider > 0.0)
    return np.concatenate([rise[:1], (rise[:-1] + rise[1:]) / 2.0, rise[-1:]])


def between_knots(batch: Array, needed: Array, values: Array) -> Array:
    """Return values, shape (KNOTS, n), where the batch is the needed one, shape (n,)."""
    at, share = crossing(batch, needed)
    low, high = at_knot(values, at - 1), at_knot(values, at)
    return low + share * (high - low)


def serve_open(server: Server, load: Load, max_total_tokens: Array) -> Service:
    """Return what a client reports that sends at a rate; parameters as for `serve_closed`.

    A rate from the sustainable one on has no steady state: its numbers are NaN.

    Notes
    -----
    An arrival waits for the rest of the running step, then for prefill: r p / 2 / (1 - r p_full / k) with the rate
    r, a pass p over those that wait together, and p_full over the k prompts of a full chunk (M/D/1 where a chunk holds
    one prompt). It waits for a place in the batch with the probability that the batch is full, on average as long as
    one departure takes more than one arrival, 1 / (1 / arrival - 1 / departure). The batch varies as a negative
    binomial distribution, exact where the step time is linear in it.
    """
    rate, context, after_first = _rate(load), load.context, load.osl - 1.0
    full = server.capacity(server.held(load), max_total_tokens)
    batch = full ** np.linspace(0.0, 1.0, KNOTS)[:, None]
    steps_s = server.decode_s(batch, context)
    passes = prefill_passes(server, load, batch)
    tokens_s = stretched(server, load, passes, steps_s, rate).tpot_s
    needed = 1.0 + rate * after_first * tokens_s
    running, step_s = between_knots(batch, needed, batch), between_knots(batch, needed, steps_s)
    passes = prefill_passes(server, load, running)
    token = stretched(server, load, passes, step_s, rate)
    sustainable = sustainable_rate(
        server,
        load,
        passes if server.mixed is None else prefill_passes(server, load, full),
        full,
        steps_s[-1],
    )

    # With the batch full all the time an answer takes as long as Little's law has it for the full batch.
    longest_s = np.divide(
        full, sustainable * after_first, out=np.full_like(full, np.inf), where=after_first > 0.0
    )
    tpot_s = np.minimum(token.tpot_s, longest_s)
    others = rate * after_first * tpot_s
    rise = between_knots(batch, needed, slopes(batch, tokens_s))
    slope = np.clip(rate * after_first * rise, 0.0, 0.95)
    variance = others / (1.0 - slope)
    is_full = 1.0 / (
        1.0 + np.exp(np.clip(LOGISTIC * (full - 0.5 - others) / np.sqrt(variance + 0.25), -50, 50))
    )
    line_s = is_full / np.maximum(sustainable - rate, 1e-9)

    running = -np.expm1(-others)
    look_s = server.poll_wait * server.settings.poll_interval * step_s * (1.0 - token.busy) * running
    # A step is launched ahead behind a prefill as well as behind a step.
    fixed_s = server.host_per_request_s(load) + token.own_s + server.steps_ahead * step_s * running
    mean_s = fixed_s + token.queue_s + look_s + line_s
    answer_s = after_first * tpot_s
    e2e_s = mean_s + answer_s
    stalls_s = stall_deviation_s(token.stall_s, rate * answer_s, load)
    none = np.zeros_like(mean_s)
    over = np.where(rate < sustainable, 1.0, np.nan)
    spread = Spread(
        fixed_s=fixed_s,
        even_s=2.0 * look_s,
        queue_s=token.queue_s + line_s,
        queued=np.maximum(token.busy, is_full),
        first_low_s=none,
        first_high_s=none,
        first_share=none,
        tpot_deviation_s=np.hypot(stalls_s, rise * np.sqrt(LIFE * variance)),
    )
    median_s = ttft_quantile_s(spread, 0.5)
    return Service(
        ttft_mean_s=over * mean_s,
        ttft_median_s=over * median_s,
        tpot_s=np.where(after_first > 0.0, over * tpot_s, np.nan),
        e2e_mean_s=over * e2e_s,
        e2e_median_s=over * (median_s + answer_s),
        requests_s=over * rate / (1.0 + rate * e2e_s / load.num_prompts),
        running=over * others,
        sustainable_s=sustainable,
        spread=Spread(*(over * each for each in spread)),
    )


def _rate(load: Load) -> Array:
    if load.request_rate is None:
        raise ValueError("an open load has a request rate")
    return load.request_rate
