"""Deployment and Workload: one fully described question to the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from aicalib.hardware import Accelerator, as_file
from aicalib.models import Architecture
from aicalib.quant import QuantConfig, QuantRequest


class Backends(NamedTuple):
    """Backends that a start names, as its engine spells them; None leaves one to the engine.

    Attributes
    ----------
    prefill, decode : str or None
        Of attention, by phase.
    moe : str or None
        Of the experts.
    """

    prefill: str | None = None
    decode: str | None = None
    moe: str | None = None

    def options(self) -> dict[str, object]:
        """Return the options that name them."""
        phases = {"prefill_attention_backend": self.prefill, "decode_attention_backend": self.decode}
        attention = {"attention_backend": self.prefill} if self.prefill == self.decode else phases
        named = {**attention, "moe_backend": self.moe}
        return {name: backend for name, backend in named.items() if backend is not None}


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
    kernel_origin : str
        The weakest origin among the kernels of the model's layers: "kernel-fit" (timed on this accelerator),
        "extrapolated" (on one of its generation, or in a format that stands in), "datasheet" (neither).
    asked : QuantRequest
        What was asked of the four fields; None where it was left to checkpoint, engine and accelerator.
    backends : Backends
        Those that were asked for.
    other_kernels : bool
        Whether these run other kernels than the engine would by itself.
    """

    architecture: Architecture
    accelerator: Accelerator
    quant: QuantConfig
    engine: str
    engine_version: str
    engine_month: float
    notes: tuple[str, ...] = ()
    kernel_origin: str = "datasheet"
    asked: QuantRequest = QuantRequest()  # noqa: RUF009
    backends: Backends = Backends()  # noqa: RUF009
    other_kernels: bool = False


@dataclass(frozen=True)
class Drafter:
    """Speculative decoding as a question asks for it.

    Attributes
    ----------
    method : str
        One of `aicalib.serving.speculation.METHODS`.
    tokens : int
        Drafted a step, the token that the step yields in any case not counted.
    accept : float
        Mean tokens that a step yields (acceptance length), from 1 on.
    model, gemm : str, optional
        The draft model, by name or file, and the format of its weights (its checkpoint's if not given).
    """

    method: str
    tokens: int
    accept: float
    model: str | None = None
    gemm: str | None = None

    def as_dict(self) -> dict[str, object]:
        """Return the options that ask for it."""
        return {
            "spec_method": self.method,
            "spec_tokens": self.tokens,
            "spec_accept": self.accept,
            "draft_model": self.model,
            "draft_gemm": self.gemm,
        }


@dataclass(frozen=True)
class Disaggregation:
    """Prefill on instances of its own.

    Attributes
    ----------
    prefill_tp, prefill_dp, prefill_ep : int
        Widths of a prefill instance; those of the deployment are a decode instance's.
    prefill_instances, decode_instances : int
    network_gbit_s : float
        Rate at which one GPU sends its part of the cache.
    """

    prefill_tp: int
    prefill_dp: int
    prefill_ep: int
    prefill_instances: int
    decode_instances: int
    network_gbit_s: float


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
    mixed_chunk : bool
        SGLang: running requests decode in the steps of prefill chunks.
    drafter : Drafter, optional
        Speculative decoding.
    disaggregation : Disaggregation, optional
        Prefill on instances of its own.
    network_gbit_s : float, optional
        Rate at which one GPU sends to another node, of an instance over several nodes.
    deepep : bool
        SGLang: experts exchange their tokens by DeepEP.
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
    mixed_chunk: bool = False
    drafter: Drafter | None = None
    disaggregation: Disaggregation | None = None
    network_gbit_s: float | None = None
    deepep: bool = False

    @property
    def n_gpus(self) -> int:
        """All GPUs: of the instance, or of all instances where prefill has its own."""
        one, pools = self.tp * self.pp, self.disaggregation
        if pools is None:
            return one
        return pools.decode_instances * one + pools.prefill_instances * pools.prefill_tp

    @property
    def nodes(self) -> int:
        """Nodes, or link domains where these are larger, that one (decode) instance spans."""
        return -(-self.tp * self.pp // self.identity.accelerator.gpus_together)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was filled in and why, and what no run stands behind."""
        if self.network_gbit_s is None:
            return self.identity.notes
        return (
            *self.identity.notes,
            f"one instance over {self.nodes} nodes: no published run has that; between nodes the bound of the "
            f"network at {self.network_gbit_s:g} Gbit/s a GPU stands",
        )

    def options(self) -> dict[str, object]:
        """Return the options that differ from a plain engine's."""
        mixed: dict[str, object] = {"enable_mixed_chunk": True} if self.mixed_chunk else {}
        drafter = self.drafter.as_dict() if self.drafter else {}
        network: dict[str, object] = (
            {} if self.network_gbit_s is None else {"network_gbit_s": self.network_gbit_s}
        )
        exchange: dict[str, object] = {"moe_a2a_backend": "deepep"} if self.deepep else {}
        return (
            self.identity.backends.options()
            | mixed
            | drafter
            | network
            | exchange
            | (dict(self.disaggregation.__dict__) if self.disaggregation else {})
        )

    def as_dict(self) -> dict[str, object]:
        """Return names and numbers, all that is needed to ask again.

        A user's own accelerator stands there with all its figures, under the keys of its file.
        """
        who = self.identity
        own = who.accelerator.file
        return {
            "model": who.architecture.name,
            "hf_id": who.architecture.hf_id or None,
            "gpu": who.accelerator.name,
            **({"accelerator": as_file(who.accelerator)} if own else {}),
            "n_gpus": self.n_gpus,
            "tp": self.tp,
            "pp": self.pp,
            "dp": self.dp,
            "ep": self.ep,
            "engine": who.engine,
            "engine_version": who.engine_version,
            **who.quant.to_mapping(),
            **({} if who.architecture.moe_layers else {"moe": None}),  # a dense model refuses the option
            "mem_fraction": self.memory_fraction,
            "chunked_prefill_size": self.chunk_tokens,
            "max_running_requests": self.max_running,
            "cuda_graph_max_bs": self.graph_max_batch,
            "scheduler_recv_interval": self.poll_interval,
            **self.options(),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Workload:
    """Requests and how they arrive.

    Attributes
    ----------
    isl, osl : float
        Mean input and output tokens of a request.
    concurrency : int, optional
        Requests in flight, or in the batch of a static load; not read under the other loads.
    load : str
        One of `aicalib.serving.load.LOADS`.
    num_prompts : int, optional
        Requests of the whole benchmark; the share of the first burst in a mean depends on it. If not given, ten a
        slot, and without end under an open load; a burst needs it.
    lockstep : bool
        All requests have the same lengths.
    warmed_up : bool
        The engine had served prompts of such lengths before the run began; else the first wave finds it cold.
    request_rate : float, optional
        Arrivals a second of an open load.
    prefix_hit : float
        Share of the input tokens that the engine's prefix cache holds.
    """

    isl: float
    osl: float
    concurrency: int | None = None
    load: str = "closed"
    num_prompts: int | None = None
    lockstep: bool = False
    warmed_up: bool = True
    request_rate: float | None = None
    prefix_hit: float = 0.0

    def as_dict(self) -> dict[str, object]:
        """Return all fields by name."""
        return dict(self.__dict__)
