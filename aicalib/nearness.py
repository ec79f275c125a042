"""Which measured runs stand near a question: keys from its group down to its curve, and what is known at each.

A run belongs to a group (engine, model family, GPU), in it to the model and its formats, to an engine version with its
poll interval, to a configuration (widths) and to a curve (a configuration at one pair of lengths, over the
concurrency). A key is the path down to a place, in words: "sglang deepseek-v3 h200-sxm / deepseek-r1 fp8_block ...".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.deployment import Identity
from aicalib.engines.releases import EPOCH, version_key
from aicalib.errors import InvalidValue
from aicalib.profiles import profile as profiles
from aicalib.profiles.profile import DEPTH_MARK, Profile
from aicalib.recent import Recent
from aicalib.resolve.batch import Batch
from aicalib.serving.load import OPEN, Load, Service

Array = NDArray[np.float64]
Codes = NDArray[np.intp]

DEPTHS = ("group", "formats", "engine", "configuration", "curve")
"""Places of a run, each inside the one before."""

LEVELED = ("ttft_ms", "tpot_ms")
"""Metrics that have levels of their own; end-to-end time and throughput follow from them."""

NEARNESS = (
    "curve", "configuration", "group", "apart", "new", "kernel-fit", "extrapolated", "datasheet", "format"
)  # fmt: skip
"""How near the nearest fitted runs are to a calibrated answer: in the same curve, configuration or group; its model
family and its GPU each seen, but apart; one of them new. Other answers stand by their origin; farthest is one in a
format that no run had."""

FORMAT = NEARNESS.index("format")

SAME_FORMAT = {"float16": "bfloat16", "fp8_e4m3": "fp8"}
"""Modes that are another one by another name: as many bits, the same math, kernels and speed."""

NEAR_BY_DEPTH = np.array(
    [NEARNESS.index(name) for name in ("group", "group", "group", "configuration", "curve")]
)
"""Place in `NEARNESS` of what is known down to each of `DEPTHS`."""

MINOR_PARTS = {"sglang": 3, "vllm": 2, "trtllm": 2}
"""Numbers of a version that tell monthly releases apart: SGLang counts them third, the others second."""

RELEASED_BEFORE = 1.0
"""Months by which a run may be older than its version's release: a nightly build of it."""

HALF_OCTAVE = 2.0
"""Lengths are alike where 2 log2 rounds to the same number: 1024 and 922 tokens are, 1024 and 1536 are not."""


REACH = 2.0
"""Factor on the concurrency beyond a curve's measured ends up to which a question counts as in that curve: one point at
1 in flight says little of 100."""


class Levels(NamedTuple):
    """What measured runs say of n questions beyond the physics.

    Attributes
    ----------
    log : dict of str to ndarray, shape (n,)
        Metric -> logarithm of the factor on the prediction, 0 where no run is near.
    runs : dict of str to ndarray of int, shape (n,)
        Metric -> number of runs behind it.
    depth : dict of str to ndarray of int, shape (n,)
        Metric -> place in `DEPTHS` of the nearest runs, -1 where the group has none; that of the configuration where
        the concurrency is out of a curve's reach.
    node : ndarray of int, shape (n,)
        Place of the nearest key in `Nodes.keys`, -1 where there is none.
    """

    log: dict[str, Array]
    runs: dict[str, Codes]
    depth: dict[str, Codes]
    node: Codes

    def depth_of(self, metric: str) -> Codes:
        """Return how deep the levels of a metric reach; of one without its own, those of both that it is made of."""
        return self.depth[metric] if metric in self.depth else np.minimum(*self.depth.values())


