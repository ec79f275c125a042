"""Measured runs as questions to the model and the answers that were measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aicalib.calibrate.checkpoints import weight_format
from aicalib.calibrate.layouts import layout_options, network_assumed, network_decides, wrong_layout
from aicalib.engines.backends import BACKENDS
from aicalib.engines.releases import months, version_key
from aicalib.errors import InvalidValue, NotCovered, RequestError
from aicalib.physics.system import REFERENCE_MONTH
from aicalib.resolve.batch import Batch
from aicalib.resolve.features import FITTED_ACCEPTANCE
from aicalib.resolve.identify import identify
from aicalib.resolve.rows import resolve

Array = NDArray[np.float64]

EXPERTS_ONLY = ("int4", "mxfp4")
"""Checkpoint formats that quantize the experts alone and leave the rest as the model was published."""

SPECULATION = {
    "spec_algorithm": "algorithm",
    "spec_steps": "number of steps",
}
"""Keys without which a run with speculative decoding cannot be asked, and what they are."""

DRAFTED_BY_LAYER = ("MTP", "NEXTN", "EAGLE")
"""Algorithms that draft by the model's own layer where it has one: engines call it EAGLE where they run the layer as
a draft model."""

INFERENCEX_RATIO = 0.8
"""Range ratio of InferenceX's client, which no other published source uses."""

DOUBT = 0.1
"""Probability of the other state up to which a run is taken as what it is asked as."""

FIXED_LENGTHS = 0.99
"""From this ratio of the shortest to the longest length on, requests run in lockstep."""


@dataclass(frozen=True)
class Runs:
    """Runs that the model can answer, with what was measured.

    Attributes
    ----------
    batch : Batch
        n resolved questions; `batch.rows` are positions in `records`.
    records : list of dict
        All runs that were given, in the runs format.
    measured : dict of str to ndarray, shape (n,)
        `ttft_ms`, `tpot_ms`, `e2e_ms`, `output_tok_s`; NaN where not measured.
    median : dict of str to ndarray of bool, shape (n,)
        Whether the figure is a median, to be compared with the predicted median.
    derived : ndarray of bool, shape (n,)
        Whether the end-to-end figure is TTFT + TPOT (OSL - 1).
    speculation_probability : ndarray, shape (n,), optional
        That a run speculated whose record does not say so; NaN where the record says it (`aicalib.calibrate.hidden`).
    """

    batch: Batch
    records: list[Mapping[str, Any]]
    measured: dict[str, Array]
    median: dict[str, NDArray[np.bool_]]
    derived: NDArray[np.bool_]
    speculation_probability: Array | None = None

    def take(self, chosen: NDArray[np.intp]) -> Runs:
        """Return some of the answered runs, in that order."""
        return Runs(
            self.batch.take(chosen),
            self.records,
            {name: values[chosen] for name, values in self.measured.items()},
            {name: values[chosen] for name, values in self.median.items()},
            self.derived[chosen],
            None if self.speculation_probability is None else self.speculation_probability[chosen],
        )

    @property
    def settled(self) -> NDArray[np.bool_]:
        """Whether a fit may take each run as it is asked: no doubt is left whether it speculated, shape (n,)."""
        chance = self.speculation_probability
        if chance is None:
            return np.ones(self.batch.rows.size, dtype=bool)
        drafting = self.batch.features.drafting
        asked = np.zeros(chance.size) if drafting is None else (drafting.method >= 0).astype(float)
        result: NDArray[np.bool_] = ~(np.abs(chance - asked) > DOUBT)
        return result

    @property
    def inferred(self) -> NDArray[np.bool_]:
        """Whether something that no record says was filled in, shape (n,).

        That a run speculated, or not; how much was accepted; the network between instances.
        """
        result = network_assumed(self.batch)
        drafting = self.batch.features.drafting
        if drafting is not None:
            result |= (drafting.method >= 0) & (drafting.accepted == FITTED_ACCEPTANCE)
        if self.speculation_probability is not None:
            result |= np.isfinite(self.speculation_probability)
        return result

    @property
    def answered(self) -> list[Mapping[str, Any]]:
        """The runs behind the n questions."""
        return [self.records[row] for row in self.batch.rows]

    def column(self, name: str) -> list[Any]:
        """Return one key of the answered runs."""
        return [record.get(name) for record in self.answered]

    @property
    def groups(self) -> list[tuple[str, str, str]]:
        """(engine, model family, GPU) of each answered run."""
        return [
            (who.engine, who.architecture.family, who.accelerator.name)
            for who in (self.batch.identities[code] for code in self.batch.codes)
        ]


def _given(value: Any) -> bool:
    return value is not None and value == value


