"""A user's own accelerator from a TOML file, in the library and in every command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

import aicalib
from aicalib.cli.main import main
from aicalib.errors import InvalidValue
from aicalib.hardware import as_file, get_accelerator, list_accelerators
from aicalib.hardware.file import KEYS

PAGE = (Path(__file__).parent.parent / "docs" / "accelerators.md").read_text()
EXAMPLES = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.S)
SHORT = 'name = "my-gpu"\nmemory_gib = 96\nbandwidth_gb_s = 3000\n[peak_tflops]\nbf16 = 500\nfp8 = 1000\n'
RUN = {
    "source": "test", "src_ref": "1", "engine": "sglang", "engine_version": "0.5.6", "model": "llama-70b", "tp": 8,
    "n_gpus": 8, "weight_quant": "bf16", "isl": 1024, "osl": 256, "concurrency": 8, "load": "closed",
    "mean_ttft_ms": 90.0, "mean_tpot_ms": 12.0,
}  # fmt: skip


@pytest.fixture
def write(tmp_path):
    def write(text, name="my-gpu.toml"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def as_toml(figures):
    """Write a flat mapping with one table, which JSON and TOML spell alike."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in figures.items() if key != "peak_tflops"]
    peaks = [f"{form} = {rate}" for form, rate in figures["peak_tflops"].items()]
    return "\n".join([*lines, "[peak_tflops]", *peaks])


def command(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main([*map(str, arguments), "--json"])
    return left.value.code, json.loads(capsys.readouterr().out)


def test_the_shortest_file(write):
    gpu = get_accelerator(write(SHORT))
    assert (gpu.name, gpu.memory_bytes, gpu.bandwidth_bytes_s) == ("my-gpu", 96 * 2**30, 3e12)
    assert gpu.peak_flops == {"bf16": 500e12, "fp8": 1000e12}
    assert (gpu.link_bytes_s, gpu.link_gpus, gpu.gpus_per_node) == (None, 1, 1)
    assert gpu.confidence == "user"


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_of_the_page_are_read(example, write):
    path = write(example)
    deployment, workload = aicalib.question(model="llama-8b", gpu=path)
    assert aicalib.predict(deployment, workload).mean["tpot_ms"].value[0] > 0


def test_the_page_has_every_key():
    assert len(EXAMPLES) == 2
    rows = re.findall(r"^\| (`.*?) \|", PAGE, flags=re.M)
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == set(KEYS)


def test_like_inherits_what_is_not_given(write):
    path = write('name = "mine"\nlike = "H100"\nmemory_gib = 94\n[peak_tflops]\nbf16 = 900\n')
    gpu, h100 = get_accelerator(path), get_accelerator("h100-sxm")
    assert (gpu.memory_bytes, gpu.peak_flops["bf16"]) == (94 * 2**30, 900e12)
    assert gpu.peak_flops["fp8"] == pytest.approx(h100.peak_flops["fp8"])
    for same in ("vendor", "architecture", "capability", "link_bytes_s", "link_gpus", "gpus_per_node"):
        assert getattr(gpu, same) == getattr(h100, same)
    assert "h100-sxm" in gpu.source


def test_another_link_or_node_joins_all_of_it(write):
    assert get_accelerator(write('name = "a"\nlike = "h100"\ngpus_per_node = 4')).link_gpus == 4
    assert get_accelerator(write('name = "a"\nlike = "l40s"\nlink_gb_s = 100')).link_gpus == 8
    assert get_accelerator(write('name = "a"\nlike = "gb200"\ngpus_per_node = 2')).link_gpus == 72
    assert get_accelerator(write('name = "a"\nlike = "a30"\ngpus_per_node = 4')).link_gpus == 2


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ('generation = "hopper"', ("NVIDIA", "Hopper", "9.0")),
        ('capability = "8.9"', ("NVIDIA", "Ada", "8.9")),
        ('generation = "blackwell"\ncapability = "12.0"', ("NVIDIA", "Blackwell", "12.0")),
        ('capability = "gfx942"', ("AMD", "CDNA3", "gfx942")),
        ('vendor = "NVIDIA"\ngeneration = "Rubin"\ncapability = "11.0"', ("NVIDIA", "Rubin", "11.0")),
        ('vendor = "ACME"', ("ACME", "", "rates:bf16+fp8")),
        ("", ("", "", "rates:bf16+fp8")),
    ],
)
def test_what_the_generation_is(lines, expected, write):
    gpu = get_accelerator(write(f"{lines}\n{SHORT}"))
    assert (gpu.vendor, gpu.architecture, gpu.capability) == expected


