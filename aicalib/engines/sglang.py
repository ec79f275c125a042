"""A request as the arguments of SGLang's server (`python -m sglang.launch_server`)."""

from __future__ import annotations

from aicalib.engines import nodes
from aicalib.engines.cache import check_page, resolve_attention
from aicalib.engines.command import Command, model_path, speculation
from aicalib.engines.defaults import version_number
from aicalib.engines.loading import TORCHAO
from aicalib.engines.processor import tell_sglang
from aicalib.engines.request import hub_name
from aicalib.engines.tables import MoeBackend, listed, moe_backends
from aicalib.engines.weights import Weights, model_dtype, resolve_weights
from aicalib.errors import Refusal
from aicalib.quant import parse_mode

PROGRAM = ("python", "-m", "sglang.launch_server")

EP_SWITCH_UNTIL = "0.5.1"
"""Versions below take whole experts by the switch `--enable-ep-moe`, always as wide as tp."""

BACKEND_COMES_WITH = ("nvfp4",)
"""Formats of the cache for which the engine takes the backends of prefill and decode by itself, and refuses others."""

MODELOPT_FORMATS = {"fp8": "fp8_static", "int4_awq": "int4_wo:awq", "w4a8_awq": "w4afp8", "nvfp4": "nvfp4",
                    "nvfp4_awq": "nvfp4"}  # fmt: skip
"""Values of `--modelopt-quant`, and the format of the weights that each makes."""

WHOLE_WIDTH = (
    "deepep",
    "mooncake",
    "mori",
    "megamoe",
    "nixl",
    "deepep_v2",
    "ascend_fuseep",
    "flashinfer_megamoe",
)
"""All-to-all backends that split experts over the whole tensor-parallel width."""


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
        command.add("model", ["--model-path"], model)
    _check_modelopt(command)
    weights = resolve_weights(command)
    attention = resolve_attention(command, model_dtype(request, weights))
    if weights.dtype is not None:
        command.add("gemm", ["--dtype"], weights.dtype)
    if weights.named is not None:
        command.add("quantization", ["--quantization"], weights.named)
        if weights.named == "bitsandbytes":
            command.add("gemm", ["--load-format"], "bitsandbytes")
    if weights.method is not None and weights.method.startswith(TORCHAO):
        command.add("gemm", ["--torchao-config"], weights.method.removeprefix(TORCHAO))
    if attention.cache is not None:
        command.add("kv", ["--kv-cache-dtype"], attention.cache)
    for option in ("attention_backend", "prefill_attention_backend", "decode_attention_backend"):
        if request.get(option) is not None:
            command.add(option, ["--" + option.replace("_", "-")], request.get(option))
    if attention.backend is not None and attention.cache not in BACKEND_COMES_WITH:
        command.add("attention_backend", ["--attention-backend"], attention.backend)
    check_page(command, attention.page_size)
    _widths(command)
    _experts(command, weights)
    nodes.tell_sglang(command)
    if request.on_cpu:
        tell_sglang(command)
    else:
        _graphs(command)
    _speculation(command)
    command.add_settings()


def _widths(command: Command) -> None:
    request = command.request
    tp, dp, ep, pp = request.tp, request.dp, request.ep, request.pp
    if tp > 1:
        command.add("tp", ["--tp-size", "--tp"], tp)
    if pp > 1:
        command.add("pp", ["--pp-size", "--pipeline-parallel-size"], pp)
    if dp > 1:
        if tp % dp:
            raise Refusal(f"dp {dp} does not divide tp {tp}", {"dp": 1}, {"tp": dp})
        if command.find(["--attn-dp-size"]) is not None:
            command.add("dp", ["--attn-dp-size"], dp)
        else:
            command.add("dp", ["--dp-size", "--data-parallel-size"], dp)
            command.add("dp", ["--enable-dp-attention"])
    if ep > 1:
        if request.has_experts is False:
            raise Refusal(f"ep {ep}: a dense model has no experts", {"ep": 1})
        if tp % ep:
            raise Refusal(f"ep {ep} does not divide tp {tp}", {"ep": tp}, {"ep": 1})
        if version_number(request.engine_version) < version_number(EP_SWITCH_UNTIL):
            if ep != tp:
                raise Refusal(
                    f"ep {ep} with tp {tp}: {command.label} splits experts over all of tp or not at all",
                    {"ep": tp}, {"ep": 1},
                )  # fmt: skip
            command.add("ep", ["--enable-ep-moe"])
        else:
            command.add("ep", ["--ep-size", "--expert-parallel-size"], ep)


