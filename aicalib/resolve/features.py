"""What questions may ask beyond one plain engine: mixed chunks, speculation, prefill on instances of its own.

Each is None for a batch in which no question asks for it, and then costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.deployment import Disaggregation, Drafter, Identity
from aicalib.errors import InvalidValue, NotCovered, RequestError, UnknownName, fold
from aicalib.physics.system import System
from aicalib.resolve.checks import Widths, wrong_widths
from aicalib.resolve.identify import identify
from aicalib.serving.load import BURST, STATIC, Load
from aicalib.serving.speculation import METHODS

Array = NDArray[np.float64]
Codes = NDArray[np.intp]
Yes = NDArray[np.bool_]

DRAFT_NAMES = ("spec_method", "draft_model", "draft_gemm")
"""Columns of names that say who drafts."""

DRAFT_NUMBERS = ("spec_tokens", "spec_accept")
"""Columns of numbers that say how much is drafted and accepted."""

POOL_NUMBERS = ("prefill_tp", "prefill_dp", "prefill_ep", "prefill_instances", "decode_instances",
                "network_gbit_s")  # fmt: skip
"""Columns of numbers that say which instances prefill, and how their cache reaches the others."""

FITTED_ACCEPTANCE = 0.0
"""`spec_accept` that asks for the acceptance length that the profile's acceptance of a drafted token gives."""

GIGABIT = 1e9 / 8.0
"""Bytes."""


class Part(NamedTuple):
    """Other deployments that questions involve: draft models, or prefill instances.

    `who` is for each deployment its place in `identities`, `at` for each question its place in `system`.
    """

    identities: list[Identity]
    who: Codes
    system: System
    at: Codes

    def spread(self, places: Codes, n: int) -> Part:
        """Return the part of n questions of which only those at `places` have it; the others point anywhere."""
        at = np.zeros(n, dtype=np.intp)
        at[places] = self.at
        return self._replace(at=at)


Build = Callable[[list[Identity], Codes, dict[str, Array]], tuple[Part, Widths]]
"""Identities, the one of each row, and the rows' numbers -> their deployments."""


class Drafting(NamedTuple):
    """How n questions speculate; arrays of shape (n,). `part` holds the draft models, None where there are none.

    `accepted` is `FITTED_ACCEPTANCE` where the profile says what is accepted.
    """

    method: Codes
    drafted: Array
    accepted: Array
    drafters: list[Drafter]
    drafter_at: Codes
    part: Part | None

    @property
    def has_draft_model(self) -> Yes:
        """Whether a draft model drafts."""
        result: Yes = self.method == METHODS.index("eagle")
        return result


class Separation(NamedTuple):
    """Which of n questions prefill on instances of their own, and how; arrays of shape (n,)."""

    separate: Yes
    prefill_instances: Array
    decode_instances: Array
    network_bytes_s: Array
    part: Part


@dataclass(frozen=True)
class Features:
    """What n questions ask beyond one plain engine, each None where none asks for it."""

    mixed_chunk: Yes | None = None
    drafting: Drafting | None = None
    separation: Separation | None = None

    def take(self, rows: Codes) -> Features:
        """Return what some questions ask, in that order; what none of them asks is None again."""

        def of(part: Part) -> Part:
            return part._replace(at=part.at[rows])

        drafts, pools = self.drafting, self.separation
        if drafts is not None and not (drafts.method[rows] >= 0).any():
            drafts = None
        if pools is not None and not pools.separate[rows].any():
            pools = None
        return Features(
            mixed_chunk=None if self.mixed_chunk is None else self.mixed_chunk[rows],
            drafting=drafts
            and drafts._replace(
                method=drafts.method[rows],
                drafted=drafts.drafted[rows],
                accepted=drafts.accepted[rows],
                drafter_at=drafts.drafter_at[rows],
                part=drafts.part and of(drafts.part),
            ),
            separation=pools
            and Separation(
                pools.separate[rows],
                pools.prefill_instances[rows],
                pools.decode_instances[rows],
                pools.network_bytes_s[rows],
                of(pools.part),
            ),
        )

    def drafter(self, index: int) -> Drafter | None:
        """Return how one question speculates."""
        found = self.drafting
        return None if found is None or found.method[index] < 0 else found.drafters[found.drafter_at[index]]

    def disaggregation(self, index: int) -> Disaggregation | None:
        """Return the pools of one question."""
        found = self.separation
        if found is None or not found.separate[index]:
            return None
        system, at = found.part.system, found.part.at[index]
        return Disaggregation(
            prefill_tp=int(system.tp[at]),
            prefill_dp=int(system.dp[at]),
            prefill_ep=int(system.ep[at]),
            prefill_instances=int(found.prefill_instances[index]),
            decode_instances=int(found.decode_instances[index]),
            network_gbit_s=float(found.network_bytes_s[index] / GIGABIT),
        )

    def gpus(self, of_one_instance: Array) -> Array:
        """Return all GPUs of n questions, shape (n,), from those of one (decode) instance."""
        found = self.separation
        if found is None:
            return of_one_instance
        prefill = found.prefill_instances * found.part.system.n_gpus[found.part.at]
        return np.where(found.separate, found.decode_instances * of_one_instance + prefill, of_one_instance)


