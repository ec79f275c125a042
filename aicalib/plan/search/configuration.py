"""What a search is asked for, and what a start is: formats, widths and settings of one engine on one kind of GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, prod
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.engines.request import Request, request_of
from aicalib.hardware import get_accelerator
from aicalib.plan.search.formats import BACKENDS, FIELDS, Format, Formats
from aicalib.resolve.features import FITTED_ACCEPTANCE

Array = NDArray[np.float64]

WIDTHS: Final = ("tp", "pp", "dp", "ep")
"""Widths of an instance."""

SETTINGS: Final = ("mem_fraction", "chunked_prefill_size", "enable_mixed_chunk", "spec_tokens")
"""Settings of an engine that are varied."""

_SETTING_STAGES: Final = {"mem_fraction": 1}


@dataclass(frozen=True)
class Sought:
    """What a deployment is sought for.

    Attributes
    ----------
    model : str
    gpus : tuple of str
        Kinds of GPU, tried one by one.
    count : int
        GPUs of one kind.
    isl, osl : float
        Mean input and output tokens of a request.
    engines : tuple of str
    engine_version : str, optional
        The newest known if not given.
    prefix_hit : float
        Share of the input that the prefix cache holds.
    network_gbit_s : float, optional
        Rate at which one GPU sends to another node. Without it no cache is sent between nodes, and an instance lies
        inside one.
    only : mapping of str to tuple
        Option (a field of `FIELDS`, one of `BACKENDS`, "tp", "pp", "dp", "ep", "moe_a2a_backend", "concurrency" or one
        of `SETTINGS`) -> the values to try in place of all.
    separate : bool
        Also try prefill on instances of its own.
    """

    model: str
    gpus: tuple[str, ...]
    count: int
    isl: float = 1024.0
    osl: float = 256.0
    engines: tuple[str, ...] = ("sglang",)
    engine_version: str | None = None
    prefix_hit: float = 0.0
    network_gbit_s: float | None = None
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    separate: bool = True


class Pools(NamedTuple):
    """Instances that only prefill, beside decode instances of the layout's own widths."""

    prefill_tp: int
    prefill_dp: int
    prefill_ep: int
    prefill_instances: int
    decode_instances: int
    network_gbit_s: float


class Layout(NamedTuple):
    """How a replica lies on GPUs: widths of one (decode) instance, and the pools where prefill has its own.

    `network_gbit_s` is the rate between the nodes of an instance over several; pools say theirs. `deepep` tells whether
    experts exchange their tokens by DeepEP.
    """

    tp: int
    pp: int = 1
    dp: int = 1
    ep: int = 1
    pools: Pools | None = None
    network_gbit_s: float | None = None
    deepep: bool = False

    @property
    def n_gpus(self) -> int:
        """GPUs of one replica: of the instance, or of all instances of both pools."""
        one = self.tp * self.pp
        if self.pools is None:
            return one
        return self.pools.decode_instances * one + self.pools.prefill_instances * self.pools.prefill_tp

    @property
    def options(self) -> dict[str, Any]:
        """The options of `predict` that are not 1."""
        widths = {name: getattr(self, name) for name in WIDTHS}
        pools: dict[str, Any] = {} if self.pools is None else self.pools._asdict()
        if self.network_gbit_s is not None:
            pools["network_gbit_s"] = self.network_gbit_s
        if self.deepep:
            pools["moe_a2a_backend"] = "deepep"
        return {
            name: value for name, value in (widths | pools).items() if value != 1 or name in ("tp", *pools)
        }

    def stage(self, spreads: bool) -> tuple[int, int]:
        """Return when it is tried, and how many widths beside tp are not 1; `spreads`: a model with experts or MLA."""
        changed = [self.pp > 1, self.pools is not None, self.deepep]
        spread = [self.dp > 1, self.ep > 1]
        return 2 * any(changed if spreads else [*changed, *spread]), sum(changed) + sum(spread)


