"""An engine from its launch line to its end: started, waited for, asked what it is, and always stopped."""

from __future__ import annotations

import errno
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from aicalib.engines.launch import Launch
from aicalib.errors import AicalibError, InvalidValue, NotCovered
from aicalib.measure import keeper
from aicalib.measure.failures import Failure, why
from aicalib.measure.http import document, status_of
from aicalib.measure.process import GRACE_S, Kept, tail

PROGRAMS: Final = {
    "sglang": (["sglang.launch_server"],),
    "vllm": (["vllm.entrypoints.openai.api_server"],),
}
"""What `python -m` starts for each engine that is measured; vLLM's launch line is `vllm serve`."""

_ALSO_READY: Final = {"sglang": "/health_generate", "vllm": "/v1/models"}
"""Answers when a first request can be served, where a version has it: `/health` alone may come before."""

_POLL_S: Final = 0.1
_LONGEST_POLL_S: Final = 1.0


class StartFailed(AicalibError):
    """An engine did not come up.

    Parameters
    ----------
    failure : Failure
    seconds : float
        From the start to the failure.
    """

    def __init__(self, failure: Failure, seconds: float) -> None:
        super().__init__(f"{failure.reason}: {failure.message}")
        self.failure = failure
        self.seconds = seconds


@dataclass(frozen=True)
class Server:
    """A server that answers.

    Attributes
    ----------
    engine : str
    url : str
        Without a slash at the end.
    info : mapping
        What it says of itself: SGLang's `/server_info`; vLLM's `version` and its first model.
    start_s : float or None
        Seconds from start to readiness; None where it ran before.
    process : Kept or None
        None where it is not ours.
    """

    engine: str
    url: str
    info: Mapping[str, Any] = field(default_factory=dict)
    start_s: float | None = None
    process: Kept | None = None

    @property
    def version(self) -> str | None:
        """Version that the server states."""
        stated = self.info.get("version")
        return str(stated) if stated else None

    @property
    def model(self) -> str | None:
        """What the server says that it loaded."""
        stated = self.info.get("model_path")
        return str(stated) if stated else None

    @property
    def served_name(self) -> str | None:
        """Name that requests must give."""
        stated = self.info.get("served_model_name")
        return str(stated) if stated else None

    def answers(self) -> bool:
        """Tell whether it still serves."""
        gone = self.process is not None and self.process.status is not None
        return not gone and status_of(f"{self.url}/health", timeout_s=20.0) == 200


def command_of(launch: Launch, python: str, host: str, port: int) -> list[str]:
    """Return a launch line as it is started: by a Python, on an address.

    Raises
    ------
    NotCovered
        For an engine, or instances apart for prefill, that are not started here.
    InvalidValue
        For a line that is not the engine's.
    """
    if launch.files:
        raise NotCovered(f"a start that needs {', '.join(launch.files)} beside it is not measured here")
    program, rest = _program(launch)
    return [python, "-m", *program, *_without(rest, "--host", "--port"), "--host", host, "--port", str(port)]


def _program(launch: Launch) -> tuple[list[str], list[str]]:
    """Return what `python -m` starts, and the arguments behind it."""
    if launch.engine not in PROGRAMS:
        raise NotCovered(f"{launch.engine} is not started here", list(PROGRAMS))
    words = list(launch.argv)
    if launch.engine == "vllm" and words[:2] == ["vllm", "serve"]:
        return ["vllm.entrypoints.cli.main", "serve"], words[2:]
    if (
        Path(words[0]).name.startswith("python")
        and words[1:2] == ["-m"]
        and words[2:3] in PROGRAMS[launch.engine]
    ):
        return words[2:3], words[3:]
    raise InvalidValue(
        f"'{' '.join(words[:3])}' starts no server of {launch.engine}",
        ["python -m sglang.launch_server" if launch.engine == "sglang" else "vllm serve"],
    )


def model_of(launch: Launch) -> str | None:
    """Return what a launch line tells the engine to load."""
    _, rest = _program(launch)
    for place, word in enumerate(rest):
        flag, _, value = word.partition("=")
        if flag in ("--model-path", "--model"):
            return value or (rest[place + 1] if place + 1 < len(rest) else None)
    return rest[0] if launch.engine == "vllm" and rest and not rest[0].startswith("-") else None


