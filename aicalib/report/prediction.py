"""One prediction as the document that `predict --json` prints, and as text."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from aicalib.engines.runnable import runnable
from aicalib.physics.memory import GIB
from aicalib.physics.steps import Operator, Step, decode_step, prefill_step
from aicalib.physics.system import spread_over
from aicalib.prediction import METRICS, Prediction, predict_batch
from aicalib.profiles.profile import uncalibrated
from aicalib.resolve import smallest_fitting_tp
from aicalib.serving.closed import captured_batch

NEAREST = 3
"""Measured runs named beside a prediction."""


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
    if not deployment.identity.architecture.moe_layers:
        asked["moe"] = None  # a dense model refuses the option
    if not deployment.identity.architecture.hf_id:
        asked["config"] = deployment.identity.architecture.source
    pool = float(held.kv_pool_bytes[index])
    holds = int(held.max_total_tokens[index] // (workload.isl + workload.osl))
    if fits and holds < workload.concurrency:
        waiting = f"the KV pool holds {holds} of {workload.concurrency} whole requests; others wait in line"
        asked["notes"] = [*deployment.identity.notes, waiting]
    found: dict[str, Any] = {
        "deployment": asked,
        "workload": workload.as_dict(),
        "profile": prediction.profile.label,
        "status": "ok" if fits else "does_not_fit",
        "runnable": runnable(deployment.identity)._asdict(),
        "evidence": _evidence(prediction, index),
        "prediction": {
            metric: {
                "value": float(interval.value[index]),
                "low": float(interval.low[index]),
                "high": float(interval.high[index]),
                "origin": prediction.origin[index],
            }
            for metric, interval in prediction.mean.items()
        },
        "uncalibrated": {metric: float(plain.mean[metric].value[0]) for metric in METRICS},
        "memory": {
            "weights_gib": float(held.weights_bytes[index]) / GIB,
            "kv_pool_gib": max(pool, 0.0) / GIB,
            "activation_gib": float(held.activation_bytes[index]) / GIB,
            "graphs_gib": float(held.graph_bytes[index]) / GIB,
            "reserve_gib": float(held.reserve_bytes[index]) / GIB,
            "max_total_tokens": int(held.max_total_tokens[index]),
            "max_concurrency": holds,
        },
        "breakdown": _breakdown(prediction, index) if fits else [],
    }
    if not fits:
        gpu = deployment.identity.accelerator
        smallest = smallest_fitting_tp(deployment, workload)
        need = float(held.weights_bytes[index]) / GIB
        found["reason"] = (
            f"{need:.1f} GiB of weights a GPU with tp {deployment.tp} leave no room for a request in the "
            f"{gpu.memory_bytes / GIB:.1f} GiB of {gpu.name}"
        )
        found["smallest_tp"] = smallest
    return found


def _bound(operator: Operator) -> str:
    if operator.bound:
        return operator.bound
    return "compute" if operator.compute_s[0] > operator.memory_s[0] else "memory"


KERNEL_ONLY = {"attention": "kernel-fit", "all-reduce": "kernel-fit", "element-wise": "datasheet"}
"""Operators of a calibrated row whose coefficients no fit moves: medians of kernel timings, or a guess."""


def _breakdown(prediction: Prediction, index: int) -> list[dict[str, Any]]:
    """Return where the time of a decode step, and of a prefill step with one prompt, goes."""
    chosen = np.array([index])
    system, load = prediction.batch.system.take(chosen), prediction.batch.load.take(chosen)
    c = spread_over(system, prediction.profile.values)
    origin = prediction.origin[index]
    running = prediction.service.running[chosen]
    padded = captured_batch(running, system.graph_max_batch)
    tokens = np.minimum(load.isl, system.chunk_tokens / system.dp)
    steps: dict[str, Step] = {
        "decode": decode_step(system, c, running, load.isl + load.osl / 2.0, padded),
        "prefill": prefill_step(system, c, tokens, load.isl, np.ones(1)),
    }
    return [
        {
            "phase": phase,
            "op": operator.name,
            "ms": 1e3 * float(operator.time_s[0]),
            "share": float(operator.time_s[0] / step.time_s[0]),
            "bound": _bound(operator),
            "origin": KERNEL_ONLY.get(operator.name, origin) if origin == "calibrated" else origin,
        }
        for phase, step in steps.items()
        for operator in step.operators
        if operator.time_s[0] > 0
    ]


def _evidence(prediction: Prediction, index: int) -> list[dict[str, Any]]:
    """Return the nearest runs that the profile was fitted on and what they measured.

    Distance is the sum of |ln ratio| over width, lengths and concurrency, plus 3 for another model family,
    1 for another GPU, 1 for another engine and 0.5 for other weights.
    """
    fitted = prediction.profile.fitted
    if not fitted:
        return []
    batch = prediction.batch
    deployment, workload = batch.deployment(index), batch.workload(index)
    who = deployment.identity

    def differs(column: str, value: str) -> np.ndarray[Any, Any]:
        return np.array([each != value for each in fitted[column]], dtype=float)

    distance = 3.0 * differs("family", who.architecture.family) + differs("gpu", who.accelerator.name)
    distance += differs("engine", who.engine)
    distance += 0.5 * differs("gemm", who.quant.gemm.name) + 0.5 * differs("moe", who.quant.moe.name)
    for column, value in (
        ("tp", deployment.tp), ("isl", workload.isl), ("osl", workload.osl),
        ("concurrency", workload.concurrency),
    ):  # fmt: skip
        distance += np.abs(np.log(np.array(fitted[column], dtype=float) / value))
    nearest = np.argsort(distance, kind="stable")[:NEAREST]
    keys = ("engine", "family", "gpu", "gemm", "moe", "tp", "isl", "osl", "concurrency")
    return [
        {
            "source": fitted["source"][at],
            "src_ref": fitted["src_ref"][at],
            "distance": round(float(distance[at]), 3),
            **{key: fitted[key][at] for key in keys},
            "measured": {metric: fitted[metric][at] for metric in ("ttft_ms", "tpot_ms")},
        }
        for at in nearest
    ]


_SHOWN = (
    ("ttft_ms", "TTFT", "ms"),
    ("tpot_ms", "TPOT", "ms"),
    ("e2e_ms", "end to end", "ms"),
    ("requests_s", "requests", "/s"),
    ("output_tok_s", "output", "tok/s"),
    ("output_tok_s_per_gpu", "output per GPU", "tok/s"),
)


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    digits = 0 if value >= 1000 else 1 if value >= 100 else 2
    return f"{value:.{digits}f}"


def text(found: dict[str, Any], *, explain: bool = False) -> str:
    """Return a prediction document as text of at most 100 columns."""
    at, load = found["deployment"], found["workload"]
    formats = {"gemm": at["gemm"], "kv": at["kvcache"], "fmha": at["fmha"], "moe": at["moe"]}
    lines = [
        f"{at['model']} on {at['n_gpus']} x {at['gpu']}, {at['engine']} {at['engine_version']}, "
        f"tp {at['tp']} dp {at['dp']} ep {at['ep']}",
        f"formats: {', '.join(f'{field} {mode}' for field, mode in formats.items() if mode)}",
        f"load: {load['load']}, {load['concurrency']} in flight, {load['isl']:g} in, {load['osl']:g} out",
        "",
        *(_numbers(found) if found["status"] == "ok" else _misfit(found)),
        "",
    ]
    run = found["runnable"]
    if run["ok"] is None:
        lines.append(f"not checked: {run['reason']}")
    elif not run["ok"]:
        needs = f"; needs {run['needs_checkpoint']}" if run["needs_checkpoint"] else ""
        lines.append(f"not at once: {run['reason']}{needs}")
    lines += [f"note: {note}" for note in at["notes"]]
    origin = f", {found['prediction']['tpot_ms']['origin']}" if found["status"] == "ok" else ""
    lines.append(f"profile {found['profile']}{origin}")
    if explain:
        lines += ["", *_explained(found)]
    return "\n".join(lines)


def _numbers(found: dict[str, Any]) -> list[str]:
    """Return the table of predicted numbers, and the memory."""
    held = found["memory"]
    lines = [f"{'':16}{'value':>10}  {'90 % interval':^21}  {'uncalibrated':>12}"]
    for metric, label, unit in _SHOWN:
        each = found["prediction"][metric]
        known = math.isfinite(each["low"])
        interval = f"{_number(each['low']):>9} .. {_number(each['high']):<8}" if known else f"{'-':^21}"
        plain = _number(found["uncalibrated"][metric])
        lines.append(f"{label:16}{_number(each['value']):>10}  {interval}  {plain:>12} {unit}")
    return [
        *lines,
        "",
        f"memory of one GPU: weights {held['weights_gib']:.1f} GiB, KV pool {held['kv_pool_gib']:.1f} GiB, "
        f"outside {held['reserve_gib']:.1f} GiB",
        f"the pool holds {held['max_total_tokens']} tokens: {held['max_concurrency']} x this length",
    ]


def _misfit(found: dict[str, Any]) -> list[str]:
    smallest = found["smallest_tp"]
    return [
        f"does not fit: {found['reason']}",
        f"smallest tp that fits: {smallest}" if smallest else "no width of one node fits; use fewer bits",
    ]


def _explained(found: dict[str, Any]) -> list[str]:
    lines = ["where the time of a decode step and of one prompt's prefill goes:"]
    lines += [
        f"  {each['phase']:8}{each['op']:24}{each['ms']:10.3f} ms {100 * each['share']:6.1f} %  "
        f"{each['bound']}"
        for each in found["breakdown"]
    ]
    if found["evidence"]:
        lines += ["", "nearest measured runs, by distance:"]
    for each in found["evidence"]:
        ttft, tpot = each["measured"]["ttft_ms"], each["measured"]["tpot_ms"]
        lines.append(
            f"  {each['distance']:4.1f}  {each['family']} {each['gpu']} {each['engine']} {each['gemm']} "
            f"tp {each['tp']}, "
            f"{each['isl']:g}/{each['osl']:g} at {each['concurrency']}: "
            f"TTFT {_number(ttft) if ttft else '-'} ms, TPOT {_number(tpot) if tpot else '-'} ms"
        )
        lines.append(f"        {each['source']} {each['src_ref']}")
    return lines
