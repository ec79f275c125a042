"""From names and flags to fully filled deployments and workloads, for one row or for a million.

Rows are columns of options (the options of `aicalib predict` with underscores). Names are looked up once
for each distinct combination; numbers are checked and filled in as arrays. What cannot be resolved is
refused row by row with the error that says why; nothing is guessed unsaid: what was filled in stands in
`Identity.notes`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.batch import Batch
from aicalib.checks import kv_heads_divide, wrong_numbers
from aicalib.deployment import Deployment, Identity, Workload
from aicalib.engines import ENGINES, defaults
from aicalib.errors import InvalidValue, NotCovered, RequestError, UnknownName, fold
from aicalib.identify import WIDTHS, identify, numbers_of
from aicalib.models.stack import ArchitectureArrays, stack
from aicalib.physics.memory import fits, memory
from aicalib.physics.system import System
from aicalib.serving.load import LOADS, Load

Array = NDArray[np.float64]
Codes = NDArray[np.intp]

NAME_COLUMNS = ("model", "gpu", "gemm", "kv", "fmha", "moe", "engine", "engine_version")
"""Columns that are looked up as one name each."""

NUMBER_COLUMNS = (
    "tp", "dp", "ep", "pp", "isl", "osl", "concurrency", "num_prompts", "mem_fraction",
    "chunked_prefill_size", "max_running_requests", "cuda_graph_max_bs", "scheduler_recv_interval",
    "engine_month",
)  # fmt: skip
"""Columns of numbers; NaN or None where not given."""

FLAG_COLUMNS = ("lockstep", "warmed_up")
"""Columns of yes or no."""

YES_OR_NO = {"true": True, "yes": True, "1": True, "1.0": True, "false": False, "no": False, "0": False,
             "0.0": False}  # fmt: skip

NAME_NUMBERS = (
    "gemm_bits", "expert_bits", "kv_bits", "table_bits", "gemm_peak_flops_s", "expert_peak_flops_s",
    "attention_peak_flops_s", "gemm_class", "expert_class", "kv_class", "attention_class",
    "bandwidth_bytes_s", "memory_bytes", "link_2_bytes_s", "link_4_bytes_s", "link_8_bytes_s", "is_amd",
    "is_a100",
    "engine", "engine_month", "version", "gpus_together",
)  # fmt: skip
"""What `numbers_of` gives for one identity."""

DEFAULTS: Mapping[str, Any] = {
    "model": "llama-70b",
    "gpu": "h100-sxm",
    "engine": "sglang",
    "isl": 1024.0,
    "osl": 256.0,
    "concurrency": 32.0,
    "dp": 1.0,
    "ep": 1.0,
    "pp": 1.0,
    "load": "closed",
    "lockstep": False,
    "warmed_up": True,
}
"""What `predict` takes where an option is missing. tp is then the smallest that fits."""

PROMPTS_PER_SLOT = 10.0
"""Requests of a benchmark over its concurrency where not given, as InferenceX runs it."""


def _missing(value: Any) -> bool:
    """Tell whether a cell is empty: None, NaN, pandas' NA or an empty text."""
    if value is None or (isinstance(value, str) and not value):
        return True
    try:
        return bool(value != value)
    except TypeError:  # NA compares to NA
        return True
    except ValueError:  # an array is no empty cell; it is refused as what it should be
        return False


def _columns(options: Mapping[str, Sequence[Any]], n: int) -> dict[str, list[Any]]:
    known = {*NAME_COLUMNS, *NUMBER_COLUMNS, *FLAG_COLUMNS, "load"}
    for name in options:
        if name not in known:
            raise UnknownName("option", name, known)
    return {
        name: [DEFAULTS.get(name) if _missing(value) else value for value in options.get(name, [None] * n)]
        for name in known
    }


