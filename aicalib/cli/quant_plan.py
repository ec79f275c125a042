"""`aicalib quant plan`: cache layout and kernels of a deployment, as data a scheduler could read."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from aicalib.cli import options as opt
from aicalib.cli.output import Json, print_json, print_table


def plan(
    model: Annotated[str, typer.Option(help="Name, alias, or a config.json.")] = "llama-70b",
    gpu: Annotated[str, typer.Option(help="Accelerator by name or alias, or a .toml file.")] = "h100-sxm",
    gemm: opt.Gemm = None,
    kv: opt.Kv = None,
    fmha: Annotated[str | None, typer.Option(help="Format of attention.")] = None,
    moe: opt.Moe = None,
    engine: Annotated[str, typer.Option(help="sglang, vllm or trtllm.")] = "sglang",
    engine_version: Annotated[str | None, typer.Option(help="Version. Default: the newest known.")] = None,
    tp: opt.Tp = None,
    dp: Annotated[int | None, typer.Option(help="Attention-data-parallel ranks.")] = None,
    pp: opt.Pp = None,
    kv_cache_dtype_skip_layers: Annotated[
        str,
        typer.Option(
            help="Layers whose cache stays in 16 bits, by commas: numbers, or sliding_window (vLLM)."
        ),
    ] = "",
    json: Json = False,
) -> None:
    """Show how the KV cache is laid out and which kernel each kind of layer runs."""
    from aicalib.engines.plan import kernel_plan
    from aicalib.resolve.rows import resolve

    options = {
        "model": model, "gpu": gpu, "gemm": gemm, "kv": kv, "fmha": fmha, "moe": moe, "engine": engine,
        "engine_version": engine_version, "tp": tp, "dp": dp, "pp": pp,
    }  # fmt: skip
    batch = resolve({name: [value] for name, value in options.items()}, memory_only=True)
    for error in batch.refused.values():
        raise error
    skipped = [each.strip() for each in kv_cache_dtype_skip_layers.split(",") if each.strip()]
    found = kernel_plan(batch.deployment(0), batch.system, skipped)
    if json:
        print_json(found)
        return
    cache = found["kv"]
    print_table(
        f"{found['model']} on {found['gpu']}, {found['engine']} {found['engine_version']}, tp {found['tp']}: cache "
        f"{cache['format']} in blocks of {cache['block_size']} tokens, groups of {cache['group_size']} with "
        f"{cache['scale_precision']} scales, {cache['bytes_per_token']:.0f} bytes a token on one GPU",
        ["layers", "count", "bytes/token/layer", "operator", "backend", "path", "kernel"],
        [row for each in found["layers"] for row in _rows(each)]
        + [_row("", "", "", each) for each in [*found["kernels"], cache["quantize"], cache["dequantize"]]],
        align="lrrllll",
    )


def _rows(layer: dict[str, Any]) -> list[list[str]]:
    start = (layer["kind"], str(layer["count"]), f"{layer['bytes_per_token_per_layer']:.1f}")
    if not layer["kernels"]:
        return [[*start, "-", "-", "-", "no kernel is listed"]]
    first = _row(*start, layer["kernels"][0])
    return [first, *(_row("", "", "", each) for each in layer["kernels"][1:])]


def _row(kind: str, count: str, size: str, bound: dict[str, Any]) -> list[str]:
    if "error" in bound:
        return [kind, count, size, bound["operator"], "none", "-", bound["error"]]
    return [kind, count, size, bound["operator"], bound["backend"], bound["path"], bound["name"]]
