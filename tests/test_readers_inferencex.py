"""InferenceX: aggregated results and exports of the dashboard."""

import json
from pathlib import Path

import mutation
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import perfdb
from perfdb.keys import KEYS
from perfdb.readers import read
from perfdb.record import Record

DATA = Path(__file__).parent / "data" / "inferencex"
SINGLE = DATA / "agg_vllm-small-bf16-isl128-osl128-c4-p1.json"
FIRST = DATA / "agg_vllm-small-bf16-isl128-osl128-c4-p1_first_keys.json"
CLIENT = DATA / "vllm-small-bf16-isl128-osl128-c4-p1.json"
APART = DATA / "agg_multinode.composed.json"
EXPORT = DATA / "dashboard.composed.csv"
ONE = json.loads(SINGLE.read_text())


def record_of(tmp_path: Path, original: Path = SINGLE, **changes: object) -> Record:
    path = tmp_path / "agg.json"
    path.write_text(json.dumps(json.loads(original.read_text()) | changes))
    (record,) = read(path).records
    return record


@pytest.mark.parametrize("path", [SINGLE, FIRST], ids=["today", "first"])
def test_every_figure_against_the_result_it_was_made_from(path):
    """The aggregated file divides the client's milliseconds by 1000 and its rates by the GPUs."""
    (ours,) = perfdb.read_records(path).records
    (client,) = perfdb.read_records(CLIENT).records
    times = [name for name in KEYS if name.endswith("_ms") and client[name] is not None]
    assert len(times) == 24
    for name in (*times, "total_tok_s", "output_tok_s"):
        assert ours[name] == pytest.approx(client[name], rel=1e-12), name
    assert (ours["load"], ours["concurrency"]) == ("closed", client["concurrency"])
    assert ours["n_gpus"] == ours["tp"] == ours["dp"] == 1
    assert ours["tok_s_per_gpu"] == json.loads(path.read_text())["output_tput_per_gpu"]


@pytest.mark.parametrize("path", [SINGLE, FIRST, APART], ids=["today", "first", "apart"])
def test_originals_of_converted_figures_are_kept(path):
    stated = json.loads(path.read_text())
    (record,) = read(path).records
    for key, (name, value, unit) in record.stated.items():
        assert value == stated[name]
        if unit == "s":
            assert record.data[key] == value * 1000
            assert key == name.replace("e2el", "e2e") + "_ms"
        else:
            assert unit == "tok/s/GPU"
    kept = {name for name, _, _ in record.stated.values()}
    plain = {"model", "conc", "isl", "osl", "tp", "ep", "pp", "disagg", "image"}
    for name in stated.keys() - kept - plain:
        assert record.data[name] == stated[name], name


def test_deployment_of_one_node():
    (run,) = perfdb.read_records(SINGLE).records
    wanted = {
        "engine": "vllm",
        "gpu": "cpu",
        "model": "./small",
        "weight_quant": "bf16",
        "isl": 128,
        "osl": 128,
        "spec_decode": False,
        "disagg": False,
        "ep": 1,
        "engine_version": None,
        "mean_isl_actual": None,
        "missing": [],
    }
    assert {name: run[name] for name in wanted} == wanted
    (older,) = perfdb.read_records(FIRST).records
    assert older["missing"] == ["isl", "osl"]
    assert (older["disagg"], older["spec_decode"]) == (None, None)


def test_rates_are_of_all_gpus_of_the_deployment(tmp_path):
    data = record_of(tmp_path, tp=8, pp=2, tput_per_gpu=100.0, output_tput_per_gpu=40.0).data
    assert data["n_gpus"] == 16
    assert (data["total_tok_s"], data["output_tok_s"], data["tok_s_per_gpu"]) == (1600.0, 640.0, 40.0)


def test_prefill_apart_has_its_own_gpus():
    (record,) = read(APART).records
    data = record.data
    assert data["disagg_layout"] == {
        "prefill_num_workers": 2,
        "prefill_pp_size": 1,
        "prefill_moe_ep_size": 8,
        "prefill_moe_tp_size": 1,
        "prefill_tp_size": 1,
        "prefill_attention_dp_size": 8,
        "decode_num_workers": 1,
        "decode_pp_size": 1,
        "decode_moe_ep_size": 8,
        "decode_moe_tp_size": 1,
        "decode_tp_size": 1,
        "decode_attention_dp_size": 8,
    }
    assert (data["disagg"], data["n_gpus"], data.get("tp")) == (True, 24, None)
    assert (data["total_tok_s"], data["output_tok_s"], data["input_tok_s"]) == (72000.0, 24000.0, 48000.0)
    assert data["tok_s_per_gpu"] == 1000.0
    assert (data["engine"], data["spec_algorithm"]) == ("sglang", "MTP")


def test_a_layout_without_attention_data_parallelism(tmp_path):
    layout = record_of(tmp_path, APART, prefill_dp_attention="false", prefill_ep=1).data["disagg_layout"]
    assert (layout["prefill_tp_size"], layout["prefill_attention_dp_size"]) == (8, 1)
    assert (layout["prefill_moe_tp_size"], layout["prefill_moe_ep_size"]) == (8, 1)


@pytest.mark.parametrize(
    ("stated", "dp", "suggested"), [("true", None, 8), (True, None, 8), ("false", 1, None), ("", None, None)]
)
def test_attention_data_parallelism_is_a_text(tmp_path, stated, dp, suggested):
    record = record_of(tmp_path, tp=8, dp_attention=stated)
    assert (record.data.get("dp"), record.inferred.get("dp")) == (dp, suggested)


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("sglang", "sglang"),
        ("dynamo-trt", "trtllm"),
        ("trt", "trtllm"),
        ("dynamo-vllm", "vllm"),
        ("atom", None),
    ],
)
def test_frameworks_name_their_engine(tmp_path, name, engine):
    record = record_of(tmp_path, framework=name)
    assert record.data["engine"] == engine
    assert record.data["framework"] == name


