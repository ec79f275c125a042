"""Which cache format and attention backend an engine is started with, so that both hold what was asked for."""

from __future__ import annotations

from typing import NamedTuple

from aicalib.engines.command import Command
from aicalib.engines.kernels import default_backend, softmax_kind
from aicalib.engines.loading import KV_FLAG, cache_words, holds_cache
from aicalib.engines.request import Request
from aicalib.engines.software import hold_software
from aicalib.engines.tables import Backend, backends, cache_formats, environment_words, listed, meets
from aicalib.errors import Refusal, UnknownName
from aicalib.models import Architecture
from aicalib.quant import SIXTEEN_BIT, KVCacheQuantMode

BACKEND_VARIABLE = "VLLM_ATTENTION_BACKEND"
"""Takes the attention backend where a version of vLLM has no flag for it."""

LIKE_FP8 = {"sglang": "fp8_e4m3", "vllm": "fp8", "trtllm": "fp8"}
"""How each engine's tables call a cache of E4M3, which `fp8` means."""


class Attention(NamedTuple):
    """What an engine is told of cache and attention.

    Attributes
    ----------
    cache : str or None
        Word for the format of the cache; None leaves it out.
    backend : str or None
        Attention backend that the command must say.
    page_size : str
        Pages that the backend takes, as in `attention.csv`; empty for any.
    runs : Backend or None
        The backend that decode runs on, where known.
    """

    cache: str | None
    backend: str | None
    page_size: str
    runs: Backend | None


def resolve_attention(command: Command, dtype: str) -> Attention:
    """Return the words for cache and attention.

    Parameters
    ----------
    command : Command
    dtype : str
        16 or 32-bit type that the model runs in.

    Raises
    ------
    Refusal
    """
    request = command.request
    mode = request.quant.kvcache
    kind = _kind_of_cache(request, mode)
    word = None if mode is None else _word(command, mode, dtype)
    _check_math(request, mode, dtype)
    named = _named_backends(command)
    gpu = request.accelerator
    if gpu is not None and gpu.vendor not in ("NVIDIA", "AMD") and not named:
        return _of_port(command, word)
    if named:
        for option, name in named.items():
            _check_named(command, option, name, kind)
        decode = named.get("decode_attention_backend", named.get("attention_backend"))
        model = attention_kind(request.architecture)
        runs = next(
            (each for each in _present(command) if each.name == decode and model in each.models), None
        )
        return Attention(word, None, runs.pages if runs else "", runs)
    default = _default(command, kind)
    if default is not None and not _fits(request, default, kind):
        return _other(command, default, kind, word)
    if default is None and (kind != "wide" or request.quant.fmha is not None):
        return _other(command, None, kind, word)
    return Attention(word, None, default.pages if default else "", default)


def _of_port(command: Command, word: str | None) -> Attention:
    """Leave attention to the engine's port to another vendor, which has kernels of its own."""
    request = command.request
    gpu, math = request.accelerator, request.quant.fmha
    assert gpu is not None
    if math is not None and math.name.startswith("fp8"):
        raise Refusal(f"fmha {math.name}: {gpu.name} attends in 16 bit", {"fmha": None})
    return Attention(word, None, "", None)


# ------------------------------------------------------------------------------------------------- the cache


def _kind_of_cache(request: Request, mode: KVCacheQuantMode | None) -> str:
    """Return what `attention.csv` calls a format."""
    if mode is None:
        stored = request.stored.kvcache
        return "wide" if stored is None else _kind_of_cache(request, stored)
    if mode.name in (*SIXTEEN_BIT, "float32"):
        return "wide"
    return LIKE_FP8[request.engine] if mode.name in ("fp8", "fp8_e4m3") else mode.name


