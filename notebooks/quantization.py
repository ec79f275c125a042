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
# # Quantization trade-offs of one model on one GPU
#
# Weights, cache, attention and experts of a deployment can each have a format of their own. What does each
# buy, and what of what guides promise holds? This notebook varies the four fields one by one, sets published
# runs beside the prediction, and then looks at four claims that planning documents repeat. Change the next
# cell and run all.

# %%
# %matplotlib inline
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import aicalib
from aicalib.calibrate.build import usable, without_ttft
from aicalib.calibrate.runs import as_runs
from aicalib.calibrate.ship import shipped_runs
from aicalib.errors import RequestError
from aicalib.plan.search.accuracy import table as published_accuracy
from aicalib.prediction import ORIGINS, predict_batch
from aicalib.profiles.profile import default_profile, uncalibrated
from aicalib.report.beside import points
from aicalib.report.pictures import concurrency, memory

model, gpu, engine = "llama-3.1-70b", "b200-sxm", "vllm"
mixture = "minimax-m2"  # a model with experts, for the field that a dense one does not have
tp = 1  # GPUs
isl, osl = 1024, 1024  # tokens of a prompt and of an answer
in_flight = 32

base = {
    "model": model,
    "gpu": gpu,
    "engine": engine,
    "tp": tp,
    "isl": isl,
    "osl": osl,
    "concurrency": in_flight,
}
plain = {"gemm": "bfloat16", "kv": "bfloat16"}

# %% [markdown]
# ## Four fields, one by one
#
# All in 16 bit is the first row; each row below changes what it says and nothing else. What an engine refuses
# stands with its reason.

# %%
experts = {"model": mixture, "tp": 4, "gemm": "fp8_block", "kv": "bfloat16"}
variants = {
    "all 16 bit": plain,
    "weights fp8": {**plain, "gemm": "fp8_static"},
    "weights fp8, dynamic scales": {**plain, "gemm": "fp8"},
    "weights nvfp4": {**plain, "gemm": "nvfp4"},
    "weights int4, 16 bit math": {**plain, "gemm": "int4_wo"},
    "cache fp8": {**plain, "kv": "fp8"},
    "cache fp8, attention 16 bit": {**plain, "kv": "fp8", "fmha": "bfloat16"},
    "weights fp8, cache fp8": {"gemm": "fp8_static", "kv": "fp8"},
    "weights nvfp4, cache fp8": {"gemm": "nvfp4", "kv": "fp8"},
    f"{mixture}: experts fp8_block": {**experts, "moe": "fp8_block"},
    f"{mixture}: experts nvfp4": {**experts, "moe": "nvfp4"},
}
predictions, rows, refused = {}, [], {}
for name, formats in variants.items():
    try:
        deployment, workload = aicalib.question(**base | formats)
        answer = aicalib.predict(deployment, workload)
    except RequestError as error:
        refused[name] = str(error)
        continue
    predictions[name] = answer
    held = answer.memory
    ttft, tpot, rate = (answer.mean[metric] for metric in ("ttft_ms", "tpot_ms", "output_tok_s"))
    quant = deployment.identity.quant
    rows.append(
        {
            "variant": name,
            "attention": quant.fmha.name,
            "TTFT ms": ttft.value[0],
            "TPOT ms": tpot.value[0],
            "low": tpot.low[0],
            "high": tpot.high[0],
            "output tok/s": rate.value[0],
            "weights GiB": held.weights_bytes[0] / 2**30,
            "cache, tokens": held.max_total_tokens[0],
            "origin": ORIGINS[answer.origins[0]],
        }
    )
fields = pd.DataFrame(rows).set_index("variant")
for name, reason in refused.items():
    print(f"{name}: refused, {reason}")
fields.round({"TTFT ms": 0, "TPOT ms": 1, "low": 1, "high": 1, "output tok/s": 0, "weights GiB": 1}).astype(
    {"cache, tokens": int}
)

# %% [markdown]
# `low` and `high` bound TPOT with 90 %; much of that error is common to all rows, so that their ratios are
# surer than their values. An fp8 cache changes the attention kernel on this GPU unless it is told not to.
# Weights in fp8 come from a checkpoint that holds the scales of activations too, as the published runs have
# it; found while serving (`fp8` in place of `fp8_static`) these take some time in every product. Weights in
# nvfp4 or int4 need a checkpoint that was quantized beforehand. The field for experts does nothing
# to a dense model; the last two rows are another model's, on four GPUs.
#
# ## Memory

# %%
shown = ["all 16 bit", "weights fp8", "cache fp8", "weights fp8, cache fp8", "weights nvfp4, cache fp8"]
picture = memory.draw(
    [memory.bar(name, predictions[name]) for name in shown],
    f"{model} on one {gpu}, {engine}: memory",
    [f"requests of {isl} tokens in, {osl} out"],
)
picture.set_dpi(80)
picture

