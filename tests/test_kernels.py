"""Kernel times: shipped surfaces against certified timings, who answers for whom, from tables to surfaces."""

import json
from collections import defaultdict
from pathlib import Path
from zipfile import ZipFile

import duckdb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import perfdb
from aicalib.calibrate.kernels import gemm
from aicalib.calibrate.kernels.families import TABLES
from aicalib.calibrate.kernels.fit import fit_kind, fold_of, machine
from aicalib.calibrate.kernels.samples import collect, version_key
from aicalib.calibrate.kernels.ship import load, write
from aicalib.cli.main import main
from aicalib.cli.output import progress
from aicalib.errors import NotCovered
from aicalib.hardware import get_accelerator, list_accelerators
from aicalib.physics.kernels.batched import MLA_BATCHED
from aicalib.physics.kernels.comm import ALL_REDUCE, COMBINE, DISPATCH, all_reduce_variant
from aicalib.physics.kernels.gemm import ACTIVATION_BITS, GEMM
from aicalib.physics.kernels.kind import Machine, time_s
from aicalib.physics.kernels.quantize import QUANTIZE
from aicalib.profiles.coefficients import FORMAT_CLASSES
from aicalib.profiles.kernels import ANY, SUBSTITUTES, code, describe, labels, surfaces

CERTIFIED = [
    json.loads(line)
    for line in (Path(__file__).parent / "data" / "kernel_timings.jsonl").read_text().splitlines()
]
KINDS = {kind.name: kind for kind in (GEMM, ALL_REDUCE, DISPATCH, COMBINE, QUANTIZE, MLA_BATCHED)}
LIMITS = {
    # The worst is an L40S, whose cache holds a weight of 15 MB from one repeat of the timing to the next.
    "gemm": (0.40, 0.07),
    # The worst is an L40S at 1 MiB, the last size before another algorithm takes three times as long.
    "all_reduce": (0.40, 0.05),
    "dispatch": (0.15, 0.10),
    "combine": (0.10, 0.05),
    "quantize": (0.05, 0.02),
    "mla_batched": (0.10, 0.07),
}
"""Errors that no certified timing of a kind may exceed, and their median may not."""


def call_s(kind: str, accelerator: str, variant: str, shape: dict, bits: float, peak: str) -> np.ndarray:
    """Return the time of calls as the shipped surfaces have it."""
    device = get_accelerator(accelerator)
    link = device.link_bytes_s or device.pcie_bytes_s
    rates = (device.bandwidth_bytes_s, device.peak_flops[peak], bits, link)
    sizes = {name: np.asarray(size, dtype=float) for name, size in shape.items()}
    index = np.array(code(kind, device, variant)[0])
    return time_s(KINDS[kind], surfaces(kind), index, sizes, Machine(*map(np.array, rates)))


@pytest.mark.parametrize("kind", KINDS)
def test_certified_timings(kind):
    rows = [row for row in CERTIFIED if row["kind"] == kind]
    errors = []
    for row in rows:
        names = ("kind", "accelerator", "variant", "shape", "bits", "peak")
        predicted_ms = 1e3 * float(call_s(*(row[name] for name in names)))
        errors.append(abs(predicted_ms / row["latency_ms"] - 1.0))
        assert errors[-1] < LIMITS[kind][0], (row, predicted_ms)
    assert np.median(errors) < LIMITS[kind][1]


def test_surfaces_are_those_that_are_described():
    assert set(describe()["kinds"]) == {table.kind.name for table in TABLES}
    for table in TABLES:
        name = table.kind.name
        found = surfaces(name)
        # Behind them stands the one without any ratio, for a CPU.
        assert found.shape == (len(labels(name)) + 1, *(knots.size for knots in table.kind.axes))
        assert np.isfinite(found).all()
        assert len(describe()["kinds"][name]["rows"]) == len(labels(name))


def test_shipped_surfaces_are_small():
    folder = Path(perfdb.__file__).parent.parent / "aicalib" / "profiles"
    assert sum((folder / name).stat().st_size for name in ("kernels.npz", "kernels.json")) < 2 * 2**20


