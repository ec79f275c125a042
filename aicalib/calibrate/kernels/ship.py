"""Rebuild the shipped surfaces: tables of kernel timings into a store, fits, and the two files of the package."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZipFile

import numpy as np
from threadpoolctl import threadpool_limits

from aicalib.calibrate.kernels.families import TABLES
from aicalib.calibrate.kernels.fit import Fit, fit_kind
from aicalib.calibrate.kernels.samples import collect
from aicalib.calibrate.kernels.table import ENGINE
from perfdb import Store

SOURCE = "PyPI package aiconfigurator-core 0.12.0, systems/data: timings of SGLang kernels, and of all engines' scales"
LICENCE = "Apache-2.0"

Progress = Callable[[str, int], AbstractContextManager[Callable[..., None]]]
"""(what, number of steps) -> a context that yields a call for each step."""


def load(wheel: Path, store: Store, progress: Progress) -> None:
    """Take the tables that are read out of the wheel into a store; those already stored are passed over."""
    with ZipFile(wheel) as archive, TemporaryDirectory() as scratch:
        wanted = [name for name in sorted(archive.namelist()) if _is_table(name)]
        with progress("kernel tables", len(wanted)) as tick:
            for name in wanted:
                store.ingest(archive.extract(name, scratch))
                tick()


def _is_table(name: str) -> bool:
    """Tell whether a file of the wheel is a table of SGLang's kernels, or of another engine's that a kind reads."""
    path = PurePosixPath(name)
    engines = {ENGINE, *(engine for table in TABLES if path.stem in table.tables for engine in table.engines)}
    return "/systems/data/" in name and path.suffix == ".parquet" and not engines.isdisjoint(path.parts)


def fit_all(store: Store, progress: Progress) -> dict[str, Fit]:
    """Fit and score every kind of kernel, by its name."""
    samples = {}
    with progress("kernel runs", len(TABLES)) as tick:
        for table in TABLES:
            samples[table.kind.name] = collect(store, table)
            tick()
    with progress("surfaces", sum(map(len, samples.values()))) as tick, threadpool_limits(1):
        return {table.kind.name: fit_kind(table, samples[table.kind.name], tick) for table in TABLES}


def write(fits: dict[str, Fit], folder: Path) -> None:
    """Write `kernels.npz` and `kernels.json` into a folder, the same bytes for the same surfaces."""
    arrays = {name: fit.surfaces for name, fit in fits.items()}
    np.savez_compressed(folder / "kernels.npz", allow_pickle=False, **arrays)
    document = {"source": SOURCE, "licence": LICENCE, "engine": ENGINE}
    kinds = ",\n".join(f" {json.dumps(name)}: {{\n{_lines(fit)}\n }}" for name, fit in fits.items())
    head = json.dumps(document, indent=1).removesuffix("\n}")
    (folder / "kernels.json").write_text(f'{head},\n "kinds": {{\n{kinds}\n }}\n}}\n')


def _lines(fit: Fit) -> str:
    """Return what `kernels.json` says of a kind: a line for each label and each score."""
    columns: dict[str, list[Any]] = {
        "labels": [list(label) for label in fit.labels],
        "rows": fit.rows,
        "engine_versions": [list(versions) for versions in fit.engine_versions],
    }
    parts = [f"  {json.dumps(name)}: {json.dumps(column)}" for name, column in columns.items()]
    scores = ",\n".join(f"   {json.dumps(score)}" for score in fit.scores)
    return ",\n".join([*parts, f'  "scores": [\n{scores}\n  ]'])
