"""`aicalib task`: screen an autotuner's task before anything is measured, and write a smaller one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aicalib.cli import options as opt
from aicalib.cli.output import (
    DEFAULT_WAIT_S,
    Db,
    Json,
    ProfileName,
    Wait,
    find_profile,
    print_json,
    print_table,
)
from aicalib.report.numbers import short

if TYPE_CHECKING:
    from aicalib.plan.figures import Number
    from aicalib.plan.tasks.screen import Ranked, Screening
    from aicalib.plan.tasks.smaller import Smaller
    from aicalib.plan.tasks.task import Point, Task

MOST_SHOWN = 20
"""Points and reasons of which a person is shown each."""


def task(
    path: opt.TaskFile,
    gpu: opt.TaskGpu = None,
    engine_version: opt.TaskEngineVersion = None,
    keep: Annotated[int | None, typer.Option(help="Keep so many of the best points.")] = None,
    within: Annotated[
        float | None,
        typer.Option(help="Keep points whose score is at most so many percent worse. Default: the ties."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write a task of the kept points here.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite that file.")] = False,
    profile: ProfileName = "default",
    db: Db = None,
    wait: Wait = DEFAULT_WAIT_S,
    json: Json = False,
) -> None:
    """Screen an autotuner's task: drop what cannot run, rank the rest by prediction.

    Scores are counted as the autotuner does, lower is better; a tie is where the best is better by less than the
    interval of the ratio of the two scores.
    """
    from aicalib.errors import InvalidValue
    from aicalib.plan.tasks.screen import screen
    from aicalib.plan.tasks.smaller import promising, smaller_task
    from aicalib.plan.tasks.task import load_task

    if output is not None and output.exists() and not force:
        raise InvalidValue(f"--output {output} is there already", ["--force", "--output OTHER.json"])
    if output is not None and not output.resolve().parent.is_dir():
        raise InvalidValue(f"--output {output}: there is no folder {output.resolve().parent}")
    found = screen(load_task(path), gpu, engine_version, find_profile(profile, db, wait))
    kept = promising(found, keep, within)
    smaller = smaller_task(found.task, [each.point for each in kept])
    if output is not None:
        from json import dumps

        output.write_text(dumps(smaller.content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if json:
        print_json(_document(found, kept, smaller, output))
    else:
        _print(found, kept, smaller, output)


def _document(
    found: Screening, kept: Sequence[Ranked], smaller: Smaller, output: Path | None
) -> dict[str, Any]:
    """Return what became of the points as JSON has it."""
    chosen = {id(each) for each in kept}
    return {
        "task": found.task.name,
        "model": found.task.model,
        "gpu": found.gpu,
        "engine": found.task.runtime,
        "engine_version": found.engine_version,
        "profile": found.profile,
        "objective": found.task.objective,
        "levels": [each._asdict() for each in found.levels],
        "counts": _counts(found, kept, smaller),
        "ranked": [
            {
                **_point(each.point),
                "score": each.score._asdict(),
                "tie": each.tie,
                "kept": id(each) in chosen,
                "figures": {name: number._asdict() for name, number in each.figures.items()},
                "origin": each.origin,
                "arguments": each.arguments.argv(),
                "deployment": {name: value for name, value in each.deployment.items() if name != "notes"},
                "notes": list(each.notes),
            }
            for each in found.ranked
        ],
        "dropped": [
            {
                **_point(each.point),
                "kind": each.kind,
                "reason": each.reason,
                "alternatives": list(each.alternatives),
            }
            for each in found.dropped
        ],
        "smaller": smaller.content,
        "output": None if output is None else str(output),
        "notes": [*found.notes, *smaller.notes],
    }


def _point(point: Point) -> dict[str, Any]:
    return {
        "quant_config": None if point.quant is None else dict(point.quant),
        "parameters": dict(point.parameters),
    }


def _counts(found: Screening, kept: Sequence[Ranked], smaller: Smaller) -> dict[str, Any]:
    return {
        "points": len(found.ranked) + len(found.dropped),
        "ranked": len(found.ranked),
        "ties": sum(each.tie for each in found.ranked),
        "dropped": dict(Counter(each.kind for each in found.dropped)),
        "kept": len(kept),
        "smaller": smaller.points,
        "readmitted": smaller.readmitted,
    }


def _print(found: Screening, kept: Sequence[Ranked], smaller: Smaller, output: Path | None) -> None:
    """Print ranking, what was dropped and why, and the counts."""
    named, chosen = found.task, {id(each) for each in kept}
    loads = ", ".join(f"{each.isl:g}/{each.osl:g} x {each.concurrency}" for each in found.levels)
    typer.echo(
        f"{named.name}: {named.model}\n{found.gpu}, {named.runtime} {found.engine_version}, profile {found.profile}\n"
        f"means over {loads} (input/output tokens x concurrency)\n"
        f"{named.objective}: lower scores are better; a tie is below the interval of the ratio to the best\n"
    )
    print_table(
        "",
        ["", "score", "90 % interval", "TTFT ms", "TPOT ms", "tok/s/GPU", "", "point"],
        [
            _row(named, place, each, id(each) in chosen)
            for place, each in enumerate(found.ranked[:MOST_SHOWN], 1)
        ],
        align="rrrrrrll",
    )
    _and_more(len(found.ranked) - MOST_SHOWN, "points")
    if found.dropped:
        grouped: dict[tuple[str, str], list[Point]] = {}
        for each in found.dropped:
            grouped.setdefault((each.kind, each.reason), []).append(each.point)
        rows = [
            [str(len(points)), kind.replace("_", " "), f"{reason} [{varying(named, points[0])}]"
             + (f" and {len(points) - 1} more" if len(points) > 1 else "")]
            for (kind, reason), points in sorted(grouped.items(), key=lambda each: -len(each[1]))
        ]  # fmt: skip
        typer.echo("")
        print_table("", ["", "dropped", "reason"], rows[:MOST_SHOWN], align="rll")
        _and_more(len(rows) - MOST_SHOWN, "reasons")
    count = _counts(found, kept, smaller)
    gone = ", ".join(f"{n} {kind.replace('_', ' ')}" for kind, n in count["dropped"].items()) or "none"
    typer.echo(
        f"\n{count['points']} points: {count['ranked']} ranked, of which {count['ties']} tie with the best or are it; "
        f"dropped: {gone}\nkept {count['kept']}; the smaller task spans {count['smaller']}, of which "
        f"{count['readmitted']} readmitted" + (f": {output}" if output is not None else "")
    )
    for note in dict.fromkeys(
        (*found.notes, *smaller.notes, *(note for each in kept for note in each.notes))
    ):
        typer.echo(f"note: {note}")


def _row(named: Task, place: int, each: Ranked, kept: bool) -> list[str]:
    figures: Mapping[str, Number] = each.figures
    score = each.score
    known = score.low == score.low  # an uncalibrated profile has no intervals
    marks = [word for word, true in (("tie", each.tie), ("kept", kept)) if true]
    return [
        str(place),
        short(score.value, 4),
        f"{short(score.low, 4)} to {short(score.high, 4)}" if known else "-",
        *(short(figures[name].value, 4) for name in ("ttft_ms", "tpot_ms", "total_tok_s_per_gpu")),
        ", ".join(marks),
        varying(named, each.point),
    ]


def varying(named: Task, point: Point) -> str:
    """Return what tells a point from others of its task."""
    from dataclasses import replace

    from aicalib.plan.tasks.screen import describe

    parameters = {name: each for name, each in point.parameters.items() if len(named.parameters[name]) > 1}
    quant = point.quant if len(named.quant) > 1 else None
    if not parameters and quant is None:
        return describe(point)
    return describe(replace(point, parameters=parameters, quant=quant))


def _and_more(count: int, what: str) -> None:
    if count > 0:
        typer.echo(f"and {count} more {what}: --json lists all")
