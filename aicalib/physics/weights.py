"""Bytes that a loaded model takes on one GPU: checkpoint tensors by class, padding, and what loading adds.

Every function is over d deployments and counts the pipeline stage that takes most.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aicalib.models import products
from aicalib.physics.system import System

Array = NDArray[np.float64]

WIDE = 2.0
"""Bytes of a value that quantization leaves alone: norms, router, biases, tables."""

VOCABULARY_MULTIPLE = 64.0
"""Both engines pad the vocabulary to a multiple of this before they split it."""

MIB = 2.0**20

ALLOCATOR_LARGE, ALLOCATOR_STEP, ALLOCATOR_SPLIT = 10.0 * MIB, 2.0 * MIB, 1.0 * MIB
"""PyTorch's CUDA caching allocator: blocks from which on it rounds, to what, and the rest it splits off."""

ROTARY_SHARE = 0.25
"""Share of a head that is rotated in models with linear layers (`partial_rotary_factor` of Qwen3-Next and
Qwen3.5); others are taken as rotated whole."""


def value_bytes(system: System) -> Array:
    """Return the bytes of an unquantized value: 4 for a model in 32 bit, else 2."""
    return np.where(system.table_bits >= 32.0, 4.0, WIDE)


def round_up(value: Array, multiple: Array | float) -> Array:
    """Return the smallest multiple that is not below `value`."""
    result: Array = np.ceil(value / multiple) * multiple
    return result


def stage_share(system: System) -> Array:
    """Return the share of the layers that the fullest pipeline stage holds: ceil(L / pp) / L."""
    layers = system.arch.num_layers
    return np.ceil(layers / system.pp) / layers


def expert_bytes(system: System) -> Array:
    """Return the bytes of routed experts with their biases, shape (d,).

    A rank holds E / ep experts, of each a slice of width w / (tp / ep). Kernels want both sides of a matrix in
    multiples of `hidden_pad` and `width_pad`: gpt-oss (2880 x 2880, MXFP4) takes 14 % more than its parameters
    where both become 3072.
    """
    arch = system.arch
    held = arch.moe_layers * arch.num_experts / system.ep
    width = round_up(arch.moe_intermediate_size * system.ep / system.tp, system.width_pad)
    hidden = round_up(arch.expert_hidden_size, system.hidden_pad)
    biases = arch.expert_bias * WIDE * ((arch.ffn_matrices - 1.0) * width + hidden)
    return held * (arch.ffn_matrices * hidden * width * system.expert_bits / 8.0 + biases)


def table_bytes(system: System) -> tuple[Array, Array]:
    """Return the bytes of the embedding and of the output head on one GPU, shape (d,) each.

    Under attention data parallelism SGLang holds the embedding whole on every rank and splits the head over all of
    them; a vLLM rank is an engine of its own and splits both over its attention width. A tied head is no
    tensor of its own. The further embedding that every layer of a model may have is part of the embedding.
    """
    arch = system.arch
    row = system.table_bits / 8.0 * round_up(arch.vocab_size, VOCABULARY_MULTIPLE)
    whole, further = row * arch.hidden_size, row * arch.num_layers * arch.per_layer_embedding
    width = system.attention_width
    on_vllm = system.on_vllm
    embedding = (whole + further) / np.where((system.dp > 1.0) & ~on_vllm, 1.0, width)
    head = np.where(arch.tied_embeddings > 0, 0.0, whole / np.where(on_vllm, width, system.tp))
    return embedding, head


def parameter_bytes(system: System) -> Array:
    """Return the bytes of the checkpoint's tensors on one GPU, shape (d,).

    Attention and dense products in the dense format, split over their widths or replicated where they cannot
    be; routed experts in theirs; tables by theirs; norms and router in 16 bit on every rank. The first of several
    pipeline stages holds the embedding and the last the head.
    """
    arch = system.arch
    listed = products.matrix_products(arch, system.attention_width, system.tp, system.shared_width)
    quantized = products.group_weights(listed, products.ATTENTION, products.DENSE, products.SHARED)
    dense = quantized * system.gemm_bits / 8.0
    router = products.group_weights(listed, products.ROUTER)
    norms = arch.hidden_size * arch.num_layers * arch.norms_per_layer
    layers = dense + expert_bytes(system) + WIDE * (router + norms)
    embedding, head = table_bytes(system)
    tables = np.where(system.pp > 1.0, np.maximum(embedding, head), embedding + head)
    return layers * stage_share(system) + tables + WIDE * arch.hidden_size


