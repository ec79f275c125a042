"""A static batch: one batch of requests, prefilled whole and then decoded, without a server in front."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aicalib.serving.load import Load, Service, Spread
from aicalib.serving.prefill import burst
from aicalib.serving.server import Server

Array = NDArray[np.float64]


def serve_static(server: Server, load: Load, max_total_tokens: Array) -> Service:
    """Return what running a batch by itself takes; parameters as for `serve_closed`.

    Requests beyond what the pool holds wait for the batch before them.
    """
    after_first = load.osl - 1.0
    running = np.minimum(load.concurrency, server.capacity(load.isl + load.osl, max_total_tokens))
    tpot_s = server.decode_s(running, load.context) / server.accepted
    whole_s = burst(server, load, running).whole_s
    ttft_s = whole_s + (load.concurrency - running) * (whole_s + after_first * tpot_s) / running
    e2e_s = ttft_s + after_first * tpot_s
    none = np.zeros_like(ttft_s)
    return Service(
        ttft_mean_s=ttft_s,
        ttft_median_s=ttft_s,
        tpot_s=np.where(after_first > 0.0, tpot_s, np.nan),
        e2e_mean_s=e2e_s,
        e2e_median_s=e2e_s,
        requests_s=load.concurrency / e2e_s,
        running=running,
        sustainable_s=np.full_like(ttft_s, np.nan),
        spread=Spread(ttft_s, none, none, none, none, none, none, none),
    )
