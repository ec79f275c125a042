"""What is in a class of the source; a part of `checks.engines.evaluate.World`."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from checks.engines.values import Class, Function, Inner, Made, Member, Unknown


class Classes:
    """Bodies, bases, members and enumerations."""

    texts: Mapping[str, str]
    classes: dict[Class, dict[str, Any]]

    def body(self, owner: Class) -> dict[str, Any]:
        """Return the names in a class's body; those of an enumeration are its members."""
        if owner not in self.classes:
            names = self.classes[owner] = Inner(owner.around)
            self.run(owner.node.body, names, owner.module)
            if self.is_enum(owner):
                automatic = 0
                for name, value in list(names.items()):
                    if name.startswith("_") or isinstance(value, Function | Class) or callable(value):
                        continue
                    if isinstance(value, Made):
                        automatic += 1
                        value = (
                            name.lower()
                            if any("Str" in base for base in self.base_names(owner))
                            else automatic
                        )
                    names[name] = Member(owner.name, name, value)
        return self.classes[owner]

    def hint(self, annotation: ast.expr, owner: Class) -> Any:
        """Return the type that annotates a field of a class."""
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            annotation = ast.parse(annotation.value, mode="eval").body
        return self.value(annotation, self.body(owner), owner.module)

    def first_class(self, module: str, name: str) -> Class:
        """Return a class as its module first defines it, whatever the module makes of the name afterwards."""
        tree = ast.parse(self.texts[self.path(module) or ""])
        return next(Class(n, module) for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)

    def member(
        self, owner: Class, name: str, kinds: list[Class] | None = None, bound: tuple[Any, ...] | None = None
    ) -> Any:
        """Return an attribute of a class, its own or of a base; class methods come with the class bound."""
        if name == "__members__":
            return {k: v for k, v in self.body(owner).items() if isinstance(v, Member)}
        if name in ("__name__", "__doc__"):
            return owner.name
        for kind in self.bases(owner) if kinds is None else kinds:
            if name in self.body(kind):
                value = self.settle(self.body(kind), name)
                marks = {
                    getattr(mark, "id", "")
                    for mark in getattr(getattr(value, "node", None), "decorator_list", ())
                }
                if isinstance(value, Function) and "staticmethod" not in marks:
                    own = (owner,) if "classmethod" in marks and bound is None else bound or ()
                    return Function(value.node, value.module, value.around, own, kind)
                return value
        return Unknown(f"{owner.name}.{name}")

    def bases(self, owner: Class) -> list[Class]:
        """Return a class and those of the wheel that it inherits from, nearest first."""
        found = [owner]
        for base in owner.node.bases:
            value = self.value(base, dict(owner.around), owner.module)
            if isinstance(value, Class) and value is not owner:
                found += [kind for kind in self.bases(value) if kind not in found]
        return found

    def base_names(self, owner: Class) -> set[str]:
        """Return the names of all bases, also those outside of the wheel."""
        return {
            ast.unparse(base).rpartition(".")[2] for kind in self.bases(owner) for base in kind.node.bases
        }

    def is_enum(self, owner: Class) -> bool:
        """Return whether a class is an enumeration."""
        marks = {ast.unparse(keyword.value) for kind in self.bases(owner) for keyword in kind.node.keywords}
        return any("Enum" in name for name in self.base_names(owner) | marks)
