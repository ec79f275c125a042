"""From a resolved batch and coefficients to the engines that serving reads, and the memory that they have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.deployment import Identity
from aicalib.physics.draft_memory import with_drafter
from aicalib.physics.kv_cache import cells
from aicalib.physics.memory import Memory, Needs, fits, memory, needs
from aicalib.physics.memory import memory_of as memory_needed
from aicalib.physics.system import ENGINES, Coefficients, System, spread_over
from aicalib.physics.tables import KernelTables, PoolTimes, StepTables, StepTimes, tabulate
from aicalib.physics.weights import weight_bytes
from aicalib.physics.widening import cache_seconds, slots, with_workspace
from aicalib.profiles.coefficients import position
from aicalib.profiles.profile import Profile
from aicalib.recent import Recent
from aicalib.resolve.batch import Batch
from aicalib.resolve.features import FITTED_ACCEPTANCE, Drafting, Part, Separation
from aicalib.serving.disaggregated import Pools
from aicalib.serving.server import Server, server_of
from aicalib.serving.speculation import METHODS, Speculation, acceptance_length

Array = NDArray[np.float64]
Codes = NDArray[np.intp]
Yes = NDArray[np.bool_]


class Known(NamedTuple):
    """What a batch's deployments take and need, whatever is asked of them."""

    tables: StepTables
    system: System
    coefficients: Coefficients


_TABLES: Recent[Known] = Recent(256)
_NEEDS: Recent[Needs] = Recent(256)


FEW = 64
"""Deployments of a batch up to which what was made for them is kept for the next question about the same."""


def _few(batch: Batch) -> tuple[tuple[Identity, ...], tuple[bytes, ...]] | None:
    """Return who the few deployments of a batch are and their numbers; None of many."""
    system = batch.system
    if system.tp.size > FEW:
        return None
    numbers = (
        system.tp, system.dp, system.ep, system.pp, system.engine_month, system.network_bytes_s, system.deepep,
    )  # fmt: skip
    return tuple(batch.identities[code] for code in batch.who), tuple(each.tobytes() for each in numbers)


def recent_tables(batch: Batch, profile: Profile) -> Known:
    """Return the step times of a batch's deployments; those of few are kept for the next question."""
    few = _few(batch)
    if few is None:
        return _tables(batch.system, profile.values)
    return _TABLES.get((profile, *few[0]), few[1], lambda: _tables(batch.system, profile.values))


def _needs(batch: Batch) -> Needs:
    """Return what the questions' deployments need of memory; that of few is kept for the next question."""
    few = _few(batch)
    found = needs(batch.system) if few is None else _NEEDS.get(*few, lambda: needs(batch.system))
    return found if batch.at.size == batch.system.tp.size == 1 else found.take(batch.at)


def _tables(system: System, values: Array, kernels: KernelTables | None = None) -> Known:
    c = spread_over(system, values)
    return Known(tabulate(system, c, kernels), system, c)


def servers(
    batch: Batch,
    values: Array,
    known: Known | None = None,
    kernels: KernelTables | None = None,
    held: Memory | None = None,
) -> Server:
    """Return the engines of n questions.

    Parameters
    ----------
    batch : Batch
        n questions.
    values : ndarray, shape (number of coefficients,)
    known : Known, optional
        Tables of the batch's deployments, where they are there already.
    kernels : KernelTables, optional
        Kernel times of the batch's deployments, where they are there already.
    held : Memory, optional
        Memory of the questions, where it is there already.
    """
    found, features = known or _tables(batch.system, values, kernels), batch.features
    return server_of(
        *found,
        batch.at,
        batch.instance_settings,
        features.mixed_chunk,
        features.drafting and _speculation(batch, features.drafting, values),
        features.separation and _pools(batch, features.separation, values),
        _pool_times(found, batch.at, lambda: slots(held or memory_of(batch)[0])),
    )


def prefill_slots(batch: Batch, part: Part) -> Array:
    """Return the slots of a pool of the instances that prefill for others, shape (n,)."""
    return slots(memory(part.system, part.at, batch.settings, batch.load.isl))


def _pool_times(known: Known, at: Codes, slots_of: Callable[[], Array]) -> PoolTimes | None:
    """Return what reading the whole pool adds to the steps of n questions; None where no engine does."""
    _, system, c = known
    if not system.cache_widens[at].any():
        return None
    asked, found = system.take(at), slots_of()
    slow = replace(c, device_slowdown=np.broadcast_to(c.device_slowdown, system.tp.shape)[at])
    return PoolTimes(*(cache_seconds(asked, slow, found, phase) for phase in ("decode", "prefill")))


