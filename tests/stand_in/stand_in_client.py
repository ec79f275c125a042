"""A benchmark client that sends a few real requests, and writes what the real client wrote, for the load asked.

The figures are those of a real file, a little other for each seed. What goes wrong is said by STAND_IN_CLIENT:

    crash           ends with an error
    hangs           never ends
    writes_nothing  ends well without a file
    half_a_line     the file ends in the middle
    another_model   the results are of another model
    another_load    other lengths than asked were sent
    none_completed  no request was answered
    lumped          chunks of the stream were read together
    full            the disk is full
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
import urllib.request
from pathlib import Path

DATA = Path(__file__).parent.parent / "data"
WAY = os.environ.get("STAND_IN_CLIENT", "")


def send(url: str, asked: dict[str, object]) -> None:
    """Send one request and read its stream."""
    request = urllib.request.Request(url, json.dumps(asked).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()


def go_wrong(found: str) -> None:
    """End as asked, where it comes before anything is written."""
    if found == "crash":
        raise RuntimeError("aiohttp.ClientPayloadError: Response payload is not completed")
    if found == "hangs":
        time.sleep(3600)
    if found == "full":
        sys.exit("OSError: [Errno 28] No space left on device")
    if found == "writes_nothing":
        sys.exit(0)


def varied(result: dict[str, object], seed: int) -> dict[str, object]:
    """Return a result with its times a few percent off, and its rates accordingly."""
    factor = random.Random(seed).uniform(0.95, 1.05)
    times = {
        name: value * factor for name, value in result.items() if name.endswith("_ms") and value is not None
    }
    rates = {name: value / factor for name, value in result.items() if name.endswith("throughput") and value}
    return result | times | rates | {"duration": result["duration"] * factor}


def write(path: Path, result: dict[str, object], found: str, mode: str) -> None:
    """Write the file, or half of it."""
    text = json.dumps(result) + "\n"
    with path.open(mode) as file:
        file.write(text[: len(text) // 2] if found == "half_a_line" else text)
