"""Sparse latent attention: the tables `dsa_generation_module_perf`.

Their columns say it: a format of projections (`gemm_type`), a tensor-parallel width, and a least time of several
kernels. They are whole modules. Rows `*_skip_indexer` are of layers that take over the choice of the layer before them.
Not read: `dsa_context_module_perf`, whose modules were launched kernel by kernel, so that short prompts time the host;
tables of one of the module's kernels at one width (`glm5_*`), and modules of other kinds (`dsv4_*`, `msa_*`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aicalib.calibrate.kernels.table import Array, Calls, Names, Table, octave
from aicalib.physics.kernels.sparse import SPARSE_DECODE

if TYPE_CHECKING:
    import pandas as pd

WIDTHS = {
    "DeepseekV32ForCausalLM": {
        "hidden_size": 7168.0,
        "q_lora_rank": 1536.0,
        "latent_dim": 512.0,
        "rope_dim": 64.0,
        "nope_dim": 128.0,
        "v_head_dim": 128.0,
        "index_heads": 64.0,
        "index_dim": 128.0,
        "index_topk": 2048.0,
    },
    "GlmMoeDsaForCausalLM": {
        "hidden_size": 6144.0,
        "q_lora_rank": 2048.0,
        "latent_dim": 512.0,
        "rope_dim": 64.0,
        "nope_dim": 192.0,
        "v_head_dim": 256.0,
        "index_heads": 32.0,
        "index_dim": 128.0,
        "index_topk": 2048.0,
    },
}
"""Widths by architecture, from the models' config.json (deepseek-ai/DeepSeek-V3.2, zai-org/GLM-5)."""

WEIGHT_BITS = {"bfloat16": 16.0, "fp8_block": 8.0 + 32.0 / 128**2}


def _variants(frame: pd.DataFrame) -> Names:
    """Return "dsa", class of the cache and format of the projections; of a layer without an indexer "/reuse".

    The backend is left out: the accelerator and the cache decide it.
    """
    classes = np.where(frame["kv_cache_dtype"] == "fp8", "dsa/fp8/", "dsa/wide/")
    reuse = np.where(frame["op_name"].str.endswith("skip_indexer"), "/reuse", "")
    projections = frame["gemm_type"].replace("bfloat16", "wide").to_numpy(str)
    return np.char.add(np.char.add(classes, projections), reuse)


def _calls(frame: pd.DataFrame) -> Calls:
    context = frame["step"].to_numpy(float) + 1.0
    heads = frame["num_heads"].to_numpy(float)
    reuse = frame["op_name"].str.endswith("skip_indexer").to_numpy()
    widths: dict[str, Array] = {
        name: np.array([WIDTHS[model][name] for model in frame["architecture"]])
        for name in WIDTHS["GlmMoeDsaForCausalLM"]
    }
    widths["index_heads"] = np.where(reuse, 0.0, widths["index_heads"])
    cache = np.where((frame["kv_cache_dtype"] == "fp8").to_numpy(), 8.0, 16.0)
    model = np.char.add(np.char.add(frame["architecture"].to_numpy(str), "x"), heads.astype(int).astype(str))
    return Calls(
        variant=_variants(frame),
        shape={
            "batch": frame["batch_size"].to_numpy(float),
            "context": context,
            "heads": heads,
            **widths,
            "cache_bits": cache,
        },
        bits=np.array([WEIGHT_BITS[name] for name in frame["gemm_type"]]),
        peak=np.where((frame["gemm_type"] == "fp8_block").to_numpy(), "fp8", "bf16"),
        latency_s=frame["latency_ms"].to_numpy(float) / 1e3,
        blocks={"heads": model, "context": octave(context)},
    )


TABLES = (Table(SPARSE_DECODE, ("dsa_generation_module_perf",), _calls, bend=0.05, target=0.06),)