# %% [markdown]
# Quantizing the cache frees no memory: engines give to it all that is left. It doubles the tokens that the
# same memory holds, and with them the requests that run at a time.
#
# ## Speed, and what was measured
#
# Marks are published runs of this model on this GPU, engine and lengths, as far as there are any; the lines
# are of the newest version of the engine, the runs of older ones.

# %%
profile = default_profile()
curves = []
for name in ("all 16 bit", "weights fp8, cache fp8", "weights nvfp4, cache fp8"):
    known = points(predictions[name].batch, profile)
    curves.append(
        concurrency.curve(f"{name} ({len(known)} measured)", base | variants[name], profile, known, most=128)
    )
picture = concurrency.draw(curves, f"{model} on one {gpu}, {engine}: TPOT", [f"{isl} tokens in, {osl} out"])
picture.set_dpi(80)
picture

# %% [markdown]
# ## Pairs: what formats changed where both were measured
#
# Two runs make a pair if they differ in formats alone: the same model, GPU, engine, widths, lengths and load
# (versions of the engine may differ). Of each pair the ratio of the second to the first: measured, as the
# profile predicts it, and as the physics alone does. The profile was fitted on most of these runs; the
# physics on none.

# %%
records = shipped_runs(Path("../measurements"))
runs = without_ttft(as_runs(usable(records)[0]))
metrics = ("ttft_ms", "tpot_ms", "output_tok_s")
answers = {
    "profile": predict_batch(runs.batch, profile),
    "physics": predict_batch(runs.batch, uncalibrated()),
}
every = pd.DataFrame([runs.batch.deployment(at).as_dict() for at in range(runs.batch.at.size)])
load = runs.batch.load
every = every.assign(load=load.kind, isl=load.isl, osl=load.osl, in_flight=load.concurrency)
for metric in metrics:
    every[metric] = runs.measured[metric]
    for name, answer in answers.items():
        every[f"{metric} {name}"] = answer.comparable(metric, runs.median[metric]).value
figures = [column for column in every if column.split()[0] in metrics]

alike = ["model", "gpu", "engine", "n_gpus", "tp", "dp", "ep", "pp", "load", "isl", "osl", "in_flight"]
formats = ["gemm", "moe", "kvcache"]
one_engine = every[every[["spec_method", "prefill_tp"]].isna().all(axis=1)]
middle = one_engine.groupby([*alike, *formats])[figures].median().reset_index()
middle["kvcache"] = middle.kvcache.replace("fp8_e4m3", "fp8")
pairs = middle.merge(middle, on=alike, suffixes=("", " after"))


def weights(row, suffix=""):
    """Return the format of most weights: of the experts where there are any in a format of their own."""
    moe = row["moe" + suffix]
    return row["gemm" + suffix] if moe == "bfloat16" else moe


kinds = {
    ("bfloat16", "fp8"): "weights 16 bit to fp8",
    ("bfloat16", "fp8_static"): "weights 16 bit to fp8",
    ("bfloat16", "fp8_block"): "weights 16 bit to fp8",
    ("fp8", "nvfp4"): "weights fp8 to nvfp4",
    ("fp8_static", "nvfp4"): "weights fp8 to nvfp4",
    ("fp8_block", "nvfp4"): "weights fp8 to nvfp4",
}
pairs["weights"] = [kinds.get((weights(row), weights(row, " after"))) for _, row in pairs.iterrows()]
same_weights = (pairs.gemm == pairs["gemm after"]) & (pairs.moe == pairs["moe after"])
cache = pairs.kvcache + " to " + pairs["kvcache after"]
same_cache = pairs.kvcache == pairs["kvcache after"]
pairs["change"] = pairs.weights.where(same_cache, pairs.weights + ", cache " + cache)
pairs.loc[same_weights & (cache == "bfloat16 to fp8"), "change"] = "cache 16 bit to fp8"
pairs = pairs[pairs.change.notna() & ~pairs.change.astype(str).str.endswith("to bfloat16")].copy()
for column in figures:
    pairs[f"x {column}"] = pairs[f"{column} after"] / pairs[column]

names = {"ttft_ms": "TTFT", "tpot_ms": "TPOT"}
summary = pairs.groupby(["change", "model", "gpu", "engine"]).agg(
    pairs=("tp", "size"),
    **{
        f"{short}{' ' + by if by else ''}": (f"x {metric}{' ' + by if by else ''}", "median")
        for metric, short in names.items()
        for by in ("", "profile", "physics")
    },
)
print("median ratios; a burst of requests counts as a load")
summary.round(2)

