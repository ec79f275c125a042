"""The Python source of an engine release: downloaded once as a wheel, kept as a small archive of its .py files."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

DISTRIBUTIONS = {"sglang": "sglang", "vllm": "vllm"}
"""Distribution of each engine whose wheels are downloaded."""

ORIGIN = "source.json"
"""Member of the archive that names the wheel."""


class NoSource(Exception):
    """A release that could not be downloaded: no network, no mirror, or no wheel for this machine."""


@dataclass(frozen=True)
class Source:
    """The source text of one release.

    Attributes
    ----------
    engine, version : str
    origin : str
        The wheel's name, or repository@commit.
    sha256 : str
        Digest of the wheel; empty for a repository, whose commit is one.
    texts : dict of str
        Path inside the wheel, "vllm/config/cache.py", to its text.
    """

    engine: str
    version: str
    origin: str
    sha256: str
    texts: dict[str, str]


def read_source(engine: str, version: str, cache: Path) -> Source:
    """Return the source of a release, downloading its wheel where the cache has no archive of it.

    Parameters
    ----------
    engine : str
        A key of `DISTRIBUTIONS`.
    version : str
    cache : Path
        Folder of the archives; the wheel itself is deleted after it was read. Options for pip, a mirror for example,
        are taken from the environment variable PIP_ARGS.

    Raises
    ------
    NoSource
        With what pip said.
    """
    archive = cache / f"{engine}-{version}.zip"
    if not archive.exists():
        _download(engine, version, archive)
    with zipfile.ZipFile(archive) as opened:
        origin = json.loads(opened.read(ORIGIN))
        texts = {name: opened.read(name).decode() for name in opened.namelist() if name != ORIGIN}
    return Source(engine, version, origin["wheel"], origin["sha256"], texts)


def _download(engine: str, version: str, archive: Path) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-cache-dir",
        ]
        command += [
            "--no-deps",
            "--only-binary",
            ":all:",
            "--dest",
            folder,
            f"{DISTRIBUTIONS[engine]}=={version}",
        ]
        command += shlex.split(os.environ.get("PIP_ARGS", ""))
        done = subprocess.run(command, capture_output=True, text=True)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            last = done.stderr.strip().splitlines()[-1:] or ["no wheel came"]
            raise NoSource(f"{engine} {version}: {last[0]}")
        wheel = wheels[0]
        with wheel.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        part = archive.with_suffix(".part")
        with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as kept:
            kept.writestr(ORIGIN, json.dumps({"wheel": wheel.name, "sha256": digest}))
            for name in whole.namelist():
                if name.endswith(".py"):
                    kept.writestr(name, whole.read(name))
        part.rename(archive)