def test_like_with_another_generation_takes_that_one(write):
    gpu = get_accelerator(write('name = "a"\nlike = "h100"\ngeneration = "ada"'))
    assert (gpu.vendor, gpu.architecture, gpu.capability) == ("NVIDIA", "Ada", "8.9")


def test_formats_follow_the_rates_where_no_generation_is_given(write):
    def peak(gpu, gemm):
        batch = aicalib.predict(*aicalib.question(model="llama-8b", gpu=gpu, gemm=gemm)).batch
        return batch.system.gemm_peak_flops_s[0]

    path = write(SHORT)
    assert (peak(path, "fp8"), peak(path, "nvfp4"), peak(path, "bfloat16")) == (1000e12, 500e12, 500e12)
    plain = write(SHORT.replace("fp8 = 1000\n", ""))
    assert peak(plain, "fp8") == 500e12


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("memory_gib", "memory_gb"), r"unknown key 'memory_gb'; did you mean memory_gib"),
        (("memory_gib = 96\n", ""), "memory_gib missing"),
        (('name = "my-gpu"\n', ""), "name missing"),
        (("[peak_tflops]\nbf16 = 500\nfp8 = 1000\n", ""), "peak_tflops missing"),
        (("bf16 = 500\nfp8 = 1000\n", ""), "peak_tflops missing"),
        (("3000", "-3000"), "-3000 is not between 10 and 100000; the unit is GB/s"),
        (("3000", "3.35"), "3.35 is not between"),
        (("3000", "3000000000000"), r"3e\+12 is not between"),
        (("3000", "nan"), "nan is not between"),
        (("3000", '"3000"'), "'3000' is not a number"),
        (("3000", "true"), "True is not a number"),
        (("= 96", "= 103079215104"), "memory_gib .* the unit is GiB"),
        (("bf16 = 500", "bf16 = 5e14"), "peak_tflops.bf16 = 5e.14 is not between"),
        (("bf16", "bfloat16"), r"unknown format in \[peak_tflops\]: 'bfloat16'; did you mean bf16"),
        (("[peak_tflops]\nbf16 = 500\nfp8 = 1000\n", "peak_tflops = 500\n"), "is a table of formats"),
        (("my-gpu", "H100_SXM"), "one of the catalogue"),
        (("my-gpu", " "), "not a text in quotes"),
        (("name", "gpus_per_node = 1.5\nname"), "not a whole number"),
        (("name", 'like = "h100-sxn"\nname'), "did you mean h100-sxm"),
        (("name", 'generation = "hoper"\nname'), "did you mean Hopper"),
        (("name", 'generation = "Ampere"\nname'), "capability 8.0 or 8.6"),
        (("name", 'capability = "11.0"\nname'), "say vendor too"),
        (('"my-gpu"', "my-gpu"), "is no TOML"),
        (("name", "gpus_per_node = 8\nname"), "nothing joins them; say pcie_gb_s or link_gb_s"),
        (("name", "link_gb_s = 100\nlink_gpus = 2\nname"), "gpus_per_node = 8, but the link joins 2"),
    ],
)
def test_a_wrong_file_is_refused_with_the_reason(change, said, write):
    path = write(SHORT.replace(*change, 1))
    with pytest.raises(InvalidValue, match=said) as caught:
        get_accelerator(path)
    assert path in str(caught.value)


