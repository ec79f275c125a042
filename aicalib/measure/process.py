"""Programs that end with their owner: an engine or a client under a keeper, its output in a file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from aicalib.measure import keeper

GRACE_S: Final = 20.0
"""Seconds that a program has to end by itself once it is asked to."""

_MARGIN_S: Final = 15.0
"""Seconds that the keeper has to kill what does not end, before it is killed itself."""


class Kept:
    """A running program that ends, with all that it started, when this object is closed or this process ends.

    Parameters
    ----------
    argv : sequence of str
        Program and arguments.
    env : mapping of str to str
        The whole environment.
    log : Path
        What it prints, both streams, is appended here.
    cwd : Path, optional
    grace_s : float
    """

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        log: Path,
        cwd: Path | None = None,
        grace_s: float = GRACE_S,
    ) -> None:
        self.argv = tuple(argv)
        self.log = log
        self._limit_s = grace_s + _MARGIN_S
        with log.open("ab") as output:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", keeper.__file__, str(grace_s), *argv],
                stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, env=dict(env), cwd=cwd,
                start_new_session=True,
            )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def status(self) -> int | None:
        """Exit status of the program, None while it runs; 128 + n where signal n ended it."""
        return self._keeper.poll()

    def wait(self, seconds: float) -> int | None:
        """Return the exit status, None if the program still runs after some seconds."""
        try:
            return self._keeper.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> int:
        """End the program and all that it started; return its exit status."""
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        try:
            return self._keeper.wait(self._limit_s)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            return self._keeper.wait()


def tail(log: Path, lines: int = 20, most_bytes: int = 2**16) -> str:
    """Return the end of a log, empty where there is none."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - most_bytes))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.rstrip().splitlines()[-lines:])
