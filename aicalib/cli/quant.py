"""`aicalib quant`: the mapping of the four fields to an engine's arguments, the presets, and what runs where."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from aicalib.cli.output import Json, print_json, print_table

app = typer.Typer(help="What the four fields mean to an engine.", no_args_is_help=True)

Engine = Annotated[str, typer.Option(help="sglang, vllm or trtllm.")]
Version = Annotated[str | None, typer.Option("--engine-version", help="Default: the newest known.")]
Gpu = Annotated[str, typer.Option(help="Accelerator of 'aicalib list gpus', or a .toml file of your own.")]
Model = Annotated[str, typer.Option(help="Model whose kind of attention and experts decide.")]


@app.command()
def presets(json: Json = False) -> None:
    """List the presets."""
    from aicalib.quant.presets import list_presets

    found = [{"preset": each.name, **each.quant.to_mapping(), "note": each.note} for each in list_presets()]
    if json:
        print_json(found)
        return
    header = ["preset", "gemm", "kvcache", "fmha", "moe", "note"]
    print_table("", header, [[str(each[key]) for key in header] for each in found], align="llllll")


@app.command("map")
def mapping(
    engine: Engine = "sglang",
    engine_version: Version = None,
    gpu: Gpu = "h100-sxm",
    model: Model = "qwen3-30b-a3b",
    json: Json = False,
) -> None:
    """Show the arguments that each format of each field becomes, or why it does not start."""
    from aicalib.engines.support import support

    found = [each._asdict() for each in support(engine, engine_version, gpu, model)]
    if json:
        print_json(found)
        return
    print_table(
        f"{found[0]['engine']} {found[0]['engine_version']} on {gpu}, {model}",
        ["field", "mode", "how", "arguments, or why not"],
        [[each["field"], each["mode"], each["how"], _shown(each)] for each in found],
        align="llll",
    )


def _shown(row: dict[str, Any]) -> str:
    """Return the arguments of a format, or why it does not start."""
    if row["how"] == "-":
        return str(row["reason"])
    checkpoint = ["--checkpoint PATH:"] if row["how"] == "offline" else []
    return " ".join([*checkpoint, *(row["arguments"] or ["(nothing)"])])


@app.command()
def matrix(
    engine: Engine = "sglang",
    engine_version: Version = None,
    gpu: Annotated[list[str] | None, typer.Option(help="Accelerators, one option each.")] = None,
    model: Model = "qwen3-30b-a3b",
    json: Json = False,
) -> None:
    """Show which formats start on which accelerators."""
    from aicalib.engines.support import support

    names = gpu or ["a100-sxm-80gb", "l40s", "h100-sxm", "b200-sxm", "rtx-5090", "mi300x"]
    tables = {name: support(engine, engine_version, name, model) for name in names}
    rows: list[dict[str, Any]] = []
    for place, each in enumerate(tables[names[0]]):
        rows.append(
            {"field": each.field, "mode": each.mode, **{name: tables[name][place].how for name in names}}
        )
    if json:
        print_json(rows)
        return
    print_table(
        "online: from a 16-bit checkpoint; offline: from one in the format; -: does not start",
        ["field", "mode", *names],
        [[str(row["field"]), str(row["mode"]), *(str(row[name]) for name in names)] for row in rows],
        align="ll" + "l" * len(names),
    )
