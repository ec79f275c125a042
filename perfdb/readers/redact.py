"""Secrets and private texts out of a file before anything is kept."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any, Final

from perfdb.readers.tokens import STRING_BYTES, end_of_container

REDACTED = "<redacted>"

PRIVATE: Final = frozenset(
    {
        "generated_texts",
        "generated_text",
        "output_text",
        "reasoning_output",
        "prompt",
        "prompts",
        "messages",
        "request_args",
    }
)
"""Names under which benchmark clients write what users sent and models answered."""

ANSWER: Final = "output"
"""The same where its value is a text; other clients keep settings or figures under this name."""

DEEPEST: Final = 100
"""Deepest nesting of a JSON value that is read; results of real tools nest to about 15."""

_PRIVATE_MEMBER: Final = re.compile(
    rf'"(?<!\\")({"|".join(sorted(PRIVATE | {ANSWER}, reverse=True))})"[ \t\r\n]*:[ \t\r\n]*'.encode()
)
_COMMA: Final = re.compile(rb"[ \t\r\n]*,[ \t\r\n]*")

# Whole words of a setting's name: `tokenizer_path` and `max_total_tokens` are no secrets, `api_key` is.
_SECRET = re.compile(r"(^|[_-])(key|keyfile|token|password|passwd|secret)([_-]|$)", re.IGNORECASE)
# Bounded, and begun at the first dash only, so that a long run of dashes costs no more than its length.
_OPTION = re.compile(
    r"((?<![\w-])--[\w-]{0,80}(?:key|token|password|passwd|secret)(?:-[\w-]{0,80})?)([= ]{1,80})"
    r"(?!-)(\"[^\"]*\"|'[^']*'|\S+)",
    re.IGNORECASE,
)
SUSPICIOUS: Final = (
    r"NaN|Infinity|--[\w-]*(key|token|passw|secret)"
    rf'|"({"|".join(sorted(PRIVATE | {ANSWER}))}|extra)"\s*:'
    r'|"([^"]*[_-])?(key|keyfile|token|password|passwd|secret)([_-][^"]*)?"\s*:'
)
"""What a JSON line must not contain, whatever its case, to be kept as it is without a closer look."""

_NO_TEXT: Final = frozenset({int, float, bool, type(None)})

Edit = tuple[str, Any, Any]
"""Name of a member, its value, and what takes its place."""


class TooDeep(ValueError):
    """A JSON value nested deeper than `DEEPEST`."""


def redact(value: Any, edits: list[Edit] | None = None) -> Any:
    """Return a JSON value without private texts and with every secret text replaced, at any depth.

    A secret is a text under a name that contains the word key, token, password or secret, at any depth below
    it, and what follows an option of such a name in a command line. Figures below such a name and their unit
    are none: clients measure a `time_to_first_token`. Private are texts and lists under the names `PRIVATE`, and
    the texts of an object there: its figures, such as the mean length of prompts, are not.

    Parameters
    ----------
    value : object
        What `json.loads` returns; it is not changed.
    edits : list, optional
        Receives the innermost members that were replaced.

    Returns
    -------
    object
        The very same object where nothing had to go.

    Raises
    ------
    TooDeep
        If it is nested deeper than `DEEPEST`.
    """
    return _clean("", value, [] if edits is None else edits, 0)


def _clean(name: str, value: Any, edits: list[Edit], depth: int) -> Any:
    """Clean one value; `name` is that of the nearest member around it."""
    if isinstance(value, dict):
        return _clean_object(value, edits, depth)
    if isinstance(value, list):
        return _clean_list(name, value, edits, depth)
    if isinstance(value, str) and "--" in value:
        clean = _OPTION.sub(rf"\1\2{REDACTED}", value)
        return value if clean == value else clean
    return value


def _clean_object(value: dict[str, Any], edits: list[Edit], depth: int) -> dict[str, Any]:
    if depth > DEEPEST:
        raise TooDeep(f"nested deeper than {DEEPEST}")
    changed: dict[str, Any] = {}
    gone = set()
    for name, item in value.items():
        kind = type(item)
        if kind in _NO_TEXT:
            continue
        watched = _watched(name) if len(name) < 200 else _watched.__wrapped__(name)
        if watched is None and kind is str and "--" not in item:
            continue
        if watched == "private" or (watched == "answer" and kind is str):
            if kind is str or kind is list:
                gone.add(name)
                edits.append((name, item, None))
                continue
            clean = _without_texts(item) if kind is dict else item
        elif watched == "secret":
            clean = _without_secrets(item)
        else:
            clean = _clean(name, item, edits, depth + 1)
            if clean is not item:
                changed[name] = clean
                if kind is str:
                    edits.append((name, item, clean))
            continue
        if clean is not item:
            changed[name] = clean
            edits.append((name, item, clean))
    if not changed and not gone:
        return value
    return {name: changed.get(name, item) for name, item in value.items() if name not in gone}


def _clean_list(name: str, items: list[Any], edits: list[Edit], depth: int) -> list[Any]:
    if depth > DEEPEST:
        raise TooDeep(f"nested deeper than {DEEPEST}")
    if _NO_TEXT.issuperset(map(type, items)):
        return items
    inner: list[Edit] = []
    clean = _redact_arguments([_clean(name, item, inner, depth + 1) for item in items])
    if all(one is other for one, other in zip(clean, items, strict=True)):
        return items
    # A text has no name of its own in a list: there the whole list is replaced, under the name that it has.
    texts = any(isinstance(one, str) and one is not other for one, other in zip(clean, items, strict=True))
    edits += [(name, items, clean)] if texts else inner
    return clean


@lru_cache(maxsize=4096)
def _watched(name: str) -> str | None:
    """Tell what a name says of its value: `private`, `answer`, `secret`, or nothing."""
    if name in PRIVATE:
        return "private"
    if name == ANSWER:
        return "answer"
    return "secret" if _SECRET.search(name) else None


def _without_secrets(value: Any) -> Any:
    """Replace every text below the name of a secret, but the unit of a figure; the same where there is none."""
    if isinstance(value, dict):
        found = {name: item if name == "unit" else _without_secrets(item) for name, item in value.items()}
        return value if all(found[name] is value[name] for name in value) else found
    if isinstance(value, list):
        items = [_without_secrets(item) for item in value]
        return value if all(one is other for one, other in zip(items, value, strict=True)) else items
    return REDACTED if isinstance(value, str) and value not in ("", REDACTED) else value


def _without_texts(value: dict[str, Any]) -> dict[str, Any]:
    """Return the object without texts and lists, at any depth; the very same where it has none."""
    found = {
        name: _without_texts(item) if isinstance(item, dict) else item
        for name, item in value.items()
        if not isinstance(item, (str, list))
    }
    same = len(found) == len(value) and all(found[name] is value[name] for name in value)
    return value if same else found


def _redact_arguments(items: list[Any]) -> list[Any]:
    """Replace the item after a secret option in a list of arguments."""
    return [
        REDACTED
        if position
        and isinstance(item, str)
        and not item.startswith("-")
        and item != REDACTED
        and _is_secret_option(items[position - 1])
        else item
        for position, item in enumerate(items)
    ]


def _is_secret_option(item: Any) -> bool:
    return isinstance(item, str) and item.startswith("--") and "=" not in item and bool(_SECRET.search(item))


# `name='value'` of a Python call and `'name': 'value'` of a Python mapping, as engines print their settings.
_SETTING: Final = re.compile(
    r"(\b(?:\w{0,80}_)?(?:key|keyfile|token|password|passwd|secret)(?:_\w{0,80})?['\"]?\s{0,9}[=:]\s{0,9})"
    r"('(?:[^'\\]|\\.)*+'?|\"(?:[^\"\\]|\\.)*+\"?)",
    re.IGNORECASE,
)


_VARIABLE = re.compile(
    r"\b([A-Z][A-Z0-9_]*(?:TOKEN(?!S)|KEY(?!S)|SECRET|PASSWORD)[A-Z0-9_]*=)(?=\S)(?:'[^']*'|\S+)"
)
"""A secret that is set before a command, as in `HF_TOKEN=... python`."""


def redact_text(line: str) -> str:
    """Replace the secrets of a log line: those of printed settings, of command lines and of variables before them."""
    return str(redact(_VARIABLE.sub(rf"\1{REDACTED}", _SETTING.sub(rf"\1'{REDACTED}'", line))))


def without_private(raw: bytes) -> bytes | bytearray:
    """Cut private texts out of the bytes of a JSON value, leaving every other byte as it is.

    A member is found by its name in quotation marks before a colon: inside of a string, a quotation mark has
    a backslash before it. Broken JSON may come back uncut; it is not kept.
    """
    out = bytearray()
    copied = 0
    for member in _PRIVATE_MEMBER.finditer(raw):
        if member.start() < copied:
            continue
        start = member.end()
        opening = raw[start : start + 1]
        if opening == b'"':
            text = STRING_BYTES.match(raw, start)
            end = text.end() if text else None
        elif opening == b"[" and member[1] != ANSWER.encode():
            end = end_of_container(raw, start)
        else:
            continue
        if end is None:
            break
        out += raw[copied : member.start()]
        comma = _COMMA.match(raw, end)
        if comma:
            copied = comma.end()
        else:
            _drop_comma(out)
            copied = end
    if not copied:
        return raw
    out += raw[copied:]
    return out


def _drop_comma(out: bytearray) -> None:
    """Remove the comma, and the space around it, at the end."""
    length = len(out)
    while length and out[length - 1] in b" \t\r\n":
        length -= 1
    if length and out[length - 1] == ord(","):
        del out[length - 1 :]


def rewrite(text: str, edits: list[Edit]) -> str | None:
    """Replace members in a JSON text; None if one of them is not found."""
    decoder = json.JSONDecoder()
    names = {name for name, _, _ in edits}
    member = re.compile(rf'"(?<!\\")({"|".join(map(re.escape, sorted(names)))})"[ \t\r\n]*:[ \t\r\n]*')
    found = [False] * len(edits)
    pieces: list[str] = []
    copied = 0
    for match in member.finditer(text):
        if match.start() < copied:
            continue
        value, end = decoder.raw_decode(text, match.end())
        same = [place for place, (name, old, _) in enumerate(edits) if match[1] == name and value == old]
        for place in same:
            found[place] = True
        if same:
            pieces += [text[copied : match.end()], json.dumps(edits[same[0]][2], ensure_ascii=False)]
            copied = end
    return "".join([*pieces, text[copied:]]) if all(found) else None
