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
# # How many GPUs?
#
# You know the traffic you must carry and how quickly answers must come. You want to know which GPU, number
# format and tensor-parallel width to rent, and how many, before you rent any. This notebook goes from the one
# to the other, and says at each step how far the numbers can be trusted. Change the next cell to your own
# case and run all.

# %%
# %matplotlib inline
import matplotlib.pyplot as plt
import pandas as pd

from aicalib.plan.capacity.plan import plan
from aicalib.plan.capacity.trace import read_traffic
from aicalib.plan.price import load_prices
from aicalib.plan.search.best import bound
from aicalib.report.pictures import day

model = "llama-70b"
gpus = ["h100-sxm", "h200-sxm", "b200-sxm", "a100-sxm-80gb"]
formats = {"kv": ["bfloat16", "fp8"]}  # what to try; of weights: all that the engine starts
traffic = read_traffic(
    "../examples/traffic_day.csv"
)  # made up; a log of yours, or aicalib.plan.capacity.demand.steady
level = [bound("ttft", 2000, "p99"), bound("tpot", 50)]  # ms: p99 to the first token, mean of the others
spare = 0.20  # capacity beyond what arrives
prices = load_prices("example")  # an example, no offer: give a file of your own

# %% [markdown]
# ## The traffic
#
# A file of requests, or of rates over time. Each row becomes a *bin*, planned as if its rate lasted.

# %%
bins = traffic.frame()
busiest = bins.iloc[traffic.peak]
print(f"{traffic.requests:,.0f} requests in {traffic.hours:g} h, {len(bins)} bins")
print(
    f"peak {busiest.requests_s:.2f} requests/s at {busiest.begins}, {busiest.isl:.0f} tokens in, {busiest.osl:.0f} out"
)
print(
    f"mean {bins.requests_s.mean():.2f} requests/s: "
    f"the peak is {busiest.requests_s / bins.requests_s.mean():.1f} times as high"
)

# %% [markdown]
# ## From traffic to fleets
#
# `plan` tries every format and width that the engine starts on each GPU. One copy of the model (a *replica*)
# is loaded with random arrivals as far as the service level holds, in every bin; the fleet is what its
# busiest bin needs, spare included. The same on the command line, with the formats left open:
#
# ```
# aicalib plan --model llama-70b --gpu h100-sxm,h200-sxm,b200-sxm,a100-sxm-80gb --traffic examples/traffic_day.csv \
#     --ttft-ms 2000@p99 --tpot-ms 50 --spare 0.2 --prices example
# ```

# %%
found = plan(model, gpus, traffic, level, spare=spare, prices=prices, only=formats)
fleets = found.frame()
fleets["gpus_90"] = [f"{low:.0f} to {high:.0f}" for low, high in zip(fleets.gpus_low, fleets.gpus_high)]
fleets["published"] = (
    fleets.needs_checkpoint.isna()
)  # starts from the checkpoint that the model's makers published
at_once = fleets[fleets.published].astype({"gpus": int})
pd.set_option("display.max_colwidth", 100)

print(f"{found.considered} starts compared, profile {found.profile}")
for note in found.notes:
    print("note:", note)
shown = [
    "start",
    "gpus",
    "gpus_90",
    "cost_per_hour",
    "cost_per_million_output",
    "utilisation_peak",
    "mean_kw",
    "origin",
    "tie",
]
at_once[shown].round(
    {"cost_per_hour": 2, "cost_per_million_output": 2, "utilisation_peak": 2, "mean_kw": 1}
).reset_index(drop=True)

# %% [markdown]
# **What the interval means.** `gpus_90` is a 90 % interval: for each figure of the service level, nine in ten
# measured runs of models and GPUs that the fit had *not* seen lay inside its own. `extrapolated` says that
# the load is of a kind that no fit has seen (here: random arrivals), `datasheet` that of one of its formats
# no kernel was timed on GPUs of that generation. These intervals are wide, and honestly so.
#
# **Ties.** A fleet that the best beats by less than the 90 % interval of their ratio is a tie: these numbers
# do not tell which is cheaper. What is common to the errors of both is left out of that interval.
#
# A format that needs a checkpoint of its own (4-bit weights, say) is ranked apart, since its answers may
# differ: below, the best fleet of each GPU, in both groups.

# %%
best = (
    fleets.drop_duplicates(["published", "gpu"])
    .sort_values("cost_per_hour", ascending=False)
    .reset_index(drop=True)
)
colors = best.published.map({True: "#0072B2", False: "#D55E00"})
plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
figure, axes = plt.subplots(figsize=(8, 0.52 * len(best) + 1.3), layout="constrained")
axes.hlines(
    best.index, best.cost_per_hour_low, best.cost_per_hour_high, color=colors, alpha=0.35, linewidth=7
)
axes.scatter(best.cost_per_hour, best.index, c=colors, s=36, zorder=3)
for at, row in best.iterrows():
    axes.annotate(
        f"{row.gpus:.0f} GPUs",
        (row.cost_per_hour, at),
        (0, 9),
        textcoords="offset points",
        ha="center",
        fontsize=8,
    )
