"""One start of an engine while it is measured: kept as a fact, warmed up, and sent one load after the other."""

from __future__ import annotations

import hashlib
import json
import secrets
import shlex
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from aicalib.errors import InvalidValue
from aicalib.measure import results
from aicalib.measure.client import Load, bench_command, client_command, warmups_for
from aicalib.measure.facts import Outcome, Planned, Where
from aicalib.measure.failures import Failure, lasting, why
from aicalib.measure.process import Kept, tail
from aicalib.measure.server import Server, StartFailed, environment, model_of, running, started

DOUBTED: Final = ("lumped_stream", "clock_jumped")
"""Flags of a run that is measured again: its figures are not the engine's."""

MOST_CLOCK_DRIFT_S: Final = 2.0
"""Seconds by which wall clock and monotonic clock may disagree over a run: a time server slews slower than that."""

_LOOK_S: Final = 0.2


def seed_of(occasion: str, number: int) -> int:
    """Return the seed of the prompts of one run: another for each run of each occasion.

    Examples
    --------
    >>> seed_of("20261121T100000Z-1a2b3c", 1) == seed_of("20261121T100000Z-1a2b3c", 2)
    False
    """
    return int.from_bytes(hashlib.sha256(f"{occasion}/{number}".encode()).digest()[:4], "big") >> 1


