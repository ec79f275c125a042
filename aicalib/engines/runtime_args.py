"""Runtime arguments as a mapping of flags: what a `quant_config` derives, under what the user says himself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import takewhile
from typing import Any

from aicalib.engines.arguments import Understood, understand
from aicalib.engines.flags import find_flag
from aicalib.engines.launch import Launch, launch
from aicalib.engines.releases import newest_version
from aicalib.engines.request import request_of
from aicalib.errors import InvalidValue, UnknownName, fold
from aicalib.physics.system import ENGINES
from aicalib.quant.presets import read_quant_config


class RuntimeArgs(dict[str, str]):
    """Flags and their values; a switch has an empty one.

    Attributes
    ----------
    notes : tuple of str
        Which parameters of the user won over what was derived, and what was filled in.
    files : dict of str to str
        TensorRT-LLM's YAML.
    """

    def __init__(self, flags: Mapping[str, str], notes: tuple[str, ...], made: Launch) -> None:
        super().__init__(flags)
        self.notes = notes
        self.files = dict(made.files)
        self._made = made

    def argv(self) -> list[str]:
        """Return flag and value as separate items."""
        return [word for flag, value in self.items() for word in ((flag, value) if value else (flag,))]

    def launch(self) -> Launch:
        """Return what starts the engine with them: its program, and the environment that the formats ask for."""
        program = takewhile(lambda word: not word.startswith("--"), self._made.argv)
        return replace(self._made, argv=(*program, *self.argv()), notes=self.notes)


def get_runtime_args(
    *,
    runtime: str,
    quant_config: Mapping[str, Any] | None = None,
    user_parameters: Mapping[str, Any] | None = None,
    model: str | None = None,
    gpu: str | None = None,
    engine_version: str | None = None,
) -> RuntimeArgs:
    """Return an engine's arguments for a quantization and parameters of the user, who wins.

    Parameters
    ----------
    runtime : {"sglang", "vllm", "trtllm"}
    quant_config : mapping, optional
        `preset`, or the four fields; see `aicalib.quant.presets.read_quant_config`.
    user_parameters : mapping, optional
        Flag -> value; leading hyphens may be left out, "_" stands for "-". True adds a switch, False leaves it out.
    model, gpu : str, optional
        What cannot be checked without them is then not checked.
    engine_version : str, optional
        The newest known if not given.

    Returns
    -------
    RuntimeArgs
        Flag -> text.

    Raises
    ------
    RequestError
        For what the engine version does not start or does not know.

    Examples
    --------
    >>> config, parameters = {"preset": "kv-cache-fp8"}, {"tp-size": 2}
    >>> dict(get_runtime_args(runtime="sglang", quant_config=config, user_parameters=parameters))
    {'--kv-cache-dtype': 'fp8_e4m3', '--tp-size': '2'}
    """
    engine = {fold(each): each for each in ENGINES}.get(fold(runtime))
    if engine is None:
        raise UnknownName("runtime", runtime, ENGINES)
    version = engine_version or newest_version(engine)
    presets = read_quant_config(quant_config or {"preset": "default"})
    if len(presets) > 1:
        raise InvalidValue("runtime arguments are those of one choice; ask once for each preset", ["preset"])
    fields = {
        "kv" if name == "kvcache" else name: mode for name, mode in presets[0].quant.to_mapping().items()
    }
    given = _given(engine, version, user_parameters or {})
    said = understand(engine, version, given.items(), {"model": model} if model else {})
    notes = []
    for name, mode in fields.items():
        if mode != "auto" and name in said.options and said.options[name] != mode:
            notes.append(
                f"{name} {said.options[name]} of the user's parameters stands, not {mode} of the quant_config"
            )
    options = {
        **fields,
        **_plain(said),
        "engine": engine,
        "engine_version": version,
        "model": model,
        "gpu": gpu,
    }
    made = launch(request_of(options))
    flags = _as_flags(engine, version, made.argv)
    for spelling, value in given.items():
        flag = find_flag(engine, version, spelling)
        flags = {
            name: text for name, text in flags.items() if find_flag(engine, version, name).name != flag.name
        }
        flags[spelling] = value or ""
    return RuntimeArgs(
        flags, (*notes, *(each for each in made.notes if model or "no model" not in each)), made
    )


def _plain(said: Understood) -> dict[str, Any]:
    """Return the options of the user's parameters that derive nothing further."""
    return {name: value for name, value in said.options.items() if name != "model"}


def _given(engine: str, version: str, parameters: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the user's parameters by the spelling of a flag, None for a switch."""
    found: dict[str, str | None] = {}
    for key, value in parameters.items():
        if isinstance(value, list | tuple | dict):
            raise InvalidValue(f"parameter {key} is {value!r}, not one value; expand a grid first")
        name = str(key).lstrip("-")
        separator = "_" if engine == "trtllm" else "-"
        spelling = "--" + name.replace("-", separator).replace("_", separator)
        flag = find_flag(engine, version, spelling)
        if flag.kind == "bool" and str(value).lower() in ("false", "none"):
            continue
        text = str(value)
        words = text.split() if flag.kind == "list" else [text]
        if flag.choices is not None and not flag.open and not set(words) <= set(flag.choices):
            raise InvalidValue(
                f"{spelling} '{text}': {engine} {version} takes {', '.join(flag.choices)}", flag.choices
            )
        found[spelling] = None if flag.kind == "bool" else text
    return found


def _as_flags(engine: str, version: str, argv: tuple[str, ...]) -> dict[str, str]:
    """Return an argument list as flag -> text."""
    flags: dict[str, str] = {}
    words = [word for word in argv]
    start = next((place for place, word in enumerate(words) if word.startswith("--")), len(words))
    place = start
    while place < len(words):
        flag = find_flag(engine, version, words[place])
        if flag.kind == "bool":
            flags[words[place]] = ""
            place += 1
        else:
            flags[words[place]] = words[place + 1]
            place += 2
    return flags