def _word(command: Command, mode: KVCacheQuantMode, dtype: str) -> str | None:
    """Return the engine's word for a format; None where it is what the engine does by itself."""
    request = command.request
    table = cache_formats(request.engine)
    row = table.get(mode.name)
    others = [{"kv": each} for each in _near(mode, list(table))]
    if row is None:
        raise Refusal(f"kv {mode.name}: {command.label} has no such cache", *others, *_elsewhere(request))
    if (
        mode.name in SIXTEEN_BIT
        and mode.name == dtype
        and not cache_words(request.engine, request.engine_version, row)
    ):
        return None
    if mode.name == "float16" and not row.words:
        raise Refusal(
            f"kv float16: {command.label} keeps a 16-bit cache in the model's type, here {dtype}",
            {"kv": "auto"}, {"kv": "bfloat16"}, {"gemm": "float16"},
        )  # fmt: skip
    gpu = request.accelerator
    if gpu is not None and not holds_cache(request.engine, request.engine_version, gpu, row):
        where = row.others if gpu.vendor != "NVIDIA" else row.nvidia.replace("+", " or newer")
        raise Refusal(
            f"kv {mode.name}: {command.label} has it on {where or 'no ' + gpu.vendor}; {gpu.name} is {gpu.capability}",
            *others, {"kv": "auto"},
        )  # fmt: skip
    for option, least in (("cuda_version", row.cuda), ("torch_version", row.torch)):
        given = request.get(option)
        if given is not None and least:
            hold_software(option, given, {f"kv {mode.name}": least})
    known = cache_words(request.engine, request.engine_version, row)
    if not known:
        raise Refusal(
            f"kv {mode.name}: {command.label} has no such cache; it has {', '.join(command.choices(KV_FLAG) or ())}",
            *others, *_elsewhere(request),
        )  # fmt: skip
    return known[0]


def _near(mode: KVCacheQuantMode, names: list[str]) -> list[str]:
    """Sort the formats of an engine by how close their width is."""
    return sorted(names, key=lambda name: abs(KVCacheQuantMode[name].value.memory - mode.value.memory))


def _elsewhere(request: Request) -> list[dict[str, object]]:
    from aicalib.engines.releases import newest_version

    engines = [request.engine, *(each for each in ("sglang", "vllm") if each != request.engine)]
    return [{"engine": each, "engine_version": newest_version(each)} for each in engines]


# ------------------------------------------------------------------------------------------------- attention


def _check_math(request: Request, mode: KVCacheQuantMode | None, dtype: str) -> None:
    """Refuse a format of attention that no setting of an engine stands for."""
    math = request.quant.fmha
    if math is None:
        return
    if math.name == "fp8_block":
        raise Refusal(
            "fmha fp8_block: no engine has a switch for it; it runs inside kernels of its own choice",
            {"fmha": "fp8"}, {"fmha": None},
        )  # fmt: skip
    if math.name == "float32" and dtype != "float32":
        raise Refusal(f"fmha float32: the model runs in {dtype}", {"fmha": None}, {"gemm": "float32"})
    if math.name == "fp8" and (mode or request.stored.kvcache) not in EIGHT_BIT:
        shown = mode.name if mode else "left open"
        raise Refusal(
            f"fmha fp8 needs an FP8 cache in E4M3; kv is {shown}",
            {"kv": "fp8_e4m3"}, {"kv": "fp8"}, {"fmha": None},
        )  # fmt: skip


EIGHT_BIT = (KVCacheQuantMode.fp8, KVCacheQuantMode.fp8_e4m3)


def attention_kind(arch: Architecture | None) -> str:
    """Return which backends a model's attention takes: "mha", "mla", "sparse" or "compressed"."""
    if arch is None:
        return "mha"
    if arch.csa_layers or arch.hca_layers:
        return "compressed"
    if arch.sparse_layers:
        return "sparse"
    return "mla" if arch.mla_layers else "mha"


