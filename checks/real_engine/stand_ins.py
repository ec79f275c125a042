"""Packages that an engine imports, never calls on a CPU, and that have no CPU build: run by the engine's own python.

    python stand_ins.py torchvision==0.28.0 sgl_kernel==0.4.10

Each becomes a package of which every name and every submodule can be imported. Calling one raises, so that an engine
that does need it stops and cannot answer wrongly. A real package is never written over.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

MARK = '"""A stand-in of aicalib for a package without a CPU build: it can be imported and not be called."""'

CODE = '''
import importlib.abc
import importlib.machinery
import sys
import types

__version__ = "{version}"


class Absent:
    """A name of the package: an attribute, a key or a base class; no function."""

    def __init__(self, name):
        self._name = name

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent(f"{{self._name}}.{{name}}")

    def __mro_entries__(self, bases):
        return ()

    def __or__(self, other):
        return self

    __ror__ = __or__

    def __call__(self, *args, **kwargs):
        raise NotImplementedError(f"{{self._name}} has no CPU build here")


def _getter(module):
    def get(name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent(f"{{module}}.{{name}}")

    return get


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds every submodule."""

    def find_spec(self, name, path=None, target=None):
        if name.startswith(__name__ + "."):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def exec_module(self, module):
        module.__getattr__ = _getter(module.__name__)


__getattr__ = _getter(__name__)
sys.meta_path.append(_Finder())
'''


def write(name: str, version: str, site: Path) -> None:
    """Write one stand-in into a folder of packages.

    Raises
    ------
    SystemExit
        If the real package lies there.
    """
    init = site / name / "__init__.py"
    if init.exists() and not init.read_text(encoding="utf-8").startswith(MARK):
        raise SystemExit(f"{name}: the real package is installed in {site}; uninstall it first")
    init.parent.mkdir(parents=True, exist_ok=True)
    init.write_text(MARK + CODE.format(version=version), encoding="utf-8")


if __name__ == "__main__":
    for wanted in sys.argv[1:]:
        package, _, release = wanted.partition("==")
        write(package, release, Path(sysconfig.get_paths()["purelib"]))
