"""What one engine on one kind of GPU offers a model: formats, layouts and settings that it starts."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from itertools import product
from math import gcd
from typing import Any

import numpy as np

from aicalib.engines.launch import assemble
from aicalib.engines.request import Request, request_of
from aicalib.errors import InvalidValue, RequestError
from aicalib.hardware import get_accelerator
from aicalib.models import get_architecture
from aicalib.plan.search.configuration import SETTINGS, Layout, Offer, Pools, Setting, Sought, layout_columns
from aicalib.plan.search.formats import Formats, formats_of
from aicalib.profiles.profile import Profile
from aicalib.resolve.features import GIGABIT
from aicalib.resolve.identify import WIDTHS, identify
from aicalib.resolve.rows import resolve_known


@cache
def listed() -> Mapping[str, Any]:
    """Return the values that are tried beside formats and widths (`space.toml`)."""
    return tomllib.loads(files("aicalib.plan.search").joinpath("space.toml").read_text(encoding="utf-8"))


def offer_of(
    sought: Sought, gpu: str, engine: str, profile: Profile, levels: int, refused: Counter[str]
) -> Offer:
    """Return what one engine on one kind of GPU offers; what it refuses is counted in configurations.

    Raises
    ------
    RequestError
        For names that no table holds, or where the engine does not serve the model there at all: in no format, layout
        or setting that is to be tried.
    """
    formats = formats_of(sought.model, gpu, engine, sought.engine_version, profile, sought.only)
    names = {"model": sought.model, "gpu": gpu, "engine": engine, "engine_version": formats.engine_version}
    base = request_of(names | (formats.found[0].options if formats.found else {}))
    settings = _settings(sought, base)
    layouts = _layouts(sought, gpu, engine)
    kept_settings, without = _starting(base, settings)
    kept_layouts, wrong = _starting(base, layouts)
    valid, impossible = _possible(sought, formats, kept_layouts)
    for kept, why in ((valid, wrong + impossible), (kept_settings, without)):
        if not kept:
            raise InvalidValue("; ".join(reason for reason, _ in why.most_common(3)) or _unlaid(sought, gpu))
    forms, all_layouts = len(formats.found), len(layouts)
    for reason, count in (*wrong.items(), *impossible.items()):
        refused[reason] += count * forms * len(settings) * levels
    for reason, count in without.items():
        refused[reason] += count * forms * all_layouts * levels
    for reason in formats.refused.values():
        refused[reason] += len(valid) * len(kept_settings) * levels
    return Offer(formats, tuple(valid), tuple(kept_settings))


def _unlaid(sought: Sought, gpu: str) -> str:
    """Say which of the widths that were asked for no replica has."""
    names = ("tp", "pp", "dp", "ep", "moe_a2a_backend")
    asked = [f"{name} {' or '.join(map(str, sought.only[name]))}" for name in names if name in sought.only]
    return f"no replica on {sought.count} x {gpu} is laid out so: {', '.join(asked)}"


def _starting(base: Request, choices: Sequence[Any]) -> tuple[list[Any], Counter[str]]:
    """Return the layouts or settings that the engine starts with all else open, and why not the others."""
    kept, refused = [], Counter[str]()
    for each in choices:
        try:
            assemble(base.changed(each.options))
        except RequestError as error:
            refused[str(error)] += 1
        else:
            kept.append(each)
    return kept, refused


def _possible(
    sought: Sought, formats: Formats, layouts: Sequence[Layout]
) -> tuple[list[Layout], Counter[str]]:
    """Return the layouts that the model and the lengths allow, and why not the others."""
    if not layouts:
        return [], Counter()
    errors = _wrong_layouts(sought, formats, layouts)
    # Which experts DeepEP takes is a matter of their format: one of those that are tried has to be it.
    for gemm, moe in dict.fromkeys((form.gemm, form.moe) for form in formats.found):
        left = [at for at in errors if layouts[at].deepep]
        if not left:
            break
        wrong = _wrong_layouts(sought, formats, [layouts[at] for at in left], gemm, moe)
        errors = {at: each for at, each in errors.items() if at not in left or left.index(at) in wrong}
    kept = [layout for at, layout in enumerate(layouts) if at not in errors]
    return kept, Counter(str(error) for error in errors.values())


def _wrong_layouts(
    sought: Sought,
    formats: Formats,
    layouts: Sequence[Layout],
    gemm: str | None = None,
    moe: str | None = None,
) -> dict[int, RequestError]:
    """Return the places of layouts that a model with its weights in a format cannot have, each with the reason."""
    who = identify(sought.model, formats.gpu, gemm, None, None, moe, formats.engine, formats.engine_version)
    one = np.ones(len(layouts))
    columns: dict[str, Any] = {
        **layout_columns(layouts), "isl": sought.isl * one, "osl": sought.osl * one, "concurrency": one,
        "moe_a2a_backend": ["deepep" if each.deepep else "none" for each in layouts],
    }  # fmt: skip
    return resolve_known([who], np.zeros(one.size, dtype=np.intp), columns).refused


def _settings(sought: Sought, base: Request) -> list[Setting]:
    """Return all settings of an engine."""
    arch = base.architecture
    assert arch is not None
    tried = []
    for name in SETTINGS:
        if name in sought.only:
            tried.append(list(sought.only[name]))
            continue
        values = listed()[name].get(base.engine, [])
        tried.append([None, *(values if name != "spec_tokens" or arch.mtp_layers else [])])
    return [Setting(*values) for values in product(*tried)]


def _layouts(sought: Sought, gpu: str, engine: str) -> list[Layout]:
    """Return all ways to lay a replica on at most so many GPUs: those of `_plain_layouts`, and with DeepEP.

    Of SGLang, where experts are split over all ranks of each instance.
    """
    tried = sought.only.get("moe_a2a_backend", ("none", "deepep" if engine == "sglang" else "none"))
    found = _plain_layouts(sought, gpu)
    whole = [
        each._replace(deepep=True)
        for each in found
        if each.ep == each.tp > 1
        and (each.pools is None or each.pools.prefill_ep == each.pools.prefill_tp > 1)
    ]
    return [*(found if "none" in tried else []), *(whole if "deepep" in tried else [])]


def _plain_layouts(sought: Sought, gpu: str) -> list[Layout]:
    """Return all ways to lay a replica on at most so many GPUs, in rising size: over nodes where a rate is given."""
    accelerator, arch = get_accelerator(gpu), get_architecture(sought.model)
    network = sought.network_gbit_s
    together = sought.count if network is not None else min(accelerator.gpus_together, sought.count)
    widths = [each for each in WIDTHS if each <= together]

    def tried(name: str, all_: Sequence[int]) -> list[int]:
        return [int(each) for each in sought.only.get(name, all_)]

    plain = [
        Layout(tp, pp, dp, ep, network_gbit_s=network if tp * pp > accelerator.gpus_together else None)
        for tp in tried("tp", widths)
        for pp in tried("pp", [each for each in WIDTHS if tp * each <= together])
        for dp in tried("dp", [each for each in WIDTHS if each <= tp])
        for ep in tried("ep", [each for each in WIDTHS if each <= tp] if arch.moe_layers else [1])
        if tp * pp <= sought.count
    ]
    if not sought.separate:
        return plain
    link = accelerator.link_bytes_s / GIGABIT if accelerator.link_bytes_s else None
    separate = []
    for decode, prefill_tp in product([each for each in plain if each.pp == 1], tried("tp", widths)):
        for size, prefills, decodes in _pools(sought.count, prefill_tp, decode.tp):
            rate = link if size <= accelerator.link_gpus else network
            if rate is None:
                continue
            pools = Pools(
                prefill_tp, min(decode.dp, prefill_tp), min(decode.ep, prefill_tp), prefills, decodes, rate
            )
            separate.append(decode._replace(pools=pools, network_gbit_s=None))
    return [*plain, *separate]


@cache
def _pools(count: int, prefill_tp: int, decode_tp: int) -> list[tuple[int, int, int]]:
    """Return the sizes of replicas that divide so many GPUs, with how many instances prefill and decode in each.

    With a common divisor of the two it is several replicas of a smaller one.
    """
    return [
        (size, prefills, decodes)
        for prefills in range(1, count // prefill_tp + 1)
        for decodes in range(1, (count - prefills * prefill_tp) // decode_tp + 1)
        if count % (size := prefills * prefill_tp + decodes * decode_tp) == 0 and gcd(prefills, decodes) == 1
    ]
