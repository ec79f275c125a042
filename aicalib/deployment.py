"""Deployment and Workload: one fully described question to the model."""

from __future__ import annotations

from dataclasses import dataclass

from aicalib.hardware import Accelerator
from aicalib.models import Architecture
from aicalib.quant import QuantConfig


@dataclass(frozen=True)
class Identity:
    """What the names of a deployment stand for; shared by all deployments that differ in numbers only.

    Attributes
    ----------
    architecture, accelerator, quant
        The model, the GPU and the four modes.
    engine, engine_version : str
        The version is the newest known where none was given.
    engine_month : float
        Age of the version, months from the epoch of `aicalib.engines`.
    notes : tuple of str
        What was filled in and why, for people.
    """

    architecture: Architecture
    accelerator: Accelerator
    quant: QuantConfig
    engine: str
    engine_version: str
    engine_month: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Deployment:
    """A model on GPUs under an engine, with every setting that the physics reads.

    Attributes
    ----------
    identity : Identity
    tp, dp, ep, pp : int
        Widths as the engine's flags give them.
    memory_fraction : float
        SGLang: share of free memory for weights and pool. vLLM: share of the GPU's memory in all.
    chunk_tokens : int
        Tokens of one prefill step.
    max_running : int
        Most running requests of the instance.
    graph_max_batch : int
        Largest decode batch with a captured graph.
    poll_interval : int
        Decode steps between two looks of the scheduler for new requests.
    """

    identity: Identity
    tp: int
    dp: int
    ep: int
    pp: int
    memory_fraction: float
    chunk_tokens: int
    max_running: int
    graph_max_batch: int
    poll_interval: int

    @property
    def n_gpus(self) -> int:
        """GPUs of the instance."""
        return self.tp * self.pp

    def as_dict(self) -> dict[str, object]:
        """Return names and numbers, all that is needed to ask again."""
        who = self.identity
        return {
            "model": who.architecture.name,
            "hf_id": who.architecture.hf_id or None,
            "gpu": who.accelerator.name,
            "n_gpus": self.n_gpus,
            "tp": self.tp,
            "pp": self.pp,
            "dp": self.dp,
            "ep": self.ep,
            "engine": who.engine,
            "engine_version": who.engine_version,
            **who.quant.to_mapping(),
            "mem_fraction": self.memory_fraction,
            "chunked_prefill_size": self.chunk_tokens,
            "max_running_requests": self.max_running,
            "cuda_graph_max_bs": self.graph_max_batch,
            "scheduler_recv_interval": self.poll_interval,
            "notes": list(who.notes),
        }


@dataclass(frozen=True)
class Workload:
    """Requests and how they arrive.

    Attributes
    ----------
    isl, osl : float
        Mean input and output tokens of a request.
    concurrency : int
        Requests in flight, or in the batch of a static load.
    load : str
        "closed" or "static_batch".
    num_prompts : int, optional
        Requests of the whole benchmark, ten a slot if not given; the share of the first burst in a mean depends
        on it.
    lockstep : bool
        All requests have the same lengths.
    warmed_up : bool
        The client loaded the engine fully before it measured.
    """

    isl: float
    osl: float
    concurrency: int
    load: str = "closed"
    num_prompts: int | None = None
    lockstep: bool = False
    warmed_up: bool = True

    def as_dict(self) -> dict[str, object]:
        """Return all fields by name."""
        return dict(self.__dict__)
