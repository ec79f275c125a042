"""Backends that a user names: their own timings answer, or they are refused with what would work."""

import itertools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicalib.calibrate.runs import as_runs
from aicalib.cli.choices import said_by_a_start
from aicalib.deployment import Backends
from aicalib.engines.arguments import read_launch
from aicalib.engines.backends import ATTENTION, BACKENDS, MOE
from aicalib.engines.kernels import MODE, named_backend, rules
from aicalib.engines.launch import launch
from aicalib.engines.plan import kernel_plan
from aicalib.engines.registry import kernel_for
from aicalib.engines.request import request_of, request_of_deployment
from aicalib.engines.tables import backends
from aicalib.errors import InvalidValue, NotCovered, NotTimed, RequestError, UnknownName, fold
from aicalib.hardware import get_accelerator
from aicalib.nearness import NEARNESS
from aicalib.plan.search.best import Goal, search
from aicalib.plan.search.space import Sought
from aicalib.prediction import predict_batch
from aicalib.profiles import kernels
from aicalib.profiles.profile import default_profile
from aicalib.resolve.backends import backend_choices
from aicalib.resolve.columns import NAME_COLUMNS
from aicalib.resolve.identify import identify, numbers_of, surface_codes, without_untimed
from aicalib.resolve.rows import resolve

MODELS = ("llama-8b", "gpt-oss-120b", "qwen3-30b-a3b", "qwen3-next-80b-a3b", "gemma-4-31b", "deepseek-v3",
          "deepseek-v3.2")  # fmt: skip
GPUS = ("a100", "l40s", "h100", "h20", "b200", "b300-sxm", "rtx-pro-6000-server", "mi300x")
ENGINES = ("sglang", "vllm", "trtllm")


def identified(**options: Any) -> Any:
    return identify(*(options.get(name) for name in NAME_COLUMNS))


def asked(engine: str = "sglang", **options: Any) -> dict[str, Any]:
    return {"model": "llama-8b", "gpu": "b200", "engine": engine, **options}


def predicted(**options: Any) -> Any:
    batch = resolve({name: [value] for name, value in {**asked(), **options}.items()})
    for error in batch.refused.values():
        raise error
    return predict_batch(batch, default_profile())


# ------------------------------------------------------------------------------------------------------ physics


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_default_that_is_named_changes_nothing_and_others_do(model: str, engine: str) -> None:
    for gpu in GPUS:
        try:
            plain = identified(model=model, gpu=gpu, engine=engine)
        except RequestError:
            continue
        for option, names in backend_choices(plain).items():
            for name in names:
                found = identified(model=model, gpu=gpu, engine=engine, **{option: name})
                assert found.backends.options() == {option: name}
                assert found.other_kernels == (numbers_of(found) != numbers_of(plain))
                if not found.other_kernels:
                    assert (found.notes, found.quant) == (plain.notes, plain.quant)


def named_in_the_tables() -> list[tuple[str, str, str]]:
    """Return engine, option and name of every backend that some table holds."""
    attention = {
        (rule.engine, ATTENTION, rule.backend) for rule in rules() if {*rule.kinds} & {"full", "latent"}
    }
    attention |= {(engine, ATTENTION, each.name) for engine in ENGINES for each in backends(engine, "9")}
    experts = {(rule.engine, MOE, rule.backend) for rule in rules() if "moe" in rule.kinds}
    return sorted(each for each in attention | experts if each[2] != "none")


def attempt(**options: Any) -> Any:
    """Return the identity, or the refusal."""
    try:
        return identified(**options)
    except RequestError as error:
        return error


@given(
    named=st.sampled_from(named_in_the_tables()),
    model=st.sampled_from(MODELS),
    gpu=st.sampled_from(GPUS),
    kv=st.sampled_from([None, "fp8", "fp8_e5m2"]),
)
def test_every_backend_answers_by_kernels_of_its_own_or_is_refused_with_what_works(
    named: tuple[str, str, str], model: str, gpu: str, kv: str | None
) -> None:
    engine, option, name = named
    options = {"model": model, "gpu": gpu, "engine": engine, "kv": kv}
    plain, found = attempt(**options), attempt(**options, **{option: name})
    if isinstance(plain, RequestError):
        assert isinstance(found, RequestError)
        return
    if isinstance(found, NotCovered):
        for other, word in (each.split(" ") for each in found.alternatives):
            assert (other, word) == ("without", option) or other == option
            if other == option:
                assert identified(**options, **{other: word}).backends.options() == {other: word}
        return
    if isinstance(found, RequestError):
        assert fold(name) in fold(str(found))
        return
    codes, own = surface_codes(found), surface_codes(plain)
    changed = {each for each in codes if codes[each] != own[each]}
    attention = {
        f"{kind}_{phase}" for kind in ("attention", "window", "latent") for phase in ("prefill", "decode")
    }
    assert found.other_kernels == bool(changed)
    assert changed <= ({"moe"} if option == MOE else attention)
    assert all(codes[each][1] in ("kernel-fit", "extrapolated") for each in changed)
    assert not changed or str(found.backends.options()[option]) in found.notes[-1]