def _flag_arrays(
    columns: dict[str, list[Any]], refused: dict[int, RequestError]
) -> dict[str, NDArray[np.bool_]]:
    arrays = {}
    for name in FLAG_COLUMNS:
        values = np.zeros(len(columns[name]), dtype=np.bool_)
        for row, value in enumerate(columns[name]):
            meaning = YES_OR_NO.get(str(value).lower())
            if meaning is None:
                refused.setdefault(row, InvalidValue(f"{name} '{value}' is neither yes nor no"))
            else:
                values[row] = meaning
        arrays[name] = values
    return arrays


def _loads(columns: dict[str, list[Any]], refused: dict[int, RequestError]) -> NDArray[np.bool_]:
    """Return whether each load is a static batch; refuse those that are not computed, by name."""
    known = {fold(name): name for name in LOADS}
    static = np.zeros(len(columns["load"]), dtype=np.bool_)
    for row, value in enumerate(columns["load"]):
        load = known.get(fold(str(value)))
        if load is None:
            message = f"load '{value}' is not covered yet; covered are {', '.join(LOADS)}"
            refused.setdefault(row, NotCovered(message, LOADS))
        static[row] = load == "static_batch"
    return static


def _number_arrays(columns: dict[str, list[Any]], refused: dict[int, RequestError]) -> dict[str, Array]:
    arrays = {}
    for name in NUMBER_COLUMNS:
        values = np.full(len(columns[name]), np.nan)
        for row, value in enumerate(columns[name]):
            if value is None:
                continue
            try:
                values[row] = float(value)
            except (TypeError, ValueError):
                refused.setdefault(row, InvalidValue(f"{name} '{value}' is not a number"))
        arrays[name] = values
    return arrays


class _Rows(NamedTuple):
    """Rows whose names are known: their architectures, the numbers of their names, and their options."""

    arch: ArchitectureArrays
    sized: dict[str, Array]
    numbers: dict[str, Array]

    def take(self, chosen: Codes) -> _Rows:
        return _Rows(
            self.arch.take(chosen),
            {name: values[chosen] for name, values in self.sized.items()},
            {name: values[chosen] for name, values in self.numbers.items()},
        )

    def with_numbers(self, **numbers: Array) -> _Rows:
        return self._replace(numbers={**self.numbers, **numbers})


def resolve(options: Mapping[str, Sequence[Any]], rows: int | None = None) -> Batch:
    """Resolve columns of options.

    Parameters
    ----------
    options : mapping of str to sequence
        Columns of one length; names from `NAME_COLUMNS`, `NUMBER_COLUMNS`, `load` ("closed" or
        "static_batch"), `lockstep`, `warmed_up`. None or NaN means not given.
    rows : int, optional
        Number of rows, where there may be no column at all.

    Returns
    -------
    Batch

    Raises
    ------
    UnknownName
        For a column that is no option. Whatever is wrong with a row is in `Batch.refused` instead.
    """
    n = rows if rows is not None else max((len(values) for values in options.values()), default=1)
    columns = _columns(options, n)
    refused: dict[int, RequestError] = {}
    identities, codes = _identities(columns, n, refused)
    return _resolve_numbers(columns, identities, codes, refused)


def ask(deployment: Deployment, workload: Workload, **changed: Any) -> Batch:
    """Return a deployment and a workload as a batch of one.

    Parameters
    ----------
    deployment : Deployment
    workload : Workload
    **changed
        Numbers to take instead, by the names of their options; None lets the engine choose.

    Raises
    ------
    RequestError
        If the widths, lengths or settings cannot be.
    """
    options = {
        "tp": deployment.tp,
        "dp": deployment.dp,
        "ep": deployment.ep,
        "pp": deployment.pp,
        "mem_fraction": deployment.memory_fraction,
        "chunked_prefill_size": deployment.chunk_tokens,
        "max_running_requests": deployment.max_running,
        "cuda_graph_max_bs": deployment.graph_max_batch,
        "scheduler_recv_interval": deployment.poll_interval,
        **workload.as_dict(),
        **changed,
    }
    columns = _columns({name: [value] for name, value in options.items()}, 1)
    batch = _resolve_numbers(columns, [deployment.identity], np.zeros(1, dtype=np.intp), {})
    for error in batch.refused.values():
        raise error
    return batch


