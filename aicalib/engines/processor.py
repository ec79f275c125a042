"""What an engine must be told to run on a CPU.

SGLang: sgl-project/sglang@v0.5.23 srt/platforms/__init__.py (`SGLANG_USE_CPU_ENGINE`), srt/arg_groups/platform_hook.py
(`handle_cpu_backends`). vLLM's package for CPUs finds out by itself: vllm-project/vllm@v0.32.0 vllm/platforms/cpu.py.
"""

from __future__ import annotations

from aicalib.engines.command import Command
from aicalib.engines.defaults import version_number
from aicalib.errors import Refusal

SGLANG_ATTENTION = "torch_native"
"""Attention of PyTorch, which runs on any CPU. SGLang's own choice, intel_amx, needs AMX and kernels built for it."""

VLLM_BUDGET_SINCE = "0.20.0"
"""From here on `--gpu-memory-utilization` counts on a CPU; before, only `VLLM_CPU_KVCACHE_SPACE` does."""

VLLM_FP8_CACHE_SINCE = "0.21.0"
"""From here on its attention on a CPU holds an FP8 cache (v1/attention/backends/cpu_attn.py); before, it did not."""


def tell_sglang(command: Command) -> None:
    """Add the device, an attention backend where none was named, and that no graphs are captured.

    Raises
    ------
    Refusal
        For graphs: they come with `--enable-torch-compile` there, which is not written here.
    """
    request = command.request
    _hold_graphs(command)
    command.env["SGLANG_USE_CPU_ENGINE"] = "1"
    command.add("gpu", ["--device"], "cpu")
    if request.get("attention_backend") is None and request.get("decode_attention_backend") is None:
        command.add("gpu", ["--attention-backend"], SGLANG_ATTENTION)
    command.add("gpu", ["--sampling-backend"], "pytorch")
    phases = ["--cuda-graph-backend-decode", "--cuda-graph-backend-prefill"]
    if command.find(phases) is None:
        command.add("gpu", ["--disable-cuda-graph"])
    else:
        for phase in phases:
            command.add("gpu", [phase], "disabled")


def tell_vllm(command: Command) -> None:
    """Add the device where the version has a flag for it, and eager mode where 0 graphs were asked for.

    Raises
    ------
    Refusal
        For graphs, which vLLM does not capture there, and for an FP8 cache of a version that has none there.
    """
    request = command.request
    _hold_graphs(command)
    version, cache = version_number(request.engine_version), request.quant.kvcache
    if version < version_number(VLLM_FP8_CACHE_SINCE) and cache is not None and cache.name.startswith("fp8"):
        raise Refusal(
            f"kv {cache.name}: {command.label} has it on no CPU",
            {"engine_version": VLLM_FP8_CACHE_SINCE}, {"kv": None},
        )  # fmt: skip
    if command.find(["--device"]) is not None:
        command.add("gpu", ["--device"], "cpu")
    if request.get("cuda_graph_max_bs") == 0:
        command.add("cuda_graph_max_bs", ["--enforce-eager"])
    if version < version_number(VLLM_BUDGET_SINCE) and request.get("mem_fraction") is not None:
        command.notes.append(
            f"mem_fraction says nothing to {command.label} on a CPU: VLLM_CPU_KVCACHE_SPACE sets its cache, in GiB"
        )


def _hold_graphs(command: Command) -> None:
    largest = command.request.get("cuda_graph_max_bs")
    if largest:
        raise Refusal(
            f"cuda_graph_max_bs {largest}: {command.label} is started without graphs on a CPU",
            {"cuda_graph_max_bs": None},
        )
