"""Quality rules: what each doubts, what it leaves alone, and that the shipped runs keep their flags."""

from __future__ import annotations

import math

import evidence
import pytest

from aicalib.calibrate.limits import FLAG, MARGIN, faster_than_datasheet
from perfdb import quality

RUN = {
    "engine": "sglang", "engine_version": "0.5.9", "gpu": "h100_sxm", "n_gpus": 1, "tp": 1, "model": "llama-8b",
    "weight_quant": "bf16", "spec_decode": False, "load": "closed", "concurrency": 8, "num_prompts": 80,
    "num_warmups": 16, "isl": 1024, "osl": 256, "range_ratio": 1.0, "mean_ttft_ms": 100.0, "mean_tpot_ms": 10.0,
    "source": "s",
}  # fmt: skip


def flags(*records, run_ids=None):
    """Return {src_ref: {flag: reason}} of the rules over runs in their order."""
    connection = evidence.empty()
    evidence.fill(connection, records)
    counts = quality.refresh(connection, run_ids)
    found = connection.execute(
        "SELECT src_ref, flag, reason FROM flags JOIN run_sources USING (run_id) WHERE origin = 'rule'"
    ).fetchall()
    assert sum(counts.values()) == len(found)
    told: dict[str, dict[str, str]] = {}
    for src_ref, flag, reason in found:
        assert flag not in told.setdefault(src_ref, {})
        told[src_ref][flag] = reason
    return told


def under(told, flag):
    return sorted(src_ref for src_ref, found in told.items() if flag in found)


def one(**changed):
    """Return the flags of a single run."""
    return flags(RUN | {"src_ref": "one"} | changed).get("one", {})


def test_a_sound_run_is_under_no_flag():
    assert one() == {}


def test_repeats_and_what_is_none():
    told = flags(
        RUN | {"src_ref": "poor", "engine_version": None},
        RUN | {"src_ref": "rich", "dp": 1},
        RUN | {"src_ref": "near", "mean_tpot_ms": 10.01, "mean_ttft_ms": 100.3},
        RUN | {"src_ref": "apart", "mean_tpot_ms": 10.05},
        RUN | {"src_ref": "late", "mean_ttft_ms": 101.0},
        RUN | {"src_ref": "other width", "tp": 2, "mean_tpot_ms": 10.005},
        RUN | {"src_ref": "other spread", "range_ratio": 0.8, "mean_tpot_ms": 10.002},
        RUN | {"src_ref": "other load", "concurrency": 9, "mean_tpot_ms": 10.002},
    )
    assert under(told, "repeat") == ["poor"]
    assert under(told, "near_repeat") == ["near"]


def test_runs_told_apart_by_one_source_are_no_copies():
    rows = [RUN | {"src_ref": "page", "mean_tpot_ms": tpot} for tpot in (10.0, 10.01)]
    assert flags(*rows) == {}


def test_a_run_near_a_copy_alone_is_kept():
    rows = [RUN | {"src_ref": f"{place}", "mean_tpot_ms": 10.0 * 1.0015**place} for place in range(6)]
    assert under(flags(*rows), "near_repeat") == ["1", "3", "5"]


def test_copies_of_a_run_by_hundreds_are_all_found():
    rows = [RUN | {"src_ref": f"{place}", "measured_on": f"2026-01-01T{place}"} for place in range(400)]
    told = flags(*rows, RUN | {"src_ref": "rich", "dp": 1, "ep": 1, "mean_tpot_ms": 10.01})
    assert len(under(told, "near_repeat")) == 400
    assert {told[f"{place}"]["near_repeat"] for place in range(400)} == {told["0"]["near_repeat"]}


def test_mirrored_models():
    family = RUN | {"model_group": "deepseek-v3"}
    told = flags(
        family | {"src_ref": "r1", "model": "deepseek-ai/DeepSeek-R1"},
        family | {"src_ref": "v3", "model": "DeepSeek-V3", "engine_version": None},
        family | {"src_ref": "owner", "model": "DeepSeek-R1", "num_warmups": None},
    )
    assert under(told, "repeat") == ["owner", "v3"]
    assert under(told, "mirrored_model") == ["v3"]
    assert "deepseek-ai/DeepSeek-R1" in told["v3"]["mirrored_model"]