def test_the_surface_is_that_of_the_named_kernels() -> None:
    def surface(kind: str, gpu: str, variant: str) -> int:
        return kernels.code(kind, get_accelerator(gpu), variant)[0]

    found = surface_codes(identified(**asked(attention_backend="flashinfer")))
    assert found["attention_decode"] == (surface("decode_attention", "b200", "flashinfer/wide"), "kernel-fit")
    assert found["attention_prefill"] == (
        surface("prefill_attention", "b200", "flashinfer/wide"),
        "kernel-fit",
    )
    decode = surface_codes(identified(**asked(decode_attention_backend="triton")))
    assert decode["attention_decode"][0] == surface("decode_attention", "b200", "triton/wide")
    assert decode["attention_prefill"][0] == surface("prefill_attention", "b200", "trtllm_mha/wide")
    experts = surface_codes(
        identified(model="deepseek-v3", gpu="b200", engine="sglang", moe_backend="triton")
    )
    assert experts["moe"][0] == surface("moe", "b200", "triton/fp8_block")


def test_attention_multiplies_in_what_the_named_kernels_do() -> None:
    assert identified(**asked(kv="fp8")).quant.fmha.name == "fp8"
    named = identified(**asked(kv="fp8", attention_backend="flashinfer"))
    assert named.quant.fmha.name == "bfloat16"
    assert not any(note.startswith("fmha") for note in named.notes)
    assert identified(**asked(kv="fp8", fmha="fp8", attention_backend="flashinfer")).quant.fmha.name == "fp8"
    assert identified(**asked(kv="fp8", decode_attention_backend="flashinfer")).quant.fmha.name == "fp8"


def test_phases_that_name_one_backend_are_one_option() -> None:
    both = identified(**asked(prefill_attention_backend="Triton", decode_attention_backend="triton"))
    assert both.backends == Backends("triton", "triton")
    assert both == identified(**asked(attention_backend="triton"))
    apart = identified(**asked(attention_backend="triton", decode_attention_backend="flashinfer"))
    assert apart.backends.options() == {
        "prefill_attention_backend": "triton", "decode_attention_backend": "flashinfer"
    }  # fmt: skip
    assert identified(**asked(attention_backend="auto")) == identified(**asked())


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"attention_backend": "fa3"}, NotCovered, "runs on 9.0; b200-sxm is 10.0.*trtllm_mha.*would work"),
        ({"gpu": "h100", "attention_backend": "trtllm_mla"}, NotCovered, "runs on 10.0 or newer"),
        ({"gpu": "h100", "attention_backend": "flashmla"}, NotCovered, "is for mla attention; llama-3.1-8b has mha"),
        ({"gpu": "h100", "attention_backend": "flashinfer"}, NotTimed, "not timed on h100-sxm.*triton would work"),
        ({"attention_backend": "torch_native"}, NotTimed, "torch_native"),
        ({"attention_backend": "fa9"}, UnknownName, "fa9"),
        ({"moe_backend": "triton"}, InvalidValue, "dense model"),
        ({"model": "deepseek-v3", "prefill_attention_backend": "cutedsl_mla"}, NotCovered, "only decodes"),
        ({"model": "deepseek-v3", "gpu": "h200", "moe_backend": "flashinfer_trtllm"}, NotCovered, "compute capability"),
        ({"model": "deepseek-v3", "engine": "trtllm", "moe_backend": "cutlass"}, NotTimed, "moe_backend TRTLLM would"),
        ({"engine": "vllm", "decode_attention_backend": "TRITON_ATTN"}, InvalidValue, "one attention backend for both"),
        ({"model": "qwen3-30b-a3b", "engine": "vllm", "engine_version": "0.11.0", "moe_backend": "triton"}, NotCovered,
         "takes none"),
    ],
)  # fmt: skip
def test_what_does_not_run_or_was_not_timed_is_refused(
    options: Mapping[str, Any], kind: type, says: str
) -> None:
    with pytest.raises(kind, match=says):
        identified(**{**asked(), **options})


