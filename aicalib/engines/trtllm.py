"""A request as the arguments of TensorRT-LLM's server (`trtllm-serve MODEL`) and its YAML, under the PyTorch backend.

It makes no format while it loads: weights come as the checkpoint stores them. Sources:
NVIDIA/TensorRT-LLM:tensorrt_llm/commands/serve.py, tensorrt_llm/llmapi/llm_args.py,
docs/source/features/quantization.md.
"""

from __future__ import annotations

import json
import re
from typing import Any

from aicalib.engines import nodes
from aicalib.engines.cache import check_page, resolve_attention
from aicalib.engines.command import Command, model_path
from aicalib.engines.request import hub_name
from aicalib.engines.weights import model_dtype, resolve_weights
from aicalib.errors import InvalidValue, Refusal

PROGRAM = ("trtllm-serve",)

FILE = "config.yaml"
"""Name of the YAML beside the line."""


def fill(command: Command) -> None:
    """Fill in the arguments and the keys of the YAML.

    Raises
    ------
    Refusal
        For what TensorRT-LLM does not start.
    """
    request = command.request
    nodes.tell_trtllm(command)
    command.argv += PROGRAM
    model = model_path(command)
    if model is not None:
        command.argv.append(model)
    command.argv += ["--backend", "pytorch"]
    for option in ("quantization", "prefill_attention_backend", "decode_attention_backend"):
        if request.get(option) is not None:
            raise Refusal(f"{option}: TensorRT-LLM has no such setting", {option: None})
    weights = resolve_weights(command)
    dtype = model_dtype(request, weights)
    attention = resolve_attention(command, dtype)
    if weights.dtype is not None:
        command.yaml["dtype"] = weights.dtype
    if attention.cache == "nvfp4" and (
        request.stored.kvcache is None or request.stored.kvcache.name != "nvfp4"
    ):
        raise Refusal(
            "kv nvfp4: TensorRT-LLM takes it from a ModelOpt checkpoint that holds its scales",
            {"kv": "fp8"}, {"kv": None}, checkpoint="the model with an nvfp4 cache, by ModelOpt",
        )  # fmt: skip
    if attention.cache is not None:
        command.yaml["kv_cache_config.dtype"] = attention.cache
    backend = request.get("attention_backend") or attention.backend
    if backend is not None:
        command.yaml["attn_backend"] = backend
    check_page(command, attention.page_size)
    _widths(command)
    largest = request.get("cuda_graph_max_bs")
    if largest == 0:
        command.yaml["cuda_graph_config"] = None
    elif largest is not None:
        command.yaml["cuda_graph_config.max_batch_size"] = largest
    if request.get("chunked_prefill_size") is not None:
        command.yaml["enable_chunked_prefill"] = True
    _speculation(command)
    if request.get("mem_fraction") is not None:
        command.notes.append(
            "mem_fraction is TensorRT-LLM's: the cache's share of what the weights leave free"
        )
    command.add_settings()


def _widths(command: Command) -> None:
    request = command.request
    if request.tp % request.dp:
        raise Refusal(f"dp {request.dp} does not divide tp {request.tp}", {"dp": 1}, {"tp": request.dp})
    if request.dp not in (1, request.tp):
        raise Refusal(
            f"dp {request.dp} with tp {request.tp}: TensorRT-LLM's attention ranks are as many as tp or one",
            {"dp": request.tp}, {"dp": 1},
        )  # fmt: skip
    if request.ep > 1 and request.has_experts is False:
        raise Refusal(f"ep {request.ep}: a dense model has no experts", {"ep": 1})
    if request.get("moe_backend") is not None and request.has_experts is False:
        raise Refusal("moe_backend: a dense model has no experts", {"moe_backend": None})
    if request.tp % request.ep:
        raise Refusal(f"ep {request.ep} does not divide tp {request.tp}", {"ep": request.tp}, {"ep": 1})
    for option in ("tp", "pp", "ep"):
        value = getattr(request, option)
        if value > 1:
            command.add(option, [f"--{option}_size"], value)
    if request.dp > 1:
        command.yaml["enable_attention_dp"] = True


def _speculation(command: Command) -> None:
    request = command.request
    method, tokens = request.get("spec_method"), request.get("spec_tokens")
    if request.get("spec_algorithm") is not None or request.get("draft_gemm") is not None:
        raise Refusal(
            "TensorRT-LLM takes spec_method alone: its drafter comes as it is stored",
            {"spec_algorithm": None, "draft_gemm": None},
        )
    if method is None:
        return
    if method not in ("mtp", "eagle") or tokens is None:
        raise Refusal(
            f"spec_method '{method}' with spec_tokens {tokens}: known are mtp and eagle, with whole tokens drafted",
            {"spec_method": "mtp", "spec_tokens": 3}, {"spec_method": None, "spec_tokens": None},
        )  # fmt: skip
    if method == "mtp":
        command.yaml |= {
            "speculative_config.decoding_type": "MTP",
            "speculative_config.num_nextn_predict_layers": tokens,
        }
        return
    command.yaml |= {"speculative_config.decoding_type": "Eagle", "speculative_config.max_draft_len": tokens}
    if request.get("draft_model") is not None:
        command.yaml["speculative_config.speculative_model_dir"] = hub_name(request.get("draft_model"))


def as_yaml(keys: dict[str, object]) -> str:
    """Write keys, parts joined by dots, as YAML."""
    tree: dict[str, object] = {}
    for key, value in keys.items():
        *outer, last = key.split(".")
        place = tree
        for part in outer:
            place = place.setdefault(part, {})  # type: ignore[assignment]
        place[last] = value
    return "".join(f"{line}\n" for line in _lines(tree, 0))


def _lines(tree: dict[str, object], depth: int) -> list[str]:
    lines = []
    for key, value in tree.items():
        if isinstance(value, dict):
            lines += [f"{'  ' * depth}{key}:", *_lines(value, depth + 1)]
        else:
            lines.append(f"{'  ' * depth}{key}: {_scalar(value)}")
    return lines


def _scalar(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    text = str(value)
    return text if re.fullmatch(r"[A-Za-z][\w./-]*", text) else json.dumps(text)


def read_yaml(text: str) -> list[tuple[str, Any]]:
    """Read the plain YAML that `as_yaml` writes, two blanks a level, as keys and values.

    Raises
    ------
    InvalidValue
    """
    found: list[tuple[str, Any]] = []
    path: list[str] = []
    for place, line in enumerate(text.splitlines(), start=1):
        bare = line.split(" #")[0].rstrip()
        if not bare.strip() or bare.lstrip().startswith("#"):
            continue
        match = re.fullmatch(r"((?:  )*)([\w.]+):\s*(.*)", bare)
        if match is None:
            raise InvalidValue(f"line {place} of the YAML is no 'key: value': {line.strip()[:60]}")
        depth = len(match[1]) // 2
        path = [*path[:depth], match[2]]
        if match[3]:
            words = {"null": None, "true": True, "false": False}
            value = match[3].strip("\"'")
            found.append((".".join(path), words[value] if value in words else number(value)))
    return found


def number(text: str) -> Any:
    """Return an int or float where a text is one, else the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
