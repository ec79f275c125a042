# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Calibrating to your own cluster with ten runs
#
# A prediction for a cluster that nobody has measured is off by some per cent, and its interval is wide. How
# much do ten runs of your own help, and which ten? This notebook plays it through on a cluster that *was*
# measured: a published sweep of one model on one GPU is hidden, from the fit too, and revealed run by run, as
# if you had measured it. Change the next cell, or put your own runs in the place of the hidden ones.

# %%
# %matplotlib inline
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from aicalib.calibrate.build import fitted, to_fit
from aicalib.calibrate.own import with_own
from aicalib.calibrate.runs import as_runs
from aicalib.calibrate.ship import shipped_runs
from aicalib.loop.candidates import candidates
from aicalib.loop.next import next_runs
from aicalib.plan.tasks.task import read_task
from aicalib.prediction import predict_batch
from aicalib.profiles.profile import default_profile, load_profile

model, family, gpu = "Qwen/Qwen3-32B", "qwen3-32b", "h100-sxm"
engine, version = "sglang", "0.5.1.post1"
widths = [2, 4, 8]  # what you choose between: GPUs for one copy
traffics = [(isl, osl) for isl in (1024, 2048, 4096) for osl in (128, 256, 512)]  # tokens in and out
in_flight = [16, 64, 128]
tpot_ms = 25.0  # service level: no more than this, in the mean
budget = 10  # runs

# %% [markdown]
# ## A profile that has not seen your cluster
#
# All published runs but those of this model family on this GPU, under any engine, are fitted, as in the folds
# of the cross-validation behind the scoreboard. The widths of its intervals are taken from the shipped
# profile, where they were measured by leaving out whole groups; this group is one of many behind them.

# %%
records = shipped_runs(Path("../measurements"))
runs, _, _ = to_fit(records)
hidden = np.array([group[1:] == (family, gpu) for group in runs.groups])
stranger = replace(
    fitted(runs.take(np.flatnonzero(~hidden)), "stranger"), quantiles=default_profile().quantiles
)
print(f"{(~hidden).sum()} runs fitted, {hidden.sum()} of {family} on {gpu} hidden")

# %% [markdown]
# ## What may be measured
#
# One task for each traffic: which width gives the most tokens a GPU, at no more than the service level? A
# task is the file that `aicalib next` reads, an autotuner's own. A width under a concurrency is a run; most
# of them were published.


# %%
def task_of(isl, osl):
    """Return the task of one traffic."""
    level = {"tpot": {"threshold": tpot_ms / 1e3, "weight": 2.0, "hard_fail": True, "fail_ratio": 0.0}}
    return read_task(
        {
            "task_name": f"{isl}/{osl}",
            "model": {"id_or_path": model, "namespace": "own"},
            "base_runtime": engine,
            "runtime_image_tag": f"v{version}",
            "parameters": {"tp-size": widths},
            "optimization": {"strategy": "grid_search", "objective": "maximize_throughput"},
            "benchmark": {
                "traffic_scenarios": [f"D({isl},{osl})"],
                "num_concurrency": in_flight,
                "gpu_type": gpu,
            },
            "slo": level,
        }
    )


tasks = {(isl, osl): task_of(isl, osl) for isl, osl in traffics}
record_of = {record["run_id"]: record for record in records}
vault, unpublished = {}, []  # key of a candidate -> its published run; keys of those that nobody published
for task in tasks.values():
    possible = candidates(task, records, stranger)
    ids = possible.measured.runs.column("run_id")
    keys = [possible.key(row) for row in range(possible.batch.at.size)]
    vault |= {keys[row]: record_of[run_id] for row, run_id in zip(possible.measured.row, ids) if row >= 0}
    unpublished += [key for key in keys if key not in vault]
print(
    f"{len(tasks)} tasks, {len(vault)} runs that can be revealed, {len(unpublished)} that were not published"
)

# %% [markdown]
# ## Ten runs, one after the other
#
# `next_runs` knows what was revealed, and says which run is worth most a minute for the *choice* of the task,
# or that the choice is settled: with 90 % probability it loses no more than 5 %, and one run of it was
# measured. The open task whose next run is worth most goes first. Where the prediction alone is sure, a run
# only verifies it, and its gain is nil.

