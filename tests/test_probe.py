"""The machine as an accelerator: what is read of a system, measured with numpy, and written for `--gpu`."""

from __future__ import annotations

import datetime
import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import aicalib
from aicalib.cli.main import main
from aicalib.errors import AicalibError
from aicalib.hardware import as_file, as_toml, get_accelerator
from aicalib.measure import machine as machines
from aicalib.measure import probe
from aicalib.measure.gpus import find_gpus
from aicalib.measure.machine import free_memory_bytes, this_machine

TWO_NODES = {
    "proc/cpuinfo": "processor : 0\nmodel name : Big(R) CPU @ 2GHz\nflags : fpu avx512_bf16 amx_bf16\n\nprocessor : 1",
    "proc/meminfo": "MemTotal:       67108864 kB\nMemFree: 1 kB\nMemAvailable:   33554432 kB\n",
    "sys/devices/system/node/node0/cpulist": "0-1,4-5",
    "sys/devices/system/node/node1/cpulist": "2-3,6-7",
    **{
        f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": f"{cpu % 4},{cpu % 4 + 4}"
        for cpu in range(8)
    },
    **{f"sys/devices/system/cpu/cpu{cpu}/cache/index2/size": "2048K" for cpu in range(8)},
    **{f"sys/devices/system/cpu/cpu{cpu}/cache/index2/level": "2" for cpu in range(8)},
    **{f"sys/devices/system/cpu/cpu{cpu}/cache/index3/size": "32768K" for cpu in range(8)},
    **{f"sys/devices/system/cpu/cpu{cpu}/cache/index3/level": "3" for cpu in range(8)},
    **{
        f"sys/devices/system/cpu/cpu{cpu}/cache/index3/shared_cpu_list": "0-1,4-5"
        if cpu % 4 < 2
        else "2-3,6-7"
        for cpu in range(8)
    },
}


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Lay out the files of a system, of whose processors this process may use some."""

    def lay(files, allowed=range(8)):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.setattr(machines, "_allowed", lambda: set(allowed))
        return tmp_path

    return lay


@pytest.fixture
def quick(monkeypatch):
    """Measure on matrices and arrays that take no time."""
    monkeypatch.setattr(probe, "FIRST_ORDER", 64)
    monkeypatch.setattr(probe, "LAST_ORDER", 64)
    monkeypatch.setattr(probe, "LONG_ENOUGH_S", 0.0)
    monkeypatch.setattr(probe, "_array_bytes", lambda machine: 2.0**20)


def test_one_memory_node_is_what_a_rank_has(system):
    found = this_machine(system(TWO_NODES))
    assert (found.model, found.nodes, found.cores) == ("Big(R) CPU @ 2GHz", 2, 2)
    assert found.node_cpus == {0, 1, 4, 5}
    assert (found.memory_bytes, found.free_bytes) == (32 * 2**30, 16 * 2**30)
    assert found.cache_bytes == 32 * 2**20
    assert {"amx_bf16", "avx512_bf16"} <= found.flags
    assert found.unread == ()


def test_only_what_this_process_may_use_counts(system):
    found = this_machine(system(TWO_NODES, allowed=(2, 6)))
    assert (found.node_cpus, found.cores) == ({2, 6}, 1)


def test_a_container_has_what_it_may_use(system):
    root = system(
        {**TWO_NODES, "sys/fs/cgroup/memory.max": str(8 * 2**30), "sys/fs/cgroup/memory.current": str(2**30)}
    )
    assert this_machine(root).memory_bytes == 4 * 2**30
    assert free_memory_bytes(root) == 3.5 * 2**30


def test_a_system_that_says_nothing_is_named_and_not_guessed(system):
    found = this_machine(system({}, allowed=()))
    assert found.free_bytes is None
    assert found.cache_bytes is None
    assert found.memory_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert len(found.unread) == 3
    assert free_memory_bytes(system({})) is None


def test_too_little_memory_to_measure_is_said(system):
    root = system({**TWO_NODES, "proc/meminfo": "MemTotal: 1048576 kB\nMemAvailable: 65536 kB\n"})
    with pytest.raises(AicalibError, match=r"0\.03 GiB of memory are free"):
        probe._array_bytes(this_machine(root))


@pytest.mark.parametrize(
    ("flags", "bf16", "int8"),
    [
        ("", 1, None),
        ("avx512_bf16", 2, None),
        ("avx512_bf16 amx_bf16 amx_int8 avx512_vnni", 16, 32),
        ("bf16 i8mm", 4, 8),
    ],
)
def test_narrow_rates_follow_the_instructions(flags, bf16, int8):
    ratios = probe.derived_rates(frozenset(flags.split()))
    assert ratios["bf16"][0] == bf16
    assert ratios.get("int8", (None,))[0] == int8


@given(rate=st.floats(1e9, 1e14), bandwidth=st.floats(1e9, 5e12), taken=st.floats(0.0, 0.99))
def test_what_is_written_is_read_again(tmp_path_factory, rate, bandwidth, taken):
    machine = machines.Machine(
        "Some CPU", 4, frozenset(), 1, 2.0**34, (1 - taken) * 2.0**34, None, frozenset(), ()
    )
    rates = probe.Rates(rate, 2048, "openblas", bandwidth, 2.0**26, 4, 1.0)
    figures = probe.accelerator_file(machine, rates, datetime.date(2026, 11, 21))
    path = tmp_path_factory.mktemp("probe") / "machine.toml"
    path.write_text(as_toml(figures))
    found = get_accelerator(str(path))
    assert found.is_cpu
    assert found.name == "cpu-some-4c"
    assert found.source == "measured by aicalib probe on 2026-11-21"
    assert found.peak_flops["fp32"] == pytest.approx(rate, rel=1e-5)
    assert found.bandwidth_bytes_s == pytest.approx(bandwidth, rel=1e-5)
    assert found.taken_bytes == pytest.approx(taken * 2.0**34, rel=1e-5, abs=1e5)
    assert set(as_file(found)) >= {"memory_gib", "bandwidth_gb_s", "peak_tflops", "vendor"}


def test_measured_rates_are_of_the_work_done(quick, monkeypatch):
    machine = machines.Machine("Some CPU", 2, frozenset(), 1, 2.0**34, 2.0**33, None, frozenset(), ())
    monkeypatch.setattr(probe, "_timed", lambda work, long_enough_s: (work(), probe.Time(0.5, 0.75))[1])
    rates = probe.measure_rates(machine)
    assert rates.matrix_flops_s == 2 * (2 * 64**3) / 0.5
    assert rates.bandwidth_bytes_s == 3 * 2.0**20 / 0.5
    assert rates.unsteadiness == 1.5
    assert not rates.steady


def test_the_stream_reads_two_arrays_and_writes_their_sum(quick, monkeypatch):
    seen = []
    add = np.add
    monkeypatch.setattr(np, "add", lambda *args, out: seen.append(add(*args, out=out)) or out)
    probe._stream(2.0**16, 2)
    assert {float(each[0]) for each in seen} == {5.0}
    assert sum(each.nbytes for each in seen[:2]) == 2**16


NVIDIA_SMI = "NVIDIA H100 80GB HBM3, 81559\nNVIDIA H100 80GB HBM3, 81559\nUnheard Of 9000, [N/A]\n"
ROCM_SMI = json.dumps(
    {"card0": {"Card Series": "AMD Instinct MI300X", "VRAM Total Memory (B)": "206141652992"}}
)


def test_gpus_as_their_drivers_tools_name_them(tmp_path):
    said = {"nvidia-smi": NVIDIA_SMI, "rocm-smi": ROCM_SMI}
    found = find_gpus(lambda command: said[command[0]], tmp_path)
    assert [each.accelerator for each in found] == ["h100-sxm", "h100-sxm", None, "mi300x"]
    assert [each.memory_bytes for each in found] == [81559 * 2**20, 81559 * 2**20, None, 206141652992]


def test_gpus_as_the_kernel_names_them_where_the_tools_are_missing(tmp_path):
    nvidia = tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0/information"
    amd = tmp_path / "sys/class/drm/card1/device/mem_info_vram_total"
    for path, text in ((nvidia, "Model: \t\t NVIDIA L4\nIRQ: 5\n"), (amd, "25753026560\n")):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    found = find_gpus(lambda command: "", tmp_path)
    assert [(each.name, each.accelerator) for each in found] == [("NVIDIA L4", "l4"), ("AMD GPU", None)]
    assert find_gpus(lambda command: "no JSON", tmp_path / "nothing") == []


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main(["probe", *map(str, arguments)])
    return left.value.code, capsys.readouterr()


def test_the_command_writes_a_file_that_predict_takes(quick, tmp_path, capsys):
    path = tmp_path / "machine.toml"
    status, said = run(capsys, "--output", path, "--json")
    document = json.loads(said.out)
    assert status == 0
    assert document["accelerator"]["source"].startswith("measured by aicalib probe on ")
    assert document["file"] == str(path)
    deployment, workload = aicalib.question(model="qwen3-0.6b", gpu=str(path), isl=32, osl=16, concurrency=1)
    assert aicalib.predict(deployment, workload).origin == ["datasheet"]
    assert run(capsys, "--output", path)[0] == 2
    status, said = run(capsys, "--output", path, "--force")
    assert status == 0
    assert "fp32, measured" in said.out
    assert "bf16, derived and not measured" in said.out
    assert f"written: {path}" in said.out


def test_a_file_that_would_not_be_read_as_one_is_refused(tmp_path, capsys):
    status, said = run(capsys, "--output", tmp_path / "machine.txt")
    assert status == 2
    assert "ends in .toml" in said.err
    status, said = run(capsys, "--output", ".")
    assert (status, "what would work: machine.toml" in said.err) == (2, True)
