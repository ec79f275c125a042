"""Read Python source as far as choice lists and argument parsers need it, without importing it.

A small interpreter over `ast`: assignments, calls, loops, comprehensions and classes of the wheel's own modules. What
only a running engine knows is an `Unknown` that spreads; both branches of a condition on it are followed, so that a
flag that some platform adds is seen.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

from checks.engines.classes import Classes
from checks.engines.expressions import Expressions
from checks.engines.values import (
    Class,
    Form,
    Function,
    Host,
    Inner,
    Library,
    Made,
    Member,
    ModuleRef,
    Super,
    Unknown,
    is_known,
    literals,
)

DEPTH = 25
"""Calls inside of calls that are followed."""


class Returned(Exception):
    """A return statement."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Loop(Exception):
    """A break or continue statement."""


class World(Expressions, Classes):
    """The modules of one wheel.

    Parameters
    ----------
    texts : mapping of str
        Path inside the wheel to its text.
    host : mapping of callables
        Functions and classes answered by the reader itself, by their dotted name ("argparse.ArgumentParser") or, for
        those of the wheel, by their bare name; each is called with evaluated arguments.
    known : mapping
        Values of names that the source computes from the machine, by bare name.
    """

    def __init__(
        self, texts: Mapping[str, str], host: Mapping[str, Callable[..., Any]], known: Mapping[str, Any]
    ) -> None:
        self.texts, self.known = texts, {"TYPE_CHECKING": False, **known}
        self.host = {name: Host(answer) for name, answer in host.items()}
        self.modules: dict[str, dict[str, Any]] = {}
        self.classes: dict[Class, dict[str, Any]] = {}
        self.depth = 0

    def path(self, module: str) -> str | None:
        """Return the file of a module, or None where the wheel has none."""
        stem = module.replace(".", "/")
        return next((name for name in (f"{stem}.py", f"{stem}/__init__.py") if name in self.texts), None)

    def module(self, name: str) -> dict[str, Any]:
        """Return the names of a module after its top level was read."""
        if name not in self.modules:
            names = self.modules[name] = {"__name__": name}
            path = self.path(name)
            if path is not None:
                self.run(ast.parse(self.texts[path]).body, names, name)
        return self.modules[name]

    def lookup(self, module: str, name: str) -> Any:
        """Return a name of a module: its value, a submodule, or Unknown."""
        if name in self.known or name in self.host:
            return self.known[name] if name in self.known else self.host[name]
        names = self.module(module)
        if name in names:
            return self.settle(names, name)
        if self.path(f"{module}.{name}"):
            return ModuleRef(f"{module}.{name}")
        if "__getattr__" in names:
            table = next((v for k, v in names.items() if "LAZY" in k.upper() and isinstance(v, dict)), {})
            if isinstance(table.get(name), str):
                return self.lookup(table[name], name)
        return Unknown(f"{module}.{name}")

    def settle(self, names: dict[str, Any], name: str) -> Any:
        """Follow a name that an import statement left open."""
        value = names[name]
        if isinstance(value, _Import):
            names[name] = Unknown(f"{name} imports itself")
            value = names[name] = value.follow(self)
        return value

    def run(self, body: list[ast.stmt], names: dict[str, Any], module: str) -> None:
        """Read statements in order."""
        for statement in body:
            self.statement(statement, names, module)

    def statement(self, node: ast.stmt, names: dict[str, Any], module: str) -> None:
        """Read one statement into the names of its module or function."""
        match node:
            case ast.Import() | ast.ImportFrom():
                self.imports(node, names, module)
            case ast.ClassDef():
                names[node.name] = Class(node, module, names if "__name__" not in names else {})
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                names[node.name] = self.decorated(node, Function(node, module, names), names, module)
            case ast.Assign():
                value = self.value(node.value, names, module)
                for target in node.targets:
                    self.assign(target, value, names, module)
            case ast.AnnAssign() if node.value is not None:
                self.assign(node.target, self.value(node.value, names, module), names, module)
            case ast.AugAssign():
                left = self.value(_as_load(node.target), names, module)
                right = self.value(node.value, names, module)
                self.assign(node.target, self.combine(node.op, left, right), names, module)
            case ast.Expr():
                self.value(node.value, names, module)
            case ast.Delete():
                self.delete(node, names, module)
            case ast.If():
                self.branch(node, names, module)
            case ast.For():
                self.loop(node, names, module)
            case ast.With() | ast.Try():
                self.run(node.body, names, module)
            case ast.Return():
                raise Returned(None if node.value is None else self.value(node.value, names, module))
            case ast.Break() | ast.Continue():
                raise Loop

    def imports(self, node: ast.Import | ast.ImportFrom, names: dict[str, Any], module: str) -> None:
        """Leave imported names open until they are used."""
        if isinstance(node, ast.Import):
            for alias in node.names:
                shown = alias.name if alias.asname else alias.name.partition(".")[0]
                names[alias.asname or shown] = ModuleRef(shown) if self.path(shown) else Library(shown)
            return
        source = node.module or ""
        if node.level:
            package = module.split(".")
            if not (self.path(module) or "").endswith("__init__.py"):
                package = package[:-1]
            source = ".".join([*package[: len(package) - node.level + 1], *([source] if source else [])])
        for alias in node.names:
            if alias.name != "*":
                names[alias.asname or alias.name] = _Import(source, alias.name)
            elif self.path(source):
                names |= {
                    name: _Import(source, name) for name in self.module(source) if not name.startswith("_")
                }

    def decorated(self, node: Any, function: Function, names: dict[str, Any], module: str) -> Any:
        """Pass a function through those of its decorators that the reader answers."""
        result: Any = function
        for decorator in reversed(node.decorator_list):
            through = self.value(decorator, names, module)
            if callable(through) and not isinstance(through, type):
                result = through(result)
        return result

    def branch(self, node: ast.If, names: dict[str, Any], module: str) -> None:
        """Follow a condition; both ways where only a running engine knows."""
        test = self.value(node.test, names, module)
        if is_known(test) and not isinstance(test, Made | Library):
            self.run(node.body if test else node.orelse, names, module)
            return
        for body in (node.body, node.orelse):
            try:
                self.run(body, names, module)
            except Returned as returned:
                names.setdefault("return?", []).append(returned.value)

    def loop(self, node: ast.For, names: dict[str, Any], module: str) -> None:
        """Read the body of a loop once per item."""
        for item in self.items(self.value(node.iter, names, module)):
            self.assign(node.target, item, names, module)
            try:
                self.run(node.body, names, module)
            except Loop:
                continue

    def items(self, value: Any) -> list[Any]:
        """Return what a loop runs over; one Unknown where that is not known."""
        if isinstance(value, Class):
            members = [item for item in self.body(value).values() if isinstance(item, Member)]
            return members or [Unknown(f"items of {value.name}")]
        if isinstance(value, list | tuple | set | frozenset | dict | str | range | enumerate | zip | map):
            return list(value)
        if type(value).__name__ in ("dict_keys", "dict_values", "dict_items", "list_reverseiterator"):
            return list(value)
        return [Unknown("items")]

    def assign(self, target: ast.expr, value: Any, names: dict[str, Any], module: str) -> None:
        """Bind a value to names, items or attributes."""
        match target:
            case ast.Name():
                names[target.id] = value
            case ast.Tuple() | ast.List():
                parts = self.items(value)
                for place, part in enumerate(target.elts):
                    item = parts[place] if len(parts) == len(target.elts) else Unknown("unpacked")
                    self.assign(part, item, names, module)
            case ast.Subscript():
                holder = self.value(target.value, names, module)
                key = self.value(target.slice, names, module)
                if isinstance(holder, dict | list) and is_known(key):
                    try:
                        holder[key] = value
                    except (IndexError, TypeError):
                        return
            case ast.Attribute():
                holder = self.value(target.value, names, module)
                if isinstance(holder, Class):
                    self.body(holder)[target.attr] = value

    def delete(self, node: ast.Delete, names: dict[str, Any], module: str) -> None:
        """Take items out of dicts and lists."""
        for target in node.targets:
            if isinstance(target, ast.Subscript):
                holder = self.value(target.value, names, module)
                key = self.value(target.slice, names, module)
                if isinstance(holder, dict):
                    holder.pop(key, None)
                elif isinstance(holder, list) and isinstance(key, int) and key < len(holder):
                    del holder[key]

    def call(self, node: ast.Call, names: dict[str, Any], module: str) -> Any:
        """Evaluate what is called and its arguments, and call it."""
        if isinstance(node.func, ast.Name) and node.func.id == "super" and names.get("__class__"):
            return Super(names["__class__"], names["__bound__"])
        called = self.value(node.func, names, module)
        args: list[Any] = []
        for part in node.args:
            value = self.value(part, names, module)
            args += self.items(value) if isinstance(part, ast.Starred) else [value]
        options: dict[str, Any] = {}
        for keyword in node.keywords:
            value = self.value(keyword.value, names, module)
            if keyword.arg is not None:
                options[keyword.arg] = value
            elif isinstance(value, dict):
                options |= value
            else:
                options["**"] = value
        return self.apply(called, args, options)

    def apply(self, called: Any, args: list[Any], options: dict[str, Any]) -> Any:
        """Call something with evaluated arguments."""
        if isinstance(called, Function):
            return self.invoke(called, args, options)
        if isinstance(called, Library):
            return self.library(called, args, options)
        if isinstance(called, Class):
            return self.make(called, args, options)
        owner = getattr(called, "__self__", None)
        if hasattr(owner, "takes_calls") or hasattr(called, "takes_calls"):
            return called(*args, **options)
        if callable(called):
            if called in (list, tuple, set, frozenset, sorted, dict, len, any, all) and args:
                args = [self.items(args[0]) if not isinstance(args[0], dict) else args[0], *args[1:]]
            grows = isinstance(owner, list | dict | set)
            if not grows and not (is_known(args) and is_known(options)):
                return Unknown("call")
            try:
                return called(*args, **options)
            except Exception as error:
                return Unknown(str(error))
        return Unknown("call")

    def library(self, called: Library, args: list[Any], options: dict[str, Any]) -> Any:
        """Call a name of another package: by the reader where it answers, else keep the call."""
        name = called.path.rpartition(".")[2]
        answer = self.host.get(called.path)
        if answer is not None:
            return answer(*args, **options)
        if name == "get_args" and args and isinstance(args[0], Form):
            return literals(args[0]) if args[0].name == "Literal" else args[0].args
        if name in ("deepcopy", "copy") and args:
            return deepcopy(args[0]) if is_known(args[0]) else args[0]
        if name == "cast" and len(args) == 2:
            return args[1]
        return Made(called, tuple(args), options)

    def make(self, called: Class, args: list[Any], options: dict[str, Any]) -> Any:
        """Call a class: the member of an enumeration, else the call kept."""
        members = [item for item in self.body(called).values() if isinstance(item, Member)]
        if members and args:
            return next((item for item in members if item.value == args[0]), Unknown("member"))
        return Made(called, tuple(args), options)

    def invoke(self, function: Function, args: list[Any], options: dict[str, Any]) -> Any:
        """Read the body of a function with arguments bound; Unknown where it returns something unknown."""
        if self.depth >= DEPTH:
            return Unknown("depth")
        node, places = function.node, function.node.args
        names = Inner(function.around) if "__name__" not in function.around else {}
        positional = [argument.arg for argument in (*places.posonlyargs, *places.args)]
        defaults = dict(zip(reversed(positional), reversed(places.defaults), strict=False))
        defaults |= {
            a.arg: d for a, d in zip(places.kwonlyargs, places.kw_defaults, strict=True) if d is not None
        }
        for name in (*positional, *(argument.arg for argument in places.kwonlyargs)):
            default = defaults.get(name)
            names[name] = Unknown(name) if default is None else self.value(default, names, function.module)
        given = [*function.bound, *args]
        if function.owner is not None:
            names |= {"__class__": function.owner, "__bound__": tuple(given[:1])}
        names.update(zip(positional, given, strict=False))
        if places.vararg:
            names[places.vararg.arg] = given[len(positional) :]
        if places.kwarg:
            names[places.kwarg.arg] = {key: value for key, value in options.items() if key not in names}
        names.update({key: value for key, value in options.items() if key in names})
        self.depth += 1
        try:
            if isinstance(node, ast.Lambda):
                return self.value(node.body, names, function.module)
            self.run(node.body, names, function.module)
            result = None
        except Returned as returned:
            result = returned.value
        finally:
            self.depth -= 1
        maybe = names.get("return?", [])
        return result if all(value is result for value in maybe) else Unknown(f"{function.name}()")


class _Import:
    """A name that an import statement brings, followed when it is used."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def follow(self, world: World) -> Any:
        if world.path(self.module):
            return world.lookup(self.module, self.name)
        path = f"{self.module}.{self.name}"
        return world.host.get(path, Library(path))


def _as_load(node: Any) -> Any:
    fresh = deepcopy(node)
    fresh.ctx = ast.Load()
    return fresh
