"""Keys of a run as people and other tools spell them: metadata of a benchmark, swept settings, model paths."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from perfdb.keys import KEYS, METRICS, OCCASION, PROVENANCE, VIEW_ONLY

SPELLINGS: Final = {
    "model_name": "model",
    "gpu_name": "gpu",
    "gpu_type": "gpu",
    "hardware": "gpu",
    "accelerator": "gpu",
    "num_gpus": "n_gpus",
    "gpu_count": "n_gpus",
    "tp_size": "tp",
    "tensor_parallel_size": "tp",
    "pp_size": "pp",
    "pipeline_parallel_size": "pp",
    "ep_size": "ep",
    "enable_expert_parallel": "expert_parallel",
    "kv_cache_dtype": "kv_dtype",
    "input_len": "isl",
    "random_input_len": "isl",
    "output_len": "osl",
    "random_output_len": "osl",
    "dataset_name": "dataset",
    "max_num_seqs": "max_running_requests",
    "max_num_batched_tokens": "chunked_prefill_size",
    "gpu_memory_utilization": "mem_fraction",
    "max_cudagraph_capture_size": "cuda_graph_max_bs",
    "enable_prefix_caching": "prefix_cache",
    "vllm_version": "engine_version",
    "image": "engine_image",
    "docker_image": "engine_image",
}
"""Spelling and the key that it means; settings of vLLM stand for the same knob of the engine."""

_MEASURED = frozenset({*METRICS, "duration_s", "completed", "failed", "achieved_concurrency"})

WEIGHTS: Final = {
    "fp8": "fp8",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "fp16": "fp16",
    "float16": "fp16",
    "int4": "int4",
    "nvfp4": "nvfp4",
    "mxfp4": "mxfp4",
    "modelopt_fp4": "nvfp4",
    "awq": "awq_int4",
    "awq_marlin": "awq_int4",
    "fp8_block_scales": "fp8_block",
    "w4a16_awq": "awq_int4",
    "w4a16_gptq": "gptq_int4",
}
"""Names that engines give to one format of weights; a name that stands for a family (fp4, gptq) is not here."""


def by_meaning(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sort settings into keys of a run and the rest.

    Parameters
    ----------
    settings : mapping
        What a file holds beside its own keys. Names may use `-` for `_`, values may be texts.

    Returns
    -------
    known : dict
        Keys of a run, values in their kind. vLLM's `tensor_parallel_size` counts one replica or
        attention-data-parallel rank, so it is a `tp` only where `data_parallel_size` is not above 1.
    rest : dict
        What means no key, as it is. Names that a run would take for its own keys, but whose values do not
        read as such, stand under `metadata`.
    """
    copies = _as_kind(settings.get("data_parallel_size", settings.get("data-parallel-size")), "int")
    known: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    unread: dict[str, Any] = {}
    for name, value in settings.items():
        plain = name.strip().lower().replace("-", "_")
        key = SPELLINGS.get(plain, plain)
        taken = key in known or (key == "tp" and copies is not None and copies > 1)
        kind = "text" if key in PROVENANCE else KEYS.get(key, OCCASION.get(key))
        found = None if kind is None or taken or key in _MEASURED else _as_kind(value, kind)
        if found is not None:
            known[key] = found
        elif name in KEYS or name in PROVENANCE or name in VIEW_ONLY:
            unread[name] = value
        else:
            rest[name] = value
    return known, rest | ({"metadata": unread} if unread else {})


def _as_kind(value: Any, kind: str) -> Any:
    """Read a value, or the text of one, as its kind; None if it does not read as one."""
    if kind == "text":
        return value.strip() or None if isinstance(value, str) else None
    if kind == "bool":
        folded = str(value).strip().lower()
        return folded == "true" if folded in ("true", "false") else None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(found):
        return None
    if kind == "float":
        return found
    return int(found) if kind == "int" and found.is_integer() else None


def model_named(name: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tell a model's name, which is stated, from a path on somebody's disk, which only suggests one.

    Returns
    -------
    stated, suggested : dict
        One of them holds `model`.
    """
    if not isinstance(name, str) or not name.startswith((".", "/", "~")):
        return {"model": name}, {}
    cached = re.search(r"models--([^/\\]+?)--([^/\\]+)[/\\]snapshots", name)
    return {}, {"model": f"{cached[1]}/{cached[2]}" if cached else name}
