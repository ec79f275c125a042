import csv
import dataclasses
import json
import pickle
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicalib.errors import UnknownName, fold
from aicalib.hardware import get_accelerator, list_accelerators

ROWS = list(csv.DictReader(files("aicalib.hardware").joinpath("accelerators.csv").read_text().splitlines()))
RUNS = Path(__file__).parents[1] / "measurements" / "runs.jsonl"

PUBLISHED_GPUS = {
    "b200_sxm": "b200-sxm",
    "h200_sxm": "h200-sxm",
    "h100_sxm": "h100-sxm",
    "gb200": "gb200",
    "a100_sxm": "a100-sxm-80gb",
    "a100_sxm_40gb": "a100-sxm-40gb",
    "h20": "h20",
    "h20_3e": "h20-3e",
    "rtx3090": "rtx-3090",
    "rtx4090": "rtx-4090",
    "rtx_6000_ada": "rtx-6000-ada",
    "mi300x": "mi300x",
    "rtx5090": "rtx-5090",
    "b300_sxm": "b300-sxm",
    "a800_sxm": "a800-sxm",
    "rtx_a6000": "rtx-a6000",
    "gb300": "gb300",
    "l4": "l4",
    "a100": "a100-sxm-80gb",
    "a100_80gb": "a100-sxm-80gb",
    "h800": "h800-sxm",
    "mi355x": "mi355x",
    "h100_80gb": "h100-sxm",
    "gb10": "gb10",
    "l20": "l20",
    "r9700_32gb": "radeon-ai-pro-r9700",
    "rtx3070_laptop": "rtx-3070-laptop",
    "rx7900xtx": "rx-7900-xtx",
    "rx7900xt": "rx-7900-xt",
    "jetson_orin_64gb": "jetson-agx-orin-64gb",
    "rtx_pro_5000_72gb": "rtx-pro-5000-72gb",
    "mi300a": "mi300a",
    "a800_sxm_80gb": "a800-sxm",
    "rtx_pro_6000_ws": "rtx-pro-6000",
    "v100_sxm2_32gb": "v100-sxm-32gb",
}

TYPED = {
    "h100": "h100-sxm",
    "h100-sxm": "h100-sxm",
    "H100-SXM5-80GB": "h100-sxm",
    "h100_pcie": "h100-pcie",
    "NVIDIA H100 80GB HBM3": "h100-sxm",
    "NVIDIA H100 PCIe": "h100-pcie",
    "NVIDIA H100 NVL": "h100-nvl",
    "NVIDIA H200": "h200-sxm",
    "NVIDIA A100-SXM4-80GB": "a100-sxm-80gb",
    "NVIDIA A100 80GB PCIe": "a100-pcie-80gb",
    "NVIDIA A100-SXM4-40GB": "a100-sxm-40gb",
    "NVIDIA GeForce RTX 4090": "rtx-4090",
    "NVIDIA GeForce RTX 4090 D": "rtx-4090d",
    "NVIDIA RTX 6000 Ada Generation": "rtx-6000-ada",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": "rtx-pro-6000-server",
    "NVIDIA GH200 480GB": "gh200",
    "Tesla T4": "t4",
    "AMD Instinct MI300X": "mi300x",
    "l40s": "l40s",
    "a10g": "a10g",
    "4090": "rtx-4090",
    "b200": "b200-sxm",
}


@pytest.mark.parametrize(("spelling", "name"), [*PUBLISHED_GPUS.items(), *TYPED.items()])
def test_a_spelling_finds_its_accelerator(spelling, name):
    assert get_accelerator(spelling).name == name


def test_no_alias_points_at_two_rows():
    owners: dict[str, set[str]] = {}
    for row in ROWS:
        for spelling in (row["name"], *filter(None, row["aliases"].split("|"))):
            owners.setdefault(fold(spelling), set()).add(row["name"])
    assert {spelling: names for spelling, names in owners.items() if len(names) > 1} == {}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_every_row_is_a_plausible_datasheet(row):
    gpu = get_accelerator(row["name"])
    assert gpu.source
    assert gpu.confidence in {"high", "medium", "low"}
    assert 8e9 < gpu.memory_bytes < 320e9
    assert 200e9 <= gpu.bandwidth_bytes_s <= 8e12
    assert set(gpu.peak_flops) <= {"fp32", "tf32", "fp16", "bf16", "fp8", "int8", "fp4"}
    assert "fp16" in gpu.peak_flops or "bf16" in gpu.peak_flops
    assert all(1e12 < rate < 2e16 for rate in gpu.peak_flops.values())
    assert (gpu.link_bytes_s is None) == (gpu.link_gpus == 1) or gpu.name == "gh200"
    assert gpu.gpus_per_node in {1, 4, 8}
    if "fp8" in gpu.peak_flops and "fp16" in gpu.peak_flops:
        assert gpu.peak_flops["fp8"] == pytest.approx(2 * gpu.peak_flops["fp16"], rel=0.02)


def test_figures_of_h100_sxm():
    gpu = get_accelerator("h100-sxm")
    assert gpu.capability == "9.0"
    assert gpu.memory_bytes == 81559 * 2**20
    assert gpu.bandwidth_bytes_s == 3.35e12
    assert gpu.peak_flops == pytest.approx(
        {
            "fp32": 67e12,
            "tf32": 494.7e12,
            "fp16": 989.4e12,
            "bf16": 989.4e12,
            "fp8": 1978.9e12,
            "int8": 1978.9e12,
        }
    )
    assert (gpu.link_bytes_s, gpu.pcie_bytes_s, gpu.power_w) == (450e9, 64e9, 700.0)


def test_math_that_the_hardware_lacks_is_absent():
    assert "fp8" not in get_accelerator("a100").peak_flops
    assert "bf16" not in get_accelerator("t4").peak_flops
    assert "fp4" not in get_accelerator("h200").peak_flops
    assert get_accelerator("b300").peak_flops["int8"] < get_accelerator("b300").peak_flops["bf16"]


def test_memory_from_the_marketed_size_says_so():
    assert get_accelerator("b100").memory_bytes == pytest.approx(192e9, rel=1e-5)
    assert "derived" in get_accelerator("b100").notes


def test_a_module_of_two_dies_is_entered_by_die():
    assert get_accelerator("mi250x").peak_flops["fp16"] == 191.5e12


def test_unknown_name_has_near_misses():
    with pytest.raises(UnknownName, match="h100-sxm") as caught:
        get_accelerator("h100-sxn")
    assert "h100-sxm" in caught.value.alternatives


def test_a_datasheet_hashes_pickles_and_stays_as_it_is():
    gpu = get_accelerator("h100")
    assert pickle.loads(pickle.dumps(gpu)) == gpu
    assert hash(gpu) == hash(get_accelerator("h100-sxm"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        gpu.memory_bytes = 0.0


@given(st.sampled_from([gpu.name for gpu in list_accelerators()]), st.data())
def test_case_and_separators_do_not_count(name, data):
    separator = data.draw(st.sampled_from(["", "-", "_", " "]))
    case = data.draw(st.sampled_from([str.upper, str.lower, str.title]))
    assert get_accelerator(case(name.replace("-", separator))).name == name


@pytest.mark.skipif(not RUNS.exists(), reason="the published runs are not in this checkout")
def test_every_gpu_of_the_published_runs_resolves():
    with RUNS.open() as lines:
        names = {json.loads(line)["gpu"] for line in lines if line.strip()}
    assert names
    for name in names - {None}:
        get_accelerator(name)
