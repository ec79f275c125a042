"""Formats that no fitted run had: wider intervals, an origin and a note that say so, older profiles as they were."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from aicalib.calibrate.runs import as_runs
from aicalib.calibrate.unseen import MOST, format_classes, formats_left_out
from aicalib.errors import InvalidValue
from aicalib.nearness import FORMAT, NEARNESS, formats_of, unseen_formats
from aicalib.plan.search.best import search
from aicalib.plan.search.space import Sought
from aicalib.prediction import predict_batch
from aicalib.profiles import Profile, default_profile, uncalibrated
from aicalib.resolve.rows import resolve

ROOT = Path(__file__).parent.parent
METRICS = ("ttft_ms", "tpot_ms", "e2e_ms", "output_tok_s")

SEEN = {
    "model": "qwen3-32b",
    "gpu": "h200-sxm",
    "tp": 2,
    "engine": "sglang",
    "gemm": "fp8_block",
    "kv": "bfloat16",
}
UNSEEN = [
    ({"kv": "fp8_e5m2"}, "kv fp8_e5m2"),
    ({"gemm": "bitsandbytes"}, "gemm bitsandbytes"),
    ({"gemm": "gguf"}, "gemm gguf"),
    ({"gemm": "awq_marlin"}, "gemm awq_marlin"),
    ({"kv": "fp4_e2m1", "gpu": "b200-sxm", "engine_version": "0.5.18"}, "kv fp4_e2m1"),
]


def asked(profile, **options):
    row = SEEN | options
    return predict_batch(resolve({name: [value] for name, value in row.items()}), profile)


def factor(found, metric):
    value, _, high = found.mean[metric]
    return float((high / value)[0])


@pytest.mark.parametrize(("options", "name"), UNSEEN)
def test_an_unseen_format_is_never_surer(options, name):
    profile = default_profile()
    found, seen = asked(profile, **options), asked(profile, gpu=options.get("gpu", "h200-sxm"))
    for metric in METRICS:
        widest = max(profile.quantiles["sglang"][metric].values())
        assert np.log(factor(found, metric)) == pytest.approx(widest)
        assert factor(found, metric) >= factor(seen, metric)
    assert found.origin == ["extrapolated"]
    assert name in found.unseen(0)
    assert seen.unseen(0) is None


def test_a_profile_that_does_not_say_its_formats_answers_as_before():
    """One that was written before formats were left out: no list of them, and no width of their own."""
    document = json.loads(default_profile().to_json())
    del document["lineage"]["formats"], document["lineage"]["formats_left_out"]
    for metrics in document["quantiles"].values():
        for by in metrics.values():
            del by["format"]
    older = Profile.from_json(json.dumps(document))
    for options, _ in UNSEEN:
        found = asked(older, **options)
        assert found.unseen(0) is None
        assert np.log(factor(found, "tpot_ms")) == pytest.approx(
            older.quantiles["sglang"]["tpot_ms"]["extrapolated"]
        )
    plain, kept = asked(default_profile()), asked(older)
    for metric in METRICS:
        assert factor(plain, metric) == factor(kept, metric)


def test_a_profile_from_before_dynamic_scales_knows_none():
    document = json.loads(default_profile().to_json())
    del document["coefficients"]["dynamic_scale"]
    older = Profile.from_json(json.dumps(document))
    bare = dataclasses.replace(older, levels={})
    tpot = [asked(bare, engine="trtllm", gemm=gemm).mean["tpot_ms"].value for gemm in ("fp8", "fp8_static")]
    assert tpot[0] == tpot[1]
    del document["coefficients"]["gemm.wide"]
    with pytest.raises(InvalidValue, match="other coefficients"):
        Profile.from_json(json.dumps(document))


def test_formats_with_two_names_are_one_and_dense_models_have_no_experts():
    dense = resolve({"model": ["llama-3.1-8b"], "gpu": ["h100-sxm"], "gemm": ["float16"], "kv": ["fp8_e4m3"]})
    assert formats_of(dense.identities[0]) == ("gemm bfloat16", "kv fp8")
    mixed = resolve({"model": ["deepseek-v3"], "gpu": ["b200-sxm"], "gemm": ["fp8_block"], "moe": ["nvfp4"]})
    assert "moe nvfp4" in formats_of(mixed.identities[0])
    assert unseen_formats(mixed.identities[0], uncalibrated()) == ()


def test_a_level_of_the_formats_takes_the_width_away():
    """A team's own runs in a format are runs that had it, wherever the coefficients come from."""
    profile, found = default_profile(), asked(default_profile(), gemm="bitsandbytes")
    assert found.nearness("tpot_ms").tolist() == [FORMAT]
    group = "sglang qwen3-32b h200-sxm"
    key = f"{group} / qwen3-32b bitsandbytes bfloat16 kv bfloat16"
    levels = {metric: {**known, group: (0.0, 2), key: (0.0, 2)} for metric, known in profile.levels.items()}
    fitted = {name: [] for name in profile.fitted}
    own = asked(dataclasses.replace(profile, levels=levels, fitted=fitted), gemm="bitsandbytes")
    assert NEARNESS[own.nearness("tpot_ms")[0]] == "group"
    assert own.unseen(0) is None


def test_each_class_is_left_out_of_its_own_fit():
    lines = (ROOT / "measurements" / "runs.jsonl").read_text().splitlines()
    records = [record for line in lines[::40] if (record := json.loads(line)).get("disagg") is not True]
    runs = as_runs(records)
    n = runs.batch.at.size
    sizes = []

    def fit(part):
        sizes.append(part.batch.at.size)
        return uncalibrated()

    found = formats_left_out(runs, fit)
    classes = {name: has for name, has, _ in format_classes(runs) if has.any() and not has.all()}
    assert set(found) == set(classes)
    assert sizes == [n - int(has.sum()) for has in classes.values()]
    assert 4 <= len(sizes) <= MOST
    for name, each in found.items():
        assert set(each.near["tpot_ms"]) == {FORMAT}
        assert not np.isfinite(each.logs["tpot_ms"][~classes[name]]).any()
    plain = np.log(runs.measured["tpot_ms"] / predict_batch(runs.batch, uncalibrated()).mean["tpot_ms"].value)
    wide, narrow = (found[f"cache of {bits} bits"].logs["tpot_ms"] for bits in (16, 8))
    # 16-bit kernels stand in for themselves; an 8-bit cache is answered by others than its own.
    at = np.isfinite(wide) & ~np.array([has is True for has in runs.column("spec_decode")])
    np.testing.assert_allclose(wide[at], plain[at])
    at = np.isfinite(narrow)
    assert np.abs(narrow[at] - plain[at]).max() > 0.01


def test_a_search_says_which_format_no_run_had():
    sought = Sought(
        "qwen3-32b", ("b200-sxm",), 1, 1000.0, 200.0, separate=False, engine_version="0.5.18",
        only={"gemm": ("auto",), "kv": ("auto", "fp4_e2m1"), "fmha": ("auto",), "tp": (1,), "pp": (1,),
              "mem_fraction": (None,), "chunked_prefill_size": (None,), "enable_mixed_chunk": (None,),
              "concurrency": (64,)},
    )  # fmt: skip
    by = {each.start.format.kv: each for each in search(sought).at_once}
    assert "no run with kv fp4_e2m1 was fitted" in by["fp4_e2m1"].unseen
    assert by[None].unseen is None
    narrow, wide = (by[kv].figures["output_tok_s_per_gpu"] for kv in (None, "fp4_e2m1"))
    assert wide.high / wide.value > narrow.high / narrow.value
