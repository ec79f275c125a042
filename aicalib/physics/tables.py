"""Step times of deployments, tabulated once, and looked up for any number of questions.

What a step takes depends on few numbers: the tokens that pass through the matrix products, and the batch and
the context of attention. So every distinct deployment has its operators evaluated at the knots of a grid, and
questions read between the knots.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.physics import steps
from aicalib.physics.calls import Call, seconds, split
from aicalib.physics.experts import expert_calls
from aicalib.physics.mixers import decode_mixer_calls, prefill_mixer_calls
from aicalib.physics.shared import (
    OF_EXPERTS,
    OF_LINKS,
    OF_MIXERS,
    OF_NO_KERNEL,
    OF_WEIGHTS,
    is_expert,
    is_mixer,
    once,
)
from aicalib.physics.system import Coefficients, System

Array = NDArray[np.float64]
Codes = NDArray[np.intp]


class Axis(NamedTuple):
    """Knots at equal steps of log2; `first` is the exponent of the lowest, `per_octave` how many to a doubling."""

    first: int
    per_octave: int
    knots: Array

    def place(self, points: Array) -> tuple[Codes, Array]:
        """Return the knot below each point and the share of the way to the next.

        A point below the axis counts as at its end; above it the last two knots go on in a straight line.
        """
        at = (np.log2(points) - self.first) * self.per_octave
        below = np.minimum(np.maximum(at, 0.0), self.knots.size - 2.0).astype(np.intp)
        low = self.knots[below]
        return below, np.maximum((points - low) / (self.knots[below + 1] - low), 0.0)


def _axis(first: int, last: int, per_octave: int) -> Axis:
    return Axis(first, per_octave, 2.0 ** np.linspace(first, last, (last - first) * per_octave + 1))


TOKENS = _axis(0, 18, 2)
"""Tokens in a step."""

BATCH = _axis(0, 12, 1)
"""Requests of an attention rank in a decode step."""

CONTEXT = _axis(4, 20, 2)
"""Tokens in the cache of a request."""

PROMPTS = _axis(0, 8, 1)
"""Prompts of an attention rank in a prefill step."""

LENGTH = _axis(4, 20, 2)
"""Tokens of a prompt."""

GROUPS = ("local_decode", "local_prefill", "rows", "beside", "experts_decode", "experts_prefill", "head", "graph",
          "eager")  # fmt: skip
"""Kernels that are looked up by the tokens they run on: the rows of one rank, in both forms; those of all ranks; what
runs beside the routed experts, and these, in both phases; the output head; what ranks exchange inside a captured graph
and outside."""

ROOF = "roof"
"""In the place of a coefficient: the part of kernels' times that none multiplies (`aicalib.physics.calls.split`)."""


@dataclass(frozen=True)
class KernelTables:
    """Kernel times in seconds of d deployments at the knots, as the kernels alone take them.

    Attributes
    ----------
    by_tokens : mapping of (str, str) to ndarray, shape (d, TOKENS)
        (member of `GROUPS`, coefficient that scales it or `ROOF`) -> times.
    decode_mixers : ndarray, shape (d, BATCH, CONTEXT)
    prefill_mixers : ndarray, shape (d, PROMPTS, LENGTH)
    """

    by_tokens: dict[tuple[str, str], Array]
    decode_mixers: Array
    prefill_mixers: Array


def _plane(calls: Callable[[Array, Array], list[Call]], rows: Axis, lines: Axis, deployments: int) -> Array:
    first = np.repeat(rows.knots, lines.knots.size)[None, :]
    second = np.tile(lines.knots, rows.knots.size)[None, :]
    total = np.zeros((deployments, first.size))
    for call in calls(first, second):
        total = total + seconds(call)
    grid = total.reshape(deployments, rows.knots.size, lines.knots.size)
    rising: Array = np.maximum.accumulate(np.maximum.accumulate(grid, axis=1), axis=2)
    return rising


