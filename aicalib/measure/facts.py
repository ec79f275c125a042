"""What is to be measured, where, and what was found out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aicalib.engines.launch import Launch
from aicalib.measure.client import Load
from aicalib.measure.process import GRACE_S


@dataclass(frozen=True)
class Planned:
    """A start of an engine and what is to be measured on it.

    Attributes
    ----------
    start : Launch
    levels : iterable of Load
        Each is taken when the one before is stored, so that a generator may choose it by what was measured.
    deployment : mapping
        What is deployed, as predictions name it (`Deployment.as_dict`) or in the keys of a run. `gpu` is a name of the
        catalogue, or the path of the user's own accelerator file.
    """

    start: Launch
    levels: Iterable[Load]
    deployment: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Where:
    """Where and how to measure.

    Attributes
    ----------
    folder : Path
        Raw results, sidecars and logs, a folder an occasion.
    engine_python, client_python : str
        Pythons of the environments that hold the engine, and its client.
    host, port
        The one address that the engine listens on, and is spoken to.
    base_url : str, optional
        A server that runs already: measured, never started or stopped.
    start_timeout_s, run_timeout_s : float
        Seconds until an engine must answer, and until a client must be done.
    grace_s : float
        Seconds that an engine has to end by itself.
    client, client_version : str, optional
        Another engine's client than the engine's own.
    """

    folder: Path
    engine_python: str = "python"
    client_python: str | None = None
    host: str = "127.0.0.1"
    port: int = 30000
    base_url: str | None = None
    start_timeout_s: float = 1800.0
    run_timeout_s: float = 1800.0
    grace_s: float = GRACE_S
    client: str | None = None
    client_version: str | None = None

    @property
    def python_of_client(self) -> str:
        """Python that runs the client: the engine's, where it has none of its own."""
        return self.client_python or self.engine_python


@dataclass(frozen=True)
class Outcome:
    """One thing that was found out.

    Attributes
    ----------
    kind : str
        "started": an engine serves, and what it said of memory is stored; "run": a load was measured and is stored;
        "start_failed", "died": an engine did not come up, or ended while it served, stored as a start that failed;
        "run_failed": a client came to nothing, and nothing of it is stored.
    planned : Planned
    load : Load or None
    reason : str or None
        One word where something failed, see `failures.toml` and `results.ResultRefused`.
    message : str or None
        In words, of a failure or of what is to be noted.
    occasion : str
        Of the engine's start, or of the session with a server that ran already.
    run_ids : tuple of str
    startup_id : str or None
    seconds : float
        By the monotonic clock.
    raw : Path or None
        What the client wrote, or the log of the engine.
    flags : tuple of str
        Doubts about the run.
    figures : mapping of str to float
        What was measured, of `results.FIGURES`.
    """

    kind: str
    planned: Planned
    occasion: str
    seconds: float
    load: Load | None = None
    reason: str | None = None
    message: str | None = None
    run_ids: tuple[str, ...] = ()
    startup_id: str | None = None
    raw: Path | None = None
    flags: tuple[str, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "kind": self.kind,
            "reason": self.reason,
            "message": self.message,
            "occasion": self.occasion,
            "load": None if self.load is None else self.load._asdict(),
            "run_ids": list(self.run_ids),
            "startup_id": self.startup_id,
            "seconds": round(self.seconds, 3),
            "raw": None if self.raw is None else str(self.raw),
            "flags": list(self.flags),
            "measured": dict(self.figures),
            "deployment": {name: each for name, each in self.planned.deployment.items() if name != "notes"},
            "launch": list(self.planned.start.argv),
        }
