"""Which runs a profile was fitted on, and what it predicts of stored runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from perfdb.errors import PredictionsRefused

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

# Without a ratio SGLang's client draws the lengths of its random data set from 1 token on.
_RATIO = "coalesce(range_ratio, CASE WHEN dataset = 'random' AND engine = 'sglang' THEN 0 ELSE 1 END)"
_OSL = f"coalesce(mean_osl_actual, osl * (1 + {_RATIO}) / 2)"
_ISL = f"coalesce(mean_isl_actual, isl * (1 + {_RATIO}) / 2)"
_TTFT = "coalesce(mean_ttft_ms, median_ttft_ms, ttft_ms_unspecified)"
_TPOT = "coalesce(mean_tpot_ms, median_tpot_ms, tpot_ms_unspecified)"

MEASURED: Final[dict[str, str]] = {
    "ttft_ms": _TTFT,
    "tpot_ms": _TPOT,
    "e2e_ms": f"coalesce(mean_e2e_ms, median_e2e_ms, {_TTFT} + {_TPOT} * ({_OSL} - 1))",
    "requests_s": "requests_s",
    "output_tok_s": f"coalesce(output_tok_s, total_tok_s * {_OSL} / ({_ISL} + {_OSL}))",
}
"""What a prediction of each metric is held against, as SQL over the columns of a run: the mean where it was
measured, else the median, else an unspecified figure. End-to-end time and output rate follow from others where they
were not measured."""

COLUMNS: Final = ("run_id", "metric", "value", "low", "high", "origin")


def put_predictions(
    connection: duckdb.DuckDBPyConnection, profile: str, rows: pd.DataFrame | Iterable[Mapping[str, Any]]
) -> int:
    """Keep what a profile predicts of stored runs, in place of what it predicted of them before.

    Parameters
    ----------
    connection : DuckDBPyConnection
        Its present schema is a store's; the caller holds the transaction.
    profile : str
        NAME@VERSION.
    rows : DataFrame or iterable of mapping
        `run_id`, `metric` (one of `MEASURED`), `value`, `low`, `high` (in the unit of the metric; missing without
        an answer), `origin`, and optionally `fitted`: whether the profile was fitted on the run. Without it that is
        looked up among the runs that `put_profile_runs` kept.

    Returns
    -------
    int
        Number of figures kept. Runs that are not stored are passed over.

    Raises
    ------
    PredictionsRefused
        If a column lacks, a metric is none that is kept, or a figure is given twice.
    """
    import pandas as pd

    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    if frame.empty:
        return 0
    absent = [name for name in COLUMNS if name not in frame.columns]
    if absent:
        raise PredictionsRefused(
            f"predictions lack the column {', '.join(absent)}: each has {', '.join(COLUMNS)}"
        )
    unknown = sorted(set(map(str, frame["metric"])) - MEASURED.keys())
    if unknown:
        raise PredictionsRefused(
            f"predictions of {', '.join(unknown)} are not kept: known are {', '.join(MEASURED)}"
        )
    twice = frame.loc[frame.duplicated(["run_id", "metric"]), ["run_id", "metric"]]
    if not twice.empty:
        run_id, metric = twice.iloc[0]
        raise PredictionsRefused(f"{metric} of run {run_id} is predicted twice")
    frame = frame.astype(dict.fromkeys(("value", "low", "high"), "float64"))
    measured = " ".join(f"WHEN '{metric}' THEN {figure}" for metric, figure in MEASURED.items())
    numbers = ", ".join(
        f"CASE WHEN isfinite(given.{name}) THEN given.{name} END AS {name}"
        for name in ("value", "low", "high")
    )
    fitted = (
        "coalesce(CAST(given.fitted AS BOOLEAN), false)"
        if "fitted" in frame.columns
        else "run_id IN (SELECT run_id FROM profile_runs WHERE name || '@' || version = $1)"
    )
    connection.register("given", frame)
    try:
        connection.execute(
            "DELETE FROM predicted WHERE profile = $1 AND (run_id, metric) IN (SELECT (run_id, metric) FROM given)",
            [profile],
        )
        kept = connection.execute(
            f"INSERT INTO predicted BY NAME SELECT $1 AS profile, run_id, config_id, metric, "
            f"CASE metric {measured} END AS measured, {numbers}, CAST(origin AS VARCHAR) AS origin, "
            f"{fitted} AS fitted, CAST($2 AS TIMESTAMP) AS predicted_at "
            "FROM given JOIN run_records USING (run_id) JOIN configurations USING (config_id)",
            [profile, datetime.now(UTC).replace(tzinfo=None)],
        ).fetchone()
    finally:
        connection.unregister("given")
    return int(kept[0]) if kept else 0


def put_profile_runs(
    connection: duckdb.DuckDBPyConnection, name: str, version: str | int, run_ids: Iterable[str]
) -> int:
    """Keep which runs a version of a profile was fitted on; those kept before stay.

    Parameters
    ----------
    connection : DuckDBPyConnection
        Its present schema is a store's; the caller holds the transaction.
    name, version : str
        Of the profile.
    run_ids : iterable of str
        Runs need not be stored: a profile may come from elsewhere.

    Returns
    -------
    int
        Number of runs newly kept.
    """
    place = [name, str(version)]
    kept = connection.execute(
        "INSERT INTO profile_runs BY NAME SELECT DISTINCT $1 AS name, $2 AS version, run_id "
        "FROM (SELECT unnest($3::VARCHAR[]) AS run_id) WHERE run_id IS NOT NULL "
        "AND run_id NOT IN (SELECT run_id FROM profile_runs WHERE name = $1 AND version = $2)",
        [*place, list(run_ids)],
    ).fetchone()
    connection.execute(
        "UPDATE predicted SET fitted = true WHERE profile = $1 || '@' || $2 AND NOT fitted "
        "AND run_id IN (SELECT run_id FROM profile_runs WHERE name = $1 AND version = $2)",
        place,
    )
    return int(kept[0]) if kept else 0
