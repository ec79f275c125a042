"""How far off are predictions under random arrivals, which no fit has seen? `python -m benchmarks.open_loads`.

All published runs with a request rate and lengths, each predicted by a profile that saw no run of its model family on
its GPU. Prints the tables of `docs/plan.md`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.calibrate.build import usable, without_ttft
from aicalib.calibrate.runs import Runs, as_runs
from aicalib.calibrate.ship import shipped_runs
from aicalib.calibrate.validate import group_labels
from aicalib.prediction import predict_batch
from aicalib.profiles.profile import default_profile
from aicalib.report.markdown import table
from aicalib.serving.load import OPEN
from benchmarks.choice import profiles_without
from benchmarks.sweeps import MEASUREMENTS

Array = NDArray[np.float64]

NAMES: Final = {"ttft_ms": "TTFT", "tpot_ms": "TPOT", "e2e_ms": "end to end"}

SHARES: Final = (0.0, 0.5, 0.9, 1.0)
"""Shares of the predicted sustainable rate between which runs are counted together."""


class Compared(NamedTuple):
    """One run beside its prediction.

    Attributes
    ----------
    source, engine : str
    share : float
        Request rate over the predicted sustainable rate; from 1 on there is no other prediction.
    logs : dict of str to float
        Metric -> log(predicted / measured), NaN where one of them is missing.
    inside : dict of str to bool
        Metric -> whether the interval holds the measured figure.
    completed : float
        Requests that were answered a second over the predicted sustainable rate, NaN where not recorded.
    """

    source: str
    engine: str
    share: float
    logs: dict[str, float]
    inside: dict[str, bool]
    completed: float


def open_runs() -> tuple[Runs, int]:
    """Return the published open-load runs that can be asked, and how many there are with those that cannot."""
    lines = (MEASUREMENTS / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    published = sum(json.loads(line).get("load") == "open" for line in lines)
    runs = without_ttft(as_runs(usable(shipped_runs(MEASUREMENTS))[0]))
    return runs.take(np.flatnonzero(runs.batch.load.kind == OPEN)), published


def compared(runs: Runs) -> Iterator[Compared]:
    """Yield each run beside what is predicted by a profile that did not see its group."""
    fold, profiles = profiles_without()
    # A group of which no run was fitted is unknown to all profiles: the first answers.
    number = np.array([fold.get(label, 0) for label in group_labels(runs)])
    for at in np.unique(number).tolist():
        part = runs.take(np.flatnonzero(number == at))
        found = predict_batch(part.batch, replace(profiles[at], quantiles=default_profile().quantiles))
        load, most = part.batch.load, found.service.sustainable_s
        assert load.request_rate is not None
        both = {name: found.comparable(name, part.median[name]) for name in NAMES}
        for row, record in enumerate(part.answered):
            measured = {name: float(part.measured[name][row]) for name in NAMES}
            yield Compared(
                source=str(record["source"]),
                engine=str(record["engine"]),
                share=float(load.request_rate[row] / most[row]),
                logs={name: float(np.log(each.value[row] / measured[name])) for name, each in both.items()},
                inside={
                    name: bool(each.low[row] <= measured[name] <= each.high[row])
                    for name, each in both.items()
                },
                completed=float(part.measured["output_tok_s"][row] / load.osl[row] / most[row]),
            )


def latencies(found: Sequence[Compared]) -> Iterator[tuple[object, ...]]:
    """Yield the rows of the table of latencies: off by (median), bias, and how many intervals hold, by load."""
    for source, engine in sorted({(each.source, each.engine) for each in found}):
        for low, high in pairwise(SHARES):
            part = [
                each for each in found
                if (each.source, each.engine) == (source, engine) and low <= each.share < high
            ]  # fmt: skip
            for metric, name in NAMES.items():
                logs = np.array([each.logs[metric] for each in part])
                known = np.isfinite(logs)
                if known.any():
                    off, bias = np.median(np.abs(np.expm1(logs[known]))), np.median(np.expm1(logs[known]))
                    inside = sum(each.inside[metric] for each in part)
                    shares = f"{100 * low:.0f} to {100 * high:.0f} %"
                    yield (source, engine, shares, name, known.sum(), f"{100 * off:.0f} %",
                           f"{100 * bias:+.0f} %", f"{inside} of {known.sum()}")  # fmt: skip


def saturated(found: Sequence[Compared]) -> Iterator[tuple[object, ...]]:
    """Yield the rows of the table of runs at rates that are predicted to be too high."""
    for source, engine in sorted({(each.source, each.engine) for each in found}):
        part = [
            each for each in found if (each.source, each.engine) == (source, engine) and each.share >= 1.0
        ]
        if part:
            done = np.array([each.completed for each in part])
            yield source, engine, len(part), f"{np.median(done):.2f}", f"{done.min():.2f} to {done.max():.2f}"


def main() -> None:
    """Print both tables."""
    runs, known = open_runs()
    found = list(compared(runs))
    print(f"{known} published runs of an open load, {len(found)} of them with lengths of requests\n")
    head = (
        "source",
        "engine",
        "share of the sustainable rate",
        "metric",
        "runs",
        "off by",
        "bias",
        "in the interval",
    )
    print("\n".join(table(head, 4, latencies(found))), end="\n\n")
    head = ("source", "engine", "runs beyond it", "answered over sustainable (median)", "range")
    print("\n".join(table(head, 2, saturated(found))))


if __name__ == "__main__":
    main()