MISSED = {
    "moe": {("h100-sxm", "marlin/weight_only_4"), ("h200-sxm", "marlin/weight_only_4")},
    "convolution": {("h100-sxm", "kda/prefill")},
}
"""Whole accelerators left out that their generation misses by 20 % or more."""


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.kind.name)
def test_left_out_scores_meet_their_targets(table):
    """Per accelerator and variant where the timings allow it; in the median everywhere."""
    scores = describe()["kinds"][table.kind.name]["scores"]
    by_way = defaultdict(list)
    for score in scores:
        by_way["accelerator" if score["left_out"] == "accelerator" else "shapes"].append(score["median_ape"])
    assert np.median(by_way["shapes"]) < table.target
    missed = {
        (score["accelerator"], score["variant"])
        for score in scores
        if score["left_out"] == "accelerator" and score["median_ape"] >= 0.20
    }
    assert missed == MISSED.get(table.kind.name, set())


@pytest.mark.parametrize("accelerator", list_accelerators(), ids=lambda each: each.name)
def test_every_accelerator_is_answered(accelerator):
    for kind in describe()["kinds"]:
        for variant in {variant for _, variant in labels(kind)}:
            index, origin = code(kind, accelerator, variant)
            owner = next(label for label, each in labels(kind).items() if each == index)[0]
            assert (origin == "kernel-fit") == ((accelerator.name, variant) in labels(kind))
            assert (origin == "datasheet") == (owner == ANY)
            if origin == "extrapolated":
                assert get_accelerator(owner).generation == accelerator.generation
    for variant in FORMAT_CLASSES:
        assert 0 <= code("gemm", accelerator, variant)[0] < len(surfaces("gemm"))


@pytest.mark.parametrize(
    ("accelerator", "variant", "owner", "origin"),
    [
        ("h100-sxm", "wide", ("h100-sxm", "wide"), "kernel-fit"),
        ("a800-sxm", "wide", ("a100-sxm-80gb", "wide"), "extrapolated"),
        ("rtx-a6000", "wide", ("a100-sxm-80gb", "wide"), "extrapolated"),
        ("rtx-4090", "fp8", ("l40s", "fp8"), "extrapolated"),
        # 989 TFLOPS over 4.0 TB/s is nearer to 3.35 than to 4.8 TB/s; 835 over 3.94 is nearer to H200.
        ("gh200", "fp8_block", ("h100-sxm", "fp8_block"), "extrapolated"),
        ("h100-nvl", "wide", ("h200-sxm", "wide"), "extrapolated"),
        ("rtx-5090", "fp4", ("rtx-pro-6000-server", "fp4"), "extrapolated"),
        ("mi300x", "fp8", (ANY, "fp8"), "datasheet"),
        ("v100-sxm-32gb", "wide", (ANY, "wide"), "datasheet"),
        ("h100-sxm", "weight_only_4", ("h100-sxm", "wide"), "extrapolated"),
        ("h100-sxm", "int8", ("h100-sxm", "fp8"), "extrapolated"),
        ("mi300x", "weight_only_4", (ANY, "wide"), "datasheet"),
    ],
)
def test_who_answers_for_whom(accelerator, variant, owner, origin):
    assert code("gemm", get_accelerator(accelerator), variant) == (labels("gemm")[owner], origin)


def test_an_unknown_variant_is_refused_by_name():
    with pytest.raises(NotCovered, match="no timing of gemm as 'ternary'"):
        code("gemm", get_accelerator("h100-sxm"), "ternary")


def test_every_format_class_has_a_table_or_a_stated_substitute():
    timed = {variant for _, variant in labels("gemm")}
    for variant in FORMAT_CLASSES:
        assert variant in timed or all(reason for _, reason in SUBSTITUTES[variant])
        assert variant in ACTIVATION_BITS


SIZES = st.floats(1.0, 65536.0)
FACTORS = st.floats(1.0, 8.0)


