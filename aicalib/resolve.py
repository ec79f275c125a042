"""From names and flags to fully filled deployments and workloads, for one row or for a million.

Rows are columns of options (the options of `aicalib predict` with underscores). Names are looked up once
for each distinct combination; numbers are checked and filled in as arrays. What cannot be resolved is
refused row by row with the error that says why; nothing is guessed unsaid: what was filled in stands in
`Identity.notes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.batch import Batch
from aicalib.checks import Widths, kv_heads_divide, wrong_numbers, wrong_widths
from aicalib.columns import (
    DEFAULTS,
    NAME_COLUMNS,
    check_options,
    distinct,
    flag_columns,
    is_missing,
    load_column,
    number_columns,
)
from aicalib.deployment import Deployment, Identity, Workload
from aicalib.engines import defaults
from aicalib.errors import InvalidValue, RequestError
from aicalib.features import DRAFT_NAMES, DRAFT_NUMBERS, POOL_NUMBERS, Asked, Features, Part, resolve_features
from aicalib.identify import SURFACE, WIDTHS, identify, numbers_of
from aicalib.loads import fill_prompts
from aicalib.models.stack import ArchitectureArrays, stack
from aicalib.physics.memory import fits, memory
from aicalib.physics.system import ENGINES, Settings, System
from aicalib.recent import Recent
from aicalib.serving.load import Load

Array = NDArray[np.float64]
Codes = NDArray[np.intp]


class _Names(NamedTuple):
    """Names of n rows, looked up: the distinct combinations, and which of them each row is (-1 if refused).

    `arch` and `numbers` are what physics reads of the combinations, one element each.
    """

    identities: list[Identity]
    codes: Codes
    arch: ArchitectureArrays
    numbers: dict[str, Array]
    refused: dict[int, RequestError]

    @staticmethod
    def of(identities: list[Identity], codes: Codes, refused: dict[int, RequestError]) -> _Names:
        known = [numbers_of(each) for each in identities]
        columns = known[0] if known else _name_numbers()
        numbers = {name: np.array([each[name] for each in known], dtype=float) for name in columns}
        return _Names(identities, codes, stack([each.architecture for each in identities]), numbers, refused)


@cache
def _name_numbers() -> tuple[str, ...]:
    """Return the names of what `numbers_of` gives, for a table in which no name is known."""
    words: list[Any] = [DEFAULTS.get(name) for name in NAME_COLUMNS]
    return tuple(numbers_of(identify(*words)))


_ONE_NAME: Recent[_Names] = Recent(256)
"""Names of single deployments asked about last."""


def _look_up(options: Mapping[str, Any], n: int) -> _Names:
    """Look up each distinct combination of names once."""
    codes = np.zeros(n, dtype=np.intp)
    values: list[tuple[Codes, list[Any]]] = []
    for name in NAME_COLUMNS:
        if name in options:
            place, found = distinct(options[name], DEFAULTS.get(name))
        else:
            place, found = np.zeros(n, dtype=np.intp), [DEFAULTS.get(name)]
        codes = codes * len(found) + place
        values.append((place, found))
    _, first, codes = np.unique(codes, return_index=True, return_inverse=True)
    identities: list[Identity] = []
    place_of, failures = np.full(first.size, -1, dtype=np.intp), {}
    for number, row in enumerate(first):
        cells = (found[place[row]] for place, found in values)
        words: list[Any] = [None if each is None else str(each) for each in cells]
        try:
            identities.append(identify(*words))
            place_of[number] = len(identities) - 1
        except RequestError as error:
            failures[number] = error
    refused = (
        {int(row): failures[codes[row]] for row in np.flatnonzero(place_of[codes] < 0)} if failures else {}
    )
    return _Names.of(identities, place_of[codes], refused)


def resolve(options: Mapping[str, Any], rows: int | None = None, memory_only: bool = False) -> Batch:
    """Resolve columns of options.

    Parameters
    ----------
    options : mapping of str to sequence
        Columns of one length (lists, arrays or pandas columns); names from `aicalib.columns`,
        `aicalib.features.DRAFT_NAMES` and `load` (one of `aicalib.serving.load.LOADS`). None or NaN means not given.
    rows : int, optional
        Number of rows, where there may be no column at all.
    memory_only : bool
        Memory alone is asked for: pipeline stages and several nodes are then answered too.

    Returns
    -------
    Batch

    Raises
    ------
    UnknownName
        For a column that is no option. Whatever is wrong with a row is in `Batch.refused` instead.
    """
    check_options(options)
    n = rows if rows is not None else max((len(values) for values in options.values()), default=1)
    return _resolve_numbers(options, _look_up(options, n), memory_only)


def resolve_in_blocks(options: Mapping[str, Any], rows: int, block: int) -> Iterator[tuple[Codes, Batch]]:
    """Resolve columns of options, at most `block` rows at a time, so that what is held does not grow with them.

    As `resolve`, for arrays and pandas columns. Rows with the same names come together, so that a batch holds few
    deployments; `Batch.rows` and `Batch.refused` count from the first row of a batch, whose rows come first.

    Yields
    ------
    rows : ndarray of int
        Positions in the whole table of the rows of a batch.
    batch : Batch
    """
    check_options(options)
    names = _look_up(options, rows)
    order = np.argsort(names.codes, kind="stable")
    numeric = {name: np.asarray(values) for name, values in options.items() if name not in NAME_COLUMNS}
    for start in range(0, rows, block):
        chosen = order[start : start + block]
        codes = names.codes[chosen]
        refused = {place: names.refused[int(chosen[place])] for place in np.flatnonzero(codes < 0).tolist()}
        part = names._replace(codes=codes, refused=refused)
        yield chosen, _resolve_numbers({name: values[chosen] for name, values in numeric.items()}, part)


def resolve_known(identities: list[Identity], codes: Codes, options: Mapping[str, Any]) -> Batch:
    """Resolve rows whose names were looked up before.

    Parameters
    ----------
    identities : list of Identity
    codes : ndarray of int, shape (n,)
        For each row its place in `identities`.
    options : mapping of str to sequence
        Columns as for `resolve`, but for the names.
    """
    check_options(options)
    return _resolve_numbers(options, _Names.of(identities, codes, {}))


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
        **deployment.options(),
        **workload.as_dict(),
        **changed,
    }
    check_options(options)
    who = deployment.identity
    names = _ONE_NAME.get((who,), (), lambda: _Names.of([who], np.zeros(1, dtype=np.intp), {}))
    batch = _resolve_numbers({name: [value] for name, value in options.items()}, names)
    for error in batch.refused.values():
        raise error
    return batch


def _resolve_numbers(options: Mapping[str, Any], names: _Names, memory_only: bool = False) -> Batch:
    """Resolve the numbers of rows whose names are known or refused."""
    refused, n = dict(names.refused), names.codes.size
    numbers = number_columns(options, n, refused)
    flags = flag_columns(options, n, refused)
    kinds = load_column(options, n, numbers.get("request_rate"), refused)
    rows, codes = np.arange(n), names.codes
    if refused:
        rows = np.array([row for row in range(n) if row not in refused], dtype=np.intp)
        codes, kinds = codes[rows], kinds[rows]
        numbers = {name: values[rows] for name, values in numbers.items()}

    def refuse(place: int, error: RequestError) -> None:
        refused.setdefault(int(rows[place]), error)

    prompts = fill_prompts(numbers["num_prompts"], numbers["concurrency"], kinds, refuse)
    numbers["num_prompts"] = np.where(np.isinf(prompts), 1.0, prompts)
    if np.isnan(numbers["tp"]).any():
        numbers["tp"] = np.where(np.isnan(numbers["tp"]), smallest_tp(names, codes, numbers), numbers["tp"])

    def model(place: int) -> str:
        name: str = names.identities[codes[place]].architecture.name
        return name

    for row, error in wrong_numbers(numbers, names.arch.max_position[codes], model):
        refuse(row, error)
    who, widths, month, at = _deployments(names, codes, numbers)
    system = _system(names, who, widths, month)
    together = names.numbers["gpus_together"][who]
    asked = [names.identities[code] for code in who]
    for number, error in wrong_widths(system.arch, together, widths, asked, memory_only):
        for place in np.flatnonzero(at == number):
            refuse(int(place), error)
    settings = _settings(system, at, names.numbers["is_a100"][codes] > 0, numbers)
    chunked = ~np.isnan(numbers["chunked_prefill_size"])
    for place in np.flatnonzero(system.on_trtllm[at] & ~chunked & (numbers["isl"] > settings.chunk_tokens)):
        refuse(int(place), _longer_than_a_step(numbers["isl"][place], settings.chunk_tokens[place]))
    hit = numbers.get("prefix_hit")
    load = Load(
        isl=numbers["isl"],
        osl=numbers["osl"],
        concurrency=numbers["concurrency"],
        num_prompts=prompts,
        lockstep=flags["lockstep"][rows],
        warmed_up=flags["warmed_up"][rows],
        kind=kinds,
        request_rate=numbers.get("request_rate"),
        prefix_hit=hit if hit is not None and hit.any() else None,
    )
    mixed_chunk = flags["enable_mixed_chunk"][rows] & (system.engine[at] == ENGINES.index("sglang"))
    features = _features(options, names, rows, codes, numbers, load, mixed_chunk, refuse)
    batch = Batch(rows, names.identities, who, system, at, settings, load, refused, features)
    if len(refused) > n - rows.size:
        batch = batch.take(
            np.array([place for place, row in enumerate(rows) if int(row) not in refused], dtype=np.intp)
        )
    return batch


def _longer_than_a_step(isl: float, tokens: float) -> RequestError:
    return InvalidValue(
        f"isl {isl:g}: TensorRT-LLM takes {tokens:g} tokens a step by itself and cuts no prompt; "
        "chunked_prefill_size sets max_num_tokens and lets it cut",
        [f"chunked_prefill_size {tokens:g}", f"isl {tokens:g}"],
    )


def _features(
    options: Mapping[str, Any],
    names: _Names,
    rows: Codes,
    codes: Codes,
    numbers: dict[str, Array],
    load: Load,
    mixed_chunk: NDArray[np.bool_],
    refuse: Callable[[int, RequestError], None],
) -> Features:
    """Resolve what rows ask beyond one plain engine; nothing to do where no column of it is there."""
    if not any(name in options for name in (*DRAFT_NAMES, *DRAFT_NUMBERS, *POOL_NUMBERS)):
        return Features(mixed_chunk=mixed_chunk if mixed_chunk.any() else None)

    def cells(name: str) -> list[str | None]:
        if name not in options:
            return [None] * rows.size
        values = list(options[name])
        return [None if is_missing(values[row]) else str(values[row]) for row in rows]

    def build(identities: list[Identity], of: Codes, chosen: dict[str, Array]) -> tuple[Part, Widths]:
        known = _Names.of(identities, of, {})
        who, widths, month, at = _deployments(known, of, chosen)
        return Part(identities, who, _system(known, who, widths, month), at), widths

    given = {name: numbers.get(name, np.full(rows.size, np.nan)) for name in (*DRAFT_NUMBERS, *POOL_NUMBERS)}
    asked = Asked(
        words={name: cells(name) for name in DRAFT_NAMES},
        numbers=numbers | given,
        identities=names.identities,
        codes=codes,
        load=load,
        mixed_chunk=mixed_chunk,
    )
    return resolve_features(asked, build, refuse)


def _distinct_rows(columns: list[NDArray[Any]]) -> tuple[Codes, Codes]:
    """Return the first of each set of equal rows, and which set each row is in."""
    key = np.zeros(columns[0].size, dtype=np.int64)
    for values in columns:
        if values.size and (values != values[0]).any():
            found, place = np.unique(values, return_inverse=True)
            key = key * found.size + place
    _, first, at = np.unique(key, return_index=True, return_inverse=True)
    return first, at


def _deployments(
    names: _Names, codes: Codes, numbers: dict[str, Array]
) -> tuple[Codes, Widths, Array, Codes]:
    """Return the distinct deployments of n rows, and which of them each row is about.

    Returns
    -------
    who : ndarray of int, shape (d,)
        Combination of names of each deployment.
    widths : Widths
    month : ndarray, shape (d,)
        Age of the engine.
    at : ndarray of int, shape (n,)
    """
    given = numbers["engine_month"]
    month = np.where(np.isnan(given), names.numbers["engine_month"][codes], given)
    first, at = _distinct_rows([codes, *(numbers[name] for name in Widths._fields), month])
    widths = Widths(*(numbers[name][first] for name in Widths._fields))
    return codes[first], widths, month[first], at


def _system(names: _Names, who: Codes, widths: Widths, month: Array) -> System:
    """Build what physics reads of d deployments."""
    every = who.size == len(names.identities) and bool((who == np.arange(who.size)).all())
    sized = names.numbers if every else {name: values[who] for name, values in names.numbers.items()}
    tp = widths.tp
    fabric = tp <= sized["link_gpus"]
    surfaces = {
        name.removeprefix(SURFACE): sized[name].astype(np.intp) for name in sized if name.startswith(SURFACE)
    }
    for call in ("graph", "eager"):
        inside, outside = surfaces.pop(f"fabric_{call}"), surfaces.pop(f"host_bus_{call}")
        surfaces[call] = np.where(fabric, inside, outside)
    classes = ("gemm_class", "expert_class", "kv_class", "attention_class", "engine")
    plain = (
        "gemm_bits", "expert_bits", "kv_bits", "table_bits", "gemm_peak_flops_s", "expert_peak_flops_s",
        "attention_peak_flops_s", "wide_peak_flops_s", "bandwidth_bytes_s", "memory_bytes",
        "taken_bytes", "version", "masks_window", "expert_tile", "latent_bits", "hidden_pad", "width_pad",
        "window_ratio",
    )  # fmt: skip
    numbers: dict[str, Any] = {name: sized[name] for name in plain}
    numbers |= {name: sized[name].astype(np.intp) for name in classes}
    return System(
        arch=names.arch if every else names.arch.take(who),
        **numbers,
        link_bytes_s=np.where(fabric, sized["link_bytes_s"], sized["pcie_bytes_s"]),
        surfaces=surfaces,
        dynamic_scales=sized["dynamic_scales"] > 0,
        is_amd=sized["is_amd"] > 0,
        is_cpu=sized["is_cpu"] > 0,
        one_pool=sized["one_pool"] > 0,
        has_encoder=sized["has_encoder"] > 0,
        tp=tp,
        dp=widths.dp,
        ep=widths.ep,
        pp=widths.pp,
        engine_month=month,
    )


def _settings(system: System, at: Codes, is_a100: NDArray[np.bool_], numbers: dict[str, Array]) -> Settings:
    """Return the engine's settings of n rows: what was given, else what it takes by itself."""
    asked = Settings(
        memory_fraction=numbers["mem_fraction"],
        chunk_tokens=numbers["chunked_prefill_size"],
        max_running=numbers["max_running_requests"],
        graph_max_batch=numbers["cuda_graph_max_bs"],
        poll_interval=numbers["scheduler_recv_interval"],
    )
    if not any(np.isnan(values).any() for values in asked):
        return asked
    arch = system.arch
    where, widths = (
        (system.version[at], system.memory_bytes[at]),
        (system.tp[at], system.dp[at], system.pp[at]),
    )

    def sglang() -> Settings:
        latent = (arch.mla_layers > 0)[at]
        return defaults.sglang(asked, *where, *widths, latent, system.has_encoder[at], system.is_cpu[at])

    def vllm() -> Settings:
        longest = numbers["context_len"]
        context = np.where(np.isnan(longest), arch.max_position[at], longest)
        return defaults.vllm(asked, *where, is_a100, context, system.is_cpu[at], system.tp[at])

    fill, engine = (sglang, vllm, lambda: defaults.trtllm(asked)), system.engine[at]
    there = np.flatnonzero(np.bincount(engine, minlength=len(fill)))
    if there.size == 1:
        return fill[there[0]]()
    chosen = [fill[code]() if code in there else asked for code in range(len(fill))]
    return Settings(*(np.choose(engine, each) for each in zip(*chosen, strict=True)))


