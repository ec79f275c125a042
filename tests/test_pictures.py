"""Pictures: what is drawn is what was predicted and measured, and every word is inside and over nothing else."""

from __future__ import annotations

import json
import re
from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.text import Text

from aicalib.calibrate.runs import as_runs
from aicalib.cli.main import main
from aicalib.errors import InvalidValue
from aicalib.physics.memory import GIB
from aicalib.prediction import predict_batch
from aicalib.profiles.profile import default_profile, uncalibrated
from aicalib.report.beside import Point, Residuals, points, sound
from aicalib.report.pictures import concurrency, front, memory, residuals
from aicalib.report.pictures.style import as_svg, save
from aicalib.resolve.rows import resolve

R1 = {
    "model": "deepseek-r1", "gpu": "h200-sxm", "tp": 8, "isl": 1024, "osl": 1024, "concurrency": 32,
}  # fmt: skip


def asked(**options):
    batch = resolve({name: [value] for name, value in options.items()})
    assert not batch.refused
    return batch


def texts(figure):
    return [each for each in figure.findobj(Text) if each.get_visible() and each.get_text().strip()]


def check_words(figure):
    """Hold all words inside the picture, and apart: title, lines, legend, axes' names and source."""
    figure.canvas.draw()
    renderer, page = figure.canvas.get_renderer(), figure.bbox
    boxes = {each.get_text(): each.get_window_extent(renderer) for each in figure.texts if each.get_text()}
    boxes |= {f"legend {at}": each.get_window_extent(renderer) for at, each in enumerate(figure.legends)}
    boxes |= {f"axes {at}": each.get_tightbbox(renderer) for at, each in enumerate(figure.axes)}
    for name, box in boxes.items():
        assert box.x0 >= -1, name
        assert box.y0 >= -1, name
        assert box.x1 <= page.x1 + 1, name
        assert box.y1 <= page.y1 + 1, name
    around = boxes.values()
    for first, second in combinations(around, 2):
        over = (
            min(first.x1, second.x1) - max(first.x0, second.x0),
            min(first.y1, second.y1) - max(first.y0, second.y0),
        )
        assert min(over) <= 2.0


# memory


@pytest.mark.parametrize(
    "options",
    [
        R1,
        {"model": "llama-70b", "engine": "vllm", "tp": 4},
        {"model": "qwen3-next-80b-a3b", "gpu": "h200-sxm", "tp": 2},
    ],
)
def test_a_bar_fills_the_gpu(options):
    found = predict_batch(asked(**options), uncalibrated())
    bar = memory.bar("it", found)
    assert sum(bar.gib.values()) == pytest.approx(bar.memory_gib)
    assert bar.gib["weights"] == float(found.memory.weights_bytes[0]) / GIB
    assert bar.gib["KV pool"] == float(found.memory.kv_pool_bytes[0]) / GIB
    assert bar.tokens == int(found.memory.max_total_tokens[0])
    assert (bar.gib["states of linear layers"] > 1.0) is (options["model"] == "qwen3-next-80b-a3b")


def test_bars_are_as_long_as_what_fills_the_gpu():
    bars = [memory.bar("one", predict_batch(asked(**R1), uncalibrated()))]
    bars.append(bars[0]._replace(label="two", gib=bars[0].gib | {"weights": 30.0}))
    figure = memory.draw(bars, "a title", ["a line"], "a source")
    axes = figure.axes[0]
    drawn = [(patch.get_y() + patch.get_height() / 2, patch.get_width()) for patch in axes.patches]
    for row, each in enumerate(bars):
        wanted = [gib for gib in each.gib.values() if gib > memory.SEEN_GIB]
        assert [width for place, width in drawn if place == row] == pytest.approx(wanted)
    said = {each.get_text() for each in texts(figure)}
    assert {"one", "two", "30.0", "a title", "a line", "a source", "weights", "KV pool"} <= said
    check_words(figure)


def test_what_does_not_fit_reaches_beyond_the_gpu():
    bar = memory.bar("it", predict_batch(asked(model="deepseek-r1", tp=1), uncalibrated()))
    assert bar.gib["weights"] > bar.memory_gib
    assert (bar.tokens, bar.requests) == (0, 0)
    figure = memory.draw([bar], "a title", width=6.4)
    assert "does not fit" in {each.get_text() for each in texts(figure)}
    assert figure.axes[0].get_xlim()[1] > bar.gib["weights"]
    check_words(figure)


# TPOT over concurrency


def test_a_curve_is_what_predict_answers():
    options = {name: value for name, value in R1.items() if name != "concurrency"}
    curve = concurrency.curve("it", R1, default_profile(), most=64)
    assert curve.concurrency[0] == 1
    assert curve.concurrency[-1] == 64
    for at in (0, 5, -1):
        one = predict_batch(asked(**options, concurrency=int(curve.concurrency[at])), default_profile())
        interval = one.mean["tpot_ms"]
        assert (curve.tpot_ms[at], curve.low[at], curve.high[at]) == pytest.approx(
            tuple(each[0] for each in interval)
        )


