"""Why a choice wins: what binds in its predicted steps, set against the nearest choice in other formats.

The same start with other weights, or with another cache or attention, is the runner-up. Where it has no room, or runs
fewer requests at a time, memory decides. Else both are taken apart at the choice's own load: the time of a token is a
decode step and its share of the prefill of others, operator by operator, each with what bounds it. The sentence names
the operators that make most of the difference. Nothing in it is written for a format.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.engines.backends import ATTENTION, MOE
from aicalib.physics.memory import GIB
from aicalib.physics.steps import Operator, decode_step, prefill_step
from aicalib.physics.system import spread_over
from aicalib.physics.widening import slots
from aicalib.plan.search.evaluate import Evaluated, loaded
from aicalib.plan.search.formats import BACKENDS, FIELDS
from aicalib.prediction import Prediction, predict_batch
from aicalib.profiles.profile import Profile
from aicalib.resolve.layer_kernels import math_paths
from aicalib.served import prefill_slots
from aicalib.serving.server import captured_batch

Array = NDArray[np.float64]
Codes = NDArray[np.intp]

PARTS: Final = {
    "gemm": "dense weights",
    "experts": "experts",
    "decode_mixers": "attention",
    "prefill_mixers": "attention",
    "quantize": "casts",
    "dynamic_scale": "scales of activations",
    "links": "exchange between GPUs",
    "elementwise": "norms and sampling",
    "widening": "widening to 16 bit",
    "": "launches, gaps and the engine's own time",
}
"""Coefficients that scale operators, and what these are, for people."""

BACKEND_OF: Final = {("gemm", "moe"): MOE, ("kv", "fmha"): ATTENTION}
"""Fields that are set against others together, and the backend of their kernels."""

PAIRS: Final = (*BACKEND_OF, BACKENDS)
"""What is set against others together; named backends against the engine's own."""

EVEN: Final = 0.01
"""Relative difference below which formats are said to be even."""

KIB: Final = 1024.0

Part = tuple[str, str]
"""The coefficient that scales operators, and the phase that they run in."""


class _Rival(NamedTuple):
    """A runner-up: the choice's place in the list, which fields differ, and the row of the evaluated."""

    choice: int
    fields: tuple[str, str]
    row: int


def reasons(
    found: Evaluated, rows: Codes, scores: Array, alive: NDArray[np.bool_], profile: Profile
) -> list[str]:
    """Return why configurations beat other weights, and another cache, or stand behind them: a sentence each.

    Parameters
    ----------
    found : Evaluated
        n configurations.
    rows : ndarray of int, shape (m,)
        The choices.
    scores : ndarray, shape (n,)
        By which is ranked, lower is better.
    alive : ndarray of bool, shape (n,)
        What the engine starts.
    profile : Profile
    """
    said: list[list[str]] = [[] for _ in rows]
    rivals = []
    ranked = np.where(alive, scores, np.inf)
    for choice, row in enumerate(rows.tolist()):
        for fields in PAIRS:
            held = _alike(found, row, fields)
            fitting = held[found.fitting[held]]
            if fitting.size:
                each = np.flatnonzero(np.isin(found.at, fitting))
                same_load = found.concurrency[each] != found.concurrency[row]
                best = int(each[np.lexsort((same_load, ranked[each]))[0]])
                rivals.append(_Rival(choice, fields, best))
            elif held.size:
                said[choice].append(_no_room(found, row, held, fields))
    pools = found.batch.features.separation
    for separate in (False, True):
        # Prefill on instances of its own has another system, and another price of a token.
        part = [
            each for each in rivals if (pools is not None and pools.separate[found.at[each.row]]) == separate
        ]
        if not part:
            continue
        mine = rows[[each.choice for each in part]]
        other = np.array([each.row for each in part], dtype=np.intp)
        load = np.concatenate([found.concurrency[mine]] * 2)
        taken = _Taken(predict_batch(loaded(found.asked(np.concatenate([mine, other])), load), profile))
        for place, rival in enumerate(part):
            said[rival.choice].append(taken.compared(place, len(part) + place, rival.fields))
    return ["; ".join(each) or "no other format was tried with these widths and settings" for each in said]


