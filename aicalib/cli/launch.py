"""`aicalib launch`: the command that starts an engine for a deployment, or why nothing does."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from aicalib.cli import options as opt
from aicalib.cli.output import Json, print_json


class Shape(StrEnum):
    """What is printed."""

    shell = "shell"
    kubernetes = "kubernetes"
    compose = "compose"


def launch(
    model: opt.Model = "llama-70b",
    gpu: opt.Gpu = "h100-sxm",
    gemm: opt.Gemm = None,
    kv: opt.Kv = None,
    fmha: opt.Fmha = None,
    moe: opt.Moe = None,
    preset: opt.Preset = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="Folder or repository of the weights, where it is not the published one."),
    ] = None,
    tp: opt.Tp = None,
    pp: opt.Pp = None,
    dp: opt.Dp = None,
    ep: opt.Ep = None,
    engine: opt.Engine = "sglang",
    engine_version: opt.EngineVersion = None,
    mem_fraction: opt.MemFraction = None,
    chunked_prefill_size: opt.ChunkedPrefillSize = None,
    max_running_requests: opt.MaxRunningRequests = None,
    context_len: Annotated[int | None, typer.Option(help="Longest sequence.")] = None,
    page_size: Annotated[int | None, typer.Option(help="Tokens of a page of the cache.")] = None,
    cuda_graph_max_bs: Annotated[
        int | None, typer.Option(help="Largest decode batch with a captured graph; 0 is without graphs.")
    ] = None,
    disable_radix_cache: opt.DisableRadixCache = False,
    enable_mixed_chunk: opt.EnableMixedChunk = False,
    enable_fp32_lm_head: Annotated[
        bool, typer.Option("--enable-fp32-lm-head", help="SGLang: the output head in 32 bit.")
    ] = False,
    attention_backend: opt.AttentionBackend = None,
    prefill_attention_backend: opt.PrefillAttentionBackend = None,
    decode_attention_backend: opt.DecodeAttentionBackend = None,
    moe_backend: opt.MoeBackend = None,
    moe_a2a_backend: Annotated[str | None, typer.Option(help="All-to-all of experts.")] = None,
    quantization: Annotated[
        str | None, typer.Option(help="The engine's own method, where several serve a checkpoint.")
    ] = None,
    modelopt_quant: Annotated[
        str | None, typer.Option(help="SGLang: what ModelOpt makes while loading.")
    ] = None,
    modelopt_checkpoint_restore_path: Annotated[str | None, typer.Option(help="SGLang.")] = None,
    modelopt_checkpoint_save_path: Annotated[str | None, typer.Option(help="SGLang.")] = None,
    modelopt_export_path: Annotated[str | None, typer.Option(help="SGLang.")] = None,
    quantize_and_serve: Annotated[
        bool, typer.Option("--quantize-and-serve", help="SGLang: serve what ModelOpt has just made.")
    ] = False,
    torchao_config: Annotated[str | None, typer.Option(help="SGLang below 0.5.18.")] = None,
    spec_method: opt.SpecMethod = None,
    spec_algorithm: Annotated[str | None, typer.Option(help="The engine's own name of it.")] = None,
    spec_tokens: opt.SpecTokens = None,
    draft_model: opt.DraftModel = None,
    draft_gemm: opt.DraftGemm = None,
    prefill_tp: opt.PrefillTp = None,
    prefill_dp: opt.PrefillDp = None,
    prefill_ep: opt.PrefillEp = None,
    prefill_instances: opt.PrefillInstances = None,
    decode_instances: opt.DecodeInstances = None,
    host: Annotated[str | None, typer.Option(help="Address that the server listens on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port that the server listens on.")] = None,
    cuda_version: Annotated[str | None, typer.Option(help="Of the machine, to be checked.")] = None,
    torch_version: Annotated[str | None, typer.Option(help="PyTorch of the machine, to be checked.")] = None,
    shape: Annotated[Shape, typer.Option("--format", help="What to print.")] = Shape.shell,
    image: Annotated[str | None, typer.Option(help="Container image of a manifest.")] = None,
    json: Json = False,
) -> None:
    """Print what starts an engine for a deployment: a line that a shell takes, or a manifest."""
    options = {
        name: value for name, value in locals().items() if name not in ("preset", "shape", "image", "json")
    }
    from aicalib.cli.choices import apply_preset, with_width
    from aicalib.engines.launch import launch as launch_engine
    from aicalib.engines.request import request_of
    from aicalib.errors import InvalidValue

    request = request_of(with_width(apply_preset(options, preset)))
    found = launch_engine(request)
    if shape is not Shape.shell:
        from aicalib.report import manifests

        assert request.accelerator is not None
        if request.nodes > 1:
            raise InvalidValue(
                f"--format {shape}: one container does not span the {request.nodes} nodes of tp {request.tp} pp "
                f"{request.pp}; the lines of the shell format go into one each, as a LeaderWorkerSet of Kubernetes "
                "starts them",
                ["--format shell"],
            )
        write = manifests.kubernetes if shape is Shape.kubernetes else manifests.compose
        name = f"{found.engine}-{_dns(request.architecture.name if request.architecture else 'model')}"
        text = write(found, request.tp * request.pp, request.accelerator.vendor, image, name)
    else:
        text = found.line() + "\n" + "".join(_shown(*each) for each in found.files.items())
    if json:
        document: dict[str, Any] = found.as_dict()
        if shape is not Shape.shell:
            document["manifest"] = text
        print_json(document)
    else:
        typer.echo(text, nl=False)
    for note in found.notes:
        typer.echo(f"note: {note}", err=True)


def _shown(name: str, content: str) -> str:
    return f"\n# {name}\n{content}"


def _dns(name: str) -> str:
    """Return a name as objects of Kubernetes may have it."""
    return "".join(character if character.isalnum() else "-" for character in name.lower()).strip("-")