class Nodes:
    """Levels by key, as arrays.

    Parameters
    ----------
    levels : mapping
        Metric -> key -> (logarithm of the factor, number of runs), those that a key lies in among them. A key of one
        metric that another lacks takes for that one what the nearest key above it says.
    spans : mapping
        Key of a curve -> lowest and highest concurrency that was measured of it.
    """

    def __init__(self, levels: profiles.Levels, spans: Mapping[str, tuple[float, float]]) -> None:
        self.keys = sorted(set().union(*levels.values()), key=lambda key: (key.count(DEPTH_MARK), key))
        self.index = {key: at for at, key in enumerate(self.keys)}
        parents = [self.index.get(key.rpartition(DEPTH_MARK)[0], -1) for key in self.keys]
        # The last entry answers for the place -1: nothing known.
        self.log = {metric: np.zeros(len(self.keys) + 1) for metric in LEVELED}
        self.runs = {metric: np.zeros(len(self.keys) + 1, dtype=np.intp) for metric in LEVELED}
        self.depth = {metric: np.full(len(self.keys) + 1, -1, dtype=np.intp) for metric in LEVELED}
        self.spans = np.full((len(self.keys) + 1, 2), (0.0, np.inf))
        for key, span in spans.items():
            if key in self.index:
                self.spans[self.index[key]] = span
        for metric in LEVELED:
            known, log, runs, depth = (
                levels.get(metric, {}), self.log[metric], self.runs[metric], self.depth[metric]
            )  # fmt: skip
            for at, (key, above) in enumerate(zip(self.keys, parents, strict=True)):
                if key in known:
                    (log[at], runs[at]), depth[at] = known[key], key.count(DEPTH_MARK)
                else:
                    log[at], runs[at], depth[at] = log[above], runs[above], depth[above]

    def key_of(self, node: int, metric: str) -> str | None:
        """Return the key whose level a place takes for a metric, None where nothing is known."""
        depth = int(self.depth[metric][node])
        return DEPTH_MARK.join(self.keys[node].split(DEPTH_MARK)[: depth + 1]) if depth >= 0 else None

    def find(self, batch: Batch) -> Levels:
        """Look n questions up."""
        node = np.full(batch.at.size, -1, dtype=np.intp)
        known = np.array([group_key(who) in self.index for who in batch.identities], dtype=bool)
        rows = np.flatnonzero(known[batch.codes])
        if rows.size:
            found = np.full(1, -1, dtype=np.intp)
            for codes, parents, keys in paths(batch, rows):
                above = found[parents].tolist()
                places = [self.index.get(key, at) for key, at in zip(keys, above, strict=True)]
                found = np.array(places, dtype=np.intp)
                node[rows] = found[codes]
        low, high = self.spans[node].T
        concurrency = batch.load.concurrency
        outside = (concurrency * REACH < low) | (concurrency > REACH * high)
        most = np.where(outside, DEPTHS.index("configuration"), len(DEPTHS))
        return Levels(
            {metric: values[node] for metric, values in self.log.items()},
            {metric: values[node] for metric, values in self.runs.items()},
            {metric: np.minimum(values[node], most) for metric, values in self.depth.items()},
            node,
        )


_NODES: Recent[Nodes] = Recent(16)


def nodes_of(profile: Profile) -> Nodes:
    """Return a profile's levels as arrays, kept for the next question."""

    def make() -> Nodes:
        curves, fitted = fitted_curves(profile), profile.fitted
        return Nodes(profile.levels, spans_of(curves, fitted.get("concurrency", ())))

    return _NODES.get((profile,), (), make)


def fitted_curves(profile: Profile) -> list[str]:
    """Return the key of the curve of each run that a profile was fitted on.

    Raises
    ------
    InvalidValue
        If a run names a curve that the levels do not have.
    """
    last = len(DEPTHS) - 1
    keys = {key for keys in profile.levels.values() for key in keys if key.count(DEPTH_MARK) == last}
    curves = sorted(keys)
    unknown = set(profile.fitted.get("curve", ())) - set(range(len(curves)))
    if unknown:
        raise InvalidValue(
            f"profile {profile.label}: a fitted run names curve {unknown.pop()}, its levels have {len(curves)} "
            "curves: it was altered"
        )
    return [curves[place] for place in profile.fitted.get("curve", ())]


def spans_of(curves: Sequence[str], concurrency: Iterable[float]) -> dict[str, tuple[float, float]]:
    """Return the lowest and highest concurrency of each curve, from those of its runs."""
    found: dict[str, tuple[float, float]] = {}
    for curve, each in zip(curves, concurrency, strict=False):
        low, high = found.get(curve, (each, each))
        found[curve] = (min(low, each), max(high, each))
    return found


