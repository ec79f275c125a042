"""One prediction as the document that `predict --json` prints, and as text."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aicalib.engines.runnable import runnable
from aicalib.physics.memory import GIB, largest_concurrency, spare_bytes
from aicalib.physics.steps import decode_step, prefill_step, total_s
from aicalib.physics.system import spread_over
from aicalib.physics.widening import slots
from aicalib.prediction import METRICS, Prediction, predict_batch
from aicalib.profiles.profile import uncalibrated
from aicalib.report.evidence import evidence_lines, level_lines, near, nearest, number
from aicalib.report.explain import as_json, explain_text
from aicalib.resolve.identify import surface_codes
from aicalib.resolve.layer_kernels import math_paths
from aicalib.resolve.rows import smallest_fitting_tp
from aicalib.resolve.widened import shown_math
from aicalib.serving.load import BURST, OPEN
from aicalib.serving.server import captured_batch

Array = NDArray[np.float64]

SAME = 0.02
"""Relative difference of TPOT from a decode step, which is read between the knots of a table, that needs no words."""

FITTED = ("gemm", "experts", "decode_mixers", "prefill_mixers", "links")
"""Scales of kernels that a fit moves: what they carry over is as calibrated as the answer."""


def document(prediction: Prediction, index: int) -> dict[str, Any]:
    """Return one row of a prediction as a JSON document.

    Parameters
    ----------
    prediction : Prediction
        n rows.
    index : int
        Which of them.
    """
    batch = prediction.batch
    deployment, workload = batch.deployment(index), batch.workload(index)
    fits = bool(prediction.fits[index])
    plain = predict_batch(batch.take(np.array([index])), uncalibrated())
    held = prediction.memory
    asked = deployment.as_dict()
    if not deployment.identity.architecture.hf_id:
        asked["config"] = deployment.identity.architecture.source
    pool = float(held.kv_pool_bytes[index])
    per_request = batch.load.isl + batch.load.osl
    holds = int(largest_concurrency(held, per_request, batch.instance_settings.max_running)[index])
    margin = float(spare_bytes(held, per_request)[index]) / GIB
    overloaded = bool(prediction.overloaded[index])
    asks = at_once(prediction, index)
    if fits and holds < asks:
        waiting = f"{holds} of {asks:.0f} whole requests run at once; others wait in line"
        asked["notes"] = [*deployment.identity.notes, waiting]
    if deployment.drafter or deployment.mixed_chunk or workload.prefix_hit:
        plain_steps = "the breakdown is of a plain decode step and of the new tokens' prefill by themselves"
        asked["notes"] = [*asked["notes"], plain_steps]  # type: ignore[misc]
    if (unseen := prediction.unseen(index)) is not None:
        asked["notes"] = [*asked["notes"], unseen]  # type: ignore[misc]
    percentiles = prediction.percentiles
    found: dict[str, Any] = {
        "deployment": asked,
        "workload": workload.as_dict(),
        "profile": prediction.profile.label,
        "status": "does_not_fit" if not fits else "overloaded" if overloaded else "ok",
        "runnable": runnable(deployment)._asdict(),
        "evidence": nearest(prediction, index, max(at_once(prediction, index), 1.0)),
        "prediction": {
            metric: {
                "value": float(interval.value[index]),
                "low": float(interval.low[index]),
                "high": float(interval.high[index]),
                "origin": prediction.origin[index],
                **{f"p{at}": float(values[index]) for at, values in percentiles.get(metric, {}).items()},
                **near(prediction, metric, index),
            }
            for metric, interval in prediction.mean.items()
        },
        "uncalibrated": {
            metric: math.nan if overloaded else float(plain.mean[metric].value[0]) for metric in METRICS
        },
        "memory": {
            "weights_gib": float(held.weights_bytes[index]) / GIB,
            "kv_pool_gib": max(pool, 0.0) / GIB,
            "activation_gib": float(held.activation_bytes[index]) / GIB,
            "graphs_gib": float(held.graph_bytes[index]) / GIB,
            "reserve_gib": float(held.reserve_bytes[index]) / GIB,
            "margin_gib": margin,
            "max_total_tokens": int(held.max_total_tokens[index]),
            "max_concurrency": holds,
        },
        "breakdown": _breakdown(prediction, index) if fits and not overloaded else [],
        "basis": _basis(prediction, index),
    }
    if math.isfinite(prediction.service.sustainable_s[index]):
        found["sustainable_requests_s"] = float(prediction.service.sustainable_s[index])
    if overloaded:
        found["reason"] = prediction.reason(index)
    if not fits:
        gpu = deployment.identity.accelerator
        smallest = smallest_fitting_tp(deployment, workload)
        need = float(held.weights_bytes[index]) / GIB
        found["reason"] = (
            f"beside {need:.1f} GiB of weights (tp {deployment.tp}) a request lacks {max(-margin, 0.0):.1f} GiB; "
            f"{gpu.name} has {gpu.memory_bytes / GIB:.1f} GiB"
        )
        found["smallest_tp"] = smallest
    return found


def at_once(prediction: Prediction, index: int) -> float:
    """Return how many requests a workload has in the engine at a time, if it could hold them."""
    load = prediction.batch.load
    kind = load.kind[index]
    if kind == OPEN:
        return float(np.nan_to_num(prediction.service.running[index]))
    return float((load.num_prompts if kind == BURST else load.concurrency)[index])


def _breakdown(prediction: Prediction, index: int) -> list[dict[str, Any]]:
    """Return where the time of a decode step, and of a prefill step with one prompt, goes."""
    batch = prediction.batch.take(np.array([index]))
    system, load, settings = batch.system.take(batch.at), batch.load, batch.instance_settings
    c = spread_over(system, prediction.profile.values)
    running = prediction.service.running[[index]]
    running = np.maximum(running / system.pp, 1.0)
    padded = captured_batch(running, settings.graph_max_batch)
    context, tokens = load.context, np.minimum(load.new, settings.chunk_tokens / system.dp)
    pool = slots(prediction.memory)[[index]]
    steps = {
        "decode": decode_step(system, c, running, context, padded, settings.graph_max_batch, pool),
        "prefill": prefill_step(system, c, tokens, load.new, np.ones(1), pool),
    }
    who = batch.identities[batch.who[batch.at[0]]]
    formats = {
        **math_paths(who.quant, who.accelerator),
        "wide": who.accelerator.wide_format,
        **shown_math(who),
    }
    origins = {name: origin for name, (_, origin) in surface_codes(who).items()}
    origin = prediction.origin[index]
    return as_json(
        {
            "phase": phase,
            "op": each.name,
            "calls": float(each.calls[0]),
            **{size: float(each.sizes[size][0]) for size in ("m", "n", "k") if size in each.sizes},
            "math": formats.get(each.math),
            "flops": float(each.flops[0]),
            "bytes": float(each.bytes_[0]),
            "over": "link" if each.scale == "links" else "memory",
            "ms": 1e3 * float(each.time_s[0]),
            "share": float(each.time_s[0] / total_s(step)[0]),
            "bound": str(np.ravel(each.bounds)[0]),
            "origin": origin
            if each.scale in FITTED or not each.scale
            else origins.get(each.surface, "datasheet"),
        }
        for phase, step in steps.items()
        for each in step
        if each.time_s[0] > 0
    )


def _basis(prediction: Prediction, index: int) -> dict[str, Any]:
    """Return what a breakdown rests on: the datasheet, the profile, and where they come from."""
    who = prediction.batch.deployment(index).identity
    gpu, arch, profile = who.accelerator, who.architecture, prediction.profile
    runs = Counter(profile.fitted.get("source", ()))
    fitted = ", ".join(f"{name} ({count})" for name, count in runs.most_common())
    kernels = "kernel timings of aiconfigurator-core 0.12.0 and the guesses named in coefficients.toml"
    return {
        "gpu": gpu.name,
        "bandwidth_gb_s": gpu.bandwidth_bytes_s / 1e9,
        "peak_tflops": {form: rate / 1e12 for form, rate in gpu.peak_flops.items()},
        "profile": profile.label,
        "sources": {
            gpu.name: gpu.source,
            arch.name: arch.source or f"config.json of {arch.hf_id}",
            "priors": kernels,
            **({"runs fitted": fitted} if fitted else {}),
        },
    }


SHOWN = (
    ("ttft_ms", "TTFT", "ms"),
    ("tpot_ms", "TPOT", "ms"),
    ("e2e_ms", "end to end", "ms"),
    ("requests_s", "requests", "/s"),
    ("output_tok_s", "output", "tok/s"),
    ("output_tok_s_per_gpu", "output per GPU", "tok/s"),
)


def formats_text(at: dict[str, Any]) -> str:
    """Return the formats of a deployment: "gemm fp8, kv bfloat16, fmha bfloat16"."""
    formats = {"gemm": at["gemm"], "kv": at["kvcache"], "fmha": at["fmha"], "moe": at["moe"]}
    return ", ".join(f"{field} {mode}" for field, mode in formats.items() if mode)


def heading(found: dict[str, Any]) -> list[str]:
    """Return what was asked: the deployment, its formats, the load."""
    at, load = found["deployment"], found["workload"]
    return [
        f"{at['model']} on {at['n_gpus']} x {at['gpu']}, {at['engine']} {at['engine_version']}, "
        f"tp {at['tp']} dp {at['dp']} ep {at['ep']}",
        f"formats: {formats_text(at)}",
        f"load: {load['load']}, {sent(load)}, {load['isl']:g} in, {load['osl']:g} out",
        *_unlike(at, load),
    ]


def text(found: dict[str, Any], *, explain: bool = False) -> str:
    """Return a prediction document as text of at most 100 columns."""
    at = found["deployment"]
    lines = [
        *heading(found),
        "",
        *{"ok": _numbers, "does_not_fit": _misfit, "overloaded": _overload}[found["status"]](found),
        "",
    ]
    run = found["runnable"]
    if not run["ok"]:
        needs = f"; needs {run['needs_checkpoint']}" if run["needs_checkpoint"] else ""
        lines.append(f"not at once: {run['reason']}{needs}")
    lines += [f"note: {note}" for note in at["notes"]]
    origin = f", {found['prediction']['tpot_ms']['origin']}" if found["status"] == "ok" else ""
    lines.append(f"profile {found['profile']}{origin}")
    lines += level_lines(found)
    if explain and found["breakdown"]:
        lines += ["", *_explained(found)]
    return "\n".join([*lines, *evidence_lines(found)])


def sent(load: dict[str, Any]) -> str:
    """Return how requests are sent, in words."""
    if load["load"] == "open":
        return f"{load['request_rate']:g} requests/s"
    if load["load"] == "burst":
        return f"{load['num_prompts']} at once"
    return f"{load['concurrency']} in flight"


def _unlike(at: dict[str, Any], load: dict[str, Any]) -> list[str]:
    """Return lines about what a plain engine and load do not have."""
    lines = [f"{at['pp']} pipeline stages"] if at["pp"] > 1 else []
    if load["prefix_hit"]:
        lines.append(f"prefix cache: holds {100 * load['prefix_hit']:g} % of the input")
    if "enable_mixed_chunk" in at:
        lines.append("running requests decode in the steps of prefill chunks")
    if "spec_method" in at:
        drafter = f" by {at['draft_model']}" if at["draft_model"] else ""
        accepted = f"{at['spec_accept']:g} tokens a step" if at["spec_accept"] else "accepted as fitted"
        count = f"{at['spec_tokens']} drafted, {accepted}"
        lines.append(f"speculation: {at['spec_method']}{drafter}, {count}")
    if "moe_a2a_backend" in at:
        lines.append(f"tokens reach their experts by {at['moe_a2a_backend']}")
    if "prefill_tp" in at:
        lines.append(
            f"instances: {at['decode_instances']} decode, {at['prefill_instances']} prefill of tp "
            f"{at['prefill_tp']}, {at['network_gbit_s']:g} Gbit/s a GPU between them"
        )
    return lines


def _overload(found: dict[str, Any]) -> list[str]:
    return [f"overloaded: {found['reason']}"]


def _numbers(found: dict[str, Any]) -> list[str]:
    """Return the table of predicted numbers, and the memory."""
    held = found["memory"]
    lines = [f"{'':16}{'value':>10}  {'90 % interval':^21}  {'uncalibrated':>12}"]
    for metric, label, unit in SHOWN:
        each = found["prediction"][metric]
        known = math.isfinite(each["low"])
        interval = f"{number(each['low']):>9} .. {number(each['high']):<8}" if known else f"{'-':^21}"
        plain = number(found["uncalibrated"][metric])
        lines.append(f"{label:16}{number(each['value']):>10}  {interval}  {plain:>12} {unit}")
    return [
        *lines,
        "",
        f"memory of one GPU: weights {held['weights_gib']:.1f} GiB, KV pool {held['kv_pool_gib']:.1f} GiB, "
        f"outside {held['reserve_gib']:.1f} GiB",
        f"the pool holds {held['max_total_tokens']} tokens: {held['max_concurrency']} x this length",
    ]


def _misfit(found: dict[str, Any]) -> list[str]:
    smallest = found["smallest_tp"]
    if not smallest:
        advice = "no width of one node fits; use fewer bits"
    elif smallest <= found["deployment"]["tp"]:
        advice = f"tp {smallest} fits with the memory fraction and limits that the engine takes by itself"
    else:
        advice = f"smallest tp that fits: {smallest}"
    return [f"does not fit: {found['reason']}", advice]


def _explained(found: dict[str, Any]) -> list[str]:
    lines = ["where the time of a decode step and of one prompt's prefill goes:", ""]
    lines.append(explain_text(found["breakdown"], found["basis"]))
    tpot = found["prediction"]["tpot_ms"]
    tpot_ms = tpot["value"] / tpot.get("level", {}).get("factor", 1.0)
    step_ms = sum(row["ms"] for row in found["breakdown"] if row["phase"] == "decode")
    if (
        found["breakdown"]
        and found["deployment"].get("spec_method") is None
        and tpot_ms > (1.0 + SAME) * step_ms
    ):
        lines += [
            "",
            f"TPOT of {number(tpot_ms)} ms{' by the physics' if 'level' in tpot else ''}: a decode step of "
            f"{number(step_ms)} ms, and {number(tpot_ms - step_ms)} ms in which prompts of others are prefilled",
        ]
    return lines
