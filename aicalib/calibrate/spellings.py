"""Names as the store keeps them: one spelling of each model and accelerator, and which texts mean the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from aicalib.errors import NotCovered, RequestError
from aicalib.hardware import get_accelerator
from aicalib.models import get_architecture
from aicalib.quant import parse_mode


def alike(key: str, stated: str, given: str) -> bool:
    """Tell whether a file's text and the context's are spellings of one name, such as "H100" and "h100-sxm"."""
    return (
        key in _MEANINGS
        and (meaning := _meaning(key, stated)) is not None
        and meaning == _meaning(key, given)
    )


def _meaning(name: str, stated: str) -> str | None:
    try:
        return _MEANINGS[name](stated)
    except RequestError:
        return None


def _model(name: str) -> str:
    """Return the Hugging Face id; a config.json that has none is known by its path."""
    try:
        found = get_architecture(name)
    except NotCovered:  # a measured run is worth keeping before the model can be predicted
        return name
    return found.hf_id or str(Path(name).resolve())


def _gpu(name: str) -> str:
    """Return the name in the catalogue; a user's own accelerator is known by the path of its file."""
    found = get_accelerator(name)
    return found.file or found.name


def _cache(name: str) -> str:
    """Return a format of the KV cache; engines write "bfloat16" where logs of others write "bf16"."""
    found = parse_mode("kvcache", name)
    return name if found is None else f"{found.mode.name} {found.variant or ''}".strip()


CANONICAL: Mapping[str, Callable[[str], str]] = {"model": _model, "gpu": _gpu}
"""What turns any spelling of a key into the one that is stored."""

_MEANINGS: Mapping[str, Callable[[str], str]] = {**CANONICAL, "kv_dtype": _cache}
"""What two spellings of a key that mean the same have in common."""
