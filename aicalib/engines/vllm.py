"""A request as the arguments of vLLM's server (`vllm serve MODEL`)."""

from __future__ import annotations

import json

from aicalib.engines import nodes
from aicalib.engines.cache import BACKEND_VARIABLE, check_page, resolve_attention
from aicalib.engines.command import Command, model_path, speculation
from aicalib.engines.defaults import version_number
from aicalib.engines.processor import tell_vllm
from aicalib.engines.releases import newest_version
from aicalib.engines.request import hub_name
from aicalib.engines.weights import model_dtype, resolve_weights
from aicalib.errors import Refusal

PROGRAM = ("vllm", "serve")

CONNECTOR = "NixlConnector"
"""Carries the cache from prefill to decode instances."""

CONNECTOR_SINCE = "0.9.2"
"""First release read that has it."""

MTP_SINCE = "0.11.0"
"""First release that was read to know the word for every model."""


def fill(command: Command) -> None:
    """Fill in the arguments.

    Raises
    ------
    Refusal
        For what the version does not start.
    """
    request = command.request
    command.argv += PROGRAM
    model = model_path(command)
    if model is not None:
        command.argv.append(model)
    weights = resolve_weights(command)
    attention = resolve_attention(command, model_dtype(request, weights))
    if weights.dtype is not None:
        command.add("gemm", ["--dtype"], weights.dtype)
    if weights.named is not None:
        command.add("quantization", ["--quantization"], weights.named)
        if weights.named == "bitsandbytes":
            command.add("gemm", ["--load-format"], "bitsandbytes")
    if weights.by_layer:
        command.add("quantization", ["--quantization-config"], json.dumps(weights.by_layer))
    if attention.cache is not None:
        command.add("kv", ["--kv-cache-dtype"], attention.cache)
    for option in ("prefill_attention_backend", "decode_attention_backend"):
        if request.get(option) is not None:
            raise Refusal(f"{option}: vLLM has one attention backend for both", {option: None})
    backend = request.get("attention_backend") or attention.backend
    if backend is not None and command.find(["--attention-backend"]) is not None:
        command.add("attention_backend", ["--attention-backend"], backend)
    elif backend is not None:
        command.env[BACKEND_VARIABLE] = backend
        if request.engine_version.startswith("0.8"):
            command.env["VLLM_USE_V1"] = "1"
    check_page(command, attention.page_size)
    _widths(command)
    _experts(command)
    nodes.tell_vllm(command)
    if request.on_cpu:
        tell_vllm(command)
    else:
        _graphs(command)
    _speculation(command)
    if request.get("enable_mixed_chunk"):
        raise Refusal(
            "enable_mixed_chunk: vLLM mixes prefill and decode in every step anyway",
            {"enable_mixed_chunk": None},
        )
    command.add_settings()


def connector(command: Command) -> str:
    """Return the value of `--kv-transfer-config` for an instance that only prefills or decodes.

    Raises
    ------
    Refusal
    """
    if _older(command, CONNECTOR_SINCE):
        raise Refusal(
            f"prefill_tp: {command.label} has no {CONNECTOR}", {"engine_version": newest_version("vllm")},
            {"prefill_tp": None, "prefill_dp": None, "prefill_ep": None, "prefill_instances": None,
             "decode_instances": None},
        )  # fmt: skip
    return json.dumps({"kv_connector": CONNECTOR, "kv_role": "kv_both"})


def _older(command: Command, version: str) -> bool:
    return version_number(command.request.engine_version) < version_number(version)


def _widths(command: Command) -> None:
    """Turn widths inside tp into vLLM's, which multiply: attention ranks times their width."""
    request = command.request
    tp, dp, ep, pp = request.tp, request.dp, request.ep, request.pp
    if tp % dp:
        raise Refusal(f"dp {dp} does not divide tp {tp}", {"dp": 1}, {"tp": dp})
    if dp > 1 and request.has_experts is False:
        raise Refusal(
            f"dp {dp}: in vLLM a dense model's data-parallel ranks are whole replicas, which tp {tp} is not",
            {"dp": 1},
        )
    if tp // dp > 1:
        command.add("tp", ["--tensor-parallel-size"], tp // dp)
    if dp > 1:
        command.add("dp", ["--data-parallel-size"], dp)
    if pp > 1:
        command.add("pp", ["--pipeline-parallel-size"], pp)
    if ep > 1:
        if request.has_experts is False:
            raise Refusal(f"ep {ep}: a dense model has no experts", {"ep": 1})
        if ep != tp:
            raise Refusal(
                f"ep {ep} with tp {tp}: vLLM splits experts over all ranks or not at all",
                {"ep": tp},
                {"ep": 1},
            )
        command.add("ep", ["--enable-expert-parallel"])


def _experts(command: Command) -> None:
    request = command.request
    for option in ("moe_backend", "moe_a2a_backend"):
        name = request.get(option)
        if name not in (None, "auto") and request.has_experts is False:
            raise Refusal(f"{option} '{name}': a dense model has no experts", {option: None})


def _graphs(command: Command) -> None:
    largest = command.request.get("cuda_graph_max_bs")
    if largest == 0:
        command.add("cuda_graph_max_bs", ["--enforce-eager"])
    elif largest is not None:
        if command.find(["--max-cudagraph-capture-size", "--cuda-graph-sizes"]) is None:
            config = json.dumps({"cudagraph_capture_sizes": captured(largest)})
            command.add("cuda_graph_max_bs", ["--compilation-config"], config)
        else:
            command.add("cuda_graph_max_bs", ["--max-cudagraph-capture-size", "--cuda-graph-sizes"], largest)


def captured(largest: int) -> list[int]:
    """Return the batches that vLLM captures up to a largest one: 1, 2, 4, then every eighth."""
    return [size for size in (1, 2, 4, *range(8, largest + 1, 8)) if size <= largest]


def _speculation(command: Command) -> None:
    request, drafted = command.request, speculation(command)
    if drafted is None:
        return
    method, tokens = drafted
    if method == "mtp" and request.get("spec_algorithm") is None and _older(command, MTP_SINCE):
        raise Refusal(
            f"spec_method mtp: {command.label} has a word for the drafter of each model, deepseek_mtp for one",
            {"spec_algorithm": "deepseek_mtp"}, {"engine_version": newest_version("vllm")},
        )  # fmt: skip
    if request.get("spec_algorithm") is not None:
        method = str(request.get("spec_algorithm")).lower()
    config: dict[str, object] = {"method": method, "num_speculative_tokens": tokens}
    draft, form = request.get("draft_model"), request.get("draft_gemm")
    if draft is not None:
        config["model"] = hub_name(draft)
    if form is not None:
        if form not in ("fp8", "bfloat16", "float16"):
            raise Refusal(
                f"draft_gemm {form}: vLLM makes fp8 alone of a draft model; another comes with its checkpoint",
                {"draft_gemm": "fp8"}, {"draft_gemm": None},
            )  # fmt: skip
        if form == "fp8":
            config["quantization"] = form
    command.add("spec_method", ["--speculative-config"], json.dumps(config))
