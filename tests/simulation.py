"""The engine's loop played request by request, with the step times of the model: the judge of the closed forms."""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import numpy as np

from aicalib.profiles import uncalibrated
from aicalib.served import memory_of, servers


class Played(NamedTuple):
    """Steady part of what was played: seconds each, requests a second, and the mean running batch."""

    ttft_s: np.ndarray
    tpot_s: np.ndarray
    throughput: float


class Engine:
    """Step times of the first question of a batch, and its limits; attention ranks take requests in turn."""

    def __init__(self, batch, profile=None):
        server = servers(batch, (profile or uncalibrated()).values)
        load, one = batch.load, np.ones(1)
        self.isl, self.osl = float(load.isl[0]), float(load.osl[0])
        self.host_s = float(server.host_per_request_s(load)[0])
        self.ranks = int(server.dp[0])
        self.chunk = float(batch.settings.chunk_tokens[0]) / self.ranks
        self.mixed = bool(server.mixed is not None and server.mixed[0])
        held, _ = memory_of(batch)
        self.capacity = float(server.capacity(load.context, held.max_total_tokens)[0])
        self.decode_s = functools.cache(
            lambda running: float(server.decode_s(one * running, load.context)[0])
        )
        self.step_s = functools.cache(
            lambda tokens, ranks, running: float(
                server.prefill_s(one * tokens, load, one * ranks, one * max(running, 1))[0]
            )
        )

    def play(self, due, requests, again, rng, lengths=0.4):
        """Serve `requests` requests due at times `due`; one that ends is followed by another if `again`.

        Lengths of answers are even within `lengths` of the mean, exponential where that is None.
        """
        turn = itertools.cycle(range(self.ranks))
        now, queue, running, done = 0.0, [[at, self.isl, next(turn)] for at in sorted(due)], [], []
        while len(done) < requests:
            budget = [self.chunk - (len(running) / self.ranks if self.mixed else 0)] * self.ranks
            tokens, through, busy = 0.0, [], set()
            for each in queue:
                if each[0] > now or max(budget) <= 0 or len(running) + len(through) >= self.capacity:
                    break
                rank = each[2]
                take = min(each[1], budget[rank])
                if take <= 0:
                    continue
                each[1] -= take
                budget[rank] -= take
                busy.add(rank)
                tokens += take
                if each[1] <= 0:
                    through.append(each)
            decoding = running if self.mixed or not tokens else []
            if tokens:
                now += self.step_s(tokens, len(busy), len(running) if self.mixed else 0)
            elif running:
                now += self.decode_s(len(running))
            else:
                now = queue[0][0]
                continue
            for each in decoding:
                each[2] -= 1
            ended = [each for each in decoding if each[2] <= 0]
            for at, first, _, length in ended:
                done.append((at, first - at + self.host_s, (now - first) / max(length, 1), now))
                if again:
                    queue.append([now + self.host_s, self.isl, next(turn)])
            running = [each for each in running if each[2] > 0]
            for each in through:
                queue.remove(each)
                drawn = rng.exponential() if lengths is None else rng.uniform(1 - lengths, 1 + lengths)
                length = max(round(drawn * self.osl) - 1, 1)
                running.append([each[0], now, length, length])
        return done

    def closed(self, concurrency, requests, lengths=0.4):
        """Keep `concurrency` requests in flight; the first two rounds are not counted."""
        done = self.play([0.0] * concurrency, requests, True, np.random.default_rng(0), lengths)
        return self._steady(done[2 * concurrency :])

    def open(self, rate, requests):
        """Send requests at a rate; the first tenth and the last are not counted."""
        rng = np.random.default_rng(0)
        due = np.cumsum(rng.exponential(1.0 / rate, requests))
        done = sorted(self.play(due, requests, False, rng))
        return self._steady(done[requests // 5 : -requests // 20])

    @staticmethod
    def _steady(done):
        first, each, ends = (np.array([row[at] for row in done]) for at in (1, 2, 3))
        return Played(first, each, (len(done) - 1) / (max(ends) - min(ends)))
