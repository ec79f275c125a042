"""Every line that `launch` can produce, held against the parsers: modes, presets, versions, GPUs, models, settings."""

from __future__ import annotations

import random
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, NamedTuple

from aicalib.engines import trtllm
from aicalib.engines.command import Command
from aicalib.engines.flags import find_flag, known_versions, trtllm_keys
from aicalib.engines.launch import Launch, assemble
from aicalib.engines.request import Request, request_of
from aicalib.engines.tables import backends, methods, moe_backends, settings_table
from aicalib.engines.weights import resolve_weights
from aicalib.errors import RequestError
from aicalib.quant import MODES, QuantRequest
from aicalib.quant.presets import list_presets
from checks.engines.lines import check_key, check_line
from checks.engines.refusals import kind_of

VERSIONS = {
    "sglang": ("0.4.6", "0.4.10.post2", "0.5.2", "0.5.6", "0.5.9", "0.5.15", "0.5.18", "0.5.23"),
    "vllm": ("0.8.5.post1", "0.11.0", "0.20.0", "0.26.0", "0.33.0"),
    "trtllm": ("1.2.0", "1.3.0rc"),
}
"""Releases whose lines are made, spread over those that were read."""

GPUS = ("t4", "a100-sxm-80gb", "l40s", "h100-sxm", "b200-sxm", "rtx-5090", "mi300x")
"""One GPU of each generation."""

MODELS = ("llama-3.1-8b", "qwen3-30b-a3b", "deepseek-v3", "gpt-oss-20b")
"""A dense model, one with experts, and two whose checkpoints are quantized; plain and latent attention."""

CHECKPOINTS = (None, "PATH")
"""The published weights, and others that are described by the formats asked for."""

WIDTHS: tuple[dict[str, Any], ...] = (
    {"tp": 8}, {"tp": 8, "dp": 8}, {"tp": 8, "dp": 2}, {"tp": 8, "ep": 8}, {"tp": 8, "ep": 4},
    {"tp": 8, "dp": 8, "ep": 8}, {"tp": 4, "pp": 2}, {"tp": 6, "dp": 4}, {"tp": 8, "prefill_tp": 4},
    {"tp": 8, "prefill_tp": 8, "prefill_dp": 8}, {"prefill_dp": 2},
    {"tp": 8, "prefill_tp": 4, "prefill_instances": 2, "decode_instances": 3},
)  # fmt: skip
"""Widths and separate pools."""

COMBINED: tuple[dict[str, Any], ...] = (
    {"spec_method": "mtp", "spec_tokens": 3}, {"spec_method": "mtp", "spec_tokens": 3, "draft_gemm": "fp8"},
    {"spec_method": "eagle", "spec_tokens": 2, "draft_model": "some/drafter"}, {"spec_method": "eagle"},
    {"spec_method": "mtp", "spec_tokens": 3, "draft_gemm": "nvfp4"}, {"spec_tokens": 3}, {"spec_method": "medusa"},
    {"spec_method": "mtp", "spec_tokens": 3, "enable_mixed_chunk": True}, {"cuda_graph_max_bs": 0},
    {"cuda_graph_max_bs": 96}, {"page_size": 48, "chunked_prefill_size": 4096}, {"kv": "nvfp4", "page_size": 1},
    {"modelopt_quant": "fp8", "modelopt_export_path": "there"}, {"modelopt_quant": "fp8", "gemm": "fp8"},
    {"modelopt_checkpoint_save_path": "there"}, {"quantize_and_serve": True, "modelopt_quant": "fp8"},
    {"cuda_version": "11.0", "gemm": "fp8"}, {"torch_version": "2.5", "kv": "nvfp4"},
    {"tp": 8, "ep": 2, "moe_a2a_backend": "deepep"}, {"tp": 8, "ep": 8, "moe_a2a_backend": "deepep"},
    {"tp": 8, "ep": 2, "moe_backend": "flashinfer_cutlass"},
)  # fmt: skip
"""Settings that only say something together."""