# %% [markdown]
# ## Four claims
#
# | claim | where it is said to hold |
# | --- | --- |
# | FP8 gives 1.5 to 2 times the throughput | Hopper, weights, cache and attention in fp8 |
# | an FP8 cache needs 30 to 50 % less memory | any GPU |
# | INT4 weights take 25 % off the prefill | A100 80 GB |
# | INT4 weights give 20 % more tokens a second | A100 80 GB, 8 requests at a time |


# %%
def ratio(metric, before, after, **options):
    """Return predicted `metric` after over before, over the lists of `options`."""
    frame = pd.DataFrame(options)
    return (
        aicalib.predict_many(frame.assign(**after))[metric]
        / aicalib.predict_many(frame.assign(**before))[metric]
    ).to_numpy()


wide, all_fp8 = {"gemm": "bfloat16", "kv": "bfloat16"}, {"gemm": "fp8", "kv": "fp8"}
at_once = [1, 2, 4, 8, 16, 32, 64, 128, 256]
speedups = {
    f"{name} on {count} x {where}": ratio(
        "output_tok_s", wide, all_fp8, model=name, gpu=where, tp=count, isl=isl, osl=osl, concurrency=at_once
    )
    for name, where, count in (
        ("llama-8b", "h100-sxm", 1),
        ("llama-70b", "h100-sxm", 4),
        ("llama-70b", "b200-sxm", 1),
    )
}
lengths = [128, 256, 512, 1024, 2048, 4096, 8192]
prefills = {
    f"{after}, {where}": ratio(
        "ttft_ms",
        wide,
        {"gemm": after, "kv": "bfloat16"},
        model="llama-8b",
        gpu=where,
        isl=lengths,
        osl=1,
        concurrency=1,
    )
    for after, where in (
        ("int4_wo", "a100-sxm-80gb"),
        ("int4_wo", "h100-sxm"),
        ("fp8", "h100-sxm"),
        ("nvfp4", "b200-sxm"),
    )
}

started = pd.read_json("../measurements/startup.jsonl", lines=True)
key = ["model", "gpu", "engine", "engine_version", "mem_fraction", "weights_gib", "kv_gib"]
pools = started.dropna(subset=["kv_gib", "max_total_tokens"]).pivot_table(
    index=key, columns="kv_dtype", values="max_total_tokens", aggfunc="median"
)
pools = pools[pools[["bf16", "fp8_e4m3"]].notna().all(axis=1)].reset_index()
pools["smaller by %"] = (100 * (1 - pools.bf16 / pools.fp8_e4m3)).round(1)
print("cache of a token: fp8 beside 16 bit, from engines' own start-up logs")
pools[[*key, "bf16", "fp8_e4m3", "smaller by %"]].rename_axis(columns=None)

# %%
plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 5.0), layout="constrained")
colors = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
left.axhspan(1.5, 2.0, color="#E69F00", alpha=0.2, linewidth=0, label="claim")
for (name, values), color in zip(speedups.items(), colors):
    left.plot(at_once, values, color=color, label=f"{name}, predicted")
to_fp8 = pairs[pairs.change.str.startswith("weights 16 bit to fp8") & (pairs.load == 0)]
for (name, where), marker in zip(dict.fromkeys(zip(to_fp8.model, to_fp8.gpu)), "o^sD"):
    here = to_fp8[(to_fp8.model == name) & (to_fp8.gpu == where)]
    times = 1 / here["x tpot_ms"]
    left.plot(
        here.in_flight,
        times,
        marker,
        color="black",
        markerfacecolor="none",
        label=f"{name} on {where}, measured (TPOT)",
    )
left.axhline(1, color="0.4", linewidth=0.8)
left.set(
    xscale="log",
    yscale="log",
    xlabel="requests in flight",
    title="output tok/s, fp8 over 16 bit",
    ylim=(0.8, 5),
)
left.set_yticks([1, 1.5, 2, 3, 4], ["1", "1.5", "2", "3", "4"])
left.set_xticks(at_once, [str(each) for each in at_once])
left.minorticks_off()
right.axhline(0.75, color="#E69F00", linewidth=2.5, alpha=0.6, label="claim")
for (name, values), color in zip(prefills.items(), colors):
    right.plot(lengths, values, color=color, label=f"{name}, predicted")
right.axhline(1, color="0.4", linewidth=0.8)
right.set(
    xscale="log",
    xlabel="tokens of the prompt",
    title="llama-8b, TTFT of one request over 16 bit",
    ylim=(0, 1.1),
)
right.set_xticks(lengths, [str(each) for each in lengths])
right.minorticks_off()
for axes in (left, right):
    axes.legend(frameon=False, fontsize=7.5, loc="upper left", bbox_to_anchor=(0, -0.14), ncols=1)
