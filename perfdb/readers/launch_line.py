"""The command that starts an engine, as a person writes it: what its flags say of a deployment."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any

from perfdb.readers.sglang_server_info import settings

_SGLANG = re.compile(r"(?:-m\s+sglang\.launch_server|\bsglang\s+serve)\s+(.+)")
_VLLM = re.compile(r"(?:-m\s+vllm\.entrypoints\.openai\.api_server|\bvllm\s+serve)\s+(.+)")

# Flags of SGLang with a value, and the setting that each is in `/server_info`.
_SGLANG_FLAGS = {
    "model": "model_path",
    "tp": "tp_size",
    "tensor-parallel-size": "tp_size",
    "dp": "dp_size",
    "data-parallel-size": "dp_size",
    "ep": "ep_size",
    "expert-parallel-size": "ep_size",
    "pp": "pp_size",
    "pipeline-parallel-size": "pp_size",
}
_SGLANG_SWITCHES = ("enable_dp_attention", "disable_radix_cache", "disable_cuda_graph")

_VLLM_FLAGS = {
    "model": "model",
    "tensor-parallel-size": "tp",
    "tp": "tp",
    "pipeline-parallel-size": "pp",
    "pp": "pp",
    "kv-cache-dtype": "kv_dtype",
}


def launch(line: str) -> dict[str, Any] | None:
    """Read the keys of a run from a line that starts SGLang or vLLM; None if the line starts neither.

    Only flags that are given are read: no default of an engine is filled in, except that `n_gpus` follows from
    the widths that are given. A line without a model, or with a
    placeholder for one, is talk of the command and starts nothing.
    """
    if match := _SGLANG.search(line):
        found = {"engine": "sglang"} | sglang_arguments(_words(match[1]))
    elif match := _VLLM.search(line):
        found = {"engine": "vllm"} | _vllm_arguments(_words(match[1]))
    else:
        return None
    model = found.get("model")
    return found if isinstance(model, str) and not re.search(r"[<>${}]", model) else None


def sglang_arguments(words: Sequence[str]) -> dict[str, Any]:
    """Read the keys of a run from the arguments of SGLang's server."""
    info: dict[str, Any] = {}
    for name, value in _options(words):
        key = _SGLANG_FLAGS.get(name, name.replace("-", "_"))
        info[key] = True if key in _SGLANG_SWITCHES and value is None else _number(value)
    stated, suggested = settings(info)
    found = {name: value for name, value in (suggested | stated).items() if value is not None}
    for width in ("dp", "pp"):
        if f"{width}_size" not in info:
            found.pop(width, None)
    if "speculative_algorithm" not in info:
        found.pop("spec_decode", None)
    return found


def _vllm_arguments(words: Sequence[str]) -> dict[str, Any]:
    """Read model, widths and cache format; `--data-parallel-size` counts replicas and is left out."""
    found: dict[str, Any] = {"model": words[0]} if words and "/" in words[0] else {}
    for name, value in _options(words):
        if name in _VLLM_FLAGS and value is not None:
            found[_VLLM_FLAGS[name]] = _number(value)
    return found


def _words(command: str) -> list[str]:
    """Split a command; one with an open quotation is split at blanks. A pipe or `&` ends it."""
    try:
        words = shlex.split(command, comments=True)
    except ValueError:
        words = command.split()
    ends = [place for place, word in enumerate(words) if word in ("|", "&", "&&", ";", ">", "2>&1")]
    return words[: ends[0]] if ends else words


def _options(words: Sequence[str]) -> list[tuple[str, str | None]]:
    """List the options with their value, None where none follows; a repeated option counts last."""
    found: list[tuple[str, str | None]] = []
    for place, word in enumerate(words):
        if not re.match(r"--?[A-Za-z]", word):
            continue
        name, equals, value = word.lstrip("-").partition("=")
        after = words[place + 1] if place + 1 < len(words) else "-"
        follows = None if re.match(r"--?[A-Za-z]", after) or after == "-" else after
        found.append((name, value if equals else follows))
    return found


def _number(value: str | None) -> Any:
    """Return an int or float where the text is one."""
    for kind in (int, float):
        try:
            return kind(value or "")
        except ValueError:
            continue
    return value
