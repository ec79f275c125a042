"""TensorRT-LLM: what it takes by itself, its memory, how it admits prompts, and measured runs."""

from __future__ import annotations

import numpy as np
import pytest

import aicalib
from aicalib.calibrate.build import speculates
from aicalib.calibrate.fit import STAND_IN, fit
from aicalib.calibrate.runs import as_runs, expert_width
from aicalib.errors import InvalidValue
from aicalib.physics.memory import needs
from aicalib.physics.system import Settings
from aicalib.prediction import predict_batch
from aicalib.profiles import all_coefficients, priors, uncalibrated
from aicalib.resolve.rows import resolve
from aicalib.served import memory_of, servers


def asked(**options):
    columns = {
        "engine": "trtllm",
        "engine_version": "1.2.0",
        "model": "llama-3.3-70b",
        "gpu": "h200-sxm",
        "tp": 4,
    }
    columns |= {"isl": 1024, "osl": 1024, "concurrency": 32} | options
    batch = resolve({name: [value] for name, value in columns.items()}, 1)
    for error in batch.refused.values():
        raise error
    return batch


def test_it_takes_its_own_defaults():
    settings = asked().settings
    taken = [float(each[0]) for each in settings]
    assert taken == [0.9, 8192.0, 2048.0, 128.0, 1.0]
    given = asked(mem_fraction=0.5, max_running_requests=64, scheduler_recv_interval=20).settings
    assert (given.memory_fraction[0], given.max_running[0], given.graph_max_batch[0]) == (0.5, 64, 64)
    assert given.poll_interval[0] == 20


def test_its_pool_is_a_share_of_what_weights_and_a_step_leave():
    half, whole = (memory_of(asked(mem_fraction=share))[0] for share in (0.45, 0.9))
    assert whole.kv_pool_bytes[0] == pytest.approx(2.0 * half.kv_pool_bytes[0])
    need = needs(asked().system)
    left = need.memory - need.context - whole.weights_bytes - whole.activation_bytes
    assert whole.kv_pool_bytes[0] == pytest.approx(0.9 * left[0])
    longer = memory_of(asked(chunked_prefill_size=32768))[0]
    assert longer.kv_pool_bytes[0] < whole.kv_pool_bytes[0]


def test_limits_are_those_of_a_rank():
    batch = asked(model="deepseek-r1", gpu="b200-sxm", tp=8, dp=8, ep=8, gemm="nvfp4")
    assert batch.settings.chunk_tokens[0] == 8192
    assert batch.instance_settings.chunk_tokens[0] == 8 * 8192
    other = asked(
        model="deepseek-r1", gpu="b200-sxm", tp=8, dp=8, ep=8, engine="sglang", engine_version="0.5.9"
    )
    assert other.instance_settings.chunk_tokens[0] == other.settings.chunk_tokens[0]


def test_prompts_pass_as_a_whole_and_requests_are_held_to_their_end():
    batch = asked(chunked_prefill_size=2500)
    server = servers(batch, priors())
    assert server.packed(np.array([2500.0]), batch.load.new)[0] == 2048.0
    assert server.packed(np.array([1000.0]), batch.load.new)[0] == 1000.0
    assert server.held(batch.load)[0] == 2048.0
    vllm = asked(engine="vllm", engine_version="0.17.0")
    other = servers(vllm, priors())
    assert other.packed(np.array([2500.0]), vllm.load.new)[0] == 2500.0
    assert other.held(vllm.load)[0] == 1536.0


def test_prompts_held_back_wait_for_the_steps_that_the_flag_says():
    plain, held = (predict_batch(asked(scheduler_recv_interval=n), uncalibrated()) for n in (1, 20))
    step_ms = plain.mean["tpot_ms"].value[0]
    later_ms = held.mean["ttft_ms"].value[0] - plain.mean["ttft_ms"].value[0]
    assert 10 * step_ms < later_ms < 25 * step_ms


def test_a_prompt_longer_than_a_step_is_refused_unless_it_may_be_cut():
    with pytest.raises(InvalidValue, match="cuts no prompt"):
        asked(isl=9000)
    assert asked(isl=9000, chunked_prefill_size=8192).rows.size == 1


