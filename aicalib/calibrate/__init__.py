"""Fit, validation and scores of profiles against measured runs.

The package is also the function: `aicalib.calibrate(records, name)` is `aicalib.calibrate.build.calibrate`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aicalib.calibrate.build import Calibration


class _Calibrate(ModuleType):
    def __call__(
        self,
        records: Iterable[Mapping[str, Any]],
        name: str = "team",
        tick: Callable[[], None] = lambda: None,
    ) -> Calibration:
        """Fit a profile to runs, cross-validated; see `aicalib.calibrate.build.calibrate`."""
        from aicalib.calibrate.build import calibrate

        return calibrate(records, name, tick)


sys.modules[__name__].__class__ = _Calibrate