def test_runs_of_the_engines_own_kernels_say_little_of_others(published: list[dict[str, Any]]) -> None:
    fitted = next(
        run for run in published
        if run["engine"] == "sglang" and run["gpu"] == "b200_sxm" and run.get("moe_backend") and not run["disagg"]
        and not run["spec_decode"]
    )  # fmt: skip
    own, other = (
        predict_batch(as_runs([{**fitted, "moe_backend": name}]).batch, default_profile())
        for name in ("flashinfer_trtllm", "triton")
    )
    assert NEARNESS[own.nearness("tpot_ms")[0]] == "curve"
    assert NEARNESS[other.nearness("tpot_ms")[0]] == "group"
    widths = [each.mean["tpot_ms"].high[0] / each.mean["tpot_ms"].low[0] for each in (own, other)]
    assert widths[1] > widths[0]
    assert other.mean["tpot_ms"].value[0] != own.mean["tpot_ms"].value[0]


# ------------------------------------------------------------------------------------------------------- starts


@pytest.mark.parametrize(
    ("engine", "model", "gpu", "named"),
    [
        ("sglang", "llama-8b", "b200", {"attention_backend": "triton"}),
        ("sglang", "llama-8b", "b200",
         {"prefill_attention_backend": "triton", "decode_attention_backend": "flashinfer"}),
        ("sglang", "deepseek-v3", "b200", {"attention_backend": "trtllm_mla", "moe_backend": "triton"}),
        ("vllm", "qwen3-30b-a3b", "b200", {"attention_backend": "TRITON_ATTN", "moe_backend": "triton"}),
        ("trtllm", "qwen3-30b-a3b", "b200", {"attention_backend": "TRTLLM", "moe_backend": "TRTLLM"}),
    ],
)  # fmt: skip
def test_backends_go_through_launch_and_back(
    engine: str, model: str, gpu: str, named: dict[str, str]
) -> None:
    batch = resolve(
        {
            name: [value]
            for name, value in {
                **asked(engine),
                "model": model,
                "gpu": gpu,
                "tp": 8 if model == "deepseek-v3" else 1,
                **named,
            }.items()
        }
    )
    assert not batch.refused
    deployment = batch.deployment(0)
    assert named.items() <= deployment.as_dict().items()
    made = launch(request_of_deployment(deployment))
    read = read_launch(list(made.argv), made.engine_version, next(iter(made.files.values()), None))
    assert {name: read.options[name] for name in BACKENDS if name in read.options} == named
    assert (
        identified(
            **{"gpu": gpu, "engine": engine, "engine_version": made.engine_version, "model": model, **named}
        ).backends
        == deployment.identity.backends
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kv", [None, "fp8"])
def test_what_can_be_named_is_what_the_engine_starts(engine: str, kv: str | None) -> None:
    started = 0
    for model, gpu in itertools.product(MODELS, GPUS):
        options = {"model": model, "gpu": gpu, "engine": engine, "kv": kv, "tp": 8}
        try:
            plain = identified(**options)
            launch(request_of(options))
        except RequestError:
            continue
        for option, names in backend_choices(plain).items():
            for name in names:
                made = launch(request_of({**options, option: name}))
                assert name in made.line() + str(made.files)
                started += 1
    assert started > 20


def test_a_start_that_names_what_was_not_timed_is_predicted_as_the_engines_own() -> None:
    line = (
        "python -m sglang.launch_server --model-path meta-llama/Llama-3.1-8B-Instruct --attention-backend {}"
    )
    said, notes = said_by_a_start(line.format("flashinfer"), None, None)
    assert said["attention_backend"] == "flashinfer"
    assert not any("not read" in note for note in notes)
    kept, untimed = without_untimed({**said, "gpu": "h100"})
    assert "attention_backend" not in kept
    assert "not timed on h100" in untimed["attention_backend"]
    assert without_untimed({**said, "gpu": "b200"}) == ({**said, "gpu": "b200"}, {})
    said, _ = said_by_a_start(line.format("fa3"), None, None)
    assert without_untimed({**said, "gpu": "b200"})[0]["attention_backend"] == "fa3"
    with pytest.raises(NotCovered, match=r"runs on 9\.0"):
        predicted(**said)


RUN = {"model": "llama-8b", "gpu": "h200_sxm", "engine": "sglang", "engine_version": "0.5.14", "tp": 1, "isl": 1024,
       "osl": 256, "concurrency": 16, "mean_tpot_ms": 9.0, "mean_ttft_ms": 90.0}  # fmt: skip


def test_a_run_is_asked_with_its_backend_where_that_was_timed() -> None:
    names = (None, "fa3", "triton", "flashinfer", "some_fork")
    runs = as_runs([{**RUN, "attention_backend": name} for name in names])
    assert not runs.batch.refused
    asked_as = [runs.batch.identities[code].backends.decode for code in runs.batch.codes]
    assert asked_as == [None, None, "triton", None, None]


def test_published_runs_that_name_a_backend_ran_the_engines_own_or_untimed_kernels(
    published: list[dict[str, Any]],
) -> None:
    named = [run for run in published if run.get("attention_backend") or run.get("moe_backend")]
    assert len(named) > 500
    runs = as_runs(named)
    assert not any(who.other_kernels for who in runs.batch.identities)


# ------------------------------------------------------------------------------------------------------- tables


def test_kernels_of_named_backends_are_timed_by_their_own_or_not_at_all() -> None:
    gpu = get_accelerator("b200")
    found = kernel_for("bfloat16", "attention_decode", "sglang", "0.5.23", gpu, backend="flashinfer")
    assert found.efficiency == ("decode_attention", "flashinfer/wide")
    assert kernel_for("fp8_block", "moe", "sglang", "0.5.23", gpu, backend="triton").efficiency == (
        "moe", "triton/fp8_block",
    )  # fmt: skip
    untimed = kernel_for("bfloat16", "mla_decode", "sglang", "0.5.18", gpu, backend="cutlass_mla")
    assert (untimed.efficiency, untimed.path) == (None, "kv16")


def test_a_kernel_plan_shows_the_named_backends() -> None:
    batch = resolve({"model": ["qwen3-next-80b-a3b"], "gpu": ["b200"], "tp": [4], "attention_backend": ["triton"],
                     "moe_backend": ["triton"]})  # fmt: skip
    found = kernel_plan(batch.deployment(0), batch.system)
    assert "error" not in json.dumps(found)
    shown = {each["operator"]: each["backend"] for layer in found["layers"] for each in layer["kernels"]}
    assert shown["attention_prefill"] == shown["attention_decode"] == "triton"
    assert [each["backend"] for each in found["kernels"] if each["operator"] == "moe"] == ["triton"]


def test_every_named_row_with_a_surface_has_timings_somewhere() -> None:
    timed = 0
    for rule in rules():
        if not (rule.named and rule.surface):
            continue
        for kind in rule.kinds:
            kernel = "moe" if kind == "moe" else "decode_attention"
            variants = [rule.surface] if kind == "moe" else [f"{rule.surface}/wide"]
            owners = {
                get_accelerator(name).generation
                for name, each in kernels.labels(kernel)
                if each in variants and name != "any"
            }
            assert owners & rule.generations or "nvidia" in rule.generations, rule
            timed += 1
    assert timed > 10


def test_a_backend_without_a_row_is_not_answered_by_another() -> None:
    where = ("sglang", "0.5.23", get_accelerator("h100"), "full", (f"{MODE}bfloat16", "wide"))
    assert named_backend(*where, "FA-3") == ("fa3", "fa3")
    with pytest.raises(NotTimed, match="torch_native") as caught:
        named_backend(*where, "torch_native")
    assert "triton" in caught.value.alternatives


SHOWN = (("llama-8b", ATTENTION), ("gpt-oss-120b", ATTENTION), ("qwen3-30b-a3b", MOE), ("deepseek-v3", MOE))


def test_the_table_of_the_page_is_what_can_be_named() -> None:
    page = (Path(__file__).parents[1] / "docs" / "kernel-registry.md").read_text(encoding="utf-8")
    lines = iter(page.partition("## Backends by name")[2].splitlines())
    gpus = next(line for line in lines if line.startswith("engine")).split()[2:]
    shown = 0
    for engine in ENGINES:
        for model, option in SHOWN:
            cells = [
                " ".join(backend_choices(identified(model=model, gpu=gpu, engine=engine))[option])
                for gpu in gpus
            ]
            assert re.split(r"  +", next(lines)) == [engine, f"{option}, {model}", *cells]
            shown += len(cells)
    assert shown == 48


# ------------------------------------------------------------------------------------------------------- search


def test_a_search_tries_backends_that_physics_tells_apart() -> None:
    found = search(
        Sought("qwen3-30b-a3b", ("b200",), 1, 4000, 200, only={"gemm": ("auto",), "kv": ("auto",)}, separate=False),
        Goal("throughput"), top=50, limit=None,
    )  # fmt: skip
    offered = {(form.attention_backend, form.moe_backend) for form in found.best.start.offer.formats.found}
    own = identified(model="qwen3-30b-a3b", gpu="b200", engine="sglang")
    choices = backend_choices(own)
    assert {attention for attention, _ in offered} == {None, *choices[ATTENTION][1:]}
    assert {experts for _, experts in offered if experts} <= {*choices[MOE][1:]} | {"triton"}
    assert (None, "triton") in offered
    assert len({numbers_of_start(found, pair) for pair in offered}) == len(offered)


def numbers_of_start(found: Any, pair: tuple[str | None, str | None]) -> tuple[float, ...]:
    start = found.best.start
    form = next(
        each for each in start.offer.formats.found if (each.attention_backend, each.moe_backend) == pair
    )
    options = start._replace(format=form).options(found.sought)
    return tuple(numbers_of(identified(**{name: options.get(name) for name in NAME_COLUMNS})).values())


def test_a_choice_with_a_backend_says_so_in_its_line_and_why() -> None:
    formats = dict.fromkeys(("gemm", "kv", "fmha"), ("auto",))
    only = {**formats, "attention_backend": ("auto", "flashinfer"), "tp": (8,), "concurrency": (1,)}
    found = search(
        Sought("llama-70b", ("b200",), 8, 16000, 1000, only=only, separate=False), Goal("latency"), top=1
    )
    best = found.best
    assert best.start.format.attention_backend == "flashinfer"
    assert best.launch.argv[best.launch.argv.index("--attention-backend") + 1] == "flashinfer"
    assert "with attention_backend flashinfer than with the engine's own backends" in best.why
    assert "attention in decode steps" in best.why
    assert best.deployment["attention_backend"] == "flashinfer"
    own = search(
        Sought("llama-70b", ("b200",), 8, 16000, 1000, only={**only, "attention_backend": ("auto",)}, separate=False),
        Goal("latency"), top=1,
    )  # fmt: skip
    assert own.best.figures["e2e_ms"].value > best.figures["e2e_ms"].value


def test_of_equal_figures_the_engines_own_backend_comes_first() -> None:
    only = {
        "gemm": ("auto",),
        "kv": ("auto",),
        "fmha": ("auto",),
        "tp": (1,),
        "attention_backend": ("trtllm_mha", "auto"),
    }
    found = search(Sought("llama-8b", ("b200",), 1, 1000, 200, only=only, separate=False), Goal("throughput"))
    assert len(found.best.start.offer.formats.found) == 1
    assert np.isfinite(found.best.figures["e2e_ms"].value)


def test_a_search_for_backends_that_none_starts_says_why() -> None:
    with pytest.raises(NotCovered, match="flashmla"):
        search(Sought("llama-8b", ("h100",), 1, only={"attention_backend": ("flashmla",), "fmha": ("auto",)}))
    with pytest.raises(InvalidValue, match="no values to try"):
        search(Sought("llama-8b", ("h100",), 1, only={"decode_backend": ("triton",)}))


def test_launch_takes_the_older_spelling_of_the_option() -> None:
    from typer.testing import CliRunner

    from aicalib.cli.main import app

    answers = [
        CliRunner().invoke(
            app, ["launch", "--model", "deepseek-v3", "--gpu", "b200", "--tp", "8", flag, "triton"]
        )
        for flag in ("--moe-backend", "--moe-runner-backend")
    ]
    assert answers[0].output == answers[1].output
    assert "--moe-runner-backend triton" in answers[0].output
    assert request_of({"model": "deepseek-v3", "moe_backend": "triton"}).get("moe_backend") == "triton"
