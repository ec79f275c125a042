"""The table of a step's operators and the plot of them under the roofline."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest

from aicalib.cli.main import main
from aicalib.errors import InvalidValue
from aicalib.hardware import get_accelerator
from aicalib.report.evidence import evidence_lines
from aicalib.report.explain import KEYS, as_json, explain_text, roof_s, si
from aicalib.report.pictures.roofline import draw
from aicalib.report.pictures.style import picture_file, save

H100 = get_accelerator("h100-sxm")
GEMM = {
    "phase": "decode", "op": "projection", "calls": 80, "m": 64, "n": 8192, "k": 4096, "math": "bf16",
    "flops": 343.6e9, "bytes": 5.41e9, "ms": 2.0, "share": 0.8, "bound": "memory", "origin": "kernel-fit",
}  # fmt: skip
LINK = {
    "phase": "decode", "op": "all-reduce", "calls": 160, "bytes": 1e9, "ms": 0.5, "share": 0.2,
    "over": "link", "bound": "link", "origin": "datasheet",
}  # fmt: skip
PREFILL = GEMM | {
    "phase": "prefill",
    "m": 1024,
    "flops": 5.498e12,
    "ms": 10.0,
    "share": 1.0,
    "bound": "compute",
}
ROWS = [GEMM, LINK, PREFILL]
BASIS = {
    "gpu": "h100-sxm",
    "bandwidth_gb_s": 3350.0,
    "peak_tflops": {"bf16": 989.4, "fp8": 1978.9},
    "profile": "default@1",
    "sources": {"h100-sxm": "NVIDIA H100 datasheet"},
}


def predicted(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main(["predict", *map(str, arguments), "--json"])
    answer = capsys.readouterr()
    return left.value.code, json.loads(answer.out), answer.err


def test_rows_have_all_keys_and_none_where_unknown():
    [found] = as_json([LINK])
    assert tuple(found) == KEYS
    assert (found["op"], found["flops"], found["m"]) == ("all-reduce", None, None)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.000 "), (1.0, "1.000 "), (999.96, "1.000 k"), (9.9996, "10.00 "), (1.2346e9, "1.235 G"),
     (99.996e12, "100.0 T"), (5e21, "5000.0 E")],
)  # fmt: skip
def test_four_digits_with_a_prefix(value, text):
    assert si(value) == text


def test_the_roof_of_an_operator_is_the_larger_of_both_times():
    assert roof_s(GEMM, 989.4e12, 3.35e12) == pytest.approx(5.41e9 / 3.35e12)
    assert roof_s(PREFILL, 989.4e12, 3.35e12) == pytest.approx(5.498e12 / 989.4e12)
    assert roof_s(GEMM | {"bytes": None}, 989.4e12, 3.35e12) == pytest.approx(343.6e9 / 989.4e12)
    assert roof_s(LINK, None, 3.35e12) is None
    assert roof_s({"bound": "latency"}, None, 3.35e12) is None


def test_the_table_can_be_checked_by_hand():
    lines = explain_text(ROWS, BASIS).splitlines()
    cells = {tuple(line.split()) for line in lines}
    # 5.41 GB / 3350 GB/s = 1.615 ms of 2.000: 81 %.
    assert (
        "projection", "80", "64", "x", "8192", "x", "4096", "bf16", "343.6", "G", "5.410", "GB", "2.000", "80.0%",
        "81%", "memory", "kernel-fit",
    ) in cells  # fmt: skip
    # 5.498 TFLOP / 989.4 TFLOP/s = 5.557 ms of 10.000: 56 %.
    assert any("5.498 T" in line and " 56%" in line for line in lines)
    # The link's bytes are not the memory's.
    assert ("total", "343.6", "G", "5.410", "GB", "2.500", "100.0%") in cells
    assert "h100-sxm: memory 3350 GB/s; dense peaks bf16 989.4 TFLOP/s (ridge 295 flop/byte)" in lines
    assert "profile default@1" in lines
    assert lines[-1] == "  h100-sxm: NVIDIA H100 datasheet"


def test_columns_stand_under_their_heads():
    lines = explain_text(ROWS, BASIS).splitlines()
    head = lines[0]
    for line in lines[2:8]:
        if not line.endswith(":"):
            end = head.index("ms") + 2
            assert line[end - 4 : end].strip().replace(".", "").isdigit()
            assert line[end : end + 2] == "  "


def test_an_empty_column_is_left_out():
    head = explain_text([LINK], BASIS).splitlines()[0]
    assert "m x n x k" not in head
    assert "math" not in head


def test_long_sources_are_broken_at_the_page():
    text = explain_text(ROWS, BASIS | {"sources": {"runs": "a source of words " * 20}})
    assert max(map(len, text.splitlines())) <= 110
    assert max(map(len, text.partition("sources:")[2].splitlines())) <= 100


def test_a_prediction_explains_itself_in_figures(capsys):
    _, found, _ = predicted(capsys, "--model", "llama-70b", "--tp", 2, "--gemm", "fp8", "--concurrency", 32)
    rows = {(row["phase"], row["op"]): row for row in found["breakdown"]}
    assert all(tuple(row) == KEYS for row in found["breakdown"])
    for phase in ("decode", "prefill"):
        assert sum(row["share"] for (at, _), row in rows.items() if at == phase) == pytest.approx(1.0)
    # Gate and up, 8192 x 28672 in 80 layers, halved by tp 2, one byte each; 1024 prompt tokens, whose input is one
    # byte too and whose output two.
    weights = 80 * 2 * 8192 * 28672 / 2
    ffn = rows["prefill", "gate_up_proj"]
    assert (ffn["calls"], ffn["math"]) == (80, "fp8")
    assert ffn["flops"] == pytest.approx(2 * 1024 * weights)
    moved = weights + 80 * 1024 * (8192 + 2 * 28672)
    assert ffn["bytes"] == pytest.approx(moved, rel=1e-3)
    # Scores and values of 64 heads of 128 over 1024 x 1025 / 2 pairs, in 80 layers on 2 GPUs.
    assert rows["prefill", "attention"]["flops"] == pytest.approx(
        80 * 64 * 4 * 128 * 1024**2 / 2 / 2, rel=2e-3
    )
    # Keys and values of 4 heads of 128 a GPU, queries and outputs of 32, all in 16 bit.
    assert rows["prefill", "attention"]["bytes"] == pytest.approx(80 * 1024 * 2 * 2 * 128 * (4 + 32))
    basis = found["basis"]
    assert (basis["gpu"], basis["bandwidth_gb_s"]) == ("h100-sxm", 3350.0)
    assert {"h100-sxm", "llama-3.3-70b", "priors", "runs fitted"} == set(basis["sources"])


def test_no_operator_is_faster_than_its_roof(capsys):
    for model in ("llama-8b", "gpt-oss-120b", "qwen3-30b-a3b"):
        _, found, _ = predicted(capsys, "--model", model, "--profile", "priors")
        peaks, bandwidth = found["basis"]["peak_tflops"], 1e9 * found["basis"]["bandwidth_gb_s"]
        for row in found["breakdown"]:
            least = roof_s(row, 1e12 * peaks[row["math"]] if row["math"] else None, bandwidth)
            assert least is None or 1e3 * least <= row["ms"], (model, row)


# the plot


def many_rows():
    """Return as many operators as a mixture-of-experts step has, close together under three roofs."""
    random = np.random.default_rng(1)
    rows = []
    for phase, intensity in (("decode", 40.0), ("prefill", 900.0)):
        for number in range(13):
            flops = intensity * np.exp(random.normal(0.0, 0.35)) * 1e9
            math = ("fp8", "bf16", "fp4")[number % 3]
            ms = 1e3 * max(flops / get_accelerator("b200").peak_flops[math], 1e9 / 7.7e12) / 0.7
            rows.append(GEMM | {"phase": phase, "op": f"operator {number}", "math": math, "flops": flops,
                                "bytes": 1e9, "ms": ms, "share": 1 / 13})  # fmt: skip
    return rows


@pytest.mark.parametrize(("suffix", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("PNG", b"\x89PNG")])
def test_a_plot_is_written_and_the_same_twice(suffix, begins, tmp_path):
    first, second = (
        save(draw(ROWS, H100, "model\nformats").figure, tmp_path / f"{name}.{suffix}") for name in "ab"
    )
    assert first.read_bytes().startswith(begins)
    assert first.read_bytes() == second.read_bytes()


def test_a_plot_names_every_operator_and_roof():
    from matplotlib.text import Text

    figure = draw(ROWS, H100, "llama on h100\nfp8").figure
    text = "\n".join(each.get_text() for each in figure.findobj(Text))
    for words in (
        "projection",
        "llama on h100",
        "bf16  989 TFLOP/s",
        "3,350 GB/s",
        "not shown: all-reduce",
        "prefill",
    ):
        assert words in text
    assert "1,979" not in text  # no operator multiplies in FP8


def test_points_stand_where_their_figures_say():
    axes = draw(ROWS, H100).figure.axes[0]
    offsets = [each.get_offsets() for each in axes.collections]
    placed = sorted(tuple(each[0]) for each in offsets if len(each))
    assert placed[0] == pytest.approx((343.6 / 5.41, 343.6 / 2.0))
    assert placed[1] == pytest.approx((5498 / 5.41, 5498 / 10.0))
    assert len(placed) == 2


@pytest.mark.parametrize(("rows", "gpu"), [(ROWS, "h100"), (many_rows(), "b200")])
def test_names_do_not_overlap_and_are_inside(rows, gpu):
    canvas = draw(rows, get_accelerator(gpu))
    axes, renderer = canvas.figure.axes[0], canvas.get_renderer()
    names = {row["op"] for row in rows}
    texts = [each for each in axes.texts if each.get_text() in names]
    assert len(texts) == sum(bool(row.get("flops")) for row in rows)
    # The text alone, without its leader line.
    boxes = [super(type(each), each).get_window_extent(renderer) for each in texts]
    inside = axes.get_window_extent(renderer)
    assert not [
        pair for pair in combinations(range(len(boxes)), 2) if boxes[pair[0]].overlaps(boxes[pair[1]])
    ]
    assert all(inside.x0 <= box.x0 and box.x1 <= inside.x1 for box in boxes)
    assert all(inside.y0 <= box.y0 and box.y1 <= inside.y1 for box in boxes)


@pytest.mark.parametrize("name", ["roof.pdf", "roof", "roof.png.txt"])
def test_another_kind_of_file_is_refused(name, tmp_path):
    with pytest.raises(InvalidValue, match=r"must end in \.png or \.svg"):
        picture_file(tmp_path / name)


def test_a_plot_without_a_folder_or_a_point_is_refused(tmp_path):
    with pytest.raises(InvalidValue, match="there is no folder"):
        picture_file(tmp_path / "none" / "roof.png")
    with pytest.raises(InvalidValue, match="no operator"):
        draw([LINK], H100)


def test_predict_draws_a_plot(capsys, tmp_path):
    file = tmp_path / "roof.svg"
    status, found, said = predicted(capsys, "--model", "llama-8b", "--gemm", "fp8", "--plot", file)
    assert (status, found["status"], said) == (0, "ok", "")
    assert "<svg" in file.read_text()
    status, refused, _ = predicted(capsys, "--plot", tmp_path / "roof.jpg")
    assert (status, refused["error"]["kind"]) == (2, "invalid_value")
    unfit = tmp_path / "unfit.png"
    status, found, said = predicted(capsys, "--model", "deepseek-r1", "--tp", 1, "--plot", unfit)
    assert (status, found["status"], unfit.exists()) == (0, "does_not_fit", False)
    assert "nothing to draw" in said


def test_plots_are_loaded_only_when_drawn():
    code = "import sys, aicalib.report.pictures.roofline, aicalib.report.explain; print('matplotlib' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_a_nearest_run_says_what_it_measured_alone():
    run = {
        "distance": 0.5, "family": "llama-3", "gpu": "h100-sxm", "engine": "sglang", "gemm": "fp8", "tp": 4,
        "isl": 1024, "osl": 256, "concurrency": 8, "source": "s", "src_ref": "r",
    }  # fmt: skip
    for measured, said in (
        ({"ttft_ms": None, "tpot_ms": 12.0}, "at 8: TPOT 12.00 ms"),
        ({"ttft_ms": 90.0, "tpot_ms": 12.0}, "at 8: TTFT 90.00 ms, TPOT 12.00 ms"),
        ({"ttft_ms": None, "tpot_ms": None}, "at 8: neither TTFT nor TPOT"),
    ):
        _, _, line, _ = evidence_lines({"evidence": [run | {"measured": measured}]})
        assert line.endswith(said)
