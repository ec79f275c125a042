"""What `make kernel-fit` runs: `python -m aicalib.cli.kernel_fit WHEEL STORE FOLDER`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from aicalib.cli.output import print_table, progress

if TYPE_CHECKING:
    from aicalib.calibrate.kernels.fit import Fit
    from aicalib.calibrate.kernels.table import Table


def main(wheel: Path, store_path: Path, folder: Path) -> None:
    """Load the tables of a wheel into a store, fit the surfaces, write them into a folder, print their errors."""
    from aicalib.calibrate.kernels.families import TABLES
    from aicalib.calibrate.kernels.ship import fit_all, load, write
    from perfdb import Store

    with Store(store_path) as store:
        load(wheel, store, progress)
        fits = fit_all(store, progress)
    write(fits, folder)
    for table in TABLES:
        print_scores(table, fits[table.kind.name])


def print_scores(table: Table, fit: Fit) -> None:
    """Print the median error of each accelerator and variant on what its surface was not fitted to."""
    ways = list(dict.fromkeys(str(score["left_out"]) for score in fit.scores))
    found: Mapping[tuple[object, ...], object] = {
        (score["accelerator"], score["variant"], score["left_out"]): score["median_ape"]
        for score in fit.scores
    }
    rows = [
        [*label, str(count), *(_percent(found.get((*label, way))) for way in ways)]
        for label, count in zip(fit.labels, fit.rows, strict=True)
        if any((*label, way) in found for way in ways)
    ]
    print_table(
        f"\n{table.kind.name}: median error on what was left out (target {table.target:.0%})",
        ["accelerator", "variant", "timings", *ways],
        rows,
        "ll" + "r" * (1 + len(ways)),
    )


def _percent(share: object) -> str:
    return f"{share:.1%}" if isinstance(share, float) else ""


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