@given(
    variant=st.sampled_from(["wide", "fp8"]), m=SIZES, n=SIZES, k=SIZES,
    bandwidth=FACTORS, peak=FACTORS, fewer_bits=FACTORS,
)  # fmt: skip
def test_a_better_machine_never_makes_a_product_slower(variant, m, n, k, bandwidth, peak, fewer_bits):
    index = np.array(labels("gemm")["h100-sxm", variant])
    shape = {name: np.array(size) for name, size in {"m": m, "n": n, "k": k, "activation_bits": 8.0}.items()}
    plain = Machine(*map(np.array, (3.35e12, 9.9e14, 8.0, 4.5e11)))
    better = Machine(*map(np.array, (3.35e12 * bandwidth, 9.9e14 * peak, 8.0 / fewer_bits, 4.5e11)))
    slow, fast = (time_s(GEMM, surfaces("gemm"), index, shape, each) for each in (plain, better))
    assert 0.0 < fast <= slow * (1 + 1e-12)


@given(bytes_=st.floats(1.0, 1e10), width=st.sampled_from([2.0, 4.0, 8.0, 72.0]), factor=FACTORS)
def test_a_faster_link_never_makes_an_exchange_slower(bytes_, width, factor):
    index = np.array(labels("all_reduce")["h100-sxm", all_reduce_variant(graph=True, fabric=True)])
    shape = {"bytes": np.array(bytes_), "width": np.array(width)}
    plain, better = (Machine(*map(np.array, (1e12, 1e15, 16.0, link))) for link in (4.5e11, 4.5e11 * factor))
    slow, fast = (time_s(ALL_REDUCE, surfaces("all_reduce"), index, shape, each) for each in (plain, better))
    assert 0.0 < fast <= slow


@pytest.mark.parametrize("variant", ["wide", "fp8"])
@pytest.mark.parametrize(("vocabulary", "hidden"), [(128256, 8192), (151936, 5120), (262144, 3840)])
def test_output_heads_beyond_the_tables_stay_on_the_roofline(variant, vocabulary, hidden):
    """The tables end at n = 65536 and m = 32768; more of either costs in proportion, within the hardware's bounds."""
    bits, peak = (16.0, "bf16") if variant == "wide" else (8.0, "fp8")
    tokens = np.array([1.0, 64.0, 8192.0, 131072.0])
    for device in ("a100-sxm-80gb", "l40s", "h100-sxm", "h200-sxm", "b200-sxm", "gb300"):
        accelerator = get_accelerator(device)
        if peak not in accelerator.peak_flops:
            continue
        shape = {"m": tokens, "n": vocabulary, "k": hidden, "activation_bits": ACTIVATION_BITS[variant]}
        taken = call_s("gemm", device, variant, shape, bits, peak)
        compute = 2.0 * tokens * vocabulary * hidden / accelerator.peak_flops[peak]
        weights = bits / 8.0 * vocabulary * hidden / accelerator.bandwidth_bytes_s
        share = np.maximum(compute, weights) / taken
        assert ((share > 0.15) & (share < 1.0)).all(), (device, share)
        # Up to a tile of rows the time is that of the weights, and some kernels are a little faster with more rows.
        assert taken[1] > 0.9 * taken[0]
        assert (np.diff(taken[1:]) > 0).all()


# From tables to surfaces.


def composed(folder: Path, device: str, version: str, slowness: float, dtype: str = "bfloat16") -> Path:
    """Write a small table of matrix products that take `slowness` times their ideal time on a device."""
    accelerator = get_accelerator(device)
    m, n, k = (
        each.ravel() for each in np.meshgrid(2.0 ** np.arange(0, 15), [512, 2048, 8192], [1024, 4096, 16384])
    )
    shape = {"m": m, "n": n, "k": k, "activation_bits": np.array(16.0)}
    rates = (accelerator.bandwidth_bytes_s, accelerator.peak_flops["bf16"], 16.0, 1.0)
    latency = 1e3 * slowness * GEMM.ideal_s(shape, Machine(*map(np.array, rates)))
    path = folder / device / version / "gemm_perf.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ("m", "n", "k", "latency")
    rows = ", ".join(
        f"({int(a)}, {int(b)}, {int(c)}, {time!r})"
        for a, b, c, time in zip(m, n, k, latency.tolist(), strict=True)
    )
    duckdb.connect().execute(
        f"COPY (SELECT 'SGLang' AS framework, '{version}' AS version, '{device}' AS device, 'gemm' AS op_name, "
        f"'torch' AS kernel_source, '{dtype}' AS gemm_dtype, * FROM (VALUES {rows}) AS t({', '.join(names)})) "
        f"TO '{path}' (FORMAT parquet)"
    )
    return path


