"""What several commands do with options before the library reads them: presets, and the width that is left open."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from aicalib.plan.tasks.task import Bound

PRESET_FIELDS = {"gemm": "gemm", "kv": "kvcache", "fmha": "fmha", "moe": "moe"}
"""Options of the four fields, and the field of each."""


def apply_preset(options: Mapping[str, Any], name: str | None) -> dict[str, Any]:
    """Return options with the fields of a preset where they were not given.

    Raises
    ------
    UnknownName
    """
    if name is None:
        return dict(options)
    from aicalib.quant.presets import get_preset

    asked = get_preset(name).quant.to_mapping()
    fields = {option: asked[field] for option, field in PRESET_FIELDS.items() if asked[field] != "auto"}
    return {**options, **{option: mode for option, mode in fields.items() if options.get(option) is None}}


def with_width(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with the smallest tensor-parallel width on which the model fits, where none was given.

    Raises
    ------
    RequestError
        Where the prediction refuses the deployment.
    """
    if options.get("tp") is not None:
        return dict(options)
    from aicalib.resolve.rows import resolve

    names = ("model", "gpu", "gemm", "kv", "fmha", "moe", "engine", "engine_version", "pp", "dp", "ep",
             "mem_fraction", "chunked_prefill_size", "max_running_requests")  # fmt: skip
    asked = {name: options[name] for name in names if options.get(name) is not None}
    if asked.get("engine") == "trtllm":
        # Its memory is not computed: another engine's says how many GPUs hold the model.
        asked = {name: value for name, value in asked.items() if name not in ("engine", "engine_version")}
    batch = resolve({name: [value] for name, value in asked.items()}, 1)
    for error in batch.refused.values():
        raise error
    return {**options, "tp": int(batch.system.tp[batch.at[0]])}


def is_given(context: typer.Context, name: str) -> bool:
    """Tell whether an option stands on the command line."""
    return getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"


def check_arrivals(context: typer.Context, request_rate: float | None) -> None:
    """Check that not both a concurrency and a rate of arrivals are asked.

    Raises
    ------
    InvalidValue
    """
    from math import isinf

    from aicalib.errors import InvalidValue

    if request_rate is not None and not isinf(request_rate) and is_given(context, "concurrency"):
        raise InvalidValue(
            f"--concurrency beside --request-rate {request_rate:g}: how many requests of an open loop are in flight "
            "follows from the rate; a client that holds requests back (--max-concurrency) is not predicted",
            [f"--request-rate {request_rate:g} alone", "--concurrency alone"],
        )


def with_start(
    context: typer.Context, options: Mapping[str, Any], launch: str | None, server_info: Path | None
) -> dict[str, Any]:
    """Return options with those that a start says, where the command line does not give them; notes go to stderr.

    Raises
    ------
    RequestError
        As `said_by_a_start`; also for a start of no model, where none is given.
    """
    from aicalib.errors import InvalidValue
    from aicalib.resolve.identify import without_untimed

    given = {name for name in options if is_given(context, name)}
    said, notes = said_by_a_start(launch, server_info, options["engine_version"])
    if said.get("model") is None and "model" not in given:
        raise InvalidValue("the start names no model", ["--model NAME beside it"])
    said = {name: value for name, value in said.items() if name not in given}
    _, untimed = without_untimed({**options, **said})
    notes += [
        f"{reason}: predicted as the engine's own choice" for name, reason in untimed.items() if name in said
    ]
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    return {**options, **{name: value for name, value in said.items() if name not in untimed}}