def test_a_format_without_any_rate_is_refused(write):
    path = write(SHORT.replace("bf16 = 500\nfp8 = 1000", "fp32 = 50"))
    with pytest.raises(InvalidValue, match="a rate for fp16 or a rate for bf16; float32 would work"):
        aicalib.question(model="llama-8b", gpu=path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InvalidValue, match="No such file"):
        get_accelerator(str(tmp_path / "none.toml"))
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(InvalidValue, match="Is a directory"):
        get_accelerator(str(tmp_path / "folder.toml"))


@pytest.mark.parametrize("gpu", list_accelerators(), ids=lambda gpu: gpu.name)
def test_every_row_of_the_catalogue_survives_as_a_file(gpu, write):
    again = get_accelerator(write(as_toml(as_file(gpu) | {"name": "copy"})))
    figures = ("memory_bytes", "bandwidth_bytes_s", "link_bytes_s", "pcie_bytes_s", "power_w")
    for name in figures:
        assert getattr(again, name) == pytest.approx(getattr(gpu, name))
    for name in ("vendor", "capability", "architecture", "link_name", "link_gpus", "gpus_per_node", "notes"):
        assert getattr(again, name) == getattr(gpu, name)
    assert again.peak_flops == pytest.approx(gpu.peak_flops)


def test_a_prediction_carries_all_that_repeats_it(write, capsys):
    path = write('name = "mine"\nlike = "h200"\nbandwidth_gb_s = 4000\n')
    status, first = command(capsys, "predict", "--gpu", path, "--model", "llama-8b")
    assert status == 0
    again = write(as_toml(first["deployment"]["accelerator"]), "again.toml")
    _, second = command(capsys, "predict", "--gpu", again, "--model", "llama-8b")
    for metric, interval in first["prediction"].items():
        assert second["prediction"][metric]["value"] == pytest.approx(interval["value"], rel=1e-9)
    _, known = command(capsys, "predict", "--model", "llama-8b")
    assert "accelerator" not in known["deployment"]


def test_every_command_takes_a_file(write, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("AICALIB_DB", str(tmp_path / "store.duckdb"))
    path = write('name = "mine"\nlike = "h200"\n')
    status, listed = command(capsys, "list", "gpus", path, "l20")
    assert (status, [each["name"] for each in listed]) == (0, ["mine", "l20"])
    run = write(json.dumps(RUN) + "\n", "run.jsonl")
    status, kept = command(capsys, "ingest", run, "--gpu", path)
    assert (status, kept["kept"]) == (0, 1)
    _, stored = command(capsys, "db", "sql", "SELECT DISTINCT gpu FROM runs")
    assert get_accelerator(stored[0]["gpu"]).name == "mine"
    status, scored = command(capsys, "evaluate", run, "--gpu", path)
    assert (status, scored["answered"]) == (0, 1)
    assert {each["gpu"] for each in scored["groups"]} == {"mine"}


def test_a_draft_model_runs_on_a_users_own_accelerator(write):
    path = write('name = "mine"\nlike = "h100-sxm"\n')
    asked = {
        "model": "llama-70b", "tp": 4, "spec_method": "eagle", "spec_tokens": 3, "spec_accept": 2.2,
        "draft_model": "llama-8b",
    }  # fmt: skip
    own, like = (aicalib.predict(*aicalib.question(gpu=gpu, **asked)) for gpu in (path, "h100-sxm"))
    plain = aicalib.predict(*aicalib.question(gpu=path, **{"model": "llama-70b", "tp": 4}))
    assert own.memory.weights_bytes[0] == like.memory.weights_bytes[0] > plain.memory.weights_bytes[0]


def test_a_table_takes_files_and_refuses_a_wrong_one_by_row(write):
    good, bad = write(SHORT), write("name = 1", "bad.toml")
    found = aicalib.predict_many(pd.DataFrame({"gpu": [good, bad, "h100"], "model": "llama-8b"}))
    assert found["status"].tolist() == ["ok", "refused", "ok"]
    assert bad in found["reason"][1]
    assert found["origin"][0] == "datasheet"
