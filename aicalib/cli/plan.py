"""`aicalib plan`: traffic and a service level to replicas, GPUs, cost, utilisation and power."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aicalib.cli import options as opt
from aicalib.cli.choices import service_level, tried_values
from aicalib.cli.output import (
    DEFAULT_WAIT_S,
    Db,
    Json,
    ProfileName,
    Wait,
    find_profile,
    print_json,
    print_table,
    progress,
)
from aicalib.report.numbers import short

if TYPE_CHECKING:
    from aicalib.plan.capacity.demand import Demand
    from aicalib.plan.capacity.fleet import Fleet
    from aicalib.plan.capacity.plan import Plan
    from aicalib.plan.figures import Number

_LIST = "Several with commas."
_ONLY = "Only these, with commas; 'auto' leaves it to checkpoint and engine."


def plan(
    model: opt.Model = "llama-70b",
    gpu: Annotated[str, typer.Option(help=f"Accelerator, or a .toml file of your own. {_LIST}")] = "h100-sxm",
    rate: Annotated[float | None, typer.Option(help="Requests a second, if it does not change.")] = None,
    traffic: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="Traffic over time: a row for each request, or for each stretch of time (docs/plan.md).",
        ),
    ] = None,
    isl: Annotated[float | None, typer.Option(help="Mean input tokens, where the traffic has none.")] = None,
    osl: Annotated[float | None, typer.Option(help="Mean output tokens, where the traffic has none.")] = None,
    lengths: Annotated[
        str | None, typer.Option(help="Both as a distribution instead, such as 'N(480,240)/(300,150)'.")
    ] = None,
    bin_minutes: Annotated[
        float | None, typer.Option(help="Width of the bins of a row for each request. Default: 5.")
    ] = None,
    fill_gaps: Annotated[
        str, typer.Option(help="A stretch of time without rows: refuse, or zero (no traffic).")
    ] = "refuse",
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHAT=NAME", help="Column of time, isl, osl, rate or requests, by its name in the file."
        ),
    ] = None,
    prefix_hit: opt.PrefixHit = 0.0,
    ttft_ms: opt.TtftMs = None,
    tpot_ms: opt.TpotMs = None,
    e2e_ms: opt.E2eMs = None,
    percentile: opt.Percentile = "mean",
    spare: Annotated[float, typer.Option(help="Capacity beyond the traffic, as a share of it.")] = 0.2,
    robust: Annotated[
        bool, typer.Option("--robust", help="Size fleets by the pessimistic end of intervals.")
    ] = False,
    prices: Annotated[
        str | None, typer.Option(metavar="FILE.toml", help="Prices and power (docs/plan.md), or 'example'.")
    ] = None,
    replica_gpus: Annotated[int, typer.Option(help="GPUs of one replica, at most.")] = 8,
    engine: Annotated[str, typer.Option(help=f"sglang, vllm or trtllm. {_LIST}")] = "sglang",
    engine_version: opt.EngineVersion = None,
    gemm: Annotated[str | None, typer.Option(help=f"Formats of dense weights. {_ONLY}")] = None,
    kv: Annotated[str | None, typer.Option(help=f"Formats of the KV cache. {_ONLY}")] = None,
    fmha: Annotated[str | None, typer.Option(help=f"Formats in which attention multiplies. {_ONLY}")] = None,
    moe: Annotated[str | None, typer.Option(help=f"Formats of the experts. {_ONLY}")] = None,
    tp: Annotated[str | None, typer.Option(help="Only these tensor-parallel widths.")] = None,
    dp: Annotated[str | None, typer.Option(help="Only these numbers of attention ranks.")] = None,
    ep: Annotated[str | None, typer.Option(help="Only these numbers of expert ranks.")] = None,
    profile: ProfileName = "default",
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the first fleet over the day: .png or .svg.")
    ] = None,
    db: Db = None,
    wait: Wait = DEFAULT_WAIT_S,
    json: Json = False,
) -> None:
    """Plan a fleet: replicas, GPUs, cost, utilisation and power for a traffic and a service level.

    Each replica is loaded with arrivals at random times as far as the level holds. Fleets are compared over GPUs,
    formats and widths, the cheapest first; what starts from the published checkpoint and what needs its own, apart.
    """
    from aicalib.plan.capacity.plan import plan as make
    from aicalib.plan.price import load_prices

    if plot is not None:
        _check_plot(plot, traffic)
    demand = _demand(rate, traffic, isl, osl, lengths, bin_minutes, fill_gaps, column or [])
    used = find_profile(profile, db, wait)
    with progress("plan", None) as tick:
        found = make(
            model=model,
            gpus=[each.strip() for each in gpu.split(",")],
            demand=demand,
            bounds=service_level({"ttft": ttft_ms, "tpot": tpot_ms, "latency": e2e_ms}, percentile),
            spare=spare,
            prices=None if prices is None else load_prices(prices),
            only=tried_values(
                {"gemm": gemm, "kv": kv, "fmha": fmha, "moe": moe, "tp": tp, "dp": dp, "ep": ep}
            ),
            most_gpus=replica_gpus,
            engines=[each.strip() for each in engine.split(",")],
            engine_version=engine_version,
            prefix_hit=prefix_hit,
            robust=robust,
            profile=used,
            tick=tick,
        )
    if plot is not None:
        from aicalib.cli.output import finite
        from aicalib.report.pictures.day import picture
        from aicalib.report.pictures.style import save

        save(picture(finite(found.as_dict())), plot)
    if json:
        print_json(found.as_dict())
    else:
        _print(found)


def _check_plot(file: Path, traffic: Path | None) -> None:
    """Refuse what cannot be drawn before any work is done.

    Raises
    ------
    InvalidValue
    """
    from aicalib.errors import InvalidValue
    from aicalib.report.pictures.style import picture_file

    picture_file(file)
    if traffic is None:
        raise InvalidValue("--plot draws traffic over time: a rate has none", ["--traffic FILE.csv"])


def _demand(
    rate: float | None,
    traffic: Path | None,
    isl: float | None,
    osl: float | None,
    lengths: str | None,
    bin_minutes: float | None,
    fill_gaps: str,
    column: list[str],
) -> Demand:
    """Read the traffic of the options.

    Raises
    ------
    RequestError
    """
    from aicalib.errors import InvalidValue
    from aicalib.plan.capacity.demand import steady
    from aicalib.plan.capacity.trace import read_traffic
    from aicalib.plan.tasks.traffic import read_scenario

    if (rate is None) == (traffic is None):
        raise InvalidValue(
            f"{'no' if rate is None else 'two kinds of'} traffic is given: it is a rate or a file",
            ["--rate 12 --isl 1024 --osl 256", "--traffic FILE.csv"],
        )
    if lengths is not None:
        if isl is not None or osl is not None:
            raise InvalidValue(
                "--lengths says what --isl and --osl do", ["--lengths without --isl and --osl"]
            )
        isl, osl, _ = read_scenario(lengths)
    if traffic is not None:
        named = [each.partition("=") for each in column]
        for what, sign, name in named:
            if not (sign and name):
                raise InvalidValue(f"--column {what}{sign}: it names a column", ["--column time=arrived"])
        return read_traffic(
            traffic, isl, osl, None if bin_minutes is None else 60.0 * bin_minutes, fill_gaps,
            {what: name for what, _, name in named},
        )  # fmt: skip
    if bin_minutes is not None or column or fill_gaps != "refuse":
        raise InvalidValue(
            "--bin-minutes, --fill-gaps and --column are for --traffic FILE.csv", ["--traffic FILE.csv"]
        )
    assert rate is not None
    if isl is None or osl is None:
        raise InvalidValue(
            "--rate needs the tokens of a request", ["--isl 1024 --osl 256", "--lengths 'D(1024,256)'"]
        )
    return steady(rate, isl, osl)


# ------------------------------------------------------------------------------------------------------------ text


def _print(found: Plan) -> None:
    from aicalib.plan.search.losers import spelled

    demand, echo = found.demand, typer.echo
    echo(f"{found.model}: {_traffic(demand)}")
    echo(f"level: {', '.join(map(spelled, found.bounds))}; spare {100 * found.spare:.0f} %{_robust(found)}")
    echo(f"{found.considered} starts compared, profile {found.profile}")
    placed = list(enumerate(found.fleets, 1))
    for title, fleets in (
        ("starts from the published checkpoint", [each for each in placed if each[1].needs is None]),
        ("needs a checkpoint of its own", [each for each in placed if each[1].needs is not None]),
    ):
        if fleets:
            echo("")
            _print_fleets(title, found, fleets)
    echo(f"\nchosen: {found.best.words}")
    _print_fleet(found, found.best)
    for note in (*found.notes, *_power_notes(found.best)):
        echo(f"note: {note}")


def _power_notes(fleet: Fleet) -> list[str]:
    return [f"power: {fleet.draw.note}"] if fleet.draw is not None and fleet.draw.note else []


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _robust(found: Plan) -> str:
    return ", by the pessimistic end of intervals" if found.robust else ""


def _traffic(demand: Demand) -> str:
    from aicalib.plan.capacity.demand import describe

    told = describe(demand)
    if told["bins"] == 1:
        return f"{short(told['mean_requests_s'])} requests/s of {told['isl']:.0f} in, {told['osl']:.0f} out"
    return (
        f"{told['requests']:.0f} requests in {told['hours']:.4g} h, {told['bins']} bins of "
        f"{told['bin_s'] / 60:.4g} min\n"
        f"mean {short(told['mean_requests_s'])} requests/s of {told['isl']:.0f} in, {told['osl']:.0f} out; "
        f"peak {short(told['peak_requests_s'])} at {told['peak_begins']}"
    )


def _print_fleets(title: str, found: Plan, fleets: list[tuple[int, Fleet]]) -> None:
    """Print a table of fleets, each with its place among all."""
    currency = found.prices.currency if found.prices else ""
    header = ["", "GPUs", "90 %"]
    if found.prices:
        header += [f"{currency}/h", f"{currency}/M out"]
    header += ["util", "kW", "", "start"]
    rows = []
    for place, fleet in fleets:
        row = [str(place), f"{fleet.gpus.value:g}", _range(fleet.gpus)]
        if fleet.cost:
            row += [f"{fleet.cost.per_hour.value:.2f}", f"{fleet.cost.per_million_output.value:.3g}"]
        row += [
            f"{100 * fleet.peak_utilisation:.0f} %",
            "-" if fleet.draw is None else f"{fleet.draw.peak_kw:.1f}",
        ]
        rows.append([*row, "tie" if fleet.tie else "", fleet.words])
    print_table(title, header, rows, "r" * (len(header) - 2) + "ll")


def _print_fleet(found: Plan, fleet: Fleet) -> None:
    """Print what there is to know of one fleet."""
    echo, demand = typer.echo, found.demand
    where = "" if demand.requests_s.size == 1 else f", sized by the bin from {demand.begins[fleet.sized_by]}"
    echo(
        f"  {_counted(fleet.size, 'replica')} ({_range(fleet.replicas)}) of {_counted(fleet.gpus_per_replica, 'GPU')}"
        f"{where}"
    )
    echo(
        f"  a replica takes {short(fleet.rate.value)} requests/s ({_range(fleet.rate)}), "
        f"{short(fleet.in_flight)} in flight"
    )
    echo(f"  then {fleet.binds} binds; at {short(fleet.limit)} requests/s requests pile up without end")
    if fleet.held is not None:
        echo(
            f"  with a fixed number in flight it keeps the level up to {fleet.held.concurrency}, "
            f"at {short(fleet.held.requests_s)} requests/s"
        )
    echo(
        f"  utilisation {100 * fleet.mean_utilisation:.0f} % in the mean, {100 * fleet.peak_utilisation:.0f} % at most"
    )
    if fleet.cost is not None and found.prices is not None:
        cost, currency = fleet.cost, found.prices.currency
        echo(
            f"  {currency} {cost.per_hour.value:.2f} an hour ({_range(cost.per_hour)}), "
            f"{short(cost.per_million_output.value)} a million output tokens, "
            f"{short(cost.per_million_total.value)} a million of all"
        )
        if demand.requests_s.size > 1:
            echo(
                f"  with the replicas that each bin needs: {currency} {cost.autoscaled_per_hour:.2f} an hour, "
                f"{short(cost.autoscaled_per_million_output)} a million output tokens"
            )
    if fleet.draw is not None:
        echo(
            f"  {short(fleet.draw.mean_kw)} kW in the mean, {short(fleet.draw.energy_kwh, 4)} kWh in "
            f"{demand.hours:.4g} h"
        )
    echo(f"  origin: {fleet.origin}{f'; needs {fleet.needs}' if fleet.needs else ''}")
    echo(f"  {fleet.launch.line()}")


def _range(number: Number) -> str:
    if number.low != number.low:
        return "-"
    return (
        f"{short(number.low)} to {short(number.high)}"
        if isfinite(number.high)
        else f"{short(number.low)} or more"
    )
