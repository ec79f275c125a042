"""Properties of the serving model, and of predictions as a whole."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import aicalib
from aicalib.errors import UnknownName
from aicalib.prediction import METRICS, predict_batch
from aicalib.profiles import uncalibrated
from aicalib.resolve import resolve
from aicalib.serving.closed import captured_batch

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


@given(st.integers(1, 600), st.integers(1, 512))
def test_a_step_is_padded_up_to_a_captured_size(batch, largest):
    found = captured_batch(np.array([float(batch)]), np.array([float(largest)]))[0]
    assert found >= batch
    assert found - batch < 8
    assert found <= max(batch, largest)


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