def layout_columns(layouts: Sequence[Layout]) -> dict[str, Array]:
    """Return the options of layouts as columns, NaN where prefill has no instances of its own and nothing is sent."""
    found = {name: np.array([getattr(each, name) for each in layouts], dtype=float) for name in WIDTHS}
    nothing = dict.fromkeys(Pools._fields, np.nan)
    pools = [nothing if each.pools is None else each.pools._asdict() for each in layouts]
    columns = {name: np.array([each[name] for each in pools], dtype=float) for name in Pools._fields}
    between = np.array([each.network_gbit_s for each in layouts], dtype=float)
    columns["network_gbit_s"] = np.where(np.isnan(between), columns["network_gbit_s"], between)
    return found | columns


class Setting(NamedTuple):
    """Settings of the engine, None where it takes its own."""

    mem_fraction: float | None = None
    chunked_prefill_size: int | None = None
    enable_mixed_chunk: bool | None = None
    spec_tokens: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The options of `predict` and `launch` that are set."""
        given = {name: value for name, value in self._asdict().items() if value is not None}
        return given | (
            {"spec_method": "mtp", "spec_accept": FITTED_ACCEPTANCE} if "spec_tokens" in given else {}
        )

    @property
    def stage(self) -> tuple[int, int]:
        """When it is tried, and how many settings are not the engine's own."""
        changed = [name for name, value in self._asdict().items() if value is not None]
        return max((_SETTING_STAGES.get(name, 2) for name in changed), default=0), len(changed)


def setting_columns(settings: Sequence[Setting]) -> dict[str, Array]:
    """Return settings as columns, NaN where the engine takes its own."""
    return {
        name: np.array(
            [np.nan if (value := getattr(each, name)) is None else float(value) for each in settings]
        )
        for name in SETTINGS
    }


@dataclass(frozen=True)
class Offer:
    """What one engine on one kind of GPU offers: three lists whose product are its starts."""

    formats: Formats
    layouts: tuple[Layout, ...]
    settings: tuple[Setting, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """How many formats, layouts and settings it has."""
        return len(self.formats.found), len(self.layouts), len(self.settings)

    @property
    def size(self) -> int:
        """How many starts it has."""
        return prod(self.shape)


class Start(NamedTuple):
    """One way to start an engine."""

    offer: Offer
    format: Format
    layout: Layout
    setting: Setting

    def options(self, sought: Sought) -> dict[str, Any]:
        """Return the options of `predict` that make it; a checkpoint that it needs is not among them."""
        given = {**self.format.options, **self.layout.options, **self.setting.options}
        given.pop("checkpoint", None)
        kind = self.offer.formats
        names = {
            "model": sought.model,
            "gpu": kind.gpu,
            "engine": kind.engine,
            "engine_version": kind.engine_version,
        }
        return names | given

    def words(self, named: bool = True) -> str:
        """Return it in one line, engine and GPU in front if `named`; what it leaves out is the engine's own choice."""
        kind, pools = self.offer.formats, self.layout.pools
        formats, backends = (
            [f"{name} {mode}" for name in names if (mode := getattr(self.format, name)) is not None]
            for names in (FIELDS, BACKENDS)
        )
        setting = [
            f"{name} {str(value).lower() if isinstance(value, bool) else format(value, 'g')}"
            for name, value in self.setting._asdict().items()
            if value is not None
        ]
        widths = {name: getattr(self.layout, name) for name in WIDTHS}
        layout = _widths(widths)
        if self.layout.network_gbit_s is not None:
            together = get_accelerator(kind.gpu).gpus_together
            layout += f" over {ceil(self.layout.tp * self.layout.pp / together)} nodes"
        if pools is not None:
            first = {name: getattr(pools, f"prefill_{name}") for name in ("tp", "dp", "ep")}
            layout = f"decode {pools.decode_instances} x ({layout})"
            layout = f"prefill {pools.prefill_instances} x ({_widths(first)}), {layout}"
        if self.layout.deepep:
            layout += ", deepep"
        front = f"{kind.engine} on {kind.gpu}: " if named else ""
        return front + ", ".join([*(formats or ["formats as published"]), layout, *backends, *setting])

    def request(self, sought: Sought) -> Request:
        """Return what the engine is asked to start, with a checkpoint in place of one that it needs."""
        checkpoint = self.format.options.get("checkpoint")
        return request_of(self.options(sought) | {"checkpoint": checkpoint})


def _widths(values: Mapping[str, int]) -> str:
    return " ".join(f"{name} {value}" for name, value in values.items() if value > 1 or name == "tp")
