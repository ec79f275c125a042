"""From calls of `add_argument` to what a command line may hold."""

from __future__ import annotations

import ast
from typing import Any

from aicalib.engines.flags import Flag
from checks.engines.evaluate import World
from checks.engines.values import Class, Form, Function, Library, Made, Member, Unknown, is_known, literals

SWITCHES = ("store_true", "store_false", "store_const", "append_const", "count", "help", "version")
"""Actions of argparse that take no value."""


class Parser:
    """Stands for an `ArgumentParser`, a group or a subparser of it, and keeps every flag that is added.

    Parameters
    ----------
    world : World
        Where the classes and functions that are handed over come from.
    pairs : bool
        Whether a switch `--enable-x` also has a `--disable-x`, and the reverse.
    """

    takes_calls = True

    def __init__(self, world: World | None = None, pairs: bool = False) -> None:
        self.world, self.pairs = world, pairs
        self.flags: dict[str, Flag] = {}
        self.problems: list[str] = []

    def group(self, *args: Any, **options: Any) -> Parser:
        """Stand for a group or a subparser too."""
        return self

    add_argument_group = add_mutually_exclusive_group = add_subparsers = add_parser = group

    def add_argument(self, *names: Any, **options: Any) -> Unknown:
        """Keep the flag; a problem where it cannot be read."""
        if not names or not is_known(list(names)) or "**" in options:
            self.problems.append(
                f"add_argument{names} with {options.get('**', 'names')} that could not be read"
            )
            return Unknown("action")
        spellings = tuple(name for name in names if name.startswith("-"))
        if spellings and options.get("action") not in ("help", "version"):
            flag = self.flag(spellings, options)
            self.flags[flag.name] = flag
        return Unknown("action")

    def flag(self, spellings: tuple[str, ...], options: dict[str, Any]) -> Flag:
        """Return the flag that an `add_argument` with these options makes."""
        name = next((text for text in spellings if text.startswith("--")), spellings[0])
        action, nargs = options.get("action"), options.get("nargs")
        if isinstance(action, Class):
            nargs = options.get("nargs", _default_of(action, "nargs", self.world))
        if _is_negatable(action, self.world):
            return Flag(name, negated(spellings, self.pairs), "bool")
        if action in SWITCHES or nargs == 0:
            return Flag(name, spellings, "bool")
        choices = self.choices(spellings[0], options.get("choices"))
        suggested = options.get("suggested")
        optional = nargs in ("?", "*")
        if nargs in ("+", "*") or isinstance(nargs, int) or action == "extend":
            return Flag(name, spellings, "list", choices, optional)
        if choices is not None:
            return Flag(name, spellings, "choice", choices, optional)
        if suggested is not None:
            return Flag(name, spellings, "choice", tuple(suggested), optional, True)
        return Flag(name, spellings, kind_of(options.get("type")), None, optional)

    def choices(self, flag: str, given: Any) -> tuple[str, ...] | None:
        """Return choices as text; None for a registry that modules fill when they are imported."""
        if given is None:
            return None
        items = self.world.items(given) if self.world else list(given)
        if not is_known(items) or not is_known(given):
            self.problems.append(f"choices of {flag} could not be read: {given}")
            return None
        if not items:
            return None
        texts = [str(item.value if isinstance(item, Member) else item) for item in items if item is not None]
        return tuple(dict.fromkeys(sorted(texts) if isinstance(given, set | frozenset) else texts))


def negated(spellings: tuple[str, ...], pairs: bool) -> tuple[str, ...]:
    """Return the spellings of a switch with its negative forms."""
    long = [text for text in spellings if text.startswith("--")]
    found = [*spellings, *(f"--no-{text[2:]}" for text in long)]
    if pairs:
        for one, other in (("--enable-", "--disable-"), ("--disable-", "--enable-")):
            found += [other + text.removeprefix(one) for text in long if text.startswith(one)]
    return tuple(found)


def kind_of(read: Any) -> str:
    """Return the kind of value that a `type=` of argparse reads."""
    if read in (int, float):
        return "int" if read is int else "float"
    if isinstance(read, Function):
        inner = read.around.get("return_type") if isinstance(read.around, dict) else None
        if "return_type" in read.around or inner is not None:
            return kind_of(inner if inner is not None else read.around["return_type"])
    name = read.path if isinstance(read, Library) else getattr(read, "name", getattr(read, "why", ""))
    if name in ("human_readable_int", "check_port", "positive_int", "IntRange"):
        return "int"
    return "json" if "json" in name and "or" not in name.split("_") else "text"


def _default_of(action: Class, name: str, world: World | None) -> Any:
    """Return the default of a parameter in the constructor of an action, its own or of a base."""
    for kind in world.bases(action) if world else [action]:
        for node in kind.node.body:
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                places = [argument.arg for argument in node.args.args]
                found = dict(zip(reversed(places), reversed(node.args.defaults), strict=False)).get(name)
                return found.value if isinstance(found, ast.Constant) else None
    return None


def _is_negatable(action: Any, world: World | None) -> bool:
    name = "BooleanOptionalAction"
    if isinstance(action, Class):
        return name in (world.base_names(action) if world else ())
    return isinstance(action, Library) and action.path.endswith(name)


def parts_of(hint: Any) -> list[Any]:
    """Return the types that a type hint allows, Annotated, Optional and Union taken apart."""
    if isinstance(hint, Form) and hint.name in ("Annotated", "SkipValidation"):
        return parts_of(hint.args[0])
    if isinstance(hint, Form) and hint.name == "Optional":
        return [*parts_of(hint.args[0]), None]
    if isinstance(hint, Form) and hint.name == "Union":
        return [part for arg in hint.args for part in parts_of(arg)]
    return [hint]


def fields_of(world: World, owner: Class) -> dict[str, tuple[Any, bool]]:
    """Return the annotated fields of a class: type hint, and whether it has a default; those of bases first."""
    found: dict[str, tuple[Any, bool]] = {}
    for kind in reversed(world.bases(owner)):
        for node in kind.node.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found[node.target.id] = (world.hint(node.annotation, kind), node.value is not None)
    return {name: (hint, default) for name, (hint, default) in found.items() if not _is_class_variable(hint)}


def _is_class_variable(hint: Any) -> bool:
    name = hint.name if isinstance(hint, Form) else getattr(hint, "path", "").rpartition(".")[2]
    return name in ("ClassVar", "InitVar")


def literal_of(parts: list[Any]) -> tuple[Any, ...] | None:
    """Return the values of a Literal among types."""
    found = [part for part in parts if isinstance(part, Form) and part.name == "Literal"]
    return tuple(value for form in found for value in literals(form)) if found else None


def made_of(hint: Any, name: str) -> Made | str | None:
    """Return what an Annotated hint carries: a call of the class of that name, else its text."""
    if not (isinstance(hint, Form) and hint.name == "Annotated"):
        return None
    for part in hint.args[1:]:
        if isinstance(part, Made) and getattr(part.of, "name", "") == name:
            return part
        if isinstance(part, str):
            return part
    return None
