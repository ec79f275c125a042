"""Start-up records as questions to the memory model: what an engine logged, and what it should have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aicalib.calibrate.runs import EXPERTS_ONLY
from aicalib.calibrate.score import Score, score
from aicalib.errors import InvalidValue, NotCovered, RequestError, UnknownName
from aicalib.hardware import get_accelerator
from aicalib.physics.memory import DRIVER_BYTES, GIB, memory_of, needs, pool_tokens
from aicalib.physics.pools import sglang, vllm
from aicalib.resolve.batch import Batch
from aicalib.resolve.rows import resolve

Array = NDArray[np.float64]

METRICS = ("max_total_tokens", "max_total_tokens_given_memory")
"""What is scored: everything predicted from the deployment; the engine's rule alone, with the logged weights
and free memory."""

DRAFTS = ("EAGLE", "EAGLE3", "NEXTN", "MTP")
"""Ways of speculation whose draft is one layer like the model's own."""

UNCHUNKED_TOKENS = 16384
"""Tokens of an SGLang prefill step where chunking is off (`--max-prefill-tokens`)."""

ANY_GPU = "h100-sxm"
"""Stands in where no known accelerator is named: the rule alone does not read it."""

EIGHT_BIT = {"w8a8": "w8a8_int8", "bitsandbytes": "bnb_int4"}
"""Spellings of logs that leave open what the engine then takes."""

MIXED = {"w4a8_int": ("w8a8_int8", "int4")}
"""Formats of a whole checkpoint that differ between dense weights and experts."""


@dataclass(frozen=True)
class Startups:
    """Start-up records against the memory model.

    Attributes
    ----------
    records : list of dict
        All records that were given.
    batch : Batch
        n resolved deployments; `batch.rows` are positions in `records`.
    logged : ndarray, shape (n,)
        Tokens of the pool as the engine logged them; NaN where it did not, or where the user capped them.
    predicted : dict of str to ndarray, shape (n,)
        By metric; NaN where the record lacks what the metric needs.
    refused : dict of int to RequestError
        Position -> why a record cannot be asked.
    """

    records: list[Mapping[str, Any]]
    batch: Batch
    logged: Array
    predicted: dict[str, Array]
    refused: dict[int, RequestError]

    @property
    def answered(self) -> list[Mapping[str, Any]]:
        """The records behind the n deployments."""
        return [self.records[row] for row in self.batch.rows]

    @property
    def groups(self) -> list[tuple[str, str, str]]:
        """(engine, model family, GPU as recorded) of each answered record."""
        return [
            (who.engine, who.architecture.family, str(record.get("gpu") or "not recorded"))
            for who, record in zip(
                (self.batch.identities[code] for code in self.batch.codes), self.answered, strict=True
            )
        ]

    def scores(self, chosen: NDArray[np.bool_] | None = None) -> dict[str, Score]:
        """Return the errors of each metric, over all deployments or some."""
        at = slice(None) if chosen is None else chosen
        return {name: score(self.logged[at], values[at]) for name, values in self.predicted.items()}


DEPLOYMENT = (
    "engine", "engine_version", "gpu", "model", "weight_quant", "kv_dtype", "tp", "dp", "ep", "pp", "mem_fraction",
    "chunked_prefill_size", "max_running_requests", "cuda_graph_max_bs", "max_total_tokens",
)  # fmt: skip
"""What tells two servers apart."""


def is_start(record: Mapping[str, Any]) -> bool:
    """Tell whether a record is a start-up record and no run."""
    return "startup_id" in record


def says_memory(record: Mapping[str, Any]) -> bool:
    """Tell whether a run's server said how many tokens its pool holds."""
    return _stated(record, "max_total_tokens") is not None


