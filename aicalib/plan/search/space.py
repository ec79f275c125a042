"""Every configuration that a search may try, in the order in which it tries them.

A configuration is a *start* (formats, widths, settings of the engine) under a concurrency. Starts are the product of
three short lists; what matters most varies first:

1. cache, weights and tensor-parallel width (and, of a model with experts, how attention and experts are spread),
2. the math of attention, experts in a format or by a backend of their own, and the share of memory,
3. the rest: backends of attention, prefill chunks, mixed steps, speculation, pipelines, prefill on instances of its
   own.

Each is crossed with all that came before. What departs least from the engine's own choices and the published
checkpoint comes first, by the number of changes and then by stage, so that a bound on the number of configurations
cuts off what matters least. `space.toml` lists the values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aicalib.deployment import Identity
from aicalib.engines.backends import MOE
from aicalib.errors import InvalidValue, RequestError
from aicalib.models import get_architecture
from aicalib.plan.search.configuration import (
    SETTINGS,
    WIDTHS,
    Layout,
    Offer,
    Pools,
    Sought,
    Start,
    layout_columns,
    setting_columns,
)
from aicalib.plan.search.formats import BACKENDS, FIELDS, Format, Formats
from aicalib.plan.search.offers import listed, offer_of
from aicalib.profiles.profile import Profile
from aicalib.resolve.batch import Batch
from aicalib.resolve.features import FITTED_ACCEPTANCE
from aicalib.resolve.identify import identify
from aicalib.resolve.rows import resolve_known

__all__ = ["SETTINGS", "STAGES", "Sought", "Space", "Start", "lay_out"]

Codes = NDArray[np.intp]

STAGES: Final = ("formats and widths", "attention, experts, memory", "the rest")
"""What each stage varies."""

MOST_STARTS: Final = 20_000_000
"""Starts beyond which a space is not laid out: their order alone takes hundreds of megabytes."""

MOST_CONFIGURATIONS: Final = 10_000_000
"""Configurations whose figures are held at a time: about a gigabyte."""


@dataclass(frozen=True)
class Space:
    """The starts that are tried, in order.

    Attributes
    ----------
    sought : Sought
    offers : tuple of Offer
    concurrency : tuple of int
        Under each of which each start is predicted.
    places : ndarray of int, shape (n, 4)
        Of each start its offer, format, layout and setting.
    stage : ndarray of int, shape (n,)
        Place in `STAGES`.
    sizes : tuple of int
        Configurations that each stage has, those that a limit cut off included.
    refused : Counter
        Why an engine or the model has no such start -> configurations.
    """

    sought: Sought
    offers: tuple[Offer, ...]
    concurrency: tuple[int, ...]
    places: NDArray[np.int32]
    stage: NDArray[np.int8]
    sizes: tuple[int, ...]
    refused: Counter[str]

    def start(self, at: int) -> Start:
        """Return one start."""
        offer, form, layout, setting = (int(each) for each in self.places[at])
        of = self.offers[offer]
        return Start(of, of.formats.found[form], of.layouts[layout], of.settings[setting])

    def words(self, at: int) -> str:
        """Return a start in one line; engine and GPU are named where there are several."""
        return self.start(at).words(named=len(self.offers) > 1)

    def kinds(self) -> Codes:
        """Return for each start a number that those share which differ in engine settings alone, shape (n,).

        Backends are such settings.
        """
        alike = [_alike(offer) for offer in self.offers]
        most = max(map(len, alike))
        formats = np.array([each + [0] * (most - len(each)) for each in alike])
        drafted = [[setting.spec_tokens or 0 for setting in offer.settings] for offer in self.offers]
        most = max(map(len, drafted))
        table = np.array([each + [0] * (most - len(each)) for each in drafted])
        offer, form, layout, setting = self.places.T.astype(np.intp)
        columns = np.stack([offer, formats[offer, form], layout, table[offer, setting]])
        _, found = np.unique(
            np.ravel_multi_index(tuple(columns), tuple(columns.max(axis=1) + 1)), return_inverse=True
        )
        return found

    def n_gpus(self) -> Codes:
        """Return the GPUs of one replica of each start, shape (n,)."""
        return self._of_layouts(lambda layout: layout.n_gpus)

    def _of_layouts(self, read: Callable[[Layout], int]) -> Codes:
        """Return a whole number of the layout of each start, shape (n,)."""
        first = np.cumsum([0, *(len(offer.layouts) for offer in self.offers[:-1])])
        values = np.array([read(layout) for offer in self.offers for layout in offer.layouts])
        return values[first[self.places[:, 0]] + self.places[:, 2]]

    def resolve(self) -> Batch:
        """Resolve all starts, with one request in flight."""
        sought, n = self.sought, self.stage.size
        codes = np.zeros(n, dtype=np.intp)
        identities: list[Identity] = []
        options: dict[str, Any] = {name: np.empty(n) for name in (*WIDTHS, *Pools._fields, *SETTINGS)}
        for number, of in enumerate(self.offers):
            here = np.flatnonzero(self.places[:, 0] == number)
            form, layout, setting = self.places[here, 1:].T
            used, code = np.unique(form, return_inverse=True)
            codes[here] = len(identities) + code
            identities += [_identity(sought, of.formats, of.formats.found[each]) for each in used]
            for name, values in layout_columns(of.layouts).items():
                options[name][here] = values[layout]
            for name, values in setting_columns(of.settings).items():
                options[name][here] = values[setting]
        exchanged = self._of_layouts(lambda layout: int(layout.deepep))
        if exchanged.any():
            options["moe_a2a_backend"] = np.array(["none", "deepep"])[exchanged].tolist()
        if np.isnan(options["prefill_tp"]).all():
            unread = {*Pools._fields} - {"network_gbit_s"}
            options = {name: values for name, values in options.items() if name not in unread}
        drafts = ~np.isnan(options["spec_tokens"])
        if drafts.any():
            options["spec_method"] = ["mtp" if drafted else None for drafted in drafts]
            options["spec_accept"] = np.where(drafts, FITTED_ACCEPTANCE, np.nan)
        else:
            del options["spec_tokens"]
        options["enable_mixed_chunk"] = options["enable_mixed_chunk"] > 0.0
        one = np.ones(n)
        lengths = {"isl": sought.isl * one, "osl": sought.osl * one, "prefix_hit": sought.prefix_hit * one}
        return resolve_known(identities, codes, {**options, **lengths, "concurrency": one})


def _alike(offer: Offer) -> list[int]:
    """Return for each format of an offer the first that differs from it in backends alone."""
    first: dict[Format, int] = {}
    return [first.setdefault(each.own_backends, at) for at, each in enumerate(offer.formats.found)]


def _identity(sought: Sought, kind: Formats, form: Format) -> Identity:
    return identify(
        sought.model, kind.gpu, form.gemm, form.kv, form.fmha, form.moe, kind.engine, kind.engine_version,
        attention_backend=form.attention_backend, moe_backend=form.moe_backend,
    )  # fmt: skip


def lay_out(sought: Sought, profile: Profile, limit: int | None = None) -> Space:
    """Return the configurations to try.

    Parameters
    ----------
    sought : Sought
    profile : Profile
        Of formats that physics does not tell apart it says which were measured.
    limit : int, optional
        Configurations to try at most; all if not given.

    Raises
    ------
    RequestError
        If a name or number is wrong, no engine serves the model, or the space is too large to be laid out.
    """
    _check(sought)
    refused: Counter[str] = Counter()
    offers, errors = [], []
    concurrency = tuple(int(each) for each in sought.only.get("concurrency", listed()["concurrency"]))
    for gpu, engine in product(sought.gpus, sought.engines):
        try:
            offers.append(offer_of(sought, gpu, engine, profile, len(concurrency), refused))
        except RequestError as error:
            refused[str(error)] += len(concurrency)
            errors.append(error)
    if not offers:
        raise errors[0]
    total = sum(each.size for each in offers)
    if total > MOST_STARTS:
        raise InvalidValue(
            f"{total} starts are more than the {MOST_STARTS} that are laid out; say some of what to try",
            ["gemm fp8", "tp 8", "no-separate"],
        )
    stage, changes = (np.concatenate(each) for each in zip(*map(_order, offers), strict=True))
    order = _sorted(changes.astype(np.int16) * len(STAGES) + stage, [each.size for each in offers])
    sizes = tuple(len(concurrency) * int(each) for each in np.bincount(stage, minlength=len(STAGES)))
    if limit is not None:
        order = order[: max(limit // len(concurrency), 1)]
    tried = order.size * len(concurrency)
    if tried > MOST_CONFIGURATIONS:
        raise InvalidValue(
            f"{tried} configurations are more than the {MOST_CONFIGURATIONS} that are laid out; bound them, or say "
            "some of what to try",
            ["limit 1000000", "gemm fp8", "tp 8"],
        )
    return Space(sought, tuple(offers), concurrency, _places(offers, order), stage[order], sizes, refused)


def _sorted(importance: NDArray[np.int16], sizes: list[int]) -> Codes:
    """Return the starts of offers of some sizes, the most important first; of equal importance offers take turns."""
    if len(sizes) == 1:
        return np.argsort(importance, kind="stable")
    within = np.concatenate([np.arange(each) for each in sizes])
    return np.lexsort((np.repeat(np.arange(len(sizes)), sizes), within, importance))


def _places(offers: list[Offer], starts: Codes) -> NDArray[np.int32]:
    """Return of each start its offer, and in that its format, layout and setting, shape (n, 4)."""
    first = np.cumsum([0, *(each.size for each in offers)])
    found = np.empty((starts.size, 4), dtype=np.int32)
    found[:, 0] = np.searchsorted(first, starts, side="right") - 1
    for number, offer in enumerate(offers):
        here = found[:, 0] == number
        found[here, 1:] = np.stack(np.unravel_index(starts[here] - first[number], offer.shape), axis=1)
    return found


def _check(sought: Sought) -> None:
    if sought.count < 1:
        raise InvalidValue(f"gpus {sought.count} is not a number of GPUs from 1 on", ["gpus 8"])
    for name in ("isl", "osl"):
        tokens = getattr(sought, name)
        if not (tokens >= 1.0 and np.isfinite(tokens)):
            raise InvalidValue(f"{name} {tokens:g} is not a number of tokens from 1 on", [f"{name} 1024"])
    if not 0.0 <= sought.prefix_hit <= 1.0:
        raise InvalidValue(f"prefix_hit {sought.prefix_hit:g} is not a share between 0 and 1")
    rate = sought.network_gbit_s
    if rate is not None and not (rate > 0.0 and np.isfinite(rate)):
        raise InvalidValue(f"network_gbit_s {rate:g} is not a positive rate", ["network_gbit_s 400"])
    for what, names in (("gpu", sought.gpus), ("engine", sought.engines)):
        if not names:
            raise InvalidValue(f"no {what} was named")
        if len(set(names)) < len(names):
            raise InvalidValue(f"{what} '{','.join(names)}' names one twice")
    known = {*FIELDS, *BACKENDS, *WIDTHS, "moe_a2a_backend", "concurrency", *SETTINGS}
    for name, values in sought.only.items():
        if name not in known or not values:
            raise InvalidValue(f"{name}: no values to try", sorted(known))
    for each in sought.only.get("concurrency", ()):
        if not (each >= 1 and each == int(each)):
            raise InvalidValue(f"concurrency {each:g} is not a positive whole number")


def _order(offer: Offer) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """Return when each start of an offer is tried, and how many of its choices are not the usual ones."""
    arch = get_architecture(offer.formats.model)
    spreads = bool(arch.moe_layers or arch.mla_layers)
    of_formats = []
    for each in offer.formats.found:
        later = sum(getattr(each, name) is not None for name in ("fmha", "moe", MOE))
        last = each.attention_backend is not None
        of_formats.append((2 if last else int(later > 0), later + last + (each.needs is not None)))
    of_layouts = [each.stage(spreads) for each in offer.layouts]
    of_settings = [each.stage for each in offer.settings]
    columns = [np.array(each, dtype=np.int8).reshape(-1, 2) for each in (of_formats, of_layouts, of_settings)]
    first, second, third = columns
    stage = np.maximum(first[:, None, None, 0], np.maximum(second[None, :, None, 0], third[None, None, :, 0]))
    changes = first[:, None, None, 1] + second[None, :, None, 1] + third[None, None, :, 1]
    return stage.ravel(), changes.ravel()