def new_occasion() -> str:
    """Return a name for what is measured from now on until the engine stops: when it began, and chance."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


class _Ran(NamedTuple):
    """How a client ended: its status (None where it was ended), seconds, and by how much the clocks disagree [s]."""

    status: int | None
    seconds: float
    clock_jump_s: float
    engine_died: bool


@dataclass
class Occasion:
    """One planned start of an engine, or session with one that runs already, while it is measured.

    Attributes are the arguments of `aicalib.measure.session.measure`, for one of its starts.
    """

    planned: Planned
    store: Path
    where: Where
    repeats: int
    retries: int
    num_prompts: Callable[[Load], int]
    tell: Callable[[str], object]

    def __post_init__(self) -> None:
        self.model = model_of(self.planned.start)
        self.occasion = new_occasion()
        self.folder = self.where.folder / self.occasion
        self.log = self.folder / "engine.log"
        self.sent = 0
        self.again: deque[tuple[Load, int]] = deque()

    def outcomes(self) -> Iterator[Outcome]:
        """Start or find the server, and measure each load on it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        line = results.without_secrets(self.planned.start.line())
        (self.folder / "launch.txt").write_text(line + "\n", encoding="utf-8")
        self.tell(f"starting {line}" if self.where.base_url is None else f"asking {self.where.base_url}")
        try:
            with self._serving() as server:
                self.server = server
                yield self._serves()
                yield from self._measured()
        except StartFailed as error:
            yield self._failed("start_failed", error.failure, error.seconds)

    @contextmanager
    def _serving(self) -> Iterator[Server]:
        where, start = self.where, self.planned.start
        if where.base_url is not None:
            server = running(where.base_url)
            _must_be(server, start.engine, self.model)
            yield server
            return

        def waiting(seconds: float) -> None:
            self.tell(
                f"waiting for {start.engine} {start.engine_version} on port {where.port}: {seconds:.0f} s"
            )

        with started(
            start, where.engine_python, where.host, where.port, self.log, where.start_timeout_s, self.model,
            where.grace_s, waiting,
        ) as server:  # fmt: skip
            yield server

    def _keys(self, version: str | None = None) -> dict[str, Any]:
        keys = results.deployment_keys(self.planned.deployment, self.model, version)
        asked = {"engine": self.planned.start.engine, "engine_version": self.planned.start.engine_version}
        return {**asked, **keys}

    def _serves(self) -> Outcome:
        """Keep what the server says of itself."""
        server = self.server
        (self.folder / "server_info.json").write_text(json.dumps(server.info, indent=1), encoding="utf-8")
        self.logged = results.logged(self.log) if self.log.is_file() else {}
        self.keys = self._keys(server.version)
        tokens = server.info.get("max_total_num_tokens") or self.logged.get("max_total_tokens")
        record = {**self.logged, **self.keys, "max_total_tokens": tokens, "outcome": "started"}
        record |= {"occasion": self.occasion, "start_s": server.start_s and round(server.start_s, 2)}
        startup_id = None
        if any(record.get(name) is not None for name in ("max_total_tokens", "kv_gib", "weights_gib")):
            startup_id = results.keep_start(
                self.store, self.folder / f"{self.occasion}-started.jsonl", record
            )
        asked = self.planned.start.engine_version
        other = server.version is not None and server.version != asked
        return Outcome(
            "started", self.planned, self.occasion, server.start_s or 0.0, startup_id=startup_id,
            message=f"the server is {server.version}; asked was {asked}" if other else None, raw=self._engine_log(),
        )  # fmt: skip

    def _engine_log(self) -> Path | None:
        return self.log if self.log.is_file() else None

    def _failed(self, kind: str, failure: Failure, seconds: float, load: Load | None = None) -> Outcome:
        """Keep a start that came to nothing, or ended under a load, as a fact of the deployment."""
        record = {
            **(results.logged(self.log) if self.log.is_file() else {}),
            **self._keys(),
            "outcome": "died" if kind == "died" else "failed",
            "reason": failure.reason,
            "message": failure.message,
            "lasting": lasting(failure.reason),
            "under": None if load is None else load._asdict(),
            "launch": self.planned.start.line(),
            "occasion": self.occasion,
            "after_s": round(seconds, 2),
            "log_tail": tail(self.log, 20),
        }
        startup_id = results.keep_start(self.store, self.folder / f"{self.occasion}-{kind}.jsonl", record)
        return Outcome(
            kind, self.planned, self.occasion, seconds, load, failure.reason, failure.message,
            startup_id=startup_id, raw=self._engine_log(),
        )  # fmt: skip

    def _waiting(self) -> Iterator[tuple[Load, int]]:
        """Yield each load as often as asked, then doubted ones again, with the number of times that is left for it.

        The next load is taken when the one before is stored: whoever plans may choose it by what that measured.
        """
        for _ in range(self.repeats):
            for load in self.planned.levels:
                yield load, self.retries
        while self.again:
            yield self.again.popleft()

    def _measured(self) -> Iterator[Outcome]:
        """Measure each load as often as asked, and doubted ones again."""
        warm = False
        for load, left in self._waiting():
            if not warm and (outcome := self._warm_up(load)) is not None:
                yield outcome
                break
            warm = True
            found = self._run(load)
            if found.kind == "died":
                outcome = found
                break
            yield found
            if found.kind == "run_failed" and not self.server.answers():
                yield self._died(load, found.seconds)
                break
            if left and set(found.flags) & set(DOUBTED):
                self.again.append((load, left - 1))
        if warm:
            results.judge(self.store)

    def _warm_up(self, load: Load) -> Outcome | None:
        """Send the engine one wave of prompts that are in no result; return what went wrong."""
        wave = max(1, load.concurrency or warmups_for(load))
        self.tell(f"warming up with {wave} requests of {load}")
        path = self._path("warm-up", load)
        ran = self._client(load, path, wave, seed_of(self.occasion, 0))
        if ran.engine_died:
            return self._died(load, ran.seconds)
        if ran.status == 0:
            return None
        if not self.server.answers():
            return self._died(load, ran.seconds)
        failure = self._why(ran, path)
        return Outcome(
            "run_failed", self.planned, self.occasion, ran.seconds, load, failure.reason,
            f"the warm-up failed, so that nothing was measured: {failure.message}", raw=_client_log(path),
        )  # fmt: skip

    def _run(self, load: Load) -> Outcome:
        """Run the client once, and keep what it wrote where it is what was asked."""
        self.sent += 1
        prompts, seed = self.num_prompts(load), seed_of(self.occasion, self.sent)
        path = self._path(f"{self.sent:03d}", load)
        self.tell(f"measuring {load}, {prompts} requests")
        # Before the client, so that what it wrote can be taken in even where this process is killed meanwhile.
        results.write_sidecar(path, self._context(load, prompts, seed))
        ran = self._client(load, path, prompts, seed)
        if ran.engine_died:
            return self._died(load, ran.seconds)
        if ran.status != 0:
            failure = self._why(ran, path)
            return self._refused(load, ran, failure.reason, failure.message, path)
        try:
            run = results.checked(path, load, prompts, self.model)
        except results.ResultRefused as error:
            return self._refused(load, ran, error.reason, str(error), path)
        jumped = abs(ran.clock_jump_s) > MOST_CLOCK_DRIFT_S
        doubt = (
            {"clock_jumped": f"the wall clock moved by {ran.clock_jump_s:+.1f} s during the run"}
            if jumped
            else {}
        )
        flags = results.keep(self.store, path, run["run_id"], doubt)
        lost = prompts - int(run["completed"] or prompts)
        return Outcome(
            "run", self.planned, self.occasion, ran.seconds, load, run_ids=(run["run_id"],), raw=path,
            message=f"{lost} of {prompts} requests failed" if lost else None,
            flags=flags,
            figures={name: float(run[name]) for name in results.FIGURES if run.get(name) is not None},
        )  # fmt: skip

    def _path(self, name: str, load: Load) -> Path:
        suffix = "json" if (self.where.client or self.planned.start.engine) == "vllm" else "jsonl"
        held = f"c{load.concurrency}" if load.concurrency is not None else f"r{load.request_rate:g}"
        return self.folder / f"{self.occasion}-{name}-isl{load.isl}-osl{load.osl}-{held}.{suffix}"

    def _client(self, load: Load, path: Path, prompts: int, seed: int) -> _Ran:
        """Run the client until it ends, its time is up, or the engine has died."""
        where, start, server = self.where, self.planned.start, self.server
        version, model = server.version or start.engine_version, self.model or str(server.model)
        named = None if server.served_name == self.model else server.served_name
        argv = bench_command(
            start.engine, version, server.url, model, load, seed, prompts, path.resolve(), served_name=named,
            warmups=0 if self._prefix_cache() is not False else None, tag=path.stem, client=where.client,
            client_version=where.client_version,
        )  # fmt: skip
        command = client_command(argv, where.python_of_client)
        host = server.url.split("//", 1)[1].rsplit(":", 1)[0].strip("[]")
        _client_log(path).write_text(shlex.join(argv) + "\n", encoding="utf-8")
        wall, begun = time.time(), time.monotonic()
        died, status = False, None
        with Kept(command, environment({}, host, self.model), _client_log(path), grace_s=2.0) as client:
            while (seconds := time.monotonic() - begun) < where.run_timeout_s:
                status = client.wait(_LOOK_S)
                died = server.process is not None and server.process.status is not None
                if status is not None or died:
                    break
                self.tell(f"measuring {load}, {prompts} requests: {seconds:.0f} s")
        seconds = time.monotonic() - begun
        return _Ran(status, seconds, time.time() - wall - seconds, died)

    def _why(self, ran: _Ran, path: Path) -> Failure:
        return why(ran.status, tail(_client_log(path), 400), self.where.run_timeout_s)

    def _died(self, load: Load, seconds: float) -> Outcome:
        """Say what became of a server that no longer serves."""
        process = self.server.process
        if process is None:
            return Outcome(
                "run_failed", self.planned, self.occasion, seconds, load, "server_gone",
                f"{self.server.url} no longer answers; it is not ours to start again",
            )  # fmt: skip
        if (
            process.wait(self.where.grace_s) is None
        ):  # what it leaves behind is ended before it counts as ended
            failure = Failure("hung", f"{self.server.url}/health gives no answer any more")
        else:
            failure = why(process.status, tail(self.log, 400))
        return self._failed("died", failure, seconds, load)

    def _refused(self, load: Load, ran: _Ran, reason: str, message: str, path: Path) -> Outcome:
        return Outcome(
            "run_failed",
            self.planned,
            self.occasion,
            ran.seconds,
            load,
            reason,
            message,
            raw=_client_log(path),
        )

    def _prefix_cache(self) -> bool | None:
        """Tell whether the server caches prefixes; None where nothing says it."""
        off = self.server.info.get("disable_radix_cache")
        if isinstance(off, bool):
            return not off
        words = self.planned.start.argv
        if "--disable-radix-cache" in words or "--no-enable-prefix-caching" in words:
            return False
        logged = self.logged.get("prefix_cache")
        return True if "--enable-prefix-caching" in words else logged if isinstance(logged, bool) else None

    def _context(self, load: Load, prompts: int, seed: int) -> dict[str, Any]:
        """Return all that a result file lacks of its run."""
        isl, osl = load.longest
        keys = {**self.keys, "isl": isl, "osl": osl, "range_ratio": load.range_ratio, "num_prompts": prompts}
        if self.planned.start.engine == "vllm":
            keys |= results.settings_logged(self.logged)
        cached = self._prefix_cache()
        keys |= {} if cached is None else {"prefix_cache": cached}
        keys |= {"occasion": self.occasion, "seed": seed, "warmed_up": True}
        return keys


def _client_log(path: Path) -> Path:
    return path.with_suffix(".log")


def _must_be(server: Server, engine: str, model: str | None) -> None:
    """Check that a running server is the one that is asked about.

    Raises
    ------
    InvalidValue
    """
    if server.engine != engine:
        raise InvalidValue(f"{server.url} is {server.engine}, not {engine}", [f"--engine {server.engine}"])
    if model is not None and server.model is not None and not results.same_model(server.model, model):
        raise InvalidValue(f"{server.url} serves {server.model}, not {model}", [f"--model {server.model}"])