def _resolve_numbers(
    columns: dict[str, list[Any]], identities: list[Identity], codes: Codes, refused: dict[int, RequestError]
) -> Batch:
    """Resolve the numbers of rows whose names are known or refused."""
    numbers = _number_arrays(columns, refused)
    flags = _flag_arrays(columns, refused)
    static = _loads(columns, refused)
    named = np.array([row for row in range(codes.size) if row not in refused], dtype=np.intp)
    known = [numbers_of(each) for each in identities]
    of_name = {name: np.array([row[name] for row in known], dtype=float) for name in NAME_NUMBERS}
    asked = _Rows(
        stack([each.architecture for each in identities]).take(codes[named]),
        {name: values[codes[named]] for name, values in of_name.items()},
        {name: values[named] for name, values in numbers.items()},
    )
    filled = _fill(asked)
    who = [identities[code] for code in codes[named]]
    for place, error in wrong_numbers(filled.arch, filled.sized["gpus_together"], filled.numbers, who):
        refused.setdefault(int(named[place]), error)
    good = np.array([place for place, row in enumerate(named) if int(row) not in refused], dtype=np.intp)
    final, answered = filled.take(good), named[good]
    load = Load(
        isl=final.numbers["isl"],
        osl=final.numbers["osl"],
        concurrency=final.numbers["concurrency"],
        num_prompts=final.numbers["num_prompts"],
        lockstep=flags["lockstep"][answered],
        warmed_up=flags["warmed_up"][answered],
        static=static[answered],
    )
    return Batch(answered, identities, codes[answered], _system(final), load, refused)


def _identities(
    columns: dict[str, list[Any]], n: int, refused: dict[int, RequestError]
) -> tuple[list[Identity], Codes]:
    """Look up each distinct combination of names once; the code of a refused row is -1."""
    places: dict[Hashable, int] = {}
    failures: dict[Hashable, RequestError] = {}
    identities: list[Identity] = []
    codes = np.full(n, -1, dtype=np.intp)
    names: Iterator[list[Any]] = (
        [None if each is None else str(each) for each in columns[name]] for name in NAME_COLUMNS
    )
    for row, key in enumerate(zip(*names, strict=True)):
        if key not in places and key not in failures:
            try:
                identities.append(identify(*key))
                places[key] = len(identities) - 1
            except RequestError as error:
                failures[key] = error
        if key in places:
            codes[row] = places[key]
        else:
            refused.setdefault(row, failures[key])
    return identities, codes


