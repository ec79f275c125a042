"""Why a program ended, in one word and in its own: from its exit status and the end of its log."""

from __future__ import annotations

import re
import signal
import tomllib
from functools import cache
from importlib.resources import files
from typing import Final, NamedTuple

KILLED: Final = 128 + signal.SIGKILL

LASTING_BY_STATUS: Final = {"killed": True, "crashed": True, "timeout": False, "hung": False}
"""Reasons that no log states, and whether the same start would fail again: the kernel kills what takes too much
memory, a crash comes of the deployment, a time limit is the user's own."""


class Failure(NamedTuple):
    """Why a program ended.

    Attributes
    ----------
    reason : str
        One word: a table of `failures.toml`, "killed", "crashed", "timeout" or "hung".
    message : str
        The line of the log that says so, else what the exit status says.
    """

    reason: str
    message: str


def why(status: int | None, log_tail: str, limit_s: float | None = None) -> Failure:
    """Return why a program ended.

    Parameters
    ----------
    status : int or None
        Exit status, 128 + n for signal n; None where it was ended at a time limit.
    log_tail : str
    limit_s : float, optional
        That limit [s].

    Examples
    --------
    >>> why(2, "launch_server.py: error: unrecognized arguments: --tpp 2")
    Failure(reason='refused_flag', message='launch_server.py: error: unrecognized arguments: --tpp 2')
    """
    for reason, table in _tables().items():
        for pattern in table["patterns"]:
            if found := re.search(pattern, log_tail, re.MULTILINE):
                return Failure(reason, _line_around(log_tail, found.start()))
    if status is None:
        return Failure("timeout", f"no answer after {limit_s:g} s" if limit_s else "no answer in time")
    if status == KILLED:
        return Failure("killed", "killed (signal 9), as the kernel does where memory runs out")
    last = log_tail.strip().splitlines()[-1:] or ["it printed nothing"]
    how = f"signal {status - 128}" if status > 128 else f"exit status {status}"
    return Failure("crashed", f"{how}: {last[0].strip()}")


def lasting(reason: str) -> bool:
    """Tell whether the same start would fail again."""
    known = {name: bool(table["lasting"]) for name, table in _tables().items()} | LASTING_BY_STATUS
    return known[reason]


@cache
def _tables() -> dict[str, dict[str, list[str]]]:
    text = files("aicalib.measure").joinpath("failures.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _line_around(text: str, at: int) -> str:
    start = text.rfind("\n", 0, at) + 1
    end = text.find("\n", at)
    return text[start : None if end < 0 else end].strip()[:500]