def refusal(record: Mapping[str, Any]) -> RequestError | None:
    """Return why a run cannot be asked as a question, or None where it can."""
    separate = record.get("disagg") is True
    if separate and (error := wrong_layout(record)) is not None:
        return error
    if record.get("spec_decode") is True:
        for key, what in SPECULATION.items():
            if not _given(record.get(key)):
                return InvalidValue(f"speculative decoding: the {what} is not recorded")
        if str(record["spec_algorithm"]).upper() not in DRAFTED_BY_LAYER:
            return NotCovered(f"speculative decoding by {record['spec_algorithm']} is not covered")
    for key, what in (
        ("model", "model"),
        ("gpu", "GPU"),
        ("engine", "engine"),
        ("tp", "tensor-parallel width"),
    ):
        if not _given(record.get(key)) and not (separate and key == "tp"):
            return InvalidValue(f"the {what} is not recorded")
    for side in ("isl", "osl"):
        if not _given(record.get(side)) and not _given(record.get(f"mean_{side}_actual")):
            return InvalidValue(f"{side} is not recorded")
    needed = {"open": "request_rate", "burst": "num_prompts", "static_batch": "batch_size"}
    key = needed.get(record.get("load") or "closed", "concurrency")
    if key != "batch_size" and not _given(record.get(key)):
        return InvalidValue(f"{key} is not recorded")
    return None


def mean_length(record: Mapping[str, Any], side: str) -> float:
    """Return the mean length of the requests as sent, in tokens.

    The actual mean where token totals were recorded; else the mean of a uniform draw from
    [ratio, 1] x nominal; else the nominal length. SGLang's client draws its random data set from 1 token on
    where it is given no ratio.
    """
    actual = record.get(f"mean_{side}_actual")
    if _given(actual):
        return float(actual)  # type: ignore[arg-type]
    ratio = record.get("range_ratio")
    if not _given(ratio):
        ratio = 0.0 if record.get("dataset") == "random" and record.get("engine") == "sglang" else 1.0
    return float(record[side]) * (1.0 + float(ratio)) / 2.0  # type: ignore[arg-type]


def lockstep(record: Mapping[str, Any]) -> bool:
    """Return whether all requests had the same lengths.

    They had where the ratio says so, or where no ratio, no dataset with lengths of its own and no actual
    mean that departs from the nominal one is recorded.
    """
    ratio = record.get("range_ratio")
    if _given(ratio):
        return float(ratio) >= FIXED_LENGTHS  # type: ignore[arg-type]
    actual, nominal = record.get("mean_osl_actual"), record.get("osl")
    if _given(actual) and _given(nominal):
        return float(actual) >= FIXED_LENGTHS * float(nominal)  # type: ignore[arg-type]
    return record.get("dataset") in (None, "custom") and _given(nominal)


def expert_width(record: Mapping[str, Any]) -> Any:
    """Return the width over which whole experts are split.

    Early exports had no field for it, or wrote 1; where the launch script switched expert parallelism on, it is the
    tensor-parallel width.
    """
    width = record.get("ep")
    if record.get("expert_parallel") is True and (not _given(width) or width == 1):
        return record.get("tp")
    return width


def warmed_up(record: Mapping[str, Any]) -> bool:
    """Return whether the engine had served prompts like those of the run before it began.

    InferenceX starts a server for each run, and warms it up, if at all, with one prompt sent again and again: kernels
    for other lengths are compiled when the first wave of drawn prompts comes. Others run a sweep on one server. A run
    that `aicalib measure` took says it itself.
    """
    extra = record.get("extra")
    said = record.get("warmed_up", extra.get("warmed_up") if isinstance(extra, Mapping) else None)
    if said is not None:
        return bool(said)
    return not _given(record.get("num_warmups")) and record.get("range_ratio") != INFERENCEX_RATIO


def engine_month(record: Mapping[str, Any]) -> float | None:
    """Return the age of the engine: the day of the run, else None for the version's own date.

    A run with neither day nor version takes the reference month of the fixed times.
    """
    measured_on = record.get("measured_on")
    if _given(measured_on):
        return months(date.fromisoformat(str(measured_on)[:10]))
    version = record.get("engine_version")
    if _given(version) and version_key(str(version)) is not None:
        return None
    return REFERENCE_MONTH


@lru_cache(maxsize=4096)
def _other_kernels(
    names: tuple[tuple[str, str | None], ...], backends: tuple[tuple[str, str], ...]
) -> Mapping[str, str]:
    """Return those backends that run other kernels than the engine would by itself, and whose timings are known.

    What a run says of others changes no question: they are the engine's own choice, or nobody timed them.
    """
    found = {}
    for name, backend in backends:
        try:
            who = identify(**dict(names), **{name: backend})  # type: ignore[arg-type]
        except RequestError:
            continue
        if who.other_kernels:
            found[name] = backend
    return found


