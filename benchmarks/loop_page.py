"""The page and the plot of the replay of published sweeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aicalib.report.markdown import table

WORDS = {
    "loop": "`aicalib next`: belief from the profile without the group, then what was revealed",
    "levels alone": "the same, its belief made of the profile's levels without errors that change smoothly",
    "physics alone": "the same profile, never updated: runs in the order of their predicted scores",
    "Gaussian process": "no physics: scikit-learn over concurrency, widths, GPUs, formats; the first run is drawn",
    "random order": "50 orders",
    "grid order": "deployment by deployment, concurrency rising",
}

INTRODUCTION = """# Does the loop find the best configuration?

A replay on published sweeps, written by `make loop-benchmark`. A *sweep* is what `measurements/` holds of one model,
GPU, engine and workload; a *configuration* is a deployment (formats, engine version, widths, speculation, separate
prefill) under one concurrency. Sweeps of at least 8 configurations take part. All figures are hidden; each contestant
names a run, is told its TTFT, TPOT and throughput, names the next, and so on. After each run it names its **choice**
among all configurations of the sweep.

- *Objective*: most output tokens a second and GPU, as recorded, or where fewer configurations record it,
  concurrency x OSL / (TTFT + TPOT (OSL - 1)). Repeats of a configuration are their geometric mean; runs that a quality
  flag leaves out of the scoreboard are left out here.
- *Service levels*: none, and a bound on TPOT at the 25, 50 and 75 % quantile of the sweep's measured TPOTs (midway
  between two of them). Without a bound the answer is near the largest concurrency.
- *Regret*: the share of the best throughput under the bound that the choice loses by its true figure. **A choice that
  violates the bound loses everything: regret 100 %.** The autotuner's score counts it so too: a bound that is exceeded
  costs at least the whole objective.
- *The profile* was fitted without any run of the model family on that GPU, under any engine (10 folds over whole
  groups), its intervals from the left-out runs of the other folds. What the belief holds beyond the profile's levels
  was chosen from a grid by the sweeps of the other folds (`benchmarks/belief.py`); where the grid lies was decided
  after kernels made by hand had been tried on all of them. The rule that picks the next run
  (expected gain + fall of expected regret) is one of six that were tried on these very sweeps, with a first kernel made
  by hand; after three runs they stood between 81 % (the best expected score first) and 93 % (this one).
- *Choices*: the loop and the Gaussian process choose by expectation among all configurations, revealed or not; the
  orders and physics alone choose the best that was revealed. Configurations that the memory model holds to be
  impossible are never proposed by the loop, and count in the best.
- All runs cost the same here; minutes are not replayed.
"""


def page(document: Mapping[str, Any]) -> str:
    """Return the page of the replay's figures."""
    parts = [INTRODUCTION, "| contestant | |\n| --- | --- |"]
    parts[-1] += "".join(f"\n| {name} | {words} |" for name, words in WORDS.items())
    whole = document["configurations"]
    parts.append(
        f"\n## Configurations\n\n{whole['sweeps']} sweeps of {whole['configurations']} configurations, "
        f"{whole['questions']} questions (a sweep under a service level).\n\n" + _verdict(whole)
    )
    parts.append("![Regret against runs revealed](loop-benchmark.png)\n")
    parts += _tables(whole)
    alone = document["deployments"]
    parts.append(
        f"## Deployments alone\n\nThe concurrency at which most deployments were measured, where these are at least 8: "
        f"{alone['sweeps']} sweeps of {alone['configurations']} deployments, {alone['questions']} questions.\n\n"
        + _verdict(alone)
    )
    parts += _tables(alone)
    return "\n".join(parts)