def _without(words: list[str], *flags: str) -> list[str]:
    """Leave out flags that take one value, in both spellings."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in flags:
            skip = True
        elif word.split("=", 1)[0] not in flags:
            kept.append(word)
    return kept


def environment(extra: Mapping[str, str], host: str, model: str | None = None) -> dict[str, str]:
    """Return the environment of an engine or a client: the user's own, past proxies, nothing sent elsewhere.

    Parameters
    ----------
    extra : mapping
        Of the launch line; it wins.
    host : str
        Spoken to without a proxy.
    model : str, optional
        Where it is a folder, nothing has to come from the hub.
    """
    env = dict(os.environ)
    direct = [env[name] for name in ("no_proxy", "NO_PROXY") if env.get(name)]
    env["no_proxy"] = env["NO_PROXY"] = ",".join(dict.fromkeys([*direct, host, "127.0.0.1", "localhost"]))
    for name in ("VLLM_NO_USAGE_STATS", "DO_NOT_TRACK"):
        env.setdefault(name, "1")
    if model is not None and Path(model).exists():
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            env.setdefault(name, "1")
    return env | dict(extra)


@contextmanager
def started(
    launch: Launch,
    python: str,
    host: str,
    port: int,
    log: Path,
    limit_s: float,
    model: str | None = None,
    grace_s: float = GRACE_S,
    waiting: Callable[[float], object] | None = None,
) -> Iterator[Server]:
    """Start an engine, yield it once it answers, and stop it and its children however the block ends.

    Parameters
    ----------
    launch : Launch
    python : str
        Of the engine's own environment.
    host, port
        The one address that it listens on.
    log : Path
    limit_s : float
        Seconds until it must answer.
    model : str, optional
        Folder of the model, where it is one.
    grace_s : float
        Seconds to end by itself.
    waiting : callable, optional
        Called with the seconds waited so far.

    Raises
    ------
    InvalidValue
        If the port is taken; nothing was started then.
    StartFailed
    """
    argv = command_of(launch, python, host, port)
    must_be_free(host, port)
    url = base_url(host, port)
    log.write_text("")
    begun = time.monotonic()
    with Kept(argv, environment(launch.env, host, model), log, grace_s=grace_s) as process:
        pause = _POLL_S
        while not _ready(url, launch.engine):
            waited = time.monotonic() - begun
            if process.status is not None:
                raise StartFailed(why(process.status, tail(log, 400)), waited)
            if waited > limit_s:
                raise StartFailed(why(None, "", limit_s), waited)
            if waiting is not None:
                waiting(waited)
            process.wait(pause)
            pause = min(1.5 * pause, _LONGEST_POLL_S)
        seconds = time.monotonic() - begun
        yield Server(launch.engine, url, info_of(url, launch.engine), seconds, process)


def address(url: str) -> str:
    """Return the address of a server without a slash at the end.

    Raises
    ------
    InvalidValue
        For what is no address that HTTP is spoken at.
    """
    found = urlsplit(url.strip().rstrip("/"))
    if found.scheme in ("http", "https") and found.hostname:
        return found.geturl()
    raise InvalidValue(
        f"--base-url '{url}' is no address of a server",
        [f"--base-url http://{'HOST:PORT' if '//' in url or not url else url}"],
    )


def running(url: str) -> Server:
    """Return a server that runs already, known by what it answers.

    Raises
    ------
    InvalidValue
        Where nothing answers, or what answers is neither SGLang nor vLLM.
    """
    url = address(url)
    if status_of(f"{url}/health") != 200:
        raise InvalidValue(f"nothing healthy answers at {url}/health", ["--base-url http://HOST:PORT"])
    for engine in PROGRAMS:
        if info := info_of(url, engine):
            return Server(engine, url, info)
    raise InvalidValue(f"{url} answers, but neither as SGLang (/server_info) nor as vLLM (/version)")


def info_of(url: str, engine: str) -> dict[str, Any]:
    """Return what a server says of itself, under SGLang's names; empty where it is not that engine."""
    if engine == "sglang":
        for path in ("/server_info", "/get_server_info"):
            found = document(url + path)
            if isinstance(found, dict) and "model_path" in found:
                return found
        return {}
    version = document(f"{url}/version")
    if not isinstance(version, dict) or "version" not in version:
        return {}
    served = document(f"{url}/v1/models")
    models = served.get("data") if isinstance(served, dict) else None
    first = models[0] if isinstance(models, list) and models and isinstance(models[0], dict) else {}
    named = {"model_path": first.get("root") or first.get("id"), "served_model_name": first.get("id")}
    return {**version, **named, "max_model_len": first.get("max_model_len")}


def base_url(host: str, port: int) -> str:
    """Return the address of a server; one that listens everywhere is spoken to here."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{here}]:{port}" if ":" in here else f"http://{here}:{port}"


def _ready(url: str, engine: str) -> bool:
    if status_of(f"{url}/health") != 200:
        return False
    return status_of(url + _ALSO_READY[engine], timeout_s=60.0) in (200, 404)


def must_be_free(host: str, port: int) -> None:
    """Check that nothing listens on a port; an engine that a keeper is ending gets the time that it has for that.

    Raises
    ------
    InvalidValue
        With the process that does, where that can be seen.
    """
    end = time.monotonic() + GRACE_S
    while (error := _bind(host, port)) is not None:
        if error.errno != errno.EADDRINUSE:
            raise InvalidValue(f"cannot listen on {host} port {port}: {error.strerror}") from error
        holder = _listener(port)
        if holder is None or not _is_kept(holder[0]) or time.monotonic() > end:
            by = f" by process {holder[0]} ({holder[1]})" if holder else ""
            raise InvalidValue(
                f"port {port} of {host} is taken{by}; nothing was started",
                [f"--port {port + 1}", f"--base-url {base_url(host, port)}"],
            ) from error
        time.sleep(_POLL_S)


def _bind(host: str, port: int) -> OSError | None:
    """Return why a port cannot be listened on, None where it can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            return error
    return None


def _is_kept(pid: int) -> bool:
    """Tell whether a process stands below a keeper: whoever was killed with SIGKILL leaves an engine that is ending."""
    while pid > 1:
        try:
            if keeper.__file__.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                return True
            pid = int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rsplit(")", 1)[1].split()[1])
        except OSError:
            return False
    return False


def _listener(port: int) -> tuple[int, str] | None:
    """Return process number and command of who listens on a port, where /proc shows it."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == "0A" and int(words[1].rsplit(":", 1)[1], 16) == port:
                    inodes.add(f"socket:[{words[9]}]")
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if os.readlink(entry) in inodes:
                pid = int(entry.parts[2])
                command = (
                    Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
                return pid, re.sub(r"\s+", " ", command).strip()[:120]
    return None
