"""A table of any configurations, predicted in parts on the cores of this machine or on a cluster."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aicalib.errors import NotCovered
from aicalib.plan.workers import HERE, Where, run
from aicalib.prediction import predict_many
from aicalib.profiles.profile import Profile, default_profile
from aicalib.resolve.columns import check_options

if TYPE_CHECKING:
    import pandas as pd

PART: Final = 1 << 17
"""Rows of a part: about a second of work, as a chunk of a sweep."""

_NAMES_OF_FILES: Final = ("model", "gpu", "draft_model")


def predict_table(frame: pd.DataFrame, profile: Profile | None = None, where: Where = HERE) -> pd.DataFrame:
    """Predict a table as `aicalib.prediction.predict_many` does, wherever the work is done.

    Parameters
    ----------
    frame : DataFrame
    profile : Profile, optional
        The shipped default if not given.
    where : Where

    Raises
    ------
    UnknownName
        For a column that is no option.
    NotCovered
        For a cell that is a file of this machine, which the workers of a scheduler do not have; a sweep takes them.
    AicalibError
        As `aicalib.plan.workers.run`.
    """
    import pandas as pd

    check_options({str(name): frame[name] for name in frame.columns})
    if where.scheduler is not None:
        for name in (name for name in _NAMES_OF_FILES if name in frame):
            for word in frame[name].dropna().unique():
                if Path(str(word)).exists():
                    raise NotCovered(
                        f"{name} '{word}' is a file of this machine, which workers of a scheduler do not have",
                        ["Where(jobs=8)", "aicalib sweep"],
                    )
    parts = [frame.iloc[first : first + PART] for first in range(0, max(len(frame), 1), PART)]
    with closing(run(_predicted, profile or default_profile(), parts, where)) as results:
        return pd.concat(list(results))


def _predicted(profile: Profile, part: pd.DataFrame) -> pd.DataFrame:
    return predict_many(part, profile)