def _verdict(part: Mapping[str, Any]) -> str:
    """Say how the loop stands to the target and to the Gaussian process."""
    ours, other = (part["contestants"][name] for name in ("loop", "Gaussian process"))
    shares = ", ".join(
        f"{100 * each['within_5'][3]:.0f} % ({level})"
        for level, each in ours.items()
        if level not in ("all", "by_sweep")
    )
    worse = [
        f"{name} after {runs} runs"
        for name in ("q25", "median", "q75")
        for runs in range(1, len(ours["all"]["mean"]))
        if ours["all"][name][runs] > other["all"][name][runs]
    ]
    share = 100 * ours["all"]["within_5"][3]
    return (
        f"After three runs the loop's choice is within 5 % of the best in **{share:.0f} %** of the "
        f"questions (target: 80 %); by service level {shares}. Over the service levels of a sweep together, "
        f"its mean regret is at most 5 % in {100 * ours['by_sweep'][3]:.0f} % of the sweeps. The Gaussian process "
        f"reaches {100 * other['all']['within_5'][3]:.0f} and {100 * other['by_sweep'][3]:.0f} %. "
        + (
            f"The loop is worse than the Gaussian process in: {', '.join(worse)}.\n"
            if worse
            else "In no quartile of regret, after no number of runs, is the loop worse than the Gaussian process.\n"
        )
    )


def _tables(part: Mapping[str, Any]) -> list[str]:
    """Return the tables of shares, of quartiles and means, and of what was called settled."""
    found = part["contestants"]
    runs = range(len(found["loop"]["all"]["mean"]))
    levels = [level for level in found["loop"] if level not in ("all", "by_sweep")]

    def lines(head: Sequence[str], cells: Callable[[Mapping[str, Any]], list[str]]) -> str:
        return "\n".join(table(head, 1, ([name, *cells(each)] for name, each in found.items())))

    by_runs = ["contestant", *map(str, runs)]
    settled = part["settled"]
    return [
        "Share of questions whose choice is within 5 % of the best, in %, by runs revealed:\n",
        lines(by_runs, lambda each: [f"{100 * share:.0f}" for share in each["all"]["within_5"]]),
        "\nThe same after three runs, by service level (a bound on TPOT at a quantile of what the sweep measured):\n",
        lines(
            ["contestant", *levels],
            lambda each: [f"{100 * each[level]['within_5'][3]:.0f}" for level in levels],
        ),
        "\nRegret in %, 25 % quantile / median / 75 % quantile over questions (and seeds), by runs revealed:\n",
        lines(
            by_runs,
            lambda each: [
                " / ".join(f"{100 * each['all'][key][at]:.0f}" for key in ("q25", "median", "q75")) for at in runs
            ],
        ),
        "\nMean regret in %:\n",
        lines(by_runs, lambda each: [f"{100 * value:.1f}" for value in each["all"]["mean"]]),
        "\nWhat the loop calls settled (90 % sure to lose at most 5 %, the choice itself revealed), and how many of "
        "these choices were within 5 % of the best:\n",
        "\n".join(
            table(
                ["runs", *map(str, runs)],
                1,
                [
                    ["settled, % of questions", *(f"{100 * each['share']:.0f}" for each in settled)],
                    ["of these within 5 %", *("-" if each["right"] is None else f"{100 * each['right']:.0f}"
                                              for each in settled)],
                ],
            )
        ),
        "",
    ]  # fmt: skip


def plot(document: Mapping[str, Any], path: Path) -> None:
    """Draw median, quartiles and the share within 5 % against the runs revealed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4))
    part = document["configurations"]["contestants"]
    for name, each in part.items():
        whole = each["all"]
        runs = range(len(whole["mean"]))
        (line,) = axes[0].plot(
            runs, [100 * value for value in whole["mean"]], marker="o", markersize=3, label=name
        )
        if name in ("loop", "Gaussian process"):
            axes[0].fill_between(
                runs, [100 * value for value in whole["q25"]], [100 * value for value in whole["q75"]],
                color=line.get_color(), alpha=0.15,
            )  # fmt: skip
        axes[1].plot(runs, [100 * value for value in whole["within_5"]], marker="o", markersize=3, label=name)
    axes[0].set(
        xlabel="runs revealed", ylabel="regret [%]", title="Mean regret; band: quartiles", ylim=(0, None)
    )
    axes[1].axhline(80, color="grey", linewidth=0.8, linestyle="--")
    axes[1].set(
        xlabel="runs revealed", ylabel="questions [%]", title="Choice within 5 % of the best", ylim=(0, 100)
    )
    axes[1].legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
