"""Autotuner tasks: a grid of engine parameters and quantization choices, with an objective and a service level.

Every key is one that the task files of the autotuner have; another one is refused by name, never passed over.

Defaults are the autotuner's own (novitalabs/inference-autotuner: docs/SLO_SCORING.md, src/utils/optimizer.py and
src/controllers/direct_benchmark_controller.py).
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from itertools import product
from math import isfinite, prod
from pathlib import Path
from typing import Any, Final

from aicalib.errors import InvalidValue, UnknownName, fold
from aicalib.plan.tasks.traffic import Lengths, read_scenario
from aicalib.quant.presets import read_quant_config

Value = str | int | float | bool

_MOST_POINTS: Final = 1_000_000
"""A grid beyond this is a slip of the pen: an autotuner measures tens of points."""

_FAIL_RATIO: Final = 0.5
_STEEPNESS: Final = 0.1
_SCENARIOS: Final = ("D(100,100)",)
_CONCURRENCY: Final = (1,)


@dataclass(frozen=True)
class Bound:
    """A service level for one figure.

    Parameters
    ----------
    metric : str
        "ttft", "tpot" or "latency" (end to end).
    percentile : str or None
        "p50", "p90", ...; None is the mean.
    threshold_s : float
        What it should not exceed [s].
    weight : float
        Of its penalty among others.
    hard_fail : bool
        Beyond `fail_ratio` over the threshold a point has failed.
    fail_ratio : float
        Share of the threshold that a hard bound may be exceeded by.
    """

    metric: str
    percentile: str | None
    threshold_s: float
    weight: float = 1.0
    hard_fail: bool = False
    fail_ratio: float = _FAIL_RATIO


@dataclass(frozen=True)
class Task:
    """What a task file asks for.

    Parameters
    ----------
    name, model, runtime : str
        Name of the task, model name or path, and engine.
    parameters : mapping of str to tuple
        Engine flag, without dashes in front, to the values to try.
    quant : tuple of mapping
        Quantization choices: ``{"preset": name}`` or fields; empty where the task leaves them out.
    image_tag : str or None
        Of the engine's container.
    gpu : str or None
        As `benchmark.gpu_type` says.
    strategy, objective : str
    max_iterations : int or None
        Points that the autotuner measures at most.
    timeout_s : float or None
        For one of them [s].
    concurrency : tuple of int
        Requests in flight, each measured for every point under every scenario.
    lengths : tuple of Lengths
        Of the traffic scenarios.
    bounds : tuple of Bound
    steepness : float
        Of the penalty for exceeding a bound; see `aicalib.plan.score`.
    notes : tuple of str
        What the file leaves out and was filled in.
    content : mapping
        The whole file, to write a smaller task from.
    """

    name: str
    model: str
    runtime: str
    parameters: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    quant: tuple[Mapping[str, str], ...] = ()
    strategy: str = "grid_search"
    objective: str = "minimize_latency"
    max_iterations: int | None = None
    timeout_s: float | None = None
    concurrency: tuple[int, ...] = _CONCURRENCY
    lengths: tuple[Lengths, ...] = (Lengths(100.0, 100.0, True),)
    bounds: tuple[Bound, ...] = ()
    steepness: float = _STEEPNESS
    image_tag: str | None = None
    gpu: str | None = None
    notes: tuple[str, ...] = ()
    content: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    """One configuration of a task.

    Parameters
    ----------
    parameters : mapping of str to value
        Engine flag, without dashes in front, to its value; they win over what `quant` derives.
    quant : mapping or None
        The quantization choice; None where the task leaves it out.
    """

    parameters: Mapping[str, Value]
    quant: Mapping[str, str] | None


def load_task(path: str | Path) -> Task:
    """Read a task file.

    Raises
    ------
    InvalidValue, UnknownName
        As :func:`read_task`; also if there is no such file or it is not a JSON object.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidValue(f"there is no {path}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidValue(f"cannot read {path}: {error}") from error
    return read_task(content)


def load_service_level(path: str | Path) -> tuple[tuple[Bound, ...], float]:
    """Read a file that holds the `slo` of a task alone.

    Returns
    -------
    bounds : tuple of Bound
    steepness : float

    Raises
    ------
    InvalidValue, UnknownName
        As `load_task`.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidValue(f"cannot read {path}: {error}") from error
    bounds, steepness = _service_level(_object(content, "slo", "slo"))
    return bounds, steepness or _STEEPNESS


def read_task(content: Any) -> Task:
    """Read the content of a task file.

    Parameters
    ----------
    content : mapping
        The parsed file.

    Raises
    ------
    UnknownName
        For a key or choice that tasks do not have; the near misses are the alternatives.
    InvalidValue
        If a key is missing, given twice or holds a wrong value.
    """
    task = _object(content, "task", "task")
    model = _object(_needed(task, "model"), "model", "model")
    optimization = _object(task.get("optimization") or {}, "optimization", "optimization")
    benchmark = _object(task.get("benchmark") or {}, "benchmark", "benchmark")
    bounds, steepness = _service_level(_object(task.get("slo") or {}, "slo", "slo"))
    concurrency = _concurrency(_listed(benchmark, "num_concurrency"))
    scenarios = _listed(benchmark, "traffic_scenarios")
    notes = []
    if not concurrency:
        notes.append("num_concurrency 1, the autotuner's default")
    if not scenarios:
        notes.append(f"traffic_scenarios {_SCENARIOS[0]}, the autotuner's default")
    return Task(
        name=_text(task, "task_name"),
        model=_text(model, "id_or_path"),
        runtime=_text(task, "base_runtime"),
        parameters=_grid(task),
        quant=_quant(task.get("quant_config")),
        strategy=_choice(optimization, "strategy", "strategies", "grid_search"),
        objective=_choice(optimization, "objective", "objectives", "minimize_latency"),
        max_iterations=_count(optimization, "max_iterations"),
        timeout_s=_positive(optimization, "timeout_per_iteration"),
        concurrency=concurrency or _CONCURRENCY,
        lengths=tuple(read_scenario(each) for each in scenarios or _SCENARIOS),
        bounds=bounds,
        steepness=steepness or _STEEPNESS,
        image_tag=_optional_text(task, "runtime_image_tag"),
        gpu=_optional_text(benchmark, "gpu_type"),
        notes=tuple(notes),
        content=task,
    )


def expand(task: Task) -> list[Point]:
    """Return every point of a task: each combination of parameters with each quantization choice, in file order.

    Raises
    ------
    InvalidValue
        If these are more than a million.
    """
    choices: tuple[Mapping[str, str] | None, ...] = task.quant or (None,)
    count = len(choices) * prod(len(values) for values in task.parameters.values())
    if count > _MOST_POINTS:
        raise InvalidValue(
            f"task '{task.name}' spans {count} points; {_MOST_POINTS} is the most that is expanded"
        )
    names = list(task.parameters)
    grid = [dict(zip(names, row, strict=True)) for row in product(*task.parameters.values())]
    return [Point(parameters, choice) for choice in choices for parameters in grid]


@cache
def _keys() -> Mapping[str, Sequence[str]]:
    return tomllib.loads(files("aicalib.plan.tasks").joinpath("task_keys.toml").read_text(encoding="utf-8"))


def _object(value: Any, where: str, kind: str) -> Mapping[str, Any]:
    """Return an object whose keys are all of a kind's."""
    if not isinstance(value, Mapping):
        raise InvalidValue(f"{where} is {value!r}, not an object", list(_keys()[kind]))
    for key in value:
        if key not in _keys()[kind]:
            raise UnknownName(f"key of {where}", str(key), _keys()[kind])
    return value


def _needed(holder: Mapping[str, Any], key: str) -> Any:
    if holder.get(key) is None:
        raise InvalidValue(f"the task has no '{key}'", [key])
    return holder[key]


def _text(holder: Mapping[str, Any], key: str) -> str:
    value = _needed(holder, key)
    if not isinstance(value, str) or not value.strip():
        raise InvalidValue(f"{key} is {value!r}, not a name")
    return value


def _optional_text(holder: Mapping[str, Any], key: str) -> str | None:
    return None if holder.get(key) is None else _text(holder, key)


def _choice(holder: Mapping[str, Any], key: str, kind: str, default: str) -> str:
    value = holder.get(key, default)
    if value not in _keys()[kind]:
        raise UnknownName(key, str(value), _keys()[kind])
    return str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _positive(holder: Mapping[str, Any], key: str, where: str = "") -> float | None:
    value = holder.get(key)
    if value is not None and (not _is_number(value) or value <= 0):
        raise InvalidValue(f"{where}{key} is {value!r}, not a number above 0")
    return None if value is None else float(value)


def _count(holder: Mapping[str, Any], key: str) -> int | None:
    value = holder.get(key)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise InvalidValue(f"{key} is {value!r}, not a whole number above 0")
    return value


def _listed(holder: Mapping[str, Any], key: str) -> list[Any]:
    value = holder.get(key)
    return [] if value is None else value if isinstance(value, list) else [value]


def _concurrency(listed: list[Any]) -> tuple[int, ...]:
    for each in listed:
        _count({"num_concurrency": each}, "num_concurrency")
        if each is None:
            raise InvalidValue("num_concurrency holds null, not a whole number above 0")
    return tuple(listed)


def _grid(task: Mapping[str, Any]) -> dict[str, tuple[Value, ...]]:
    """Read `parameters`, and `parallel_config` as the flags of its widths, where a bare value is a list of one."""
    given = task.get("parameters") or {}
    if not isinstance(given, Mapping):
        raise InvalidValue(f"parameters is {given!r}, not an object of lists")
    widths = _object(task.get("parallel_config") or {}, "parallel_config", "parallel")
    found: dict[str, tuple[Value, ...]] = {}
    for key, value in [
        *given.items(),
        *((width_flag(key), each if isinstance(each, list) else [each]) for key, each in widths.items()),
    ]:
        name = str(key).lstrip("-")
        if any(fold(name) == fold(other) for other in found):
            raise InvalidValue(f"parameter '{name}' is given twice")
        values = value.get("values") if isinstance(value, Mapping) and _is_choice(value) else value
        if not isinstance(values, list) or not values:
            raise InvalidValue(
                f"parameter '{name}' is {value!r}, not a list of values",
                [json.dumps([value])] if isinstance(value, str | int | float) else [],
            )
        if not all(isinstance(each, str | bool) or _is_number(each) for each in values):
            raise InvalidValue(f"parameter '{name}' lists what is neither text, number nor switch: {value!r}")
        if len({(type(each), each) for each in values}) < len(values):
            raise InvalidValue(f"parameter '{name}' lists a value twice: {value!r}")
        found[name] = tuple(values)
    return found


def width_flag(key: str) -> str:
    """Return the flag, without dashes in front, of a width of `parallel_config`."""
    return f"{key.replace('_', '-')}-size"


def _is_choice(value: Mapping[str, Any]) -> bool:
    """Tell whether it is the autotuner's longer way to write a list of values."""
    return set(value) == {"type", "values"} and value["type"] in ("choice", "categorical")


def _quant(given: Any) -> tuple[Mapping[str, str], ...]:
    if given is None:
        return ()
    if not isinstance(given, Mapping) or not given:
        raise InvalidValue(f"quant_config is {given!r}, not an object", ["preset", "presets", "gemm_dtype"])
    choices = read_quant_config(given)
    if {"preset", "presets"} & {fold(str(key)) for key in given}:
        return tuple({"preset": each.name} for each in choices)
    return (dict(given),)


def _service_level(slo: Mapping[str, Any]) -> tuple[tuple[Bound, ...], float | None]:
    bounds: list[Bound] = []
    for metric in ("ttft", "tpot", "latency"):
        given = slo.get(metric)
        if given is None:
            continue
        if isinstance(given, Mapping) and given and set(given) <= set(_keys()["percentiles"]):
            bounds += [_bound(metric, percentile, inner) for percentile, inner in given.items()]
        else:
            bounds.append(_bound(metric, None, given))
    return tuple(bounds), _positive(slo, "steepness")


def _bound(metric: str, percentile: str | None, given: Any) -> Bound:
    where = f"slo.{metric}{f'.{percentile}' if percentile else ''}"
    values = _object(given, where, "bound")
    threshold, hard = _positive(values, "threshold", f"{where}."), values.get("hard_fail", False)
    weight, ratio = values.get("weight", 1.0), values.get("fail_ratio", _FAIL_RATIO)
    if threshold is None:
        raise InvalidValue(f"{where} has no threshold (in seconds)", ["threshold"])
    if not isinstance(hard, bool):
        raise InvalidValue(f"{where}.hard_fail is {hard!r}", ["true", "false"])
    for key, value in (("weight", weight), ("fail_ratio", ratio)):
        if not _is_number(value) or value < 0:
            raise InvalidValue(f"{where}.{key} is {value!r}, not a number of at least 0")
    return Bound(metric, percentile, threshold, float(weight), hard, float(ratio))
