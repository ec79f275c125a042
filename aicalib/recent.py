"""Results kept for the objects asked about last, known by who they are and not by what they equal."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

Made = TypeVar("Made")


class Recent(Generic[Made]):
    """A cache of the last `most` results.

    Comparing a deployment's names costs more than what is saved, so objects are told apart by identity; they are
    kept beside the result, so that no other can take their place.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[Hashable, tuple[Made, Any]] = OrderedDict()

    def get(
        self, objects: tuple[object, ...], values: tuple[Hashable, ...], make: Callable[[], Made]
    ) -> Made:
        """Return what was made for these objects and values, or make it."""
        key = (*map(id, objects), *values)
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = (make(), objects)
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return kept[0]
