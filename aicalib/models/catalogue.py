"""The models that aicalib knows by name, read from `architectures.json`.

Each entry holds the keys of a model's own `config.json` that say what it is made of, and where they were
read; all go through `architecture_from_config`, as a user's file does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from aicalib.errors import AicalibError, NotCovered, UnknownName, fold
from aicalib.models.architecture import Architecture
from aicalib.models.config import architecture_from_config, load_config
from aicalib.models.parameters import parameters


@dataclass(frozen=True)
class ListedArchitecture:
    """One line of the catalogue.

    Attributes
    ----------
    name, family, hf_id : str
    total_parameters : float or None
        None where the model is not covered.
    reason : str or None
        Why it is not covered.
    """

    name: str
    family: str
    hf_id: str
    total_parameters: float | None
    reason: str | None


def get_architecture(name_or_path: str | Path) -> Architecture:
    """Find an architecture by name, or read it from a `config.json`.

    Parameters
    ----------
    name_or_path : str or Path
        Catalogue name, alias, or Hugging Face id with or without its organisation (case and separators do
        not count); or the path of a `config.json` or of the folder that holds it.

    Returns
    -------
    Architecture

    Raises
    ------
    UnknownName
        No such name and no such file; the near misses are the alternatives.
    NotCovered
        The model holds a kind of layer that the cost model does not compute.
    InvalidValue
        The file cannot be read, or a key in it is missing or wrong.
    """
    text = os.fspath(name_or_path)
    path = Path(text)
    if path.is_absolute() or text.startswith(".") or text.endswith(".json"):
        return _from_file(path)
    names = _spellings()
    entry = names.get(fold(text))
    if entry is None and (path / "config.json").is_file():
        return _from_file(path)
    entry = entry or names.get(fold(path.name))
    if entry is None:
        aliases = (alias for each in _entries().values() for alias in each.get("aliases", ()))
        raise UnknownName("model", text, _entries(), aliases, "aicalib list models")
    return _architecture(entry)


def _from_file(path: Path) -> Architecture:
    config = load_config(path)
    whole = path.resolve()
    # A config.json says nothing by its name: the folder does. Any other file is named by its owner.
    name = whole.parent.name if whole.name == "config.json" else whole.name.removesuffix(".json")
    # An engine tells a folder from a name on a hub by the folder being there, a run by how it is written.
    source = str(path) if path.is_absolute() else f"./{path}"
    return architecture_from_config(config, name, source=source)


def list_architectures() -> list[ListedArchitecture]:
    """Return the whole catalogue in its order, with the models that are not covered and why."""
    return [_listed(name) for name in _entries()]


def relatives(family: str) -> Iterator[Architecture]:
    """Yield the models of a family that are covered."""
    for name, entry in _entries().items():
        if entry["family"] == family:
            try:
                yield _architecture(name)
            except NotCovered:
                continue


def _listed(name: str) -> ListedArchitecture:
    entry = _entries()[name]
    try:
        total, reason = parameters(_architecture(name)).total, None
    except NotCovered as refusal:
        total, reason = None, str(refusal)
    return ListedArchitecture(name, entry["family"], entry["hf_id"], total, reason)


@cache
def _entries() -> dict[str, Any]:
    text = files("aicalib.models").joinpath("architectures.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


@cache
def _architecture(name: str) -> Architecture:
    entry = _entries()[name]
    if "refused" in entry:
        raise NotCovered(f"{name}: not computed: {entry['refused']}")
    return architecture_from_config(
        entry["config"], name, hf_id=entry["hf_id"], family=entry["family"], source=entry["source"]
    )


@cache
def _spellings() -> dict[str, str]:
    """Map each folded spelling to its entry."""
    owners: dict[str, str] = {}
    for name, entry in _entries().items():
        for spelling in _ways_to_write(name, entry):
            owner = owners.setdefault(fold(spelling), name)
            if owner != name:
                raise AicalibError(f"'{spelling}' names two models: {owner} and {name}")
    return owners


def _ways_to_write(name: str, entry: dict[str, Any]) -> Iterator[str]:
    for spelling in (name, entry["hf_id"], *entry["aliases"]):
        yield spelling
        yield spelling.rpartition("/")[2]