plt.show()

# %% [markdown]
# ## What holds

# %%
a100, a100_full = ratio(
    "output_tok_s",
    wide,
    {"gemm": "int4_wo", "kv": "bfloat16"},
    model="llama-8b",
    gpu="a100-sxm-80gb",
    isl=isl,
    osl=osl,
    concurrency=[8, 256],
)
hopper = np.concatenate([values for name, values in speedups.items() if "h100" in name])
first = prefills["int4_wo, a100-sxm-80gb"]
four_bit = pairs[pairs.change == "weights fp8 to nvfp4"]
measured_tpot = 1 / to_fp8["x tpot_ms"]
print(
    f"FP8, throughput: {hopper.min():.2f} to {hopper.max():.2f} times on Hopper by prediction, claim 1.5 to 2"
)
print(
    f"  measured pairs, by TPOT: {measured_tpot.min():.2f} to {measured_tpot.max():.2f} times "
    f"({len(measured_tpot)} pairs, none of these models)"
)
print(
    f"FP8 cache: {pools['smaller by %'].median():.1f} % less a token in start-up logs, claim 30 to 50; "
    "of the GPU's memory nothing, since the pool takes what is left"
)
print(
    f"INT4, prefill on A100: {100 * (first.min() - 1):+.0f} to {100 * (first.max() - 1):+.0f} % by prediction, "
    "claim -25"
)
print(
    f"  4-bit math (nvfp4 beside fp8, measured TTFT): {100 * (four_bit['x ttft_ms'].median() - 1):+.0f} % "
    f"in the median of {four_bit['x ttft_ms'].notna().sum()} pairs"
)
print(
    f"INT4, throughput on A100: {100 * (a100 - 1):+.0f} % at 8 in flight by prediction, claim +20; "
    f"{100 * (a100_full - 1):+.0f} % at 256"
)

# %% [markdown]
# **FP8 throughput.** The gain depends on the load and on the memory. Few in flight, weights are read for few
# tokens and half the bytes are half the time, less what is launched and reduced: on Hopper that reaches the
# lower end of the claim below ten in flight, and falls from there. Where 16-bit weights leave no room for the
# cache (the 70B model on one GPU), requests wait and fp8 wins by more than its kernels do: there the claim is
# too modest. Measured pairs are few and of other models, and lie below the claim; of the largest one 17 of
# 397 billion weights are active, on eight GPUs, so that little of its time is weights.
#
# **FP8 cache.** Half the bytes a token, exactly: the upper end of the claim. Speed gains little until
# contexts are long or batches large; the measured pairs say so too.
#
# **INT4 prefill.** A prefill computes in 16 bit whatever the weights are stored in, so that 4-bit *weights*
# do not make it shorter; on short prompts, where reading weights matters, they do. What shortens it is 4-bit
# *math*. No published pair of INT4 and 16 bit on an A100 is among the runs: that claim stands on prediction
# alone here, and it is `extrapolated`: no run in such a format on that generation was fitted.
#
# **INT4 throughput.** At small batches weights are most of what is read, so that four bits gain far more than
# 20 %; the gain is gone when the batch is large.
#
# ## Accuracy
#
# Never estimated: what others published, with 16 bit beside it. Of most models and formats nothing is.

# %%
scores = pd.DataFrame([each.as_dict() for each in published_accuracy()])
scores = scores[scores["mode"] != "bfloat16"]
scores["points"] = 100 * (scores.score - scores.of_16_bit)
wide_table = scores.pivot_table(index=["model", "field", "mode"], columns="test", values="points", sort=False)
print(f"{model}: {'published' if (scores.model == model).any() else 'nothing published is known'}")
print("points above or below 16 bit:")
(wide_table.round(1) + 0.0).rename_axis(columns=None).astype(object).fillna("")

# %%
for source, part in scores.groupby("source", sort=False):
    print(f"{source} ({part.licence.iloc[0]})")
    for note in dict.fromkeys(part.note.str.split("; ").str[-1]):
        print("  ", note)

# %% [markdown]
# `mmlu_100` are a hundred questions: one standard error is five points, so that these say "not broken" and no
# more. The scores of the cache are single runs that their authors call preliminary; `fp4` loses much on long
# chains of thought (aime25).
#
# ## What this does not show
#
# - **Your task.** Accuracy on public tests says little of yours.
# - **Kernels to come.** A format is as fast as its kernel in that engine version; ratios move from release to
#   release.
# - **Unpaired effects.** Pairs of bursts mix prefill and decode; pairs across engine versions mix in the
#   engine's own progress.
