"""Properties of the serving model, and of predictions as a whole."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from simulation import Engine

import aicalib
from aicalib.deployment import Workload
from aicalib.errors import UnknownName
from aicalib.hardware import list_accelerators
from aicalib.prediction import METRICS, predict_batch
from aicalib.profiles import default_profile, uncalibrated
from aicalib.profiles.coefficients import position
from aicalib.quant import MODES
from aicalib.resolve.rows import resolve
from aicalib.served import servers
from aicalib.serving.closed import steady_state
from aicalib.serving.disaggregated import fastest_s
from aicalib.serving.prefill import burst, prefill_passes
from aicalib.serving.server import captured_batch
from aicalib.serving.stages import Stages

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
    asked_of = {"model": model, "gpu": "h100-sxm", "tp": 8, "engine": engine, "isl": isl, "osl": osl,
                "concurrency": concurrency, "chunked_prefill_size": 8192}  # fmt: skip
    batch = resolve({name: [value] for name, value in asked_of.items()})
    more = {name: 1.4 * getattr(batch.system, name) for name in (
        "bandwidth_bytes_s", "link_bytes_s", "memory_bytes", "gemm_peak_flops_s", "expert_peak_flops_s",
        "attention_peak_flops_s", "wide_peak_flops_s")}  # fmt: skip
    small = predict_batch(batch, profile := uncalibrated())
    assume(small.fits.all())
    who = [replace(each) for each in batch.identities]
    large = predict_batch(replace(batch, identities=who, system=replace(batch.system, **more)), profile)
    assert large.mean["e2e_ms"].value[0] <= small.mean["e2e_ms"].value[0] * (1 + 1e-6)


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


def test_the_first_wave_of_a_new_server_is_cold_and_its_prompts_wait_for_each_other():
    found = asked(model=["llama-3.3-70b"] * 3, concurrency=16, num_prompts=160, isl=1024,
                  warmed_up=[True, False, True], lockstep=[False, False, True], engine="vllm")  # fmt: skip
    server = servers(found.batch, uncalibrated().values)
    warm, cold, _ = found.mean["ttft_ms"].value
    assert cold - warm == pytest.approx(1e3 * server.cold_s[0] / 10)
    assert found.median["ttft_ms"].value[0] == found.median["ttft_ms"].value[1]
    token_s = server.wave_token_s[0]
    assert server.handed_over_s(found.batch.load) == pytest.approx([token_s * 1024 * 7.5] * 2 + [0.0])


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
@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_the_closed_form_agrees_with_playing_it_request_by_request(
    engine, model, tp, isl, osl, concurrency, error
):
    found = asked(
        model=[model], engine=engine, tp=tp, isl=isl, osl=osl, concurrency=concurrency, num_prompts=10**7
    )
    played = Engine(found.batch).closed(concurrency, 6 * concurrency + 200)
    assert found.mean["tpot_ms"].value[0] == pytest.approx(1e3 * played.tpot_s.mean(), rel=error)
    assert found.mean["requests_s"].value[0] == pytest.approx(played.throughput, rel=error)


RANKS = {"model": ["deepseek-r1"], "tp": 8}


@pytest.mark.parametrize(
    ("dp", "isl", "osl", "concurrency", "error"),
    [
        (8, 4096, 512, 256, 0.05),
        (8, 512, 256, 256, 0.05),
        (8, 8192, 1024, 64, 0.05),
        (8, 8192, 512, 512, 0.15),
    ],
)
def test_attention_ranks_prefill_prompts_of_their_own_as_played(dp, isl, osl, concurrency, error):
    found = asked(**RANKS, dp=dp, isl=isl, osl=osl, concurrency=concurrency, num_prompts=10**7)
    played = Engine(found.batch).closed(concurrency, 6 * concurrency + 200)
    assert found.mean["tpot_ms"].value[0] == pytest.approx(1e3 * played.tpot_s.mean(), rel=error)
    assert found.mean["requests_s"].value[0] == pytest.approx(played.throughput, rel=error)


@pytest.mark.parametrize(("dp", "isl", "osl"), [(8, 4096, 512), (4, 8192, 256), (8, 8192, 512)])
def test_an_open_loop_over_attention_ranks_agrees_with_playing_it(dp, isl, osl):
    options = {**RANKS, "dp": dp, "isl": isl, "osl": osl, "load": ["open"]}
    rate = 0.5 * asked(**options, request_rate=0.1).service.sustainable_s[0]
    found = asked(**options, request_rate=rate)
    played = Engine(found.batch).open(rate, 2000)
    assert found.mean["tpot_ms"].value[0] == pytest.approx(1e3 * played.tpot_s.mean(), rel=0.2)
    assert found.mean["ttft_ms"].value[0] == pytest.approx(1e3 * played.ttft_s.mean(), rel=0.1)


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
    server, load = servers(batch, uncalibrated().values), batch.load
    host_s = server.host_per_request_s(load)
    found = steady_state(
        server, load, load.concurrency, server.decode_s(load.concurrency, load.context), host_s
    )
    again = load.concurrency / (host_s + found.ttft_s + (load.osl - 1) * found.tpot_s)
    assert found.throughput[0] == pytest.approx(again[0], rel=0.03)


# Open loop


OPEN = [
    ("llama-3.3-70b", 4, 1024, 256, "sglang", 256), ("llama-3.3-70b", 4, 1024, 256, "vllm", 256),
    ("llama-3.1-8b", 1, 2048, 128, "sglang", 256), ("llama-3.1-8b", 1, 16000, 64, "sglang", 256),
    ("gpt-oss-120b", 2, 256, 512, "sglang", 256), ("gpt-oss-120b", 2, 256, 512, "vllm", 256),
    ("deepseek-r1", 8, 4096, 256, "sglang", 256), ("llama-3.3-70b", 4, 1024, 256, "sglang", 24),
]  # fmt: skip


def halved_wait():
    """Return priors by which a request waits for half of a step, as it does where the loop is played."""
    values = uncalibrated().values.copy()
    values[position("poll_wait")], values[position("steps_ahead")] = 0.5, 0.0
    return dataclasses.replace(uncalibrated(), values=values)


def sustainable(**options):
    found = asked(**{name: [value] for name, value in options.items()} | {"request_rate": [1e-6]})
    return found.service.sustainable_s[0]


@pytest.mark.parametrize("utilisation", [0.3, 0.6, 0.85])
@pytest.mark.parametrize(("model", "tp", "isl", "osl", "engine", "most"), OPEN)
def test_an_open_loop_agrees_with_playing_it(model, tp, isl, osl, engine, most, utilisation):
    options = {
        "model": model,
        "tp": tp,
        "isl": isl,
        "osl": osl,
        "engine": engine,
        "max_running_requests": most,
    }
    rate = utilisation * sustainable(**options)
    batch = resolve(
        {"gpu": ["b200"], "request_rate": [rate]} | {name: [each] for name, each in options.items()}
    )
    profile = halved_wait()
    found, played = predict_batch(batch, profile), Engine(batch, profile).open(rate, 3000)
    assert found.mean["tpot_ms"].value[0] == pytest.approx(1e3 * played.tpot_s.mean(), rel=0.16)
    assert found.mean["ttft_ms"].value[0] == pytest.approx(1e3 * played.ttft_s.mean(), rel=0.18)
    for share in (50, 90):
        measured = 1e3 * np.quantile(played.ttft_s, share / 100)
        assert found.percentiles["ttft_ms"][share][0] == pytest.approx(measured, rel=0.25), share


@pytest.mark.parametrize(("model", "tp", "isl", "osl", "engine", "most"), OPEN)
def test_the_sustainable_rate_is_what_is_played_with_a_full_batch(model, tp, isl, osl, engine, most):
    options = {
        "model": model,
        "tp": tp,
        "isl": isl,
        "osl": osl,
        "engine": engine,
        "max_running_requests": most,
    }
    batch = resolve(
        {"gpu": ["b200"], "request_rate": [1e-6]} | {name: [each] for name, each in options.items()}
    )
    played = Engine(batch)
    found = played.closed(int(played.capacity) + 200, 3 * int(played.capacity) + 400 + 6 * most)
    assert sustainable(**options) == pytest.approx(found.throughput, rel=0.12)


def test_a_rate_above_the_sustainable_one_is_an_answer_without_numbers():
    most = sustainable(model="llama-3.3-70b", gpu="h100-sxm", tp=4)
    rates = [0.5 * most, 0.99 * most, 1.01 * most, 50 * most]
    found = aicalib.predict_many(
        pd.DataFrame({"model": "llama-3.3-70b", "gpu": "h100-sxm", "tp": 4, "request_rate": rates}),
        uncalibrated(),
    )
    assert list(found["status"]) == ["ok", "ok", "overloaded", "overloaded"]
    assert f"{most:.4g} requests/s" in found["reason"].iloc[2]
    assert found.loc[2:, "ttft_ms":"output_tok_s_per_gpu_high"].isna().all().all()
    assert found.loc[:1, "ttft_ms"].notna().all()


@given(model=models, engine=engines, isl=lengths, osl=lengths, at=st.floats(0.01, 0.9))
@settings(max_examples=60, deadline=None)
def test_little_holds_and_more_rate_never_lowers_ttft(model, engine, isl, osl, at):
    most = sustainable(model=model, engine=engine, isl=isl, osl=osl)
    rates = np.array([at, 1.1 * at]) * most
    found = asked(model=[model] * 2, engine=engine, isl=isl, osl=osl, request_rate=list(rates))
    ttft, tpot = found.mean["ttft_ms"].value, found.mean["tpot_ms"].value
    assert ttft[1] >= ttft[0] * (1 - 1e-2)
    np.testing.assert_allclose(found.service.running, rates * (osl - 1) * tpot / 1e3, rtol=1e-6)
    np.testing.assert_allclose(found.mean["requests_s"].value, rates)


# Burst


@given(model=models, engine=engines, isl=lengths, osl=st.integers(2, 4096), prompts=st.integers(1, 256))
@settings(max_examples=40, deadline=None)
def test_a_burst_that_fits_at_once_waits_for_its_own_prefill_alone(model, engine, isl, osl, prompts):
    found = asked(model=[model] * 2, engine=engine, isl=isl, osl=osl, load="burst", num_prompts=[prompts, 2 * prompts],
                  lockstep=True)  # fmt: skip
    one, two = found.mean["ttft_ms"].value
    assert one <= two
    assert (found.percentiles["ttft_ms"][99] >= found.mean["ttft_ms"].value * (1 - 1e-6)).all()


def test_a_burst_agrees_with_playing_it():
    options = {
        "model": "llama-3.1-8b",
        "gpu": "h100",
        "tp": 1,
        "isl": 1024,
        "osl": 256,
        "max_running_requests": 128,
    }
    batch = resolve(
        {name: [each] for name, each in (options | {"load": "burst", "num_prompts": 600}).items()}
    )
    found = predict_batch(batch, uncalibrated())
    done = Engine(batch).play([0.0] * 600, 600, False, np.random.default_rng(0), lengths=None)
    ttft, ends = (np.array([each[at] for each in done]) for at in (1, 3))
    assert found.mean["ttft_ms"].value[0] == pytest.approx(1e3 * ttft.mean(), rel=0.12)
    assert found.mean["requests_s"].value[0] == pytest.approx(600 / ends.max(), rel=0.12)
    assert found.percentiles["ttft_ms"][99][0] == pytest.approx(1e3 * np.quantile(ttft, 0.99), rel=0.12)


# Engines and features


@given(model=models, isl=lengths, osl=lengths, concurrency=st.integers(2, 256))
@settings(max_examples=40, deadline=None)
def test_mixed_chunks_spare_decode(model, isl, osl, concurrency):
    found = asked(
        model=[model] * 2, isl=isl, osl=osl, concurrency=concurrency, enable_mixed_chunk=[True, False]
    )
    mixed, plain = found.mean["tpot_ms"].value
    assert mixed <= plain * (1 + 1e-6)


@given(model=models, engine=engines, isl=lengths, osl=st.integers(2, 2048), hit=st.floats(0.0, 0.95),
       load=st.sampled_from(["closed", "static_batch"]))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_more_of_a_prefix_in_the_cache_never_slows(model, engine, isl, osl, hit, load):
    found = asked(
        model=[model] * 3, engine=engine, isl=isl, osl=osl, prefix_hit=[hit, hit + 0.05, 0.0], load=load
    )
    some, more, none = found.mean["e2e_ms"].value
    assert more <= some * (1 + 1e-3)
    assert some <= none * (1 + 1e-3)
    plain = asked(model=[model], engine=engine, isl=isl, osl=osl, load=load).mean["e2e_ms"].value[0]
    assert none == pytest.approx(plain, rel=1e-4)


SPECULATION = [
    {"model": "deepseek-r1", "spec_method": "mtp"},
    {"model": "llama-3.3-70b", "spec_method": "eagle", "draft_model": "llama-3.1-8b", "draft_gemm": "fp8"},
]


@pytest.mark.parametrize("how", SPECULATION)
@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_no_draft_and_one_token_a_step_is_no_speculation(how, engine):
    plain = asked(model=[how["model"]], engine=engine)
    found = asked(
        **{name: [each] for name, each in how.items()}, engine=engine, spec_tokens=0, spec_accept=1.0
    )
    for metric in METRICS:
        assert found.mean[metric].value[0] == pytest.approx(plain.mean[metric].value[0], rel=1e-12), metric


@pytest.mark.parametrize("how", SPECULATION)
@given(concurrency=st.integers(1, 256), accept=st.floats(1.0, 3.9))
@settings(max_examples=20, deadline=None)
def test_a_longer_acceptance_is_faster_and_drafts_cost(how, concurrency, accept):
    found = asked(
        **{name: [each] * 3 for name, each in how.items()},
        concurrency=concurrency, spec_tokens=[3, 3, 7], spec_accept=[accept, accept + 0.1, accept],
    )  # fmt: skip
    tpot = found.mean["tpot_ms"].value
    assert tpot[1] < tpot[0] < tpot[2]


def test_a_drafter_takes_room_from_the_pool():
    plain = asked(model=["llama-3.3-70b"] * 2)
    how = {name: [each] for name, each in SPECULATION[1].items()}
    found = asked(**how, spec_tokens=3, spec_accept=2.0)
    assert found.memory.max_total_tokens[0] < plain.memory.max_total_tokens[0]
    assert found.memory.weights_bytes[0] - plain.memory.weights_bytes[0] == pytest.approx(8e9 / 8, rel=0.25)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"spec_method": "mtp", "spec_tokens": 3}, "acceptance length"),
        ({"spec_method": "mtp", "spec_tokens": 3, "spec_accept": 5.0}, "between 1 and 4"),
        ({"spec_method": "mtp", "spec_accept": 2.0}, "spec_tokens"),
        ({"spec_tokens": 3, "spec_accept": 2.0}, "spec_method"),
        ({"spec_method": "medusa", "spec_tokens": 3, "spec_accept": 2.0}, "medusa"),
        ({"spec_method": "eagle", "spec_tokens": 3, "spec_accept": 2.0}, "draft_model"),
        (
            {"spec_method": "mtp", "spec_tokens": 3, "spec_accept": 2.0, "model": "llama-70b"},
            "further tokens",
        ),
        ({"prefill_tp": 4}, "network_gbit_s"),
        ({"prefill_tp": 3, "network_gbit_s": 400}, "tp 3"),
        ({"prefill_tp": 4, "network_gbit_s": -1}, "network_gbit_s -1 is not a positive rate"),
        ({"network_gbit_s": 0}, "network_gbit_s 0 is not a positive rate"),
        ({"prefill_instances": 0, "network_gbit_s": 400}, "positive whole"),
        ({"prefill_tp": 4, "network_gbit_s": 400, "load": "static_batch"}, "closed and open"),
        ({"request_rate": 0.0}, "positive number"),
        ({"request_rate": 2.0, "load": "closed"}, "only an open load"),
        ({"load": "open"}, "needs request_rate"),
        ({"load": "burst"}, "num_prompts"),
        ({"num_prompts": 10, "concurrency": 32}, "no more than 10 are ever in flight"),
        ({"load": "ramp"}, "ramp"),
        ({"prefix_hit": 1.5}, "between 0 and 1"),
        ({"tp": 8, "pp": 2}, "one node"),
    ],
)
def test_what_cannot_be_answered_says_why(options, words):
    options = {"model": "deepseek-r1", "gpu": "b200", "tp": 8} | options
    batch = resolve({name: [value] for name, value in options.items()})
    assert words in str(batch.refused[0])


@given(model=models, engine=engines, isl=lengths, osl=lengths, concurrency=st.integers(1, 512))
@settings(max_examples=40, deadline=None)
def test_stages_trade_latency_for_room(model, engine, isl, osl, concurrency):
    table = {"engine": engine, "isl": isl, "osl": osl, "concurrency": concurrency, "gpu": "b300"}
    found = asked(model=[model] * 2, tp=4, pp=[1, 2], **table)
    assume(found.fits.all())
    tpot = found.mean["tpot_ms"].value
    # A token passes through the same layers, two stages one after the other, with at least half of the batch.
    assert tpot[1] > 0.5 * tpot[0]
    assert found.memory.weights_bytes[1] == pytest.approx(found.memory.weights_bytes[0] / 2, rel=0.2)
    assert found.mean["output_tok_s_per_gpu"].value[1] == pytest.approx(
        found.mean["output_tok_s"].value[1] / 8
    )
    alone = asked(model=[model] * 2, tp=4, pp=[1, 2], **table | {"concurrency": 1}).mean["tpot_ms"].value
    assert alone[1] > alone[0]


@given(
    model=models, isl=lengths, osl=st.integers(16, 4096), concurrency=st.sampled_from([8, 16, 64, 128, 256])
)
@settings(max_examples=40, deadline=None)
def test_splitting_a_batch_never_wins_on_throughput(model, isl, osl, concurrency):
    found = asked(
        model=[model] * 2, isl=isl, osl=osl, concurrency=[concurrency, concurrency // 2], load="static_batch"
    )
    whole, half = found.mean["output_tok_s"].value
    assert whole >= half * (1 - 1e-6)


def through(stages, starts):
    """Return when each part leaves the last stage: a stage takes one part at a time, in their order."""
    free = np.zeros(len(stages))
    leaves = []
    for at in starts:
        for stage, time_s in enumerate(stages):
            at = free[stage] = max(at, free[stage]) + time_s
        leaves.append(at)
    return leaves


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
@pytest.mark.parametrize(("layers", "number"), [(80, 1), (80, 2), (80, 4), (61, 4), (10, 3)])
def test_stages_take_as_long_as_played(parts, layers, number):
    longest = -(-layers // number)
    times = [longest] * (number - 1) + [layers - longest * (number - 1)]
    stages = Stages(*(np.array([float(each)]) for each in (number, longest / layers, 0.0, 0.0)))
    # Decode: a part begins its next step as soon as its last one is through.
    rounds, leaves = 40, [0.0] * min(parts, number)
    free = np.zeros(number)
    for _ in range(rounds):
        for part, at in enumerate(leaves):
            for stage, time_s in enumerate(times):
                at = free[stage] = max(at, free[stage]) + time_s
            leaves[part] = at
    played = stages.round_s(np.array([float(layers)]), np.array([float(parts)]), np.ones(1))[0]
    assert played == pytest.approx(leaves[0] / rounds, rel=0.1)
    # Prefill: the chunks of a prompt follow each other.
    whole = layers * (1.0 + (parts - 1) * stages.longest[0])
    assert through(times, [0.0] * parts)[-1] == pytest.approx(whole, rel=1e-9)


def test_chunks_of_a_prompt_follow_each_other_through_the_stages():
    found = asked(
        model=["llama-3.3-70b"] * 2, tp=2, pp=4, isl=4096, concurrency=1, chunked_prefill_size=[4096, 1024]
    )
    server, load = servers(found.batch, uncalibrated().values), found.batch.load
    pass_s = server.prefill_s(np.array([4096.0, 1024.0]), load, np.ones(2), np.ones(2))
    first = burst(server, load, np.ones(2)).first_token_s
    np.testing.assert_allclose(first, pass_s * (np.array([1, 4]) + 3) / 4, rtol=0.02)


SEPARATE = {"prefill_tp": 8, "network_gbit_s": np.inf}


def test_separate_pools_with_an_endless_network_are_the_pools_by_themselves():
    options = {"model": ["llama-3.3-70b"], "isl": 4096, "osl": 512, "num_prompts": 10**9}
    found = asked(**options, concurrency=1, **SEPARATE)
    alone = asked(**options, concurrency=1)
    assert found.mean["tpot_ms"].value[0] == pytest.approx(alone.mean["tpot_ms"].value[0], rel=1e-6)
    assert found.mean["ttft_ms"].value[0] == pytest.approx(alone.mean["ttft_ms"].value[0], rel=0.02)
    # Prefill alone bounds a load of single tokens, decode alone one of short prompts.
    batch = resolve({"model": ["llama-3.3-70b"], "gpu": ["b200"], "tp": [8], "isl": [4096], "osl": [512]})
    server, load = servers(batch, uncalibrated().values), batch.load
    passes = prefill_passes(server, load, np.ones(1))
    most = asked(**options | {"osl": 1}, concurrency=4000, **SEPARATE).mean["requests_s"].value[0]
    assert most == pytest.approx(1.0 / fastest_s(server, load, passes)[0], rel=0.02)
    decode = asked(**options | {"isl": 16}, concurrency=512, prefill_instances=8, **SEPARATE)
    bound = 512 / server.decode_s(np.array([512.0]), np.array([16 + 256.0]))[0]
    assert decode.mean["output_tok_s"].value[0] == pytest.approx(bound, rel=0.05)


def test_a_closed_loop_over_separate_pools_begins_with_all_its_requests_at_once():
    found = asked(model=["llama-3.3-70b"] * 2, isl=4096, osl=512, concurrency=64, prefill_instances=2,
                  num_prompts=[640, 10**9], **SEPARATE)  # fmt: skip
    batch = resolve({"model": ["llama-3.3-70b"], "gpu": ["b200"], "tp": [8], "isl": [4096], "osl": [512]})
    server, load = servers(batch, uncalibrated().values), batch.load
    # A tenth of all requests begins, 32 at each prefill instance, four a chunk: the mean one waits for 18.
    prompts_s = 32 * fastest_s(server, load, prefill_passes(server, load, np.ones(1)))[0]
    begun, steady = found.mean["ttft_ms"].value
    assert begun == pytest.approx(0.9 * steady + 0.1 * 1e3 * prompts_s * 18 / 32, rel=0.02)
    begun, steady = found.percentiles["ttft_ms"][99]
    assert begun == pytest.approx(0.9 * 1e3 * prompts_s, rel=0.05)
    assert steady < begun / 3


def test_separate_pools_count_all_their_gpus_and_their_transfer():
    found = asked(model=["llama-3.3-70b"] * 2, isl=8192, concurrency=1, prefill_tp=4, prefill_instances=2,
                  decode_instances=3, network_gbit_s=[100, 400])  # fmt: skip
    assert found.batch.n_gpus.tolist() == [2 * 4 + 3 * 8] * 2
    slow, fast = found.mean["ttft_ms"].value
    # Two of the eight KV heads of 80 layers stand on each of four GPUs: K and V of 128 elements in 16 bit.
    sent = 8192 * 80 * 2 * (2 * 128) * 2 * 8 / 1e9
    assert slow - fast == pytest.approx(1e3 * (sent / 100 - sent / 400), rel=0.02)
    assert found.mean["output_tok_s_per_gpu"].value[0] == pytest.approx(
        found.mean["output_tok_s"].value[0] / 32
    )


@given(model=models, engine=engines, isl=lengths, osl=lengths, how=st.sampled_from(
    [{"concurrency": 64}, {"request_rate": 0.2}, {"load": "burst", "num_prompts": 300}, {"load": "static_batch"},
     {"concurrency": 64, "lockstep": True}, {"concurrency": 64, "prefill_tp": 8, "network_gbit_s": 400}]))  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_percentiles_rise(model, engine, isl, osl, how):
    found = asked(model=[model], engine=engine, isl=isl, osl=osl, **how)
    assume(not found.overloaded[0] and osl > 1)
    for metric, by in found.percentiles.items():
        assert 0 < by[50][0] <= by[90][0] <= by[99][0], metric
        assert by[50][0] == pytest.approx(found.median[metric].value[0])


def test_a_batch_of_every_load_and_feature_is_each_row_by_itself():
    rows = [
        {"concurrency": 8}, {"request_rate": 2.0}, {"load": "burst", "num_prompts": 100}, {"load": "static_batch"},
        {"prefix_hit": 0.5}, {"engine": "vllm"}, {"enable_mixed_chunk": True}, {"tp": 4, "pp": 2},
        {"spec_method": "mtp", "spec_tokens": 2, "spec_accept": 1.8, "model": "deepseek-r1"},
        {"spec_method": "eagle", "spec_tokens": 2, "spec_accept": 1.8, "draft_model": "llama-3.1-8b"},
        {"prefill_tp": 4, "network_gbit_s": 400.0, "decode_instances": 2}, {"request_rate": 1e5},
    ]  # fmt: skip
    frame = pd.DataFrame([{"model": "llama-3.3-70b", "gpu": "b200", "tp": 8} | row for row in rows])
    table = aicalib.predict_many(frame)
    assert list(table["status"]) == ["ok"] * 11 + ["overloaded"]
    for at, row in enumerate(rows):
        options = {"model": "llama-3.3-70b", "gpu": "b200", "tp": 8} | row
        deployment, workload = aicalib.question(**options)
        alone = aicalib.predict(deployment, workload)
        for metric in METRICS:
            assert alone.mean[metric].value[0] == pytest.approx(
                table[metric].iloc[at], rel=1e-9, nan_ok=True
            ), row


@given(model=models, engine=engines, isl=lengths, osl=st.integers(128, 8192), concurrency=st.integers(1, 256))
@settings(max_examples=60, deadline=None)
def test_more_requests_in_flight_do_not_lower_throughput(model, engine, isl, osl, concurrency):
    found = asked(
        model=[model, model], engine=engine, isl=isl, osl=osl, concurrency=[concurrency, 2 * concurrency],
        num_prompts=10**9,
    )  # fmt: skip
    few, many = found.mean["output_tok_s"].value
    # Shorter answers on vLLM lose up to a tenth: requests in line for prefill count as rows of every mixed step.
    assert many >= few * 0.92


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
            {"model": ["llama-8b", "llama-8b"], "lockstep": ["no", "perhaps"], "load": ["CLOSED", "ramp"]}
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


@pytest.mark.parametrize(
    ("model", "gpu", "tp", "isl", "osl"),
    [
        ("deepseek-v3", "h200-sxm", 8, 1000, 1000),
        ("gpt-oss-120b", "h100-sxm", 2, 500, 1500),
        ("llama-8b", "l40", 1, 8000, 50),
    ],
)
def test_latencies_and_their_percentiles_grow_with_the_rate_up_to_saturation(model, gpu, tp, isl, osl):
    asked = {"model": model, "gpu": gpu, "tp": tp, "isl": isl, "osl": osl}

    def at(rates):
        columns = {name: [value] * len(rates) for name, value in asked.items()}
        return predict_batch(resolve(columns | {"request_rate": rates}), default_profile())

    most = at([1e-4]).service.sustainable_s[0]
    found = at(np.linspace(0.01, 0.9999, 150) * most)
    for metric in ("ttft_ms", "tpot_ms"):
        for values in (found.mean[metric].value, *found.percentiles[metric].values()):
            np.testing.assert_allclose(values, np.maximum.accumulate(values), rtol=0.005)
