"""Back from an engine's arguments, or from the settings a server reports, to the options of `predict` and `launch`.

Every flag is understood, known to change nothing that is predicted (`no_effect.toml`), or refused by its name.
"""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any

from aicalib.engines.flags import Flag, find_flag, flags
from aicalib.engines.releases import newest_version
from aicalib.engines.tables import cache_formats, methods, settings_table
from aicalib.engines.trtllm import number, read_yaml
from aicalib.errors import InvalidValue, NotCovered, UnknownName
from aicalib.models import Architecture, get_architecture
from aicalib.quant import SIXTEEN_BIT, parse_mode

STARTS = {
    "sglang": (("-m", "sglang.launch_server"), ("sglang", "serve")),
    "vllm": (("-m", "vllm.entrypoints.openai.api_server"), ("vllm", "serve")),
    "trtllm": (("trtllm-serve", "serve"), ("trtllm-serve",)),
}
"""Words that begin an engine's arguments, longest first."""

DIRECT = {
    "--model-path": "model", "--model": "model", "--tp-size": "tp", "--tensor-parallel-size": "tp", "--pp-size": "pp",
    "--pipeline-parallel-size": "pp", "--ep-size": "ep", "--attn-dp-size": "dp", "--data-parallel-size": "dp",
    "--attention-backend": "attention_backend", "--prefill-attention-backend": "prefill_attention_backend",
    "--decode-attention-backend": "decode_attention_backend", "--cuda-graph-max-bs": "cuda_graph_max_bs",
    "--cuda-graph-max-bs-decode": "cuda_graph_max_bs", "--max-cudagraph-capture-size": "cuda_graph_max_bs",
    "--cuda-graph-sizes": "cuda_graph_max_bs", "--speculative-num-steps": "spec_tokens",
    "--quantize-and-serve": "quantize_and_serve",
    "--speculative-draft-model-path": "draft_model", "--speculative-draft-model-quantization": "draft_gemm",
    "--speculative-algorithm": "spec_algorithm", "--tp_size": "tp", "--pp_size": "pp", "--ep_size": "ep",
}  # fmt: skip
"""Flags whose value is that of an option, by one of their spellings."""

SELF = ("--backend", "--speculative-eagle-topk", "--speculative-num-draft-tokens", "--load-format")
"""Flags that follow from others that are understood, whatever a launch of ours says in them."""


@dataclass
class Understood:
    """What arguments mean.

    Attributes
    ----------
    engine, engine_version : str
    options : dict of str to object
        Options of `launch`; `aicalib.engines.request.request_of` reads them.
    without_effect : list of str
        Flags that change nothing that is predicted.
    unpredicted : list of str
        Flags whose effect is not predicted, where that is no error.
    notes : list of str
    """

    engine: str
    engine_version: str
    options: dict[str, Any] = field(default_factory=dict)
    without_effect: list[str] = field(default_factory=list)
    unpredicted: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_launch(
    command: str | Sequence[str], engine_version: str | None = None, yaml: str | None = None
) -> Understood:
    """Read the command that starts an engine.

    Parameters
    ----------
    command : str or sequence of str
        A line as a shell takes it (variables before it and backslashes at line ends too), or its words.
    engine_version : str, optional
        The newest known if not given.
    yaml : str, optional
        Text of TensorRT-LLM's file of further options.

    Raises
    ------
    InvalidValue
        Where no engine is started, or a value is missing.
    UnknownName
        For a flag that the version does not have.
    NotCovered
        For a flag whose effect is not predicted.
    """
    words = shlex.split(command.replace("\\\n", " ")) if isinstance(command, str) else list(command)
    engine, at = _start(words)
    found = Understood(engine, engine_version or newest_version(engine))
    for word in words[:at]:
        name, equals, value = word.partition("=")
        if equals and name == "VLLM_ATTENTION_BACKEND":
            found.options["attention_backend"] = value
    fill_in(found, _pairs(found, words[at:]))
    if yaml is not None:
        _read_yaml(found, yaml)
    return found