@pytest.fixture
def store(tmp_path):
    with perfdb.Store(tmp_path / "kernels.duckdb") as opened:
        yield opened


def test_a_table_goes_into_the_store_once(store, tmp_path):
    table = composed(tmp_path, "h100-sxm", "0.5.9", 1.5)
    assert (store.ingest(table).kept, store.ingest(table).known) == (135, 135)
    assert store.info()["kernel_runs"] == {"gemm_perf": 135}
    assert store.info()["runs"] == 0
    listed = {
        "table_name": "gemm_perf",
        "accelerator": "h100-sxm",
        "engine": "sglang",
        "engine_version": "0.5.9",
    }
    assert store.kernel_tables() == [listed | {"rows": 135}]
    frame = store.kernel_runs(**{"version" if n == "engine_version" else n: v for n, v in listed.items()})
    first = frame.iloc[0]
    assert (first["m"], first["n"], first["k"], first["gemm_dtype"]) == (1, 512, 1024, "bfloat16")
    assert frame["latency_ms"].gt(0).all()
    assert not {"framework", "device", "latency"} & set(frame.columns)


def test_the_command_takes_a_kernel_table_in(tmp_path, capsys):
    table = composed(tmp_path, "h100-sxm", "0.5.9", 1.5)
    for kept, known in [(135, 0), (0, 135)]:
        with pytest.raises(SystemExit) as ended:
            main(["ingest", str(table), "--db", str(tmp_path / "kernels.duckdb"), "--json"])
        assert ended.value.code == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["kept"], told["known"], told["rejected"]) == (kept, known, [])


def test_parquet_of_something_else_is_refused(store, tmp_path):
    path = tmp_path / "other.parquet"
    duckdb.connect().execute(f"COPY (SELECT 1 AS version) TO '{path}' (FORMAT parquet)")
    with pytest.raises(perfdb.UnknownFormat, match="no table of kernel timings"):
        store.ingest(path)
    with pytest.raises(perfdb.UnknownFormat, match="is Parquet"):
        perfdb.read_records(path)


def test_context_for_a_kernel_table_is_refused(store, tmp_path):
    with pytest.raises(perfdb.ContextRefused, match="leave out gpu"):
        store.ingest(composed(tmp_path, "h100-sxm", "0.5.9", 1.5), {"gpu": "h100-sxm"})


def test_several_times_a_row_stay_in_the_shape(store, tmp_path):
    path = tmp_path / "wideep_deepep_ll_perf.parquet"
    duckdb.connect().execute(
        "COPY (SELECT 'sglang' AS framework, '0.5.12' AS version, 'NVIDIA H200' AS device, 'll' AS op_name, "
        f"'deepep' AS kernel_source, 1 AS num_token, 9.5 AS dispatch_avg_t_us) TO '{path}' (FORMAT parquet)"
    )
    store.ingest(path)
    frame = store.kernel_runs("wideep_deepep_ll_perf", "NVIDIA H200", "sglang", "0.5.12")
    assert frame["latency_ms"].isna().all()
    assert frame["dispatch_avg_t_us"].tolist() == [9.5]