def _experts(command: Command, weights: Weights) -> None:
    """Hold the backends of experts to method, accelerator and width."""
    request = command.request
    runner, dispatch = request.get("moe_backend"), request.get("moe_a2a_backend")
    for option, name in (("moe_backend", runner), ("moe_a2a_backend", dispatch)):
        if name not in (None, "auto", "none") and request.has_experts is False:
            raise Refusal(f"{option} '{name}': a dense model has no experts", {option: None})
    if dispatch in WHOLE_WIDTH and request.ep not in (1, request.tp):
        raise Refusal(
            f"moe_a2a_backend '{dispatch}' splits experts over all of tp {request.tp}; ep is {request.ep}",
            {"ep": request.tp}, {"moe_a2a_backend": None},
        )  # fmt: skip
    rows = [row for row in moe_backends("sglang") if row.name == runner]
    if not rows:
        return
    method = weights.method or "none"
    row = next((each for each in rows if method in each.methods or "*" in each.methods), None)
    others: list[dict[str, object]] = [{"moe_backend": each} for each in ("auto", "triton")]
    if row is None:
        raise Refusal(
            f"moe_backend '{runner}' runs {', '.join(_methods(rows))}, not {method}",
            *({"moe_backend": each.name} for each in moe_backends("sglang") if method in each.methods),
            *others,
        )  # fmt: skip
    gpu = request.accelerator
    if gpu is not None and not listed(gpu.capability, row.nvidia):
        raise Refusal(
            f"moe_backend '{runner}' needs compute capability {row.nvidia.replace('+', ' or newer')}; "
            f"{gpu.name} is {gpu.capability}",
            *others,
        )
    widths = [request.tp if each == "tp" else int(each) for each in row.ep]
    if widths and request.ep not in widths:
        raise Refusal(
            f"moe_backend '{runner}' takes ep {' or '.join(str(each) for each in dict.fromkeys(widths))}; "
            f"ep is {request.ep}",
            *({"ep": each} for each in widths), *others,
        )  # fmt: skip


def _methods(rows: list[MoeBackend]) -> list[str]:
    return list(dict.fromkeys(method for row in rows for method in row.methods))


def _graphs(command: Command) -> None:
    largest = command.request.get("cuda_graph_max_bs")
    if largest == 0:
        command.add("cuda_graph_max_bs", ["--disable-cuda-graph"])
    elif largest is not None:
        command.add("cuda_graph_max_bs", ["--cuda-graph-max-bs-decode", "--cuda-graph-max-bs"], largest)


def _speculation(command: Command) -> None:
    request, drafted = command.request, speculation(command)
    if drafted is None:
        return
    method, tokens = drafted
    if request.get("enable_mixed_chunk"):
        raise Refusal(
            "enable_mixed_chunk with speculation: SGLang drops mixed chunks then",
            {"enable_mixed_chunk": None}, {"spec_method": None, "spec_tokens": None, "draft_model": None},
        )  # fmt: skip
    algorithm = request.get("spec_algorithm") or ("NEXTN" if method == "mtp" else "EAGLE")
    command.add("spec_algorithm", ["--speculative-algorithm"], algorithm)
    draft = request.get("draft_model")
    if draft is not None:
        command.add("draft_model", ["--speculative-draft-model-path"], hub_name(draft))
    command.add("spec_tokens", ["--speculative-num-steps"], tokens)
    command.add("spec_tokens", ["--speculative-eagle-topk"], 1)
    command.add("spec_tokens", ["--speculative-num-draft-tokens"], tokens + 1)
    form = request.get("draft_gemm")
    if form is not None:
        found = parse_mode("gemm", form)
        if found is not None and found.mode.name == "fp8":
            command.add("draft_gemm", ["--speculative-draft-model-quantization"], "fp8")
        elif found is not None and found.mode.name not in ("float16", "bfloat16"):
            raise Refusal(
                f"draft_gemm {form}: SGLang makes fp8 alone of a draft model; another comes with its checkpoint",
                {"draft_gemm": "fp8"}, {"draft_gemm": None},
            )  # fmt: skip


def _check_modelopt(command: Command) -> None:
    """Hold ModelOpt's options to each other."""
    request = command.request
    asked = request.get("modelopt_quant")
    if request.get("quantize_and_serve"):
        raise Refusal(
            f"quantize_and_serve: {command.label} refuses it; quantize and export first (modelopt_quant with "
            "modelopt_export_path), then serve the export as a checkpoint",
            {"quantize_and_serve": None},
        )
    if asked is None:
        for option in ("restore_path", "save_path"):
            if request.get(f"modelopt_checkpoint_{option}") is not None and command.find(
                ["--modelopt-quant"]
            ):
                raise Refusal(
                    f"modelopt_checkpoint_{option} without modelopt_quant: there is nothing to quantize",
                    {"modelopt_quant": "fp8"}, {f"modelopt_checkpoint_{option}": None},
                )  # fmt: skip
        return
    if asked not in MODELOPT_FORMATS:
        raise Refusal(
            f"modelopt_quant '{asked}': known are {', '.join(MODELOPT_FORMATS)}",
            *({"modelopt_quant": each} for each in MODELOPT_FORMATS),
        )
    if not request.stored.is_wide:
        raise Refusal(
            f"modelopt_quant {asked}: the checkpoint is quantized already", {"modelopt_quant": None}
        )
    if request.quant.gemm is not None or request.quant.moe is not None or request.get("quantization"):
        raise Refusal(
            f"modelopt_quant {asked} decides the weights; leave gemm, moe and quantization out",
            {"gemm": None, "moe": None, "quantization": None}, {"modelopt_quant": None},
        )  # fmt: skip
    command.notes.append(
        f"ModelOpt makes {MODELOPT_FORMATS[asked]} of the 16-bit weights while they are loaded"
    )