# %%
taken, log, open_tasks = [], [], dict(tasks)
while len(taken) < budget:
    asked = {}
    for name, task in list(open_tasks.items()):
        answer = next_runs(task, taken, stranger, taken=unpublished)
        if answer.settled:
            del open_tasks[name]
        else:
            asked[name] = answer.runs[0]
    if not asked:
        print(f"all {len(tasks)} choices are settled after {len(taken)} runs")
        break
    run = max(
        asked.values(), key=lambda each: (each.expected_gain + each.uncertainty_fall) / each.cost_minutes
    )
    record = vault[run.key]
    taken.append(record)
    figure = run.figures["tpot_ms"]
    log.append(
        {
            "open tasks": len(asked),
            "tp": run.deployment["tp"],
            "load": f"{run.load.isl:g}/{run.load.osl:g} x {run.load.concurrency}",
            "gain %": 100 * run.expected_gain,
            "regret falls %": 100 * max(run.uncertainty_fall, 0.0),
            "TPOT predicted": figure.value,
            "low": figure.low,
            "high": figure.high,
            "measured": float(as_runs([record]).measured["tpot_ms"][0]),
        }
    )
steps = pd.DataFrame(log, index=pd.RangeIndex(1, len(log) + 1, name="run"))
print(f"{len(asked)} of {len(tasks)} choices were open before the last run")
steps.round(1)

# %% [markdown]
# The prediction of a run stands before it is revealed, and its interval narrows as its neighbors become
# known.
#
# ## Error before and after, on the runs that were not taken
#
# `with_own` (on the command line `aicalib calibrate --base ...`) moves the *levels* of the profile, nested
# factors of group, formats, engine version, widths and lengths; its coefficients stay. Scored are the
# published runs that were not among the ten.

# %%
own = with_own(stranger, as_runs(taken))
seen = {record["run_id"] for record in taken}
open_ids = {record["run_id"] for record in vault.values()} - seen
rest = runs.take(np.array([at for at, run_id in enumerate(runs.column("run_id")) if run_id in open_ids]))


def score(profile, metric):
    """Return errors, and what their interval held, of the runs that were not taken."""
    answer = predict_batch(rest.batch, profile).comparable(metric, rest.median[metric])
    measured = rest.measured[metric]
    known = np.isfinite(measured)
    error = np.abs(answer.value / measured - 1)[known]
    inside = ((answer.low <= measured) & (measured <= answer.high))[known]
    return {
        "runs": int(known.sum()),
        "median error %": 100 * np.median(error),
        "p90 error %": 100 * np.quantile(error, 0.9),
        "in 90 % interval": inside.mean(),
        "interval, x or /": np.median((answer.high / answer.value)[known]),
    }


scores = pd.DataFrame(
    {
        (metric, name): score(profile, metric)
        for metric in ("ttft_ms", "tpot_ms")
        for name, profile in (("before", stranger), ("after", own))
    }
).T.astype({"runs": int})
scores.round(2)

# %% [markdown]
# TPOT gains, and its interval narrows. TTFT does not: what it is off by here changes with load and width, and
# a level of ten runs does not carry over. Its interval stays wide, as it must.
#
# Is `next` better at this than chance? Twenty times ten runs at random give the range below. It need not be:
# `next` asks what decides a choice, not what lowers an average error.

# %%
chance = np.random.default_rng(0)
keys = sorted(vault)
lots = []
for _ in range(20):
    drawn = [vault[keys[at]] for at in chance.choice(len(keys), len(taken), replace=False)]
    other = with_own(stranger, as_runs(drawn))
    drawn_ids = {record["run_id"] for record in drawn}
    answer = predict_batch(rest.batch, other).comparable("tpot_ms", rest.median["tpot_ms"])
    apart = np.array([run_id not in drawn_ids for run_id in rest.column("run_id")])
    lots.append(100 * np.nanmedian(np.abs(answer.value / rest.measured["tpot_ms"] - 1)[apart]))
print(
    f"TPOT, median error: {scores.loc[('tpot_ms', 'before'), 'median error %']:.1f} % before, "
    f"{scores.loc[('tpot_ms', 'after'), 'median error %']:.1f} % with the ten of `next`, "
    f"{min(lots):.1f} to {max(lots):.1f} % with ten at random"
)

