"""`aicalib predict`: one prediction with its interval, memory and, on request, where the time goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aicalib.cli import options as opt
from aicalib.cli.draw import Picture
from aicalib.cli.output import (
    DEFAULT_WAIT_S,
    Db,
    Json,
    ProfileName,
    Wait,
    find_profile,
    finite,
    print_json,
    print_table,
    store_path,
)

if TYPE_CHECKING:
    from aicalib.prediction import Prediction


def predict(
    context: typer.Context,
    model: opt.Model = "llama-70b",
    gpu: opt.Gpu = "h100-sxm",
    gemm: opt.Gemm = None,
    kv: opt.Kv = None,
    fmha: opt.Fmha = None,
    moe: opt.Moe = None,
    preset: Annotated[
        str | None, typer.Option(help="One of 'aicalib quant presets', or several with commas, side by side.")
    ] = None,
    launch: opt.Launch = None,
    server_info: opt.ServerInfo = None,
    tp: opt.Tp = None,
    pp: opt.Pp = None,
    dp: opt.Dp = None,
    ep: opt.Ep = None,
    engine: Annotated[str, typer.Option(help="sglang, vllm or trtllm.")] = "sglang",
    engine_version: opt.EngineVersion = None,
    isl: opt.Isl = 1024,
    osl: opt.Osl = 256,
    concurrency: opt.Concurrency = 32,
    num_prompts: Annotated[
        int | None, typer.Option(help="Requests of the benchmark. Default: 10 x concurrency.")
    ] = None,
    request_rate: opt.RequestRate = None,
    load: Annotated[
        str | None, typer.Option(help="closed, open, burst or static_batch. Default: closed, or by the rate.")
    ] = None,
    prefix_hit: opt.PrefixHit = 0.0,
    lockstep: Annotated[bool, typer.Option(help="All requests have the same lengths.")] = False,
    mem_fraction: opt.MemFraction = None,
    chunked_prefill_size: opt.ChunkedPrefillSize = None,
    max_running_requests: opt.MaxRunningRequests = None,
    enable_mixed_chunk: opt.EnableMixedChunk = False,
    attention_backend: opt.AttentionBackend = None,
    prefill_attention_backend: opt.PrefillAttentionBackend = None,
    decode_attention_backend: opt.DecodeAttentionBackend = None,
    moe_backend: opt.MoeBackend = None,
    moe_a2a_backend: Annotated[
        str | None, typer.Option(help="SGLang: how tokens reach their experts: none or deepep.")
    ] = None,
    spec_method: opt.SpecMethod = None,
    spec_tokens: opt.SpecTokens = None,
    spec_accept: Annotated[
        float | None, typer.Option(help="Mean tokens a step yields (acceptance length), as measured.")
    ] = None,
    draft_model: opt.DraftModel = None,
    draft_gemm: opt.DraftGemm = None,
    prefill_tp: opt.PrefillTp = None,
    prefill_dp: opt.PrefillDp = None,
    prefill_ep: opt.PrefillEp = None,
    prefill_instances: opt.PrefillInstances = None,
    decode_instances: opt.DecodeInstances = None,
    network_gbit_s: Annotated[
        float | None,
        typer.Option(help="Rate at which one GPU sends to another node; needed where anything is sent."),
    ] = None,
    profile: ProfileName = "default",
    explain: Annotated[
        bool, typer.Option("--explain", help="Show where the time goes, and the sources.")
    ] = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw a picture: a .png or .svg file.")] = None,
    picture: Annotated[
        Picture,
        typer.Option(
            help="What to draw: operators under the GPU's roofline; memory against its size; TPOT over concurrency, "
            "with measured runs. The last two take several presets."
        ),
    ] = Picture.ROOFLINE,
    record: Annotated[bool, typer.Option("--record", help="Also keep the prediction in the store.")] = False,
    db: Db = None,
    wait: Wait = DEFAULT_WAIT_S,
    json: Json = False,
) -> None:
    """Predict latency, throughput and memory of one deployment."""
    import numpy as np

    from aicalib.cli.choices import apply_preset, check_arrivals, with_start
    from aicalib.cli.draw import check_picture, draw_picture
    from aicalib.errors import InvalidValue
    from aicalib.prediction import predict_batch
    from aicalib.report.prediction import document, text
    from aicalib.resolve.rows import resolve

    options = {
        "model": model, "gpu": gpu, "gemm": gemm, "kv": kv, "fmha": fmha, "moe": moe, "tp": tp, "pp": pp,
        "dp": dp, "ep": ep, "engine": engine, "engine_version": engine_version, "isl": isl, "osl": osl,
        "concurrency": concurrency, "num_prompts": num_prompts, "lockstep": lockstep,
        "load": load, "request_rate": request_rate, "prefix_hit": prefix_hit,
        "mem_fraction": mem_fraction, "chunked_prefill_size": chunked_prefill_size,
        "max_running_requests": max_running_requests, "enable_mixed_chunk": enable_mixed_chunk,
        "attention_backend": attention_backend, "prefill_attention_backend": prefill_attention_backend,
        "decode_attention_backend": decode_attention_backend, "moe_backend": moe_backend,
        "spec_method": spec_method, "spec_tokens": spec_tokens, "spec_accept": spec_accept,
        "draft_model": draft_model, "draft_gemm": draft_gemm,
        "prefill_tp": prefill_tp, "prefill_dp": prefill_dp, "prefill_ep": prefill_ep,
        "prefill_instances": prefill_instances, "decode_instances": decode_instances,
        "network_gbit_s": network_gbit_s, "moe_a2a_backend": moe_a2a_backend,
    }  # fmt: skip
    for name, value in options.items():
        if value != value:
            raise InvalidValue(f"{name} is not a number")
    check_arrivals(context, request_rate)
    if launch is not None or server_info is not None:
        options = with_start(context, options, launch, server_info)
    asked: list[str | None] = [None] if preset is None else [each.strip() for each in preset.split(",")]
    if len(asked) > 1 and explain:
        raise InvalidValue("several presets are one table; ask for one to explain", [asked[0] or ""])
    if plot is not None:
        check_picture(plot, picture, len(asked), options)
    chosen = [apply_preset(options, choice) for choice in asked]
    batch = resolve({name: [each[name] for each in chosen] for name in chosen[0]})
    for error in batch.refused.values():
        raise error
    used = find_profile(profile, db, wait)
    predictions = [predict_batch(batch.take(np.array([at])), used) for at in range(len(asked))]
    found = [document(each, 0) for each in predictions]
    if record:
        from perfdb import Store

        with Store(store_path(db), wait_s=wait) as store:
            for each in found:
                store.save_prediction(finite(each))
    if plot is not None:
        draw_picture(picture, plot, asked, chosen, predictions, found, store_path(db), wait)
    if len(asked) > 1:
        _print_presets([each or "" for each in asked], found, predict_batch(batch, used), json)
    elif json:
        print_json(found[0])
    else:
        typer.echo(text(found[0], explain=explain))


def _print_presets(names: list[str], found: list[dict[str, Any]], prediction: Prediction, json: bool) -> None:
    """Print several presets: as a list of documents, or as one table of differences from the first."""
    if json:
        print_json([{"preset": name, **each} for name, each in zip(names, found, strict=True)])
        return
    from aicalib.report.comparison import HEADER, comparison
    from aicalib.report.prediction import heading

    model, _, load, *_ = heading(found[0])
    print_table(
        f"{model}\n{load}\na tie is a difference below the 90 % interval of the ratio",
        HEADER,
        comparison(names, found, prediction),
        align="llrll",
    )
