"""What an expression of the source gives; a part of `checks.engines.evaluate.World`."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

from checks.engines.values import (
    Class,
    Form,
    Function,
    Inner,
    Library,
    Made,
    Member,
    ModuleRef,
    Super,
    Unknown,
    is_known,
)

BUILTINS: dict[str, Any] = {
    **{kind.__name__: kind for kind in (str, int, float, bool, list, dict, set, tuple, frozenset, bytes, object, type)},
    **{done.__name__: done for done in (sorted, len, range, enumerate, zip, min, max, sum, any, all, reversed, repr)},
    "True": True, "False": False, "None": None,
}  # fmt: skip

PLAIN = (str, int, float, bool, list, dict, set, frozenset, tuple, bytes, type(None))
"""Types whose methods are called as they are."""

OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.BitAnd: operator.and_,
    ast.Mod: operator.mod, ast.Pow: operator.pow, ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv,
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not,
    ast.In: lambda left, right: left in right, ast.NotIn: lambda left, right: left not in right,
}  # fmt: skip


class Expressions:
    """Names, operators, literals, comprehensions and attributes."""

    known: dict[str, Any]
    host: dict[str, Any]

    def value(self, node: ast.expr, names: dict[str, Any], module: str) -> Any:
        """Return what an expression gives."""
        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                return self.name(node.id, names, module)
            case ast.List() | ast.Tuple() | ast.Set():
                return self.sequence(node, names, module)
            case ast.Dict():
                return self.mapping(node, names, module)
            case ast.Attribute():
                return self.attribute(self.value(node.value, names, module), node.attr)
            case ast.Subscript():
                return self.subscript(
                    self.value(node.value, names, module), self.value(node.slice, names, module)
                )
            case ast.Call():
                return self.call(node, names, module)
            case ast.BinOp():
                left, right = (self.value(side, names, module) for side in (node.left, node.right))
                return self.combine(node.op, left, right)
            case ast.BoolOp():
                return self.either(node, names, module)
            case ast.UnaryOp():
                return self.unary(node.op, self.value(node.operand, names, module))
            case ast.Compare():
                left = self.value(node.left, names, module)
                if len(node.ops) == 1:
                    return self.combine(node.ops[0], left, self.value(node.comparators[0], names, module))
                return Unknown("comparison")
            case ast.IfExp():
                test = self.value(node.test, names, module)
                if not is_known(test):
                    return Unknown("condition")
                return self.value(node.body if test else node.orelse, names, module)
            case ast.JoinedStr():
                parts = [self.value(part, names, module) for part in node.values]
                return "".join(map(str, parts)) if is_known(parts) else Unknown("text")
            case ast.FormattedValue():
                return self.value(node.value, names, module)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                return self.comprehension(node, names, module)
            case ast.Lambda():
                return Function(node, module, names)
            case ast.Starred():
                return self.value(node.value, names, module)
        return Unknown(type(node).__name__)

    def name(self, name: str, names: dict[str, Any], module: str) -> Any:
        """Return what a bare name stands for."""
        if name in self.known or name in self.host:
            return self.known[name] if name in self.known else self.host[name]
        if name in names:
            return self.settle(names, name)
        found = self.lookup(module, name)
        if isinstance(found, Unknown):
            return BUILTINS.get(name, found)
        return found

    def sequence(self, node: ast.List | ast.Tuple | ast.Set, names: dict[str, Any], module: str) -> Any:
        """Return a list, tuple or set."""
        items: list[Any] = []
        for part in node.elts:
            value = self.value(part, names, module)
            items += self.items(value) if isinstance(part, ast.Starred) else [value]
        if isinstance(node, ast.Set):
            return set(items) if is_known(items) else Unknown("set")
        return tuple(items) if isinstance(node, ast.Tuple) else items

    def mapping(self, node: ast.Dict, names: dict[str, Any], module: str) -> Any:
        """Return a dict."""
        made: dict[Any, Any] = {}
        for key, item in zip(node.keys, node.values, strict=True):
            value = self.value(item, names, module)
            if key is None:
                made |= value if isinstance(value, dict) else {}
            else:
                made[self.value(key, names, module)] = value
        return made

    def attribute(self, holder: Any, name: str) -> Any:
        """Return an attribute of a module, class, member, call or plain value."""
        if isinstance(holder, ModuleRef):
            return self.lookup(holder.name, name)
        if isinstance(holder, Library):
            path = f"{holder.path}.{name}"
            if path in self.known:
                return self.known[path]
            return self.host.get(path, Library(path))
        if isinstance(holder, Class):
            return self.member(holder, name)
        if isinstance(holder, Super):
            return self.member(holder.owner, name, self.bases(holder.owner)[1:], holder.bound)
        if isinstance(holder, Member):
            return {"name": holder.name, "value": holder.value}.get(name, Unknown(name))
        if isinstance(holder, Made) and name in holder.options:
            return holder.options[name]
        if isinstance(holder, PLAIN) or hasattr(holder, "takes_calls"):
            return getattr(holder, name, Unknown(name))
        return Unknown(name)

    def subscript(self, holder: Any, key: Any) -> Any:
        """Return an item, or a type with arguments."""
        if isinstance(holder, dict | list | tuple | str):
            try:
                return holder[key]
            except (KeyError, IndexError, TypeError):
                return Unknown(f"[{key!r}]")
        if isinstance(holder, Class):
            found = self.member(holder, key) if isinstance(key, str) else None
            return found if isinstance(found, Member) else Form(holder.name, (key,))
        name = (
            holder.path.rpartition(".")[2]
            if isinstance(holder, Library)
            else getattr(holder, "__name__", None)
        )
        if name is None:
            return Unknown("subscript")
        return Form(name, key if isinstance(key, tuple) else (key,))

    def combine(self, op: Any, left: Any, right: Any) -> Any:
        """Apply an operator; types joined by "|" are a Union."""
        if isinstance(op, ast.BitOr):
            if isinstance(left, dict | set) and isinstance(right, dict | set):
                return left | right  # type: ignore[operator]
            return Form("Union", (left, right))
        if not (is_known(left) and is_known(right)):
            return Unknown("operation")
        try:
            return OPERATORS[type(op)](left, right)
        except (TypeError, KeyError, ValueError):
            return Unknown("operation")

    def either(self, node: ast.BoolOp, names: dict[str, Any], module: str) -> Any:
        """Apply "and" or "or"."""
        stop_at = isinstance(node.op, ast.Or)
        value: Any = None
        for part in node.values:
            value = self.value(part, names, module)
            if not is_known(value):
                return Unknown("condition")
            if bool(value) is stop_at:
                return value
        return value

    @staticmethod
    def unary(op: ast.unaryop, value: Any) -> Any:
        """Apply "not" or "-"."""
        if not is_known(value):
            return Unknown("operation")
        if isinstance(op, ast.Not):
            return not value
        return -value if isinstance(op, ast.USub) else value

    def comprehension(self, node: Any, names: dict[str, Any], module: str) -> Any:
        """Return a list, set or dict built by a loop inside brackets."""
        made: list[Any] = []

        def fill(place: int, inner: dict[str, Any]) -> None:
            if place == len(node.generators):
                if isinstance(node, ast.DictComp):
                    made.append((self.value(node.key, inner, module), self.value(node.value, inner, module)))
                else:
                    made.append(self.value(node.elt, inner, module))
                return
            part = node.generators[place]
            for item in self.items(self.value(part.iter, inner, module)):
                self.assign(part.target, item, inner, module)
                if all(self.value(test, inner, module) for test in part.ifs):
                    fill(place + 1, inner)

        fill(0, Inner(names))
        if isinstance(node, ast.DictComp):
            return dict(made)
        if isinstance(node, ast.SetComp):
            return set(made) if is_known(made) else Unknown("set")
        return made