@given(st.floats(1, 5000))
def test_places_grow_to_the_power_of_two_at_or_above(most):
    found = concurrency.places(most)
    assert found == sorted(set(found))
    assert found[0] == 1
    assert found[-1] >= most
    assert np.log2(found[-1]) % 1 == 0


@pytest.fixture(scope="module")
def own_runs(published):
    """Runs of DeepSeek-R1 on 8 H200, of several lengths and engine versions."""
    return [run for run in published if run["model"] == "deepseek-ai/DeepSeek-R1" and run["gpu"] == "h200_sxm"
            and run["engine"] == "sglang"]  # fmt: skip


def test_fitted_runs_of_the_deployment_stand_on_its_curve():
    found = points(asked(**R1), default_profile())
    fitted = default_profile().fitted
    assert len(found) > 10
    assert all(each.fitted for each in found)
    known = {(each["concurrency"], each["tpot_ms"]) for each in
             (dict(zip(fitted, row, strict=True)) for row in zip(*fitted.values(), strict=True))
             if (each["engine"], each["model"], each["gpu"], each["tp"]) == ("sglang", "deepseek-r1", "h200-sxm", 8)
             and 861 <= each["isl"] <= 1218 and 861 <= each["osl"] <= 1218}  # fmt: skip
    assert {each[:2] for each in found} <= known
    assert points(asked(**(R1 | {"isl": 4096})), default_profile()) == ()
    assert points(asked(**(R1 | {"gpu": "b300", "tp": 8})), default_profile()) == ()


def test_stored_runs_stand_there_once_and_new_ones_are_told_apart(own_runs):
    from aicalib.calibrate.records import with_run_ids

    new = {
        "source": "own", "engine": "sglang", "engine_version": "0.5.9", "model": "deepseek-ai/DeepSeek-R1",
        "gpu": "h200_sxm", "weight_quant": "fp8_block", "tp": 8, "spec_decode": False, "load": "closed", "isl": 1024,
        "osl": 1024, "range_ratio": 1.0, "concurrency": 24, "mean_tpot_ms": 20.5,
    }  # fmt: skip
    doubted = new | {"concurrency": 25, "flags": ["implausible"]}
    open_loop = new | {"concurrency": None, "load": "open", "request_rate": 1.0}
    alone = points(asked(**R1), default_profile())
    runs = sound(as_runs(with_run_ids([*own_runs, new, doubted, open_loop])))
    found = points(asked(**R1), default_profile(), runs)
    assert set(alone) < set(found)
    assert Point(24.0, 20.5, False) in found
    assert not [each for each in found if each.concurrency == 25]
    assert len([each for each in found if each.fitted]) == len(alone)


def test_lines_bands_and_points_are_drawn_where_they_are():
    curve = concurrency.curve(
        "fp8, tp 8", R1, default_profile(), [Point(4.0, 11.0, True), Point(8.0, 14.0, False)], 16
    )
    plain = concurrency.curve("plain", R1, uncalibrated(), most=16)
    figure = concurrency.draw([curve, plain], "a title", ["a line"], "a source", (6.4, 4.8))
    lines = {each.get_label(): each for each in figure.axes[0].lines}
    assert (
        lines["fp8, tp 8"].get_xydata().tolist()
        == np.column_stack([curve.concurrency, curve.tpot_ms]).tolist()
    )
    marks = [each for each in figure.axes[0].lines if len(each.get_xdata()) == 1]
    assert [tuple(each.get_xydata()[0]) for each in marks] == [(4.0, 11.0), (8.0, 14.0)]
    assert [each.get_markerfacecolor() == "white" for each in marks] == [False, True]
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(curve.high.max())
    said = {each.get_text() for each in texts(figure)}
    assert {
        "90 % interval",
        "measured, not fitted",
        "TPOT, mean (ms)",
        "requests in flight",
        "a source",
    } <= said
    check_words(figure)


def test_a_curve_without_an_answer_refuses():
    with pytest.raises(InvalidValue, match="tp 7"):
        concurrency.curve("it", R1 | {"tp": 7}, default_profile())


# the front of a search


def number(value, wide=0.2):
    return {"value": value, "low": value / (1 + wide), "high": value * (1 + wide)}


def a_point(users, rate, meets=True):
    return {
        "options": {"gpu": "h200-sxm"}, "tok_s_per_user": number(users), "output_tok_s_per_gpu": number(rate),
        "meets": meets,
    }  # fmt: skip


