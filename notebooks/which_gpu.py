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
# # Which GPU for which model?
#
# A small, a middling and a very large model, one service level, four GPUs. For each pair a search tries every
# format and width that the engine starts, over the requests in flight, and keeps the cheapest million tokens
# within the service level. Change the next cell and run all.

# %%
# %matplotlib inline
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from aicalib.errors import RequestError
from aicalib.hardware import get_accelerator
from aicalib.plan.price import load_prices
from aicalib.plan.search.best import Goal, bound, search
from aicalib.plan.search.space import SETTINGS, Sought

models = ["llama-8b", "llama-70b", "deepseek-v3"]
gpus = ["a100-sxm-80gb", "h100-sxm", "h200-sxm", "b200-sxm"]
count = 8  # GPUs of one kind: one server
isl, osl = 2000, 500  # mean tokens of a prompt and of an answer
level = (bound("ttft", 2000), bound("tpot", 50))  # ms, means
prices = load_prices("example")  # an example, no offer: give a file of your own
only = {"kv": ("bfloat16", "fp8")}  # formats to try; of weights: all that the engine starts
only |= dict.fromkeys(SETTINGS, (None,))  # engine settings are left to the engine; speculation is off

# %% [markdown]
# ## The search
#
# What starts from the published checkpoint and what needs a checkpoint of its own (4-bit weights, say) are
# ranked apart: the second may be cheaper, and its answers may differ. On the command line, one pair is
#
# ```
# aicalib search --model llama-70b --gpu h200-sxm --gpus 8 --isl 2000 --osl 500 --ttft-ms 2000 --tpot-ms 50 \
#     --kv bfloat16,fp8 --objective cost --prices example --no-separate
# ```
#
# which also tries settings of the engine and speculation.

# %%
PUBLISHED, OWN = "published", "of its own"
found, refused = {}, {}
for model in models:
    for gpu in gpus:
        sought = Sought(model, (gpu,), count, isl, osl, only=only, separate=False)
        goal = Goal("cost", level, prices=prices)
        try:
            found[model, gpu] = search(sought, goal, limit=20_000)
        except RequestError as error:
            refused[model, gpu] = str(error)

print(
    f"{sum(each.evaluated for each in found.values()):,} configurations, profile {next(iter(found.values())).profile}"
)
for pair, reason in refused.items():
    print(*pair, "refused:", reason)


def row(model, gpu, choice):
    """Return one line of the table."""
    at, figures, cost = choice.deployment, choice.figures, choice.cost_per_mtok
    return {
        "model": model,
        "gpu": gpu,
        "gemm": at["gemm"],
        "moe": at["moe"],
        "kv": at["kvcache"],
        "tp": at["tp"],
        "replicas": choice.replicas,
        "in flight": choice.workload["concurrency"],
        "TTFT ms": figures["ttft_ms"].value,
        "TPOT ms": figures["tpot_ms"].value,
        "tok/s a GPU": figures["output_tok_s_per_gpu"].value,
        "cost": cost.value,
        "low": cost.low,
        "high": cost.high,
        "checkpoint": PUBLISHED if choice.needs is None else OWN,
        "origin": choice.origin,
    }


chosen = {
    (model, gpu, kind): group[0]
    for (model, gpu), each in found.items()
    for kind, group in ((PUBLISHED, each.at_once), (OWN, each.with_checkpoint))
    if group
}
table = pd.DataFrame([row(model, gpu, choice) for (model, gpu, _), choice in chosen.items()])
group = ["model", "checkpoint"]
cheapest = table.sort_values("cost").groupby(group, as_index=False, sort=False).first()
against = table[group].merge(cheapest, how="left")
# Errors on two GPUs have nothing in common, so that their interval is that of the ratio of both.
apart = np.exp(np.hypot(np.log(against.high / against.cost), np.log(table.cost / table.low)))
table["verdict"] = np.where(
    table.gpu == against.gpu, "cheapest", np.where(table.cost <= against.cost * apart, "tie", "dearer")
)
rounded = table.round({"TTFT ms": 0, "TPOT ms": 1, "tok/s a GPU": 0, "cost": 2, "low": 2, "high": 2})
rounded[rounded.checkpoint == PUBLISHED].drop(columns="checkpoint").set_index("model")

# %%
rounded[rounded.checkpoint == OWN].drop(columns="checkpoint").set_index("model")

# %% [markdown]
# `cost` is the price of a million output tokens at that load, prompts included, with `low` and `high`, the
# ends of a 90 % interval. The first table starts from published checkpoints, the second needs one of its own;
# a GPU that is missing has none that fits.
#
# **A tie** is a GPU that the cheapest of its table beats by less than the 90 % interval of their ratio: these
# numbers do not tell the two apart, and a better price, a shorter queue for delivery or a run of your own
# should decide.
# `origin` says how near the fitted runs are: `calibrated`, `extrapolated` (another model, GPU or format
# stands in) or `datasheet` (no kernel of one of its formats was timed on that generation), in this order of
# trust.

