"""The line that runs an engine's own benchmark client for one load."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, NamedTuple

from aicalib.engines.defaults import version_number
from aicalib.engines.releases import newest_version
from aicalib.errors import InvalidValue, NotCovered, UnknownName

PROMPTS_PER_SLOT: Final = 10
"""Requests over concurrency where not asked otherwise, as InferenceX runs its client."""

VARYING_SPREAD: Final = 0.5
"""Spread of lengths where a task only says that they vary: clients draw evenly, with one range for input and output."""

MOST_WARMUPS: Final = 4
"""Warm-up requests of a client at most: they only have to touch what a first request would wait for."""


class Load(NamedTuple):
    """What a client sends.

    Attributes
    ----------
    isl, osl : int
        Mean input and output of a request [tokens].
    concurrency : int, optional
        Requests in flight at most; None where arrivals alone decide.
    request_rate : float, optional
        Arrivals a second; None where a next request is sent as soon as one has ended.
    spread : float
        Lengths are drawn evenly from mean x (1 - spread) to mean x (1 + spread); 0 for all the same.
    """

    isl: int
    osl: int
    concurrency: int | None = None
    request_rate: float | None = None
    spread: float = 0.0

    @classmethod
    def at(cls, isl: float, osl: float, concurrency: int, fixed: bool = True) -> Load:
        """Return a level of load as a client can send it: whole tokens, and lengths that vary evenly about the mean."""
        return cls(round(isl), round(osl), concurrency, spread=0.0 if fixed else VARYING_SPREAD)

    @property
    def range_ratio(self) -> float:
        """Shortest length over the longest, in digits that all files keep."""
        return round((1.0 - self.spread) / (1.0 + self.spread), 6)

    @property
    def longest(self) -> tuple[int, int]:
        """Longest input and output [tokens]: what runs are stored under as `isl` and `osl` beside `range_ratio`."""
        return round(self.isl * (1.0 + self.spread)), round(self.osl * (1.0 + self.spread))

    def __str__(self) -> str:
        """Return it as a person would write it."""
        arrivals = [f"x {self.concurrency}"] if self.concurrency is not None else []
        arrivals += [f"at {self.request_rate:g}/s"] if self.request_rate is not None else []
        lengths = f"{self.isl}/{self.osl}" + (f" +-{self.spread:.0%}" if self.spread else "")
        return " ".join([lengths, *arrivals])


def prompts_for(load: Load) -> int:
    """Return how many requests a benchmark of a load sends where not asked otherwise.

    Examples
    --------
    >>> prompts_for(Load(1024, 256, concurrency=32))
    320
    """
    if load.concurrency is not None:
        return PROMPTS_PER_SLOT * load.concurrency
    return max(PROMPTS_PER_SLOT, round(60 * (load.request_rate or 0)))


def warmups_for(load: Load) -> int:
    """Return how many requests go ahead of those that are timed."""
    return min(load.concurrency or MOST_WARMUPS, MOST_WARMUPS)


def bench_command(
    engine: str,
    engine_version: str,
    base_url: str,
    model: str,
    load: Load,
    seed: int,
    num_prompts: int | None = None,
    output: str | Path = "results.jsonl",
    *,
    tokenizer: str | None = None,
    served_name: str | None = None,
    warmups: int | None = None,
    tag: str | None = None,
    metadata: Mapping[str, object] | None = None,
    client: str | None = None,
    client_version: str | None = None,
) -> tuple[str, ...]:
    """Return the argument list of a benchmark client.

    Prompts are random tokens, which need no download and, with a new seed, meet nothing in a prefix cache.

    Parameters
    ----------
    engine, engine_version : str
        Of the server.
    base_url : str
        Of the server, such as "http://127.0.0.1:30000".
    model : str
        As the server was told to load it.
    load : Load
    seed : int
        Of the prompts; the client's own default would send the same ones again.
    num_prompts : int, optional
        `prompts_for` if not given.
    output : str or Path
        File that the client writes: SGLang's appends a line, vLLM's writes one object.
    tokenizer : str, optional
        Folder or repository of the tokenizer; `model` if not given.
    served_name : str, optional
        Name that the server answers to, where it is not `model`.
    warmups : int, optional
        `warmups_for` if not given. A client that cannot be told sends one.
    tag : str, optional
        Kept in the file.
    metadata : mapping, optional
        Further keys of a run for the file; vLLM's client alone can keep them.
    client, client_version : str, optional
        Another engine's client; the engine's own if not given.

    Returns
    -------
    tuple of str
        Flag and value are separate items.

    Raises
    ------
    UnknownName
        For an engine that ships no client for servers.
    NotCovered
        For a version of the client that is older than those that were read.
    InvalidValue
        For a load that no client can send.
    """
    name = client or engine
    program = _program(name, client_version or (engine_version if name == engine else newest_version(name)))
    if engine not in program.backends:
        raise UnknownName("engine", engine, program.backends)
    _check(load, num_prompts)
    before = warmups_for(load) if warmups is None else warmups
    argv = [*program.argv, "--backend", program.backends[engine], "--base-url", base_url]
    argv += ["--model", model, "--tokenizer", tokenizer or model]
    argv += ["--served-model-name", served_name] if served_name and program.has("--served-model-name") else []
    argv += ["--num-prompts", str(num_prompts or prompts_for(load)), "--seed", str(seed)]
    argv += ["--max-concurrency", str(load.concurrency)] if load.concurrency is not None else []
    argv += ["--request-rate", "inf" if load.request_rate is None else _number(load.request_rate)]
    if name == "sglang":
        argv += _for_sglang(program, engine, load, before, Path(output), tag)
    else:
        argv += _for_vllm(program, load, before, Path(output), {"seed": seed, "tag": tag, **(metadata or {})})
    return (*argv, "--disable-tqdm")


def client_command(argv: Sequence[str], python: str) -> list[str]:
    """Return a client's line as it is started: by a Python."""
    return [python, *(["-m", "vllm.entrypoints.cli.main"] if argv[0] == "vllm" else []), *argv[1:]]


