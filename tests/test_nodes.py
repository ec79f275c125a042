"""One instance over several nodes: what it takes, what starts it, and when it is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aicalib.engines.arguments import read_launch
from aicalib.engines.flags import flags
from aicalib.engines.launch import launch
from aicalib.engines.request import request_of
from aicalib.errors import NotCovered, Refusal
from aicalib.physics.calls import seconds
from aicalib.physics.kernels import comm
from aicalib.physics.links import hidden_state_calls, logits_calls
from aicalib.physics.steps import exchange_calls
from aicalib.plan.search.best import search
from aicalib.plan.search.space import Sought
from aicalib.prediction import METRICS, predict_batch
from aicalib.profiles import default_profile
from aicalib.resolve.rows import resolve

WIDE = {
    "tp 16": {"tp": 16},
    "dp 16 ep 16": {"tp": 16, "dp": 16, "ep": 16},
    "tp 8 pp 2": {"tp": 8, "pp": 2},
    "tp 16 dp 2": {"tp": 16, "dp": 2},
    "tp 16 pp 2": {"tp": 16, "pp": 2},
}
"""Layouts of DeepSeek-V3 over the nodes of eight H200."""

ROUNDING = 1.0 + 1e-9


def asked(gpu="h200-sxm", model="deepseek-v3", **options):
    """Return a batch of rows that differ in the options given as lists."""
    n = max((len(each) for each in options.values() if isinstance(each, list)), default=1)
    columns = {"model": model, "gpu": gpu, "isl": 2000, "osl": 200} | options
    return resolve({name: each if isinstance(each, list) else [each] * n for name, each in columns.items()})


def figures(batch):
    assert not batch.refused
    found = predict_batch(batch, default_profile())
    return found, {metric: found.mean[metric].value for metric in METRICS}


@pytest.mark.parametrize("layout", WIDE.values(), ids=WIDE)
def test_without_a_rate_it_is_refused_and_the_refusal_names_the_rate(layout):
    error = asked(**layout).refused[0]
    assert isinstance(error, NotCovered)
    assert "give network_gbit_s" in str(error)
    assert "400 for one ConnectX-7 a GPU" in str(error)
    assert "network_gbit_s 400" in error.alternatives


@pytest.mark.parametrize("layout", WIDE.values(), ids=WIDE)
def test_with_a_rate_it_is_answered_as_extrapolated_and_says_why(layout):
    batch = asked(**layout, network_gbit_s=400)
    found, values = figures(batch)
    assert all(np.isfinite(each).all() for each in values.values())
    assert found.origin == ["extrapolated"]
    deployment = batch.deployment(0)
    assert deployment.as_dict()["network_gbit_s"] == 400.0
    assert any("nodes: no published run" in note for note in deployment.notes)
    again = predict_batch(
        resolve({key: [value] for key, value in {**layout, "network_gbit_s": deployment.network_gbit_s,
                 "model": "deepseek-v3", "gpu": "h200-sxm", "isl": 2000, "osl": 200}.items()}), default_profile(),
    )  # fmt: skip
    assert again.mean["tpot_ms"].value[0] == values["tpot_ms"][0]


@given(
    layout=st.sampled_from(list(WIDE.values())),
    gpu=st.sampled_from(["h200-sxm", "l40s", "mi300x"]),
    rate=st.floats(1.0, 3600.0),
    factor=st.floats(1.0, 100.0),
    concurrency=st.integers(1, 512),
)
@settings(max_examples=25, deadline=None)
def test_a_faster_network_never_slows_a_request(layout, gpu, rate, factor, concurrency):
    model = "qwen3-235b-a22b" if gpu == "l40s" else "deepseek-v3"
    if gpu == "l40s":
        layout = {"tp": 16, "dp": 4}
    batch = asked(gpu, model, **layout, network_gbit_s=[rate, factor * rate], concurrency=concurrency)
    found, values = figures(batch)
    if found.fits.all():
        slow, fast = values["e2e_ms"]
        assert fast <= slow * ROUNDING


def collective_s(system, tokens):
    calls = [*hidden_state_calls(system, tokens, graph=True), *logits_calls(system, tokens)]
    return sum(seconds(call) for call in calls)


@pytest.mark.parametrize("layout", [{"tp": 16}, {"tp": 16, "dp": 16}], ids=["tp", "dp"])
@pytest.mark.parametrize("fitted", [True, False], ids=["fitted", "ideal"])
def test_over_a_network_like_nvlink_it_is_no_faster_than_in_one_node(layout, fitted, monkeypatch):
    monkeypatch.setattr(comm, "HAND_OVER_S", 0.0)
    if not fitted:
        monkeypatch.setattr(
            "aicalib.physics.calls.time_s", lambda kind, _s, _c, shape, at: kind.ideal_s(shape, at)
        )
    system = asked(**layout, network_gbit_s=400).system
    two = replace(system, network_bytes_s=system.link_bytes_s)
    one = replace(system, node_gpus=np.array([16.0]))
    for tokens in (1.0, 64.0, 2048.0, 65536.0):
        over_nodes, inside = collective_s(two, np.array([tokens])), collective_s(one, np.array([tokens]))
        # Fitted, the part between nodes is a bound, without what the surface adds to it in one node.
        assert over_nodes >= inside * (0.97 if fitted else 1.0 / ROUNDING)


def test_the_collectives_of_two_nodes_agree_with_a_published_measurement():
    """nccl-tests on two nodes of eight H100s: 27.4 us for the smallest all-reduce (NVIDIA/nccl#1017)."""
    system = asked("h100-sxm", "llama-70b", tp=16, network_gbit_s=400).system
    calls = hidden_state_calls(system, np.array([8.0 / (2 * 8192)]), graph=True)
    each = sum(seconds(call) / call.count for call in calls if call.count.any())
    assert each == pytest.approx(27.4e-6, rel=0.15)


@pytest.mark.parametrize("engine", ["sglang", "vllm", "trtllm"])
def test_inside_a_node_a_rate_changes_nothing(engine):
    widths = {"tp": [1, 2, 4, 8, 8, 8, 2], "pp": [1, 1, 2, 1, 1, 1, 4], "dp": [1, 2, 1, 8, 1, 1, 1]}
    plain, given_rate = (
        asked(model="qwen3-30b-a3b", engine=engine, **widths, **extra)
        for extra in ({}, {"network_gbit_s": 50})
    )
    assert (plain.system.nodes == 1.0).all()
    for metric, values in figures(plain)[1].items():
        np.testing.assert_array_equal(values, figures(given_rate)[1][metric])
    calls = hidden_state_calls(given_rate.system.column(), np.array([[64.0]]), graph=True)
    assert not any("between nodes" in call.name for call in calls)
    assert given_rate.deployment(3).network_gbit_s is None


def test_a_rack_of_one_link_domain_needs_no_network():
    batch = asked("gb200", tp=[16, 32, 64], dp=[16, 32, 64], ep=[16, 32, 64], mem_fraction=0.8)
    found, _ = figures(batch)
    assert found.fits.all()
    assert (batch.system.nodes == 1.0).all()
    assert "tp 128" in str(asked("gb200", tp=128, dp=128).refused[0])


def test_stages_hand_over_at_the_rate_of_the_network_where_they_cross_nodes():
    from aicalib.serving.stages import stages_of

    batch = asked(tp=[8, 4, 4, 8], pp=[2, 2, 4, 4], network_gbit_s=400)
    hidden_bytes = 2.0 * batch.system.arch.hidden_size[0]
    network, link = hidden_bytes / 50e9, hidden_bytes / 450e9
    found = stages_of(batch.system, batch.at)
    np.testing.assert_allclose(
        found.token_s, [network, link, network / 3 + 2 * link / 3, network], rtol=1e-12
    )


def test_widths_over_nodes_still_have_to_divide():
    assert "does not divide" in str(asked(tp=24, ep=16, network_gbit_s=400).refused[0])
    assert "KV heads" in str(asked(model="phi-4", tp=16, dp=4, network_gbit_s=400).refused[0])


def test_separate_pools_may_span_nodes_each():
    batch = asked(tp=16, dp=16, ep=16, prefill_tp=16, prefill_dp=16, prefill_ep=16, network_gbit_s=[400, 200],
                  mem_fraction=0.8)  # fmt: skip
    found, values = figures(batch)
    assert found.fits.all()
    assert values["ttft_ms"][0] < values["ttft_ms"][1]
    assert batch.n_gpus.tolist() == [32.0, 32.0]


# launch lines

ONE_NODE = {"model": "deepseek-v3", "gpu": "h200-sxm"}


def lines(**options):
    found = launch(request_of(ONE_NODE | options))
    return found, [found.line(), *(text for name, text in found.files.items() if name.endswith(".sh"))]


@pytest.mark.parametrize(("engine", "version"), [("sglang", "0.5.9"), ("vllm", "0.14.0")])
@pytest.mark.parametrize("layout", [WIDE["tp 16"], WIDE["tp 8 pp 2"]], ids=["tp 16", "tp 8 pp 2"])
def test_one_line_a_node_with_flags_of_the_version(engine, version, layout):
    found, each = lines(engine=engine, engine_version=version, **layout)
    assert len(each) == 2
    for rank, line in enumerate(each):
        assert f"--nnodes 2 --node-rank {rank}" in line
        assert set(word for word in line.split() if word.startswith("--")) <= set(flags(engine, version))
        read = read_launch(line, version).options
        assert {name: read.get(name, 1) for name in ("tp", "pp")} == {"pp": 1, **layout}
    assert "HOST" in each[0]
    assert any("node-1.sh on the others" in note for note in found.notes)


def test_vllm_starts_its_attention_ranks_node_by_node():
    _, each = lines(engine="vllm", **WIDE["dp 16 ep 16"])
    assert "--data-parallel-size-local 8 --data-parallel-address HOST" in each[0]
    assert "--headless" not in each[0]
    assert "--data-parallel-start-rank 8 --headless" in each[1]
    with pytest.raises(Refusal, match="one rank of attention spans several nodes"):
        lines(engine="vllm", tp=32, dp=2)


def test_an_older_vllm_spans_nodes_over_ray():
    found, each = lines(engine="vllm", engine_version="0.11.0", tp=16)
    assert len(each) == 1
    assert "--distributed-executor-backend ray" in each[0]
    assert any("ray start --head" in note for note in found.notes)


def test_tensorrt_llm_is_started_once_a_gpu():
    found, each = lines(engine="trtllm", **WIDE["dp 16 ep 16"])
    assert each[0].startswith(
        "srun --mpi pmix --nodes 2 --ntasks 16 --ntasks-per-node 8 trtllm-llmapi-launch"
    )
    assert read_launch(found.argv).options["tp"] == 16


def test_a_tray_of_a_rack_is_a_node_to_the_engine():
    assert len(lines(gpu="gb200", tp=8)[1]) == 2
    assert len(lines(gpu="gb200", tp=4)[1]) == 1


def test_prefill_over_nodes_has_its_own_lines():
    found, _ = lines(tp=8, prefill_tp=16)
    assert set(found.files) == {"prefill.sh", "prefill-node-1.sh"}
    assert "--disaggregation-mode prefill --nnodes 2 --node-rank 1" in found.files["prefill-node-1.sh"]


# search


def widths_of(found):
    return {tuple(choice.start.layout[:4]) for choice in (*found.at_once, *found.with_checkpoint)}


def sought(rate, **only):
    tried = {"gemm": ("auto",), "kv": ("auto",), "fmha": ("auto",), "moe": ("auto",), "mem_fraction": (None,),
             "chunked_prefill_size": (None,), "enable_mixed_chunk": (None,), "spec_tokens": (None,),
             "concurrency": (64,), "dp": (1,), "ep": (1,)}  # fmt: skip
    return Sought("deepseek-v3", ("h200-sxm",), 16, 4000.0, 500.0, network_gbit_s=rate, separate=False,
                  only=tried | only)  # fmt: skip


def test_a_search_lays_instances_over_nodes_where_the_rate_is_known():
    with_rate, without = (search(sought(rate), top=100) for rate in (400.0, None))
    assert {(16, 1, 1, 1), (8, 2, 1, 1)} <= widths_of(with_rate)
    assert widths_of(without) == {each for each in widths_of(with_rate) if each[0] * each[1] <= 8}
    assert any("network_gbit_s" in note for note in without.notes)
    assert any("no published run" in note for note in with_rate.notes)
    wide = next(each for each in with_rate.at_once if each.start.layout[:2] == (16, 1))
    assert (wide.replicas, wide.origin, wide.nodes) == (1, "extrapolated", 2)
    assert "over 2 nodes" in wide.start.words()
    assert "--nnodes" in wide.launch.argv
    assert "node-1.sh" in wide.as_dict()["files"]
    narrow = next(each for each in with_rate.at_once if each.start.layout[:2] == (8, 1))
    other = next(each for each in without.at_once if each.start.layout[:2] == (8, 1))
    assert narrow.nodes == 1
    assert narrow.figures == other.figures


# DeepEP

EXCHANGED = {"dp": 16, "ep": 16, "tp": 16, "moe_a2a_backend": "deepep", "network_gbit_s": 400}


def test_experts_exchange_by_deepep_within_a_node_and_over_several():
    batch = asked(
        tp=[8, 8, 16], dp=[1, 8, 16], moe_a2a_backend="deepep", network_gbit_s=400, mem_fraction=0.85
    )
    found, values = figures(batch)
    assert found.fits.all()
    assert all(np.isfinite(each).all() for each in values.values())
    assert found.origin == ["extrapolated"] * 3
    assert batch.system.ep[batch.at].tolist() == [8.0, 8.0, 16.0]  # SGLang takes all of tp by itself
    deployment = batch.deployment(2).as_dict()
    assert (deployment["moe_a2a_backend"], deployment["ep"]) == ("deepep", 16)
    assert "moe_a2a_backend" not in asked(tp=8).deployment(0).as_dict()


def test_one_batch_holds_both_ways_of_tokens_to_their_experts():
    both = asked(tp=16, dp=16, ep=16, network_gbit_s=400, moe_a2a_backend=["none", "deepep"])
    apart = [
        asked(tp=16, dp=16, ep=16, network_gbit_s=400, moe_a2a_backend=each) for each in ("none", "deepep")
    ]
    together = figures(both)[1]["e2e_ms"]
    np.testing.assert_array_equal(together, np.concatenate([figures(each)[1]["e2e_ms"] for each in apart]))
    assert together[0] != together[1]


def test_only_dense_layers_gather_what_deepep_does_not_send():
    batch = asked(**EXCHANGED)
    arch = batch.system.arch
    tokens = np.array([2048.0])
    for graph in (True, False):
        called = {
            call.name: float(call.count[0]) for call in exchange_calls(batch.system, tokens, graph=graph)
        }
        assert called["all-gather and reduce-scatter"] == 2.0 * arch.dense_layers[0]
        assert called["dispatch"] == called["combine"] == arch.moe_layers[0]


def test_shared_experts_lie_whole_on_every_rank():
    plain, exchanged = (
        figures(asked(**EXCHANGED | {"moe_a2a_backend": each}))[0].memory.weights_bytes[0]
        for each in ("none", "deepep")
    )
    shared_bytes = 58 * 3 * 7168 * 2048.0
    assert exchanged - plain == pytest.approx(15 / 16 * shared_bytes, rel=0.1)


@pytest.mark.parametrize(("name", "microseconds"), [("dispatch", 118.0), ("combine", 195.0)])
def test_its_kernels_agree_with_its_authors(name, microseconds):
    """Low-latency kernels with 128 tokens a rank, 7168 wide, top 8, 16 ranks (README of deepseek-ai/DeepEP, H800)."""
    batch = asked(**EXCHANGED)
    calls = {call.name: call for call in exchange_calls(batch.system, np.array([128.0 * 16]), graph=True)}
    one = (seconds(calls[name]) / calls[name].count)[0]
    assert one == pytest.approx(1e-6 * microseconds, rel=0.2)


@given(
    rate=st.floats(5.0, 400.0), factor=st.floats(1.0, 50.0), tokens=st.floats(1.0, 1e5), graph=st.booleans()
)
@settings(max_examples=25, deadline=None)
def test_a_slower_network_slows_it_and_a_faster_one_is_not_known_to_help(rate, factor, tokens, graph):
    batch = asked(**EXCHANGED | {"network_gbit_s": [rate, rate * factor, 400.0]})

    def sent_s(system):
        calls = exchange_calls(system, np.array([tokens]), graph=graph)
        return sum(seconds(call) for call in calls if call.name.startswith(("dispatch", "combine")))

    slow, fast, timed = sent_s(batch.system)[batch.at]
    assert slow >= fast / ROUNDING
    assert fast >= timed / ROUNDING


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engine": "vllm"}, "SGLang's alone"),
        ({"model": "llama-70b", "ep": 1, "tp": 8, "dp": 8}, "dense model"),
        ({"ep": 8}, "splits experts over all of tp 16; ep is 8"),
        ({"tp": 1, "dp": 1, "ep": 1}, "there is one rank"),
        ({"moe": "int4_wo"}, "timed in fp8_block alone"),
        ({"gpu": "b200"}, "timed on no such GPU over 2 nodes"),
        ({"tp": 24, "dp": 24, "ep": 1}, "does not divide"),
        ({"moe_a2a_backend": "mooncake"}, "'mooncake' is not predicted"),
        ({"network_gbit_s": None}, "give network_gbit_s"),
    ],
)
def test_what_was_not_timed_behind_it_is_refused(options, words):
    error = asked(**EXCHANGED | options).refused[0]
    assert words in str(error)


