"""Traffic and prices as files give them: what is read, and what is refused with its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicalib.errors import InvalidValue, RequestError, UnknownName
from aicalib.hardware import get_accelerator, list_accelerators
from aicalib.plan.capacity.demand import describe, steady
from aicalib.plan.capacity.trace import read_traffic
from aicalib.plan.price import load_prices, power_of

DATA = Path(__file__).parent / "data" / "traffic"
EXAMPLES = Path(__file__).parent.parent / "examples"
STRETCHES = "time,requests_s,isl,osl\n"


@pytest.fixture
def traffic(tmp_path):
    """Read a text as a file of traffic."""

    def read(text, **options):
        path = tmp_path / "traffic.csv"
        path.write_text(text)
        return read_traffic(path, **options)

    return read


def test_a_log_in_the_shape_of_the_public_traces_is_binned():
    demand = read_traffic(DATA / "requests.csv")
    rows = np.genfromtxt(DATA / "requests.csv", delimiter=",", skip_header=1, usecols=(1, 2))
    told = describe(demand)
    assert told["bins"] == 6
    assert told["bin_s"] == pytest.approx(300, rel=0.01)
    assert told["requests"] == pytest.approx(len(rows))
    assert demand.tokens == pytest.approx(rows.sum(axis=0))
    assert (told["isl"], told["osl"]) == pytest.approx(rows.mean(axis=0))
    assert told["mix"]["isl"]["p99"] == pytest.approx(np.percentile(rows[:, 0], 99))
    assert told["mix"]["total"]["max"] == rows.sum(axis=1).max()
    assert told["peak_begins"].startswith("2023-11-16 18:")


def test_the_order_of_a_log_does_not_count(tmp_path):
    lines = (DATA / "requests.csv").read_text().splitlines()
    path = tmp_path / "shuffled.csv"
    path.write_text("\n".join([lines[0], *reversed(lines[1:])]))
    turned, straight = read_traffic(path), read_traffic(DATA / "requests.csv")
    assert (turned.requests_s == straight.requests_s).all()
    np.testing.assert_allclose(turned.isl, straight.isl)


@given(
    times=st.lists(st.integers(0, 7200), min_size=2, max_size=60).filter(lambda each: len(set(each)) > 1),
    width=st.floats(30, 7200),
)
def test_binning_keeps_every_request_and_token(times, width, tmp_path_factory):
    path = tmp_path_factory.mktemp("traffic") / "log.csv"
    path.write_text("time,isl,osl\n" + "".join(f"{each},{each + 1},7\n" for each in times))
    demand = read_traffic(path, bin_s=width, fill_gaps="zero")
    assert demand.requests == pytest.approx(len(times))
    assert demand.tokens == pytest.approx((sum(times) + len(times), 7 * len(times)))
    assert demand.requests_s.size * demand.width_s == pytest.approx(max(times) - min(times))


def test_stretches_of_time_are_taken_as_they_are(traffic):
    demand = traffic(STRETCHES + "2026-03-02T00:00:00Z,2,100,10\n2026-03-02T01:00:00Z,4,200,30\n")
    assert demand.requests_s.tolist() == [2, 4]
    assert demand.width_s == 3600
    assert demand.tokens == (3600 * (2 * 100 + 4 * 200), 3600 * (2 * 10 + 4 * 30))
    assert demand.begins.tolist() == ["2026-03-02 00:00:00", "2026-03-02 01:00:00"]
    assert demand.busiest_hour == (1, 4)
    counted = traffic("start,count,isl,osl\n0,600,100,10\n300,0,,\n600,300,100,10\n")
    assert counted.requests_s.tolist() == [2, 0, 1]
    assert np.isnan(counted.isl[1])


def test_gaps_are_filled_where_asked(traffic):
    text = STRETCHES + "0,1,100,10\n300,2,100,10\n1200,3,100,10\n1500,2,100,10\n"
    assert traffic(text, fill_gaps="zero").requests_s.tolist() == [1, 2, 0, 0, 3, 2]
    text = "time,isl,osl\n0,2,3\n1300,2,3\n"
    assert (traffic(text, fill_gaps="zero").requests_s > 0).tolist() == [True, False, False, True]


def test_blank_lines_at_the_end_and_columns_that_are_not_known_do_not_count(traffic):
    demand = traffic(
        "Timestamp,Model,Request tokens,Response tokens\n5,GPT-4,472,18\n45,ChatGPT,1087,230\n\n\n"
    )
    assert demand.tokens == (472 + 1087, 18 + 230)


def test_columns_may_be_named_and_lengths_given(traffic):
    demand = traffic("when,n\n0,30\n60,60\n", isl=100, osl=20, columns={"time": "when", "requests": "n"})
    assert demand.requests_s.tolist() == [0.5, 1.0]
    assert demand.tokens == (9000, 1800)


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("", {}, "cannot read"),
        (STRETCHES, {}, "has no traffic: there is no row below its header"),
        (STRETCHES + "0,0,1,1\n300,0,1,1\n", {}, "has no traffic: its 2 rows have no request"),
        ("a,b\n1,2\n", {}, r"no column of its header \(a, b\) is known as a time"),
        ("time,rps\n0,1\n", {}, "is known as isl.*--isl is not given"),
        ("time,isl,osl\n0,9,3\n9,9,3\n", {"isl": 5}, "has a column 'isl': leave isl 5 out"),
        ("time,rps\n0,1\n", {"isl": 0, "osl": 1}, "isl 0: a request has at least one token"),
        ("time,isl,osl\n0,9,3\n700,-2,3\n", {}, "line 3: isl -2 is below 0"),
        ("time,isl,osl\n0,9,3\n700,9,0\n", {}, "line 3: osl is 0 tokens"),
        ("time,isl,osl\n0,9,3\n700,9,\n", {}, "line 3: osl is no number"),
        ("time,isl,osl\n0,9,3\n700,9,many\n", {}, "line 3: osl 'many' is not a number"),
        ("time,isl,osl\n0,9,3\n,9,3\n", {}, "line 3: time is empty"),
        ("time,isl,osl\n0,9,3\nnoon,9,3\n", {}, "line 3: time 'noon' is no number of seconds"),
        ("time,isl,osl\n2026-01-01T00:00,9,3\n2026-13-01T00:00,9,3\n", {}, "line 3: time '2026-13-01T00:00' is"),
        ("time,isl,osl\n2026-01-01T00:00:00Z,9,3\n2026-01-01T02:00:00+01:00,9,3\n", {},
         "line 3: .* has zone \\+01:00, the first row zone Z: one file has one time zone"),
        ("time,isl,osl\n2026-01-01T00:00:00,9,3\n2026-01-01T00:00:00Z,9,3\n", {}, "the first row no zone"),
        ("time,isl,osl\n5,9,3\n5,9,3\n", {}, "has 2 requests, all at one time"),
        ("time,isl,osl\n0,9,3\n1300,9,3\n", {}, "says nothing of 325 s to 975 s"),
        (STRETCHES + "0,1,9,3\n300,1,9,3\n300,1,9,3\n", {}, "line 4: its time is there twice"),
        (STRETCHES + "0,1,9,3\n300,1,9,3\n200,1,9,3\n", {}, "line 4: its time goes back"),
        (STRETCHES + "0,1,9,3\n300,1,9,3\n1200,1,9,3\n", {}, r"says nothing of 600 s to 1200 s \(600 s\)"),
        (STRETCHES + "0,1,9,3\n300,1,9,3\n600,1,9,3\n1000,1,9,3\n", {}, "line 5: 1000 s after the first row"),
        (STRETCHES + "0,-1,9,3\n", {}, "line 2: requests_s -1 is below 0"),
        (STRETCHES + "0,,9,3\n300,1,9,3\n", {}, "line 2: rate is empty"),
        (STRETCHES + "0,1,9,3\n300,1,9,3\n", {"bin_s": 60}, "are 300 s apart"),
        ("time,requests,isl,osl\n0,9,9,3\n", {}, "has one row: how long a stretch is it"),
        ("time,requests,rps,isl,osl\n0,1,1,9,3\n", {}, "has both 'rps' and 'requests'"),
        ("time,arrival,isl,osl\n0,1,9,3\n", {}, "has 2 columns for time: time, arrival"),
        ("timestamp,isl,osl\n1700000000000,9,3\n1700000060000,9,3\n", {}, "line 2: timestamp 17.* is no number of sec"),
        ("time,isl,osl\n0,9,3\n\n60,9,3\n", {}, "line 3: time is empty"),
        ("time,isl,osl\n0,9,3\n60,9,3,5\n", {}, "Expected 3 fields in line 3, saw 4"),
        ("time,rps,isl,osl\n0,1,5,9,3\n60,1,7,9,3\n", {}, "cannot read .* header"),
        ("time,isl,osl\n0,9\n60,9,3\n", {}, "line 2: osl is no number"),
        ("time,isl,osl\n0,9,3\n86400,9,3\n", {"bin_s": 0.1, "fill_gaps": "zero"}, "spans 864000 bins of 0.1 s"),
        (STRETCHES + "0,1,9,3\n", {"bin_s": 0}, "bins of 0 s"),
        (STRETCHES + "0,1,9,3\n", {"columns": {"time": "tim"}}, "did you mean time"),
        (STRETCHES + "0,1,9,3\n", {"columns": {"tyme": "time"}}, "unknown column 'tyme'"),
        (STRETCHES + "0,1,9,3\n", {"fill_gaps": "nil"}, "unknown fill_gaps 'nil'"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_its_line(traffic, text, options, said):
    with pytest.raises(RequestError, match=said) as refused:
        traffic(text, **options)
    assert len(str(refused.value)) < 400


def test_a_file_that_is_not_there():
    with pytest.raises(InvalidValue, match=r"there is no /nowhere\.csv"):
        read_traffic("/nowhere.csv")


@pytest.mark.parametrize(
    ("rate", "isl", "osl"), [(0, 1, 1), (-1, 1, 1), (np.nan, 1, 1), (1, 0, 1), (1, 1, np.inf)]
)
def test_a_rate_without_traffic_is_refused(rate, isl, osl):
    with pytest.raises(InvalidValue):
        steady(rate, isl, osl)


# Prices

PRICES = 'currency = "EUR"\ndate = 2026-11-01\nsource = "contract"\n'


@pytest.fixture
def prices(tmp_path):
    """Read a text as a file of prices."""

    def read(text):
        path = tmp_path / "prices.toml"
        path.write_text(text)
        return load_prices(path)

    return read


def test_the_example_is_marked_dated_and_sourced():
    found = load_prices("example")
    assert found.example
    assert (found.date, found.currency) == ("2026-08-26", "USD")
    assert found.source.startswith("https://")
    known = {each.name for each in list_accelerators()}
    assert set(found.names) <= known


def test_a_gpu_is_found_under_any_spelling(prices):
    found = prices(PRICES + "[gpu.H100_SXM5_80GB]\nper_hour = 2\nbusy_w = 600\nidle_w = 100\n")
    assert found.of(get_accelerator("h100-sxm")).per_hour == 2
    power = power_of(get_accelerator("h100"), found)
    assert (power.idle_w, power.busy_w, power.at(0.5)) == (100, 600, 350)
    assert power.note == "no PUE is given: GPUs alone"


def test_power_that_was_not_given_is_the_boards_and_said_so():
    power = power_of(get_accelerator("h100-sxm"), load_prices("example"))
    assert power.busy_w == power.idle_w == pytest.approx(700 * 1.54)
    assert "board's limit" in power.note
    assert "idle power is not known" in power.note
    assert power_of(get_accelerator("tpu-v5e"), None) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("not toml", "is no TOML"),
        ("", "has no currency"),
        ('currency = "EUR"\nsource = "x"\n[gpu.l4]\nper_hour = 1', "has no date"),
        (
            'currency = "EUR"\ndate = 2026-11-01\n[gpu.l4]\nper_hour = 1',
            "does not say where its prices come from",
        ),
        (PRICES, "has no GPU"),
        (PRICES + "[gpu.l4]\nbusy_w = 70", r"gpu\.l4 has no price"),
        (PRICES + "[gpu]\nl4 = 1.0", r"gpu\.l4 is 1\.0, not a table"),
        (PRICES + "[gpu.l4]\nper_hour = -1", r"gpu\.l4\.per_hour is -1"),
        (PRICES + '[gpu.l4]\nper_hour = "1"', r"per_hour is '1'"),
        (PRICES + "[gpu.l4]\nper_hour = true", "per_hour is True"),
        (PRICES + "[gpu.l4]\nper_hour = nan", "per_hour is nan"),
        (PRICES + "[gpu.l4]\nper_hour = 1\nbusy_watt = 70", "did you mean busy_w"),
        (PRICES + "pu = 1.2\n[gpu.l4]\nper_hour = 1", "did you mean pue"),
        (PRICES + "pue = 0.9\n[gpu.l4]\nper_hour = 1", r"pue is 0\.9"),
        (PRICES + "[gpu.l4]\nper_hour = 1\n[gpu.L4]\nper_hour = 2", "twice"),
    ],
)
def test_prices_that_cannot_be_read_are_refused(prices, text, said):
    with pytest.raises((InvalidValue, UnknownName), match=said):
        prices(text)


def test_a_missing_price_names_the_gpu_and_the_line_to_add(prices):
    found = prices(PRICES + "[gpu.l4]\nper_hour = 1")
    with pytest.raises(InvalidValue, match="has no price of mi300x; it has l4") as refused:
        found.of(get_accelerator("mi300x"))
    assert "[gpu.mi300x] and below it per_hour = PRICE" in refused.value.alternatives[0]


def test_energy_that_is_paid_needs_a_power(prices):
    found = prices("energy_per_kwh = 0.2\n" + PRICES + "[gpu.tpu-v5e]\nper_hour = 1")
    with pytest.raises(InvalidValue, match="nobody says what tpu-v5e draws"):
        power_of(get_accelerator("tpu-v5e"), found)


def test_idle_power_above_that_under_load_is_refused(prices):
    found = prices(PRICES + "[gpu.l4]\nper_hour = 1\nidle_w = 90")
    with pytest.raises(InvalidValue, match="idle_w 90 of l4 is above"):
        power_of(get_accelerator("l4"), found)


def test_there_is_no_such_file():
    with pytest.raises(InvalidValue, match=r"there is no /nowhere\.toml"):
        load_prices("/nowhere.toml")
