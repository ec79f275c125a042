"""What an engine is asked to start: the options of `aicalib predict` and the settings of a start, looked up.

Unlike a Deployment it keeps what was left open: what an engine decides by itself needs no argument. Model and
accelerator may be missing; what cannot be checked without them is then not checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, cast

from aicalib.deployment import Deployment
from aicalib.engines.loading import method_of, stored_as
from aicalib.engines.releases import newest_version
from aicalib.engines.tables import settings_table
from aicalib.errors import InvalidValue, NotCovered, UnknownName, fold
from aicalib.hardware import Accelerator, get_accelerator
from aicalib.models import Architecture, get_architecture
from aicalib.physics.system import ENGINES
from aicalib.quant import SIXTEEN_BIT, Field, ParsedMode, QuantRequest, parse_mode
from aicalib.quant.modes import KVCacheQuantMode, QuantMode

NAMES: Final = ("model", "gpu", "engine", "engine_version", "gemm", "kv", "fmha", "moe", "checkpoint")
"""Options that are looked up."""

WIDTHS: Final = ("tp", "pp", "dp", "ep")
"""Widths as `predict` counts them: dp and ep are inside tp."""

COUNTS: Final = ("cuda_graph_max_bs", "spec_tokens", "prefill_tp", "prefill_dp", "prefill_ep",
                 "prefill_instances", "decode_instances")  # fmt: skip
"""Further whole numbers; a `cuda_graph_max_bs` of 0 is without graphs."""

WORDS: Final = (
    "attention_backend", "prefill_attention_backend", "decode_attention_backend", "quantization", "spec_method",
    "spec_algorithm", "draft_model", "draft_gemm", "cuda_version", "torch_version", "network_gbit_s", "spec_accept",
)  # fmt: skip
"""Further words."""

SWITCHES: Final = ("quantize_and_serve",)
"""Further switches."""


@dataclass(frozen=True)
class Stored:
    """What a checkpoint stores.

    Attributes
    ----------
    method : str or None
        As the engines name it; None for 16-bit weights, and where only the formats are known.
    gemm, moe : ParsedMode
        Of the dense weights and of the experts.
    kvcache : KVCacheQuantMode or None
        What it says of the cache.
    read : bool
        Its files were read, or it is the published one; else the user's word stands for them.
    """

    method: str | None
    gemm: ParsedMode[QuantMode]
    moe: ParsedMode[QuantMode]
    kvcache: KVCacheQuantMode | None = None
    read: bool = True

    @property
    def is_wide(self) -> bool:
        """Whether all weights are 16 bit."""
        return self.gemm.mode.name in SIXTEEN_BIT and self.moe.mode.name in SIXTEEN_BIT


@dataclass(frozen=True)
class Request:
    """What an engine is asked to start.

    Attributes
    ----------
    engine, engine_version : str
    architecture, accelerator : optional
        None where not given.
    quant : QuantRequest
        The four fields, None where left open.
    tp, pp, dp, ep : int
    settings : mapping of str to object
        What else was given, by option.
    checkpoint : str or None
        Folder, file or repository of the weights.
    """

    engine: str
    engine_version: str
    architecture: Architecture | None = None
    accelerator: Accelerator | None = None
    quant: QuantRequest = QuantRequest()  # noqa: RUF009
    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1
    settings: Mapping[str, Any] = cast(Mapping[str, Any], None)
    checkpoint: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", dict(self.settings or {}))

    def get(self, option: str) -> Any:
        """Return a setting, None where it was not given."""
        return self.settings.get(option)

    def changed(self, options: Mapping[str, object]) -> Request:
        """Return it with some options changed; None takes an option back."""
        names = {name: value for name, value in options.items() if name in NAMES}
        fields = {"gemm": "gemm", "kv": "kvcache", "fmha": "fmha", "moe": "moe"}
        new: dict[str, Any] = {}
        if "model" in names:
            new["architecture"] = get_architecture(str(names["model"]))
        if "gpu" in names:
            new["accelerator"] = get_accelerator(str(names["gpu"]))
        new |= {key: names[key] for key in ("engine", "engine_version", "checkpoint") if key in names}
        asked = {fields[key]: cast(str | None, names[key]) for key in fields if key in names}
        if asked:
            kept: dict[str, str | None] = {
                key: text for key, text in self.quant.to_mapping().items() if key not in asked
            }
            new["quant"] = QuantRequest.from_mapping({**kept, **asked})
        new |= {key: 1 if value is None else value for key, value in options.items() if key in WIDTHS}
        settings = {key: value for key, value in options.items() if key not in names and key not in WIDTHS}
        if settings:
            merged = {**self.settings, **settings}
            new["settings"] = {key: value for key, value in merged.items() if value is not None}
        return replace(self, **new)

    @property
    def on_cpu(self) -> bool:
        """Whether the engine runs on the processor itself."""
        return self.accelerator is not None and self.accelerator.is_cpu

    @property
    def nodes(self) -> int:
        """Machines that one instance spans; 1 where no accelerator was given, and of processors."""
        if self.accelerator is None or self.on_cpu:
            return 1
        return -(-self.tp * self.pp // self.accelerator.gpus_per_node)

    @property
    def has_experts(self) -> bool | None:
        """Whether the model has experts; None where no model was given."""
        return None if self.architecture is None else self.architecture.moe_layers > 0

    @cached_property
    def stored(self) -> Stored:
        """What the checkpoint stores.

        Raises
        ------
        InvalidValue
            Where a checkpoint is neither here to be read nor described by `gemm`.
        """
        if self.checkpoint is not None:
            return _of_checkpoint(self)
        return _published(self)


def _published(request: Request) -> Stored:
    arch = request.architecture
    if arch is None:
        wide = ParsedMode[QuantMode](_mode("gemm", "bfloat16").mode)
        return Stored(None, wide, ParsedMode(_mode("moe", "bfloat16").mode))
    gemm = _mode("gemm", arch.weight_format)
    moe = _mode("moe", arch.expert_weight_format if arch.moe_layers else "bfloat16")
    return Stored(_method_of(request, gemm, moe), gemm, moe)


def _of_checkpoint(request: Request) -> Stored:
    assert request.checkpoint is not None
    path = Path(request.checkpoint)
    if path.exists():
        from aicalib.quant.checkpoint import read_checkpoint

        found = read_checkpoint(path)
        wide = _mode("gemm", "bfloat16"), _mode("moe", "bfloat16")
        kvcache = found.kvcache.mode if found.kvcache else None
        return Stored(found.method, found.gemm or wide[0], found.moe or wide[1], kvcache)
    asked = request.quant
    if asked.gemm is None and asked.moe is None:
        raise InvalidValue(
            f"checkpoint '{path}' is not here to be read: say what it stores with gemm"
            + (" and moe" if request.has_experts else ""),
            ["gemm bfloat16"],
        )
    gemm = ParsedMode[QuantMode](asked.gemm, asked.gemm_variant) if asked.gemm else _mode("gemm", "bfloat16")
    if asked.moe is not None:
        moe = ParsedMode[QuantMode](asked.moe, asked.moe_variant)
    else:
        moe = like_dense(gemm) if request.has_experts else _mode("moe", "bfloat16")
    gemm, moe = stored_as("gemm", gemm), stored_as("moe", moe)
    return Stored(_method_of(request, gemm, moe), gemm, moe, asked.kvcache, read=False)


def like_dense(gemm: ParsedMode[QuantMode]) -> ParsedMode[QuantMode]:
    """Return the format of experts that follow the dense weights.

    Raises
    ------
    InvalidValue
        If there is no such format of experts.
    """
    from aicalib.quant import MoEQuantMode

    if gemm.mode.name not in MoEQuantMode.__members__:
        raise InvalidValue(
            f"gemm '{gemm.mode.name}' has no counterpart for experts; say what they are with moe",
            list(MoEQuantMode.__members__),
        )
    return ParsedMode(MoEQuantMode[gemm.mode.name], gemm.variant)


def _mode(field: Field, text: str) -> ParsedMode[QuantMode]:
    """Read the format of a published checkpoint; `auto` and nothing are 16 bit."""
    return parse_mode(field, text) or ParsedMode[QuantMode](cast(Any, parse_mode(field, "bfloat16")).mode)


def _method_of(request: Request, gemm: ParsedMode[QuantMode], moe: ParsedMode[QuantMode]) -> str | None:
    return method_of(request.engine, request.engine_version, request.accelerator, gemm, moe)


def request_of(options: Mapping[str, Any]) -> Request:
    """Read a request from options, None meaning not given.

    Raises
    ------
    RequestError
        For an option or a value that cannot be.
    """
    given = {name: value for name, value in options.items() if value is not None}
    table = settings_table()
    known = {*NAMES, *WIDTHS, *COUNTS, *WORDS, *SWITCHES, *table}
    for name in given:
        if name not in known:
            raise UnknownName("option", name, known)
    engine = {fold(each): each for each in ENGINES}.get(fold(str(given.get("engine", "sglang"))))
    if engine is None:
        raise UnknownName("engine", str(given["engine"]), ENGINES)
    kinds = {name: row["kind"] for name, row in table.items()}
    kinds |= dict.fromkeys((*COUNTS, *WIDTHS), "count") | dict.fromkeys(SWITCHES, "switch")
    values = {name: _value(name, given[name], kinds.get(name, "word")) for name in given if name not in NAMES}
    return Request(
        engine=engine,
        engine_version=str(given.get("engine_version", newest_version(engine))),
        architecture=get_architecture(given["model"]) if "model" in given else None,
        accelerator=get_accelerator(str(given["gpu"])) if "gpu" in given else None,
        quant=QuantRequest.from_mapping(
            {key: given[key] for key in ("gemm", "kv", "fmha", "moe") if key in given}
        ),
        **{name: values.get(name, 1) for name in WIDTHS},
        settings={name: value for name, value in values.items() if name not in WIDTHS and value is not False},
        checkpoint=None if "checkpoint" not in given else str(given["checkpoint"]),
    )


def _value(name: str, value: Any, kind: str) -> Any:
    """Read one setting.

    Raises
    ------
    InvalidValue
    """
    if kind == "switch":
        if str(value).lower() not in ("true", "false"):
            raise InvalidValue(f"{name} '{value}' is neither true nor false", ["true", "false"])
        return str(value).lower() == "true"
    if kind == "word":
        return str(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InvalidValue(f"{name} '{value}' is not a number") from None
    if kind == "share":
        if not 0.0 < number <= 1.0:
            raise InvalidValue(f"{name} {number:g} is not between 0 and 1")
        return number
    least = 0 if name == "cuda_graph_max_bs" else 1
    if not (number >= least and number % 1 == 0 and number < 2**31):
        raise InvalidValue(f"{name} {number:g} is not a whole number from {least} on")
    return int(number)


def request_of_deployment(deployment: Deployment) -> Request:
    """Return what starts a deployment, with all that its engine would have decided by itself.

    The four fields are those that were asked for, so that what was open stays open.
    """
    who = deployment.identity
    if who.engine not in ENGINES:
        raise NotCovered(f"engine '{who.engine}' is not known", ENGINES)
    settings: dict[str, Any] = {
        "mem_fraction": round(deployment.memory_fraction, 3),
        "chunked_prefill_size": deployment.chunk_tokens,
        "max_running_requests": deployment.max_running,
        # A CPU runs without graphs whatever it is told; to vLLM the word for that would switch off compiling too.
        "cuda_graph_max_bs": None if who.accelerator.is_cpu else deployment.graph_max_batch,
        **{name: value for name, value in deployment.options().items() if value is not None},
    }
    if deployment.poll_interval != 1:
        settings["scheduler_recv_interval"] = deployment.poll_interval
    return Request(
        who.engine, who.engine_version, who.architecture, who.accelerator, who.asked,
        deployment.tp, deployment.pp, deployment.dp, deployment.ep, settings,
    )  # fmt: skip


def hub_name(model: str) -> str:
    """Return what an engine is told to load for a model: its repository, else the text as it stands."""
    try:
        return get_architecture(model).hf_id or model
    except (UnknownName, NotCovered):
        return model
