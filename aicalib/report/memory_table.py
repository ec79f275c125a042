"""The table of predicted against logged KV pools: `python -m aicalib.report.memory_table STARTUPS.jsonl PAGE.md`.

It stands between two marks in a page and is written anew in place.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aicalib.calibrate.records import read_runs
from aicalib.calibrate.score import score
from aicalib.calibrate.startup import METRICS, Startups, evaluate_startups

BEGIN = "<!-- table: make memory-table -->"
END = "<!-- end of table -->"

CONSTANTS_FROM = "llm-d-incubation/llm-d-planner"
"""The source whose logs vLLM's constants were read from; the others are shown apart."""

NAMES = {"max_total_tokens": "all predicted", "max_total_tokens_given_memory": "rule alone"}


def _percent(value: float | None, digits: int = 2) -> str:
    return "-" if value is None or not np.isfinite(value) else f"{100 * value:.{digits}f}"


def _cell(value: Any) -> str:
    return "-" if value is None else str(value)


def _summary_line(found: Startups, name: str, metric: str, at: NDArray[np.bool_]) -> str:
    each = score(found.logged[at], found.predicted[metric][at])
    relative = np.abs(found.predicted[metric] / found.logged - 1.0)
    counts = at & np.isfinite(relative)
    groups: dict[tuple[str, str, str], list[float]] = {}
    for row in np.flatnonzero(counts):
        groups.setdefault(found.groups[row], []).append(float(relative[row]))
    medians = [float(np.median(values)) for values in groups.values()]
    return (
        f"| {name} | {NAMES[metric]} | {each['n']} | {_percent(each['median_ape'])} % | "
        f"{_percent(each['p90_ape'])} % | {_percent(float((relative[counts] <= 0.05).mean()), 0)} % | {len(medians)} | "
        f"{_percent(float(np.median(medians)))} % |"
    )


def summary_lines(found: Startups) -> Iterator[str]:
    """Yield the summary: errors in per cent by engine and metric, over deployments and over groups."""
    yield "| engine | metric | deployments | median | p90 | within 5 % | groups | median over groups |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    engines = np.array([group[0] for group in found.groups])
    for engine in sorted(set(engines)):
        for metric in METRICS:
            yield _summary_line(found, engine, metric, engines == engine)
    others = np.array([CONSTANTS_FROM not in str(record.get("src_ref")) for record in found.answered])
    yield _summary_line(found, "vllm, other sources", METRICS[0], (engines == "vllm") & others)


def deployment_lines(found: Startups) -> Iterator[str]:
    """Yield one line a deployment that either metric answers, by engine and size of the error."""
    yield (
        "| engine | GPU | model | weights / KV | tp.dp.ep.pp | fraction | logged | predicted | error | rule alone | "
        "source |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    errors = {name: values / found.logged - 1.0 for name, values in found.predicted.items()}
    whole, ruled = (errors[metric] for metric in METRICS)
    order = sorted(
        np.flatnonzero(np.isfinite(whole) | np.isfinite(ruled)).tolist(),
        key=lambda at: (
            found.groups[at][0], -np.nan_to_num(abs(whole[at]), nan=-1.0), -np.nan_to_num(abs(ruled[at])), at,
        ),
    )  # fmt: skip
    for at in order:
        record = found.answered[at]
        widths = ".".join(_cell(record.get(name)) for name in ("tp", "dp", "ep", "pp"))
        version = record.get("engine_version")
        predicted = found.predicted[METRICS[0]][at]
        yield (
            f"| {record['engine']}{' ' + version if version else ''} | {_cell(record.get('gpu'))} | "
            f"{record['model']} | {_cell(record.get('weight_quant'))} / {_cell(record.get('kv_dtype'))} | "
            f"{widths} | {_cell(record.get('mem_fraction'))} | {found.logged[at]:.0f} | "
            f"{'-' if np.isnan(predicted) else f'{predicted:.0f}'} | {_percent(whole[at])} | "
            f"{_percent(ruled[at])} | {_cell(record.get('src_ref'))} |"
        )


def refused_lines(found: Startups) -> Iterator[str]:
    """Yield how many records are not answered, and why."""
    scored = np.isfinite(found.predicted[METRICS[0]] / found.logged)
    scored |= np.isfinite(found.predicted[METRICS[1]] / found.logged)
    unanswered = len(found.answered) - int(scored.sum())
    yield (
        f"{len(found.records)} records; {int(scored.sum())} in the table; {len(found.refused)} refused (model not "
        f"recorded, not in the catalogue or not computed; format without a storage width); {unanswered} lack "
        "the pool's tokens (not logged, or capped by the user) or what both predictions need (GPU, version or "
        "fraction; weights and free memory)."
    )


def table(file: Path) -> str:
    """Return the whole section between the marks."""
    records, _ = read_runs([file])
    found = evaluate_startups(records)
    parts = [[*refused_lines(found)], [*summary_lines(found)], [*deployment_lines(found)]]
    return "\n\n".join("\n".join(lines) for lines in parts)


def with_table(page: str, section: str) -> str:
    """Return a page with the section between its marks replaced."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{section}\n\n{END}{after}"


if __name__ == "__main__":
    target = Path(sys.argv[2])
    target.write_text(with_table(target.read_text(), table(Path(sys.argv[1]))))