def test_the_newest_engine_speaks_and_an_older_one_where_it_alone_can(store, tmp_path):
    for version, slowness, dtype in [
        ("0.5.9", 3.0, "bfloat16"),
        ("0.5.10", 2.0, "bfloat16"),
        ("0.5.2", 4.0, "fp8"),
    ]:
        store.ingest(composed(tmp_path, "h100-sxm", version, slowness, dtype))
    samples = collect(store, gemm.TABLES[0])
    assert {label: each.engine_versions for label, each in samples.items()} == {
        ("h100-sxm", "wide"): ("0.5.10",),
        ("h100-sxm", "fp8"): ("0.5.2",),
    }
    assert sorted(["0.5.10", "0.5.6.post2", "0.5.6", "0.5.9"], key=version_key) == [
        "0.5.6", "0.5.6.post2", "0.5.9", "0.5.10"
    ]  # fmt: skip


def test_a_planted_efficiency_is_found_and_lent(store, tmp_path):
    for device, slowness in [("h100-sxm", 1.5), ("h200-sxm", 1.6), ("l40s", 2.0)]:
        store.ingest(composed(tmp_path, device, "0.5.14", slowness))
    fit = fit_kind(gemm.TABLES[0], collect(store, gemm.TABLES[0]))
    assert fit.labels == [(ANY, "wide"), ("h100-sxm", "wide"), ("h200-sxm", "wide"), ("l40s", "wide")]
    planted = np.log([(1.5 * 1.6 * 2.0) ** (1 / 3), 1.5, 1.6, 2.0])
    assert fit.surfaces.mean(axis=(1, 2, 3)) == pytest.approx(planted, abs=0.02)
    assert fit.rows == [405, 135, 135, 135]
    lent = {score["accelerator"]: score for score in fit.scores if score["left_out"] == "accelerator"}
    assert {name: score["donor"] for name, score in lent.items()} == {
        "h100-sxm": "h200-sxm",
        "h200-sxm": "h100-sxm",
    }
    assert lent["h100-sxm"]["median_ape"] == pytest.approx(1.6 / 1.5 - 1.0, abs=0.01)
    assert all(score["median_ape"] < 0.01 for score in fit.scores if score["left_out"] == "n, k")


def test_what_is_written_has_the_same_bytes_again(store, tmp_path):
    store.ingest(composed(tmp_path, "h100-sxm", "0.5.14", 1.5))
    written = []
    for name in ("once", "again"):
        folder = tmp_path / name
        folder.mkdir()
        write({"gemm": fit_kind(gemm.TABLES[0], collect(store, gemm.TABLES[0]))}, folder)
        written.append([(folder / file).read_bytes() for file in ("kernels.npz", "kernels.json")])
    assert written[0] == written[1]
    document = json.loads(written[0][1])
    assert document["kinds"]["gemm"]["labels"] == [[ANY, "wide"], ["h100-sxm", "wide"]]
    assert "Apache-2.0" in document["licence"]


def test_only_tables_of_the_engine_are_taken_out_of_the_package(store, tmp_path):
    table = composed(tmp_path, "h100-sxm", "0.5.14", 1.5)
    inside = "aiconfigurator_core/systems/data/h100_sxm"
    with ZipFile(tmp_path / "package.whl", "w") as archive:
        archive.write(table, f"{inside}/gemm/sglang/0.5.14/gemm_perf.parquet")
        archive.writestr(f"{inside}/gemm/vllm/0.9/gemm_perf.parquet", "would be refused if it were read")
        archive.writestr(f"{inside}/sglang/silicon_sample.csv", "would be refused if it were read")
    load(tmp_path / "package.whl", store, progress)
    assert store.info()["files"] == 1


def test_blocks_are_left_out_whole():
    names = np.array(["a", "b", "a", "c", "b"])
    folds = fold_of(names)
    assert folds[0] == folds[2]
    assert folds[1] == folds[4]


def test_a_card_without_a_link_exchanges_over_its_host_bus(store, tmp_path):
    store.ingest(composed(tmp_path, "l40s", "0.5.14", 1.5))
    sample = collect(store, gemm.TABLES[0])["l40s", "wide"]
    assert machine(sample.accelerator, sample.calls).link_bytes_s == sample.accelerator.pcie_bytes_s