def buffer_bytes(system: System) -> Array:
    """Return what loading adds to the checkpoint's tensors, shape (d,).

    - The table of rotary sines and cosines for every position, once: 32 bit in SGLang, 16 in vLLM. For
      Llama 4 Scout, of 10 million positions, that is 2.5 GiB in vLLM.
    - Latent attention is decoded in its absorbed form, for which both engines keep the two halves of the
      up-projection once more, in 16 bit.
    """
    arch = system.arch
    rotated = np.where(arch.mla_layers > 0, arch.qk_rope_head_dim, arch.head_dim)
    rotated = rotated * np.where(arch.linear_layers > 0, ROTARY_SHARE, 1.0)
    rotary = arch.max_position * rotated * np.where(system.on_vllm, value_bytes(system), 4.0)
    per_head = arch.kv_lora_rank * (arch.qk_nope_head_dim + arch.v_head_dim)
    absorbed = WIDE * arch.mla_layers * arch.heads * per_head / system.attention_width
    return rotary + absorbed * stage_share(system)


def matrices(system: System) -> list[tuple[Array, Array, Array]]:
    """Return the large tensors of a loaded model on one GPU: (how many, elements each, payload bits), (d,) each."""
    arch, width = system.arch, system.attention_width
    h = arch.hidden_size
    gemm, expert = np.floor(system.gemm_bits), np.floor(system.expert_bits)
    half = arch.ffn_matrices - 1.0
    listed = products.matrix_products(arch, width, system.tp, system.shared_width)
    slice_width = round_up(arch.moe_intermediate_size * system.ep / system.tp, system.width_pad)
    one_side = (
        arch.num_experts / system.ep * round_up(arch.expert_hidden_size, system.hidden_pad) * slice_width
    )
    embedding, head = (table / system.table_bits * 8.0 for table in table_bytes(system))
    return [
        *(
            (each.count, each.batch * each.n * each.k, gemm)
            for each in listed
            if each.phase != "decode" and each.group not in (products.ROUTER, products.HEAD)
        ),
        (arch.moe_layers, half * one_side, expert),
        (arch.moe_layers, one_side, expert),
        (np.ones_like(h), embedding, system.table_bits),
        (np.ones_like(h), head, system.table_bits),
    ]


def rounding_bytes(system: System) -> Array:
    """Return what PyTorch's allocator adds to the large tensors, shape (d,).

    It takes blocks from 10 MiB on in multiples of 2 MiB. SGLang reads the memory that is left on the GPU, so all of a
    block counts; vLLM what is allocated, where a rest of more than 1 MiB is split off and does not count.
    """
    total = np.zeros_like(system.tp)
    for count, elements, bits in matrices(system):
        size = elements * bits / 8.0
        rest = round_up(size, ALLOCATOR_STEP) - size
        counts = (size >= ALLOCATOR_LARGE) & ~(system.on_vllm & (rest > ALLOCATOR_SPLIT))
        total = total + np.where(counts, count * rest, 0.0)
    return total * stage_share(system)


def weight_bytes(system: System) -> Array:
    """Return the bytes of a loaded model on one GPU, shape (d,), without encoders of images or sound."""
    return parameter_bytes(system) + buffer_bytes(system) + rounding_bytes(system)


def draft_weight_bytes(system: System, layers: Array) -> Array:
    """Return the bytes of `layers` multi-token-prediction layers on one GPU, shape (d,).

    Each is a layer like those of the model's experts (or dense part) behind a product that joins token and state,
    2 h x h; tables are shared with the model.
    """
    arch = system.arch
    kinds = np.maximum(arch.num_layers, 1.0)
    listed = products.matrix_products(arch, system.attention_width, system.tp, system.shared_width)
    attention = products.group_weights(listed, products.ATTENTION) / kinds
    feed = products.group_weights(listed, products.DENSE, products.SHARED)
    feed = feed / np.maximum(arch.moe_layers + arch.dense_layers, 1.0)
    experts = expert_bytes(system) / np.maximum(arch.moe_layers, 1.0)
    joined = WIDE * 2.0 * arch.hidden_size**2
    return layers * ((attention + feed) * system.gemm_bits / 8.0 + experts + joined)


def least_read_bytes(system: System) -> Array:
    """Return the bytes of weights that a GPU reads at least in a decode step, over all stages, shape (d,).

    Those of one token: every dense product once, and of the routed experts as many as a token takes, spread
    evenly over the ranks. More requests touch more experts. A token passes the pipeline stages one after the other.
    """
    arch = system.arch
    listed = products.matrix_products(arch, system.attention_width, system.tp, system.shared_width)
    quantized = products.group_weights(listed, products.ATTENTION, products.DENSE, products.SHARED)
    expert = arch.ffn_matrices * arch.expert_hidden_size * arch.moe_intermediate_size
    experts = arch.moe_layers * arch.experts_per_token * expert / system.tp
    return (
        quantized * system.gemm_bits / 8.0
        + experts * system.expert_bits / 8.0
        + products.group_weights(listed, products.ROUTER) * WIDE
        + products.group_weights(listed, products.HEAD) * system.table_bits / 8.0
    )
