"""How engines lay weights and caches out in memory where that differs from the formats' own bits.

Sources: vllm-project/vllm and sgl-project/sglang, MXFP4 expert layers and KV pools of sparse attention;
NVIDIA/TensorRT-LLM tensorrt_llm/llmapi/llm_args.py: KvCacheConfig.
"""

from __future__ import annotations

from typing import NamedTuple

from aicalib.hardware import Accelerator
from aicalib.models import Architecture
from aicalib.quant import MoEQuantMode, QuantConfig, storage_bits

PADDED_EXPERTS = (MoEQuantMode.mxfp4, MoEQuantMode.w4a16_mxfp4, MoEQuantMode.w4a8_mxfp4_mxfp8)
"""Expert formats whose kernels want padded matrices."""

LATENT_GROUP = 128.0
"""Elements of an FP8 latent row that share a 32-bit scale."""

ONE_POOL_FAMILIES = ("gemma2", "gemma3")
"""Families whose sliding-window layers SGLang keeps in the full pool; others with such layers have two pools."""


class Padding(NamedTuple):
    """Multiples to which both sides of an expert's matrices are padded."""

    hidden: float
    width: float


def expert_padding(engine: str, accelerator: Accelerator, experts: MoEQuantMode) -> Padding:
    """Return the padding of expert matrices.

    Notes
    -----
    MXFP4 alone is padded. FlashInfer's kernels on compute capability 10 want 256 x 256 in both engines, and so does
    AITER on AMD. Elsewhere vLLM unpacks with Marlin, which wants 256 in the hidden size and 128 in the width
    of a rank's slice; SGLang's Triton kernels want a width of 32 and pad no hidden size.
    """
    if experts not in PADDED_EXPERTS:
        return Padding(1.0, 1.0)
    if accelerator.capability.startswith("10.") or accelerator.vendor == "AMD":
        return Padding(256.0, 256.0)
    if engine == "vllm":
        return Padding(256.0, 128.0)
    return Padding(1.0, 32.0)


def latent_bits(engine: str, arch: Architecture, accelerator: Accelerator, quant: QuantConfig) -> float:
    """Return the storage bits per element of a latent row.

    Sparse attention with an 8-bit cache keeps r values in FP8 with a 32-bit scale per 128 and the rotary part in 16
    bit: 512 + 16 + 128 = 656 bytes for DeepSeek-V3.2. SGLang on compute capability 10 (TRT-LLM's kernels) and on
    AMD sizes its pool with plain 8-bit rows of 576.
    """
    bits = storage_bits(quant.kvcache)
    plain = engine == "sglang" and not (accelerator.vendor == "NVIDIA" and accelerator.capability == "9.0")
    if bits != 8.0 or arch.sparse_layers == 0 or plain:
        return bits
    rank, rotary = arch.kv_lora_rank, arch.qk_rope_head_dim
    return 8.0 * (rank + 4.0 * rank / LATENT_GROUP + 2.0 * rotary) / (rank + rotary)


def one_pool(engine: str, arch: Architecture) -> bool:
    """Return whether sliding-window layers share the pool of the others.

    TensorRT-LLM keeps them there unless `kv_cache_config.max_attention_window` is set.
    """
    return engine == "trtllm" or (engine == "sglang" and arch.family.startswith(ONE_POOL_FAMILIES))


def has_encoder(arch: Architecture) -> bool:
    """Return whether the model also has an encoder of images or sound, which is not computed."""
    return any(note.startswith("language model only") for note in arch.notes)
