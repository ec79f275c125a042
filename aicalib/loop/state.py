"""The journal of a loop: what was asked and what came of it, so that a loop goes on after a kill as if nothing was.

The state of a loop is the store plus this journal, JSON lines that are only ever appended to and are on the disk before
the loop goes on. A run is journaled before it is measured, and again when it is stored: after a kill at most one
stands there without an answer, and the store says whether it was measured.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from aicalib.errors import InvalidValue

NAME: Final = "journal.jsonl"
FORMAT: Final = 1

TASK, ASKED, CAME = "task", "asked", "came"


class JournalBroken(InvalidValue):
    """A journal that no loop wrote, or that was altered since."""

    kind = "journal_broken"


@dataclass(frozen=True)
class Asked:
    """One run that the loop asked for.

    Attributes
    ----------
    number : int
        From 1, in order.
    key : str
        Of the candidate run, as `aicalib.loop.next` names it.
    repeat : bool
        Whether the point was measured before, and is measured again at another occasion.
    facts : mapping
        What else was journaled: `point`, `launch`, `load`, `predicted`, ....
    """

    number: int
    key: str
    repeat: bool
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Came:
    """What came of it.

    Attributes
    ----------
    number : int
        Of the ask.
    kind : str
        "measured", or how it failed: "start_failed", "client_failed".
    run_ids : tuple of str
        Stored runs, empty after a failure.
    facts : mapping
        What else was journaled: `measured`, `flags`, `reason`, ....
    """

    number: int
    kind: str
    run_ids: tuple[str, ...]
    facts: Mapping[str, Any]

    @property
    def failed(self) -> bool:
        """Whether nothing was measured."""
        return self.kind != "measured"


@dataclass
class State:
    """A journal read: everything that was asked, what came, and the time it took.

    Attributes
    ----------
    task : mapping or None
        What the journal belongs to, None of an empty one.
    asked : list of Asked
    came : dict of int to Came
        By number of the ask.
    spent_s : float
        Time that loops of this journal ran, the last ones' included [s].
    before : int
        Number of asks before this session: who starts a loop again may have mended what failed.
    """

    task: Mapping[str, Any] | None = None
    asked: list[Asked] = field(default_factory=list)
    came: dict[int, Came] = field(default_factory=dict)
    spent_s: float = 0.0
    before: int = 0

    @property
    def pending(self) -> list[Asked]:
        """What was asked and never answered: after a kill, the last."""
        return [each for each in self.asked if each.number not in self.came]

    @property
    def runs(self) -> int:
        """Number of runs that were measured."""
        return sum(not each.failed for each in self.came.values())

    @property
    def failures(self) -> int:
        """Number of asks of which nothing was measured."""
        return sum(each.failed for each in self.came.values())

    @property
    def failed_in_a_row(self) -> int:
        """Number of failures of this session since the last measured run."""
        count = 0
        for number in sorted(self.came, reverse=True):
            if number <= self.before or not self.came[number].failed:
                break
            count += 1
        return count

    def take(self, entry: Mapping[str, Any]) -> None:
        """Take one entry of a journal in.

        Raises
        ------
        KeyError, TypeError, ValueError
            If it is none.
        """
        facts = dict(entry)
        kind = facts.pop("entry")
        facts.pop("at", None)
        self.spent_s += max(0.0, float(facts.pop("seconds", 0.0)))
        if kind == TASK:
            if facts.pop("format") != FORMAT:
                raise ValueError(f"format {entry['format']}, this version reads {FORMAT}")
            self.task = facts
        elif kind == ASKED:
            number, key, repeat = (facts.pop(name) for name in ("number", "key", "repeat"))
            if number != len(self.asked) + 1:
                raise ValueError(f"ask {number} after {len(self.asked)}")
            self.asked.append(Asked(int(number), str(key), bool(repeat), facts))
        elif kind == CAME:
            number, came, run_ids = facts.pop("number"), facts.pop("kind"), facts.pop("run_ids")
            if not 1 <= number <= len(self.asked) or number in self.came:
                raise ValueError(f"an answer to ask {number}, which was not asked or has one")
            self.came[number] = Came(int(number), str(came), tuple(run_ids), facts)
        elif kind == "session":
            self.before = len(self.asked)
        else:
            raise ValueError(f"unknown entry '{kind}'")


class Journal:
    """A journal, open for one loop at a time.

    Parameters
    ----------
    folder : Path
        Made where it is not there; the journal is its `journal.jsonl`.
    task : mapping
        What the loop is about: `name`, and everything that its runs depend on.
    clock : callable
        Seconds that never go backwards.

    Raises
    ------
    InvalidValue
        If the journal belongs to another task, or another loop holds it.
    JournalBroken
        If a line before the last is none of a journal; a half-written last line is what a kill leaves, and is cut off.
    """

    def __init__(
        self, folder: Path, task: Mapping[str, Any], clock: Callable[[], float] = time.monotonic
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.path = folder, folder / NAME
        self._clock = clock
        self._file: IO[bytes] = self.path.open("a+b")
        try:
            _lock(self._file, self.path)
            self.state = _read(self._file, self.path)
            self._last_s = clock()
            if self.state.task is None:
                self._write({"entry": TASK, "format": FORMAT, **_named(task)})
            else:
                _must_be(task, self.state.task, self.path)
                self._write({"entry": "session"})
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the journal."""
        self._file.close()

    @property
    def spent_s(self) -> float:
        """Time that loops of this journal ran, up to now [s]."""
        return self.state.spent_s + max(0.0, self._clock() - self._last_s)

    def ask(self, key: str, repeat: bool, **facts: Any) -> Asked:
        """Journal a run before it is measured."""
        number = len(self.state.asked) + 1
        self._write({"entry": ASKED, "number": number, "key": key, "repeat": repeat, **facts})
        return self.state.asked[-1]

    def answer(self, asked: Asked, kind: str, run_ids: tuple[str, ...] = (), **facts: Any) -> Came:
        """Journal what came of it."""
        self._write({"entry": CAME, "number": asked.number, "kind": kind, "run_ids": list(run_ids), **facts})
        return self.state.came[asked.number]

    def _write(self, entry: Mapping[str, Any]) -> None:
        """Append one line, on the disk when this returns."""
        now = self._clock()
        stamped = {
            **entry,
            "seconds": round(max(0.0, now - self._last_s), 3),
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        line = json.dumps(stamped, ensure_ascii=False, allow_nan=False, default=str)
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._last_s = now
        self.state.take(json.loads(line))


def _lock(file: IO[bytes], path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise InvalidValue(f"another loop is writing {path}", ["--state OTHER"]) from error


def _read(file: IO[bytes], path: Path) -> State:
    """Read a journal; cut off a last line that is not whole, so that the next one does not join it."""
    state = State()
    file.seek(0)
    lines = file.read().splitlines(keepends=True)
    whole = 0
    for number, line in enumerate(lines, 1):
        try:
            state.take(json.loads(line))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if number == len(lines) and not line.endswith(b"\n"):
                break
            raise JournalBroken(
                f"{path} line {number} is none of a loop's journal: {error}", ["--state OTHER"]
            ) from error
        if not line.endswith(b"\n"):
            break  # whole but for its end: as good as not written, for nothing was done after it
        whole += len(line)
    else:
        return state
    file.truncate(whole)
    again = State()
    for line in lines[:-1]:
        again.take(json.loads(line))
    return again


def _hash(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _named(task: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": task["name"], "identity": _hash(task), "about": dict(task)}


def _must_be(task: Mapping[str, Any], journaled: Mapping[str, Any], path: Path) -> None:
    """Check that a journal belongs to a task.

    Raises
    ------
    InvalidValue
        With what differs.
    """
    wanted = _named(task)
    if wanted["identity"] == journaled["identity"]:
        return
    before, now = journaled["about"], json.loads(json.dumps(wanted["about"], default=str))
    differs = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    raise InvalidValue(
        f"{path} belongs to task '{journaled['name']}' and differs from '{task['name']}' in {', '.join(differs)}",
        ["--state OTHER", "the task as it was"],
    )