def _options(record: Mapping[str, Any]) -> dict[str, Any]:
    quant = weight_format(record)
    experts_only = quant in EXPERTS_ONLY
    slots = record.get("batch_size") if record.get("load") == "static_batch" else record.get("concurrency")
    version = record.get("engine_version")
    kv = record.get("kv_dtype")
    accept = record["accept_length"] if _given(record.get("accept_length")) else FITTED_ACCEPTANCE
    drafts, is_open = record.get("spec_decode") is True, record.get("load") == "open"
    names = {
        "model": record["model"],
        "gpu": record["gpu"],
        "gemm": None if experts_only else quant,
        "moe": quant if experts_only else None,
        "kv": kv if _given(kv) and kv != "auto" else None,
        "fmha": None,
        "engine": record["engine"],
        "engine_version": version if _given(version) else None,
    }
    backends = tuple((name, record[name]) for name in BACKENDS if _given(record.get(name)))
    return {
        **names,
        **(_other_kernels(tuple(names.items()), backends) if backends else {}),
        "tp": record.get("tp"),
        "dp": record.get("dp"),
        "ep": expert_width(record),
        "pp": record.get("pp"),
        "isl": mean_length(record, "isl"),
        "osl": mean_length(record, "osl"),
        "concurrency": slots,
        "num_prompts": record.get("num_prompts"),
        "mem_fraction": record.get("mem_fraction"),
        "chunked_prefill_size": record.get("chunked_prefill_size"),
        "max_running_requests": record.get("max_running_requests"),
        "cuda_graph_max_bs": record.get("cuda_graph_max_bs"),
        "scheduler_recv_interval": record.get("scheduler_recv_interval"),
        "engine_month": engine_month(record),
        "load": record.get("load") or "closed",
        "request_rate": record.get("request_rate") if is_open else None,
        "spec_method": "mtp" if drafts else None,
        "spec_tokens": record.get("spec_steps") if drafts else None,
        "spec_accept": accept if drafts else None,
        "lockstep": lockstep(record),
        "warmed_up": warmed_up(record),
        **layout_options(record),
    }


def _figure(records: list[Mapping[str, Any]], metric: str) -> tuple[Array, NDArray[np.bool_]]:
    """Return a latency in ms and whether it is a median: mean, else median, else an unspecified figure."""
    values = np.full(len(records), np.nan)
    median = np.zeros(len(records), dtype=bool)
    for row, record in enumerate(records):
        for key in (f"mean_{metric}", f"median_{metric}", f"{metric}_unspecified"):
            if _given(record.get(key)):
                values[row] = float(record[key])
                median[row] = key.startswith("median")
                break
    return values, median


def _throughput(records: list[Mapping[str, Any]], isl: Array, osl: Array) -> Array:
    """Return output tokens per second of the deployment, from the total where only that was measured."""
    values = np.full(len(records), np.nan)
    for row, record in enumerate(records):
        if _given(record.get("output_tok_s")):
            values[row] = float(record["output_tok_s"])
        elif _given(record.get("total_tok_s")):
            values[row] = float(record["total_tok_s"]) * osl[row] / (isl[row] + osl[row])
    return values


def as_runs(records: Iterable[Mapping[str, Any]]) -> Runs:
    """Turn runs in the runs format into questions and measured answers.

    Parameters
    ----------
    records : iterable of mapping
        Keys of the runs format; None or NaN means not known.

    Returns
    -------
    Runs
        What cannot be asked stands in `Runs.batch.refused` by its position, with the reason.
    """
    all_records = list(records)
    refused = {row: error for row, record in enumerate(all_records) if (error := refusal(record)) is not None}
    askable = [row for row in range(len(all_records)) if row not in refused]
    options = [_options(all_records[row]) for row in askable]
    names = dict.fromkeys(name for each in options for name in each) or {"model": None}
    batch = resolve({name: [each.get(name) for each in options] for name in names})
    refused |= {askable[row]: error for row, error in batch.refused.items()}
    rows = np.array([askable[row] for row in batch.rows], dtype=np.intp)
    batch = replace(batch, rows=rows, refused=refused)
    ttft_ms, _ = _figure([all_records[row] for row in rows], "ttft_ms")
    hangs = network_decides(batch, ttft_ms)
    if hangs.any():
        unknown = InvalidValue(
            "the network between prefill and decode instances is not recorded, and sending the cache may take much of "
            "the TTFT"
        )
        refused |= dict.fromkeys(rows[hangs].tolist(), unknown)
        batch = replace(batch, refused=refused).take(np.flatnonzero(~hangs))
        rows = batch.rows

    answered = [all_records[row] for row in rows]
    isl, osl = batch.load.isl, batch.load.osl
    measured: dict[str, Array] = {}
    median: dict[str, NDArray[np.bool_]] = {}
    for metric in ("ttft_ms", "tpot_ms", "e2e_ms"):
        measured[metric], median[metric] = _figure(answered, metric)
    sum_ms = measured["ttft_ms"] + measured["tpot_ms"] * (osl - 1.0)
    derived = np.isnan(measured["e2e_ms"]) & ~np.isnan(sum_ms)
    measured["e2e_ms"] = np.where(derived, sum_ms, measured["e2e_ms"])
    median["e2e_ms"] = np.where(derived, median["ttft_ms"], median["e2e_ms"])
    measured["output_tok_s"] = _throughput(answered, isl, osl)
    median["output_tok_s"] = np.zeros(len(answered), dtype=bool)
    return Runs(batch, all_records, measured, median, derived)