def _system(rows: _Rows) -> System:
    """Build what physics reads; the engine's settings are what was given, else what it takes by itself."""
    sized, numbers = rows.sized, rows.numbers
    tp = numbers["tp"]
    asked = defaults.Settings(
        memory_fraction=numbers["mem_fraction"],
        chunk_tokens=numbers["chunked_prefill_size"],
        max_running=numbers["max_running_requests"],
        graph_max_batch=numbers["cuda_graph_max_bs"],
        poll_interval=numbers["scheduler_recv_interval"],
    )
    where = (sized["version"], sized["memory_bytes"], tp, numbers["dp"], numbers["pp"])
    on_vllm = sized["engine"] == ENGINES.index("vllm")
    both = zip(
        defaults.vllm(asked, *where[:2], sized["is_a100"] > 0), defaults.sglang(asked, *where), strict=True
    )
    settings = defaults.Settings(*(np.where(on_vllm, vllm, sglang) for vllm, sglang in both))
    given_month = numbers["engine_month"]
    return System(
        arch=rows.arch,
        gemm_bits=sized["gemm_bits"],
        expert_bits=sized["expert_bits"],
        kv_bits=sized["kv_bits"],
        table_bits=sized["table_bits"],
        gemm_peak_flops_s=sized["gemm_peak_flops_s"],
        expert_peak_flops_s=sized["expert_peak_flops_s"],
        attention_peak_flops_s=sized["attention_peak_flops_s"],
        gemm_class=sized["gemm_class"].astype(np.intp),
        expert_class=sized["expert_class"].astype(np.intp),
        kv_class=sized["kv_class"].astype(np.intp),
        attention_class=sized["attention_class"].astype(np.intp),
        bandwidth_bytes_s=sized["bandwidth_bytes_s"],
        link_bytes_s=np.select(
            [tp <= 2, tp <= 4], [sized["link_2_bytes_s"], sized["link_4_bytes_s"]], sized["link_8_bytes_s"]
        ),
        memory_bytes=sized["memory_bytes"],
        is_amd=sized["is_amd"] > 0,
        tp=tp,
        dp=numbers["dp"],
        ep=numbers["ep"],
        pp=numbers["pp"],
        engine=sized["engine"].astype(np.intp),
        engine_month=np.where(np.isnan(given_month), sized["engine_month"], given_month),
        memory_fraction=settings.memory_fraction,
        chunk_tokens=settings.chunk_tokens,
        max_running=settings.max_running,
        graph_max_batch=settings.graph_max_batch,
        poll_interval=settings.poll_interval,
    )


def _fill(rows: _Rows) -> _Rows:
    """Fill in the benchmark's size and the tensor-parallel width where they were not given."""
    asked = rows.numbers["num_prompts"]
    prompts = np.where(np.isnan(asked), PROMPTS_PER_SLOT * rows.numbers["concurrency"], asked)
    rows = rows.with_numbers(num_prompts=prompts)
    tp = rows.numbers["tp"]
    open_ = np.isnan(tp)
    return rows.with_numbers(tp=np.where(open_, smallest_tp(rows), tp)) if open_.any() else rows


def smallest_tp(rows: _Rows) -> Array:
    """Return for each row the smallest width of one node that divides the heads and fits, shape (n,).

    Where none fits it is the widest that divides: the answer is then that the model does not fit.
    """
    numbers, heads = rows.numbers, rows.arch.heads
    best = np.ones_like(heads)
    for width in reversed(WIDTHS):
        tp = np.full_like(best, width)
        possible = (np.mod(heads, tp / numbers["dp"]) == 0) & (np.mod(tp, numbers["dp"]) == 0)
        possible &= (np.mod(tp, numbers["ep"]) == 0) & (tp <= rows.sized["gpus_together"])
        possible &= kv_heads_divide(rows.arch, tp / numbers["dp"])
        trial = _system(rows.with_numbers(tp=tp))
        holds = fits(trial, memory(trial), numbers["isl"] + numbers["osl"])
        best = np.where(possible & (holds | (best < width)), width, best)
    return best


def question(**options: Any) -> tuple[Deployment, Workload]:
    """Return one deployment and workload from options; what is not given takes the command's defaults.

    Raises
    ------
    RequestError
        With the reason and what would work.
    """
    batch = resolve({name: [value] for name, value in options.items()}, 1)
    for error in batch.refused.values():
        raise error
    return batch.deployment(0), batch.workload(0)


def smallest_fitting_tp(deployment: Deployment, workload: Workload) -> int | None:
    """Return the smallest width of one node on which a deployment fits, None where there is none."""
    chosen_by_engine = dict.fromkeys(
        ("mem_fraction", "chunked_prefill_size", "max_running_requests", "cuda_graph_max_bs")
    )
    for width in WIDTHS:
        try:
            trial = ask(deployment, workload, **{**chosen_by_engine, "tp": width})
        except RequestError:
            continue  # a width that does not divide
        if fits(trial.system, memory(trial.system), trial.load.isl + trial.load.osl).all():
            return width
    return None
