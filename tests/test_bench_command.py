"""The line of a benchmark client: what each client calls the same load, by version."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicalib.errors import InvalidValue, NotCovered, UnknownName
from aicalib.measure.client import Load, bench_command, prompts_for

URL = "http://127.0.0.1:30000"
LOAD = Load(1024, 256, concurrency=32)


def command(engine="sglang", version="0.5.23", load=LOAD, seed=7, **others):
    return bench_command(engine, version, URL, "org/model", load, seed, **others)


def value(argv, flag):
    return argv[argv.index(flag) + 1]


def test_fixed_lengths_are_a_ratio_of_1_for_one_client_and_of_0_for_the_other():
    assert value(command("sglang"), "--random-range-ratio") == "1"
    assert value(command("vllm", "0.32.0"), "--random-range-ratio") == "0"


lengths = st.integers(1, 10**5)


@given(lengths, lengths, st.integers(1, 512), st.floats(0.0, 0.9))
def test_both_clients_draw_from_the_same_lengths(isl, osl, concurrency, spread):
    load = Load(isl, osl, concurrency, spread=spread)
    one, other = command(load=load), command("vllm", "0.32.0", load)
    longest, ratio = int(value(one, "--random-input-len")), float(value(one, "--random-range-ratio"))
    mean, half = int(value(other, "--random-input-len")), float(value(other, "--random-range-ratio"))
    assert longest == pytest.approx(mean * (1 + half), abs=0.5)
    assert ratio * longest == pytest.approx(mean * (1 - half), abs=0.5)
    for argv in (one, other):
        assert value(argv, "--num-prompts") == str(prompts_for(load))
        assert value(argv, "--max-concurrency") == str(concurrency)


def test_an_open_load_has_a_rate_and_no_cap():
    argv = command(load=Load(128, 64, request_rate=2.5))
    assert value(argv, "--request-rate") == "2.5"
    assert "--max-concurrency" not in argv


def test_an_older_client_gets_no_flag_that_it_would_refuse():
    assert command(version="0.5.12", tag="a")[:3] == ("python", "-m", "sglang.bench_serving")
    assert command()[:3] == ("python", "-m", "sglang.benchmark.serving")
    assert "--tag" in command(version="0.5.9", tag="a")
    assert "--tag" not in command(version="0.4.6.post5", tag="a")
    assert "--num-warmups" in command("vllm", "0.20.0")
    assert "num_warmups=1" in command("vllm", "0.11.0", warmups=4)


def test_what_the_file_of_vllm_would_lack_goes_along_as_metadata():
    argv = command("vllm", "0.32.0", output="raw/one.json", metadata={"gpu": "h100-sxm", "tp": None})
    said = dict(each.split("=", 1) for each in argv[argv.index("--metadata") + 1 : -1])
    assert said["isl"] == "1024"
    assert said["osl"] == "256"
    assert said["seed"] == "7"
    assert said["gpu"] == "h100-sxm"
    assert "tp" not in said
    assert (value(argv, "--result-dir"), value(argv, "--result-filename")) == ("raw", "one.json")


def test_one_engine_may_be_measured_with_the_client_of_the_other():
    argv = command("vllm", "0.32.0", client="sglang", client_version="0.5.6")
    assert argv[2] == "sglang.bench_serving"
    assert value(argv, "--backend") == "vllm"
    assert "--cache-report" not in argv


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"version": "0.3.0"}, NotCovered, "0.4.6"),
        ({"engine": "trtllm"}, UnknownName, "trtllm"),
        ({"load": Load(1024, 256)}, InvalidValue, "concurrency or a request_rate"),
        ({"load": Load(0, 256, 1)}, InvalidValue, "isl 0"),
        ({"load": Load(10, 256, 1, spread=1.0)}, InvalidValue, "spread 1"),
        ({"load": Load(10, 256, request_rate=0.0)}, InvalidValue, "request_rate 0"),
        ({"num_prompts": 8}, InvalidValue, "below concurrency 32"),
    ],
)
def test_what_no_client_can_send_is_refused_by_name(arguments, error, said):
    with pytest.raises(error, match=said):
        command(**arguments)
