"""Predict, measure, update: a task's runs on a real engine, one after the other, until the choice is settled.

The measuring side takes the next load when the one before is stored, so that each is chosen by all that is known, and
an engine stays up for as long as the runs worth measuring are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from aicalib.calibrate.records import make_store, read_store
from aicalib.calibrate.shift import HALF_INTERVAL
from aicalib.engines.launch import Launch
from aicalib.loop.candidates import EveryStartFailed
from aicalib.loop.next import Next, NextRun, next_runs
from aicalib.loop.occasions import Scatter
from aicalib.loop.recover import launch_of, load_of, recovered
from aicalib.loop.rules import Rules, excluded
from aicalib.loop.state import Asked, Came, Journal, State
from aicalib.measure.client import Load
from aicalib.measure.facts import Outcome, Planned
from aicalib.plan.tasks.screen import describe
from aicalib.plan.tasks.starts import named
from aicalib.plan.tasks.task import Task
from aicalib.profiles.profile import Profile

Measurer = Callable[[Iterable[Planned]], Generator[Outcome]]
"""What measures: `aicalib.measure.session.measure` with store and place filled in, or a simulation. It takes each load
when the one before is stored, and yields one outcome a load, and one a start that serves."""

FIGURES: Final = {"ttft_ms": "mean_ttft_ms", "tpot_ms": "mean_tpot_ms"}
"""Predicted figures and what a benchmark calls them."""


class Event(NamedTuple):
    """Something that happened, for who watches.

    Attributes
    ----------
    kind : str
        "asked", "serving", "came" or "ended".
    state : State
        Of the journal, now.
    asked : Asked or None
    came : Came or None
    outcome : Outcome or None
        None of what was recovered after a kill.
    found : Next or None
        What was known when the run was chosen, or at the end.
    """

    kind: str
    state: State
    asked: Asked | None = None
    came: Came | None = None
    outcome: Outcome | None = None
    found: Next | None = None


class Ended(NamedTuple):
    """How a loop ended: one of `aicalib.loop.rules.ENDS`, why in words, and what is known then."""

    kind: str
    reason: str
    found: Next


class _Wanted(NamedTuple):
    """A run that was asked for, and whether it needs another occasion than that of the engine that is up."""

    asked: Asked
    fresh: bool = False

    @property
    def launch(self) -> Launch:
        return launch_of(self.asked.facts)

    @property
    def load(self) -> Load:
        return load_of(self.asked.facts)

    def follows(self, other: _Wanted) -> bool:
        """Tell whether it can be measured on the engine that is up for another."""
        return not self.fresh and self.launch == other.launch


class Loop:
    """The loop of a task.

    Parameters
    ----------
    task : Task
    store : Path
        Made where it is not there.
    measure : Measurer
    journal : Journal
        Its folder holds the raw results, a folder an occasion.
    profile : Profile
        What predictions begin with; the runs of the store are known beside it.
    rules : Rules
    gpu, engine_version : str, optional
        As `aicalib.plan.tasks.screen.screen` takes them.
    watch : callable
        Called with each event.
    serving : bool
        A server runs already: what failed when it was started elsewhere does not hold for it.
    """

    def __init__(
        self,
        task: Task,
        store: Path,
        measure: Measurer,
        journal: Journal,
        profile: Profile,
        rules: Rules,
        gpu: str | None = None,
        engine_version: str | None = None,
        watch: Callable[[Event], object] = lambda event: None,
        serving: bool = False,
    ) -> None:
        self._task, self._store, self._measure, self._journal = task, store, measure, journal
        self._profile, self._rules, self._watch = profile, rules, watch
        self._gpu, self._engine_version = gpu or task.gpu, engine_version
        self._serving = serving
        self._up: _Wanted | None = None
        self._occasion: str | None = None
        self._following: _Wanted | None = None
        self._ended: Ended | None = None

    @property
    def state(self) -> State:
        """What was asked and what came, in this session and those before."""
        return self._journal.state

    def run(self) -> Ended:
        """Measure until it ends, and return how.

        Raises
        ------
        RequestError
            If the task leaves nothing to measure, or as the measuring side raises. What was measured stays: another
            loop with this journal goes on.
        """
        make_store(self._store)
        for asked in self.state.pending:
            found = recovered(self._journal.folder, self._store, asked, self.state)
            if found is not None:
                facts = {**found.facts, "recovered": True}
                came = self._journal.answer(asked, found.kind, found.run_ids, **facts)
                self._watch(Event("came", self.state, asked, came))
        first = self._decide()
        if first is not None:
            planned = self._planned(first)
            # Closed in this order, whatever happens: the engine first, then what would plan for it.
            with closing(planned), closing(self._measure(planned)) as outcomes:
                for outcome in outcomes:
                    self._take(outcome)
        assert self._ended is not None
        self._watch(Event("ended", self.state, found=self._ended.found))
        return self._ended

    def _planned(self, first: _Wanted) -> Generator[Planned]:
        """Yield each start that is wanted; its loads are chosen one by one while it is up."""
        wanted: _Wanted | None = first
        while wanted is not None:
            self._up, self._occasion, self._following = wanted, None, None
            yield Planned(wanted.launch, self._loads(wanted), wanted.asked.facts["deployment"])
            self._up = None
            wanted = self._following
            if wanted is None and self._ended is None:  # the engine failed, and no further load was taken
                wanted = self._decide()

    def _loads(self, wanted: _Wanted) -> Iterator[Load]:
        """Yield load after load for as long as the engine that is up is the one that is wanted."""
        following: _Wanted | None = wanted
        while following is not None and (following is wanted or following.follows(wanted)):
            self._up = following
            yield following.load
            following = self._decide()
        self._following = following

    def _decide(self) -> _Wanted | None:
        """Return the run to be measured now, journaled; None where the loop ends."""
        state = self.state
        try:
            found = self._next()
        except EveryStartFailed as error:
            if not state.asked:
                raise
            self._ended = Ended("every_start_failed", str(error), self._next(known_failures=False))
            return None
        end = self._rules.end(state, found, self._journal.spent_s)
        if end is not None:
            self._ended = Ended(*end, found)
            return None
        if state.pending:  # of a loop that was killed
            return _Wanted(state.pending[0], fresh=state.pending[0].repeat)
        chosen = set(_keys(found, found.best.start))
        repeated = self._rules.repeat(state, self._occasion, chosen, bool(found.runs))
        if repeated is None:
            asked = self._journal.ask(found.runs[0].key, False, **_facts(found, found.runs[0], self._gpu))
        else:
            again, before = repeated
            predicted = _as_measured(before, found.scatter)
            facts = {
                **again.facts,
                "predicted": predicted,
                "teaches": "the noise between repeats, and its occasion",
            }
            asked = self._journal.ask(again.key, True, **facts)
        self._watch(Event("asked", state, asked, found=found))
        return _Wanted(
            asked, fresh=repeated is not None and repeated[1].facts.get("occasion") == self._occasion
        )

    def _next(self, known_failures: bool = True) -> Next:
        """Return what is worth measuring now, by all that the store holds, or by its runs alone."""
        records, failures = read_store(self._store)
        if self._serving or not known_failures:
            failures = []
        up = self._up
        return next_runs(
            self._task, records, self._profile, failures=failures, taken=excluded(self.state),
            running=None if up is None else up.asked.key, occasion=self._occasion,
            gpu=self._gpu, engine_version=self._engine_version,
        )  # fmt: skip

    def _take(self, outcome: Outcome) -> None:
        """Journal what the measuring side found out."""
        asked = self.state.pending[0]
        if outcome.kind == "started":
            self._occasion = outcome.occasion
            self._watch(Event("serving", self.state, asked, outcome=outcome))
            return
        facts: dict[str, Any] = {"occasion": outcome.occasion, "took_s": round(outcome.seconds, 2)}
        if outcome.kind == "run":
            facts |= {
                "flags": list(outcome.flags),
                "measured": dict(outcome.figures),
                "raw": str(outcome.raw),
            }
        else:
            facts |= {"reason": outcome.reason, "message": outcome.message}
        kind = "measured" if outcome.kind == "run" else outcome.kind
        came = self._journal.answer(asked, kind, outcome.run_ids, **facts)
        self._watch(Event("came", self.state, asked, came, outcome))


def _keys(found: Next, start: int) -> list[str]:
    """Return the keys of all runs of a start."""
    levels = len(found.candidates.levels)
    return [found.candidates.key(row) for row in range(start * levels, (start + 1) * levels)]


def _facts(found: Next, run: NextRun, gpu: str | None) -> dict[str, Any]:
    """Return what is journaled of a run that is asked for: all that measuring it takes, and what is expected."""
    said = named(run.deployment, found.candidates.screening.task.model, gpu or found.candidates.screening.gpu)
    return {
        "point": describe(found.candidates.starts[run.start].point),
        "load": run.load._asdict(),
        "launch": run.launch.as_dict(),
        "deployment": {name: value for name, value in said.items() if name != "notes"},
        "start": _keys(found, run.start),
        "predicted": {name: list(number) for name, number in run.figures.items()},
        "cost_minutes": round(run.cost_minutes, 3),
        "teaches": run.teaches,
        "best": {"point": found.best.point, "score": list(found.best.score)},
    }


def _as_measured(came: Came, scatter: Mapping[str, Scatter]) -> dict[str, list[float]]:
    """Return what a repeat is expected to measure: what was measured before, both at an occasion of its own."""
    measured = came.facts["measured"]
    wide = {name: HALF_INTERVAL * np.sqrt(2.0) * each.anew for name, each in scatter.items()}
    return {
        name: [float(measured[of] * np.exp(sign * wide[name])) for sign in (0, -1, 1)]
        for name, of in FIGURES.items()
        if measured.get(of) is not None
    }
