"""Speculation that no record states: the inference on synthetic curves, and on runs that say what they were."""

from __future__ import annotations

import numpy as np
import pytest

from aicalib.calibrate import hidden
from aicalib.calibrate.evaluate import evaluate
from aicalib.calibrate.fit import fit, fit_speculation
from aicalib.calibrate.runs import as_runs
from aicalib.profiles import priors, uncalibrated
from aicalib.profiles.coefficients import position
from aicalib.serving.speculation import acceptance_length

CONCURRENCY = np.array([4.0, 8.0, 16.0, 32.0, 64.0])


def test_without_evidence_the_prior_stays():
    same = np.zeros(1)
    assert (
        hidden.curve_probability(same, same, np.array([4.0]), 0.3)[0] < 0.3
    )  # wider: less likely at its middle
    far = np.full(1, 0.4)
    assert hidden.curve_probability(far, far, np.array([4.0]), 0.3)[0] > 0.3


@pytest.mark.parametrize("level", [-0.2, 0.0, 0.2])
def test_the_shape_of_a_curve_tells_its_state_whatever_its_level(level):
    gain = np.array(
        [0.45, 0.35, 0.2, 0.05, -0.1]
    )  # how much slower a plain step predicts than one that drafts
    noise = np.array([0.02, -0.03, 0.01, 0.03, -0.02])
    drafted = hidden.curve_probability(level + noise - gain, level + noise, CONCURRENCY, 0.25)
    plain = hidden.curve_probability(level + noise, level + noise + gain, CONCURRENCY, 0.25)
    assert drafted[0] > 0.9 > 0.1 > plain[0]
    assert np.ptp(drafted) == np.ptp(plain) == 0.0  # one launch, one state


def test_runs_of_one_configuration_may_be_in_two_states():
    twice = np.array([4.0, 4.0])
    off, on = np.array([0.02, -0.43]), np.array([0.45, 0.0])
    chances = hidden.curve_probability(off, on, twice, 0.5)
    assert chances[0] < 0.1 < 0.9 < chances[1]


def open_rows(published):
    return [
        record
        for record in published
        if hidden.states(record) is not None
        and record["source"] == "aic-silicon"
        and record["engine"] == "sglang"
    ]


def test_of_two_runs_alike_the_faster_one_speculated(published):
    records = [
        record
        for record in open_rows(published)
        if record["model_group"] == "deepseek-v3-arch-671b"
        and record["osl"] == 8192
        and record["concurrency"] <= 8
    ]
    found = hidden.inferred(records, uncalibrated())
    tpot = np.array([records[row]["mean_tpot_ms"] for row in found.rows])
    concurrency = np.array([records[row]["concurrency"] for row in found.rows])
    for each in (4, 8):
        at = np.flatnonzero(concurrency == each)
        order = at[np.argsort(tpot[at])]
        assert found.probability[order[0]] > found.probability[order[-1]] + 0.5


def test_the_prior_share_is_that_of_recorded_launches():
    record = {"source": "s", "engine": "sglang", "model_group": "m"}
    known = [record | {"spec_decode": state} for state in (True, True, False)]
    assert hidden.prior_share(record, []) == pytest.approx(hidden.SHARE)
    assert hidden.prior_share(record, known) == pytest.approx((2 + 0.5) / (3 + 2))
    assert hidden.prior_share(record | {"engine": "vllm"}, known) == pytest.approx(hidden.SHARE)


def test_states_carry_the_settings_of_their_scripts(published):
    off, on = hidden.states(open_rows(published)[0])
    assert (off["spec_decode"], on["spec_decode"]) == (False, True)
    assert on["spec_steps"] >= 1
    assert hidden.states({"spec_decode": False}) is None
    assert hidden.states({"flags_variants": [{"spec_decode": True, "spec_algorithm": "MTP"}]}) is None


def hide(record):
    """Return a run as if its record left open whether it speculated."""
    on = {"spec_decode": True, "spec_algorithm": "MTP", "spec_steps": record.get("spec_steps") or 3}
    return record | {"spec_decode": None, "flags_variants": [{"spec_decode": False}, on]}


@pytest.mark.xdist_group("calibrate")
def test_states_that_are_recorded_are_found_again(published):
    """SGLang on B200: curves of Qwen3.5 in FP8, a third of their runs with speculation."""
    records = [
        record
        for record in published
        if record["engine"] == "sglang"
        and record["gpu"] == "b200_sxm"
        and record["model_group"] == "qwen3.5-397b-a17b"
        and record["weight_quant"] == "fp8_block"
        and record["source"] == "aic-silicon"
        and record.get("spec_decode") is not None
    ]
    truth = np.array([record["spec_decode"] for record in records])
    plain, drafting = (as_runs([r for r in records if r["spec_decode"] is state]) for state in (False, True))
    profile = hidden.Profile("own", "0", fit_speculation(fit(plain), drafting).values, np.zeros(1), {})
    found = hidden.inferred([hide(record) for record in records], profile)
    right = (found.probability > 0.5) == truth[found.rows]
    sure = np.abs(found.probability - 0.5) > 0.4
    assert right.mean() > 0.8
    assert right[sure].mean() > 0.85
    assert sure.mean() > 0.4


def test_a_fit_passes_over_what_is_in_doubt(published):
    runs = as_runs([r for r in published if r["engine"] == "sglang" and r["model_group"] == "qwen3-32b"][:40])
    assert runs.settled.all()
    doubt = np.full(runs.batch.rows.size, np.nan)
    doubt[:5] = [0.0, 0.05, 0.5, 0.95, 1.0]
    told = hidden.replace(runs, speculation_probability=doubt)
    assert told.settled.tolist()[:6] == [True, True, False, False, False, True]
    assert told.take(np.arange(3)).settled.tolist() == [True, True, False]


def test_evaluate_says_what_was_inferred(published):
    records = open_rows(published)[:30]
    result = evaluate(records, uncalibrated())
    rows = [row for row in result.rows() if row["metric"] == "tpot_ms"]
    assert all(row["inferred"] and 0.0 <= row["speculation_probability"] <= 1.0 for row in rows)
    scores = result.as_dict()
    assert scores["inferred"]["tpot_ms"]["n"] == len(rows)
    assert scores["metrics"]["tpot_ms"]["n"] == 0


def test_acceptance_length_is_a_chain_of_tokens():
    assert acceptance_length(np.array([0.0, 1.0, 3.0]), 0.5).tolist() == [1.0, 1.5, 1.875]


@pytest.mark.parametrize("acceptance", [0.5, 0.8])
def test_acceptance_is_recovered_from_synthetic_runs(published, acceptance):
    records = [
        record
        for record in published
        if record["engine"] == "trtllm" and record.get("spec_decode") is True and record["gpu"] == "h200_sxm"
        and record["source"] == "aic-silicon" and not record.get("disagg")
    ]  # fmt: skip
    runs = as_runs(records)
    values = priors()
    values[position("mtp_acceptance")] = acceptance
    made = hidden.predict_batch(runs.batch, hidden.Profile("made", "0", values, np.zeros(1), {}))
    noise = np.exp(0.05 * np.random.default_rng(1).standard_normal(runs.batch.rows.size))
    measured = runs.measured | {name: made.mean[name].value * noise for name in ("tpot_ms", "ttft_ms")}
    synthetic = hidden.replace(runs, measured=measured)
    start = fit(synthetic.take(np.array([], dtype=np.intp)))
    found = fit_speculation(start, synthetic)
    assert found.values[position("mtp_acceptance")] == pytest.approx(acceptance, rel=0.06)
