"""A real engine's CPU build in an environment of its own: `python -m checks.real_engine.install --engine sglang`.

Prints the environment's python. Options for pip, a mirror or a folder with a CPU build of torch for example, are taken
from the environment variable PIP_ARGS.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

CACHE = Path.home() / ".cache" / "aicalib" / "engines"
"""Where environments lie unless told otherwise."""

READY = "ready.sha256"
"""File in a finished environment: the digest of what it was made from."""

CUDA_WORDS = ("nvidia", "cuda", "triton", "pytorch-triton")
"""Beginnings of what a CUDA build of torch requires; the CPU build requires none of them."""


class NoPackages(Exception):
    """Packages that could not be had: no network, no mirror, or no CPU build of torch."""


def recipe(engine: str) -> dict[str, Any]:
    """Return the table of an engine in `engines.toml`."""
    tables = tomllib.loads((HERE / "engines.toml").read_text(encoding="utf-8"))
    table: dict[str, Any] = tables[engine]
    return table


def install(engine: str, cache: Path) -> Path:
    """Return the python of an environment in which the engine runs on a CPU, making it where it is not there.

    Parameters
    ----------
    engine : str
        A table of `engines.toml`.
    cache : Path
        Folder of the environments; 3.5 GB each.

    Raises
    ------
    NoPackages
        If a package cannot be had, or torch only as a CUDA build.
    """
    wanted = recipe(engine)
    home = cache / f"{engine}-{wanted['version']}-cpu"
    python = home / "bin" / "python"
    stand_ins = (HERE / "stand_ins.py").read_text(encoding="utf-8")
    digest = hashlib.sha256((json.dumps(wanted, sort_keys=True) + stand_ins).encode()).hexdigest()
    ready = home / READY
    if ready.exists() and ready.read_text(encoding="utf-8") == digest:
        return python
    say(f"installing {engine} {wanted['version']} for a CPU into {home}")
    subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
    torch = f"torch=={wanted['torch']}"
    refuse_cuda(python, torch)
    pip(python, torch)
    if wanted["alone"]:
        pip(python, "--no-deps", *wanted["alone"])
    # Held there by a constraint, so that no package brings another torch.
    constraint = home / "constraints.txt"
    constraint.write_text(torch + "\n", encoding="utf-8")
    pip(python, "--constraint", str(constraint), *wanted["packages"])
    if wanted["remove"]:
        run(python, "-m", "pip", "uninstall", "--quiet", "--yes", *wanted["remove"])
    run(
        python,
        HERE / "stand_ins.py",
        *(f"{name}=={version}" for name, version in wanted["stand_ins"].items()),
    )
    write_distributions(python, wanted.get("distribution", {}))
    build = run(python, "-c", f"import torch, {wanted['imports']}; print(torch.version.cuda)").split()[-1]
    if build != "None":
        raise NoPackages(f"{torch} came as a build for CUDA {build}")
    ready.write_text(digest, encoding="utf-8")
    return python


def refuse_cuda(python: Path, torch: str) -> None:
    """Look at the torch that pip would take before anything is installed.

    Raises
    ------
    NoPackages
        If it is none, or a CUDA build.
    """
    report = json.loads(
        pip(python, "--dry-run", "--no-deps", "--ignore-installed", "--report", "-", torch, quiet=True)
    )
    found = report["install"][0]["metadata"]
    cuda = [each for each in found.get("requires_dist", []) if each.lower().startswith(CUDA_WORDS)]
    if cuda:
        raise NoPackages(
            f"{torch} comes as a CUDA build (it requires {cuda[0].split(';')[0].strip()}); name a source of the CPU "
            "build: make test-engine PIP_ARGS='--find-links FOLDER' or PIP_ARGS='--extra-index-url URL'"
        )


def write_distributions(python: Path, names: Mapping[str, str]) -> None:
    """Name a distribution under which the engine looks for itself, where its package is called otherwise."""
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip())
    for name, version in names.items():
        folder = site / f"{name}-{version.partition('+')[0]}.dist-info"
        folder.mkdir(exist_ok=True)
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (folder / "METADATA").write_text(metadata, encoding="utf-8")


def pip(python: Path, *args: str, quiet: bool = True) -> str:
    """Install packages, with the options of PIP_ARGS."""
    options = ["--quiet"] if quiet else []
    return run(
        python,
        *("-m", "pip", "install", "--disable-pip-version-check", "--no-cache-dir", *options),
        *args,
        *shlex.split(os.environ.get("PIP_ARGS", "")),
    )


def run(python: Path, *args: str | Path) -> str:
    """Run the environment's python, and return what it printed.

    Raises
    ------
    NoPackages
        If it fails, with the last line that it wrote.
    """
    done = subprocess.run([python, *args], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]
        raise NoPackages(f"{shlex.join(map(str, args[:4]))} ...: {last}")
    return done.stdout


def say(text: str) -> None:
    """Print progress; stdout is for the answer."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Install one engine, print its python; 2 where its packages cannot be had."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=("sglang", "vllm"), default="sglang")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of the environments")
    chosen = parser.parse_args()
    try:
        print(install(chosen.engine, chosen.cache))
    except NoPackages as reason:
        say(f"{chosen.engine} could not be installed: {reason}")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