def test_copied_reports():
    def report(gpu, model="llama-8b", **changed):
        return [
            RUN
            | {"src_ref": f"{gpu} {model} {c}", "gpu": gpu, "model": model, "concurrency": c}
            | {"mean_tpot_ms": 5.1 + c / 7, "mean_ttft_ms": 70.3 + 9.3 * c}
            | changed
            for c in (1, 4, 16)
        ]

    told = flags(*report("h100_sxm"), *report("a100_sxm"))
    assert len(under(told, "copied_report")) == 6
    assert "2 more points" in told["a100_sxm llama-8b 4"]["copied_report"]
    assert len(under(flags(*report("h100_sxm"), *report("h100_sxm", "glm-5")), "copied_report")) == 6
    # One point may be chance, and what differs in precision alone may be one model measured on one GPU twice.
    assert under(flags(*report("h100_sxm"), *report("a100_sxm")[:1]), "copied_report") == []
    assert under(flags(*report("h100_sxm"), *report("h100_sxm", weight_quant="fp8")), "copied_report") == []


def test_ambiguous_configurations():
    told = flags(
        RUN | {"src_ref": "fast"},
        RUN | {"src_ref": "slow", "mean_tpot_ms": 13.0},
        RUN | {"src_ref": "other", "mean_tpot_ms": 20.0, "concurrency": 16},
        RUN | {"src_ref": "told", "concurrency": 32, "ambiguous_config": True},
    )
    assert under(told, "ambiguous_config") == ["fast", "slow", "told"]
    assert "1.30x" in told["slow"]["ambiguous_config"]