# %% [markdown]
# ## The picture
#
# Each mark is a published run that was not taken: measured over predicted, before and after. The band is the
# 90 % interval in the median.

# %%
plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
figure, panels = plt.subplots(2, 2, figsize=(8.5, 5.2), layout="constrained", sharex=True, sharey="row")
names = {"ttft_ms": "TTFT", "tpot_ms": "TPOT"}
for row, metric in zip(panels, names):
    for axes, (name, profile) in zip(row, (("before", stranger), ("after ten runs", own))):
        answer = predict_batch(rest.batch, profile).comparable(metric, rest.median[metric])
        ratio = rest.measured[metric] / answer.value
        wide = np.nanmedian(answer.high / answer.value)
        axes.axhspan(1 / wide, wide, color="#0072B2", alpha=0.1, linewidth=0)
        axes.axhline(1, color="0.4", linewidth=0.8)
        for (tp, color), shift in zip(zip(widths, ("#0072B2", "#D55E00", "#009E73")), (0.93, 1.0, 1.07)):
            here = rest.batch.system.tp[rest.batch.at] == tp
            axes.plot(
                rest.batch.load.concurrency[here] * shift,
                ratio[here],
                "o",
                color=color,
                markersize=4.5,
                alpha=0.7,
                label=f"tp {tp}",
            )
        axes.set(xscale="log", yscale="log", title=f"{names[metric]}, {name}")
        axes.set_xticks(in_flight, [str(each) for each in in_flight])
        ticks = [0.5, 0.7, 1.0, 1.4, 2.0]
        axes.set_yticks(ticks, [f"{each:g}" for each in ticks])
        axes.minorticks_off()
    row[0].set_ylabel("measured / predicted")
for axes in panels[1]:
    axes.set_xlabel("requests in flight")
panels[0, 1].legend(frameon=False, ncols=3, loc="upper right", fontsize=8)
plt.show()

# %% [markdown]
# ## The choices
#
# The width that each traffic takes: by prediction alone, with the ten runs, and with all published ones,
# which we call right. This is what the ten runs were chosen for.


# %%
def best_width(task, known):
    """Return the width that a task takes, given some runs."""
    return next_runs(task, known, stranger).best.deployment["tp"]


everything = list(vault.values())
choices = pd.DataFrame(
    {name: [best_width(task, known) for known in ([], taken, everything)] for name, task in tasks.items()},
    index=["by prediction", "with ten runs", "by all runs"],
).T
choices.index = pd.Index([f"{isl}/{osl}" for isl, osl in tasks], name="traffic")
right = (choices["with ten runs"] == choices["by all runs"]).sum()
print(
    f"{(choices['by prediction'] == choices['by all runs']).sum()} of {len(choices)} right by prediction, "
    f"{right} with ten runs"
)
choices

# %% [markdown]
# ## Keeping the profile
#
# A profile is one JSON file: coefficients, levels, intervals, the runs behind them. In a shell all of the
# above is
#
# ```
# aicalib next task.json --count 1                 # which run, with its launch and benchmark lines
# aicalib measure ...                              # or your own client, then: aicalib ingest results.jsonl
# aicalib calibrate --base default --name team -o team.json
# aicalib predict --model qwen3-32b --gpu h100 --tp 4 --profile team.json
# ```
#
# and `aicalib loop task.json --runs 10` does it in one go.

# %%
with TemporaryDirectory() as folder:
    file = Path(folder) / "team.json"
    file.write_text(replace(own, name="team").to_json())
    again = load_profile(str(file))
    values = [predict_batch(rest.batch, each).mean["tpot_ms"].value for each in (again, own)]
    print("the profile that was read again answers the same to five digits:", np.allclose(*values, rtol=1e-5))

# %% [markdown]
# ## What this does not show
#
# - **One cluster.** Other groups gain more or less; the mean over all is in `docs/accuracy.md`, other sweeps
#   in `docs/loop-benchmark.md`.
# - **Published runs repeat little.** Your own come from several starts of the engine, which differ as a
#   whole; repeat some of them (`aicalib loop` does).
# - **Near neighbors.** The runs that were not taken differ from the ten in load and width alone. Another
#   model on the same GPU gains little.
# - **Intervals after ten runs** are those measured for a group that is known; they say nothing of a load of
#   another kind.
