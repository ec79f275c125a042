"""The lines on prefill and decode steps in the log of an SGLang server."""

from __future__ import annotations

import math
import re
from typing import Any, Final

LONGEST: Final = 4_000
"""Characters of a step line that are read."""

_STEP = re.compile(r"(Decode|Prefill) batch(?=[.,( ])")
_ITEM = re.compile(r"(#?[A-Za-z][\w .#()/-]*?): (-?[\w.]*\w%?)")

_COUNTS: Final = {
    "#new-seq": "new_seqs",
    "#new-token": "new_tokens",
    "#cached-token": "cached_tokens",
    "#running-req": "running",
    "mixed #running-req": "running",
    "#queue-req": "queued",
    "#token": "used_tokens",
    "#full token": "used_tokens",
}
_FIGURES: Final = {
    "token usage": "token_usage",
    "full token usage": "token_usage",
    "gen throughput (token/s)": "gen_tok_s",
    "input throughput (token/s)": "input_tok_s",
    "accept len": "accept_length",
}
COLUMNS: Final = (*dict.fromkeys([*_COUNTS.values(), *_FIGURES.values()]), "cuda_graph")
"""What a step line may state."""


def is_step(message: str) -> bool:
    """Tell whether a message of the log is a step line."""
    return _STEP.match(message) is not None


def step(message: str) -> dict[str, Any]:
    """Read a step line.

    Returns
    -------
    dict
        `phase` ("prefill" or "decode"), the columns of `COLUMNS` (None where the line is silent), and under
        `extra` what else it states, by its own names. Of models with a sliding window or a state,
        `used_tokens` and `token_usage` are those of full attention. Decode lines average over the steps since
        the last one (`--decode-log-interval`, 40 by default).
    """
    begin = _STEP.match(message)
    found: dict[str, Any] = dict.fromkeys(COLUMNS)
    extra: dict[str, Any] = {}
    found["phase"] = begin[1].lower() if begin else None
    rest = message[begin.end() : LONGEST] if begin else ""
    if forward := re.match(r" \[(\d{1,18})\]", rest):
        extra["forward"] = int(forward[1])
    for name, value in _ITEM.findall(rest):
        read = _number(value)
        if name in _COUNTS and isinstance(read, int):
            found[_COUNTS[name]] = read
        elif name in _FIGURES and read is not None:
            found[_FIGURES[name]] = float(read)
        elif name.endswith(" graph") and value in ("True", "False"):
            found["cuda_graph"] = value == "True"
            if name != "cuda graph":
                extra["graph"] = name
        else:
            extra[name] = value if read is None else read
        if name.startswith("mixed"):
            extra["mixed"] = True
    found["extra"] = extra
    return found


def _number(text: str) -> int | float | None:
    """Return a finite number, or None for any other text."""
    if re.fullmatch(r"-?\d{1,18}", text):
        return int(text)
    try:
        read = float(text)
    except ValueError:
        return None
    return read if math.isfinite(read) else None
