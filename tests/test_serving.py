"""Properties of the serving model, and of predictions as a whole."""

from __future__ import annotations

import functools
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import aicalib
from aicalib.deployment import Workload
from aicalib.errors import UnknownName
from aicalib.hardware import list_accelerators
from aicalib.physics.steps import decode_step, prefill_step
from aicalib.physics.system import spread_over
from aicalib.prediction import METRICS, predict_batch
from aicalib.profiles import uncalibrated
from aicalib.quant import MODES
from aicalib.resolve import resolve
from aicalib.serving.closed import captured_batch, steady_state

MODELS = ("llama-3.1-8b", "llama-3.3-70b", "mixtral-8x7b", "deepseek-r1", "gpt-oss-120b", "qwen3.5-397b-a17b")

models = st.sampled_from(MODELS)
engines = st.sampled_from(["sglang", "vllm"])
lengths = st.integers(16, 8192)


def asked(**columns):
    n = max(len(values) for values in columns.values() if isinstance(values, list))
    table = {"gpu": "b200-sxm", "tp": 8} | columns
    return predict_batch(
        resolve({name: value if isinstance(value, list) else [value] * n for name, value in table.items()}),
        uncalibrated(),
    )


@given(model=models, engine=engines, isl=lengths, osl=lengths, concurrency=st.integers(1, 512))
@settings(max_examples=60, deadline=None)
def test_littles_law_and_the_sum_of_latencies_hold(model, engine, isl, osl, concurrency):
    found = asked(model=[model], engine=engine, isl=isl, osl=osl, concurrency=concurrency)
    value = {metric: found.mean[metric].value[0] for metric in METRICS}
    assert value["e2e_ms"] == pytest.approx(value["ttft_ms"] + (osl - 1) * value["tpot_ms"])
    assert value["requests_s"] * value["e2e_ms"] / 1e3 == pytest.approx(concurrency)
    assert value["output_tok_s"] == pytest.approx(value["requests_s"] * osl)
    assert value["output_tok_s_per_gpu"] == pytest.approx(value["output_tok_s"] / 8)


@given(model=models, engine=engines, isl=lengths, osl=lengths, concurrency=st.integers(1, 256))
@settings(max_examples=60, deadline=None)
def test_more_requests_in_flight_never_make_a_token_faster(model, engine, isl, osl, concurrency):
    found = asked(
        model=[model, model], engine=engine, isl=isl, osl=osl, concurrency=[concurrency, 2 * concurrency]
    )
    few, many = found.mean["tpot_ms"].value
    assert many >= few * (1 - 1e-6)


@given(model=models, engine=engines, isl=lengths, osl=lengths, concurrency=st.integers(1, 256))
@settings(max_examples=60, deadline=None)
def test_a_gpu_with_more_of_everything_is_not_slower(model, engine, isl, osl, concurrency):
    found = asked(model=[model] * 2, gpu=["h100-sxm", "h200-sxm"], engine=engine, isl=isl, osl=osl,
                  concurrency=concurrency, chunked_prefill_size=8192)  # fmt: skip
    assume(found.fits.all())
    small, large = found.mean["e2e_ms"].value
    assert large <= small * (1 + 1e-6)


@given(model=models, concurrency=st.integers(2, 128), isl=lengths)
@settings(max_examples=40, deadline=None)
def test_lockstep_trades_ttft_for_tpot_on_sglang(model, concurrency, isl):
    found = asked(model=[model] * 2, lockstep=[True, False], concurrency=concurrency, isl=isl, osl=256)
    locked, spread = found.mean["tpot_ms"].value
    assert locked < spread


def test_a_burst_lifts_the_mean_above_the_median():
    found = asked(model=["llama-3.3-70b"], concurrency=64, num_prompts=128, isl=4096)
    assert found.mean["ttft_ms"].value[0] > 2 * found.median["ttft_ms"].value[0]
    assert found.mean["tpot_ms"].value[0] == found.median["tpot_ms"].value[0]


