"""Reading single values of a `config.json`, with errors that name the key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aicalib.errors import InvalidValue


class Reader:
    """The values of one configuration over the defaults of its class.

    Parameters
    ----------
    name : str
        Model, for messages.
    values, defaults : mapping
        What the file says, and what holds where a key is missing.
    """

    def __init__(self, name: str, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self.name = name
        self.values = values
        self.defaults = defaults

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value, else the class's default, else `default`; null counts as missing."""
        for source in (self.values, self.defaults):
            if source.get(key) is not None:
                return source[key]
        return default

    def within(self, key: str) -> Reader:
        """Return a reader of a nested mapping, an empty one where the key is missing.

        Raises
        ------
        InvalidValue
            It is no mapping.
        """
        value = self.get(key, {})
        if not isinstance(value, Mapping):
            raise InvalidValue(f"{self.name}: '{key}' is {value!r}, not an object")
        return Reader(f"{self.name}: {key}", value, {})

    def integer(self, *keys: str, default: int | None = None) -> int:
        """Return the first of several spellings of a whole number that is there.

        Raises
        ------
        InvalidValue
            None is there and there is no default, or the value is no whole number of at least zero.
        """
        for key in keys:
            value = self.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise InvalidValue(f"{self.name}: '{key}' is {value!r}, not a whole number")
            if value == 0 and default is None:
                raise InvalidValue(f"{self.name}: '{key}' is 0")
            return value
        if default is None:
            raise InvalidValue(f"{self.name}: the configuration has no '{' or '.join(keys)}'")
        return default

    def listed(self, key: str, length: int) -> list[Any] | None:
        """Return a list with one item a layer, or None where the key is missing.

        Raises
        ------
        InvalidValue
            It is no list, or of another length.
        """
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) < length:
            raise InvalidValue(
                f"{self.name}: '{key}' is not a list with one item for each of {length} layers"
            )
        return value[:length]
