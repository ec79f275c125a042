"""What must hold of step times whatever the surfaces are: order, sums, and the roofline at the ends."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aicalib.engines import ENGINES
from aicalib.hardware import list_accelerators
from aicalib.models import get_architecture, list_architectures, parameters
from aicalib.models.architecture import MIXERS
from aicalib.physics import calls
from aicalib.physics.steps import decode_step, prefill_step, total_s
from aicalib.physics.system import Coefficients, spread_over
from aicalib.physics.tables import StepTimes, tabulate
from aicalib.profiles import priors
from aicalib.profiles.coefficients import all_coefficients
from aicalib.resolve.rows import resolve

MODELS = (
    "llama-3.3-70b", "gpt-oss-120b", "gemma-4-e2b", "gemma-4-31b", "deepseek-v3", "deepseek-v3.2", "glm-5.2",
    "minimax-m3", "deepseek-v4-flash", "qwen3-next-80b-a3b", "kimi-linear-48b-a3b", "kimi-k3",
    "nemotron-3-super-120b-a12b", "lfm2.5-8b-a1b",
)  # fmt: skip
"""Together every kind of layer of the catalogue."""

ROUNDING = 1.0 + 1e-12


def with_lightning(system):
    """Return a system whose Kimi delta layers are lightning attention, which no model of the catalogue has."""
    arch = system.arch
    swapped = replace(
        arch,
        kda_layers=0.0 * arch.kda_layers,
        lightning_layers=arch.kda_layers,
        lightning_heads=arch.kda_heads,
        lightning_head_dim=arch.kda_head_dim,
    )
    return replace(system, arch=swapped)


def batch_of(gpu="b200", dp=1, **options):
    n = len(MODELS)
    batch = resolve({"model": [*MODELS], "gpu": [gpu] * n, "tp": [2] * n, "dp": [dp] * n, **options})
    assert not batch.refused
    return batch


def of_system(system, graph_max_batch=512.0):
    """Return the step times of deployments, a question each."""
    at = np.arange(system.tp.size)
    found = tabulate(system, spread_over(system, priors()))
    return StepTimes(found, at, np.full(at.size, graph_max_batch))


BATCH = batch_of()
TIMES = of_system(BATCH.system)
LIGHTNING = of_system(with_lightning(BATCH.system))


def all_of(value):
    return np.full(len(MODELS), float(value))


def decode_s(times, running, context, padded=None):
    return times.decode_s(all_of(running), all_of(context), all_of(padded or running))


def prefill_s(times, tokens, length):
    return times.prefill_s(all_of(tokens), all_of(length), all_of(1))


def test_the_models_have_every_kind_of_layer():
    held = {kind for kind in MIXERS if any(getattr(get_architecture(model), kind) for model in MODELS)}
    assert held == set(MIXERS) - {"lightning_layers"}


@pytest.mark.parametrize("swap", [lambda system: system, with_lightning], ids=["catalogue", "lightning"])
@pytest.mark.parametrize(
    "field",
    [
        "bandwidth_bytes_s", "link_bytes_s", "gemm_peak_flops_s", "wide_peak_flops_s", "expert_peak_flops_s",
        "attention_peak_flops_s",
    ],
)  # fmt: skip
@given(factor=st.floats(1.0, 10.0))
@settings(max_examples=3, deadline=None)
def test_a_faster_part_never_slows_a_step(field, swap, factor):
    system = swap(BATCH.system)
    faster = of_system(replace(system, **{field: getattr(system, field) * factor}))
    plain = TIMES if system is BATCH.system else LIGHTNING
    for running, context in ((1, 100), (40, 3000), (700, 30_000)):
        assert (decode_s(faster, running, context) <= decode_s(plain, running, context) * ROUNDING).all()
    for tokens, length in ((50, 50), (2048, 512), (8192, 100_000)):
        assert (prefill_s(faster, tokens, length) <= prefill_s(plain, tokens, length) * ROUNDING).all()


@given(
    running=st.integers(1, 2000), more=st.integers(1, 1000), context=st.integers(1, 200_000),
    length=st.integers(1, 100_000), tokens=st.integers(1, 32_768),
)  # fmt: skip
def test_more_work_never_takes_less_time(running, more, context, length, tokens):
    for times in (TIMES, LIGHTNING):
        now = decode_s(times, running, context)
        assert (decode_s(times, running + more, context) >= now / ROUNDING).all()
        assert (decode_s(times, running, context + more) >= now / ROUNDING).all()
        now = prefill_s(times, tokens, length)
        assert (prefill_s(times, tokens + more, length) >= now / ROUNDING).all()


@given(
    first=st.integers(1, 256), second=st.integers(1, 256), padding=st.integers(0, 64),
    context=st.integers(1, 100_000),
)  # fmt: skip
def test_splitting_a_batch_of_one_graph_never_wins(first, second, padding, context):
    rows = first + second + padding
    together = decode_s(TIMES, first + second, context, rows)
    apart = decode_s(TIMES, first, context, rows) + decode_s(TIMES, second, context, rows)
    assert (together <= apart * ROUNDING).all()


@pytest.mark.parametrize("field", ["gemm", "moe", "kv"])
def test_fewer_bits_never_move_more(field):
    """Over all weight-reading operators, and over attention: casts, which narrow formats add, apart."""
    modes = {
        "gemm": ("bfloat16", "fp8", "awq", "nvfp4"),
        "moe": ("bfloat16", "fp8", "nvfp4"),
        "kv": ("bfloat16", "fp8_e4m3", "nvfp4"),
    }[field]
    models = [model for model in MODELS if field != "moe" or get_architecture(model).moe_layers]
    moved, bits = [], []
    for mode in modes:
        n = len(models)
        batch = resolve({"model": models, "gpu": ["b200"] * n, "tp": [2] * n, field: [mode] * n})
        assert not batch.refused, batch.refused
        c = spread_over(batch.system, priors())
        step = decode_step(batch.system, c, *(np.full(n, each) for each in (1.0, 4000.0, 1.0, 512.0)))
        moved.append(sum(each.bytes_ for each in step if not each.name.startswith("cast")))
        bits.append(
            {"gemm": batch.system.gemm_bits, "moe": batch.system.expert_bits}.get(field, batch.system.kv_bits)
        )
    for one in range(len(modes)):
        for other in range(len(modes)):
            fewer = bits[one] < bits[other]
            assert (moved[one] <= moved[other] * ROUNDING)[fewer].all(), (modes[one], modes[other])


def ideal(system):
    """Return coefficients under which a kernel takes its own time and nothing else takes any."""
    c = spread_over(system, priors())
    times = {
        each.name: 0.0 * getattr(c, each.name) for each in fields(Coefficients) if each.name.endswith("_s")
    }
    ratios = ("gemm", "experts", "decode_mixers", "prefill_mixers")
    return replace(
        c, **times, **{name: np.ones_like(getattr(c, name)) for name in ratios},
        links=1.0, quantize=0.0, elementwise=0.0, device_slowdown=np.ones_like(c.device_slowdown),
    )  # fmt: skip


def beyond_floors(system, step, *arguments):
    """Return the time of a step beyond what it takes on an endless accelerator."""
    endless = {
        name: 1e20 * getattr(system, name)
        for name in (
            "bandwidth_bytes_s", "link_bytes_s", "gemm_peak_flops_s", "wide_peak_flops_s",
            "expert_peak_flops_s", "attention_peak_flops_s",
        )
    }  # fmt: skip
    row = [np.array([float(each)]) for each in arguments]
    taken, least = (
        total_s(step(each, ideal(each), *row))[0] for each in (system, replace(system, **endless))
    )
    return taken - least


@pytest.fixture
def _ideal_kernels(monkeypatch):
    """Surfaces of zero: every kernel takes its ideal time."""
    shipped = calls.surfaces
    monkeypatch.setattr(calls, "surfaces", lambda kind: np.zeros_like(shipped(kind)))


DENSE_AND_EXPERTS = [
    ("llama-3.1-8b", "h100"),
    ("qwen3-32b", "h200"),
    ("deepseek-v3", "b300"),
    ("qwen3-235b-a22b", "b300"),
    # Not on Blackwell, where its experts are padded.
    ("gpt-oss-120b", "h200"),
]
# State layers keep their share of memory traffic in a large prefill: only one token is the roofline of weights.
HYBRIDS = [("nemotron-3-nano-30b-a3b", "h100"), ("qwen3-next-80b-a3b", "h200"), ("lfm2.5-1.2b", "h100")]


def in_16_bit(model, gpu):
    """Return a system on one GPU, and the weights that a token passes through, without the look-up of its embedding."""
    arch = get_architecture(model)
    experts = {"moe": ["bfloat16"]} if arch.moe_layers else {}
    batch = resolve({"model": [model], "gpu": [gpu], "tp": [1], "gemm": ["bfloat16"], "isl": [64], **experts})
    assert not batch.refused
    looked_up = 0 if arch.tied_embeddings else arch.vocab_size * arch.hidden_size
    return batch.system, parameters(arch).active - looked_up, arch.vocab_size * arch.hidden_size


@pytest.mark.usefixtures("_ideal_kernels")
@pytest.mark.parametrize(("model", "gpu"), DENSE_AND_EXPERTS + HYBRIDS)
def test_one_token_takes_its_weights_over_the_bandwidth(model, gpu):
    system, weights, _ = in_16_bit(model, gpu)
    read = beyond_floors(system, decode_step, 1, 1, 1, 512)
    # Above by activations and states, and by the compute time of one row in the rounded corner.
    assert read == pytest.approx(2.0 * weights / system.bandwidth_bytes_s[0], rel=0.03)


@pytest.mark.usefixtures("_ideal_kernels")
@pytest.mark.parametrize(("model", "gpu"), DENSE_AND_EXPERTS)
def test_a_great_many_tokens_take_their_operations_over_the_peak(model, gpu):
    system, weights, head = in_16_bit(model, gpu)
    many = 2**20
    computed = beyond_floors(system, prefill_step, many, 64, 1)
    operations = 2.0 * many * (weights - head + head / 64)  # one of 64 tokens is sampled
    assert computed == pytest.approx(operations / system.gemm_peak_flops_s[0], rel=0.05)


COVERED = [each.name for each in list_architectures() if each.reason is None]
LARGEST = 24
"""Combinations of names tabulated at once."""


def test_tables_say_what_the_operators_say():
    """Error of reading between the knots, over the whole catalogue, at batches, contexts and lengths by chance."""
    rng = np.random.default_rng(0)
    errors = {"decode": [], "prefill": []}

    def some(low, high, n):
        return np.exp(rng.uniform(np.log(low), np.log(high), n)).round()

    for start in range(0, len(COVERED), LARGEST):
        models = COVERED[start : start + LARGEST]
        n = len(models)
        system = resolve({"model": models, "gpu": ["h100"] * n, "tp": [1] * n, "isl": [64] * n}).system
        c, times, n = spread_over(system, priors()), of_system(system), system.tp.size
        for _ in range(6):
            batch, context = some(1, 512, n), some(64, 65_536, n)
            exact = total_s(decode_step(system, c, batch, context, batch, np.full(n, 512.0)))
            errors["decode"].append(times.decode_s(batch, context, batch) / exact - 1.0)
            tokens, length = some(64, 16_384, n), some(64, 32_768, n)
            exact = total_s(prefill_step(system, c, tokens, length, np.ones(n)))
            errors["prefill"].append(times.prefill_s(tokens, length, np.ones(n)) / exact - 1.0)
    for found in errors.values():
        error = np.abs(np.concatenate(found))
        assert np.median(error) < 0.005
        assert np.quantile(error, 0.9) < 0.025
        assert error.max() < 0.25


def test_the_page_on_physics_names_every_coefficient():
    page = (Path(__file__).parent.parent / "docs" / "physics.md").read_text()
    for each in all_coefficients():
        family = each.name.partition(".")[0]
        assert f"`{family}`" in page or f"`{family.partition('_')[0]}_*`" in page, family


def test_every_combination_that_is_accepted_has_finite_times():
    """Every model meets every accelerator over the engines and the diagonals of the table; every fifth is asked."""
    cross = [
        (model, each.name, ENGINES[(row + column) // 5 % 2])
        for row, model in enumerate(COVERED)
        for column, each in enumerate(list_accelerators())
        if (row + column) % 5 == 0
    ]
    models, gpus, engines = (list(each) for each in zip(*cross, strict=True))
    batch = resolve({"model": models, "gpu": gpus, "engine": engines, "isl": [512] * len(cross)})
    assert len(batch.at) > 0.9 * len(cross)
    for start in range(0, len(batch.who), LARGEST):
        system = batch.system.take(np.arange(start, min(start + LARGEST, len(batch.who))))
        times, n = of_system(system), system.tp.size
        for found in (
            times.decode_s(*(np.full(n, each) for each in (1.0, 1.0, 1.0))),
            times.decode_s(*(np.full(n, each) for each in (300.0, 9000.0, 304.0))),
            times.prefill_s(*(np.full(n, each) for each in (4096.0, 512.0, 1.0))),
        ):
            assert (np.isfinite(found) & (found > 0.0)).all()