class Asked(NamedTuple):
    """Rows whose features are resolved: cells of options and numbers that are filled in, n of each."""

    words: Mapping[str, list[str | None]]
    numbers: dict[str, Array]
    identities: list[Identity]
    codes: Codes
    load: Load
    mixed_chunk: Yes


Refuse = Callable[[int, RequestError], None]


def resolve_features(asked: Asked, build: Build, refuse: Refuse) -> Features:
    """Return what n rows ask beyond one plain engine.

    Parameters
    ----------
    asked : Asked
    build : callable
        Makes deployments.
    refuse : callable
        Takes a row that cannot be, and why.
    """
    return Features(
        mixed_chunk=asked.mixed_chunk if asked.mixed_chunk.any() else None,
        drafting=_drafting(asked, build, refuse),
        separation=_separation(asked, build, refuse),
    )


def _wrong_drafting(
    at: int, method: str | None, tokens: float, accept: float, asked: Asked
) -> RequestError | None:
    """Return why one row cannot speculate as it says, None where it can."""
    arch = asked.identities[asked.codes[at]].architecture
    if method is None:
        return InvalidValue("speculation needs spec_method: who drafts", METHODS)
    if not (np.isfinite(tokens) and tokens >= 0.0 and tokens % 1.0 == 0.0):
        return InvalidValue("speculation needs spec_tokens: whole tokens drafted a step", ["spec_tokens 3"])
    if np.isnan(accept):
        return NotCovered(
            "speculation needs spec_accept: how many tokens a step yields on average depends on model, drafter and "
            "text and is not guessed; engines print it as acceptance length",
            ["spec_accept as measured", "spec_accept 0 for what the profile was fitted to"],
        )
    if accept != FITTED_ACCEPTANCE and not 1.0 <= accept <= tokens + 1.0:
        return InvalidValue(
            f"spec_accept {accept:g} is not between 1 and {tokens + 1.0:g}: a step yields its own token and at most "
            "those drafted"
        )
    model, gemm = asked.words["draft_model"][at], asked.words["draft_gemm"][at]
    if method == "mtp":
        if not arch.mtp_layers:
            return InvalidValue(
                f"{arch.name} has no layer that predicts further tokens", ["spec_method eagle"]
            )
        if model or gemm:
            return InvalidValue(
                "draft_model and draft_gemm belong to spec_method eagle", ["spec_method eagle"]
            )
    elif model is None:
        return InvalidValue("spec_method eagle needs draft_model, a name or the path of a config.json")
    return None


def _method(word: str | None) -> str | None:
    if word is None:
        return None
    known = {fold(name): name for name in METHODS}
    if fold(word) not in known:
        raise UnknownName("spec_method", word, METHODS)
    return known[fold(word)]


def _drafting(asked: Asked, build: Build, refuse: Refuse) -> Drafting | None:
    tokens, accept = asked.numbers["spec_tokens"], asked.numbers["spec_accept"]
    n = tokens.size
    cells = zip(*(asked.words[name] for name in DRAFT_NAMES), strict=True)
    wants = np.array([any(each) for each in cells], dtype=np.bool_)
    wants |= (np.nan_to_num(tokens, nan=0.0) != 0.0) | (np.nan_to_num(accept, nan=1.0) != 1.0)
    if not wants.any():
        return None
    method, drafter_at = np.full(n, -1, dtype=np.intp), np.zeros(n, dtype=np.intp)
    drafters: dict[Drafter, int] = {}
    models: dict[tuple[int, str, str | None], int] = {}
    identities: list[Identity] = []
    own, own_code = [], []
    for at in np.flatnonzero(wants).tolist():
        try:
            name = _method(asked.words["spec_method"][at])
            error = _wrong_drafting(at, name, tokens[at], accept[at], asked)
            if error is not None:
                raise error
            model, gemm = asked.words["draft_model"][at], asked.words["draft_gemm"][at]
            if name == "eagle" and model is not None:
                key = int(asked.codes[at]), model, gemm
                if key not in models:
                    who = asked.identities[asked.codes[at]]
                    identities.append(_draft_identity(who, model, gemm))
                    models[key] = len(identities) - 1
                own.append(at)
                own_code.append(models[key])
        except RequestError as wrong:
            refuse(at, wrong)
            continue
        assert name is not None
        method[at] = METHODS.index(name)
        drafter = Drafter(name, int(tokens[at]), float(accept[at]), model, gemm)
        drafter_at[at] = drafters.setdefault(drafter, len(drafters))
    part = None
    if own:
        places = np.array(own, dtype=np.intp)
        chosen = {name: values[places] for name, values in asked.numbers.items()}
        # A draft model is split as the model's dense parts are: over all ranks, with no experts of its own.
        chosen |= {"dp": np.ones(places.size), "ep": np.ones(places.size), "pp": np.ones(places.size)}
        chosen |= {"deepep": np.zeros(places.size)}
        found, widths = build(identities, np.array(own_code, dtype=np.intp), chosen)
        _refuse_widths(found, widths, places, refuse, np.full(found.who.size, np.inf))
        part = found.spread(places, n)
    speculates = method >= 0
    return Drafting(
        method=method,
        drafted=np.where(speculates, np.nan_to_num(tokens), 0.0),
        accepted=np.where(speculates, np.nan_to_num(accept, nan=1.0), 1.0),
        drafters=list(drafters),
        drafter_at=drafter_at,
        part=part,
    )


