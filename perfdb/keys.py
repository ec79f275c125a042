"""The keys of a run: their names, kinds and groups, as every reader fills them.

A run is one flat JSON object. Units stand in the names; `tok_s` is tokens per second. Keys outside this
table are kept under `extra`.
"""

from __future__ import annotations

from typing import Final, Literal

Kind = Literal["text", "int", "float", "bool", "json"]

_DEPLOYMENT: Final[dict[str, Kind]] = {
    "engine": "text",
    "engine_version": "text",
    "engine_image": "text",
    "gpu": "text",
    "n_gpus": "int",
    "tp": "int",
    "dp": "int",
    "ep": "int",
    "pp": "int",
    "expert_parallel": "bool",
    "disagg": "bool",
    "disagg_layout": "json",
    "model": "text",
    "model_group": "text",
    "weight_quant": "text",
    "gemm_quant_src": "text",
    "moe_quant_src": "text",
    "kv_dtype": "text",
    "attention_backend": "text",
    "moe_backend": "text",
    "chunked_prefill_size": "int",
    "mem_fraction": "float",
    "max_running_requests": "int",
    "cuda_graph_max_bs": "int",
    "stream_interval": "int",
    "scheduler_recv_interval": "int",
    "prefix_cache": "bool",
    "spec_decode": "bool",
    "spec_algorithm": "text",
    "spec_steps": "int",
    "spec_draft_tokens": "int",
}

_WORKLOAD: Final[dict[str, Kind]] = {
    "dataset": "text",
    "isl": "int",
    "osl": "int",
    "mean_isl_actual": "float",
    "mean_osl_actual": "float",
    "range_ratio": "float",
    "load": "text",
    "concurrency": "int",
    "request_rate": "float",
    "batch_size": "int",
    "num_prompts": "int",
    "num_warmups": "int",
    "use_chat_template": "bool",
}

_MEASURED: Final[dict[str, Kind]] = {
    "mean_ttft_ms": "float",
    "median_ttft_ms": "float",
    "std_ttft_ms": "float",
    "p90_ttft_ms": "float",
    "p95_ttft_ms": "float",
    "p99_ttft_ms": "float",
    "ttft_ms_unspecified": "float",
    "mean_tpot_ms": "float",
    "median_tpot_ms": "float",
    "std_tpot_ms": "float",
    "p90_tpot_ms": "float",
    "p95_tpot_ms": "float",
    "p99_tpot_ms": "float",
    "tpot_ms_unspecified": "float",
    "mean_itl_ms": "float",
    "median_itl_ms": "float",
    "std_itl_ms": "float",
    "p90_itl_ms": "float",
    "p95_itl_ms": "float",
    "p99_itl_ms": "float",
    "mean_e2e_ms": "float",
    "median_e2e_ms": "float",
    "std_e2e_ms": "float",
    "p90_e2e_ms": "float",
    "p95_e2e_ms": "float",
    "p99_e2e_ms": "float",
    "requests_s": "float",
    "input_tok_s": "float",
    "output_tok_s": "float",
    "total_tok_s": "float",
    "tok_s_per_gpu": "float",
    "duration_s": "float",
    "completed": "int",
    "failed": "int",
    "achieved_concurrency": "float",
    "cache_hit_rate_pct": "float",
    "accept_length": "float",
}

_STANDING: Final[dict[str, Kind]] = {
    "measured_on": "text",
    "ambiguous_config": "bool",
    "flags_variants": "json",
}

KEYS: Final[dict[str, Kind]] = _DEPLOYMENT | _WORKLOAD | _MEASURED | _STANDING
"""Name and kind of every column of a run. New keys may be added anywhere; the order of those there stands, since
the identity of a run depends on it."""

OCCASION: Final[dict[str, Kind]] = {"occasion": "text", "seed": "int", "warmed_up": "bool"}
"""Keys of a run that stand in its `extra`: the engine start or session it was measured at, the seed of its prompts,
and whether the engine had served others before."""

CONFIGURATION: Final = tuple(_DEPLOYMENT)
"""Keys of the deployment: a configuration, which many runs share."""

WORKLOAD: Final = tuple(_WORKLOAD)
"""Keys of what a client sent."""

MEASURED: Final = tuple(_MEASURED)
"""Keys of what came of it: they come from a file, and nobody may set them."""

PROVENANCE: Final = (
    "source",
    "src_ref",
    "licence",
    "attribution",
    "notes",
    "flags_source",
    "flags_confidence",
)
"""Where a run comes from: kept per source, and no part of what makes two runs the same."""

VIEW_ONLY: Final = ("run_id", "config_id", "status", "missing", "sources", "flags", "extra", "stated")
"""Columns of the view `runs` that describe the stored run and are not keys of a run."""

METRICS: Final = tuple(
    name
    for name in KEYS
    if (
        name.endswith(("_ttft_ms", "_tpot_ms", "_itl_ms", "_e2e_ms", "_ms_unspecified"))
        and not name.startswith("std_")
    )
    or name in ("requests_s", "input_tok_s", "output_tok_s", "total_tok_s", "tok_s_per_gpu")
)
"""Measured figures: positive and finite, or missing."""

WIDTHS: Final = ("n_gpus", "tp", "dp", "ep", "pp")
"""Parallel widths: positive whole numbers."""

POSITIVE: Final = (
    *WIDTHS,
    "isl",
    "osl",
    "mean_isl_actual",
    "mean_osl_actual",
    "concurrency",
    "request_rate",
    "batch_size",
    "num_prompts",
    "stream_interval",
    "scheduler_recv_interval",
    "max_running_requests",
)
"""Keys whose value must be above zero."""

FRACTIONS: Final = ("range_ratio", "mem_fraction")
"""Keys whose value must lie in [0, 1]."""

NAMES: Final = ("engine", "gpu", "model", "weight_quant", "kv_dtype")
"""Names that are the same whatever their case, `-`, `_` and `.`."""

ENGINES: Final = ("sglang", "vllm", "trtllm")
ENGINE_SPELLINGS: Final = {"tensorrtllm": "trtllm", "trt": "trtllm", "tensorrt": "trtllm"}

LOADS: Final = {
    "closed": "concurrency",
    "open": "request_rate",
    "burst": "num_prompts",
    "static_batch": "batch_size",
}
"""Kind of load, and the key without which it says nothing."""

SQL_TYPES: Final[dict[Kind, str]] = {
    "text": "VARCHAR",
    "int": "BIGINT",
    "float": "DOUBLE",
    "bool": "BOOLEAN",
    "json": "JSON",
}