def _start(words: Sequence[str]) -> tuple[str, int]:
    for engine, beginnings in STARTS.items():
        for beginning in beginnings:
            for place in range(len(words) - len(beginning) + 1):
                if tuple(words[place : place + len(beginning)]) == beginning:
                    return engine, place + len(beginning)
    raise InvalidValue(
        f"'{shlex.join(words[:6])}' starts no engine that is known",
        ["python -m sglang.launch_server --model-path MODEL", "vllm serve MODEL", "trtllm-serve MODEL"],
    )


def _pairs(found: Understood, words: Sequence[str]) -> list[tuple[str, str | None]]:
    """List the flags, by the spelling that the parser takes them for, and their values."""
    pairs: list[tuple[str, str | None]] = []
    place = 0
    while place < len(words):
        word = words[place]
        place += 1
        if not word.startswith("-"):
            if "model" in found.options or found.engine == "sglang":
                raise InvalidValue(f"'{word}' stands where {found.engine} takes a flag")
            found.options["model"] = word
            continue
        name, equals, value = word.partition("=")
        flag = find_flag(found.engine, found.engine_version, name)
        if flag.kind == "bool":
            pairs.append((name if name in flag.spellings else called(flag), None))
            continue
        if equals:
            pairs.append((called(flag), value))
            continue
        taken: list[str] = []
        while place < len(words) and (not _is_flag(words[place])) and (flag.kind == "list" or not taken):
            taken.append(words[place])
            place += 1
        if not taken and not flag.optional:
            raise InvalidValue(f"{word} stands without its value")
        pairs.append((called(flag), " ".join(taken) if taken else None))
    return pairs


def called(flag: Flag) -> str:
    """Return the spelling of a flag that is read here, its first where none is."""
    return next((each for each in flag.spellings if each in SPECIAL or each in SELF), flag.name)


def _is_flag(word: str) -> bool:
    return re.match(r"--?[A-Za-z]", word) is not None


@cache
def meanings_of(engine: str, version: str) -> Mapping[str, tuple[str, str]]:
    """Return option and kind of value by every spelling of the flags that have one."""
    known = flags(engine, version)
    found: dict[str, tuple[str, str]] = {}
    for spelling, option in DIRECT.items():
        if spelling in known and not (engine == "sglang" and spelling == "--data-parallel-size"):
            found |= dict.fromkeys(known[spelling].spellings, (option, "word"))
    for option, row in settings_table().items():
        for spelling in row.get(engine, ()):
            if spelling in known and option not in ("host", "port"):
                spellings = known[spelling].spellings if row["kind"] != "switch" else (spelling,)
                found |= dict.fromkeys(spellings, (option, row["kind"]))
    return found


@cache
def _harmless() -> tuple[str, ...]:
    text = files("aicalib.engines").joinpath("no_effect.toml").read_text(encoding="utf-8")
    return tuple(tomllib.loads(text)["all"])


def understand(
    engine: str,
    version: str,
    pairs: Iterable[tuple[str, str | None]],
    options: Mapping[str, Any] | None = None,
) -> Understood:
    """Read flags and their values, None for a switch; what is not predicted stays unread.

    Raises
    ------
    UnknownName, InvalidValue
        As `read_launch`.
    """
    found = Understood(engine, version, dict(options or {}))
    named = []
    for spelling, value in pairs:
        flag = find_flag(engine, version, spelling)
        named.append((spelling if flag.kind == "bool" else called(flag), value))
    fill_in(found, named, strict=False)
    return found


def fill_in(found: Understood, pairs: Iterable[tuple[str, str | None]], strict: bool = True) -> None:
    """Turn flags into options; where it is strict, refuse what is not predicted."""
    meanings = meanings_of(found.engine, found.engine_version)
    special: dict[str, str | None] = {}
    pairs = list(pairs)
    graphless = {name for name, value in pairs if value == "disabled"} >= set(GRAPH_PHASES)
    for name, value in pairs:
        if graphless and name in GRAPH_PHASES:
            special["--disable-cuda-graph"] = None
        elif name in meanings:
            option, kind = meanings[name]
            found.options[option] = True if kind == "switch" or value is None else number(value)
        elif name in SPECIAL or name in SELF:
            special[name] = value
        elif any(fnmatchcase(name, pattern) for pattern in _harmless()):
            found.without_effect.append(name)
        elif not strict:
            found.unpredicted.append(name)
        else:
            raise NotCovered(
                f"{name} of {found.engine}: what it changes is not predicted; leave it out to ask without it",
                [f"without {name}"],
            )
    _special(found, special)


