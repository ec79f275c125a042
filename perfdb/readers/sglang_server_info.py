"""The settings that an SGLang server reports (`/server_info`), as keys of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from perfdb.readers.values import number

# Names of `--quantization` that stand for one format; others name a family and stay as `quantization`.
_WEIGHTS = {
    "fp8": "fp8",
    "modelopt_fp8": "fp8",
    "modelopt_fp4": "nvfp4",
    "mxfp4": "mxfp4",
    "w8a8_int8": "w8a8_int8",
    "awq": "awq_int4",
    "awq_marlin": "awq_int4",
}


def settings(info: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the settings of a server.

    Parameters
    ----------
    info : mapping
        The `server_info` object of a result line, or what the endpoint answered.

    Returns
    -------
    stated : dict
        Keys of a run that the server states.
    suggested : dict
        Keys that a context may refine: a local model path, a weight format named by its family, a KV format
        left on `auto`.
    """
    layout: dict[str, Any] = {}
    if isinstance(info.get("decode"), list) and isinstance(info.get("prefill"), list):
        layout = _layout(info["prefill"], info["decode"])
        info = next((server for server in info["decode"] if isinstance(server, Mapping)), {})
    state = _first_state(info)
    stated: dict[str, Any] = {
        "engine": "sglang",
        "engine_version": info.get("version"),
        "mem_fraction": info.get("mem_fraction_static"),
        "chunked_prefill_size": info.get("chunked_prefill_size"),
        "max_running_requests": info.get("max_running_requests"),
        "stream_interval": info.get("stream_interval"),
        "scheduler_recv_interval": info.get("scheduler_recv_interval"),
        "attention_backend": info.get("attention_backend"),
        "prefill_attention_backend": info.get("prefill_attention_backend"),
        "decode_attention_backend": info.get("decode_attention_backend"),
        "moe_backend": _unless_auto(info.get("moe_runner_backend")),
        "cuda_graph_max_bs": _graph_max(info),
        "disable_cuda_graph": info.get("disable_cuda_graph"),
        "prefix_cache": _negated(info.get("disable_radix_cache")),
        "quantization": info.get("quantization"),
        "dtype": info.get("dtype"),
        "max_total_tokens": info.get("max_total_num_tokens"),
    }
    if info.get("max_total_tokens") is not None:
        stated["tokens_capped_by_user"] = True
    stated |= _speculation(info) | _memory(state)
    if layout:
        stated |= {"disagg": True, "disagg_layout": layout}
    else:
        stated |= _widths(info)
        if "disaggregation_mode" in info:
            stated["disagg"] = info["disaggregation_mode"] not in (None, "null")
    suggested: dict[str, Any] = {"weight_quant": _WEIGHTS.get(str(info.get("quantization")))}
    kv_dtype, model = info.get("kv_cache_dtype"), info.get("model_path")
    (suggested if kv_dtype == "auto" else stated)["kv_dtype"] = kv_dtype
    if isinstance(model, str) and (model.startswith((".", "/", "~")) or "\\" in model):
        suggested["model"] = _hub_name(model)
    else:
        stated["model"] = model
    return stated, suggested


def _hub_name(path: str) -> str:
    """Read the model's name from a path inside a Hugging Face cache; any other path stays as it is."""
    cached = re.search(r"models--([^/\\]+?)--([^/\\]+)[/\\]snapshots", path)
    return f"{cached[1]}/{cached[2]}" if cached else path


def _widths(server: Mapping[str, Any]) -> dict[str, Any]:
    """Read the parallel widths: `dp` counts attention ranks only, plain replicas are `dp_replicas`."""
    tp, pp, copies = server.get("tp_size"), server.get("pp_size", 1), server.get("dp_size") or 1
    attention = server.get("attn_dp_size") or 1
    found = {"tp": tp, "pp": pp, "ep": server.get("ep_size"), "dp": 1}
    if attention != 1:
        # Since 0.5.23 attention ranks have a width of their own, and `dp_size` counts replicas only.
        found["dp"] = attention
    elif server.get("enable_dp_attention"):
        found["dp"], copies = copies, 1
    if copies != 1:
        found["dp_replicas"] = copies
    if isinstance(tp, int) and isinstance(pp, int) and isinstance(copies, int):
        found["n_gpus"] = tp * pp * copies
    return found


def _layout(prefill: list[Any], decode: list[Any]) -> dict[str, Any]:
    """Describe a deployment with prefill and decode apart: workers and widths of each side."""
    found: dict[str, Any] = {}
    for side, servers in (("prefill", prefill), ("decode", decode)):
        found[f"{side}_num_workers"] = len(servers)
        if servers and isinstance(servers[0], Mapping):
            widths = _widths(servers[0])
            found[f"{side}_tp_size"] = widths["tp"]
            found[f"{side}_pp_size"] = widths["pp"]
            found[f"{side}_attention_dp_size"] = widths["dp"]
            found[f"{side}_ep_size"] = widths["ep"]
    return found


def _speculation(info: Mapping[str, Any]) -> dict[str, Any]:
    """Read speculative decoding; without the setting, nothing is said."""
    if "speculative_algorithm" not in info:
        return {}
    algorithm = info["speculative_algorithm"]
    if algorithm is None:
        return {"spec_decode": False}
    return {
        "spec_decode": True,
        "spec_algorithm": algorithm,
        "spec_steps": info.get("speculative_num_steps"),
        "spec_draft_tokens": info.get("speculative_num_draft_tokens"),
    }


def _first_state(info: Mapping[str, Any]) -> Mapping[str, Any]:
    states = info.get("internal_states")
    if isinstance(states, list) and states and isinstance(states[0], Mapping):
        return states[0]
    return {}


def _memory(state: Mapping[str, Any]) -> dict[str, Any]:
    """Read what one rank allocated, in GiB."""
    usage = state.get("memory_usage")
    if not isinstance(usage, Mapping):
        return {}
    graph = usage.get("graph", usage.get("cuda_graph"))
    if isinstance(graph, Mapping):
        graph = sum(number(part) or 0.0 for part in graph.values())
    return {"weights_gib": usage.get("weight"), "kv_gib": usage.get("kvcache"), "graph_mem_gib": graph}


def _graph_max(info: Mapping[str, Any]) -> Any:
    """Return the largest captured decode batch, under either layout of the settings; 0 where none is captured."""
    if info.get("disable_cuda_graph"):
        return 0
    config = info.get("cuda_graph_config")
    decode = config.get("decode") if isinstance(config, Mapping) else None
    if isinstance(decode, Mapping) and decode.get("backend") == "disabled":
        return 0
    if isinstance(decode, Mapping) and decode.get("max_bs") is not None:
        return decode["max_bs"]
    return info.get("cuda_graph_max_bs")


def _unless_auto(value: Any) -> Any:
    return None if value == "auto" else value


def _negated(value: Any) -> bool | None:
    return None if value is None else not value
