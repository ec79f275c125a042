"""What `make scoreboard` runs: `python -m aicalib.cli.scoreboard MEASUREMENTS DOCS`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from aicalib.cli.output import progress

JOBS = 2
"""Processes that fit at the same time."""


def main(measurements: Path, docs: Path) -> int:
    """Score the method on the shipped runs and write figures, page and plots.

    Returns
    -------
    int
        1 where an error is above its certified limit, which is said on stderr; all files are written then too.
    """
    from aicalib.calibrate.peer import read_peer
    from aicalib.calibrate.records import read_runs
    from aicalib.calibrate.scoreboard import broken, limits, scoreboard
    from aicalib.calibrate.ship import shipped_runs
    from aicalib.report.accuracy import page
    from aicalib.report.pictures.scoreboard import write_plots

    figures = docs / "accuracy.json"
    before = json.loads(figures.read_text())["limits"] if figures.is_file() else {}
    lines, _ = read_runs([measurements / "runs.jsonl"])
    board = scoreboard(
        shipped_runs(measurements), lines, read_peer(measurements / "peer.jsonl"), progress, JOBS
    )
    document = board.document | {"limits": limits(board.document, before)}
    figures.write_text(json.dumps(document, indent=1) + "\n")
    (docs / "accuracy.md").write_text(page(document))
    write_plots(board, docs / "accuracy")
    worse = broken(document, document["limits"])
    for each in worse:
        sys.stderr.write(f"above its limit: {each}\n")
    return int(bool(worse))


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:3])))
