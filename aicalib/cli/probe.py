"""`aicalib probe`: this machine as an accelerator file, and the GPUs that it has."""

from __future__ import annotations

import datetime
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from aicalib.cli.output import Json, print_json
from aicalib.errors import InvalidValue
from aicalib.hardware.accelerator import GIB, GIGA, TERA


def probe(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the accelerator file, for --gpu FILE.toml.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    json: Json = False,
) -> None:
    """Measure this machine's processor as an accelerator, and name the GPUs that it has.

    Takes a few seconds and uses every core of one memory node. Close what else computes: others only slow it down.
    """
    from aicalib.hardware import as_toml
    from aicalib.hardware.file import SUFFIX
    from aicalib.measure.gpus import find_gpus
    from aicalib.measure.machine import this_machine
    from aicalib.measure.probe import accelerator_file, measure_rates

    if output is not None and output.suffix.lower() != SUFFIX:
        raise InvalidValue(
            f"--output {output}: an accelerator file ends in {SUFFIX}",
            [str(output / f"machine{SUFFIX}" if output.is_dir() else output.with_suffix(SUFFIX))],
        )
    if output is not None and output.exists() and not force:
        raise InvalidValue(f"{output} is there already; --force writes over it", ["--force"])
    if output is not None and not output.parent.is_dir():
        raise InvalidValue(
            f"--output {output}: there is no folder {output.parent}", [f"mkdir -p {output.parent}"]
        )
    machine = this_machine()
    rates = measure_rates(machine, lambda what: typer.echo(f"measuring {what} ...", err=True))
    figures = accelerator_file(machine, rates, datetime.datetime.now(datetime.UTC).date())
    gpus = find_gpus()
    if output is not None:
        output.write_text(as_toml(figures), encoding="utf-8")
    if json:
        print_json(
            {
                "machine": machine.as_dict(),
                "measured": asdict(rates),
                "accelerator": figures,
                "gpus": [asdict(each) for each in gpus],
                "file": None if output is None else str(output),
            }
        )
        return
    free = "unknown" if machine.free_bytes is None else f"{machine.free_bytes / GIB:.1f} GiB free"
    typer.echo(f"{machine.model}: {machine.cores} cores, {machine.memory_bytes / GIB:.1f} GiB, {free}")
    if machine.nodes > 1:
        typer.echo(f"one of {machine.nodes} memory nodes, which is what one rank of an engine has")
    typer.echo(
        f"matrix rate       {rates.matrix_flops_s / TERA:8.3f} TFLOP/s in fp32, measured ({rates.matrix_library}, "
        f"{rates.threads} threads)"
    )
    for form, rate in figures["peak_tflops"].items():
        if form != "fp32":
            typer.echo(f"                  {rate:8.3f} TFLOP/s in {form}, derived and not measured")
    typer.echo(f"memory bandwidth  {rates.bandwidth_bytes_s / GIGA:8.1f} GB/s, measured (a = b + c)")
    if not rates.steady:
        typer.echo(
            f"something else was computing: half of the measurements took {rates.unsteadiness:.1f} times the best or "
            "longer; probe again on a quiet machine"
        )
    for words in machine.unread:
        typer.echo(f"not read here: {words}")
    for gpu in gpus:
        size = "" if gpu.memory_bytes is None else f", {gpu.memory_bytes / GIB:.1f} GiB"
        known = (
            f"--gpu {gpu.accelerator}"
            if gpu.accelerator
            else "not in the catalogue; see docs/accelerators.md"
        )
        typer.echo(f"GPU: {gpu.name}{size} ({gpu.told_by}): {known}")
    if not gpus:
        typer.echo("GPUs: none found")
    if output is None:
        typer.echo("nothing was written: --output FILE.toml writes the accelerator file")
    else:
        typer.echo(f"written: {output}, for --gpu {output}")