def a_choice(point, tie=False):
    return {
        "deployment": {"model": "qwen3-32b", "gpu": "h200-sxm", "engine": "sglang", "tp": 2, "dp": 1, "ep": 1,
                       "gemm": "fp8", "kvcache": "fp8_e4m3", "fmha": "fp8", "moe": None},
        "workload": {"isl": 4000.0, "osl": 500.0, "concurrency": 64}, "replicas": 4, "tie": tie,
        "prediction": {name: point[name] for name in ("tok_s_per_user", "output_tok_s_per_gpu")},
    }  # fmt: skip


POINTS = [a_point(10, 1200, meets=False), a_point(45, 1100), a_point(50, 1040), a_point(200, 100)]
SEARCH = {
    "model": "qwen3-32b", "gpus": 8, "profile": "default@1", "objective": "throughput", "robust": False,
    "evaluated": 1234, "best": [a_choice(POINTS[1]), a_choice(POINTS[2], tie=True), a_choice(POINTS[3])],
    "best_with_checkpoint": [], "pareto": POINTS, "pareto_with_checkpoint": [a_point(80, 1300), a_point(210, 120)],
}  # fmt: skip


def test_a_front_is_drawn_where_its_points_are():
    figure = front.picture(SEARCH)
    axes = figure.axes[0]
    marks = [each for each in axes.lines if len(each.get_xdata()) == 1]
    assert [tuple(each.get_xydata()[0]) for each in marks] == [
        (10, 1200), (45, 1100), (50, 1040), (200, 100), (80, 1300), (210, 120)
    ]  # fmt: skip
    assert [each.get_markerfacecolor() == "white" for each in marks] == [True] + [False] * 5
    said = {each.get_text() for each in texts(figure)}
    # The first two lie together, and each has its own label.
    assert {
        "1",
        "2",
        "3",
        "misses the service level",
        "90 % intervals of both",
        "output of one GPU (tok/s)",
    } <= said
    assert any("2: 4 x sglang on h200-sxm, tp 2" in each and "(a tie)" in each for each in said)
    assert any("1,234 configurations" in each for each in said)
    check_words(figure)


def test_a_front_without_intervals_has_no_band():
    bare = {"value": 5.0, "low": None, "high": None}
    point = {
        "options": {"gpu": "h200-sxm"},
        "tok_s_per_user": bare,
        "output_tok_s_per_gpu": bare,
        "meets": True,
    }
    figure = front.picture(SEARCH | {"pareto": [point], "pareto_with_checkpoint": []})
    assert not [each for each in texts(figure) if "interval" in each.get_text()]
    with pytest.raises(InvalidValue, match="no deployment"):
        front.picture(SEARCH | {"pareto": [], "pareto_with_checkpoint": []})


def test_separate_instances_are_named():
    choice = a_choice(POINTS[1])
    choice["deployment"] |= {"prefill_instances": 5, "prefill_tp": 1, "decode_instances": 3}
    assert "5 prefill (tp 1) and 3 decode instances (tp 2 dp 1 ep 1), gemm fp8" in front.words(choice)


def test_search_draws_what_it_prints(capsys, tmp_path):
    file = tmp_path / "front.svg"
    with pytest.raises(SystemExit) as left:
        main(["search", "--model", "llama-8b", "--gpus", "1", "--tp", "1", "--kv", "auto", "--limit", "200", "--json",
              "--profile", "priors", "--plot", str(file)])  # fmt: skip
    assert left.value.code == 0
    found = json.loads(capsys.readouterr().out)
    figure = front.picture(found)
    marks = [each for each in figure.axes[0].lines if len(each.get_xdata()) == 1]
    drawn = sorted(tuple(each.get_xydata()[0]) for each in marks)
    points = [each for name in front.GROUPS for each in found[name]]
    assert drawn == sorted((each[front.X]["value"], each[front.Y]["value"]) for each in points)
    assert "llama-3.1-8b on 1 x h100-sxm: Pareto front" in file.read_text()


def test_a_search_is_drawn(tmp_path):
    assert save(front.picture(SEARCH), tmp_path / "front.svg").read_text().count("<text") > 10
    with pytest.raises(InvalidValue, match="must end in"):
        save(front.picture(SEARCH), tmp_path / "front.pdf")