def tabulate_kernels(system: System) -> KernelTables:
    """Evaluate all kernels of d deployments at the knots.

    More tokens, a larger batch or a longer context never take less time: where a fitted surface dips, the
    greater time before it holds.
    """
    tokens = TOKENS.knots[None, :]
    dense, of_dense = once(
        system,
        (*OF_MIXERS, *OF_EXPERTS, *OF_NO_KERNEL),
        lambda name: not is_mixer(name) and not is_expert(name),
    )
    experts, of_experts = once(system, (*OF_MIXERS, *OF_WEIGHTS, *OF_LINKS, *OF_NO_KERNEL, "dp"), is_expert)
    # Modules of sparse attention hold products of dense weights.
    weights = () if np.any(system.arch.sparse_layers) else OF_WEIGHTS
    mixers, of_mixers = once(system, (*weights, *OF_EXPERTS, *OF_LINKS, "deepep", *OF_NO_KERNEL), is_mixer)
    one, several, mixed = dense.column(), experts.column(), mixers.column()
    shared = steps.shared_calls(one, tokens)
    groups = {
        "local_decode": (steps.local_calls(one, tokens, "decode"), of_dense),
        "local_prefill": (steps.local_calls(one, tokens, "prefill"), of_dense),
        "rows": ([call for call in shared if not steps.beside_experts(call)], of_dense),
        "beside": ([call for call in shared if steps.beside_experts(call)], of_dense),
        "experts_decode": (expert_calls(several, tokens, "decode"), of_experts),
        "head": (steps.head_calls(one, tokens), of_dense),
        "graph": (steps.exchange_calls(one, tokens, graph=True), of_dense),
        "eager": (steps.exchange_calls(one, tokens, graph=False), of_dense),
    }
    if np.any(experts.deepep):
        groups["experts_prefill"] = (expert_calls(several, tokens, "prefill"), of_experts)
    by_tokens: dict[tuple[str, str], Array] = {}
    for group, (calls, place) in groups.items():
        sums: dict[str, Array] = {}
        for call in calls:
            for scale, time_s in zip((ROOF, call.scale), split(call), strict=True):
                sums[scale] = sums.get(scale, np.zeros((1, tokens.size))) + time_s
        for scale, times in sums.items():
            rising = np.maximum.accumulate(times, axis=1)
            by_tokens[group, scale] = (
                rising[place] if rising.shape[0] > 1 else np.repeat(rising, place.size, axis=0)
            )
    if "experts_prefill" not in groups:  # the same kernels in both phases
        by_tokens |= {
            ("experts_prefill", scale): times
            for (group, scale), times in by_tokens.items()
            if group == "experts_decode"
        }
    n = mixers.tp.size
    return KernelTables(
        by_tokens,
        _plane(lambda batch, context: decode_mixer_calls(mixed, batch, context), BATCH, CONTEXT, n)[
            of_mixers
        ],
        _plane(lambda prompts, length: prefill_mixer_calls(mixed, prompts, length), PROMPTS, LENGTH, n)[
            of_mixers
        ],
    )


_LOCAL_DECODE, _DECODE_ROWS, _EXPERTS, _LOCAL_PREFILL, _PREFILL_ROWS, _HEAD = range(6)


@dataclass(frozen=True)
class StepTables:
    """Times in seconds of d deployments at the knots, in the engine.

    Attributes
    ----------
    by_tokens : ndarray, shape (d, TOKENS, 6)
        What runs on the rows of one rank in a decode step; on all rows of a decode step; the experts, with what runs
        beside them; on the rows of one rank in a prefill step; on all rows of a prefill step, experts included; the
        output head.
    decode_mixers : ndarray, shape (d, BATCH, CONTEXT)
    prefill_mixers : ndarray, shape (d, PROMPTS, LENGTH)
    layers_s, launch_s, step_s, request_s : ndarray, shape (d,)
        Fixed time of a decode step's kernels; launching them without a graph; the engine's own time per step, and
        per running request.
    dp : ndarray, shape (d,)
        Attention-data-parallel ranks.
    """

    by_tokens: Array
    decode_mixers: Array
    prefill_mixers: Array
    layers_s: Array
    launch_s: Array
    step_s: Array
    request_s: Array
    dp: Array


