"""How a loop goes and when it ends, told from its journal: budgets, repeats, and what is not tried again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aicalib.calibrate.build import LEFT_OUT_FLAGS
from aicalib.errors import InvalidValue
from aicalib.loop.next import Next
from aicalib.loop.state import Asked, Came, State

MOST_TRIES: Final = 2
"""Times that a run is measured whose figures are not used since a flag doubts them: once more, and no more."""

ENDS: Final = ("settled", "runs", "minutes", "nothing_left", "too_many_failures", "every_start_failed")
"""Why a loop ends: the choice is settled; a budget is spent; every run was measured or tried in vain; so many runs in
a row failed that something else than the task must be wrong; every start failed, and would again."""


@dataclass(frozen=True)
class Rules:
    """How a loop goes.

    Attributes
    ----------
    runs : int, optional
        Measured runs at most, those of earlier sessions of the journal included.
    minutes : float, optional
        Minutes at most, likewise. After the first, no run is begun that is expected to end later.
    spend : bool
        Go on where the choice is settled, until the budget is spent; where everything was measured, with repeats.
    repeat_every : int
        One of so many measured runs is a repeat of an earlier one at another occasion; 0 for none.
    most_failures : int
        Failures in a row after which it ends.

    Raises
    ------
    InvalidValue
        For a number that is none of these, or for `spend` without a budget.
    """

    runs: int | None = None
    minutes: float | None = None
    spend: bool = False
    repeat_every: int = 5
    most_failures: int = 3

    def __post_init__(self) -> None:
        for name, value in (("runs", self.runs), ("minutes", self.minutes), ("failures", self.most_failures)):
            if value is not None and not value > 0:
                raise InvalidValue(f"--{name} {value:g} is not above 0", [f"--{name} 10"])
        if self.repeat_every < 0 or self.repeat_every == 1:
            raise InvalidValue(
                f"--repeat-every {self.repeat_every}: one of how many runs is a repeat", ["0 for none", "5"]
            )
        if self.spend and self.runs is None and self.minutes is None:
            raise InvalidValue("--spend needs a budget to spend", ["--runs 20", "--minutes 60"])

    def end(self, state: State, found: Next, spent_s: float) -> tuple[str, str] | None:
        """Return why a loop ends now, one of `ENDS`, and in words; None where it goes on."""
        if state.failed_in_a_row >= self.most_failures:
            last = state.came[max(state.came)].facts
            why = last.get("message") or last.get("reason")
            return "too_many_failures", f"{state.failed_in_a_row} runs in a row failed; the last one: {why}"
        if self.runs is not None and state.runs >= self.runs:
            return "runs", f"{state.runs} of {self.runs} runs are measured"
        if self.minutes is not None and (left := self.minutes - spent_s / 60.0) <= 0.0:
            return "minutes", f"{self.minutes:g} minutes are spent"
        if state.pending:
            return None
        if found.settled and not self.spend:
            return "settled", found.reason
        if not found.runs:
            repeats = self.spend and self.repeat_every and repeatable(state)
            return None if repeats else (("settled" if found.settled else "nothing_left"), found.reason)
        cost = found.runs[0].cost_minutes
        if self.minutes is not None and state.runs and cost > left:
            return (
                "minutes",
                f"{left:.1f} of {self.minutes:g} minutes are left, and the next run takes {cost:.1f}",
            )
        return None

    def repeat(
        self, state: State, occasion: str | None, chosen: set[str], more: bool
    ) -> tuple[Asked, Came] | None:
        """Return the run to be repeated now; None where no repeat is due, or nothing can be.

        Parameters
        ----------
        state : State
        occasion : str or None
            Of the engine that is up.
        chosen : set of str
            Keys of the present choice: its runs matter most.
        more : bool
            Whether runs are left that were not measured.

        Notes
        -----
        What was measured least often comes first, of that what was measured at another occasion than this, of that the
        choice, and of that the oldest: repeats lie as far apart in time as they can.
        """
        good = [asked for asked in state.asked if usable(state.came.get(asked.number))]
        since = next((at for at, asked in enumerate(reversed(good)) if asked.repeat), len(good))
        if not self.repeat_every or (more and since < self.repeat_every - 1):
            return None
        times = [asked.key for asked in good]
        return min(
            ((asked, state.came[asked.number]) for asked in repeatable(state)),
            key=lambda each: (
                times.count(each[0].key), each[1].facts.get("occasion") == occasion, each[0].key not in chosen,
                each[0].number,
            ),
            default=None,
        )  # fmt: skip


def usable(came: Came | None) -> bool:
    """Tell whether something was measured that no flag doubts."""
    return came is not None and not came.failed and not set(came.facts.get("flags", ())) & set(LEFT_OUT_FLAGS)


def repeatable(state: State) -> list[Asked]:
    """Return the asks that a repeat can be of: first runs of their points that came to something."""
    out = excluded(state)
    return [
        asked
        for asked in state.asked
        if not asked.repeat and asked.key not in out and usable(state.came.get(asked.number))
    ]


def excluded(state: State) -> set[str]:
    """Return the keys of the runs that are not tried again.

    Those that failed in this session, and all of a start that did; what fails whenever it is tried is known from the
    store. And those that were measured as often as makes sense and are not known for it, since a flag doubts them.
    """
    out: set[str] = set()
    tried: list[str] = []
    for asked in state.asked:
        came = state.came.get(asked.number)
        if came is None:
            continue
        if came.failed and asked.number > state.before:
            out.add(asked.key)
            out.update(asked.facts["start"] if came.kind == "start_failed" else ())
        if not asked.repeat and not came.failed:
            tried.append(asked.key)
    return out | {key for key in tried if tried.count(key) >= MOST_TRIES}