def nearness(batch: Batch, profile: Profile, depth: Codes, origin: Codes) -> Codes:
    """Return how near the fitted runs are, as a place in `NEARNESS`, shape (n,).

    Parameters
    ----------
    batch : Batch
        n questions.
    profile : Profile
    depth : ndarray of int, shape (n,)
        As `Levels.depth` holds it.
    origin : ndarray of int, shape (n,)
        0 for a calibrated answer, else the place of its origin among "kernel-fit", "extrapolated", "datasheet", from 1.
    """
    scope = profile.lineage.get("scope", {})
    families, gpus = set(scope.get("families", ())), set(scope.get("gpus", ()))
    is_new = np.array(
        [
            who.architecture.family not in families or who.accelerator.name not in gpus
            for who in batch.identities
        ],
        dtype=np.intp,
    )
    depth = told(batch, depth)
    unseen = np.array([bool(unseen_formats(who, profile)) for who in batch.identities], dtype=np.bool_)
    calibrated = np.where(depth >= 0, NEAR_BY_DEPTH[depth], NEARNESS.index("apart") + is_new[batch.codes])
    result: Codes = np.where(origin == 0, calibrated, NEARNESS.index("new") + origin)
    # A level of the formats themselves is from runs that had them, a team's own among them.
    return np.where(unseen[batch.codes] & (depth < DEPTHS.index("formats")), FORMAT, result)


def told(batch: Batch, depth: Codes) -> Codes:
    """Return how deep the nearest runs tell of questions: a configuration's say little of it on other kernels."""
    other = np.array([who.other_kernels for who in batch.identities], dtype=bool)[batch.codes]
    return np.where(other, np.minimum(depth, 0), depth)


def formats_of(who: Identity) -> tuple[str, ...]:
    """Return the formats that a deployment is said to have or to lack runs of: "gemm fp8", "moe nvfp4", "kv fp8"."""
    quant = who.quant
    modes = {"gemm": quant.gemm.name, "moe": quant.moe.name, "kv": quant.kvcache.name}
    if not who.architecture.moe_layers:
        del modes["moe"]
    return tuple(f"{field} {SAME_FORMAT.get(mode, mode)}" for field, mode in modes.items())


def unseen_formats(who: Identity, profile: Profile) -> tuple[str, ...]:
    """Return the formats of a deployment that no run had which a profile's coefficients were fitted on.

    None of a profile that does not say which they were.
    """
    seen = profile.lineage.get("formats")
    return () if seen is None else tuple(each for each in formats_of(who) if each not in seen)


def group_key(who: Identity) -> str:
    """Return the key of a group: engine, model family, GPU."""
    return f"{who.engine} {who.architecture.family} {who.accelerator.name}"


def paths(batch: Batch, rows: Codes) -> list[tuple[Codes, Codes, list[str]]]:
    """Return the keys of some rows at each of `DEPTHS`.

    Returns
    -------
    list of (codes, parents, keys)
        For each depth: of each row the place of its key in `keys`; of each key the place of the one above it (0 for a
        group).
    """
    who, at, system, names = batch.codes[rows], batch.at[rows], batch.system, batch.identities
    drafts, pools = batch.features.drafting, batch.features.separation
    plain = np.zeros(rows.size, dtype=np.intp)
    drafted = (
        plain if drafts is None else np.where(drafts.method < 0, 0, 1 + drafts.drafted)[rows].astype(int)
    )
    separate = plain if pools is None else pools.separate[rows].astype(int)
    poll = np.nan_to_num(batch.settings.poll_interval[rows]).astype(int)
    quarter = _quarters(batch)[at]
    tp, dp, ep, pp = (each[at].astype(int) for each in (system.tp, system.dp, system.ep, system.pp))
    isl, osl = (half_octaves(each[rows]) for each in (batch.load.isl, batch.load.osl))

    def formats(row: int) -> str:
        quant = names[who[row]].quant
        words = (
            f"{names[who[row]].architecture.name} {quant.gemm.name} {quant.moe.name} kv {quant.kvcache.name}"
        )
        words += f", {drafted[row] - 1} drafted" if drafted[row] else ""
        return words + (", separate prefill" if separate[row] else "")

    def engine(row: int) -> str:
        when = _minor(names[who[row]]) if quarter[row] < 0 else _quarter_words(int(quarter[row]))
        return f"{when} poll {poll[row]}"

    def widths(row: int) -> str:
        return f"tp {tp[row]} dp {dp[row]} ep {ep[row]} pp {pp[row]}"

    def lengths(row: int) -> str:
        return "{:.0f} in {:.0f} out".format(*(2.0 ** (each[row] / HALF_OCTAVE) for each in (isl, osl)))

    found: list[tuple[Codes, Codes, list[str]]] = []
    codes, keys = plain, [""]
    # Distinct numbers may share their words, such as a patch version its minor one: a key is told by its words.
    for columns, words in (
        ([who], lambda row: group_key(names[who[row]])),
        ([who, drafted, separate], formats),
        ([who, quarter, poll], engine),
        ([tp, dp, ep, pp], widths),
        ([isl, osl], lengths),
    ):
        distinct, first = _distinct(codes, *columns)
        above = codes[first]
        texts = [words(row) for row in first.tolist()]
        if keys != [""]:
            texts = [f"{keys[parent]}{DEPTH_MARK}{text}" for parent, text in zip(above, texts, strict=True)]
        place = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        merged = np.array([place[text] for text in texts], dtype=np.intp)
        parents = np.zeros(len(place), dtype=np.intp)
        parents[merged] = above
        codes, keys = merged[distinct], list(place)
        found.append((codes, parents, keys))
    return found


