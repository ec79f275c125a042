"""The arguments of an engine as they are put together, each held to what its version's parser takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from aicalib.engines.flags import Flag, flags, known_versions, parser_version, trtllm_keys
from aicalib.engines.request import Request
from aicalib.engines.tables import settings_table
from aicalib.errors import Refusal


@dataclass
class Command:
    """What an engine is started with.

    Attributes
    ----------
    request : Request
    argv : list of str
        Flag and value are separate items.
    env : dict of str to str
    yaml : dict of str to object
        Keys of a configuration file, parts joined by dots.
    notes : list of str
        What was filled in or changed beside what was asked, and why.
    nodes : list of list of str
        What each node is started with beside `argv`; empty where there is one.

    Raises
    ------
    NotCovered
        For a version older than all whose parsers were read.
    """

    request: Request
    argv: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    yaml: dict[str, object] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    nodes: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        parser_version(self.request.engine, self.request.engine_version)  # refuses what no parser was read of
        _check_heads(self.request)

    @property
    def label(self) -> str:
        """Engine and version, for messages."""
        return f"{self.request.engine} {self.request.engine_version}"

    def find(self, spellings: Sequence[str]) -> tuple[str, Flag] | None:
        """Return the first spelling that the version's parser knows, and its flag."""
        known = flags(self.request.engine, self.request.engine_version)
        return next(((each, known[each]) for each in spellings if each in known), None)

    def choices(self, spelling: str) -> tuple[str, ...] | None:
        """Return what a flag takes, nothing where the version lacks it, None where it takes any text."""
        found = self.find([spelling])
        return () if found is None else found[1].choices

    def add(self, what: str, spellings: Sequence[str], value: object = None) -> None:
        """Add a flag, without a value where it is a switch.

        Parameters
        ----------
        what : str
            Option that it is for, for messages.
        spellings : sequence of str
            The first that is known is taken.
        value : object, optional

        Raises
        ------
        Refusal
            Where the version has no such flag, or does not take the value.
        """
        found = self.find(spellings)
        if found is None:
            raise Refusal(
                f"{what}: {self.label} has no {' or '.join(spellings) or 'flag for it'}",
                *({"engine_version": version} for version in self._having(spellings)),
                {what: None},
            )
        spelling, flag = found
        if value is None:
            self.argv.append(spelling)
            return
        text = format(value, "g") if isinstance(value, float) else str(value)
        if flag.choices is not None and text not in flag.choices and not flag.open:
            raise Refusal(
                f"{what} '{text}': {spelling} of {self.label} takes {', '.join(flag.choices)}",
                *({what: each} for each in flag.choices),
            )
        self.argv += [spelling, text]

    def _having(self, spellings: Sequence[str]) -> list[str]:
        """List the versions next to the one asked for that have one of the spellings, nearest last first."""
        engine = self.request.engine
        having = [each for each in known_versions(engine) if set(spellings) & set(flags(engine, each))]
        return having[-1:]

    @contextmanager
    def for_node(self) -> Iterator[None]:
        """Take what is added within for the next node alone."""
        shared, self.argv = self.argv, []
        yield
        self.nodes.append(self.argv)
        self.argv = shared

    def add_settings(self) -> None:
        """Add what `settings.toml` says of each setting that was given.

        Raises
        ------
        Refusal
            For a setting that the engine does not have.
        """
        engine = self.request.engine
        for option, row in settings_table().items():
            value = self.request.get(option)
            if value is None:
                continue
            spellings = row.get(engine)
            if spellings is None:
                having = ", ".join(each for each in ("sglang", "vllm", "trtllm") if each in row)
                raise Refusal(f"{option}: {engine} has no such setting; {having} has", {option: None})
            if not spellings[0].startswith("--"):
                # A key says what is on, an option may say what is off.
                choices = trtllm_keys()[spellings[0]].choices
                if choices is not None and value not in choices:
                    raise Refusal(
                        f"{option} '{value}': {spellings[0]} of {self.label} takes {', '.join(choices)}",
                        *({option: each} for each in choices),
                    )
                self.yaml[spellings[0]] = (
                    not option.startswith("disable") if row["kind"] == "switch" else value
                )
            else:
                self.add(option, spellings, None if row["kind"] == "switch" else value)


def _check_heads(request: Request) -> None:
    """Check that attention ranks can share the model's heads evenly, as engines assert on a GPU.

    Raises
    ------
    Refusal
    """
    arch, tp, dp = request.architecture, request.tp, request.dp
    if arch is None or request.on_cpu or tp % dp or arch.heads % (tp // dp) == 0:
        return
    widths = sorted(
        (each * dp for each in range(1, 2 * tp) if arch.heads % each == 0), key=lambda w: abs(w - tp)
    )
    raise Refusal(
        f"tp {tp} (dp {dp}) does not divide the {arch.heads} attention heads of {arch.name}",
        *({"tp": width} for width in widths),
    )


def model_path(command: Command) -> str | None:
    """Return what the engine is told to load; None without a model."""
    request = command.request
    arch = request.architecture
    if request.checkpoint is not None:
        return request.checkpoint
    if arch is None:
        command.notes.append("no model was given: nothing is checked that depends on one")
        return None
    if arch.hf_id:
        return arch.hf_id
    folder = arch.source.removesuffix("/config.json")
    if folder.endswith(".json"):
        command.notes.append(
            f"{folder} describes the model, and no engine loads it: an engine takes a folder with config.json and "
            "weights, or a repository (--checkpoint)"
        )
    return folder or arch.name


def speculation(command: Command) -> tuple[str, int] | None:
    """Return the method of speculation, "mtp" or "eagle", and the tokens drafted a step; None where none was asked for.

    Raises
    ------
    Refusal
        For options that say nothing without a method, another method, or no number of tokens.
    """
    request = command.request
    method = request.get("spec_method")
    if method is None:
        for option in ("spec_algorithm", "spec_tokens", "draft_model", "draft_gemm"):
            if request.get(option) is not None:
                raise Refusal(
                    f"{option} without spec_method says nothing", {option: None}, {"spec_method": "mtp"}
                )
        return None
    if method not in ("mtp", "eagle"):
        raise Refusal(f"spec_method '{method}': known are mtp and eagle", {"spec_method": None})
    tokens = request.get("spec_tokens")
    if tokens is None:
        raise Refusal("speculation needs spec_tokens: whole tokens drafted a step", {"spec_tokens": 3})
    return method, tokens