@pytest.mark.parametrize(
    ("flag", "doubtful", "fine"),
    [
        ("speculative_unknown", {"spec_decode": None}, {"spec_decode": True, "spec_algorithm": "MTP"}),
        (
            "speculative_variants",
            {"flags_variants": [{"spec_decode": True}, {"spec_decode": False}]},
            {"flags_variants": [{"spec_decode": True, "tp": 1}, {"spec_decode": True, "tp": 2}]},
        ),
        ("length_unknown", {"isl": None}, {"isl": None, "mean_isl_actual": 900.0}),
        (
            "length_spread_unknown",
            {"range_ratio": None},
            {"range_ratio": None, "mean_isl_actual": 900.0, "mean_osl_actual": 200.0},
        ),
        ("precision_unknown", {"weight_quant": None}, {"weight_quant": None, "gemm_quant_src": "fp8"}),
        ("expert_width_doubtful", {"tp": 4, "ep": 1, "expert_parallel": True}, {"ep": 4, "expert_parallel": True}),
        ("expert_width_doubtful", {"ep": 4, "expert_parallel": False}, {"ep": 1, "expert_parallel": False}),
        ("cold_first_wave", {"num_warmups": 0}, {"num_warmups": None}),
        ("queueing", {"load": "burst"}, {"load": "open", "request_rate": 1.0}),
        ("queueing", {"concurrency": 1024}, {"concurrency": 1023}),
        ("queueing", {"osl": 512, "mean_ttft_ms": 1800.0}, {"mean_ttft_ms": 1800.0}),
        # 8 requests in flight, 10 ms a token, 800 tokens/s if all of them decode: 400 are those of half of them.
        ("batch_limit_unknown", {"osl": 512, "output_tok_s": 400.0}, {"osl": 512, "output_tok_s": 700.0}),
        (
            "batch_limit_unknown",
            {"osl": 512, "output_tok_s": 400.0},
            {"osl": 512, "output_tok_s": 400.0, "max_running_requests": 4},
        ),
        # 8 requests in flight, 10 ms a token: 800 tokens/s at most, less the prefills.
        ("throughput_contradiction", {"output_tok_s": 1000.0}, {"output_tok_s": 780.0}),
        ("throughput_contradiction", {"output_tok_s": 1000.0}, {"output_tok_s": 1000.0, "load": "open"}),
        ("throughput_contradiction", {"output_tok_s": 1000.0}, {"output_tok_s": 1000.0, "median_tpot_ms": 7.0}),
        ("throughput_contradiction", {"output_tok_s": 700.0, "mean_e2e_ms": 4000.0}, {"output_tok_s": 700.0}),
        (
            "throughput_contradiction",
            {"output_tok_s": 700.0, "total_tok_s": 4000.0, "mean_isl_actual": 1024.0, "mean_osl_actual": 256.0},
            {"output_tok_s": 700.0, "total_tok_s": 3500.0, "mean_isl_actual": 1024.0, "mean_osl_actual": 256.0},
        ),
        (
            "throughput_contradiction",
            {"output_tok_s": 700.0, "tok_s_per_gpu": 700.0, "n_gpus": 2},
            {"output_tok_s": 700.0, "tok_s_per_gpu": 350.0, "n_gpus": 2},
        ),
        ("polluted_mean", {"concurrency": 1, "median_ttft_ms": 20.0}, {"concurrency": 1, "median_ttft_ms": 50.0}),
        # 80 prompts from 8 clients: a first wave adds 32 prefills, which is 640 ms here; 6400 ms are more.
        ("polluted_mean", {"median_ttft_ms": 20.0}, {"median_ttft_ms": 20.0, "num_prompts": 24}),
        ("polluted_mean", {"median_ttft_ms": 20.0}, {"median_ttft_ms": 20.0, "concurrency": 64}),
        ("lumped_stream", {"median_itl_ms": 0.01}, {"median_itl_ms": 8.0}),
        ("lumped_stream", {"mean_tpot_ms": 0.005, "osl": 64}, {"mean_tpot_ms": 0.005, "osl": 16}),
        # A line of prompts that takes most of the time is no lumped stream.
        ("lumped_stream", {"mean_tpot_ms": 0.005}, {"mean_ttft_ms": 9000.0}),
        # 128 streams at 10 ms a token are 12,800 chunks a second.
        ("host_bound", {"concurrency": 128}, {"concurrency": 112}),
        ("host_bound", {"concurrency": 128}, {"concurrency": 128, "stream_interval": 10}),
        ("cached_prompts", {"cache_hit_rate_pct": 60.0}, {"cache_hit_rate_pct": 0.4}),
    ],
)  # fmt: skip
def test_rules_about_one_run(flag, doubtful, fine):
    assert flag in one(**doubtful)
    assert flag not in one(**fine)


def test_figures_that_lack_doubt_nothing():
    bare = {
        "engine": "vllm",
        "load": "closed",
        "output_tok_s": 5.0,
        "spec_decode": False,
        "weight_quant": "fp8",
    }
    assert flags(bare | {"src_ref": "bare"}).keys() == {"bare"}
    assert set(flags(bare | {"src_ref": "bare"})["bare"]) == {"length_unknown"}


def test_flags_of_others_stay_and_a_second_time_changes_nothing():
    connection = evidence.empty()
    evidence.fill(
        connection, [RUN | {"src_ref": "a", "num_warmups": 0}, RUN | {"src_ref": "b", "concurrency": 9}]
    )
    connection.execute("INSERT INTO flags SELECT run_id, 'cold_first_wave', 'fans', 'user' FROM run_records")
    counts = quality.refresh(connection)
    assert counts == {"cold_first_wave": 1}
    before = connection.execute("FROM flags ORDER BY ALL").fetchall()
    assert quality.refresh(connection) == counts
    assert connection.execute("FROM flags ORDER BY ALL").fetchall() == before
    assert len(before) == 3


