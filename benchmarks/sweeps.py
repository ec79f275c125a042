"""The published runs as sweeps: what one model on one GPU under one engine yields, over deployments and concurrency.

    from benchmarks.sweeps import MEASUREMENTS, closed_runs, sweeps
    for sweep in sweeps(closed_runs(MEASUREMENTS), fewest=8): ...

A configuration is a deployment under one concurrency. Measurements of one configuration are one: their geometric mean.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aicalib.calibrate.build import fittable, to_fit, usable, without_ttft
from aicalib.calibrate.runs import Runs, as_runs
from aicalib.calibrate.ship import shipped_runs
from aicalib.nearness import DEPTHS, paths
from aicalib.serving.load import CLOSED

Array = NDArray[np.float64]
Codes = NDArray[np.intp]

MEASUREMENTS = Path(__file__).parent.parent / "measurements"

FEWEST = 8
"""Configurations of a sweep at least, where nothing else is said."""


@dataclass(frozen=True)
class Sweep:
    """What was published of one model, GPU, engine and workload.

    Attributes
    ----------
    model, gpu, engine : str
    isl, osl : float
        Nominal tokens of a request.
    range_ratio : float or None
        Shortest over longest length as the client drew them, None where the source does not say.
    runs : Runs
        One row a configuration, n of them; `runs.measured` are geometric means over its measurements.
    deployment : ndarray of int, shape (n,)
        Which deployment each configuration is of: formats, engine version, widths, speculation, separate prefill.
        Settings that a source derives from the concurrency (graph sizes, most running requests) tell none apart.
    measurements : ndarray of int, shape (n,)
        How many runs stand behind each configuration.
    tok_s_per_gpu : ndarray, shape (n,)
        Output tokens a second and GPU.
    derived : bool
        The throughput was not recorded: it is concurrency x OSL / (TTFT + TPOT (OSL - 1)) (Little's law).
    """

    model: str
    gpu: str
    engine: str
    isl: float
    osl: float
    range_ratio: float | None
    runs: Runs
    deployment: Codes
    measurements: Codes
    tok_s_per_gpu: Array
    derived: bool

    @property
    def name(self) -> str:
        """One line: "minimax-m2 b200-sxm vllm 1024/1024"."""
        drawn = "" if self.range_ratio is None else f" drawn from {self.range_ratio:g}"
        return f"{self.model} {self.gpu} {self.engine} {self.isl:g}/{self.osl:g}{drawn}"

    @property
    def group(self) -> tuple[str, str]:
        """Model family and GPU: what is left out together (`aicalib.calibrate.validate.group_labels`)."""
        _, family, gpu = self.runs.groups[0]
        return family, gpu

    @property
    def concurrency(self) -> Array:
        """Requests in flight, shape (n,)."""
        return self.runs.batch.load.concurrency

    @property
    def ttft_ms(self) -> Array:
        """Measured TTFT, NaN where it was not, shape (n,)."""
        return self.runs.measured["ttft_ms"]

    @property
    def tpot_ms(self) -> Array:
        """Measured TPOT, NaN where it was not, shape (n,)."""
        return self.runs.measured["tpot_ms"]

    def take(self, chosen: Codes) -> Sweep:
        """Return the sweep of some of its configurations."""
        return replace(
            self,
            runs=self.runs.take(chosen),
            deployment=self.deployment[chosen],
            measurements=self.measurements[chosen],
            tok_s_per_gpu=self.tok_s_per_gpu[chosen],
        )


def published(folder: Path = MEASUREMENTS) -> tuple[Runs, Runs]:
    """Return the runs of a measurements folder that a fit sees, and all those of a closed loop.

    Both as the scoreboard reads them: without those that a flag leaves out (repeats among them) or that may have
    speculated unrecorded. Those with speculation or separate prefill instances, of which the scoreboard has tables of
    their own, are among the latter.
    """
    records = shipped_runs(folder)
    fitted, _, _ = to_fit(records)
    every = without_ttft(as_runs(usable(records)[0]))
    doubted = set(fittable(every).column("run_id")) - set(fitted.column("run_id"))
    known = np.array([run_id not in doubted for run_id in every.column("run_id")], dtype=bool)
    return fitted, every.take(np.flatnonzero(known & (every.batch.load.kind == CLOSED)))


def closed_runs(folder: Path = MEASUREMENTS) -> Runs:
    """Return the runs of a closed loop of a measurements folder, as `published` has them."""
    return published(folder)[1]


def sweeps(runs: Runs, fewest: int = FEWEST) -> list[Sweep]:
    """Group runs by model, GPU, engine and workload; largest first.

    Parameters
    ----------
    runs : Runs
        Of a closed loop.
    fewest : int
        Distinct configurations that a group needs: each with TPOT and throughput.
    """
    labels = _labels(runs)
    found = []
    for label in sorted(set(labels), key=repr):
        part = runs.take(np.array([at for at, each in enumerate(labels) if each == label], dtype=np.intp))
        found += [sweep for sweep in [_sweep(label, part)] if sweep is not None]
    kept = [sweep for sweep in found if sweep.deployment.size >= fewest]
    return sorted(kept, key=lambda sweep: (-sweep.deployment.size, sweep.name))


def deployments_alone(found: Iterable[Sweep], fewest: int = FEWEST) -> Iterator[Sweep]:
    """Yield of each sweep the concurrency at which most deployments were measured, if they are enough.

    Of a deployment that was measured there under several settings the fastest stands for it.
    """
    for sweep in found:
        counts = {
            each: np.unique(sweep.deployment[sweep.concurrency == each]).size
            for each in np.unique(sweep.concurrency)
        }
        most = max(counts, key=lambda each: (counts[each], each))
        if counts[most] < fewest:
            continue
        fastest: dict[int, int] = {}
        for at in np.flatnonzero(sweep.concurrency == most).tolist():
            code = int(sweep.deployment[at])
            if code not in fastest or sweep.tok_s_per_gpu[at] > sweep.tok_s_per_gpu[fastest[code]]:
                fastest[code] = at
        yield sweep.take(np.array(sorted(fastest.values()), dtype=np.intp))


Label = tuple[str, str, str, float, float, float | None]


def _labels(runs: Runs) -> list[Label]:
    """Return model, GPU, engine, nominal lengths and the range that they were drawn from, of each run."""
    batch, load = runs.batch, runs.batch.load
    found: list[Label] = []
    for at, (code, record) in enumerate(zip(batch.codes, runs.answered, strict=True)):
        who, ratio = batch.identities[code], record.get("range_ratio")
        isl, osl = (float(record.get(side) or round(getattr(load, side)[at])) for side in ("isl", "osl"))
        found.append((who.architecture.name, who.accelerator.name, who.engine, isl, osl, ratio))
    return found


def _sweep(label: Label, runs: Runs) -> Sweep | None:
    """Return the sweep of the runs of one label, None where none has a throughput.

    Throughput is taken as recorded or as derived, whichever more configurations have; never a mix of both.
    """
    load, measured = runs.batch.load, runs.measured
    recorded = measured["output_tok_s"]
    end_s = (measured["ttft_ms"] + measured["tpot_ms"] * (load.osl - 1.0)) / 1e3
    by_latency = load.concurrency * load.osl / end_s
    has_step = np.isfinite(measured["tpot_ms"])
    is_derived = bool((np.isfinite(by_latency)).sum() > (np.isfinite(recorded) & has_step).sum())
    rate = by_latency if is_derived else recorded
    known = np.flatnonzero(np.isfinite(rate) & has_step)
    if not known.size:
        return None
    runs, rate = runs.take(known), rate[known] / runs.batch.n_gpus[known]
    coarse, fine = _deployments(runs)
    configurations: dict[Hashable, list[int]] = {}
    for at, key in enumerate(zip(fine, runs.batch.load.concurrency.tolist(), strict=True)):
        configurations.setdefault(key, []).append(at)
    members = [np.array(each, dtype=np.intp) for each in configurations.values()]
    first = np.array([each[0] for each in members], dtype=np.intp)
    means = {metric: _means(values, members) for metric, values in runs.measured.items()}
    codes = {key: code for code, key in enumerate(sorted({coarse[at] for at in first}))}
    return Sweep(
        *label,
        runs=replace(runs.take(first), measured=means),
        deployment=np.array([codes[coarse[at]] for at in first], dtype=np.intp),
        measurements=np.array([each.size for each in members], dtype=np.intp),
        tok_s_per_gpu=_means(rate, members),
        derived=is_derived,
    )


def _deployments(runs: Runs) -> tuple[list[str], list[str]]:
    """Return of each run what names its deployment, and all that is known of it."""
    batch = runs.batch
    codes, _, keys = paths(batch, np.arange(batch.at.size))[DEPTHS.index("configuration")]
    coarse, fine = [], []
    for at, code in enumerate(codes):
        each = batch.deployment(at)
        coarse.append(f"{keys[code]} {each.identity.engine_version} {each.disaggregation or ''}")
        fine.append(repr({name: value for name, value in each.as_dict().items() if name != "notes"}))
    return coarse, fine


def _means(values: Array, members: list[Codes]) -> Array:
    """Return the geometric mean of each configuration's figures that were measured, NaN where none was."""
    known = [values[each][np.isfinite(values[each])] for each in members]
    return np.array([np.exp(np.log(each).mean()) if each.size else np.nan for each in known])
