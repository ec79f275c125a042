"""Occasions in the belief of the loop: intervals hold on a machine whose engine starts differ."""

from __future__ import annotations

import numpy as np
import pytest
from test_next import ROWS, ask, record
from test_next import found as found  # the fixture

from aicalib.loop.belief import DEVIATE, Observed, Up, as_wide, covariance, foresee, kernels_of
from aicalib.loop.occasions import scatter
from aicalib.profiles import default_profile

TPOT = "tpot_ms"
KERNEL = kernels_of(default_profile().spreads)[TPOT]


def simulated(found, seed, noise, between, told=True):
    """Return of 16 runs, two at each start of an engine, whether they lay in their intervals, and the errors."""
    random, places, widths = np.random.default_rng(seed), found.places, {TPOT: found.widths[TPOT]}
    truth = np.linalg.cholesky(as_wide(covariance(places, KERNEL), widths[TPOT], KERNEL.noise))
    rows, starts = np.tile(np.arange(ROWS), 2), np.arange(2 * ROWS) // 2
    logs = (truth @ random.standard_normal(ROWS))[rows] + noise * random.standard_normal(rows.size)
    logs += (between * random.standard_normal(ROWS))[starts]
    off, wide = np.zeros(rows.size), np.zeros(rows.size)
    for at, row in enumerate(rows):
        names = tuple(f"start {each}" if told else None for each in starts[:at])
        seen = Observed(places.take(rows[:at]), {TPOT: logs[:at]}, rows[:at], names)
        up = Up(f"start {starts[at]}", np.arange(ROWS) // 2 == row // 2)
        said = foresee(places, widths, {TPOT: KERNEL}, seen, up)[TPOT]
        off[at], wide[at] = abs(logs[at] - said.mean[row]), DEVIATE * said.deviation[row]
    return np.mean(off <= wide), np.mean(off)


@pytest.mark.parametrize(("noise", "between"), [(0.01, 0.01), (0.03, 0.08), (0.05, 0.25)])
def test_intervals_hold_whatever_occasions_differ_by(found, noise, between):
    (inside, error), (blind, blindly) = (
        np.mean([simulated(found, seed, noise, between, told) for seed in range(12)], axis=0)
        for told in (True, False)
    )
    assert inside > 0.82
    if between > 0.05:
        assert blind < inside - 0.1
        assert error < blindly
    assert error < 1.2 * blindly  # where occasions are alike, that is to be found out first


def test_scatter_is_found_in_runs_of_which_none_is_a_repeat():
    random, together = np.random.default_rng(0), np.arange(30)[:, None] // 6 == np.arange(30)[None, :] // 6
    levels = 0.04 * np.ones((30, 30))
    for noise, between in ((0.01, 0.01), (0.05, 0.25)):
        inner = levels + between**2 * together + noise**2 * np.eye(30)
        off = np.linalg.cholesky(inner) @ random.standard_normal((30, 20))
        seen = np.array([scatter(each, levels, together, 0.014) for each in off.T])
        assert np.median(seen[:, 0]) == pytest.approx(noise, rel=0.3)
        assert 0.6 * between < np.median(seen[:, 1]) < 4.0 * between


def test_many_runs_of_one_occasion_say_nothing_of_others():
    alone = np.ones((8, 8), dtype=bool)
    found = scatter(np.full(8, 0.02), 0.04 * alone, alone, 0.014)
    assert found.between > 0.05 > found.noise


def test_the_engine_that_is_up_is_expected_to_go_on_as_it_does(found):
    """A start is slow whose formats and width were not when they were measured before: the occasion is, not they."""
    before = [record(found, row, occasion=f"start {row // 2}") for row in range(1, ROWS)]
    slow = record(found, 1, tpot=1.3, run_id="again", occasion="slow")
    up, anew = (
        ask([*before, slow], 1, running=found.key(1), **more).runs[0] for more in ({"occasion": "slow"}, {})
    )
    assert up.key == anew.key == found.key(0)
    middle = {name: each.figures[TPOT].value / (1e3 * found.plain.service.tpot_s[0]) for name, each in
              (("up", up), ("anew", anew))}  # fmt: skip
    assert middle["up"] > 1.15 * middle["anew"] > 1.0
    up_wide, anew_wide = (each.figures[TPOT].high / each.figures[TPOT].low for each in (up, anew))
    assert up_wide < anew_wide


def test_only_runs_with_an_occasion_change_what_is_believed_of_scatter(found):
    without = ask([record(found, 0, tpot=1.3)], 1).scatter
    assert {name: (each.noise, each.between) for name, each in without.items()} == {
        name: (kernel.noise, 0.0) for name, kernel in kernels_of(default_profile().spreads).items()
    }
    told = ask([record(found, 0, tpot=1.3, occasion="one")], 1).scatter
    assert all(each.between > 0.0 for each in told.values())
