"""The loop against a simulated engine: what it finds, what it survives, and when it ends."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from simulated_engine import Simulated

from aicalib.calibrate.records import stored_runs
from aicalib.errors import InvalidValue
from aicalib.loop.loop import Loop
from aicalib.loop.result import calibrated, document
from aicalib.loop.rules import Rules
from aicalib.loop.state import Journal, JournalBroken
from aicalib.plan.tasks.task import read_task
from aicalib.profiles.profile import default_profile
from aicalib.report.loop import HEADER, row, text
from perfdb import Store

ABOUT = {"name": "a task", "task": {"n": 1}}


def task_of(presets=("default", "dynamic-fp8"), tp=(4,), concurrency=(8, 32)):
    return read_task(
        {
            "task_name": "a task", "model": {"id_or_path": "meta-llama/Llama-3.3-70B-Instruct"},
            "base_runtime": "sglang", "runtime_image_tag": "v0.5.9", "quant_config": {"presets": list(presets)},
            "parameters": {"tp-size": list(tp)}, "optimization": {"objective": "minimize_latency"},
            "benchmark": {
                "traffic_scenarios": ["D(1024,256)"], "num_concurrency": list(concurrency), "gpu_type": "h100-sxm",
            },
        }
    )  # fmt: skip


def surprise(line):
    """Return factors that no prediction knows: the FP8 start, which is predicted to be the best, is not."""
    return (1.3, 1.6) if "fp8" in line else (0.8, 0.8)


class Bench:
    """A loop's surroundings, that outlive it."""

    def __init__(self, folder, task, rules, **engine):
        self.folder, self.task, self.rules = folder, task, rules
        self.store = folder / "store.duckdb"
        self.engine = Simulated(self.store, folder, **engine)
        self.events = []

    def run(self, journal=Journal, clock=None, watch=lambda event: None, about=ABOUT):
        def watched(event):
            self.events.append(event)
            watch(event)

        with journal(self.folder, about, **({} if clock is None else {"clock": clock})) as kept:
            self.journal = kept
            return Loop(
                self.task, self.store, self.engine, kept, default_profile(), self.rules, watch=watched
            ).run()

    @property
    def state(self):
        return self.journal.state

    def runs(self):
        with Store(self.store) as store:
            return stored_runs(store)


@pytest.fixture(scope="module")
def surprised(tmp_path_factory):
    """A loop that spent its budget on a machine where the best start is another than is predicted."""
    bench = Bench(
        tmp_path_factory.mktemp("loop"), task_of(concurrency=(4, 16, 32)),
        Rules(runs=6, spend=True, repeat_every=4), truth=surprise, noise=0.02, between=0.05,
    )  # fmt: skip
    return bench, bench.run()


def test_the_hidden_best_is_found_and_is_another_than_was_predicted(surprised):
    bench, ended = surprised
    assert "dynamic-fp8" in bench.events[0].found.best.point
    assert ended.found.best.point.startswith("default")
    assert (ended.kind, bench.state.runs, bench.state.failures) == ("runs", 6, 0)
    assert len(bench.runs()) == 6
    assert bench.engine.closed == 1


def test_repeats_are_at_other_occasions_and_tell_the_noise(surprised):
    bench, ended = surprised
    repeats = [asked for asked in bench.state.asked if asked.repeat]
    assert len(repeats) == 1
    for again in repeats:
        times = [asked.number for asked in bench.state.asked if asked.key == again.key]
        at = [bench.state.came[number].facts["occasion"] for number in times]
        assert len(set(at)) == len(at) > 1
    spread = ended.found.candidates.measured.repeats.spread("h100-sxm", "tpot_ms")
    assert (spread.repeats, spread.occasions) == (1, 2)


def test_the_report_says_what_was_learned_and_how_errors_fell(surprised):
    bench, ended = surprised
    own = calibrated(ended.found, bench.store, default_profile(), "mine")
    said = document(ended, bench.state, 600.0, own, own.profile.label)
    assert json.loads(json.dumps(said)) == said
    assert said["choice"]["point"].startswith("default")
    for metric in ("ttft_ms", "tpot_ms"):
        points = said["unmeasured"][metric]
        assert points["n"] == 5
        assert points["last_third"] < points["first_third"]
        assert said["measured"][metric]["after"] < said["measured"][metric]["before"]
    moved = {each["point"]: each["factors"]["tpot_ms"] for each in said["learned"]}
    for point, factor in moved.items():
        assert (factor < 1.0) == point.startswith("default")
    shown = "\n".join(text(said))
    assert "--model-path meta-llama/Llama-3.3-70B-Instruct" in shown
    assert "longer than predicted" in shown
    assert all(len(row(each)) == len(HEADER) for each in said["steps"])
    firsts = [each for each in said["steps"] if not each["repeat"]]
    errors = [abs(each["errors"]["tpot_ms"]) for each in firsts]
    assert said["unmeasured"]["tpot_ms"]["first_third"] == pytest.approx(errors[0])


