"""A small Llama with random weights, made on the spot: `python -m checks.real_engine.model FOLDER`.

Needs numpy alone. The tokenizer is word level, and token i is the word "w<i>", so that a prompt of n words has n tokens
and a benchmark client that draws random tokens gets just the length that it asks for.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")
"""Tokens 0 to 3."""

WEIGHT_DEVIATION = 0.02
"""Standard deviation of the weights, as models are initialized: outputs stay finite."""


@dataclass(frozen=True)
class Size:
    """Widths of a model; `heads` x `head_dim` need not be `hidden`."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int


SIZES = {
    "tiny": Size(256, 4, 4, 2, 64, 768, 8192),
    "small": Size(768, 8, 12, 4, 64, 2048, 8192),
}
"""7 million parameters, whose steps are overhead alone; 63 million, on which batch and context show."""

POSITIONS = 2048
"""Longest context."""


def write_model(folder: Path, size: Size, seed: int = 0) -> Path:
    """Write configuration, weights in BF16 and tokenizer; a folder that has all of them is left as it is.

    Parameters
    ----------
    folder : Path
    size : Size
    seed : int
        Of the weights.

    Returns
    -------
    Path
        The folder.
    """
    if (folder / "tokenizer_config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "config.json", _config(size))
    _write_weights(folder / "model.safetensors", _shapes(size), np.random.default_rng(seed))
    _write(folder / "tokenizer.json", _tokenizer(size.vocab))
    names = {
        name: SPECIAL[at] for at, name in enumerate(("unk_token", "bos_token", "eos_token", "pad_token"))
    }
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": POSITIONS, **names}
    _write(folder / "tokenizer_config.json", tokenizer)
    return folder


def _write(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=1), encoding="utf-8")


def _config(size: Size) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": size.hidden,
        "intermediate_size": size.ffn,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "head_dim": size.head_dim,
        "vocab_size": size.vocab,
        "max_position_embeddings": POSITIONS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 3,
        "torch_dtype": "bfloat16",
    }


def _shapes(size: Size) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor; a vector is a norm."""
    queries, keys = size.heads * size.head_dim, size.kv_heads * size.head_dim
    layer = {
        "self_attn.q_proj": (queries, size.hidden),
        "self_attn.k_proj": (keys, size.hidden),
        "self_attn.v_proj": (keys, size.hidden),
        "self_attn.o_proj": (size.hidden, queries),
        "mlp.gate_proj": (size.ffn, size.hidden),
        "mlp.up_proj": (size.ffn, size.hidden),
        "mlp.down_proj": (size.hidden, size.ffn),
        "input_layernorm": (size.hidden,),
        "post_attention_layernorm": (size.hidden,),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (size.vocab, size.hidden)}
    for number in range(size.layers):
        shapes |= {f"model.layers.{number}.{name}.weight": shape for name, shape in layer.items()}
    return shapes | {"model.norm.weight": (size.hidden,), "lm_head.weight": (size.vocab, size.hidden)}


def _write_weights(path: Path, shapes: dict[str, tuple[int, ...]], rng: np.random.Generator) -> None:
    """Write a safetensors file: the length of its header, the header, the tensors.

    The format is that of huggingface/safetensors (README, "Format"); its numpy reader and writer know no BF16.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            norm = len(shape) == 1
            drawn = np.ones(shape) if norm else rng.standard_normal(shape) * WEIGHT_DEVIATION
            file.write(bfloat16(drawn.astype(np.float32)).tobytes())


def bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the bits of the nearest bfloat16, ties to even: the upper half of a float32."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _tokenizer(vocab: int) -> dict[str, object]:
    """Return a tokenizer of whole words, in the form of huggingface/tokenizers."""
    words = {name: at for at, name in enumerate(SPECIAL)} | {
        f"w{at}": at for at in range(len(SPECIAL), vocab)
    }
    mark = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": at, "content": name, **mark} for at, name in enumerate(SPECIAL)],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": SPECIAL[0]},
    }


def main() -> None:
    """Write a model into a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=SIZES, default="small")
    chosen = parser.parse_args()
    print(write_model(chosen.folder, SIZES[chosen.size]))


if __name__ == "__main__":
    main()