def half_octaves(lengths: Array) -> Codes:
    """Return 2 log2 of lengths in tokens, rounded."""
    result: Codes = np.rint(HALF_OCTAVE * np.log2(np.maximum(lengths, 1.0))).astype(np.intp)
    return result


def _distinct(*columns: Codes) -> tuple[Codes, Codes]:
    """Return for each row the place of its combination of whole numbers, and a row of each combination."""
    packed = np.zeros(columns[0].size, dtype=np.int64)
    for column in columns:
        above = column - column.min()
        packed = packed * (int(above.max()) + 1) + above
    _, first, codes = np.unique(packed, return_index=True, return_inverse=True)
    return codes, first


def _quarters(batch: Batch) -> Codes:
    """Return of each deployment the quarter of its engine's age, -1 where the version tells it, shape (d,).

    A run older than the release of its version has none recorded, and neither has a build without a number.
    """
    release = np.array(
        [who.engine_month if version_key(who.engine_version) else np.inf for who in batch.identities]
    )
    month = batch.system.engine_month
    told = month >= release[batch.who] - RELEASED_BEFORE
    result: Codes = np.where(told, -1, np.floor(month / 3.0)).astype(np.intp)
    return result


def _quarter_words(quarter: int) -> str:
    year, part = divmod(quarter, 4)
    return f"{EPOCH.year + year}Q{part + 1}"


def _minor(who: Identity) -> str:
    numbers = version_key(who.engine_version) or ()
    return ".".join(map(str, numbers[: MINOR_PARTS[who.engine]]))


def paced(load: Load, tpot: Array) -> Load:
    """Return loads whose arrivals come as much faster as tokens take longer.

    An engine whose tokens take f times as long is at a rate r as full as the predicted one at f r. What the physics
    says of that rate is brought to f times the time by `levelled`.

    Parameters
    ----------
    load : Load
        n rows.
    tpot : ndarray, shape (n,)
        Factors on TPOT.
    """
    if load.request_rate is None:
        return load
    return replace(
        load, request_rate=np.where(load.kind == OPEN, load.request_rate * tpot, load.request_rate)
    )


def levelled(service: Service, load: Load, ttft: Array, tpot: Array) -> Service:
    """Return a service whose TTFT and TPOT are multiplied, and all that follows from them with it.

    Parameters
    ----------
    service : Service
        n rows; of open loads under arrivals as `paced`.
    load : Load
        n rows, as they are asked about.
    ttft, tpot : ndarray, shape (n,)
        Factors.

    Notes
    -----
    End to end is TTFT + the answer's time, which scales as TPOT does. A closed loop, a burst or a static batch yields
    as much less as a request takes longer (Little's law). An open one yields what arrives until its end comes, and
    sustains as much less as a token takes longer.
    """
    ends = {
        name: getattr(service, f"ttft_{name}_s") * ttft
        + (getattr(service, f"e2e_{name}_s") - getattr(service, f"ttft_{name}_s")) * tpot
        for name in ("mean", "median")
    }
    is_open, end_s = load.kind == OPEN, service.e2e_mean_s / load.num_prompts
    spread = service.spread
    first = {
        name: getattr(spread, name) * ttft
        for name in ("fixed_s", "even_s", "queue_s", "first_low_s", "first_high_s")
    }
    return service._replace(
        ttft_mean_s=service.ttft_mean_s * ttft,
        ttft_median_s=service.ttft_median_s * ttft,
        tpot_s=service.tpot_s * tpot,
        e2e_mean_s=ends["mean"],
        e2e_median_s=ends["median"],
        requests_s=np.where(
            is_open,
            1.0 / ((1.0 / service.requests_s - end_s) * tpot + ends["mean"] / load.num_prompts),
            service.requests_s * service.e2e_mean_s / ends["mean"],
        ),
        sustainable_s=service.sustainable_s / tpot,
        spread=spread._replace(**first, tpot_deviation_s=spread.tpot_deviation_s * tpot),
    )
