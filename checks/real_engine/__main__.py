"""The loop against a real engine on this machine's processor: `python -m checks.real_engine`, or `make test-engine`.

Installs the engine outside of the project, makes a small model, probes the machine, holds the KV pool at two memory
fractions to what is predicted, and runs the loop with a kill on the way. What is asserted is stable on a noisy machine.
Status 0: all is well, or it was skipped since no packages can be had; 1: something is not.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from aicalib.measure.facts import Where
from checks.real_engine.install import CACHE, NoPackages, install, recipe, say
from checks.real_engine.loop import command, errors, faults, loop, task
from checks.real_engine.model import SIZES, write_model
from checks.real_engine.pool import MOST_ERROR, Pool, pools, typical

FRACTIONS = {"sglang": (0.1, 0.25), "vllm": (0.2, 0.3)}
"""Two memory fractions of each engine, small ones: a laptop's memory is not the check's alone."""


def free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def check(engine: str, python: Path, folder: Path) -> list[str]:
    """Run everything in a folder; return what is not as it must be."""
    version = recipe(engine)["version"]
    model = write_model(folder / "small", SIZES["small"])
    machine = folder / "machine.toml"
    probed = [sys.executable, "-m", "aicalib.cli.main", "probe", "--output", str(machine)]
    say(subprocess.run(probed, check=True, capture_output=True, text=True).stdout)
    port = free_port()
    problems = []
    options = {
        "model": str(model), "engine": engine, "engine_version": version, "context_len": 1024,
        "disable_radix_cache": True, "host": "127.0.0.1", "port": port,
    }  # fmt: skip
    where = Where(folder / "pool", str(python), port=port)
    found: list[Pool] = []
    for each in pools(options, machine, FRACTIONS[engine], folder / "pool.duckdb", where):
        found.append(each)
        say(
            f"fraction {each.fraction:g}: {each.predicted:.0f} tokens predicted, {each.logged:.0f} logged, "
            f"{each.error:+.1%}"
        )
    for fraction in FRACTIONS[engine]:
        error = typical(each for each in found if each.fraction == fraction)
        if abs(error) > MOST_ERROR:
            problems.append(f"the pool at fraction {fraction:g} is {error:+.1%} off in the median")
    path = folder / "task.json"
    path.write_text(json.dumps(task(model, machine, engine, version), indent=1), encoding="utf-8")
    store, state = folder / "loop.duckdb", folder / "loop"
    looped = loop(command(path, store, state, python, port), store, state, folder / "loop.log")
    first, last = errors(looped)
    say(
        f"{looped.report['runs']} runs, {len(looped.before_kill)} of them before the kill; median error on the last "
        f"third of points: {first:.1%} as the loop began, {last:.1%} before each was measured"
    )
    return [*problems, *faults(looped, engine)]


def main() -> int:
    """Install, check, say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=("sglang", "vllm"), default="sglang")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of the engines' environments")
    parser.add_argument(
        "--folder", type=Path, help="keep models, stores and logs here; without it nothing is kept"
    )
    chosen = parser.parse_args()
    begun = time.monotonic()
    try:
        python = install(chosen.engine, chosen.cache)
    except NoPackages as reason:
        say(f"skipped: {chosen.engine} could not be installed: {reason}")
        return 0
    if chosen.folder is not None:
        chosen.folder.mkdir(parents=True, exist_ok=True)
        problems = check(chosen.engine, python, chosen.folder.resolve())
    else:
        with TemporaryDirectory(prefix="aicalib-engine-") as folder:
            problems = check(chosen.engine, python, Path(folder))
    for problem in problems:
        say(f"  {problem}")
    minutes = (time.monotonic() - begun) / 60.0
    say(f"{chosen.engine}: {len(problems)} problems, {minutes:.1f} minutes")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
