"""What to measure: the starts and loads of a task, of a launch line, of options, or of a server that runs already."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from aicalib.calibrate.spellings import CANONICAL
from aicalib.engines.arguments import Understood, read_launch
from aicalib.engines.launch import Launch, launch
from aicalib.engines.request import request_of
from aicalib.engines.server_info import read_server_info
from aicalib.errors import InvalidValue, RequestError
from aicalib.measure.client import Load
from aicalib.measure.facts import Outcome, Planned
from aicalib.measure.server import Server
from aicalib.models import get_architecture
from aicalib.plan.figures import Number
from aicalib.plan.tasks.screen import Screening
from aicalib.prediction import predict_batch
from aicalib.profiles.profile import Profile
from aicalib.resolve.columns import is_read
from aicalib.resolve.identify import without_untimed
from aicalib.resolve.rows import resolve

COMPARED: Final[Mapping[str, str]] = {
    "ttft_ms": "mean_ttft_ms", "tpot_ms": "mean_tpot_ms", "output_tok_s": "output_tok_s",
}  # fmt: skip
"""Predicted figures, and the measured ones that they stand beside."""

_OF_LOADS: Final = {"load", "isl", "osl", "concurrency"}
_VARIABLE: Final = re.compile(r"[A-Za-z_]\w*=")


def of_screening(found: Screening, gpu: str, count: int | None = None) -> list[Planned]:
    """Return the ranked points of a task, best first, each under all loads of the task.

    Parameters
    ----------
    found : Screening
    gpu : str
        As it was given to `screen`: a name of the catalogue, or an accelerator file.
    count : int, optional
        So many of the best; all if not given.
    """
    loads, model = loads_of(found), found.task.model
    return [
        Planned(each.arguments.launch(), loads, named(each.deployment, model, gpu))
        for each in found.ranked[:count]
    ]


def loads_of(found: Screening) -> tuple[Load, ...]:
    """Return the levels of a task as a client can send them."""
    return tuple(Load.at(each.isl, each.osl, each.concurrency, each.fixed) for each in found.levels)


def of_options(options: Mapping[str, Any], loads: Sequence[Load]) -> Planned:
    """Return the start that options of `aicalib launch` ask for.

    Raises
    ------
    RequestError
        For what the engine does not start.
    """
    made = launch(request_of(options))
    return Planned(made, tuple(loads), _deployment({**options, "engine_version": made.engine_version}, loads))


def of_line(line: str, options: Mapping[str, Any], loads: Sequence[Load]) -> Planned:
    """Return the start of a launch line as it stands.

    Parameters
    ----------
    line : str
        As a shell takes it, variables before it too.
    options : mapping
        Options that the user gave beside it; `gpu` and `engine_version` among them.
    loads : sequence of Load

    Raises
    ------
    RequestError
        For what starts no engine, or a flag that the version does not have.
    """
    found = read_launch(line, options.get("engine_version"))
    words = shlex.split(line.replace("\\\n", " "))
    at = next(place for place, word in enumerate(words) if not _VARIABLE.match(word))
    env = dict(word.split("=", 1) for word in words[:at])
    start = Launch(found.engine, found.engine_version, tuple(words[at:]), env)
    return Planned(start, tuple(loads), _deployment(_asked(found, options), loads))


def of_server(server: Server, options: Mapping[str, Any], loads: Sequence[Load]) -> Planned:
    """Return what a running server says of itself, as a start that nobody has to make.

    Parameters
    ----------
    server : Server
    options : mapping
        What it does not say: `gpu`, and of vLLM the formats and widths.
    loads : sequence of Load

    Raises
    ------
    InvalidValue
        For a server that does not say which model it serves.
    """
    if server.model is None:
        raise InvalidValue(f"{server.url} does not say which model it serves")
    if server.engine == "sglang":
        found = read_server_info(server.info)
        argv: tuple[str, ...] = ("python", "-m", "sglang.launch_server", "--model-path", server.model)
    else:
        found = read_launch(["vllm", "serve", server.model], server.version)
        argv = ("vllm", "serve", server.model)
    start = Launch(server.engine, server.version or found.engine_version, argv)
    return Planned(start, tuple(loads), _deployment(_asked(found, options), loads))


def _asked(found: Understood, options: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    return {"engine": found.engine, "engine_version": found.engine_version, **found.options, **given}


def _deployment(options: Mapping[str, Any], loads: Sequence[Load]) -> dict[str, Any]:
    """Return a deployment as the engine will run it, its accelerator by the name that the store keeps.

    Raises
    ------
    RequestError
        For a deployment that is none, or a load that it cannot take, such as one beyond its context.
    """
    for name in ("model", "gpu"):
        if options.get(name) is None:
            raise InvalidValue(
                f"no {name} is given: a measured run says on what it was taken", [f"--{name} NAME"]
            )
    timed, _ = without_untimed(options)
    read: dict[str, list[Any]] = {
        name: [value] * len(loads)
        for name, value in timed.items()
        if is_read(name, value) and value is not None and name not in _OF_LOADS
    }
    read |= {"isl": [each.isl for each in loads], "osl": [each.osl for each in loads]}
    batch = resolve(read, len(loads))
    for error in batch.refused.values():
        raise error
    return named(batch.deployment(0).as_dict(), str(options["model"]), str(options["gpu"]))


def named(deployment: Mapping[str, Any], model: str, gpu: str) -> dict[str, Any]:
    """Return a deployment with model and accelerator by the names that the store keeps: they can be looked up again."""
    return {**deployment, "model": CANONICAL["model"](model), "gpu": CANONICAL["gpu"](gpu)}


def predicted(
    planned: Planned, loads: Iterable[tuple[Load, int]], profile: Profile
) -> list[dict[str, Number]]:
    """Return what a profile predicts of loads on a start, by the figures of `COMPARED`; empty where it predicts none.

    Parameters
    ----------
    planned : Planned
    loads : iterable of (Load, int)
        Each with the number of requests that are sent.
    profile : Profile
    """
    said = planned.deployment
    options = {name: value for name, value in said.items() if is_read(name, value) and value is not None}
    options |= {"kv": said.get("kvcache")}
    options |= {} if get_architecture(said["model"]).num_experts else {"moe": None}
    rows = [
        {
            **options, "isl": load.isl, "osl": load.osl, "concurrency": load.concurrency, "num_prompts": prompts,
            "request_rate": load.request_rate, "lockstep": load.spread == 0.0,
        }
        for load, prompts in loads
    ]  # fmt: skip
    if not rows:
        return []
    try:
        batch = resolve({name: [row[name] for row in rows] for name in rows[0]}, len(rows))
        found = predict_batch(batch, profile)
    except RequestError:
        return [{} for _ in rows]
    numbers: list[dict[str, Number]] = [{} for _ in rows]
    for place, row in enumerate(batch.rows.tolist()):
        means = {name: found.mean[name] for name in COMPARED if name in found.mean}
        numbers[row] = {
            name: Number(*(float(end[place]) for end in each))
            for name, each in means.items()
            if np.isfinite(each.value[place])
        }
    return numbers


def errors(outcome: Outcome, foreseen: Mapping[str, Number]) -> dict[str, float]:
    """Return by how much predictions missed what was measured: predicted over measured - 1, by figure."""
    pairs = {name: outcome.figures.get(key) for name, key in COMPARED.items()}
    return {
        name: foreseen[name].value / value - 1.0
        for name, value in pairs.items()
        if value and name in foreseen
    }
