"""Headers of weight files: which tensors a `.safetensors` or `.gguf` file holds, without reading them."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from aicalib.errors import InvalidValue

_LONGEST_HEADER: Final = 100_000_000
"""Bytes; the limit that the safetensors format sets, kept for GGUF strings and lists too."""

_GGUF_SCALARS: Final = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""Value types of GGUF metadata that are one number, as :mod:`struct` writes them (ggml-org/ggml:docs/gguf.md)."""

_STRING, _ARRAY = 8, 9
_KEPT_ITEMS: Final = 64
"""Lists longer than this (vocabularies) are passed over."""


class Tensor(NamedTuple):
    """What a header says of one tensor.

    Parameters
    ----------
    dtype : str or int
        Name of the number format (safetensors), or number of the tensor type (GGUF).
    shape : tuple of int
    """

    dtype: str | int
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of elements as the file counts them; packed formats hold several values in one."""
        return prod(self.shape)


@dataclass(frozen=True)
class GGUFHeader:
    """The header of a GGUF file.

    Parameters
    ----------
    metadata : dict
        Key to value; lists of more than 64 items are left out.
    tensors : dict of str to Tensor
    """

    metadata: dict[str, Any]
    tensors: dict[str, Tensor]


def safetensors_header(path: Path) -> dict[str, Tensor]:
    """Read the header of a safetensors file.

    The format (huggingface/safetensors:README.md): 8 bytes with the length of a JSON object, then that object,
    which maps each name to its dtype, shape and place.

    Raises
    ------
    InvalidValue
        If the file cannot be read, is cut off, or its header is no such object.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
            if 8 + length > size or length > _LONGEST_HEADER:
                raise InvalidValue(f"{path}: the safetensors header is cut off or damaged")
            header = json.loads(file.read(length))
        tensors = {
            name: Tensor(str(entry["dtype"]), tuple(int(width) for width in entry["shape"]))
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except OSError as error:
        raise InvalidValue(f"cannot read {path}: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InvalidValue(f"{path}: the safetensors header is not what the format asks for") from error
    return tensors


def gguf_header(path: Path) -> GGUFHeader:
    """Read the header of a GGUF file of version 2 or 3, either byte order.

    Raises
    ------
    InvalidValue
        If the file cannot be read, is no GGUF file, is cut off, or of another version.
    """
    try:
        with path.open("rb") as file:
            return _Gguf(file, path).header()
    except OSError as error:
        raise InvalidValue(f"cannot read {path}: {error}") from error


class _Gguf:
    """A cursor over a GGUF header."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file, self.path, self.order = file, path, "<"
        self.size = path.stat().st_size

    def header(self) -> GGUFHeader:
        if self.file.read(4) != b"GGUF":
            raise InvalidValue(f"{self.path} is no GGUF file: it does not begin with 'GGUF'")
        version = self.number("I")
        if version not in (2, 3):
            self.order = ">"
            version = int.from_bytes(version.to_bytes(4, "little"), "big")
        if version not in (2, 3):
            raise InvalidValue(f"{self.path}: GGUF version {version} is not known here", ["2", "3"])
        tensors, pairs = self.number("Q"), self.number("Q")
        metadata = {}
        for _ in range(pairs):
            key, value = self.text(), self.value(self.number("I"))
            if value is not None:
                metadata[key] = value
        return GGUFHeader(metadata, dict(self.tensor() for _ in range(tensors)))

    def take(self, count: int) -> bytes:
        data = self.file.read(count) if count <= _LONGEST_HEADER else b""
        if len(data) < count:
            raise self.cut_off()
        return data

    def skip(self, count: int) -> None:
        if self.file.tell() + count > self.size:
            raise self.cut_off()
        self.file.seek(count, 1)

    def cut_off(self) -> InvalidValue:
        return InvalidValue(f"{self.path}: the GGUF header is cut off or damaged")

    def number(self, code: str) -> Any:
        return struct.unpack(self.order + code, self.take(struct.calcsize(self.order + code)))[0]

    def text(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind in _GGUF_SCALARS:
            return self.number(_GGUF_SCALARS[kind])
        if kind != _ARRAY:
            raise InvalidValue(f"{self.path}: value type {kind} is not one of GGUF's")
        kind, length = self.number("I"), self.number("Q")
        if length <= _KEPT_ITEMS and kind != _ARRAY:
            return [self.value(kind) for _ in range(length)]
        if kind in _GGUF_SCALARS:
            self.skip(length * struct.calcsize("<" + _GGUF_SCALARS[kind]))
        elif kind == _STRING:
            for _ in range(length):
                self.skip(self.number("Q"))
        else:
            raise InvalidValue(f"{self.path}: a list of values of type {kind} is not one of GGUF's")
        return None

    def tensor(self) -> tuple[str, Tensor]:
        name, axes = self.text(), self.number("I")
        if axes > 8:
            raise InvalidValue(f"{self.path}: tensor '{name}' has {axes} axes")
        shape = tuple(self.number("Q") for _ in range(axes))
        kind = self.number("I")
        self.number("Q")
        return name, Tensor(kind, shape)
