"""What `aicalib measure` shows: what is being done, what came of it, and measured beside predicted."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from aicalib.cli.output import print_table
from aicalib.report.numbers import short

if TYPE_CHECKING:
    from aicalib.measure.client import Load
    from aicalib.measure.session import Outcome, Planned
    from aicalib.plan.figures import Number
    from aicalib.profiles import Profile

Foreseen = dict[tuple[int, "Load"], "dict[str, Number]"]


def foreseen_of(planned: Sequence[Planned], prompts: Callable[[Load], int], profile: Profile) -> Foreseen:
    """Return what is predicted, by the identity of the plan and the load."""
    from aicalib.plan.tasks.starts import predicted

    found: Foreseen = {}
    for each in planned:
        asked = [(load, prompts(load)) for load in each.levels]
        for load, numbers in zip(each.levels, predicted(each, asked, profile), strict=True):
            found[id(each), load] = numbers
    return found


@contextmanager
def status() -> Iterator[tuple[Callable[[str], object], Callable[[str], object]]]:
    """Show on stderr what is being done, and what came of it: yields what tells the one and the other.

    What is being done stands in one line of a terminal; elsewhere each new thing is told once.
    """
    if not sys.stderr.isatty():
        last: list[str] = []

        def note(text: str) -> None:
            step = text.split(":", 1)[0]
            if last[-1:] != [step]:
                last[:] = [step]
                typer.echo(step, err=True)

        yield note, lambda text: typer.echo(text, err=True)
        return
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True)
    with console.status("") as shown:
        yield (
            lambda text: shown.update(escape(text)),
            lambda text: console.print(escape(text), highlight=False),
        )


def said(outcome: Outcome) -> str:
    """Return a line on one outcome."""
    what = {
        "started": "started",
        "run": f"measured {outcome.load}",
        "start_failed": "did not start",
        "died": f"died under {outcome.load}",
        "run_failed": f"not measured: {outcome.load}",
    }[outcome.kind]
    further = [f"({outcome.reason})"] if outcome.reason else []
    further += [outcome.message] if outcome.message else []
    further += [f"doubts: {', '.join(outcome.flags)}"] if outcome.flags else []
    return f"{what} after {outcome.seconds:.1f} s {' '.join(further)}".rstrip()


def document(outcome: Outcome, foreseen: Foreseen) -> dict[str, Any]:
    """Return an outcome beside its prediction as JSON has it."""
    from aicalib.plan.tasks.starts import errors

    numbers = _numbers_of(outcome, foreseen)
    return {
        **outcome.as_dict(),
        "predicted": {name: each._asdict() for name, each in numbers.items()},
        "errors": errors(outcome, numbers),
    }


def _numbers_of(outcome: Outcome, foreseen: Foreseen) -> dict[str, Number]:
    return {} if outcome.load is None else foreseen.get((id(outcome.planned), outcome.load), {})


def print_outcomes(found: Sequence[Outcome], foreseen: Foreseen, profile: Profile) -> None:
    """Print what was measured beside what was predicted, a table a start, and what failed."""
    from aicalib.plan.tasks.starts import COMPARED

    starts: dict[str, list[Outcome]] = {}
    for each in found:
        starts.setdefault(each.occasion, []).append(each)
    for outcomes in starts.values():
        typer.echo(outcomes[0].planned.start.line())
        rows = []
        for each in outcomes:
            if each.kind == "run":
                numbers = _numbers_of(each, foreseen)
                cells = [
                    text
                    for name, key in COMPARED.items()
                    for text in (short(each.figures.get(key), 4), _interval(numbers.get(name)))
                ]
                rows.append([str(each.load), *cells, ", ".join(each.flags)])
        if rows:
            header = [
                "in/out x conc.",
                "TTFT ms",
                "predicted",
                "TPOT ms",
                "predicted",
                "tok/s",
                "predicted",
                "",
            ]
            print_table(f"predicted by {profile.label}, with 90 % intervals", header, rows, align="lrrrrrrl")
        for each in outcomes:
            if each.reason:
                typer.echo(said(each))
        typer.echo("")
    runs, failed = sum(len(each.run_ids) for each in found), [each for each in found if each.reason]
    stored = sum(each.startup_id is not None for each in failed)
    typer.echo(
        f"runs stored: {runs}; failures: {len(failed)}"
        + (f", of which stored as starts that failed: {stored}" if stored else "")
    )


def _interval(number: Number | None) -> str:
    if number is None:
        return "-"
    if number.low != number.low:
        return short(number.value, 4)
    return f"{short(number.value, 4)} ({short(number.low, 4)} to {short(number.high, 4)})"
