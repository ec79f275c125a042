"""What stands inside of JSON values and environment variables of vLLM, held against its configuration classes."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from checks.engines.product import Line
from checks.engines.sources import Source

CLASSES = {
    "--speculative-config": "SpeculativeConfig",
    "--kv-transfer-config": "KVTransferConfig",
    "--compilation-config": "CompilationConfig",
    "--quantization-config": "QuantizationConfigArgs",
}
"""Class that each flag's JSON becomes."""

FREE = ("model",)
"""Keys whose value may be any text."""

BACKEND = "VLLM_ATTENTION_BACKEND"
"""Environment variable that older releases take the attention backend from."""


def check_inside(line: Line, source: Source) -> list[str]:
    """Return which keys, words and variables of a line a release of vLLM does not know."""
    wrong = []
    for flag, value in zip(line.argv, line.argv[1:], strict=False):
        if flag in CLASSES:
            fields, words = _fields(source, CLASSES[flag]), _words(source)
            given: dict[str, Any] = json.loads(value)
            wrong += [f"{flag}: {CLASSES[flag]} has no '{key}'" for key in given if key not in fields]
            wrong += [
                f"{flag}: nowhere is '{word}'"
                for key, word in given.items()
                if isinstance(word, str) and key not in FREE and word not in words
            ]
    for name, word in line.env:
        if name not in source.texts["vllm/envs.py"]:
            wrong.append(f"no environment variable {name}")
        elif name == BACKEND and word not in _fields(source, "_Backend") | _fields(
            source, "AttentionBackendEnum"
        ):
            wrong.append(f"{name} is not {word}")
    return wrong


_known: dict[tuple[str, str], set[str]] = {}


def _fields(source: Source, owner: str) -> set[str]:
    """Return the names in the body of a class."""
    key = (source.version, owner)
    if key not in _known:
        _known[key] = {
            target.id
            for tree in _trees(source, f"class {owner}")
            for node in tree.body
            if isinstance(node, ast.ClassDef) and node.name == owner
            for part in node.body
            if isinstance(part, ast.Assign | ast.AnnAssign)
            for target in (part.targets if isinstance(part, ast.Assign) else [part.target])
            if isinstance(target, ast.Name)
        }
    return _known[key]


def _words(source: Source) -> set[str]:
    """Return the words that stand in the configuration's source and among the connectors."""
    key = (source.version, "")
    if key not in _known:
        _known[key] = {
            node.value
            for path, text in source.texts.items()
            if path.startswith("vllm/config") or path.endswith("kv_connector/factory.py")
            for node in ast.walk(_parsed(text))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
    return _known[key]


def _trees(source: Source, having: str) -> Iterator[ast.Module]:
    yield from (_parsed(text) for text in source.texts.values() if having in text)


@cache
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)
