"""All that is held against the engines' own source: `python -m checks.engines`.

The shipped flags against the parsers, every line of `launch` against those, our refusals against the functions that
refuse, and our answer to `--quantization` on a checkpoint against the engines' own. A release that cannot be downloaded
is skipped with a message; the lines need none.
"""

from __future__ import annotations

import argparse
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from multiprocessing import Pool
from pathlib import Path

from checks.engines import extract
from checks.engines.inside import check_inside
from checks.engines.product import VERSIONS, Tally, cells, sweep
from checks.engines.refusals import refusals, stands
from checks.engines.sources import NoSource, Source, read_source
from checks.engines.verify import judge

Release = tuple[str, str]

SHOWN = 40
"""Problems that are printed of each part."""


def sources(releases: Iterable[Release], cache: Path) -> Iterator[Source]:
    """Yield the source of each release that can be had."""
    for engine, version in releases:
        try:
            yield read_source(engine, version, cache)
        except NoSource as reason:
            print(f"skipped: {reason}")


def report(what: str, problems: list[str], counts: str) -> bool:
    """Print what came of one part; returns whether it is well."""
    for problem in problems[:SHOWN]:
        print(f"  {problem}")
    if len(problems) > SHOWN:
        print(f"  ... and {len(problems) - SHOWN} more")
    print(f"{what}: {counts}, {len(problems)} mismatches", flush=True)
    return not problems


def lines(releases: list[Release], cache: Path) -> bool:
    """Hold every line of `launch` against the parsers."""
    begun, total = time.monotonic(), Tally()
    with Pool() as pool:
        for tally in pool.imap_unordered(sweep, cells(releases)):
            total.add(tally)
    for source in sources(((engine, version) for engine, version in releases if engine == "vllm"), cache):
        for line in total.lines:
            if line[:2] == (source.engine, source.version):
                total.problems += [f"vllm {source.version}: {each}" for each in check_inside(line, source)]
    for (engine, says), count in sorted(total.refused.items()):
        print(f"  refused {count:>10,}  {engine:<7} {says}")
    by_engine = Counter(line.engine for line in total.lines)
    counts = (
        f"{total.tried:,} combinations ({total.asked:,} asked one by one), {total.started:,} start, "
        f"{total.tried - total.started:,} refused, {len(total.lines):,} distinct lines "
        f"({', '.join(f'{engine} {count:,}' for engine, count in sorted(by_engine.items()))}), "
        f"{time.monotonic() - begun:.0f} s"
    )
    return report("lines", total.problems, counts)


def citations(releases: set[Release] | None, cache: Path) -> bool:
    """Look each refusal up where the engine makes it; None takes every release that is cited."""
    cited = {(each.engine, each.version) for kind in refusals() for each in kind.engines}
    problems, looked = [], 0
    for source in sources(sorted(cited if releases is None else cited & releases), cache):
        for kind in refusals():
            for each in kind.engines:
                if (each.engine, each.version) == (source.engine, source.version):
                    looked += 1
                    wrong = stands(each, source)
                    problems += [f"{kind.says}: {wrong}"] if wrong else []
    ours = sum(bool(kind.ours) for kind in refusals())
    counts = (
        f"{len(refusals()) - ours} kinds that an engine makes ({looked} places looked up), {ours} of our own"
    )
    return report("refusals", problems, counts)


def verdicts(releases: Iterable[Release], cache: Path) -> bool:
    """Ask the engines' own check of `--quantization`."""
    problems, asked, refused, uncovered = [], 0, 0, 0
    for source in sources(releases, cache):
        found = judge(source)
        asked, refused, uncovered = asked + found.asked, refused + found.refused, uncovered + found.uncovered
        problems += [f"{source.engine} {source.version}: {each}" for each in found.mismatches]
    counts = f"{asked:,} pairs of checkpoint and --quantization, {refused:,} refused by the engine"
    return report(
        "checkpoints", problems, counts + (f", {uncovered} releases not covered" if uncovered else "")
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m checks.engines", description=__doc__)
    parser.add_argument(
        "--cache", type=Path, default=extract.DEFAULT_CACHE, help="folder of downloaded source"
    )
    parser.add_argument("--only", nargs="*", default=[], metavar="ENGINE==VERSION", help="releases to check")
    chosen = parser.parse_args(arguments)
    read = tomllib.loads((extract.HERE / "versions.toml").read_text())
    made = [(engine, version) for engine, listed in VERSIONS.items() for version in listed]
    only: set[Release] | None = None
    if chosen.only:
        only = {(engine, version) for engine, _, version in (text.partition("==") for text in chosen.only)}
        read = {
            engine: [each for each in listed if (engine, each) in only] for engine, listed in read.items()
        }
        made = sorted(only)
    releases = [(engine, version) for engine, listed in read.items() for version in listed]
    well = [
        extract.check(read, chosen.cache) == 0,
        citations(only, chosen.cache),
        verdicts(releases, chosen.cache),
        lines(made, chosen.cache),
    ]
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