GRAPH_PHASES = ("--cuda-graph-backend-decode", "--cuda-graph-backend-prefill")
"""Flags that say together what `--disable-cuda-graph` says, both "disabled"; of one alone nothing is predicted."""

SPECIAL = (
    "--dtype", "--quantization", "--quantization-config", "--kv-cache-dtype", "--dp-size", "--enable-dp-attention",
    "--enable-ep-moe", "--enable-expert-parallel", "--disable-cuda-graph", "--enforce-eager", "--disaggregation-mode",
    "--kv-transfer-config", "--speculative-config", "--compilation-config", "--config", "--kv_cache_dtype",
)  # fmt: skip
"""Flags that are understood together with others."""


def _special(found: Understood, given: Mapping[str, str | None]) -> None:
    options = found.options
    if "--dp-size" in given:
        if "--enable-dp-attention" not in given and str(given["--dp-size"]) != "1":
            raise NotCovered(
                f"--dp-size {given['--dp-size']} counts whole replicas, which are predicted one at a time",
                ["--enable-dp-attention beside it", "without --dp-size"],
            )
        options["dp"] = number(str(given["--dp-size"]))
    if "--enable-ep-moe" in given:
        options["ep"] = options.get("tp", 1)
    if found.engine == "vllm" and options.get("dp", 1) != 1:
        options["tp"] = int(options.get("tp", 1)) * int(options["dp"])
    if "--enable-expert-parallel" in given:
        options["ep"] = options.get("tp", 1)
    if "--disable-cuda-graph" in given or "--enforce-eager" in given:
        options["cuda_graph_max_bs"] = 0
    if given.get("--compilation-config"):
        sizes = _json("--compilation-config", str(given["--compilation-config"])).get(
            "cudagraph_capture_sizes"
        )
        if not isinstance(sizes, list) or not sizes:
            raise NotCovered("--compilation-config: nothing but cudagraph_capture_sizes is predicted", [])
        options["cuda_graph_max_bs"] = max(sizes)
    if given.get("--disaggregation-mode") not in (None, "null") or "--kv-transfer-config" in given:
        found.notes.append("one of several instances: prefill_tp and decode_instances describe the whole")
    _weights(found, given)
    word = given.get("--kv-cache-dtype") or given.get("--kv_cache_dtype")
    if word not in (None, "auto"):
        options["kv"] = _cache_mode(found.engine, str(word))
    _speculation(found, given)
    if "draft_gemm" in options and "draft_model" not in options:
        options.pop("draft_gemm")


def _weights(found: Understood, given: Mapping[str, str | None]) -> None:
    """Read the formats of the weights: made while loading, or named beside a checkpoint that has them."""
    options, dtype, method = found.options, given.get("--dtype"), given.get("--quantization")
    sixteen = {"half": "float16", "float": "float32"}.get(str(dtype), dtype)
    if "--quantization-config" in given:
        for key, name in _json("--quantization-config", str(given["--quantization-config"])).items():
            field_name = {"linear": "gemm", "moe": "moe"}.get(key)
            if field_name is None or not isinstance(name, str):
                raise NotCovered(f"--quantization-config: '{key}' is not predicted", ["linear", "moe"])
            options[field_name] = _made(found, name, field_name)
        if "gemm" not in options and sixteen not in (None, "auto"):
            options["gemm"] = sixteen
        if "moe" not in options and _has_experts(options.get("model")):
            options["moe"] = "bfloat16"
        return
    if "torchao_config" in options:
        options["gemm"] = _made(found, f"torchao:{options.pop('torchao_config')}", "gemm")
    if method is None:
        if sixteen not in (None, "auto"):
            options.setdefault("gemm", sixteen)
        return
    rows = [row for row in methods(found.engine, found.engine_version) if row.name == method]
    making = [row for row in rows if row.how == "online"]
    if making and _is_wide(options.get("model")):
        options["moe" if making[0].field == "moe" else "gemm"] = making[0].format
        if making[0].field == "moe" and sixteen not in (None, "auto"):
            options["gemm"] = sixteen
        if making[0].name in AMBIGUOUS:
            options["quantization"] = method
    else:
        options["quantization"] = method


