"""`aicalib list`: models, accelerators, modes, engines and profiles that are known."""

from __future__ import annotations

import typer

from aicalib.cli.output import Db, Json, print_json, print_table, store_path

app = typer.Typer(help="What aicalib knows.", no_args_is_help=True)


@app.command()
def models(json: Json = False) -> None:
    """List the models of the catalogue."""
    from aicalib.models import list_architectures

    found = list_architectures()
    if json:
        print_json([each._asdict() if hasattr(each, "_asdict") else dict(each.__dict__) for each in found])
        return
    rows = [
        [each.name, each.family, each.hf_id, f"{each.total_parameters / 1e9:.2f}" if each.total_parameters else "",
         each.not_covered or ""]
        for each in found
    ]  # fmt: skip
    print_table("", ["model", "family", "Hugging Face id", "parameters, 1e9", "not covered yet"], rows, left=3)


@app.command()
def gpus(json: Json = False) -> None:
    """List the accelerators."""
    from aicalib.hardware import list_accelerators

    found = list_accelerators()
    if json:
        print_json([{**each.__dict__, "peak_flops": dict(each.peak_flops)} for each in found])
        return
    rows = [
        [each.name, each.architecture, each.capability, f"{each.memory_bytes / 2**30:.1f}",
         f"{each.bandwidth_bytes_s / 1e9:.0f}",
         *(f"{each.peak_flops[form] / 1e12:.0f}" if form in each.peak_flops else "-" for form in
           ("bf16", "fp8", "int8", "fp4")), each.confidence]
        for each in found
    ]  # fmt: skip
    print_table(
        "dense peaks in TFLOP/s (TOP/s for int8)",
        ["gpu", "generation", "capability", "GiB", "GB/s", "bf16", "fp8", "int8", "fp4", "confidence"],
        rows,
        left=3,
    )


@app.command()
def modes(json: Json = False) -> None:
    """List the quantization modes: nominal values, true bits, variants."""
    from aicalib.quant import MODES, storage_bits, variants

    found = []
    for field, enum in MODES.items():
        for mode in enum:
            bits = None if field == "fmha" else storage_bits(mode)
            found.append(
                {"field": field, "mode": mode.name, "memory": mode.value.memory, "compute": mode.value.compute,
                 "storage_bits": bits, "variants": [] if field in ("fmha", "kvcache") else list(variants(mode))}
            )  # fmt: skip
    if json:
        print_json(found)
        return
    rows = [
        [each["field"], each["mode"], f"{each['memory']:g}", f"{each['compute']:g}",
         "" if each["storage_bits"] is None else f"{each['storage_bits']:.4g}", " ".join(each["variants"])]
        for each in found
    ]  # fmt: skip
    print_table(
        "nominal bytes per element and speed-up; true bits per element",
        ["field", "mode", "memory", "compute", "bits", "variants"],
        rows,
        left=2,
    )


@app.command()
def engines(json: Json = False) -> None:
    """List the engines and their newest known versions."""
    from aicalib.engines import ENGINES, newest_version

    found = [
        {"engine": name, "newest_version": newest_version(name), "covered": name != "trtllm"} for name in ENGINES
    ]
    if json:
        print_json(found)
        return
    rows = [[each["engine"], each["newest_version"], "yes" if each["covered"] else "not yet"] for each in found]
    print_table("", ["engine", "newest known version", "predicted"], [[str(cell) for cell in row] for row in rows], left=3)


@app.command()
def profiles(db: Db = None, json: Json = False) -> None:
    """List the shipped profile and those in the store."""
    from aicalib.profiles import default_profile

    shipped = default_profile()
    found = [{"name": shipped.name, "version": shipped.version, "runs": shipped.lineage["runs"], "where": "shipped"}]
    path = store_path(db)
    if path.exists():
        from perfdb import Store

        with Store(path, read_only=True) as store:
            found += [{**each, "where": str(path)} for each in store.profiles()]
    if json:
        print_json(found)
        return
    rows = [[str(each["name"]), str(each["version"]), str(each["where"])] for each in found]
    print_table("", ["profile", "version", "where"], rows, left=3)