def test_a_long_benchmark_tends_to_the_steady_state():
    found = asked(model=["llama-3.3-70b"] * 2, concurrency=64, num_prompts=[64 * 10**6, 640], isl=4096)
    long, short = found.mean["ttft_ms"].value
    assert long == pytest.approx(found.median["ttft_ms"].value[0], rel=1e-3)
    assert short > long


def test_requests_beyond_the_pool_wait():
    found = asked(
        model=["llama-3.3-70b"] * 2, gpu="h100-sxm", tp=4, isl=8192, osl=1024, concurrency=[16, 256]
    )
    assert found.service.running[0] == 16
    assert found.service.running[1] < 256
    assert found.mean["ttft_ms"].value[1] > 10 * found.mean["ttft_ms"].value[0]


SIZES = [1, 2, 4, 8, 12, *range(16, 257, 8), *range(272, 513, 16)]


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 9, 12, 13, 17, 255, 257, 300, 511, 512])
def test_a_step_is_padded_up_to_the_next_captured_size(batch):
    found = captured_batch(np.array([float(batch)]), np.array([512.0]))[0]
    assert found == min(size for size in SIZES if size >= batch)


@given(st.integers(1, 600), st.integers(1, 512))
def test_padding_ends_at_the_largest_graph(batch, largest):
    found = captured_batch(np.array([float(batch)]), np.array([float(largest)]))[0]
    assert batch <= found <= max(batch, largest)


