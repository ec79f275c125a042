"""Options that several commands have, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Option(help="Catalogue name, Hugging Face id, or path of a config.json.")]
Gpu = Annotated[str, typer.Option(help="Accelerator of 'aicalib list gpus', or a .toml file of your own.")]
Gemm = Annotated[str | None, typer.Option(help="Format of dense weights.")]
Kv = Annotated[str | None, typer.Option(help="Format of the KV cache.")]
Fmha = Annotated[str | None, typer.Option(help="Format in which attention multiplies.")]
Moe = Annotated[str | None, typer.Option(help="Format of the experts.")]
Preset = Annotated[str | None, typer.Option(help="One of 'aicalib quant presets'.")]
Launch = Annotated[
    str | None, typer.Option(help="The command that starts the engine; options beside it win.")
]
ServerInfo = Annotated[
    Path | None,
    typer.Option(help="What SGLang's /server_info answered, as a file.", exists=True, dir_okay=False),
]
Tp = Annotated[int | None, typer.Option(help="Tensor-parallel width. Default: the smallest that fits.")]
Pp = Annotated[int | None, typer.Option(help="Pipeline stages.")]
Dp = Annotated[int | None, typer.Option(help="Attention-data-parallel ranks inside tp.")]
Ep = Annotated[int | None, typer.Option(help="Ranks over which whole experts are split, inside tp.")]
Engine = Annotated[str, typer.Option(help="sglang, vllm or trtllm.")]
EngineVersion = Annotated[str | None, typer.Option(help="Default: the newest known.")]
AttentionBackend = Annotated[
    str | None, typer.Option(help="Kernels of attention, as the engine names them. Default: its own choice.")
]
PrefillAttentionBackend = Annotated[str | None, typer.Option(help="SGLang: of prefill alone.")]
DecodeAttentionBackend = Annotated[str | None, typer.Option(help="SGLang: of decode alone.")]
MoeBackend = Annotated[
    str | None, typer.Option("--moe-backend", "--moe-runner-backend", help="Kernels of experts, likewise.")
]
MemFraction = Annotated[float | None, typer.Option(help="The engine's memory fraction.")]
ChunkedPrefillSize = Annotated[int | None, typer.Option(help="Tokens of one prefill step.")]
MaxRunningRequests = Annotated[int | None, typer.Option(help="Most running requests.")]
DisableRadixCache = Annotated[bool, typer.Option("--disable-radix-cache", help="Without the prefix cache.")]
EnableMixedChunk = Annotated[
    bool, typer.Option("--enable-mixed-chunk", help="SGLang: decode in the steps of prefill chunks.")
]
SpecMethod = Annotated[str | None, typer.Option(help="Speculation: mtp or eagle.")]
SpecTokens = Annotated[int | None, typer.Option(help="Tokens drafted a step.")]
DraftModel = Annotated[str | None, typer.Option(help="Model that drafts for eagle.")]
DraftGemm = Annotated[str | None, typer.Option(help="Format of the draft model's weights.")]
PrefillTp = Annotated[
    int | None, typer.Option(help="Width of instances that only prefill; the others then only decode.")
]
PrefillDp = Annotated[int | None, typer.Option(help="Attention-data-parallel ranks in these.")]
PrefillEp = Annotated[int | None, typer.Option(help="Expert ranks in these.")]
PrefillInstances = Annotated[int | None, typer.Option(help="How many of these. Default: 1.")]
DecodeInstances = Annotated[int | None, typer.Option(help="How many that decode. Default: 1.")]
TaskGpu = Annotated[
    str | None, typer.Option(help="Accelerator. Default: benchmark.gpu_type of the task, else h100-sxm.")
]
TaskEngineVersion = Annotated[
    str | None, typer.Option(help="Default: that of runtime_image_tag, else the newest known.")
]
TaskFile = Annotated[Path, typer.Argument(metavar="TASK.json", help="The autotuner's task file.")]
Isl = Annotated[float, typer.Option(help="Mean input tokens.")]
Osl = Annotated[float, typer.Option(help="Mean output tokens.")]
Concurrency = Annotated[int, typer.Option(help="Requests in flight.")]
RequestRate = Annotated[
    float | None, typer.Option(help="Requests a second of an open loop; inf sends all at once.")
]
PrefixHit = Annotated[float, typer.Option(help="Share of the input that the prefix cache holds.")]
_BOUND = "MS[@p99]"
TtftMs = Annotated[
    str | None,
    typer.Option(metavar=_BOUND, help="Time to first token, at most; '500@p99' of that percentile."),
]
TpotMs = Annotated[
    str | None, typer.Option(metavar=_BOUND, help="Time per further output token, at most; likewise.")
]
E2eMs = Annotated[str | None, typer.Option(metavar=_BOUND, help="Whole request, at most; likewise.")]
Percentile = Annotated[
    str, typer.Option(help="What bounds without an @ are about: mean, p50, p90, p95 or p99.")
]
