"""What reading source without importing it gives: values, and stand-ins for what has no value here."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Unknown:
    """A value that only a running engine has: an environment variable, a device, what a library returns."""

    why: str


@dataclass(frozen=True)
class Library:
    """A name of a package outside of the wheel, "argparse.BooleanOptionalAction"."""

    path: str


@dataclass(frozen=True)
class ModuleRef:
    """A module of the wheel."""

    name: str


@dataclass(eq=False)
class Function:
    """A function or lambda, with the names around it."""

    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    module: str
    around: dict[str, Any]
    bound: tuple[Any, ...] = ()
    owner: Class | None = None

    def __repr__(self) -> str:
        return f"<{self.module}.{self.name}>"

    @property
    def name(self) -> str:
        """Name of the function, "<lambda>" without one."""
        return getattr(self.node, "name", "<lambda>")


@dataclass(eq=False)
class Class:
    """A class of the wheel; its body is read when an attribute is asked for."""

    node: ast.ClassDef
    module: str
    around: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<{self.module}.{self.name}>"

    @property
    def name(self) -> str:
        """Name of the class."""
        return self.node.name


@dataclass(frozen=True)
class Member:
    """A member of an enumeration of the wheel."""

    enum: str
    name: str
    value: Any


@dataclass(eq=False)
class Made:
    """What calling a class or a library gives, with the arguments it was called with."""

    of: Any
    args: tuple[Any, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class Super:
    """What `super()` gives in a method of a class."""

    owner: Class
    bound: tuple[Any, ...]


@dataclass(frozen=True)
class Host:
    """A function that the reader itself answers."""

    answer: Callable[..., Any]
    takes_calls = True

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Return the reader's answer."""
        return self.answer(*args, **options)


@dataclass(frozen=True)
class Form:
    """A type with arguments: Form("Literal", ("auto", "fp8")), Form("Union", (int, None))."""

    name: str
    args: tuple[Any, ...]


def is_known(value: Any) -> bool:
    """Return whether a value has nothing unknown in it."""
    if isinstance(value, Unknown):
        return False
    if isinstance(value, list | tuple | set | frozenset):
        return all(is_known(item) for item in value)
    if isinstance(value, dict):
        return all(is_known(key) and is_known(item) for key, item in value.items())
    return True


class Inner(dict[str, Any]):
    """Names of a function, comprehension or class inside of others, which it sees but does not change."""

    def __init__(self, around: dict[str, Any]) -> None:
        super().__init__()
        self.around = around

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or ("__name__" not in self.around and name in self.around)

    def __missing__(self, name: str) -> Any:
        return self.around[name]


def literals(form: Form) -> tuple[Any, ...]:
    """Return the values of a Literal, with those of Literals inside of it."""
    found: list[Any] = []
    for value in form.args:
        found += literals(value) if isinstance(value, Form) and value.name == "Literal" else [value]
    return tuple(found)