def simulate(batch, isl, osl, concurrency, requests):
    """Play SGLang's loop request by request with the step times of the model: prefill first, then decode."""
    system, rng = batch.system, np.random.default_rng(0)
    c = spread_over(system, uncalibrated().values)
    context, most = np.array([isl + osl / 2]), int(max(system.chunk_tokens[0] // isl, 1))

    @functools.cache
    def decode_s(running):
        padded = captured_batch(np.array([float(running)]), system.graph_max_batch)
        return decode_step(system, c, np.array([float(running)]), context, padded).time_s[0]

    @functools.cache
    def prefill_s(together):
        return prefill_step(system, c, np.array([together * isl]), np.array([isl]), np.ones(1)).time_s[0]

    host_s = c.host_s + c.host_token_s * isl
    now, waiting, running, done = 0.0, [0.0] * concurrency, [], []
    while len(done) < requests:
        arrived = [at for at in waiting if at <= now][:most]
        if arrived:
            now += prefill_s(len(arrived))
            for at in arrived:
                waiting.remove(at)
                running.append([at, now, int(rng.uniform(0.6, 1.4) * osl)])
        elif running:
            now += decode_s(len(running))
            for each in running:
                each[2] -= 1
            for each in [each for each in running if each[2] <= 1]:
                running.remove(each)
                done.append((each[1] - each[0] + host_s, now - each[1], now))
                waiting.append(now + host_s)
        else:
            now = min(waiting)
    steady = done[concurrency * 2 :]
    span = steady[-1][2] - steady[0][2]
    return np.mean([each[1] for each in steady]) / (osl - 1), len(steady) / span


@pytest.mark.parametrize(
    ("model", "tp", "isl", "osl", "concurrency", "error"),
    [
        ("llama-3.3-70b", 4, 1024, 256, 128, 0.05), ("llama-3.3-70b", 4, 1024, 256, 16, 0.05),
        ("llama-3.1-8b", 1, 2048, 512, 64, 0.05), ("deepseek-r1", 8, 4096, 256, 64, 0.05),
        ("gpt-oss-120b", 2, 256, 512, 32, 0.05),
        # Short answers of a small model: the launch of prefills takes most of the time, arrivals bunch up.
        ("qwen3-30b-a3b", 1, 512, 64, 64, 0.20), ("qwen3-30b-a3b", 1, 512, 64, 256, 0.25),
    ],
)  # fmt: skip
def test_the_closed_form_agrees_with_playing_it_request_by_request(model, tp, isl, osl, concurrency, error):
    options = {"model": model, "gpu": "b200", "tp": tp, "isl": isl, "osl": osl, "concurrency": concurrency}
    batch = resolve({name: [value] for name, value in options.items()})
    found = predict_batch(batch, uncalibrated())
    tpot_s, throughput = simulate(batch, isl, osl, concurrency, 6 * concurrency + 200)
    assert found.mean["tpot_ms"].value[0] == pytest.approx(1e3 * tpot_s, rel=error)
    assert found.mean["requests_s"].value[0] == pytest.approx(throughput, rel=error)


@given(
    model=models, engine=engines, isl=st.integers(16, 16000), osl=st.integers(4, 4000),
    concurrency=st.integers(1, 1024), poll=st.sampled_from([1, 10, 30]),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_the_fixed_point_is_one(model, engine, isl, osl, concurrency, poll):
    batch = resolve(
        {"model": [model], "gpu": ["b200"], "tp": [8], "engine": [engine], "isl": [isl], "osl": [osl],
         "concurrency": [concurrency], "scheduler_recv_interval": [poll]}
    )  # fmt: skip
    system, load = batch.system, batch.load
    c = spread_over(system, uncalibrated().values)
    step_s = decode_step(system, c, load.concurrency, load.isl).time_s
    found = steady_state(system, c, load, load.concurrency, step_s)
    host_s = c.host_s + c.host_token_s * load.isl
    again = load.concurrency / (host_s + found.ttft_s + (load.osl - 1) * found.tpot_s)
    assert found.throughput[0] == pytest.approx(again[0], rel=0.03)


@given(model=models, engine=engines, isl=lengths, osl=lengths, concurrency=st.integers(1, 256))
@settings(max_examples=60, deadline=None)
def test_more_requests_in_flight_do_not_lower_throughput(model, engine, isl, osl, concurrency):
    found = asked(
        model=[model, model], engine=engine, isl=isl, osl=osl, concurrency=[concurrency, 2 * concurrency],
        num_prompts=10**9,
    )  # fmt: skip
    few, many = found.mean["output_tok_s"].value
    assert many >= few * 0.97


def test_one_output_token_has_no_time_per_token():
    found = asked(model=["llama-3.1-8b"], tp=1, osl=1)
    assert np.isnan(found.mean["tpot_ms"].value[0])
    assert found.mean["e2e_ms"].value[0] == found.mean["ttft_ms"].value[0]


def test_a_static_batch_prefills_all_before_it_decodes():
    found = asked(model=["llama-3.1-8b"] * 2, gpu="h100-sxm", tp=1, load="static_batch", concurrency=32, isl=4096,
                  osl=[2, 512])  # fmt: skip
    short, long = found.mean["tpot_ms"].value
    assert short < long < 1.3 * short
    ttft = found.mean["ttft_ms"].value
    assert ttft[0] == ttft[1]


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"model": ["llama-8b", pd.NA], "tp": pd.array([1, pd.NA], dtype="Int64")}),
        pd.DataFrame({"model": ["llama-8b", ["llama-8b"]]}),
        pd.DataFrame({"model": ["llama-8b", "llama-8b"], "isl": [100, "many"]}),
        pd.DataFrame(
            {"model": ["llama-8b", "llama-8b"], "lockstep": ["no", "perhaps"], "load": ["CLOSED", "open"]}
        ),
    ],
)
def test_a_bad_cell_is_no_exception(frame):
    found = aicalib.predict_many(frame)
    assert found["status"].iloc[0] == "ok"
    assert found["status"].iloc[1] in ("ok", "refused")


