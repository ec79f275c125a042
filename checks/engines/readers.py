"""The parser of each engine, from the function that builds it."""

from __future__ import annotations

from itertools import permutations
from typing import Any

from aicalib.engines.flags import Flag
from checks.engines.evaluate import World
from checks.engines.parsers import Parser, fields_of, literal_of, made_of, parts_of
from checks.engines.sources import Source
from checks.engines.values import Class, Form, Host, Library, Made, Unknown


class Platform:
    """The machine that a parser is read for: one with NVIDIA GPUs."""

    takes_calls = True
    device_type = "cuda"
    is_cuda_alike = is_cuda = lambda self, *_: True

    def __getattr__(self, name: str) -> Any:
        return (lambda *_, **__: False) if name.startswith("is_") else Unknown(name)


class Unset:
    """Environment variables, none of which is set."""

    takes_calls = True

    def __getattr__(self, name: str) -> Any:
        return (lambda *_, **__: False) if name in ("get", "is_set") else self


OTHERS = ("hip", "npu", "xpu", "cpu", "musa", "mps", "hpu", "gfx95_supported")
"""What the machine is not."""

NVIDIA = {
    **{name: True for name in ("_is_cuda", "_is_cuda_alike")},
    **{f"_is_{name}": False for name in OTHERS},
    **{name: False for name in ("_use_aiter", "_mxfp8_to_block_fp8_required")},
    "current_platform": Platform(),
    "sys.modules": {},
}
"""Names that the engines' modules compute from the machine."""

MACHINE = {
    **{f"is_{name}": lambda *_: False for name in OTHERS},
    "mxfp_supported": lambda *_: False,
    "itertools.permutations": lambda items, r: list(permutations(items, r)),
    "is_cuda": lambda *_: True,
    "is_cuda_alike": lambda *_: True,
    "EnvBool": lambda default=False, *_, **__: Made(
        Unknown("environment"), (default,), {"get": lambda: default}
    ),
}


def read_flags(source: Source) -> tuple[dict[str, Flag], list[str]]:
    """Return the flags of a release by name, and what could not be read.

    Parameters
    ----------
    source : Source
    """
    parser = {"sglang": _sglang, "vllm": _vllm}[source.engine](source)
    return parser.flags, parser.problems


def world_of(source: Source, **host: Any) -> World:
    """Return the modules of a release, on a machine with NVIDIA GPUs."""
    return World(source.texts, {**MACHINE, **host}, NVIDIA)


def _sglang(source: Source) -> Parser:
    world = world_of(source, add_cli_args_from_dataclass=lambda parser, *_, **__: _from_fields(world, parser))
    parser = world_parser(world)
    world.host["argparse.ArgumentParser"] = Host(lambda *_, **__: parser)
    world.known["envs"] = Unset()
    module = "sglang.srt.server_args"
    world.host["msgspec.defstruct"] = Host(lambda *_, **__: world.first_class(module, "ServerArgs"))
    world.apply(world.lookup(module, "prepare_server_args"), [Unknown("argv")], {})
    return parser


def world_parser(world: World, pairs: bool = False) -> Parser:
    """Return a parser that follows the classes of a world."""
    return Parser(world, pairs)


def _from_fields(world: World, parser: Parser) -> None:
    """Add the flags that SGLang makes of annotated fields, as its `add_cli_args_from_dataclass` does."""
    module = "sglang.srt.server_args"
    spaces = world.lookup(module, "_INPUT_NAMESPACES")
    owners = spaces if isinstance(spaces, list) else [world.first_class(module, "ServerArgs")]
    for owner in owners:
        for name, (hint, _) in fields_of(world, owner).items():
            meta = made_of(hint, "Arg")
            if meta is None:
                continue
            given = meta.options if isinstance(meta, Made) else {}
            if not given.get("no_cli"):
                spelling = given.get("cli_name") or f"--{name.replace('_', '-')}"
                parser.add_argument(spelling, *(given.get("aliases") or ()), **_field_options(hint, given))


def _field_options(hint: Any, given: dict[str, Any]) -> dict[str, Any]:
    if given.get("action") is not None:
        return {"action": given["action"], **(given.get("action_kwargs") or {})}
    parts = [part for part in parts_of(hint) if part is not None]
    read, choices, nargs = given.get("type_parser"), given.get("choices"), given.get("nargs")
    values = literal_of(parts) if len(parts) == 1 else None
    if values is not None:
        return {"choices": choices or list(values), "type": read or type(values[0])}
    only = parts[0] if len(parts) == 1 else str
    if isinstance(only, Form) and only.name in ("list", "List") and read is None:
        return {"nargs": nargs or "+", "choices": choices or None, "type": only.args[0]}
    if only is bool:
        return {"action": "store_true"}
    return {"type": read or only, "choices": choices or None, "nargs": nargs}


VLLM_PARSERS = ("vllm.entrypoints.cli.serve", "ServeSubcommand", "subparser_init")
"""Where `vllm serve` builds its parser."""


def _vllm(source: Source) -> Parser:
    pairs = any("class EnableDisableAction" in text for text in source.texts.values())
    world = world_of(source, get_kwargs=lambda owner: _config_options(world, owner))
    parser = world_parser(world, pairs)
    module, owner, function = VLLM_PARSERS
    world.apply(world.attribute(world.lookup(module, owner), function), [Unknown("self"), parser], {})
    known = world.lookup("vllm.model_executor.layers.quantization", "QUANTIZATION_METHODS")
    methods = parser.choices("--quantization", known)
    parser.flags["--quantization"] = parser.flags["--quantization"]._replace(kind="choice", choices=methods)
    return parser


def _config_options(world: World, owner: Any) -> dict[str, dict[str, Any]]:
    """Return the options that vLLM makes of the fields of a config class, as its `get_kwargs` does."""
    found: dict[str, dict[str, Any]] = {}
    for name, (hint, _) in fields_of(world, owner).items():
        parts = parts_of(hint)
        kinds = [part.name if isinstance(part, Form) else part for part in parts]
        options: dict[str, Any] = {"help": "", "default": None}
        values = literal_of(parts)
        classes = [part for part in parts if isinstance(part, Class) and _is_dataclass(world, part)]
        sequences = [
            part for part in parts if isinstance(part, Form) and part.name in ("list", "tuple", "set", "List")
        ]
        named = [part for part in parts if isinstance(part, Class) and part.name == "AttentionBackendEnum"]
        if named:
            options["suggested"] = [member.name for member in world.items(named[0])]
        elif classes:
            options["type"] = Library("json.loads")
        elif set(map(str, kinds)) == {str(bool), str(str), "None"}:
            options |= {"nargs": "?", "type": str}
        elif bool in kinds:
            options["action"] = Library("argparse.BooleanOptionalAction")
        elif values is not None:
            options |= {
                "suggested" if str in kinds else "choices": sorted(set(map(str, values))),
                "type": type(values[0]),
            }
        elif sequences:
            inside = literal_of([part for arg in sequences[0].args for part in parts_of(arg)])
            options |= {"nargs": "+", "choices": list(inside) if inside else None}
        elif int in kinds:
            options["type"] = int if name != "max_model_len" else str
        elif float in kinds:
            options["type"] = float
        elif any(kind in (dict, "dict", "Dict") for kind in kinds):
            foreign = [kind for kind in kinds if isinstance(kind, Library | Class) or kind == "Callable"]
            options["type"] = str if str in kinds or foreign else Library("json.loads")
        else:
            options["type"] = str
        found[name] = options
    return found


def _is_dataclass(world: World, owner: Class) -> bool:
    return not world.is_enum(owner) and bool(owner.node.decorator_list)
