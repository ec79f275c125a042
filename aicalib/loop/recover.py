"""What a kill left unanswered: a run that was measured, or a start that failed, found in the files of its occasion."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from aicalib.engines.launch import Launch
from aicalib.loop.state import Asked, State
from aicalib.measure.client import Load
from aicalib.measure.results import FIGURES, ResultRefused, checked, keep, keep_start
from aicalib.measure.server import model_of

SIDECAR = ".toml"


class Recovered(NamedTuple):
    """What an ask came to: as `Came` has it."""

    kind: str
    run_ids: tuple[str, ...]
    facts: Mapping[str, Any]


def launch_of(facts: Mapping[str, Any]) -> Launch:
    """Return a launch as it was journaled."""
    said = facts["launch"]
    return Launch(
        said["engine"], said["engine_version"], tuple(said["argv"]), dict(said["env"]), dict(said["files"])
    )


def load_of(facts: Mapping[str, Any]) -> Load:
    """Return a load as it was journaled."""
    return Load(**facts["load"])


def recovered(folder: Path, store: Path, asked: Asked, state: State) -> Recovered | None:
    """Return what an ask came to before a kill, in the store when this returns; None where it came to nothing yet.

    Parameters
    ----------
    folder : Path
        Holds a folder for each occasion.
    store : Path
    asked : Asked
        Without an answer.
    state : State
        Runs and failures that have answered another ask are not this one's.

    Notes
    -----
    A client writes its file in one go when it is done, and the sidecar is there before: a file that is whole and is of
    the load asked is a run that was measured. A start that failed is written down before it is stored.
    """
    launch, load = launch_of(asked.facts), load_of(asked.facts)
    answered = {run_id for came in state.came.values() for run_id in came.run_ids}
    for sidecar in sorted(folder.glob(f"*/*{SIDECAR}"), reverse=True):
        path = sidecar.with_suffix("")
        context = tomllib.loads(sidecar.read_text(encoding="utf-8"))
        try:
            run = checked(path, load, context["num_prompts"], model_of(launch))
        except ResultRefused:
            continue
        if run["run_id"] in answered:
            continue
        facts = {
            "occasion": context.get("occasion"),
            "flags": list(keep(store, path, run["run_id"], {})),
            "measured": {name: run[name] for name in FIGURES if run.get(name) is not None},
            "raw": str(path),
        }
        return Recovered("measured", (run["run_id"],), facts)
    over = {came.facts.get("occasion") for came in state.came.values() if came.failed}
    for kind in ("start_failed", "died"):
        for path in sorted(folder.glob(f"*/*{kind}.jsonl"), reverse=True):
            try:
                said = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:  # half of it was written
                continue
            under = said.get("under") in (None, load._asdict())
            if said.get("occasion") in over or said.get("launch") != launch.line() or not under:
                continue
            keep_start(store, path, said)
            facts = {key: said.get(key) for key in ("occasion", "reason", "message")}
            return Recovered(kind, (), facts)
    return None
