"""Results that InferenceX (once InferenceMAX) aggregates: `agg_*.json`, one object a run, times in SECONDS.

Rates are per GPU: `tput_per_gpu` counts input and output tokens over all GPUs; with prefill apart,
`output_tput_per_gpu` is over the decode GPUs and `input_tput_per_gpu` over the prefill GPUs. `*_intvty` is
1 / TPOT in tokens/s a user, percentiles and deviation included, and is kept as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from perfdb.keys import KEYS
from perfdb.readers.reading import Reading, results
from perfdb.readers.source import Object, Source
from perfdb.readers.spellings import WEIGHTS, model_named
from perfdb.readers.values import number, scaled
from perfdb.record import Record

NAME = "inferencex"

_METRIC = re.compile(r"^(mean|median|std|p\d+)_(ttft|tpot|itl|e2el)$")
_ENGINES = {"sglang": "sglang", "vllm": "vllm", "trt": "trtllm", "trtllm": "trtllm"}
_IMAGE = re.compile(
    r"(?:vllm/vllm-openai|lmsysorg/sglang|nvidia/tensorrt-llm/release):v?(\d+\.\d+\.\d+[\w.]*)"
)
"""Images whose tag is the engine's version; that of a Dynamo runtime is Dynamo's."""

_RENAMED = {"conc": "concurrency", "isl": "isl", "osl": "osl", "image": "engine_image"}

Stated = dict[str, tuple[str, Any, str]]


def matches(source: Source) -> bool:
    """Tell whether the first object is an aggregated result."""
    return source.first is not None and _is_result(source.first)


def _is_result(found: Mapping[str, Any]) -> bool:
    return {"hw", "framework", "tput_per_gpu"} <= found.keys()


def read(source: Source) -> Reading:
    """Read one record an object."""
    otherwise = f"not an {NAME} result: no hw, framework and tput_per_gpu"
    return Reading(results(source, _is_result, _record, otherwise), {"tool": "InferenceX"})


def _record(item: Object) -> Record:
    data, inferred, stated = run(item.data)
    return Record(item.number, item.text, data, inferred, stated)


def run(result: Mapping[str, Any], to_ms: float = 1000.0) -> tuple[dict[str, Any], dict[str, Any], Stated]:
    """Read an aggregated result.

    Parameters
    ----------
    result : mapping
        In the keys of `agg_*.json`.
    to_ms : float
        What a time is multiplied by to become milliseconds.

    Returns
    -------
    data, inferred, stated
        As in a `Record`.
    """
    data: dict[str, Any] = {key: result.get(name) for name, key in _RENAMED.items()} | {"load": "closed"}
    stated: Stated = {}
    for name, value in result.items():
        key = _metric_key(name)
        if key is None:
            if name not in (*KEYS, *_RATES, *_RENAMED):
                data[name] = value
        elif (time := scaled(value, to_ms)) is not None:
            data[key] = time
            stated[key] = (name, value, "s" if to_ms == 1000 else "ms")
    deployment, inferred = _deployment(result)
    rates, stated_rates = _rates(result)
    return data | deployment | rates, inferred, stated | stated_rates


def _metric_key(name: str) -> str | None:
    found = _METRIC.match(name)
    key = f"{found[1]}_{found[2].replace('e2el', 'e2e')}_ms" if found else ""
    return key if key in KEYS else None


def _deployment(result: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read engine, model, formats and widths; hardware and precision are names of the project's own."""
    stated, inferred = model_named(result.get("model"))
    words = re.split(r"[-_]", str(result.get("framework")).lower())
    stated["engine"] = next((_ENGINES[word] for word in words if word in _ENGINES), None)
    hardware = result.get("hw")
    if isinstance(hardware, str):
        # `b200-nv`, `h200-cw`: what follows the first dash is the runner, not the card.
        inferred["gpu"] = re.split(r"[-_]", hardware)[0]
    inferred["weight_quant"] = WEIGHTS.get(str(result.get("precision")).lower())
    version = _IMAGE.search(str(result.get("image")))
    inferred["engine_version"] = version[1].rstrip(".") if version else None
    stated |= _speculation(result)
    disagg = truth(result.get("disagg"))
    stated["disagg"] = disagg
    if disagg:
        return stated | {"disagg_layout": _layout(result)}, inferred
    stated |= {"tp": result.get("tp"), "ep": result.get("ep"), "pp": result.get("pp")}
    attention_parallel = truth(result.get("dp_attention"))
    if attention_parallel:
        # The launch scripts of all three engines make every rank an attention rank of its own.
        inferred["dp"] = result.get("tp")
    elif attention_parallel is False:
        stated["dp"] = 1
    return stated | {"n_gpus": _gpus(result)}, inferred


