"""Our refusals beside the engines' own: which of their functions stops for the same reason, by `refusals.toml`."""

from __future__ import annotations

import ast
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from checks.engines.sources import Source

FILE = Path(__file__).parent / "refusals.toml"


@dataclass(frozen=True)
class Citation:
    """Where an engine refuses, drops or lacks something.

    Attributes
    ----------
    engine, version, file, function : str
        Place in the wheel; a method is "Class.method", and an empty function is the whole file.
    text : str
        Words of the engine's own that stand there.
    does : str
        "refuses"; "changes" or "drops" what was asked; "lacks": the words must not stand there.
    """

    engine: str
    version: str
    file: str
    function: str
    text: str
    does: str = "refuses"


@dataclass(frozen=True)
class Kind:
    """One kind of refusal.

    Attributes
    ----------
    says : str
        Words of our message; "..." stands for anything.
    engines : tuple of Citation
    ours : str
        Why we refuse what no engine does; empty for a refusal that an engine makes.
    """

    says: str
    engines: tuple[Citation, ...]
    ours: str

    def __post_init__(self) -> None:
        assert bool(self.engines) != bool(self.ours), self.says


@cache
def refusals() -> tuple[Kind, ...]:
    """Return all kinds, in the order in which a message is held to them."""
    rows = tomllib.loads(FILE.read_text(encoding="utf-8"))["refusal"]
    return tuple(
        Kind(row["says"], tuple(Citation(**each) for each in row.get("engines", ())), row.get("ours", ""))
        for row in rows
    )


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], Kind], ...]:
    return tuple((re.compile(pattern_of(each.says)), each) for each in refusals())


def pattern_of(says: str) -> str:
    """Return words of a message as a regular expression."""
    return re.sub(r"\\\.\\\.\\\.|FLAG|KEY|NAME|ENGINE", ".+", re.escape(says))


def kind_of(message: str) -> Kind | None:
    """Return the kind of a message: the first whose words are in it; None where there is none."""
    return next((each for pattern, each in _patterns() if pattern.search(message)), None)


def stands(citation: Citation, source: Source) -> str | None:
    """Return what is wrong with a citation, None where a release's source says what it says."""
    text = source.texts.get(citation.file)
    where = f"{source.origin}:{citation.file}"
    if text is None:
        return f"{where} is not there"
    if citation.function:
        text = _function(text, citation.function)
        where += f" {citation.function}"
        if text is None:
            return f"{where} is not there"
    if (citation.text in text) == (citation.does == "lacks"):
        return f"{where}: {citation.text!r} {'stands' if citation.text in text else 'does not stand'} there"
    return None


def _function(text: str, name: str) -> str | None:
    """Return the source of a function or class; parts of the name are nested."""
    found: ast.AST = ast.parse(text)
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    for part in name.split("."):
        inner = next((n for n in ast.walk(found) if isinstance(n, kinds) and n.name == part), None)
        if inner is None:
            return None
        found = inner
    return ast.get_source_segment(text, found)
