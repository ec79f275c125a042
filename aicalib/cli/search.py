"""`aicalib search`: the best deployments for a service level, and why each wins or loses."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aicalib.cli import options as opt
from aicalib.cli.choices import service_level, tried_values
from aicalib.cli.output import (
    DEFAULT_WAIT_S,
    PAGE_COLUMNS,
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
    from aicalib.plan.figures import Number
    from aicalib.plan.search.found import Choice, Found, Point
    from aicalib.plan.search.goal import Goal
    from aicalib.plan.tasks.task import Bound

LIMIT = 100_000
MOST_REASONS = 6
"""Reasons of a kind of which a person is shown each."""

CALIBRATED = "calibrated"

MOST_POINTS = 12
"""Points of the front that a person is shown, evenly over it."""

_LIST = "Several with commas."
_ONLY = "Only these, with commas; 'auto' leaves it to checkpoint and engine."


def search(
    model: opt.Model = "llama-70b",
    gpu: Annotated[str, typer.Option(help=f"Accelerator, or a .toml file of your own. {_LIST}")] = "h100-sxm",
    gpus: Annotated[int, typer.Option(help="How many of one kind.")] = 8,
    isl: opt.Isl = 1024,
    osl: opt.Osl = 256,
    prefix_hit: opt.PrefixHit = 0.0,
    ttft_ms: opt.TtftMs = None,
    tpot_ms: opt.TpotMs = None,
    e2e_ms: opt.E2eMs = None,
    percentile: opt.Percentile = "mean",
    soft: Annotated[
        bool, typer.Option("--soft", help="Weigh an excess over the three bounds instead of ruling it out.")
    ] = False,
    slo: Annotated[
        Path | None,
        typer.Option(
            help="A service level as the `slo` of an autotuner's task has it, as a JSON file.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    objective: Annotated[
        str, typer.Option(help="throughput (a GPU), latency, ttft, tpot, balance or cost.")
    ] = "throughput",
    robust: Annotated[
        bool, typer.Option("--robust", help="Rank, and hold the bounds, by the pessimistic end of intervals.")
    ] = False,
    prices: Annotated[
        str | None,
        typer.Option(help="A file of prices (docs/plan.md), or 'example'; objective cost needs one."),
    ] = None,
    engine: Annotated[str, typer.Option(help=f"sglang, vllm or trtllm. {_LIST}")] = "sglang",
    engine_version: opt.EngineVersion = None,
    gemm: Annotated[str | None, typer.Option(help=f"Formats of dense weights. {_ONLY}")] = None,
    kv: Annotated[str | None, typer.Option(help=f"Formats of the KV cache. {_ONLY}")] = None,
    fmha: Annotated[str | None, typer.Option(help=f"Formats in which attention multiplies. {_ONLY}")] = None,
    moe: Annotated[str | None, typer.Option(help=f"Formats of the experts. {_ONLY}")] = None,
    attention_backend: Annotated[str | None, typer.Option(help=f"Kernels of attention. {_ONLY}")] = None,
    moe_backend: Annotated[str | None, typer.Option(help=f"Kernels of the experts. {_ONLY}")] = None,
    tp: Annotated[str | None, typer.Option(help="Only these tensor-parallel widths.")] = None,
    pp: Annotated[str | None, typer.Option(help="Only these numbers of pipeline stages.")] = None,
    dp: Annotated[str | None, typer.Option(help="Only these numbers of attention ranks.")] = None,
    ep: Annotated[str | None, typer.Option(help="Only these numbers of expert ranks.")] = None,
    moe_a2a_backend: Annotated[
        str | None, typer.Option(help="SGLang: only these ways of tokens to their experts: none, deepep.")
    ] = None,
    concurrency: Annotated[
        str | None, typer.Option(help="Only these numbers of requests in flight of a replica.")
    ] = None,
    separate: Annotated[
        bool, typer.Option("--separate/--no-separate", help="Also try prefill on instances of its own.")
    ] = True,
    network_gbit_s: Annotated[
        float | None,
        typer.Option(
            help="Rate at which one GPU sends to another node: instances over nodes, and caches between them."
        ),
    ] = None,
    top: Annotated[int, typer.Option(help="Choices to show of each group.")] = 5,
    limit: Annotated[
        int, typer.Option(help="Configurations to try at most, the most important first; 0 is all.")
    ] = LIMIT,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the Pareto front: a .png or .svg file.")
    ] = None,
    jobs: Jobs = 1,
    scheduler: Scheduler = None,
    profile: ProfileName = "default",
    db: Db = None,
    wait: Wait = DEFAULT_WAIT_S,
    json: Json = False,
) -> None:
    """Find the best formats, widths and settings for a service level.

    Every configuration that an engine starts is predicted. What starts from the published checkpoint and what needs a
    checkpoint of its own are ranked apart; a tie is where the best is better by less than the interval
    of the ratio of both. Under a service level what is expected to yield most comes first, a missed
    level counting nothing.
    """
    from aicalib.plan.search.best import search as find
    from aicalib.plan.search.space import Sought
    from aicalib.plan.workers import Where
    from aicalib.report.pictures import front
    from aicalib.report.pictures.style import picture_file, save

    where = Where(jobs, scheduler)
    if plot is not None:
        picture_file(plot)
    only = tried_values({
        "gemm": gemm, "kv": kv, "fmha": fmha, "moe": moe, "attention_backend": attention_backend,
        "moe_backend": moe_backend, "tp": tp, "pp": pp, "dp": dp, "ep": ep, "moe_a2a_backend": moe_a2a_backend,
        "concurrency": concurrency,
    })  # fmt: skip
    sought = Sought(
        model=model,
        gpus=tuple(each.strip() for each in gpu.split(",")),
        count=gpus,
        isl=isl,
        osl=osl,
        engines=tuple(each.strip() for each in engine.split(",")),
        engine_version=engine_version,
        prefix_hit=prefix_hit,
        network_gbit_s=network_gbit_s,
        only=only,
        separate=separate,
    )
    bounds = {"ttft": ttft_ms, "tpot": tpot_ms, "latency": e2e_ms}
    goal = _goal(bounds, percentile, soft, slo, objective, robust, prices)
    used = find_profile(profile, db, wait)
    with progress("search", None) as tick:
        found = find(sought, goal, used, top, limit or None, tick, where)
    if plot is not None:
        save(front.picture(found.as_dict()), plot)
    if json:
        print_json(found.as_dict())
    else:
        _print(found, goal)


def _goal(
    thresholds: dict[str, str | None],
    percentile: str,
    soft: bool,
    slo: Path | None,
    objective: str,
    robust: bool,
    prices: str | None,
) -> Goal:
    from aicalib.errors import InvalidValue
    from aicalib.plan.price import load_prices
    from aicalib.plan.search.goal import STEEPNESS, Goal
    from aicalib.plan.tasks.task import load_service_level

    given = service_level(thresholds, percentile, hard=not soft)
    steepness = STEEPNESS
    if soft and not given and slo is None:
        raise InvalidValue("--soft weighs bounds, of which none is given", ["--ttft-ms 1000 --soft"])
    if slo is not None:
        if given:
            raise InvalidValue("--slo is a whole service level; it stands alone", ["--slo without --ttft-ms"])
        given, steepness = load_service_level(slo)
    return Goal(objective, given, steepness, robust, None if prices is None else load_prices(prices))


# ------------------------------------------------------------------------------------------------------------ text


def _print(found: Found, goal: Goal) -> None:
    sought = found.sought
    level = ", ".join(_bound(each) for each in goal.bounds) or "no service level"
    echo = typer.echo
    kinds = f"{' or '.join(sought.engines)} on {sought.count} x {' or '.join(sought.gpus)}"
    echo(f"{sought.model}, {kinds}, {sought.isl:g} in, {sought.osl:g} out")
    echo(f"{found.objective}{_ranking(found)}; {level}")
    echo(f"{found.evaluated} configurations, profile {found.profile}")
    named = len(sought.gpus) * len(sought.engines) > 1
    for title, choices in (
        ("starts from the published checkpoint", found.at_once),
        ("needs a checkpoint of its own", found.with_checkpoint),
    ):
        if choices:
            echo("")
            _print_choices(title, choices, named, goal)
    for title, choice in (
        ("best", found.best),
        ("best that is calibrated", found.calibrated),
        ("best with a checkpoint of its own", _second(found)),
    ):
        if choice is not None:
            echo(f"\n{title}: {choice.start.words(named)}")
            if choice is found.calibrated:
                _print_beside(choice, found.best)
            _print_choice(choice)
    echo("")
    _print_front(found.pareto or found.pareto_with_checkpoint, bool(goal.bounds))
    lines = [f"{each.number} x {each.reason}; nearest: {each.nearest}" for each in found.lost]
    _print_list("what lost, by formats and widths:", lines)
    refused = [f"{count} x {reason}" for reason, count in found.refused.items()]
    _print_list("refused, in configurations:", refused)
    for note in found.notes:
        echo(f"note: {note}")


def _ranking(found: Found) -> str:
    """Return in words what ranks where it is not the prediction alone."""
    if found.robust:
        return ", by the pessimistic end of intervals"
    return "" if found.best.keeps_level is None else ", a missed level counting nothing"


def _second(found: Found) -> Choice | None:
    return found.with_checkpoint[0] if found.at_once and found.with_checkpoint else None


def _bound(each: Bound) -> str:
    from aicalib.plan.search.losers import spelled

    return spelled(each) + ("" if each.hard_fail else ", weighted")


def _print_choices(title: str, choices: Sequence[Choice], named: bool, goal: Goal) -> None:
    """Print a table of choices: the times that are bounded, and the cost where prices are given."""
    rows = []
    times = _times(goal.bounds)
    level = any(each.keeps_level is not None for each in choices)
    for place, each in enumerate(choices, start=1):
        figures = each.figures
        mark = "" if each.origin == CALIBRATED else "*"
        rows.append([
            f"{place}{mark}{' tie' if each.tie else ''}", str(each.replicas), str(each.workload["concurrency"]),
            _interval(figures["output_tok_s_per_gpu"]), *(_plain(figures[name].value) for name in times),
            *([_chance(each)] if level else []),
            *([f"{each.cost_per_mtok.value:.3g}"] if each.cost_per_mtok else []),
            each.start.words(named),
        ])  # fmt: skip
    kept = ["in level"] if level else []
    cost = [f"{goal.prices.currency}/M out"] if goal.prices else []
    header = ["", "replicas", "in flight", "tok/s/GPU", *times.values(), *kept, *cost, "start"]
    print_table(title, header, rows, "l" + "r" * (len(header) - 2) + "l")
    weaker = dict.fromkeys(each.origin for each in choices if each.origin != CALIBRATED)
    if weaker:
        typer.echo(f"* {', '.join(weaker)}: no runs like it were fitted")


def _times(bounds: Sequence[Bound]) -> dict[str, str]:
    """Return which times a table of choices shows, and under what title: as they are bounded, else the mean."""
    asked: dict[str, list[str]] = {}
    for each in bounds:
        asked.setdefault(each.metric, []).append(each.percentile or "")
    times = {}
    for metric, name, title in (
        ("ttft", "ttft_ms", "TTFT"),
        ("tpot", "tpot_ms", "TPOT"),
        ("latency", "e2e_ms", "E2E"),
    ):
        for percentile in asked.get(metric, [""] if metric != "latency" else []):
            times[f"{name} {percentile}".strip()] = " ".join(filter(None, (title, percentile, "ms")))
    return times


def _print_beside(choice: Choice, best: Choice) -> None:
    """Print the figures of a choice that need not stand in the table, and what choosing it gives up."""
    figures = choice.figures
    level = "" if choice.keeps_level is None else f", keeps the level with {_chance(choice)}"
    _wrapped(
        f"{_interval(figures['output_tok_s_per_gpu'])} tok/s/GPU, TTFT {_plain(figures['ttft_ms'].value)} ms, "
        f"TPOT {_plain(figures['tpot_ms'].value)} ms, {choice.replicas} x {choice.workload['concurrency']} in "
        f"flight{level}; "
        f"{'a tie with' if choice.tie else 'behind'} the best, which is {best.origin}"
    )


def _print_choice(choice: Choice) -> None:
    held = choice.memory
    for sentence in choice.why.split("; "):
        _wrapped(f"- {sentence}")
    _wrapped(
        f"memory of one GPU: weights {held.weights_gib:.1f} GiB, KV pool {held.kv_pool_gib:.1f} GiB, of which "
        f"{held.margin_gib:.1f} GiB stay free; it holds {held.max_concurrency} such requests"
    )
    if choice.cost_per_mtok is not None:
        typer.echo(f"  a million output tokens cost {_interval(choice.cost_per_mtok)}")
    if choice.idle_gpus:
        typer.echo(f"  {choice.idle_gpus} of the GPUs stay idle")
    if choice.needs:
        typer.echo(f"  needs {choice.needs}")
    if choice.unseen:
        _wrapped(f"{choice.origin}: {choice.unseen}")
    for each in choice.accuracy:
        wide = f", {each.of_16_bit:g} in 16 bit" if each.of_16_bit is not None else ""
        note = f" ({each.note})" if each.note else ""
        where = each.source.partition("@")[0]
        _wrapped(f"accuracy, {each.field} {each.mode}: {each.test} {each.score:g}{wide}{note}; {where}")
    if not choice.accuracy:
        typer.echo("  no published accuracy of these formats is known")
    for name, text in choice.launch.files.items():
        typer.echo(textwrap.indent(f"{name}: {text.rstrip()}", "  "))
    typer.echo(f"  {choice.launch.line()}")
    for note in choice.launch.notes:
        _wrapped(f"note: {note}")


def _wrapped(text: str) -> None:
    lines = textwrap.wrap(text, PAGE_COLUMNS - 4, break_on_hyphens=False)
    typer.echo("\n".join(f"  {'  ' if number else ''}{line}" for number, line in enumerate(lines)))


def _print_front(points: Sequence[Point], level: bool) -> None:
    """Print the points of a front, and which of them keep the level where there is one."""
    step = max(-(-len(points) // MOST_POINTS), 1)
    shown = points[::step] if step > 1 else points
    rows = [
        [_interval(each.output_tok_s_per_gpu), _plain(each.tok_s_per_user.value), _plain(each.ttft_ms.value),
         str(each.concurrency), *(["yes" if each.meets else "no"] if level else []), each.words]
        for each in shown
    ]  # fmt: skip
    kept = ["in level"] if level else []
    header = ["tok/s/GPU", "tok/s/user", "TTFT ms", "in flight", *kept, "start"]
    some = f", {len(shown)} of {len(points)} points" if step > 1 else ""
    print_table(f"Pareto front{some}", header, rows, "rrrr" + "l" * (len(header) - 4))


def _print_list(title: str, lines: list[str]) -> None:
    if not lines:
        return
    typer.echo(f"\n{title}")
    for line in lines[:MOST_REASONS]:
        _wrapped(line)
    if len(lines) > MOST_REASONS:
        typer.echo(f"  and {len(lines) - MOST_REASONS} other reasons: --json has all")


def _plain(value: float) -> str:
    return "-" if value != value else f"{value:.4g}"


def _chance(choice: Choice) -> str:
    """Return the probability that the level is kept in whole percent, rounded down: none is certain."""
    return "-" if choice.keeps_level is None else f"{int(100 * choice.keeps_level)} %"


def _interval(number: Number) -> str:
    known = number.low == number.low
    return (
        f"{_plain(number.value)} ({_plain(number.low)} .. {_plain(number.high)})"
        if known
        else _plain(number.value)
    )