def tabulate(system: System, c: Coefficients, kernels: KernelTables | None = None) -> StepTables:
    """Return the step times of d deployments under their coefficients.

    Parameters
    ----------
    system : System
    c : Coefficients
    kernels : KernelTables, optional
        Of the system, where they are known already: they depend on no coefficient.
    """
    kernels = kernels or tabulate_kernels(system)
    slow = np.broadcast_to(c.device_slowdown, system.tp.shape)
    one = c.column()
    times = {group: np.zeros((system.tp.size, TOKENS.knots.size)) for group in GROUPS}
    for (group, scale), kernel_s in kernels.by_tokens.items():
        times[group] += kernel_s * (1.0 if scale == ROOF else getattr(one, scale))
    beside_s = kernels.by_tokens.get(("beside", ROOF), 0.0)
    beside_s = beside_s + (times["beside"] - beside_s) * c.shared_experts
    columns = (
        times["local_decode"],
        times["rows"] + times["head"] + times["graph"],
        times["experts_decode"] + beside_s,
        times["local_prefill"],
        times["rows"] + times["beside"] + times["experts_prefill"] + times["eager"],
        times["head"],
    )
    decode_scale, prefill_scale = (
        np.broadcast_to(each * slow, slow.shape)[:, None, None]
        for each in (c.decode_mixers, c.prefill_mixers)
    )
    return StepTables(
        by_tokens=np.stack(columns, axis=-1) * slow[:, None, None],
        decode_mixers=kernels.decode_mixers * decode_scale,
        prefill_mixers=kernels.prefill_mixers * prefill_scale,
        layers_s=steps.layers_s(system, c),
        launch_s=steps.launch_s(system, c),
        step_s=np.broadcast_to(c.step_s, slow.shape),
        request_s=np.broadcast_to(c.request_s, slow.shape),
        dp=system.dp,
    )


class PoolTimes(NamedTuple):
    """Times in seconds that reading the whole pool adds to each decode and each prefill step, shape (n,).

    They depend on the size of the pool, and so on more than the deployment.
    """

    decode_s: Array
    prefill_s: Array

    def take(self, rows: Codes) -> PoolTimes:
        """Return those of some questions, in that order."""
        return PoolTimes(self.decode_s[rows], self.prefill_s[rows])


