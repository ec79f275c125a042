"""Is a store sound? Every block read, every identity computed anew, every reference followed.

Damage can end the database's own process, so all reading is done by a child process, step by step: a step that
ends it is a finding, and the next child goes on behind it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from perfdb.connection import opened
from perfdb.errors import DamagedStore, OlderSchema
from perfdb.export import described, new_folder

_RUN: Final = "import sys; sys.path[:0] = [sys.argv[1]]; from perfdb.probe import main; main(*sys.argv[2:])"
_LONGEST_TOLD: Final = 300


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a store.

    Parameters
    ----------
    kind : str
        "unreadable" (what cannot be read), "identity" or "hash" (content that is not what its name says),
        "reference" (a row whose other half is not there), "duplicate", "status".
    table : str or None
        Where, None for the file itself.
    message : str
        What is wrong.
    rows : int or None
        How many rows, where that is known.
    """

    kind: str
    table: str | None
    message: str
    rows: int | None = None


@dataclass
class Salvage:
    """What could be saved of a damaged store.

    Parameters
    ----------
    rows, lost : dict
        By table, rows that were saved, and rows that could not be read.
    findings : list of Finding
        Tables of which nothing could be saved, and why.
    """

    rows: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def check(path: Path, wait_s: float = 30.0) -> list[Finding]:
    """Read all of a store and return what is wrong with it, nothing for a sound one.

    Parameters
    ----------
    path : Path
        The store; it is opened for reading only.
    wait_s : float
        How long to wait for another process to let go of it.

    Raises
    ------
    NotAStore, NewerSchema, OlderSchema, StoreBusy
        If the file is no store of this schema, or is held. An older store that is damaged gives findings.

    Notes
    -----
    Not read is the inside of an index over several columns (that of `profiles`), which only a write reads:
    damage there loses no content, and an import of an export puts it right.
    """
    older = None
    try:
        # Where a store is damaged, the steps say.
        with suppress(DamagedStore), opened(path, True, wait_s):
            pass
    except OlderSchema as error:
        older = error
    found = [
        Finding(**answer["finding"]) for answer in _answers(path, wait_s, "check", "") if "finding" in answer
    ]
    if older and not found:
        raise older
    return found


def salvage(path: Path, folder: Path, wait_s: float = 30.0) -> Salvage:
    """Write what can be read of a damaged store into an export, whose manifest says what was lost.

    Parameters
    ----------
    path : Path
        The store; it is opened for reading only.
    folder : Path
        Not there yet, or empty.
    wait_s : float
        How long to wait for another process to let go of the store.

    Raises
    ------
    DamagedStore
        If nothing can be read: not even which tables there are.
    FolderTaken
        If the folder holds anything.
    """
    done = Salvage()
    written: dict[str, dict[str, Any]] = {}
    steps: list[str] = []
    with new_folder(folder) as scratch:
        for answer in _answers(path, wait_s, "salvage", str(scratch)):
            if "finding" in answer:
                found = Finding(**answer["finding"])
                done.findings.append(found)
                if found.table is not None:
                    done.lost[found.table] = found.rows or 0
            steps = answer.get("schema", steps)
            if "saved" in answer:
                written[answer["saved"]] = answer["facts"]
                done.rows[answer["saved"]] = answer["facts"]["rows"]
                if answer["lost"]:
                    done.lost[answer["saved"]] = answer["lost"]
        if not written:
            why = done.findings[0].message if done.findings else "it has no tables"
            raise DamagedStore(
                f"nothing can be saved of {path}: {why}; `aicalib db import EXPORT --db NEW` rebuilds it"
            )
        for table in done.lost.keys() - written.keys():
            for left in (scratch / table, scratch / f"{table}.parquet"):
                left.unlink(missing_ok=True)
        described("parquet", steps, written, lost=done.lost).write(scratch)
    return done


def _answers(path: Path, wait_s: float, task: str, folder: str) -> Iterator[dict[str, Any]]:
    """Let child processes work through the steps of a task; yield what they print."""
    root = str(Path(__file__).resolve().parent.parent)
    after = 0
    while True:
        command = [sys.executable, "-c", _RUN, root, task, str(path), str(wait_s), str(after), folder]
        child = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        step, table, done = after, None, False
        for line in child.stdout.splitlines():
            answer = json.loads(line) if line.endswith("}") else {}
            step, table = answer.get("step", step), answer.get("table", table)
            done = done or "done" in answer
            yield answer
        if done:
            return
        told = (child.stderr.strip().splitlines() or ["it said nothing"])[-1][:_LONGEST_TOLD]
        message = f"reading it ended the process with status {child.returncode}: {told}"
        yield {"finding": {"kind": "unreadable", "table": table, "message": message}}
        if step == after:  # not even the first step was come to
            return
        after = step
