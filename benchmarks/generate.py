"""Make large files as the tools write them: `python -m benchmarks.generate bench_serving 2e9 details.jsonl`.

The same seed gives the same file. Figures are drawn at random and are nobody's measurement.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).parent.parent
RUNS = ROOT / "measurements" / "runs.jsonl"
SUMMARY = ROOT / "tests" / "data" / "synthetic_sglang_0.5.6.jsonl"
POOL = 2048
"""Different requests that lines are composed of; fresh ones for every line would take most of the time."""


def runs(seed: int = 0) -> Iterator[str]:
    """Yield lines of the format `runs` without end: the published ones, every figure moved by up to 20 %."""
    draw = Random(seed)
    published = [json.loads(line) for line in RUNS.read_text().splitlines()]
    for number in count(1):
        run = dict(draw.choice(published))
        for name, value in run.items():
            if isinstance(value, float) and name.endswith(("_ms", "_s")):
                run[name] = value * draw.uniform(0.8, 1.2)
        run["src_ref"] = f"generated_{seed}_{number}"
        yield json.dumps(run)


def bench_serving(seed: int = 0, requests: int = 64, tokens: int = 64) -> Iterator[str]:
    """Yield result lines of `sglang.bench_serving --output-details` without end.

    A line has about `requests` x `tokens` x 30 bytes, of which a quarter are generated texts.
    """
    draw = Random(seed)
    line: dict[str, Any] = json.loads(SUMMARY.read_text().splitlines()[0])
    summary = {name: value for name, value in line.items() if not isinstance(value, list)}
    gaps = [_gaps(draw, tokens) for _ in range(POOL)]
    texts = [json.dumps(" ".join(f"word{draw.randrange(999)}" for _ in range(tokens))) for _ in range(POOL)]
    while True:
        head = summary | {
            "completed": requests,
            "duration": draw.uniform(10, 60),
            "mean_ttft_ms": draw.uniform(20, 900),
            "mean_tpot_ms": draw.uniform(5, 40),
            "input_lens": [draw.randint(64, 4096) for _ in range(requests)],
            "output_lens": [tokens] * requests,
            "ttfts": [draw.uniform(0.02, 0.9) for _ in range(requests)],
        }
        details = {
            "itls": f"[{', '.join(draw.choices(gaps, k=requests))}]",
            "generated_texts": f"[{', '.join(draw.choices(texts, k=requests))}]",
            "errors": json.dumps([""] * requests),
        }
        yield json.dumps(head)[:-1] + "".join(f', "{name}": {text}' for name, text in details.items()) + "}"


def _gaps(draw: Random, tokens: int) -> str:
    return json.dumps([draw.expovariate(100) for _ in range(tokens - 1)])


def write(
    path: Path, lines: Iterator[str], size_bytes: float = float("inf"), most: float = float("inf")
) -> int:
    """Write lines until the file has a size or a number of lines; return the number of lines."""
    written = number = 0
    with path.open("w") as file:
        while written < size_bytes and number < most:
            written += file.write(next(lines) + "\n")
            number += 1
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("runs", "bench_serving"))
    parser.add_argument("size_bytes", type=float)
    parser.add_argument("path", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--requests", type=int, default=64, help="of a bench_serving line")
    parser.add_argument("--tokens", type=int, default=64, help="of each of them")
    given = parser.parse_args()
    details = bench_serving(given.seed, given.requests, given.tokens)
    lines = runs(given.seed) if given.kind == "runs" else details
    print(write(given.path, lines, given.size_bytes), "lines")


if __name__ == "__main__":
    main()