axes.set(xscale="log", xlabel=f"{prices.currency} an hour, with 90 % interval", ylim=(-0.6, len(best) - 0.3))
axes.set_yticks(best.index, best.start)
ticks = [5, 10, 20, 50, 100, 200]
axes.set_xticks(ticks, [f"{each}" for each in ticks])
axes.minorticks_off()
axes.grid(axis="x", alpha=0.3)
for color, label in (
    ("#0072B2", "starts from the published checkpoint"),
    ("#D55E00", "needs a checkpoint of its own"),
):
    axes.scatter([], [], c=color, label=label)
figure.legend(frameon=False, loc="outside lower left", ncols=2)
figure.suptitle(
    f"{model}: the cheapest fleet of each GPU, example prices of {prices.date}",
    x=0.01,
    ha="left",
    fontweight="bold",
)
plt.show()

# %% [markdown]
# ## One day of the first fleet

# %%
picture = day.picture(found.as_dict())
picture.set_dpi(80)
picture

# %% [markdown]
# Utilisation is the share of what the fleet could sustain at all, without a service level. A fleet at its
# level is well below 100 %: the distance is what the level costs. The fleet is paid for at night too; an
# ideal autoscaler, which no real one reaches, would pay for the replicas that each bin needs.

# %%
first = found.best
print(f"{first.words}: {first.replicas.value:.0f} replicas of {first.gpus_per_replica}")
print(
    f"one replica takes {first.rate.value:.2f} requests/s ({first.rate.low:.2f} to {first.rate.high:.2f}), "
    f"{first.in_flight:.0f} in flight"
)
print(
    f"beyond that {first.binds} breaks the level; at {first.limit:.2f} requests/s requests pile up without end"
)
print(
    f"fixed fleet {first.cost.per_hour.value:.2f} {prices.currency}/h, "
    f"ideal autoscaler {first.cost.autoscaled_per_hour:.2f}"
)

# %% [markdown]
# ## What does the service level cost?
#
# The same plan of the first GPU for other bounds on the time to the first token. Where the number of GPUs
# does not move, the quicker answer is free.

# %%
asked = (500, 1000, 2000, 4000)
others = {}
for ttft_ms in asked:
    bounds = [bound("ttft", ttft_ms, "p99"), *level[1:]]
    same = {
        "gemm": [first.deployment["gemm"]],
        "kv": [first.deployment["kvcache"]],
        "tp": [first.deployment["tp"]],
    }
    others[ttft_ms] = plan(
        model, [first.deployment["gpu"]], traffic, bounds, spare=spare, prices=prices, only=same
    ).best
pd.DataFrame(
    {
        "GPUs": [each.gpus.value for each in others.values()],
        "low": [each.gpus.low for each in others.values()],
        "high": [each.gpus.high for each in others.values()],
        "requests/s a replica": [round(each.rate.value, 2) for each in others.values()],
        "binds": [each.binds for each in others.values()],
    },
    index=pd.Index(asked, name="TTFT p99, ms"),
)

# %% [markdown]
# ## What to say in the meeting

# %%
tied = at_once[at_once.tie]
print(f"{model}, peak {busiest.requests_s:.1f} requests/s, {spare:.0%} spare:")
print(
    f"  {first.words}: {first.gpus.value:.0f} GPUs ({first.gpus.low:.0f} to {first.gpus.high:.0f}), "
    f"{first.cost.per_hour.value:.2f} {prices.currency}/h"
)
if len(tied):
    print(
        f"  a tie with {len(tied)} others, on {', '.join(dict.fromkeys(tied.gpu))}: "
        "decide by price and delivery, or measure"
    )

# %% [markdown]
# Measuring is cheap beside the fleet: send the planned rate to one replica of each of the first two, with the
# engine's own benchmark client, then `aicalib ingest` and `aicalib calibrate --base default`, and run this
# notebook again with that profile (`plan(..., profile=...)`). The notebook *calibrating to your own cluster*
# shows what ten runs are worth.
#
# ## What these numbers do not cover
#
# - **Means within a bin.** A bin counts by its mean lengths, and arrivals inside it are taken as Poisson.
#   Burstier traffic waits longer.
# - **Routing.** Requests are spread at random. A router that picks the least loaded replica does better.
# - **Speculative decoding, prefix-cache hits, prefill and decode on separate GPUs.** Each changes the answer;
#   `aicalib search` compares them under a fixed number in flight.
# - **Whether the format is good enough.** Prices are compared, answers are not. What others published of a
#   format's accuracy stands in the notebook *quantization trade-offs*.
# - **Failures and roll-outs.** The spare is for traffic. Replicas that are down for an upgrade come on top,
#   and so do whole servers: GPUs are counted one by one.
