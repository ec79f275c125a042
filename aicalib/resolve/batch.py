"""A batch of resolved questions: which rows they are, what physics reads of them, and why others were refused."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aicalib.deployment import Deployment, Identity, Workload
from aicalib.errors import RequestError
from aicalib.physics.system import Settings, System
from aicalib.resolve.features import GIGABIT, Features
from aicalib.serving.load import CLOSED, LOADS, OPEN, STATIC, Load

Array = NDArray[np.float64]
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
    who : ndarray of int, shape (d,)
        For each deployment its place in `identities`.
    system : System
        The distinct deployments, d of them: questions that differ in load or settings alone share one.
    at : ndarray of int, shape (n,)
        For each resolved row its place in `system`.
    settings, load
        What else serving reads, n rows.
    refused : dict of int to RequestError
        For each other row the reason.
    features : Features
        What the questions ask beyond one plain engine.
    """

    rows: Codes
    identities: list[Identity]
    who: Codes
    system: System
    at: Codes
    settings: Settings
    load: Load
    refused: dict[int, RequestError]
    features: Features = Features()  # noqa: RUF009

    @property
    def codes(self) -> Codes:
        """For each resolved row its place in `identities`, shape (n,)."""
        return self.who[self.at]

    @property
    def n_gpus(self) -> Array:
        """GPUs of each resolved row, over all its instances, shape (n,)."""
        return self.features.gpus(self.system.n_gpus[self.at])

    def take(self, chosen: Codes) -> Batch:
        """Return some of the resolved rows, in that order, with the deployments that they ask about."""
        used, at = np.unique(self.at[chosen], return_inverse=True)
        return Batch(
            self.rows[chosen],
            self.identities,
            self.who[used],
            self.system.take(used),
            at,
            self.settings.take(chosen),
            self.load.take(chosen),
            self.refused,
            self.features.take(chosen),
        )

    @property
    def instance_settings(self) -> Settings:
        """The settings as whole instances have them, over all attention ranks."""
        return self.settings.of_instance(self.system, self.at)

    def deployment(self, index: int) -> Deployment:
        """Return one resolved row as an object."""
        s, at, chosen = self.system, self.at[index], self.settings
        who = replace(self.identities[self.who[at]], engine_month=float(s.engine_month[at]))
        return Deployment(
            identity=who,
            tp=int(s.tp[at]),
            dp=int(s.dp[at]),
            ep=int(s.ep[at]),
            pp=int(s.pp[at]),
            memory_fraction=float(chosen.memory_fraction[index]),
            chunk_tokens=int(chosen.chunk_tokens[index]),
            max_running=int(chosen.max_running[index]),
            graph_max_batch=int(chosen.graph_max_batch[index]),
            poll_interval=int(chosen.poll_interval[index]),
            mixed_chunk=self.features.mixed_chunk is not None and bool(self.features.mixed_chunk[index]),
            drafter=self.features.drafter(index),
            disaggregation=self.features.disaggregation(index),
            deepep=bool(s.deepep[at]),
            network_gbit_s=float(s.network_bytes_s[at] / GIGABIT) if s.nodes[at] > 1.0 else None,
        )

    def workload(self, index: int) -> Workload:
        """Return the workload of one resolved row as an object."""
        at, kind = self.load, self.load.kind[index]
        counted = kind in (CLOSED, STATIC)
        return Workload(
            isl=float(at.isl[index]),
            osl=float(at.osl[index]),
            concurrency=int(at.concurrency[index]) if counted else None,
            load=LOADS[kind],
            num_prompts=int(at.num_prompts[index]) if np.isfinite(at.num_prompts[index]) else None,
            lockstep=bool(at.lockstep[index]),
            warmed_up=bool(at.warmed_up[index]),
            request_rate=float(at.request_rate[index])
            if kind == OPEN and at.request_rate is not None
            else None,
            prefix_hit=0.0 if at.prefix_hit is None else float(at.prefix_hit[index]),
        )
