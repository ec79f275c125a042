"""Start-up records: checked, named by their content, and put into the store beside the runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from perfdb.keys import ENGINES, PROVENANCE
from perfdb.record import Alike, BadRecord, Record, content_id, fold, same

if TYPE_CHECKING:
    import duckdb

COUNTS: Final = (
    "n_gpus", "tp", "dp", "ep", "pp", "max_running_requests", "context_len", "page_size", "max_total_tokens",
)  # fmt: skip
"""Keys whose value is a positive whole number."""

SIZES: Final = (
    "gpu_mem_total_gib", "avail_mem_before_load_gib", "weights_gib", "avail_mem_after_load_gib",
    "avail_mem_after_load_min_gib", "kv_gib", "mamba_gib", "draft_weights_gib", "draft_kv_gib",
    "avail_mem_after_pool_gib", "graph_mem_gib", "avail_mem_end_gib", "activation_peak_gib", "non_torch_gib",
)  # fmt: skip
"""Keys whose value is a size in GiB, not negative."""

SHARES: Final = ("mem_fraction",)
LARGEST: Final = 1e300
"""No number that was logged is larger; integers beyond it have no place among floats."""
TEXTS: Final = ("engine", "engine_version", "gpu", "model", "weight_quant", "kv_dtype", "attention")
ANSWERS: Final = ("max_total_tokens", "kv_gib", "avail_mem_after_load_gib", "weights_gib")
"""What a record must hold one of: without any, nothing was logged."""
OUTCOMES: Final = ("started", "failed", "died")
"""What became of a start: it served, it never did, or it ended while it did. What went wrong has a `reason`."""


@dataclass(frozen=True)
class Startup:
    """One checked start-up record.

    Parameters
    ----------
    startup_id : str
        Hash of the content without provenance.
    content, provenance : dict
        Keys with a value; provenance as in `perfdb.keys.PROVENANCE`.
    """

    startup_id: str
    content: dict[str, Any]
    provenance: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return all keys and `startup_id`."""
        return self.provenance | self.content | {"startup_id": self.startup_id}


def check(record: Record, context: Mapping[str, Any] | None = None, alike: Alike | None = None) -> Startup:
    """Fill a record from its context, check it, and give it its content hash.

    Parameters
    ----------
    record : Record
    context : mapping, optional
        Keys that fill what it lacks.
    alike : callable, optional
        Tells of a key, the file's text and the context's whether they are spellings of one name.

    Raises
    ------
    BadRecord
        If a value is impossible, if context and record contradict each other, or if nothing was logged of a start
        that did not fail.
    """
    stated = {name: value for name, value in record.data.items() if value is not None}
    given = {name: value for name, value in (context or {}).items() if value is not None}
    for name in given.keys() & stated.keys():
        if not same(name, stated[name], given[name]) and not (
            alike and alike(name, str(stated[name]), str(given[name]))
        ):
            raise BadRecord(f"{name}: the file says {stated[name]!r}, the context says {given[name]!r}")
    merged = dict(record.inferred) | given | stated
    known = {name: _checked(name, value) for name, value in merged.items() if value is not None}
    provenance = {name: value for name, value in known.items() if name in PROVENANCE}
    content = {name: value for name, value in known.items() if name not in (*PROVENANCE, "startup_id")}
    if content.get("engine") not in ENGINES:
        raise BadRecord(f"engine is {content.get('engine')!r}; known are {', '.join(ENGINES)}")
    outcome = content.get("outcome")
    if outcome is not None and outcome not in OUTCOMES:
        raise BadRecord(f"outcome is {outcome!r}; known are {', '.join(OUTCOMES)}")
    if outcome in ("failed", "died"):
        if not isinstance(content.get("reason"), str):
            raise BadRecord(f"a start that {outcome} has a reason in words, not {content.get('reason')!r}")
    elif not any(name in content for name in ANSWERS):
        raise BadRecord(f"nothing logged: none of {', '.join(ANSWERS)}")
    return Startup(content_id(content), content, provenance)


def _checked(name: str, value: Any) -> Any:
    """Check one value against what its key means."""
    if name in TEXTS:
        if not isinstance(value, str):
            raise BadRecord(f"{name} is {value!r}: not a text")
        return fold(value) if name == "engine" else value
    if name not in (*COUNTS, *SIZES, *SHARES):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= LARGEST:
        raise BadRecord(f"{name} is {str(value)[:80]}: not a number that can be")
    if name in COUNTS and (value <= 0 or value != int(value)):
        raise BadRecord(f"{name} is {value!r}: not a positive whole number")
    if name in SHARES and not 0 < value <= 1:
        raise BadRecord(f"{name} is {value!r}: must lie between 0 and 1")
    if value < 0:
        raise BadRecord(f"{name} is {value!r}: cannot be negative")
    return value


def put(
    connection: duckdb.DuckDBPyConnection, record: Record, startup: Startup, file_sha256: str, text: str
) -> None:
    """Write a start-up record, its source and its raw text into the store that is the current schema."""
    line_sha256 = hashlib.sha256(text.encode()).hexdigest()
    run = connection.execute
    run(
        "INSERT INTO startup_records SELECT $1, $2 WHERE $1 NOT IN (SELECT startup_id FROM startup_records)",
        [startup.startup_id, json.dumps(startup.content, sort_keys=True)],
    )
    origin = [
        startup.provenance.get(name) for name in ("source", "src_ref", "licence", "attribution", "notes")
    ]
    run(
        "INSERT INTO startup_sources VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        [startup.startup_id, file_sha256, record.line, line_sha256, *origin],
    )
    run(
        "INSERT INTO raw_lines SELECT $1, $2 WHERE $1 NOT IN (SELECT line_sha256 FROM raw_lines)",
        [line_sha256, text],
    )
