"""`aicalib loop`: predict, measure and update, until the choice of a task is settled or the budget is spent."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    store_path,
)
from aicalib.cli.where import (
    DEFAULT_HOST,
    DEFAULT_PORT,
    DEFAULT_TIMEOUT_S,
    BaseUrl,
    Client,
    ClientPython,
    ClientVersion,
    EnginePython,
    Host,
    MachineGpu,
    NumPrompts,
    Port,
    RunTimeout,
    StartTimeout,
    loop_folder,
)

if TYPE_CHECKING:
    from aicalib.loop.loop import Event
    from aicalib.measure.client import Load
    from aicalib.plan.tasks.task import Task
    from aicalib.profiles import Profile

MOST_ROWS = 20
"""Rows of the live table: the last ones."""


def loop(
    path: opt.TaskFile,
    runs: Annotated[
        int | None, typer.Option(min=1, help="Measured runs at most, those of earlier sessions included.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Minutes at most, likewise.")] = None,
    spend: Annotated[
        bool, typer.Option("--spend", help="Spend the whole budget, also where the choice is settled.")
    ] = False,
    repeat_every: Annotated[
        int, typer.Option(min=0, help="One of so many runs repeats an earlier one; 0 for none.")
    ] = 5,
    failures: Annotated[int, typer.Option(min=1, help="Failures in a row after which it ends.")] = 3,
    gpu: MachineGpu = None,
    engine_version: opt.TaskEngineVersion = None,
    num_prompts: NumPrompts = None,
    engine_python: EnginePython = "python",
    client_python: ClientPython = None,
    client: Client = None,
    client_version: ClientVersion = None,
    host: Host = DEFAULT_HOST,
    port: Port = DEFAULT_PORT,
    base_url: BaseUrl = None,
    start_timeout: StartTimeout = DEFAULT_TIMEOUT_S,
    run_timeout: RunTimeout = DEFAULT_TIMEOUT_S,
    state: Annotated[
        Path | None,
        typer.Option(help="Folder of the journal and raw results. Default: one beside the store."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the profile that is stored in the end. Default: the task's name.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the error over the runs: .png or .svg.")
    ] = None,
    profile: ProfileName = "default",
    db: Db = None,
    wait: Wait = DEFAULT_WAIT_S,
    json: Json = False,
) -> None:
    """Predict, measure, update: find a task's best configuration on a real engine with few runs.

    Ends when the choice is settled or the budget is spent. After a kill the same command goes on where it was.
    """
    from functools import partial

    from aicalib.loop.loop import Loop
    from aicalib.loop.result import calibrated, document
    from aicalib.loop.rules import Rules
    from aicalib.loop.state import Journal
    from aicalib.measure.client import prompts_for
    from aicalib.measure.session import Where, measure
    from aicalib.plan.tasks.task import load_task
    from aicalib.profiles.exchange import check_name
    from aicalib.report.loop import ALIGN, HEADER, row, text
    from aicalib.report.loop_plot import plot as draw
    from aicalib.report.pictures.style import picture_file
    from perfdb import Store

    task, rules = load_task(path), Rules(runs, minutes, spend, repeat_every, failures)
    used, store = find_profile(profile, db, wait), store_path(db)
    folder = loop_folder(store, task.name) if state is None else state
    called = loop_folder(store, task.name).name if name is None else name
    check_name(called)
    if plot is not None:
        picture_file(plot)
    about = _about(task, gpu, engine_version, used, base_url)

    def prompts(load: Load) -> int:
        return prompts_for(load) if num_prompts is None else max(num_prompts, load.concurrency or 1)

    where = Where(
        folder, engine_python, client_python, host, port, base_url, start_timeout, run_timeout, client=client,
        client_version=client_version,
    )  # fmt: skip
    with Journal(folder, about) as journal:
        try:
            with _watching(rules.runs) as (watch, tell):
                measurer = partial(
                    measure, store=store, where=where, retries=0, num_prompts=prompts, tell=tell
                )
                looped = Loop(
                    task, store, measurer, journal, used, rules, gpu, engine_version, watch,
                    serving=base_url is not None,
                )  # fmt: skip
                ended = looped.run()
        except BaseException:
            if journal.state.asked:
                typer.echo(
                    f"{journal.path} keeps what was measured: the same command goes on from there", err=True
                )
            raise
        own = calibrated(ended.found, store, used, called)
        if own is not None:
            with Store(store, wait_s=wait) as opened:
                made = own.profile
                opened.save_profile(made.name, made.version, made.to_json(), made.fitted["run_id"])
        label = None if own is None else own.profile.label
        found = document(ended, journal.state, journal.spent_s, own, label)
    found["journal"] = str(journal.path)
    if plot is not None and any(step["errors"] for step in found["steps"]):
        draw(found["steps"], plot, f"{task.name} on {found['gpu']}")
    if json:
        print_json(found)
    else:
        print_table(
            f"{task.name}: {task.model} on {found['gpu']}, {found['engine']} {found['engine_version']}; "
            "predictions with 90 % intervals",
            HEADER, [row(step) for step in found["steps"]], ALIGN,
        )  # fmt: skip
        typer.echo("\n" + "\n".join(text(found)))
        for note in dict.fromkeys((*found["remarks"], *found["notes"])):
            typer.echo(f"note: {note}")
    if ended.kind == "every_start_failed":
        typer.echo(f"error: {ended.reason}", err=True)
        raise typer.Exit(2)
    if ended.kind == "too_many_failures" or not found["runs"]:
        raise typer.Exit(1)


def _about(
    task: Task, gpu: str | None, engine_version: str | None, profile: Profile, base_url: str | None
) -> dict[str, Any]:
    """Return what a journal belongs to.

    Raises
    ------
    InvalidValue
        If nothing says on what is measured, or a server that runs already is to be several starts.
    """
    from aicalib.errors import InvalidValue
    from aicalib.plan.tasks.screen import screen

    on = gpu or task.gpu
    if on is None:
        raise InvalidValue(
            "the task names no gpu_type: a measured run says on what it was taken", ["--gpu NAME"]
        )
    starts = len(screen(task, on, engine_version, profile).ranked)
    if base_url is not None and starts > 1:
        raise InvalidValue(
            f"a server that runs already is one start, and the task has {starts}: it cannot choose between them",
            ["a task with one point and several loads", "without --base-url"],
        )
    return {
        "name": task.name, "task": task.content, "gpu": on, "engine_version": engine_version,
        "profile": profile.label,
    }  # fmt: skip


@contextmanager
def _watching(budget: int | None) -> Iterator[tuple[Callable[[Event], object], Callable[[str], object]]]:
    """Show on stderr what happens: a live table on a terminal, else a line for each event."""
    from aicalib.loop.result import step
    from aicalib.report.loop import HEADER, load_words, row

    if not sys.stderr.isatty():

        def told(event: Event) -> None:
            if event.asked is None or event.kind == "serving":
                return
            cells = row(step(event.asked, event.came))
            if event.kind == "asked":
                best = event.asked.facts["best"]["point"]
                predicted = f"TTFT {cells[2]} ms, TPOT {cells[5]} ms"
                typer.echo(
                    f"run {cells[0]}: {cells[1]}; predicted {predicted}; best so far: {best}", err=True
                )
            elif event.came is not None and event.came.failed:
                message = event.came.facts.get("message")
                typer.echo(f"  came: {cells[8]}" + (f" ({message})" if message else ""), err=True)
            else:
                measured = f"TTFT {cells[3]} ms {cells[4]}, TPOT {cells[6]} ms {cells[7]} {cells[8]}"
                typer.echo(f"  came: {measured}".rstrip(), err=True)

        yield told, lambda text: None
        return
    from rich.console import Console, Group
    from rich.live import Live
    from rich.markup import escape
    from rich.table import Table

    rows: dict[int, list[str]] = {}
    lines = {"best": "", "doing": ""}

    def drawn() -> Group:
        table = Table(*HEADER, box=None)
        for cells in list(rows.values())[-MOST_ROWS:]:
            table.add_row(*map(escape, cells))
        return Group(table, escape(lines["best"]), escape(lines["doing"]))

    with Live(drawn(), console=Console(stderr=True), auto_refresh=False) as live:

        def watch(event: Event) -> None:
            if event.asked is not None:
                rows[event.asked.number] = row(step(event.asked, event.came))
            if event.kind == "asked" and event.asked is not None:
                done = f"{event.state.runs} of {budget} runs" if budget else f"{event.state.runs} runs"
                lines["best"] = (
                    f"{done}, {event.state.failures} failures; best so far: {event.asked.facts['best']['point']}"
                )
                lines["doing"] = load_words(event.asked.facts["load"])
            live.update(drawn(), refresh=True)

        def tell(text: str) -> None:
            lines["doing"] = text
            live.update(drawn(), refresh=True)

        yield watch, tell
