"""`aicalib sweep`: the best of every combination of some options, on one machine or on many."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aicalib.cli import options as opt
from aicalib.cli.choices import service_level
from aicalib.cli.output import (
    DEFAULT_WAIT_S,
    Db,
    Jobs,
    Json,
    ProfileName,
    Scheduler,
    Wait,
    find_profile,
    print_json,
    print_table,
    progress,
)

if TYPE_CHECKING:
    from pandas import DataFrame

    from aicalib.plan.sweep.cost import Cost
    from aicalib.plan.sweep.run import Sweep, Swept
    from aicalib.plan.workers import Where

MOST_SHOWN = 20
"""Groups and reasons of which a person is shown each."""

FIGURES = ("output_tok_s_per_gpu", "ttft_ms", "tpot_ms", "e2e_ms")
WORKERS = (1, 10, 100, 1000)
"""Numbers of workers for which an estimate says the time."""


def sweep(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="GRID.toml",
            help="Options of `predict`, each with the values to try (docs/cluster.md).",
            exists=True,
            dir_okay=False,
        ),
    ],
    objective: Annotated[
        str, typer.Option(help="throughput (a GPU), latency, ttft, tpot or balance.")
    ] = "throughput",
    ttft_ms: opt.TtftMs = None,
    tpot_ms: opt.TpotMs = None,
    e2e_ms: opt.E2eMs = None,
    percentile: opt.Percentile = "mean",
    by: Annotated[
        str | None,
        typer.Option(
            help="Axes of which each value is answered apart. Default: model, isl, osl, prefix_hit."
        ),
    ] = None,
    top: Annotated[int, typer.Option(help="Starts to keep of each group, each under its best load.")] = 5,
    jobs: Jobs = 1,
    scheduler: Scheduler = None,
    estimate: Annotated[
        float | None,
        typer.Option(help="Time a few chunks instead, and say what so many configurations cost."),
    ] = None,
    profile: ProfileName = "default",
    db: Db = None,
    wait: Wait = DEFAULT_WAIT_S,
    json: Json = False,
) -> None:
    """Predict a whole grid of options and keep the best starts and the Pareto front of each group.

    Nothing of the grid is laid out in memory, and only what is kept travels: it may have a billion configurations.
    """
    from aicalib.plan.sweep.cost import cost
    from aicalib.plan.sweep.grid import read_grid
    from aicalib.plan.sweep.run import plan_sweep
    from aicalib.plan.sweep.run import sweep as do_sweep
    from aicalib.plan.workers import Where

    where = Where(jobs, scheduler)
    asked = plan_sweep(
        read_grid(path),
        _objective(objective),
        service_level({"ttft": ttft_ms, "tpot": tpot_ms, "latency": e2e_ms}, percentile),
        top,
        None if by is None else [name.strip() for name in by.split(",")],
        find_profile(profile, db, wait),
    )
    if estimate is not None:
        found = cost(asked, estimate, where)
        print_json(_cost_document(found)) if json else _print_cost(found, where)
        return
    with progress("sweep", len(asked.chunks())) as tick:
        swept = do_sweep(asked, where, tick)
    print_json(_document(asked, swept)) if json else _print(asked, swept)


def _objective(word: str) -> str:
    from aicalib.errors import UnknownName
    from aicalib.plan.score import BASES
    from aicalib.plan.search.goal import OBJECTIVES

    known = {name: base for name, base in OBJECTIVES.items() if base in BASES}
    if word not in known:
        raise UnknownName("objective", word, known)
    return known[word]


def _document(asked: Sweep, found: Swept) -> dict[str, Any]:
    return {
        "axes": {name: list(values) for name, values in asked.grid.axes.items()},
        "by": list(asked.by),
        "objective": asked.objective,
        "profile": asked.profile.label,
        "evaluated": asked.grid.size,
        "statuses": dict(found.statuses),
        "refused": dict(found.refused.most_common()),
        "best": _best(asked, found).to_dict("records"),
        "pareto": asked.table(found.front).to_dict("records"),
        "work": {
            "chunks": len(found.busy_s),
            "busy_s": sum(found.busy_s),
            "wall_s": found.wall_s,
            "configurations_s": asked.grid.size / found.wall_s,
        },
    }


def _best(asked: Sweep, found: Swept) -> DataFrame:
    """Return the best starts, each with how many further ones have the same figures."""
    return asked.table(found.best).assign(starts_alike=found.best.starts - 1)


def _print(asked: Sweep, found: Swept) -> None:
    echo, size = typer.echo, asked.grid.size
    echo(f"{size:,} configurations in {found.wall_s:.3g} s, {size / found.wall_s:,.0f} a second")
    echo(f"{asked.objective}, profile {asked.profile.label}")
    echo(
        ", ".join(
            f"{count:,} {status.replace('_', ' ')}" for status, count in found.statuses.items() if count
        )
    )
    varied = [name for name, values in asked.grid.axes.items() if len(values) > 1]
    fixed = [f"{name} {values[0]}" for name, values in asked.grid.axes.items() if len(values) == 1]
    if fixed:
        echo(f"all with {', '.join(fixed)}")
    table = _best(asked, found)
    groups = list(table.groupby(list(asked.by), sort=False)) if asked.by else [((), table)]
    rows = []
    for _, group in groups[:MOST_SHOWN]:
        for row in group.to_dict("records"):
            figures = [f"{row[name]:.4g}" for name in FIGURES]
            alike = f"and {row['starts_alike']} alike" if row["starts_alike"] else ""
            rows.append([*(_cell(row[name]) for name in varied), *figures, str(row["origin"]), alike])
    echo("")
    header = [*varied, "tok/s/GPU", "TTFT ms", "TPOT ms", "e2e ms", "origin", ""]
    print_table("", header, rows, "l" * len(varied) + "rrrrll")
    if table["starts_alike"].any():
        echo("alike: starts under the same load whose other settings change none of these figures")
    if len(groups) > MOST_SHOWN:
        echo(f"and {len(groups) - MOST_SHOWN} more groups: --json has all")
    if len(groups) < asked.groups:
        echo(f"{asked.groups - len(groups)} of {asked.groups} groups have no configuration within the bounds")
    echo(f"{found.front.number.size} configurations on the Pareto fronts: --json has them")
    reasons = found.refused.most_common()
    if reasons:
        echo("\nrefused, in configurations:")
    for reason, count in reasons[:MOST_SHOWN]:
        echo(f"  {count:,} x {reason}")
    if len(reasons) > MOST_SHOWN:
        echo(f"  and {len(reasons) - MOST_SHOWN} other reasons: --json has all")


def _cell(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cost_document(found: Cost) -> dict[str, Any]:
    return {
        **found._asdict(),
        "workers_for_an_hour": found.workers_for_an_hour,
        "most_workers": found.most_workers,
        "hours": {str(workers): found.hours(workers) for workers in WORKERS},
    }


def _print_cost(found: Cost, where: Where) -> None:
    echo = typer.echo
    who = where.scheduler or f"{where.jobs} {'process' if where.jobs == 1 else 'processes'} of this machine"
    echo(
        f"measured with {who}, {found.cores} at a time: {found.chunks} chunks of {found.chunk:,} configurations"
    )
    echo(f"  {found.busy_s:.3g} processor seconds of work on one")
    echo(
        f"  {found.core_s:.3g} s of a core with all that travels and what else ran there, "
        f"{found.chunk / found.core_s:,.0f} configurations a second"
    )
    if found.passed_s is not None:
        echo(
            f"  {found.passed_s:,.0f} chunks without work a second are passed on: enough for {found.most_workers} cores"
        )
    echo(
        f"{found.configurations:,} configurations take {found.busy_hours:.3g} processor hours of work, "
        f"{found.core_hours:.3g} core-hours as measured"
    )
    if found.workers_for_an_hour is not None:
        echo(f"an hour of {found.workers_for_an_hour} workers of one core like these")
    rows = [
        [f"{workers:,}", _time(found.hours(workers))]
        for workers in WORKERS
        if found.most_workers is None or workers <= found.most_workers
    ]
    echo("")
    print_table("", ["workers", "time"], rows, "rr")
    if found.most_workers is None:
        echo("what one scheduler can keep busy is measured with --scheduler")


def _time(hours: float) -> str:
    return f"{hours:.3g} h" if hours >= 1.0 else f"{60.0 * hours:.3g} min"
