"""A server that speaks an engine's HTTP and prints what the real one printed, without a model.

What goes wrong is said by the environment variable STAND_IN_ENGINE, words apart by spaces:

    out_of_memory   ends before it serves, as torch does
    crash           ends before it serves, with nothing to say
    never           never gets healthy
    dies            runs out of memory at the first prompt
    hangs           stops answering at the first prompt
    stubborn        it and its child ignore SIGTERM

It always has a child of its own in a session of its own, as engines' schedulers are, whose process number it prints.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

DATA = Path(__file__).parent.parent / "data"
WAYS = os.environ.get("STAND_IN_ENGINE", "").split()

OUT_OF_MEMORY = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 3.50 GiB. GPU 0 has 79.10 GiB in all"
)


class Answers(BaseHTTPRequestHandler):
    """Answers of SGLang (`/generate`, `/server_info`) or vLLM (`/v1/completions`, `/version`)."""

    protocol_version = "HTTP/1.1"
    documents: dict[str, object] = {}  # noqa: RUF012
    stuck = threading.Event()

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.stuck.is_set():
            time.sleep(3600)
        if self.path in ("/health", "/health_generate"):
            status, body = (503 if "never" in WAYS else 200), b""
        elif self.path in self.documents:
            status, body = 200, json.dumps(self.documents[self.path]).encode()
        else:
            status, body = 404, b"{}"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "dies" in WAYS:
            print(OUT_OF_MEMORY, flush=True)
            os._exit(1)
        if "hangs" in WAYS:
            self.stuck.set()
            time.sleep(3600)
        tokens = asked.get("max_tokens") or asked["sampling_params"]["max_new_tokens"]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for number in range(tokens):
            self.wfile.write(f"data: {json.dumps({'text': 'w5 ' * (number + 1)})}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True


def serve(host: str, port: int, log: Path, documents: dict[str, object]) -> None:
    """Print a real start, unless it goes wrong, and answer until told to stop."""
    if "stubborn" in WAYS:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    print(f"scheduler pid={child.pid} started", flush=True)
    if "out_of_memory" in WAYS:
        sys.exit(OUT_OF_MEMORY)
    if "crash" in WAYS:
        os._exit(3)
    print(log.read_text(), flush=True)
    Answers.documents = documents
    ThreadingHTTPServer((host, port), Answers).serve_forever()
