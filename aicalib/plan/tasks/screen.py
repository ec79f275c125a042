"""A task before anything is measured: what cannot run is dropped with its reason, the rest ranked by prediction.

Every point becomes the engine's arguments, these are read back as `predict --launch` reads them, and all points
under all levels of load are predicted in one batch.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.engines import ENGINES, newest_version
from aicalib.engines.arguments import called, understand
from aicalib.engines.flags import find_flag
from aicalib.engines.runtime_args import RuntimeArgs, get_runtime_args
from aicalib.errors import InvalidValue, NotCovered, RequestError, UnknownName, fold
from aicalib.hardware import Accelerator, get_accelerator
from aicalib.models import get_architecture
from aicalib.plan.figures import Number, figures_of, shown
from aicalib.plan.score import BASES, score
from aicalib.plan.tasks.task import Point, Task, expand
from aicalib.prediction import ORIGINS, Interval, Prediction, predict_batch
from aicalib.profiles.profile import Profile, default_profile
from aicalib.quant.presets import read_quant_config
from aicalib.resolve.columns import DEFAULTS, is_read
from aicalib.resolve.identify import without_untimed
from aicalib.resolve.rows import resolve
from aicalib.ties import THROUGHPUT_LEVEL, common_errors, tied

REASONS: Final = ("refused", "not_predicted", "does_not_fit", "duplicate")
"""Why a point is dropped: the engine would not start it, or the model has no such width; it may run but cannot be
predicted, as several nodes whose network is not known; memory does not hold the weights and one request; another point
is the same start."""

_WORDS: Final = {"half": "float16", "float": "float32"}
_NAMED: Final = 3


class Level(NamedTuple):
    """A level of load: tokens of a request, and requests in flight."""

    isl: float
    osl: float
    concurrency: int
    fixed: bool


@dataclass(frozen=True)
class Ranked:
    """A point that runs.

    Attributes
    ----------
    point : Point
    arguments : RuntimeArgs
        The engine's arguments, with notes on what won over what.
    options : dict
        What `predict` is asked, the load apart.
    deployment : dict
        As the engine will run it.
    figures : dict of str to Number
        Means over all levels of load: ttft_ms, tpot_ms, e2e_ms, total_tok_s_per_gpu, output_tok_s_per_gpu.
    score : Number
        Lower is better; see `aicalib.plan.score`. An infinite end may fail a hard bound, an infinite value does.
    origin : str
        The weakest of its predictions.
    tie : bool
        The best is better by less than the interval of their ratio (`aicalib.ties`), or it is the best itself.
    notes : tuple of str
    """

    point: Point
    arguments: RuntimeArgs
    options: Mapping[str, Any]
    deployment: Mapping[str, Any]
    figures: Mapping[str, Number]
    score: Number
    origin: str
    tie: bool
    notes: tuple[str, ...]


class Dropped(NamedTuple):
    """A point that is not ranked: one of `REASONS`, in words, and what would work instead."""

    point: Point
    kind: str
    reason: str
    alternatives: tuple[str, ...] = ()


@dataclass(frozen=True)
class Screening:
    """What became of the points of a task.

    Attributes
    ----------
    task : Task
    gpu, engine_version, profile : str
    levels : tuple of Level
        Loads under which each point was predicted.
    ranked : tuple of Ranked
        Best first; equal scores in file order.
    dropped : tuple of Dropped
        In file order.
    notes : tuple of str
        What was filled in.
    """

    task: Task
    gpu: str
    engine_version: str
    profile: str
    levels: tuple[Level, ...]
    ranked: tuple[Ranked, ...]
    dropped: tuple[Dropped, ...]
    notes: tuple[str, ...]


@dataclass
class _Start:
    """A point that the engine starts, as options of `predict`; `key` is what these do not say of the start."""

    place: int
    point: Point
    arguments: RuntimeArgs
    options: dict[str, Any]
    key: tuple[str, ...]
    notes: list[str] = field(default_factory=list)


def screen(
    task: Task, gpu: str | None = None, engine_version: str | None = None, profile: Profile | None = None
) -> Screening:
    """Drop what cannot run, predict and rank the rest.

    Parameters
    ----------
    task : Task
    gpu : str, optional
        What the task says if not given, else the one that `predict` takes.
    engine_version : str, optional
        That of the task's image if not given, else the newest known.
    profile : Profile, optional
        The shipped default if not given.

    Raises
    ------
    UnknownName
        For a model, accelerator or engine that no table holds.
    InvalidValue
        If no point is left; the reasons are counted.
    """
    used, notes = profile or default_profile(), list(task.notes)
    engine = {fold(each): each for each in ENGINES}.get(fold(task.runtime))
    if engine is None:
        raise UnknownName("base_runtime", task.runtime, ENGINES)
    get_architecture(task.model)
    if gpu is None and task.gpu is None:
        notes.append(f"gpu {DEFAULTS['gpu']}: the task names none")
    accelerator = get_accelerator(gpu or task.gpu or str(DEFAULTS["gpu"]))
    version = engine_version or _version_of(task.image_tag)
    if version is None:
        version = newest_version(engine)
        tag = "the task names no image" if task.image_tag is None else f"image '{task.image_tag}' names none"
        notes.append(f"{engine} {version}, the newest known: {tag}")
    levels = tuple(
        Level(each.isl, each.osl, concurrency, each.fixed)
        for each in task.lengths
        for concurrency in task.concurrency
    )
    dropped: dict[int, Dropped] = {}
    starts = []
    for place, point in enumerate(expand(task)):
        try:
            starts.append(_start(place, point, task.model, accelerator, engine, version))
        except RequestError as error:
            dropped[place] = _drop(point, error)
    ranked = _rank(task, starts, levels, used, dropped) if starts else []
    if not ranked:
        raise InvalidValue(f"no point of task '{task.name}' is left: {_counted(dropped.values())}")
    return Screening(
        task, accelerator.name, version, used.label, levels, tuple(ranked),
        tuple(dropped[place] for place in sorted(dropped)), tuple(notes),
    )  # fmt: skip


def _version_of(image_tag: str | None) -> str | None:
    """Return the version that the tag of a container names, such as "v0.5.2-cu126"."""
    found = re.match(r"v?(\d+\.\d+\.\d+(?:\.post\d+)?)", image_tag or "")
    return found[1] if found else None


def _counted(dropped: Iterable[Dropped]) -> str:
    counts = Counter(f"{each.kind}: {each.reason}" for each in dropped).most_common()
    more = f"; and {len(counts) - _NAMED} other reasons" if len(counts) > _NAMED else ""
    return "; ".join(f"{count} x {reason}" for reason, count in counts[:_NAMED]) + more


def _drop(point: Point, error: RequestError) -> Dropped:
    kind = "not_predicted" if isinstance(error, NotCovered) else "refused"
    return Dropped(point, kind, str(error), tuple(error.alternatives))


def _start(
    place: int, point: Point, model: str, accelerator: Accelerator, engine: str, version: str
) -> _Start:
    """Return what the engine is started with, and what `predict` makes of it.

    Raises
    ------
    RequestError
    """
    gpu = accelerator.file or accelerator.name
    arguments = get_runtime_args(
        runtime=engine, quant_config=point.quant, user_parameters=point.parameters, model=model, gpu=gpu,
        engine_version=version,
    )  # fmt: skip
    pairs = [(flag, value or None) for flag, value in arguments.items()]
    found = understand(engine, version, pairs, {"model": model})
    options = {**_fields(point), **found.options, "model": model, "gpu": gpu}
    options |= {"engine": engine, "engine_version": version}
    timed, untimed = without_untimed(options)
    read = {name: value for name, value in timed.items() if is_read(name, value)}
    unread = {name: value for name, value in options.items() if name not in read}
    notes = [*arguments.notes, *found.notes, *untimed.values()]
    if unread:
        notes.append(f"not read by the prediction: {', '.join(sorted(unread))}")
    if found.unpredicted:
        notes.append(f"what it changes is not predicted: {', '.join(found.unpredicted)}")
    idle = {flag: value for flag, value in arguments.items() if _name(engine, version, flag) in
            {*found.without_effect, *found.unpredicted}}  # fmt: skip
    dtype = arguments.get("--dtype", "auto")
    own = {**_WORDS, "auto": "bfloat16" if accelerator.wide_format == "bf16" else "float16"}
    dtype = own.get(dtype, dtype)
    key = (dtype, repr(sorted(unread.items())), repr(sorted(idle.items())))
    return _Start(place, point, arguments, read, key, notes)


def _name(engine: str, version: str, spelling: str) -> str:
    """Return the spelling of a flag that `understand` calls it by."""
    flag = find_flag(engine, version, spelling)
    return spelling if flag.kind == "bool" else called(flag)


def _fields(point: Point) -> dict[str, str]:
    """Return the formats that the quantization choice asks for: not all of them have a flag of their own."""
    if point.quant is None:
        return {}
    asked = read_quant_config(point.quant)[0].quant.to_mapping()
    return {"kv" if name == "kvcache" else name: mode for name, mode in asked.items() if mode != "auto"}


def _rank(
    task: Task,
    starts: Sequence[_Start],
    levels: Sequence[Level],
    profile: Profile,
    dropped: dict[int, Dropped],
) -> list[Ranked]:
    """Predict all starts under all levels in one batch; drop what does not fit or comes twice, rank the rest."""
    names = sorted({name for start in starts for name in start.options})
    columns: dict[str, list[Any]] = {
        name: [start.options.get(name) for start in starts for _ in levels] for name in names
    }
    loads: dict[str, list[Any]] = {
        "isl": [level.isl for level in levels],
        "osl": [level.osl for level in levels],
        "concurrency": [level.concurrency for level in levels],
        "lockstep": [level.fixed for level in levels],
    }
    batch = resolve(columns | {name: values * len(starts) for name, values in loads.items()})
    for row, error in batch.refused.items():
        start = starts[row // len(levels)]
        dropped.setdefault(start.place, _drop(start.point, error))
    if not batch.rows.size:
        return []
    found = predict_batch(batch, profile)
    for place in np.flatnonzero(~found.fits).tolist():
        start = starts[int(batch.rows[place]) // len(levels)]
        reason = found.reason(place) or ""
        dropped.setdefault(start.place, Dropped(start.point, "does_not_fit", reason))
    rows = {int(row): place for place, row in enumerate(batch.rows)}
    kept: list[tuple[int, dict[str, Any]]] = []
    first: dict[object, Point] = {}
    for number, start in enumerate(starts):
        if start.place in dropped:
            continue
        deployment = batch.deployment(rows[number * len(levels)]).as_dict()
        key = (repr({name: value for name, value in deployment.items() if name != "notes"}), start.key)
        if key in first:
            dropped[start.place] = Dropped(start.point, "duplicate", _same(start.point, first[key]))
            continue
        first[key] = start.point
        kept.append((number, deployment))
    if not kept:
        return []
    places = np.array([[rows[number * len(levels) + at] for at in range(len(levels))] for number, _ in kept])
    return _scored(task, [(starts[number], deployment) for number, deployment in kept], found, places)


def _scored(
    task: Task,
    starts: Sequence[tuple[_Start, Mapping[str, Any]]],
    found: Prediction,
    places: NDArray[np.intp],
) -> list[Ranked]:
    """Rank starts by their score.

    Parameters
    ----------
    places : ndarray of int, shape (n, levels)
        Rows of the prediction of each start.
    """
    ends = [figures_of(found, end) for end in ("value", "low", "high")]
    means = [{name: values[places].mean(axis=1) for name, values in figures.items()} for figures in ends]
    scores = [score(task.objective, task.bounds, task.steepness, figures) for figures in means]
    bases = BASES[task.objective](means[0])
    order = sorted(range(len(starts)), key=lambda at: (scores[0][at], bases[at], at))
    ties = _ties(task.objective, Interval(*scores), order[0], found, places)
    ranked = []
    for at in order:
        start, deployment = starts[at]
        ranked.append(
            Ranked(
                point=start.point,
                arguments=start.arguments,
                options=start.options,
                deployment=deployment,
                figures=shown(means, at),
                score=Number(*(float(each[at]) for each in scores)),
                origin=str(ORIGINS[int(found.origins[places[at]].max())]),
                tie=bool(ties[at]),
                notes=tuple(dict.fromkeys((*start.notes, *deployment["notes"]))),
            )
        )  # fmt: skip
    return ranked


def _ties(
    objective: str, scores: Interval, best: int, found: Prediction, places: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """Tell which starts tie with the best or are it; under all levels of load a start errs as under the first."""
    at = np.zeros(places.shape[0], dtype=np.intp)
    metric = "ttft_ms" if objective == "minimize_ttft" else THROUGHPUT_LEVEL
    rows = places[:, 0]
    common = common_errors(found.batch, found.profile, metric, rows[at + best], rows)
    return tied(Interval(*(each[at + best] for each in scores)), scores, common)


def _same(point: Point, other: Point) -> str:
    """Say which values of two points make no difference."""
    names = [name for name in point.parameters if point.parameters[name] != other.parameters[name]]
    sides = [
        describe(
            Point(
                {name: each.parameters[name] for name in names},
                each.quant if point.quant != other.quant else None,
            )
        )
        for each in (point, other)
    ]
    return f"{sides[0]} starts the same as {sides[1]}"


def describe(point: Point) -> str:
    """Return a point in one line: its quantization choice and its parameters."""
    quant = dict(point.quant or {})
    chosen = (
        [quant.pop("preset")] if "preset" in quant else [f"{key} {value}" for key, value in quant.items()]
    )
    words = [f"{name} {str(value).lower() if isinstance(value, bool) else value}"
             for name, value in point.parameters.items()]  # fmt: skip
    return ", ".join([*chosen, *words]) or "no parameters"