def smallest_tp(names: _Names, codes: Codes, numbers: dict[str, Array]) -> Array:
    """Return for each row the smallest width of one node that divides the heads and fits, shape (n,).

    Where none fits it is the widest that divides: the answer is then that the model does not fit.
    """
    best = np.ones(codes.size)
    is_a100 = names.numbers["is_a100"][codes] > 0
    for width in reversed(WIDTHS):
        tried = {**numbers, "tp": np.full(codes.size, float(width))}
        who, widths, month, at = _deployments(names, codes, tried)
        system = _system(names, who, widths, month)
        with np.errstate(invalid="ignore", divide="ignore"):
            possible = np.mod(system.arch.heads, system.attention_width) == 0
            possible &= (np.mod(system.tp, system.dp) == 0) & (np.mod(system.tp, system.ep) == 0)
            possible &= system.tp <= names.numbers["gpus_together"][who]
            possible &= kv_heads_divide(system.arch, system.attention_width)
            length = numbers["isl"] + numbers["osl"]
            holds = fits(memory(system, at, _settings(system, at, is_a100, tried), length), length)
        best = np.where(possible[at] & (holds | (best < width)), width, best)
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
        length = trial.load.isl + trial.load.osl
        if fits(memory(trial.system, trial.at, trial.settings, length), length).all():
            return width
    return None