def _alike(found: Evaluated, row: int, fields: tuple[str, str]) -> Codes:
    """Return the rows of the batch of starts that differ from a configuration's in some fields alone."""
    space = found.space
    own = space.places[found.starts[row]]
    formats = space.offers[own[0]].formats.found
    form = formats[own[1]]
    if fields == BACKENDS:
        others = [at for at, each in enumerate(formats) if each == form.own_backends != form]
    else:
        # The runner-up runs on whatever backend suits its own format best.
        free = {*fields, BACKEND_OF[fields]}
        kept = [name for name in (*FIELDS, *BACKENDS) if name not in free]
        others = [
            at
            for at, each in enumerate(formats)
            if all(getattr(each, name) == getattr(form, name) for name in kept)
            and any(getattr(each, name) != getattr(form, name) for name in fields)
        ]
    places = space.places[found.batch.rows]
    alike = (places[:, 0] == own[0]) & (places[:, 2:] == own[2:]).all(axis=1) & np.isin(places[:, 1], others)
    return np.flatnonzero(alike)


def _no_room(found: Evaluated, row: int, held: Codes, fields: tuple[str, str]) -> str:
    nearest = int(held[np.argmin(found.missing_gib[held])])
    mine, other = (_spelled(_quant(found.batch, at), fields) for at in (int(found.at[row]), nearest))
    return f"memory size: {mine} fits, the nearest other, {other}, lacks {found.missing_gib[nearest]:.1f} GiB a GPU"


def _quant(batch: object, at: int) -> dict[str, str]:
    who = batch.identities[batch.codes[at]]  # type: ignore[attr-defined]
    mapping = who.quant.to_mapping()
    names = {"gemm": mapping["gemm"], "kv": mapping["kvcache"], "fmha": mapping["fmha"]}
    named = {name: str(backend) for name, backend in who.backends.options().items()}
    return names | ({"moe": mapping["moe"]} if who.architecture.moe_layers else {}) | named


def _spelled(quant: dict[str, str], fields: tuple[str, str]) -> str:
    names = [(field, quant[field]) for field in fields if field in quant]
    if not names:
        return "the engine's own backends"
    if fields[0] == "gemm" and len({mode for _, mode in names}) == 1:
        return f"{names[0][1]} weights"
    return ", ".join(f"{field} {mode}" for field, mode in names)


