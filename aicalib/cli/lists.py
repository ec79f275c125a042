"""`aicalib list`: models, accelerators, modes, engines and profiles that are known."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from aicalib.cli import options as opt
from aicalib.cli import profiles
from aicalib.cli.output import Json, print_json, print_table

app = typer.Typer(help="What aicalib knows.", no_args_is_help=True)


@app.command()
def models(json: Json = False) -> None:
    """List the models of the catalogue."""
    from dataclasses import asdict

    from aicalib.models import list_architectures

    found = list_architectures()
    if json:
        print_json([asdict(each) for each in found])
        return
    print_table(
        "parameters in 1e9",
        ["model", "parameters", "Hugging Face id", "remark"],
        [
            [each.name, f"{each.total_parameters / 1e9:.2f}" if each.total_parameters else "-", each.hf_id,
             (each.reason or "").removeprefix(f"{each.name}: ")]
            for each in found
        ],
        align="lrll",
    )  # fmt: skip


@app.command()
def gpus(
    names: Annotated[
        list[str] | None, typer.Argument(help="Only these: names, or .toml files of your own.")
    ] = None,
    json: Json = False,
) -> None:
    """List the accelerators."""
    from dataclasses import asdict

    from aicalib.hardware import get_accelerator, list_accelerators

    found = [get_accelerator(name) for name in names] if names else list_accelerators()
    if json:
        print_json([asdict(each) for each in found])
        return
    rates = ("bf16", "fp8", "int8", "fp4")
    print_table(
        "memory in GiB, bandwidth in GB/s, dense peaks in TFLOP/s (int8: TOP/s)",
        ["gpu", "capability", "memory", "bandwidth", *rates, "confidence"],
        [
            [each.name, each.capability, f"{each.memory_bytes / 2**30:.1f}",
             f"{each.bandwidth_bytes_s / 1e9:.0f}",
             *(f"{each.peak_flops[rate] / 1e12:.0f}" if rate in each.peak_flops else "-" for rate in rates),
             each.confidence]
            for each in found
        ],
        align="llrrrrrrl",
    )  # fmt: skip


@app.command()
def modes(
    context: typer.Context,
    engine: Annotated[
        str | None, typer.Option(help="Also which of them this engine starts: sglang, vllm or trtllm.")
    ] = None,
    engine_version: opt.EngineVersion = None,
    gpu: Annotated[str, typer.Option(help="Accelerator that it starts them on.")] = "h100-sxm",
    model: Annotated[str, typer.Option(help="Model whose attention and experts decide.")] = "qwen3-30b-a3b",
    json: Json = False,
) -> None:
    """List the quantization modes.

    Nominal values, true bits, variants; with an engine, which of them it starts on an accelerator.
    """
    from aicalib.cli.choices import is_given
    from aicalib.errors import InvalidValue
    from aicalib.quant import MODES, FMHAQuantMode, GEMMQuantMode, MoEQuantMode, storage_bits, variants

    idle = [each for each in ("engine_version", "gpu", "model") if engine is None and is_given(context, each)]
    if idle:
        flags = ", ".join("--" + each.replace("_", "-") for each in idle)
        raise InvalidValue(f"{flags}: which modes start is asked of an engine", ["--engine sglang"])

    found: list[dict[str, Any]] = []
    for field, enum in MODES.items():
        for mode in enum:
            found.append(
                {
                    "field": field,
                    "mode": mode.name,
                    "memory": mode.value.memory,
                    "compute": mode.value.compute,
                    "storage_bits": None if isinstance(mode, FMHAQuantMode) else storage_bits(mode),
                    "variants": list(variants(mode))
                    if isinstance(mode, GEMMQuantMode | MoEQuantMode)
                    else [],
                }
            )
    if engine is not None:
        _add_support(found, engine, engine_version, gpu, model)
    if json:
        print_json(found)
        return
    if engine is not None:
        print_table(
            f"{found[0]['engine']} {found[0]['engine_version']} on {gpu}, {model}: online from a 16-bit checkpoint, "
            "offline from one in the format",
            ["field", "mode", "bits", "starts", "why not at once"],
            [
                [each["field"], each["mode"], "-" if each["storage_bits"] is None else f"{each['storage_bits']:.4g}",
                 each["starts"], each["reason"] or ""]
                for each in found
            ],
            align="llrll",
        )  # fmt: skip
        return
    print_table(
        "nominal bytes per element and speed-up; true bits per element",
        ["field", "mode", "memory", "compute", "bits", "variants"],
        [
            [each["field"], each["mode"], f"{each['memory']:g}", f"{each['compute']:g}",
             "-" if each["storage_bits"] is None else f"{each['storage_bits']:.4g}",
             " ".join(each["variants"])]
            for each in found
        ],
        align="llrrrl",
    )  # fmt: skip


def _add_support(
    found: list[dict[str, Any]], engine: str, engine_version: str | None, gpu: str, model: str
) -> None:
    """Add to each mode whether an engine starts it; modes of experts that the model lacks are left out."""
    from aicalib.engines.support import support

    known = {(each.field, each.mode): each for each in support(engine, engine_version, gpu, model)}
    found[:] = [each for each in found if (each["field"], each["mode"]) in known]
    for each in found:
        row = known[each["field"], each["mode"]]
        each |= {
            "engine": row.engine, "engine_version": row.engine_version, "gpu": gpu, "model": model, "starts": row.how,
            "arguments": list(row.arguments), "reason": row.reason, "alternatives": list(row.alternatives),
        }  # fmt: skip


@app.command()
def engines(json: Json = False) -> None:
    """List the engines and their newest known versions."""
    from aicalib.engines import ENGINES, newest_version

    found = [{"engine": name, "newest_version": newest_version(name)} for name in ENGINES]
    if json:
        print_json(found)
        return
    print_table(
        "",
        ["engine", "newest known version"],
        [[each["engine"], each["newest_version"]] for each in found],
        align="ll",
    )


app.command("profiles")(profiles.list_)
