"""Runs with prefill on instances of its own: what their layouts say, and the network that none names."""

from __future__ import annotations

import numpy as np
import pytest

from aicalib.calibrate.layouts import USUAL_GBIT_S, layout_options, network_assumed, wrong_layout
from aicalib.calibrate.runs import as_runs


def separate(published, **wanted):
    return [
        record
        for record in published
        if record.get("disagg") is True and all(record.get(key) == value for key, value in wanted.items())
    ]


def test_one_node_talks_over_its_own_link(published):
    records = separate(published, source="dstack-benchmarks")
    options = layout_options(next(record for record in records if wrong_layout(record) is None))
    assert options["prefill_instances"] + options["decode_instances"] == 4
    assert options["network_gbit_s"] == 3600.0  # NVLink 4: 450 GB/s one way
    runs = as_runs(records)
    assert not network_assumed(runs.batch).any()
    assert not runs.inferred.any()


def test_nodes_talk_over_the_usual_network_and_it_is_said(published):
    record = separate(published, gpu="b200_sxm", engine="trtllm", n_gpus=44)[0]
    assert layout_options(record)["network_gbit_s"] == USUAL_GBIT_S
    runs = as_runs([record])
    assert runs.batch.n_gpus[0] == 44
    assert runs.inferred.all()


def test_a_rack_is_one_link_domain(published):
    record = separate(published, gpu="gb200", engine="trtllm", n_gpus=64)[0]
    assert layout_options(record)["network_gbit_s"] == 7200.0  # NVLink 5: 900 GB/s one way


def test_widths_count_the_attention_ranks():
    layout = {
        "prefill_num_workers": 2, "prefill_tp_size": 1, "prefill_attention_dp_size": 4, "prefill_moe_ep_size": 4,
        "decode_num_workers": 3, "decode_tp_size": 8, "decode_attention_dp_size": None, "decode_moe_ep_size": 8,
    }  # fmt: skip
    options = layout_options({"disagg": True, "disagg_layout": layout, "gpu": "b200_sxm"})
    assert (options["prefill_tp"], options["prefill_dp"], options["prefill_ep"]) == (4, 4, 4)
    assert (options["tp"], options["dp"], options["ep"]) == (8, 1, 8)


@pytest.mark.parametrize("missing", ["prefill_num_workers", "decode_num_workers", "prefill_tp_size"])
def test_what_is_not_counted_is_refused(published, missing):
    record = separate(published, source="dstack-benchmarks")[0]
    layout = {key: value for key, value in record["disagg_layout"].items() if key != missing}
    error = wrong_layout(record | {"disagg_layout": layout})
    assert error is not None
    assert "is not recorded" in str(error)


def test_a_transfer_that_may_take_long_is_refused(published):
    record = separate(published, gpu="b200_sxm", engine="trtllm", n_gpus=44)[0]
    quick = record | {"mean_ttft_ms": 1.0}
    runs = as_runs([record | {"mean_ttft_ms": 5000.0}, quick])
    assert runs.batch.rows.tolist() == [0]
    assert "the network" in str(runs.batch.refused[1])


def test_more_rows_are_answered_than_refused_for_the_network(published):
    runs = as_runs(separate(published))
    reasons = [str(error) for error in runs.batch.refused.values()]
    assert runs.batch.rows.size > 250
    assert sum("the network" in reason for reason in reasons) < 20
    assert np.isfinite(runs.measured["tpot_ms"]).all()