def test_a_settled_choice_is_measured_once_before_the_loop_ends(tmp_path):
    bench = Bench(tmp_path, task_of(concurrency=(8,)), Rules())
    ended = bench.run()
    assert ended.kind == "settled"
    assert bench.state.runs >= 1
    assert bench.state.asked[0].facts["point"] == ended.found.best.point


def test_failed_starts_and_clients_do_not_stop_it_and_are_not_tried_again(tmp_path):
    bench = Bench(
        tmp_path, task_of(("default", "dynamic-fp8", "kv-cache-fp8"), concurrency=(8,)),
        Rules(spend=True, runs=9, repeat_every=0), start_fails=lambda line: "--quantization fp8" in line,
        run_fails=lambda line, load: "fp8" in line,
    )  # fmt: skip
    ended = bench.run()
    assert ended.kind in ("nothing_left", "settled")
    kinds = Counter(came.kind for came in bench.state.came.values())
    assert kinds == {"start_failed": 1, "run_failed": 1, "measured": 1}
    assert max(Counter(asked.key for asked in bench.state.asked).values()) == 1
    assert "dynamic-fp8" not in ended.found.best.point
    assert len(bench.runs()) == 1


def test_where_every_start_failed_for_good_the_report_says_what_was_measured_and_that_no_choice_is_left(
    tmp_path,
):
    bench = Bench(tmp_path, task_of(concurrency=(8,)), Rules(), start_fails=lambda line: True)
    ended = bench.run()
    assert (ended.kind, bench.state.failures) == ("every_start_failed", 2)
    said = document(ended, bench.state, 60.0, None, None)
    assert (said["choice"], said["settled"], said["next"]) == (None, False, [])
    shown = "\n".join(text(said))
    assert shown.count("out_of_memory: no memory is left") == 2
    assert "choice: none" in shown
    assert bench.run().kind == "every_start_failed"  # another session knows it too, and starts nothing
    assert bench.state.failures == 2


def test_a_server_that_runs_already_is_measured_whatever_failed_to_start(tmp_path):
    task = task_of(("default",), concurrency=(8,))
    failed = Bench(tmp_path, task, Rules(), start_fails=lambda line: True)
    assert failed.run().kind == "every_start_failed"
    running = Bench(tmp_path, task, Rules())
    with Journal(tmp_path / "another", ABOUT) as kept:
        ended = Loop(
            task, running.store, running.engine, kept, default_profile(), running.rules, serving=True
        ).run()
    assert (ended.kind, kept.state.runs) == ("settled", 1)


def test_failures_in_a_row_end_it_and_all_is_kept(tmp_path):
    bench = Bench(
        tmp_path, task_of(), Rules(spend=True, runs=9, most_failures=2),
        run_fails=lambda line, load: load.concurrency == 32,
    )  # fmt: skip
    ended = bench.run()
    kinds = [bench.state.came[asked.number].kind for asked in bench.state.asked]
    assert (ended.kind, kinds[-2:]) == ("too_many_failures", ["run_failed"] * 2)
    assert "the client wrote nothing" in ended.reason
    assert len(bench.runs()) == bench.state.runs


def test_what_failed_for_a_while_is_tried_by_the_next_session(tmp_path):
    bench = Bench(tmp_path, task_of(("default",), concurrency=(8,)), Rules(most_failures=1),
                  run_fails=lambda line, load: True)  # fmt: skip
    assert bench.run().kind == "too_many_failures"
    bench.engine.run_fails = lambda line, load: False
    assert bench.run().kind == "settled"
    assert (bench.state.runs, bench.state.failures) == (1, 1)


def test_a_lumped_stream_is_measured_once_more_and_then_left(tmp_path):
    bench = Bench(
        tmp_path, task_of(("default",), concurrency=(8,)), Rules(spend=True, runs=9, repeat_every=0),
        lumped=lambda line, load: load.concurrency == 8,
    )  # fmt: skip
    bench.run()
    loads = Counter(asked.facts["load"]["concurrency"] for asked in bench.state.asked)
    assert loads == {8: 2}
    assert sum("lumped_stream" in each["flags"] for each in bench.runs()) == 2


def test_minutes_are_a_budget_and_a_clock_that_jumps_back_takes_none_away(tmp_path):
    times = iter(np.cumsum([0.0, *[60.0, -30.0] * 200]).tolist())
    bench = Bench(tmp_path, task_of(), Rules(minutes=4.0, spend=True, repeat_every=0))
    ended = bench.run(clock=lambda: next(times))
    assert ended.kind == "minutes"
    entries = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert min(entry["seconds"] for entry in entries) >= 0.0
    assert bench.state.spent_s == pytest.approx(sum(entry["seconds"] for entry in entries))


class Killed(BaseException):
    """What no code expects."""


