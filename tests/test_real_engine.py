"""What `make test-engine` is made of, without an engine: model, stand-ins, the torch that is refused, the verdict."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from aicalib.models import get_architecture
from checks.real_engine import install, stand_ins
from checks.real_engine.loop import RUNS, Looped, errors, faults
from checks.real_engine.model import SIZES, bfloat16, write_model
from checks.real_engine.pool import Pool, typical


def test_the_model_is_read_as_what_it_is(tmp_path):
    folder = write_model(tmp_path / "tiny", SIZES["tiny"])
    arch = get_architecture(str(folder))
    assert (arch.hidden_size, arch.num_layers, arch.heads, arch.kv_heads) == (256, 4, 4, 2)
    with (folder / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        assert {each["dtype"] for name, each in header.items() if name != "__metadata__"} == {"BF16"}
        begins = file.tell()
        weights = np.frombuffer(file.read(), dtype=np.uint16)
    ends = max(each["data_offsets"][1] for name, each in header.items() if name != "__metadata__")
    assert weights.nbytes == ends
    assert begins % 8 == 0
    written = (folder / "model.safetensors").stat().st_mtime_ns
    write_model(folder, SIZES["tiny"])
    assert (folder / "model.safetensors").stat().st_mtime_ns == written


def test_every_word_is_one_token(tmp_path):
    folder = write_model(tmp_path / "tiny", SIZES["tiny"])
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    assert sorted(model["vocab"].values()) == list(range(SIZES["tiny"].vocab))
    assert model["vocab"]["w77"] == 77


def test_bfloat16_rounds_to_even():
    values = np.array([1.0, 1.00390625, 1.01171875, -2.5], dtype=np.float32)
    back = (bfloat16(values).astype(np.uint32) << 16).view(np.float32)
    assert back.tolist() == [1.0, 1.0, 1.015625, -2.5]


def test_a_stand_in_is_imported_and_not_called(tmp_path):
    stand_ins.write("somekernel", "1.2", tmp_path)
    code = (
        "import somekernel, somekernel.a.b\nfrom somekernel.gemm import multiply\n"
        "class Mine(somekernel.Base): pass\nprint(somekernel.__version__, hash(somekernel.KEY) is not None)\n"
        "multiply(1)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == ["1.2", "True"]
    assert "NotImplementedError: somekernel.gemm.multiply has no CPU build here" in done.stderr
    stand_ins.write("somekernel", "1.3", tmp_path)


def test_a_real_package_is_not_written_over(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "__init__.py").write_text("x = 1\n")
    with pytest.raises(SystemExit, match="the real package is installed"):
        stand_ins.write("real", "1", tmp_path)


@pytest.mark.parametrize(
    ("requires", "refused"),
    [
        (["sympy", "nvidia-cublas-cu12==12.8; platform_system == 'Linux'"], True),
        (["cuda-bindings"], True),
        (["sympy"], False),
    ],
)
def test_a_cuda_build_is_refused_before_it_is_downloaded(requires, refused, monkeypatch, tmp_path):
    report = {"install": [{"metadata": {"requires_dist": requires}}]}
    monkeypatch.setattr(install, "pip", lambda *args, **options: json.dumps(report))
    if not refused:
        install.refuse_cuda(tmp_path, "torch==2.13.0")
        return
    with pytest.raises(install.NoPackages, match="comes as a CUDA build"):
        install.refuse_cuda(tmp_path, "torch==2.13.0")


def test_an_engine_that_cannot_be_had_is_said(monkeypatch, tmp_path, capsys):
    def gone(*args, **options):
        raise install.NoPackages("no network")

    monkeypatch.setattr(install, "refuse_cuda", gone)
    monkeypatch.setattr(install.subprocess, "run", lambda *args, **options: None)
    monkeypatch.setattr(sys, "argv", ["install", "--cache", str(tmp_path)])
    assert install.main() == 2
    assert "sglang could not be installed: no network" in capsys.readouterr().err


def looped(**changed):
    """Return a loop as it must be, but for what is changed."""
    steps = [
        {
            "errors": {"ttft_ms": 0.1, "tpot_ms": -0.1},
            "repeat": at % 5 == 4,
            "outcome": "measured",
            "run_ids": [f"r{at}"],
        }
        for at in range(RUNS)
    ]
    runs = [{"run_id": f"r{at}", "extra": {"occasion": f"o{at // 5}"}} for at in range(RUNS)]
    report = {"steps": steps, "runs": RUNS}
    return Looped(
        **{
            "report": report,
            "before_kill": frozenset(["r0"]),
            "runs": runs,
            "with_server_info": RUNS,
            **changed,
        }
    )


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, ""),
        ({"before_kill": frozenset(["lost"])}, "1 runs of before the kill are lost"),
        ({"with_server_info": 3}, "3 of 15 runs carry their server_info"),
        ({"report": {**looped().report, "runs": 16}}, "a run was lost or done twice"),
        ({"report": {"steps": looped().report["steps"][:9], "runs": RUNS}}, "8 points were measured, not 12"),
        ({"runs": [{"run_id": f"r{at}", "occasion": "one"} for at in range(RUNS)]}, "no two restarts"),
        ({"runs": looped().runs[1:]}, "1 runs of before the kill are lost"),
    ],
)
def test_what_is_not_as_it_must_be_is_named(changed, says, monkeypatch):
    monkeypatch.setattr("checks.real_engine.loop.errors", lambda found: (0.6, 0.3))
    found = list(faults(looped(**changed), "sglang"))
    assert found == [] if not says else says in " ".join(found)


def test_an_error_that_does_not_fall_is_a_fault(monkeypatch):
    monkeypatch.setattr("checks.real_engine.loop.errors", lambda found: (0.3, 0.25))
    assert list(faults(looped(), "sglang")) == [
        "the median error on points not yet measured went from 30.0% to 25.0%"
    ]


def test_the_errors_are_of_points_and_of_the_last_third(monkeypatch):
    asked = []

    class Evaluated:
        def rows(self):
            return [
                {"metric": "tpot_ms", "predicted": 3.0, "measured": 2.0},
                {"metric": "e2e_ms", "predicted": 9.0, "measured": 1.0},
            ]

    def evaluate(runs, profile):
        asked.extend(run["run_id"] for run in runs)
        return Evaluated()

    monkeypatch.setattr("checks.real_engine.loop.evaluate", evaluate)
    assert errors(looped()) == (0.5, 0.1)
    assert asked == ["r10", "r11", "r12", "r13"]


def test_the_median_of_starts_counts():
    starts = [Pool(0.1, 110.0, 100.0), Pool(0.1, 101.0, 100.0), Pool(0.1, 99.0, 100.0)]
    assert typical(starts) == pytest.approx(0.01)