AMBIGUOUS = ("experts_int8", "modelopt_fp4")
"""Online methods that make what another makes, and must be named to be had."""


def _architecture(model: Any) -> Architecture | None:
    try:
        return get_architecture(str(model))
    except (UnknownName, InvalidValue, NotCovered):
        return None


def _has_experts(model: Any) -> bool:
    arch = _architecture(model)
    return arch is not None and arch.moe_layers > 0


def _is_wide(model: Any) -> bool:
    """Tell whether a model's published checkpoint is 16 bit; one that is not known counts as such."""
    arch = _architecture(model)
    if arch is None:
        return True
    formats = (parse_mode("gemm", arch.weight_format), parse_mode("moe", arch.expert_weight_format))
    return all(each is None or each.mode.name in SIXTEEN_BIT for each in formats)


def _made(found: Understood, name: str, field_name: str) -> str:
    rows = [
        row for row in methods(found.engine, found.engine_version)
        if row.name == name and row.how == "online" and row.field in (field_name, "both")
    ]  # fmt: skip
    if not rows:
        raise NotCovered(f"'{name}' of {found.engine}: what it makes of {field_name} is not known", [])
    return rows[0].format


def _cache_mode(engine: str, word: str) -> str:
    """Return the mode that an engine's word for the cache means."""
    named = [row.mode for row in cache_formats(engine).values() if word in row.words]
    exact = [mode for mode in named if mode == word]
    if not named:
        found = parse_mode("kvcache", word)
        return "auto" if found is None else found.mode.name
    return (exact or named)[0]


def _speculation(found: Understood, given: Mapping[str, str | None]) -> None:
    options = found.options
    if given.get("--speculative-config"):
        config = _json("--speculative-config", str(given["--speculative-config"]))
        options["spec_method"] = str(config.pop("method", "eagle"))
        if options["spec_method"].endswith("_mtp"):
            options |= {"spec_algorithm": options["spec_method"], "spec_method": "mtp"}
        names = {
            "num_speculative_tokens": "spec_tokens",
            "model": "draft_model",
            "quantization": "draft_gemm",
        }
        for key, value in config.items():
            if key not in names:
                raise NotCovered(f"--speculative-config: '{key}' is not predicted", list(names))
            options[names[key]] = value
        return
    algorithm = options.get("spec_algorithm")
    if algorithm is None:
        return
    options["spec_method"] = "eagle" if options.get("draft_model") else "mtp"
    if algorithm == ("NEXTN" if options["spec_method"] == "mtp" else "EAGLE"):
        options.pop("spec_algorithm")


def _json(flag: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InvalidValue(f"{flag} is no JSON object: {text[:60]}")
    return value


# ------------------------------------------------------------------------------------------ TensorRT-LLM's file

YAML_KEYS = {
    "kv_cache_config.dtype": "kv", "attn_backend": "attention_backend", "dtype": "gemm",
    "moe_config.backend": "moe_backend", "kv_cache_config.tokens_per_block": "page_size",
    "cuda_graph_config.max_batch_size": "cuda_graph_max_bs", "kv_cache_config.free_gpu_memory_fraction": "mem_fraction",
    "speculative_config.num_nextn_predict_layers": "spec_tokens", "speculative_config.max_draft_len": "spec_tokens",
    "speculative_config.speculative_model_dir": "draft_model",
}  # fmt: skip


def _read_yaml(found: Understood, text: str) -> None:
    """Read the plain YAML that `launch` writes: keys, two blanks a level, scalars."""
    options = found.options
    for key, value in read_yaml(text):
        if key in YAML_KEYS and value is not None:
            option = YAML_KEYS[key]
            options[option] = _cache_mode("trtllm", str(value)) if option == "kv" else value
        elif key == "enable_attention_dp":
            options |= {"dp": options.get("tp", 1)} if value else {}
        elif key == "cuda_graph_config" and value is None:
            options["cuda_graph_max_bs"] = 0
        elif key == "kv_cache_config.enable_block_reuse":
            options |= {} if value else {"disable_radix_cache": True}
        elif key == "speculative_config.decoding_type":
            options["spec_method"] = str(value).lower()
        elif key != "enable_chunked_prefill":
            raise NotCovered(
                f"'{key}' of TensorRT-LLM's file: what it changes is not predicted", sorted(YAML_KEYS)
            )