class _Taken:
    """Predictions taken apart: the price of a token in ms, by part and phase, and what bounds most of each.

    Where one engine does both, the price is the time of a decode step and of the prefill that others put into it. Where
    prefill has instances of its own, it is the time of all GPUs of both pools.
    """

    def __init__(self, both: Prediction) -> None:
        self.both = both
        self.ms: dict[Part, Array] = {}
        self.bounds: dict[Part, dict[str, Array]] = {}
        batch, load = both.batch, both.batch.load
        pools = batch.features.separation
        self.separate = pools is not None
        system = prefilling = batch.system.take(batch.at)
        settings = prefill_settings = batch.instance_settings
        running = both.service.running
        if pools is not None:
            prefilling = pools.part.system.take(pools.part.at)
            prefill_settings = batch.settings.of_instance(pools.part.system, pools.part.at)
            running = running / pools.decode_instances
        at_once = np.maximum(running / system.pp, 1.0)
        tokens = np.minimum(load.new, prefill_settings.chunk_tokens / prefilling.dp)
        decode_weight: Array | float = 1.0
        # While one token is made, a request waits for the prompts of the others that began: one in `osl` steps.
        prefill_weight = (at_once - 1.0) / load.osl * load.new / tokens
        if pools is not None:
            decode_weight = system.n_gpus / at_once
            prefill_weight = prefilling.n_gpus / load.osl * load.new / tokens
        values = both.profile.values
        c, padded = spread_over(system, values), captured_batch(at_once, settings.graph_max_batch)
        held = slots(both.memory)
        decode = decode_step(system, c, at_once, load.context, padded, settings.graph_max_batch, held)
        prefill = prefill_step(
            prefilling,
            spread_over(prefilling, values),
            tokens,
            load.new,
            np.ones_like(tokens),
            held if pools is None else prefill_slots(batch, pools.part),
        )
        self._add("decode", decode_weight, decode)
        self._add("prefill", prefill_weight, prefill)
        self.total = np.sum(list(self.ms.values()), axis=0)

    def _add(self, phase: str, weight: Array | float, operators: Sequence[Operator]) -> None:
        for each in operators:
            part = each.scale, phase
            ms = 1e3 * weight * np.broadcast_to(each.time_s, self.both.batch.at.shape)
            self.ms[part] = self.ms.get(part, 0.0) + ms
            by = self.bounds.setdefault(part, {})
            for bound in np.unique(each.bounds).tolist():
                by[bound] = by.get(bound, 0.0) + np.where(each.bounds == bound, ms, 0.0)

    def compared(self, one: int, other: int, fields: tuple[str, str]) -> str:
        """Return in words what sets one prediction apart from another at the same load."""
        both = self.both
        mine, theirs = (_spelled(_quant(both.batch, at), fields) for at in (one, other))
        running = both.service.running
        waits = running < (1.0 - EVEN) * both.batch.load.concurrency
        # Requests that run apart from a prompt's prefill are fewer than those in flight, whatever the pool holds.
        if not self.separate and (waits[one] or waits[other]):
            pool = both.memory.kv_pool_bytes / GIB
            return (
                f"KV size: with {mine} the pool of {pool[one]:.1f} GiB runs {running[one]:.0f} requests at a time, "
                f"with {theirs} ({pool[other]:.1f} GiB) {running[other]:.0f}"
            )
        gain = float(self.total[other] - self.total[one])
        if abs(gain) < EVEN * self.total[other]:
            return f"{mine} and {theirs} are even at this load"
        sign = np.sign(gain)
        parts = {part: float(ms[other] - ms[one]) for part, ms in self.ms.items()}
        lead = max(parts, key=lambda part: sign * parts[part])
        paid = min(parts, key=lambda part: sign * parts[part])
        binds = self._binds(lead, one, other, slower=other if gain > 0.0 else one)
        what = f"{'less' if gain > 0.0 else 'more'}{' GPU time' if self.separate else ''}"
        sentence = (
            f"{binds}: a token takes {100 * abs(gain) / self.total[other]:.0f} % {what} with {mine} than with "
            f"{theirs}, most by {self._change(lead, one, other)}"
        )
        if sign * parts[paid] < -EVEN * self.total[one]:
            sentence += f", against {self._change(paid, one, other)}"
        predicted = float(both.mean["tpot_ms"].value[other] - both.mean["tpot_ms"].value[one])
        if not self.separate and predicted * gain < 0.0:
            sentence += "; measured runs of the two say the opposite and are followed"
        return sentence

    def _change(self, part: Part, one: int, other: int) -> str:
        phase = (
            "decode steps" if part[1] == "decode" else "prefill" if self.separate else "the prefill of others"
        )
        ms = self.ms[part]
        return f"{PARTS[part[0]]} in {phase} ({ms[other]:.3g} -> {ms[one]:.3g} ms)"

    def _binds(self, lead: Part, one: int, other: int, slower: int) -> str:
        """Return what binds the part that makes the difference, where it takes longer."""
        times = {bound: float(ms[slower]) for bound, ms in self.bounds[lead].items()}
        bound, part = max(times, key=lambda each: times[each]), lead[0]
        both = self.both
        if bound == "compute":
            field = {"gemm": "gemm", "experts": "expert"}.get(part, "attention")
            who = [both.batch.identities[both.batch.codes[at]] for at in (other, one)]
            paths = [math_paths(each.quant, each.accelerator)[field] for each in who]
            return f"compute ({paths[0]} -> {paths[1]})" if paths[0] != paths[1] else "compute"
        if bound == "memory" and part in ("gemm", "experts"):
            weights = both.memory.weights_bytes / GIB
            if abs(weights[other] / weights[one] - 1.0) < EVEN:
                return "kernels that move the same bytes more slowly"
            return f"memory traffic of weights ({weights[other]:.1f} -> {weights[one]:.1f} GiB a GPU)"
        if bound == "memory" and part in ("decode_mixers", "prefill_mixers"):
            cell = both.memory.cell_bytes / KIB
            if abs(cell[other] / cell[one] - 1.0) < EVEN:
                return "kernels that move the same bytes more slowly"
            return f"memory traffic of the cache ({cell[other]:.3g} -> {cell[one]:.3g} KiB a token)"
        if bound == "latency":
            return (
                "launch and scale overhead"
                if part in ("", "quantize", "dynamic_scale")
                else "kernels below the datasheet's rates"
            )
        return {"link": "the link between GPUs", "memory": "memory traffic"}[bound]
