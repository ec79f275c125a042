"""An engine that is the model itself with hidden levels: measures what is planned, as files and in the store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aicalib.calibrate.runs import as_runs
from aicalib.calibrate.spellings import alike
from aicalib.measure.client import Load
from aicalib.measure.facts import Outcome, Planned
from aicalib.measure.results import deployment_keys, keep, keep_start, write_sidecar
from aicalib.prediction import predict_batch
from aicalib.profiles.profile import Profile, default_profile
from perfdb import read_records

PROMPTS = 64


@dataclass
class Simulated:
    """A measuring side.

    Attributes
    ----------
    store, folder : Path
    truth : callable
        Launch line -> factors on TTFT and TPOT that no prediction knows.
    noise, between : float
        Standard deviation of the logarithm between repeats, and between occasions.
    start_fails, run_fails, lumped : callable
        Launch line (and load) -> whether the engine does not start, its client comes to nothing, its stream is read in
        lumps.
    tick : callable
        Called wherever a kill may strike, with what was just done.
    """

    store: Path
    folder: Path
    truth: Callable[[str], tuple[float, float]] = lambda line: (1.0, 1.0)
    noise: float = 0.0
    between: float = 0.0
    start_fails: Callable[[str], bool] = lambda line: False
    run_fails: Callable[[str, Load], bool] = lambda line, load: False
    lumped: Callable[[str, Load], bool] = lambda line, load: False
    tick: Callable[[str], object] = lambda what: None
    profile: Profile = field(default_factory=default_profile)
    closed: int = 0

    def __call__(self, planned: Iterable[Planned]) -> Generator[Outcome]:
        """Measure, one load after the other, and yield each fact."""
        try:
            for each in planned:
                yield from self._occasion(each)
        finally:
            self.closed += 1

    def _occasion(self, planned: Planned) -> Iterator[Outcome]:
        occasion = f"occasion-{sum(1 for path in self.folder.iterdir() if path.is_dir()):03d}"
        folder = self.folder / occasion
        folder.mkdir()
        line, keys = planned.start.line(), deployment_keys(planned.deployment, None, None)
        self.tick("folder")
        if self.start_fails(line):
            record = {**keys, "outcome": "failed", "reason": "out_of_memory", "message": "no memory is left",
                      "lasting": True, "launch": line, "occasion": occasion}  # fmt: skip
            keep_start(self.store, folder / f"{occasion}-start_failed.jsonl", record)
            self.tick("failure stored")
            yield Outcome("start_failed", planned, occasion, 5.0, None, "out_of_memory", "no memory is left")
            return
        yield Outcome("started", planned, occasion, 30.0)
        shift = self.between * self._normal(occasion)
        for number, load in enumerate(planned.levels, 1):
            self.tick("load taken")
            if self.run_fails(line, load):
                yield Outcome(
                    "run_failed", planned, occasion, 1.0, load, "wrote_nothing", "the client wrote nothing"
                )
                continue
            path = folder / f"{number:03d}.jsonl"
            context = {**keys, "occasion": occasion, "seed": number, "num_prompts": PROMPTS}
            write_sidecar(path, context)
            figures = self._figures(planned, load, shift, f"{occasion} {number}")
            lumped = self.lumped(line, load)
            row = {
                "tag": f"{occasion} {number}",
                **self._asked(load),
                **figures,
                "median_itl_ms": 0.001 if lumped else figures["mean_tpot_ms"],
            }
            text = json.dumps(row)
            path.write_text(text[: len(text) // 2])
            self.tick("half a result")
            path.write_text(text + "\n")
            self.tick("result")
            run_id = read_records(path, alike=alike).records[0]["run_id"]
            flags = keep(self.store, path, run_id, {})
            self.tick("stored")
            yield Outcome(
                "run", planned, occasion, 20.0, load, run_ids=(run_id,), raw=path, figures=figures,
                flags=flags,
            )  # fmt: skip

    def figures(self, planned: Planned, load: Load) -> dict[str, float]:
        """Return what an engine without noise measures."""
        ttft, tpot = self.truth(planned.start.line())
        keys = deployment_keys(planned.deployment, None, None)
        runs = as_runs([keys | self._asked(load) | {"mean_tpot_ms": 1.0}])
        mean = predict_batch(runs.batch, self.profile).mean
        ttft_ms = float(mean["ttft_ms"].value[0]) * ttft
        tpot_ms = float(mean["tpot_ms"].value[0]) * tpot
        e2e_ms = ttft_ms + tpot_ms * (load.osl - 1)
        rate = (load.concurrency or 1) * load.osl / e2e_ms * 1e3
        return {"mean_ttft_ms": ttft_ms, "mean_tpot_ms": tpot_ms, "mean_e2e_ms": e2e_ms, "output_tok_s": rate}

    def _asked(self, load: Load) -> dict[str, object]:
        return {
            "isl": load.isl, "osl": load.osl, "range_ratio": 1.0, "load": "closed", "concurrency": load.concurrency,
            "num_prompts": PROMPTS, "spec_decode": False, "warmed_up": True,
        }  # fmt: skip

    def _figures(self, planned: Planned, load: Load, shift: float, seed: str) -> dict[str, float]:
        found = self.figures(planned, load)
        factor = float(np.exp(shift + self.noise * self._normal(seed)))
        return {
            name: value / factor if name == "output_tok_s" else value * factor
            for name, value in found.items()
        }

    def _normal(self, seed: str) -> float:
        digest = hashlib.sha256(seed.encode()).digest()
        return float(np.random.default_rng(int.from_bytes(digest[:8], "big")).standard_normal())