class Mortal:
    """Kills a loop after so many of the places where a kill may strike."""

    def __init__(self):
        self.left = None

    def tick(self, what=None):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed(what)


@settings(max_examples=1)
@example([4, 5, 6])  # half of an ask; an ask and nothing else; a result that is not stored
@example([10, 7, 8])  # stored, not answered; half of an ask; half of a result
@given(st.lists(st.integers(3, 13), min_size=2, max_size=2))
def test_a_loop_that_is_killed_again_and_again_ends_as_one_that_was_not(tmp_path_factory, kills):
    mortal = Mortal()

    class Fragile(Journal):
        def _write(self, entry):
            mortal.tick("before a line")
            if mortal.left == 0:
                self._file.write(b'{"entry": "asked", "number"')
                self._file.flush()
            mortal.tick("half a line")
            super()._write(entry)
            mortal.tick("after a line")

    bench = Bench(
        tmp_path_factory.mktemp("killed"), task_of(("default", "dynamic-fp8"), concurrency=(8,)),
        Rules(spend=True, runs=9, repeat_every=0), truth=surprise, tick=mortal.tick,
    )  # fmt: skip
    for number in kills:
        mortal.left = number
        try:
            bench.run(Fragile)
        except Killed:
            continue
        break
    mortal.left = None
    ended = bench.run(Fragile)
    assert ended.found.measured == 2
    assert ended.found.best.point.startswith("default")
    runs = bench.runs()
    assert sorted(run["weight_quant"] for run in runs) == ["bfloat16", "fp8"]
    told = [run_id for came in bench.state.came.values() for run_id in came.run_ids]
    assert sorted(told) == sorted(run["run_id"] for run in runs)
    assert bench.state.pending == []


def test_a_start_that_failed_before_a_kill_is_not_tried_again(tmp_path):
    bench = Bench(tmp_path, task_of(concurrency=(8,)), Rules(spend=True, runs=9, repeat_every=0),
                  start_fails=lambda line: "fp8" in line)  # fmt: skip
    bench.engine.tick = lambda what: (_ for _ in ()).throw(Killed) if what == "failure stored" else None
    with pytest.raises(Killed):
        bench.run()
    bench.engine.tick = lambda what: None
    bench.run()
    kinds = Counter(came.kind for came in bench.state.came.values())
    assert kinds == {"start_failed": 1, "measured": 1}
    assert any(came.facts.get("recovered") for came in bench.state.came.values())


def test_another_task_and_another_loop_are_refused_by_name(tmp_path):
    with Journal(tmp_path, ABOUT), pytest.raises(InvalidValue, match="another loop is writing"):
        Journal(tmp_path, ABOUT)
    with pytest.raises(InvalidValue, match="belongs to task 'a task' and differs from 'b' in name"):
        Journal(tmp_path, {**ABOUT, "name": "b"})
    with pytest.raises(InvalidValue, match="differs from 'a task' in task"):
        Journal(tmp_path, {**ABOUT, "task": {"n": 2}})
    with Journal(tmp_path, ABOUT) as again:
        assert again.state.runs == 0


@settings(max_examples=25)
@given(cut=st.integers(1, 400))
def test_a_half_written_line_is_forgotten_and_a_broken_one_is_not(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("journal")
    with Journal(folder, ABOUT) as journal:
        first = journal.ask("k", False, point="one")
        journal.answer(first, "measured", ("r",), measured={})
        journal.ask("l", False, point="two")
    path = folder / "journal.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: max(len(whole) - cut, 0)])
    kept = whole[: len(whole) - cut].count(b"\n")
    with Journal(folder, ABOUT) as journal:
        assert len(journal.state.asked) == max(min(kept - 1, 1), 0) + (kept == 4)
        assert len(journal.state.came) == int(kept >= 3)
        journal.ask("m", False, point="three")
    with Journal(folder, ABOUT) as journal:
        assert journal.state.asked[-1].key == "m"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"{}\n", *lines[1:]]))
    with pytest.raises(JournalBroken, match="line 2 is none of a loop's journal"):
        Journal(folder, ABOUT)


@pytest.mark.parametrize(
    ("rules", "words"),
    [({"runs": 0}, "runs 0"), ({"minutes": -1.0}, "minutes -1"), ({"spend": True}, "budget"),
     ({"repeat_every": 1}, "repeat-every 1")],
)  # fmt: skip
def test_rules_that_cannot_be_are_refused(rules, words):
    with pytest.raises(InvalidValue, match=words):
        Rules(**rules)


def test_a_task_that_leaves_nothing_is_refused_before_anything_starts(tmp_path):
    bench = Bench(tmp_path, task_of(("default",), tp=(1,)), Rules())
    with pytest.raises(InvalidValue, match="no point of task 'a task' is left"):
        bench.run()
    assert bench.engine.closed == 0
    assert bench.state.asked == []
