"""Options of the commands that measure: where the engine and its client are, and how long they may take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MachineGpu = Annotated[
    str | None,
    typer.Option(help="Accelerator that this machine has, or a .toml file of it. Default: the task's."),
]
EnginePython = Annotated[str, typer.Option(help="Python of the environment that holds the engine.")]
ClientPython = Annotated[
    str | None, typer.Option(help="Python that holds the benchmark client. Default: the engine's.")
]
Client = Annotated[
    str | None, typer.Option(help="Another engine's client: sglang or vllm. Default: the engine's own.")
]
ClientVersion = Annotated[str | None, typer.Option(help="Of that client. Default: the newest known.")]
Host = Annotated[str, typer.Option(help="The one address that the engine listens on.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="The port of it.")]
BaseUrl = Annotated[
    str | None, typer.Option(help="A server that runs already: measured, never started or stopped.")
]
NumPrompts = Annotated[
    int | None, typer.Option(min=1, help="Requests of each run. Default: 10 x concurrency.")
]
StartTimeout = Annotated[float, typer.Option(min=1, help="Seconds until the engine must answer.")]
RunTimeout = Annotated[float, typer.Option(min=1, help="Seconds until a client must be done.")]

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 30000
DEFAULT_TIMEOUT_S = 1800.0


def loop_folder(store: Path, task: str) -> Path:
    """Return where a loop keeps its journal and raw results if nothing else is said: beside the store."""
    name = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in task).strip(".-")
    return store.with_name(f"{store.stem}.loop") / (name or "task")
