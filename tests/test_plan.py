"""Fleets: what must hold of any, whether the model itself says that they hold, and what the command prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aicalib
from aicalib.cli.main import main
from aicalib.errors import InvalidValue
from aicalib.plan.capacity.bins import Bins
from aicalib.plan.capacity.demand import Demand, steady
from aicalib.plan.capacity.fleet import replicas_for
from aicalib.plan.capacity.plan import plan
from aicalib.plan.capacity.sustain import at_rate, holds, quiet, sustained
from aicalib.plan.capacity.trace import read_traffic
from aicalib.plan.price import load_prices
from aicalib.plan.search.best import bound
from aicalib.plan.search.unmet import NoRoom, Unmet
from aicalib.profiles.profile import default_profile, load_profile
from aicalib.report.pictures.day import picture
from aicalib.resolve.rows import resolve

ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / "data" / "traffic"
GOLDEN = Path(__file__).parent / "golden"
LEVEL = (bound("ttft", 2000, "p99"), bound("tpot", 40))
FEW = {"gemm": ["fp8"], "kv": ["auto"], "tp": [1, 2]}


def small(demand, bounds=LEVEL, spare=0.2, **options):
    """Plan a small model on one GPU in one format."""
    return plan("llama-8b", ["h100-sxm"], demand, bounds, spare, **{"only": FEW, **options})


@pytest.fixture(scope="module")
def day():
    """The plan of a made-up day."""
    return small(read_traffic(ROOT / "examples" / "traffic_day.csv"), prices=load_prices("example"))


# Any fleet


@given(st.floats(0.01, 1e4), st.floats(0, 3), st.floats(0.01, 100))
def test_replicas_carry_the_traffic_and_one_less_would_not(rate, spare, each):
    found = float(replicas_for(np.array([rate]), spare, np.array([each]))[0])
    assert found * each >= rate * (1 + spare) * (1 - 1e-6)
    assert found == 1 or (found - 1) * each < rate * (1 + spare)


@settings(max_examples=4)
@given(rate=st.floats(0.5, 400), more=st.floats(1, 5), spare=st.floats(0, 1), further=st.floats(0, 1))
def test_more_traffic_or_more_spare_never_needs_fewer_gpus(rate, more, spare, further):
    least = small(steady(rate, 2000, 300), spare=spare).best.gpus
    busier = small(steady(rate * more, 2000, 300), spare=spare).best.gpus
    safer = small(steady(rate, 2000, 300), spare=spare + further).best.gpus
    for other in (busier, safer):
        assert all(a <= b for a, b in zip(least, other, strict=True))


@settings(max_examples=4)
@given(
    ttft=st.floats(300, 4000),
    tpot=st.floats(15, 80),
    ease=st.floats(1, 3),
    percentile=st.sampled_from([None, "p90"]),
)
def test_a_stricter_level_never_needs_fewer_gpus(ttft, tpot, ease, percentile):
    demand = steady(80, 2000, 300)
    strict = small(demand, [bound("ttft", ttft, percentile), bound("tpot", tpot, percentile)]).best
    easy = small(
        demand, [bound("ttft", ttft * ease, percentile), bound("tpot", tpot * ease, percentile)]
    ).best
    assert strict.gpus.value >= easy.gpus.value
    assert strict.rate.value <= strict.limit


def test_the_cost_scales_with_the_price(tmp_path, day):
    path = tmp_path / "prices.toml"
    path.write_text('currency = "USD"\ndate = 2026-11-01\nsource = "x"\n[gpu.h100-sxm]\nper_hour = 6.4\n')
    dearer = small(day.demand, prices=load_prices(path)).best.cost
    cheap = day.best.cost
    assert dearer.per_hour == pytest.approx([2 * each for each in cheap.per_hour])
    assert dearer.autoscaled_per_hour == pytest.approx(2 * cheap.autoscaled_per_hour)
    assert dearer.per_million_output == pytest.approx([2 * each for each in cheap.per_million_output])


def test_energy_that_is_paid_apart_is_in_the_cost(tmp_path):
    head = 'currency = "USD"\ndate = 2026-11-01\nsource = "x"\npue = 1.5\nenergy_per_kwh = 0.5\n'
    path = tmp_path / "prices.toml"
    path.write_text(head + "[gpu.h100-sxm]\nper_hour = 2\nbusy_w = 600\nidle_w = 100\n")
    best = small(steady(80, 2000, 300), prices=load_prices(path)).best
    watts = 1.5 * (100 + 500 * best.utilisation[0])
    assert best.draw.mean_kw == pytest.approx(best.gpus.value * watts / 1e3)
    assert best.cost.per_hour.value == pytest.approx(best.gpus.value * (2 + 0.5 * watts / 1e3))


def test_utilisation_stays_below_one_and_each_bin_has_what_it_needs(day):
    for fleet in day.fleets:
        assert ((fleet.utilisation >= 0) & (fleet.utilisation <= 1)).all()
        assert fleet.needed.max() == fleet.size == fleet.replicas.value
        assert fleet.replicas.low <= fleet.replicas.value <= fleet.replicas.high
        assert fleet.cost.autoscaled_per_hour <= fleet.cost.per_hour.value
        assert fleet.draw.autoscaled_energy_kwh <= fleet.draw.energy_kwh


def test_the_cost_of_tokens_is_the_cost_of_the_day_by_its_tokens(day):
    tokens_in, tokens_out = day.demand.tokens
    cost, paid = day.best.cost, day.best.cost.per_hour.value * 24
    assert cost.per_million_output.value == pytest.approx(paid / tokens_out * 1e6)
    assert cost.per_million_total.value == pytest.approx(paid / (tokens_in + tokens_out) * 1e6)
    assert cost.per_million_output_at_peak.value < cost.per_million_output.value


@given(st.data())
def test_the_bin_that_needs_most_is_among_the_critical_ones(data):
    n = data.draw(st.integers(1, 40))
    floats = [data.draw(st.lists(st.floats(1, 1000), min_size=n, max_size=n)) for _ in range(3)]
    rate, isl, osl = (np.array(each) for each in floats)
    demand = Demand(300.0, rate, isl, osl, np.array([f"{at} s" for at in range(n)]), {}, "")
    load = rate * np.array([np.ones(n), isl, osl])
    for weights in ([1, 0, 0], [0, 1, 0], [0, 0, 1], [3, 3, 2], [2, 1, 5]):
        need = np.array(weights) @ (load / load.max(axis=1, keepdims=True))
        assert need[Bins(None, demand, (), False, None).critical()].max() == pytest.approx(need.max())


# What the model itself says


def test_rates_in_many_bins_are_read_between_nodes_and_those_that_size_a_fleet_are_asked_for():
    chance = np.random.default_rng(3)
    rate, isl, osl = (
        chance.uniform(1, 60, 400),
        chance.lognormal(7, 0.3, 400),
        chance.lognormal(5.5, 0.2, 400),
    )
    demand = Demand(300.0, rate, isl, osl, np.array([f"{300 * at} s" for at in range(400)]), {}, "made up")
    best = small(demand, spare=0.0).best
    row = {name: best.deployment[name] for name in ("model", "gpu", "gemm", "fmha", "tp")}
    load = {"isl": isl, "osl": osl, "request_rate": rate}
    batch = resolve({name: [value] * 400 for name, value in row.items()} | load)
    exact = sustained(batch, LEVEL, default_profile(), ())
    needed = np.ceil(rate / exact.rate)
    assert best.size == needed.max()
    assert (best.needed == needed).mean() > 0.95
    off = best.utilisation * best.size * exact.limit / rate - 1.0
    assert np.median(np.abs(off)) < 0.005
    assert np.abs(off).max() < 0.15


@pytest.mark.parametrize("percentile", [None, "p99"])
def test_a_replica_keeps_the_level_up_to_its_rate_and_not_beyond(percentile):
    bounds = [
        bound("ttft", 1500, percentile),
        bound("tpot", 40, percentile),
        bound("latency", 12000, percentile),
    ]
    rows = [
        ("llama-8b", "l40s", 1),
        ("llama-70b", "h100-sxm", 4),
        ("qwen3-32b", "h200-sxm", 1),
        ("gpt-oss-120b", "b200", 1),
    ]
    models, gpus, widths = zip(*rows, strict=True)
    batch = resolve({
        "model": models, "gpu": gpus, "tp": widths, "engine": ["sglang", "vllm", "vllm", "sglang"],
        "isl": [1000, 2000, 500, 3000], "osl": [200, 300, 400, 100], "request_rate": [1.0] * 4,
    })  # fmt: skip
    assert not batch.refused
    profile = default_profile()
    found = sustained(batch, bounds, profile)
    assert (found.rate > 0).all()
    for share in (0.1, 0.5, 0.9, 1.0):
        assert holds(at_rate(batch, share * found.rate, profile), bounds).all()
    beyond = found.rate + 0.002 * found.limit
    assert not holds(at_rate(batch, beyond, profile), bounds).any()
    assert ((found.low <= found.rate) & (found.rate <= found.high)).all()


def test_where_runs_were_slower_than_the_physics_less_of_its_limit_is_used():
    batch = resolve({
        "model": ["deepseek-r1"], "gpu": ["h200-sxm"], "tp": [8], "engine": ["vllm"], "isl": [1024], "osl": [1024],
        "request_rate": [1.0],
    })  # fmt: skip
    profile, level = default_profile(), [bound("ttft", 60000)]
    found = sustained(batch, level, profile, ())
    physics = sustained(batch, level, replace(profile, levels={}, fitted={}), ())
    slower = np.exp(quiet(batch, profile).levels.log["tpot_ms"])
    assert slower[0] > 1.2
    assert found.limit * slower == pytest.approx(physics.limit)
    assert 0.9 * found.limit < found.rate <= found.limit


def test_the_planned_fleet_keeps_its_level_as_predict_has_it(day, capsys):
    for fleet in day.fleets:
        at = fleet.sized_by
        asked = ("model", "gpu", "gemm", "kvcache", "fmha", "tp", "engine", "engine_version")
        options = [
            item
            for name in asked
            for item in (
                f"--{'kv' if name == 'kvcache' else name.replace('_', '-')}",
                str(fleet.deployment[name]),
            )
        ]
        demand = day.demand
        load = {
            "--request-rate": demand.requests_s[at] / fleet.size,
            "--isl": demand.isl[at],
            "--osl": demand.osl[at],
        }
        with pytest.raises(SystemExit) as left:
            main(["predict", "--json", *options, *(str(item) for pair in load.items() for item in pair)])
        answer = json.loads(capsys.readouterr().out)
        assert (left.value.code, answer["status"]) == (0, "ok")
        assert answer["prediction"]["tpot_ms"]["value"] <= 40
        assert answer["prediction"]["ttft_ms"]["p99"] <= 2000


def test_one_replica_less_would_not_keep_the_level():
    demand = steady(80, 2000, 300)
    best = small(demand, spare=0.0).best
    asked = {name: best.deployment[name] for name in ("model", "gpu", "gemm", "fmha", "tp")}
    batch = resolve({name: [value] for name, value in asked.items()} | {
        "isl": [2000.0], "osl": [300.0], "request_rate": [1.0],
    })  # fmt: skip
    profile = default_profile()
    assert best.size > 1
    assert holds(at_rate(batch, np.array([80 / best.size]), profile), LEVEL).all()
    assert not holds(at_rate(batch, np.array([80 / (best.size - 1)]), profile), LEVEL).any()


def test_requests_held_in_flight_keep_the_level(day):
    held, at = day.best.held, day.best.sized_by
    deployment, workload = aicalib.question(
        **{name: day.best.deployment[name] for name in ("model", "gpu", "gemm", "fmha", "tp")},
        isl=day.demand.isl[at], osl=day.demand.osl[at], concurrency=held.concurrency, num_prompts=10**7,
    )  # fmt: skip
    found = aicalib.predict(deployment, workload)
    assert found.mean["tpot_ms"].value[0] <= 40
    assert found.mean["requests_s"].value[0] == pytest.approx(held.requests_s, rel=1e-3)


def test_robust_fleets_are_sized_by_the_unfavorable_end(day):
    robust = small(day.demand, robust=True)
    plain = {fleet.words: fleet for fleet in day.fleets}
    for fleet in robust.fleets:
        assert fleet.size == fleet.replicas.high
        assert fleet.size >= plain[fleet.words].replicas.value
    with pytest.raises(InvalidValue, match="has no intervals"):
        small(day.demand, robust=True, profile=load_profile("priors"))


def test_a_profile_without_intervals_has_none():
    found = small(
        steady(20, 1000, 100), profile=load_profile("priors"), only=FEW | {"gemm": ["auto", "fp8", "float32"]}
    )
    best = found.best
    assert [fleet.tie for fleet in found.fleets] == [
        fleet is not best and fleet.gpus.value == best.gpus.value for fleet in found.fleets
    ]
    assert best.size == best.replicas.value
    assert np.isnan([*best.replicas[1:], *best.rate[1:]]).all()


def test_formats_that_need_a_checkpoint_stand_apart():
    found = plan(
        "llama-70b",
        ["b200-sxm"],
        steady(20, 1000, 200),
        LEVEL,
        only={"gemm": ["fp8", "nvfp4"], "kv": ["auto"]},
    )
    assert [fleet.needs is None for fleet in found.fleets] == [True, False]
    assert "PATH" in found.fleets[1].launch.argv
    assert not found.best.published
    assert any("whether its answers are good enough" in note for note in found.notes)
    assert not found.fleets[0].tie
    assert not found.fleets[1].tie


def test_a_cache_that_no_kernel_was_timed_with_is_noted():
    asked = {"gemm": ["auto"], "fmha": ["auto"], "tp": [1]}
    narrow, wide = (
        plan("llama-8b", ["b200-sxm"], steady(20, 1000, 200), LEVEL, only=asked | {"kv": [kv]})
        for kv in ("nvfp4", "fp8")
    )
    assert any("nvfp4 cache was timed" in note for note in narrow.notes)
    assert not any("was timed" in note for note in wide.notes)


def test_several_gpus_are_compared_by_price_and_by_number_without():
    demand = steady(60, 2000, 300)
    gpus = ["l40s", "h100-sxm"]
    by_number = plan("llama-8b", gpus, demand, LEVEL, only=FEW)
    assert [fleet.gpus.value for fleet in by_number.fleets] == sorted(
        fleet.gpus.value for fleet in by_number.fleets
    )
    assert all(fleet.cost is None for fleet in by_number.fleets)
    assert "no prices" in by_number.notes[0]
    by_price = plan(
        "llama-8b",
        ["l40", "h100-sxm"],
        demand,
        LEVEL,
        prices=load_prices("example"),
        only=FEW | {"gemm": ["auto"]},
    )
    hours = [fleet.cost.per_hour.value for fleet in by_price.fleets]
    assert hours == sorted(hours)
    assert {fleet.deployment["gpu"] for fleet in by_price.fleets} == {"l40", "h100-sxm"}


def test_answers_of_one_token_have_no_time_between_tokens():
    best = small(steady(20, 1000, 1)).best
    assert best.size >= 1
    assert best.binds.startswith(("TTFT", "throughput"))


def test_what_the_prefix_cache_holds_is_not_prefilled():
    demand = steady(60, 4000, 100)
    assert small(demand, prefix_hit=0.8).best.rate.value > 1.5 * small(demand).best.rate.value


def test_a_gpu_of_ones_own_has_a_price_of_ones_own(tmp_path):
    gpu, path = tmp_path / "mine.toml", tmp_path / "prices.toml"
    gpu.write_text('name = "my gpu"\nlike = "h100-sxm"\npower_w = 500\n')
    path.write_text('currency = "EUR"\ndate = 2026-11-01\nsource = "x"\n[gpu.my-gpu]\nper_hour = 1.5\n')
    best = plan("llama-8b", [str(gpu)], steady(20, 1000, 100), LEVEL, prices=load_prices(path), only=FEW).best
    assert best.cost.per_hour.value == 1.5 * best.gpus.value
    assert best.draw.peak_kw == 0.5 * best.gpus.value


def test_a_rate_has_no_day_to_draw():
    with pytest.raises(InvalidValue, match="no day to draw"):
        picture(small(steady(20, 1000, 100)).as_dict())


def test_tables_have_a_row_a_fleet_and_a_row_a_bin(day):
    table = day.frame()
    assert len(table) == len(day.fleets)
    assert (table.gpus == [fleet.gpus.value for fleet in day.fleets]).all()
    assert (table.cost_per_hour_low <= table.cost_per_hour).all()
    bins = day.best.frame(day.demand)
    assert len(bins) == 96
    assert (bins.needed <= bins.replicas).all()


# What cannot be


@pytest.mark.parametrize(("ttft_ms", "said"), [(60, True), (2000, False)])
def test_a_level_that_is_barely_reached_is_said_to_be(ttft_ms, said):
    found = small(steady(20, 2000, 300), [bound("ttft", ttft_ms, "p99"), bound("tpot", 40)])
    assert any(f"TTFT p99 of {ttft_ms} ms is barely reached" in note for note in found.notes) == said


def test_fleets_under_which_some_formats_serve_nothing_divide_by_nothing():
    level = [bound("ttft", 2000, "p99"), bound("tpot", 50)]
    found = plan("llama-8b", ["l40"], read_traffic(ROOT / "examples" / "traffic_day.csv"), level)
    assert all(np.isfinite(fleet.load) for fleet in found.fleets)


def test_an_impossible_level_names_the_bound_and_the_nearest_that_works():
    demand = steady(20, 2000, 300)
    with pytest.raises(
        Unmet, match=r"TTFT p99 of 5 ms cannot be kept at any rate .* the nearest is"
    ) as refused:
        small(demand, [bound("ttft", 5, "p99"), bound("tpot", 40)])
    option, value = refused.value.alternatives[0].removesuffix("@p99").split()
    assert option == "--ttft-ms"
    assert small(demand, [bound("ttft", float(value), "p99"), bound("tpot", 40)]).best.size >= 1
    with pytest.raises(Unmet, match=r"TPOT of 1 ms cannot be kept") as refused:
        small(demand, [bound("ttft", 2000), bound("tpot", 1)])
    option, value = refused.value.alternatives[0].removesuffix("@p99").split()
    assert small(demand, [bound("ttft", 2000), bound("tpot", float(value))]).best.size >= 1


def test_a_bin_that_no_rate_serves_is_named(tmp_path):
    path = tmp_path / "traffic.csv"
    path.write_text("time,rps,isl,osl\n0,9,500,50\n3600,0.1,100000,50\n7200,9,500,50\n")
    with pytest.raises(Unmet, match="in the bin from 3600 s"):
        small(read_traffic(path))


def test_a_model_that_fits_nowhere():
    with pytest.raises(NoRoom, match="llama-70b fits nowhere: no width of l4 up to 2 GPUs a replica"):
        plan("llama-70b", ["l4"], steady(1, 100, 10), LEVEL, most_gpus=2)


def test_a_level_that_bounds_no_wait_is_refused():
    with pytest.raises(InvalidValue, match="requests could wait without end"):
        small(steady(1, 100, 10), [bound("tpot", 50)])


@pytest.mark.parametrize("spare", [-0.1, float("nan"), float("inf")])
def test_spare_is_a_share(spare):
    with pytest.raises(InvalidValue, match="spare"):
        small(steady(1, 100, 10), spare=spare)


# The command

GOLDENS = {
    "help-plan": "plan --help",
    "plan-rate": "plan --gpu h100-sxm,h200-sxm --rate 12 --isl 2000 --osl 400 --ttft-ms 2000 --tpot-ms 50 "
    "--gemm fp8,bfloat16 --kv auto --prices example",
    "plan-traffic": "plan --model llama-8b --gpu l40,h100-sxm --traffic examples/traffic_day.csv --ttft-ms 2000@p99 "
    "--gemm auto,fp8 --kv auto --prices example",
}


@pytest.fixture
def command(capsys, monkeypatch, tmp_path):
    """Run a command from the root of the project."""
    monkeypatch.setenv("AICALIB_DB", str(tmp_path / "store.duckdb"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(ROOT)

    def run(*arguments):
        with pytest.raises(SystemExit) as left:
            main([str(each) for each in arguments])
        out, err = capsys.readouterr()
        return left.value.code, out, err

    return run


@pytest.mark.parametrize("name", GOLDENS)
def test_golden(command, name):
    status, out, err = command(*GOLDENS[name].split())
    assert (status, err) == (0, "")
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("AICALIB_RENEW_GOLDEN"):
        path.write_text(out)
    assert out == path.read_text()


def test_the_page_shows_what_the_command_prints():
    page = (ROOT / "docs" / "plan.md").read_text()
    assert f"$ aicalib {GOLDENS['plan-traffic']}\n{(GOLDEN / 'plan-traffic.txt').read_text()}```" in page


def test_the_json_has_every_key_and_no_number_that_is_none(command):
    status, out, _ = command(*GOLDENS["plan-traffic"].split(), "--json")
    found = json.loads(out)
    assert status == 0
    assert set(found) == {
        "model", "profile", "demand", "level", "spare", "robust", "prices", "considered", "fleets", "bins", "dropped",
        "notes",
    }  # fmt: skip
    assert len(found["bins"]) == found["demand"]["bins"] == 96
    for fleet in found["fleets"]:
        assert fleet["gpus"]["value"] == fleet["replicas"]["value"] * fleet["gpus_per_replica"]
        assert fleet["argv"][0] == "python"
        assert fleet["cost"]["per_hour"]["low"] <= fleet["cost"]["per_hour"]["high"]


def test_each_bound_has_its_own_percentile_and_what_is_proposed_says_which(command):
    def ask(words):
        start = "plan --model llama-8b --rate 5 --isl 1000 --osl 200 --tp 1 --gemm auto --kv auto --json "
        status, out, _ = command(*(start + words).split())
        return status, json.loads(out)

    status, found = ask("--ttft-ms 900@p99 --tpot-ms 50 --e2e-ms 9000@mean --percentile p90")
    assert status == 0
    level = {each["metric"]: each["percentile"] for each in found["level"]}
    assert level == {"ttft": "p99", "tpot": "p90", "latency": None}
    status, refused = ask("--ttft-ms 5@p99 --tpot-ms 1")
    proposed = refused["error"]["alternatives"]
    assert (status, [each.partition("@")[2] for each in proposed]) == (2, ["p99", "mean"])
    assert ask(" ".join(proposed))[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--ttft-ms 1000", "no traffic is given"),
        ("--rate 1 --traffic x.csv --ttft-ms 1000", "two kinds of traffic"),
        ("--rate 1 --ttft-ms 1000", "needs the tokens of a request"),
        ("--rate 1 --isl 9 --osl 9 --lengths D(9,9) --ttft-ms 1000", "--lengths says what"),
        ("--rate 1 --lengths X(9) --ttft-ms 1000", "is no scenario"),
        ("--rate 0 --isl 9 --osl 9 --ttft-ms 1000", "there is no traffic to plan for"),
        ("--rate 1 --isl 9 --osl 9", "bounds neither TTFT nor end-to-end"),
        ("--rate 1 --isl 9 --osl 9 --ttft-ms 1000 --percentile p42", "unknown percentile 'p42'"),
        ("--rate 1 --isl 9 --osl 9 --ttft-ms 1000@p42", "unknown percentile 'p42'"),
        ("--rate 1 --isl 9 --osl 9 --ttft-ms 1s", "--ttft-ms 1s: it is milliseconds"),
        ("--rate 1 --isl 9 --osl 9 --ttft-ms @p99", "--ttft-ms @p99: it is milliseconds"),
        ("--rate 1 --isl 9 --osl 9 --ttft-ms -5", "is not a time above 0"),
        ("--rate 1 --isl 9 --osl 9 --ttft-ms 1000 --bin-minutes 5", "are for --traffic"),
        ("--rate 1 --isl 9 --osl 9 --ttft-ms 1000 --tp two", "--tp two: these are whole numbers"),
        ("--rate 1 --isl 9 --osl 9 --ttft-ms 1000 --plot day.png", "a rate has none"),
        ("--traffic x.csv --ttft-ms 1000", "there is no x.csv"),
        ("--traffic x.csv --ttft-ms 1000 --column time", "--column time: it names a column"),
        ("--traffic examples/traffic_day.csv --ttft-ms 1000 --plot day.gif", "must end in .png or .svg"),
        ("--rate 1 --isl 9 --osl 9 --ttft-ms 1000 --gpu h100,h100", "names one twice"),
        ("--rate 1 --isl 9 --osl 9 --ttft-ms 1000 --gpu h1000", "unknown"),
        ("--rate 1 --isl 9 --osl 9 --ttft-ms 1000 --gpu mi300x --prices example", "has no price of mi300x"),
    ],
)
def test_wrong_requests_are_refused(command, arguments, said):
    status, out, err = command("plan", *arguments.split(), "--json")
    assert status == 2
    assert said in json.loads(out)["error"]["message"]
    assert said in err
    assert "Traceback" not in err


def test_the_day_is_drawn(command, tmp_path):
    file = tmp_path / "day.svg"
    status, _, _ = command(*GOLDENS["plan-traffic"].split(), "--plot", file)
    text = file.read_text()
    assert status == 0
    for words in (
        "replicas of the fleet",
        "utilisation of the fleet",
        "requests a second",
        "example prices of",
    ):
        assert words in text


def test_its_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom aicalib.cli.main import main\n"
        "try: main(['plan', '--help'])\nexcept SystemExit: pass\n"
        "print([name for name in ('pandas', 'matplotlib', 'numpy', 'duckdb') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"
