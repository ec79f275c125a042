"""The page on accuracy, written from the figures of a scoreboard alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aicalib.report.markdown import table
from aicalib.report.scores import ENGINE_NAMES, LABELS, METRIC_NAMES, percent, refusal_rows
from aicalib.report.targets import targets

Document = Mapping[str, Any]
"""Content of `docs/accuracy.json`."""

METRICS = ("tpot_ms", "ttft_ms", "e2e_ms", "output_tok_s")

WHOLE = ("n", "groups", "median_ape", "group_median_ape", "mape", "p90_ape", "bias", "within_20")
HEAD = ("n", "groups", "median", "group median", "MAPE", "p90", "bias", "within 20 %")
"""Figures of a table and their names on the page."""

PLOTS = {
    "measured.png": "Predicted against measured on left-out groups; the band is 20 % either way.",
    "residual_tpot.png": "Residual of TPOT on left-out groups by field: boxes from the 25 % to the 75 % quantile, "
    "whiskers from 5 % to 95 %, number of runs above.",
    "residual_ttft.png": "The same of TTFT.",
    "coverage.png": "Share of rows and of groups inside their 90 % interval by how near the nearest fitted runs are.",
    "learning.png": "Median error after own runs of a left-out group; dashed: without them, on the same runs.",
}
"""Files beside the page and what they show."""


def page(document: Document) -> str:
    """Return the page as Markdown."""
    sections = (
        _head, targets, _splits, _physics, _intervals, _learning, _with_flagged, _peer, _parts, _cells, _answered,
        _floor, _plots,
    )  # fmt: skip
    return "\n\n".join("\n".join(each(document)) for each in sections) + "\n"


def _figures(score: Mapping[str, Any]) -> list[str]:
    counts, shares = WHOLE[:2], WHOLE[2:]
    return [*(str(score[key]) for key in counts), *(percent(score[key]) for key in shares)]


def _head(document: Document) -> Iterator[str]:
    groups, flagged = document["groups"], sum(document["flagged"].values())
    yield "# Accuracy"
    yield ""
    yield "Written by `make scoreboard`, figures in [accuracy.json](accuracy.json); nothing here is edited by hand."
    yield ""
    yield (
        f"Every number is predicted by a profile that was fitted without it: {document['runs']:,} published runs of "
        f"{groups} groups (model family x GPU), in at most ten folds of whole labels. Errors are "
        "|predicted / measured - 1| in per cent; *median* is over runs, *group median* the median over groups of the "
        "median error of each, so that large groups do not decide; [words.md](words.md) defines the others."
    )
    yield ""
    yield "What is left out together:"
    yield ""
    yield "- *model family x GPU*: all runs of a family on a GPU, under every engine;"
    yield "- *model family*; *GPU generation*: on all GPUs; of all models;"
    yield (
        "- *configuration*: one engine, family, GPU, weight formats and widths, whatever source, version, expert width "
        "or cache format is recorded, so that repeats leave together;"
    )
    yield "- *curve*: one configuration at one pair of lengths, over all concurrencies."
    yield ""
    yield (
        f"Runs with a closed loop or a static batch, without speculation. Left out beforehand: {flagged} runs that are "
        "copies of others or doubted by a named rule ("
        + ", ".join(f"`{flag}` {count}" for flag, count in document["flagged"].items())
        + "); all but the copies are scored below as well. Where a rule doubts the first token alone, TPOT stays."
    )


def _splits(document: Document) -> Iterator[str]:
    yield "## What is left out"
    yield ""
    rows = []
    for split, found in document["splits"].items():
        for engine, scores in found["engines"].items():
            for metric in METRICS:
                if metric in scores:
                    name = f"{LABELS[split]} ({found['labels']})"
                    rows.append([name, ENGINE_NAMES[engine], METRIC_NAMES[metric], *_figures(scores[metric])])
    yield from table(("left out (labels)", "engine", "metric", *HEAD), 3, rows)
    yield ""
    derived = ", ".join(
        f"{each['derived']} of {each['of']} ({ENGINE_NAMES[engine]})"
        for engine, each in document["derived_e2e"].items()
    )
    yield (
        f"End to end is derived, TTFT + TPOT (OSL - 1) on both sides, in {derived}; in the others it was measured."
    )


def _physics(document: Document) -> Iterator[str]:
    yield "## Physics alone and calibrated"
    yield ""
    yield (
        "The priors alone are fitted to no run, though some were chosen with these runs in view "
        "([calibration.md](calibration.md)). Left out: model family x GPU; physics -> calibrated, as in the table "
        "above."
    )
    yield ""
    rows = [
        [
            ENGINE_NAMES[engine],
            METRIC_NAMES[metric],
            *(
                f"{percent(scores[metric][key])} -> "
                f"{percent(document['splits']['group']['engines'][engine][metric][key])}"
                for key in ("median_ape", "group_median_ape", "mape", "within_20")
            ),
        ]
        for engine, scores in document["priors"].items()
        for metric in METRICS
        if metric in scores
    ]
    yield from table(("engine", "metric", "median", "group median", "MAPE", "within 20 %"), 2, rows)


def _intervals(document: Document) -> Iterator[str]:
    yield "## Intervals"
    yield ""
    yield (
        "Share of rows, and of groups (the mean over groups of each one's share), inside their 90 % interval; 85 to "
        "95 % is wanted. The interval of a fold is made of the runs that the fold sees alone. *Width* is the median "
        "factor by which the interval goes up and down. How near the nearest fitted runs are decides the width: model "
        "family and GPU each seen `apart`, one of them `new`, or another origin ([words.md](words.md))."
    )
    yield ""
    rows = []
    for split, by_near in document["coverage"].items():
        for engine, scores in document["splits"][split]["engines"].items():
            rows += _coverage_rows(LABELS[split], ENGINE_NAMES[engine], scores)
        for near, scores in by_near.items():
            rows += _coverage_rows(LABELS[split], f"`{near}`", scores)
    yield from table(
        ("left out", "of", "metric", "n", "groups", "rows inside", "groups inside", "width"), 3, rows
    )


def _coverage_rows(split: str, what: str, scores: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            split,
            what,
            METRIC_NAMES[metric],
            str(scores[metric]["n"]),
            str(scores[metric]["groups"]),
            percent(scores[metric]["coverage_90"]),
            percent(scores[metric]["group_coverage_90"]),
            f"x {scores[metric]['width_90']:.2f}",
        ]
        for metric in METRICS
        if metric in scores and scores[metric]["width_90"] is not None
    ]


def _learning(document: Document) -> Iterator[str]:
    yield "## After own runs"
    yield ""
    yield (
        "Model family x GPU left out; then some runs of the group are revealed, drawn anew several times, and the rest "
        "of it is predicted: by the priors, by the profile without the group, and by that profile with the revealed "
        "runs. Medians over draws; a group of no more runs than are revealed is not asked, so that each line is of "
        "other runs."
    )
    yield ""
    rows = [
        [
            ENGINE_NAMES[each["engine"]],
            METRIC_NAMES[each["metric"]],
            each["revealed"],
            str(each["n"]),
            str(each["groups"]),
            *(percent(each[key]) for key in ("uncalibrated", "base", "own", "within_20", "coverage_90")),
        ]
        for each in sorted(document["learning"], key=_engine_and_metric)
    ]
    head = (
        "engine",
        "metric",
        "revealed",
        "n",
        "groups",
        "priors",
        "without",
        "with",
        "within 20 %",
        "rows inside",
    )
    yield from table(head, 3, rows)


def _engine_and_metric(step: Mapping[str, Any]) -> tuple[int, int]:
    return list(ENGINE_NAMES).index(step["engine"]), METRICS.index(step["metric"])


def _with_flagged(document: Document) -> Iterator[str]:
    yield "## With the doubted runs in"
    yield ""
    yield (
        "The same profiles, model family x GPU left out, on the doubted runs as well (copies stay out, the doubts on "
        "the first token are lifted). No fit saw them."
    )
    yield ""
    rows = []
    for engine, scores in document["with_flagged"].items():
        out = document["splits"]["group"]["engines"].get(engine, {})
        for metric in METRICS:
            if metric in scores and metric in out:
                pairs = (
                    f"{percent(out[metric][key])} -> {percent(scores[metric][key])}"
                    for key in ("median_ape", "group_median_ape", "mape", "within_20", "coverage_90")
                )
                count = f"{out[metric]['n']} -> {scores[metric]['n']}"
                rows.append([ENGINE_NAMES[engine], METRIC_NAMES[metric], count, *pairs])
    head = ("engine", "metric", "n", "median", "group median", "MAPE", "within 20 %", "rows inside")
    yield from table(head, 2, rows)


def _peer(document: Document) -> Iterator[str]:
    yield "## The peer on the same rows"
    yield ""
    yield (
        "What AIConfigurator 0.12.0 (NVIDIA, Apache-2.0) answers for the rows of its own published sample, as it is, "
        "against ours with the row's model family x GPU left out; aggregated serving, unambiguous rows that both "
        "answer. [measurements/peer.jsonl](../measurements/peer.jsonl) holds its answers."
    )
    yield ""
    rows = []
    for engine, found in document["peer"].items():
        for metric in METRICS:
            if metric in found and found[metric]["ours"]["n"]:
                for name, who in (("ours", "ours"), ("AIConfigurator", "peer")):
                    rows.append(
                        [ENGINE_NAMES[engine], METRIC_NAMES[metric], name, *_figures(found[metric][who])]
                    )
    yield from table(("engine", "metric", "whose", *HEAD), 3, rows)
    yield ""
    shares = (
        f"{each['answered']} of {each['asked']} ({ENGINE_NAMES[engine]})"
        for engine, each in document["peer"].items()
    )
    yield f"Of the rows that we answer it answers {', '.join(shares)}."


def _parts(document: Document) -> Iterator[str]:
    yield "## By GPU, generation, family and source"
    yield ""
    yield "Model family x GPU left out; median error (bias) in per cent."
    for part, by_engine in document["by"].items():
        rows = []
        for engine, labels in by_engine.items():
            for label, scores in labels.items():
                most = max((each["n"] for each in scores.values()), default=0)
                rows.append([ENGINE_NAMES[engine], label, str(most), *map(_error, map(scores.get, METRICS))])
        yield ""
        yield from table(("engine", part, "n", *(METRIC_NAMES[metric] for metric in METRICS)), 2, rows)


def _error(score: Mapping[str, Any] | None) -> str:
    return f"{percent(score['median_ape'])} ({100 * score['bias']:+.1f})" if score else "-"


def _cells(document: Document) -> Iterator[str]:
    yield "## Every group"
    yield ""
    yield "Left out; median error (bias) in per cent; runs with a TPOT."
    yield ""
    rows = [
        [
            ENGINE_NAMES[each["engine"]],
            each["family"],
            each["gpu"],
            str(each.get("tpot_ms", {}).get("n", 0)),
            *(_error(each.get(metric)) for metric in METRICS[:3]),
        ]
        for each in document["cells"]
    ]
    yield from table(
        ("engine", "family", "GPU", "n", *(METRIC_NAMES[metric] for metric in METRICS[:3])), 3, rows
    )


def _answered(document: Document) -> Iterator[str]:
    yield "## What is answered"
    yield ""
    rows = [
        [
            ENGINE_NAMES[engine],
            str(each["runs"]),
            str(each["answered"]),
            percent(each["answered"] / each["runs"]),
        ]
        for engine, each in document["answered"].items()
    ]
    yield from table(("engine", "runs", "answered", "share %"), 1, rows)
    yield ""
    yield "The others, incomplete rows among them, are refused:"
    yield ""
    rows = [
        [ENGINE_NAMES[engine], count, reason]
        for engine, each in document["answered"].items()
        for count, reason in refusal_rows(each["refused"])
    ]
    yield from table(("engine", "runs", "reason"), 3, rows)


def _floor(document: Document) -> Iterator[str]:
    yield "## The noise floor"
    yield ""
    yield (
        "How far apart two measurements of one thing are (larger over smaller - 1), over all pairs among the runs "
        "above. *Same setting*: everything that is recorded is equal, the engine's version, client and load included. "
        "*Same point*: one configuration, lengths and concurrency, whatever version, client and source. Runs closer "
        "than 0.2 % in TPOT and 0.5 % in TTFT are taken for copies, and runs of one setting that differ by more than "
        "1.25 x for different settings, so both ends are cut. A model without any error of its own would miss by a "
        "pair's difference over the square root of 2."
    )
    yield ""
    rows = [
        [
            what,
            ENGINE_NAMES[engine],
            METRIC_NAMES[metric],
            str(each["pairs"]),
            percent(each["median"]),
            percent(each["p90"]),
            percent(each["median"] / 2**0.5),
        ]
        for what, engines in document["floor"].items()
        for engine, metrics in engines.items()
        for metric, each in metrics.items()
        if each["pairs"]
    ]
    head = (
        "what repeats",
        "engine",
        "metric",
        "pairs",
        "median difference",
        "p90",
        "floor of the median error",
    )
    yield from table(head, 3, rows)


def _plots(document: Document) -> Iterator[str]:
    yield "## Plots"
    for name, words in PLOTS.items():
        yield ""
        yield words
        yield ""
        yield f"![{words}](accuracy/{name})"