def _draft_identity(who: Identity, model: str, gemm: str | None) -> Identity:
    """Return the draft model as an identity of its own on the same accelerator and engine, with the same cache."""
    found = identify(
        model, who.accelerator, gemm, who.quant.kvcache.name, None, None, who.engine, who.engine_version
    )
    if found.architecture.vocab_size > who.architecture.vocab_size:
        raise InvalidValue(
            f"{found.architecture.name} drafts from {found.architecture.vocab_size} tokens, of which "
            f"{who.architecture.name} knows {who.architecture.vocab_size}"
        )
    return found


def _refuse_widths(part: Part, widths: Widths, places: Codes, refuse: Refuse, together: Array) -> None:
    named = [part.identities[code] for code in part.who]
    networked = ~np.isnan(part.system.network_bytes_s)
    for number, error in wrong_widths(part.system.arch, together, widths, named, networked):
        for place in np.flatnonzero(part.at == number):
            refuse(int(places[place]), error)


def _wrong_pools(numbers: dict[str, Array], kind: Codes) -> list[tuple[Yes, Callable[[int], RequestError]]]:
    """Return which rows cannot have the pools that they ask for, and why."""
    found: list[tuple[Yes, Callable[[int], RequestError]]] = []
    for name in POOL_NUMBERS[:-1]:
        values = numbers[name]
        bad = ~np.isfinite(values) | (values < 1.0) | (np.nan_to_num(values, posinf=0.5) % 1.0 != 0.0)
        found.append(
            (bad, lambda at, name=name, values=values: InvalidValue(  # type: ignore[misc]
                f"{name} {values[at]:g} is not a positive whole number"))
        )  # fmt: skip
    rate = numbers["network_gbit_s"]
    found.append(
        (
            np.isnan(rate),
            lambda _: NotCovered(
                "prefill on instances of its own needs network_gbit_s: the rate at which one GPU sends its part of "
                "the cache",
                ["network_gbit_s 400"],
            ),
        )
    )
    loads = (kind == BURST) | (kind == STATIC)
    found.append(
        (
            loads,
            lambda _: NotCovered(
                "prefill on instances of its own is covered under closed and open loads", ["closed", "open"]
            ),
        )
    )
    return found


def _separation(asked: Asked, build: Build, refuse: Refuse) -> Separation | None:
    numbers = {name: asked.numbers[name] for name in POOL_NUMBERS}
    separate = ~np.all([np.isnan(numbers[name]) for name in POOL_NUMBERS[:-1]], axis=0)
    if not separate.any():
        return None
    n, filled = separate.size, dict(numbers)
    for name in POOL_NUMBERS[:-1]:
        default = asked.numbers["tp"] if name == "prefill_tp" else np.ones(n)
        filled[name] = np.where(np.isnan(numbers[name]), default, numbers[name])
    for wrong, error in _wrong_pools(filled, asked.load.kind):
        for at in np.flatnonzero(wrong & separate):
            refuse(int(at), error(int(at)))
    places = np.flatnonzero(separate)
    chosen = {name: values[places] for name, values in asked.numbers.items()}
    chosen |= {name: np.nan_to_num(filled[f"prefill_{name}"][places], nan=1.0) for name in ("tp", "dp", "ep")}
    chosen["pp"] = np.ones(places.size)
    part, widths = build(asked.identities, asked.codes[places], chosen)
    _refuse_widths(part, widths, places, refuse, part.system.node_gpus)
    return Separation(
        separate=separate,
        prefill_instances=filled["prefill_instances"],
        decode_instances=filled["decode_instances"],
        network_bytes_s=np.nan_to_num(filled["network_gbit_s"], nan=1.0, posinf=np.inf) * GIGABIT,
        part=part.spread(places, n),
    )
