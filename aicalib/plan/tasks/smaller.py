"""A smaller task: the same file with the values that points worth measuring still have."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from aicalib.errors import InvalidValue, fold
from aicalib.plan.tasks.screen import Ranked, Screening
from aicalib.plan.tasks.task import Point, Task, expand, read_task, width_flag


class Smaller(NamedTuple):
    """A smaller task.

    Attributes
    ----------
    content : dict
        Of its file.
    points : int
        That it spans.
    readmitted : int
        Of these, points that were not kept: a grid cannot leave out single combinations.
    notes : tuple of str
    """

    content: dict[str, Any]
    points: int
    readmitted: int
    notes: tuple[str, ...]


def promising(
    found: Screening, keep: int | None = None, within_percent: float | None = None
) -> tuple[Ranked, ...]:
    """Return the points that are worth measuring, best first.

    Parameters
    ----------
    found : Screening
    keep : int, optional
        So many of the best.
    within_percent : float, optional
        Those whose score is at most so much worse than the best one.

    Returns
    -------
    tuple of Ranked
        If neither is given, those that tie with the best. Never none.

    Raises
    ------
    InvalidValue
    """
    if keep is not None and within_percent is not None:
        raise InvalidValue("keep and within both say which points to keep; give one", ["keep", "within"])
    if keep is not None:
        if keep < 1:
            raise InvalidValue(f"keep {keep} is not a whole number above 0", ["keep 1"])
        return found.ranked[:keep]
    if within_percent is None:
        return tuple(each for each in found.ranked if each.tie)
    if not within_percent >= 0.0:
        raise InvalidValue(f"within {within_percent:g} is not a share in percent from 0 on", ["within 5"])
    best = found.ranked[0].score.value
    worst = best + abs(best) * within_percent / 100.0
    return tuple(each for each in found.ranked if each.score.value <= worst)


def smaller_task(task: Task, kept: Sequence[Point]) -> Smaller:
    """Return the task with the values and presets that kept points have.

    Parameters
    ----------
    task : Task
    kept : sequence of Point
        Some of the points that it spans, at least one.

    Raises
    ------
    InvalidValue
        If nothing is kept, or a point is none of the task's.
    """
    if not kept:
        raise InvalidValue(f"no point of task '{task.name}' is kept")
    content: dict[str, Any] = copy.deepcopy(dict(task.content))
    for key in content.get("parameters") or {}:
        content["parameters"][key] = _values(task, kept, key.lstrip("-"))
    for key in content.get("parallel_config") or {}:
        content["parallel_config"][key] = _values(task, kept, width_flag(key))
    if len(task.quant) > 1:
        names = [choice["preset"] for choice in task.quant if any(point.quant == choice for point in kept)]
        key = next(each for each in content["quant_config"] if fold(each) == "presets")
        content["quant_config"][key] = names
    points = expand(read_task(content))
    notes = []
    if task.max_iterations is not None:
        content["optimization"]["max_iterations"] = min(task.max_iterations, len(points))
        if task.max_iterations < len(points):
            notes.append(
                f"max_iterations {task.max_iterations} is below the {len(points)} points of the smaller task: "
                "grid_search measures the first of them alone"
            )
    if not all(point in points for point in kept):
        raise InvalidValue(f"a point that is kept is none of task '{task.name}'")
    return Smaller(content, len(points), len(points) - len(kept), tuple(notes))


def _values(task: Task, kept: Collection[Point], name: str) -> list[Any]:
    """Return the values of a parameter that kept points have, in file order; 1 and true are two."""
    having = {(type(point.parameters[name]), point.parameters[name]) for point in kept}
    return [each for each in task.parameters[name] if (type(each), each) in having]