@pytest.mark.parametrize(
    ("field", "column"), [("gemm", "gemm"), ("kvcache", "kv"), ("fmha", "fmha"), ("moe", "moe")]
)
def test_every_mode_on_every_accelerator_is_answered_or_refused(field, column):
    gpus = [each.name for each in list_accelerators()]
    modes = [mode.name for mode in MODES[field]]
    frame = pd.DataFrame([{column: mode, "gpu": gpu} for mode in modes for gpu in gpus])
    found = aicalib.predict_many(frame.assign(model="mixtral-8x7b", tp=8))
    assert set(found["status"]) <= {"ok", "does_not_fit", "refused"}
    assert (found["status"] == "ok").any()
    assert found.loc[found["status"] == "ok", "tpot_ms"].gt(0).all()
    assert found.loc[found["status"] == "refused", "reason"].str.len().gt(20).all()


def test_a_workload_made_by_hand_takes_ten_requests_a_slot():
    deployment, workload = aicalib.question(model="llama-8b", gpu="h100", concurrency=4)
    found = aicalib.predict(deployment, Workload(isl=workload.isl, osl=workload.osl, concurrency=4))
    assert found.mean["ttft_ms"].value[0] == aicalib.predict(deployment, workload).mean["ttft_ms"].value[0]


def test_a_users_own_config_is_asked_and_not_a_model_of_the_same_name(tmp_path):
    folder = tmp_path / "llama-70b"
    folder.mkdir()
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 2048, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 8192, "vocab_size": 32000,
        "max_position_embeddings": 8192, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    deployment, workload = aicalib.question(model=str(folder / "config.json"), gpu="h100", tp=1)
    assert deployment.identity.architecture.num_layers == 16
    found = aicalib.predict(deployment, workload)
    assert found.memory.weights_bytes[0] < 5e9


def test_a_static_batch_has_no_host_in_front():
    found = asked(model=["llama-3.1-8b"] * 2, load=["static_batch", "closed"], concurrency=1, tp=1)
    static, closed = found.mean["ttft_ms"].value
    assert static < closed


def test_predict_many_answers_every_row_and_never_raises_for_one():
    frame = pd.DataFrame(
        {
            "model": ["llama-70b", "deepseek-r1", "no-such-model", "llama-70b"],
            "gpu": ["h100", "l4", "h100", "h100"],
            "tp": [4, np.nan, 4, 3],
        },
        index=[10, 20, 30, 40],
    )
    found = aicalib.predict_many(frame)
    assert list(found.index) == [10, 20, 30, 40]
    assert list(found["status"]) == ["ok", "does_not_fit", "refused", "refused"]
    assert "did you mean" in found.loc[30, "reason"] or "known are" in found.loc[30, "reason"]
    assert "does not divide" in found.loc[40, "reason"]
    numbers = found.drop(columns=["status", "reason", "origin"])
    assert (numbers.dtypes == "float64").all()
    assert numbers.loc[10].notna().all()
    assert numbers.loc[[20, 30, 40]].drop(columns="tp").isna().all().all()
    assert (found.loc[10, "tpot_ms_low"] < found.loc[10, "tpot_ms"]) & (
        found.loc[10, "tpot_ms"] < found.loc[10, "tpot_ms_high"]
    )


def test_predict_many_is_predict_row_by_row():
    frame = pd.DataFrame({"model": list(MODELS), "gpu": "b200", "tp": 8, "concurrency": [1, 2, 4, 8, 16, 32]})
    table = aicalib.predict_many(frame)
    for row, options in enumerate(frame.to_dict("records")):
        alone = aicalib.predict(*aicalib.question(**options))
        assert alone.mean["ttft_ms"].value[0] == pytest.approx(table["ttft_ms"].iloc[row], rel=1e-9)
        assert alone.mean["tpot_ms"].high[0] == pytest.approx(table["tpot_ms_high"].iloc[row], rel=1e-9)


def test_predict_many_refuses_a_column_that_is_no_option():
    with pytest.raises(UnknownName, match="concurency"):
        aicalib.predict_many(pd.DataFrame({"concurency": [1]}))


def test_an_empty_table_has_an_empty_answer():
    found = aicalib.predict_many(pd.DataFrame({"model": pd.Series([], dtype=object)}))
    assert len(found) == 0
    assert "tpot_ms" in found.columns