def once(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return records of distinct servers, the first of each, as flat records."""
    found: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for record in records:
        flat = {**(record.get("extra") or {}), **record}
        found.setdefault(tuple(str(flat.get(name)) for name in DEPLOYMENT), flat)
    return list(found.values())


def _stated(record: Mapping[str, Any], name: str) -> Any:
    """Return a key of a run, which the store keeps under `extra` where it is no key of its table."""
    value = record.get(name)
    extra = record.get("extra")
    return extra.get(name) if value is None and isinstance(extra, Mapping) else value


def _known_gpu(record: Mapping[str, Any]) -> bool:
    """Tell whether a record names an accelerator of the catalogue."""
    if record.get("gpu") is None:
        return False
    try:
        get_accelerator(str(record["gpu"]))
    except UnknownName:
        return False
    return True


def _number(record: Mapping[str, Any], name: str) -> float:
    value = record.get(name)
    return np.nan if value is None else float(value)


def _text(record: Mapping[str, Any], name: str) -> str | None:
    value = record.get(name)
    return None if value is None else str(value)


def refusal(record: Mapping[str, Any]) -> RequestError | None:
    """Return why a record cannot be asked, or None where it can."""
    if record.get("outcome") == "failed":
        return InvalidValue(f"the engine did not start: {record.get('reason')}")
    if record.get("disagg") is True:
        return NotCovered("a start of a disaggregated deployment does not say which pool it belongs to")
    for key, what in (("engine", "engine"), ("model", "model"), ("tp", "tensor-parallel width")):
        if record.get(key) is None:
            return InvalidValue(f"the {what} is not recorded")
    return None


def _options(record: Mapping[str, Any]) -> dict[str, Any]:
    quant = _text(record, "weight_quant")
    quant = EIGHT_BIT.get(str(quant), quant)
    dense, experts = MIXED.get(str(quant), (quant, None))
    if quant in EXPERTS_ONLY:
        dense, experts = None, quant
    kv = _text(record, "kv_dtype")
    chunk = record.get("chunked_prefill_size")
    graph = record.get("cuda_graph_max_bs")
    return {
        "model": record["model"],
        "gpu": record["gpu"] if _known_gpu(record) else ANY_GPU,
        "gemm": dense,
        "moe": experts,
        "kv": None if kv == "auto" else kv,
        "engine": record["engine"],
        "engine_version": record.get("engine_version"),
        "tp": record["tp"],
        "dp": record.get("dp"),
        "ep": record.get("ep"),
        "pp": record.get("pp"),
        "mem_fraction": record.get("mem_fraction"),
        "chunked_prefill_size": UNCHUNKED_TOKENS if chunk == -1 else chunk,
        "max_running_requests": record.get("max_running_requests"),
        "cuda_graph_max_bs": graph,
        "context_len": record.get("context_len"),
        "isl": 1.0,
        "osl": 1.0,
        "concurrency": 1.0,
    }


def _column(records: Iterable[Mapping[str, Any]], name: str, scale: float = 1.0) -> Array:
    return scale * np.array([_number(record, name) for record in records], dtype=float)


def _or(value: Array, otherwise: Array) -> Array:
    return np.where(np.isnan(value), otherwise, value)


def evaluate_startups(records: Iterable[Mapping[str, Any]]) -> Startups:
    """Set start-up records against the memory model.

    Parameters
    ----------
    records : iterable of mapping
        In the format `startup`: widths, formats and settings as a run has them, and what was logged, in GiB
        (`avail_mem_before_load_gib`, `weights_gib`, ...).

    Returns
    -------
    Startups
        `max_total_tokens` is of one attention rank, as engines log it. It is predicted where accelerator, format of
        the weights, and either version or memory fraction, are recorded; the rule alone needs the logged weights
        and free memory, and vLLM's also its activation peak.
    """
    records = list(records)
    refused = {row: error for row, record in enumerate(records) if (error := refusal(record)) is not None}
    asked = [row for row in range(len(records)) if row not in refused]
    table = [_options(records[row]) for row in asked]
    names = table[0].keys() if table else ()
    columns = {name: [row[name] for row in table] for name in names}
    found = resolve(columns, len(table), memory_only=True)
    refused |= {asked[row]: error for row, error in found.refused.items()}
    rows = np.array([asked[row] for row in found.rows], dtype=np.intp)
    batch = replace(found, rows=rows, refused=refused)
    started = [records[row] for row in batch.rows]
    logged = _column(started, "max_total_tokens")
    capped = np.array([record.get("tokens_capped_by_user") is True for record in started], dtype=bool)
    return Startups(records, batch, np.where(capped, np.nan, logged), _predicted(batch, started), refused)


def _predicted(batch: Batch, rows: list[Mapping[str, Any]]) -> dict[str, Array]:
    system, settings = batch.system.take(batch.at), batch.settings
    has_version = np.array([record.get("engine_version") is not None for record in rows], dtype=bool)
    drafts = np.array([str(record.get("speculative")).upper() in DRAFTS for record in rows], dtype=bool)
    draft = (drafts & has_version).astype(float)  # which versions count it is a matter of the version
    need = needs(system, draft)
    page = _or(_column(rows, "page_size"), np.ones(len(rows)))
    ratio = _or(_column(rows, "swa_full_tokens_ratio"), need.window_ratio)
    need = need._replace(window_ratio=ratio)
    context = _or(_column(rows, "context_len"), need.max_position)
    whole = memory_of(
        need, settings.memory_fraction, settings.chunk_tokens, settings.max_running, settings.graph_max_batch,
        context, page,
    )  # fmt: skip
    has_gpu = np.array([_known_gpu(record) for record in rows], dtype=bool)
    fraction_known = has_version | np.isfinite(_column(rows, "mem_fraction"))
    # A server that was not told a format loads what the checkpoint is; a log that does not name it leaves it open.
    has_format = np.array(
        [record.get("weight_quant") is not None or not is_start(record) for record in rows], dtype=bool
    )
    answerable = has_gpu & has_format & np.where(system.on_vllm, has_version, fraction_known)

    before, after = (_column(rows, f"avail_mem_{when}_gib", GIB) for when in ("before_load", "after_load"))
    after = np.fmin(after, _column(rows, "avail_mem_after_load_min_gib", GIB))
    weights = _column(rows, "weights_gib", GIB)
    drafted = _or(_column(rows, "draft_weights_gib", GIB), np.zeros(len(rows)))
    drafted = np.where(has_version & (system.version >= sglang.DRAFT_FIRST), drafted, 0.0)
    total = _or(
        _column(rows, "gpu_mem_total_gib", GIB), np.where(has_gpu, need.memory - DRIVER_BYTES, np.nan)
    )
    fixed = _column(rows, "non_torch_gib", GIB)
    graphs = _or(_column(rows, "graph_mem_gib", GIB), whole.graph_bytes)
    fraction = settings.memory_fraction
    pool = np.where(
        system.on_vllm,
        vllm.pool_bytes(
            total, fraction, weights, _column(rows, "activation_peak_gib", GIB), fixed,
            vllm.counted_graph_bytes(need.version, graphs),
        ),
        sglang.pool_bytes(before, fraction, _or(before - after, weights) + drafted),
    )  # fmt: skip
    tokens, _ = pool_tokens(need, pool, settings.chunk_tokens, context, ratio, page)
    # TensorRT-LLM prints the peak of a step, from which its rule starts, in no form that records hold.
    ruled = np.isfinite(pool) & np.where(system.on_vllm, has_version, fraction_known) & ~system.on_trtllm
    return {
        "max_total_tokens": np.where(answerable, whole.max_total_tokens / whole.ranks, np.nan),
        "max_total_tokens_given_memory": np.where(ruled, tokens, np.nan),
    }
