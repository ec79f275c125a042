"""Quality rules over the stored runs that need no physics: each names the runs it doubts, and why.

A rule takes the frame of the view `runs` and yields (run_id, reason). Rules that need a model of the engine
live above the store and write their own flags through it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import TYPE_CHECKING, Any

from perfdb.keys import KEYS, METRICS

if TYPE_CHECKING:
    import pandas as pd

ORIGIN = "rule"

NEAR_TPOT = 0.002
NEAR_TTFT = 0.005
"""Two runs of one configuration this close are one measurement copied twice: real repeats differ by 0.6 to
1.4 % in TPOT and by 7 to 12 % in TTFT."""
EXACT = 1e-9
"""Relative difference below which two figures are one number written twice."""
AMBIGUOUS_TPOT = 1.25
QUEUEING_SHARE = 0.35
QUEUEING_CONCURRENCY = 1024
QUEUEING_MIN_OSL = 512
"""With shorter outputs one wave of prefills alone can reach that share of the decode time."""

# What every copy of a run keeps, and what it must not contradict where both copies still have it.
_KEPT = ["engine", "gpu", "isl", "osl", "load", "concurrency", "request_rate", "batch_size", "disagg"]
_COMPATIBLE = [
    "n_gpus", "tp", "dp", "ep", "pp", "disagg_layout", "weight_quant", "spec_decode",
    "dataset", "range_ratio", "mean_isl_actual", "mean_osl_actual",
]  # fmt: skip
_NOT_CONFIGURATION = {*METRICS, "accept_length", "ambiguous_config", "flags_variants", "measured_on"}

Found = Iterator[tuple[str, str]]


def flags(frame: pd.DataFrame) -> list[dict[str, str]]:
    """Apply every rule.

    Parameters
    ----------
    frame : pandas.DataFrame
        The view `runs`.

    Returns
    -------
    list of dict
        `run_id`, `flag`, `reason`.
    """
    if frame.empty:
        return []
    frame = frame.assign(tpot=_first(frame, "tpot"), ttft=_first(frame, "ttft"))
    return [
        {"run_id": run_id, "flag": name, "reason": reason}
        for name, rule in RULES.items()
        for run_id, reason in rule(frame)
    ]


def count(rows: list[dict[str, str]]) -> dict[str, int]:
    """Count runs by flag."""
    return dict(sorted(Counter(row["flag"] for row in rows).items()))


def _first(frame: pd.DataFrame, short: str) -> pd.Series[float]:
    """Take the mean where it was measured, else the unspecified figure, else the median, in ms."""
    mean, unspecified, median = (
        frame[name] for name in (f"mean_{short}_ms", f"{short}_ms_unspecified", f"median_{short}_ms")
    )
    return mean.fillna(unspecified).fillna(median).astype(float)


def repeats(frame: pd.DataFrame) -> Found:
    """Find runs whose TTFT and TPOT are those of another run of the same configuration, digit for digit."""
    for run_id, kept, exact in _copies(frame):
        if exact:
            yield run_id, f"TTFT and TPOT equal those of run {kept}, which has more metadata or came first"


def near_repeats(frame: pd.DataFrame) -> Found:
    """Find runs that are another run of the same configuration with rounded figures."""
    for run_id, kept, exact in _copies(frame):
        if not exact:
            yield run_id, f"TPOT within {NEAR_TPOT:.1%} and TTFT within {NEAR_TTFT:.1%} of run {kept}"


def ambiguous_config(frame: pd.DataFrame) -> Found:
    """Find runs of one recorded configuration that differ so much that an unrecorded setting must differ."""
    import pandas as pd

    recorded = frame["ambiguous_config"].fillna(False)
    columns = [name for name in KEYS if name not in _NOT_CONFIGURATION]
    tpot = frame["tpot"].groupby(pd.util.hash_pandas_object(frame[columns].astype(str), index=False))
    spread = tpot.transform("max") / tpot.transform("min")
    for run_id, stated, ratio in zip(frame["run_id"], recorded, spread, strict=True):
        if ratio > AMBIGUOUS_TPOT:
            yield run_id, f"runs of this recorded configuration differ by {ratio:.2f}x in TPOT"
        elif stated:
            yield run_id, "marked so in its source table: equal recorded configurations differ in TPOT"


def speculative_unknown(frame: pd.DataFrame) -> Found:
    """Find runs that do not say whether they decoded speculatively."""
    return _where(frame, frame["spec_decode"].isna(), "speculative decoding is not recorded")


def speculative_variants(frame: pd.DataFrame) -> Found:
    """Find runs that fit a launch script with and one without speculative decoding."""
    for run_id, text in zip(frame["run_id"], frame["flags_variants"], strict=True):
        variants = json.loads(text) if isinstance(text, str) else []
        if len({variant.get("spec_decode") for variant in variants}) > 1:
            yield run_id, "launch scripts with and without speculative decoding both fit"


def length_unknown(frame: pd.DataFrame) -> Found:
    """Find runs without input or output length, nominal or counted."""
    known = [frame[name].notna() | frame[f"mean_{name}_actual"].notna() for name in ("isl", "osl")]
    return _where(frame, ~(known[0] & known[1]), "neither nominal nor counted lengths are recorded")


def length_spread_unknown(frame: pd.DataFrame) -> Found:
    """Find runs with a nominal length only: a client that draws from [1, N] has half of it on average."""
    nominal = frame["isl"].notna() & frame["osl"].notna()
    told = frame["range_ratio"].notna() | (
        frame["mean_isl_actual"].notna() & frame["mean_osl_actual"].notna()
    )
    return _where(
        frame, nominal & ~told, "nominal lengths only: neither their spread nor counted means are recorded"
    )


def precision_unknown(frame: pd.DataFrame) -> Found:
    """Find runs without a weight format."""
    unknown = frame["weight_quant"].isna() & frame["gemm_quant_src"].isna()
    return _where(frame, unknown, "the weight format is not recorded")


def expert_width_doubtful(frame: pd.DataFrame) -> Found:
    """Find runs whose recorded expert width contradicts what the launch script switched on."""
    wide = frame["ep"].fillna(1) > 1
    on, off = frame["expert_parallel"].fillna(False), ~frame["expert_parallel"].fillna(True)
    yield from _where(
        frame, on & ~wide & (frame["tp"] > 1), "ep 1 is recorded, the script turns expert parallelism on"
    )
    yield from _where(frame, off & wide, "ep above 1 is recorded, the script turns no expert parallelism on")


def cold_first_wave(frame: pd.DataFrame) -> Found:
    """Find runs measured without warm-up requests, whose mean TTFT holds a cold first wave."""
    return _where(frame, frame["num_warmups"] == 0, "no warm-up requests: the first wave that counts is cold")


def queueing(frame: pd.DataFrame) -> Found:
    """Find runs whose TTFT is mostly waiting in line; their TPOT stands."""
    osl = frame["mean_osl_actual"].fillna(frame["osl"])
    long_wait = (frame["ttft"] > QUEUEING_SHARE * frame["tpot"] * osl) & (osl >= QUEUEING_MIN_OSL)
    burst = frame["load"] == "burst"
    many = frame["concurrency"] >= QUEUEING_CONCURRENCY
    yield from _where(frame, burst, "all prompts were sent at once")
    yield from _where(frame, ~burst & many, f"concurrency of {QUEUEING_CONCURRENCY} or more")
    yield from _where(
        frame, ~burst & ~many & long_wait, f"TTFT above {QUEUEING_SHARE:.0%} of the decode time"
    )


RULES: dict[str, Callable[[Any], Found]] = {
    "repeat": repeats,
    "near_repeat": near_repeats,
    "ambiguous_config": ambiguous_config,
    "speculative_unknown": speculative_unknown,
    "speculative_variants": speculative_variants,
    "length_unknown": length_unknown,
    "length_spread_unknown": length_spread_unknown,
    "precision_unknown": precision_unknown,
    "expert_width_doubtful": expert_width_doubtful,
    "cold_first_wave": cold_first_wave,
    "queueing": queueing,
}
"""Every rule by the name of its flag."""


def _where(frame: pd.DataFrame, doubtful: pd.Series[bool], reason: str) -> Found:
    return ((run_id, reason) for run_id in frame.loc[doubtful.astype(bool), "run_id"])


def _copies(frame: pd.DataFrame) -> list[tuple[str, str, bool]]:
    """List copies: the run that is one, the run it copies, and whether to the last digit.

    Of a pair, the one with less metadata is the copy; with equal metadata, the one that came later.
    """
    timed = frame[(frame["tpot"] > 0) & (frame["ttft"] > 0)]
    richness = timed[[*KEYS]].notna().sum(axis=1)
    family = timed["model_group"].fillna(timed["model"])
    ordered = timed.assign(family=family, richness=richness).sort_values(
        "richness", ascending=False, kind="stable"
    )
    columns = ["run_id", "src_ref", "family", "tpot", "ttft", *_KEPT, *_COMPATIBLE]
    rows: list[dict[Any, Any]] = (
        ordered[columns].astype(object).where(ordered[columns].notna(), None).to_dict("records")
    )
    groups: dict[tuple[Any, ...], list[dict[Any, Any]]] = {}
    for row in rows:
        groups.setdefault((row["family"], *(row[name] for name in _KEPT)), []).append(row)
    found: dict[str, tuple[str, bool]] = {}
    for group in groups.values():
        for kept, later in combinations(group, 2):
            if kept["run_id"] in found or later["run_id"] in found or not _compatible(kept, later):
                continue
            tpot, ttft = later["tpot"] / kept["tpot"], later["ttft"] / kept["ttft"]
            if abs(tpot - 1) <= NEAR_TPOT and abs(ttft - 1) <= NEAR_TTFT:
                found[later["run_id"]] = kept["run_id"], max(abs(tpot - 1), abs(ttft - 1)) <= EXACT
    return [(copy, kept, exact) for copy, (kept, exact) in found.items()]


def _compatible(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Tell whether two runs contradict each other nowhere; runs told apart by one source are no copies."""
    if one["src_ref"] == other["src_ref"]:
        return False
    return all(one[name] is None or other[name] is None or one[name] == other[name] for name in _COMPATIBLE)
