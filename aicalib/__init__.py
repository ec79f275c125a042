"""aicalib: predict LLM serving from an analytical model, and calibrate it to real benchmark runs.

    >>> import aicalib
    >>> deployment, workload = aicalib.question(model="llama-70b", gpu="h100-sxm", gemm="fp8")
    >>> prediction = aicalib.predict(deployment, workload)
    >>> prediction.mean["tpot_ms"].value.shape
    (1,)

Heavy libraries are loaded by the functions that need them, not by this import.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from aicalib.calibrate.evaluate import Evaluation
    from aicalib.deployment import Deployment, Workload
    from aicalib.plan.workers import Where
    from aicalib.prediction import Prediction
    from aicalib.profiles import Profile

__version__ = "0.1.0"
__all__ = ["calibrate", "evaluate", "predict", "predict_many", "question"]


def question(**options: Any) -> tuple[Deployment, Workload]:
    """Return a deployment and a workload from the options of `aicalib predict` (underscores for hyphens).

    Raises
    ------
    RequestError
        With the reason and what would work.
    """
    from aicalib.resolve.rows import question

    return question(**options)


def predict(deployment: Deployment, workload: Workload, profile: Profile | None = None) -> Prediction:
    """Predict one deployment under one workload; see `aicalib.prediction.predict`."""
    from aicalib.prediction import predict

    return predict(deployment, workload, profile)


def predict_many(
    frame: pd.DataFrame, profile: Profile | None = None, where: Where | None = None
) -> pd.DataFrame:
    """Predict a table, one row a configuration; see `aicalib.prediction.predict_many`.

    `where` is an `aicalib.plan.workers.Where`: so many cores of this machine, or the workers of a Dask scheduler.
    """
    if where is not None:
        from aicalib.plan.table import predict_table

        return predict_table(frame, profile, where)
    from aicalib.prediction import predict_many

    return predict_many(frame, profile)


def evaluate(records: Iterable[Mapping[str, Any]], profile: Profile | None = None) -> Evaluation:
    """Score a profile on measured runs without fitting on them; see `aicalib.calibrate.evaluate.evaluate`."""
    from aicalib.calibrate.evaluate import evaluate
    from aicalib.profiles import default_profile

    return evaluate(records, profile or default_profile())


if TYPE_CHECKING:
    from aicalib.calibrate.build import calibrate
else:
    from aicalib import calibrate  # a package that is also the function; it imports nothing heavy