def _speculation(batch: Batch, drafts: Drafting, values: Array) -> Speculation:
    draft = None
    if drafts.part is not None:
        tables, _, _ = _tables(drafts.part.system, values)
        # The engine's own time per step is that of the model's step, which the drafts are part of.
        tables = replace(tables, step_s=0.0 * tables.step_s, request_s=0.0 * tables.request_s)
        draft = StepTimes(tables, drafts.part.at, batch.instance_settings.graph_max_batch)
    layers = batch.system.arch.num_layers[batch.at]
    accepted = accepted_tokens(drafts, values)
    # The schedulers of other engines run while the device drafts.
    waits = (batch.system.engine[batch.at] == ENGINES.index("sglang")) & (drafts.drafted > 0.0)
    request_s = np.where(waits, values[position("draft_request_time")], 0.0)
    return Speculation(drafts.drafted, accepted, layers, drafts.has_draft_model, draft, request_s)


def accepted_tokens(drafts: Drafting, values: Array) -> Array:
    """Return the acceptance length of n questions, shape (n,): what was asked, or what the profile says."""
    fitted = acceptance_length(drafts.drafted, float(values[position("mtp_acceptance")]))
    return np.where(drafts.accepted == FITTED_ACCEPTANCE, fitted, drafts.accepted)


def _pools(batch: Batch, pools: Separation, values: Array) -> Pools:
    part = pools.part
    settings = batch.settings.of_instance(part.system, part.at)
    known = _tables(part.system, values)
    times = _pool_times(known, part.at, lambda: prefill_slots(batch, part))
    return Pools(
        separate=pools.separate,
        prefill=server_of(*known, part.at, settings, pool_times=times),
        prefill_instances=pools.prefill_instances,
        decode_instances=pools.decode_instances,
        transfer_s=transfer_bytes(batch) / pools.network_bytes_s,
    )


def transfer_bytes(batch: Batch) -> Array:
    """Return what a prefill GPU sends of a prompt's cache, shape (n,); 0 where prefill has no instances of its own."""
    pools = batch.features.separation
    if pools is None:
        return np.zeros(batch.at.size)
    part = pools.part
    cell = np.maximum(_cell_bytes(part.system)[part.at], _cell_bytes(batch.system)[batch.at])
    return np.where(pools.separate, batch.load.isl * cell, 0.0)


def memory_of(batch: Batch) -> tuple[Memory, Yes]:
    """Return the memory of one GPU (of a decode instance) of n questions, and whether the deployment fits."""
    whole = batch.load.isl + batch.load.osl
    settings = batch.settings
    held = memory_needed(
        _needs(batch),
        settings.memory_fraction,
        settings.chunk_tokens,
        settings.max_running,
        settings.graph_max_batch,
        request_tokens=whole,
    )
    if batch.system.cache_widens.any():
        held = with_workspace(held, batch.system.take(batch.at))
    drafts, pools = batch.features.drafting, batch.features.separation
    if drafts is not None:
        held = with_drafter(held, *_drafter_bytes(batch, drafts))
    fitting = fits(held, whole)
    if pools is not None:
        prefill = memory(pools.part.system, pools.part.at, batch.settings, batch.load.isl)
        fitting &= fits(prefill, batch.load.isl) | ~pools.separate
    return held, fitting


def capacity(batch: Batch, held: Memory) -> Array:
    """Return the tokens that requests of the batch's lengths can hold: of the pool, and as states allow requests."""
    return np.minimum(held.capacity_tokens, held.max_requests * (batch.load.isl + batch.load.osl))


def _cell_bytes(system: System) -> Array:
    found = cells(system)
    return found.full + found.window


def _drafter_bytes(batch: Batch, drafts: Drafting) -> tuple[Array, Array]:
    """Return weights and bytes a token of the drafters on one GPU: an MTP layer is as large as a layer."""
    system, layers = batch.system, batch.system.arch.num_layers
    is_layer = drafts.method == METHODS.index("mtp")
    weights = np.where(is_layer, (weight_bytes(system) / layers)[batch.at], 0.0)
    cell = np.where(is_layer, (_cell_bytes(system) / layers)[batch.at], 0.0)
    part: Part | None = drafts.part
    if part is not None:
        weights = np.where(drafts.has_draft_model, weight_bytes(part.system)[part.at], weights)
        cell = np.where(drafts.has_draft_model, _cell_bytes(part.system)[part.at], cell)
    return weights, cell