# %%
plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
colors = dict(zip(gpus, ("#8C8C8C", "#0072B2", "#D55E00", "#009E73")))
figure, panels = plt.subplots(1, len(models), figsize=(9.5, 3.3), layout="constrained", sharey=True)
places = {gpu: at for at, gpu in enumerate(reversed(gpus))}
for axes, model in zip(panels, models):
    for each in table[table.model == model].itertuples():
        own = each.checkpoint == OWN
        at = places[each.gpu] + (-0.2 if own else 0.2)
        axes.hlines(at, each.low, each.high, color=colors[each.gpu], alpha=0.2 if own else 0.4, linewidth=6)
        face = "white" if own else colors[each.gpu]
        axes.plot(each.cost, at, "o", color=colors[each.gpu], markerfacecolor=face, markersize=5, zorder=3)
        words = f"{each.gemm}, {each.verdict}"
        axes.annotate(words, (each.cost, at), (0, 5), textcoords="offset points", ha="center", fontsize=6.5)
    axes.set(
        xlim=(0, None), ylim=(-0.5, len(gpus) - 0.4), xlabel=f"{prices.currency} a million output tokens"
    )
    axes.set_title(model, loc="left", fontweight="bold")
panels[0].set_yticks(range(len(gpus)), list(places))
figure.suptitle(
    "Cost with 90 % intervals, example prices. Solid: published checkpoint; hollow: one of its own",
    x=0.01,
    ha="left",
    fontsize=9,
)
plt.show()

# %% [markdown]
# ## Speed for a user against speed for the house
#
# Fewer requests in flight serve each user faster and each GPU less. A *Pareto front* is what no other
# configuration beats in both. Solid marks keep the service level, hollow ones do not (the dashed line is its
# TPOT); a ring is the choice of the table. GPUs are compared one for one here, without their price.

# %%
figure, panels = plt.subplots(1, len(models), figsize=(10, 3.9), layout="constrained")
for axes, model in zip(panels, models):
    for gpu in gpus:
        if (model, gpu) not in found:
            continue
        each = found[model, gpu]
        points = each.pareto or each.pareto_with_checkpoint
        x = np.array([point.tok_s_per_user.value for point in points])
        y = np.array([point.output_tok_s_per_gpu.value for point in points])
        meets = np.array([point.meets for point in points])
        axes.plot(x, y, "-" if each.pareto else "--", color=colors[gpu], linewidth=1.5)
        axes.plot(x[meets], y[meets], ".", color=colors[gpu], markersize=5)
        axes.plot(x[~meets], y[~meets], "o", color=colors[gpu], markerfacecolor="white", markersize=3.5)
        best = each.best.figures
        axes.plot(
            best["tok_s_per_user"].value,
            best["output_tok_s_per_gpu"].value,
            "o",
            color="black",
            markerfacecolor="none",
            markersize=10,
        )
    axes.axvline(1e3 / level[1].threshold_s / 1e3, color="0.4", linewidth=0.8, linestyle=(0, (5, 3)))
    axes.set(xscale="log", yscale="log", xlabel="tok/s of one user")
    axes.set_title(model, loc="left", fontweight="bold")
    axes.grid(alpha=0.25)
panels[0].set_ylabel("output tok/s of one GPU")
keys = [panels[0].plot([], [], color=colors[gpu], label=gpu)[0] for gpu in gpus]
keys += panels[0].plot([], [], "--", color="0.4", label="needs a checkpoint of its own")
figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), frameon=False)
plt.show()

# %% [markdown]
# ## Why these win
#
# Each choice says in a sentence what in the model decides against the other formats.

# %%
first = cheapest[cheapest.checkpoint == PUBLISHED].set_index("model")
for model, gpu in first.gpu.items():
    choice = chosen[model, gpu, PUBLISHED]
    print(f"{model}: {choice.start.words()}, {choice.workload['concurrency']} in flight")
    print(f"  {choice.why}")
    print(
        f"  weights {choice.memory.weights_gib:.1f} GiB a GPU, cache {choice.memory.kv_pool_gib:.1f} GiB: "
        f"{choice.memory.max_concurrency} requests at a time"
    )
    known = [f"{each.test} {each.score:g} (16 bit: {each.of_16_bit:g})" for each in choice.accuracy]
    print(f"  accuracy published of these formats: {', '.join(known) or 'none known'}\n")

# %% [markdown]
# ## How dear may a GPU be?
#
# Prices move; speeds do not. Below, for each model, what an hour of each GPU may cost for its million tokens
# to cost as much as on the cheapest, from published checkpoints. An offer below that wins, for what intervals
# let one say.

# %%
hourly = pd.Series({gpu: prices.of(get_accelerator(gpu)).per_hour for gpu in gpus}, name="example price")
break_even = table[table.checkpoint == PUBLISHED].assign(
    even=lambda part: part.gpu.map(hourly) * part.model.map(first.cost) / part.cost
)
break_even.pivot(index="gpu", columns="model", values="even").reindex(index=gpus, columns=models).join(
    hourly
).round(2)

# %% [markdown]
# ## What these numbers do not cover
#
# - **Prices are an example** of one day and one provider, without reservation or volume. Only their ratios
#   matter for the verdicts.
# - **A fixed number in flight.** Real traffic comes at random; `aicalib plan` sizes fleets for it (notebook
#   *capacity planning*).
# - **Eight GPUs are paid for**, whether the model needs them or not: a small model stands on them several
#   times over.
# - **Formats change answers.** 4-bit weights fit where others do not, and need a checkpoint that was
#   quantized with care. Where nothing is published of its accuracy, nothing is said here; measure your own
#   task.
# - **One node.** Instances over several nodes need the rate of their network, which is not guessed:
#   `aicalib search --gpus 16 --network-gbit-s 400` tries them.
# - **Settings, speculation, prefill on instances of its own** are left out; `aicalib search` tries them too.
#   The first two need only the line in the first cell taken out, the last `separate=True`.