def _listed_kind(arch: Architecture) -> str:
    """Return the kind that defaults are listed by in `kernels.csv`."""
    kind = attention_kind(arch)
    if kind == "mha":
        return softmax_kind(arch)
    return {"mla": "latent", "sparse": "sparse", "compressed": "sparse"}[kind]


def _default(command: Command, kind: str) -> Backend | None:
    """Return the backend that the engine takes by itself; None where that is not known."""
    request = command.request
    if request.accelerator is None or request.architecture is None:
        return None
    name, _ = default_backend(
        request.engine, request.engine_version, request.accelerator, _listed_kind(request.architecture),
        "wide" if kind == "wide" else "fp8",
    )  # fmt: skip
    model = attention_kind(request.architecture)
    rows = [each for each in _present(command) if each.name.lower() == name.lower() and model in each.models]
    return next(iter(rows), None)


def _present(command: Command) -> list[Backend]:
    """Return the backends that the version's parser takes and the tables know."""
    request = command.request
    table = list(backends(request.engine, request.engine_version))
    choices = None if request.engine == "trtllm" else command.choices("--attention-backend")
    return table if not choices else [each for each in table if each.name in choices]


def _named_backends(command: Command) -> dict[str, str]:
    """Return the backends that the user named, held to what the version's parser takes."""
    request = command.request
    options = ("attention_backend", "prefill_attention_backend", "decode_attention_backend")
    named = {each: request.get(each) for each in options if request.get(each) is not None}
    for option, name in named.items():
        flag = "--" + option.replace("_", "-")
        choices = None if request.engine == "trtllm" else command.choices(flag)
        if request.engine == "vllm" and option == options[0] and not choices:
            choices = environment_words(BACKEND_VARIABLE, request.engine_version)
        if choices is not None and name not in choices:
            if not choices:
                raise Refusal(f"{option} '{name}': {command.label} has no {flag}", {option: None})
            raise UnknownName(f"{option} of {command.label}", name, choices)
    return named


def hold_named(request: Request, mode: KVCacheQuantMode) -> None:
    """Hold the attention backends that a request names to the version, the accelerator, the model and a cache.

    Raises
    ------
    Refusal, UnknownName
    """
    command = Command(request)
    for option, name in _named_backends(command).items():
        _check_named(command, option, name, _kind_of_cache(request, mode))


def _check_named(command: Command, option: str, name: str, kind: str) -> None:
    """Hold a backend that the user named to the accelerator, the model, the cache and the math."""
    request = command.request
    table = _present(command)
    rows = [each for each in table if each.name == name]
    model = attention_kind(request.architecture)
    backend = next((each for each in rows if model in each.models), rows[0] if rows else None)
    if backend is None:
        if kind == "wide" and request.quant.fmha is None:
            command.notes.append(f"{option} {name}: what it needs is not known here")
            return
        raise Refusal(
            f"{option} '{name}': whether it holds a cache in {kind} is not known",
            {option: None}, {"kv": None, "fmha": None},
        )  # fmt: skip
    gpu = request.accelerator
    working = [{option: each.name} for each in table if _fits(request, each, kind)]
    if gpu is not None and not meets(gpu, backend.nvidia, backend.others):
        needs = backend.others if gpu.vendor != "NVIDIA" else backend.nvidia.replace("+", " or newer")
        raise Refusal(
            f"{option} '{name}' runs on {needs or f'no {gpu.vendor} GPU'}; {gpu.name} is {gpu.capability}",
            *working, {option: None},
        )  # fmt: skip
    if request.architecture is not None and model not in backend.models:
        raise Refusal(
            f"{option} '{name}' is for {' and '.join(backend.models)} attention; {request.architecture.name} has "
            f"{model}",
            *working, {option: None},
        )  # fmt: skip
    if backend.role == "decode" and option == "prefill_attention_backend":
        raise Refusal(f"{option} '{name}' only decodes", *working, {option: None})
    if not _holds(request, backend, kind):
        raise Refusal(
            f"{option} '{name}' of {command.label} holds no cache in {kind}; it holds {', '.join(backend.caches)}",
            *({"kv": each} for each in ("fp8_e4m3", "fp8", "bfloat16")), *working, {option: None}, {"kv": None},
        )  # fmt: skip
    if not _multiplies(request, backend, kind):
        assert request.quant.fmha is not None
        raise Refusal(
            f"{option} '{name}' of {command.label} does not attend in {request.quant.fmha.name} on a cache in {kind}"
            + (f" on {gpu.name}" if gpu else ""),
            *working, {"fmha": None}, {option: None},
        )  # fmt: skip


