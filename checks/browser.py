"""The report's page in headless Chromium, at three looks: `python -m checks.browser FOLDER`.

The page is opened with scripts off. It must load nothing but itself, log no error and fit the width of a phone; its
screenshots lie in the folder, for a person to look at. Chromium is driven over the pipe of its DevTools protocol
(https://chromedevtools.github.io/devtools-protocol/): commands and events are JSON texts that end in a zero byte.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ROOT = Path(__file__).parent.parent

QUESTION = ("--model", "deepseek-r1", "--gpu", "h200-sxm", "--tp", "8", "--isl", "1024", "--osl", "1024")
TASK = ROOT / "examples" / "quant_preset_task.json"

MOST_HEIGHT = 16_000
"""Pixels of a screenshot."""

WIDTHS = """(() => {
  const root = document.documentElement;
  const boxes = [...document.querySelectorAll('figure svg')].map(each => each.getBoundingClientRect());
  return JSON.stringify({
    overflow: root.scrollWidth - root.clientWidth,
    width: root.clientWidth,
    height: root.scrollHeight,
    pictures: boxes.length,
    empty: boxes.filter(box => box.width < 100 || box.height < 50).length,
  });
})()"""


class Look(NamedTuple):
    """How a page is looked at: pixels, and light or dark."""

    name: str
    width: int
    height: int
    mobile: bool
    scheme: str


LOOKS = (
    Look("desktop", 1280, 900, False, "light"),
    Look("dark", 1280, 900, False, "dark"),
    Look("phone", 390, 844, True, "light"),
)


class Browser:
    """A running Chromium: `send` a command, read what it said meanwhile from `events`."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = os.fdopen(commands, "wb"), os.fdopen(answers, "rb")
        self._number = 0
        self._rest = b""
        self.events: list[dict[str, Any]] = []

    def send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result.

        Raises
        ------
        RuntimeError
            If the browser refuses it, or ends.
        """
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        self._commands.write(json.dumps(message).encode() + b"\0")
        self._commands.flush()
        while (found := self._read()).get("id") != self._number:
            self.events.append(found)
        if "error" in found:
            raise RuntimeError(f"{method}: {found['error']['message']}")
        result: dict[str, Any] = found["result"]
        return result

    def wait(self, event: str) -> None:
        """Read until an event has come."""
        while not any(each.get("method") == event for each in self.events):
            self.events.append(self._read())

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._answers.fileno(), 1 << 16)
            if not part:
                raise RuntimeError("the browser has ended")
            self._rest += part
        text, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(text)
        return found


@contextmanager
def browser(program: str) -> Iterator[Browser]:
    """Run Chromium with an empty profile of its own, and end it."""
    command_out, command_in = os.pipe()
    answer_out, answer_in = os.pipe()
    # Chromium reads commands from descriptor 3 and writes to 4.
    script = f'exec "$0" "$@" 3<&{command_out} 4>&{answer_in}'
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = ["--headless", "--remote-debugging-pipe", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
                 f"--user-data-dir={profile}", *(["--no-sandbox"] if os.geteuid() == 0 else [])]  # fmt: skip
        process = subprocess.Popen(
            ["/bin/sh", "-c", script, program, *flags],
            pass_fds=(command_out, answer_in),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(command_out)
        os.close(answer_in)
        running = Browser(command_in, answer_out)
        try:
            yield running
            running.send("Browser.close")
        finally:
            process.terminate()
            process.wait(timeout=30)


def look_at(page: Path, look: Look, running: Browser, folder: Path) -> list[str]:
    """Open a page in one look, write its screenshot, and return what is wrong with it."""
    target = running.send("Target.createTarget", url="about:blank")["targetId"]
    session = running.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def send(method: str, **parameters: Any) -> dict[str, Any]:
        return running.send(method, session, **parameters)

    running.events.clear()
    for domain in ("Page", "Network", "Log", "Runtime"):
        send(f"{domain}.enable")
    size = {"width": look.width, "deviceScaleFactor": 1, "mobile": look.mobile}
    send("Emulation.setScriptExecutionDisabled", value=True)
    send("Emulation.setDeviceMetricsOverride", **size, height=look.height)
    send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": look.scheme}])
    address = page.resolve().as_uri()
    send("Page.navigate", url=address)
    running.wait("Page.loadEventFired")
    found = json.loads(send("Runtime.evaluate", expression=WIDTHS, returnByValue=True)["result"]["value"])
    height = min(found["height"], MOST_HEIGHT)
    send("Emulation.setDeviceMetricsOverride", **size, height=height)
    image = send("Page.captureScreenshot", format="png")["data"]
    (folder / f"{page.stem}-{look.name}.png").write_bytes(base64.b64decode(image))
    wrong = [f"{look.name}: {words}" for words in _faults(found, running.events, address)]
    running.send("Target.closeTarget", targetId=target)
    return wrong


def _faults(found: Mapping[str, Any], events: list[dict[str, Any]], address: str) -> Iterator[str]:
    """Yield what a page does that it should not."""
    if found["overflow"] > 0:
        yield f"{found['overflow']} pixels wider than the window of {found['width']}"
    if found["empty"] or not found["pictures"]:
        yield f"{found['empty']} of {found['pictures']} pictures are empty"
    for event in events:
        said = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            url = said["request"]["url"]
            if url != address and not url.startswith("data:"):
                yield f"requests {url}"
        elif event.get("method") == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            yield f"logs {said['entry']['text']}"
        elif event.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            yield f"says {json.dumps(said)[:200]}"


def make_page(folder: Path) -> Path:
    """Write the page of a deployment with published runs near it, as a user does."""
    store, page = folder / "runs.duckdb", folder / "report.html"
    measurements = ROOT / "measurements"
    store.unlink(missing_ok=True)
    for arguments in (
        ("ingest", measurements / "runs.jsonl"),
        ("db", "flag", measurements / "flags.jsonl"),
        ("report", *QUESTION, "--task", TASK, "--output", page, "--force"),
    ):
        command = [sys.executable, "-m", "aicalib.cli.main", *map(str, arguments), "--db", str(store)]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return page


def main(folder: Path) -> int:
    """Check the page; return 0 where all is well or there is no browser, 1 where something is wrong."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        print(f"skipped: none of {', '.join(BROWSERS)} is installed")
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    page = make_page(folder)
    with browser(program) as running:
        wrong = [each for look in LOOKS for each in look_at(page, look, running, folder)]
    for each in wrong:
        print(each)
    print(f"{page}: {len(LOOKS)} looks, {len(wrong) or 'no'} faults; screenshots in {folder}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
