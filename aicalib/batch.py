"""A batch of resolved questions: which rows they are, what physics reads of them, and why others were refused."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aicalib.deployment import Deployment, Identity, Workload
from aicalib.errors import RequestError
from aicalib.physics.system import System
from aicalib.serving.load import Load

Codes = NDArray[np.intp]


@dataclass(frozen=True)
class Batch:
    """The rows that were resolved, and why the others were not.

    Attributes
    ----------
    rows : ndarray of int, shape (n,)
        Positions of the resolved rows in the input.
    identities : list of Identity
        Distinct combinations of names.
    codes : ndarray of int, shape (n,)
        For each resolved row its place in `identities`.
    system, load
        What physics and serving read, n rows.
    refused : dict of int to RequestError
        For each other row the reason.
    """

    rows: Codes
    identities: list[Identity]
    codes: Codes
    system: System
    load: Load
    refused: dict[int, RequestError]

    def take(self, chosen: Codes) -> Batch:
        """Return some of the resolved rows, in that order."""
        return Batch(
            self.rows[chosen],
            self.identities,
            self.codes[chosen],
            self.system.take(chosen),
            self.load.take(chosen),
            self.refused,
        )

    def deployment(self, index: int) -> Deployment:
        """Return one resolved row as an object."""
        s = self.system
        who = replace(self.identities[self.codes[index]], engine_month=float(s.engine_month[index]))
        return Deployment(
            identity=who,
            tp=int(s.tp[index]),
            dp=int(s.dp[index]),
            ep=int(s.ep[index]),
            pp=int(s.pp[index]),
            memory_fraction=float(s.memory_fraction[index]),
            chunk_tokens=int(s.chunk_tokens[index]),
            max_running=int(s.max_running[index]),
            graph_max_batch=int(s.graph_max_batch[index]),
            poll_interval=int(s.poll_interval[index]),
        )

    def workload(self, index: int) -> Workload:
        """Return the workload of one resolved row as an object."""
        at = self.load
        return Workload(
            isl=float(at.isl[index]),
            osl=float(at.osl[index]),
            concurrency=int(at.concurrency[index]),
            load="static_batch" if at.static[index] else "closed",
            num_prompts=int(at.num_prompts[index]),
            lockstep=bool(at.lockstep[index]),
            warmed_up=bool(at.warmed_up[index]),
        )