class Refused(NamedTuple):
    """A refusal: engine and kind."""

    engine: str
    says: str


class Line(NamedTuple):
    """What starts an engine, to tell lines apart."""

    engine: str
    version: str
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    files: tuple[tuple[str, str], ...]


Outcome = Refused | Line


@dataclass
class Tally:
    """What became of the combinations.

    Attributes
    ----------
    tried : int
        Combinations.
    asked : int
        Those that were asked one by one; the others share weights or refusal with one of them.
    started : int
        Combinations that a line came of.
    lines : set
        The distinct ones.
    refused : Counter
        Refused combinations by engine and kind of refusal.
    problems : list of str
        Lines that a parser does not take, and refusals of no known kind.
    """

    tried: int = 0
    asked: int = 0
    started: int = 0
    lines: set[Line] = field(default_factory=set)
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Take in what became of others."""
        self.tried += other.tried
        self.asked += other.asked
        self.started += other.started
        self.lines |= other.lines
        self.refused += other.refused
        self.problems += other.problems

    def count(self, outcome: Outcome, times: int = 1) -> None:
        """Count an outcome."""
        self.tried += times
        if isinstance(outcome, Refused):
            self.refused[outcome.engine, outcome.says] += times
        else:
            self.started += times


def spellings(engine: str, version: str) -> dict[str, list[QuantRequest]]:
    """Return what may be asked of each field: nothing, each mode, each variant that a method of the version names."""
    texts: dict[str, list[str]] = {name: [mode.name for mode in modes] for name, modes in MODES.items()}
    for row in methods(engine, version):
        for name in ("gemm", "moe") if row.field == "both" else (row.field,):
            if ":" in row.format and row.format not in texts[name]:
                texts[name].append(row.format)
    return {
        name: [QuantRequest(), *(QuantRequest.from_mapping({name: text}) for text in each)]
        for name, each in texts.items()
    }


def _joined(gemm: QuantRequest, moe: QuantRequest, kvcache: QuantRequest, fmha: QuantRequest) -> QuantRequest:
    return QuantRequest(
        gemm=gemm.gemm, gemm_variant=gemm.gemm_variant, moe=moe.moe, moe_variant=moe.moe_variant,
        kvcache=kvcache.kvcache, fmha=fmha.fmha,
    )  # fmt: skip


def modes_of(engine: str, version: str, gpu: str, model: str, checkpoint: str | None) -> Tally:
    """Ask for every combination of the four fields, and for every preset.

    Weights are settled before cache and attention are looked at: combinations whose weights are refused, or come to the
    same, are asked for once and counted all. A sample of them is asked for all the same and must come to that too.
    """
    tally = Tally()
    given = {
        "engine": engine,
        "engine_version": version,
        "gpu": gpu,
        "model": model,
        "checkpoint": checkpoint,
    }
    plain = request_of(given)
    words = spellings(engine, version)
    narrow = list(product(words["kvcache"], words["fmha"]))
    chance = random.Random(f"{given}")
    known: dict[object, list[Outcome]] = {}
    for gemm, moe in product(words["gemm"], words["moe"]):
        requests = [replace(plain, quant=_joined(gemm, moe, *each)) for each in narrow]
        try:
            weights = resolve_weights(Command(requests[0]))
        except RequestError as error:
            tally.asked += 1
            outcomes: list[Outcome] = [_refused(tally, requests[0], error)] * len(narrow)
        else:
            key = (weights.method, weights.named, weights.dtype, *weights.by_layer.items())
            if key not in known:
                known[key] = [ask(tally, each) for each in requests]
            outcomes = known[key]
        for outcome, times in Counter(outcomes).items():
            tally.count(outcome, times)
        place = chance.randrange(len(narrow))
        if (found := ask(tally, requests[place])) != outcomes[place]:
            tally.problems.append(f"{requests[place]}: {found}, taken for {outcomes[place]}")
    for preset in list_presets():
        tally.count(ask(tally, replace(plain, quant=preset.quant)))
    return tally


def settings_of(engine: str, version: str, gpu: str, model: str) -> Tally:
    """Ask for every setting that a start may be given, each with every word that some version knows."""
    tally = Tally()
    plain: dict[str, Any] = {"engine": engine, "engine_version": version, "gpu": gpu, "model": model}
    for options in (*WIDTHS, *COMBINED, *_single(engine)):
        tally.count(ask(tally, request_of({**plain, **options})))
    return tally


def _single(engine: str) -> Iterator[dict[str, Any]]:
    """Yield each setting alone, with a number, or with each word that a version of the engine takes."""
    by_kind: dict[str, list[Any]] = {"share": [0.8], "count": [64], "switch": [True], "word": ["some/where"]}
    values: dict[str, list[Any]] = {option: by_kind[row["kind"]] for option, row in settings_table().items()}
    words = {"quantization": ["--quantization"], "attention_backend": ["--attention-backend"]}
    for option, row in settings_table().items():
        if row["kind"] == "word" and engine in row:
            words[option] = row[engine]
    for option, flags in words.items():
        values[option] = [*_words(engine, flags), "nothing"]
    names = {row.name for version in known_versions(engine) for row in backends(engine, version)}
    for role in ("prefill", "decode"):
        values[f"{role}_attention_backend"] = sorted(names)
    values["attention_backend"] = sorted({*values["attention_backend"], *names})
    values["moe_backend"] = sorted({*values["moe_backend"], *(row.name for row in moe_backends(engine))})
    for option, each in values.items():
        yield from ({option: value} for value in each)


def _words(engine: str, spellings: Iterable[str]) -> list[str]:
    found: set[str] = set()
    for spelling in spellings:
        if not spelling.startswith("--"):
            found |= set(trtllm_keys()[spelling].choices or ())
            continue
        for version in known_versions(engine):
            try:
                found |= set(find_flag(engine, version, spelling).choices or ())
            except RequestError:
                continue
    return sorted(found)


def ask(tally: Tally, request: Request) -> Outcome:
    """Return what becomes of one request; a line that was not seen before is held against the parser."""
    tally.asked += 1
    try:
        found = assemble(request)
    except RequestError as error:
        return _refused(tally, request, error)
    line = Line(
        found.engine, found.engine_version, found.argv, tuple(found.env.items()), tuple(found.files.items())
    )
    if line not in tally.lines:
        tally.lines.add(line)
        tally.problems += problems_of(found)
    return line


def _refused(tally: Tally, request: Request, error: RequestError) -> Refused:
    kind = kind_of(str(error))
    if kind is None:
        tally.problems.append(
            f"{request.engine} {request.engine_version}: a refusal of no known kind: {error}"
        )
    return Refused(request.engine, kind.says if kind else "?")


def problems_of(found: Launch) -> list[str]:
    """Return what is wrong with the line, and with the lines and keys in the files beside it."""
    engine, version = found.engine, found.engine_version
    wrong = check_line(engine, version, found.argv)
    for name, text in found.files.items():
        if name == trtllm.FILE:
            wrong += [problem for key, value in trtllm.read_yaml(text) for problem in check_key(key, value)]
        else:
            words = shlex.split(text)
            start = next(place for place, word in enumerate(words) if "=" not in word)
            wrong += check_line(engine, version, words[start:])
    return [f"{found.engine} {found.engine_version}: {each}: {found.line()}" for each in wrong]


def cells(versions: Iterable[tuple[str, str]]) -> list[tuple[str, str, str, str]]:
    """Return engine, version, GPU and model of everything that is asked."""
    return [(*release, gpu, model) for release in versions for gpu in GPUS for model in MODELS]


def sweep(cell: tuple[str, str, str, str]) -> Tally:
    """Ask everything of one engine version, GPU and model."""
    tally = settings_of(*cell)
    for checkpoint in CHECKPOINTS:
        tally.add(modes_of(*cell, checkpoint))
    return tally
