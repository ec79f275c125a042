"""What a server answers: plain requests to the address given, past any proxy, with a limit of time."""

from __future__ import annotations

import json
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

_LARGEST_BYTES = 2**24


def status_of(url: str, timeout_s: float = 5.0) -> int | None:
    """Return the status of an answer, None where nothing answers."""
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=timeout_s) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code
    except (OSError, HTTPException):
        return None


def document(url: str, timeout_s: float = 30.0) -> Any | None:
    """Return the JSON that a server answers with, None where it answers none."""
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=timeout_s) as answer:
            return json.loads(answer.read(_LARGEST_BYTES))
    except (OSError, HTTPException, ValueError):
        return None