def test_a_search_tries_it_and_its_line_says_so():
    found = search(sought(400.0, tp=(16,), pp=(1,), dp=(16,), ep=(16,)), top=100)
    by = {choice.start.layout.deepep: choice for choice in found.at_once}
    assert set(by) == {True, False}
    assert " ".join(by[True].launch.argv).count("--moe-a2a-backend deepep") == 1
    assert by[True].deployment["moe_a2a_backend"] == "deepep"
    assert by[True].start.words(named=False).endswith("deepep")
    alone = search(sought(400.0, tp=(16,), pp=(1,), dp=(16,), ep=(16,), moe_a2a_backend=("deepep",)), top=100)
    assert [choice.start.layout.deepep for choice in alone.at_once] == [True]


def test_a_search_tries_it_with_experts_in_the_timed_format_where_others_are_published():
    """Qwen3-235B-A22B is published in 16 bit."""
    only = {"tp": (8,), "pp": (1,), "dp": (1, 8), "ep": (8,), "concurrency": (64,), "kv": ("auto",),
            "moe_a2a_backend": ("deepep",)}  # fmt: skip
    found = search(
        Sought("qwen3-235b-a22b", ("h200-sxm",), 8, isl=1024, osl=256, only=only, separate=False), top=9
    )
    choices = (*found.at_once, *found.with_checkpoint)
    assert {choice.deployment["moe"] for choice in choices} == {"fp8_block"}
    assert all(choice.start.layout.deepep for choice in choices)


def test_its_launch_line_is_read_back():
    read = read_launch(lines(**EXCHANGED)[0].argv).options
    assert (read["moe_a2a_backend"], read["tp"], read["dp"], read["ep"]) == ("deepep", 16, 16, 16)