def test_predict_says_where_its_numbers_come_from():
    found = aicalib.predict_many(
        __import__("pandas").DataFrame(
            [{"engine": "trtllm", "model": "llama-3.3-70b", "gpu": "a100-sxm-80gb", "tp": 8}]
        ),
        uncalibrated(),
    )
    assert found["status"][0] == "ok"
    assert found["origin"][0] in ("kernel-fit", "extrapolated", "datasheet")


def test_expert_parallelism_is_as_the_launch_script_had_it():
    record = {"engine": "trtllm", "tp": 8, "ep": 1, "expert_parallel": True}
    assert expert_width(record) == 8
    assert expert_width(record | {"expert_parallel": False}) == 1
    assert expert_width(record | {"ep": 4}) == 4
    assert expert_width(record | {"engine": "sglang"}) == 8


def chosen(published, **wanted):
    return [
        record
        for record in published
        if record["engine"] == "trtllm"
        and not record.get("disagg")
        and all(record.get(key) == value for key, value in wanted.items())
    ]


@pytest.mark.parametrize(
    ("wanted", "limit"),
    [
        ({"model_group": "llama3-70b", "gpu": "h200_sxm"}, 0.25),
        ({"model_group": "llama3-70b", "gpu": "b200_sxm"}, 0.30),
        ({"model_group": "gpt-oss-120b", "gpu": "h200_sxm"}, 0.25),
        ({"model_group": "deepseek-v3-arch-671b", "gpu": "h200_sxm", "spec_decode": False}, 0.20),
        ({"model_group": "qwen3-32b", "gpu": "h100_sxm"}, 0.20),
    ],
)
def test_physics_alone_is_near_measured_runs(published, wanted, limit):
    runs = as_runs(chosen(published, **wanted))
    predicted = predict_batch(runs.batch, uncalibrated()).mean["tpot_ms"].value
    error = np.abs(predicted / runs.measured["tpot_ms"] - 1.0)
    assert np.isfinite(error).sum() > 30
    assert np.nanmedian(error) < limit


def test_its_ratios_are_fitted_to_its_runs_and_bend_nothing_that_others_share(published):
    its = as_runs(chosen(published, model_group="llama3-70b", gpu="h200_sxm", tp=4))
    names = [each.name for each in all_coefficients()]
    own = np.array([name.startswith(STAND_IN) for name in names])
    found = fit(its)
    np.testing.assert_array_equal(found.values[~own], priors()[~own])
    assert np.abs(np.log(found.values[own] / priors()[own])).max() > 0.05
    before, after = (
        np.nanmedian(np.abs(np.log(its.measured["tpot_ms"] / (1e3 * each))))
        for each in (serving_tpot_s(its, priors()), serving_tpot_s(its, found.values))
    )
    assert after < 0.5 * before


def serving_tpot_s(runs, values):
    from aicalib.served import capacity
    from aicalib.serving.serve import serve

    return serve(
        servers(runs.batch, values), runs.batch.load, capacity(runs.batch, memory_of(runs.batch)[0])
    ).tpot_s


def test_speculation_without_a_recorded_acceptance_is_answered(published):
    runs = as_runs(chosen(published, spec_decode=True, gpu="h200_sxm", model_group="deepseek-v3-arch-671b"))
    assert runs.batch.rows.size > 20
    assert runs.inferred.all()
    assert speculates(runs).all()
    predicted = predict_batch(runs.batch, uncalibrated())
    assert set(predicted.origin) == {"kernel-fit"} | set(predicted.origin)
    assert np.nanmedian(np.abs(predicted.mean["tpot_ms"].value / runs.measured["tpot_ms"] - 1.0)) < 0.3


def test_settings_of_an_instance_leave_other_engines_alone():
    batch = asked()
    doubled = Settings(*(each * 2.0 for each in batch.settings)).of_instance(batch.system, batch.at)
    assert doubled.max_running[0] == 2.0 * batch.settings.max_running[0]
