"""Prefill: steps over several prompts or over a chunk of one, and a burst of prompts that arrive together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.serving.load import Load
from aicalib.serving.server import Server

Array = NDArray[np.float64]


class Burst(NamedTuple):
    """Prompts that arrive together, all prefilled before any is decoded; seconds, shape (n,).

    `earliest_s` is the TTFT of the first of them, `first_token_s` that of the mean one; then it waits for `others_s`
    more until the last is through, `whole_s` after the start.
    """

    earliest_s: Array
    first_token_s: Array
    others_s: Array
    whole_s: Array


def burst(server: Server, load: Load, requests: Array) -> Burst:
    """Return how long the mean request of a burst waits for its first token, and then for the rest.

    Chunks of the engine's size run one after the other, on all attention ranks at once. The mean request waits
    for half of the others' chunks before its first token and for the other half after it, before its second.
    Through k pipeline stages of equal length, p chunks take (p + k - 1) / k passes.
    """
    ranks = np.minimum(server.dp, requests)
    total = requests * load.new
    tokens = np.minimum(total, server.packed(server.settings.chunk_tokens / server.dp, load.new) * ranks)
    passes = total / tokens
    own = np.maximum(load.new * ranks / tokens, 1.0)
    time_s = server.prefill_s(tokens, load, ranks, np.ones_like(tokens))
    stage_s = server.stage_s(time_s)
    half_s = stage_s * np.maximum(passes - own, 0.0) / 2.0
    first_s = time_s * own if server.stages is None else time_s + stage_s * (own - 1.0)
    return Burst(first_s, first_s + half_s, half_s, first_s + 2.0 * half_s)


class Curve(NamedTuple):
    """Values of prefill steps over the number of prompts in them: straight from one to `bend` and on from there."""

    bend: Array
    start: Array
    before: Array
    after: Array

    @staticmethod
    def through(together: list[Array], values: list[Array]) -> Curve:
        """Return the curve through three numbers of prompts, of which the first is one."""
        before, after = (
            (values[at + 1] - values[at]) / np.maximum(together[at + 1] - together[at], 1e-9) for at in (0, 1)
        )
        return Curve(together[1], values[0] - before, before, after)


class Passes(NamedTuple):
    """Prefill steps over several prompts, up to `most` in one; arrays that broadcast with n questions.

    `tokens` and `time_s` are curves over the number of prompts, `fullest` the tokens and seconds of a full chunk; `new`
    are the tokens to prefill of one prompt, which takes `further` steps beyond its first.
    """

    most: Array
    further: Array
    tokens: Curve
    time_s: Curve
    fullest: tuple[Array, Array]
    new: Array

    def in_progress(self, found: Array, rate: Array, pass_s: Array) -> Array:
        """Return the prompts in a step: those found together, and those of earlier steps that are not through.

        Attention ranks begin their prompts independently of each other, so that at a rate of arrivals (per second)
        rate x time of the further steps of others are there.
        """
        result: Array = np.minimum(found + rate * self.further * pass_s, self.most)
        return result

    def at(self, together: Array) -> tuple[Array, Array]:
        """Return tokens and seconds of a step over `together` prompts."""
        below = np.minimum(together, self.tokens.bend)
        above = together - below
        tokens, time_s = self.tokens, self.time_s
        return (
            tokens.start + tokens.before * below + tokens.after * above,
            time_s.start + time_s.before * below + time_s.after * above,
        )


def prefill_passes(server: Server, load: Load, running: Array) -> Passes:
    """Return the time of prefill steps from one prompt to a full chunk of every attention rank.

    Parameters
    ----------
    server, load
        n engines and their workloads.
    running : ndarray, shape (..., n)
        Requests that decode in the same step, where steps are mixed.
    """
    new = load.new
    chunk = server.packed(server.chunk(running) / server.dp, new) * server.dp
    # Where a rank's chunk holds part of a prompt alone, each rank has one of its own.
    further = np.maximum(new * server.dp / chunk, 1.0) - 1.0
    most = np.maximum(chunk / new, server.dp)
    knots = [np.ones_like(most), np.sqrt(most), most]
    tokens, times = [], []
    for together in knots:
        ranks = np.minimum(server.dp, together)
        tokens.append(np.minimum(together * new, chunk / server.dp * ranks))
        times.append(server.prefill_s(tokens[-1], load, ranks, running))
    curves = (Curve.through(knots, values) for values in (tokens, times))
    return Passes(most, further, next(curves), next(curves), (tokens[2], times[2]), new)


def drawn_together(arrivals: Array) -> Array:
    """Return how many prompts a look at the queue finds that finds any, if the mean look finds `arrivals`.

    With Poisson arrivals a / (1 - exp(-a)).
    """
    result: Array = arrivals / -np.expm1(-arrivals)
    return result