def said_by_a_start(
    launch: str | None, server_info: Path | None, engine_version: str | None
) -> tuple[dict[str, Any], list[str]]:
    """Return the options of `predict` that an engine's command or its server's answer says, and notes.

    Raises
    ------
    RequestError
        For what starts no engine, is unknown to its version or not predicted, and for a file that holds no answer.
    """
    from aicalib.engines.arguments import read_launch
    from aicalib.engines.server_info import read_server_info
    from aicalib.errors import InvalidValue
    from aicalib.resolve.columns import is_read

    if launch is not None and server_info is not None:
        raise InvalidValue(
            "--launch and --server-info both describe the start; give one", ["--launch", "--server-info"]
        )
    if launch is not None:
        found = read_launch(launch, engine_version)
    else:
        assert server_info is not None
        found = read_server_info(_json_object(server_info))
    unread = sorted(name for name, value in found.options.items() if not is_read(name, value))
    notes = list(found.notes)
    if found.without_effect:
        notes.append(f"without effect on the prediction: {', '.join(found.without_effect)}")
    if unread:
        notes.append(f"not read by the prediction: {', '.join(unread)}")
    options = {name: value for name, value in found.options.items() if name not in unread}
    return {"engine": found.engine, "engine_version": found.engine_version, **options}, notes


def _json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; of JSON lines the first.

    Raises
    ------
    InvalidValue
    """
    import json

    from aicalib.errors import InvalidValue

    text = path.read_text(encoding="utf-8", errors="replace")
    for part in (text, text.strip().partition("\n")[0]):
        try:
            value = json.loads(part)
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    raise InvalidValue(f"{path} holds no JSON object", ["the answer of GET /server_info"])


def service_level(given: Mapping[str, str | None], percentile: str, hard: bool = True) -> tuple[Bound, ...]:
    """Return the bounds that were given on "ttft", "tpot" and "latency".

    Parameters
    ----------
    given : mapping of str to str or None
        Metric -> milliseconds, with their own percentile behind an @ ("500@p99") or without.
    percentile : str
        "mean" or a percentile: what those without are about.
    hard : bool
        As `aicalib.plan.search.goal.bound` takes it.

    Raises
    ------
    InvalidValue, UnknownName
    """
    from aicalib.plan.search.goal import bound

    default, found = _statistic(percentile), []
    for metric, text in given.items():
        if text is not None:
            time, sign, own = text.partition("@")
            which = _statistic(own.strip()) if sign else default
            found.append(bound(metric, _milliseconds(metric, time, text), which, hard))
    return tuple(found)


def _statistic(word: str) -> str | None:
    """Return a percentile as bounds hold it, None for the mean."""
    from aicalib.errors import UnknownName
    from aicalib.plan.search.goal import MEAN, PERCENTILES

    if word not in (MEAN, *PERCENTILES):
        raise UnknownName("percentile", word, [MEAN, *PERCENTILES])
    return None if word == MEAN else word


def _milliseconds(metric: str, time: str, text: str) -> float:
    from aicalib.errors import InvalidValue
    from aicalib.plan.search.unmet import OPTIONS

    try:
        return float(time)
    except ValueError:
        option = OPTIONS[metric]
        raise InvalidValue(
            f"{option} {text}: it is milliseconds, or milliseconds@percentile",
            [f"{option} 500", f"{option} 500@p99"],
        ) from None


def tried_values(given: Mapping[str, str | None]) -> dict[str, tuple[Any, ...]]:
    """Return the values to try of each option for which some are listed with commas.

    Formats and backends are words, all others numbers.

    Raises
    ------
    InvalidValue
    """
    from aicalib.engines.backends import BACKENDS
    from aicalib.errors import InvalidValue

    found: dict[str, tuple[Any, ...]] = {}
    for name, text in given.items():
        if text is None:
            continue
        words = [each.strip() for each in text.split(",")]
        if name in (*PRESET_FIELDS, *BACKENDS, "moe_a2a_backend"):
            found[name] = tuple(words)
        elif all(word.isdecimal() for word in words):
            found[name] = tuple(int(word) for word in words)
        else:
            raise InvalidValue(f"--{name} {text}: these are whole numbers with commas", [f"--{name} 1,2,4"])
    return found
