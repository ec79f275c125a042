"""The engines: their versions, their defaults and, for each, what it runs and how it is started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aicalib.engines.releases import is_newer, newest_version, release_month
from aicalib.physics.system import ENGINES

if TYPE_CHECKING:
    from aicalib.engines.runtime_args import get_runtime_args

__all__ = ["ENGINES", "get_runtime_args", "is_newer", "newest_version", "release_month"]


def __getattr__(name: str) -> Any:
    if name == "get_runtime_args":  # not by the import of the package, which the tables of this one need
        from aicalib.engines.runtime_args import get_runtime_args

        return get_runtime_args
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
