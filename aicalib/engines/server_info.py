"""The settings that a running server reports, as options of `predict` and `launch`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aicalib.engines.arguments import SPECIAL, Understood, called, fill_in, meanings_of
from aicalib.engines.flags import flags
from aicalib.engines.releases import newest_version
from aicalib.errors import InvalidValue


def read_server_info(info: Mapping[str, Any]) -> Understood:
    """Read what SGLang's `/server_info` (or its predecessor) answers, or the `server_info` of a result line.

    A server reports every setting, those that it decided by itself too: settings that no option has are passed over.

    Raises
    ------
    InvalidValue
        Where it is no such answer.
    """
    if not isinstance(info.get("model_path"), str):
        inner = info.get("server_info")
        if isinstance(inner, Mapping):
            return read_server_info(inner)
        raise InvalidValue("no server_info of SGLang: it has no model_path")
    version = str(info.get("version") or newest_version("sglang"))
    found = Understood("sglang", version)
    known = flags("sglang", version)
    meanings = meanings_of("sglang", version)
    pairs: list[tuple[str, str | None]] = []
    for key, value in info.items():
        spelling = "--" + key.replace("_", "-")
        if (
            spelling not in known
            or value in (None, False, "null", "auto", "none")
            or isinstance(value, list | dict)
        ):
            continue
        name = called(known[spelling])
        if name in meanings or name in SPECIAL:
            pairs.append((name, None if value is True else str(value)))
    if info.get("attn_dp_size") not in (None, 1):
        pairs = [pair for pair in pairs if pair[0] not in ("--dp-size", "--enable-dp-attention")]
    elif not info.get("enable_dp_attention"):
        pairs = [pair for pair in pairs if pair[0] != "--dp-size"]
        if info.get("dp_size") not in (None, 1):
            found.notes.append(f"one of {info['dp_size']} replicas")
    fill_in(found, pairs)
    found.options["engine_version"] = version
    return found
