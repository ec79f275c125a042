"""From a request to what starts the engine: argument list, environment and files, or the reason why nothing does."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aicalib.engines import nodes, sglang, trtllm, vllm
from aicalib.engines.command import Command
from aicalib.engines.request import Request
from aicalib.errors import Refusal, RequestError

ENGINE_MODULES = {"sglang": sglang, "vllm": vllm, "trtllm": trtllm}

MOST_ALTERNATIVES = 4

PORTS = {"sglang": 30000, "vllm": 8000, "trtllm": 8000}
"""Port on which an engine listens where its line does not say, its own default."""


@dataclass(frozen=True)
class Launch:
    """What starts an engine.

    Attributes
    ----------
    engine, engine_version : str
    argv : tuple of str
        Flag and value are separate items.
    env : dict of str to str
    files : dict of str to str
        Name -> content of what has to lie beside: TensorRT-LLM's YAML, the line of prefill instances, those of
        further nodes.
    notes : tuple of str
        What was filled in beside what was asked, and why.
    """

    engine: str
    engine_version: str
    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def line(self) -> str:
        """Return one line that a shell takes as it is."""
        return shell_line(self.env, self.argv)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "engine": self.engine,
            "engine_version": self.engine_version,
            "argv": list(self.argv),
            "env": self.env,
            "files": self.files,
            "notes": list(self.notes),
        }


def launch(request: Request) -> Launch:
    """Return what starts an engine as requested.

    Raises
    ------
    Refusal
        For what the engine version does not start, with what it does start instead: each alternative was tried.
    UnknownName, NotCovered
        For a word that the version does not know, or a version older than those that are known.
    """
    try:
        return assemble(request)
    except Refusal as refusal:
        refusal.alternatives = _working(request, refusal)
        raise


def assemble(request: Request) -> Launch:
    """Return what starts an engine; a refusal comes without alternatives.

    Raises
    ------
    RequestError
    """
    if request.get("prefill_tp") is not None:
        return _separate(request)
    for option in ("prefill_dp", "prefill_ep", "prefill_instances", "decode_instances"):
        if request.get(option) is not None:
            raise Refusal(
                f"{option} without prefill_tp says nothing", {option: None}, {"prefill_tp": request.tp}
            )
    return _filled(request).finish()


@dataclass
class _Part:
    command: Command

    def finish(self, *further: str) -> Launch:
        command = self.command
        files = {}
        if command.yaml:
            files[trtllm.FILE] = trtllm.as_yaml(command.yaml)
            command.argv += ["--extra_llm_api_options", trtllm.FILE]
        request, shared = command.request, (*command.argv, *further)
        first, *others = command.nodes or [[]]
        notes = list(command.notes)
        if others:
            names = ", ".join(_of_node(rank) for rank in range(1, len(command.nodes)))
            notes.append(
                f"this line on the first of {len(command.nodes)} nodes, {names} on the others; {nodes.HOST} is the "
                "address of the first"
            )
        for rank, words in enumerate(others, start=1):
            files[_of_node(rank)] = shell_line(command.env, (*shared, *words)) + "\n"
        return Launch(
            request.engine, request.engine_version, (*shared, *first), dict(command.env), files,
            tuple(dict.fromkeys(notes)),
        )  # fmt: skip


def _of_node(rank: int) -> str:
    """Return the name of the file with the line of a further node."""
    return f"node-{rank}.sh"


def shell_line(env: Mapping[str, str], argv: Sequence[str]) -> str:
    """Return one line that a shell takes as it is."""
    return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in env.items()), shlex.join(argv)])


def _filled(request: Request) -> _Part:
    command = Command(request)
    ENGINE_MODULES[request.engine].fill(command)
    return _Part(command)


def _separate(request: Request) -> Launch:
    """Return decode instances as the line, and the line of the prefill instances as a file.

    Raises
    ------
    Refusal
    """
    if request.engine == "trtllm":
        raise Refusal(
            "prefill_tp: instances that only prefill need a router's file of addresses under TensorRT-LLM, "
            "which is not written here",
            {"prefill_tp": None, "prefill_dp": None, "prefill_ep": None, "prefill_instances": None,
             "decode_instances": None},
        )  # fmt: skip
    pools = ("prefill_tp", "prefill_dp", "prefill_ep", "prefill_instances", "decode_instances")
    plain = request.changed(dict.fromkeys(pools))
    widths = {name: request.get(f"prefill_{name}") or 1 for name in ("tp", "dp", "ep")}
    one = Command(plain.changed({**widths, "pp": 1}))
    ENGINE_MODULES[request.engine].fill(one)
    other = Command(plain)
    ENGINE_MODULES[request.engine].fill(other)
    for command, role in ((one, "prefill"), (other, "decode")):
        if request.engine == "sglang":
            command.add("prefill_tp", ["--disaggregation-mode"], role)
        else:
            command.add("prefill_tp", ["--kv-transfer-config"], vllm.connector(command))
    first, second = _Part(one).finish(), _Part(other).finish()
    counts = [request.get(f"{role}_instances") or 1 for role in ("prefill", "decode")]
    note = f"{counts[0]} x prefill.sh, {counts[1]} x this line, and a router before them"
    notes = tuple(dict.fromkeys((*first.notes, *second.notes, note)))
    return Launch(
        second.engine,
        second.engine_version,
        second.argv,
        second.env,
        {
            "prefill.sh": first.line() + "\n",
            **{f"prefill-{name}": text for name, text in first.files.items()},
            **second.files,
        },
        notes,
    )


def starts(request: Request) -> bool:
    """Tell whether an engine starts as requested."""
    try:
        assemble(request)
    except RequestError:
        return False
    return True


def _working(request: Request, refusal: Refusal) -> list[str]:
    """Return the alternatives of a refusal that do start, nearest first."""
    found: list[str] = []
    for candidate in refusal.candidates:
        if len(found) == MOST_ALTERNATIVES:
            break
        try:
            changed = request.changed(candidate)
        except RequestError:
            continue
        if changed != request and starts(changed):
            text = spelled(candidate, request)
            found += [text] if text not in found else []
    if refusal.checkpoint is not None:
        found.append(f"--checkpoint PATH of {refusal.checkpoint}")
    return found


def spelled(options: Mapping[str, object], request: Request) -> str:
    """Write changed options as a person would: "kv fp8_e4m3", "without moe"; what is not set needs no taking back."""
    given = [f"{name} {value}" for name, value in options.items() if value is not None]
    taken = [
        name for name, value in options.items() if value is None and request.changed({name: None}) != request
    ]
    return ", ".join([*given, *([f"without {', '.join(taken)}"] if taken else [])])
