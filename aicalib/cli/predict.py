"""`aicalib predict`: one prediction with its interval, memory and, on request, where the time goes."""

from __future__ import annotations

from typing import Annotated

import typer

from aicalib.cli.output import Db, Json, ProfileName, find_profile, finite, print_json, store_path


def predict(
    model: Annotated[
        str, typer.Option(help="Catalogue name, Hugging Face id, or path of a config.json.")
    ] = "llama-70b",
    gpu: Annotated[str, typer.Option(help="Accelerator; see 'aicalib list gpus'.")] = "h100-sxm",
    gemm: Annotated[str | None, typer.Option(help="Format of dense weights.")] = None,
    kv: Annotated[str | None, typer.Option(help="Format of the KV cache.")] = None,
    fmha: Annotated[str | None, typer.Option(help="Format in which attention multiplies.")] = None,
    moe: Annotated[str | None, typer.Option(help="Format of the experts.")] = None,
    tp: Annotated[
        int | None, typer.Option(help="Tensor-parallel width. Default: the smallest that fits.")
    ] = None,
    pp: Annotated[int | None, typer.Option(help="Pipeline stages.")] = None,
    dp: Annotated[int | None, typer.Option(help="Attention-data-parallel ranks inside tp.")] = None,
    ep: Annotated[
        int | None, typer.Option(help="Ranks over which whole experts are split, inside tp.")
    ] = None,
    engine: Annotated[str, typer.Option(help="sglang or vllm.")] = "sglang",
    engine_version: Annotated[str | None, typer.Option(help="Default: the newest known.")] = None,
    isl: Annotated[float, typer.Option(help="Mean input tokens.")] = 1024,
    osl: Annotated[float, typer.Option(help="Mean output tokens.")] = 256,
    concurrency: Annotated[int, typer.Option(help="Requests in flight.")] = 32,
    num_prompts: Annotated[
        int | None, typer.Option(help="Requests of the benchmark. Default: 10 x concurrency.")
    ] = None,
    request_rate: Annotated[
        float | None, typer.Option(help="Requests a second of an open loop; not covered yet.")
    ] = None,
    load: Annotated[str, typer.Option(help="closed or static_batch.")] = "closed",
    lockstep: Annotated[bool, typer.Option(help="All requests have the same lengths.")] = False,
    mem_fraction: Annotated[float | None, typer.Option(help="The engine's memory fraction.")] = None,
    chunked_prefill_size: Annotated[int | None, typer.Option(help="Tokens of one prefill step.")] = None,
    max_running_requests: Annotated[int | None, typer.Option(help="Most running requests.")] = None,
    profile: ProfileName = "default",
    explain: Annotated[
        bool, typer.Option("--explain", help="Show where the time goes, and the sources.")
    ] = False,
    record: Annotated[bool, typer.Option("--record", help="Also keep the prediction in the store.")] = False,
    db: Db = None,
    json: Json = False,
) -> None:
    """Predict latency, throughput and memory of one deployment."""
    from aicalib.errors import InvalidValue
    from aicalib.prediction import predict_batch
    from aicalib.report.prediction import document, text
    from aicalib.resolve import resolve

    options = {
        "model": model, "gpu": gpu, "gemm": gemm, "kv": kv, "fmha": fmha, "moe": moe, "tp": tp, "pp": pp,
        "dp": dp, "ep": ep, "engine": engine, "engine_version": engine_version, "isl": isl, "osl": osl,
        "concurrency": concurrency, "num_prompts": num_prompts, "lockstep": lockstep,
        "load": load if request_rate is None else "open",
        "mem_fraction": mem_fraction, "chunked_prefill_size": chunked_prefill_size,
        "max_running_requests": max_running_requests,
    }  # fmt: skip
    for name, value in options.items():
        if value != value:
            raise InvalidValue(f"{name} is not a number")
    batch = resolve({name: [value] for name, value in options.items()})
    for error in batch.refused.values():
        raise error
    found = document(predict_batch(batch, find_profile(profile, db)), 0)
    if record:
        from perfdb import Store

        with Store(store_path(db)) as store:
            store.save_prediction(finite(found))
    if json:
        print_json(found)
    else:
        typer.echo(text(found, explain=explain))