def _holds(request: Request, backend: Backend, kind: str) -> bool:
    where = backend.caches.get(kind)
    gpu = request.accelerator
    if where is None:
        return False
    return gpu is None or gpu.vendor != "NVIDIA" or listed(gpu.capability, where)


def _multiplies(request: Request, backend: Backend, kind: str) -> bool:
    """Tell whether a backend's math is what was asked for, where it was."""
    math, gpu = request.quant.fmha, request.accelerator
    if math is None or kind == "wide":
        return True
    if gpu is None:
        return math.name != "fp8" or bool(backend.fp8_math)
    narrow = (
        gpu.vendor == "NVIDIA"
        and listed(gpu.capability, backend.fp8_math)
        and kind == LIKE_FP8[request.engine]
    )
    return narrow == (math.name == "fp8")


def _fits(request: Request, backend: Backend, kind: str) -> bool:
    gpu = request.accelerator
    return (
        (gpu is None or meets(gpu, backend.nvidia, backend.others))
        and (request.architecture is None or attention_kind(request.architecture) in backend.models)
        and backend.role == "both"
        and _holds(request, backend, kind)
        and _multiplies(request, backend, kind)
    )


def _other(command: Command, default: Backend | None, kind: str, word: str | None) -> Attention:
    """Return a backend that does what the default does not."""
    request = command.request
    if (request.accelerator is None or request.architecture is None) and request.quant.fmha is None:
        return Attention(word, None, "", None)
    working = [each for each in _present(command) if _fits(request, each, kind)]
    math = request.quant.fmha
    what = f"a cache in {kind}" + (f" with attention in {math.name}" if math is not None else "")
    if not working:
        on = f" on {request.accelerator.name}" if request.accelerator else ""
        model = request.architecture.name if request.architecture else "the model"
        raise Refusal(
            f"{what}: no attention backend of {command.label} has it for {model}{on}",
            {"fmha": None}, {"kv": "fp8_e4m3"}, {"kv": "bfloat16", "fmha": None}, {"kv": None, "fmha": None},
            *_elsewhere(request),
        )  # fmt: skip
    chosen = working[0]
    instead = f"; {default.name}, its own choice, has not" if default else ""
    command.notes.append(f"attention backend {chosen.name}: it has {what}{instead}")
    return Attention(word, chosen.name, chosen.pages, chosen)


def check_page(command: Command, pages: str) -> None:
    """Hold the page size to the attention backend, and SGLang's chunk to the page.

    Raises
    ------
    InvalidValue
    """
    request = command.request
    size, chunk = request.get("page_size"), request.get("chunked_prefill_size")
    allowed, _, where = pages.partition(":")
    gpu = request.accelerator
    if size is not None and allowed and (not where or (gpu is not None and listed(gpu.capability, where))):
        words = allowed.split()
        if str(size) not in words:
            raise Refusal(
                f"page_size {size}: the attention backend takes {', '.join(words)}",
                *({"page_size": int(each)} for each in words), {"page_size": None},
            )  # fmt: skip
    if request.engine == "sglang" and size is not None and chunk is not None and chunk % size:
        raise Refusal(
            f"chunked_prefill_size {chunk} is no multiple of page_size {size}",
            {"chunked_prefill_size": max(chunk // size, 1) * size}, {"page_size": None},
        )  # fmt: skip
