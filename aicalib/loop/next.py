"""The runs worth measuring next: which teach the most about a task's choice, and improve it the most, a minute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aicalib.engines.launch import PORTS, Launch
from aicalib.errors import InvalidValue, NotCovered, UnknownName
from aicalib.loop.acquire import SURE, WITHIN, Base, Decision, Standing, Worth, with_measured, worth
from aicalib.loop.belief import DEVIATE, Belief, Believed, Up, foresee, kernels_of
from aicalib.loop.candidates import ANOTHER, MOST_RUNS, Candidates, candidates, observed
from aicalib.loop.costs import Costs, load_of
from aicalib.loop.occasions import Scatter
from aicalib.measure.client import Load, bench_command
from aicalib.plan.figures import Number
from aicalib.plan.tasks.screen import describe
from aicalib.plan.tasks.task import Task
from aicalib.profiles.profile import Profile, default_profile

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]


NOTHING = 1e-4
"""Share of the best score below which a run is worth nothing."""


@dataclass(frozen=True)
class NextRun:
    """A run worth measuring.

    Attributes
    ----------
    key : str
        The same for this start and load in every process.
    start, level : int
        Places in the candidates' starts and levels.
    launch : Launch
        What starts the engine.
    load : Load
        What the client sends.
    bench : tuple of str
        The engine's own benchmark client; empty where there is none.
    lacking : str or None
        Why there is none: the engine ships none for servers, or the version is older than those that were read.
    deployment, workload : dict
    expected_gain : float
        Expected improvement over the present choice, a share of the best score.
    uncertainty_fall : float
        By how much the expected regret of the choice falls, a share of the best score.
    cost_minutes : float
    restarts : bool
        The engine has to be started for it.
    figures : dict of str to Number
        Predicted: ttft_ms, tpot_ms, total_tok_s_per_gpu.
    teaches : str
        One sentence.
    """

    key: str
    start: int
    level: int
    launch: Launch
    load: Load
    bench: tuple[str, ...]
    lacking: str | None
    deployment: Mapping[str, Any]
    workload: Mapping[str, Any]
    expected_gain: float
    uncertainty_fall: float
    cost_minutes: float
    restarts: bool
    figures: Mapping[str, Number]
    teaches: str


@dataclass(frozen=True)
class Best:
    """The choice that is made now.

    Attributes
    ----------
    start : int
        Place in the candidates' starts.
    point : str
        In words.
    deployment : dict
    launch : Launch
    score : Number
        As `aicalib.plan.score` counts it, lower is better.
    regret : float
        Expected: the share of the best score that the choice loses.
    probability : float
        That it is the best.
    within : float
        Probability that it loses no more than `WITHIN`.
    measured : bool
        All its levels were measured.
    touched : bool
        One of them was.
    """

    start: int
    point: str
    deployment: Mapping[str, Any]
    launch: Launch
    score: Number
    regret: float
    probability: float
    within: float
    measured: bool
    touched: bool


@dataclass(frozen=True)
class Next:
    """What to measure next.

    Attributes
    ----------
    runs : tuple of NextRun
        The most worth a minute first; empty where nothing is left to measure.
    settled : bool
        No run left could change the choice beyond its interval: with probability `SURE` it loses no more than `WITHIN`
        of the best score, and a run of it was measured; or everything was.
    reason : str
        Why it is settled or not.
    best : Best
    candidates : Candidates
    measured : int
        Candidates that were measured.
    scatter : mapping of str to Scatter
        ttft_ms, tpot_ms -> what repeats are expected to differ by.
    notes : tuple of str
    """

    runs: tuple[NextRun, ...]
    settled: bool
    reason: str
    best: Best
    candidates: Candidates
    measured: int
    scatter: Mapping[str, Scatter]
    notes: tuple[str, ...]


def next_runs(
    task: Task,
    records: Iterable[Mapping[str, Any]] = (),
    profile: Profile | None = None,
    count: int = 1,
    *,
    gpu: str | None = None,
    engine_version: str | None = None,
    noise: Mapping[str, float] | None = None,
    failures: Iterable[Mapping[str, Any]] = (),
    taken: Iterable[str] = (),
    running: str | None = None,
    occasion: str | None = None,
    base_url: str | None = None,
    seed: int = 0,
) -> Next:
    """Return the runs of a task that are worth measuring next.

    Parameters
    ----------
    task : Task
    records : iterable of mapping
        Runs of the store (`aicalib.calibrate.records.stored_runs`); their order means nothing.
    profile : Profile, optional
        The shipped default if not given.
    count : int
        Runs at most; they do not repeat each other: each knows that those before it will be measured.
    gpu, engine_version : str, optional
        As `aicalib.plan.tasks.screen.screen` takes them.
    noise : mapping of str to float, optional
        ttft_ms, tpot_ms -> standard deviation of the logarithm between published repeats, and what those of runs with
        an occasion are estimated about; that of `belief.toml` if not given.
    failures : iterable of mapping
        Starts that failed, as `aicalib.calibrate.records.failed_starts` returns them.
    taken : iterable of str
        Keys of runs that shall not be proposed: they are under way, or were tried in vain.
    running : str, optional
        Key of a run whose engine is up: another load on it costs no restart.
    occasion : str, optional
        That of the engine that is up: what its runs were off by is expected of its further ones too.
    base_url : str, optional
        Of the server, for the client's line; the engine's own port on this machine if not given.
    seed : int
        Of the samples, and of the client's prompts.

    Raises
    ------
    InvalidValue
        If `count` is below 1, or as `aicalib.loop.candidates.candidates` raises.
    """
    if count < 1:
        raise InvalidValue(f"--count {count}: at least one run is asked for", ["--count 1"])
    used = profile or default_profile()
    found = candidates(task, records, used, gpu, engine_version, failures)
    keys = [found.key(row) for row in range(found.batch.at.size)]
    up = {keys.index(running) // len(found.levels)} if running in keys else set()
    going = None
    if occasion is not None:
        going = Up(occasion, np.isin(np.arange(len(keys)) // len(found.levels), list(up)))
    kernels = kernels_of(used.spreads, noise)
    foreseen = foresee(found.places, found.widths, kernels, observed(found, used), going)
    belief: Belief = {metric: each.runs for metric, each in foreseen.items()}
    known, plain = found.measured, Base.of(found.plain)
    base, belief = with_measured(plain, belief, known.runs, known.row, known.logs)
    decision = Decision(task.objective, task.bounds, task.steepness, base, len(found.starts))
    scatter = {metric: each.scatter for metric, each in foreseen.items()}
    repeats = {metric: each.anew for metric, each in scatter.items()}
    is_known = np.zeros(len(keys), dtype=bool)
    is_known[found.measured.row[found.measured.row >= 0]] = True
    out = set(taken)
    left = ~is_known & np.array([key not in out for key in keys], dtype=bool)
    costs = Costs(found, base)
    runs: list[NextRun] = []
    now, first = worth(decision, belief, repeats, left, seed)
    value, current = first, belief
    own = np.arange(left.size) // decision.levels == now.best
    unverified = own if now.within(WITHIN) >= SURE and not is_known[own].any() else np.zeros_like(own)
    while len(runs) < count and left.any():
        minutes = costs.minutes(up)
        total = value.gain + value.lesson
        order = np.where(total < NOTHING, 0.0, total) / minutes
        if not runs and (left & unverified).any():
            # A choice that is sure by prediction alone is to be verified before others are looked at.
            order = np.where(unverified, 1.0 / minutes, 0.0)
        # Where nothing is worth anything any more, the choice that is expected to lose least comes first.
        row = max(
            np.flatnonzero(left).tolist(),
            key=lambda at: (order[at], -now.expected[at // decision.levels], -at),
        )
        start = row // decision.levels
        runs.append(
            _run(found, row, keys[row], value, minutes[row], start not in up, foreseen, plain, base_url, seed)
        )
        left = left & (np.arange(left.size) != row)
        up = {start}
        if len(runs) < count and left.any():
            at = np.array([row])
            current = {
                metric: each.given(at, each.mean[at], repeats[metric]) for metric, each in current.items()
            }
            _, value = worth(decision, current, repeats, left, seed)
    best = _best(found, decision, belief, now, is_known)
    settled, reason = _settled(best, is_known, bool(runs))
    return Next(
        tuple(runs), settled, reason, best, found, int(is_known.sum()), scatter,
        (*found.screening.notes, *_left_out(found)),
    )  # fmt: skip


def _left_out(found: Candidates) -> list[str]:
    """Say which starts and which stored runs are not looked at."""
    ignored = found.measured.ignored
    flags = {name: count for name, count in ignored.items() if name != ANOTHER}
    notes = []
    if found.beyond:
        notes.append(
            f"{found.beyond} starts with worse predicted scores are not looked at: more than {MOST_RUNS} runs in all"
        )
    if flags:
        parts = ", ".join(f"{name} {count}" for name, count in flags.items())
        notes.append(f"{sum(flags.values())} stored runs are not used for their flags: {parts}")
    if ANOTHER in ignored:
        notes.append(f"{ignored[ANOTHER]} stored runs are not used: {ANOTHER}")
    return notes


def _run(
    found: Candidates,
    row: int,
    key: str,
    value: Worth,
    minutes: float,
    restarts: bool,
    foreseen: Mapping[str, Believed],
    base: Base,
    base_url: str | None,
    seed: int,
) -> NextRun:
    start, level = divmod(row, len(found.levels))
    ranked, load = found.starts[start], load_of(found, row)
    figures = _figures(base, foreseen, row)
    launch = ranked.arguments.launch()
    url = base_url or f"http://127.0.0.1:{PORTS[launch.engine]}"
    bench: tuple[str, ...] = ()
    lacking = None
    try:
        bench = bench_command(
            launch.engine, launch.engine_version, url, found.screening.task.model, load, seed
        )
    except (UnknownName, NotCovered) as error:
        lacking = str(error)
    return NextRun(
        key=key,
        start=start,
        level=level,
        launch=launch,
        load=load,
        bench=bench,
        lacking=lacking,
        deployment=ranked.deployment,
        workload=found.batch.workload(row).as_dict(),
        expected_gain=float(value.gain[row]),
        uncertainty_fall=float(value.lesson[row]),
        cost_minutes=float(minutes),
        restarts=restarts,
        figures=figures,
        teaches=_teaches(describe(ranked.point), load, value, row),
    )


def _teaches(point: str, load: Load, value: Worth, row: int) -> str:
    """Say what a run is expected to teach."""
    gain, fall = value.gain[row], value.lesson[row]
    if gain + fall < NOTHING:
        return f"that {point} at {load} is as predicted: the choice is not expected to change"
    what = (
        "whether it is better than the present choice"
        if gain >= fall
        else "which of the likely choices is best"
    )
    return (
        f"{what}: {point} at {load} is expected to gain {100 * gain:.1f} %, and to take {100 * fall:.1f} % off "
        "the expected loss of the choice"
    )


def _figures(base: Base, foreseen: Mapping[str, Believed], row: int) -> dict[str, Number]:
    """Return TTFT, TPOT and throughput that a run is expected to measure, with 90 % intervals."""
    found = {}
    for metric, seconds in (("ttft_ms", base.ttft_s[None]), ("tpot_ms", base.tpot_s[None])):
        middle, wide = foreseen[metric].mean[row], DEVIATE * foreseen[metric].deviation[row]
        found[metric] = Number(
            *(float(1e3 * seconds[row] * np.exp(middle + sign * wide)) for sign in (0, -1, 1))
        )
    share = base.ttft_s[None][row], base.decode_s[None][row]
    middles = [foreseen[metric].mean[row] for metric in ("ttft_ms", "tpot_ms")]
    parts = np.array(share) * np.exp(middles)
    # Errors of TTFT and TPOT are independent: those of their sum add in squares.
    wide = float(np.hypot(*(DEVIATE * foreseen[metric].deviation[row] * part / parts.sum()
                            for metric, part in zip(("ttft_ms", "tpot_ms"), parts, strict=True))))  # fmt: skip
    rate = float(base.tok_s_per_gpu[row] * sum(share) / parts.sum())
    found["total_tok_s_per_gpu"] = Number(rate, rate * float(np.exp(-wide)), rate * float(np.exp(wide)))
    return found


def _best(found: Candidates, decision: Decision, belief: Belief, now: Standing, is_known: Flags) -> Best:
    start = found.starts[now.best]
    middle = decision.scores(*(np.exp(belief[metric].mean) for metric in ("ttft_ms", "tpot_ms")))[now.best]
    low, high = np.quantile(now.scores[:, now.best], [0.05, 0.95], method="nearest")
    known = is_known.reshape(-1, decision.levels)[now.best]
    return Best(
        start=now.best,
        point=describe(start.point),
        deployment=start.deployment,
        launch=start.arguments.launch(),
        score=Number(float(middle), float(low), float(high)),
        regret=now.regret,
        probability=float(now.probability[now.best]),
        within=now.within(WITHIN),
        measured=bool(known.all()),
        touched=bool(known.any()),
    )


def _settled(best: Best, is_known: Flags, left: bool) -> tuple[bool, str]:
    """Return whether the choice is settled, and why."""
    sure = f"{100 * best.within:.0f} % sure that the choice loses at most {100 * WITHIN:.0f} % to the best"
    if is_known.all():
        return True, "every run of the task was measured"
    if not left:
        return best.touched, "every run of the task was measured, or is not to be tried"
    if best.within < SURE:
        lost = f"{100 * best.regret:.1f} % are lost on average"
        return False, f"{sure}, {lost}; settled is {100 * SURE:.0f} %"
    if not best.touched:
        return False, f"{sure}, by prediction alone: no run of the choice was measured"
    return True, sure