def test_a_scoped_refresh_flags_what_a_whole_one_does():
    first = [
        RUN | {"src_ref": "a", "num_warmups": 0},
        RUN | {"src_ref": "b", "concurrency": 9, "spec_decode": None},
    ]
    later = [
        RUN | {"src_ref": "c", "dp": 1},
        RUN | {"src_ref": "d", "concurrency": 9, "mean_tpot_ms": 20.0, "spec_decode": None},
    ]
    connection = evidence.empty()
    evidence.fill(connection, first)
    quality.refresh(connection)
    known = {run_id for (run_id,) in connection.execute("SELECT run_id FROM run_records").fetchall()}
    evidence.fill(connection, later)
    new = {run_id for (run_id,) in connection.execute("SELECT run_id FROM run_records").fetchall()} - known
    counts = quality.refresh(connection, new)
    scoped = connection.execute("FROM flags ORDER BY ALL").fetchall()
    assert quality.refresh(connection) == counts
    assert connection.execute("FROM flags ORDER BY ALL").fetchall() == scoped
    assert counts["ambiguous_config"] == 2
    assert counts["repeat"] == 1


@pytest.fixture(scope="module")
def shipped(published):
    connection = evidence.empty()
    evidence.fill(connection, published)
    return connection, quality.refresh(connection)


def test_shipped_runs_under_each_rule(shipped):
    assert shipped[1] == {
        "ambiguous_config": 212, "batch_limit_unknown": 36, "cold_first_wave": 765, "expert_width_doubtful": 234,
        "host_bound": 40, "length_spread_unknown": 778, "length_unknown": 627, "near_repeat": 118, "polluted_mean": 3,
        "precision_unknown": 372, "queueing": 556, "repeat": 95, "speculative_unknown": 1454,
        "speculative_variants": 139, "throughput_contradiction": 6,
    }  # fmt: skip


def test_shipped_totals_given_as_output_are_found(shipped):
    rows = (
        shipped[0]
        .execute(
            "SELECT src_ref, output_tok_s * tpot_ms_unspecified / 1000 / concurrency FROM runs "
            "WHERE list_contains(flags, 'throughput_contradiction')"
        )
        .fetchall()
    )
    assert {src_ref.rsplit("/", 1)[1] for src_ref, _ in rows} == {"deepseek-v4-benchmarks.jsx"}
    # Prompts of 8192 and answers of 1024 tokens: the total is nine times the output.
    assert all(6.0 < ratio < 9.0 for _, ratio in rows)


def test_no_shipped_run_is_faster_than_the_datasheet(published):
    assert faster_than_datasheet({**record, "run_id": "x"} for record in published) == []


def test_faster_than_the_datasheet():
    """Llama-3.1-8B has 7.5e9 weights without the embedding: 4.48 ms at 3.35 TB/s in 16 bit."""
    base = RUN | {"model": "meta-llama/Llama-3.1-8B-Instruct", "run_id": "r"}
    least = 1e3 * 2 * (8.03e9 - 128256 * 4096) / 3.35e12
    slow, fast = (base | {"mean_tpot_ms": least / MARGIN * factor} for factor in (1.01, 0.99))
    assert faster_than_datasheet([slow]) == []
    (found,) = faster_than_datasheet([slow | {"run_id": "slow"}, fast])
    assert (found["run_id"], found["flag"]) == ("r", FLAG)
    assert "3.35 TB/s" in found["reason"]
    assert "h100" in found["reason"]
    assert math.isclose(float(found["reason"].split(" takes ")[1].split()[0]), least, rel_tol=0.01)
    halved = fast | {"weight_quant": "fp8"}
    assert faster_than_datasheet([halved]) == []
    assert faster_than_datasheet([fast | {"tp": 2, "n_gpus": 2}]) == []
    assert faster_than_datasheet([fast | {"weight_quant": None}]) == []


def test_accepted_drafts_divide_what_a_step_must_read():
    model = {
        "model": "deepseek-ai/DeepSeek-V3",
        "weight_quant": "fp8_block",
        "tp": 8,
        "n_gpus": 8,
        "gpu": "h200_sxm",
    }
    drafted = {"spec_decode": True, "spec_algorithm": "MTP", "spec_steps": 3}
    quick = RUN | model | {"run_id": "r", "mean_tpot_ms": 0.6}
    assert len(faster_than_datasheet([quick])) == 1
    assert len(faster_than_datasheet([quick | drafted | {"accept_length": 1.1}])) == 1
    assert faster_than_datasheet([quick | drafted | {"accept_length": 3.0}]) == []
