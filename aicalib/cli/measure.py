"""`aicalib measure`: start engines, measure them with their own benchmark client, and keep what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aicalib.cli import options as opt
from aicalib.cli.outcomes import document, foreseen_of, print_outcomes, said, status
from aicalib.cli.output import (
    DEFAULT_WAIT_S,
    Db,
    Json,
    ProfileName,
    find_profile,
    print_json,
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
)

if TYPE_CHECKING:
    from aicalib.measure.client import Load
    from aicalib.measure.session import Outcome, Planned, Where
    from aicalib.profiles import Profile


def measure(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="TASK.json", help="An autotuner's task file: all that it spans."),
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="Of a task, so many of the best starts by prediction.")
    ] = None,
    launch: Annotated[
        str | None, typer.Option(help="The command that starts the engine, as it stands; without a task.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Without either: what to deploy, as for 'aicalib launch'.")
    ] = None,
    gpu: MachineGpu = None,
    gemm: opt.Gemm = None,
    kv: opt.Kv = None,
    fmha: opt.Fmha = None,
    moe: opt.Moe = None,
    preset: opt.Preset = None,
    checkpoint: Annotated[str | None, typer.Option(help="Folder or repository of the weights.")] = None,
    tp: Annotated[int | None, typer.Option(help="Tensor-parallel width.")] = None,
    pp: opt.Pp = None,
    dp: opt.Dp = None,
    ep: opt.Ep = None,
    engine: Annotated[str | None, typer.Option(help="sglang or vllm. Default: sglang.")] = None,
    engine_version: opt.EngineVersion = None,
    mem_fraction: opt.MemFraction = None,
    max_running_requests: opt.MaxRunningRequests = None,
    disable_radix_cache: opt.DisableRadixCache = False,
    isl: Annotated[
        int | None, typer.Option(help="Mean input tokens. Default: the task's, else 1024.")
    ] = None,
    osl: Annotated[
        int | None, typer.Option(help="Mean output tokens. Default: the task's, else 256.")
    ] = None,
    concurrency: Annotated[
        str | None,
        typer.Option(help="Requests in flight, several with commas. Default: the task's, else 32."),
    ] = None,
    request_rate: Annotated[
        str | None, typer.Option(help="Arrivals a second in place of it, several with commas.")
    ] = None,
    num_prompts: NumPrompts = None,
    repeats: Annotated[int, typer.Option(min=1, help="Times that each load is measured.")] = 1,
    retries: Annotated[int, typer.Option(min=0, help="Times that a doubted run is measured again.")] = 2,
    engine_python: EnginePython = "python",
    client_python: ClientPython = None,
    client: Client = None,
    client_version: ClientVersion = None,
    host: Host = DEFAULT_HOST,
    port: Port = DEFAULT_PORT,
    base_url: BaseUrl = None,
    results: Annotated[
        Path, typer.Option(help="Folder of raw results and logs; an own folder for each start.")
    ] = Path("results"),
    start_timeout: StartTimeout = DEFAULT_TIMEOUT_S,
    run_timeout: RunTimeout = DEFAULT_TIMEOUT_S,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the commands and run nothing.")] = False,
    profile: ProfileName = "default",
    db: Db = None,
    json: Json = False,
) -> None:
    """Start engines, measure them with their own benchmark client, keep all of it, and stop them, always.

    What to start is a task, a launch line, options as of 'aicalib launch', or nothing (--base-url).
    """
    from aicalib.calibrate.records import make_store
    from aicalib.measure.client import prompts_for
    from aicalib.measure.session import Where
    from aicalib.measure.session import measure as measured

    options = {
        "model": model, "gpu": gpu, "gemm": gemm, "kv": kv, "fmha": fmha, "moe": moe, "checkpoint": checkpoint,
        "tp": tp, "pp": pp, "dp": dp, "ep": ep, "engine": engine, "engine_version": engine_version,
        "mem_fraction": mem_fraction, "max_running_requests": max_running_requests,
        "disable_radix_cache": disable_radix_cache or None,
    }  # fmt: skip
    used = find_profile(profile, db, DEFAULT_WAIT_S)
    loads = _loads(isl, osl, concurrency, request_rate)
    planned = _planned(path, count, launch, base_url, preset, options, loads, used)

    def prompts(load: Load) -> int:
        return prompts_for(load) if num_prompts is None else num_prompts

    where = Where(
        results, engine_python, client_python, host, port, base_url, start_timeout, run_timeout, client=client,
        client_version=client_version,
    )  # fmt: skip
    if dry_run:
        _print_lines(planned, where, prompts, json)
        return
    make_store(
        store_path(db)
    )  # one that cannot be written to is told before an engine takes minutes to start
    foreseen = foreseen_of(planned, prompts, used)
    found: list[Outcome] = []
    with status() as (tell, say):
        for outcome in measured(planned, store_path(db), where, repeats, retries, prompts, tell):
            found.append(outcome)
            say(said(outcome))
    if json:
        print_json(
            {
                "profile": used.label,
                "db": str(store_path(db)),
                "outcomes": [document(each, foreseen) for each in found],
            }
        )
    else:
        print_outcomes(found, foreseen, used)
    if not any(each.run_ids for each in found):
        raise typer.Exit(1)


_BESIDE_A_TASK = ("gpu", "engine_version")
"""Options of a deployment that a task leaves open."""


def _planned(
    path: Path | None,
    count: int | None,
    launch: str | None,
    base_url: str | None,
    preset: str | None,
    options: Mapping[str, Any],
    loads: Sequence[Load],
    profile: Profile,
) -> list[Planned]:
    """Return what to start, and under which loads.

    Raises
    ------
    RequestError
        For what says nothing, or two things.
    """
    from aicalib.cli.choices import apply_preset
    from aicalib.errors import InvalidValue
    from aicalib.measure.server import running
    from aicalib.plan.tasks.screen import screen
    from aicalib.plan.tasks.starts import loads_of, of_line, of_options, of_screening, of_server
    from aicalib.plan.tasks.task import load_task

    ways = {"TASK.json": path, "--launch": launch, "--base-url": base_url, "--model": options["model"]}
    given = [name for name, value in ways.items() if value is not None]
    if given not in (*([each] for each in ways), ["TASK.json", "--base-url"], ["--base-url", "--model"]):
        raise InvalidValue(
            f"{' and '.join(given)} each say what to start" if given else "nothing says what to start",
            [f"one of {', '.join(ways)}"],
        )
    asked = apply_preset(options, preset)
    if path is not None and base_url is None:
        idle = [name for name, value in asked.items() if value is not None and name not in _BESIDE_A_TASK]
        if idle:
            flags = ", ".join("--" + name.replace("_", "-") for name in idle)
            raise InvalidValue(
                f"{flags}: the task says what is started, and these would change nothing",
                ["parameters and quant_config of the task"],
            )
    elif count is not None:
        raise InvalidValue("--count chooses among the starts of a task", ["TASK.json --count 3"])
    if path is not None:
        task = load_task(path)
        asked["gpu"] = gpu = options["gpu"] or task.gpu
        if gpu is None:
            raise InvalidValue(
                "the task names no gpu_type: a measured run says on what it was taken", ["--gpu NAME"]
            )
        found = screen(task, gpu, options["engine_version"], profile)
        sent = tuple(loads or loads_of(found))
        if base_url is None:
            return [replace(each, levels=sent) for each in of_screening(found, gpu, count)]
    else:
        sent = tuple(loads or _loads(1024, 256, "32", None))
    if base_url is not None:
        return [of_server(running(base_url), asked, sent)]
    if launch is not None:
        return [of_line(launch, asked, sent)]
    return [of_options({**asked, "engine": asked["engine"] or "sglang"}, sent)]


def _loads(isl: int | None, osl: int | None, concurrency: str | None, request_rate: str | None) -> list[Load]:
    """Return the loads that options ask for; none where no option says one.

    Raises
    ------
    InvalidValue
    """
    from aicalib.errors import InvalidValue
    from aicalib.measure.client import Load

    if concurrency is not None and request_rate is not None:
        raise InvalidValue(
            "--concurrency and --request-rate both say how requests arrive", ["--concurrency 32"]
        )
    if isl is None and osl is None and concurrency is None and request_rate is None:
        return []
    lengths = (1024 if isl is None else isl, 256 if osl is None else osl)
    if request_rate is not None:
        return [Load(*lengths, request_rate=each) for each in _numbers("--request-rate", request_rate, float)]
    return [Load(*lengths, int(each)) for each in _numbers("--concurrency", concurrency or "32", int)]


def _numbers(option: str, text: str, kind: Callable[[str], float]) -> list[float]:
    from aicalib.errors import InvalidValue

    try:
        return [kind(each) for each in text.split(",")]
    except ValueError:
        raise InvalidValue(f"{option} '{text}' is no list of numbers", [f"{option} 1,8,32"]) from None


def _print_lines(
    planned: Sequence[Planned], where: Where, prompts: Callable[[Load], int], as_json: bool
) -> None:
    """Print what would be run."""
    import shlex

    from aicalib.measure.client import bench_command, client_command
    from aicalib.measure.server import base_url, command_of, model_of

    url = where.base_url or base_url(where.host, where.port)
    documents = []
    for each in planned:
        start = each.start
        model = model_of(start) or str(each.deployment["model"])
        command = None if where.base_url else command_of(start, where.engine_python, where.host, where.port)
        lines = [
            bench_command(
                start.engine, start.engine_version, url, model, load, 0, prompts(load),
                client=where.client, client_version=where.client_version,
            )
            for load in each.levels
        ]  # fmt: skip
        sent = [client_command(line, where.python_of_client) for line in lines]
        documents.append({"launch": command, "env": dict(start.env), "bench": sent})
        if not as_json:
            env = [f"{name}={shlex.quote(value)}" for name, value in start.env.items()]
            shown = [" ".join([*env, shlex.join(command)])] if command else []
            typer.echo("\n".join([*shown, *(f"  {shlex.join(line)}" for line in sent)]))
    if as_json:
        print_json({"starts": documents})
    typer.echo("nothing was run; each run gets a seed of its own", err=True)