@dataclass(frozen=True)
class StepTimes:
    """Step times of n questions: the tables, and which deployment each question is about.

    Attributes
    ----------
    tables : StepTables
    at : ndarray of int, shape (n,)
    graph_max_batch : ndarray, shape (n,)
        Largest decode batch with a captured graph.
    pool : PoolTimes, optional
        None where no engine reads its pool whole.
    """

    tables: StepTables
    at: Codes
    graph_max_batch: Array
    pool: PoolTimes | None = None

    def _by_tokens(self, column: int, tokens: Array) -> Array:
        table = self.tables.by_tokens
        knots, columns = table.shape[1:]
        below, share = TOKENS.place(tokens)
        place = (self.at * knots + below) * columns + column
        flat = table.reshape(-1)
        low = flat[place]
        found: Array = low + share * (flat[place + columns] - low)
        return found

    def _plane(self, table: Array, axes: tuple[Axis, Axis], first: Array, second: Array) -> Array:
        (row, up), (line, right) = axes[0].place(first), axes[1].place(second)
        lines = table.shape[2]
        place = (self.at * table.shape[1] + row) * lines + line
        flat = table.reshape(-1)
        low = flat[place] * (1.0 - right) + flat[place + 1] * right
        high = flat[place + lines] * (1.0 - right) + flat[place + lines + 1] * right
        result: Array = low + up * (high - low)
        return result

    def decode_s(self, batch: Array, context: Array, padded: Array, rows: Array | float = 1.0) -> Array:
        """Return the time of a decode step in seconds, shape (n,).

        Parameters
        ----------
        batch : ndarray, shape (n,)
            Running requests of the instance.
        context : ndarray, shape (n,)
            Mean tokens in the cache of a request.
        padded : ndarray, shape (n,)
            Requests of the captured graph that runs the batch.
        rows : ndarray, shape (n,), or float
            Tokens of each request that pass through the model: more than one where drafted tokens are verified.
            Attention then reads the cache once for all of them.

        Notes
        -----
        A batch above the largest captured one is launched kernel by kernel: the step takes the root of the sum
        of squares of device time and launch time.
        """
        tables, at = self.tables, self.at
        dp = tables.dp[at]
        local = np.maximum(batch / dp, np.minimum(batch, 1.0))
        device = (
            self._by_tokens(_LOCAL_DECODE, np.maximum(padded / dp, local) * rows)
            + self._by_tokens(_DECODE_ROWS, padded * rows)
            + self._by_tokens(_EXPERTS, batch * rows)
            + self._plane(tables.decode_mixers, (BATCH, CONTEXT), local, context)
            + tables.layers_s[at]
        )
        if self.pool is not None:
            device = device + self.pool.decode_s
        eager = padded > self.graph_max_batch
        if eager.any():
            device = np.where(eager, np.hypot(device, tables.launch_s[at]), device)
        return device + tables.step_s[at] + tables.request_s[at] * batch

    def head_s(self, rows: Array) -> Array:
        """Return the time of the output head over some rows in seconds, shape (n,)."""
        return self._by_tokens(_HEAD, rows)

    def _prefill_attention(self, local: Array, length: Array, cached: Array | None) -> Array:
        """Return the attention of `local` new tokens of one rank, of prompts with `length` new tokens each.

        New tokens see those before them that are in the cache: attention over the whole prompt less that of the
        cached part, but never less than the new tokens alone take.
        """
        prompts = np.maximum(local / length, 1.0)
        table, axes = self.tables.prefill_mixers, (PROMPTS, LENGTH)
        if cached is None:
            found = self._plane(table, axes, prompts, length)
        else:
            known = self._plane(table, axes, prompts, np.maximum(cached, LENGTH.knots[0]))
            known *= np.minimum(cached / LENGTH.knots[0], 1.0)
            whole = self._plane(table, axes, prompts, length + cached)
            found = np.maximum(whole - known, self._plane(table, axes, prompts, length))
        return found * (local / (length * prompts))

    def prefill_s(self, tokens: Array, length: Array, ranks: Array, cached: Array | None = None) -> Array:
        """Return the time of a prefill step in seconds, shape (n,).

        Parameters
        ----------
        tokens : ndarray, shape (n,)
            Prompt tokens in the step, over all ranks.
        length : ndarray, shape (n,)
            New tokens of a prompt; a step that holds part of one carries that share of its attention.
        ranks : ndarray, shape (n,)
            Attention-data-parallel ranks that have a prompt to prefill.
        cached : ndarray, shape (n,), optional
            Tokens of a prompt before the new ones, whose keys and values are in the cache.

        Notes
        -----
        The kernels are launched from the host while the device works, so the step takes the root of the sum of
        squares of device time and launch time.
        """
        local = tokens / ranks
        device = (
            self._by_tokens(_LOCAL_PREFILL, local)
            + self._by_tokens(_PREFILL_ROWS, tokens)
            + self._by_tokens(_HEAD, tokens / length)
            + self._prefill_attention(local, length, cached)
        )
        if self.pool is not None:
            device = device + self.pool.prefill_s
        return np.hypot(device, self.tables.launch_s[self.at])

    def mixed_s(
        self, tokens: Array, length: Array, ranks: Array, cached: Array | None, batch: Array, context: Array
    ) -> Array:
        """Return the time in seconds of a step that prefills and decodes together, shape (n,).

        Parameters
        ----------
        tokens, length, ranks, cached
            Of the prompts, as for `prefill_s`.
        batch, context : ndarray, shape (n,)
            Of the running requests, as for `decode_s`.

        Notes
        -----
        All rows pass through one matrix product; the attention of prompts and of running requests adds up.
        """
        tables, at = self.tables, self.at
        dp = tables.dp[at]
        prompts = tokens / ranks
        local = np.maximum(batch / dp, np.minimum(batch, 1.0))
        device = (
            self._by_tokens(_LOCAL_PREFILL, prompts + local)
            + self._by_tokens(_PREFILL_ROWS, tokens + batch)
            + self._by_tokens(_HEAD, tokens / length + batch)
            + self._prefill_attention(prompts, length, cached)
            + self._plane(tables.decode_mixers, (BATCH, CONTEXT), local, context)
        )
        if self.pool is not None:
            device = device + self.pool.decode_s
        engine = tables.step_s[at] + tables.request_s[at] * batch
        return np.hypot(device, tables.launch_s[at]) + engine

    def take(self, rows: Codes) -> StepTimes:
        """Return the step times of some questions, in that order."""
        pool = self.pool and self.pool.take(rows)
        return StepTimes(self.tables, self.at[rows], self.graph_max_batch[rows], pool)
