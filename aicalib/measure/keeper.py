"""A parent that leaves no child behind: runs one program and ends with it, and ends it with whoever started the keeper.

Run by its path, by any Python, and needs nothing but the standard library: `python keeper.py GRACE_S PROGRAM ARG...`.
Its standard input is a pipe that nobody writes to. When that closes, since its owner let go of it or died by whatever
means, or on SIGTERM, the program and all that it started are asked to end (SIGTERM) and, after the grace, made to
(SIGKILL). The same befalls what the program leaves behind when it ends by itself. The exit status is the program's,
128 + n where signal n ended it.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
NOT_FOUND = 127
"""Exit status of a program that is not there, as shells have it."""


def main(argv: list[str]) -> int:
    """Run a program until it ends or the owner lets go; return its exit status."""
    grace_s, command = float(argv[0]), argv[1:]
    woken, waker = os.pipe()
    for end in (woken, waker):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(waker)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _note)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)  # orphans at any depth become children of this process
    program = _spawn(command)
    status: int | None = None
    while status is None and not _noted:
        ready, _, _ = select.select([sys.stdin.fileno(), woken], [], [])
        if sys.stdin.fileno() in ready and not os.read(sys.stdin.fileno(), 1):
            break
        _drain(woken)
        status = _reap(program)
    return _end(program, status, grace_s)


_noted: list[int] = []


def _note(number: int, _: object) -> None:
    if number != signal.SIGCHLD:
        _noted.append(number)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _spawn(command: list[str]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(NOT_FOUND)


def _drain(pipe: int) -> None:
    with suppress(BlockingIOError):
        os.read(pipe, 4096)


def _reap(program: int) -> int | None:
    """Collect children that have ended; return the exit status of the program if it is among them."""
    status = None
    while True:
        try:
            pid, how = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == 0:
            return status
        if pid == program:
            code = os.waitstatus_to_exitcode(how)
            status = 128 - code if code < 0 else code


def _end(program: int, status: int | None, grace_s: float) -> int:
    """End the program and all below; return its exit status.

    The program comes first and alone: an engine that is told ends its own children, one whose children are told takes
    that for a crash.
    """
    for number, alone, limit_s in (
        (signal.SIGTERM, True, grace_s),
        (signal.SIGTERM, False, min(grace_s, 2.0)),
        (signal.SIGKILL, False, 10.0),
    ):
        if alone and status is not None:
            continue
        until = time.monotonic() + limit_s
        _signal(program, alone, number)
        while time.monotonic() < until:
            found = _reap(program)
            status = found if status is None else status
            if status is not None and (alone or not _descendants()):
                break
            time.sleep(0.02)
            if number == signal.SIGKILL:  # what was forked meanwhile
                _signal(program, alone, number)
    return 128 + signal.SIGKILL if status is None else status


def _signal(program: int, alone: bool, number: int) -> None:
    """Signal the program; or all below, and the program's group for where there is no /proc."""
    if not alone:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(program, number)
    for pid in [program] if alone else _descendants():
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _descendants() -> list[int]:
    """List all processes below this one, zombies apart."""
    below: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            state, parent = entry.read_text(errors="replace").rsplit(")", 1)[1].split()[:2]
            if state not in "ZX":
                below.setdefault(int(parent), []).append(int(entry.parent.name))
    found, open_ = [], [os.getpid()]
    while open_:
        children = below.get(open_.pop(), [])
        found += children
        open_ += children
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
