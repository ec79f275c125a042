"""The bytes of a file, cut into the pieces that should be JSON values; a piece too large is never held."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from perfdb.readers.tokens import STRING_BYTES, end_of_container

LARGEST_BYTES: Final = 200 * 2**20
"""Largest JSON value, and longest line, that is read."""

CHUNK_BYTES: Final = 2**20
SPACE: Final = b" \t\r\n"
"""What JSON lets stand around a value."""
_BETWEEN: Final = re.compile(rb"[ \t\r\n,]*+")
_SCALAR: Final = re.compile(STRING_BYTES.pattern + rb"|[^\[{][^,\[\]{}\r\n]*+", re.DOTALL)
_UTF16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class Piece:
    """Bytes that should be one JSON value.

    Parameters
    ----------
    number : int
        Line of the file, or place among the values of a document, from 1.
    raw : bytes
        The value; the beginning of it where it is too large.
    size_bytes : int
        Its size.
    """

    number: int
    raw: bytes
    size_bytes: int

    @property
    def too_large(self) -> bool:
        """Whether only its beginning was read."""
        return self.size_bytes > len(self.raw)


class _FromUtf16(io.RawIOBase):
    """The UTF-8 of a file that is UTF-16, as some shells write what a program prints."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-16")(errors="replace")
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._ready:
            chunk = self._file.read(CHUNK_BYTES)
            self._ready = self._decoder.decode(chunk, final=not chunk).encode()
            if not chunk:
                break
        part, self._ready = self._ready[: len(buffer)], self._ready[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)

    def close(self) -> None:
        self._file.close()
        super().close()


def open_bytes(path: Path) -> BinaryIO:
    """Open a file as UTF-8 without a byte order mark; one of UTF-16 that has the mark is converted."""
    file = path.open("rb", buffering=CHUNK_BYTES)
    start = file.read(3)
    if start == codecs.BOM_UTF8:
        return file
    file.seek(0)
    return io.BufferedReader(_FromUtf16(file), CHUNK_BYTES) if start.startswith(_UTF16) else file


def lines(path: Path) -> Iterator[Piece]:
    """Cut a file into the lines that are not blank."""
    with open_bytes(path) as file:
        number = 0
        while line := file.readline(LARGEST_BYTES + 2):
            number += 1
            size = len(line)
            if line.endswith(b"\n") or size <= LARGEST_BYTES:
                line = line.strip(SPACE)
                size = len(line)
            else:
                line = line[:CHUNK_BYTES]
                while (more := file.readline(CHUNK_BYTES)) and not more.endswith(b"\n"):
                    size += len(more)
                size += len(more)
            if line:
                yield Piece(number, line, size)


def is_document(path: Path) -> bool:
    """Tell whether a file is JSON over several lines, or a list of objects, rather than JSON lines.

    The first line decides: it opens a list of objects; or an object that it does not close, and the next
    line begins no other. Lines that were cut off are thus still lines.
    """
    with open_bytes(path) as file:
        first = last = _next(file)
        if first[:1] == b"[":
            inside = first[1:].lstrip(SPACE) or _next(file)
            return inside[:1] in (b"{", b"]")
        if first[:1] != b"{":
            return False
        size = len(first)
        while not last.endswith(b"\n") and (part := file.readline(CHUNK_BYTES)):
            last = part if part.strip(SPACE) else last.strip(SPACE) + part
            size += len(part)
            if size > LARGEST_BYTES:
                return False
        if last.rstrip(SPACE).endswith(b"}"):
            return False
        return _next(file)[:1] not in (b"", b"{")


def _next(file: BinaryIO) -> bytes:
    """Return the beginning of the next line that is not blank, without the space before it."""
    while part := file.readline(CHUNK_BYTES):
        if part := part.lstrip(SPACE):
            return part
    return b""


def values(path: Path) -> Iterator[Piece]:
    """Cut a file into its JSON values one after the other, and a list of values into its elements.

    What follows a value that is too large, or that does not end, is not read.
    """
    with open_bytes(path) as file:
        window, at, number, in_list = b"", 0, 0, False
        while True:
            between = _BETWEEN.match(window, at)
            at = between.end() if between else at
            opening = window[at : at + 1]
            if opening == b"[" and not in_list:
                in_list, at = True, at + 1
                continue
            if opening == b"]" and in_list:
                in_list, at = False, at + 1
                continue
            end = _end_of_value(window, at)
            if end is None:
                window, at = window[at:], 0
                more = file.read(min(max(CHUNK_BYTES, 3 * len(window)), LARGEST_BYTES + 1 - len(window)))
                window += more
                if more or not window:
                    if not window:
                        return
                    continue
                end = len(window)
            number += 1
            if end - at > LARGEST_BYTES:
                yield Piece(number, window[at : at + CHUNK_BYTES], end - at)
                return
            piece = Piece(number, window[at:end], end - at)
            if end > CHUNK_BYTES:
                window, end = window[end:], 0
            at = end
            yield piece
            del piece


def _end_of_value(window: bytes, at: int) -> int | None:
    """Return where the value at `at` ends; None if more has to be read to know."""
    if window[at : at + 1] in (b"{", b"["):
        return end_of_container(window, at)
    scalar = _SCALAR.match(window, at)
    return scalar.end() if scalar and scalar.end() < len(window) else None
