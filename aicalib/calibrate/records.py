"""The one module through which aicalib reads measured runs: from the store, or straight from files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from perfdb import Store, read_records, run_ids
from perfdb.keys import WORKLOAD


def stored_runs(store: Store) -> list[dict[str, Any]]:
    """Return the complete runs of a store, in the runs format with `run_id` and `flags`, ordered by id."""
    return store.query("SELECT * FROM runs WHERE status = 'complete' ORDER BY run_id")


def setting(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return all that is recorded of a stored run's deployment, its version included, and of its client."""
    return (record["config_id"], *(record[key] for key in WORKLOAD))


def point(record: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """Return what a repeat of a stored run has in common with it: its setting but for the lengths that were drawn.

    None of a run that is not stored.
    """
    if record.get("config_id") is None:
        return None
    return (record["config_id"], *(record.get(key) for key in WORKLOAD if not key.endswith("_actual")))


def occasion(record: Mapping[str, Any]) -> str | None:
    """Return the engine start or session that a run was measured at, None where that is not recorded."""
    named = record.get("occasion") or (record.get("extra") or {}).get("occasion")
    return str(named) if named else None


_PLAIN = "SELECT c.*, r.* EXCLUDE (config_id) FROM run_records r JOIN configurations c USING (config_id)"


def fastest_runs(store: Store) -> list[dict[str, Any]]:
    """Return of each configuration that names its weight format the complete run with the shortest decode step."""
    step = "coalesce(mean_tpot_ms, median_tpot_ms, tpot_ms_unspecified) * coalesce(accept_length, 1)"
    return store.query(
        f"{_PLAIN} WHERE weight_quant IS NOT NULL AND run_id IN (SELECT arg_min(run_id, {step}) FROM run_records "
        "WHERE status = 'complete' GROUP BY config_id, accept_length IS NULL)"
    )


def runs_of(store: Store, config_ids: Iterable[str]) -> list[dict[str, Any]]:
    """Return the complete runs of some configurations, in the runs format without provenance and flags."""
    chosen = ", ".join(f"'{each}'" for each in sorted(config_ids))
    if not chosen:
        return []
    return store.query(f"{_PLAIN} WHERE status = 'complete' AND config_id IN ({chosen}) ORDER BY run_id")


def failed_starts(store: Store) -> list[dict[str, Any]]:
    """Return the starts of engines that came to nothing, oldest first.

    Returns
    -------
    list of dict
        In the format `startup`: the deployment, `outcome` ("failed" before it served, "died" while it did), `reason`
        (one word), `message`, `lasting` (whether the same start would fail again) and `occasion`.
    """
    rows = store.query(
        "SELECT content FROM startups WHERE content ->> 'outcome' IN ('failed', 'died') "
        "ORDER BY content ->> 'occasion', startup_id"
    )
    return [row["content"] for row in rows]


def make_store(path: Path) -> None:
    """Make a store where there is none, and bring an older one to this version."""
    with Store(path):
        pass


def read_store(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return what `stored_runs` and `failed_starts` return of a store file."""
    with Store(path, read_only=True) as store:
        return stored_runs(store), failed_starts(store)


def with_run_ids(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return runs with the hash of their content as `run_id`; one that is no valid run has None."""
    known = list(records)
    lacking = [record for record in known if "run_id" not in record]
    found = iter(run_ids(lacking))
    return [record if "run_id" in record else {**record, "run_id": next(found)} for record in known]


def read_runs(
    files: Iterable[Path],
    context: Mapping[str, Any] | None = None,
    alike: Callable[[str, str, str], bool] | None = None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the runs of files of any known format, and the lines that are none with their reasons.

    Parameters
    ----------
    files : iterable of Path
    context : mapping, optional
        Keys that they lack.
    alike : callable, optional
        As `perfdb.Store.ingest` takes it.
    """
    records: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    for file in files:
        found = read_records(file, context, alike)
        records += found.records
        rejected += [{"file": str(file), "line": each.line, "reason": each.reason} for each in found.rejected]
    return records, rejected


def judged_runs(
    files: Iterable[Path], alike: Callable[[str, str, str], bool] | None = None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the complete runs of files with the flags of every quality rule, and the lines that are none with reasons.

    Rules compare runs with each other, so that they are read into a store that lasts as long as this call.

    Parameters
    ----------
    files : iterable of Path
    alike : callable, optional
        As `perfdb.Store.ingest` takes it.
    """
    from aicalib.calibrate.limits import refresh_flags

    rejected: list[dict[str, Any]] = []
    with TemporaryDirectory() as scratch, Store(Path(scratch) / "judged.duckdb") as store:
        for file in files:
            report = store.ingest(file, alike=alike)
            rejected += [
                {"file": str(file), "line": each.line, "reason": each.reason} for each in report.rejected
            ]
        refresh_flags(store)
        lacking = store.info()["incomplete_runs"]
        rejected += [
            {"file": each["file"], "reason": f"{each['runs']} runs lack {', '.join(each['missing'])}"}
            for each in lacking
        ]
        return stored_runs(store), rejected