class _Program(NamedTuple):
    """A client in one version: how it is called, what it calls each engine, and what it does not know yet."""

    argv: Sequence[str]
    backends: Mapping[str, str]
    lacks: frozenset[str]

    def has(self, flag: str) -> bool:
        return flag not in self.lacks


@cache
def _tables() -> Mapping[str, Any]:
    return tomllib.loads(files("aicalib.measure").joinpath("clients.toml").read_text(encoding="utf-8"))


def _program(name: str, version: str) -> _Program:
    if name not in _tables():
        raise UnknownName("client", name, _tables())
    table, number = _tables()[name], version_number(version)
    if number < version_number(table["oldest"]):
        raise NotCovered(
            f"the benchmark client of {name} {version} was not read; the oldest that was is of {table['oldest']}",
            [f"{name} {table['oldest']}"],
        )
    known = [each["argv"] for each in table["programs"] if version_number(each["since"]) <= number]
    lacks = frozenset(flag for flag, since in table["since"].items() if number < version_number(since))
    return _Program(known[-1], table["backends"], lacks)


def _for_sglang(
    program: _Program, engine: str, load: Load, warmups: int, output: Path, tag: str | None
) -> list[str]:
    """Return what SGLang's client calls the lengths, from ratio x longest to longest, and where it writes."""
    isl, osl = load.longest
    argv = ["--dataset-name", "random-ids", "--random-input-len", str(isl), "--random-output-len", str(osl)]
    argv += ["--random-range-ratio", _number(load.range_ratio), "--warmup-requests", str(warmups)]
    argv += ["--output-file", str(output)]
    argv += ["--tag", tag] if tag and program.has("--tag") else []
    return argv + (["--cache-report"] if engine == "sglang" and program.has("--cache-report") else [])


def _for_vllm(
    program: _Program, load: Load, warmups: int, output: Path, further: Mapping[str, object]
) -> list[str]:
    """Return what vLLM's client calls the lengths, mean x (1 -+ ratio), and what its file would lack."""
    isl, osl = load.longest
    told = program.has("--num-warmups")
    said = {"isl": isl, "osl": osl, "range_ratio": _number(load.range_ratio), "dataset": "random"}
    said |= {"num_warmups": warmups if told else 1, **further}
    argv = [
        "--dataset-name",
        "random",
        "--random-input-len",
        str(load.isl),
        "--random-output-len",
        str(load.osl),
    ]
    argv += ["--random-range-ratio", _number(load.spread), "--ignore-eos", "--temperature", "0"]
    argv += ["--num-warmups", str(warmups)] if told else []
    argv += ["--save-result", "--result-dir", str(output.parent), "--result-filename", output.name]
    argv += ["--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "90,95,99"]
    return [*argv, "--metadata", *(f"{key}={value}" for key, value in said.items() if value is not None)]


def _check(load: Load, num_prompts: int | None) -> None:
    for what, value in (("isl", load.isl), ("osl", load.osl), ("concurrency", load.concurrency)):
        if value is not None and (value != int(value) or value < 1):
            raise InvalidValue(
                f"{what} {value}: a client sends whole numbers of tokens and requests from 1",
                [f"{what} {max(int(value), 1)}"],
            )
    if not 0.0 <= load.spread < 1.0:
        raise InvalidValue(f"spread {load.spread:g} of lengths must lie between 0 and 1", ["0", "0.5"])
    if load.request_rate is not None and not 0.0 < load.request_rate < float("inf"):
        raise InvalidValue(
            f"request_rate {load.request_rate:g} is not a positive number of requests a second",
            ["request_rate 4"],
        )
    if load.concurrency is None and load.request_rate is None:
        raise InvalidValue("a load needs a concurrency or a request_rate", ["concurrency 32"])
    if num_prompts is not None and num_prompts < max(1, load.concurrency or 1):
        raise InvalidValue(
            f"num_prompts {num_prompts} is below concurrency {load.concurrency}: no more than {num_prompts} would "
            "ever be in flight",
            [f"num_prompts {prompts_for(load)}"],
        )


def _number(value: float) -> str:
    return format(value, ".9g")
