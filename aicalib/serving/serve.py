"""What a client reports, whatever the load: each kind of load in a batch is answered by its own model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from aicalib.serving.burst import serve_burst
from aicalib.serving.closed import serve_closed
from aicalib.serving.disaggregated import serve_disaggregated
from aicalib.serving.load import Load, Service
from aicalib.serving.open import serve_open
from aicalib.serving.server import Server
from aicalib.serving.static import serve_static

Array = NDArray[np.float64]

MODELS: tuple[Callable[[Server, Load, Array], Service], ...] = (
    serve_closed, serve_open, serve_burst, serve_static, serve_disaggregated
)  # fmt: skip
"""The model of each kind, in the order of `LOADS`; the last where prefill has instances of its own."""


def serve(server: Server, load: Load, max_total_tokens: Array) -> Service:
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
        Times in seconds, shape (n,); TPOT is NaN where an answer has one token, everything but the sustainable
        rate where an open load is above it.
    """
    kinds = load.kind
    if server.pools is not None:
        kinds = np.where(server.pools.separate, len(MODELS) - 1, kinds)
    there = np.flatnonzero(np.bincount(kinds))
    if there.size == 0:
        return serve_closed(server, load, max_total_tokens)
    if there.size == 1:
        only: Service = MODELS[there[0]](server, load, max_total_tokens)
        return only
    places = [np.flatnonzero(kinds == kind) for kind in there]
    parts = [
        MODELS[kind](server.take(rows), load.take(rows), max_total_tokens[rows])
        for kind, rows in zip(there, places, strict=True)
    ]
    return Service.join(parts, np.argsort(np.concatenate(places)))