def labels_of(figure):
    """Return the boxes of the labels of choices by their words."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    found = {each.get_text(): each for each in figure.axes[0].texts}
    return {mark: Text.get_window_extent(each, renderer) for mark, each in found.items()}


@given(places=st.lists(st.tuples(st.floats(1, 209), st.floats(1, 1290)), min_size=4, max_size=4))
@settings(max_examples=6)
def test_each_choice_has_a_label_of_its_own_that_lies_over_no_other(places):
    spots = [a_point(*each) for each in places]
    found = SEARCH | {
        "best": [a_choice(each) for each in spots[:3]],
        "best_calibrated": a_choice(spots[3]) | {"replicas": 2},
    }
    figure = front.picture(found)
    boxes = labels_of(figure)
    assert set(boxes) == {"1", "2", "3", "C"}
    assert not any(one.overlaps(other) for one, other in combinations(boxes.values(), 2))
    check_words(figure)


def test_the_best_that_is_calibrated_is_marked_once():
    beside = front.named(SEARCH | {"best_calibrated": a_choice(POINTS[2], tie=True) | {"replicas": 2}})
    assert [each.mark for each in beside] == ["1", "2", "3", "C"]
    assert beside[-1].words.endswith("(a tie, best that is calibrated)")
    among = front.named(SEARCH | {"best_calibrated": SEARCH["best"][2]})
    assert len(among) == 3


# residuals


def group(name, count=3):
    ratio = {"ttft_ms": np.linspace(0.5, 8.0, count), "tpot_ms": np.full(count, np.nan)}
    return Residuals("vllm", name, "b200-sxm", np.arange(1.0, count + 1), np.arange(count) % 2 == 0, ratio)


def test_residuals_are_drawn_and_held_inside_the_axis():
    figure = residuals.draw(
        [group(f"family {at}") for at in range(8)], ("ttft_ms", "tpot_ms"), "a title", "a source", (6.4, 4.4)
    )
    [left] = figure.axes  # no run measured TPOT
    drawn = np.concatenate([each.get_offsets() for each in left.collections if len(each.get_offsets())])
    assert sorted(set(drawn[:, 1])) == pytest.approx([0.5, 4.0])
    said = {each.get_text() for each in texts(figure)}
    assert {"vllm family 0 b200-sxm (3)", "3 more groups (9)", "TTFT", "measured / predicted"} <= said
    check_words(figure)


def test_many_points_are_an_image_in_the_svg():
    few, many = (
        as_svg(residuals.draw([group("one", count)], ("ttft_ms",), "t"), "r") for count in (100, 5000)
    )
    assert "<image" not in few
    assert "<image" in many
    assert len(many) < 100_000


# files


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_same_figures_give_the_same_file(suffix, tmp_path):
    files = [save(front.picture(SEARCH), tmp_path / f"{name}.{suffix}") for name in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert len(files[0].read_bytes()) < 100_000


def test_pictures_of_a_page_are_svg_without_addresses_and_share_no_identifier():
    found = [as_svg(front.picture(SEARCH), name) for name in ("one", "two")]
    seen = []
    for each in found:
        root = ElementTree.fromstring(each)
        assert root.tag == "svg"
        assert "http" not in each
        assert "<style" not in each
        names = [node.get("id") for node in root.iter() if node.get("id")]
        used = re.findall(r'(?:href="#|url\(#)([^")]+)', each)
        assert set(used) <= set(names)
        seen += names
    assert len(seen) == len(set(seen))


# predict --plot


@pytest.fixture
def predict(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("AICALIB_DB", str(tmp_path / "store.duckdb"))

    def run(*arguments):
        with pytest.raises(SystemExit) as left:
            main(["predict", *map(str, arguments)])
        return left.value.code, capsys.readouterr()

    return run


@pytest.mark.parametrize("picture", ["memory", "concurrency"])
def test_predict_draws_several_presets(predict, picture, tmp_path):
    file = tmp_path / "picture.svg"
    status, said = predict("--tp", 4, "--preset", "default,dynamic-fp8", "--plot", file, "--picture", picture)
    assert (status, said.err) == (0, "")
    text = file.read_text()
    for words in (
        "dynamic-fp8",
        "gemm fp8, kv fp8_e4m3",
        "llama-3.3-70b on h100-sxm",
        default_profile().label,
    ):
        assert words in text


def test_a_preset_that_does_not_fit_is_named_where_it_is_not_drawn(predict, tmp_path):
    file = tmp_path / "picture.svg"
    status, _ = predict("--tp", 2, "--preset", "default,dynamic-fp8", "--plot", file, "--picture", "concurrency",
                        "--gpu", "l40s", "--profile", "priors")  # fmt: skip
    assert status == 0
    text = file.read_text()
    assert "not drawn: default" in text
    assert "(does_not_fit)" in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--preset default,dynamic-fp8", "--picture memory"),
        ("--picture concurrency --request-rate 4", "closed load"),
        ("--picture concurrency --load burst --num-prompts 9", "closed load"),
    ],
)
def test_pictures_that_cannot_be_drawn(predict, arguments, says, tmp_path):
    status, said = predict("--plot", tmp_path / "p.svg", *arguments.split())
    assert status == 2
    assert says in said.err
    assert not (tmp_path / "p.svg").exists()
