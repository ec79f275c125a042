"""From names and flags to fully filled deployments and workloads, for one row or for a million.

Rows are columns of options (the options of `aicalib predict` with underscores). Names are looked up once
for each distinct combination; numbers are checked and filled in as arrays. What cannot be resolved is
refused row by row with the error that says why; nothing is guessed unsaid: what was filled in stands in
`Identity.notes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aicalib.deployment import Deployment, Identity, Workload
from aicalib.errors import InvalidValue, RequestError
from aicalib.physics.memory import fits, memory
from aicalib.physics.system import ENGINES
from aicalib.resolve.batch import Batch
from aicalib.resolve.checks import Widths, wrong_numbers, wrong_widths
from aicalib.resolve.columns import (
    NAME_COLUMNS,
    check_options,
    flag_columns,
    is_missing,
    load_column,
    number_columns,
)
from aicalib.resolve.features import (
    DRAFT_NAMES,
    DRAFT_NUMBERS,
    POOL_NUMBERS,
    Asked,
    Features,
    Part,
    resolve_features,
)
from aicalib.resolve.identify import WIDTHS
from aicalib.resolve.loads import fill_prompts
from aicalib.resolve.names import ONE_NAME, Names, look_up
from aicalib.resolve.systems import deployments, settings_of, smallest_tp, wrong_exchange
from aicalib.serving.load import Load

Array = NDArray[np.float64]
Codes = NDArray[np.intp]


def resolve(options: Mapping[str, Any], rows: int | None = None, memory_only: bool = False) -> Batch:
    """Resolve columns of options.

    Parameters
    ----------
    options : mapping of str to sequence
        Columns of one length (lists, arrays or pandas columns); names from `aicalib.resolve.columns`,
        `aicalib.resolve.features.DRAFT_NAMES` and `load` (one of `aicalib.serving.load.LOADS`). None or NaN means not
        given.
    rows : int, optional
        Number of rows, where there may be no column at all.
    memory_only : bool
        Memory alone is asked for: several nodes are then answered without the rate of a network too.

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
    return _resolve_numbers(options, look_up(options, n), memory_only)


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
    names = look_up(options, rows)
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
    return _resolve_numbers(options, Names.of(identities, codes, {}))


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
    names = ONE_NAME.get((who,), (), lambda: Names.of([who], np.zeros(1, dtype=np.intp), {}))
    batch = _resolve_numbers({name: [value] for name, value in options.items()}, names)
    for error in batch.refused.values():
        raise error
    return batch


def _resolve_numbers(options: Mapping[str, Any], names: Names, memory_only: bool = False) -> Batch:
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
    if flags["deepep"].any():
        numbers["deepep"] = flags["deepep"][rows].astype(float)
    numbers["num_prompts"] = np.where(np.isinf(prompts), 1.0, prompts)
    if np.isnan(numbers["tp"]).any():
        numbers["tp"] = np.where(np.isnan(numbers["tp"]), smallest_tp(names, codes, numbers), numbers["tp"])

    def model(place: int) -> str:
        name: str = names.identities[codes[place]].architecture.name
        return name

    for row, error in wrong_numbers(numbers, names.arch.max_position[codes], model):
        refuse(row, error)
    found = deployments(names, codes, numbers)
    who, widths, system, at = found
    asked = [names.identities[code] for code in who]
    networked = ~np.isnan(system.network_bytes_s) | memory_only
    for number, error in (
        *wrong_widths(system.arch, system.node_gpus, widths, asked, networked),
        *wrong_exchange(names, found),
    ):
        for place in np.flatnonzero(at == number):
            refuse(int(place), error)
    settings = settings_of(system, at, names.numbers["is_a100"][codes] > 0, numbers)
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
    names: Names,
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
        known = Names.of(identities, of, {})
        who, widths, system, at = deployments(known, of, chosen)
        return Part(identities, who, system, at), widths

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
    for width in (each for each in WIDTHS if each <= deployment.identity.accelerator.gpus_together):
        try:
            trial = ask(deployment, workload, **{**chosen_by_engine, "tp": width})
        except RequestError:
            continue  # a width that does not divide
        length = trial.load.isl + trial.load.osl
        if fits(memory(trial.system, trial.at, trial.settings, length), length).all():
            return width
    return None