def test_what_follows_the_card_is_the_runner(tmp_path):
    record = record_of(tmp_path, hw="b200-nv")
    assert (record.inferred["gpu"], record.data["hw"]) == ("b200", "b200-nv")
    assert "gpu" not in record.data


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("lmsysorg/sglang:v0.5.9-cu130", "0.5.9"),
        ("vllm/vllm-openai:v0.10.2", "0.10.2"),
        ("nvcr.io/nvidia/tensorrt-llm/release:1.2.0rc6.post2", "1.2.0rc6.post2"),
        ("nvcr.io/nvidia/ai-dynamo/tensorrtllm-runtime:0.8.1.post2", None),
        ("lmsysorg/sglang:nightly-dev", None),
    ],
)
def test_only_tags_of_the_engine_s_own_images_are_versions(tmp_path, image, version):
    record = record_of(tmp_path, image=image)
    assert record.inferred["engine_version"] == version
    assert record.data["engine_image"] == image


def test_four_bits_are_not_one_format(tmp_path):
    assert record_of(tmp_path, precision="fp4").inferred["weight_quant"] is None


def test_multi_token_prediction_of_the_first_files(tmp_path):
    data = record_of(tmp_path, FIRST, mtp="on").data
    assert (data["spec_decode"], data["spec_algorithm"], data["mtp"]) == (True, "MTP", "on")
    assert record_of(tmp_path, FIRST, mtp="off").data["spec_decode"] is False


def test_rows_of_the_dashboard_say_ms_and_mean_seconds():
    found = list(read(EXPORT).records)
    records = [item for item in found if isinstance(item, Record)]
    seconds, milliseconds, apart = records
    for record in (seconds, milliseconds):
        figures = {name: value for name, value in record.data.items() if name.endswith("_ms")}
        assert figures == {
            "mean_ttft_ms": 200.0,
            "median_ttft_ms": 100.0,
            "p99_ttft_ms": 800.0,
            "std_ttft_ms": 250.0,
            "mean_tpot_ms": 10.0,
            "median_tpot_ms": 12.5,
            "p99_tpot_ms": 20.0,
            "std_tpot_ms": 1.0,
            "mean_itl_ms": 100.0,
            "median_itl_ms": 100.0,
            "p99_itl_ms": 200.0,
            "std_itl_ms": 10.0,
            "mean_e2e_ms": 10500.0,
            "median_e2e_ms": 11000.0,
            "p99_e2e_ms": 12000.0,
            "std_e2e_ms": 500.0,
        }
    assert seconds.stated["mean_ttft_ms"] == ("Mean TTFT (ms)", 0.2, "s")
    assert milliseconds.stated["mean_ttft_ms"] == ("Mean TTFT (ms)", 200, "ms")
    assert seconds.stated["output_tok_s"] == ("Output Throughput/GPU (tok/s)", 50, "tok/s/GPU")
    assert (apart.data["n_gpus"], apart.data["output_tok_s"], apart.data["input_tok_s"]) == (
        24,
        48000.0,
        24000.0,
    )


def test_columns_of_the_dashboard_fill_a_run():
    result = perfdb.read_records(EXPORT)
    assert result.format == "inferencex_csv"
    wanted = {
        "engine": "sglang",
        "gpu": "h200",
        "model": "composed-r1",
        "weight_quant": "fp8",
        "isl": 1024,
        "osl": 1024,
        "tp": 8,
        "ep": 1,
        "dp": 1,
        "n_gpus": 8,
        "concurrency": 4,
        "load": "closed",
        "measured_on": "2026-06-02",
        "spec_decode": False,
        "disagg": False,
        "total_tok_s": 800.0,
        "output_tok_s": 400.0,
        "input_tok_s": 400.0,
        "tok_s_per_gpu": 50.0,
        "Hardware Key": "h200_sglang",
        "Mean Interactivity (tok/s/user)": 100,
        "missing": [],
    }
    assert {name: result.records[0][name] for name in wanted} == wanted
    assert (result.records[1]["dp"], result.records[1]["spec_algorithm"]) == (8, "MTP")
    assert [bad.line for bad in result.rejected] == [5, 7]
    assert "unit of the times" in result.rejected[0].reason
    assert "2 cells" in result.rejected[1].reason


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    found=st.lists(
        st.sampled_from([ONE, json.loads(APART.read_text())]).flatmap(mutation.mutated),
        min_size=1,
        max_size=3,
    )
)
def test_mutated_results_end_in_rows_or_reasons(tmp_path, found):
    mutation.ends_well(tmp_path / "lines.json", "".join(map(mutation.as_line, found)))
    mutation.ends_well(tmp_path / "list.json", json.dumps(found, indent=4))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_exports_end_in_rows_or_reasons(tmp_path, data):
    comment, header, row = EXPORT.read_text().splitlines()[:3]
    cells = row.split(",")
    for place in data.draw(st.lists(st.integers(0, len(cells) - 1), max_size=6)):
        cells[place] = data.draw(
            st.text(max_size=8) | st.sampled_from(["", "nan", "inf", "-1", "1e400", "9" * 400])
        )
    mutation.ends_well(tmp_path / "export.csv", "\n".join([comment, header, ",".join(cells), row]))
