"""The errors that aicalib raises on purpose.

AicalibError
├── WorkLost                what workers of other machines lost on the way: exit status 1
└── RequestError            the request is wrong or refused; the command ends with exit status 2
    ├── UnknownName         a model, accelerator, mode, engine or profile that no table holds
    ├── InvalidValue        a value outside its range, or values that contradict each other
    │   └── Refusal         what an engine cannot start, with the checkpoint that would change it
    ├── NotCovered          a kind or load that the model does not compute, refused by its name
    │   └── NotTimed        a backend that an engine has, of which there are no kernel timings
    └── NoWorkers           workers of other machines that are not there, or are of another version

Every RequestError carries `kind` (a short word for programs), a message that names the value and the
reason, and `alternatives`, what would work instead (possibly empty).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


class AicalibError(Exception):
    """Base of all errors raised on purpose."""


class WorkLost(AicalibError):
    """Work that was lost with its workers, or with the scheduler that gives it to them."""


class RequestError(AicalibError):
    """A request that is wrong or refused.

    Parameters
    ----------
    message : str
        Names the value, the reason and, where there is one, what would work.
    alternatives : sequence of str
        What would work instead.
    """

    kind = "request"

    def __init__(self, message: str, alternatives: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.alternatives = list(alternatives)


class InvalidValue(RequestError):
    """A value outside its range, or values that contradict each other."""

    kind = "invalid_value"


class Refusal(InvalidValue):
    """What an engine cannot start.

    Parameters
    ----------
    message : str
    *candidates : mapping of str to object
        Options to change, nearest first; those that start become the alternatives.
    checkpoint : str, optional
        The checkpoint without which it cannot be.
    """

    def __init__(
        self, message: str, *candidates: Mapping[str, object], checkpoint: str | None = None
    ) -> None:
        super().__init__(message)
        self.candidates = candidates
        self.checkpoint = checkpoint
        if checkpoint is not None:
            self.kind = "needs_checkpoint"


class NotCovered(RequestError):
    """A kind of model or load that the physics does not compute."""

    kind = "not_covered"


class NotTimed(NotCovered):
    """A backend that an engine may have and no kernel timings answer for; those that have some are the alternatives."""


class NoWorkers(RequestError):
    """Workers of other machines that are not there, cannot be reached, or are of another version."""

    kind = "no_workers"


class UnknownName(RequestError):
    """A name that no table holds; the near misses are the alternatives.

    Parameters
    ----------
    what, name : str
    options : iterable of str
    aliases : iterable of str
        Further spellings that are near misses too.
    listed_by : str, optional
        The command that prints all of them.
    """

    kind = "unknown_name"

    def __init__(
        self,
        what: str,
        name: str,
        options: Iterable[str],
        aliases: Iterable[str] = (),
        listed_by: str | None = None,
    ) -> None:
        from difflib import get_close_matches

        known = sorted(options)
        folded = {fold(option): option for option in (*aliases, *known)}
        near = [folded[match] for match in get_close_matches(fold(name), folded, n=4, cutoff=0.5)]
        hint = (
            f"did you mean {', '.join(near)}?"
            if near
            else f"known are {', '.join(known[:12])}" + (", ..." if len(known) > 12 else "")
        )
        hint += f" '{listed_by}' lists all" if listed_by else ""
        super().__init__(f"unknown {what} '{name}'; {hint}", near or known)


def fold(name: str) -> str:
    """Reduce a name to what counts: case, '-', '_', '.', '/', ':' and blanks do not.

    Examples
    --------
    >>> fold("H100-SXM5_80GB") == fold("h100 sxm5 80gb")
    True
    """
    return "".join(character for character in name.lower() if character.isalnum())