def _speculation(result: Mapping[str, Any]) -> dict[str, Any]:
    """Read the method of speculative decoding, `none` for none; the first files say `mtp: on`."""
    method = result.get("spec_decoding")
    if method is None and isinstance(result.get("mtp"), str):
        method = {"on": "mtp", "off": "none"}.get(result["mtp"].lower())
    if not isinstance(method, str) or not method:
        return {}
    if method.lower() == "none":
        return {"spec_decode": False}
    return {"spec_decode": True, "spec_algorithm": method.upper()}


def _layout(result: Mapping[str, Any]) -> dict[str, Any]:
    """Describe prefill and decode apart; `tp_size` there is the width inside one attention rank."""
    layout: dict[str, Any] = {}
    for side in ("prefill", "decode"):
        width, experts = number(result.get(f"{side}_tp")), number(result.get(f"{side}_ep"))
        layout[f"{side}_num_workers"] = result.get(f"{side}_num_workers")
        layout[f"{side}_pp_size"] = result.get(f"{side}_pp")
        layout[f"{side}_moe_ep_size"] = result.get(f"{side}_ep")
        if width is not None and experts and width % experts == 0:
            layout[f"{side}_moe_tp_size"] = int(width / experts)
        attention_parallel = truth(result.get(f"{side}_dp_attention"))
        if attention_parallel is not None:
            layout[f"{side}_tp_size"] = 1 if attention_parallel else result.get(f"{side}_tp")
            layout[f"{side}_attention_dp_size"] = result.get(f"{side}_tp") if attention_parallel else 1
    return {name: value for name, value in layout.items() if value is not None}


_RATES = {
    "tput_per_gpu": "total_tok_s",
    "output_tput_per_gpu": "output_tok_s",
    "input_tput_per_gpu": "input_tok_s",
}


def _rates(result: Mapping[str, Any]) -> tuple[dict[str, Any], Stated]:
    """Turn rates per GPU into those of the deployment."""
    total = number(_gpus(result))
    over: dict[str, float | None] = dict.fromkeys(_RATES, total)
    if truth(result.get("disagg")):
        over["output_tput_per_gpu"] = number(result.get("num_decode_gpu"))
        over["input_tput_per_gpu"] = number(result.get("num_prefill_gpu"))
    data: dict[str, Any] = {}
    stated: Stated = {}
    for name, key in _RATES.items():
        gpus, rate = over[name], number(result.get(name))
        if gpus and rate is not None:
            data[key] = rate * gpus
            stated[key] = (name, result[name], "tok/s/GPU")
        elif name in result:
            data[name] = result[name]
    if total and "output_tok_s" in data:
        data["tok_s_per_gpu"] = data["output_tok_s"] / total
    if truth(result.get("disagg")):
        data["n_gpus"] = None if total is None else int(total)
    return data, stated


def _gpus(result: Mapping[str, Any]) -> int | None:
    """Count the GPUs that `tput_per_gpu` was divided by."""
    if truth(result.get("disagg")):
        sides = [number(result.get(name)) for name in ("num_prefill_gpu", "num_decode_gpu")]
        found = None if sides[0] is None or sides[1] is None else sides[0] + sides[1]
    else:
        found = number(result.get("tp"))
        for name in ("pp", "pcp_size"):
            found = None if found is None else found * (number(result.get(name)) or 1)
    return int(found) if found is not None and found == found // 1 else None


def truth(value: Any) -> bool | None:
    """Read a truth value or its name in any case; None for anything else."""
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False}.get(str(value).strip().lower())
